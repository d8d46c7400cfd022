"""What both experiment trees need and no library gives: errors, files, options, runs, and the image TFRecord format."""

__version__ = "0.1.0"

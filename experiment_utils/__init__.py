"""What both experiment trees need and no library gives: errors, files, options, runs, datasets, downloads, pickles."""

__version__ = "0.1.0"

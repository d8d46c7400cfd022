"""Image files in any format that Pillow reads."""

import os

import numpy as np
from PIL import Image, ImageOps

from experiment_utils.errors import DataError

_GRAY = {"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N"}


def list_images(folder):
    """Return the sorted paths of the image files in `folder` and its subfolders, told by their extensions."""
    if not os.path.isdir(folder):
        raise DataError("%s: no such folder" % folder)
    readable = {extension for extension, format in Image.registered_extensions().items() if format in Image.OPEN}
    paths = [
        os.path.join(directory, name)
        for directory, _, names in os.walk(folder)
        for name in names
        if not name.startswith(".") and os.path.splitext(name)[1].lower() in readable
    ]
    if not paths:
        raise DataError("%s: no image in it (no file with an extension such as .png or .jpg)" % folder)
    return sorted(paths)


def read_image(source, name, channels=None):
    """Return an image file as a Pillow image of mode L or RGB, upright.

    source     path or binary stream; `name` is what errors call it
    channels   1 or 3 converts; None keeps gray images gray and makes all others RGB

    Of an animation the first frame is taken; what is transparent is shown on white; 16 bits become 8. Raises DataError.
    """
    try:
        with Image.open(source) as image:
            image.load()
            image = _eight_bits(ImageOps.exif_transpose(image), name)
            gray = image.mode in _GRAY if channels is None else channels == 1
            return _on_white(image).convert("L" if gray else "RGB")
    except DataError:
        raise
    except Exception as problem:  # what Pillow raises for a broken file depends on its format
        raise DataError("%s: cannot be read as an image (%s)" % (name, problem or type(problem).__name__)) from None


def _eight_bits(image, name):
    """Return an image of 16 bits scaled to 8, any other as it is."""
    if image.mode == "F":
        raise DataError("%s: holds floating-point numbers, whose range is not known; save it with 8 bits" % name)
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise DataError("%s: holds numbers of more than 16 bits; save it with 8 bits" % name)
        return Image.fromarray(np.rint(values / 257).astype(np.uint8))
    return image


def _on_white(image):
    transparent = image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info
    if not transparent:
        return image
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image)


def centre_crop(image, resolution):
    """Return the largest centred square of a Pillow image, resized (Lanczos) to `resolution`."""
    return ImageOps.fit(image, (resolution, resolution), Image.LANCZOS)


def to_array(image):
    """Return a Pillow image of mode L or RGB as uint8 [height, width, 1 or 3]."""
    array = np.array(image)
    return array[:, :, None] if array.ndim == 2 else array

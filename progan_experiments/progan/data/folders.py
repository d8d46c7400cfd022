"""Images from a folder of files, in any format that Pillow reads."""

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


def shuffled(count):
    """Return the order in which `count` images are stored: that of the reference, so that datasets compare equal."""
    order = np.arange(count)
    np.random.RandomState(123).shuffle(order)
    return order


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


def check_square(image, name):
    """Raise DataError unless a Pillow image can be stored at the size it has."""
    width, height = image.size
    if width != height:
        raise DataError("%s: %dx%d is not square; crop the images with --resize R" % (name, width, height))
    if width < 4 or width & (width - 1):
        raise DataError("%s: %d pixels wide, which is not a power of two from 4 on; use --resize R" % (name, width))


def folder_images(folder, resize=None, channels=None):
    """Return (images, count): an iterator over the images of a folder, uint8 [R, R, C], in the order they are stored.

    resize     crop to the centred square and resize to this; None demands square images, a power of two wide
    channels   1 or 3 converts all images; None demands that they agree

    Raises DataError naming the file that does not fit; the first in alphabetical order sets the measure.
    """
    paths = list_images(folder)

    def load(path):
        image = read_image(path, path, channels)
        if resize is None:
            check_square(image, path)
            return to_array(image)
        return to_array(centre_crop(image, resize))

    def images():
        measure = load(paths[0]).shape
        for index in shuffled(len(paths)):
            image = load(paths[index])
            if image.shape[2] != measure[2]:
                raise DataError(
                    "%s has %d colour channel(s), but %s has %d; make them alike with --channels"
                    % (paths[index], image.shape[2], paths[0], measure[2])
                )
            if image.shape != measure:
                raise DataError(
                    "%s is %d pixels wide, but %s is %d; make them alike with --resize R"
                    % (paths[index], image.shape[0], paths[0], measure[0])
                )
            yield image

    return images(), len(paths)

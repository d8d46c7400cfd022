"""Image files in any format that Pillow reads."""

import os

import numpy as np
from PIL import Image, ImageOps

from experiment_utils.errors import DataError
from experiment_utils.options import interval

_GRAY = {"1", "L", "LA", "La"}
_NUMBERS = {"I", "F", "I;16", "I;16B", "I;16L", "I;16N"}  # Pillow's modes of more than 8 bits; all are gray
_NOT_DECODED = {"BUFR", "GRIB", "HDF5", "MPEG"}  # formats that Pillow recognises, and no more

VALUE_RANGE = {  # the flag --value_range, as `options.option` takes it
    "default": None,
    "help": "what is black and what is white where pictures have more than 8 bits; what is beyond is clipped "
    "(default: 0 65535 for 16 bits; others need it)",
    "type": float,
    "nargs": 2,
    "metavar": ("LOW", "HIGH"),
    "check": interval,
}


def list_images(folder, say=print):
    """Return the sorted paths of the image files in `folder` and its subfolders, told by their extensions.

    say    gets a line that counts the other files, where there are any; hidden files do not count
    """
    if not os.path.isdir(folder):
        raise DataError("%s: no such folder" % folder)
    formats = Image.registered_extensions()
    readable = {extension for extension in formats if formats[extension] in Image.OPEN.keys() - _NOT_DECODED}
    files = [os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names if name[0] != "."]
    kinds = {path: os.path.splitext(path)[1].lower() for path in sorted(files)}
    paths = [path for path in kinds if kinds[path] in readable]
    if not paths:
        raise DataError("%s: no image in it (no file with an extension such as .png or .jpg)" % folder)
    others = sorted({kind or "without extension" for kind in kinds.values() if kind not in readable})
    if others:
        shown = ", ".join(others[:8] + ["..."] * (len(others) > 8))
        say("%s: skipped %d of %d files: not pictures (%s)" % (folder, len(files) - len(paths), len(files), shown))
    return paths


def once(say):
    """Return a function that hands its first line on to `say`, and drops all others."""
    said = []

    def say_first(line):
        if not said:
            said.append(line)
            say(line + " (said of the first such file only)")

    return say_first


def read_image(source, name, channels=None, value_range=None, say=print):
    """Return an image file as a Pillow image of mode L or RGB, upright.

    source         path or binary stream; `name` is what errors call it
    channels       1 or 3 converts; None keeps gray images gray and makes all others RGB
    value_range    (LOW, HIGH) become 0 and 255 where an image has more than 8 bits, and what is beyond is clipped;
                   None: (0, 65535) for 16 bits, refused if all are below 2^14; others are refused
    say            gets a line where the value range makes one gray of a whole image, or clips more than half of it

    Of an animation the first frame is taken; what is transparent is shown on white. Raises DataError.
    """
    try:
        with Image.open(source) as image:
            if _mixed_up(image):
                raise DataError("%s: more than 8 bits in an order of bytes that Pillow mixes up; save it as PNG" % name)
            raw, largest = _encoding(image)
            image.load()
            if image.format != "TIFF":  # Pillow turns these itself, and version 9 would do it again
                image = ImageOps.exif_transpose(image)
            if image.mode in _NUMBERS:
                image = _scaled(image, name, raw, largest, value_range, say)
            elif largest == 0xFFFF:
                image = _upper_bytes(image, name, raw, value_range)
            gray = image.mode in _GRAY if channels is None else channels == 1
            return _on_white(image).convert("L" if gray else "RGB")
    except DataError:
        raise
    except Exception as problem:  # what Pillow raises for a broken file depends on its format
        raise DataError("%s: cannot be read as an image (%s)" % (name, problem or type(problem).__name__)) from None


def _mixed_up(image):
    """Tell whether Pillow takes the bytes of a file for other numbers. The image must not be loaded yet."""
    if image.format == "TIFF":  # uncompressed, one colour after the other
        return image.tile[0][0] == "raw" and image.tag_v2.get(284) == 2 and max(image.tag_v2.get(258, (1,))) > 8
    return image.format == "FITS" and image.mode != "L"


def _encoding(image):
    """Return the raw mode that Pillow reads a file by, and the largest value that the file can hold.

    The latter is None for 8 bits, and for numbers without a set range. Loading the image makes it forget both.
    """
    codec, _, _, details = image.tile[0] if image.tile else ("", None, None, "")
    details = details if isinstance(details, tuple) else (details,)
    raw = str(details[0]) if details else ""
    if codec.startswith("ppm"):
        return raw, details[-1]
    if raw == "I;12":
        return raw, 0xFFF
    has_16 = image.mode.startswith("I;16") or raw.endswith((";16B", ";16L", ";16N")) or codec == "SGI16"
    return raw, 0xFFFF if has_16 else None


def _scaled(image, name, raw, largest, value_range, say):
    """Return a gray image of more than 8 bits as one of 8."""
    values = np.asarray(image)
    if raw == "I;32N":  # unsigned, for which Pillow has no mode
        values = values.view(np.uint32)
    if raw == "L":  # PGM, whose largest value Pillow makes 65535
        values = np.rint(values * (largest / 0xFFFF)).astype(np.int32)
    transparent = values == image.info.get("transparency", np.nan)
    opaque = values[~transparent] if not transparent.all() else np.zeros(1, int)
    if not np.isfinite(opaque).all():
        raise DataError("%s: holds numbers that are not finite" % name)
    found = "%s to %s" % (opaque.min(), opaque.max())
    if value_range is None:
        likely = "--value_range %s %s" % _likely_range(opaque.min(), opaque.max())
        if largest is None:
            kind = "floating-point numbers" if image.mode == "F" else "numbers"
            hint = "say which are black and white with --value_range LOW HIGH, as in " + likely
            raise DataError("%s: holds %s, here from %s; %s" % (name, kind, found, hint))
        if largest == 0xFFFF and 0 < opaque.max() < 2**14:
            hint = "say %s, or --value_range 0 65535 if it is that dark" % likely
            raise DataError("%s: has 16 bits, but uses only values from %s; %s" % (name, found, hint))
    low, high = value_range or (0, largest)
    levels = np.rint((np.clip(values.astype(np.float64), low, high) - low) * 255 / (high - low)).astype(np.uint8)
    beyond = np.mean((opaque < low) | (opaque > high))
    if beyond > 0.5 or (levels.min() == levels.max() and opaque.min() < opaque.max()):
        what = "mostly clipped" if beyond > 0.5 else "all one gray"
        say("%s: its values, from %s, are %s in the range %g to %g" % (name, found, what, low, high))
    if image.format == "TIFF" and image.tag_v2.get(262) == 0:  # white is zero, which Pillow heeds in 8 bits only
        levels = 255 - levels
    levels[transparent] = 255
    return Image.fromarray(levels)


def _likely_range(smallest, largest):
    """Return the range that numbers were probably chosen from: as many bits as hold them, or just what was found."""
    tops = [top for top in (1, 2**8 - 1, 2**10 - 1, 2**12 - 1, 2**14 - 1, 2**16 - 1, 2**32 - 1) if largest <= top]
    return (0, tops[0]) if smallest >= 0 and tops else (smallest, largest)


def _upper_bytes(image, name, raw, value_range):
    """Return an image of 16 bits that Pillow has read the upper 8 of: colour, or gray with alpha."""
    what = "has 16 bits, of which only the upper 8 can be read in such a picture"
    if value_range is not None and tuple(value_range) != (0, 0xFFFF):
        raise DataError("%s: %s; --value_range %g %g needs all: save it with 8 bits" % (name, what, *value_range))
    bands = [band for letter, band in zip(image.getbands(), image.split()) if letter not in "AX"]
    brightest = max(band.getextrema()[1] for band in bands)
    if value_range is None and 0 < brightest < 2**6:
        hint = "save it with 8 bits, or say --value_range 0 65535 if it is that dark"
        raise DataError("%s: %s, and they only go from 0 to %d of 255; %s" % (name, what, brightest, hint))
    if "transparency" in image.info:
        image.info["transparency"] = tuple(value >> 8 for value in image.info["transparency"])
    return image.convert("LA") if raw.startswith("LA") else image


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

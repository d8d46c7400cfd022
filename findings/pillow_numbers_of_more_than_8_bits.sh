#!/usr/bin/env bash
# Pillow: pictures of more than 8 bits that are opened without an error, and hold other numbers than the file.
#   FITS        the bytes of every number are swapped (the format is big-endian): 1 becomes 256
#   TIFF, RGB   uncompressed, one plane a colour: every second byte is left out and the rest shifted, so that a row is made
#               of the low and high bytes of half of it. Compressed, or with 8 bits, the same picture is right.
#   TIFF, gray  where white is 0 (PhotometricInterpretation 0), 8 bits are inverted as they should be, and 16 are not
#   TIFF, gray  of unsigned 32 bits, numbers from 2^31 on come out negative
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --quiet --disable-pip-version-check \
    Pillow==12.3.0 numpy==2.2.6 tifffile==2025.5.10 astropy==7.1.0
cat > "$folder/pictures.py" <<'PYTHON'
import io

import numpy as np
import PIL
import tifffile
from astropy.io import fits
from PIL import Image


def read_back(stream):
    stream.seek(0)
    with Image.open(stream) as picture:
        return np.asarray(picture)


def tiff(array, **options):
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, **options)
    return read_back(stream)


def shown(what, written, found, expected):
    print(f"{what}: {written.ravel().tolist()} is read as {found.ravel().tolist()}")
    assert found.ravel().tolist() == expected, "this has changed"


print("Pillow", PIL.__version__)
numbers = np.array([[0, 1, 256, 1000]], np.int16)
stream = io.BytesIO()
fits.PrimaryHDU(numbers).writeto(stream)
shown("FITS, 16 bits", numbers, read_back(stream), [0, 256, 1, 59395])

gray = np.array([[0, 1000, 40000, 65535]], np.uint16)
planes = np.stack([gray, gray, gray])
eight = (planes >> 8).astype(np.uint8)
options = {"photometric": "rgb", "planarconfig": "separate"}
for what, found in (
    ("8 bits", tiff(eight, **options)),
    ("16 bits, compressed", tiff(planes, compression="deflate", **options)),
):
    shown(f"TIFF, first plane of RGB, {what}", eight[0], found[..., 0], [0, 3, 156, 255])
shown("TIFF, first plane of RGB, 16 bits", planes[0], tiff(planes, **options)[..., 0], [0, 0, 232, 3])

shown("TIFF, white is 0, 8 bits", eight[0], tiff(eight[0], photometric="miniswhite"), [255, 252, 99, 0])
shown("TIFF, white is 0, 16 bits", gray, tiff(gray, photometric="miniswhite"), [0, 1000, 40000, 65535])

wide = np.array([[0, 1, 2**31, 2**32 - 1]], np.uint32)
shown("TIFF, unsigned 32 bits", wide, tiff(wide, photometric="minisblack"), [0, 1, -(2**31), -1])
PYTHON
"$folder/env/bin/python" "$folder/pictures.py"

"""What becomes of pictures in 8 bits and in others, pixel by pixel, and which files of a folder are pictures."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from experiment_utils.errors import DataError
from experiment_utils.image_files import list_images, once, read_image

GRAY, COLOUR, GRAY_ALPHA, COLOUR_ALPHA = 0, 2, 4, 6  # of PNG


def png(array, colour_type, transparent=()):
    """Return a PNG file of 16 bits. Pillow writes none in colour."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    array = np.asarray(array)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", array.shape[1], array.shape[0], 16, colour_type, 0, 0, 0))]
    if transparent:
        parts.append(chunk(b"tRNS", struct.pack(">%dH" % len(transparent), *transparent)))
    parts += [chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(array, bits=None, white_is_zero=False):
    """Return a gray TIFF file of the numbers and byte order of `array`, which Pillow does not write for all of them."""
    array = np.asarray(array)
    order = ">" if array.dtype.str[0] == ">" else "<"
    content, kind = array.tobytes(), {"u": 1, "i": 2, "f": 3}[array.dtype.kind]
    height, width = array.shape
    tags = {
        256: width, 257: height, 258: bits or 8 * array.itemsize, 259: 1, 262: 0 if white_is_zero else 1,
        273: 8 + 2 + 10 * 12 + 4, 277: 1, 278: height, 279: len(content), 339: kind,
    }  # fmt: skip
    directory = b"".join(struct.pack(order + "HHIHH", tag, 3, 1, value, 0) for tag, value in sorted(tags.items()))
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "IH", 8, len(tags))
    return head + directory + b"\0\0\0\0" + content


def planar_tiff(planes, bits):
    """Return a TIFF file of 2x1 pixels, its planes of red, green and blue one after the other."""
    size, at = len(planes[0]), 8 + 2 + 10 * 12 + 4
    tags = [
        (256, 3, 1, 2), (257, 3, 1, 1), (258, 3, 3, at), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 3, at + 18),
        (277, 3, 1, 3), (278, 3, 1, 1), (279, 4, 3, at + 6), (284, 3, 1, 2),
    ]  # fmt: skip
    offsets = [at + 30 + size * number for number in range(3)]
    head = struct.pack("<4sIH", b"II*\0", 8, len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return head + struct.pack("<I3H3I3I", 0, *[bits] * 3, *[size] * 3, *offsets) + b"".join(planes)


def pgm(array, white):
    array = np.asarray(array)
    return b"P5\n%d %d\n%d\n" % (array.shape[1], array.shape[0], white) + array.astype(">u2").tobytes()


def saved(image, format, **options):
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def read(content, channels=None, value_range=None):
    """Return what becomes of a file's bytes as nested lists: rows of levels, or of levels of red, green and blue."""
    return np.array(read_image(io.BytesIO(content), "a file", channels, value_range)).tolist()


def refusal(content, **options):
    with pytest.raises(DataError) as caught:
        read(content, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ----------------------------------------------------------------------------------------------------------------------
# Gray

SIXTEEN = np.array([[0, 128, 129, 257], [25700, 32768, 65406, 65535]], np.uint16)
EIGHT = [[0, 0, 1, 1], [100, 128, 254, 255]]


@pytest.mark.parametrize(
    "content",
    [
        png(SIXTEEN, GRAY),
        tiff(SIXTEEN.astype("<u2")),
        tiff(SIXTEEN.astype(">u2")),
        saved(Image.fromarray(SIXTEEN), "TIFF", compression="tiff_lzw"),
        saved(Image.fromarray(SIXTEEN), "JPEG2000", irreversible=False),
        pgm(SIXTEEN, 65535),
    ],
    ids=["PNG", "TIFF", "big-endian TIFF", "compressed TIFF", "JPEG 2000", "PGM"],
)
@pytest.mark.parametrize("value_range", [None, (0, 65535)])
def test_sixteen_bits_are_rounded_to_eight(content, value_range):
    assert read(content, value_range=value_range) == EIGHT
    assert read(content, 3, value_range)[1] == [[level] * 3 for level in EIGHT[1]]


@pytest.mark.parametrize(
    "numbers, value_range, levels",
    [
        (np.array([[0, 1, 100, 255]], np.int32), (0, 255), [0, 1, 100, 255]),
        (np.array([[0, 1, 100, 255]], np.uint16), (0, 255), [0, 1, 100, 255]),
        (np.array([[0, 2048, 4095, 4096]], np.uint16), (0, 4095), [0, 128, 255, 255]),
        (np.array([[-1001, -1000, 1000, 3001]], np.int16), (-1000, 3000), [0, 0, 128, 255]),
        (np.array([[-1001, -1000, 1000, 3001]], ">i2"), (-1000, 3000), [0, 0, 128, 255]),
        (np.array([[0, 2**31 - 1, 2**31, 2**32 - 1]], np.uint32), (0, 2**32 - 1), [0, 127, 128, 255]),
        (np.array([[0, 0.25, 0.5, 1]], np.float32), (0, 1), [0, 64, 128, 255]),
        (np.array([[-1e30, -1, 0, 1e30]], ">f4"), (-1, 1), [0, 0, 128, 255]),
        (np.array([[0.5, 0.7, 0.9, 1]], np.float32), (0.5, 0.75), [0, 204, 255, 255]),
    ],
)
def test_a_value_range_becomes_black_to_white_and_what_is_beyond_is_clipped(numbers, value_range, levels):
    assert read(tiff(numbers), value_range=value_range) == [levels]


@pytest.mark.parametrize(
    "content, words",
    [
        (tiff(np.array([[0, 255]], np.int32)), ["holds numbers, here from 0 to 255; ", "as in --value_range 0 255"]),
        (tiff(np.array([[0, 256]], np.int32)), ["from 0 to 256; ", "as in --value_range 0 1023"]),
        (tiff(np.array([[0, 70000]], np.int32)), ["from 0 to 70000; ", "as in --value_range 0 4294967295"]),
        (tiff(np.array([[7, 2**32 - 1]], np.uint32)), ["from 7 to 4294967295; ", "as in --value_range 0 4294967295"]),
        (tiff(np.array([[-5, 30000]], np.int16)), ["from -5 to 30000; ", "as in --value_range -5 30000"]),
        (tiff(np.array([[5, 30000]], np.int16)), ["from 5 to 30000; ", "as in --value_range 0 65535"]),
        (tiff(np.array([[0, 1]], np.float32)), ["floating-point numbers, here from 0.0 to 1.0; ", "--value_range 0 1"]),
        (tiff(np.array([[-1, 0.1]], np.float32)), ["from -1.0 to 0.1; ", "as in --value_range -1.0 0.1"]),
        (tiff(np.array([[0, 0]], np.float32)), ["from 0.0 to 0.0; ", "as in --value_range 0 1"]),
        (tiff(np.array([[0, 1]], np.uint16)), ["has 16 bits", "only values from 0 to 1; say --value_range 0 1, or"]),
        (tiff(np.array([[9, 255]], np.uint16)), ["from 9 to 255; say --value_range 0 255, or --value_range 0 65535"]),
        (png([[9, 1000]], GRAY), ["from 9 to 1000; say --value_range 0 1023, or --value_range 0 65535 if it is"]),
        (pgm([[9, 4095]], 65535), ["from 9 to 4095; say --value_range 0 4095, or"]),
        (tiff(np.array([[9, 16383]], np.uint16)), ["from 9 to 16383; say --value_range 0 16383, or"]),
    ],
)
def test_a_range_that_is_not_known_is_refused_with_what_was_found(content, words):
    message = refusal(content)
    assert message.startswith("a file: ")
    for word in words:
        assert word in message


def test_sixteen_bits_that_need_fifteen_are_taken_and_so_are_black_ones():
    assert read(tiff(np.array([[0, 16384]], np.uint16))) == [[0, 64]]
    assert read(tiff(np.zeros([1, 2], np.uint16))) == [[0, 0]]
    assert read(tiff(np.array([[257, 2570]], np.uint16)), value_range=(0, 65535)) == [[1, 10]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("value_range", [None, (0, 1)])
def test_what_is_no_finite_number_is_refused(bad, value_range):
    content = tiff(np.array([[0, bad]], np.float32))
    assert refusal(content, value_range=value_range) == "a file: holds numbers that are not finite"


def test_a_file_that_says_how_much_white_is_is_believed():
    """However dark: PGM, whose numbers Pillow scales, and TIFF of 12 bits."""
    for value_range in (None, (0, 4095)):
        assert read(pgm([[0, 16, 803, 4095]], 4095), value_range=value_range) == [[0, 1, 50, 255]]
        assert read(pgm([[0, 16, 803, 803]], 4095), value_range=value_range) == [[0, 1, 50, 50]]
    assert read(pgm([[0, 500, 1000]], 1000)) == [[0, 128, 255]]
    packed = np.array([[0x00, 0x00, 0x10]], np.uint8)  # 0 and 16, of 12 bits each
    content = tiff(packed, bits=12).replace(struct.pack("<HHIH", 256, 3, 1, 3), struct.pack("<HHIH", 256, 3, 1, 2))
    assert read(content) == read(content, value_range=(0, 4095)) == [[0, 1]]
    assert read(b"P1\n2 1\n0 1\n") == [[255, 0]]


def test_where_white_is_zero_sixteen_bits_are_inverted_like_eight():
    assert read(tiff(SIXTEEN, white_is_zero=True)) == [[255 - level for level in row] for row in EIGHT]
    assert read(tiff(np.array([[0, 55]], np.uint8), white_is_zero=True)) == [[255, 200]]
    assert read(tiff(np.array([[0, 55]], np.uint16), white_is_zero=True), value_range=(0, 255)) == [[255, 200]]
    assert read(tiff(np.array([[0, 0.2]], np.float32), white_is_zero=True), value_range=(0, 1)) == [[255, 204]]


@pytest.mark.parametrize("number", [np.uint8, np.uint16, np.int32])
def test_a_tiff_is_turned_upright_once(number):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    content = saved(Image.fromarray(np.array([[10, 20, 255]]).astype(number)), "TIFF", exif=exif)
    assert read(content, value_range=(0, 255)) == [[10], [20], [255]]


MIXED_UP = "a file: more than 8 bits in an order of bytes that Pillow mixes up; save it as PNG"


def test_fits_of_more_than_eight_bits_is_refused():
    """Pillow takes its numbers for those of another byte order."""

    def fits(bits, content):
        lines = ["SIMPLE  =                    T", "BITPIX  = %20d" % bits, "NAXIS   =                    2"]
        lines += ["NAXIS1  =                    2", "NAXIS2  =                    1", "END"]
        return "".join(line.ljust(80) for line in lines).ljust(2880).encode() + content.ljust(2880, b"\0")

    assert read(fits(8, b"\7\xc8")) == [[7, 200]]
    for bits in (16, 32, -32):
        assert refusal(fits(bits, b"\1\2\3\4\5\6\7\10"), value_range=(0, 65535)) == MIXED_UP


def test_a_tiff_of_colours_one_after_the_other():
    """Uncompressed ones of 16 bits Pillow takes for 8 bits."""
    colour = np.array([[[100, 0, 200], [50, 255, 7]]], np.uint8)
    planes = [colour[..., channel].tobytes() for channel in range(3)]
    assert read(planar_tiff(planes, 8)) == colour.tolist()
    assert refusal(planar_tiff([bytes(4)] * 3, 16)) == MIXED_UP


# ----------------------------------------------------------------------------------------------------------------------
# Transparency and colour


def test_sixteen_bits_with_a_transparent_value_are_white_there_and_nowhere_else():
    array = [[999, 1000, 1001], [0, 32768, 65535]]
    expected = [[4, 255, 4], [0, 128, 255]]
    assert read(png(array, GRAY, [1000])) == expected
    assert read(png(array, GRAY, [1000]), 3) == [[[level] * 3 for level in row] for row in expected]
    assert read(png(array, GRAY, [1000]), value_range=(1000, 2000)) == [[0, 255, 0], [0, 255, 255]]
    assert read(png(array, GRAY, [0])) == [[4, 4, 4], [255, 128, 255]]
    assert read(png([[5, 5]], GRAY, [5])) == [[255, 255]]


def test_a_transparent_value_says_nothing_of_the_range():
    content = png([[16, 4095, 65535]], GRAY, [65535])
    assert "from 16 to 4095; say --value_range 0 4095" in refusal(content)
    assert read(content, value_range=(0, 4095)) == [[1, 255, 255]]


def test_sixteen_bits_with_alpha_do_what_eight_do():
    levels = np.array([[[0, 255], [100, 255], [200, 0], [100, 51]]])
    eight = Image.frombytes("LA", (4, 1), levels.astype(np.uint8).tobytes())
    for channels in (None, 1):
        assert read(png(levels * 257, GRAY_ALPHA), channels) == read(saved(eight, "PNG")) == [[0, 100, 255, 224]]
    assert read(png(levels * 257, GRAY_ALPHA), 3)[0][3] == [224, 224, 224]
    colour = levels[..., [0, 0, 0, 1]] * [1, 0, 1, 1]
    assert read(png(colour * 257, COLOUR_ALPHA)) == [[[0, 0, 0], [100, 0, 100], [255, 255, 255], [224, 204, 224]]]


def test_of_sixteen_bits_in_colour_the_upper_ones_are_taken():
    array = [[[0, 25700, 65535], [256, 511, 51400]]]
    for value_range in (None, (0, 65535), [0.0, 65535.0]):
        assert read(png(array, COLOUR), value_range=value_range) == [[[0, 100, 255], [1, 1, 200]]]
    assert read(png(array, COLOUR, [256, 511, 51400])) == [[[0, 100, 255], [255, 255, 255]]]
    assert read(b"P6\n2 1\n65535\n" + np.array(array).astype(">u2").tobytes())[0][0] == [0, 100, 255]


@pytest.mark.parametrize(
    "content, levels",
    [
        (png([[[0, 256, 4095]]], COLOUR), [[[0, 1, 15]]]),
        (png([[[0, 256, 4095, 65535]]], COLOUR_ALPHA), [[[0, 1, 15]]]),
        (png([[[4095, 65535]]], GRAY_ALPHA), [[15]]),
        (b"P6\n1 1\n65535\n\0\0\1\1\x0f\x0f", [[[0, 1, 15]]]),
        (saved(Image.new("RGB", (3, 1), (0, 1, 15)), "SGI", bpc=2), [[[0, 1, 15]] * 3]),
    ],
    ids=["RGB", "RGBA", "LA", "PPM", "SGI"],
)
def test_colour_that_uses_few_of_sixteen_bits_is_refused(content, levels):
    message = refusal(content)
    assert "has 16 bits" in message
    assert "from 0 to 15 of 255; save it with 8 bits, or say --value_range 0 65535" in message
    assert read(content, value_range=(0, 65535)) == levels
    message = refusal(content, value_range=(0, 4095))
    assert message.endswith("--value_range 0 4095 needs all: save it with 8 bits")


def test_colour_of_sixteen_bits_that_needs_fifteen_is_taken_and_so_is_black():
    assert read(png([[[0, 0, 16384]]], COLOUR)) == [[[0, 0, 64]]]
    assert refusal(png([[[0, 0, 16383]]], COLOUR))
    assert read(png([[[0, 0, 255]]], COLOUR)) == [[[0, 0, 0]]]


# ----------------------------------------------------------------------------------------------------------------------
# 8 bits and fewer


@pytest.mark.parametrize("value_range", [None, (3, 5)])
def test_eight_bits_need_no_range_and_heed_none(value_range):
    gray, colour = np.array([[0, 5, 12]], np.uint8), np.array([[[0, 5, 12]]], np.uint8)
    for format in ("PNG", "TIFF", "BMP", "PPM", "TGA", "GIF"):
        assert read(saved(Image.fromarray(gray), format), 1, value_range) == gray.tolist()
    for format in ("PNG", "TIFF", "BMP", "PPM", "SGI"):
        assert read(saved(Image.fromarray(colour), format), value_range=value_range) == colour.tolist()
    palette = Image.fromarray(colour).quantize()
    assert read(saved(palette, "PNG"), value_range=value_range) == colour.tolist()
    assert read(saved(Image.fromarray(gray > 3), "PNG"), value_range=value_range) == [[0, 255, 255]]
    five_six_five = struct.pack("<2sIIIIiiHHIIiiIIIIIHH", b"BM", 70, 0, 66, 40, 1, 1, 1, 16, 3, 4, 0, 0, 0, 0, 0xF800,
                                0x7E0, 0x1F, 1, 0)  # fmt: skip
    assert read(five_six_five, value_range=value_range) == [[[0, 0, 8]]]


@pytest.mark.parametrize(
    ("array", "value_range", "said"),
    [
        (np.float32([[0, 0.5, 1]]), (0, 4095), "from 0.0 to 1.0, are all one gray in the range 0 to 4095"),
        (np.uint16([[3, 2000, 4067]]), (0, 1), "from 3 to 4067, are mostly clipped in the range 0 to 1"),
        (np.uint16([[7, 7, 7]]), (0, 4095), None),  # of one gray in the file, too
        (np.uint16([[0, 5000, 4095]]), (0, 4095), None),
        (np.float32([[0, 0.5, 1]]), (0, 1), None),
    ],
)
def test_a_range_that_does_not_fit_a_picture_is_said(array, value_range, said):
    lines = []
    read_image(io.BytesIO(tiff(array)), "picture", value_range=value_range, say=lines.append)
    assert lines == ([] if said is None else ["picture: its values, " + said])


def test_what_is_said_of_many_files_is_said_once():
    lines = []
    say = once(lines.append)
    for name in "abc":
        say(name)
    assert lines == ["a (said of the first such file only)"]


# ----------------------------------------------------------------------------------------------------------------------
# Folders


def folder(tmp_path, *names):
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    said = []
    paths = list_images(str(tmp_path), said.append)
    return [path[len(str(tmp_path)) + 1 :] for path in paths], said


def test_files_that_are_no_pictures_are_skipped_and_counted_in_one_line(tmp_path):
    strays = ["labels.h5", "a/clip.mpg", "notes.csv", "more.CSV", "README"]
    found, said = folder(tmp_path, "b.PNG", "a/c.jpg", ".hidden.csv", ".DS_Store", *strays)
    assert found == ["a/c.jpg", "b.PNG"]
    assert said == ["%s: skipped 5 of 7 files: not pictures (.csv, .h5, .mpg, without extension)" % tmp_path]


@pytest.mark.parametrize("name", ["a.bufr", "a.grib", "a.h5", "a.hdf", "a.mpg", "a.mpeg", "a.pdf", "a", "a.png.txt"])
def test_what_pillow_does_not_decode_is_no_picture(tmp_path, name):
    found, said = folder(tmp_path, name, "b.tif")
    assert found == ["b.tif"] and len(said) == 1


def test_a_folder_of_pictures_alone_says_nothing(tmp_path):
    assert folder(tmp_path, "b.webp", "a.jpeg", ".hidden", "c.emf") == (["a.jpeg", "b.webp", "c.emf"], [])


def test_many_kinds_of_files_still_make_one_short_line(tmp_path):
    _, said = folder(tmp_path, "a.png", *("scan.%03d" % number for number in range(20)))
    assert said[0].endswith(" 20 of 21 files: not pictures (.000, .001, .002, .003, .004, .005, .006, .007, ...)")

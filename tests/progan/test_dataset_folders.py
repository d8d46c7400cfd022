"""`dataset_tool.py create_from_images`: what becomes of pixels, and what is refused."""

import os

import numpy as np
import pytest
from data_helpers import assert_refused, random_images, run_tool
from PIL import Image

from experiment_utils.datasets import Dataset


def save(path, array, **keywords):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.squeeze(array)).save(str(path), **keywords)


def created(tmp_path, *options):
    """Run create_from_images on tmp_path/in and return the images of the dataset, in the order of the file names."""
    result = run_tool("create_from_images", tmp_path / "out", tmp_path / "in", *options)
    assert result[0] == 0, result
    dataset = Dataset(str(tmp_path / "out"))
    stored = dataset.images(dataset.resolution, range(len(dataset)))
    order = np.arange(len(stored))
    np.random.RandomState(123).shuffle(order)  # the order of the reference: image i of the dataset is file order[i]
    return stored[np.argsort(order)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("extension", ["png", "bmp", "tiff", "PNG"])
def test_images_are_stored_as_they_are(tmp_path, extension, channels):
    images = random_images(5, 8, channels)
    for number, image in enumerate(images):
        save(tmp_path / "in" / ("%d.%s" % (number, extension)), image)
    (tmp_path / "in" / "notes.txt").write_text("not an image")
    (tmp_path / "in" / "._0.png").write_text("a file manager's droppings")
    np.testing.assert_array_equal(created(tmp_path), images)


def test_files_are_sorted_by_path_and_subfolders_searched(tmp_path):
    images = random_images(3, 4)
    for name, image in zip(["a/9.png", "b/1.png", "c.png"], images):
        save(tmp_path / "in" / name, image)
    np.testing.assert_array_equal(created(tmp_path), images)


def test_lossy_and_palette_formats_are_decoded(tmp_path):
    flat = np.full([8, 8, 3], (200, 30, 40), np.uint8)
    for name in ("a.jpg", "b.gif", "c.webp"):
        save(tmp_path / "in" / name, flat)
    assert np.abs(created(tmp_path).astype(int) - flat).max() <= 4


def test_the_orientation_a_camera_noted_is_applied(tmp_path):
    image = random_images(1, 8)[0]
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    save(tmp_path / "in" / "a.png", image, exif=exif)
    np.testing.assert_array_equal(created(tmp_path)[0], np.rot90(image, -1))


def test_what_is_transparent_becomes_white(tmp_path):
    image = random_images(1, 8, 4)[0]
    image[..., 3] = 255
    image[:4, :, 3] = 0
    save(tmp_path / "in" / "a.png", image)
    found = created(tmp_path)[0]
    assert (found[:4] == 255).all()
    np.testing.assert_array_equal(found[4:], image[4:, :, :3])


def test_sixteen_bits_become_eight(tmp_path):
    save(tmp_path / "in" / "a.png", (np.arange(16).reshape(4, 4) * 257 * 17).astype(np.uint16))
    np.testing.assert_array_equal(created(tmp_path)[0, :, :, 0], np.arange(16).reshape(4, 4) * 17)


def test_what_is_no_picture_is_skipped_and_counted(tmp_path):
    images = random_images(2, 4)
    for name, image in zip(["a.png", "b/c.png"], images):
        save(tmp_path / "in" / name, image)
    for name in ("labels.h5", "clip.mpg", "notes.csv", "b/notes.csv", ".DS_Store"):
        (tmp_path / "in" / name).write_bytes(b"no picture")
    status, printed, err = run_tool("create_from_images", tmp_path / "out", tmp_path / "in")
    assert status == 0, err
    assert printed.split("\n") == [
        "%s: skipped 4 of 6 files: not pictures (.csv, .h5, .mpg)" % (tmp_path / "in"),
        "%s: 2 images of 4x4x3" % (tmp_path / "out"),
        "",
    ]


def test_resizing_crops_the_centred_square(tmp_path):
    wide = np.zeros([8, 24, 3], np.uint8)
    wide[:, 8:12], wide[:, 12:16] = (255, 0, 0), (0, 0, 255)
    save(tmp_path / "in" / "a.png", wide)
    save(tmp_path / "in" / "b.png", wide.transpose(1, 0, 2))
    found = created(tmp_path, "--resize", 4).astype(int)
    assert found.shape == (2, 4, 4, 3)
    red, blue = np.array([255, 0, 0]), np.array([0, 0, 255])
    for image in (found[0], found[1].transpose(1, 0, 2)):
        assert np.abs(image[:, 0] - red).max() < 20 and np.abs(image[:, 3] - blue).max() < 20


def test_channels_can_be_made_alike(tmp_path):
    save(tmp_path / "in" / "a.png", random_images(1, 4, 3)[0])
    gray = random_images(1, 4, 1)[0]
    save(tmp_path / "in" / "b.png", gray)
    found = created(tmp_path, "--channels", 3)
    assert found.shape == (2, 4, 4, 3)
    np.testing.assert_array_equal(found[1], np.repeat(gray, 3, 2))
    assert run_tool("create_from_images", tmp_path / "g", tmp_path / "in", "--channels", 1)[0] == 0
    assert Dataset(str(tmp_path / "g")).channels == 1


# ----------------------------------------------------------------------------------------------------------------------
# What is refused


def refused(tmp_path, *words, options=()):
    assert_refused(run_tool("create_from_images", tmp_path / "out", tmp_path / "in", *options), *words)
    assert not os.path.exists(str(tmp_path / "out"))
    assert not [name for name in os.listdir(str(tmp_path)) if name.startswith(".")]


@pytest.mark.parametrize(
    "shape, words",
    [
        ((8, 16, 3), ["16x8 is not square", "--resize"]),
        ((6, 6, 3), ["power of two", "--resize"]),
        ((2, 2, 3), ["2 pix"]),
    ],
)
def test_sizes_that_cannot_be_stored(tmp_path, shape, words):
    save(tmp_path / "in" / "a.png", np.zeros(shape, np.uint8))
    refused(tmp_path, "a.png", *words)


def test_images_of_different_sizes(tmp_path):
    save(tmp_path / "in" / "a.png", random_images(1, 8)[0])
    save(tmp_path / "in" / "b.png", random_images(1, 16)[0])
    refused(tmp_path, "b.png is 16 pixels wide", "a.png is 8", "--resize")


def test_mixed_channel_counts(tmp_path):
    for name in "abcd":
        save(tmp_path / "in" / (name + ".png"), random_images(1, 8)[0])
    save(tmp_path / "in" / "gray.png", random_images(1, 8, 1)[0])
    refused(tmp_path, "gray.png has 1", "has 3", "--channels")


@pytest.mark.parametrize("damage", [b"", b"this is no image", None])
def test_a_broken_file_among_good_ones(tmp_path, damage):
    for name in "abcd":
        save(tmp_path / "in" / (name + ".png"), random_images(1, 64)[0])
    broken = tmp_path / "in" / "broken.png"
    broken.write_bytes((tmp_path / "in" / "a.png").read_bytes()[:3000] if damage is None else damage)
    refused(tmp_path, "broken.png: cannot be read as an image")


NUMBERS = np.arange(16).reshape(4, 4)


@pytest.mark.parametrize(
    "array, value_range, found",
    [
        ((17 * NUMBERS).astype(np.int32), (0, 255), "from 0 to 255"),
        ((273 * NUMBERS).astype(np.uint16), (0, 4095), "from 0 to 4095"),
        ((NUMBERS / 15).astype(np.float32), (0, 1), "from 0.0 to 1.0"),
    ],
    ids=["32 bits", "12 bits in 16", "floating point"],
)
def test_numbers_of_an_unknown_range_are_refused_until_it_is_said(tmp_path, array, value_range, found):
    save(tmp_path / "in" / "a.tiff", array)
    refused(tmp_path, tmp_path / "in" / "a.tiff", found, "--value_range %d %d" % value_range)
    np.testing.assert_array_equal(created(tmp_path, "--value_range", *value_range)[0, :, :, 0], 17 * NUMBERS)


def test_a_value_range_leaves_eight_bits_as_they_are(tmp_path):
    images = random_images(3, 4)
    for number, image in enumerate(images):
        save(tmp_path / "in" / ("%d.png" % number), image)
    np.testing.assert_array_equal(created(tmp_path, "--value_range", -1, 1.5), images)


@pytest.mark.parametrize("low, high", [(1, 1), (4095, 0), (0, "inf"), ("nan", 1)])
def test_a_value_range_that_is_none(tmp_path, low, high):
    save(tmp_path / "in" / "a.png", random_images(1, 4)[0])
    said = "--value_range %s %s: must be two finite numbers" % (float(low), float(high))
    refused(tmp_path, said, options=["--value_range", low, high])


def test_a_range_that_fits_some_files_only_is_said(tmp_path):
    save(tmp_path / "in" / "a.tiff", np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8))
    for name in "bc":
        save(tmp_path / "in" / (name + ".png"), np.linspace(0, 4095, 64).astype(np.uint16).reshape(8, 8))
    status, out, _ = run_tool("create_from_images", tmp_path / "out", tmp_path / "in", "--value_range", 0, 1)
    lines = [line for line in out.splitlines() if "are mostly clipped in the range 0 to 1" in line]
    assert status == 0 and len(lines) == 1 and ".png: its values, from 0 to 4095, " in lines[0]


def test_a_folder_without_images(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("nothing")
    refused(tmp_path, tmp_path / "in", "no image")


def test_a_folder_that_is_not_there(tmp_path):
    refused(tmp_path, tmp_path / "in", "no such folder")


def test_a_size_that_is_no_power_of_two(tmp_path):
    save(tmp_path / "in" / "a.png", random_images(1, 8)[0])
    refused(tmp_path, "--resize 100", "power of two", options=["--resize", 100])


def test_an_existing_dataset_is_refused_before_anything_is_read(tmp_path):
    save(tmp_path / "in" / "a.png", random_images(1, 8)[0])
    created(tmp_path)
    (tmp_path / "in" / "a.png").write_bytes(b"")
    result = run_tool("create_from_images", tmp_path / "out", tmp_path / "in")
    assert_refused(result, tmp_path / "out", "exists already", "--overwrite")

"""`dataset_tool.py create_edges_and_shoes`, on a folder and on archives, good and bad."""

import io
import os
import tarfile

import numpy as np
import pytest
from data_helpers import assert_refused, contents, run_tool
from PIL import Image

from experiment_utils.datasets import Dataset

PAIRS = 10


def pair(number):
    """Edges of the gray level 10·number, a shoe of 10·number + 100."""
    array = np.full([256, 512, 3], 10 * number, np.uint8)
    array[:, 256:] += 100
    return array


def jpeg(array):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, format="jpeg", quality=95)
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path):
    """edges2shoes/ with train/ and val/; the file names sort as 1, 10, 2, … like those of pix2pix."""
    for part in ("train", "val"):
        (tmp_path / "edges2shoes" / part).mkdir(parents=True)
    for number in range(PAIRS):
        (tmp_path / "edges2shoes" / "train" / ("%d_AB.jpg" % (number + 1))).write_bytes(jpeg(pair(number)))
    (tmp_path / "edges2shoes" / "val" / "1_AB.jpg").write_bytes(jpeg(pair(25)))
    return tmp_path / "edges2shoes"


def archive(folder):
    """Return the path of a .tar.gz of edges2shoes/, its files in no helpful order."""
    path = folder.parent / "edges2shoes.tar.gz"
    with tarfile.open(str(path), "w:gz") as tar:
        for file in sorted(folder.glob("*/*"), reverse=True):
            tar.add(str(file), str(file.relative_to(folder.parent)))
    return path


def test_both_halves_become_images_in_the_order_of_the_reference(folder, tmp_path):
    assert run_tool("create_edges_and_shoes", tmp_path / "es", folder)[0] == 0
    dataset = Dataset(str(tmp_path / "es"))
    assert (len(dataset), dataset.resolution, dataset.channels) == (2 * PAIRS, 128, 3)
    levels = dataset.images(128, range(2 * PAIRS)).mean((1, 2, 3))
    names = sorted("%d_AB.jpg" % (number + 1) for number in range(PAIRS))
    order = np.arange(2 * PAIRS)
    np.random.RandomState(123).shuffle(order)
    for level, index in zip(levels, order):
        number = int(names[index % PAIRS].split("_")[0]) - 1
        expected = 10 * number + 100 if index < PAIRS else 10 * number
        assert abs(level - expected) < 2


def test_an_archive_gives_the_same_bytes_and_leaves_nothing_else(folder, tmp_path):
    run_tool("create_edges_and_shoes", tmp_path / "a" / "es", folder, "--resolution", 32)
    status, _, err = run_tool("create_edges_and_shoes", tmp_path / "b" / "es", archive(folder), "--resolution", 32)
    assert status == 0, err
    assert contents(tmp_path / "a" / "es") == contents(tmp_path / "b" / "es")
    assert os.listdir(str(tmp_path / "b")) == ["es"]


def test_the_train_folder_itself_will_do(folder, tmp_path):
    assert run_tool("create_edges_and_shoes", tmp_path / "es", folder / "train", "--resolution", 8)[0] == 0
    assert len(Dataset(str(tmp_path / "es"))) == 2 * PAIRS


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "archive"])
def test_pairs_of_twelve_bits_in_sixteen(tmp_path, packed):
    (tmp_path / "edges2shoes" / "train").mkdir(parents=True)
    numbers = np.repeat(np.array([[0, 4095]], np.uint16), 8, 0).repeat(8, 1)
    Image.fromarray(numbers).save(str(tmp_path / "edges2shoes" / "train" / "1_AB.png"))
    source = archive(tmp_path / "edges2shoes") if packed else tmp_path / "edges2shoes"
    refused(tmp_path, source, "1_AB.png", "from 0 to 4095", "--value_range 0 4095")
    options = ["--resolution", 8, "--value_range", 0, 4095]
    status, _, err = run_tool("create_edges_and_shoes", tmp_path / "es", source, *options)
    assert status == 0, err
    images = Dataset(str(tmp_path / "es")).images(8, range(2))
    assert sorted(np.unique(image).tolist() for image in images) == [[0], [255]]


def test_names_in_an_archive_never_become_paths(tmp_path):
    path = tmp_path / "evil.tar.gz"
    with tarfile.open(str(path), "w:gz") as tar:
        link = tarfile.TarInfo("train/link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        for name in ("../../train/escaped.jpg", "/tmp/train/absolute.jpg"):
            content = jpeg(pair(3))
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    assert run_tool("create_edges_and_shoes", tmp_path / "deep" / "er" / "es", path, "--resolution", 8)[0] == 0
    assert len(Dataset(str(tmp_path / "deep" / "er" / "es"))) == 4
    assert not os.path.exists("/tmp/train/absolute.jpg")
    files = [os.path.join(base, name) for base, _, names in os.walk(str(tmp_path)) for name in names]
    assert not [file for file in files if file.endswith(".jpg")]


def refused(tmp_path, source, *words):
    assert_refused(run_tool("create_edges_and_shoes", tmp_path / "out" / "es", source), *words)
    assert not (tmp_path / "out").is_dir() or os.listdir(str(tmp_path / "out")) == []


def test_an_archive_cut_short(folder, tmp_path):
    path = archive(folder)
    path.write_bytes(path.read_bytes()[:-2000])
    refused(tmp_path, path, path, "not a whole .tar.gz archive")


def test_what_is_no_archive(tmp_path):
    path = tmp_path / "page.tar.gz"
    path.write_text("<html>404</html>")
    refused(tmp_path, path, path, "not a whole .tar.gz archive")


def test_an_archive_of_something_else(tmp_path):
    path = tmp_path / "other.tar.gz"
    (tmp_path / "a.txt").write_text("x")
    with tarfile.open(str(path), "w:gz") as tar:
        tar.add(str(tmp_path / "a.txt"), "a.txt")
    refused(tmp_path, path, path, "no train/")


def test_a_broken_picture_in_an_archive_is_named(folder, tmp_path):
    (folder / "train" / "3_AB.jpg").write_bytes(b"broken")
    refused(tmp_path, archive(folder), "3_AB.jpg", "cannot be read")


def test_a_picture_of_another_shape_is_named(folder, tmp_path):
    (folder / "train" / "3_AB.jpg").write_bytes(jpeg(pair(0)[:, :300]))
    refused(tmp_path, folder, "3_AB.jpg", "300x256 is not twice as wide as high")


def test_a_source_that_is_not_there(tmp_path):
    refused(tmp_path, tmp_path / "none.tar.gz", "none.tar.gz", "no such folder or archive")

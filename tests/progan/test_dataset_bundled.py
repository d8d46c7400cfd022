"""The dataset that ships: what it shows, and that unpacking is exact, safe and done once."""

import hashlib
import os
import threading

import numpy as np
import pytest
from data_helpers import contents, random_images, run_tool, write_dataset

from experiment_utils.errors import DataError
from progan.data import bundled
from progan.dataset import open_dataset

FACTORS = [{"name": "x", "kind": "continuous", "range": [0, 1]}]


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    return open_dataset("clevr_1fov_32", str(tmp_path_factory.mktemp("data")))


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A directory of bundles of its own, with one in it; the dataset it was made from."""
    images = random_images(6, 16)
    factors = np.random.RandomState(0).uniform(size=[6, 1]).astype(np.float32)
    bundled.pack(images, factors, FACTORS, "small", str(tmp_path / "shelf"))
    monkeypatch.setattr(bundled, "DIRECTORY", str(tmp_path / "shelf"))
    return write_dataset(tmp_path / "original" / "small", images, factors, FACTORS)


def cube_columns(images):
    """Return the mean column of the red pixels of images [N, H, W, 3], from 0 at the left to 1 at the right."""
    red = np.maximum(images[..., 0].astype(float) - images[..., 1] - 40, 0)
    columns = (np.arange(images.shape[2]) + 0.5) / images.shape[2]
    return (red.sum(1) * columns).sum(1) / red.sum((1, 2))


def test_the_shipped_set_is_what_it_should_be(shipped):
    assert (len(shipped), shipped.resolution, shipped.channels) == (1000, 32, 3)
    assert shipped.factors.shape == (1000, 1) and shipped.factor_info[0]["name"] == "position"
    assert os.path.getsize(os.path.join(bundled.DIRECTORY, "clevr_1fov_32.tar.xz")) < 1.2e6
    assert run_tool("verify", shipped.path)[0] == 0


@pytest.mark.parametrize("resolution", [16, 32])
def test_the_factor_is_where_the_cube_is(shipped, resolution):
    columns = cube_columns(shipped.images(resolution, range(1000)))
    positions = shipped.factors[:, 0]
    order = np.argsort(positions)
    fit = np.poly1d(np.polyfit(positions, columns, 3))
    assert np.abs(columns - fit(positions)).max() < 0.15 / resolution * 2  # a fraction of a pixel
    assert (np.diff(fit(positions[order])) > 0).all()
    assert columns.min() < 0.25 and columns.max() > 0.75  # it slides across most of the picture


def test_positions_are_uniform(shipped):
    low, high = shipped.factor_info[0]["range"]
    counts, _ = np.histogram(shipped.factors[:, 0], 10, (low, high))
    assert counts.sum() == 1000 and ((counts - 100) ** 2 / 100).sum() < 27.9  # chi squared, 9 d.o.f., p = 0.001


def test_pixels_are_a_red_cube_on_a_gray_floor(shipped):
    images = shipped.images(32, range(0, 1000, 50)).astype(float)
    spread = images.max(-1) - images.min(-1)
    cube = spread > 60
    assert 0.05 < cube.mean() < 0.15
    red, green, blue = images[cube].mean(0)
    assert red > 3 * green and abs(green - blue) < 5
    corners = images[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners.max(-1) - corners.min(-1)).max() <= 3 and 110 < corners.mean() < 200


def test_unpacking_writes_the_files_that_were_packed(shelf, tmp_path, capsys):
    dataset = open_dataset("small", str(tmp_path / "data"))
    assert contents(dataset.path) == contents(shelf)
    assert os.listdir(str(tmp_path / "data")) == ["small"]
    assert capsys.readouterr().err.count("\n") == 1
    open_dataset("small", str(tmp_path / "data"))  # the second time there is nothing to unpack, or to say
    assert capsys.readouterr().err == ""


def test_packing_is_reproducible(shelf, tmp_path):
    dataset = open_dataset(shelf, "")
    images = dataset.images(16, range(6))
    again = bundled.pack(images, dataset.factors, dataset.factor_info, "small", str(tmp_path / "again"))
    assert contents(tmp_path / "again") == contents(bundled.DIRECTORY)
    with open(again, "rb") as stream:
        digest = hashlib.sha256(stream.read()).hexdigest()
    with open(str(tmp_path / "again" / "SHA256SUMS")) as stream:
        assert stream.read() == "%s  small.tar.xz\n" % digest


def test_a_damaged_bundle_is_refused(shelf, tmp_path):
    path = os.path.join(bundled.DIRECTORY, "small.tar.xz")
    with open(path, "r+b") as stream:
        stream.seek(100)
        stream.write(b"?")
    with pytest.raises(DataError, match=r"small\.tar\.xz: damaged"):
        open_dataset("small", str(tmp_path / "data"))
    assert not os.path.exists(str(tmp_path / "data" / "small"))


def test_several_processes_may_unpack_at_once(shelf, tmp_path, monkeypatch):
    """All are held up until everyone is about to give the dataset its name."""
    paths, barrier, rename = [], threading.Barrier(4), os.rename

    def rename_together(*names):
        barrier.wait()
        rename(*names)

    def unpack():
        paths.append(bundled.unpack("small", str(tmp_path / "data")))

    monkeypatch.setattr(os, "rename", rename_together)
    threads = [threading.Thread(target=unpack) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 4 and os.listdir(str(tmp_path / "data")) == ["small"]
    assert contents(paths[0]) == contents(shelf)


def test_a_directory_of_that_name_is_never_replaced(shelf, tmp_path):
    (tmp_path / "data" / "small").mkdir(parents=True)
    (tmp_path / "data" / "small" / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="no dataset"):
        open_dataset("small", str(tmp_path / "data"))
    assert contents(tmp_path / "data" / "small") == {"mine.txt": b"mine"}

"""Images with classes: from the factors of a dataset, or from folders."""

import json
from functools import partial

import numpy as np
import pytest
from biggan_helpers import load_command, refusal, run
from labelled_data import discs, write_dataset
from PIL import Image

from biggan.images import open_images
from experiment_utils.errors import DataError

train = partial(run, "train_generator", load_command("train_generator"))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("datasets")
    images, factors = discs()
    write_dataset(directory / "discs", images, factors)
    write_dataset(directory / "plain", images[:20])
    return str(directory)


def test_the_class_is_a_categorical_factor(data_dir):
    images, factors = discs()
    data = open_images("discs", data_dir, class_factor="shade")
    assert (len(data), data.resolution, data.channels, data.class_names) == (60, 8, 3, ["dark", "bright"])
    np.testing.assert_array_equal(data.labels, factors[:, 0])
    np.testing.assert_array_equal(data.images([3, 5]), images[[3, 5]])
    np.testing.assert_array_equal(data.factors, factors)
    smaller = open_images("discs", data_dir, 4, "shade").images([3])[0].astype(float)
    pooled = images[3].reshape(4, 2, 4, 2, 3).mean((1, 3))
    assert np.abs(smaller - pooled).max() <= 0.5


def test_without_a_class_factor_there_is_one_class(data_dir):
    for name in ("discs", "plain"):
        data = open_images(name, data_dir)
        assert data.class_names == ["all"] and not data.labels.any()


def test_an_epoch_shows_every_image_once_with_its_class(data_dir):
    images, factors = discs()
    data = open_images("discs", data_dir, class_factor="shade")
    whole, labels = data.minibatch(7, 60, 60)
    shown = sorted((image.tobytes(), label) for image, label in zip(whole, labels))
    assert shown == sorted((image.tobytes(), int(shade)) for image, (shade, _) in zip(images, factors))
    parts = [data.minibatch(7, start, 30) for start in (60, 90)]
    np.testing.assert_array_equal(np.concatenate([part[0] for part in parts]), whole)
    np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), labels)
    assert (data.minibatch(8, 60, 60)[0] != whole).any()


def folder(root, files):
    for index, name in enumerate(files):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 12), (10 * index, 200, 30)).save(str(path))
    return str(root)


def test_subfolders_are_classes(tmp_path):
    path = folder(tmp_path / "pets", ["dog/b.png", "cat/a.png", "cat/deeper/c.jpg"])
    data = open_images(path, ".", 8)
    assert data.class_names == ["cat", "dog"] and data.name == "pets" and data.factors is None
    assert data.labels.tolist() == [0, 0, 1]
    assert data.images([0, 1, 2]).shape == (3, 8, 8, 3)
    np.testing.assert_array_equal(data.images([2])[0, 0, 0], [0, 200, 30])


def test_a_flat_folder_is_one_class(tmp_path):
    data = open_images(folder(tmp_path / "pets", ["a.png", "b.png"]), ".", 8)
    assert data.class_names == ["all"] and data.labels.tolist() == [0, 0]


def float_tiffs(root, count=8):
    """Write `count` pictures of the number 0.2, a .csv beside them."""
    root.mkdir()
    for index in range(count):
        Image.fromarray(np.full([8, 8], 0.2, np.float32)).save(str(root / f"{index}.tif"))
    (root / "notes.csv").write_text("")
    return str(root)


def test_a_folder_of_numbers_needs_their_range_and_says_what_it_skips(tmp_path):
    path, said = float_tiffs(tmp_path / "numbers"), []
    data = open_images(path, ".", 8, value_range=[0.0, 0.5], say=said.append)
    np.testing.assert_array_equal(data.images([1]), np.full([1, 8, 8, 3], 102))
    assert said == [f"{path}: skipped 1 of 9 files: not pictures (.csv)"]
    with pytest.raises(DataError, match=r"0\.tif: .* from 0\.2 to 0\.2; .*--value_range 0 1"):
        open_images(path, ".", 8).images([0])


def test_train_generator_keeps_the_value_range_of_a_run(tmp_path, capfd):
    places = ["--results_dir", str(tmp_path / "results"), "--device", "cpu", "--num_threads", "1"]
    path = float_tiffs(tmp_path / "numbers")
    new = ["--dataset", path, "--resolution", "8", "--ch", "8", "--batch_size", "8", "--value_range", "0", "0.5"]
    assert train(capfd, [*new, *places, "--total_kimg", "0.008"])[0] == 0
    stored = json.loads((tmp_path / "results" / "generator" / "options.json").read_text())
    assert stored["flags"]["value_range"] == [0.0, 0.5]
    resumed = [*places, "--resume", "--total_kimg", "0.016"]
    assert "--value_range (was [0.0, 0.5])" in refusal(train(capfd, [*resumed, "--value_range", "0", "1"]))
    assert train(capfd, resumed)[0] == 0  # without the range a picture would be refused


def test_of_several_processes_one_says_what_is_skipped(tmp_path, capfd, monkeypatch):
    flags = ["--dataset", float_tiffs(tmp_path / "numbers"), "--resolution", "8", "--batch_size", "64"]
    for rank, lines in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        result = train(capfd, [*flags, "--results_dir", str(tmp_path)])
        assert refusal(result).startswith("--batch_size 64: ")
        assert result[1].count("skipped 1 of 9 files") == lines


def test_what_cannot_be_used_is_named(tmp_path, data_dir):
    path = folder(tmp_path / "pets", ["dog/b.png", "stray.png"])
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"nothing")
    for arguments, words in [
        ((path, ".", 8), "stray.png: beside folders that are classes"),
        ((path, ".", None), "--resolution: needed"),
        ((path, ".", 8, "shade"), "--class_factor shade: .*pets is a folder"),
        ((str(tmp_path / "empty"), ".", 8), "empty: no image"),
        (("discs", data_dir, 16), "--resolution 16: .*has images of 4, 8 px"),
        (("discs", data_dir, None, "x"), "--class_factor x: .*no such categorical factor .shade."),
        (("plain", data_dir, None, "shade"), "no such categorical factor .none."),
        (("missing", data_dir), "missing: no such dataset .*discs, plain"),
    ]:
        with pytest.raises(DataError, match=words):
            open_images(*arguments)
    with pytest.raises(DataError, match=r"a\.png: cannot be read"):
        open_images(str(tmp_path / "broken"), ".", 8).images([0])

"""Reading datasets: what is found, the order of training, and one clear line for everything missing or broken."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from data_helpers import contents, random_images, write_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from experiment_utils.datasets import Dataset, epoch_order
from experiment_utils.errors import DataError
from experiment_utils.tfrecords import encode_image, record
from progan.dataset import open_dataset

POSITION = [{"name": "position", "kind": "continuous", "range": [0, 1]}]


@pytest.fixture
def path(tmp_path):
    """A dataset of 7 images at 8x8."""
    return write_dataset(tmp_path / "tiny", random_images(7, 8), np.linspace(0, 1, 7)[:, None], POSITION)


# ----------------------------------------------------------------------------------------------------------------------
# What is found


def test_a_dataset_tells_what_it_holds(path):
    dataset = Dataset(path)
    assert (dataset.name, dataset.path, len(dataset)) == ("tiny", path, 7)
    assert (dataset.resolution, dataset.resolutions, dataset.channels) == (8, [4, 8], 3)
    assert dataset.factors.dtype == np.float32 and dataset.factor_info == POSITION
    np.testing.assert_allclose(dataset.factors[:, 0], np.linspace(0, 1, 7), rtol=1e-6)


def test_images_come_back_in_the_order_asked_for(path):
    images = random_images(7, 8)
    found = Dataset(path).images(8, [5, 0, 5])
    assert found.dtype == np.uint8 and found.flags.writeable
    np.testing.assert_array_equal(found, images[[5, 0, 5]])


def test_without_factors_there_are_none(tmp_path):
    dataset = Dataset(write_dataset(tmp_path / "gray", random_images(3, 4, channels=1)))
    assert dataset.factors is None and dataset.factor_info is None
    assert dataset.channels == 1 and dataset.images(4, [0, 1]).shape == (2, 4, 4, 1)


def test_names_are_looked_up_in_the_data_directory_and_then_as_paths(path, tmp_path, monkeypatch):
    assert open_dataset("tiny", str(tmp_path)).path == path
    assert open_dataset(path, "elsewhere").path == path
    monkeypatch.chdir(str(tmp_path))
    assert open_dataset("tiny", "elsewhere").name == "tiny"


def test_an_unknown_name_lists_what_there_is(path, tmp_path):
    (tmp_path / "no dataset").mkdir()
    write_dataset(tmp_path / "unfinished.partial", random_images(1, 4))
    with pytest.raises(DataError) as error:
        open_dataset("tyni", str(tmp_path))
    assert str(error.value) == "tyni: no such dataset (in %s: tiny; shipped with the project: clevr_1fov_32)" % tmp_path
    with pytest.raises(DataError, match="none; shipped"):
        open_dataset("tyni", str(tmp_path / "missing"))


def test_the_files_of_the_reference_are_read(tmp_path):
    """Written by TensorFlow, under a basename that is not the directory's, with labels beside."""
    images = random_images(4, 8).transpose(0, 3, 1, 2)
    for log2, side in ((3, 1), (2, 2)):
        with tf.python_io.TFRecordWriter(str(tmp_path / ("mine-r%02d.tfrecords" % log2))) as writer:
            for image in images[:, :, ::side, ::side]:
                shape = tf.train.Feature(int64_list=tf.train.Int64List(value=image.shape))
                data = tf.train.Feature(bytes_list=tf.train.BytesList(value=[image.tobytes()]))
                features = tf.train.Features(feature={"shape": shape, "data": data})
                writer.write(tf.train.Example(features=features).SerializeToString())
    with open(str(tmp_path / "mine-rxx.labels"), "wb") as stream:
        np.save(stream, np.zeros([4, 0], np.float32))
    dataset = open_dataset(str(tmp_path), "datasets")
    assert (dataset.name, dataset.resolutions, dataset.factors) == ("mine", [4, 8], None)
    np.testing.assert_array_equal(dataset.images(8, range(4)), images.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(dataset.images(4, [3])[0], images[3, :, ::2, ::2].transpose(1, 2, 0))


def test_reading_imports_no_framework(path):
    code = "import sys; from progan.dataset import open_dataset; open_dataset(%r, '').minibatch(8, 0, 0, 2)" % path
    code += "; assert not {'tensorflow', 'torch', 'mitsuba'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# ----------------------------------------------------------------------------------------------------------------------
# The order of training


@settings(max_examples=40)
@given(st.integers(1, 50), st.integers(0, 2**32 - 1), st.integers(0, 1000))
def test_an_epoch_is_a_permutation(count, seed, epoch):
    assert sorted(epoch_order(count, seed, epoch)) == list(range(count))


def test_the_order_is_the_same_with_every_release_of_numpy():
    assert epoch_order(10, 1000, 0).tolist() == [6, 3, 2, 5, 0, 8, 4, 1, 7, 9]
    assert epoch_order(10, 1000, 7).tolist() == [9, 5, 4, 6, 2, 8, 1, 3, 0, 7]


def test_orders_depend_on_the_seed_and_the_epoch():
    orders = {tuple(epoch_order(20, seed, epoch)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


@settings(max_examples=40)
@given(st.integers(0, 5), st.integers(0, 60), st.lists(st.integers(1, 20), min_size=1, max_size=6))
def test_it_does_not_matter_how_training_is_cut(tmp_path_factory, seed, start, sizes):
    dataset = numbered_dataset(tmp_path_factory)
    whole = numbers(dataset.minibatch(4, seed, start, sum(sizes)))
    parts, shown = [], start
    for size in sizes:
        parts += numbers(Dataset(dataset.path).minibatch(4, seed, shown, size))  # anew: nothing is remembered
        shown += size
    assert parts == whole


@settings(max_examples=20)
@given(st.integers(0, 5), st.integers(0, 4))
def test_every_epoch_shows_every_image_once(tmp_path_factory, seed, epoch):
    dataset = numbered_dataset(tmp_path_factory)
    shown = numbers(dataset.minibatch(4, seed, 7 * epoch, 7))
    assert shown == epoch_order(7, seed, epoch).tolist()
    across = numbers(dataset.minibatch(4, seed, 7 * epoch + 5, 4))
    assert across == shown[5:] + epoch_order(7, seed, epoch + 1)[:2].tolist()


def numbered_dataset(tmp_path_factory):
    """Seven images, image i of the value i throughout."""
    path = tmp_path_factory.getbasetemp() / "numbered"
    if not path.is_dir():
        write_dataset(path, np.ones([7, 4, 4, 1], np.uint8) * np.arange(7, dtype=np.uint8)[:, None, None, None])
    return Dataset(str(path))


def numbers(images):
    assert (images == images[:, :1, :1]).all()
    return images[:, 0, 0, 0].tolist()


def test_a_resolution_below_the_full_one_can_be_trained_on(path):
    dataset = Dataset(path)
    small, full = dataset.minibatch(4, 3, 11, 5), dataset.minibatch(8, 3, 11, 5)
    assert small.shape == (5, 4, 4, 3)
    averages = full.reshape(5, 4, 2, 4, 2, 3).mean((2, 4))
    np.testing.assert_array_equal(small, np.rint(averages))


# ----------------------------------------------------------------------------------------------------------------------
# What is missing or broken


def refusal(path, action=lambda dataset: None):
    with pytest.raises(DataError) as error:
        action(Dataset(str(path)))
    message = str(error.value)
    assert "\n" not in message and str(path) in message
    return message


def test_a_missing_level_is_named(path):
    os.remove(os.path.join(path, "tiny-r02.tfrecords"))
    assert "tiny-r02.tfrecords: no such file" in refusal(path)


def test_a_resolution_beyond_the_full_one_is_refused(path):
    assert "no images of 16x16 (there are: 4, 8)" in refusal(path, lambda dataset: dataset.minibatch(16, 0, 0, 1))


def test_a_directory_without_records_is_refused(tmp_path):
    assert "no dataset" in refusal(tmp_path)


def test_two_datasets_in_one_directory_are_refused(path, tmp_path):
    for name, content in contents(path).items():
        (tmp_path / "tiny" / name.replace("tiny", "other")).write_bytes(content)
    assert "several datasets (other, tiny)" in refusal(path)


@pytest.mark.parametrize("level, resolution", [("r03", 8), ("r02", 4)])
def test_a_truncated_record_is_named(path, level, resolution):
    file = os.path.join(path, "tiny-%s.tfrecords" % level)
    with open(file, "r+b") as stream:
        stream.truncate(os.path.getsize(file) - 5)
    message = refusal(path, lambda dataset: dataset.images(resolution, [0]))
    assert file in message and "record 6 is truncated" in message


def test_a_corrupt_record_is_named_when_it_is_read(path):
    file = os.path.join(path, "tiny-r03.tfrecords")
    with open(file, "r+b") as stream:
        stream.seek(3 * os.path.getsize(file) // 7 - 20)
        stream.write(b"X")
    dataset = Dataset(path)
    dataset.images(8, [0, 1, 3, 4, 5, 6])
    assert "tiny-r03.tfrecords: record 2 is corrupt" in refusal(path, lambda dataset: dataset.images(8, range(7)))


def test_a_record_that_is_no_image_is_named(path):
    with open(os.path.join(path, "tiny-r02.tfrecords"), "wb") as stream:
        stream.write(record(b"\x0a\x00") * 7)
    assert "record 1 is not an image" in refusal(path, lambda dataset: dataset.images(4, [1]))


def test_mixed_channel_counts_are_named(path):
    with open(os.path.join(path, "tiny-r03.tfrecords"), "ab") as stream:
        stream.write(record(encode_image(np.zeros([8, 8, 1], np.uint8))))
    with open(os.path.join(path, "tiny-r02.tfrecords"), "ab") as stream:
        stream.write(record(encode_image(np.zeros([4, 4, 1], np.uint8))))
    for name in ("tiny-factors.npy", "tiny-factors.json"):
        os.remove(os.path.join(path, name))
    assert "record 7 is an image of 8x8x1, not of 8x8x3" in refusal(path, lambda dataset: dataset.images(8, [7]))


def test_images_of_two_channels_are_refused(tmp_path):
    with open(str(tmp_path / "two-r02.tfrecords"), "wb") as stream:
        stream.write(record(encode_image(np.zeros([4, 4, 2], np.uint8))))
    assert "2 channels; 1 or 3" in refusal(tmp_path)


def test_an_empty_dataset_is_refused(tmp_path):
    (tmp_path / "none-r02.tfrecords").write_bytes(b"")
    assert "holds no image" in refusal(tmp_path)


def test_levels_of_different_lengths_are_named(path):
    with open(os.path.join(path, "tiny-r02.tfrecords"), "ab") as stream:
        stream.write(record(encode_image(np.zeros([4, 4, 3], np.uint8))))
    message = refusal(path, lambda dataset: dataset.images(4, [0]))
    assert "tiny-r02.tfrecords: holds 8 images, but tiny-r03.tfrecords holds 7" in message


@pytest.mark.parametrize(
    "factors, words",
    [
        (np.zeros([6, 1], np.float32), "7 images"),
        (np.zeros([7], np.float32), "7 images"),
        (np.zeros([7, 1], np.int64), "float32"),
        (np.full([7, 1], np.nan, np.float32), "finite"),
        (np.zeros([7, 2], np.float32), "describe the 2 factors"),
    ],
)
def test_factors_that_do_not_fit_are_refused(path, factors, words):
    np.save(os.path.join(path, "tiny-factors.npy"), factors)
    message = refusal(path)
    assert words in message and "tiny-factors." in message


@pytest.mark.parametrize(
    "info",
    [
        {},
        [],
        ["position"],
        [{"name": "position"}],
        [{"name": "position", "kind": "continuous"}],
        [{"name": "position", "kind": "continuous", "range": [1]}],
        [{"name": "position", "kind": "continuous", "range": ["a", "b"]}],
        [{"name": "position", "kind": "categorical", "range": [0, 1]}],
        [{"name": "position", "kind": "categorical", "values": 3}],
    ],
)
def test_a_description_that_does_not_fit_is_refused(path, info):
    with open(os.path.join(path, "tiny-factors.json"), "w") as stream:
        json.dump(info, stream)
    assert "tiny-factors.json: does not describe" in refusal(path)


def test_unreadable_factors_are_refused(path):
    with open(os.path.join(path, "tiny-factors.npy"), "r+b") as stream:
        stream.truncate(70)
    assert "tiny-factors.npy: not a readable .npy file" in refusal(path)
    np.save(os.path.join(path, "tiny-factors.npy"), np.array([None] * 7), allow_pickle=True)
    assert "tiny-factors.npy: not a readable .npy file" in refusal(path)  # pickled objects are never loaded
    np.save(os.path.join(path, "tiny-factors.npy"), np.zeros([7, 1], np.float32))
    os.remove(os.path.join(path, "tiny-factors.json"))
    assert "tiny-factors.json: no such file" in refusal(path)

"""Writing datasets: the smaller resolutions, all or nothing, and going on after a crash."""

import errno
import os
import signal

import numpy as np
import pytest
from data_helpers import contents, random_images, write_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from experiment_utils.datasets import Dataset
from experiment_utils.errors import DataError
from progan.data.writer import DatasetWriter, ResumableWriter, pyramid

SETTINGS = {"command": "test", "seed": 1}


@settings(max_examples=30)
@given(st.integers(2, 6), st.sampled_from([1, 3]), st.integers(0, 1000))
def test_smaller_images_are_rounded_averages_of_the_full_one(log2, channels, seed):
    """Against integer arithmetic on the full image: the mean of a block, rounded half to even."""
    image = random_images(1, 2**log2, channels, seed)[0]
    levels = list(pyramid(image))
    assert [len(level) for level in levels] == [2**each for each in range(log2, 1, -1)]
    for level in levels:
        side = len(image) // len(level)
        total = image.astype(int).reshape(len(level), side, len(level), side, channels).sum((1, 3))
        quotient, remainder = np.divmod(total, side**2)
        up = (2 * remainder > side**2) | ((2 * remainder == side**2) & (quotient % 2 == 1))
        assert level.dtype == np.uint8
        np.testing.assert_array_equal(level, quotient + up)


def test_a_dataset_is_all_its_files_and_nothing_else(tmp_path):
    write_dataset(tmp_path / "a", random_images(3, 16), np.zeros([3, 1]), [{"name": "x"}], labels=True)
    assert os.listdir(str(tmp_path)) == ["a"]
    levels = ["a-r02.tfrecords", "a-r03.tfrecords", "a-r04.tfrecords"]
    assert sorted(contents(tmp_path / "a")) == ["a-factors.json", "a-factors.npy", *levels, "a-rxx.labels"]
    labels = np.load(str(tmp_path / "a" / "a-rxx.labels"))
    assert labels.dtype == np.float32 and labels.shape == (3, 1)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_nothing(tmp_path, error):
    with pytest.raises(error):
        with DatasetWriter(str(tmp_path / "a"), 8, 3) as writer:
            writer.add(random_images(1, 8)[0])
            raise error
    assert os.listdir(str(tmp_path)) == []


def test_leaving_without_finish_leaves_nothing(tmp_path):
    with DatasetWriter(str(tmp_path / "a"), 8, 3) as writer:
        writer.add(random_images(1, 8)[0])
    assert os.listdir(str(tmp_path)) == []


def test_an_existing_dataset_is_not_replaced_unasked(tmp_path):
    path = write_dataset(tmp_path / "a", random_images(3, 8))
    before = contents(path)
    with pytest.raises(DataError, match=r"exists already.*--overwrite"):
        write_dataset(path, random_images(2, 8))
    assert contents(path) == before and os.listdir(str(tmp_path)) == ["a"]


def test_overwriting_replaces_the_whole_dataset_only_when_the_new_one_is_complete(tmp_path):
    path = write_dataset(tmp_path / "a", random_images(3, 16))
    before = contents(path)
    with DatasetWriter(path, 8, 3, overwrite=True) as writer:
        writer.add(random_images(1, 8, seed=5)[0])
        assert contents(path) == before
        writer.finish()
    assert os.listdir(str(tmp_path)) == ["a"]
    dataset = Dataset(path)
    assert len(dataset) == 1 and dataset.resolutions == [4, 8]


def test_what_is_no_dataset_is_never_replaced(tmp_path):
    path = write_dataset(tmp_path / "a", random_images(3, 8))
    (tmp_path / "a" / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match=r"holds thesis\.tex"):
        with DatasetWriter(path, 8, 3, overwrite=True):
            pass
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="is a file"):
        with DatasetWriter(str(tmp_path / "file"), 8, 3, overwrite=True):
            pass


def test_an_empty_directory_becomes_the_dataset(tmp_path):
    (tmp_path / "a").mkdir()
    assert len(Dataset(write_dataset(tmp_path / "a", random_images(2, 8)))) == 2


@pytest.mark.parametrize("count", [3, 300])  # noticed when the files are closed, or while images are added
@pytest.mark.parametrize("Writer, settings", [(DatasetWriter, {}), (ResumableWriter, {"settings": SETTINGS})])
def test_a_full_disk_names_the_dataset_and_keeps_the_old_one(tmp_path, Writer, settings, count):
    """/dev/full is a disk without space: the refusal is the operating system's own."""
    path = write_dataset(tmp_path / "a", random_images(3, 8))
    before = contents(path)
    with pytest.raises(OSError) as error:
        with Writer(path, 8, 3, overwrite=True, **settings) as writer:
            writer._streams[0].close()
            writer._streams[0] = open("/dev/full", "wb")
            for image in random_images(count, 8):
                writer.add(image)
            writer.finish()
    assert error.value.errno == errno.ENOSPC and error.value.filename == path
    assert contents(path) == before


def test_an_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    out = str(tmp_path / "file" / "a")
    with pytest.raises(OSError) as error:
        with DatasetWriter(out, 8, 3):
            pass
    assert error.value.filename == out


# ----------------------------------------------------------------------------------------------------------------------
# Going on after a crash


def crash_after(path, images, count):
    """Leave what a killed writer leaves: `count` images, the files not closed properly, the lock gone with it."""
    writer = ResumableWriter(str(path), 8, 3, SETTINGS)
    writer.__enter__()
    for image in images[:count]:
        writer.add(image)
    writer.__exit__(None)


def go_on(path, images, **keywords):
    with ResumableWriter(str(path), 8, 3, keywords.pop("settings", SETTINGS), **keywords) as writer:
        found = writer.count
        for image in images[found:]:
            writer.add(image)
        writer.finish()
    return found


@settings(max_examples=25)
@given(st.integers(0, 6), st.lists(st.integers(0, 300), min_size=2, max_size=2))
def test_interrupted_work_goes_on_to_the_same_bytes(tmp_path_factory, count, torn):
    """Whatever each file lost at its end, within a record or between two."""
    directory = tmp_path_factory.mktemp("resume")
    images = random_images(6, 8)
    whole = contents(write_dataset(directory / "whole" / "a", images))
    out = directory / "cut" / "a"
    crash_after(out, images, count)
    for name, bytes_lost in zip(("a-r02.tfrecords", "a-r03.tfrecords"), torn):
        with open(str(directory / "cut" / "a.partial" / name), "r+b") as stream:
            stream.truncate(max(0, os.fstat(stream.fileno()).st_size - bytes_lost))
    assert go_on(out, images) <= count
    assert contents(out) == whole and os.listdir(str(directory / "cut")) == ["a"]


def test_nothing_is_done_twice(tmp_path):
    images = random_images(6, 8)
    crash_after(tmp_path / "a", images, 4)
    assert go_on(tmp_path / "a", images) == 4


def test_a_garbled_record_and_what_follows_is_written_again(tmp_path):
    images = random_images(6, 8)
    whole = contents(write_dataset(tmp_path / "whole" / "a", images))
    crash_after(tmp_path / "a", images, 5)
    file = tmp_path / "a.partial" / "a-r03.tfrecords"
    content = bytearray(file.read_bytes())
    content[len(content) // 5 * 2 + 40] ^= 1
    file.write_bytes(bytes(content))
    assert go_on(tmp_path / "a", images) == 2
    assert contents(tmp_path / "a") == whole


@pytest.mark.parametrize("count", [0, 6])
def test_a_kill_before_the_first_image_or_after_the_last_does_no_harm(tmp_path, monkeypatch, count):
    """Left behind are then a part of the settings, or everything but the final name."""
    images = random_images(6, 8)
    whole = contents(write_dataset(tmp_path / "whole" / "a", images))
    out = tmp_path / "cut" / "a"
    (tmp_path / "cut" / "a.partial").mkdir(parents=True)
    (tmp_path / "cut" / "a.partial" / ".settings.json.x.part").write_text('{"comm')
    if count:
        monkeypatch.setattr(os, "rename", lambda *paths: os.kill(os.getpid(), signal.SIGKILL))
        pid = os.fork()
        if not pid:
            go_on(out, images)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL
        monkeypatch.undo()
    assert go_on(out, images) == count
    assert contents(out) == whole


def test_work_of_other_settings_is_refused_until_it_is_thrown_away(tmp_path):
    images = random_images(6, 8)
    crash_after(tmp_path / "a", images, 4)
    other = dict(SETTINGS, seed=2)
    with pytest.raises(DataError, match=r"a\.partial: .*seed 1, not 2.*--restart"):
        go_on(tmp_path / "a", images, settings=other)
    assert go_on(tmp_path / "a", images, settings=other, restart=True) == 0


def test_two_writers_do_not_mix(tmp_path):
    with ResumableWriter(str(tmp_path / "a"), 8, 3, SETTINGS) as writer:
        for restart in (False, True):
            with pytest.raises(DataError, match="another process is at work"):
                go_on(tmp_path / "a", random_images(2, 8), restart=restart)
        for image in random_images(6, 8):
            writer.add(image)
        writer.finish()
    assert len(Dataset(str(tmp_path / "a"))) == 6

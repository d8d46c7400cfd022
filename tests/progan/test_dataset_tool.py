"""`dataset_tool.py` as its user meets it: info, verify, extract, help, and refusals in one line with exit status 2."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from data_helpers import TOOL, assert_refused, dataset_tool, random_images, run_tool, write_dataset
from PIL import Image

from experiment_utils.tfrecords import RecordFile, decode_image, encode_image, record

FACTORS = [
    {"name": "position", "kind": "continuous", "range": [-1, 1]},
    {"name": "colour", "kind": "categorical", "values": ["red", "blue"]},
]


@pytest.fixture
def path(tmp_path):
    factors = np.array([[-0.5, 0], [0.25, 1], [0.75, 1]])
    return write_dataset(tmp_path / "tiny", random_images(3, 16), factors, FACTORS, labels=True)


def rewrite(path, level, index, image):
    """Replace one record of a level by that of another image."""
    file = os.path.join(path, "tiny-%s.tfrecords" % level)
    with RecordFile(file) as records:
        payloads = list(records)
    payloads[index] = encode_image(image)
    with open(file, "wb") as stream:
        stream.writelines(map(record, payloads))


def test_info_says_what_a_dataset_holds(path, tmp_path):
    status, out, err = run_tool("info", "tiny", "--data_dir", tmp_path)
    assert (status, err) == (0, "")
    words = [line.split() for line in out.splitlines()]
    assert ["name", "tiny"] in words and ["images", "3"] in words and ["channels", "3"] in words
    size = os.path.getsize(os.path.join(path, "tiny-r04.tfrecords"))
    assert ["16x16", str(size), "bytes"] in words
    assert "position     -1 to 1 (found: -0.500 to 0.750)" in out
    assert "colour       red 1, blue 2" in out


def test_info_on_a_dataset_without_factors(tmp_path):
    out = run_tool("info", write_dataset(tmp_path / "a", random_images(2, 4, 1)))[1]
    assert "channels     1" in out and "factors      not known" in out


def test_verify_is_content_with_what_we_write(path):
    status, out, _ = run_tool("verify", path)
    assert status == 0 and "3 images at 4, 8, 16 px are whole and agree" in out


def test_verify_allows_another_rounding_and_no_more(path):
    with RecordFile(os.path.join(path, "tiny-r02.tfrecords")) as records:
        small = decode_image(records[1]).astype(int)
    other = np.where(small > 127, small - 1, small + 1).astype(np.uint8)
    rewrite(path, "r02", 1, other)
    assert run_tool("verify", path)[0] == 0
    other[2, 3, 0] += 3
    rewrite(path, "r02", 1, other)
    assert_refused(run_tool("verify", path), "tiny-r02.tfrecords", "record 1 differs by")


def test_verify_names_a_corrupt_record(path):
    file = os.path.join(path, "tiny-r03.tfrecords")
    with open(file, "r+b") as stream:
        stream.seek(-30, os.SEEK_END)
        stream.write(b"??")
    assert_refused(run_tool("verify", path), file, "record 2 is corrupt")


def test_verify_names_a_record_of_the_wrong_size(path):
    rewrite(path, "r03", 1, np.zeros([4, 4, 3], np.uint8))
    assert_refused(run_tool("verify", path), "tiny-r03.tfrecords: record 1 is an image of 4x4x3, not of 8x8x3")


@pytest.mark.parametrize(
    "row, column, value, name", [(1, 0, 1.5, "position"), (2, 1, 2, "colour"), (0, 1, 0.5, "colour")]
)
def test_verify_names_a_factor_out_of_its_range(path, row, column, value, name):
    file = os.path.join(path, "tiny-factors.npy")
    factors = np.load(file)
    factors[row, column] = value
    np.save(file, factors)
    assert_refused(run_tool("verify", path), file, "%s of image %d is %g" % (name, row, value))


def test_verify_counts_the_labels(path):
    with open(os.path.join(path, "tiny-rxx.labels"), "wb") as stream:
        np.save(stream, np.zeros([2, 2], np.float32))
    assert_refused(run_tool("verify", path), "tiny-rxx.labels", "[2, 2] labels for 3 images")


@pytest.mark.parametrize("channels", [1, 3])
def test_extract_gives_the_images_back(tmp_path, channels):
    images = random_images(3, 16, channels)
    path = write_dataset(tmp_path / "tiny", images)
    assert run_tool("extract", path, tmp_path / "png")[0] == 0
    for index, image in enumerate(images):
        found = np.array(Image.open(str(tmp_path / "png" / ("%06d.png" % index))))
        np.testing.assert_array_equal(found, image.squeeze())
    assert run_tool("create_from_images", tmp_path / "again", tmp_path / "png")[0] == 0


def test_extract_some_at_a_lower_resolution(path, tmp_path):
    assert run_tool("extract", path, tmp_path / "png", "--resolution", 8, "--images", 2)[0] == 0
    assert sorted(os.listdir(str(tmp_path / "png"))) == ["000000.png", "000001.png"]
    assert Image.open(str(tmp_path / "png" / "000000.png")).size == (8, 8)


def test_extract_does_not_mix_with_what_is_there(path, tmp_path):
    assert_refused(run_tool("extract", path, tmp_path), tmp_path, "is not empty")


def test_extract_refuses_a_resolution_that_is_not_there(path, tmp_path):
    assert_refused(run_tool("extract", path, tmp_path / "png", "--resolution", 32), "no images of 32x32")
    assert not (tmp_path / "png").exists()


@pytest.mark.parametrize("command", ["info", "verify", "bundle"])
def test_a_dataset_that_does_not_exist(command, path, tmp_path):
    result = run_tool(command, "tyni", "--data_dir", tmp_path)
    assert_refused(result, "tyni: no such dataset", "tiny", "clevr_1fov_32")


def test_a_dataset_without_factors_cannot_be_bundled(tmp_path):
    path = write_dataset(tmp_path / "a", random_images(2, 4))
    assert_refused(run_tool("bundle", path, "--into", tmp_path / "b"), path, "factors")
    assert not (tmp_path / "b").exists()


def test_bundle_writes_an_archive(path, tmp_path):
    assert run_tool("bundle", path, "--into", tmp_path / "b")[0] == 0
    assert sorted(os.listdir(str(tmp_path / "b"))) == ["SHA256SUMS", "tiny.tar.xz"]


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], ["COMMAND"]),
        (["fly"], ["fly"]),
        (["verify"], ["DATASET"]),
        (["render_clevr", "x", "--variant", "2fov"], ["2fov"]),
        (["render_clevr", "x", "--images", "0"], ["--images 0", "greater than 0"]),
        (["render_clevr", "x", "--images", "many"], ["many"]),
        (["render_clevr", "x", "--resolution", "100"], ["--resolution 100", "power of two"]),
        (["render_clevr", "x", "--resolution", "2"], ["--resolution 2"]),
        (["render_clevr", "x", "--seed", "-1"], ["--seed -1"]),
        (["render_clevr", "x", "--workers", "0"], ["--workers 0"]),
        (["render_clevr", "x", "--samples", "30"], ["--samples 30", "25, 100, 225"]),
        (["render_clevr", "x", "--samples", "0"], ["--samples 0"]),
    ],
)
def test_mistakes_on_the_command_line(arguments, words):
    assert_refused(run_tool(*arguments), *words)


@pytest.mark.parametrize(
    "command",
    ["render_clevr", "create_from_images", "create_edges_and_shoes", "info", "verify", "extract", "bundle"],
)
def test_every_command_shows_a_worked_example_that_parses(command, monkeypatch):
    out = run_tool(command, "--help")[1]
    example = out.split("example:\n")[1].split()
    assert example[:2] == ["dataset_tool.py", command]
    ran = []
    monkeypatch.setattr(dataset_tool, command, lambda arguments, options: ran.append(options))
    monkeypatch.setattr(getattr(dataset_tool, command), "__name__", command)
    dataset_tool.main(example[1:])
    assert len(ran) == 1


def test_the_command_runs_from_anywhere(path, tmp_path):
    """The real thing, as a process: exit status, one line, no traceback."""
    run = {"cwd": str(tmp_path), "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "universal_newlines": True}
    good = subprocess.run([sys.executable, TOOL, "info", "tiny", "--data_dir", "."], **run)
    assert good.returncode == 0 and "images       3" in good.stdout
    bad = subprocess.run([sys.executable, TOOL, "info", "tyni"], **run)
    assert bad.returncode == 2 and bad.stderr.count("\n") == 1
    assert bad.stderr.startswith("dataset_tool.py: error: tyni: no such dataset")


def test_factor_descriptions_are_plain_json(path):
    with open(os.path.join(path, "tiny-factors.json")) as stream:
        assert json.load(stream) == FACTORS

"""Files are whole or absent, and what is read back is what was written."""

import errno
import json
import os
import stat
import struct

import numpy as np
import pytest

from experiment_utils import files
from experiment_utils.errors import SnapshotError, UserError
from experiment_utils.files import atomic_write, load_metadata, load_tensors, read_json, save_tensors, write_json


def write(path, content):
    with atomic_write(str(path)) as stream:
        stream.write(content)


def test_atomic_write_makes_directories_and_replaces(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    write(path, b"old")
    write(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(str(path.parent)) == ["file"]


def test_the_name_is_not_taken_before_the_block_ends(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with atomic_write(str(path)) as stream:
        stream.write(b"new")
        stream.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyboardInterrupt(), OSError(errno.EIO, "I/O error")])
def test_an_exception_leaves_the_old_file_and_no_temporary_one(tmp_path, error):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(type(error)), atomic_write(str(path)) as stream:
        stream.write(b"half")
        raise error
    assert path.read_bytes() == b"old"
    assert os.listdir(str(tmp_path)) == ["file"]


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_names_it(tmp_path, monkeypatch, function):
    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(files.os, function, refuse)
    with pytest.raises(OSError) as caught:
        write(path, b"new")
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(path)
    assert path.read_bytes() == b"old" and os.listdir(str(tmp_path)) == ["file"]


def test_the_content_reaches_the_disk_before_the_name(tmp_path, monkeypatch):
    """fsync of the file, rename, fsync of the directory: in another order a power cut could leave an empty file."""
    calls = []
    for name in ("fsync", "replace"):
        original = getattr(os, name)

        def recorded(*arguments, _name=name, _original=original):
            is_directory = _name == "fsync" and stat.S_ISDIR(os.fstat(arguments[0]).st_mode)
            calls.append("fsync directory" if is_directory else _name)
            return _original(*arguments)

        monkeypatch.setattr(files.os, name, recorded)
    write(tmp_path / "file", b"new")
    assert calls == ["fsync", "replace", "fsync directory"]


@pytest.mark.parametrize("mask, expected", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_are_those_of_any_other_file(tmp_path, mask, expected):
    previous = os.umask(mask)
    try:
        write(tmp_path / "file", b"")
        assert os.umask(mask) == mask  # which reading it has not changed
    finally:
        os.umask(previous)
    assert stat.S_IMODE(os.stat(str(tmp_path / "file")).st_mode) == expected


def test_text_is_utf_8(tmp_path):
    with atomic_write(str(tmp_path / "file"), "w") as stream:
        stream.write("ε²")
    assert (tmp_path / "file").read_bytes() == "ε²".encode()


def test_a_directory_that_is_a_file_is_an_os_error_with_the_path(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError) as caught:
        write(tmp_path / "file" / "below", b"")
    assert caught.value.filename == str(tmp_path / "file" / "below")


def test_numbers_that_json_has_not_become_null(tmp_path):
    path = tmp_path / "value.json"
    write_json(path, {"a": [float("nan"), (1.5, float("-inf"))], "b": np.float64("inf"), "c": "nan"})
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == {"a": [None, [1.5, None]], "b": None, "c": "nan"}


def test_json_round_trip(tmp_path):
    value = {"a": [1, 2.5, None, True], "ε": {"b": "x"}}
    write_json(str(tmp_path / "value.json"), value)
    assert read_json(str(tmp_path / "value.json")) == value
    assert (tmp_path / "value.json").read_text(encoding="utf-8").endswith("}\n")


@pytest.mark.parametrize(
    "content, said",
    [(None, "no such file"), (b"{", "not valid JSON"), (b"\xff\xfe", "not valid"), (b"[" * 99999, "not valid JSON")],
)
def test_unreadable_json_names_the_file(tmp_path, content, said):
    path = tmp_path / "value.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SnapshotError) as caught:
        read_json(str(path), SnapshotError)
    assert str(path) in str(caught.value) and said in str(caught.value)


# ----------------------------------------------------------------------------------------------------------------------
# Tensors


def parse_safetensors(path):
    """Return ({name: array}, {metadata}) of a safetensors file, by its published layout."""
    with open(str(path), "rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length).decode("utf-8"))
        data = stream.read()
    metadata = header.pop("__metadata__")
    dtypes = {"F32": "<f4", "I64": "<i8"}
    arrays = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        arrays[name] = np.frombuffer(data[begin:end], dtypes[entry["dtype"]]).reshape(entry["shape"])
    return arrays, metadata


def test_tensors_round_trip_and_stand_in_the_published_layout(tmp_path):
    rng = np.random.RandomState(0)
    tensors = {
        "a/b": rng.standard_normal([3, 4]).astype(np.float32),
        "not contiguous": rng.standard_normal([3, 4]).astype(np.float32).T,
        "scalar": np.float32(2.5).reshape([]),
        "whole": np.arange(5),
    }
    path = str(tmp_path / "x.safetensors")
    save_tensors(path, tensors, {"kimg": 0.1, "list": [1, None]})
    loaded, metadata = load_tensors(path)
    parsed, header = parse_safetensors(path)
    assert metadata == load_metadata(path) == json.loads(header["json"]) == {"kimg": 0.1, "list": [1, None]}
    for found in (loaded, parsed):
        assert set(found) == set(tensors)
        for name, array in tensors.items():
            assert found[name].dtype == array.dtype and found[name].shape == array.shape
            np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("load", [load_tensors, load_metadata])
def test_unreadable_tensors_name_the_file(tmp_path, load):
    path = str(tmp_path / "x.safetensors")

    def refused():
        with pytest.raises(SnapshotError) as caught:
            load(path, SnapshotError)
        assert path in str(caught.value)
        return str(caught.value)

    assert "no such file" in refused()
    save_tensors(path, {"a": np.zeros(100, np.float32)}, {})
    with open(path, "rb") as stream:
        whole = stream.read()
    for length in (0, 5, 40, len(whole) - 1):
        with open(path, "wb") as stream:
            stream.write(whole[:length])
        assert "not a readable safetensors file" in refused()
    with open(path, "wb") as stream:
        stream.write(b"\x80\x04pickled nonsense")
    assert "not a readable safetensors file" in refused()


def test_tensors_of_another_program_are_refused(tmp_path):
    from safetensors.numpy import save_file

    path = str(tmp_path / "x.safetensors")
    save_file({"a": np.zeros(3, np.float32)}, path)
    with pytest.raises(UserError, match="not one that this project wrote"):
        load_tensors(path)
    save_file({"a": np.zeros(3, np.float32)}, path, metadata={"json": "{"})
    with pytest.raises(UserError, match="metadata is not valid JSON"):
        load_tensors(path)

"""Files that are either whole or absent: temporary name in the same directory, fsync, rename."""

import contextlib
import json
import math
import os
import tempfile

import numpy as np
import safetensors
import safetensors.numpy

from experiment_utils.errors import UserError


@contextlib.contextmanager
def atomic_write(path, mode="wb"):
    """Open a file that takes the name `path` only when the block ends well.

    Whatever stood under `path` stays untouched until then. Missing directories are made. Raises OSError where the
    operating system refuses, with `path` as its filename.
    """
    path = os.fspath(path)
    directory = os.path.dirname(os.path.abspath(path))
    temporary = None
    try:
        os.makedirs(directory, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=".%s." % os.path.basename(path), suffix=".part", dir=directory)
        with os.fdopen(descriptor, mode, **({} if "b" in mode else {"encoding": "utf-8"})) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp gives 0600; a saved file should be as readable as any other
        os.replace(temporary, path)
        _fsync_directory(directory)
    except OSError as error:
        _remove(temporary)
        error.filename = path
        raise
    except BaseException:
        _remove(temporary)
        raise


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _remove(path):
    if path is not None and os.path.exists(path):
        os.remove(path)


def _fsync_directory(directory):
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path, value):
    """Write `value` as indented JSON, atomically. Numbers that are not finite, which JSON has not, become null."""
    with atomic_write(path, "w") as stream:
        json.dump(_finite(value), stream, indent=2, sort_keys=False, allow_nan=False)
        stream.write("\n")


def _finite(value):
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path, error=UserError):
    """Return what a JSON file holds; raise `error` (a UserError) where it is missing or is no JSON."""
    try:
        with open(os.fspath(path), encoding="utf-8") as stream:
            return json.load(stream)
    except FileNotFoundError:
        raise error("%s: no such file" % path) from None
    except (ValueError, RecursionError) as problem:
        raise error("%s: not valid JSON (%s)" % (path, problem)) from None


def save_tensors(path, tensors, metadata):
    """Save {name: NumPy array} as safetensors, atomically. `metadata` is a JSON value, kept in the file's header."""
    tensors = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    payload = safetensors.numpy.save(tensors, metadata={"json": json.dumps(metadata)})
    with atomic_write(path) as stream:
        stream.write(payload)


def load_tensors(path, error=UserError):
    """Return ({name: NumPy array}, metadata) of a file that `save_tensors` wrote. Nothing in it is executed.

    Raises `error` (a UserError) where the file is missing, truncated, or of another kind.
    """
    with _open_tensors(path, error) as stream:
        return {name: stream.get_tensor(name) for name in stream.keys()}, _metadata(path, stream, error)


def load_metadata(path, error=UserError):
    """Return the metadata of a file that `save_tensors` wrote, without reading its arrays."""
    with _open_tensors(path, error) as stream:
        return _metadata(path, stream, error)


@contextlib.contextmanager
def _open_tensors(path, error):
    if not os.path.isfile(os.fspath(path)):
        raise error("%s: no such file" % path)
    try:
        with safetensors.safe_open(os.fspath(path), framework="numpy") as stream:
            yield stream
    except safetensors.SafetensorError as problem:
        raise error("%s: not a readable safetensors file (%s)" % (path, problem)) from None


def _metadata(path, stream, error):
    header = stream.metadata() or {}
    if "json" not in header:
        raise error("%s: a safetensors file, but not one that this project wrote" % path)
    try:
        return json.loads(header["json"])
    except ValueError as problem:
        raise error("%s: its metadata is not valid JSON (%s)" % (path, problem)) from None

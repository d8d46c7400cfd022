"""What the tests of the data share: small datasets, and `dataset_tool.py` called as a command."""

import contextlib
import importlib.util
import io
import os

import numpy as np

from experiment_utils.errors import run_command
from progan.data.writer import DatasetWriter

TOOL = os.path.join(os.path.dirname(__file__), "..", "..", "progan_experiments", "dataset_tool.py")

_spec = importlib.util.spec_from_file_location("dataset_tool", TOOL)
dataset_tool = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(dataset_tool)


def run_tool(*arguments):
    """Run dataset_tool.py in this process; return (exit status, standard output, standard error)."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            run_command(lambda: dataset_tool.main([str(argument) for argument in arguments]))
        except SystemExit as end:
            return end.code or 0, out.getvalue(), err.getvalue()
    raise AssertionError("run_command returned")


def assert_refused(result, *words):
    """Assert exit status 2 and one line on standard error that holds all of `words`, and no traceback."""
    status, _, err = result
    lines = [line for line in err.split("\n") if line.strip() and "img/s]" not in line]  # the progress bar ends its own
    assert status == 2 and len(lines) == 1 and "error: " in lines[0], result
    for word in words:
        assert str(word) in lines[0], lines[0]


def random_images(count, resolution, channels=3, seed=0):
    shape = [count, resolution, resolution, channels]
    return np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8)


def write_dataset(path, images, factors=None, factor_info=None, **options):
    with DatasetWriter(str(path), images.shape[1], images.shape[3]) as writer:
        for image in images:
            writer.add(image)
        writer.finish(factors, factor_info, **options)
    return str(path)


def contents(directory):
    """Return {name: bytes} of a directory."""
    return {name: open(os.path.join(str(directory), name), "rb").read() for name in os.listdir(str(directory))}

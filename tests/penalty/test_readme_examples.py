"""The README's examples of adding the penalty to one's own code are short, and run as they stand."""

import os
import re
import subprocess
import sys

import pytest
import tensorflow as tf

README = os.path.join(os.path.dirname(__file__), "..", "..", "README.md")


def python_blocks():
    with open(README, encoding="utf-8") as file:
        section = re.search("<!-- penalty examples -->(.*)<!-- /penalty examples -->", file.read(), re.DOTALL)
    return re.findall(r"^```python\n(.*?)^```", section.group(1), re.DOTALL | re.MULTILINE)


def runs_here(block):
    if "import jax" in block:
        return sys.version_info >= (3, 11)  # the portable file for JAX is for these
    return tf.__version__ >= "2" or "keras" not in block


def test_there_is_an_example_for_each_way_in():
    imports = [re.search(r"^import (.*)$", block, re.MULTILINE).group(1) for block in python_blocks()]
    assert imports == ["torch", "tensorflow as tf", "tensorflow.compat.v1 as tf", "jax", "numpy as np"]
    assert all(sum(map(bool, block.splitlines())) < 15 for block in python_blocks())


@pytest.mark.parametrize("block", list(filter(runs_here, python_blocks())), ids=lambda block: block.split()[1])
def test_example_runs(block, tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", block]
    finished = subprocess.run(command, cwd=str(tmp_path), capture_output=True)
    assert finished.returncode == 0, finished.stderr.decode()
    if "print" in block:
        coupled, alone = map(float, finished.stdout.split())
        assert coupled == pytest.approx(4, abs=0.5)
        assert alone == pytest.approx(0, abs=1e-9)

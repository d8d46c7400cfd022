"""The README's examples of adding the penalty to one's own code are short, and run as they stand."""

import os
import re
import subprocess
import sys

import pytest
import tensorflow as tf

README = os.path.join(os.path.dirname(__file__), "..", "..", "README.md")


def python_blocks(section="<!-- penalty examples -->(.*)<!-- /penalty examples -->"):
    with open(README, encoding="utf-8") as file:
        section = re.search(section, file.read(), re.DOTALL)
    return re.findall(r"^```python\n(.*?)^```", section.group(1), re.DOTALL | re.MULTILINE)


def run(block, directory):
    command = [sys.executable, "-W", "ignore", "-c", block]
    finished = subprocess.run(
        command, cwd=str(directory), env=dict(os.environ, PYTHONIOENCODING="utf-8"), capture_output=True
    )
    assert finished.returncode == 0, finished.stderr.decode()
    return finished.stdout.decode("utf-8")


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
    output = run(block, tmp_path)
    if "print" in block:
        coupled, alone = map(float, output.split())
        assert coupled == pytest.approx(4, abs=0.5)
        assert alone == pytest.approx(0, abs=1e-9)


def test_the_example_beside_the_penalty_tells_shrunk_from_diagonal(tmp_path):
    (block,) = python_blocks("### OroJaR.*?\n(.*?)\n### ")
    lines = [re.findall(r"[-+.e\d]*\d", line) for line in run(block, tmp_path).splitlines()]
    penalties, ratios, _, orojar = (list(map(float, column)) for column in zip(*lines))
    assert penalties[1] == pytest.approx(1e-4 * penalties[0], rel=0.5)
    assert ratios[1] == pytest.approx(ratios[0], rel=0.1)
    assert ratios[2] > 1000 * ratios[0] and penalties[2] < 1e-6
    assert orojar[2] > 1000 * orojar[0]

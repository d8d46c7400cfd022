"""A run that is killed and interrupted again and again ends bit for bit as one that nothing stopped."""

import glob
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from progan_helpers import read_scalars

from progan.snapshot import find_snapshot, load_snapshot, load_state

HERE = os.path.dirname(os.path.abspath(__file__))


class Runs:
    """What `resume_harness.py` left."""

    def __init__(self, out, log):
        with open(os.path.join(out, "endings.json")) as stream:
            self.endings = json.load(stream)
        self.log = log
        self.dirs = {}
        for name in ("whole", "stopped"):
            (self.dirs[name],) = glob.glob(os.path.join(out, name, "*"))
        self.snapshots = {name: load_snapshot(find_snapshot(path)) for name, path in self.dirs.items()}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data_dir):
    out = str(tmp_path_factory.mktemp("resume"))
    command = [sys.executable, os.path.join(HERE, "resume_harness.py"), data_dir, out]
    process = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.returncode == 0, process.stdout
    print(process.stdout)
    return Runs(out, process.stdout)


def test_every_process_ended_as_meant(runs):
    """130 and 143, as shells have it, after SIGINT and SIGTERM; -9: killed. The last one finished."""
    assert runs.endings["whole"] == [0]
    assert runs.endings["stopped"] == [130, -signal.SIGKILL, -signal.SIGKILL, 143, -signal.SIGKILL, 0]


def test_an_interrupted_run_says_in_one_line_how_to_go_on(runs):
    for number, kimg in ((2, 0.048), (15, 0.112)):
        (line,) = [line for line in runs.log.splitlines() if f"stopped by signal {number}" in line]
        assert line.startswith("train.py: stopped") and "network-snapshot-000000.safetensors" in line
        assert f"go on with: train.py --resume_exp 0 --results_dir {os.path.dirname(runs.dirs['stopped'])}" in line
        assert f"network-snapshot-000000.safetensors, {kimg} kimg" in runs.log  # where the next one took it up


def test_it_was_killed_in_the_middle_of_a_save(runs):
    """The half-saved files are gone now, and every state belongs to a snapshot."""
    left = [name for name in os.listdir(runs.dirs["stopped"]) if not name.startswith("events.")]
    whole = [name for name in os.listdir(runs.dirs["whole"]) if not name.startswith("events.")]
    assert sorted(left) == sorted(whole)
    starts = [line for line in runs.log.splitlines() if line.startswith("from ")]
    assert [line.split(", ")[-1] for line in starts[:3]] == ["0.048 kimg", "0.048 kimg", "0.096 kimg"]


def test_every_weight_is_the_same(runs):
    whole, stopped = runs.snapshots["whole"], runs.snapshots["stopped"]
    assert (stopped.images_shown, stopped.lod) == (whole.images_shown, whole.lod) == (192, 0)
    for net, weights in whole.networks.items():
        for name, value in weights.items():
            np.testing.assert_array_equal(stopped.networks[net][name], value, err_msg=f"{net}/{name} {runs.endings}")


def test_the_optimisers_and_counters_are_the_same(runs):
    (whole, counters), (stopped, stopped_counters) = (
        load_state(runs.dirs[name], runs.snapshots[name].state_name) for name in ("whole", "stopped")
    )
    assert stopped_counters == counters and counters["step"] == 48
    assert set(stopped) == set(whole) and any(name.endswith("beta2_power") for name in whole)
    for name, value in whole.items():
        np.testing.assert_array_equal(stopped[name], value, err_msg=f"{name} {runs.endings}")


def test_the_logged_values_are_the_same(runs):
    """As TensorBoard shows them: each report once, none lost, the values of the uninterrupted run."""
    whole, stopped = (read_scalars(runs.dirs[name]) for name in ("whole", "stopped"))
    assert list(whole["loss/G"]) == [32, 64, 96, 128, 160, 192]
    assert set(whole) == set(stopped)
    for tag in set(whole) - {"timing/seconds_per_kimg"}:
        assert stopped[tag] == whole[tag], (tag, runs.endings)


def test_the_run_passed_through_both_fade_ins(runs):
    assert list(read_scalars(runs.dirs["whole"])["progress/lod"].values()) == pytest.approx(
        [2 - 16 / 72, 2 - 48 / 72, 1 - 8 / 72, 1 - 40 / 72, 0, 0], abs=1e-6
    )

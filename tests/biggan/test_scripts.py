"""Every script of scripts/, run from another folder, with a tiny generator in place of the published one."""

import glob
import json
import os
import subprocess
import sys

import pytest
import torch
from biggan_helpers import BIGGAN_DISCOVERY, HERE, command_path, load_command

from biggan import directions

EXPERIMENTS = {  # as published: search space, class, path size to look at
    "goldens": ("all", 207, 2.5),
    "church": ("all", 497, 3.5),
    "coarse": ("coarse", None, 2.5),
    "mid": ("mid", None, 3.5),
    "fine": ("fine", None, 6),
}
FEW = ["--directions_to_vis", "0-1", "--steps", "3", "--format", "gif"]
TINY = ["--G_path", "planted:ImageNetLike", "--device", "cpu"]


LAUNCHER = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=4"]


def names(kind):
    paths = glob.glob(os.path.join(BIGGAN_DISCOVERY, "scripts", kind, "*.sh"))
    return sorted(os.path.basename(path)[:-3] for path in paths)


def run_script(folder, kind, name, *arguments, **variables):
    """Run a script in a folder, with environment variables."""
    script = os.path.join(BIGGAN_DISCOVERY, "scripts", kind, f"{name}.sh")
    environment = {key: text for key, text in os.environ.items() if key not in ("NPROC", "PYTHON")}
    environment.update(variables, OMP_NUM_THREADS="1")
    subprocess.run([script, *map(str, arguments)], cwd=str(folder), env=environment, check=True)


@pytest.fixture
def command_line(tmp_path, monkeypatch):
    """Run a script in tmp_path up to the command, and that in this process; return the words the command was given.

    The interpreter that the script finds in $PYTHON writes down its arguments. So PyTorch is imported once, not twenty
    times; that the lines work with a real interpreter, and with torchrun, is seen from one of each kind.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECORD", str(tmp_path / "words"))
    recorder = tmp_path / "python"
    recorder.write_text('#!/bin/sh\nprintf \'%s\\0\' "$@" > "$RECORD"\n')
    recorder.chmod(0o755)

    def run(kind, name, *arguments):
        run_script(tmp_path, kind, name, *arguments, PYTHON=str(recorder))
        words = (tmp_path / "words").read_text().split("\0")[:-1]
        if kind == "discover" and name != "bundled":
            assert words[: len(LAUNCHER)] == LAUNCHER
            words = words[len(LAUNCHER) :]
        command = {"discover": "discover", "visualize": "vis_directions"}[kind]
        assert os.path.samefile(words[0], command_path(command))
        load_command(command).main(words[1:])
        return words[1:]

    return run


def value(words, flag):
    """The value that a flag has in the end: the last one given."""
    return words[len(words) - 1 - words[::-1].index(flag) + 1]


def test_there_is_a_script_for_every_experiment():
    assert names("discover") == sorted([*EXPERIMENTS, "bundled"])
    assert names("visualize") == sorted([*EXPERIMENTS, "voynov", "bundled"])


@pytest.mark.parametrize("name", sorted(EXPERIMENTS))
def test_discover_then_visualize(command_line, tmp_path, name):
    """The script that looks finds what the script that discovers leaves after its 50 epochs."""
    space, fix_class, path_size = EXPERIMENTS[name]
    words = command_line("discover", name, *TINY, "--steps", 2, "--batch_size", 4)
    begin = words.index("--batch_size")
    assert words[begin : begin + 4] == ["--batch_size", "96", "--num_epochs", "50"]
    run_dir = tmp_path / "results" / name
    flags = json.loads((run_dir / "options.json").read_text())["flags"]
    assert (flags["search_space"], flags["fix_class"]) == (space, fix_class)
    A = directions.load(str(run_dir / "A_000002.pt"), directions.search_space(space, 120))
    assert len(A) == (120 if space == "all" else 40)
    (run_dir / "A_000002.pt").rename(run_dir / "A_050000.pt")
    words = command_line("visualize", name, *TINY, *FEW)
    assert (float(value(words, "--path_size")), value(words, "--load_A")) == (path_size, f"results/{name}/A_050000.pt")
    suffix = "" if fix_class is None else f"-class{fix_class}"
    assert os.listdir(str(tmp_path / "visualizations")) == [f"{name}-A_050000{suffix}-seed0.gif"]


def test_voynov(command_line, tmp_path):
    directions.save(str(tmp_path / "voynov.pt"), 2 * torch.randn(120, 120))
    words = command_line("visualize", "voynov", *TINY, *FEW)
    assert "--no_ortho" in words and value(words, "--n_samples") == "8" and value(words, "--path_size") == "8"
    assert os.listdir(str(tmp_path / "visualizations")) == ["voynov-seed0.gif"]


def test_the_bundled_generator(command_line, tmp_path):
    command_line("discover", "bundled", *TINY, "--steps", 2, "--batch_size", 4)
    assert (tmp_path / "results" / "bundled" / "A_000002.pt").exists()
    command_line("visualize", "bundled", *FEW)
    assert os.listdir(str(tmp_path / "visualizations")) == ["clevr_simple_32-seed0-seed0.gif"]


def test_with_torchrun_and_a_real_interpreter(tmp_path):
    """Also the number of GPUs from $NPROC, a folder with a space in its name, and an argument with one."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    variables = {"PYTHON": sys.executable, "PYTHONPATH": HERE, "NPROC": "1"}
    arguments = [*TINY, "--steps", 1, "--batch_size", 4, "--experiment_name", "a name"]
    run_script(folder, "discover", "mid", *arguments, **variables)
    A_path = os.path.join("results", "a name", "A_000001.pt")
    run_script(folder, "visualize", "mid", *TINY, *FEW, "--load_A", A_path, **variables)
    assert os.listdir(str(folder / "visualizations")) == ["a name-A_000001-seed0.gif"]

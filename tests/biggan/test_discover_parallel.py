"""Two processes on this machine, started by torchrun, against one."""

import os
import signal
import subprocess
import sys

import pytest
import torch
from biggan_helpers import command_path, load_command, run
from closeness import ROUNDED, assert_close
from patience import PATIENCE

from biggan import discovery
from biggan.biggan import Generator, GeneratorSpec

DISCOVER = load_command("discover")
FLAGS = "--G_path test_discover_parallel:interrupting --device cpu --batch_size 8 --steps 70 --save_every 10"


class Interrupting(Generator):
    """A tiny BigGAN. One of two processes gets SIGTERM in its 55th step."""

    passes = 0

    def forward(self, z, y):
        self.passes += z.grad_fn is not None  # z + wQ: two parts of the batch a step, four passes each
        if self.passes == 2 * 4 * 54 + 1 and os.environ.get("RANK") == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        return super().forward(z, y)


def interrupting():
    torch.manual_seed(0)
    generator = Interrupting(GeneratorSpec((8, 8, 8), num_classes=3, dim_z=9, shared_dim=4))
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.normal_()  # so that its images change with z
    return generator


@pytest.fixture(scope="module")
def torchrun(tmp_path_factory):
    """(results directory, torchrun's exit status, all that was printed) of discover.py in two processes."""
    folder = str(tmp_path_factory.mktemp("parallel"))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*launcher, command_path("discover"), *FLAGS.split()],
        env=dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=os.pathsep.join(sys.path)),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
    )
    return os.path.join(folder, "results"), done.returncode, done.stdout


@pytest.fixture
def single(tmp_path, capfd):
    """The directory of the same run in this process alone."""
    assert run("discover", DISCOVER, capfd, [*FLAGS.split(), "--results_dir", str(tmp_path)])[0] == 0
    return str(tmp_path / "discovery")


def load(folder, steps):
    return torch.load(discovery.A_path(folder, steps), weights_only=True)


def test_two_processes_with_half_the_batch_each_are_one(torchrun, single):
    """Of a network with ReLUs: there the last bit of a gradient decides which kinks are met, and soon everything."""
    results, _, _ = torchrun
    for steps in (10, 20, 30, 40, 50):
        assert_close(load(os.path.join(results, "discovery"), steps), load(single, steps), within=ROUNDED)
    assert (load(single, 50) - load(single, 10)).abs().max() > 0.05  # it did move


def test_one_of_them_writes_and_speaks(torchrun):
    results, _, out = torchrun
    assert "8 samples a step on 2 x cpu" in out and out.count("hessian_penalty ") == 1
    names = os.listdir(os.path.join(results, "discovery"))
    assert len([name for name in names if name.startswith("events")]) == 1


def test_a_signal_to_one_stops_all_and_any_number_can_go_on(torchrun, single, capfd):
    """All after the same step, once saved."""
    results, status, out = torchrun
    (line,) = [line for line in out.splitlines() if "stopped by signal" in line]
    assert status != 0 and "stopped by signal 15 after step 56; saved results/discovery/A_000056.pt" in line
    assert line.endswith("go on with: torchrun --nproc_per_node=2 discover.py --experiment_name discovery --resume")
    assert run("discover", DISCOVER, capfd, ["--results_dir", results, "--resume"])[0] == 0
    assert_close(load(os.path.join(results, "discovery"), 70), load(single, 70), within=ROUNDED)

"""discover.py as its user meets it: what it refuses, what a run leaves, and what resuming means."""

import glob
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
import wandb_stand_in
from biggan_helpers import HERE, load_command, refusal, run
from separable import Separable, start
from tensorboardX.proto.event_pb2 import Event

from biggan import discovery
from biggan.biggan import Generator, GeneratorSpec
from biggan.weights import save_generator
from experiment_utils.tfrecords import RecordFile

DISCOVER = load_command("discover")
SMALL = "--device cpu --batch_size 8"
SEPARABLE = f"--G_path separable:of_eight_components {SMALL}"


@pytest.fixture
def command(capfd, tmp_path):
    """command('--steps 3 ...') -> (exit status, standard output, standard error), in tmp_path/results."""

    def call(flags):
        return run("discover", DISCOVER, capfd, ["--results_dir", str(tmp_path / "results"), *flags.split()])

    return call


@pytest.fixture(scope="module")
def classes_path(tmp_path_factory):
    """A tiny BigGAN of three classes, of random weights that make its images change."""
    torch.manual_seed(0)
    generator = Generator(GeneratorSpec((8, 8, 8), num_classes=3, dim_z=9, shared_dim=4))
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.normal_()
    path = str(tmp_path_factory.mktemp("generators") / "tiny.safetensors")
    save_generator(path, generator, {})
    return path


# ----------------------------------------------------------------------------------------------------------------------
# What it refuses


@pytest.mark.parametrize(
    "flags, said",
    [
        ("--parallel", "--parallel: start one process a GPU instead: torchrun --nproc_per_node=GPUS discover.py"),
        ("--ndirs 9", "--ndirs 9: the search space z[0:8] has 8 dimensions"),
        ("--ndirs 0", "--ndirs 0: must be greater than 0"),
        ("--search_space mid --ndirs 4", "--ndirs 4: the search space z[2:5] has 3 dimensions"),
        ("--search_space 4:9", "--search_space 4:9: z[4:9] is no part of z, which has 8 components"),
        ("--search_space low", "--search_space low: neither all, coarse, mid, fine, nor BEGIN:END"),
        ("--fix_class 1", "--fix_class 1: separable_of_eight_components has no classes"),
        ("--fix_class -1", "--fix_class -1: must not be negative"),
        ("--num_rademacher_samples 1", "--num_rademacher_samples 1: must be at least 2"),
        ("--epsilon 0", "--epsilon 0.0: must be greater than 0"),
        ("--path_size -1", "--path_size -1.0: must be greater than 0"),
        ("--A_lr nan", "--A_lr nan: must be greater than 0"),
        ("--seed -1", "--seed -1: must be between 0 and 4294967295"),
        ("--save_every 0", "--save_every 0: must be greater than 0"),
        ("--experiment_name a/b", "--experiment_name a/b: must be the name of one folder"),
        ("--experiment_name ..", "--experiment_name ..: must be the name of one folder"),
        ("--objective entropy", "--objective entropy: there is diagonal, hessian_penalty, orojar"),
        ("--objective diagonal --no_ortho", "--objective diagonal: needs orthonormal directions; leave --no_ortho out"),
        (
            "--objective diagonal --ndirs 7",
            "--objective diagonal: needs as many directions as z[0:8] has dimensions, 8",
        ),
        (
            "--objective diagonal --num_rademacher_samples 4",
            "--num_rademacher_samples: --objective diagonal samples no",
        ),
        ("--load_A nothing.pt", "nothing.pt: no such file"),
        ("--resume", "--resume: no experiment "),
        ("--device cuda:77", "--device cuda:77: "),
        ("--G_path nothing.pth", "nothing.pth: no such file or folder"),
        ("--G_path separable:start_anew", "--G_path separable:start_anew: cannot import it"),
    ],
)
def test_refusals(command, tmp_path, flags, said):
    assert said in refusal(command(f"{SEPARABLE} {flags}"))
    assert not (tmp_path / "results").exists()


def test_wandb_that_is_not_installed(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it fails then, whether it is there or not
    said = refusal(command(f"{SEPARABLE} --wandb_entity me"))
    assert said.startswith("--wandb_entity me: the package wandb is not installed (pip install wandb)")


def test_wandb_that_does_not_answer(command, tmp_path, monkeypatch):
    class Offline:
        @staticmethod
        def init(**settings):
            raise RuntimeError("no route to host")

    monkeypatch.setitem(sys.modules, "wandb", Offline)
    said = refusal(command(f"{SEPARABLE} --wandb_entity me"))
    assert said.startswith("--wandb_entity me: Weights & Biases does not answer (no route to host)")


def test_a_class_out_of_range(command, classes_path):
    assert refusal(command(f"--G_path {classes_path} {SMALL} --fix_class 3")).startswith("--fix_class 3: tiny has cla")


def test_a_batch_that_the_processes_cannot_share(command, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert refusal(command(SEPARABLE)).startswith("--batch_size 8: not divisible by the 3 processes of torchrun")


class Noisy(Separable):
    def forward(self, z):
        images = super().forward(z)
        return images + 0.1 * torch.randn_like(images)


def test_a_generator_whose_noise_is_on(command, monkeypatch, tmp_path):
    monkeypatch.setattr(sys.modules["separable"], "of_eight_components", lambda: Noisy(8))
    said = refusal(command(SEPARABLE))
    assert said.startswith("separable_of_eight_components: gives other images for the same z each time")
    assert not (tmp_path / "results").exists()


class HalfPrecision(Separable):
    def forward(self, z):
        return super().forward(z.bfloat16().float())


@pytest.mark.parametrize("objective", ["hessian_penalty", "orojar", "diagonal"])
def test_a_generator_that_computes_in_half_precision(command, monkeypatch, tmp_path, objective):
    monkeypatch.setattr(sys.modules["separable"], "of_eight_components", lambda: HalfPrecision(8))
    said = refusal(command(f"{SEPARABLE} --objective {objective}"))
    assert said.startswith("separable_of_eight_components: G must compute in float32 or float64")
    assert "torch.bfloat16" in said and not (tmp_path / "results").exists()


def test_directions_that_cannot_be_orthonormalised(command, tmp_path):
    path = str(tmp_path / "A.pt")
    torch.save(torch.ones(2, 8), path)
    assert "direction 1 of A is not finite, or a combination" in refusal(command(f"{SEPARABLE} --load_A {path}"))
    assert not (tmp_path / "results").exists()
    assert command(f"{SEPARABLE} --load_A {path} --no_ortho --steps 1")[0] == 0


# ----------------------------------------------------------------------------------------------------------------------
# What a run leaves


def test_a_run_is_that_of_the_library(command, tmp_path):
    flags = f"{SEPARABLE} --experiment_name first --steps 12 --save_every 5 --seed 3 --ndirs 2 --search_space coarse "
    status, out, _ = command(flags + "--A_lr 0.02 --path_size 3 --epsilon 0.2 --num_rademacher_samples 3")
    folder = tmp_path / "results" / "first"
    expected = start(
        Separable(8, squashed=True), 2, "coarse", seed=3, lr=0.02, path_size=3.0, epsilon=0.2, k=3, batch_size=8
    )
    for _ in range(12):
        expected.step()
    assert status == 0 and f"done: {folder / 'A_000012.pt'}" in out
    assert torch.equal(torch.load(str(folder / "A_000012.pt"), weights_only=True), expected.A.detach())
    left = {name for name in os.listdir(str(folder)) if not name.startswith("events.out.tfevents")}
    assert left == {"A_000005.pt", "A_000010.pt", "A_000012.pt", "log.txt", "options.json", "state.safetensors"}
    record = json.loads((folder / "options.json").read_text())
    assert record["flags"]["ndirs"] == 2 and record["flags"]["num_epochs"] == 100 and record["package_version"]
    log = (folder / "log.txt").read_text()
    assert "2 directions in z[0:2], 8 samples a step on 1 x cpu" in log and "diagonal-ness" in log


def test_the_flags_defaults():
    """Those of the published command."""
    defaults = DISCOVER.DiscoverOptions()
    published = {"A_lr": 0.01, "ndirs": None, "load_A": "random", "search_space": "all", "path_size": 5.0}
    published.update(no_ortho=False, batch_size=64, num_epochs=100, save_every=2000, fix_class=None, epsilon=0.1)
    published.update(num_rademacher_samples=2, wandb_entity=None, vis_during_training=False)
    assert {name: getattr(defaults, name) for name in published} == published


@pytest.mark.parametrize("flags, label", [("", None), ("--fix_class 2", 2)])
def test_classes(command, classes_path, tmp_path, flags, label):
    seen = set()
    forward = Generator.forward

    def noting(self, z, y):
        if z.grad_fn is not None:  # z + wQ: a step of discovery, no pass to find out about the generator
            seen.update(y.tolist())
        return forward(self, z, y)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Generator, "forward", noting)
        assert command(f"--G_path {classes_path} {SMALL} --steps 6 {flags}")[0] == 0
    assert seen == ({0, 1, 2} if label is None else {label})


def test_tensorboard_has_the_curves(command, tmp_path):
    assert command(f"{SEPARABLE} --steps 130")[0] == 0
    (path,) = glob.glob(str(tmp_path / "results" / "discovery" / "events.out.tfevents*"))
    steps = {}
    with RecordFile(path) as records:
        for event in map(Event.FromString, records):
            for value in event.summary.value:
                steps.setdefault(value.tag, []).append(event.step)
    assert steps == {
        "discovery/hessian_penalty": [1, 100, 130],
        "diagonalness/energy_share": [1, 130],
        "timing/steps_per_second": [1, 100, 130],
    }


@pytest.mark.parametrize("objective", ["diagonal", "orojar"])
def test_other_objectives(command, tmp_path, objective):
    status, out, _ = command(f"{SEPARABLE} --steps 12 --objective {objective} --epsilon 0.2")
    expected = start(Separable(8, squashed=True), objective=objective, epsilon=0.2, batch_size=8)
    for _ in range(12):
        expected.step()
    (line,) = [line for line in out.splitlines() if line.startswith("step 12")]
    assert status == 0 and f" {objective} " in line and f"diagonal-ness {expected.diagonal_share():.4f}" in line
    path = str(tmp_path / "results" / "discovery" / "A_000012.pt")
    assert torch.equal(torch.load(path, weights_only=True), expected.A.detach())


def test_an_existing_experiment_is_not_overwritten(command, tmp_path):
    assert command(f"{SEPARABLE} --steps 2")[0] == 0
    folder = tmp_path / "results" / "discovery"
    before = {name: (folder / name).read_bytes() for name in os.listdir(str(folder))}
    said = refusal(command(f"{SEPARABLE} --steps 3"))
    assert said == f"{folder} exists: go on with it (--resume), or choose another --experiment_name"
    assert {name: (folder / name).read_bytes() for name in os.listdir(str(folder))} == before


def test_videos_during_training(command, tmp_path):
    status, _, _ = command(f"{SEPARABLE} --steps 4 --save_every 2 --vis_during_training --ndirs 2")
    videos = sorted(glob.glob(str(tmp_path / "results" / "discovery" / "*.mp4")))
    assert status == 0 and [os.path.basename(path) for path in videos] == [
        "directions_000002.mp4",
        "directions_000004.mp4",
    ]
    assert all(os.path.getsize(path) > 1000 for path in videos)


def test_weights_and_biases(command, monkeypatch, tmp_path):
    notes = wandb_stand_in.install(monkeypatch, tmp_path)
    assert command(f"{SEPARABLE} --experiment_name mine --steps 3 --wandb_entity me --vis_during_training")[0] == 0
    (_, keywords), *logged, finish = notes()
    assert (keywords["entity"], keywords["project"], keywords["name"]) == ("me", "hessian-penalty", "mine")
    assert keywords["config"]["batch_size"] == 8 and keywords["resume"] == "allow"
    assert [step for _, _, step in logged] == [1, 3, 3] and finish == ["finish"]
    assert set(logged[0][1]) == {"discovery/hessian_penalty", "diagonalness/energy_share", "timing/steps_per_second"}
    assert logged[2][1] == {"directions": "video directions_000003.mp4"}


# ----------------------------------------------------------------------------------------------------------------------
# Resuming


def test_a_run_goes_on_with_its_own_flags(command, tmp_path):
    assert command(f"{SEPARABLE} --steps 4 --seed 5 --ndirs 3 --no_ortho")[0] == 0
    status, out, _ = command("--resume --steps 9")
    assert status == 0 and "resumed after step 4" in out
    whole = start(Separable(8, squashed=True), 3, seed=5, ortho=False, batch_size=8)
    for _ in range(9):
        whole.step()
    folder = str(tmp_path / "results" / "discovery")
    assert torch.equal(torch.load(discovery.A_path(folder, 9), weights_only=True), whole.A.detach())
    assert command("--resume")[0] == 0  # there is nothing left to do
    assert json.loads((tmp_path / "results" / "discovery" / "options.json").read_text())["flags"]["steps"] == 9


def test_a_longer_run_by_epochs(command):
    assert command(f"{SEPARABLE} --steps 4")[0] == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DISCOVER, "STEPS_PER_EPOCH", 6)
        assert "A_000012.pt" in command("--resume --num_epochs 2")[1]


def test_other_flags_are_refused_by_name(command):
    assert command(f"{SEPARABLE} --steps 2 --path_size 3")[0] == 0
    assert "--download (was None); start a new" in refusal(command("--resume --download biggan-deep-128"))
    said = refusal(command("--resume --A_lr 0.1 --path_size 4 --steps 5"))
    assert "--A_lr (was 0.01), --path_size (was 3.0); start a new experiment" in said
    assert command("--resume --path_size 3.0 --steps 3 --save_every 1 --microbatch 4")[0] == 0


def test_a_run_from_before_there_were_objectives_is_one_of_the_hessian_penalty(command, tmp_path):
    assert command(f"{SEPARABLE} --steps 2")[0] == 0
    path = tmp_path / "results" / "discovery" / "options.json"
    record = json.loads(path.read_text())
    del record["flags"]["objective"], record["flags"]["microbatch"]
    path.write_text(json.dumps(record))
    assert "--objective (was hessian_penalty); start a new" in refusal(command("--resume --steps 4 --objective orojar"))
    status, out, _ = command("--resume --steps 4 --microbatch 2")
    assert status == 0 and "step 4       hessian_penalty" in out
    assert json.loads(path.read_text())["flags"]["objective"] == "hessian_penalty"


class Runs:
    """What `discover_harness.py` left."""

    def __init__(self, out, log):
        with open(os.path.join(out, "endings.json")) as stream:
            self.endings = json.load(stream)
        self.log = log
        self.dirs = {name: os.path.join(out, name, "discovery") for name in ("whole", "stopped")}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    out = str(tmp_path_factory.mktemp("resume"))
    process = subprocess.run(
        [sys.executable, os.path.join(HERE, "discover_harness.py"), out],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=HERE,
    )
    assert process.returncode == 0, process.stdout
    print(process.stdout)
    return Runs(out, process.stdout)


def test_every_process_ended_as_meant(runs):
    """130 and 143, as shells have it, after SIGINT and SIGTERM; -9: killed. The last one finished."""
    killed = -signal.SIGKILL
    assert runs.endings["whole"] == [0]
    assert runs.endings["stopped"] == [killed] * 4 + [130, killed, killed, 143, killed, 0]


def test_a_killed_run_ends_with_the_same_bits(runs):
    states = [discovery.saved_state(folder, 8) for folder in runs.dirs.values()]
    assert states[0][1] == states[1][1] == 60
    for name, array in states[0][0].items():
        assert np.array_equal(array, states[1][0][name]), name
    for steps in range(10, 61, 10):
        whole, stopped = (
            torch.load(discovery.A_path(folder, steps), weights_only=True) for folder in runs.dirs.values()
        )
        assert torch.equal(whole, stopped)


def test_no_unfinished_file_is_left(runs):
    for folder in runs.dirs.values():
        assert not [name for name in os.listdir(folder) if name.startswith(".")]


def test_an_interrupted_run_says_in_one_line_how_to_go_on(runs):
    for number in (2, 15):
        (line,) = [line for line in runs.log.splitlines() if f"stopped by signal {number} " in line]
        folder = os.path.dirname(runs.dirs["stopped"])
        assert line.startswith(f"discover.py: stopped by signal {number} after step ")
        assert f"; saved {folder}/discovery/A_0000" in line
        assert line.endswith(f"go on with: discover.py --experiment_name discovery --resume --results_dir {folder}")

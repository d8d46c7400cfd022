"""train.py as its user meets it: what it refuses, what a run leaves, and what resuming means."""

import dataclasses
import errno
import json
import os
import re
import sys

import numpy as np
import pytest
import wandb_stand_in
from progan_helpers import random_networks, read_scalars

import progan.training
from experiment_utils import files
from experiment_utils.errors import run_command
from progan.data.writer import DatasetWriter
from progan.snapshot import Snapshot, list_snapshots, load_snapshot, save_snapshot, save_state, snapshot_path
from progan.training import Progress


@dataclasses.dataclass
class Call:
    """What train.py asked of progan.training.train."""

    run_dir: str
    spec: object
    losses: object
    record: dict
    start: tuple
    keywords: dict


class Trainer:
    """Stands in for progan.training.train: notes the call, and leaves a snapshot and a state 500 images further on."""

    def __init__(self):
        self.calls = []

    def __call__(self, run_dir, dataset, spec, loss_options, options, log, start=None, **keywords):
        self.calls.append(Call(run_dir, spec, loss_options, options, start, keywords))
        networks, _, progress = start or (random_networks(spec), None, Progress())
        images = progress.images_shown + 500
        progress = Progress(images_shown=images, step=images // 4, lod=1.0, sums={"loss/G": [1.5, 2]})
        state = save_state(run_dir, images, {"slot": np.float32([images])}, dataclasses.asdict(progress))
        path = snapshot_path(run_dir, images)
        save_snapshot(path, Snapshot(spec, networks, 1.0, images, options, state))
        return path

    @property
    def last(self):
        return self.calls[-1]


@pytest.fixture
def trainer(monkeypatch):
    trainer = Trainer()
    monkeypatch.setattr(progan.training, "train", trainer)
    return trainer


@pytest.fixture
def results_dir(tmp_path):
    return str(tmp_path / "results")


@pytest.fixture
def command(train_command, data_dir, results_dir, capsys, monkeypatch):
    """command('--nz 3 ...') -> (exit status, standard output, standard error)."""
    monkeypatch.setattr(sys, "argv", ["train.py"])

    def run(flags, *more):
        places = ["--data_dir", data_dir, "--results_dir", results_dir]
        with pytest.raises(SystemExit) as end:
            run_command(lambda: train_command.main([*places, *flags.split(), *more]))
        captured = capsys.readouterr()
        return end.value.code, captured.out, captured.err

    return run


SMALL = "--dataset squares --num_gpus 0 --num_threads 1 --nz 4 --fmap_base 16"


def refusal(ending):
    """The message of a command that refused: one line on standard error, exit status 2."""
    status, _, err = ending
    lines = [line for line in err.splitlines() if line]
    assert status == 2 and len(lines) == 1 and lines[0].startswith("train.py: error: "), err
    return lines[0]


# ----------------------------------------------------------------------------------------------------------------------
# What it refuses


@pytest.mark.parametrize(
    "flags, said",
    [
        ("--num_rademacher_samples 1", "--num_rademacher_samples 1: must be at least 2"),
        ("--epsilon 0", "--epsilon 0.0: must be greater than 0"),
        ("--layers_to_reg 0", "--layers_to_reg 0: must be greater than 0"),
        ("--layers_to_reg 2 8", "--layers_to_reg 8: at 16 px G has layers 1 to 7"),
        ("--resolution 8 --layers_to_reg 6", "--layers_to_reg 6: at 8 px G has layers 1 to 5"),
        ("--infogan_nz 5 --infogan_lambda 1", "--infogan_nz 5: z has only 4 components"),
        ("--infogan_nz 2", "InfoGAN needs both"),
        ("--infogan_lambda 1", "InfoGAN needs both"),
        ("--hp_lambda -1", "--hp_lambda -1.0: must not be negative"),
        ("--regularizer ridge", "argument --regularizer: invalid choice: 'ridge' (choose from "),
        ("--metrics FIT", "--metrics FIT: unknown; there are FID, KID, "),
        ("--metrics factors", "--metrics factors: "),
        ("--metrics FID --num_images 0", "--num_images 0: must be greater than 0"),
        ("--wandb_entity me", "--wandb_entity me: only with --dashboard_api wandb"),
        ("--dataset nothing", "nothing: no such dataset (in "),
        ("--resolution 32", "--resolution 32: squares has images of 16 px"),
        ("--resolution 12", "--resolution 12: must be a power of two"),
        ("--initial_resolution 32", "--initial_resolution 32: above --resolution 16"),
        ("--minibatch 6", "--minibatch 6: must be a multiple of 4"),
        ("--minibatch 4:x", "--minibatch 4:x: is neither a number nor a list such as 4:64,8:32"),
        ("--total_kimg 0", "--total_kimg 0.0: must be greater than 0"),
        ("--total_kimg inf", "--total_kimg inf: must be"),
        ("--lr nan", "--lr nan: must be greater than 0"),
        ("--seed 4294967296", "--seed 4294967296: must be"),
        ("--resume_exp 7", "no run number 7 in"),
        ("--resume_snapshot nowhere.safetensors", "--resume_snapshot nowhere.safetensors: neither a run number, nor a"),
        ("--resume_snapshot 5", "--resume_snapshot 5: of which run? (--resume_exp)"),
    ],
)
def test_refusals(command, trainer, results_dir, flags, said):
    assert said in refusal(command(f"{SMALL} {flags}"))
    assert not trainer.calls and not os.path.exists(results_dir)


def test_an_unknown_dataset_lists_those_there_are(command, trainer):
    message = refusal(command("--dataset nothing"))
    assert "squares" in message and "clevr_1fov_32" in message


def test_no_dataset(command, trainer):
    assert "--dataset" in refusal(command("--nz 3"))


def test_a_gpu_that_is_not_there_is_refused(command, trainer, monkeypatch):
    monkeypatch.setattr("progan.inference.count_gpus", lambda num_threads=0: 0)
    assert "--num_gpus 1: " in refusal(command(f"{SMALL} --num_gpus 1"))


@pytest.mark.parametrize("below", ["", "results"])
def test_a_results_dir_that_cannot_be_made(command, trainer, tmp_path, below):
    (tmp_path / "file").write_bytes(b"")
    path = os.path.join(str(tmp_path), "file", below).rstrip("/")
    assert path in refusal(command(f"{SMALL} --results_dir {path}"))


# ----------------------------------------------------------------------------------------------------------------------
# From scratch


def test_defaults_are_the_published_ones(command, trainer):
    assert command("--dataset squares --num_gpus 0")[0] == 0
    call = trainer.last
    assert os.path.basename(call.run_dir) == "00000-squares-16px-hessian_penalty"
    assert dataclasses.asdict(call.spec) == dict(
        resolution=16, channels=3, nz=12, fmap_base=8192, fmap_max=512, infogan_nz=0
    )
    assert dataclasses.asdict(call.losses) == dict(
        hp_lambda=0.05,  # 0.1 in the published, biased units
        epsilon=0.1,
        num_rademacher_samples=2,
        layers_to_reg=[1, 2, 3, 4, 5, 6],  # 1 to 10 as far as 16 px has them; not the RGB output, 7
        warmup_kimg=0,
        hp_start_kimg=0,
        infogan_lambda=0,
        regularizer="hessian_penalty",
    )
    expected = dict(total_kimg=30000, seed=1000, lr=0.001, initial_resolution=4, stage_kimg=600, fade_kimg=600,
                    minibatch=None, tick_kimg=None, snapshot_kimg=None)  # fmt: skip
    assert {name: call.keywords[name] for name in expected} == expected
    assert call.start is None


def test_options_json_tells_all_that_was_chosen(command, trainer):
    command(f"{SMALL} --hp_lambda 0.2 --warmup_kimg 7 --minibatch 4:8,8:4")
    with open(os.path.join(trainer.last.run_dir, "options.json")) as stream:
        record = json.load(stream)
    assert record == trainer.last.record
    flags = dict(dataset="squares", nz=4, fmap_base=16, resolution=16, hp_lambda=0.2, warmup_kimg=7,
                 minibatch="4:8,8:4", layers_to_reg=[1, 2, 3, 4, 5, 6], num_gpus=0, seed=1000)  # fmt: skip
    assert {name: record["flags"][name] for name in flags} == flags
    assert record["loss"]["warmup_kimg"] == 7 and record["package_version"]
    assert trainer.last.keywords["minibatch"] == {4: 8, 8: 4}


@pytest.mark.parametrize(
    "flags, name",
    [
        ("--hp_lambda 0", "vanilla"),
        ("--hp_lambda 0 --regularizer orojar", "vanilla"),
        ("--hp_lambda 0 --infogan_lambda 1 --infogan_nz 2", "infogan"),
        ("--regularizer orojar", "orojar"),
    ],
)
def test_run_names_tell_the_method(command, trainer, flags, name):
    command(f"{SMALL} {flags}")
    assert os.path.basename(trainer.last.run_dir) == f"00000-squares-16px-{name}"


@pytest.mark.parametrize("given, k, meant", [("0.1", 2, "0.05"), ("0.025", 2, "0.0125"), ("0.1", 4, "0.075")])
def test_a_published_weight_is_remarked_upon(command, trainer, given, k, meant):
    _, out, _ = command(f"{SMALL} --hp_lambda {given} --num_rademacher_samples {k}")
    (line,) = [line for line in out.splitlines() if "published weight" in line]
    assert f"note: {given} is" in line and line.endswith(f"--hp_lambda {meant}")
    assert trainer.last.losses.hp_lambda == float(given)  # said, not changed


def test_no_remark_without_reason(command, trainer):
    for flags in ("", "--hp_lambda 0.05", "--regularizer orojar --hp_lambda 0.1"):
        assert "note:" not in command(f"{SMALL} {flags}")[1]


def test_orojar_with_the_hessian_penaltys_weight_is_remarked_upon(command, trainer):
    _, out, _ = command(f"{SMALL} --regularizer orojar --warmup_kimg 7")
    assert "note: --hp_lambda 0.05 suits the Hessian Penalty; OroJaR's values are thousands of times as large" in out
    assert "OroJaR's weight rises from 0 at 0 kimg to 0.05 over 7 kimg" in out
    assert trainer.last.losses.hp_lambda == 0.05 and trainer.last.losses.regularizer == "orojar"


# ----------------------------------------------------------------------------------------------------------------------
# Resuming


def losses_of(call):
    return call.losses.hp_lambda, call.losses.hp_start_kimg, call.losses.warmup_kimg


def test_the_same_losses_go_on_in_the_same_directory(command, trainer):
    command(f"{SMALL} --hp_lambda 0.2 --warmup_kimg 3 --seed 5 --stage_kimg 0.1")
    first = trainer.last
    for flags in ("", "--hp_lambda 0.2", "--warmup_kimg 3 --total_kimg 9"):
        assert command(f"--resume_exp 0 {flags}")[0] == 0
        call = trainer.last
        assert (call.run_dir, call.spec, call.losses) == (first.run_dir, first.spec, first.losses)
        networks, slots, progress = call.start
        images = 500 * (len(trainer.calls) - 1)
        assert slots == {"slot": np.float32([images])}
        assert (progress.images_shown, progress.step) == (images, images // 4)
        assert progress.sums == {"loss/G": [1.5, 2]}
        assert call.keywords["seed"] == 5 and call.keywords["stage_kimg"] == 0.1
        for name, value in random_networks(call.spec)["D"].items():
            np.testing.assert_array_equal(networks["D"][name], value)
    assert call.keywords["total_kimg"] == 9


def test_other_flags_may_change_in_place(command, trainer):
    command(SMALL)
    command("--resume_exp 0 --lr 0.0005 --total_kimg 50")
    assert trainer.last.run_dir == trainer.calls[0].run_dir
    assert trainer.last.keywords["lr"] == 0.0005 and trainer.last.start[1] is not None


def test_a_vanilla_run_is_fine_tuned_as_a_new_run(command, trainer):
    """The penalty's ramp counts from there, over 10,000 kimg; the optimisers start anew."""
    command(f"{SMALL} --hp_lambda 0")
    _, out, _ = command("--resume_exp 0 --hp_lambda 0.3")
    call = trainer.last
    assert os.path.basename(call.run_dir) == "00001-squares-16px-hessian_penalty"
    assert losses_of(call) == (0.3, 0.5, 10000) and call.losses.layers_to_reg == [1, 2, 3, 4, 5, 6]
    networks, slots, progress = call.start
    assert slots is None and (progress.images_shown, progress.tick_start_images) == (500, 500)
    for name, value in random_networks(call.spec)["Gs"].items():
        np.testing.assert_array_equal(networks["Gs"][name], value)
    assert "rises from 0 at 0.5 kimg to 0.3 over 10000 kimg" in out


def test_orojar_goes_on_in_place_and_another_regularizer_starts_a_new_run(command, trainer):
    command(f"{SMALL} --regularizer orojar --hp_lambda 0.001 --warmup_kimg 3")
    first = trainer.last
    assert first.losses.regularizer == first.record["flags"]["regularizer"] == "orojar"
    for flags in ("", "--regularizer orojar"):
        command(f"--resume_exp 0 {flags}")
        assert (trainer.last.run_dir, trainer.last.losses) == (first.run_dir, first.losses)
        assert trainer.last.start[1] is not None
    _, out, _ = command("--resume_exp 0 --regularizer hessian_penalty")
    assert "other losses than that run's (regularizer): a new run" in out
    assert os.path.basename(trainer.last.run_dir) == "00001-squares-16px-hessian_penalty"
    assert trainer.last.losses == dataclasses.replace(first.losses, regularizer="hessian_penalty")
    assert trainer.last.start[1] is None


def test_a_vanilla_run_is_fine_tuned_with_orojar(command, trainer):
    command(f"{SMALL} --hp_lambda 0")
    _, out, _ = command("--resume_exp 0 --regularizer orojar --hp_lambda 0.001")
    assert os.path.basename(trainer.last.run_dir) == "00001-squares-16px-orojar"
    assert losses_of(trainer.last) == (0.001, 0.5, 10000) and trainer.last.losses.regularizer == "orojar"
    assert "OroJaR's weight rises from 0 at 0.5 kimg to 0.001 over 10000 kimg" in out


def forget_regularizer(run_dir):
    """Rewrite a run's snapshots as they were written when there was no --regularizer."""
    for path in list_snapshots(run_dir).values():
        snapshot = load_snapshot(path)
        for part in ("flags", "loss"):
            del snapshot.options[part]["regularizer"]
        save_snapshot(path, snapshot)


@pytest.mark.parametrize(
    "flags", ["", "--regularizer hessian_penalty", "--regularizer hessian_penalty --hp_lambda 0.2"]
)
def test_a_run_of_before_there_was_a_choice_goes_on_in_place(command, trainer, flags):
    command(f"{SMALL} --hp_lambda 0.2 --warmup_kimg 3")
    first = trainer.last
    forget_regularizer(first.run_dir)
    assert command(f"--resume_exp 0 {flags}")[0] == 0
    call = trainer.last
    assert (call.run_dir, call.losses) == (first.run_dir, first.losses) and call.start[1] is not None
    assert call.record["loss"]["regularizer"] == call.record["flags"]["regularizer"] == "hessian_penalty"


def test_a_run_of_before_there_was_a_choice_is_fine_tuned(command, trainer):
    command(f"{SMALL} --hp_lambda 0.2 --warmup_kimg 3")
    first = trainer.last
    forget_regularizer(first.run_dir)
    _, out, _ = command("--resume_exp 0 --regularizer orojar")
    assert "other losses than that run's (regularizer): a new run" in out
    assert trainer.last.losses == dataclasses.replace(first.losses, regularizer="orojar")


def test_a_shipped_model_is_fine_tuned_with_orojar(command, trainer):
    """Their files are older than --regularizer."""
    status, _, err = command("--resume_snapshot clevr_1fov_16_bl --dataset squares --num_gpus 0 --total_kimg 1000 "
                             "--regularizer orojar --hp_lambda 0.00001")  # fmt: skip
    assert status == 0, err
    losses = trainer.last.losses
    assert (losses.regularizer, losses.hp_lambda, losses.warmup_kimg) == ("orojar", 0.00001, 10000)
    assert losses.hp_start_kimg == trainer.last.start[2].images_shown / 1000 > 0


@pytest.mark.parametrize("warmup", [0, 2.5])
def test_a_warm_up_that_is_given_counts(command, trainer, warmup):
    command(f"{SMALL} --hp_lambda 0")
    command(f"--resume_exp 0 --hp_lambda 0.3 --warmup_kimg {warmup}")
    assert losses_of(trainer.last) == (0.3, 0.5, warmup)


def test_a_fine_tuned_run_that_crashed_does_not_start_its_ramp_again(command, trainer):
    command(f"{SMALL} --hp_lambda 0")
    command("--resume_exp 0 --hp_lambda 0.3")
    for flags in ("", "--hp_lambda 0.3", "--hp_lambda 0.3 --warmup_kimg 10000"):
        command(f"--resume_exp 1 {flags}")
        assert os.path.basename(trainer.last.run_dir) == "00001-squares-16px-hessian_penalty"
        assert losses_of(trainer.last) == (0.3, 0.5, 10000) and trainer.last.start[1] is not None


def test_another_weight_later_keeps_the_ramp(command, trainer):
    command(f"{SMALL} --hp_lambda 0")
    command("--resume_exp 0 --hp_lambda 0.3")
    command("--resume_exp 1 --hp_lambda 0.4")
    assert os.path.basename(trainer.last.run_dir) == "00002-squares-16px-hessian_penalty"
    assert losses_of(trainer.last) == (0.4, 0.5, 10000)
    command("--resume_exp 2 --hp_start_kimg 3 --warmup_kimg 4")
    assert losses_of(trainer.last) == (0.4, 3, 4)


def test_infogan_can_be_added(command, trainer):
    """The Q head is new, everything else as it was."""
    command(f"{SMALL} --hp_lambda 0")
    assert command("--resume_exp 0 --infogan_lambda 1 --infogan_nz 2")[0] == 0
    assert os.path.basename(trainer.last.run_dir) == "00001-squares-16px-infogan"
    assert trainer.last.spec.infogan_nz == 2
    networks = trainer.last.start[0]
    assert networks["D"]["4x4/Q_Encoder/Dense1/weight"].shape[1] == 2
    for name, value in random_networks(trainer.calls[0].spec)["D"].items():
        np.testing.assert_array_equal(networks["D"][name], value)


@pytest.mark.parametrize(
    "flag, value, old", [("nz", 5, 4), ("resolution", 8, 16), ("fmap_base", 32, 16), ("fmap_max", 9, 512)]
)
def test_options_that_contradict_the_snapshot_are_refused(command, trainer, flag, value, old):
    command(SMALL)
    message = refusal(command(f"--resume_exp 0 --{flag} {value}"))
    assert f"--{flag} {value}: " in message and f"has {flag} {old}" in message and "network-snapshot-000000" in message
    assert len(trainer.calls) == 1
    assert command(f"--resume_exp 0 --{flag} {old}")[0] == 0


def test_images_of_another_kind_than_the_snapshots_are_refused(command, trainer, data_dir):
    if not os.path.isdir(os.path.join(data_dir, "grey")):
        with DatasetWriter(os.path.join(data_dir, "grey"), 16, 1) as writer:
            writer.add(np.zeros([16, 16, 1], np.uint8))
            writer.finish()
    command(SMALL)
    assert "1 channel" in refusal(command("--resume_exp 0 --dataset grey"))


def test_a_chosen_snapshot(command, trainer):
    command(SMALL)
    for _ in range(3):
        command("--resume_exp 0")
    run_dir = trainer.last.run_dir
    assert list(list_snapshots(run_dir)) == [0, 1, 2]
    command("--resume_exp 0 --resume_snapshot 1")
    assert trainer.last.start[2].images_shown == 1500 and trainer.last.start[1] == {"slot": np.float32([1500])}
    message = refusal(command("--resume_exp 0 --resume_snapshot 5"))
    assert "no snapshot at 5 kimg; there are 0, 1, 2" in message


def test_an_older_snapshot_starts_a_new_run(command, trainer):
    """The newer ones are nobody's past then: a later `latest` must not pick them."""
    command(f"{SMALL} --hp_lambda 0.2")
    for _ in range(2):
        command("--resume_exp 0")
    first = trainer.last
    _, out, _ = command("--resume_exp 0 --resume_snapshot 0")
    call = trainer.last
    assert os.path.basename(call.run_dir).startswith("00001-") and call.losses == first.losses
    assert call.start[1] == {"slot": np.float32([500])} and call.start[2].step == 125  # goes on bit for bit
    assert "that run has newer snapshots, which stay as they are: a new run" in out
    command("--resume_exp 0 --resume_snapshot 0 --hp_lambda 0.3")
    assert trainer.last.losses.hp_lambda == 0.3 and trainer.last.start[1] is None
    assert list(list_snapshots(first.run_dir)) == [0, 1]


def test_a_new_run_with_nothing_left_to_train_is_refused(command, trainer, results_dir):
    command(f"{SMALL} --hp_lambda 0 --total_kimg 0.5")
    said = refusal(command("--resume_exp 0 --hp_lambda 0.3"))
    assert said.startswith("train.py: error: --total_kimg 0.5: ") and said.endswith("has 0.5 kimg already; raise it")
    assert len(os.listdir(results_dir)) == 1 and len(trainer.calls) == 1


def test_growth_that_jumps_is_said(command, trainer):
    command(f"{SMALL} --stage_kimg 0.1 --fade_kimg 0.1")
    assert "goes on at lod" not in command("--resume_exp 0")[1]
    _, out, _ = command("--resume_exp 0 --stage_kimg 600")
    assert "note: by --initial_resolution, --stage_kimg and --fade_kimg growth goes on at lod 2.00; " in out


def test_a_start_of_the_penalty_later_than_the_snapshot(command, trainer):
    command(f"{SMALL} --hp_lambda 0")
    _, out, _ = command("--resume_exp 0 --hp_lambda 0.3 --hp_start_kimg 4")
    assert losses_of(trainer.last) == (0.3, 4, 10000) and "ramp is counted from 4 kimg" in out
    _, out, _ = command("--resume_exp 0 --hp_lambda 0.3 --hp_start_kimg 0.2")
    assert losses_of(trainer.last) == (0.3, 0.5, 10000)
    assert "--hp_start_kimg 0.2 lies before this snapshot, so it is not used" in out


def unrecorded(path, tmp_path):
    """The snapshot as a published one comes: without the options of its run."""
    snapshot = load_snapshot(path)
    elsewhere = str(tmp_path / "published.safetensors")
    save_snapshot(elsewhere, Snapshot(snapshot.spec, snapshot.networks, 0.0, 3000, {}))
    return elsewhere


def test_a_snapshot_of_unknown_losses_is_fine_tuned(command, trainer, tmp_path):
    command(f"{SMALL} --fmap_max 9")
    path = unrecorded(list_snapshots(trainer.last.run_dir)[0], tmp_path)
    status, out, err = command("--dataset squares --num_gpus 0", "--resume_snapshot", path)
    assert status == 0, err
    call = trainer.last
    assert (call.spec.nz, call.spec.fmap_base, call.spec.fmap_max) == (4, 16, 9)
    assert losses_of(call) == (0.05, 3, 10000) and call.start[2].images_shown == 3000
    assert "its losses are not recorded: taken for a model trained without the Hessian Penalty" in out
    assert call.keywords["initial_resolution"] == 16 and "goes on at lod" not in out  # it has grown already
    command("--dataset squares --num_gpus 0 --hp_lambda 0", "--resume_snapshot", path)
    assert losses_of(trainer.last)[0] == 0


def test_a_snapshot_by_its_path_starts_a_new_run(command, trainer, tmp_path):
    command(f"{SMALL} --hp_lambda 0.2")
    path = str(tmp_path / "elsewhere.safetensors")
    os.rename(list_snapshots(trainer.last.run_dir)[0], path)
    assert command("", "--resume_snapshot", path)[0] == 0
    call = trainer.last
    assert os.path.basename(call.run_dir).startswith("00001-") and call.losses.hp_lambda == 0.2
    assert call.start[1] is None and call.start[2].images_shown == 500


def test_a_state_that_was_dropped_starts_the_optimisers_anew_and_says_so(command, trainer):
    command(SMALL)
    os.remove(os.path.join(trainer.last.run_dir, "training-state-000000500.safetensors"))
    _, out, _ = command("--resume_exp 0")
    assert "no training-state-000000500.safetensors: the optimisers start anew" in out
    assert trainer.last.start[1] is None and trainer.last.start[2].images_shown == 500


def test_a_broken_snapshot_is_refused(command, trainer):
    command(SMALL)
    path = list_snapshots(trainer.last.run_dir)[0]
    with open(path, "r+b") as stream:
        stream.truncate(1000)
    message = refusal(command("--resume_exp 0"))
    assert path in message and "not a readable safetensors file" in message


def test_a_run_without_snapshots_is_refused(command, trainer, results_dir):
    os.makedirs(os.path.join(results_dir, "00003-x"))
    assert "00003-x: no network-snapshot" in refusal(command("--resume_exp 3"))


# ----------------------------------------------------------------------------------------------------------------------
# Weights & Biases


def test_wandb_that_is_not_installed(command, trainer, monkeypatch, results_dir):
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it fails then, whether it is there or not
    said = refusal(command(f"{SMALL} --dashboard_api wandb --wandb_entity me"))
    assert "--dashboard_api wandb: the package wandb is not installed (pip install wandb)" in said
    assert not os.path.exists(results_dir)


def test_wandb_is_told_what_tensorboard_is(command, monkeypatch, tmp_path):
    notes = wandb_stand_in.install(monkeypatch, tmp_path)
    assert command(f"{TINY} --hp_lambda 0 --compute_interp_ticks 3 --dashboard_api wandb --wandb_entity me")[0] == 0
    (_, keywords), *logged, finish = notes()
    assert (keywords["entity"], keywords["name"]) == ("me", "00000-squares-4px-vanilla") and finish == ["finish"]
    assert keywords["config"]["total_kimg"] == 0.096 and keywords["resume"] == "allow"
    scalars = {step: values for _, values, step in logged if "loss/G" in values}
    assert list(scalars) == [32, 64, 96]
    assert scalars[96]["loss/G"] == pytest.approx(read_scalars(keywords["dir"])["loss/G"][96], rel=1e-6)
    assert {"traversal": "video traversal000000.gif"} in [values for _, values, _ in logged]
    assert sum("fakes" in values for _, values, _ in logged) == 4 and sum("reals" in v for _, v, _ in logged) == 1


# ----------------------------------------------------------------------------------------------------------------------
# Real runs, of a few steps at 4 px

TINY = SMALL + " --resolution 4 --minibatch 4 --total_kimg 0.096 --tick_kimg 0.032 --snapshot_kimg 0.032"


def test_what_a_run_leaves(command, results_dir):
    status, out, err = command(f"{TINY} --hp_lambda 0.01 --compute_interp_ticks 3")
    assert status == 0, err
    (name,) = os.listdir(results_dir)
    run_dir = os.path.join(results_dir, name)
    left = {entry for entry in os.listdir(run_dir) if not entry.startswith("events.out.tfevents")}
    assert left == {
        "options.json", "log.txt", "reals.png", "fakes000000.png", "traversal000000.gif",
        "network-snapshot-000000.safetensors", "training-state-000000096.safetensors",
    }  # fmt: skip
    scalars = read_scalars(run_dir)
    assert {tag: list(values) for tag, values in scalars.items()} == {
        tag: [32, 64, 96]
        for tag in (
            "D/drift", "D/gradient_penalty", "D/wasserstein", "loss/D", "loss/G", "hessian_penalty/layer_01",
            "hessian_penalty/layer_02", "progress/kimg", "progress/lod", "progress/hessian_penalty_weight",
            "progress/minibatch", "progress/skipped_updates", "timing/seconds_per_kimg", "diagonalness/energy_share",
            "diagonalness/ratio", "diagonalness/largest_on_diagonal",
        )
    }  # fmt: skip
    with open(os.path.join(run_dir, "log.txt"), encoding="utf-8") as stream:
        logged = [line.split(" ", 2)[2] for line in stream.read().splitlines()]
    assert logged == out.splitlines() and len([line for line in logged if line.startswith("tick ")]) == 3
    assert logged[-1] == f"done: {os.path.join(run_dir, 'network-snapshot-000000.safetensors')}"


def test_orojars_names_take_the_hessian_penaltys_place(command, results_dir):
    status, out, err = command(f"{TINY} --regularizer orojar --hp_lambda 0.00001")
    assert status == 0, err
    (name,) = os.listdir(results_dir)
    scalars = read_scalars(os.path.join(results_dir, name))
    assert {"orojar/layer_01", "orojar/layer_02", "progress/orojar_weight"} < set(scalars)
    assert not [tag for tag in scalars if "hessian" in tag]
    assert set(scalars["progress/orojar_weight"].values()) == {np.float32(0.00001)}
    total = scalars["orojar/layer_01"][96] + scalars["orojar/layer_02"][96]
    (found,) = [line.split("  orojar ")[1].split()[0] for line in out.splitlines() if line.startswith("tick 3 ")]
    assert float(found) == pytest.approx(total, rel=1e-3) and "OroJaR on layers 1 2" in out


def test_metrics_during_training(command, results_dir):
    """Every second report and at the end, beside the losses; a network that cannot be had is said at once."""
    missing = refusal(command(f"{TINY} --hp_lambda 0 --metrics FID --inception nowhere.pth"))
    assert "nowhere.pth" in missing and not os.path.exists(results_dir)
    flags = "--metrics activeness fd_random --compute_metrics_ticks 2 --num_images 200"
    status, out, err = command(f"{TINY} --hp_lambda 0 {flags}")
    assert status == 0, err
    (run_dir,) = (os.path.join(results_dir, name) for name in os.listdir(results_dir))
    scalars = read_scalars(run_dir)
    assert list(scalars["FD_random"]) == list(scalars["activeness/effective_number"]) == [64, 96]
    assert 1 <= scalars["activeness/effective_number"][96] <= 4 and scalars["FD_random"][96] > 0
    assert len(re.findall(r"^  FD_random \S+  activeness/effective_number \S+$", out, re.MULTILINE)) == 2


def test_a_full_disk_leaves_the_earlier_snapshot(command, results_dir, monkeypatch):
    fsync, written = os.fsync, []

    def full(descriptor):
        if any("network-snapshot-" in entry for path, _, entries in os.walk(results_dir) for entry in entries
               if not entry.startswith(".")):  # fmt: skip
            written.append(descriptor)
            if len(written) > 1:  # the first is that of the directory, after the snapshot took its name
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return fsync(descriptor)

    monkeypatch.setattr(files.os, "fsync", full)
    status, _, err = command(f"{TINY} --hp_lambda 0")
    assert status == 2
    assert err.splitlines()[-1].startswith(f"train.py: error: {results_dir}") and "No space left on device; free" in err
    (run_dir,) = (os.path.join(results_dir, name) for name in os.listdir(results_dir))
    snapshot = load_snapshot(list_snapshots(run_dir)[0])
    assert snapshot.images_shown == 32
    assert not [entry for entry in os.listdir(run_dir) if entry.endswith(".part")]
    monkeypatch.undo()
    assert os.path.exists(os.path.join(run_dir, snapshot.state_name))


def test_a_diverging_run_stops_and_keeps_its_last_snapshot(command, results_dir):
    status, _, err = command(f"{TINY} --hp_lambda 0")
    assert status == 0, err
    (run_dir,) = (os.path.join(results_dir, name) for name in os.listdir(results_dir))
    with open(list_snapshots(run_dir)[0], "rb") as stream:
        before = stream.read()
    status, _, err = command("--resume_exp 0 --lr 1e30 --total_kimg 1")
    assert status == 2
    (line,) = [line for line in err.splitlines() if "error" in line]
    assert re.match(r"train.py: error: step 2\d: (loss|D)/\w+ is -?(nan|inf); .* snapshot is untouched", line), line
    with open(list_snapshots(run_dir)[0], "rb") as stream:
        assert stream.read() == before

"""Every script of training_scripts/, run from another folder on tiny datasets, with small networks for two steps."""

import glob
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from progan_helpers import PROGAN_EXPERIMENTS

from experiment_utils import options
from progan.data.writer import DatasetWriter
from progan.snapshot import load_snapshot

FAMILIES = ("vanilla", "infogan", "hessian_penalty_from_scratch", "hessian_penalty_fine_tuned")
# dataset: (its images, published weight in biased units, components that InfoGAN regresses, nz)
DATASETS = {
    "edges_and_shoes": ("edges_and_shoes", 0.1, 12, 12),
    "clevr_simple": ("clevr_simple", 0.1, 4, 12),
    "clevr_complex": ("clevr_complex", 0.1, 10, 12),
    "clevr_u": ("clevr_simple", 0.025, 3, 3),
    "clevr_1fov": ("clevr_1fov", 0.025, 1, 12),
}
TINY = "--resolution 4 --fmap_base 16 --minibatch 4 --tick_kimg 1 --compute_interp_ticks 0 --num_gpus 0 --num_threads 1"


def script(family, name):
    return os.path.join(PROGAN_EXPERIMENTS, "training_scripts", family, name + ".sh")


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """A folder with a dataset of 8 px under every name that a script asks for."""
    folder = tmp_path_factory.mktemp("data")
    for name in {images for images, *_ in DATASETS.values()}:
        for suffix in ("", "_32"):
            with DatasetWriter(str(folder / (name + suffix)), 8, 3) as writer:
                for i in range(8):
                    writer.add(np.full([8, 8, 3], 30 * i, np.uint8))
                writer.finish()
    return str(folder)


@pytest.fixture
def command_line(tmp_path, datasets, monkeypatch):
    """Run a script in tmp_path up to the command; return the words that the command was given, one list a command.

    The interpreter that the script finds in $PYTHON writes down its arguments: TensorFlow is imported once, not forty
    times.
    """
    monkeypatch.chdir(tmp_path)
    recorder = tmp_path / "python"
    recorder.write_text('#!/bin/sh\nprintf \'%s\\0\' "$@" >> "$RECORD"; printf \'\\n\' >> "$RECORD"\n')
    recorder.chmod(0o755)
    record = tmp_path / "words"

    def run(family, name, *arguments, **variables):
        environment = {key: text for key, text in os.environ.items() if key not in ("SMALL", "FROM", "NUM_GPUS")}
        environment.update(dict({"DATA_DIR": datasets}, **variables), PYTHON=str(recorder), RECORD=str(record))
        subprocess.run([script(family, name), *arguments], env=environment, check=True, stderr=subprocess.PIPE)
        commands = [line.split("\0")[:-1] for line in record.read_text().splitlines()]
        record.unlink()
        return commands

    return run


def test_there_is_a_script_for_every_family_and_dataset():
    found = glob.glob(os.path.join(PROGAN_EXPERIMENTS, "training_scripts", "*", "*.sh"))
    assert sorted(found) == sorted(script(family, name) for family in FAMILIES for name in DATASETS)
    assert all(os.access(path, os.X_OK) for path in found)


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_vanilla_then_every_other_family(train_command, command_line, tmp_path, name):
    """The four of a dataset, fine-tuning from the vanilla run; flags at the end win."""
    images, published_weight, infogan_nz, nz = DATASETS[name]
    weight = published_weight / 2  # k = 2: half of the biased units' weight
    for number, family in enumerate(FAMILIES):
        kimg = "0.02" if "tuned" in family else "0.01"
        (words,) = command_line(family, name, *TINY.split(), "--total_kimg", kimg, FROM="0")
        assert os.path.samefile(words[0], os.path.join(PROGAN_EXPERIMENTS, "train.py"))
        train_command.main(words[1:])
        (run_dir,) = glob.glob(str(tmp_path / "results" / f"{number:05d}-{images}-4px-*"))
        with open(os.path.join(run_dir, "options.json")) as stream:
            loss = json.load(stream)["loss"]
        snapshot = load_snapshot(glob.glob(os.path.join(run_dir, "network-snapshot-*.safetensors"))[0])
        assert snapshot.spec.nz == nz and snapshot.spec.infogan_nz == (infogan_nz if family == "infogan" else 0)
        assert loss["hp_lambda"] == (weight if "hessian" in family else 0)
        assert loss["infogan_lambda"] == (1 if family == "infogan" else 0)
        if family == "hessian_penalty_fine_tuned":
            assert (loss["hp_start_kimg"], loss["warmup_kimg"]) == (0.016, 10000)
        else:
            assert loss["warmup_kimg"] == 0


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", sorted(DATASETS))
def test_laptop_size(train_command, command_line, family, name):
    (words,) = command_line(family, name, SMALL="1", FROM="0")
    chosen = options.parse(train_command.TrainOptions, "", "", words[1:])
    images, published_weight, _, nz = DATASETS[name]
    assert chosen.dataset == images + ("" if images == "edges_and_shoes" else "_32")
    assert (chosen.resolution, chosen.fmap_base, chosen.warmup_kimg) == (32, 128, 100)
    assert chosen.hp_lambda == (published_weight / 2 if "hessian" in family else 0)
    if family == "hessian_penalty_fine_tuned":
        assert chosen.resume_exp == 0 and chosen.total_kimg == 600
    else:
        assert chosen.nz == nz and chosen.total_kimg == 300


def test_published_settings(command_line):
    (words,) = command_line("hessian_penalty_from_scratch", "clevr_1fov", NUM_GPUS="4")
    assert words[words.index("--total_kimg") + 1] == "50000" and words[words.index("--num_gpus") + 1] == "4"
    assert "--resolution" not in words and "--minibatch" not in words
    (words,) = command_line("hessian_penalty_fine_tuned", "clevr_u")
    assert words[words.index("--resume_snapshot") + 1] == "clevr_u_bl"


def test_small_datasets_that_are_missing_are_rendered_first(command_line, tmp_path):
    data_dir = str(tmp_path / "elsewhere")
    render, train = command_line("vanilla", "clevr_complex", SMALL="1", DATA_DIR=data_dir)
    assert os.path.samefile(render[0], os.path.join(PROGAN_EXPERIMENTS, "dataset_tool.py"))
    assert render[1:5] == ["render_clevr", os.path.join(data_dir, "clevr_complex_32"), "--variant", "complex"]
    assert train[train.index("--dataset") + 1] == "clevr_complex_32"
    (train,) = command_line("vanilla", "clevr_1fov", SMALL="1", DATA_DIR=data_dir)  # ships with the project
    assert train[train.index("--dataset") + 1] == "clevr_1fov_32"


def test_small_fine_tuning_asks_for_the_run_to_start_from(command_line):
    with pytest.raises(subprocess.CalledProcessError) as end:
        command_line("hessian_penalty_fine_tuned", "clevr_simple", SMALL="1")
    said = end.value.stderr.decode().splitlines()
    assert end.value.returncode == 2 and len(said) == 1 and "FROM: which run?" in said[0]


def test_a_real_interpreter(tmp_path, datasets):
    environment = dict(os.environ, PYTHON=sys.executable, DATA_DIR=datasets, SMALL="1")
    words = [script("infogan", "clevr_u"), *TINY.split(), "--total_kimg", "0.01"]
    subprocess.run(words, cwd=str(tmp_path), env=environment, check=True)
    assert glob.glob(str(tmp_path / "results" / "00000-clevr_simple_32-4px-infogan" / "network-snapshot-*"))

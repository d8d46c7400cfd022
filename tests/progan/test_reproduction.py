"""benchmarks/reproduction/run.py: what it trains, in what order, what it does again, and its table."""

import contextlib
import importlib.util
import os
import shutil
import sys

import pytest
from progan_helpers import PROGAN_EXPERIMENTS

from experiment_utils.errors import OptionError, UserError
from progan.snapshot import pretrained_models

FOLDER = os.path.join(PROGAN_EXPERIMENTS, "..", "benchmarks", "reproduction")

# In the place of train.py: notes its flags, and leaves the snapshots of a run that is interrupted once it has 100 kimg.
TRAINER = """
import os, shutil, sys
flags = sys.argv[1:]
value = lambda name: flags[len(flags) - 1 - flags[::-1].index(name) + 1]
with open(os.environ["NOTES"], "a") as stream:
    stream.write(" ".join(flags) + "\\n")
run_dir = os.path.join(value("--results_dir"), "00000-run")
resumed = os.path.isdir(run_dir)
os.makedirs(run_dir, exist_ok=True)
kimgs = [50, 100, 250] if resumed or "--infogan_nz" not in flags else [50, 100]
kimgs = [kimg for kimg in kimgs if kimg > 100 or "--resume_snapshot" not in flags]
for kimg in kimgs:
    shutil.copy(os.environ["SNAPSHOT"], os.path.join(run_dir, "network-snapshot-%06d.safetensors" % kimg))
with open(os.path.join(run_dir, "log.txt"), "a") as stream:
    for kimg in kimgs:
        stream.write("2026-01-01 00:00:00 tick 1    kimg %d.0      lod 0.00 (16x16)  2.40 s/kimg  loss D 0\\n" % kimg)
sys.exit(0 if kimgs[-1] == 250 else 7)
"""


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(FOLDER)
    spec = importlib.util.spec_from_file_location("reproduction_run", os.path.join(FOLDER, "run.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "commands").mkdir()
    (tmp_path / "commands" / "train.py").write_text(TRAINER)
    monkeypatch.setattr(module, "PROGAN_EXPERIMENTS", str(tmp_path / "commands"))
    monkeypatch.setattr(module, "METRICS", ("activeness", "diagonalness"))
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    monkeypatch.setenv("SNAPSHOT", pretrained_models()["clevr_1fov_16_fs"])
    monkeypatch.chdir(tmp_path)
    yield module
    sys.modules.pop("studies", None)


def test_a_study_that_is_interrupted_and_goes_on(run, tmp_path):
    flags = ["clevr_1fov_16", "--train_only", "--jobs", "1"]
    with pytest.raises(UserError, match=r"info-1: train.py ended with status 7; see .*info-1.log"):
        run.main(flags)
    study = run.STUDIES["clevr_1fov_16"]
    with contextlib.suppress(UserError):
        run.main(flags)  # goes on with those, and comes to the third
    run.main(flags)
    run.main(flags)  # everything is there
    given = (tmp_path / "notes").read_text().splitlines()
    models = [line.split("--results_dir ")[1].split()[0].split(os.sep)[-1] for line in given]
    assert sorted(set(models)) == sorted(f"{family}-{seed}" for family in study.families for seed in study.seeds)
    assert len(models) == len(set(models)) + len(study.seeds)  # InfoGAN's runs alone took two attempts
    assert max(models.index(f"fs-{s}") for s in study.seeds) < min(models.index(f"rel-{s}") for s in study.seeds)
    again = [line for line in given if "--resume_exp 0" in line]
    assert len(again) == len(study.seeds) and all("--total_kimg 250" in line for line in again)
    by_model = dict(zip(models, given))
    assert (
        os.path.join("bl-2", "00000-run", "network-snapshot-000100") in by_model["ft-2"]
    )  # the first from 100 kimg on
    assert os.path.join("fs-2", "00000-run", "network-snapshot-000250") in by_model["rel-2"]  # ... from 200 on
    assert "--hp_lambda 0.0125 --warmup_kimg 100" in by_model["ft-2"] and by_model["rel-2"].count("--hp_lambda 0 ") == 1


def test_measuring_and_the_table(run, tmp_path):
    study = run.STUDIES["clevr_1fov_16"]
    folder = str(tmp_path / "runs")
    for model in (("bl", 1), ("ft", 1), ("ft", 2)):
        run.train(study, *model, folder, "datasets") if model != ("ft", 2) else shutil.copytree(
            os.path.join(folder, "ft-1"), os.path.join(folder, "ft-2")
        )
    rows = run.measure(study, [("bl", 1), ("ft", 1), ("ft", 2)], folder, "datasets")
    assert [(row["family"], row["seed"], row["kimg"]) for row in rows] == [
        ("bl", 1, 250),
        ("ft", 1, 250),
        ("ft", 2, 250),
    ]
    assert rows[0]["activeness/effective_number"] == pytest.approx(1.026, abs=0.01)  # of the model card
    assert rows[0]["minutes"] == pytest.approx(250 * 2.4 / 60) and rows[1]["minutes"] == pytest.approx(150 * 2.4 / 60)
    assert [kimg for kimg, *_ in rows[0]["history"]] == [50, 100, 250]
    assert os.path.getsize(os.path.join(folder, "ft-1.gif")) > 10000
    assert run.measure(study, [("bl", 1)], folder, "datasets") == rows[:1]  # read, not measured again

    for row, number in zip(rows, (6.0, 2.0, 3.0)):
        row.update({"activeness/effective_number": number, "faithfulness/nearest_image_baseline": 0.587})
    table = run.report("clevr_1fov_16", study, rows)
    assert "| vanilla (1) | 6.00 |" in table and "| fine-tuned (2) | 2.50 ± 0.71 |" in table
    assert "| fine-tuned, seed 2 | 3.00 |" in table and "0.59 of 255" in table
    run.save_curves(str(tmp_path / "curves.png"), rows)
    assert os.path.getsize(str(tmp_path / "curves.png")) > 10000


def test_nothing_to_measure_yet(run):
    with pytest.raises(OptionError, match="--measure_only: no model of clevr_1fov_16 is finished in "):
        run.main(["clevr_1fov_16", "--measure_only"])


def test_an_unknown_study(run):
    with pytest.raises(OptionError, match=r"which study\? \(clevr_1fov_16, "):
        run.main(["nothing"])

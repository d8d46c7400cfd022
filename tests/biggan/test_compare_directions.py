"""compare_directions.py: what it prints and writes, where it finds things, what it refuses."""

import csv
import json
import os

import numpy as np
import planted
import pytest
import torch
from biggan_helpers import load_command, refusal, run

from biggan import biggan, directions, sources, weights
from factor_scores import FactorRegressor

GAUGES = ["--G_path", "planted:Gauges", "--device", "cpu"]
QUICK = ["--penalty_samples", "64", "--factor_samples", "8", "--factor_steps", "4", "--baseline_seeds", "0", "1"]


@pytest.fixture(scope="module")
def command():
    return load_command("compare_directions")


@pytest.fixture(scope="module")
def regressor():
    images, factors = planted.data(300, seed=0)
    return FactorRegressor.fit(images, factors, planted.INFO)


@pytest.fixture(scope="module")
def files(tmp_path_factory, regressor):
    """A folder of two direction files (the true ones, but for a little) and a regressor."""
    folder = tmp_path_factory.mktemp("files")
    for seed in range(2):
        off = 0.02 * torch.randn(3, planted.DIM_Z, generator=torch.Generator().manual_seed(seed))
        directions.save(str(folder / f"hp{seed}.pt"), planted.rotation()[:3] + off)
    regressor.save(str(folder / "reader.safetensors"))
    return folder


def read_csv(path):
    with open(str(path), newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_table_the_files_and_the_verdict(command, files, tmp_path, capfd):
    arguments = [
        "--load_A",
        str(files / "hp0.pt"),
        str(files / "hp1.pt"),
        "--regressor",
        str(files / "reader.safetensors"),
    ]
    command.main([*GAUGES, *QUICK, *arguments, "--out_dir", str(tmp_path)])
    lines = capfd.readouterr().out.splitlines()
    assert "3 directions in z[0:6], 64 samples" in lines[0]
    assert "upper R² 0.99" in lines[1] and "noise" in lines[1]
    start = next(number for number, line in enumerate(lines) if line.split()[:2] == ["sets", "penalty"])
    names = ["Hessian Penalty", "random", "axes of z", "PCA (GANSpace)", "SeFa"]
    for line, name, sets in zip(lines[start + 1 :], names, "22121"):
        assert line.startswith(name) and line[len(name) :].split()[0] == sets
    (verdict,) = [line for line in lines if line.startswith("  penalty")]
    assert "NOT the best" in verdict and "of SeFa" in verdict  # whose first layer is the truth itself
    stem = "planted_Gauges"
    assert sorted(os.listdir(str(tmp_path))) == [f"{stem}-{kind}.csv" for kind in ("directions", "methods", "sets")] + [
        f"{stem}.png"
    ]
    assert lines[-4:] == [
        str(tmp_path / f"{stem}{end}") for end in ("-methods.csv", "-sets.csv", "-directions.csv", ".png")
    ]


def test_the_numbers_tell_the_true_directions_from_others(command, files, tmp_path):
    arguments = ["--load_A", str(files / "hp0.pt"), "--regressor", str(files / "reader.safetensors")]
    command.main([*GAUGES, *QUICK, *arguments, "--out_dir", str(tmp_path)])
    methods = {row["method"]: row for row in read_csv(tmp_path / "planted_Gauges-methods.csv")}
    ours, random = methods["Hessian Penalty"], methods["random"]
    assert float(ours["penalty"]) < 0.1 * float(random["penalty"])
    assert float(ours["energy_share"]) > 0.95 > float(random["energy_share"])
    assert float(ours["purity"]) > 0.85 > float(random["purity"]) and float(ours["coverage"]) == 3
    assert ours["sets"] == "1" and ours["penalty_std"] == "nan" and float(ours["penalty_se"]) > 0
    rows = read_csv(tmp_path / "planted_Gauges-directions.csv")
    assert len(rows) == 3 * (1 + 2 + 1 + 2 + 1)
    assert [row["factor"] for row in rows[:3]] == ["upper", "middle", "light"]
    for row in rows[:3]:
        changes = [float(row[f"change_{info['name']}"]) for info in planted.INFO]
        assert float(row["purity"]) == pytest.approx(max(changes) / sum(changes))
    sets = read_csv(tmp_path / "planted_Gauges-sets.csv")
    of_random = [float(row["penalty"]) for row in sets if row["method"] == "random"]
    assert float(random["penalty"]) == pytest.approx(np.mean(of_random))
    assert float(random["penalty_std"]) == pytest.approx(np.std(of_random, ddof=1))


def test_files_are_told_apart_by_the_objective_of_their_runs(command, files, tmp_path, capfd):
    paths = [str(files / "hp0.pt")]
    for run_name, flags in [
        ("a", {"objective": "diagonal"}), ("b", {"objective": "diagonal"}), ("c", {"objective": "orojar"}),
        ("d", {"objective": "my_own"}), ("e", {}),
    ]:  # fmt: skip
        (tmp_path / run_name).mkdir()
        (tmp_path / run_name / "options.json").write_text(json.dumps({"flags": flags}))
        paths.append(str(tmp_path / run_name / "A.pt"))
        directions.save(paths[-1], planted.rotation()[:3])
    command.main([*GAUGES, *QUICK, "--load_A", *paths, "--out_dir", str(tmp_path / "out")])
    rows = read_csv(tmp_path / "out" / "planted_Gauges-methods.csv")
    found = {row["method"]: int(row["sets"]) for row in rows}
    names = ["Hessian Penalty", "diagonal objective", "OroJaR penalty", "my_own"]
    assert list(found)[:5] == [*names, "random"] and list(found.values())[:4] == [2, 2, 1, 1]
    lines = capfd.readouterr().out.splitlines()
    asked = [line for line in lines if line.startswith("Are the")]
    assert asked == [f"Are the directions of the {name} the best?" for name in names]


def test_without_factors_one_line_says_so(command, files, tmp_path, capfd):
    arguments = ["--G_path", "planted:Unconditional", "--device", "cpu", *QUICK, "--out_dir", str(tmp_path)]
    command.main([*arguments, "--load_A", str(files / "hp0.pt")])
    out = capfd.readouterr().out
    assert out.count("no scores of true factors") == 1 and "purity" not in out and "coverage" not in out
    assert "left out: PCA (GANSpace): " in out and "left out: SeFa: " in out  # there is no linear layer to look into
    assert sorted(os.listdir(str(tmp_path))) == [
        "planted_Unconditional-methods.csv",
        "planted_Unconditional-sets.csv",
        "planted_Unconditional.png",
    ]
    assert list(read_csv(tmp_path / "planted_Unconditional-sets.csv")[0]) == [
        "method",
        "set",
        "penalty",
        "energy_share",
    ]


def test_what_lies_beside_a_generator_is_found(command, regressor, tmp_path, capfd):
    spec = biggan.GeneratorSpec(widths=(4, 4, 4), num_classes=2, dim_z=6, shared_dim=4)
    path = str(tmp_path / "tiny.safetensors")
    weights.save_generator(path, biggan.initialise(biggan.Generator(spec)))
    assert sources.files_beside(path) == (None, [])
    for name in ("tiny-b.pt", "tiny-a.pt", "other.pt"):
        directions.save(str(tmp_path / name), torch.eye(3, 6))
    regressor.save(str(tmp_path / "tiny-regressor.safetensors"))
    assert sources.files_beside(path)[1] == [str(tmp_path / "tiny-a.pt"), str(tmp_path / "tiny-b.pt")]
    command.main(["--G_path", path, "--device", "cpu", *QUICK, "--fix_class", "1", "--out_dir", str(tmp_path / "out")])
    rows = read_csv(tmp_path / "out" / "tiny-class1-sets.csv")
    sets = [row["set"] for row in rows if row["method"] == "Hessian Penalty"]
    assert sets == [str(tmp_path / "tiny-a.pt"), str(tmp_path / "tiny-b.pt")]
    assert "purity" in rows[0]


def test_directions_that_are_not_orthonormalised_get_length_1(command, tmp_path):
    A = planted.rotation()[:2] + 0.3 * planted.rotation()[2]  # neither orthogonal nor of length 1
    penalties = []
    for scale in (1, 3):
        directions.save(str(tmp_path / "A.pt"), scale * A)
        arguments = ["--load_A", str(tmp_path / "A.pt"), "--no_ortho", "--out_dir", str(tmp_path / "out")]
        command.main([*GAUGES, *QUICK, *arguments])
        penalties.append(float(read_csv(tmp_path / "out" / "planted_Gauges-sets.csv")[0]["penalty"]))
    assert penalties[0] == pytest.approx(penalties[1], rel=1e-3) and penalties[0] > 1e-3


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    for name, A in (("narrow", torch.eye(2, 4)), ("two", torch.eye(2, 6)), ("three", torch.eye(3, 6))):
        directions.save(str(folder / f"{name}.pt"), A)
    (folder / "broken").mkdir()
    (folder / "broken" / "options.json").write_text("{")
    directions.save(str(folder / "broken" / "three.pt"), torch.eye(3, 6))
    images, factors = planted.data(60, seed=0)
    FactorRegressor.fit(images[:, ::2, ::2], factors, planted.INFO).save(str(folder / "small.safetensors"))
    return folder


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], ["--load_A", "which"]),
        (["--load_A", "random"], ["--load_A random", "anyway"]),
        (["--load_A", "narrow.pt"], ["narrow.pt", "4", "6"]),
        (["--load_A", "two.pt", "three.pt"], ["2 and 3 directions", "--ndirs 2"]),
        (["--load_A", "three.pt", "--fix_class", "3"], ["--fix_class 3", "0 to 2"]),
        (["--load_A", "three.pt", "--regressor", "two.pt"], ["two.pt", "safetensors"]),
        (["--load_A", "three.pt", "--regressor", "nowhere"], ["nowhere"]),
        (
            ["--load_A", "three.pt", "--regressor", "small.safetensors"],
            ["small.safetensors", "(8, 8, 3)", "(16, 16, 3)"],
        ),
        (["--load_A", "broken/three.pt"], ["options.json", "not valid JSON"]),
        (["--load_A", "three.pt", "--baseline_seeds", "-1"], ["--baseline_seeds -1"]),
        (["--load_A", "three.pt", "--penalty_samples", "1"], ["--penalty_samples 1"]),
    ],
)
def test_bad_input(command, bad_files, monkeypatch, capfd, arguments, words):
    monkeypatch.chdir(bad_files)
    message = refusal(run("compare_directions", command, capfd, [*GAUGES, *arguments]))
    assert all(word in message for word in words) and not (bad_files / "comparisons").exists()

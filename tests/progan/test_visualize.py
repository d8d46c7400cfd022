"""visualize.py: which models it finds, what it writes, what it refuses."""

import os

import numpy as np
import pytest
from explorer_pages import codec_error, page_data
from make_tiny_snapshot import SNAPSHOT
from PIL import Image
from progan_helpers import load_command

from experiment_utils.errors import UserError
from progan.inference import TrainedGenerator
from progan.snapshot import load_snapshot, save_snapshot, snapshot_path
from progan.traversal import activeness_by_component


@pytest.fixture(scope="module")
def command():
    return load_command("visualize")


def visualize(command, out_dir, *arguments):
    command.main(["--out_dir", str(out_dir), "--steps", "4", "--samples", "3", *map(str, arguments)])
    return sorted(os.listdir(str(out_dir)))


def rows(printed):
    """[(component, activeness)] as printed, one a component."""
    words = [line.split() for line in printed.splitlines() if line.startswith("  z")]
    return [(int(name[1:]), float(value)) for name, value, *_ in words]


def test_the_shipped_model_has_one_component_that_moves_the_cube(command, tmp_path, capsys):
    files = visualize(command, tmp_path, "--models", "clevr_1fov_16_fs")
    assert files == ["clevr_1fov_16_fs-seed0.gif"]
    scores = np.array([score for _, score in rows(capsys.readouterr().out)])
    assert len(scores) == 12 and (np.diff(scores) <= 0).all()
    assert scores.sum() ** 2 / (scores**2).sum() < 3
    with Image.open(str(tmp_path / files[0])) as gif:
        assert gif.n_frames == 6 and gif.info["loop"] == 0  # four steps there, two back


def test_rows_are_sorted_by_activeness_unless_told_otherwise(command, tmp_path, capsys):
    with TrainedGenerator(load_snapshot(SNAPSHOT)) as generator:
        truth = activeness_by_component(generator, generator.spec.nz)
    visualize(command, tmp_path, "--models", SNAPSHOT)
    printed = rows(capsys.readouterr().out)
    assert [component for component, _ in printed] == np.argsort(-truth, kind="stable").tolist()
    assert dict(printed) == pytest.approx(dict(enumerate(truth)), abs=1e-5)
    visualize(command, tmp_path, "--models", SNAPSHOT, "--no_sort")
    assert [component for component, _ in rows(capsys.readouterr().out)] == list(range(len(truth)))


def test_every_format_several_models_and_parts(command, tmp_path):
    run_dir = tmp_path / "results" / "00004-a-run"
    run_dir.mkdir(parents=True)
    snapshot = load_snapshot(SNAPSHOT)
    for images_shown in (3000, 5000):
        save_snapshot(snapshot_path(str(run_dir), images_shown), snapshot)
    nz = snapshot.spec.nz
    arguments = [
        "--models",
        4,
        "clevr_1fov_16_fs",
        "--results_dir",
        tmp_path / "results",
        "--snapshot_kimgs",
        3,
        "latest",
    ]
    arguments += ["--format", "mp4", "stills", "--n_frames_to_save", 2, "--seeds", 1, 2]
    files = visualize(command, tmp_path / "out", *arguments)
    stems = [f"{model}-seed{seed}" for model in ("00004-a-run-000003", "clevr_1fov_16_fs") for seed in (1, 2)]
    assert files == sorted(stem + end for stem in stems for end in (".mp4", "_00.png", "_01.png", "-sweep.png"))
    files = visualize(command, tmp_path / "parts", "--models", SNAPSHOT, "--nz_per_vid", nz - 1, "--stills_only")
    assert sum("-part0" in name for name in files) == sum("-part1" in name for name in files) == len(files) // 2
    sizes = [Image.open(str(tmp_path / "parts" / name)).size for name in files if "_00" in name]
    assert sizes[0][1] > sizes[1][1]  # nz - 1 rows, then one


def test_transposing_exchanges_rows_and_columns(command, tmp_path):
    (plain,) = visualize(command, tmp_path / "a", "--models", SNAPSHOT)
    visualize(command, tmp_path / "b", "--models", SNAPSHOT, "--transpose")
    rows_of_3, columns_of_3 = (Image.open(str(tmp_path / name / plain)).size for name in "ab")  # of four components
    assert rows_of_3[0] < columns_of_3[0] and rows_of_3[1] > columns_of_3[1]


def test_models_of_different_sizes_stand_side_by_side_on_one_page(command, tmp_path, capsys):
    arguments = ["--format", "html", "--html_steps", 3, "--seeds", 5, "--extent", 1.5]
    (name,) = visualize(command, tmp_path, "--models", SNAPSHOT, "clevr_1fov_32_fs", *arguments)
    stem = os.path.splitext(os.path.basename(SNAPSHOT))[0]
    assert name == f"{stem}-vs-clevr_1fov_32_fs-seed5.html"
    assert capsys.readouterr().out.split()[-1] == str(tmp_path / name)
    title, data = page_data(tmp_path / name)
    assert title == "What each component of z does" and data["positions"] == [-1.5, 0, 1.5]
    snapshot, scores = load_snapshot(SNAPSHOT), {}
    with TrainedGenerator(snapshot) as generator:
        scores = activeness_by_component(generator, snapshot.spec.nz, extent=1.5)
        order = np.argsort(-scores, kind="stable")
        z = np.random.RandomState(5).standard_normal([3, snapshot.spec.nz]).astype(np.float32)
        z /= np.sqrt((z**2).mean(1, keepdims=True) + 1e-8)
        sweeps = []
        for value in (-1.5, 0, 1.5):
            z[:, order[0]] = value
            sweeps.append(generator(z, normalize_latents=False))
    ours, shipped = data["panels"]
    assert (ours["name"], shipped["name"]) == (stem, "clevr_1fov_32_fs")
    assert ours["labels"] == [f"z{component}" for component in order] and len(shipped["labels"]) == 12
    assert ours["values"] == pytest.approx(scores[order], abs=1e-5) and ours["valueName"] == "activeness"
    assert shipped["values"] == sorted(shipped["values"], reverse=True)
    for column in range(3):
        assert codec_error(ours, 0, column, np.stack(sweeps, 1)[column]) < 4
    assert (ours["width"], shipped["width"]) == (128, 128)  # whatever the networks make, small images are enlarged


def test_a_page_beside_a_video_and_of_the_first_rows(command, tmp_path):
    arguments = ["--models", SNAPSHOT, "--format", "html", "gif", "--html_steps", 3, "--html_rows", 2, "--no_sort"]
    page, gif = sorted(visualize(command, tmp_path, *arguments), key=lambda name: name.endswith("gif"))
    stem = os.path.splitext(os.path.basename(SNAPSHOT))[0]
    assert (page, gif) == (f"{stem}-seed0.html", f"{stem}-seed0.gif")
    title, data = page_data(tmp_path / page)
    assert title.endswith(stem) and data["panels"][0]["labels"] == ["z0", "z1"]


def test_a_page_that_would_be_too_large(command, tmp_path):
    arguments = ["--models", SNAPSHOT, "--format", "html", "--max_mb", "0.01", "--out_dir", str(tmp_path)]
    with pytest.raises(UserError) as caught:
        command.main(arguments)
    flags = ("--max_mb 0.01", "--html_quality", "--html_steps", "--samples", "--html_rows", "seed0.html", " MB")
    assert all(word in str(caught.value) for word in flags) and "\n" not in str(caught.value)
    assert os.listdir(str(tmp_path)) == []


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--models"], ["--models"]),
        ([], ["--models"]),
        (["--models", "nothing"], ["nothing", "clevr_1fov_16_fs"]),
        (["--models", "7"], ["7", "results"]),
        (["--models", __file__], ["test_visualize.py", "safetensors"]),
        (["--models", "clevr_1fov_16_fs", "--snapshot_kimgs", "1", "2"], ["--snapshot_kimgs"]),
        (["--models", "clevr_1fov_16_fs", "--snapshot_kimgs", "first"], ["first"]),
        (["--models", "clevr_1fov_16_fs", "--fps", "60"], ["--fps 60", "mp4"]),
        (["--models", "clevr_1fov_16_fs", "--steps", "1"], ["--steps 1"]),
        (["--models", "clevr_1fov_16_fs", "--html_steps", "1"], ["--html_steps 1"]),
        (["--models", "clevr_1fov_16_fs", "--html_quality", "101"], ["--html_quality 101"]),
        (["--models", "clevr_1fov_16_fs", "--max_mb", "0"], ["--max_mb 0"]),
    ],
)
def test_bad_input(command, tmp_path, arguments, words):
    with pytest.raises(UserError) as caught:
        command.main([*arguments, "--out_dir", str(tmp_path)])
    assert all(word in str(caught.value) for word in words) and os.listdir(str(tmp_path)) == []

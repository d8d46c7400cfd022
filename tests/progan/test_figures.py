"""figures.py: the numbers of every figure, the files, and what is refused."""

import json
import os

import make_tiny_snapshot
import numpy as np
import pytest
from make_tiny_snapshot import SNAPSHOT
from PIL import Image
from progan_helpers import load_command, random_networks

from experiment_utils.errors import UserError
from factor_scores import effective_number
from progan import figures, plots
from progan.figures import Settings
from progan.inference import TrainedGenerator
from progan.metrics.hessian import diagonal_statistics, image_hessians, summary
from progan.networks import NetworkSpec
from progan.snapshot import Snapshot, load_snapshot, save_snapshot, snapshot_path
from progan.traversal import activeness_by_component

SHIPPED = make_tiny_snapshot.SHIPPED
ON_ONE_THREAD = ["--num_gpus", "0", "--num_threads", "1"]


@pytest.fixture(scope="module")
def command():
    return load_command("figures")


def draw(command, out_dir, *arguments):
    """Run figures.py; return {file name without seed and ending: JSON value}."""
    command.main(["--out_dir", str(out_dir), *ON_ONE_THREAD, *map(str, arguments)])
    values = {}
    for name in sorted(os.listdir(str(out_dir))):
        if name.endswith(".json"):
            with open(str(out_dir / name)) as stream:
                values[name[: -len(".json")]] = json.load(stream)
    return values


def quadratic_sample(A):
    """A generator, as the figures call it, whose pixel p is ½ zᵀ A_p z. A: [H, W, C, n, n]"""

    def sample(z, normalize_latents=True, minibatch=100, dtype=np.uint8):
        assert normalize_latents
        z = np.asarray(z, np.float64)
        images = np.einsum("hwcij,ni,nj->nhwc", A, z, z) / 2
        return images.astype(dtype) if dtype is np.float32 else np.uint8(np.clip(images * 127.5 + 128, 0, 255))

    return sample


def planted(n=4):
    """[3, 2, 3, n, n]: small symmetric matrices; at row 2, column 1, green, one with large entries off the diagonal."""
    random = np.random.RandomState(0)
    A = random.standard_normal([3, 2, 3, n, n]) / 10
    A = A + np.swapaxes(A, -1, -2)
    A[2, 1, 1] = np.diag([1.0] * n) + 5 * np.eye(n)[::-1]
    return A


# ----------------------------------------------------------------------------------------------------------------------
# Numbers, on generators whose Hessians are known


def test_hessians_are_taken_where_the_penalty_is_largest():
    A, z = planted(), np.random.RandomState(1).standard_normal([3, 4])
    found = figures.hessians(quadratic_sample(A), z, Settings(directions=100))
    np.testing.assert_array_equal(found["pixels"], [[2, 1, 1]] * 3)
    np.testing.assert_allclose(found["hessians"], np.array([A[2, 1, 1]] * 3), atol=0.01)
    off = A[2, 1, 1] - np.diag(np.diag(A[2, 1, 1]))
    np.testing.assert_allclose(found["penalties"], 2 * np.square(off).sum(), rtol=0.5)


def test_a_map_shows_the_largest_penalty_of_a_pixel_s_channels():
    A, z = np.zeros([2, 2, 3, 4, 4]), np.random.RandomState(1).standard_normal([200, 4])
    for channel, size in enumerate((1, 3, 2)):
        A[0, 1, channel] = size * np.eye(4)[::-1]
    A[1, 0] = 7 * np.eye(4)  # bends, but has no penalty
    found = figures.heatmaps(quadratic_sample(A), z, Settings())
    mean = found["penalties"].mean(axis=0)
    assert found["penalties"].shape == (200, 2, 2) and found["images"].dtype == np.uint8
    assert mean[0, 1] == pytest.approx(2 * 4 * 3**2, rel=0.3)
    assert mean[0, 0] < 1e-3 and mean[1, 0] < 1e-3


def test_the_number_of_directions_is_the_published_one_unless_told_otherwise():
    for directions, expected in ((None, {"hessians": 200, "heatmaps": 2}), (5, {"hessians": 5, "heatmaps": 5})):
        assert {fig: Settings(directions=directions).directions_of(fig) for fig in expected} == expected
    calls = []

    def sample(z, minibatch, dtype=np.uint8):
        calls.append((len(z), dtype))
        return np.zeros([len(z), 2, 2, 3], dtype)

    figures.heatmaps(sample, np.zeros([3, 4]), Settings())
    assert sum(n for n, dtype in calls if dtype is np.float32) == 3 * (1 + 2 * 2)


def test_diag_says_how_diagonal_the_hessians_are():
    A, z = planted(), np.random.RandomState(1).standard_normal([5, 4])
    found = figures.diag(quadratic_sample(A), z, Settings(epsilon=0.25))
    flat, diagonal = np.abs(A).reshape(-1, 4, 4), np.eye(4, dtype=bool)
    on, off = flat[:, diagonal], flat[:, ~diagonal]
    assert found["numbers"]["largest_on_diagonal"] == pytest.approx((on.max(axis=1) > off.max(axis=1)).mean(), abs=0.02)
    assert found["numbers"]["ratio"] == pytest.approx((on.mean(axis=1) / off.mean(axis=1)).mean(), rel=1e-2)
    assert found["numbers"]["energy_share"] == pytest.approx((on**2).sum() / (flat**2).sum(), rel=1e-2)
    assert len(found["statistics"]["ratio"]) == 5 and found["standard_errors"]["ratio"] < 0.01


# ----------------------------------------------------------------------------------------------------------------------
# The command


@pytest.fixture(scope="module")
def everything(command, tmp_path_factory):
    """All figures of the shipped model beside the tiny one, which has another number of components."""
    out_dir = tmp_path_factory.mktemp("figures")
    names = ["--model_names", "Ours", "Random", "--dataset_names", "CLEVR-1FOV", "noise"]
    arguments = ["--fig", *command.FIGURES, "--models", SHIPPED, SNAPSHOT, "--samples", 2, *names]
    return out_dir, draw(command, out_dir, *arguments)


def test_every_figure_comes_as_png_pdf_and_json(command, everything):
    out_dir, values = everything
    assert sorted(values) == sorted(f"{fig}-seed0" for fig in command.FIGURES)
    assert len(os.listdir(str(out_dir))) == 3 * len(command.FIGURES)
    for stem, value in values.items():
        with open(str(out_dir / f"{stem}.pdf"), "rb") as stream:
            assert stream.read(5) == b"%PDF-"
        with Image.open(str(out_dir / f"{stem}.png")) as image:
            assert min(image.size) > 150 and len(image.convert("RGB").getcolors(10**7)) > 10
        assert value["figure"] == stem.split("-")[0] and value["seed"] == 0 and value["samples"] == 2
        assert [model["name"] for model in value["models"]] == ["Ours", "Random"]
        assert [model["dataset"] for model in value["models"]] == ["CLEVR-1FOV", "noise"]
        assert [model["nz"] for model in value["models"]] == [12, 4]


def test_the_numbers_are_those_of_the_generators(everything):
    _, values = everything
    with TrainedGenerator(load_snapshot(SNAPSHOT), num_threads=1) as generator:
        z = np.random.RandomState(0).standard_normal([2, 4])

        def G(latents):
            return generator(latents, dtype=np.float32)

        dense = list(image_hessians(G, z))
        statistics = diagonal_statistics(G, z)
        diag, hessians = (values[f"{fig}-seed0"]["models"][1] for fig in ("diag", "hessians"))
        assert diag["numbers"] == pytest.approx(summary(statistics), rel=1e-3)
        for pixel, hessian, all_of_them in zip(hessians["pixels"], hessians["hessians"], dense):
            np.testing.assert_allclose(hessian, all_of_them[tuple(pixel)], atol=2e-3)
        maps = figures.heatmaps(generator, z, Settings())
        heatmaps = values["heatmaps-seed0"]["models"][1]
        assert heatmaps["max"] == pytest.approx(maps["penalties"].max(axis=(1, 2)), rel=1e-3)
        peaks = [maps["penalties"][i][tuple(at)] for i, at in enumerate(heatmaps["max_at_row_and_column"])]
        assert peaks == pytest.approx(heatmaps["max"], rel=1e-3)


def test_activeness_is_what_visualize_says(command, tmp_path):
    value = draw(command, tmp_path, "--fig", "active", "--models", SNAPSHOT)["active-seed0"]["models"][0]
    with TrainedGenerator(load_snapshot(SNAPSHOT), num_threads=1) as generator:
        truth = activeness_by_component(generator, generator.spec.nz)
        before = activeness_by_component(generator, generator.spec.nz, pre_norm=True, extent=1.5)
    assert value["activeness"] == pytest.approx(truth, rel=1e-3)
    assert value["effective_number"] == pytest.approx(effective_number(truth), rel=1e-3)
    flags = ["--interpolate_pre_norm", "--extent", 1.5]
    value = draw(command, tmp_path, "--fig", "active", "--models", SNAPSHOT, *flags)["active-seed0"]["models"][0]
    assert value["activeness"] == pytest.approx(before, rel=1e-3)


def test_the_shipped_model_is_told_from_a_random_one(everything, capsys):
    """Trained with the penalty: a nearly diagonal Hessian and a single component at work."""
    _, values = everything
    ours, random = (model["numbers"] for model in values["diag-seed0"]["models"])
    assert ours["energy_share"] > 0.7 > random["energy_share"]
    ours, random = (model["effective_number"] for model in values["active-seed0"]["models"])
    assert ours < 1.5 and random > 3


def test_runs_seeds_formats_and_the_dataset_of_the_run(command, tmp_path, capsys):
    snapshot = load_snapshot(SNAPSHOT)
    snapshot.options["flags"]["dataset"] = "squares"
    for number in (4, 5):
        run_dir = tmp_path / "results" / f"0000{number}-a-run"
        run_dir.mkdir(parents=True)
        for images_shown in (3000, 5000):
            save_snapshot(snapshot_path(str(run_dir), images_shown), snapshot)
    arguments = ["--fig", "heatmaps", "--models", 4, 5, "--results_dir", tmp_path / "results"]
    arguments += ["--snapshot_kimgs", 3, "latest", "--seeds", 1, 2, "--samples", 1, "--format", "png", "--shared_scale"]
    values = draw(command, tmp_path / "out", *arguments)
    assert sorted(os.listdir(str(tmp_path / "out"))) == sorted(
        f"heatmaps-seed{seed}.{end}" for seed in (1, 2) for end in ("png", "json")
    )
    for seed in (1, 2):
        models = values[f"heatmaps-seed{seed}"]["models"]
        assert [model["name"] for model in models] == ["00004-a-run-000003", "00005-a-run-000005"]
        assert [model["dataset"] for model in models] == ["squares"] * 2
    assert values["heatmaps-seed1"]["models"][0]["max"] != values["heatmaps-seed2"]["models"][0]["max"]
    assert "00005-a-run-000005" in capsys.readouterr().out


def test_snapshots_of_one_name_are_numbered(command, tmp_path):
    snapshot = load_snapshot(SNAPSHOT)
    paths = [str(tmp_path / run / "same.safetensors") for run in "ab"]
    for path in paths:
        save_snapshot(path, snapshot)
    value = draw(command, tmp_path / "out", "--fig", "active", "--models", *paths, SNAPSHOT, "--samples", 1)
    assert [model["name"] for model in value["active-seed0"]["models"]] == ["same (1)", "same (2)", "tiny"]


def test_grey_images_of_one_component(command, tmp_path):
    """A single component, normalised, is 1 or −1: nothing bends, and every figure can still be drawn."""
    spec = NetworkSpec(resolution=8, channels=1, nz=1, fmap_base=16, fmap_max=6)
    save_snapshot(str(tmp_path / "one.safetensors"), Snapshot(spec, random_networks(spec, seed=2), 0.0, 0, {}))
    arguments = ["--fig", *command.FIGURES, "--models", tmp_path / "one.safetensors", "--samples", 1]
    values = draw(command, tmp_path / "out", *arguments, "--minibatch_size", 1)
    numbers = values["diag-seed0"]["models"][0]["numbers"]
    assert numbers == {"energy_share": None, "ratio": 0, "largest_on_diagonal": 0}  # JSON has no nan
    assert values["active-seed0"]["models"][0]["effective_number"] == pytest.approx(1)


def test_the_same_call_writes_the_same_bytes(command, tmp_path):
    arguments = ["--fig", "diag", "--models", SNAPSHOT, "--samples", 2]
    for name in "ab":
        draw(command, tmp_path / name, *arguments)
    for name in os.listdir(str(tmp_path / "a")):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--fig", "diag"], ["--models"]),
        (["--models", SHIPPED], ["--fig", "heatmaps"]),
        (["--models", SHIPPED, "--fig", "bars"], ["--fig", "bars"]),
        (["--models", SHIPPED, "--fig", "active", "--model_names", "a", "b"], ["--model_names", "2 for 1"]),
        (["--models", *[SHIPPED] * 3, "--fig", "active", "--dataset_names", "a", "b"], ["--dataset_names", "2 for 3"]),
        (["--models", SHIPPED, "--fig", "diag", "--snapshot_kimgs", "1", "2"], ["--snapshot_kimgs"]),
        (["--models", "nothing", "--fig", "diag"], ["nothing", SHIPPED]),
        (["--models", "7", "--fig", "diag"], ["7", "results"]),
        (["--models", __file__, "--fig", "diag"], ["test_figures.py"]),
        (["--models", SHIPPED, "--fig", "diag", "--epsilon", "0"], ["--epsilon 0"]),
        (["--models", SHIPPED, "--fig", "diag", "--samples", "0"], ["--samples 0"]),
        (["--models", SHIPPED, "--fig", "heatmaps", "--num_rademacher_samples", "1"], ["--num_rademacher_samples 1"]),
        (["--models", SHIPPED, "--fig", "diag", "--seeds", "-1"], ["--seeds -1"]),
    ],
)
def test_bad_input(command, tmp_path, arguments, words):
    with pytest.raises(UserError) as caught:
        command.main([*arguments, *ON_ONE_THREAD, "--out_dir", str(tmp_path)])
    assert all(word in str(caught.value) for word in words) and os.listdir(str(tmp_path)) == []


# ----------------------------------------------------------------------------------------------------------------------
# The drawings


def text_of(figure):
    return [text.get_text() for text in figure.findobj(plots.plt.Text) if text.get_text()]


def test_active_has_a_panel_a_dataset_and_sorted_bars_a_model():
    scores = [np.array([0.1, 0.4, 0.2]), np.array([0.3, 0.3]), np.array([0.0, 1.0, 0.0])]
    measured = [{"activeness": each, "effective_number": effective_number(each)} for each in scores]
    labels = [("Vanilla", "1FOV"), ("Ours", "1FOV"), ("Vanilla", "Simple")]
    figure = plots.draw("active", [plots.Model(*label, each) for label, each in zip(labels, measured)])
    first, second = figure.axes
    bars = [[bar.get_height() for bar in axis.patches] for axis in (first, second)]
    assert bars == [[0.4, 0.2, 0.1, 0.3, 0.3], [1.0, 0.0, 0.0]]
    assert [axis.get_title() for axis in (first, second)] == ["1FOV", "Simple"]
    labels = [label.get_text() for axis in (first, second) for label in axis.get_xticklabels()]
    assert labels == [f"{name}\neffective: {n}" for name, n in (("Vanilla", 2.3), ("Ours", "2.0"), ("Vanilla", "1.0"))]
    assert first.patches[0].get_facecolor() == second.patches[0].get_facecolor() != first.patches[3].get_facecolor()
    x = [bar.get_x() for bar in first.patches]
    assert x == sorted(x) and len(set(x)) == len(x)
    plots.plt.close(figure)


def test_hessians_show_magnitudes_on_their_own_scale_or_a_shared_one():
    measured = {"hessians": np.array([[[-4.0, 1], [1, 2]]]), "pixels": np.array([[3, 5, 1]]), "penalties": [4.0]}
    small = dict(measured, hessians=measured["hessians"] / 8)
    models = [plots.Model("Ours", "1FOV", measured), plots.Model("Theirs", "Simple", small)]
    for shared, tops in ((False, [4, 0.5]), (True, [4, 4])):
        figure = plots.draw("hessians", models, shared_scale=shared)
        images = [axis.images[0] for axis in figure.axes if axis.images]
        np.testing.assert_array_equal(images[0].get_array(), [[4, 1], [1, 2]])
        assert [image.get_clim() for image in images] == [(0, top) for top in tops]
        assert {"Ours\n1FOV", "Theirs\nSimple"} < set(text_of(figure))
        assert any("row 3, column 5, green" in text for text in text_of(figure))
        plots.plt.close(figure)


def test_nothing_lies_over_anything_else_in_diag():
    """Labels and numbers, with long names and a model that does not bend at all."""
    nan, numbers = float("nan"), {"largest_on_diagonal": 0.9, "ratio": 1234.5, "energy_share": 0.99}
    flat = {"largest_on_diagonal": 0.0, "ratio": 0.0, "energy_share": nan}
    measured = [
        {"numbers": each, "standard_errors": dict.fromkeys(each, error), "statistics": {"ratio": np.zeros(2)}}
        for each, error in ((numbers, 0.05), (flat, nan))
    ]
    figure = plots.draw("diag", [plots.Model("a model of a long name " * 2, "", each) for each in measured])
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    texts = [text for text in figure.findobj(plots.plt.Text) if text.get_text().strip() and text.get_visible()]
    boxes = [text.get_window_extent(renderer) for text in texts]
    for i, box in enumerate(boxes):
        for other, text in zip(boxes[:i], texts[:i]):
            assert not box.overlaps(other), (texts[i].get_text(), text.get_text())
    plots.plt.close(figure)

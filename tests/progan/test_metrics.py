"""Path length, the evaluator and what it keeps beside a dataset, and evaluate.py from end to end."""

import json
import os
import shutil

import numpy as np
import pytest
from data_helpers import write_dataset
from hypothesis import given
from hypothesis import strategies as st
from make_tiny_snapshot import SNAPSHOT
from PIL import Image
from progan_helpers import load_command

from experiment_utils.datasets import Dataset
from experiment_utils.errors import UserError
from factor_scores import FactorRegressor
from progan.inference import TrainedGenerator
from progan.metrics import evaluation, fid
from progan.metrics.evaluation import METRICS, Evaluator, at_resolution, parse_metrics
from progan.metrics.features import FeatureWorker
from progan.metrics.ppl import perceptual_path_length, slerp, trimmed_mean
from progan.networks import NetworkSpec
from progan.snapshot import load_snapshot, pretrained_models, save_snapshot, snapshot_path

COLOURS, SQUARED = "metric_networks:Colours", "metric_networks:SquaredDistance"
SPEC = NetworkSpec(16, 3, 4, 16, 16)
MODEL = "clevr_1fov_16_fs"


@pytest.fixture(scope="module")
def worker():
    with FeatureWorker(0, 1, inception=COLOURS, vgg=SQUARED) as worker:
        yield worker


# ----------------------------------------------------------------------------------------------------------------------
# Path length


def test_path_length_on_a_sphere_of_colours(worker):
    """An image shows the direction of z as its colour: so a path's length is the angle between its ends.

    A path is as fast everywhere, so the squared distance of a step of 1e-4, over 1e-8, is the angle squared; of
    independent directions in three dimensions its mean is (π² - 4) / 2.
    """
    calls = []

    def sample(z, normalize_latents=True, minibatch=100, dtype=np.uint8):
        assert dtype == np.float32
        calls.append(z)
        colours = z / np.linalg.norm(z, axis=1, keepdims=True)
        return np.float32(np.broadcast_to(colours[:, None, None], [len(z), 4, 4, 3]))

    found = perceptual_path_length(worker, sample, nz=3, num_pairs=500, minibatch=150)
    assert found == pytest.approx((np.pi**2 - 4) / 2, rel=0.1)
    z = np.concatenate(calls).astype(float).reshape(-1, 2, 3)
    assert len(z) == 500 and np.linalg.norm(z[:, 0], axis=1) == pytest.approx(1)
    angles = np.linalg.norm(z[:, 1] - z[:, 0], axis=1) / 1e-4
    assert angles.max() < np.pi + 1e-2 and found == pytest.approx(trimmed_mean(angles**2), rel=1e-2)


def test_slerp_goes_at_an_even_speed_along_the_shorter_arc():
    a, b = np.random.RandomState(0).standard_normal([2, 50, 5])
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (a, b)]
    np.testing.assert_allclose([slerp(a, b, 0), slerp(a, b, 1)], unit, atol=1e-12)
    whole = np.arccos((unit[0] * unit[1]).sum(1))
    for t in (0.2, 0.7):
        point = slerp(a, b, t)
        np.testing.assert_allclose((point**2).sum(1), 1)
        np.testing.assert_allclose(np.arccos((point * unit[0]).sum(1)), t * whole)
        np.testing.assert_allclose(np.arccos((point * unit[1]).sum(1)), (1 - t) * whole)


@given(st.lists(st.floats(-1e3, 1e3) | st.integers(0, 3).map(float), min_size=1, max_size=450))
def test_the_lowest_and_the_highest_percent_are_dropped(values):
    ordered = sorted(values)
    position = 0.01 * (len(values) - 1)
    low = ordered[int(np.floor(position + 1e-9))]
    high = ordered[len(values) - 1 - int(np.floor(position + 1e-9))]
    kept = [value for value in values if low <= value <= high]
    assert trimmed_mean(values) == pytest.approx(sum(kept) / len(kept), rel=1e-9, abs=1e-9)


def test_two_of_three_hundred_go_at_either_end():
    values = np.arange(300.0)  # the 1st percentile lies between 2 and 3, so 2 stays
    values[[0, 1, 298, 299]] = [-1e6, -1e5, 1e7, 1e8]
    assert trimmed_mean(np.random.RandomState(0).permutation(values)) == pytest.approx(np.arange(2, 298).mean())


# ----------------------------------------------------------------------------------------------------------------------
# The evaluator, with a generator that can do what the data can


def square(position, channels=3):
    """A red square on grey, its edges blended: float [16, 16, C]."""
    across = np.clip(np.minimum(np.arange(16) - position + 1, position + 5 - np.arange(16)), 0, 1)
    image = np.full([16, 16, 3], 100.0)
    image[5:10] += across[:, None] * ([200, 40, 30] - image[5:10])
    return image[..., :channels]


POSITIONS = np.linspace(0, 10, 150)


def squares(z, normalize_latents=True, minibatch=100, dtype=np.uint8):
    """Component 2 chooses the place, from all of the range; the others do nothing."""
    z = z / np.sqrt(np.mean(z**2, 1, keepdims=True)) if normalize_latents else z
    places = 5 + 5 * np.clip(z[:, 2] / 1.5, -1, 1)
    images = np.stack([square(place) for place in places])
    return np.rint(images).astype(np.uint8) if dtype == np.uint8 else np.float32(images / 127.5 - 1)


@pytest.fixture
def dataset(tmp_path):
    info = [{"name": "x", "kind": "continuous", "range": [0, 10]}]
    images = np.stack([np.rint(square(position)) for position in POSITIONS]).astype(np.uint8)
    order = np.random.RandomState(0).permutation(150)
    return Dataset(write_dataset(tmp_path / "squares", images[order], np.float32(POSITIONS[order])[:, None], info))


def evaluator(dataset, metrics, **keywords):
    keywords = dict({"num_images": 300, "num_pairs": 40, "inception": COLOURS, "vgg": SQUARED}, **keywords)
    return Evaluator(dataset, SPEC, metrics, num_gpus=0, num_threads=1, **keywords)


def test_all_metrics_at_once(dataset, monkeypatch):
    monkeypatch.setattr(fid, "KID_SUBSET_SIZE", 100)
    notes = []
    with evaluator(dataset, list(METRICS), note=notes.append) as every:
        values = every.evaluate(squares)
        again = every.evaluate(squares)
        darker = every.evaluate(lambda z, **keywords: squares(z, **keywords) // 2)
    assert values == again
    assert {name.split("/")[0] for name in values} == {
        "FID", "KID", "FD_random", "PPL", "DCI", "MIG", "SAP", "faithfulness", "activeness", "diagonalness"
    }  # fmt: skip
    assert all(isinstance(value, float) and np.isfinite(value) for value in values.values())
    # Generated places are not spread quite like the data's; but colours and shapes are the same.
    assert 0 <= values["FID"] < 0.01 and abs(values["KID"]) < 0.01
    assert values["activeness/effective_number"] == pytest.approx(1) and values["activeness/z2"] > 0.01
    assert values["activeness/z0"] < 1e-12 > values["activeness/z3"]
    assert values["DCI/completeness"] > 0.95 and values["DCI/informativeness"] > 0.95 and values["MIG"] > 0.8
    assert "DCI/disentanglement" not in values and 0.5 < values["SAP"] <= 1
    assert values["faithfulness/coverage/x"] > 0.9 and values["faithfulness/held_out/x"] > 0.95
    assert values["faithfulness/nearest_image_error"] < 2
    assert darker["FID"] > 20 * values["FID"] and darker["FD_random"] > 20 * values["FD_random"]
    assert darker["KID"] > 0.01 and darker["faithfulness/nearest_image_error"] > 20
    assert any("R²" in note for note in notes)


def test_faithfulness_of_a_generator_that_repeats_half_of_the_images(dataset):
    def repeats(z, normalize_latents=True, minibatch=100, dtype=np.uint8):
        chosen = (np.tanh(z[:, 0]) * 0.5 + 0.5) * 74
        return np.stack([np.rint(square(POSITIONS[int(index + 0.5)])) for index in chosen]).astype(np.uint8)

    numbers = evaluator(dataset, ["faithfulness"]).evaluate(repeats)
    assert numbers["faithfulness/nearest_image_error"] == 0 < numbers["faithfulness/nearest_image_baseline"]
    assert numbers["faithfulness/coverage/x"] == pytest.approx(0.5, abs=0.11)


def chequered(base, contrast):
    """Images [N, 16, 16, 3] of chequers, for the mean and the contrast of each channel, [N, 3]."""
    chequers = np.indices([16, 16]).sum(0) % 2 - 0.5
    images = base[:, None, None] + contrast[:, None, None] * chequers[None, :, :, None]
    return np.clip(np.rint(images), 0, 255).astype(np.uint8)


def test_fid_is_that_of_the_images_themselves(tmp_path):
    """In features that NumPy can have as well: means and standard deviations of the channels."""
    random = np.random.RandomState(0)
    images = chequered(random.uniform(60, 190, [150, 3]), random.uniform(5, 100, [150, 3]))
    dataset = Dataset(write_dataset(tmp_path / "chequers", images))
    seen = []

    def sample(z, normalize_latents=True, minibatch=100, dtype=np.uint8):
        seen.append(chequered(125 + 30 * z[:, :3], 40 + 10 * z[:, [3, 3, 0]] * z[:, [0, 1, 1]]))
        return seen[-1]

    with evaluator(dataset, ["fid"], num_images=170, minibatch=60) as one:
        found = one.evaluate(sample)["FID"]
    assert [len(batch) for batch in seen] == [60, 60, 50]
    real = images[[*range(150), *range(20)]]

    def moments(images):
        flat = images.reshape(len(images), -1, 3) / 255
        features = np.concatenate([flat.mean(1), flat.std(1, ddof=1)], 1)
        return features.mean(0), np.cov(features.T)

    (mean, covariance), (other_mean, other) = moments(real), moments(np.concatenate(seen))
    values = np.linalg.eigvals(covariance.dot(other))
    truth = ((mean - other_mean) ** 2).sum() + np.trace(covariance + other)
    truth -= 2 * np.sqrt(np.maximum(values.real, 0)).sum()
    assert found == pytest.approx(truth, rel=1e-4) and found > 1e-3


# ----------------------------------------------------------------------------------------------------------------------
# What is kept beside the dataset


def features(worker, path, count=150, network="inception", resolution=16, note=print):
    """The real features as from a new process, and how many images had to be read for them."""
    dataset = Dataset(path)
    read, images = [], dataset.images
    dataset.images = lambda resolution, indices: read.extend(indices) or images(resolution, indices)
    cache = evaluation.DatasetCache(dataset, resolution, note)
    return fid.real_features(worker, network, dataset, resolution, count, cache), len(read)


def test_real_features_are_kept_until_anything_changes(worker, dataset):
    first, read = features(worker, dataset.path)
    assert read == 150 and first.shape == (150, 6)
    again, read = features(worker, dataset.path)
    assert read == 0
    np.testing.assert_array_equal(first, again)
    assert features(worker, dataset.path, count=1000)[1] == 0  # there are no more than 150
    assert features(worker, dataset.path, count=100)[1] == 100
    assert features(worker, dataset.path, network="random")[1] == 150
    assert features(worker, dataset.path, resolution=8)[1] == 150
    with FeatureWorker(0, 1, inception="metric_networks:WithoutTensorFlow") as other:
        assert features(other, dataset.path)[0].shape == (150, 2)
    images = dataset.images(16, range(150))
    images[7, 0, 0] += 1
    directory = os.path.join(dataset.path, "metrics_cache")
    kept = set(os.listdir(directory))
    path = dataset.path
    for name in os.listdir(path):
        if name != "metrics_cache":
            os.remove(os.path.join(path, name))
    fresh = write_dataset(path + "-changed", images)
    for name in os.listdir(fresh):
        shutil.copy(os.path.join(fresh, name), os.path.join(path, name.replace("-changed", "")))
    changed, read = features(worker, path)
    assert read == 150 and not np.array_equal(first, changed)
    (newest,) = set(os.listdir(directory)) - kept
    with open(os.path.join(directory, newest), "r+b") as stream:
        stream.truncate(100)
    repaired, read = features(worker, path)
    assert read == 150 and features(worker, path)[1] == 0
    np.testing.assert_array_equal(repaired, changed)


def test_a_dataset_that_cannot_be_written_to_is_measured_all_the_same(worker, dataset):
    with open(os.path.join(dataset.path, "metrics_cache"), "w"):
        pass  # a file: nothing can be written below it
    notes = []
    found, _ = features(worker, dataset.path, note=notes.append)
    assert found.shape == (150, 6) and len(notes) == 1 and "metrics_cache" in notes[0]


def test_the_regressor_is_fitted_once(dataset, monkeypatch):
    first = evaluator(dataset, ["factors"]).evaluate(squares)
    monkeypatch.setattr(FactorRegressor, "fit", None)
    assert evaluator(dataset, ["factors"]).evaluate(squares) == first
    with open(os.path.join(dataset.path, "squares-factors.json"), "a") as stream:
        stream.write("\n")
    with pytest.raises(TypeError):  # the fit that there is not
        evaluator(dataset, ["factors"]).evaluate(squares)


# ----------------------------------------------------------------------------------------------------------------------
# evaluate.py


@pytest.fixture(scope="module")
def command():
    return load_command("evaluate")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Flags that say where things go, the same for all tests: the shipped dataset is unpacked once."""
    directory = tmp_path_factory.mktemp("places")
    flags = [
        "--data_dir",
        directory / "datasets",
        "--out_dir",
        directory / "out",
        "--results_dir",
        directory / "results",
    ]
    return [*flags, "--num_threads", 1]


def run(command, *arguments):
    command.main([str(argument) for argument in arguments])


def test_the_shipped_model_on_the_shipped_dataset(command, places, capsys):
    flags = ["--model", MODEL, *places, "--inception", COLOURS, "--vgg", SQUARED, "--num_pairs", 30]
    run(command, *flags, "--metrics", "FID", "ppl", "factors", "activeness", "--num_images", 300)
    printed = capsys.readouterr().out
    out = str(places[3])
    with open(os.path.join(out, f"{MODEL}-metrics.json")) as stream:
        content = json.load(stream)
    assert content["model"] == MODEL and content["kimg"] == pytest.approx(502.4)
    results = {entry["metric"]: entry for entry in content["results"]}
    assert list(results) == ["FID", "PPL", "factors", "activeness"]
    assert results["FID"]["dataset"] == "clevr_1fov_32" and results["FID"]["resolution"] == 16
    assert results["FID"]["num_images"] == 300 and results["PPL"]["num_pairs"] == 30
    assert results["activeness"]["values"]["activeness/effective_number"] < 1.1
    importance = np.array(results["factors"]["importance"])
    assert importance.shape == (12, 1) and importance.argmax() == 0 and importance[0] > 0.98
    for name in ("FID", "PPL", "DCI/completeness", "MIG", "SAP", "activeness/effective_number"):
        assert any(line.split()[0] == name for line in printed.splitlines() if line.strip()), name
    assert "activeness/z1" not in printed and "position R²" in printed
    with Image.open(os.path.join(out, f"{MODEL}-metrics-factors.png")) as picture:
        assert np.asarray(picture.convert("RGB")).std() > 20
    # A second call adds to it, and replaces what it computes again.
    run(command, *flags, "--metrics", "activeness", "diagonalness", "--seed", 1)
    with open(os.path.join(out, f"{MODEL}-metrics.json")) as stream:
        merged = {entry["metric"]: entry for entry in json.load(stream)["results"]}
    assert set(merged) == {*results, "diagonalness"} and merged["FID"] == results["FID"]
    assert merged["activeness"]["seed"] == 1 and merged["activeness"]["values"] != results["activeness"]["values"]


def test_several_models_side_by_side_and_results_beside_a_run(command, places, capsys):
    run_dir = os.path.join(str(places[5]), "00004-a-run")
    os.makedirs(run_dir)
    with open(os.path.join(run_dir, "options.json"), "w") as stream:
        stream.write("{}")
    snapshot = load_snapshot(pretrained_models()[MODEL])
    save_snapshot(snapshot_path(run_dir, 3000), snapshot)
    save_snapshot(snapshot_path(run_dir, 5000), load_snapshot(SNAPSHOT))
    run(command, "--model", 4, MODEL, "--snapshot_kimg", 3, "latest", *places, "--metrics", "activeness")
    printed = capsys.readouterr().out
    (row,) = [line.split() for line in printed.splitlines() if line.startswith("activeness/effective_number")]
    assert len(row) == 3 and row[1] == row[2]
    assert "[1] 00004-a-run-000003" in printed and f"[2] {MODEL}" in printed
    with open(os.path.join(run_dir, "metrics-000003.json")) as stream:
        assert json.load(stream)["results"][0]["metric"] == "activeness"
    run(command, "--model", SNAPSHOT, MODEL, *places, "--metrics", "activeness", "--resolution", 4)


def test_images_are_averaged_down():
    with TrainedGenerator(load_snapshot(pretrained_models()[MODEL]), num_threads=1) as generator:
        z = np.random.RandomState(0).standard_normal([5, 12])
        small = at_resolution(generator, 4)
        exact = generator(z, dtype=np.float32).reshape(5, 4, 4, 4, 4, 3).mean((2, 4))
        np.testing.assert_allclose(small(z, dtype=np.float32), exact, atol=1e-6)
        np.testing.assert_array_equal(small(z), np.clip(np.floor(exact * 127.5 + 128), 0, 255))
        np.testing.assert_array_equal(at_resolution(generator, 16)(z), generator(z))
        assert not np.array_equal(small(z), small(z, normalize_latents=False))


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], ["--model"]),
        (["--model", MODEL, "--metrics", "FID", "IS"], ["--metrics IS", "PPL", "FD_random"]),
        (["--model", "nothing"], ["nothing", MODEL]),
        (["--model", "9"], ["9", "results"]),
        (["--model", "DATA/plain"], ["plain", "directory", "the run's number"]),
        (["--model", MODEL, "--dataset", "nowhere"], ["nowhere", "clevr_1fov_32"]),
        (["--model", MODEL, "--dataset", "DATA/small"], ["--dataset", "small", "8 px", "16 px"]),
        (["--model", MODEL, "--dataset", "DATA/grey"], ["--dataset", "grey", "1 channel"]),
        (["--model", MODEL, "--dataset", "DATA/plain", "--metrics", "factors"], ["factors", "plain-factors.npy"]),
        (["--model", MODEL, "--dataset", "DATA/plain", "--metrics", "faithfulness"], ["faithfulness", "plain"]),
        (["--model", MODEL, "--dataset", "DATA/plain", "--metrics", "kid"], ["plain", "60 images", "1000"]),
        (["--model", MODEL, "--metrics", "kid", "--num_images", "999"], ["--num_images 999", "1000"]),
        (["--model", MODEL, "--metrics", "fd_random", "--num_images", "128"], ["--num_images 128", "128 features"]),
        (["--model", MODEL, "--resolution", "32"], ["--resolution 32", "16 px"]),
        (["--model", MODEL, "--resolution", "5"], ["--resolution 5"]),
        (["--model", MODEL, "--snapshot_kimg", "1", "2"], ["--snapshot_kimg"]),
        (["--model", MODEL, "--num_pairs", "0"], ["--num_pairs 0"]),
        (["--model", SNAPSHOT, "--metrics", "fid", "--dataset", ""], ["dataset"]),
    ],
)
def test_bad_input(command, places, tmp_path, arguments, words):
    for name, size, channels in (("small", 8, 3), ("grey", 16, 1), ("plain", 16, 3)):
        if f"DATA/{name}" in arguments:
            images = np.random.RandomState(0).randint(0, 256, [60, size, size, channels]).astype(np.uint8)
            path = write_dataset(tmp_path / name, images)
            arguments = [argument.replace(f"DATA/{name}", path) for argument in arguments]
    with pytest.raises(UserError) as caught:
        run(command, *arguments, *places, "--out_dir", tmp_path / "out")
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message
    assert not (tmp_path / "out").exists()


def test_results_of_something_else_are_not_overwritten(command, places, tmp_path):
    path = tmp_path / f"{MODEL}-metrics.json"
    path.write_text('{"something": "else"}')
    with pytest.raises(UserError, match="not written by this version"):
        run(command, "--model", MODEL, "--metrics", "activeness", *places, "--out_dir", tmp_path)
    path.write_text('{"somet')
    with pytest.raises(UserError, match="not valid JSON"):
        run(command, "--model", MODEL, "--metrics", "activeness", *places, "--out_dir", tmp_path)
    assert path.read_text() == '{"somet'
    for content in ('{"format_version": 1}', '{"format_version": 1, "results": [1]}'):
        path.write_text(content)
        with pytest.raises(UserError, match="not written by this version"):
            run(command, "--model", MODEL, "--metrics", "activeness", *places, "--out_dir", tmp_path)


def test_snapshots_of_one_name_do_not_share_results(command, places, tmp_path):
    """Outside of run directories, a model's results would otherwise be taken for another's."""
    snapshots = [str(tmp_path / place / "gan.safetensors") for place in "ab"]
    for path in snapshots:
        save_snapshot(path, load_snapshot(SNAPSHOT))
    flags = ["--metrics", "activeness", *places, "--out_dir", tmp_path]
    with pytest.raises(UserError, match="one file"):
        run(command, "--model", *snapshots, *flags)
    run(command, "--model", snapshots[0], snapshots[0], *flags)
    with pytest.raises(UserError, match=r"holds results of .*a/gan\.safetensors; move it away, or give another"):
        run(command, "--model", snapshots[1], *flags)
    run(command, "--model", snapshots[1], *flags, "--out_dir", tmp_path / "other")


def test_names_of_metrics():
    assert parse_metrics(["ppl", "Fd_Random", "FID", "fid"]) == ["FID", "FD_random", "PPL"]
    for metric in METRICS:
        assert hasattr(Evaluator, "_" + metric.lower())

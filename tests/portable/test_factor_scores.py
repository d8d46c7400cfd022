"""factor_scores.py on pictures whose factors are known, and against brute-force loops."""

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, r2_score

import factor_scores
from factor_scores import (
    FactorRegressor,
    code_separability,
    completeness,
    direction_changes,
    disentanglement,
    effective_number,
    factor_coverage,
    factor_importance,
    factor_spread,
    faithfulness,
    latent_factor_scores,
    mean_gap,
    mutual_information,
    nearest_image_error,
    purity,
    range_coverage,
)

INFO = [
    {"name": "x", "kind": "continuous", "range": [-3.0, 5.0]},
    {"name": "shape", "kind": "categorical", "values": ["square", "disc", "bar"]},
    {"name": "bright", "kind": "categorical", "values": [False, True]},
]


def draw(factors, size=16, channels=3):
    """uint8 pictures, smoothly drawn at four times the size: a shape at x, dark or bright, on a grey gradient."""
    fine = (np.arange(4 * size) + 0.5) / (4 * size)
    pictures = np.empty((len(factors), 4 * size, 4 * size))
    for picture, (x, shape, bright) in zip(pictures, factors):
        centre = 0.2 + 0.6 * (x + 3) / 8
        dx, dy = np.abs(fine[None, :] - centre), np.abs(fine[:, None] - 0.55)
        inside = [np.maximum(dx, dy) < 0.15, np.hypot(dx, dy) < 0.17, (dx < 0.06) & (dy < 0.3)][int(shape)]
        picture[:] = 110 + 40 * fine[:, None]
        picture[inside] = 225 if bright else 30
    pictures = pictures.reshape(-1, size, 4, size, 4).mean((2, 4))[..., None]
    return np.repeat(np.rint(pictures), channels, -1).astype(np.uint8)


def draw_factors(count, seed):
    random = np.random.RandomState(seed)
    columns = [random.uniform(-3, 5, count), random.randint(0, 3, count), random.randint(0, 2, count)]
    return np.stack(columns, 1).astype(np.float32)


@pytest.fixture(scope="module")
def regressor():
    factors = draw_factors(800, seed=0)
    return FactorRegressor.fit(draw(factors), factors, INFO)


def scores(predicted, true):
    r2 = 1 - ((predicted[:, 0] - true[:, 0]) ** 2).sum() / ((true[:, 0] - true[:, 0].mean()) ** 2).sum()
    return [r2] + [(predicted[:, column] == true[:, column]).mean() for column in (1, 2)]


# ----------------------------------------------------------------------------------------------------------------------
# The regressor


def test_factors_are_read_off_new_pictures(regressor):
    true = draw_factors(300, seed=1)
    predicted = regressor.predict(draw(true))
    assert predicted.shape == (300, 3) and predicted.dtype == np.float32
    r2, shape, bright = scores(predicted, true)
    assert r2 > 0.99 and shape > 0.97 and bright > 0.99
    assert set(regressor.held_out) == {"x", "shape", "bright"}
    for name, score in zip(("x", "shape", "bright"), (r2, shape, bright)):
        assert abs(regressor.held_out[name] - score) < 0.02


def test_held_out_scores_come_from_pictures_that_the_fit_did_not_see():
    """Factors drawn without regard to the pictures cannot be read, though a fit can learn some of them by heart."""
    random = np.random.RandomState(5)
    images = random.randint(0, 256, (300, 8, 8, 3)).astype(np.uint8)
    regressor = FactorRegressor.fit(images, draw_factors(300, seed=2), INFO)
    assert regressor.held_out["x"] < 0.2
    assert regressor.held_out["shape"] < 0.6
    assert regressor.held_out["bright"] < 0.8


def test_held_out_scores_are_r2_and_accuracy():
    true, predicted = draw_factors(40, seed=0), draw_factors(40, seed=1)
    found = factor_scores._scores(predicted, true, INFO)
    assert found["x"] == pytest.approx(r2_score(true[:, 0], predicted[:, 0]), rel=1e-5)
    assert found["shape"] == pytest.approx(accuracy_score(true[:, 1], predicted[:, 1]))


def test_imperfect_pictures_are_read_as_a_person_would(regressor):
    true, others = draw_factors(300, seed=3), draw_factors(300, seed=4)
    images = draw(true).astype(float)
    blurred = sum(np.roll(images, (i, j), (1, 2)) for i in (-1, 0, 1) for j in (-1, 0, 1)) / 9
    noisy = images + 10 * np.random.RandomState(0).standard_normal(images.shape)
    ghosted = 0.7 * images + 0.3 * draw(others)
    # In comments, what is left when the fit does without that kind of degraded copy.
    for name, degraded, x_least, shape_least in (
        ("blurred", blurred, 0.98, 0.78),  # shape 0.69
        ("ghosted", ghosted, 0.95, 0.75),  # x 0.84
        ("brighter", images + 30, 0.95, 0.9),  # x 0.2
        ("flatter", 0.8 * images + 25, 0.98, 0.9),
        ("noisy", noisy, 0.98, 0.9),
    ):
        x, shape, _ = scores(regressor.predict(np.uint8(np.clip(degraded, 0, 255))), true)
        assert x > x_least and shape > shape_least, (name, x, shape)


def test_predictions_never_leave_the_range_by_more_than_a_tenth(regressor):
    random = np.random.RandomState(0)
    tiles = np.kron(random.randint(0, 2, (1000, 4, 4, 1)) * 255, np.ones((1, 4, 4, 3)))
    strange = [random.randint(0, 256, (1000, 16, 16, 3)), tiles, np.zeros((1, 16, 16, 3)), np.full((1, 16, 16, 3), 255)]
    predicted = regressor.predict(np.uint8(np.concatenate(strange)))
    assert predicted[:, 0].min() >= -3.8001 and predicted[:, 0].max() <= 5.8001
    assert predicted[:, 0].min() < -3.79 or predicted[:, 0].max() > 5.79  # without the limit they would
    assert set(predicted[:, 1]) <= {0, 1, 2} and set(predicted[:, 2]) <= {0, 1}


def test_prediction_in_numpy_equals_scikit_learn(monkeypatch):
    models = []
    for name in ("MLPRegressor", "MLPClassifier"):
        original = getattr(factor_scores, name)
        monkeypatch.setattr(
            factor_scores, name, lambda o=original, **options: models.append(o(**options)) or models[-1]
        )
    factors = draw_factors(120, seed=0)
    images = draw(factors)
    factors[:, 1] += factors[:, 1] > 0  # the value 1 never occurs: the classifier's own numbering has no gap there
    info = [INFO[0], {"name": "shape", "kind": "categorical", "values": list("abcd")}, INFO[2]]
    regressor = FactorRegressor.fit(images, factors, info)
    flat = images.reshape(len(images), -1) / np.float32(127.5) - 1
    features = (flat - regressor._arrays["mean"]).dot(regressor._arrays["components"])
    expected = [model.predict(features) for model in models]
    predicted = regressor.predict(images)
    np.testing.assert_allclose(predicted[:, 0], 1 + 4 * np.clip(expected[0], -1.2, 1.2), atol=1e-4)
    np.testing.assert_array_equal(predicted[:, 1:], np.stack(expected[1:], 1))
    assert set(predicted[:, 1]) == {0, 2, 3}


@pytest.mark.parametrize("size, channels", [(70, 1), (64, 3)])
def test_large_and_grey_pictures(size, channels):
    info, factors = [INFO[0]], draw_factors(300, seed=0)
    regressor = FactorRegressor.fit(draw(factors, size, channels), factors[:, :1], info)
    assert regressor.held_out["x"] > 0.96
    true = draw_factors(50, seed=1)
    error = regressor.predict(draw(true, size, channels))[:, 0] - true[:, 0]
    assert np.sqrt((error**2).mean()) < 0.4


def test_shrinking_averages_whole_blocks():
    images = np.random.RandomState(0).randint(0, 256, (2, 70, 66, 3)).astype(np.uint8)
    small = factor_scores._shrink(images)
    assert small.shape == (2, 23, 22, 3)
    np.testing.assert_allclose(small[1, 22, 5], images[1, 66:69, 15:18].mean((0, 1)) / 127.5 - 1, atol=1e-6)


def test_the_same_seed_gives_the_same_regressor():
    factors = draw_factors(100, seed=0)
    images = draw(factors)
    first, again, other = [FactorRegressor.fit(images, factors, INFO, seed=seed) for seed in (1, 1, 2)]
    assert first.held_out == again.held_out
    np.testing.assert_array_equal(first.predict(images), again.predict(images))
    assert not np.array_equal(first.predict(images), other.predict(images))


def test_save_and_load(regressor, tmp_path):
    regressor.save(tmp_path / "regressor.safetensors")
    loaded = FactorRegressor.load(tmp_path / "regressor.safetensors")
    images = draw(draw_factors(20, seed=7))
    np.testing.assert_array_equal(loaded.predict(images), regressor.predict(images))
    assert loaded.held_out == regressor.held_out and loaded.factor_info == INFO
    assert loaded.image_shape == (16, 16, 3)
    np.testing.assert_array_equal([loaded.spread, loaded.noise], [regressor.spread, regressor.noise])
    assert [entry.name for entry in tmp_path.iterdir()] == ["regressor.safetensors"]


def test_files_of_another_kind_are_refused(regressor, tmp_path):
    regressor.save(tmp_path / "whole")
    (tmp_path / "cut").write_bytes((tmp_path / "whole").read_bytes()[:-100])
    (tmp_path / "text").write_text("hello")
    safetensors.numpy.save_file({"a": np.zeros(3)}, str(tmp_path / "other"))
    for name, words in (("cut", "safetensors"), ("text", "safetensors"), ("other", "format")):
        with pytest.raises(ValueError, match=words) as caught:
            FactorRegressor.load(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError):
        FactorRegressor.load(tmp_path / "missing")


def test_saving_replaces_the_file_at_once(regressor, tmp_path):
    path = tmp_path / "regressor"
    path.write_bytes(b"old")
    with open(str(path), "rb") as reader:  # whoever is reading the old file keeps it
        regressor.save(path)
        assert reader.read() == b"old"
    assert FactorRegressor.load(path).held_out == regressor.held_out


def test_a_failed_save_leaves_the_old_file(regressor, tmp_path, monkeypatch):
    path = tmp_path / "regressor"
    path.write_bytes(b"old")

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(factor_scores.os, "fsync", fail)
    with pytest.raises(OSError) as caught:
        regressor.save(path)
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


# ----------------------------------------------------------------------------------------------------------------------
# Coverage


def test_coverage_of_known_spreads():
    even = np.linspace(-2, 2, 1001)
    assert range_coverage(even, -2, 2) == 1
    assert range_coverage(even[even < 0], -2, 2) == 0.5
    assert range_coverage(even, -2, 6) == 0.5
    ends = np.repeat([-2.0, 2.0], 500)
    assert range_coverage(ends, -2, 2) == 0.1  # two of twenty bins
    assert range_coverage(np.append(ends, [0.0, 0.5]), -2, 2) == 0.1  # two strays do not count …
    assert range_coverage(np.append(ends, [0.0] * 6), -2, 2) == 0.15  # … six in one bin do: 0.1 · 1006 / 20 = 5.03
    assert range_coverage(np.append(ends, [0.0] * 5), -2, 2) == 0.1
    assert range_coverage([7.0, -9.0], -2, 2) == 0
    assert range_coverage([0.0], -2, 2, bins=4) == 0.25


@given(
    values=st.lists(st.floats(-2, 3, allow_nan=False), min_size=1, max_size=60),
    bins=st.integers(1, 7),
    least=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
)
def test_coverage_equals_a_count_bin_by_bin(values, bins, least):
    low, high = -1.0, 2.0
    covered = 0
    edges = np.linspace(low, high, bins + 1)
    for bin_low, bin_high, last in zip(edges[:-1], edges[1:], [False] * (bins - 1) + [True]):
        held = sum(bin_low <= value < bin_high or (last and value == bin_high) for value in values)
        covered += held >= 1 and held >= least * len(values) / bins
    assert range_coverage(values, low, high, bins, least) == pytest.approx(covered / bins)


# ----------------------------------------------------------------------------------------------------------------------
# Nearest training image


@pytest.mark.parametrize("chunk", [4, 1000])
@pytest.mark.parametrize("channels", [1, 3])
def test_nearest_image_error_equals_a_loop_over_all_pairs(monkeypatch, chunk, channels):
    monkeypatch.setattr(factor_scores, "_CHUNK", chunk)
    random = np.random.RandomState(0)
    images, training = (random.randint(0, 256, (count, 6, 5, channels)).astype(np.uint8) for count in (9, 14))
    smallest = []
    for image in images:
        errors = [np.sqrt(((image.astype(float) - other.astype(float)) ** 2).mean()) for other in training]
        smallest.append(min(errors))
    assert nearest_image_error(images, training) == pytest.approx(np.mean(smallest), rel=1e-6)


def test_nearest_image_error_of_copies_and_of_a_known_shift():
    training = np.random.RandomState(0).randint(0, 250, (30, 64, 64, 3)).astype(np.uint8)
    assert nearest_image_error(training[::-1], training) == 0
    assert nearest_image_error(training[:3] + np.uint8(4), training) == pytest.approx(4, abs=1e-5)


# ----------------------------------------------------------------------------------------------------------------------
# Effective number


def test_effective_number_in_closed_form():
    assert effective_number(np.full(12, 0.03)) == pytest.approx(12)
    assert effective_number([0, 0, 7]) == pytest.approx(1)
    assert effective_number([3, 1]) == pytest.approx(16 / 10)
    assert effective_number([3e-9, 1e-9]) == pytest.approx(1.6)
    assert effective_number([0, 0]) == 0


# ----------------------------------------------------------------------------------------------------------------------
# Which factors a direction moves

FLAGS = [INFO[0], INFO[1]]  # a continuous factor and one of three values


def pairwise(values, kind):
    """The definition: the mean over all pairs of |a - b|, or of whether they differ."""
    pairs = [(a, b) for i, a in enumerate(values) for b in values[:i]]
    return np.mean([abs(a - b) if kind == "continuous" else a != b for a, b in pairs])


def changes_by_hand(readings, infos, spread):
    found = np.zeros((readings.shape[0], len(infos)))
    for direction, sweeps in enumerate(readings):
        for number, info in enumerate(infos):
            found[direction, number] = np.mean([pairwise(sweep[:, number], info["kind"]) for sweep in sweeps])
    return found / spread


def random_readings(seed, directions, samples, steps):
    random = np.random.RandomState(seed)
    shape = (directions, samples, steps)
    return np.stack([random.uniform(-3, 5, shape), random.randint(0, 3, shape)], -1)


def test_spread_of_known_distributions():
    random = np.random.RandomState(0)
    columns = [random.uniform(-3, 5, 20000), random.normal(7, 2, 20000), random.randint(0, 4, 20000)]
    info = [INFO[0], INFO[0], {"name": "of four", "kind": "categorical", "values": list("abcd")}]
    expected = [8 / 3, 2 * 2 / np.sqrt(np.pi), 1 - 1 / 4]
    np.testing.assert_allclose(factor_spread(np.stack(columns, 1), info), expected, rtol=0.01)


@given(seed=st.integers(0, 99), directions=st.integers(1, 3), samples=st.integers(1, 3), steps=st.integers(2, 6))
def test_changes_equal_a_loop_over_all_pairs_of_steps(seed, directions, samples, steps):
    readings = random_readings(seed, directions, samples, steps)
    spread = np.array([1.7, 0.6])
    found = direction_changes(readings, FLAGS, spread)
    np.testing.assert_allclose(found, changes_by_hand(readings, FLAGS, spread), rtol=1e-12, atol=1e-12)
    data = readings.reshape(-1, 2)
    expected = [pairwise(data[:, 0], "continuous"), pairwise(data[:, 1], "categorical")]
    np.testing.assert_allclose(factor_spread(data, FLAGS), expected, rtol=1e-9, atol=1e-12)


def test_steps_drawn_from_the_data_change_a_factor_by_one():
    readings = random_readings(0, 2, 500, 7)
    spread = factor_spread(readings.reshape(-1, 2), FLAGS)
    np.testing.assert_allclose(direction_changes(readings, FLAGS, spread), 1, atol=0.05)


def test_a_factor_that_leaves_and_comes_back_has_changed():
    there_and_back = np.array([0, 1, 2, 1, 0.0])[None, None, :, None]
    assert direction_changes(there_and_back, INFO[:1], [1]) == pytest.approx(10 / 10)
    blink = np.array([1, 0, 1.0])[None, None, :, None]
    assert direction_changes(blink, INFO[1:2], [0.5]) == pytest.approx(2 * 2 / 3)
    assert direction_changes(np.full((1, 4, 9, 1), 0.1), INFO[:1], [1]) == 0


@given(
    seed=st.integers(0, 99),
    scale=st.floats(1e-3, 1e3),
    shift=st.floats(-10, 10),
    values=st.permutations(range(3)),
    directions=st.permutations(range(4)),
    steps=st.permutations(range(5)),
)
def test_scores_depend_on_no_unit_and_no_order(seed, scale, shift, values, directions, steps):
    readings = random_readings(seed, 4, 3, 5)
    readings[0, ..., 1] = 2  # one direction leaves the second factor alone
    data = random_readings(seed + 100, 1, 1, 50).reshape(-1, 2)

    def other_unit(x):
        return np.stack([scale * x[..., 0] + shift, np.array(values)[x[..., 1].astype(int)]], -1)

    first = direction_changes(readings, FLAGS, factor_spread(data, FLAGS))
    moved = other_unit(readings)[directions][:, :, steps]
    second = direction_changes(moved, FLAGS, factor_spread(other_unit(data), FLAGS))
    np.testing.assert_allclose(second, first[directions], rtol=1e-6)
    np.testing.assert_allclose(purity(second, 0.1), purity(first, 0.1)[directions], rtol=1e-6)
    swapped = direction_changes(readings[..., ::-1], FLAGS[::-1], factor_spread(data[:, ::-1], FLAGS[::-1]))
    np.testing.assert_allclose(purity(swapped, 0.1), purity(first, 0.1))
    for changes in (second[:, ::-1], first):
        assert factor_coverage(changes, 0.1) == factor_coverage(swapped, 0.1)


def test_purity_and_coverage_of_known_changes():
    changes = np.array(
        [
            [0.9, 0.0, 0.0],  # pure
            [0.6, 0.2, 0.2],  # mostly the first again
            [0.3, 0.3, 0.3],  # everything alike
            [0.0, 0.04, 0.0],  # below the noise
            [0.0, 0.2, 0.1],  # mostly the second
            [0.0, 0.0, 0.0],
        ]
    )
    np.testing.assert_allclose(purity(changes, 0.05), [1, 0.6, 1 / 3, 0, 2 / 3, 0])
    assert factor_coverage(changes, 0.05) == 2
    assert factor_coverage(changes, 0.05, majority=0.7) == 1
    assert factor_coverage(changes, [0.05, 0.3, 0.05]) == 1  # what exceeds its own factor's noise counts
    assert purity(changes, [0.05, 0.3, 0.2])[4] == 0
    assert factor_coverage(changes[2:3], 0) == factor_coverage(changes[5:], 0) == 0
    assert factor_coverage([[0.5, 0.5]], 0) == 0  # half is no majority
    assert factor_coverage(np.eye(3), 0.1) == 3


@given(st.lists(st.lists(st.floats(0, 3), min_size=4, max_size=4), min_size=1, max_size=6), st.floats(0, 1))
def test_purity_is_at_least_an_even_share_or_nothing(changes, noise):
    found = purity(changes, noise)
    for row, value in zip(changes, found):
        if max(row) > noise:
            assert 1 / 4 - 1e-12 <= value <= 1 + 1e-12 and value == pytest.approx(max(row) / sum(row))
        else:
            assert value == 0
    assert 0 <= factor_coverage(changes, noise) <= min(len(changes), 4)


def test_a_regressor_knows_its_noise(regressor):
    """The noise is what readings of new images differ by, though the true value is the same; that of R² for errors."""
    true = draw_factors(800, seed=0)
    np.testing.assert_allclose(regressor.spread, factor_spread(true, INFO))
    random = np.random.RandomState(0)
    truth = np.stack([random.normal(0, 2, 4000), random.randint(0, 3, 4000)], 1)
    wrong = random.uniform(size=4000) < 0.1
    read = np.stack([truth[:, 0] + random.normal(0, 0.5, 4000), np.where(wrong, (truth[:, 1] + 1) % 3, truth[:, 1])], 1)
    r2 = 1 - 0.5**2 / 2**2
    noise = factor_scores._noise(read, truth, FLAGS) / factor_spread(truth, FLAGS)
    np.testing.assert_allclose(noise, [np.sqrt(1 - r2), 2 * 0.1 * 0.9 / (2 / 3)], rtol=0.05)


def test_directions_are_scored_off_pictures(regressor):
    """Sweeps whose factors are known, drawn and read: one moves x, one the shape, one both, one nothing."""
    random = np.random.RandomState(1)
    sweep, steps = np.linspace(-1, 1, 9), 9
    truth = np.repeat(draw_factors(20, seed=8)[:, None], steps, 1)[None].repeat(4, 0)  # [4, 20, 9, 3]
    truth[[0, 2], ..., 0] = 1 + 3.5 * sweep
    truth[[1, 2], ..., 1] = np.arange(steps) // 3
    images = draw(truth.reshape(-1, 3)).astype(float) + 2 * random.standard_normal((720, 16, 16, 1))
    readings = regressor.predict(np.uint8(np.clip(images, 0, 255))).reshape(truth.shape)
    changes = direction_changes(readings, INFO, regressor.spread)
    np.testing.assert_allclose(changes, direction_changes(truth, INFO, regressor.spread), atol=0.1)
    scores = purity(changes, regressor.noise)
    assert min(scores[:2]) > 0.85 and 0.4 < scores[2] < 0.6 and scores[3] == 0
    assert factor_coverage(changes, regressor.noise) == 2


# ----------------------------------------------------------------------------------------------------------------------
# Wrong arguments

IMAGES = np.zeros((60, 8, 8, 3), np.uint8)
COLUMN = np.linspace(-1, 1, 60, dtype=np.float32)[:, None]


def fit(images=IMAGES, factors=COLUMN, name="x", kind="continuous", range=(-1, 1), values=()):
    return FactorRegressor.fit(images, factors, [{"name": name, "kind": kind, "range": range, "values": values}])


MISTAKES = {
    "images of type float64": lambda: fit(IMAGES / 255.0),
    "shape (60, 8, 8)": lambda: fit(IMAGES[..., 0]),
    "factors of shape (59, 1)": lambda: fit(factors=COLUMN[1:]),
    "40 images": lambda: fit(IMAGES[:40], COLUMN[:40]),
    "range is (1, 1)": lambda: fit(range=(1, 1)),
    "image 0 has -1.0": lambda: fit(range=(0, 1)),
    "image 1 has ": lambda: fit(kind="categorical", values=["a", "b"], factors=np.abs(COLUMN)),
    "'ordinal'": lambda: fit(kind="ordinal"),
    "0.0 in every image": lambda: fit(factors=0 * COLUMN),
    "factor x: there are two": lambda: FactorRegressor.fit(IMAGES, COLUMN[:, [0, 0]], [INFO[0], INFO[0]]),
    "nan": lambda: fit(factors=COLUMN * np.nan),
    "low=1, high=0": lambda: range_coverage([1], 1, 0),
    "0 values": lambda: range_coverage([], 0, 1),
    "not finite": lambda: range_coverage([np.nan], 0, 1),
    "bins=0": lambda: range_coverage([1], 0, 1, bins=0),
    "training_images of (4, 8, 3)": lambda: nearest_image_error(IMAGES, IMAGES[:, :4]),
    "training_images of type int64": lambda: nearest_image_error(IMAGES, IMAGES.astype(np.int64)),
    "activeness=[-1.0]": lambda: effective_number([-1]),
    "factors of shape (1, 2)": lambda: factor_spread(np.zeros((1, 2)), INFO[:2]),
    "readings of shape (2, 3, 4)": lambda: direction_changes(np.zeros((2, 3, 4)), INFO[:1], [1]),
    "readings of shape (2, 3, 1, 1)": lambda: direction_changes(np.zeros((2, 3, 1, 1)), INFO[:1], [1]),
    "readings that are not finite": lambda: direction_changes(np.full((1, 1, 2, 1), np.nan), INFO[:1], [1]),
    "spread=[0.0]": lambda: direction_changes(np.zeros((1, 1, 2, 1)), INFO[:1], [0]),
    "changes of shape (3,)": lambda: purity([1, 2, 3], 0.1),
    "noise=[0.1, 0.2]": lambda: purity([[1, 2, 3]], [0.1, 0.2]),
    "noise=-1.0": lambda: factor_coverage([[1, 2, 3]], -1),
    "majority=0.4": lambda: factor_coverage([[1, 2, 3]], 0.1, majority=0.4),
}


@pytest.mark.parametrize("words", sorted(MISTAKES))
def test_mistakes_are_named_in_one_line(words):
    with pytest.raises(ValueError) as caught:
        MISTAKES[words]()
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_pictures_of_another_size_are_refused(regressor):
    with pytest.raises(ValueError, match=r"\(8, 8, 3\).*reads \(16, 16, 3\)"):
        regressor.predict(IMAGES)


# ----------------------------------------------------------------------------------------------------------------------
# Faithfulness


def test_faithfulness_of_a_generator_that_knows_half_of_it(regressor):
    """Squares and bars of the right half, dark ones only: half the range, two of three shapes, one of two shades."""
    images = draw(draw_factors(400, seed=2))
    half = draw_factors(1000, seed=3)
    half[:, 0] = 1 + (half[:, 0] + 3) / 2
    half[half[:, 1] == 1, 1] = 2
    half[:, 2] = 0
    numbers = faithfulness(draw(half), images, regressor)
    assert numbers["coverage/x"] == pytest.approx(0.5, abs=0.11)  # two of twenty bins
    assert numbers["coverage/shape"] == pytest.approx(2 / 3) and numbers["coverage/bright"] == 0.5
    assert {name: numbers[f"held_out/{name}"] for name in regressor.held_out} == regressor.held_out
    assert 0 < numbers["nearest_image_error"] < 2 * numbers["nearest_image_baseline"]
    again = faithfulness(images, images, regressor)
    assert again["nearest_image_error"] == 0 and again["coverage/shape"] == again["coverage/bright"] == 1


# ----------------------------------------------------------------------------------------------------------------------
# Which latent component moves which factor

LATENT_INFO = [
    {"name": "x", "kind": "continuous", "range": [-1, 1]},
    {"name": "shape", "kind": "categorical", "values": list("abc")},
    {"name": "y", "kind": "continuous", "range": [-1, 1]},
    {"name": "bright", "kind": "categorical", "values": [False, True]},
]


def factors_of(codes):
    """Component 0 moves x, 3 the shape, 1 y (not linearly), 4 the brightness; 2 and 5 nothing."""
    shape = np.digitize(codes[:, 3], [-0.43, 0.43])  # thirds of a normal distribution
    return np.stack([0.3 * codes[:, 0], shape, np.tanh(codes[:, 1]), codes[:, 4] > 0], 1)


def latents(count=1500, nz=6, seed=0):
    return np.random.RandomState(seed).standard_normal([count, nz])


def rotated(codes):
    """The same latents along other axes, each 45° or more from all of the old ones (a Hadamard matrix, two turns)."""
    pair, four = np.array([[1, 1], [1, -1]]) / np.sqrt(2), np.ones([4, 4]) / 2
    four[1, ::2] = four[2, :2] = four[3, [0, 3]] = -0.5
    turn = np.zeros([6, 6])
    turn[np.ix_([0, 1, 3, 4], [0, 1, 3, 4])], turn[np.ix_([2, 5], [2, 5])] = four, pair
    np.testing.assert_allclose(turn.dot(turn.T), np.eye(6), atol=1e-12)
    return codes.dot(turn)


def test_axes_that_move_one_factor_each_score_one():
    codes = latents()
    scores, matrices = latent_factor_scores(codes, factors_of(codes), LATENT_INFO)
    assert all(scores[name] > 0.99 for name in scores if name.startswith("DCI/"))
    assert scores["MIG"] > 0.95 and scores["SAP"] > 0.9  # y is not linear in z, shapes are not equally common
    truth = np.zeros([6, 4])
    truth[[0, 3, 1, 4], range(4)] = 1
    for name, matrix in matrices.items():
        np.testing.assert_allclose(matrix, truth, atol=0.2 if name == "separability" else 0.1, err_msg=name)


def test_turned_axes_score_low_and_chance_scores_nothing():
    codes = latents()
    scores, _ = latent_factor_scores(rotated(codes), factors_of(codes), LATENT_INFO)
    assert scores["DCI/informativeness"] > 0.7  # it is all there, only not along the axes
    assert scores["DCI/disentanglement"] < 0.3 and scores["DCI/completeness"] < 0.4
    assert scores["MIG"] < 0.1 and scores["SAP"] < 0.1
    chance, _ = latent_factor_scores(latents(seed=1), factors_of(codes), LATENT_INFO)
    assert all(value < 0.06 for value in chance.values())


def test_disentanglement_and_completeness_of_known_matrices():
    """By hand: entropies of (1/2, 1/2) in units of log 2 and log 3 (factors, components)."""
    own, shared = [[1, 0], [0, 1], [0, 0]], [[1, 1], [0, 0], [0, 0]]
    split = [[0.5, 0], [0.5, 0], [0, 1]]
    assert disentanglement(own) == completeness(own) == 1
    assert disentanglement(shared) == 0 and completeness(shared) == 1
    assert disentanglement(split) == 1
    assert completeness(split) == pytest.approx((1 - np.log(2) / np.log(3) + 1) / 2)
    assert completeness([[0.5], [0.5], [0], [0]]) == pytest.approx(0.5)
    # Components weigh as much as they matter: 1 for the first, 0 for the second, of three times the importance.
    assert disentanglement([[0.5, 0], [0.75, 0.75]]) == pytest.approx(0.25)
    assert disentanglement(np.zeros([3, 2])) == completeness(np.zeros([3, 2])) == 0
    assert np.isnan(disentanglement([[1], [0]])) and completeness([[1], [0]]) == 1


def test_mean_gap():
    assert mean_gap([[0.9, 0.2], [0.1, 0.5], [0.3, 0.5]]) == pytest.approx((0.6 + 0) / 2)


def test_mutual_information_of_normal_variables_in_closed_form():
    """-½ log(1 - ρ²); in bins a little of it is lost."""
    for correlation in (0.0, 0.5, 0.9):
        first, second = np.random.RandomState(1).standard_normal([2, 20000])
        codes = np.stack([first, second], 1)
        factor = correlation * first + np.sqrt(1 - correlation**2) * second
        found = mutual_information(codes, factor[:, None], LATENT_INFO[:1])[0, 0] * np.log(20)
        assert found == pytest.approx(-0.5 * np.log(1 - correlation**2), rel=0.06, abs=0.003)


def test_mutual_information_of_a_category_equals_a_count():
    """With many samples the correction vanishes: sums over the table of a component's bins and the values."""
    random = np.random.RandomState(0)
    values = random.randint(0, 3, 30000)
    codes = np.stack([values + random.uniform(0, 2, 30000), random.uniform(size=30000)], 1)
    found = mutual_information(codes, values[:, None], LATENT_INFO[1:2], bins=8)
    edges = np.quantile(codes[:, 0], np.arange(1, 8) / 8)
    table = np.zeros([8, 3])
    for code, value in zip(codes[:, 0], values):
        table[(code >= edges).sum(), value] += 1 / 30000
    information = sum(
        table[i, j] * np.log(table[i, j] / table[i].sum() / table[:, j].sum())
        for i in range(8) for j in range(3) if table[i, j] > 0
    )  # fmt: skip
    shares = table.sum(0)
    assert found[0, 0] == pytest.approx(information / -(shares * np.log(shares)).sum(), rel=5e-3)
    assert found[1, 0] < 1e-3


def test_information_does_not_grow_as_samples_get_fewer():
    """20 x 20 bins of 1000 independent samples would show a share of 0.06 without the correction."""
    codes = latents(1000, nz=12)
    found = mutual_information(codes, latents(1000, nz=4, seed=1), [LATENT_INFO[0]] * 4)
    assert found.mean() < 0.02


def test_separability_is_squared_correlation_or_balanced_accuracy():
    codes = latents(4000, nz=2)
    noisy = np.sqrt(0.6) * codes[:, 0] + np.sqrt(0.4) * np.random.RandomState(2).standard_normal(4000)
    rare = codes[:, 1] > 1.5  # 7 %: always saying no is right 93 % of the time, and tells nothing
    flipped = rare ^ (np.random.RandomState(3).uniform(size=4000) < 0.2)
    info = [LATENT_INFO[0], LATENT_INFO[3], LATENT_INFO[3]]
    found = code_separability(codes, np.stack([noisy, rare, flipped], 1), info)
    assert found[0, 0] == pytest.approx(0.6, abs=0.03) and found[1, 1] == pytest.approx(1, abs=0.02)
    assert found[1, 0] < 0.01 and found[0, 1] < 0.15
    truth = (
        flipped[rare].mean() * rare.sum() / flipped.sum() + (~flipped[~rare]).mean() * (~rare).sum() / (~flipped).sum()
    )
    assert found[1, 2] == pytest.approx(truth - 1, abs=0.08)
    # Yes 30 % of the time above 0.5, else no: a threshold there is right of all yes and 76 % of no.
    seldom = (codes[:, 1] > 0.5) & (np.random.RandomState(6).uniform(size=4000) < 0.3)
    right = (codes[~seldom, 1] <= 0.5).mean()
    assert code_separability(codes, seldom[:, None], LATENT_INFO[3:])[1, 0] == pytest.approx(right, abs=0.06)


def test_importance_and_informativeness_of_a_sum():
    """x = 2 a + b, and noise: trees see both components, one four times as much, and miss the noise."""
    codes = latents(3000, nz=5)
    noise = np.random.RandomState(4).standard_normal(3000)
    factors = (2 * codes[:, 1] + codes[:, 3] + noise)[:, None]
    importance, informativeness = factor_importance(codes, factors, LATENT_INFO[:1])
    assert importance.sum() == pytest.approx(1)
    assert importance[1, 0] == pytest.approx(0.8, abs=0.06) and importance[3, 0] == pytest.approx(0.2, abs=0.06)
    assert informativeness[0] == pytest.approx(5 / 6, abs=0.06)
    # A category that 30 % of the samples show at random cannot be known: no better than the commonest value.
    odd = np.random.RandomState(5).uniform(size=(3000, 1)) < 0.3
    assert factor_importance(codes, odd, LATENT_INFO[3:])[1][0] < 0.03


def test_a_factor_that_never_changes_is_moved_by_nothing():
    codes = latents(300)
    factors = factors_of(codes)
    factors[:, [1, 2]] = 0.5, 1
    factors[:, 1] = 2
    scores, matrices = latent_factor_scores(codes, factors, LATENT_INFO)
    assert not any(matrix[:, [1, 2]].any() for matrix in matrices.values())
    assert 0.45 < scores["DCI/completeness"] <= 0.5 and 0.4 < scores["MIG"] <= 0.5 and scores["SAP"] <= 0.5


@given(st.integers(0, 1000), st.floats(0.01, 100), st.floats(-50, 50))
def test_information_depends_on_no_unit_and_no_order(seed, scale, shift):
    random = np.random.RandomState(seed)
    codes = latents(200, nz=3, seed=seed)
    factors = np.stack([codes[:, 0] + random.standard_normal(200), random.randint(0, 3, 200)], 1)
    info = LATENT_INFO[:2]
    found = mutual_information(codes, factors, info)
    order = random.permutation(200)
    moved = factors[order] * [scale, 1] + [shift, 0]
    np.testing.assert_allclose(mutual_information(-codes[order][:, ::-1], moved, info)[::-1], found, atol=0.06)
    np.testing.assert_allclose(mutual_information(codes[order] * scale, moved, info), found, atol=1e-9)


LATENT_MISTAKES = {
    "codes of shape (200, 1)": lambda: latent_factor_scores(latents(200, 1), factors_of(latents(200)), LATENT_INFO),
    "factors of shape (200, 4)": lambda: latent_factor_scores(latents(300), factors_of(latents(200)), LATENT_INFO),
    "expected (200, 3)": lambda: mutual_information(latents(200), factors_of(latents(200)), LATENT_INFO[:3]),
    "codes of shape (200, 6): expected [N, nz], finite": lambda: code_separability(
        latents(200) * np.nan, factors_of(latents(200)), LATENT_INFO
    ),
    "99 samples": lambda: factor_importance(latents(99), factors_of(latents(99)), LATENT_INFO),
    "matrix of shape (1, 2)": lambda: completeness([[1, 2]]),
    "matrix of shape (2, 2)": lambda: mean_gap([[1, -2], [0, 0]]),
}


@pytest.mark.parametrize("words", LATENT_MISTAKES)
def test_mistakes_about_latents_are_named_in_one_line(words):
    with pytest.raises(ValueError) as caught:
        LATENT_MISTAKES[words]()
    assert words in str(caught.value) and "\n" not in str(caught.value)

"""Hessians of images: closed forms, the textbook's formula, a generator in float64; and how diagonal they are."""

import tracemalloc

import make_tiny_snapshot
import numpy as np
import numpy_progan
import pytest
import tensorflow.compat.v1 as tf

from hessian_penalty_np import hessian_penalty
from progan.inference import TrainedGenerator
from progan.metrics.hessian import (
    diagonal_statistics,
    diagonalness,
    hessian_entries,
    image_hessians,
    penalty_map,
    standard_errors,
    summary,
)
from progan.snapshot import load_snapshot

EPSILON = 1 / 8  # with z in eighths, no step is rounded


def eighths(shape, seed=0):
    return np.random.RandomState(seed).randint(-12, 13, shape) / 8


def symmetric(shape, seed=0):
    A = np.random.RandomState(seed).standard_normal(shape)
    return A + np.swapaxes(A, -1, -2)


def quadratic(A, slope=0.0):
    """G whose pixel p is ½ zᵀ A_p z + slope · z + 1, exact in float64. A: [H, W, C, n, n]"""

    def G(z):
        z = np.asarray(z, np.float64)
        return np.einsum("hwcij,ni,nj->nhwc", A, z, z) / 2 + (slope * z).sum(axis=1)[:, None, None, None] + 1

    return G


def smooth(n, seed=1):
    """(G, its Hessians at one z): pixel p is sin(a_p · z)."""
    a = np.random.RandomState(seed).standard_normal([2, 3, 1, n]) / 2

    def hessians(z):
        return -np.sin(a @ z)[..., None, None] * a[..., :, None] * a[..., None, :]

    return lambda z: np.sin(np.einsum("hwci,ni->nhwc", a, np.asarray(z, np.float64))), hessians


def four_point(G, z, epsilon):
    """The textbook's H_ij = (f(+i+j) − f(+i−j) − f(−i+j) + f(−i−j)) / 4ε², entry by entry: [..., n, n]."""
    n = len(z)
    steps = epsilon * np.eye(n)
    entries = [
        [
            sum(a * b * G((z + a * steps[i] + b * steps[j])[None])[0] for a in (1, -1) for b in (1, -1))
            / (4 * epsilon**2)
            for j in range(n)
        ]
        for i in range(n)
    ]
    return np.moveaxis(np.array(entries), [0, 1], [-2, -1])


# ----------------------------------------------------------------------------------------------------------------------
# The Hessians


@pytest.mark.parametrize("minibatch", [1, 2, 7, 100])
def test_quadratic_forms_give_their_matrices(minibatch):
    A = symmetric([2, 3, 3, 5, 5])
    found = list(image_hessians(quadratic(A, slope=3.0), eighths([2, 5]), EPSILON, minibatch))
    assert len(found) == 2 and found[0].shape == A.shape
    for hessians in found:
        np.testing.assert_allclose(hessians, A, atol=1e-10)


def test_the_error_falls_with_the_square_of_the_step():
    G, hessians = smooth(4)
    z = eighths([4], seed=2)
    errors = []
    for epsilon in (1 / 4, 1 / 8, 1 / 16):
        (found,) = image_hessians(G, z[None], epsilon)
        errors.append(np.abs(found - hessians(z)).max())
    assert errors[0] < 0.02
    assert 3.7 < errors[0] / errors[1] < 4.3 and 3.7 < errors[1] / errors[2] < 4.3


def test_it_agrees_with_the_textbook_s_four_points():
    G, hessians = smooth(4)
    z = eighths([4], seed=3)
    (found,) = image_hessians(G, z[None], 1 / 64)
    np.testing.assert_allclose(found, four_point(G, z, 1 / 64), atol=2e-4)
    assert np.abs(hessians(z)).max() > 0.1


def test_as_many_images_as_promised_in_minibatches():
    n, sizes = 6, []

    def G(z):
        assert z.dtype == np.float32
        sizes.append(len(z))
        return quadratic(np.zeros([1, 1, 1, n, n]))(z)

    entries = list(hessian_entries(G, eighths([n]), minibatch=8))
    assert sum(sizes) == 1 + 2 * n + n * (n - 1) and max(sizes) == 8
    assert [(i, j) for i, j, _ in entries[:n]] == [(i, i) for i in range(n)]
    assert sorted((i, j) for i, j, _ in entries) == [(i, j) for i in range(n) for j in range(i, n)]


def test_memory_is_that_of_a_few_images():
    """nz 12: 3 nz + 1 images, and twice a minibatch's while it is put together; all entries would be 78."""
    image = np.zeros([64, 64, 3])

    def G(z):
        return np.tile(image.astype(np.float32), [len(z), 1, 1, 1])

    tracemalloc.start()
    try:
        for _ in hessian_entries(G, np.zeros(12), minibatch=8):
            pass
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < (3 * 12 + 1 + 2 * 8 + 6) * image.nbytes < 78 * image.nbytes


def test_rounding_is_as_small_as_stated():
    """A linear G in float32: its Hessians are nothing but rounding, of the standard deviation that is stated."""
    slopes = np.random.RandomState(0).uniform(0.001, 0.002, [100, 100, 1, 4])

    def G(z):
        return (0.75 + np.einsum("hwci,ni->nhwc", slopes, np.asarray(z, np.float64))).astype(np.float32)

    epsilon = 1 / 8
    (found,) = image_hessians(G, eighths([1, 4]), epsilon)
    delta = 2.0**-24 / np.sqrt(12)  # float32 values in [1/2, 1) lie 2^-24 apart
    assert found[..., 0, 0].std() == pytest.approx(np.sqrt(6) * delta / epsilon**2, rel=0.1)
    assert found[..., 0, 1].std() == pytest.approx(np.sqrt(10) * delta / (2 * epsilon**2), rel=0.1)


def test_a_float32_generator_gives_the_hessians_of_a_float64_one():
    snapshot = load_snapshot(make_tiny_snapshot.SNAPSHOT)
    weights = {name: value.astype(np.float64) for name, value in snapshot.networks["Gs"].items()}

    def exact(z):
        return numpy_progan.generator(weights, np.asarray(z, np.float64), 16, 16, fade=make_tiny_snapshot.LOD)[0]

    z = make_tiny_snapshot.latents()[:1]
    (expected,) = image_hessians(exact, z)
    with TrainedGenerator(snapshot, num_threads=1) as G:
        (found,) = image_hessians(lambda z: G(z, dtype=np.float32), z)
    assert (found - expected).std() < 1e-3 * expected.std()


def test_networks_run_in_full_float32_also_on_gpus_with_tf32():
    enabled = getattr(tf.config.experimental, "tensor_float_32_execution_enabled", None)
    assert (enabled is None) == tf.VERSION.startswith("1.") and not (enabled and enabled())


# ----------------------------------------------------------------------------------------------------------------------
# The penalty of every element


@pytest.mark.parametrize("minibatch", [1, 6, 100])
def test_the_map_of_penalties_is_the_portable_penalty_before_its_reduction(minibatch):
    G, z, k = smooth(4)[0], eighths([4], seed=5), 9
    found = penalty_map(G, z, np.random.RandomState(3), k, EPSILON, minibatch)
    signs = np.random.RandomState(3).choice([-1.0, 1.0], [k, 4])
    expected = hessian_penalty(G, z[None], k, EPSILON, reduction=lambda each: each, directions=signs[:, None])
    np.testing.assert_allclose(found, expected[0], rtol=1e-9)


def test_the_map_of_penalties_tends_to_twice_the_energy_off_the_diagonal():
    A = symmetric([3, 2, 1, 4, 4])
    found = penalty_map(quadratic(A, slope=2.0), eighths([4]), np.random.RandomState(0), k=4000, epsilon=EPSILON)
    expected = 2 * (np.square(A).sum(axis=(-1, -2)) - np.square(np.einsum("...ii->...i", A)).sum(axis=-1))
    np.testing.assert_allclose(found, expected, rtol=0.1)


# ----------------------------------------------------------------------------------------------------------------------
# How diagonal they are


def test_statistics_are_those_of_the_dense_hessians():
    n, G = 5, smooth(5)[0]
    z = eighths([3, n], seed=4)
    found = diagonal_statistics(G, z, EPSILON)
    diagonal = np.eye(n, dtype=bool)
    for sample, hessians in enumerate(image_hessians(G, z, EPSILON)):
        rows = np.abs(hessians).reshape(-1, n, n)
        on, off = rows[:, diagonal], rows[:, ~diagonal]
        expected = {
            "diagonal_energy": (on**2).sum(axis=1).mean(),
            "off_diagonal_energy": (off**2).sum(axis=1).mean(),
            "largest_on_diagonal": (on.max(axis=1) > off.max(axis=1)).mean(),
            "ratio": (on.mean(axis=1) / (off.mean(axis=1) + 1e-8)).mean(),
        }
        assert {name: values[sample] for name, values in found.items()} == pytest.approx(expected, rel=1e-9)


def test_the_three_numbers_of_known_matrices():
    """A pixel with 3 on the diagonal and 1 off it, one the other way round, and one that does not bend."""
    A = np.zeros([3, 1, 1, 2, 2])
    A[0, 0, 0] = [[3, 1], [1, -3]]
    A[1, 0, 0] = [[-1, 3], [3, 1]]
    statistics = diagonal_statistics(quadratic(A), eighths([4, 2]), EPSILON)
    numbers = summary(statistics)
    assert numbers["energy_share"] == pytest.approx(20 / 40)
    assert numbers["largest_on_diagonal"] == pytest.approx(1 / 3)
    assert numbers["ratio"] == pytest.approx((3 / (1 + 1e-8) + 1 / 3 + 0) / 3)


def test_the_energy_off_the_diagonal_is_half_the_penalty():
    """z0 · z1 has penalty 4, in which H_01 = H_10 = 1."""
    statistics = diagonal_statistics(quadratic(np.array([[0.0, 1], [1, 0]])[None, None, None]), eighths([1, 2]), 1 / 8)
    assert statistics["off_diagonal_energy"] == pytest.approx([4 / 2])


def test_standard_errors_are_those_of_a_mean_and_of_a_ratio():
    random = np.random.RandomState(0)
    on, off = random.uniform(1, 2, [2, 50])
    statistics = {"diagonal_energy": on, "off_diagonal_energy": off, "ratio": on, "largest_on_diagonal": off}
    found = standard_errors(statistics)
    assert found["ratio"] == pytest.approx(on.std(ddof=1) / np.sqrt(50))
    assert found["largest_on_diagonal"] == pytest.approx(off.std(ddof=1) / np.sqrt(50))
    share = on.mean() / (on + off).mean()  # the delta method: of the ratio of two means
    expected = (on - share * (on + off)).std(ddof=1) / np.sqrt(50) / (on + off).mean()
    assert found["energy_share"] == pytest.approx(expected, rel=0.05)
    one = standard_errors({name: values[:1] for name, values in statistics.items()})
    assert list(one) == list(found) and all(np.isnan(value) for value in one.values())


def additive(z):
    """Every pixel a sum of functions of one component each, ReLUs among them."""
    z = np.asarray(z, np.float64)
    bumps = np.maximum(z - 0.05, 0.2 * z) + z**2
    return np.stack([bumps @ np.arange(1, z.shape[1] + 1), np.abs(z).sum(axis=1)], axis=1)[:, None, :, None]


def as_sample(G):
    """G as `diagonalness` calls it: a generator that takes a minibatch and a dtype."""
    return lambda z, minibatch, dtype: G(z).astype(dtype)


def test_an_additive_generator_is_diagonal_also_where_relus_bend_it():
    numbers = diagonalness(lambda z, **_: additive(z), nz=6, samples=8)
    assert numbers["energy_share"] == pytest.approx(1, abs=1e-9)
    # a pixel of |z_i| bends only where some z_i is within a step of 0
    assert 0.5 <= numbers["largest_on_diagonal"] <= 1 and numbers["ratio"] > 1e3


def test_diagonalness_does_not_depend_on_the_scale_of_the_images():
    G = smooth(5)[0]
    one, small = (diagonalness(as_sample(lambda z, c=c: c * G(z)), nz=5) for c in (1, 1 / 16))
    assert small["energy_share"] == pytest.approx(one["energy_share"], rel=1e-3)
    assert small["largest_on_diagonal"] == pytest.approx(one["largest_on_diagonal"], abs=0.02)
    assert small["ratio"] == pytest.approx(one["ratio"], rel=1e-2)


def test_components_turned_at_random_leave_the_energy_that_chance_gives():
    """E Σ_i (RᵀHR)_ii² = (2 ‖H‖² + tr(H)²) / (n + 2), over rotations R: here a different one for each pixel."""
    n, random = 6, np.random.RandomState(0)
    H = np.diag([3.0, -1, 2, 0, 1, -2])
    turned = []
    for _ in range(400):
        R = np.linalg.qr(random.standard_normal([n, n]))[0] * random.choice([-1, 1], n)
        turned.append(R.T @ H @ R)
    A = np.array(turned).reshape(20, 20, 1, n, n)
    chance = (2 + np.trace(H) ** 2 / (H**2).sum()) / (n + 2)
    found = summary(diagonal_statistics(quadratic(A), eighths([1, n]), EPSILON))
    assert found["energy_share"] == pytest.approx(chance, abs=0.02)


def test_isotropic_kinks_look_little_more_diagonal_than_they_are():
    """|a · z + t| bends with Hessian ∝ a aᵀ: 3/(n + 2) of its energy is on the diagonal for a uniform direction a."""
    n, kinks, random = 12, 20000, np.random.RandomState(0)
    a = random.standard_normal([kinks, n])
    a /= np.linalg.norm(a, axis=1, keepdims=True)
    t = random.uniform(-0.5, 0.5, kinks)

    def G(z):
        return np.abs(np.asarray(z, np.float64) @ a.T + t)[:, :, None, None]

    found = summary(diagonal_statistics(G, np.zeros([1, n])))
    assert found["energy_share"] == pytest.approx(0.241, abs=0.004)
    assert 3 / (n + 2) < found["energy_share"] < 3 / (n + 2) + 0.03


def test_latents_are_drawn_from_the_seed_and_enter_as_in_training():
    seen = []

    def sample(z, minibatch, dtype, normalize_latents=True):
        assert dtype == np.float32 and normalize_latents and len(z) <= minibatch
        seen.append(z)
        return np.zeros([len(z), 1, 1, 1], np.float32)

    numbers = diagonalness(sample, nz=3, samples=2, seed=7, minibatch=4)
    centre = np.random.RandomState(7).standard_normal([2, 3]).astype(np.float32)
    singles = [z[0] for z in seen if len(z) == 1]
    np.testing.assert_array_equal(singles, centre)
    assert np.isnan(numbers["energy_share"]) and numbers["ratio"] == numbers["largest_on_diagonal"] == 0


def test_one_component_has_nothing_off_the_diagonal():
    numbers = diagonalness(lambda z, **_: np.square(z)[:, :, None, None], nz=1)
    assert numbers["energy_share"] == numbers["largest_on_diagonal"] == 1

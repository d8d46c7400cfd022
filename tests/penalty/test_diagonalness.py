"""diagonalness: mean |H_aa| over mean |H_ab|, a ≠ b, in every framework."""

import numpy as np
import pytest
import tensorflow as tf
import torch
from test_penalty_interface import smooth_network

import hessian_penalty_pytorch


def random_pairs(k, z, seed):
    """Pairs (a, b), a ≠ b, [k, N, 2]."""
    random, size = np.random.RandomState(seed), z[0].size
    a = random.randint(size, size=(k, len(z)))
    return np.stack([a, (a + random.randint(1, size, size=a.shape)) % size], axis=2)


def definition(G, z, axes, epsilon):
    """For each activation, |H_aa| and |H_ab| of every sample [N], written out sample by sample and pair by pair."""

    def second_derivative(G, z, direction):  # along a direction of any length: s = (G(z+x) − 2 G(z) + G(z−x)) / ε²
        length = np.linalg.norm(direction)
        x = (2**0.5 * epsilon / length) * direction
        return [(p - 2 * c + m) * length**2 / (2 * epsilon**2) for p, c, m in zip(G(z + x), G(z), G(z - x))]

    k, N, _ = axes.shape
    sizes = np.zeros((2, len(G(z)), N))
    for pairs in axes:
        for n, (a, b) in enumerate(pairs):
            e_a, e_b = np.zeros(z.shape), np.zeros(z.shape)
            e_a[n].flat[a], e_b[n].flat[b] = 1, 1
            triples = zip(*(second_derivative(G, z, direction) for direction in (e_a, e_a + e_b, e_a - e_b)))
            for i, (H_aa, s_u, s_w) in enumerate(triples):
                sizes[:, i, n] += np.mean(np.abs(H_aa[n])) / k, np.mean(np.abs(s_u[n] - s_w[n])) / 4 / k
    return sizes


def ratio_and_error(diagonal, off_diagonal):
    """Ratios of means over samples of [activations, N], and the jackknife's standard error of their mean."""
    N = diagonal.shape[1]
    ratio = np.mean(diagonal.mean(axis=1) / off_diagonal.mean(axis=1))
    residuals = np.mean(
        diagonal / off_diagonal.mean(axis=1, keepdims=True)
        - diagonal.mean(axis=1, keepdims=True) * off_diagonal / off_diagonal.mean(axis=1, keepdims=True) ** 2,
        axis=0,
    )
    return ratio, np.std(residuals, ddof=1) / np.sqrt(N)


@pytest.mark.parametrize("shape, k, epsilon", [((3, 4), 1, 0.1), ((4, 2, 3), 3, 0.2)])
def test_the_frameworks_agree_with_the_definition(frameworks, shape, k, epsilon):
    z = np.random.RandomState(0).randn(*shape)
    axes, shapes_out = random_pairs(k, z, seed=1), [(5,), (), (2, 3)]
    options = dict(k=k, epsilon=epsilon, axes=axes)
    sizes = definition(smooth_network(frameworks["numpy"], shape, shapes_out, seed=2), z, axes, epsilon)
    separate = [ratio_and_error(*sizes[:, i : i + 1]) for i in range(3)]
    for framework in frameworks.values():
        G = smooth_network(framework, shape, shapes_out, seed=2)
        np.testing.assert_allclose(framework.diagonalness(G, z, **options), ratio_and_error(*sizes), rtol=1e-8)
        values = framework.diagonalness(G, z, return_separately=True, **options)
        np.testing.assert_allclose(values, separate, rtol=1e-8)
        one = framework.diagonalness(lambda z, G=G: G(z)[0], z, **options)
        np.testing.assert_allclose(one, separate[0], rtol=1e-8)


def test_a_known_hessian_has_the_known_ratio_and_error(framework):
    """z0·z1 + c·z0²: H_00 = 2c, H_11 = 0, H_01 = 1; half the samples are asked for (0, 1), half for (1, 0)."""
    c, N = 3.0, 10
    z = np.random.RandomState(0).randn(N, 2)

    def G(z):
        return z[:, 0] * z[:, 1] + c * z[:, 0] ** 2

    def result(*pairs):
        return framework.diagonalness(G, z, k=len(pairs), axes=np.stack([np.broadcast_to(p, (N, 2)) for p in pairs]))

    np.testing.assert_allclose(result([0, 1]), (2 * c, 0), atol=1e-9)
    np.testing.assert_allclose(result([1, 0]), (0, 0), atol=1e-9)
    np.testing.assert_allclose(result([0, 1], [1, 0]), (c, 0), atol=1e-9)
    halves = np.array([[[0, 1], [1, 0]] * (N // 2)])
    np.testing.assert_allclose(framework.diagonalness(G, z, axes=halves), (c, c / np.sqrt(N - 1)), rtol=1e-9)


def test_random_symmetric_hessians_have_the_square_root_of_2(framework):
    """Random rotations leave them alike distributed: Var H_aa = 2 Var H_ab, and H Gaussian for many terms."""
    random, size = np.random.RandomState(0), 8
    A, B, C = random.randn(size, 200), random.randn(size, 200), random.randn(200, 300)
    H = np.einsum("ar,br,rm->mab", A, B, C)
    sizes = np.abs(H + np.swapaxes(H, 1, 2))
    on = np.mean(sizes[:, np.eye(size, dtype=bool)])
    truth = on / np.mean(sizes[:, ~np.eye(size, dtype=bool)])
    assert truth == pytest.approx(2**0.5, rel=0.05)

    def G(z):
        return ((z @ framework.constant(A)) * (z @ framework.constant(B))) @ framework.constant(C)

    ratio, error = framework.diagonalness(G, random.randn(100, size), k=2)
    assert 0 < error < 0.05
    assert abs(ratio - truth) < 5 * error


def test_only_the_shape_of_the_hessian_counts(framework):
    z = np.random.RandomState(0).randn(6, 4)
    axes = random_pairs(1, z, seed=0)
    G = smooth_network(framework, z.shape, [(5,)], seed=0)
    value = framework.diagonalness(G, z, axes=axes)
    for scale in (1e-3, 1e3):
        scaled = framework.diagonalness(lambda z, scale=scale: scale * G(z)[0], z, axes=axes)
        np.testing.assert_allclose(scaled, value, rtol=1e-8)
    assert framework.diagonalness(lambda z: z**2 + 0.1 * z**3, z, axes=axes)[0] > 1e6  # a diagonal Hessian


def test_half_precision_latents_become_float32(framework):
    z = np.random.RandomState(0).randn(6, 4)
    axes = random_pairs(1, z, seed=0)
    half = framework.diagonalness(lambda z: z**2 * z[:, :1], z.astype("float16"), axes=axes)
    assert half[0].dtype == "float32"
    np.testing.assert_allclose(half, framework.diagonalness(lambda z: z**2 * z[:, :1], z, axes=axes), rtol=0.01)


def test_the_standard_error_is_calibrated(frameworks):
    """95 % of the intervals hold the truth, also for activations whose errors go together."""
    numpy = frameworks["numpy"]
    G = smooth_network(numpy, (40, 4), [(3,)], seed=3)
    many = smooth_network(numpy, (100_000, 4), [(3,)], seed=3)
    random = np.random.RandomState(0)
    numpy.seed(0)
    truth, error = numpy.diagonalness(many, random.randn(100_000, 4))
    for activations in (lambda z: G(z), lambda z: [G(z)[0], 2 * G(z)[0]]):
        results = np.array([numpy.diagonalness(activations, random.randn(40, 4)) for _ in range(1000)])
        off = np.abs(results[:, 0] - truth) / np.hypot(results[:, 1], error)
        assert 0.91 < np.mean(off < 1.96) < 0.975


def steps_of(framework, z, **kwargs):
    """What G is asked for beside z: [passes, N, components]."""
    seen = []

    def record():
        for _ in range(2):  # the first call begins with a look at G
            seen.clear()
            framework.call(framework.module.diagonalness, lambda latents: seen.append(latents) or latents, z, **kwargs)
        return seen

    return np.stack(framework.run(record)).reshape(-1, len(z), z[0].size) - z.reshape(len(z), -1)


@pytest.mark.parametrize("k", [1, 3])
def test_1_and_6k_passes_with_steps_of_one_length(framework, k):
    z, epsilon = np.zeros((5, 2, 3)), 0.25
    steps = steps_of(framework, z, k=k, epsilon=epsilon)
    lengths = np.linalg.norm(steps, axis=2)
    assert len(steps) == 1 + 6 * k
    assert np.sum(np.all(lengths == 0, axis=1)) == 1
    np.testing.assert_allclose(lengths[np.any(lengths > 0, axis=1)], np.sqrt(2) * epsilon, rtol=1e-12)


def test_pairs_are_different_components_drawn_evenly_for_every_sample(framework):
    """Each ordered pair of 4 components in a twelfth of the samples, to within 5 standard errors; others next time."""
    z = np.zeros((6000, 4))

    def drawn():
        nonzero = np.abs(steps_of(framework, z)) > 0
        along_a = nonzero[np.all(nonzero.sum(axis=2) == 1, axis=1)][0]
        both = nonzero[np.all(nonzero.sum(axis=2) == 2, axis=1)][0]
        return 4 * np.argmax(along_a, axis=1) + np.argmax(both & ~along_a, axis=1)

    first, second = drawn(), drawn()
    counts = np.bincount(first, minlength=16).reshape(4, 4)
    assert np.all(np.diag(counts) == 0)
    off = counts[~np.eye(4, dtype=bool)] - len(z) / 12
    assert np.max(np.abs(off)) < 5 * np.sqrt(len(z) / 12 * 11 / 12)
    assert np.mean(first == second) == pytest.approx(1 / 12, abs=5 * np.sqrt(11 / 144 / len(z)))


def test_axes_that_are_given_leave_the_generator_alone():
    """So that looking at a run does not change its course."""
    z, axes = torch.randn(4, 3), random_pairs(1, np.zeros((4, 3)), seed=0)
    before = torch.get_rng_state()
    hessian_penalty_pytorch.diagonalness(torch.tanh, z, axes=axes)
    assert torch.equal(torch.get_rng_state(), before)


def test_one_sample_has_a_ratio_and_no_error(framework):
    z = np.random.RandomState(0).randn(1, 3)
    ratio, error = framework.diagonalness(lambda z: z**2 * z[:, :1] + z[:, 1:2] * z, z, k=2)
    assert ratio > 0 and np.isnan(error)
    separate = framework.diagonalness(lambda z: [z**2 * z[:, :1] + z[:, 1:2] * z], z, return_separately=True)
    assert np.isnan(separate[0][1])


def test_nothing_is_recorded_for_gradients(frameworks):
    z, axes = np.random.RandomState(0).randn(4, 3), random_pairs(1, np.zeros((4, 3)), seed=0)

    weight = torch.ones(3, requires_grad=True)
    value = frameworks["pytorch"].module.diagonalness(lambda z: (weight * z) ** 3, torch.tensor(z), axes=axes)
    assert not value.ratio.requires_grad and not value.standard_error.requires_grad

    def tensorflow_gradient():
        z_tensor = tf.constant(z)
        with tf.GradientTape() as tape:
            tape.watch(z_tensor)
            value = frameworks["tensorflow"].module.diagonalness(lambda z: z**3 * z[:, :1], z_tensor, axes=axes)
        assert tape.gradient(value.ratio, z_tensor) is None
        return value.ratio

    assert frameworks["tensorflow"].run(tensorflow_gradient) > 0

    if "jax" in frameworks:
        import jax

        def ratio(weight):
            return frameworks["jax"].module.diagonalness(lambda z: (weight * z) ** 3 * z[:, :1], z, axes=axes).ratio

        assert ratio(1.5) > 0
        assert jax.grad(ratio)(1.5) == 0 and jax.grad(jax.jit(ratio))(1.5) == 0


Z = np.ones((3, 4))
PAIRS = np.array([[[0, 1]] * 3])
REFUSED = {
    "k is 0": (dict(k=0), ["k must be at least 1", "got 0"]),
    "epsilon is 0": (dict(epsilon=0), ["epsilon must be positive", "got 0"]),
    "z holds integers": (dict(z=np.ones((3, 4), "int64")), ["z must be a floating-point", "int64"]),
    "z has one component": (dict(z=np.ones((3, 1))), ["z must have at least two components", "got 1"]),
    "z has no components": (dict(z=np.ones(3)), ["z must have at least two components", "got 1"]),
    "axes for another k": (dict(k=2, axes=PAIRS), ["axes must be integers of shape [k, N, 2]", "(1, 3, 2)"]),
    "axes for other samples": (dict(axes=PAIRS[:, :2]), ["axes must be integers of shape [k, N, 2]", "(1, 2, 2)"]),
    "axes of fractions": (dict(axes=PAIRS * 1.0), ["axes must be integers of shape [k, N, 2]"]),
    "an output without the batch": (dict(G=lambda z: z[0]), ["batch axis", "(3, 4)", "(4,)"]),
}
REFUSED_VALUES = {
    "a pair of the same": PAIRS * 0,
    "a component too high": PAIRS * 4,
    "a negative component": PAIRS - 1,
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_bad_input_is_refused_in_one_line_that_names_the_value(framework, case):
    arguments, expected = REFUSED[case]
    arguments = dict(arguments)
    with pytest.raises(ValueError) as error:
        framework.diagonalness(arguments.pop("G", lambda z: z), arguments.pop("z", Z), **arguments)
    assert "\n" not in str(error.value)
    for text in expected:
        assert text in str(error.value)


@pytest.mark.parametrize("case", sorted(REFUSED_VALUES))
def test_pairs_that_are_none_are_refused(frameworks, case):
    for name, framework in frameworks.items():
        if name == "tensorflow" and not tf.executing_eagerly():
            continue  # a graph does not know the values
        with pytest.raises(ValueError, match="axes must be pairs of different components from 0 to 3"):
            framework.diagonalness(lambda z: z, Z, axes=REFUSED_VALUES[case])

"""Values that are known from calculus: Var_v(vᵀHv) = 2 · Σ_{i≠j} H_ij² over Rademacher vectors v."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

DRAWS = 20_000  # independent estimates, one for each sample of a batch that repeats one z


def assert_mean_is(framework, G, z, expected, k):
    """The mean of DRAWS estimates is within 5 standard errors of the truth: chance fails it once in 1.7 million."""
    estimates = framework.penalty(G, np.tile(z, (DRAWS, 1)), k=k, reduction=lambda variances: variances)
    assert estimates.shape == (DRAWS,)
    standard_error = np.std(estimates, ddof=1) / np.sqrt(DRAWS)
    assert abs(np.mean(estimates) - expected) <= 5 * standard_error + 1e-9 * abs(expected)


def test_product_of_two_components_is_4(framework):
    for k in (2, 3, 5):
        assert_mean_is(framework, lambda z: z[:, 0] * z[:, 1], np.array([0.3, -1.2]), expected=4, k=k)


def test_cubic_is_16_z0_squared(framework):
    for z0 in (0.5, -1.5):
        z = np.array([z0, 0.7])
        assert_mean_is(framework, lambda z: z[:, 0] ** 2 * z[:, 1], z, expected=16 * z0**2, k=2)


def test_squares_have_a_diagonal_hessian_and_no_penalty(framework):
    z = np.random.RandomState(0).randn(64, 5)
    assert framework.penalty(lambda z: z**2, z, k=4) < 1e-20


def test_a_large_constant_costs_no_precision(framework):
    """In float32, beside 2²³, the second differences 2, −2, 2 of z0·z1 at ε = 1 still have the variance 16/3."""
    directions = np.array([[[1.0, 1.0]], [[1.0, -1.0]], [[-1.0, -1.0]]])
    z = np.zeros((1, 2), "float32")
    value = framework.penalty(lambda z: z[:, 0] * z[:, 1] + 2.0**23, z, k=3, epsilon=1.0, directions=directions)
    np.testing.assert_allclose(value, 16 / 3, rtol=1e-6)


def symmetric(size, seed):
    matrix = np.random.RandomState(seed).randn(size, size)
    return matrix + matrix.T


def quadratic_form(matrix, framework):
    """z ↦ zᵀ M z / 2, whose Hessian is the symmetric matrix M."""
    ones = np.ones((len(matrix), 1))
    return lambda z: ((z @ framework.constant(matrix)) * z / 2) @ framework.constant(ones)


def off_diagonal_squares(matrix):
    return np.sum(matrix**2) - np.sum(np.diag(matrix) ** 2)


@given(size=st.integers(2, 6), k=st.integers(2, 4), seed=st.integers(0, 1000))
def test_mean_over_random_quadratic_forms(framework, size, k, seed):
    M = symmetric(size, seed)
    form = quadratic_form(M, framework)
    z = np.random.RandomState(seed + 1).randn(size)
    assert_mean_is(framework, lambda z: form(z)[:, 0], z, expected=2 * off_diagonal_squares(M), k=k)


@given(size=st.integers(2, 4), batch=st.integers(1, 3), seed=st.integers(0, 1000))
def test_all_sign_vectors_give_the_variance_exactly(framework, size, batch, seed):
    """Over all 2ⁿ sign vectors the population variance is 2 Σ H_ij²: the unbiased one is k/(k − 1) times that."""
    M = symmetric(size, seed)
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=size)))
    k = len(signs)
    directions = np.repeat(signs[:, None], batch, axis=1)
    z = np.random.RandomState(seed + 1).randn(batch, size)
    value = framework.penalty(quadratic_form(M, framework), z, k=k, directions=directions)
    np.testing.assert_allclose(value, 2 * off_diagonal_squares(M) * k / (k - 1), rtol=1e-8)


def test_every_sample_gets_directions_of_its_own(framework):
    """s_i is ±2 for z0·z1, so an estimate with k = 2 is 0 or 8: with shared directions all samples would agree."""
    z = np.zeros((64, 2))
    estimates = framework.penalty(lambda z: z[:, 0] * z[:, 1], z, reduction=lambda variances: variances)
    np.testing.assert_allclose(np.unique(np.round(estimates, 6)), [0, 8])


def test_directions_are_signs_drawn_afresh_and_evenly(framework):
    """G sees z ± ε in pairs, each sign in half the entries (within 5 standard errors), other signs in the next call."""
    z, epsilon = np.zeros((50, 40)), 0.25
    calls = [framework.latents(z, epsilon=epsilon) for _ in range(2)]
    tolerance = 5 * 0.5 / np.sqrt(z.size)
    for latents in calls:
        np.testing.assert_array_equal(np.abs(latents), epsilon)
        np.testing.assert_array_equal(latents[0::2], -latents[1::2])
        assert np.all(np.abs(np.mean(latents > 0, axis=(1, 2)) - 0.5) < tolerance)
        assert abs(np.mean(latents[0] == latents[2]) - 0.5) < tolerance
    assert abs(np.mean(calls[0][0] == calls[1][0]) - 0.5) < tolerance

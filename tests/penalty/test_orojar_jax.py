"""JAX: OroJaR against its definition and closed form; options, transformations and refusals."""

import functools
import inspect
import sys

import numpy as np
import pytest

if sys.version_info < (3, 11):
    pytest.skip("current JAX needs Python 3.11", allow_module_level=True)

import jax
import jax.numpy as jnp

from hessian_penalty_jax import orojar_penalty

N, K = 5, 3
RANDOM = np.random.RandomState(0)
W = RANDOM.randn(4, 6) / 2
Z, Y, DIRECTIONS = RANDOM.randn(N, 4), RANDOM.randn(N, 6), RANDOM.choice([-1.0, 1.0], size=(K, N, 4))
KEY = jax.random.key(0)


def network(np, z, y, weight):
    """Two activations, of shapes [N, 2, 3] and [N]."""
    hidden = np.tanh(z @ weight + y)
    return [hidden.reshape(-1, 2, 3), np.sum(hidden * z[:, :1], axis=1)]


def definition(z, y, weight, epsilon=0.1):
    """Var(‖Jv‖²) over the directions for each sample, for each activation."""
    squares = []
    for v in DIRECTIONS:
        plus, minus = (network(np, z + sign * epsilon * v, y, weight) for sign in (1, -1))
        slopes = [((p - m) / (2 * epsilon)).reshape(N, -1) for p, m in zip(plus, minus)]
        squares.append([np.sum(slope**2, axis=1) for slope in slopes])
    return [np.var(of_one, axis=0, ddof=1) for of_one in zip(*squares)]


def penalty(z=Z, y=Y, weight=W, **options):
    options = dict(dict(directions=DIRECTIONS, batch_kwargs=["y"]), **options)
    return orojar_penalty(functools.partial(network, jnp), z, K, y=y, weight=weight, **options)


def value_and_gradients(**options):
    return jax.jit(jax.value_and_grad(functools.partial(penalty, **options), argnums=(0, 1, 2)))(Z, Y, W)


def assert_same(results, expected):
    for result, truth in zip(jax.tree_util.tree_leaves(results), jax.tree_util.tree_leaves(expected)):
        assert np.any(truth != 0)
        np.testing.assert_allclose(result, truth, rtol=0, atol=1e-9 * np.max(np.abs(truth)))


def test_it_is_its_definition():
    expected = definition(Z, Y, W)
    np.testing.assert_allclose(penalty(), sum(map(np.mean, expected)), rtol=1e-10)
    np.testing.assert_allclose(penalty(return_separately=True), [np.mean(e) for e in expected], rtol=1e-10)
    np.testing.assert_allclose(penalty(reduction=jnp.max), sum(map(np.max, expected)), rtol=1e-10)


def test_its_gradient_is_that_of_its_definition():
    """By central differences in one direction of all arguments."""
    _, gradients = value_and_gradients()
    direction = [np.random.RandomState(1).randn(*array.shape) for array in (Z, Y, W)]
    ends = [[a + sign * 1e-5 * d for a, d in zip((Z, Y, W), direction)] for sign in (1, -1)]
    plus, minus = (sum(map(np.mean, definition(*end))) for end in ends)
    slope = sum(np.sum(g * d) for g, d in zip(gradients, direction))
    np.testing.assert_allclose(slope, (plus - minus) / 2e-5, rtol=1e-6)


@pytest.mark.parametrize("k", [2, 4])
def test_its_mean_is_that_of_the_jacobians_columns(k):
    """2 Σ_{i≠j} (J_iᵀJ_j)², which is what the variance over all vectors of signs comes to."""
    gram = W @ W.T
    expected = 2 * (np.sum(gram**2) - np.sum(np.diag(gram) ** 2))
    z = np.repeat(Z[:1], 20_000, axis=0)
    estimates = np.asarray(orojar_penalty(lambda z: z @ W, z, k, key=KEY, reduction=lambda v: v))
    assert estimates.shape == (20_000,)
    assert abs(estimates.mean() - expected) < 5 * estimates.std() / 20_000**0.5


def test_of_orthogonal_columns_it_is_zero():
    assert orojar_penalty(lambda z: z * jnp.arange(1.0, 5), Z, key=KEY) < 1e-20


OPTIONS = {
    "batched": dict(batched=True),
    "lean": dict(memory="lean"),
    "lean maximum": dict(memory="lean", reduction=jnp.max),
    "chunks": dict(chunk_size=2),
    "lean chunks of a sum": dict(chunk_size=2, memory="lean", reduction=jnp.sum),
    "batched chunks": dict(chunk_size=N, batched=True),
}


@pytest.mark.parametrize("option", sorted(OPTIONS))
def test_options_change_neither_value_nor_gradients(option):
    options = OPTIONS[option]
    plain = {name: options[name] for name in options if name == "reduction"}
    assert_same(value_and_gradients(**options), value_and_gradients(**plain))


@pytest.mark.parametrize("option", [{}, dict(batched=True), dict(memory="lean")])
def test_vmap_is_a_loop(option):
    function = jax.jit(jax.value_and_grad(functools.partial(penalty, **option), argnums=(0, 2)))
    problems = np.stack([Z, Z + 1]), np.stack([Y, -Y]), np.stack([W, W / 2])
    one_by_one = [function(*problem) for problem in zip(*problems)]
    together = jax.vmap(function)(*problems)
    assert_same(together, jax.tree_util.tree_map(lambda *leaves: np.stack(leaves), *one_by_one))


def test_eagerly_it_is_the_same_and_a_key_draws_the_directions():
    assert_same(jax.value_and_grad(penalty)(Z), jax.jit(jax.value_and_grad(penalty))(Z))
    values = [penalty(directions=None, key=jax.random.key(seed)) for seed in (1, 1, 2)]
    assert values[0] == values[1] != values[2]


def test_epsilon_may_be_traced():
    compiled = jax.jit(lambda epsilon: penalty(epsilon=epsilon))
    np.testing.assert_allclose(compiled(0.3), sum(map(np.mean, definition(Z, Y, W, 0.3))), rtol=1e-10)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_precision_of_z_is_kept(dtype):
    assert orojar_penalty(lambda z: z, Z.astype(dtype), key=KEY, epsilon=np.float64(0.1)).dtype == dtype


def test_its_signature_is_that_of_pytorch():
    from hessian_penalty_pytorch import orojar_penalty as of_pytorch

    expected = [name for name in inspect.signature(of_pytorch).parameters]
    expected.insert(expected.index("directions"), "key")
    parameters = inspect.signature(orojar_penalty).parameters
    assert list(parameters) == expected
    assert parameters["reduction"].default is jnp.mean


REFUSED = {
    "k is 1": (dict(k=1), "k must be at least 2"),
    "epsilon is 0": (dict(epsilon=0), "epsilon must be positive, got 0"),
    "no key": (dict(directions=None), "pass key=jax.random.key"),
    "chunks of the maximum": (dict(chunk_size=2, reduction=jnp.max), "chunk_size needs the mean or sum"),
    "another memory": (dict(memory="low"), "memory must be None or"),
    "batched and lean": (dict(batched=True, memory="lean"), "exclude each other"),
    "a name not passed": (dict(batch_kwargs=["x"]), "batch_kwargs names 'x', which was not passed"),
    "half precision": (dict(G=lambda z: z.astype("bfloat16")), "G must compute in float32 or float64"),
    "an output without the batch": (dict(G=lambda z: z[0]), "the batch axis of z first"),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_bad_input_is_refused(case):
    arguments, message = REFUSED[case]
    arguments = dict(dict(G=lambda z: z, k=K, directions=DIRECTIONS), **arguments)
    with pytest.raises(ValueError, match=message) as error:
        orojar_penalty(arguments.pop("G"), Z, **arguments)
    assert "\n" not in str(error.value)


def test_outputs_that_change_are_warned_of():
    with pytest.warns(UserWarning, match="NumPy's random generator") as caught:
        orojar_penalty(lambda z: z * np.random.rand(), Z, key=KEY)
    assert caught[0].filename == __file__


@pytest.mark.parametrize("name", ["select", "exact"])
def test_the_hessians_options_are_passed_on_to_g(name):
    with pytest.raises(TypeError, match=name):
        orojar_penalty(lambda z: z, Z, key=KEY, **{name: True})

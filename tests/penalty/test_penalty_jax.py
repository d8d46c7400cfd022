"""What only JAX has: keys, tracing, vmap, forward-mode derivatives, the precision of products, memory as compiled."""

import functools
import sys
import warnings

import numpy as np
import pytest

if sys.version_info < (3, 11):
    pytest.skip("current JAX needs Python 3.11", allow_module_level=True)

import jax
import jax.numpy as jnp
from frameworks import JAX, OPTIMIZED
from jax.extend.core import jaxprs_in_params
from test_options import ARRAYS, DIRECTIONS, FIRST, WEIGHTS, C, K, N, network

from hessian_penalty_jax import diagonalness, hessian_penalty, orojar_penalty

Z = ARRAYS["z"]
SELECT, BATCHED, LEAN = dict(select=True), dict(batched=True), dict(memory="lean")
KEY, PARAMETERS = jax.random.key(0), {name: jnp.asarray(weight) for name, weight in WEIGHTS.items()}


def penalty(weights=PARAMETERS, epsilon=0.1, **options):
    G, conditions = network(JAX, "smooth", weights), dict(y=ARRAYS["y"], c=C, scale=0.8)
    return hessian_penalty(G, Z, K, epsilon, directions=DIRECTIONS, batch_kwargs=["y", "c"], **conditions, **options)


def assert_same(results, expected, rtol=1e-9):
    for result, truth in zip(jax.tree_util.tree_leaves(results), jax.tree_util.tree_leaves(expected)):
        assert np.any(truth != 0)
        np.testing.assert_allclose(result, truth, rtol=0, atol=rtol * np.max(np.abs(truth)))


@pytest.mark.parametrize("function", [hessian_penalty, orojar_penalty])
def test_keys_draw_the_directions(function):
    def penalty(seed, key=jax.random.key):
        return function(lambda z: jnp.tanh(z @ FIRST), Z, key=key(seed))

    assert penalty(1) == penalty(1) != penalty(2)
    assert penalty(1, jax.random.PRNGKey) == penalty(1)
    keys = jax.random.split(KEY, 50)
    z = jnp.ones((1, 2))
    vmapped = jax.vmap(lambda key: function(lambda z: z[:, 0] * z[:, 1], z, key=key))(keys)
    np.testing.assert_allclose(np.unique(np.round(vmapped, 6)), [0, 8])


# ----------------------------------------------------------------------------------------------------------------------
# Tracing


def test_epsilon_may_be_traced():
    """So that one compiled function serves while it is annealed."""
    chunks, exact = dict(reduction=jnp.mean, chunk_size=3), dict(exact=True)
    plain = {"maximum": {}, "mean": dict(reduction=jnp.mean), "exact": exact}
    options = {"maximum": [{}, BATCHED, LEAN, SELECT], "mean": [chunks], "exact": [exact]}

    def value_and_gradients(epsilon, options):
        return [jax.value_and_grad(penalty)(PARAMETERS, epsilon, **each) for each in options]

    @jax.jit
    def traced(epsilon):
        return {name: value_and_gradients(epsilon, some) for name, some in options.items()}

    expected = jax.jit(lambda: {name: value_and_gradients(0.3, [each]) for name, each in plain.items()})()
    large, small = traced(0.3), traced(0.1)
    for name, each in plain.items():
        value_at_small = penalty(epsilon=0.1, **each)
        for result, (value, _) in zip(large[name], small[name]):
            assert_same(result, expected[name][0])
            assert_same(value, value_at_small)

    def total(epsilon):
        return sum(penalty(epsilon=epsilon, **each) for some in options.values() for each in some)

    assert np.all(np.isfinite(jax.jit(jax.vmap(jax.grad(total)))(jnp.asarray([0.1, 0.3]))))  # they need mean nothing
    of_select = jax.grad(lambda epsilon: hessian_penalty(jnp.sin, Z, K, epsilon, directions=DIRECTIONS, select=True))
    assert np.isfinite(of_select(0.1))  # eagerly too


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.asarray, jnp.asarray, jnp.float32, jnp.float64, int])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_epsilon_of_any_kind_is_the_number_and_leaves_the_dtype_alone(dtype, kind):
    """2 is the same number in every precision."""
    z, weight = Z.astype(dtype), FIRST.astype(dtype) / 10

    def values(epsilon):
        options = dict(directions=DIRECTIONS[:2], select=True)
        penalty = hessian_penalty(lambda z: jnp.tanh(z @ weight), z, epsilon=epsilon, **options)
        axes = np.broadcast_to([0, 1], (1, N, 2))
        orojar = orojar_penalty(lambda z: jnp.tanh(z @ weight), z, epsilon=epsilon, directions=DIRECTIONS[:2])
        return (penalty, orojar, *diagonalness(lambda z: jnp.tanh(z @ weight), z, epsilon=epsilon, axes=axes))

    for result in (values(kind(2.0)), jax.jit(values)(kind(2.0)), jax.jit(lambda: values(kind(2.0)))()):
        assert [value.dtype for value in result] == [dtype] * 4
        np.testing.assert_allclose(result, values(2.0), rtol=1e-3 if dtype == "float32" else 1e-10)


@pytest.mark.parametrize(
    "function, option",
    [(hessian_penalty, option) for option in ({}, BATCHED, LEAN, SELECT, dict(exact=True))] + [(orojar_penalty, LEAN)],
)
def test_vmap_is_a_loop(function, option):
    """Over latents, directions and weights: one penalty, and gradient, for each of three problems."""
    random = np.random.RandomState(1)
    problems = random.randn(3, 5, 4), random.choice([-1.0, 1.0], size=(3, 2, 5, 4)), random.randn(3, 4, 6)

    def penalty(z, directions, weight):
        return function(lambda z: jnp.tanh(z @ weight), z, directions=directions, **option)

    gradients = jax.value_and_grad(penalty, argnums=(0, 2))
    one, together = jax.jit(gradients), jax.jit(jax.vmap(gradients))(*problems)
    one_by_one = [one(*problem) for problem in zip(*problems)]
    assert_same(together, jax.tree_util.tree_map(lambda *leaves: np.stack(leaves), *one_by_one))


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)


@pytest.mark.parametrize("option", [{}, SELECT, dict(exact=True), dict(SELECT, exact=True)], ids=str)
def test_the_gradient_of_a_maximum_looks_for_nothing_that_equals_it(option):
    """Where XLA computes it again, with another rounding, nothing may: JAX issue 40564, on GPUs; on CPUs, see below."""

    def penalty(z):
        return hessian_penalty(lambda z: jnp.tanh(z @ FIRST), z, K, directions=DIRECTIONS, **option)

    jaxpr = jax.make_jaxpr(jax.grad(penalty))(Z).jaxpr
    assert not [e for e in equations(jaxpr) if e.primitive.name == "eq" and e.invars[0].aval.dtype == "float64"]


def test_products_are_full_float32_whatever_the_caller_asks_for():
    """Forward and backward: TPUs and GPUs take their precision from the operations themselves."""
    z, kernel = jnp.ones((2, 6, 6, 3), "float32"), jnp.ones((3, 3, 3, 4), "float32")

    @jax.jit
    def G(z, weight):
        x = jax.lax.conv_general_dilated(z, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.tanh(jnp.tanh(x) @ weight)

    def precisions(function, *arguments):
        products = [
            equation.params["precision"]
            for equation in equations(jax.make_jaxpr(function)(*arguments).jaxpr)
            if equation.primitive.name in ("dot_general", "conv_general_dilated")
        ]
        return len(products), {each for product in products for each in np.ravel(product)}

    for option in ({}, LEAN, dict(exact=True), BATCHED):

        def penalty(weight, option=option):
            return hessian_penalty(G, z, key=KEY, weight=weight, **option)

        with jax.default_matmul_precision("bfloat16"):
            count, inside = precisions(jax.grad(penalty), jnp.ones((4, 5), "float32"))
            _, outside = precisions(G, z, jnp.ones((4, 5), "float32"))
        assert count >= 3 and inside == {jax.lax.Precision.HIGHEST}
        assert jax.lax.Precision.HIGHEST not in outside


def test_half_precision_parameters_become_float32():
    weights = {"layer": [jnp.asarray(FIRST, "bfloat16")], "name": "a string"}

    def G(z, weights):
        assert weights["layer"][0].dtype == "float32" and weights["name"] == "a string"
        return jnp.tanh(z @ weights["layer"][0])

    z = jnp.asarray(Z, "float16")
    value = hessian_penalty(G, z, K, directions=DIRECTIONS, weights=weights)
    rounded = np.asarray(weights["layer"][0], "float64")
    truth = hessian_penalty(lambda z: jnp.tanh(z @ rounded), np.asarray(z, "float64"), K, directions=DIRECTIONS)
    assert value.dtype == "float32" and value == pytest.approx(float(truth), rel=1e-3)


@pytest.mark.parametrize("dtype, samples", [("float64", 16_385), ("float32", 32_769)])
def test_jax_compiles_a_users_products_right(dtype, samples):
    """A vmapped matrix-vector product with a reduction, which JAX 0.10.2 computes wrongly on CPUs: its issue 39103."""
    z = jnp.stack([jnp.arange(samples, dtype=dtype) % 1024] + [jnp.zeros(samples, dtype)] * 2, axis=1)
    matrix = jnp.eye(3, dtype=dtype)
    G = jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2))
    np.testing.assert_array_equal(jax.jit(G, compiler_options=OPTIMIZED)(z), z[:, 0] ** 2)


# ----------------------------------------------------------------------------------------------------------------------
# Memory


def temporary_bytes(k, penalty):
    """What the compiled gradient needs beside its arguments and results, for a network of wide batches."""
    z = jnp.ones((1024, 8), "float32")
    weights = [jnp.ones(shape, "float32") for shape in [(8, 64), (64, 64), (64, 8)]]

    def G(z):
        for weight in weights:
            z = jnp.tanh(z @ weight)
        return z

    gradient = jax.jit(jax.grad(lambda z, key: penalty(G, z, k, key)))
    return gradient.lower(z, KEY).compile().memory_analysis().temp_size_in_bytes


def definition(G, z, k, key):
    x, middle = 0.1 * jax.random.rademacher(key, (k, *z.shape), z.dtype), G(z)
    return jnp.mean(jnp.var(jnp.stack([(G(z + x_i) - 2 * middle + G(z - x_i)) / 0.01 for x_i in x]), axis=0, ddof=1))


def test_lean_memory_does_not_grow_with_k():
    def penalty(G, z, k, key, **options):
        return hessian_penalty(G, z, k, key=key, reduction=jnp.mean, **options)

    lean = {k: temporary_bytes(k, functools.partial(penalty, memory="lean")) for k in (2, 8)}
    assert lean[8] <= 1.1 * lean[2]
    assert temporary_bytes(8, penalty) > 3 * lean[8]  # which does grow
    chunked = temporary_bytes(8, functools.partial(penalty, chunk_size=64))
    assert max(lean[8], chunked) < 0.45 * temporary_bytes(8, definition)


# ----------------------------------------------------------------------------------------------------------------------
# exact


def standardized(x, axes):
    return (x - jnp.mean(x, axes, keepdims=True)) / jnp.sqrt(jnp.var(x, axes, keepdims=True) + 1e-5)


def images(z):
    return jnp.tanh(z @ FIRST).reshape(-1, 2, 2, 3)


def matrices(z):
    return jnp.eye(3) + 0.3 * jnp.tanh(z @ FIRST[:, :9]).reshape(-1, 3, 3)


LAYERS = {
    "layer norm": lambda z: standardized(z @ FIRST, -1),
    "instance norm": lambda z: standardized(images(z), (1, 2)),
    "batch norm in training mode": lambda z: standardized(images(z), (0, 1, 2)),  # where samples do not stand alone
    "group norm": lambda z: standardized(images(z).reshape(-1, 2, 2, 1, 3), (1, 2, 4)),
    "RMS norm": lambda z: z @ FIRST / jnp.sqrt(jnp.mean((z @ FIRST) ** 2, axis=-1, keepdims=True) + 1e-5),
    "slogdet": lambda z: jnp.linalg.slogdet(matrices(z))[1],
    "solve": lambda z: jnp.linalg.solve(matrices(z), jnp.tanh(z[:, :3, None])),
}


@pytest.mark.parametrize("layer", sorted(LAYERS))
def test_exact_is_exact_through_normalization_and_linear_algebra(layer):
    """Against the Hessians of a batch of 3 by the rules for the backward pass, with which XLA computes the maximum.

    Of JAX's own maximum, XLA's optimizations lose the gradient in some of them, on CPUs: these two among them.
    """
    options = [{}, BATCHED, LEAN] + [SELECT] * (layer != "batch norm in training mode")
    v = DIRECTIONS[:, :3].reshape(K, -1)

    def truth(z):
        H = jax.jacrev(jax.jacrev(lambda z: jnp.ravel(LAYERS[layer](z.reshape(3, -1)))))(jnp.ravel(z))
        variances = jnp.var(jnp.einsum("ki,nij,kj->kn", v, H, v), axis=0, ddof=1)
        return variances[jnp.argmax(variances)]

    def exact(z, option):
        return hessian_penalty(LAYERS[layer], z, K, directions=DIRECTIONS[:, :3], exact=True, **option)

    compiler_options = OPTIMIZED if layer in ("layer norm", "slogdet") else {}

    @functools.partial(jax.jit, compiler_options=compiler_options)
    def of_options(z):
        return [jax.value_and_grad(exact)(z, option) for option in options]

    results = of_options(Z[:3])
    expected = jax.jit(jax.value_and_grad(truth))(Z[:3])
    for result in results:
        assert_same(result, expected)


def test_select_of_exact_checks_to_the_precision_of_derivatives():
    """A small epsilon, which exact ignores, is no excuse for what batch statistics do."""
    z, weight = jnp.asarray(Z, "float32"), jnp.asarray(FIRST, "float32")
    options = dict(exact=True, directions=DIRECTIONS, epsilon=1e-4)

    def G(z):
        return jnp.tanh((z - z.mean(axis=0) / 2) @ weight)

    with pytest.warns(UserWarning, match="all samples were differentiated"):
        value = hessian_penalty(G, z, K, select=True, **options)
    assert value == hessian_penalty(G, z, K, **options)


def test_exact_says_nothing_of_zeros_under_jit():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert jax.jit(lambda z: hessian_penalty(jax.nn.relu, z, key=KEY, exact=True))(Z) == 0


@jax.custom_vjp
def straight_through(x):
    return jnp.round(x)


straight_through.defvjp(lambda x: (jnp.round(x), None), lambda _, gradient: (gradient,))


@pytest.mark.parametrize("memory", [None, "lean"])
def test_exact_names_what_has_no_forward_mode(memory):
    expected = r"^exact=True: G uses straight_through \(a jax.custom_vjp\), which has no forward-mode derivative: "

    def exact(z, G=lambda z: jnp.tanh(straight_through(z))):
        return hessian_penalty(G, z, key=KEY, exact=True, memory=memory)

    for function in (exact, jax.jit(exact)):
        with pytest.raises(ValueError, match=expected):
            function(Z)

    def with_callback(z):
        return jax.pure_callback(lambda z: z, jax.ShapeDtypeStruct(z.shape, z.dtype), z)

    with pytest.raises(ValueError, match=r"^exact=True: G uses an operation, which has .*: Pure callbacks"):
        exact(Z, with_callback)


def test_an_error_of_g_itself_is_left_alone_by_exact():
    def G(z):
        raise TypeError("a weight is missing")

    with pytest.raises(TypeError, match="a weight is missing"):
        hessian_penalty(G, Z, key=KEY, exact=True)


# ----------------------------------------------------------------------------------------------------------------------
# Bad input

REFUSED = {
    "an epsilon that is an array": (dict(epsilon=jnp.asarray(-0.1)), ["epsilon must be positive, got -0.1"]),
    "an epsilon for each sample": (dict(epsilon=np.ones(7)), ["epsilon must be a number, got an array of shape (7,)"]),
    "no key": (dict(directions=None), ["pass key=jax.random.key(seed)", "or directions"]),
    "a seed for a key": (dict(directions=None, key=3), ["key must be a jax.random.key or a PRNGKey", "got 3"]),
    "an output that is no array": (dict(G=lambda z: "image"), ["G must return an array", "got str"]),
}


@pytest.mark.parametrize("function", [hessian_penalty, orojar_penalty])
@pytest.mark.parametrize("case", sorted(REFUSED))
def test_bad_input_is_refused_in_one_line_that_names_the_value(case, function):
    arguments, expected = REFUSED[case]
    arguments = dict(dict(directions=DIRECTIONS, k=K, G=lambda z: z), **arguments)
    with pytest.raises(ValueError) as error:
        function(arguments.pop("G"), Z, **arguments)
    assert "\n" not in str(error.value)
    for text in expected:
        assert text in str(error.value)


def test_orojar_warns_of_outputs_that_change():
    with pytest.warns(UserWarning, match="NumPy's random generator") as caught:
        orojar_penalty(lambda z: z * np.random.rand(), Z, key=KEY)
    assert caught[0].filename == __file__

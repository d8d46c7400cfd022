"""JAX: every option gives the plain value and gradients, under jit, grad and vmap; exact against dense Hessians."""

import functools
import sys
import warnings

import numpy as np
import pytest

if sys.version_info < (3, 11):
    pytest.skip("current JAX needs Python 3.11", allow_module_level=True)

import jax
import jax.numpy as jnp
from jax.extend.core import jaxprs_in_params

from hessian_penalty_jax import diagonalness, hessian_penalty

N, K = 7, 3
RANDOM = np.random.RandomState(0)
W = [RANDOM.randn(4, 12) / 2, RANDOM.randn(12, 6) / 3, RANDOM.randn(2, 12)]
Z, Y, DIRECTIONS = RANDOM.randn(N, 4), RANDOM.randn(N, 2), RANDOM.choice([-1.0, 1.0], size=(K, N, 4))


def network(activation, z, y, weights):
    """Three activations of different shapes; y has a batch axis."""
    hidden = activation(z @ weights[0] + y @ weights[2])
    return [hidden, activation(hidden @ weights[1]).reshape(-1, 2, 3), jnp.sum(hidden * z[:, :1], axis=1)]


NETWORKS = {"smooth": jnp.tanh, "leaky ReLU": functools.partial(jax.nn.leaky_relu, negative_slope=0.2)}


def value_and_gradients(activation=jnp.tanh, jit=jax.jit, directions=DIRECTIONS, z=Z, y=Y, **options):
    """The penalty, and its gradients with respect to the weights, z and y."""

    def penalty(weights, z, y):
        G = functools.partial(network, activation)
        return hessian_penalty(G, z, len(directions), directions=directions, y=y, weights=weights, **options)

    return jit(jax.value_and_grad(penalty, argnums=(0, 1, 2)))(W, z, y)


plain = functools.lru_cache(maxsize=None)(value_and_gradients)


def assert_same(results, expected, rtol=1e-9):
    for result, truth in zip(jax.tree_util.tree_leaves(results), jax.tree_util.tree_leaves(expected)):
        assert np.any(truth != 0)
        np.testing.assert_allclose(result, truth, rtol=0, atol=rtol * np.max(np.abs(truth)))


SELECT = dict(select=True, batch_kwargs=["y"])
MAXIMUM = {
    "batched": dict(batched=True),
    "lean": dict(memory="lean"),
    "select": SELECT,
    "select, batched": dict(SELECT, batched=True),
    "select, lean": dict(SELECT, memory="lean"),
}


@pytest.mark.parametrize("name", sorted(NETWORKS))
@pytest.mark.parametrize("option", sorted(MAXIMUM))
def test_the_maximum_is_the_plain_one(option, name):
    assert_same(value_and_gradients(NETWORKS[name], **MAXIMUM[option]), plain(NETWORKS[name]))


@pytest.mark.parametrize("option", [{}, SELECT])
def test_eagerly_it_is_the_same(option):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(value_and_gradients(jit=lambda function: function, **option), plain())


def test_the_maxima_of_the_activations_are_in_different_samples():
    G = functools.partial(network, jnp.tanh)
    penalties = hessian_penalty(
        G, Z, K, directions=DIRECTIONS, y=Y, weights=W, reduction=lambda v: v, return_separately=True
    )
    assert len({int(np.argmax(np.max(p.reshape(N, -1), axis=1))) for p in penalties}) > 1


@pytest.mark.parametrize(
    "reduction, size, memory",
    [(jnp.mean, 3, "lean"), (jnp.mean, N + 5, None), (jnp.sum, 1, None)],
)
def test_chunks_give_the_plain_mean_and_sum(reduction, size, memory):
    options = dict(reduction=reduction, chunk_size=size, memory=memory, batch_kwargs=["y"])
    assert_same(value_and_gradients(**options), plain(reduction=reduction))


@pytest.mark.parametrize("option", [{}, SELECT])
def test_of_samples_that_tie_the_first_has_the_whole_gradient(option):
    """The maximum of JAX itself, behind a function of another name, shares it out evenly."""
    z, y, directions = np.repeat(Z[:1], N, axis=0), np.repeat(Y[:1], N, axis=0), np.repeat(DIRECTIONS[:, :1], N, axis=1)
    value, (of_weights, of_z, _) = value_and_gradients(z=z, y=y, directions=directions, **option)
    options = dict(directions=directions, reduction=lambda variance: jnp.max(variance))
    plain_value, (plain_of_weights, plain_of_z, _) = value_and_gradients(z=z, y=y, **options)
    assert np.all(plain_of_z != 0)
    assert_same((value, of_weights), (plain_value, plain_of_weights))
    np.testing.assert_allclose(of_z[0], plain_of_z.sum(axis=0), rtol=1e-9)
    assert np.all(of_z[1:] == 0)


def with_batch_statistics(z):
    return jnp.tanh((z - z.mean(axis=0)) @ W[0])


def with_batch_in_a_closure(z):
    return jnp.tanh(z @ W[0] + Y @ W[2])


@pytest.mark.parametrize(
    "G, word", [(with_batch_statistics, "reproduce"), (with_batch_in_a_closure, "G fails on fewer")]
)
def test_select_falls_back_where_samples_do_not_stand_alone(G, word):
    def penalty(z, **options):
        return hessian_penalty(G, z, K, directions=DIRECTIONS, **options)

    with pytest.warns(UserWarning, match=f"^select=True: all samples were differentiated, since .*{word}") as caught:
        result = jax.value_and_grad(functools.partial(penalty, select=True))(Z)
    assert "\n" not in str(caught[0].message) and caught[0].filename == __file__
    assert_same(result, jax.value_and_grad(penalty)(Z))


def test_select_of_exact_checks_to_the_precision_of_derivatives():
    """A small epsilon, which exact ignores, is no excuse for what batch statistics do."""
    z, weight = jnp.asarray(Z, "float32"), jnp.asarray(W[0], "float32")
    options = dict(exact=True, directions=DIRECTIONS, epsilon=1e-4)

    def G(z):
        return jnp.tanh((z - z.mean(axis=0) / 2) @ weight)

    with pytest.warns(UserWarning, match="all samples were differentiated"):
        value = hessian_penalty(G, z, K, select=True, **options)
    assert value == hessian_penalty(G, z, K, **options)


def test_batch_kwargs_may_be_any_iterable():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        names = (name for name in ["y"])
        value, _ = value_and_gradients(select=True, batch_kwargs=names, jit=lambda function: function)
    assert value == pytest.approx(float(plain()[0]), rel=1e-9)


def test_select_with_fewer_samples_than_activations_is_the_plain_path():
    z, directions = Z[:2], DIRECTIONS[:, :2]

    def G(z):
        return [with_batch_statistics(z)] * 2  # would not survive a selection

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value = hessian_penalty(G, z, K, directions=directions, select=True)
    assert value == hessian_penalty(G, z, K, directions=directions)


def dense(weights, z, y, directions):
    """The definition with dense Hessians: the maximum variance of vᵀHv over directions, summed over activations."""

    def of_sample(z, y):
        return [a[0] for a in network(jnp.tanh, z[None], y[None], weights)]

    hessians = jax.vmap(jax.hessian(of_sample))(z, y)
    values = [jnp.einsum("kni,n...ij,knj->kn...", directions, H, directions) for H in hessians]
    return sum(jnp.max(jnp.var(v, axis=0, ddof=1)) for v in values)


@pytest.mark.parametrize(
    "option, k", [({}, 2), (SELECT, 2), ({}, 4), (dict(batched=True), 4), (dict(memory="lean"), 4)]
)
def test_exact_is_that_of_dense_hessians(option, k):
    directions = np.random.RandomState(k).choice([-1.0, 1.0], size=(k, N, 4))
    truth = jax.jit(jax.value_and_grad(functools.partial(dense, directions=directions), argnums=(0, 1, 2)))(W, Z, Y)
    assert_same(value_and_gradients(directions=directions, exact=True, **option), truth, rtol=1e-10)


def standardized(x, axes):
    return (x - jnp.mean(x, axes, keepdims=True)) / jnp.sqrt(jnp.var(x, axes, keepdims=True) + 1e-5)


def images(z):
    return jnp.tanh(z @ W[0]).reshape(-1, 2, 2, 3)


def matrices(z):
    return jnp.eye(3) + 0.3 * jnp.tanh(z @ W[0][:, :9]).reshape(-1, 3, 3)


LAYERS = {
    "layer norm": lambda z: standardized(z @ W[0], -1),
    "instance norm": lambda z: standardized(images(z), (1, 2)),
    "batch norm in training mode": lambda z: standardized(images(z), (0, 1, 2)),
    "group norm": lambda z: standardized(images(z).reshape(-1, 2, 2, 1, 3), (1, 2, 4)),
    "RMS norm": lambda z: z @ W[0] / jnp.sqrt(jnp.mean((z @ W[0]) ** 2, axis=-1, keepdims=True) + 1e-5),
    "slogdet": lambda z: jnp.linalg.slogdet(matrices(z))[1],
    "solve": lambda z: jnp.linalg.solve(matrices(z), jnp.tanh(z[:, :3, None])),
}


@functools.lru_cache(maxsize=None)
def reverse_over_reverse(layer):
    """Value and gradient of the definition with the Hessians of a batch of 3, by the rules for the backward pass."""
    v = DIRECTIONS[:, :3].reshape(K, -1)

    def penalty(z):
        H = jax.jacrev(jax.jacrev(lambda z: jnp.ravel(LAYERS[layer](z.reshape(3, -1)))))(jnp.ravel(z))
        variances = jnp.var(jnp.einsum("ki,nij,kj->kn", v, H, v), axis=0, ddof=1)
        return variances[jnp.argmax(variances)]

    return jax.jit(jax.value_and_grad(penalty))(Z[:3])


BATCH_WISE = "batch norm in training mode"  # where samples do not stand alone
COMBINATIONS = [(layer, o) for layer in sorted(LAYERS) for o in ({}, dict(batched=True), dict(memory="lean"))]
COMBINATIONS += [(layer, dict(select=True)) for layer in sorted(LAYERS) if layer != BATCH_WISE]


@pytest.mark.parametrize("layer, option", COMBINATIONS)
def test_exact_is_exact_through_normalisation_and_linear_algebra(layer, option):
    """Of JAX's own maximum, XLA loses the gradient in some of them, on CPUs."""
    options = dict(option, directions=DIRECTIONS[:, :3], exact=True)
    penalty = jax.value_and_grad(lambda z: hessian_penalty(LAYERS[layer], z, K, **options))
    assert_same(jax.jit(penalty)(Z[:3]), reverse_over_reverse(layer))


def test_exact_is_zero_on_piecewise_linear_networks_and_says_so():
    G = functools.partial(network, jax.nn.relu, y=Y, weights=[W[0], W[1], W[2]])

    def penalty(z, **options):
        return hessian_penalty(lambda z: G(z)[:2], z, directions=DIRECTIONS[:2], epsilon=1.0, **options)

    with pytest.warns(UserWarning, match="exact=True: every penalty is exactly 0, .* exact=False"):
        assert penalty(Z, exact=True) == 0
    assert penalty(Z) > 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert jax.jit(functools.partial(penalty, exact=True))(Z) == 0
        hessian_penalty(lambda z: [z, z * z[:, ::-1]], Z, key=jax.random.key(0), exact=True)  # one is not zero


@jax.custom_vjp
def straight_through(x):
    return jnp.round(x)


straight_through.defvjp(lambda x: (jnp.round(x), None), lambda _, gradient: (gradient,))


@pytest.mark.parametrize("memory", [None, "lean"])
def test_exact_names_what_has_no_forward_mode(memory):
    expected = r"^exact=True: G uses straight_through \(a jax.custom_vjp\), which has no forward-mode derivative: "

    def penalty(z):
        G = lambda z: jnp.tanh(straight_through(z))  # noqa: E731
        return hessian_penalty(G, z, key=jax.random.key(0), exact=True, memory=memory)

    for function in (penalty, jax.jit(penalty)):
        with pytest.raises(ValueError, match=expected):
            function(Z)

    def with_callback(z):
        return jax.pure_callback(lambda z: z, jax.ShapeDtypeStruct(z.shape, z.dtype), z)

    with pytest.raises(ValueError, match=r"^exact=True: G uses an operation, which has .*: Pure callbacks"):
        hessian_penalty(with_callback, Z, key=jax.random.key(0), exact=True)


def test_an_error_of_g_itself_is_left_alone_by_exact():
    def G(z):
        raise TypeError("a weight is missing")

    with pytest.raises(TypeError, match="a weight is missing"):
        hessian_penalty(G, Z, key=jax.random.key(0), exact=True)


OPTIONS = {
    "plain": {},
    "batched": dict(batched=True),
    "lean": dict(memory="lean"),
    "select": SELECT,
    "chunks": dict(reduction=jnp.mean, chunk_size=3, batch_kwargs=["y"]),
    "exact": dict(exact=True),
}


@pytest.mark.parametrize("option", sorted(OPTIONS))
def test_epsilon_may_be_traced(option):
    """So that one compiled function serves while it is annealed."""

    compiled = jax.jit(
        lambda epsilon: value_and_gradients(epsilon=epsilon, jit=lambda function: function, **OPTIONS[option])
    )
    assert_same(compiled(0.3), value_and_gradients(epsilon=0.3, **OPTIONS[option]))
    assert_same(compiled(0.1)[0], plain(**dict(OPTIONS[option], batch_kwargs=("y",)))[0])

    def value(epsilon):
        options = dict(OPTIONS[option], y=Y, weights=W, directions=DIRECTIONS)
        return hessian_penalty(functools.partial(network, jnp.tanh), Z, K, epsilon, **options)

    slopes = jax.jit(jax.vmap(jax.grad(value)))(jnp.asarray([0.1, 0.3]))
    assert np.all(np.isfinite(slopes))  # they need not mean anything


def test_epsilon_may_be_differentiated_eagerly():
    slope = jax.grad(lambda epsilon: hessian_penalty(jnp.sin, Z, K, epsilon, directions=DIRECTIONS, select=True))
    assert np.isfinite(slope(0.1))


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.asarray, jnp.asarray, jnp.float32, jnp.float64, int])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_epsilon_of_any_kind_is_the_number_and_leaves_the_dtype_alone(dtype, kind):
    """2 is the same number in every precision."""
    z, weight = Z.astype(dtype), W[0].astype(dtype) / 10

    def values(epsilon):
        options = dict(directions=DIRECTIONS[:2], select=True)
        penalty = hessian_penalty(lambda z: jnp.tanh(z @ weight), z, epsilon=epsilon, **options)
        axes = np.broadcast_to([0, 1], (1, N, 2))
        return (penalty, *diagonalness(lambda z: jnp.tanh(z @ weight), z, epsilon=epsilon, axes=axes))

    for result in (values(kind(2.0)), jax.jit(values)(kind(2.0)), jax.jit(lambda: values(kind(2.0)))()):
        assert [value.dtype for value in result] == [dtype] * 3
        np.testing.assert_allclose(result, values(2.0), rtol=1e-3 if dtype == "float32" else 1e-10)


@pytest.mark.parametrize("option", [{}, dict(batched=True), dict(memory="lean"), dict(select=True), dict(exact=True)])
def test_vmap_is_a_loop(option):
    """Over latents, directions and weights: one penalty, and gradient, for each of three problems."""
    random = np.random.RandomState(1)
    problems = random.randn(3, 5, 4), random.choice([-1.0, 1.0], size=(3, 2, 5, 4)), random.randn(3, 4, 6)

    def penalty(z, directions, weight):
        return hessian_penalty(lambda z: jnp.tanh(z @ weight), z, directions=directions, **option)

    function = jax.value_and_grad(penalty, argnums=(0, 2))
    one_by_one = [jax.jit(function)(*problem) for problem in zip(*problems)]
    together = jax.jit(jax.vmap(function))(*problems)
    assert_same(together, jax.tree_util.tree_map(lambda *leaves: np.stack(leaves), *one_by_one))


def test_keys_draw_the_directions():
    G = functools.partial(network, jnp.tanh, y=Y, weights=W)
    values = [hessian_penalty(G, Z, key=key) for key in (jax.random.key(1), jax.random.key(1), jax.random.key(2))]
    assert values[0] == values[1] != values[2]
    assert hessian_penalty(G, Z, key=jax.random.PRNGKey(1)) == values[0]
    keys = jax.random.split(jax.random.key(0), 50)
    vmapped = jax.vmap(lambda key: hessian_penalty(lambda z: z[:, 0] * z[:, 1], Z[:1], key=key))(keys)
    np.testing.assert_allclose(np.unique(np.round(vmapped, 6)), [0, 8])


def test_products_are_full_float32_whatever_the_caller_asks_for():
    """Forward and backward: TPUs and GPUs take their precision from the operations themselves."""
    z, kernel = jnp.ones((2, 6, 6, 3), "float32"), jnp.ones((3, 3, 3, 4), "float32")

    @jax.jit
    def G(z, weight):
        x = jax.lax.conv_general_dilated(z, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.tanh(jnp.tanh(x) @ weight)

    def products(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name in ("dot_general", "conv_general_dilated"):
                yield equation.params["precision"]
            for inner in jaxprs_in_params(equation.params):
                yield from products(inner)

    for option in ({}, dict(memory="lean"), dict(exact=True), dict(batched=True)):

        def penalty(weight, option=option):
            return hessian_penalty(G, z, key=jax.random.key(0), weight=weight, **option)

        with jax.default_matmul_precision("bfloat16"):
            jaxpr = jax.make_jaxpr(jax.grad(penalty))(jnp.ones((4, 5), "float32"))
            outside = jax.make_jaxpr(G)(z, jnp.ones((4, 5), "float32"))
        precisions = list(products(jaxpr.jaxpr))
        assert len(precisions) >= 3
        assert all(set(np.ravel(precision)) == {jax.lax.Precision.HIGHEST} for precision in precisions)
        assert jax.lax.Precision.HIGHEST not in {p for pair in products(outside.jaxpr) for p in np.ravel(pair)}


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)


@pytest.mark.parametrize("option", [{}, dict(select=True), dict(exact=True), dict(select=True, exact=True)])
def test_the_gradient_of_a_maximum_looks_for_nothing_that_equals_it(option):
    """Where XLA computes it again, with another rounding, nothing may: JAX issue 40564, on GPUs; on CPUs, see below."""

    def penalty(z):
        return hessian_penalty(lambda z: jnp.tanh(z @ W[0]), z, K, directions=DIRECTIONS, **option)

    jaxpr = jax.make_jaxpr(jax.grad(penalty))(Z).jaxpr
    compared = [e for e in equations(jaxpr) if e.primitive.name == "eq" and e.invars[0].aval.dtype == "float64"]
    assert not compared


@pytest.mark.parametrize("dtype, samples", [("float64", 16_385), ("float32", 32_769)])
def test_jax_compiles_a_users_products_right(dtype, samples):
    """A vmapped matrix-vector product with a reduction, which JAX 0.10.2 computes wrongly on CPUs: its issue 39103."""
    z = jnp.stack([jnp.arange(samples, dtype=dtype) % 1024] + [jnp.zeros(samples, dtype)] * 2, axis=1)
    matrix = jnp.eye(3, dtype=dtype)

    def G(z):
        return jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2))(z)

    np.testing.assert_array_equal(jax.jit(G)(z), z[:, 0] ** 2)


def test_half_precision_parameters_become_float32():
    weights = {"layer": [jnp.asarray(W[0], "bfloat16")], "name": "a string"}

    def G(z, weights):
        assert weights["layer"][0].dtype == "float32" and weights["name"] == "a string"
        return jnp.tanh(z @ weights["layer"][0])

    z = jnp.asarray(Z, "float16")
    value = hessian_penalty(G, z, K, directions=DIRECTIONS, weights=weights)
    rounded = np.asarray(weights["layer"][0], "float64")
    truth = hessian_penalty(lambda z: jnp.tanh(z @ rounded), np.asarray(z, "float64"), K, directions=DIRECTIONS)
    assert value.dtype == "float32" and value == pytest.approx(float(truth), rel=1e-3)


def temporary_bytes(k, penalty):
    """What the compiled gradient needs beside its arguments and results, for a network of wide batches."""
    z = jnp.ones((1024, 8), "float32")
    weights = [jnp.ones(shape, "float32") for shape in [(8, 64), (64, 64), (64, 8)]]

    def G(z):
        for weight in weights:
            z = jnp.tanh(z @ weight)
        return z

    gradient = jax.jit(jax.grad(lambda z, key: penalty(G, z, k, key)))
    return gradient.lower(z, jax.random.key(0)).compile().memory_analysis().temp_size_in_bytes


def definition(G, z, k, key):
    x, middle = 0.1 * jax.random.rademacher(key, (k, *z.shape), z.dtype), G(z)
    return jnp.mean(jnp.var(jnp.stack([(G(z + x_i) - 2 * middle + G(z - x_i)) / 0.01 for x_i in x]), axis=0, ddof=1))


def test_lean_memory_does_not_grow_with_k():
    def penalty(G, z, k, key, **options):
        return hessian_penalty(G, z, k, key=key, reduction=jnp.mean, **options)

    lean = {k: temporary_bytes(k, functools.partial(penalty, memory="lean")) for k in (2, 4, 8)}
    assert max(lean.values()) <= 1.1 * lean[2]
    assert temporary_bytes(8, penalty) > 3 * lean[8]  # which does grow
    chunked = temporary_bytes(8, functools.partial(penalty, chunk_size=64))
    assert max(lean[8], chunked) < 0.45 * temporary_bytes(8, definition)


REFUSED = {
    "an epsilon that is an array": (dict(epsilon=jnp.asarray(-0.1)), ["epsilon must be positive, got -0.1"]),
    "an epsilon for each sample": (dict(epsilon=np.ones(7)), ["epsilon must be a number, got an array of shape (7,)"]),
    "no key": (dict(directions=None), ["pass key=jax.random.key(seed)", "or directions"]),
    "a seed for a key": (dict(directions=None, key=3), ["key must be a jax.random.key or a PRNGKey", "got 3"]),
    "select with the mean": (
        dict(select=True, reduction=jnp.mean),
        ["select=True needs the maximum reduction (jnp.max), got mean"],
    ),
    "chunks with the maximum": (
        dict(chunk_size=2),
        ["chunk_size needs the mean or sum reduction (jnp.mean or jnp.sum), got max"],
    ),
    "chunks with one's own": (dict(chunk_size=2, reduction=lambda v: v.mean()), ["chunk_size needs", "got <lambda>"]),
    "chunks of nothing": (
        dict(chunk_size=0, reduction=jnp.sum),
        ["chunk_size must be a positive number of samples, got 0"],
    ),
    "chunks of a half": (dict(chunk_size=2.5, reduction=jnp.sum), ["a positive number of samples, got 2.5"]),
    "another memory": (dict(memory="low"), ["memory must be None or \"lean\", got 'low'"]),
    "batched and lean": (
        dict(batched=True, memory="lean"),
        ['batched=True and memory="lean" exclude each other: one makes all passes at once, the other one at a time'],
    ),
    "a string of names": (dict(batch_kwargs="y", y=Y), ["batch_kwargs must be a list of names, got 'y'"]),
    "a name not passed": (dict(batch_kwargs=["y"]), ["batch_kwargs names 'y', which was not passed"]),
    "another batch": (
        dict(batch_kwargs=["y"], y=Y[:3]),
        ["batch_kwargs: 'y' must have the batch's length 7 first, got shape (3, 2)"],
    ),
    "no batch at all": (dict(batch_kwargs=["y"], y=1.0), ["batch_kwargs: 'y'", "got shape ()"]),
    "an output that is no array": (dict(G=lambda z: "image"), ["G must return an array", "got str"]),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_bad_input_is_refused_in_one_line_that_names_the_value(case):
    arguments, expected = REFUSED[case]
    arguments = dict(dict(directions=DIRECTIONS, k=K, G=lambda z, **kwargs: z), **arguments)
    with pytest.raises(ValueError) as error:
        hessian_penalty(arguments.pop("G"), Z, **arguments)
    assert "\n" not in str(error.value)
    for text in expected:
        assert text in str(error.value)

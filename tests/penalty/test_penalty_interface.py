"""What holds for every input in every framework: signature, passes, shapes, lists, reductions, and refusals."""

import inspect

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st


def shapes(min_dims, max_dims):
    return st.lists(st.integers(1, 4), min_size=min_dims, max_size=max_dims).map(tuple)


def signs(k, shape, seed):
    return np.random.RandomState(seed).choice([-1.0, 1.0], size=(k, *shape))


def smooth_network(framework, shape_in, shapes_out, seed):
    """G(z): one tanh activation of each output shape (after the batch axis), with random weights; float64."""
    random = np.random.RandomState(seed)
    size_in = int(np.prod(shape_in[1:]))
    weights = [random.randn(size_in, int(np.prod(shape))) for shape in shapes_out]

    def G(z):
        flat = framework.reshape(z, (shape_in[0], size_in))
        activations = [framework.tanh(flat @ framework.constant(weight)) for weight in weights]
        return [framework.reshape(a, (shape_in[0], *shape)) for a, shape in zip(activations, shapes_out)]

    return G


def definition(G, z, k, epsilon, directions, reduction=np.max):
    """Equation 5 as it is printed, in NumPy: G(z) evaluated, no pivot; one penalty for each activation."""
    second_differences = []
    for v in directions:
        plus, middle, minus = G(z + epsilon * v), G(z), G(z - epsilon * v)
        second_differences.append([(p - 2 * g + m) / epsilon**2 for p, g, m in zip(plus, middle, minus)])
    variances = [sum((s - np.mean(a, axis=0)) ** 2 for s in a) / (k - 1) for a in zip(*second_differences)]
    return [reduction(variance) for variance in variances]


@given(
    shape_in=shapes(1, 4),
    shapes_out=st.lists(shapes(0, 3), min_size=1, max_size=3),
    k=st.integers(2, 5),
    epsilon=st.floats(0.05, 0.5),
    reduction=st.sampled_from(["max", "mean", "sum"]),
    seed=st.integers(0, 1000),
)
def test_the_frameworks_agree_with_the_definition_and_each_other(
    frameworks, shape_in, shapes_out, k, epsilon, reduction, seed
):
    z, directions = np.random.RandomState(seed).randn(*shape_in), signs(k, shape_in, seed)
    options = dict(k=k, epsilon=epsilon, directions=directions)
    G = smooth_network(frameworks["numpy"], shape_in, shapes_out, seed)
    separate = definition(G, z, reduction=getattr(np, reduction), **options)
    # The rounding error of a second difference of numbers below 1 is a few machine epsilons over ε².
    tolerance = dict(rtol=1e-7, atol=1e-14 / epsilon**4 * max(map(np.size, G(z))))
    for framework in frameworks.values():
        G = smooth_network(framework, shape_in, shapes_out, seed)
        value = framework.penalty(G, z, reduction=getattr(framework, reduction), **options)
        np.testing.assert_allclose(value, sum(separate), **tolerance)
        if framework is not frameworks["numpy"]:
            kwargs = dict(options, reduction=getattr(framework, reduction), return_separately=True)
            values = framework.penalty(G, z, **kwargs)
            np.testing.assert_allclose(values, separate, **tolerance)
            assert float(value) == pytest.approx(float(np.sum(values)), rel=1e-14)


def test_signature_is_the_published_one(frameworks):
    for name, framework in frameworks.items():
        parameters = inspect.signature(framework.hessian_penalty).parameters
        published = ["G", "z", "k", "epsilon", "reduction", "return_separately", "G_z"]
        if name == "numpy":
            published.remove("return_separately")
        assert [p for p in parameters if parameters[p].kind == inspect.Parameter.POSITIONAL_OR_KEYWORD] == published
        assert (parameters["k"].default, parameters["epsilon"].default) == (2, 0.1)
        assert parameters["reduction"].default is framework.max
        assert parameters["G_z"].default is None and parameters["directions"].default is None
        assert parameters["directions"].kind == inspect.Parameter.KEYWORD_ONLY
        assert parameters["G_kwargs"].kind == inspect.Parameter.VAR_KEYWORD


@pytest.mark.parametrize("k", [2, 3, 6])
def test_2k_passes_around_z_and_none_at_it(framework, k):
    z, directions = np.random.RandomState(0).randn(3, 2, 4), signs(k, (3, 2, 4), 0)
    latents = framework.latents(z, k=k, epsilon=0.5, directions=directions)
    expected = np.concatenate([[z + 0.5 * v, z - 0.5 * v] for v in directions])
    np.testing.assert_allclose(latents, expected, rtol=0, atol=1e-15)


def test_a_given_g_z_changes_nothing_and_costs_nothing(framework):
    z, directions = np.random.RandomState(0).randn(3, 4), signs(2, (3, 4), 0)
    G = smooth_network(framework, (3, 4), [(5,)], seed=0)
    value = framework.penalty(G, z, directions=directions)
    assert framework.penalty(G, z, directions=directions, G_z=np.full((3, 5), np.nan)) == value
    assert len(framework.latents(z, G_z=z)) == 4


def test_a_list_is_the_sum_of_its_activations_called_one_by_one(framework):
    z, directions = np.random.RandomState(1).randn(3, 4), signs(3, (3, 4), 1)
    G = smooth_network(framework, (3, 4), [(5,), (), (2, 2)], seed=1)
    options = dict(k=3, directions=directions)
    one_by_one = [framework.penalty(lambda z, i=i: G(z)[i], z, **options) for i in range(3)]
    assert min(one_by_one) > 1e-6
    as_list = framework.penalty(G, z, **options)
    as_tuple = framework.penalty(lambda z: tuple(G(z)), z, **options)
    np.testing.assert_allclose(as_list, sum(one_by_one), rtol=1e-12)
    assert as_tuple == as_list


def test_one_tensor_separately_is_a_list_of_one(frameworks):
    z, directions = np.random.RandomState(1).randn(3, 4), signs(2, (3, 4), 1)
    for name in sorted(set(frameworks) - {"numpy"}):
        value = frameworks[name].penalty(lambda z: z**3 * z[:, :1], z, directions=directions, return_separately=True)
        assert isinstance(value, list) and len(value) == 1 and value[0].shape == ()


def test_keyword_arguments_reach_g(framework):
    def G(z, scale, shift=0.0):
        return scale * z[:, 0] * z[:, 1] + shift

    z, directions = np.ones((4, 2)), np.array([[[1.0, 1.0]] * 4, [[1.0, -1.0]] * 4])
    np.testing.assert_allclose(framework.penalty(G, z, directions=directions, scale=1.0), 8)
    np.testing.assert_allclose(framework.penalty(G, z, directions=directions, scale=3.0, shift=7.0), 72)


def test_any_callable_reduces(framework):
    z, directions = np.random.RandomState(2).randn(3, 4), signs(2, (3, 4), 2)
    G = smooth_network(framework, (3, 4), [(5,)], seed=2)
    variances = framework.penalty(G, z, directions=directions, reduction=lambda v: v)
    assert variances.shape == (3, 5)
    sum_of_roots = framework.penalty(G, z, directions=directions, reduction=lambda v: framework.sum(v**0.5))
    np.testing.assert_allclose(sum_of_roots, np.sum(np.sqrt(variances)), rtol=1e-12)
    np.testing.assert_allclose(framework.penalty(G, z, directions=directions), np.max(variances), rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_precision_of_z_is_kept(framework, dtype):
    z = np.ones((2, 3), dtype)
    latents = framework.latents(z, directions=signs(2, (2, 3), 0))
    assert latents.dtype == dtype
    assert framework.penalty(lambda z: z[:, 0] * z[:, 1], z, reduction=lambda v: v).dtype == dtype


def test_half_precision_latents_become_float32(framework):
    assert framework.latents(np.ones((2, 3), "float16")).dtype == "float32"


def changing_count():
    calls = []

    def G(z):
        calls.append(z)
        return [z] * (2 if len(calls) == 3 else 1)

    return G


Z = np.ones((3, 4))
REFUSED = {
    "k is 1": (dict(k=1), ["k must be at least 2", "got 1"]),
    "k is negative": (dict(k=-3), ["k must be at least 2", "got -3"]),
    "epsilon is 0": (dict(epsilon=0), ["epsilon must be positive", "got 0"]),
    "epsilon is negative": (dict(epsilon=-0.5), ["epsilon must be positive", "got -0.5"]),
    "epsilon is not a number": (dict(epsilon=float("nan")), ["epsilon must be positive", "got nan"]),
    "z holds integers": (dict(z=np.ones((3, 4), "int64")), ["z must be a floating-point", "int64", "(3, 4)"]),
    "z is a scalar": (dict(z=np.array(1.0)), ["z must be", "batch axis", "()"]),
    "directions of too few samples": (dict(directions=np.ones((2, 1, 4))), ["(2, 3, 4)", "(2, 1, 4)"]),
    "directions without k": (dict(directions=np.ones((3, 4))), ["(2, 3, 4)", "(3, 4)"]),
    "directions for another k": (dict(k=3, directions=np.ones((2, 3, 4))), ["(3, 3, 4)", "(2, 3, 4)"]),
    "an output without the batch": (dict(G=lambda z: z[0]), ["batch axis", "(3, 4)", "(4,)"]),
    "a scalar output": (dict(G=lambda z: z[0, 0]), ["batch axis", "(3, 4)", "()"]),
    "one bad output of two": (dict(G=lambda z: [z, z[:2]]), ["batch axis", "(3, 4)", "(2, 4)"]),
    "a changing number of activations": (dict(G=changing_count), ["as many activations", "got 1 and 2"]),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_bad_input_is_refused_in_one_line_that_names_the_value(framework, case):
    arguments, expected = REFUSED[case]
    arguments = dict(arguments)
    G = arguments.pop("G", lambda z: z)
    G = G() if G is changing_count else G
    with pytest.raises(ValueError) as error:
        framework.penalty(G, arguments.pop("z", Z), **arguments)
    assert "\n" not in str(error.value)
    for text in expected:
        assert text in str(error.value)


@pytest.mark.parametrize("dtype", ["float16", "uint8"])
def test_outputs_too_coarse_for_differences_are_refused(framework, dtype):
    """A graph or a mixed-precision layer could still hand out half precision, and images are often bytes."""
    with pytest.raises(ValueError, match=f"^G must compute in float32 or float64 .* got .*{dtype}( from \\w+)?$"):
        framework.penalty(lambda z: framework.cast(z, dtype), Z)


def test_directions_other_than_signs_are_refused(frameworks):
    import tensorflow as tf

    directions = np.ones((2, 3, 4))
    directions[1, 2, 3] = 0.5
    for name, framework in frameworks.items():
        if name == "tensorflow" and not tf.executing_eagerly():
            continue  # a graph does not know the values: the docstring promises the shape alone
        with pytest.raises(ValueError, match=r"must be \+1 or -1 in every entry, got 0\.5"):
            framework.penalty(lambda z: z, Z, directions=directions)

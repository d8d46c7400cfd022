"""Every option gives the value and the gradients of the definition, in every framework and its ways of running.

TensorFlow 1.14 can go eager only when a program starts, so there these tests run a second time in a process that does.
"""

import functools
import inspect
import warnings

import numpy as np
import pytest
import torch
from frameworks import EAGER_WAYS, WAYS, PyTorch, assert_passes_eagerly, needs_another_process

N, NZ, K, EPSILON = 7, 4, 3, 0.1


def draw(seed, *shape):
    return np.random.RandomState(seed).randn(*shape)


ARRAYS = {"z": draw(2, N, NZ), "y": draw(1, N, 2), "scale": np.array(0.8)}
WEIGHTS = {
    "first": draw(3, NZ, 12) / 2,
    "label": draw(4, 2, 12),
    "classes": draw(7, 5, 12),
    "second": draw(5, 12, 3) / 3,
}
C = np.arange(N) % 5
DIRECTIONS = np.random.RandomState(6).choice([-1.0, 1.0], size=(K, N, NZ))


@needs_another_process
def test_all_of_this_eagerly_in_tensorflow_1():
    assert_passes_eagerly(__file__)


def network(framework, activation, weights):
    """G: three activations of different shapes; y and c, a class, go with each sample, and all share the scale."""
    activate = framework.tanh if activation == "smooth" else lambda x: framework.maximum(0.2 * x, x)

    def G(z, y, c, scale):
        hidden = activate(z @ weights["first"] + y @ weights["label"])
        image = scale * ((hidden * framework.take(weights["classes"], c)) @ weights["second"])
        return [hidden, framework.reshape(image * z[:, :1], (-1, 3, 1)), framework.tanh(image)[:, 0]]

    return G


def penalty(framework, G, z, name="hessian_penalty", reduction="max", **options):
    """With the directions that are used throughout, unless others are given; the reduction by its name."""
    reduction = getattr(framework, reduction) if isinstance(reduction, str) else reduction
    options = dict(dict(k=K, directions=DIRECTIONS, reduction=reduction), **options)
    return getattr(framework.module, name)(G, z, **options)


# ----------------------------------------------------------------------------------------------------------------------
# The definitions, in PyTorch: lists of the values of which an activation's penalty is the variance


def hessian_penalty_values(G, z, v):
    passes = G(z + EPSILON * v), G(z), G(z - EPSILON * v)
    return [(plus - 2 * middle + minus) / EPSILON**2 for plus, middle, minus in zip(*passes)]


def orojar_penalty_values(G, z, v):
    slopes = [(plus - minus) / (2 * EPSILON) for plus, minus in zip(G(z + EPSILON * v), G(z - EPSILON * v))]
    return [Jv.square().reshape(N, -1).sum(dim=1) for Jv in slopes]


def exact_values(G, z, v):
    """With the dense Hessian of every element, row by row, by reverse mode over reverse mode."""
    z = z if z.requires_grad else z.clone().requires_grad_()
    values = []
    for output in G(z):
        elements = []
        for element in output.reshape(N, -1).unbind(dim=1):
            (gradient,) = torch.autograd.grad(element.sum(), z, create_graph=True)
            rows = [torch.autograd.grad(g.sum(), z, create_graph=True)[0] for g in gradient.unbind(dim=1)]
            elements.append(torch.einsum("ni,inj,nj->n", v, torch.stack(rows), v))
        values.append(torch.stack(elements, dim=1).reshape(output.shape))
    return values


def of_all(framework, penalties, inputs, weights):
    """{name: tensor}: penalties({name: tensor}), a list, and the gradients of their weighted sum for what they get."""
    names = [*inputs, *weights]
    values, gradients = framework.differentiate(
        lambda *sources: penalties(dict(zip(names, sources))), [*inputs.values(), *weights.values()]
    )
    return dict(zip(names, gradients), **{f"value {i}": value for i, value in enumerate(values)})


@functools.lru_cache(maxsize=None)
def truth(definition, activation, reduction):
    def penalties(given):
        G, kwargs = network(PyTorch, activation, given), dict(y=given["y"], c=torch.tensor(C), scale=given["scale"])
        values = [definition(lambda z: G(z, **kwargs), given["z"], torch.tensor(v)) for v in DIRECTIONS]
        variances = [torch.stack(of_one).var(dim=0) for of_one in zip(*values)]
        assert len({int(each.reshape(N, -1).amax(dim=1).argmax()) for each in variances}) > 1  # the samples of maxima
        return [getattr(PyTorch, reduction)(variance) for variance in variances]

    return PyTorch.compute("eager", functools.partial(of_all, PyTorch, penalties), ARRAYS, WEIGHTS)


# ----------------------------------------------------------------------------------------------------------------------
# Values and gradients

SELECT, LEAN, BATCHED = dict(select=True), dict(memory="lean"), dict(batched=True)
OF_MAXIMUM = [{}, SELECT, LEAN, BATCHED, dict(SELECT, memory="lean"), dict(SELECT, batched=True)]
OF_MEAN = [{}, dict(chunk_size=3), LEAN, BATCHED, dict(LEAN, chunk_size=4), dict(BATCHED, chunk_size=5)]
GROUPS = {  # estimator, definition, activation, reduction, options
    "smooth-maximum": ("hessian_penalty", hessian_penalty_values, "smooth", "max", OF_MAXIMUM),
    "leaky-maximum": ("hessian_penalty", hessian_penalty_values, "leaky", "max", OF_MAXIMUM),
    "mean": ("hessian_penalty", hessian_penalty_values, "smooth", "mean", [*OF_MEAN, dict(chunk_size=100)]),
    "sum": ("hessian_penalty", hessian_penalty_values, "leaky", "sum", [{}, dict(chunk_size=np.int64(N))]),
    "orojar-mean": ("orojar_penalty", orojar_penalty_values, "smooth", "mean", OF_MEAN),
    "orojar-sum": ("orojar_penalty", orojar_penalty_values, "leaky", "sum", [{}, LEAN, BATCHED]),
    "exact": ("hessian_penalty", exact_values, "smooth", "max", [dict(each, exact=True) for each in OF_MAXIMUM]),
}


def options_of(framework, mode, group):
    """What of a group is tried in a way: less where every function is compiled, or what is eager runs the same code."""
    options, way = GROUPS[group][-1], (framework.__name__, mode)
    if group == "exact" and framework.__name__ != "JAX":
        return [each for each in options if "memory" not in each] if framework.__name__ == "PyTorch" else []
    if way == ("JAX", "eager"):
        return options[:2] if group == "smooth-maximum" else []
    if way == ("TensorFlow", "xla"):
        return [] if "sum" in group else [LEAN] if group == "smooth-maximum" else options[:2]
    if group == "smooth-maximum" and framework is not PyTorch:
        return options[:2]  # leaky-maximum has them all
    return options[:3] if group == "orojar-mean" and framework is not PyTorch else options


@pytest.mark.parametrize(
    "framework, mode, group",
    [
        pytest.param(*way.values, group, id=f"{way.id}-{group}")
        for group in sorted(GROUPS)
        for way in WAYS
        if options_of(*way.values, group)
    ],
)
def test_an_option_gives_the_value_and_gradients_of_the_definition(framework, mode, group):
    """TensorFlow's graphs do not know how long the batch is, but where there are chunks, and for XLA."""
    estimator, definition, activation, reduction, _ = GROUPS[group]
    options = options_of(framework, mode, group)

    def function(inputs, weights):
        found = {}
        for case in options:

            def penalties(given, case=case):
                G, kwargs = (
                    network(framework, activation, given),
                    dict(y=given["y"], c=framework.constant(C), scale=given["scale"]),
                )
                kwargs.update(case, batch_kwargs=["y", "c"], reduction=reduction, return_separately=True)
                return penalty(framework, G, given["z"], estimator, **kwargs)

            results = of_all(framework, penalties, inputs, weights)
            found.update({f"{case}: {name}": result for name, result in results.items()})
        return found

    unknown_batch = mode != "xla" and not any("chunk_size" in case for case in options)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "select|batched")  # nothing falls back
        found = framework.compute(mode, function, ARRAYS, WEIGHTS, unknown_batch=unknown_batch)
    expected = truth(definition, activation, reduction)
    assert len(found) == len(options) * len(expected) and all(np.any(value != 0) for value in expected.values())
    for name, value in found.items():
        true = expected[name.split(": ")[-1]]
        np.testing.assert_allclose(value, true, rtol=1e-7, atol=1e-9 * np.abs(true).max(), err_msg=name)


@pytest.mark.parametrize("framework, mode", EAGER_WAYS)
def test_descending_on_it_removes_the_product_and_keeps_the_rest(framework, mode):
    weights, random = np.array([1.0, 1.0]), np.random.RandomState(0)
    for _ in range(30):
        z, directions = framework.constant(random.randn(16, 2)), random.choice([-1.0, 1.0], size=(2, 16, 2))

        def penalties(weights, z=z, directions=directions):
            G = lambda z: weights[0] * z[:, 0] * z[:, 1] + weights[1] * z[:, 0] ** 2  # noqa: E731
            return [penalty(framework, G, z, k=2, directions=directions)]

        _, (gradient,) = framework.differentiate(penalties, [framework.constant(weights)])
        weights = weights - 0.05 * np.asarray(gradient)
    assert abs(weights[0]) < 0.01 and weights[1] == pytest.approx(1, abs=0.01)


# ----------------------------------------------------------------------------------------------------------------------
# select


@pytest.mark.parametrize("framework, mode", WAYS)
@pytest.mark.parametrize("options", [{}, SELECT], ids=str)
def test_of_samples_that_tie_the_first_has_the_whole_gradient(framework, mode, options):
    """The own maximum of PyTorch, and of TensorFlow in eager mode, shares it out evenly, as a mean over equals does."""

    def function(inputs, weights):
        def G(z):
            return z[:, :1] * z[:, 1:2] * (z[:, :1] + z[:, 1:2]) * framework.constant(np.ones((1, 2)))

        def penalties(given, **options):
            return [penalty(framework, G, given["z"], directions=np.repeat(DIRECTIONS[:, :1], N, axis=1), **options)]

        maximum = of_all(framework, functools.partial(penalties, **options), inputs, {})
        mean = of_all(framework, functools.partial(penalties, reduction="mean"), inputs, {})
        return dict(maximum=maximum["value 0"], mean=mean["value 0"], of_maximum=maximum["z"], of_mean=mean["z"])

    found = framework.compute(mode, function, {"z": np.repeat(ARRAYS["z"][:1], N, axis=0)})
    gradient, shared_out = found["of_maximum"], found["of_mean"]
    assert found["maximum"] == pytest.approx(found["mean"], rel=1e-10) and np.all(shared_out[:, :2] != 0)
    if not options and framework.__name__ != "JAX" and mode == "eager":
        np.testing.assert_allclose(gradient, shared_out, rtol=1e-9, atol=1e-10)
    else:
        np.testing.assert_allclose(gradient[0], shared_out.sum(axis=0), rtol=1e-9, atol=1e-10)
        assert np.all(gradient[1:] == 0)


def of_statistics(framework, z):
    return z - 0.03 * framework.mean(z, 0)


def of_a_spread(framework, z):
    """Which a batch of one, that memory="lean" makes of one activation, does not have."""
    z = z - framework.mean(z, 0)
    return z / (framework.sum(z**2, 0) / (int(z.shape[0]) - 1)) ** 0.5


def of_the_number_of_samples(framework, z):
    return z * (int(z.shape[0]) / N)


def of_the_position(framework, z):
    return z * framework.constant(np.linspace(0.5, 30, 1000, dtype="float32")[: int(z.shape[0]), None])


def of_a_batch_held(framework, z):
    return z + framework.constant(ARRAYS["y"].astype("float32"))[:, :1]


def of_this_number_of_samples_alone(framework, z):
    assert int(z.shape[0]) == N, "a batch of\nanother size"
    return z


FIRST = WEIGHTS["first"]
NOT_INDEPENDENT = {
    of_statistics: "fewer do not reproduce the maxima",
    of_a_spread: "fewer do not reproduce the maxima",
    of_the_number_of_samples: "fewer do not reproduce the maxima",
    of_the_position: "fewer do not reproduce the maxima",
    of_a_batch_held: "G fails on",
    of_this_number_of_samples_alone: "G fails on",
}


@pytest.mark.parametrize("framework, mode", EAGER_WAYS)
@pytest.mark.parametrize("make", NOT_INDEPENDENT)
def test_select_notices_samples_that_are_not_independent_and_differentiates_all(framework, mode, make):
    """In float32, in which rounding errors could be taken for the reason."""

    def penalties(z, **options):
        return [framework.module.hessian_penalty(G, z, K, directions=DIRECTIONS, **options)]

    def G(z):
        return framework.tanh(make(framework, z) @ framework.constant(FIRST.astype("float32")))

    z, options = (
        framework.constant(ARRAYS["z"].astype("float32")),
        dict(SELECT, memory="lean" if make is of_a_spread else None),
    )
    expected = framework.differentiate(penalties, [z])
    with pytest.warns(UserWarning) as caught:
        found = framework.differentiate(functools.partial(penalties, **options), [z])
    (warning,) = [each for each in caught if "select" in str(each.message)]
    problem = str(warning.message)
    assert problem.startswith("select=True: all samples were differentiated, since ") and "\n" not in problem
    assert NOT_INDEPENDENT[make] in problem
    assert (warning.filename, warning.lineno) == (__file__, penalties.__code__.co_firstlineno + 1)
    for value, true in zip([*found[0], *found[1]], [*expected[0], *expected[1]]):
        np.testing.assert_allclose(value, true, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("framework, mode", EAGER_WAYS)
def test_select_is_quiet_where_only_rounding_errors_are_left(framework, mode):
    """Networks in float32 whose penalty has all but gone: the maximum is noise, another one in another batch.

    The noise, of some units in the last place of the output, is made here as a kernel could that depends on the batch.
    """
    weight = framework.constant((1e-3 * FIRST).astype("float32"))

    def noisy(z):
        noise = framework.sin(1e5 * (z @ framework.constant(np.ones((NZ, 1), "float32"))) + 0.25 * int(z.shape[0]))
        return 1 + framework.tanh(z @ weight) + 1e-6 * noise

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for G in (noisy, lambda z: 1e6 * (z @ weight)):
            z = framework.constant(ARRAYS["z"].astype("float32"))
            value = framework.run(functools.partial(penalty, framework, G, z, **SELECT))
            assert 0 < value < (1e-3 if G is noisy else 1e6)


@pytest.mark.parametrize("framework, mode", [way for way in WAYS if way.values[1] != "xla"])
@pytest.mark.parametrize("some", [slice(3, 4), slice(None)], ids=["of one sample", "of all samples"])
def test_select_overlooks_no_nan_and_is_quiet_about_it(framework, mode, some):
    mask = np.ones((N, 1))
    mask[some] = np.nan

    def function(inputs, weights):
        G = lambda z, mask: z**2 * z[:, :1] * mask  # noqa: E731
        return {"": penalty(framework, G, inputs["z"], mask=inputs["mask"], batch_kwargs=["mask"], **SELECT)}

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert np.isnan(framework.compute(mode, function, {"z": ARRAYS["z"], "mask": mask})[""])


@pytest.mark.parametrize("framework, mode", EAGER_WAYS)
def test_as_many_activations_as_samples_leave_nothing_to_select(framework, mode):
    def penalties(z, **options):
        G = lambda z: [of_statistics(framework, z) ** 3 * z[:, :1]] * 2  # noqa: E731  would not survive a selection
        return [penalty(framework, G, z, directions=DIRECTIONS[:, :2], **options)]

    z = framework.constant(ARRAYS["z"][:2])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        (value,), (gradient,) = framework.differentiate(functools.partial(penalties, **SELECT), [z])
    (plain,), (of_plain,) = framework.differentiate(penalties, [z])
    assert float(value) == float(plain) and np.array_equal(gradient, of_plain)


# ----------------------------------------------------------------------------------------------------------------------
# Calls of G


@pytest.mark.parametrize("framework, mode", EAGER_WAYS)
def test_keywords_of_g_have_names_of_their_own_and_batch_kwargs_is_any_iterable(framework, mode):
    def G(z, a=1, b=1, function=1, kwargs=1, batch=1):
        return a * b * function * kwargs * batch * z**2 * z[:, :1]

    def value(**kwargs):
        z = framework.constant(ARRAYS["z"])
        return framework.run(lambda: framework.module.hessian_penalty(G, z, K, directions=DIRECTIONS, **kwargs))

    kwargs = dict(a=framework.constant(np.ones((N, 1))), b=1, function=1, kwargs=1, batch=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for options in (SELECT, BATCHED, LEAN):
            found = value(batch_kwargs=(name for name in ["a"]), **options, **kwargs)
            assert found == pytest.approx(value(), rel=1e-9)
        if framework.__name__ != "TensorFlow":  # of a cubic, differences along signs are exact too, but for rounding
            assert value(exact=True, **kwargs) == pytest.approx(value(), rel=1e-9)


MEAN_OF_CHUNKS = dict(chunk_size=3, reduction="mean")
CALLS = {
    "PyTorch": [
        ({}, [N] * 2 * K),
        (BATCHED, [2 * K * N]),
        (LEAN, [N] * 2 * K),
        (SELECT, [2 * N] * K + [2 * 2 * K]),
        (dict(SELECT, memory="lean"), [2 * N] * K + [2] * 2 * K),
        (MEAN_OF_CHUNKS, [3] * 2 * 2 * K + [1] * 2 * K),
    ],
    "TensorFlow": [
        ({}, [N] * 2 * K),
        (BATCHED, [2 * K * N]),
        (SELECT, [N] * 2 * K + [2 * 2 * K]),
        (dict(SELECT, memory="lean"), [N] * 2 * K + [2] * 2 * K),
        (MEAN_OF_CHUNKS, [3 * 2 * K] * 2 + [2 * K]),
    ],
    "JAX": [({}, [N] * 2 * K), (BATCHED, [N])],
}


@pytest.mark.parametrize("framework, mode", EAGER_WAYS)
def test_g_is_called_with_so_many_samples_so_often(framework, mode):
    """For the value; of what is then made again for the gradient, see the tests of each framework."""
    calls = []

    def G(z):
        calls.append(int(z.shape[0]))
        return [z * z[:, :1], z**2]

    for options, expected in CALLS[framework.__name__]:
        for _ in range(2):  # the first call begins with a look at G
            calls.clear()
            penalty(framework, G, framework.constant(ARRAYS["z"]), **options)
        assert calls == expected, options


@pytest.mark.parametrize("framework, mode", EAGER_WAYS)
@pytest.mark.parametrize("options", [SELECT, BATCHED, LEAN, MEAN_OF_CHUNKS], ids=str)
def test_half_precision_latents_become_float32(framework, mode, options):
    def value(z):
        return framework.run(lambda: penalty(framework, lambda z: z**2 * z[:, :1], framework.constant(z), **options))

    half = ARRAYS["z"].astype("float16")
    assert value(half).dtype == "float32" and value(half) == value(half.astype("float32"))


# ----------------------------------------------------------------------------------------------------------------------
# OroJaR and exact


@pytest.mark.parametrize("framework, mode", EAGER_WAYS)
@pytest.mark.parametrize("k", [2, 4])
def test_orojar_estimates_the_products_of_the_columns_of_the_jacobian(framework, mode, k):
    """The mean of the estimates is 2 Σ_{i≠j} (J_iᵀJ_j)², within 5 standard errors."""
    J, samples = WEIGHTS["first"].T, 20_000
    expected = 2 * (np.sum((J.T @ J) ** 2) - np.sum(np.sum(J**2, axis=0) ** 2))
    framework.seed(0)

    def estimates():
        G, z = lambda z: z @ framework.constant(J.T), np.repeat(ARRAYS["z"][:1], samples, axis=0)
        return framework.call(framework.module.orojar_penalty, G, z, k=k, reduction=lambda variances: variances)

    found = framework.run(estimates)
    assert found.shape == (samples,) and np.all(found >= 0)
    assert abs(np.mean(found) - expected) < 5 * np.std(found) / np.sqrt(samples)


@pytest.mark.parametrize("framework, mode", EAGER_WAYS)
def test_orojar_of_orthogonal_columns_is_zero(framework, mode):
    def value(G):
        return framework.run(lambda: framework.call(framework.module.orojar_penalty, G, ARRAYS["z"]))

    assert value(lambda z: z * framework.constant(np.arange(1.0, NZ + 1))) < 1e-20
    assert value(lambda z: z[:, 0] + z[:, 1]).shape == ()  # of an activation [N]


@pytest.mark.parametrize("framework, mode", EAGER_WAYS)
def test_orojar_has_the_arguments_of_the_penalty_but_select_exact_and_g_z(framework, mode):
    """The other names are passed on to G."""
    ours, others = (
        inspect.signature(getattr(framework.module, name)).parameters for name in ("orojar_penalty", "hessian_penalty")
    )
    assert list(ours) == [name for name in others if name not in ("select", "exact", "G_z")]
    assert ours["reduction"].default is framework.mean
    for name in ("select", "exact"):
        with pytest.raises(TypeError, match=name):
            penalty(framework, lambda z: z, framework.constant(ARRAYS["z"]), "orojar_penalty", **{name: True})


@pytest.mark.parametrize("framework, mode", [way for way in EAGER_WAYS if way.values[0].__name__ != "TensorFlow"])
def test_exact_is_zero_on_piecewise_linear_networks_and_says_so(framework, mode):
    def value(G, **options):
        kwargs = dict(options, directions=DIRECTIONS, epsilon=1.0)
        return framework.run(lambda: framework.call(framework.hessian_penalty, G, ARRAYS["z"], k=K, **kwargs))

    def relu(z):
        z = z @ framework.constant(FIRST)
        return framework.maximum(z, 0 * z) @ framework.constant(FIRST.T)

    with pytest.warns(UserWarning, match="exact=True: every penalty is exactly 0, .* exact=False"):
        assert value(relu, exact=True) == 0
    assert value(relu) > 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert value(lambda z: [z, z**2 * z[:, :1]], exact=True) > 0


# ----------------------------------------------------------------------------------------------------------------------
# Bad input

NAMES = {"PyTorch": ("torch.", ""), "TensorFlow": ("tf.reduce_", "reduce_"), "JAX": ("jnp.", "")}
REFUSED = {
    "select of a mean": (
        dict(select=True, reduction="mean"),
        "select=True needs the maximum reduction ({0}max), got {1}mean",
    ),
    "select of one's own": (dict(select=True, reduction=lambda v: v), "got <lambda>"),
    "chunks of a maximum": (
        dict(chunk_size=2, reduction="max"),
        "chunk_size needs the mean or sum reduction ({0}mean or {0}sum), got {1}max",
    ),
    "chunks of one's own": (dict(chunk_size=2, reduction=lambda v: v), "got <lambda>"),
    "chunks of nothing": (
        dict(chunk_size=0, reduction="sum"),
        "chunk_size must be a positive number of samples, got 0",
    ),
    "chunks of a half": (dict(chunk_size=2.5, reduction="mean"), "a positive number of samples, got 2.5"),
    "another memory": (dict(memory="low"), "memory must be None or \"lean\", got 'low'"),
    "batched and lean": (
        dict(batched=True, memory="lean"),
        'batched=True and memory="lean" exclude each other: one makes all passes at once, the other one at a time',
    ),
    "a string of names": (dict(batch_kwargs="y", y=np.ones(N)), "batch_kwargs must be a list of names, got 'y'"),
    "a name not passed": (dict(batch_kwargs=["y"]), "batch_kwargs names 'y', which was not passed"),
    "another length": (
        dict(batch_kwargs=["y"], y=np.ones(3)),
        "batch_kwargs: 'y' must have the batch's length 7 first, got shape (3,)",
    ),
    "no length": (dict(batch_kwargs=["y"], y=1.0), "'y' must have the batch's length 7 first, got shape ()"),
}


@pytest.mark.parametrize("framework, mode", EAGER_WAYS)
@pytest.mark.parametrize("case", sorted(REFUSED))
def test_bad_input_is_refused_in_one_line(framework, mode, case):
    arguments, expected = REFUSED[case]
    if isinstance(arguments.get("y"), np.ndarray):
        arguments = dict(arguments, y=framework.constant(arguments["y"]))
    for name in ["hessian_penalty", "orojar_penalty"][: 1 if "select" in case else 2]:
        with pytest.raises(ValueError) as error:
            penalty(framework, lambda z, y=None: z, framework.constant(ARRAYS["z"]), name, **arguments)
        assert expected.format(*NAMES[framework.__name__]) in str(error.value) and "\n" not in str(error.value)

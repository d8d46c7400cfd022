"""JAX: the first look at a generator, which finds outputs that change from call to call, and half precision inside."""

import functools
import gc
import itertools
import random
import sys
import warnings
import weakref

import numpy as np
import pytest

if sys.version_info < (3, 11):
    pytest.skip("current JAX needs Python 3.11", allow_module_level=True)

import jax
import jax.numpy as jnp

import hessian_penalty_jax
from hessian_penalty_jax import check_generator, diagonalness, hessian_penalty

RANDOM = np.random.RandomState(0)
W = jnp.asarray(RANDOM.randn(4, 5))
Z = jnp.asarray(RANDOM.randn(7, 4))
KEY = jax.random.key(0)
HALF = jnp.bfloat16
TABLE = jnp.asarray(RANDOM.randn(3, 4), HALF)


@pytest.fixture(autouse=True)
def nothing_seen(monkeypatch):
    monkeypatch.setattr(hessian_penalty_jax, "_SEEN", {})


def ratio(G, z, **options):
    return diagonalness(G, z, **options).ratio


def as_it_is(function):
    return function


def gradient(function):
    return jax.grad(lambda z: jnp.sum(function(z)))


def vmapped(function):
    return lambda z: jax.vmap(function)(jnp.stack([z, z]))


FUNCTIONS = {"penalty": hessian_penalty, "diagonalness": ratio}
WAYS = {"eager": as_it_is, "jit": jax.jit, "grad": gradient, "jit of grad": lambda f: jax.jit(gradient(f))}


# ----------------------------------------------------------------------------------------------------------------------
# Outputs that change from call to call

COUNTER = itertools.count(1)
NUMPY_GENERATOR, NUMPY_STATE, PYTHON_GENERATOR = np.random.default_rng(0), np.random.RandomState(0), random.Random(0)
GLOBAL_KEY = jax.random.key(1)


class Noise:
    """Splits a key of its own in every call."""

    def __init__(self):
        self.key = jax.random.key(1)

    def __call__(self, z):
        self.key, key = jax.random.split(self.key)
        return jnp.tanh(z @ W) + jax.random.normal(key, (5,))


class Calls:
    def __init__(self):
        self.number = 0

    def method(self, z):
        self.number += 1
        return jnp.tanh(z @ W) * self.number


def noise_of_a_global_key(z):
    global GLOBAL_KEY
    GLOBAL_KEY, key = jax.random.split(GLOBAL_KEY)
    return jnp.tanh(z @ W) + jax.random.normal(key, (5,))


def noise_of_a_fresh_global_key():
    global GLOBAL_KEY
    GLOBAL_KEY = jax.random.key(1)
    return noise_of_a_global_key


def noise_of_a_list():
    noise = [Noise()]
    return lambda z: noise[0](z)


def noise_of_a_closure():
    key = jax.random.key(1)

    def G(z):
        nonlocal key
        key, new = jax.random.split(key)
        return jnp.tanh(z @ W) + jax.random.normal(new, (5,))

    return G


NUMPY = "it draws from NumPy's random generator; draw once and pass the numbers as a keyword argument"
PYTHON = "it draws from Python's random generator; draw once and pass the numbers as a keyword argument"
STATE = "it keeps state that a call changes, as a Flax NNX module in training mode does, or a Python object"
CHANGING = {
    "np.random": (lambda: lambda z: jnp.tanh(z @ W) + np.random.randn(5), NUMPY),
    "np.random.default_rng": (lambda: lambda z: jnp.tanh(z @ W) + NUMPY_GENERATOR.normal(size=5), NUMPY),
    "np.random.RandomState": (lambda: lambda z: jnp.tanh(z @ W) + NUMPY_STATE.randn(5), NUMPY),
    "random": (lambda: lambda z: jnp.tanh(z @ W) * random.random(), PYTHON),
    "random.Random": (lambda: lambda z: jnp.tanh(z @ W) * PYTHON_GENERATOR.random(), PYTHON),
    "a key of an object": (Noise, STATE),
    "a key in a list": (noise_of_a_list, STATE),
    "a global key": (noise_of_a_fresh_global_key, STATE),
    "a key in a closure": (noise_of_a_closure, STATE),
    "a method that counts": (lambda: Calls().method, STATE),
    "a counter": (lambda: lambda z: jnp.tanh(z @ W) * next(COUNTER), STATE),
}


# Each of them in both kinds of look, at values and at traces; one of each cause under grad, and in the other function.
OF_EACH_CAUSE = ["a key of an object", "np.random", "random.Random"]
CHANGED = [("penalty", way, name) for way in ("eager", "jit") for name in sorted(CHANGING)]
CHANGED += [("penalty", way, name) for way in ("grad", "jit of grad") for name in OF_EACH_CAUSE]
CHANGED += [("diagonalness", way, name) for way in ("eager", "jit") for name in OF_EACH_CAUSE]
CHANGED += [("diagonalness", way, "np.random") for way in ("grad", "jit of grad")]


@pytest.mark.parametrize("function, way, name", CHANGED)
def test_outputs_that_change_are_warned_of_with_their_cause(name, way, function):
    make, cause = CHANGING[name]
    G, function = make(), FUNCTIONS[function]
    with pytest.warns(UserWarning) as caught:
        value = WAYS[way](lambda z: function(G, z, key=KEY))(Z)
    assert np.all(np.isfinite(value))
    assert [str(warning.message) for warning in caught] == [
        "G gives other outputs when it is called again with the same latents, which would be taken for curvature: "
        + cause
    ]
    assert caught[0].filename == __file__


def test_they_are_warned_of_under_vmap():
    with pytest.warns(UserWarning, match="^G gives other outputs .* NumPy's"):
        vmapped(lambda z: hessian_penalty(lambda z: z * np.random.rand(), z, key=KEY))(Z)


def test_a_user_may_look_beforehand():
    def G(z, scale):
        return jnp.tanh(z @ W) * scale * np.random.rand()

    with pytest.warns(UserWarning, match="^G gives other outputs") as caught:
        check_generator(G, Z, scale=2.0)
    assert caught[0].filename == __file__


def test_the_warning_comes_once_for_a_lambda_made_anew_in_every_step():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            hessian_penalty(lambda z: z * np.random.rand(), Z, key=KEY)
            jax.jit(lambda z: hessian_penalty(lambda z: z * np.random.rand(), z, key=KEY))(Z)
    assert len(caught) == 2  # one for each of the two lambdas


def test_noise_as_small_as_rounding_is_none():
    """Sums in changing order (atomic additions on GPUs) are no reason for a warning."""
    calls = itertools.count()

    def G(z, size):
        return jnp.tanh(z @ W) * (1 + size * next(calls))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_generator(G, Z, size=4e-16)
    with pytest.warns(UserWarning, match="other outputs"):
        check_generator(G, Z, size=1e-9)


class RunningMean:
    """Batch statistics, the mean of which over all calls is kept, and not used."""

    def __init__(self):
        self.mean = jnp.zeros(5)

    def __call__(self, z):
        x = jnp.tanh(z @ W)
        self.mean = 0.9 * self.mean + 0.1 * jnp.mean(x, axis=0)
        return x - jnp.mean(x, axis=0)


@jax.custom_vjp
def custom(x):
    return jnp.sin(x)


custom.defvjp(lambda x: (jnp.sin(x), x), lambda x, gradient: (gradient * jnp.cos(x),))
STEADY = {
    "a network": lambda z: jnp.tanh(z @ W),
    "a constant made anew": lambda z: jnp.tanh(z @ W) + np.ones(5) + jnp.arange(5.0),
    "a key in a closure": lambda z: jnp.tanh(z @ W) + jax.random.normal(KEY, (7, 5))[: len(z)],
    "nan and infinity": lambda z: jnp.stack([z / 0 * 0, z / 0], axis=1) + jnp.tanh(z)[:, None],
    "a custom gradient": lambda z: custom(z @ W),
    "a checkpoint": jax.checkpoint(lambda z: custom(z @ W)),
    "a loop": lambda z: jax.lax.scan(lambda x, w: (jnp.tanh(x * w), None), z, jnp.arange(3.0))[0],
    "a callback": lambda z: jax.pure_callback(np.sin, jax.ShapeDtypeStruct(z.shape, z.dtype), z),
    "a compiled network": jax.jit(lambda z: jnp.tanh(z @ W) + np.random.randn(5)),  # drawn once, when it is traced
    "running statistics": RunningMean(),
    "Python's control flow": lambda z: z * 2 if float(z[0, 0]) > 0 else z,
}


@pytest.mark.parametrize("name", sorted(STEADY))
def test_steady_outputs_are_not_warned_of(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hessian_penalty(STEADY[name], Z, key=KEY)
        if name not in ("Python's control flow", "running statistics"):
            ratio(jax.jit(STEADY[name]), Z, key=KEY)
        hessian_penalty_jax._SEEN.clear()
        if name != "Python's control flow":
            jax.jit(lambda z: hessian_penalty(STEADY[name], z, key=KEY))(Z)


@pytest.mark.parametrize("make", [Noise, RunningMean, noise_of_a_closure, noise_of_a_fresh_global_key])
def test_the_look_leaves_no_tracers_behind(make):
    """Under jit; afterwards G runs eagerly as before."""
    G = make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        jax.jit(lambda z: check_generator(G, z))(Z)
    assert np.all(np.isfinite(G(Z)))


class TraceContextError(Exception):
    """As Flax NNX raises it."""


class Module:
    """What a Flax NNX module does in training mode: it changes itself, in the trace that it was made in."""

    def __init__(self):
        self.trace, self.count = jax.extend.core.get_opaque_trace_state(), 0

    def __call__(self, z):
        if self.trace != jax.extend.core.get_opaque_trace_state():
            raise TraceContextError("Cannot mutate RngCount from a different trace level")
        self.count += 1
        return jnp.tanh(z @ W) * jax.random.bernoulli(jax.random.key(self.count), shape=(5,))


def test_a_module_that_other_traces_cannot_change_is_warned_of():
    @jax.jit
    def compiled(z):
        return hessian_penalty(Module(), z, key=KEY)

    with pytest.warns(UserWarning, match=f"^G may give other outputs when .*: {STATE}$"):
        assert compiled(Z) > 0
    with pytest.warns(UserWarning, match="^G gives other outputs"):
        hessian_penalty(Module(), Z, key=KEY)


def test_select_names_the_cause():
    def G(z):
        return jnp.tanh(z @ W) * (1 + np.random.rand())

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        hessian_penalty(G, Z, key=KEY, select=True)
    messages = [str(warning.message) for warning in caught]
    assert [message.split(" ")[0] for message in messages] == ["G", "select=True:"]
    assert messages[1].startswith("select=True: all samples were differentiated, since fewer do not reproduce")
    assert messages[1].endswith(messages[0])


# ----------------------------------------------------------------------------------------------------------------------
# Half precision


def cast(function, dtype=HALF):
    """z in half precision inside, and out of it again."""
    return lambda z: function(z.astype(dtype)).astype(z.dtype)


def repeated(step, times=3):
    return lambda z: jax.lax.scan(lambda x, _: (step(x), None), z, None, length=times)[0]


def after_two_steps(z):
    """Half precision meets z only by way of what one step hands to the next."""

    def step(carry, _):
        a, b, c = carry
        return (a, a, cast(jnp.sin)(b)), jnp.sum(c @ W)

    return jax.lax.scan(step, (z, jnp.zeros_like(z), jnp.zeros_like(z)), None, length=3)[0][2] + z


def in_a_while_loop(z):
    return jax.lax.while_loop(
        lambda state: state[0] < 3, lambda state: (state[0] + 1, cast(jnp.sin)(state[1])), (0, z)
    )[1]


def in_the_test_of_a_while_loop(z):
    scale, weight = jnp.ones((4,), HALF), jnp.full((4,), 2.0)  # constants of the test, and of the step
    return jax.lax.while_loop(lambda x: jnp.sum(x.astype(HALF) * scale) < 10, lambda x: x * weight, z**2)


def in_a_constant_of_the_test(z):
    weight = jnp.full((4,), 2.0)
    steps = jax.lax.while_loop(lambda x: jnp.sum(z.astype(HALF) * HALF(2)) + x[0] < 10, lambda x: x * weight, weight)
    return jnp.sin(z) * steps


@jax.custom_jvp
def custom_jvp(x):
    return cast(jnp.sin)(x)


custom_jvp.defjvp(lambda primals, tangents: (custom_jvp(*primals), tangents[0]))


@jax.custom_vjp
def custom_vjp(x):
    return cast(jnp.sin)(x)


custom_vjp.defvjp(lambda x: (custom_vjp(x), None), lambda _, gradient: (gradient,))
two_outputs = jax.jit(lambda z: (jnp.tanh(z @ W), cast(jnp.sin)(z)))
COARSE = {
    "a product": (cast(lambda z: z @ W.astype(HALF)), "bfloat16", "dot_general"),
    "float16": (cast(jnp.sin, "float16"), "float16", "sin"),
    "float8": (cast(jnp.negative, jnp.float8_e4m3fn), "float8_e4m3fn", "neg"),
    "a cast": (cast(as_it_is), "bfloat16", "convert_element_type"),
    "a cast and a reshape": (cast(lambda z: z.reshape(-1, 2, 2).mT), "bfloat16", "convert_element_type"),
    "a cast, a reshape, a product": (cast(lambda z: z[:, None] * HALF(3)), "bfloat16", "mul"),
    "an output": (lambda z: [z, jnp.sin(z.astype(HALF))], "bfloat16", "sin"),
    "a product that rounds its result": (
        lambda z: jax.lax.dot(z.astype("float32"), W.astype("float32"), preferred_element_type=HALF).astype(z.dtype),
        "bfloat16",
        "dot_general",
    ),
    "a table that z chooses from": (lambda z: z * TABLE[(z[:, 0] > 0).astype(int)], "bfloat16", "gather"),
    "jit": (jax.jit(cast(jnp.sin)), "bfloat16", "sin"),
    "an output of a compiled network": (lambda z: two_outputs(z)[1], "bfloat16", "sin"),
    "checkpoint": (jax.checkpoint(cast(jnp.sin)), "bfloat16", "sin"),
    "vmap": (jax.vmap(cast(jnp.sin)), "bfloat16", "sin"),
    "custom_jvp": (custom_jvp, "bfloat16", "sin"),
    "custom_vjp": (custom_vjp, "bfloat16", "sin"),
    "scan": (repeated(cast(jnp.sin)), "bfloat16", "sin"),
    "nested scan": (repeated(repeated(jax.jit(cast(jnp.sin)))), "bfloat16", "sin"),
    "scan over slices": (lambda z: jax.lax.scan(lambda c, x: (c, cast(jnp.sin)(x)), 0.0, z)[1], "bfloat16", "sin"),
    "the second step of a scan": (after_two_steps, "bfloat16", "sin"),
    "while_loop": (in_a_while_loop, "bfloat16", "sin"),
    "the test of a while_loop": (in_the_test_of_a_while_loop, "bfloat16", "mul"),
    "a constant of the test": (in_a_constant_of_the_test, "bfloat16", "mul"),
    "cond": (lambda z: jax.lax.cond(z[0, 0] > 9, cast(jnp.sin), as_it_is, z), "bfloat16", "sin"),
    "switch": (
        lambda z: jax.lax.switch(jnp.int32(z[0, 0]), [as_it_is, cast(jnp.sin), cast(jnp.cos)], z),
        "bfloat16",
        "sin",
    ),
    "keyword arguments": (
        functools.partial(lambda z, scale: cast(lambda x: x * scale)(z), scale=HALF(2)),
        "bfloat16",
        "mul",
    ),
}


# Derivatives can only change what has rules of its own for them; the look is the same for the other function.
WITH_RULES = ["a product", "checkpoint", "cond", "custom_jvp", "custom_vjp", "jit", "scan", "while_loop"]
REFUSED = [("penalty", way, name) for way in ("eager", "jit") for name in sorted(COARSE)]
REFUSED += [("penalty", "jit of grad", name) for name in WITH_RULES]
REFUSED += [("diagonalness", way, name) for way in ("eager", "jit", "jit of grad") for name in ("a product", "scan")]


@pytest.mark.parametrize("function, way, name", REFUSED)
def test_half_precision_inside_is_refused_by_name(name, way, function):
    G, dtype, operation = COARSE[name]
    expected = f"G must compute in float32 or float64 for its differences to count, got {dtype} from {operation}"
    for _ in range(2):  # each time
        with pytest.raises(ValueError) as error:
            WAYS[way](lambda z: FUNCTIONS[function](G, z, key=KEY))(Z)
        assert str(error.value) == expected


def test_half_precision_inside_is_refused_under_vmap():
    with pytest.raises(ValueError, match="got bfloat16 from sin"):
        vmapped(lambda z: hessian_penalty(cast(jnp.sin), z, key=KEY))(Z)


def slices_of_a_table(z):
    """Constants of the loop, and what it slices, computed in half precision without z."""
    return jax.lax.scan(lambda x, row: (x + jnp.tanh(x[:, ::-1]) * (row * HALF(2)), None), z, TABLE)[0]


DOUBLED = (TABLE * HALF(2)).astype("float64")
FINE = {
    "weights": (lambda z: jnp.tanh(z) @ TABLE.T, lambda z: jnp.tanh(z) @ TABLE.T.astype("float64")),
    "a table": (lambda z: z**2 @ (TABLE * HALF(2)).T * z[:, :1], lambda z: z**2 @ DOUBLED.T * z[:, :1]),
    "a table in a loop": (
        slices_of_a_table,
        lambda z: functools.reduce(lambda x, row: x + jnp.tanh(x[:, ::-1]) * row, DOUBLED, z),
    ),
    "what no output needs": (
        lambda z: (jnp.tanh(z @ W), jnp.sin(z.astype(HALF)), two_outputs(z)[1], repeated(cast(jnp.sin))(z))[0],
        lambda z: jnp.tanh(z @ W),
    ),
    "what a compiled network returns beside": (lambda z: two_outputs(z)[0], lambda z: jnp.tanh(z @ W)),
    "low precision asked for by name": (
        lambda z: jax.lax.dot(jnp.tanh(z), W, precision=jax.lax.Precision.DEFAULT),
        lambda z: jnp.tanh(z) @ W,
    ),
    "integers": (lambda z: jnp.tanh(z @ W) * (z[:, :1] > 0).astype(int), lambda z: jnp.tanh(z @ W) * (z[:, :1] > 0)),
}


@pytest.mark.parametrize("way", ["eager", "jit"])
@pytest.mark.parametrize("name", sorted(FINE))
def test_half_precision_apart_from_z_is_fine(name, way):
    G, truth = FINE[name]
    value = WAYS[way](lambda z: hessian_penalty(G, z, key=KEY))(Z)
    assert value == pytest.approx(float(hessian_penalty(truth, Z, key=KEY)), rel=1e-6) and value > 0


def test_half_precision_would_be_silently_wrong():
    """Why it is refused: without the look, the value is far off."""
    directions = RANDOM.choice([-1.0, 1.0], size=(2, 7, 4))
    options = dict(directions=directions, epsilon=0.01)
    truth = hessian_penalty(lambda z: jnp.tanh(z @ W), Z, **options)

    def activations(z):
        return cast(lambda x: jnp.tanh(x @ W.astype(HALF)))(z)

    s = [(activations(Z + 0.01 * v) - 2 * activations(Z) + activations(Z - 0.01 * v)) / 0.01**2 for v in directions]
    assert np.max(np.var(s, axis=0, ddof=1)) > 10 * truth


# ----------------------------------------------------------------------------------------------------------------------
# One look at each generator


@pytest.fixture
def calls():
    """The shapes of the latents that G is called with."""
    return []


def test_a_lambda_made_anew_in_every_step_is_looked_at_once(calls):
    for step in range(3):
        calls.clear()
        weight = W + step
        hessian_penalty(lambda z: calls.append(z.shape) or jnp.tanh(z @ weight), Z, key=KEY)  # noqa: B023
        assert calls == ([(2, 4)] * 2 if step == 0 else []) + [(7, 4)] * 4


def test_under_jit_it_is_traced_twice_more_once(calls):
    for step in range(3):
        calls.clear()
        jax.jit(lambda z: hessian_penalty(lambda z: calls.append(z.shape) or jnp.tanh(z @ W), z, key=KEY))(Z)
        assert len(calls) == (6 if step == 0 else 4)


def test_a_look_at_values_serves_under_jit_but_not_the_other_way_round(calls):
    def G(z):
        calls.append(z.shape)
        return jnp.tanh(z @ W)

    def eagerly():
        calls.clear()
        hessian_penalty(G, Z, key=KEY)
        return len(calls)

    def compiled():
        calls.clear()
        jax.jit(lambda z: hessian_penalty(G, z, key=KEY))(Z)
        return len(calls)

    assert [compiled(), eagerly(), compiled(), eagerly()] == [6, 6, 4, 4]


def factory(dtype):
    return lambda z: jnp.tanh(z.astype(dtype)).astype(z.dtype)


class Model:
    dtype = "float64"

    def __init__(self, **attributes):
        vars(self).update(attributes)

    def __call__(self, z):
        x = jnp.tanh(z.astype(self.dtype)).astype(z.dtype)
        return x * np.random.rand() if vars(self).get("training") else x


class Slotted:
    __slots__ = ("dtype",)

    def __init__(self, dtype):
        self.dtype = dtype


def of(model):
    return lambda z: model(z)


def of_settings(settings):
    return lambda z: jnp.tanh(z.astype(settings.dtype)).astype(z.dtype)


def of_nested(dtype):
    @functools.wraps(factory)
    def inner(z):
        return jax.jit(functools.partial(lambda settings, z: factory(settings["dtype"])(z), {"dtype": dtype}))(z)

    return jax.checkpoint(inner)


@pytest.mark.parametrize(
    "fine, coarse",
    [
        (factory("float64"), factory("bfloat16")),
        (factory(jnp.float32), factory(HALF)),
        (factory(jnp.dtype("float32")), factory(jnp.dtype(HALF))),
        (of(Model()), of(Model(dtype="float16"))),
        (of_settings(Slotted("float64")), of_settings(Slotted("float16"))),
        (of_nested("float64"), of_nested("float16")),
        (functools.partial(lambda z, dtype: factory(dtype)(z), dtype="float64"),) * 2,
    ],
    ids=["strings", "types", "dtypes", "attributes", "slots", "nested", "keywords"],
)
def test_closures_of_one_factory_are_told_apart_by_what_matters(fine, coarse):
    assert hessian_penalty(fine, Z, key=KEY, reduction=jnp.sum) == 0
    keywords = dict(dtype="float16") if fine is coarse else {}
    with pytest.raises(ValueError, match=r"got b?float16 from tanh"):
        hessian_penalty(coarse, Z, key=KEY, **keywords)


DTYPE = "float64"


def of_a_global(z):
    return [cast_to_the_global(z)]


def cast_to_the_global(z):
    return jnp.tanh(z.astype(DTYPE)).astype(z.dtype)


def test_globals_count(monkeypatch):
    hessian_penalty(of_a_global, Z, key=KEY)
    monkeypatch.setitem(globals(), "DTYPE", "float16")
    with pytest.raises(ValueError, match="got float16 from tanh"):
        hessian_penalty(of_a_global, Z, key=KEY)


def test_a_mode_counts():
    model = Model(training=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hessian_penalty(of(model), Z, key=KEY)
    model.training = True
    with pytest.warns(UserWarning, match="other outputs"):
        hessian_penalty(of(model), Z, key=KEY)


def test_numbers_arrays_and_growing_lists_do_not_count(calls):
    model = Model(step=0, losses=[0.5], weight=W)
    for model.step in range(3):
        model.losses.append(0.5)
        model.weight = W[: 4 - model.step]
        hessian_penalty(lambda z: (calls.append(len(z)), model(z))[1], Z, key=KEY)
    assert calls == [2] * 2 + [7] * 4 * 3


def test_nothing_of_the_user_is_kept_and_no_more_than_a_few_hundred_generators():
    def look():
        model = Model(weight=np.ones((4, 5)))
        hessian_penalty(lambda z: model(z) @ model.weight, Z, key=KEY)
        jax.jit(lambda z: hessian_penalty(lambda z: model(z) @ model.weight, z, key=KEY)).lower(Z)
        return weakref.ref(model), weakref.ref(model.weight)

    references = look()
    assert len(hessian_penalty_jax._SEEN) == 2
    jax.clear_caches()
    gc.collect()
    assert [reference() for reference in references] == [None, None]
    for i in range(300):
        hessian_penalty_jax._check_if_new(lambda z, name=str(i): z, Z, {})
    assert len(hessian_penalty_jax._SEEN) == 256


def test_the_look_takes_two_samples_with_what_belongs_to_them():
    shapes, y = [], jnp.ones((7, 4))

    def G(z, y, weight):
        shapes.append((z.shape, y["a"].shape, weight.shape))
        return jnp.tanh(z * y["a"]) @ weight

    hessian_penalty(G, Z, key=KEY, y={"a": y}, weight=W, batch_kwargs=["y"])
    assert shapes[:3] == [((2, 4), (2, 4), (4, 5))] * 2 + [((7, 4), (7, 4), (4, 5))]


def test_where_two_samples_do_not_fit_it_takes_all():
    y = jnp.ones((7, 4))

    def G(z):  # traces of it are all the same
        noise = jax.pure_callback(lambda: np.random.rand(), jax.ShapeDtypeStruct((), "float64"))
        return jnp.tanh(z * y) * noise

    with pytest.warns(UserWarning, match="other outputs"):
        hessian_penalty(G, Z, key=KEY)


def test_an_error_of_g_itself_comes_from_the_penalty():
    def G(z):
        raise KeyError("a weight is missing")

    for way in (as_it_is, jax.jit):
        with pytest.raises(KeyError, match="a weight is missing"):
            way(lambda z: hessian_penalty(G, z, key=KEY))(Z)


def test_a_numpy_array_that_g_overwrites_is_refused():
    buffer = np.zeros((7, 5))

    def G(z):
        np.tanh(z @ W, out=buffer[: len(z)])
        return buffer[: len(z)]

    with pytest.raises(ValueError, match=r"G must return an array, .* got ndarray"):
        hessian_penalty(G, Z, key=KEY)

"""Generators with state, random numbers or half precision: held still, warned of, refused; and ε as a tensor.

TensorFlow 1.14 can go eager only when a program starts, so there these tests run a second time in a process that does.
"""

import contextlib
import functools
import gc
import json
import os
import random
import subprocess
import sys
import warnings
import weakref

import numpy as np
import pytest
import tensorflow as tf
from frameworks import assert_passes_eagerly, needs_another_process
from test_options import DIRECTIONS, NZ, WEIGHTS, K, N
from test_penalty_tensorflow import MODES, compute, eager_only, tensorflow_2

import hessian_penalty_np
import hessian_penalty_tf
from hessian_penalty_tf import check_generator, diagonalness, hessian_penalty, orojar_penalty

HELD = [mode for mode in MODES if mode != "graph"]  # a session's graph runs no assignment that nothing waits for
NOT_XLA = [mode for mode in MODES if mode != "xla"]  # which compiles the graphs of functions: what is found in them,
HELD_NOT_XLA = [mode for mode in HELD if mode != "xla"]  # while they are built, is the same
Z = np.random.RandomState(2).randn(N, NZ)
AXES = np.stack([np.random.RandomState(n).permutation(NZ)[:2] for n in range(N)])[None]
CHANGES = "G gives other outputs when it is called again with the same latents, which would be taken for curvature: "


@needs_another_process
def test_all_of_this_eagerly_in_tensorflow_1():
    assert_passes_eagerly(__file__)


@pytest.fixture(autouse=True)
def every_generator_is_new():
    hessian_penalty_tf._looks.clear()


def variances(G, epsilon=0.1, z=Z):
    """Equation 5 in NumPy: its variance over the directions, for each element of G's only output."""
    second = [(G(z + epsilon * v) - 2 * G(z) + G(z - epsilon * v)) / epsilon**2 for v in DIRECTIONS]
    return np.var(second, axis=0, ddof=1)


def slope(function, array, step):
    """The derivative of a number along a step, by central differences."""
    return (function(array + step) - function(array - step)) / 2


def run(mode, G, penalty=hessian_penalty, z=Z, **options):
    """The penalty of G at z in a mode."""
    given = dict(axes=AXES) if penalty is diagonalness else dict(k=K, directions=DIRECTIONS)

    def function(inputs, variables):
        value = penalty(G, inputs["z"], **dict(given, **options))
        return {"value": value[0] if penalty is diagonalness else value}

    return compute(mode, function, arrays={"z": z})["value"]


def warned(function):
    """The texts of the UserWarnings in function(), which all point to a file of tests."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function()
    caught = [each for each in caught if each.category is UserWarning]
    assert all("tests" in each.filename and "\n" not in str(each.message) for each in caught)
    return [str(each.message) for each in caught]


# ----------------------------------------------------------------------------------------------------------------------
# State that moves with each pass

COUNTING = {"first": WEIGHTS["first"], "second": WEIGHTS["second"], "step": np.array(0.6)}


def counting_network(variables):
    """G(z), whose variable `step` grows by 1 in each call before it is used."""

    def G(z):
        variables["step"].assign_add(tf.ones([], tf.float64))
        hidden = tf.tanh(variables["step"] * tf.matmul(z, variables["first"]))
        return tf.tanh(tf.matmul(hidden, variables["second"]))

    return G


def first_call(z, first, second, step):
    """What it gives when it is called for the first time, in NumPy."""
    return np.tanh(np.tanh((step + 1) * (z @ first)) @ second)


LEAN = dict(memory="lean")
STATE_OPTIONS = [{}, dict(batched=True), LEAN, dict(select=True), dict(select=True, memory="lean")]
STATE_OPTIONS += [dict(chunk_size=4), dict(chunk_size=4, memory="lean")]


@pytest.mark.parametrize("mode", HELD)
@pytest.mark.parametrize("options", STATE_OPTIONS, ids=str)
def test_all_passes_start_from_one_state_and_leave_it(mode, options):
    """Values and gradients against NumPy in float64, though the state moves between forward and backward pass."""
    reduction = tf.reduce_mean if "chunk_size" in options else tf.reduce_max

    def function(inputs, variables):
        G, sources = counting_network(variables), [inputs["z"], *variables.values()]
        with tf.GradientTape() as tape:
            tape.watch(inputs["z"])
            value = hessian_penalty(G, inputs["z"], K, directions=DIRECTIONS, reduction=reduction, **options)
        left = tf.identity(variables["step"])
        variables["step"].assign(17.0)
        gradients = [tf.convert_to_tensor(gradient) for gradient in tape.gradient(value, sources)]
        return dict(zip(["z", *variables], gradients), value=value, left=left, last=tf.identity(variables["step"]))

    found = compute(mode, function, arrays={"z": Z}, weights=COUNTING)
    assert found["left"] == COUNTING["step"] and found["last"] == 17

    def truth(z, **weights):
        reduced = np.mean if "chunk_size" in options else np.max
        return reduced(variances(lambda z: first_call(z, **weights), z=z))

    arrays = dict(COUNTING, z=Z)
    assert found["value"] == pytest.approx(truth(**arrays), rel=1e-7)
    for i, (name, array) in enumerate(sorted(arrays.items())):
        step = 1e-5 * np.random.RandomState(i).randn(*array.shape)
        expected = slope(lambda moved, name=name: truth(**dict(arrays, **{name: moved})), array, step)
        assert np.sum(found[name] * step) == pytest.approx(expected, rel=1e-4), name


@pytest.mark.parametrize("mode", HELD)
def test_orojar_and_diagonalness_hold_it_too(mode):
    def function(inputs, variables):
        G, z = counting_network(variables), inputs["z"]
        orojar = orojar_penalty(G, z, K, directions=DIRECTIONS)
        return dict(orojar=orojar, ratio=diagonalness(G, z, axes=AXES)[0], left=tf.identity(variables["step"]))

    def G(z):
        return first_call(z, **COUNTING)

    found = compute(mode, function, arrays={"z": Z}, weights=COUNTING)
    slopes = [(G(Z + 0.1 * v) - G(Z - 0.1 * v)) / 0.2 for v in DIRECTIONS]
    expected = np.mean(np.var([np.sum(Jv**2, axis=1) for Jv in slopes], axis=0, ddof=1))
    assert found["orojar"] == pytest.approx(expected, rel=1e-9)
    assert found["ratio"] == pytest.approx(hessian_penalty_np.diagonalness(G, Z, axes=AXES)[0], rel=1e-9)
    assert found["left"] == COUNTING["step"]


class Counter(tf.Module):
    """A module whose variable grows in each call. NumPy in it keeps TensorFlow from tracing it."""

    def __init__(self, traced):
        super().__init__()
        self.step, self.traced = tf.Variable(0.6, dtype=tf.float64), traced

    def __call__(self, z):
        self.step.assign_add(1.0)
        step = self.step if self.traced else self.step.numpy()
        return tf.tanh(step * z[:, :1] * z)


class Holder:
    def __init__(self, module):
        self.parts = {"generators": [module]}

    def __call__(self, z):
        return self.parts["generators"][0](z)

    def method(self, z):
        return self(z)


def behind(way, module):
    """A function that calls the module."""
    if way == "a global":
        globals()["GLOBAL"] = module
        return lambda z: GLOBAL(z)  # noqa: F821
    if way == "a default":
        return lambda z, G=module: G(z)
    if way == "another function":
        call = behind("a global", module)
        return lambda z: call(z)
    ways = {
        "itself": module,
        "its method": module.__call__,
        "a partial function": functools.partial(lambda G, z: G(z), module),
        "a closure": lambda z: module(z),
        "an object's attribute": Holder(module),
        "another object's method": Holder(module).method,
    }
    return ways[way]


WAYS = ["itself", "its method", "a partial function", "a closure", "a global", "a default", "another function"]
WAYS += ["an object's attribute", "another object's method"]


@eager_only
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("traced", [True, False], ids=["traced", "not traced"])
def test_modules_are_found_behind_functions_and_objects(way, traced):
    module = Counter(traced)
    G = behind(way, module)
    expected = np.max(variances(lambda z: np.tanh(1.6 * z[:, :1] * z)))
    for _ in range(2):
        assert not warned(lambda: check_generator(G, tf.constant(Z)))
        assert run("eager", G) == pytest.approx(expected, rel=1e-9)
        assert module.step.numpy() == 0.6


@eager_only
def test_state_is_put_back_when_g_fails():
    module, fails = Counter(True), []

    def G(z):
        outputs = module(z)
        if fails:
            raise RuntimeError("no memory")
        return outputs

    run("eager", G)
    fails.append(True)
    with pytest.raises(RuntimeError, match="no memory"):
        run("eager", G)
    assert module.step.numpy() == 0.6


@eager_only
@pytest.mark.parametrize("traced", [True, False], ids=["traced", "not traced"])
def test_a_module_that_needs_the_whole_batch(traced):
    module, y = Counter(traced), np.random.RandomState(0).randn(N, NZ)
    assert not warned(lambda: run("eager", lambda z: module(z + y)))
    value, expected = run("eager", lambda z: module(z + y)), variances(lambda z: np.tanh(1.6 * z[:, :1] * z), z=Z + y)
    assert value == pytest.approx(np.max(expected), rel=1e-9)
    assert module.step.numpy() == 0.6
    (message,) = warned(lambda: run("eager", lambda z: (z + y) * np.random.rand()))
    assert message.startswith(CHANGES + "NumPy's generator")


@tensorflow_2
@pytest.mark.parametrize("mode", HELD)
def test_a_saved_model_is_held_still(mode, tmp_path):
    saved, z = Counter(True), Z.astype("float64")
    saved.call = tf.function(saved.__call__, input_signature=[tf.TensorSpec([None, NZ], tf.float64)])
    tf.saved_model.save(saved, str(tmp_path))
    loaded, expected = tf.saved_model.load(str(tmp_path)), np.max(variances(lambda z: np.tanh(1.6 * z[:, :1] * z)))
    for G in (loaded.call, lambda z: loaded.call(z)):
        assert run(mode, G, z=z) == pytest.approx(expected, rel=1e-7)
        assert loaded.step.numpy() == 0.6


REPLICAS = """
import tensorflow as tf
device = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(device, [tf.config.LogicalDeviceConfiguration()] * 2)
from hessian_penalty_tf import hessian_penalty
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    kinds = dict(synchronization=tf.VariableSynchronization.ON_READ, trainable=False)
    step = tf.Variable(0.0, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA, **kinds)
def G(z):
    step.assign_add(1.0)
    return step * z[:, :1] * z
def penalty():
    return hessian_penalty(G, tf.ones([2, 3]), directions=[[[1, 1, 1]] * 2, [[1, -1, 1]] * 2])
values = [strategy.run(run) for run in (penalty, tf.function(penalty))] + [step]
print([[float(each) for each in strategy.experimental_local_results(value)] for value in values])
"""


@tensorflow_2
def test_each_replica_holds_its_own_variables():
    """z0·z1 has vᵀHv = 2 v0 v1: of the two directions 2 and −2, with a variance of 8."""
    path = os.path.dirname(os.path.abspath(hessian_penalty_tf.__file__))
    environment = dict(os.environ, PYTHONPATH=path)
    printed = subprocess.check_output([sys.executable, "-c", REPLICAS], env=environment, stderr=subprocess.DEVNULL)
    np.testing.assert_allclose(json.loads(printed), [[8, 8], [8, 8], [0, 0]], rtol=1e-3)


@pytest.mark.parametrize("mode", HELD)
def test_a_buffer_that_g_returns_is_read_at_once(mode):
    """A variable that each pass overwrites: were it read later, all passes would be the last."""
    buffer = {"buffer": np.zeros(Z.shape)}

    def function(inputs, variables):
        def G(z):
            variables["buffer"].assign(tf.tanh(z[:, :1] * z))
            return variables["buffer"]

        value = hessian_penalty(G, inputs["z"], K, directions=DIRECTIONS)
        return dict(value=value, left=tf.identity(variables["buffer"]))

    found = compute(mode, function, arrays={"z": Z}, weights=buffer)
    assert found["value"] == pytest.approx(np.max(variances(lambda z: np.tanh(z[:, :1] * z))), rel=1e-9)
    np.testing.assert_array_equal(found["left"], 0)


@pytest.mark.parametrize("mode", HELD)
@tensorflow_2
def test_a_function_that_calls_a_function_that_assigns(mode):
    variables = {name: tf.Variable(weight) for name, weight in COUNTING.items()}
    inner = tf.function(counting_network(variables))

    def G(z):
        return tf.cond(tf.reduce_sum(z) > 1e9, lambda: z[:, :3], lambda: inner(z))

    expected = np.max(variances(lambda z: first_call(z, **COUNTING)))
    assert run(mode, G) == pytest.approx(expected, rel=1e-7)
    assert variables["step"].numpy() == COUNTING["step"]


# ----------------------------------------------------------------------------------------------------------------------
# Keras


def keras_model(*layers):
    """A built model in float64."""
    model = tf.keras.Sequential([tf.keras.Input([NZ], dtype="float64"), *layers])
    for i, weight in enumerate(model.trainable_variables):
        weight.assign(0.5 * np.random.RandomState(i).randn(*weight.shape))
    return model


def dense(units, **kwargs):
    return tf.keras.layers.Dense(units, dtype="float64", **kwargs)


def keras_value_and_gradients(mode, model, options):
    """The maximum penalty in training mode, gradients by variable, and the state that is left."""

    def penalty():
        with tf.GradientTape() as tape:
            value = hessian_penalty(model, tf.constant(Z), K, directions=DIRECTIONS, training=True, **options)
        return value, tape.gradient(value, [getattr(v, "value", v) for v in model.trainable_variables])

    before = [variable.numpy() for variable in model.variables]
    penalty = penalty if mode == "eager" else tf.function(penalty, jit_compile=mode == "xla")
    value, gradients = penalty()
    for variable, expected in zip(model.variables, before):
        np.testing.assert_array_equal(variable.numpy(), expected)
    return value.numpy(), [gradient.numpy() for gradient in gradients]


@tensorflow_2
@pytest.mark.parametrize(
    "mode, options",
    [(mode, each) for mode in HELD_NOT_XLA for each in ({}, *STATE_OPTIONS[1:4])] + [("xla", LEAN)] * ("xla" in HELD),
    ids=str,
)
def test_spectral_normalization_in_training_mode(mode, options):
    """Each pass normalises the kernel that there was, and gives the gradient to the normalised one: against NumPy."""
    layer = tf.keras.layers.SpectralNormalization(dense(8, activation="tanh"), dtype="float64")
    model = keras_model(layer, dense(3))
    kernel, bias, second, _ = (variable.numpy() for variable in model.trainable_variables)
    u = layer.vector_u.numpy()
    v = u @ kernel.T / np.linalg.norm(u @ kernel.T)
    u = v @ kernel / np.linalg.norm(v @ kernel)
    normalised = kernel / (v @ kernel @ u.T)

    def truth(kernel):
        return np.max(variances(lambda z: np.tanh(z @ kernel + bias) @ second))

    value, gradients = keras_value_and_gradients(mode, model, options)
    assert value == pytest.approx(truth(normalised), rel=1e-6)
    step = 1e-5 * np.random.RandomState(0).randn(*kernel.shape)
    assert np.sum(gradients[0] * step) == pytest.approx(slope(truth, normalised, step), rel=1e-4)


@tensorflow_2
@pytest.mark.parametrize(
    "mode, options", [(mode, each) for mode in HELD for each in ({}, LEAN) if mode != "xla" or each], ids=str
)
def test_batch_normalization_in_training_mode(mode, options):
    model = keras_model(dense(8), tf.keras.layers.BatchNormalization(dtype="float64"), dense(3, activation="tanh"))
    first, bias, gamma, beta, second, bias_2 = (variable.numpy() for variable in model.trainable_variables)

    def G(z):
        x = z @ first + bias
        x = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-3)
        return np.tanh((gamma * x + beta) @ second + bias_2)

    value, _ = keras_value_and_gradients(mode, model, options)
    assert value == pytest.approx(np.max(variances(G)), rel=1e-6)


@eager_only
@pytest.mark.skipif(tf.__version__ >= "2", reason="Keras as it was in TensorFlow 1")
def test_batch_normalization_in_training_mode_in_tensorflow_1():
    layer = tf.keras.layers.BatchNormalization(dtype="float64")
    z = tf.constant(Z)
    layer(z)
    before = [variable.numpy() for variable in layer.variables]
    value = hessian_penalty(lambda z: tf.tanh(layer(z, training=True)), z, K, directions=DIRECTIONS)
    expected = np.max(variances(lambda z: np.tanh((z - z.mean(axis=0)) / np.sqrt(z.var(axis=0) + 1e-3))))
    assert value.numpy() == pytest.approx(expected, rel=1e-6)
    for variable, array in zip(layer.variables, before):
        np.testing.assert_array_equal(variable.numpy(), array)


@tensorflow_2
@pytest.mark.parametrize("mode", HELD)
def test_dropout_has_one_mask_for_all_passes(mode):
    """Keras 3 keeps the seed in a variable. A network that is linear but for the masks has no second derivative."""
    model = keras_model(dense(8), tf.keras.layers.Dropout(0.5, dtype="float64"), dense(3))
    values, options = [], [{}, dict(memory="lean"), dict(chunk_size=3, reduction=tf.reduce_mean)]
    for each in options[:1] if mode == "xla" else options:
        assert not warned(lambda each=each: values.append(run(mode, model, training=True, **each)))
    assert max(values) < 1e-15
    with pytest.warns(UserWarning, match="^batched=True is left out, since .*StatelessRandomUniform.* each sample"):
        assert run(mode, model, training=True, batched=True) < 1e-15


NORMALISATIONS = {
    "LayerNormalization": (lambda: tf.keras.layers.LayerNormalization(dtype="float64", epsilon=1e-3), 1),
    "GroupNormalization": (lambda: tf.keras.layers.GroupNormalization(2, dtype="float64", epsilon=1e-3), 2),
}


@tensorflow_2
@pytest.mark.parametrize("mode", HELD_NOT_XLA)
@pytest.mark.parametrize("name", sorted(NORMALISATIONS))
def test_normalisations_of_a_sample_whose_second_derivatives_tensorflow_has_wrong(mode, name):
    """Values need no derivatives, and the gradients are of first order: both against NumPy."""
    make, groups = NORMALISATIONS[name]
    model = keras_model(dense(8), make(), dense(3, activation="tanh"))
    arrays = [variable.numpy() for variable in model.trainable_variables]

    def truth(first):
        _, bias, gamma, beta, second, bias_2 = arrays

        def G(z):
            x = np.reshape(z @ first + bias, [N, groups, -1])
            x = (x - x.mean(axis=2, keepdims=True)) / np.sqrt(x.var(axis=2, keepdims=True) + 1e-3)
            return np.tanh((gamma * np.reshape(x, [N, -1]) + beta) @ second + bias_2)

        return np.max(variances(G))

    value, gradients = keras_value_and_gradients(mode, model, {})
    assert value == pytest.approx(truth(arrays[0]), rel=1e-6)
    step = 1e-6 * np.random.RandomState(0).randn(*arrays[0].shape)
    assert np.sum(gradients[0] * step) == pytest.approx(slope(truth, arrays[0], step), rel=1e-4)


# ----------------------------------------------------------------------------------------------------------------------
# Outputs that change nevertheless


class Drifting:
    def __init__(self):
        self.calls = 0

    def __call__(self, z):
        self.calls += 1
        return z * self.calls


def uniform(shape):
    return tf.random.uniform(shape, dtype=tf.float64)


DRIFTING = Drifting()
CHANGING = {
    "noise of no weight yet": (lambda: lambda z: z + 0 * uniform([NZ]), "RandomUniform draws new numbers"),
    "noise": (lambda: lambda z: z * uniform([NZ]), "RandomUniform draws new numbers (pass training=False"),
    "noise in a branch": (
        lambda: lambda z: tf.cond(tf.reduce_sum(z) < 1e9, lambda: z * uniform([NZ]), lambda: z),
        "RandomUniform draws new numbers",
    ),
    "a random branch": (
        lambda: lambda z: tf.cond(tf.reduce_sum(uniform([])) < 0.5, lambda: z, lambda: -z),
        "RandomUniform draws new numbers",
    ),
}
CHANGING_VALUES = {
    "NumPy": (lambda: lambda z: z * np.random.rand(), "NumPy's generator draws new numbers (draw them once, and pass"),
    "Python": (lambda: lambda z: z * random.random(), "Python's generator draws new numbers (draw them once, and pass"),
    "a counter": (Drifting, "it keeps state of its own"),
    "training": (lambda: lambda z, training, calls=DRIFTING: calls(z), "a layer is in training mode (pass"),
}


@pytest.mark.parametrize("mode", NOT_XLA)
@pytest.mark.parametrize("case", sorted(CHANGING))
def test_random_operations_are_warned_of(mode, case):
    make, cause = CHANGING[case]
    if mode == "graph" and "branch" in case and tf.__version__ < "2":
        pytest.skip("conditions as they were in TensorFlow 1")
    (message,) = warned(lambda: run(mode, make()))
    assert message.startswith(CHANGES) and cause in message


@eager_only
@pytest.mark.parametrize("case", sorted(CHANGING_VALUES))
def test_other_values_are_warned_of(case):
    make, cause = CHANGING_VALUES[case]
    options = {"training": True} if case == "training" else {}
    (message,) = warned(lambda: run("eager", make(), **options))
    assert message.startswith(CHANGES + cause)


@pytest.mark.parametrize("mode", NOT_XLA)
@pytest.mark.parametrize("penalty", [orojar_penalty, diagonalness, check_generator], ids=lambda p: p.__name__)
def test_the_others_warn_too(mode, penalty):
    def function(inputs, variables):
        given = {} if penalty is check_generator else dict(k=2)
        penalty(lambda z: z * uniform([NZ]), inputs["z"], **given)
        return {"nothing": tf.zeros([])}

    (message,) = warned(lambda: compute(mode, function, arrays={"z": Z}))
    assert message.startswith(CHANGES) and "RandomUniform" in message


def test_the_warning_is_at_the_line_of_the_call():
    with pytest.warns(UserWarning) as caught:
        with contextlib.nullcontext() if tf.executing_eagerly() else tf.Graph().as_default():
            hessian_penalty(lambda z: z * uniform([NZ]), tf.constant(Z))  # this line
    (warning,) = [each for each in caught if str(each.message).startswith(CHANGES)]
    assert os.path.samefile(warning.filename, __file__)
    with open(__file__) as file:
        assert "# this line" in file.readlines()[warning.lineno - 1]


@eager_only
def test_select_names_the_cause():
    messages = warned(lambda: run("eager", lambda z: z * uniform([NZ]), select=True))
    assert [message.split(":")[0] for message in messages] == [CHANGES.split(":")[0], "select=True"]
    assert "do not reproduce the maxima" in messages[1] and "RandomUniform draws new numbers" in messages[1]


def steady_functions():
    """Of z and a seed: none of them is another in the next pass."""
    noise = tf.raw_ops.RandomStandardNormal(shape=[NZ], dtype=tf.float64)
    yield lambda z, seed: z * noise
    yield lambda z, seed: z * tf.random.stateless_uniform(tf.shape(z), seed, dtype=z.dtype)
    yield lambda z, seed: z * tf.random.stateless_uniform([NZ], seed, dtype=z.dtype)
    yield lambda z, seed: z * tf.random.stateless_uniform([1, NZ], seed, dtype=z.dtype)


@pytest.mark.parametrize("mode", NOT_XLA)
def test_what_is_the_same_in_every_pass_is_not_warned_of(mode):
    def function(inputs, variables):
        given = dict(seed=tf.constant([1, 2]), directions=DIRECTIONS)
        return {str(i): hessian_penalty(G, inputs["z"], K, **given) for i, G in enumerate(steady_functions())}

    found = {}
    assert not warned(lambda: found.update(compute(mode, function, arrays={"z": Z})))
    assert len(found) == 4 and max(found.values()) < 1e-15


@tensorflow_2
@pytest.mark.parametrize("mode", HELD)
def test_a_generator_of_tensorflow_is_held_still(mode):
    generator = tf.random.Generator.from_seed(1)
    state = generator.state.numpy()
    values = []
    assert not warned(lambda: values.append(run(mode, lambda z: z * generator.uniform([NZ], dtype=z.dtype))))
    assert values[0] < 1e-15
    np.testing.assert_array_equal(generator.state.numpy(), state)


@pytest.mark.parametrize("mode", NOT_XLA)
@pytest.mark.parametrize(
    "options, text",
    [
        (dict(batched=True), "each sample"),
        (dict(select=True), "each sample"),
        (dict(chunk_size=3, reduction=tf.reduce_mean), "each sample"),
        ({}, None),
        (dict(memory="lean"), None),
    ],
    ids=str,
)
def test_numbers_drawn_for_each_sample_need_passes_of_whole_batches(mode, options, text):
    """With a seed of one's own: in one pass of 2kN samples, each copy of a sample would have another mask."""
    value = {}

    def masked(z):
        return z * tf.random.stateless_uniform(tf.shape(z), [1, 2], dtype=z.dtype)

    def with_one_mask_for_all(z):
        return z * tf.random.stateless_uniform([NZ], [1, 2], dtype=z.dtype)

    assert not warned(lambda: run(mode, with_one_mask_for_all, **options))
    messages = warned(lambda: value.update(value=run(mode, masked, **options)))
    if text is None or (mode != "graph" and "chunk_size" in options):
        assert not messages and value["value"] < 1e-15
    else:
        assert len(messages) == 1 and text in messages[0]
        assert mode == "graph" or value["value"] < 1e-15


def test_in_a_session_assignments_that_the_outputs_wait_for_are_warned_of():
    with tf.Graph().as_default():
        z, moving = tf.constant(Z), tf.compat.v1.get_variable("moving", initializer=np.zeros(NZ))

        def waiting(z):
            with tf.control_dependencies([moving.assign(tf.reduce_mean(z, axis=0))]):
                return tf.identity(z)

        def not_waiting(z):
            moving.assign(tf.reduce_mean(z, axis=0))
            return z + moving

        (message,) = warned(lambda: hessian_penalty(waiting, z))
        assert message == CHANGES + "it assigns moving"
        assert not warned(lambda: hessian_penalty(not_waiting, z))


def test_in_a_session_a_look_adds_nothing_to_the_graph():
    def operations(look):
        with tf.Graph().as_default() as graph, pytest.MonkeyPatch.context() as patch:
            if not look:
                patch.setattr(hessian_penalty_tf, "_examined_when_built", lambda G: G)
            first, second = (tf.compat.v1.get_variable(name, initializer=WEIGHTS[name]) for name in ("first", "second"))
            G = lambda z: [tf.tanh(z @ first), tf.tanh(z @ first) @ second]  # noqa: E731
            hessian_penalty(G, tf.compat.v1.placeholder(tf.float64, [N, NZ]), select=True)
            return [operation.name for operation in graph.get_operations()]

    assert operations(True) == operations(False)


# ----------------------------------------------------------------------------------------------------------------------
# Half precision


def half(function):
    return lambda z: tf.cast(function(tf.cast(z, tf.float16)), z.dtype)


def in_a_loop(z):
    return tf.while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, half(tf.tanh)(x)), [0, z])[1]


def in_its_second_turn(z):
    """Where what depends on z has come to the second variable."""

    def turn(i, a, b):
        return i + 1, a, a + half(tf.tanh)(b)

    return tf.while_loop(lambda i, a, b: i < 3, turn, [0, z, tf.zeros(Z.shape, z.dtype)])[2]


HALVES = {
    "a product": (half(lambda z: tf.matmul(z, tf.ones([NZ, 3], z.dtype))), "float16 from MatMul"),
    "a cast": (lambda z: tf.cast(tf.cast(z, tf.bfloat16), z.dtype), "bfloat16 from Cast"),
    "one of two outputs": (lambda z: [z, half(tf.tanh)(z)], "float16 from Tanh"),
    "a loop": (in_a_loop, "Tanh"),
    "a loop's second turn": (in_its_second_turn, "Tanh"),
    "a branch": (lambda z: tf.cond(tf.reduce_sum(z) < 1e9, lambda: half(tf.tanh)(z), lambda: z), "float16 from"),
    "a map": (lambda z: tf.map_fn(half(tf.tanh), z), "Tanh"),
}
if tf.__version__ >= "2":
    half_function = tf.function(half(tf.tanh))
    HALVES["a function"] = (lambda z: half_function(z), "float16 from Tanh")
    HALVES["a function in one"] = (tf.function(lambda z: half_function(half_function(z))), "float16 from Tanh")


@pytest.mark.parametrize("mode", NOT_XLA)
@pytest.mark.parametrize("case", sorted(HALVES))
@pytest.mark.parametrize("penalty", [hessian_penalty, diagonalness], ids=lambda p: p.__name__)
def test_half_precision_between_z_and_the_outputs_is_refused(mode, case, penalty):
    G, operation = HALVES[case]
    text = f"G must compute in float32 or float64 for its differences to count, got .*{operation}"
    with pytest.raises(ValueError, match=text) as error:
        run(mode, G, penalty)
    assert mode not in ("eager", "graph") or "\n" not in str(error.value)


@pytest.mark.parametrize("mode", HELD_NOT_XLA)
@pytest.mark.parametrize("call", [lambda function: function, tf.function], ids=["directly", "in a function"])
def test_half_precision_in_a_buffer_is_refused(mode, call):
    buffer = tf.Variable(np.zeros(Z.shape))

    def fill(z):
        buffer.assign(half(tf.tanh)(z))
        return tf.zeros([])

    fill = call(fill)

    def G(z):
        fill(z)
        return buffer

    with pytest.raises(ValueError, match="got float16 from Tanh"):
        run(mode, G)


@pytest.mark.parametrize("mode", MODES)
def test_half_precision_elsewhere_is_none_of_its_business(mode):
    table = np.random.RandomState(0).randn(10, NZ)

    def function(inputs, variables):
        z, half_table = inputs["z"], tf.cast(tf.constant(table), tf.bfloat16)

        def G(z, label):
            labels = tf.tanh(tf.gather(half_table, label))
            zeros = tf.zeros([tf.shape(z)[0], NZ], tf.bfloat16)  # z's number of samples
            unused = tf.cast(z, tf.float16)  # noqa: F841
            return tf.tanh(z[:, :1] * z) + tf.cast(labels + zeros, z.dtype)

        return {"value": hessian_penalty(G, z, K, directions=DIRECTIONS, label=tf.constant([3] * N))}

    found = compute(mode, function, arrays={"z": Z}, unknown_batch=mode != "xla")
    assert found["value"] == pytest.approx(np.max(variances(lambda z: np.tanh(z[:, :1] * z))), rel=1e-6)


@tensorflow_2
@pytest.mark.parametrize("mode", HELD_NOT_XLA)
def test_mixed_precision_with_outputs_in_float32_is_refused(mode):
    layers = tf.keras.layers
    model = tf.keras.Sequential(
        [layers.Dense(8, dtype="mixed_float16", activation="tanh", name="hidden"), layers.Dense(3, dtype="float32")]
    )
    with pytest.raises(ValueError, match=r"got float16 from hidden[_0-9]*/MatMul"):
        run(mode, model, z=Z.astype("float32"))
    if mode == "eager":
        with pytest.raises(ValueError, match=r"got float16 from hidden$"):  # NumPy cannot be traced
            run(mode, lambda z: model(tf.constant(z.numpy())), z=Z.astype("float32"))


# ----------------------------------------------------------------------------------------------------------------------
# One look at each generator


@pytest.fixture
def looks(monkeypatch):
    """The list of the generators that have been looked at."""
    seen, look = [], hessian_penalty_tf._look
    monkeypatch.setattr(hessian_penalty_tf, "_look", lambda G, batch: seen.append(G) or look(G, batch))
    return seen


@pytest.mark.parametrize("mode", HELD_NOT_XLA)
def test_a_lambda_made_anew_in_each_step_is_looked_at_once(mode, looks):
    weight, history, record = tf.Variable(WEIGHTS["first"]), [np.float64(0)], {}

    def made_in(step, activation=tf.tanh):
        return lambda z: [activation(z @ weight), z * (step + len(history) + len(record))]

    for step in range(4):
        history.append(run(mode, made_in(step)))
        record[step] = float(history[-1])
    assert len(looks) == 1


@eager_only
def test_what_differs_is_looked_at_again(looks):
    def factory(dtype=tf.float64, flag=True, inner=tf.tanh):
        return lambda z: tf.cast(inner(tf.cast(z, dtype)), z.dtype) if flag else z

    for i, G in enumerate([factory(), factory(tf.float32), factory(flag=False), factory(inner=lambda z: z**2)]):
        for _ in range(2):
            run("eager", G)
        assert len(looks) == i + 1
    with pytest.raises(ValueError, match="float16"):
        run("eager", factory(tf.float16))
    for array in (np.ones(NZ), np.ones(NZ, "float16")):
        run("eager", lambda z, array=array: z * array.astype("float64"))
    run("eager", factory(), z=Z.astype("float32"))
    assert len(looks) == 8


@eager_only
def test_other_models_are_looked_at_and_none_is_kept(looks):
    def penalty_of(module):
        value = run("eager", lambda z: module(z))
        assert module.step.numpy() == 0.6
        return value

    modules = [Counter(True) for _ in range(3)]
    values = [penalty_of(module) for module in modules * 2]
    assert len(looks) == 3 and len(set(values)) == 1
    looks.clear()
    references = [weakref.ref(each) for module in modules for each in (module, module.step.handle)]
    array = np.zeros([1000])
    references.append(weakref.ref(array))
    run("eager", lambda z, array=array: z * array[0])
    looks.clear()
    del modules, array
    gc.collect()
    assert [reference() is None for reference in references] == [True] * 7


@eager_only
def test_what_is_remembered_is_bounded(looks):
    for i in range(140):
        run("eager", lambda z, name=str(i): z)
    assert len(looks) == 140 and len(hessian_penalty_tf._looks) <= 128


@eager_only
def test_a_keras_model_is_looked_at_again_in_another_mode(looks):
    model = tf.keras.Sequential([tf.keras.layers.Dense(3)])
    for training in (False, False, True, True):
        run("eager", model, z=Z.astype("float32"), training=training)
    assert len(looks) == 2


@eager_only
def test_what_g_makes_in_its_first_call_is_not_made_within_a_graph():
    class Table(tf.Module):
        table = None

        def __call__(self, z):
            if self.table is None:
                self.table = tf.linspace(tf.constant(1, z.dtype), 2, NZ)
            return tf.tanh(z[:, :1] * z) * self.table

    class Weight(tf.Module):
        step = None

        def __call__(self, z):
            if self.step is None:
                self.step = tf.Variable(0.6, dtype=tf.float64)
            self.step.assign_add(1)
            return tf.tanh(self.step * z[:, :1] * z)

    table, weight = Table(), Weight()
    expected = np.max(variances(lambda z: np.tanh(z[:, :1] * z) * np.linspace(1, 2, NZ)))
    for _ in range(2):
        assert run("eager", table) == pytest.approx(expected, rel=1e-9)
        assert hasattr(table.table, "numpy")
    run("eager", weight)  # creates the variable: there is no state yet to put back
    left = weight.step.numpy()
    expected = np.max(variances(lambda z: np.tanh((left + 1) * z[:, :1] * z)))
    assert run("eager", weight) == pytest.approx(expected, rel=1e-9)
    assert weight.step.numpy() == left


@eager_only
def test_check_generator_at_a_time_of_ones_own(looks):
    check_generator(lambda z, y: z * y, tf.constant(Z), ["y"], y=tf.constant(Z))
    assert len(looks) == 1
    with pytest.raises(ValueError, match="float16 from Tanh"):
        check_generator(half(tf.tanh), tf.constant(Z))


# ----------------------------------------------------------------------------------------------------------------------
# ε as a tensor

EPSILON_OPTIONS = [{}, dict(batched=True), dict(memory="lean"), dict(select=True), dict(chunk_size=3)]


@pytest.mark.parametrize(
    "mode, options", [(mode, each) for mode in MODES for each in EPSILON_OPTIONS if mode != "xla" or not each], ids=str
)
def test_epsilon_as_a_tensor_gives_what_the_number_gives(mode, options):
    """Of another dtype than z's or of the same. The options get the number or tensor that all kinds have become."""
    reduction = tf.reduce_mean if "chunk_size" in options else tf.reduce_max

    def function(inputs, variables):
        found = {}
        for latents in (inputs["z"], tf.cast(inputs["z"], tf.float32)):

            def G(z):
                return tf.tanh(tf.matmul(z, tf.cast(variables["first"], z.dtype)))

            of_float32, of_float64 = (tf.cast(inputs["epsilon"], dtype) for dtype in (tf.float32, tf.float64))
            epsilons = [of_float32 if latents.dtype == tf.float64 else of_float64]
            if not options:
                epsilons = [0.5, of_float32, of_float64, variables["epsilon"]]
            given = dict(options, reduction=reduction, directions=DIRECTIONS)
            values = [hessian_penalty(G, latents, K, epsilon, **given) for epsilon in epsilons]
            found[latents.dtype.name] = tf.stack([tf.cast(value, tf.float64) for value in values])
        return found

    weights = dict(first=WEIGHTS["first"], epsilon=np.array(0.5, "float32"))
    found = compute(mode, function, arrays={"z": Z, "epsilon": np.array(0.5)}, weights=weights)
    expected = (np.mean if "chunk_size" in options else np.max)(variances(lambda z: np.tanh(z @ WEIGHTS["first"]), 0.5))
    for dtype, values in found.items():
        np.testing.assert_allclose(values, expected, rtol=1e-9 if dtype == "float64" else 1e-3)
        np.testing.assert_allclose(values, values[0], rtol=1e-12 if dtype == "float64" else 1e-4)


@pytest.mark.parametrize("mode", NOT_XLA)
def test_epsilon_as_a_tensor_for_the_others_and_without_a_gradient(mode):
    def function(inputs, variables):
        z, epsilon, found = inputs["z"], inputs["epsilon"], {}

        def G(z):
            return tf.tanh(tf.matmul(z, variables["first"]))

        for name, value in (("number", 0.2), ("tensor", epsilon)):
            with tf.GradientTape() as tape:
                tape.watch(epsilon)
                orojar = orojar_penalty(G, z, K, value, directions=DIRECTIONS)
            if tf.executing_eagerly() or name == "number" or mode != "graph":
                assert tape.gradient(orojar, epsilon) is None
            found[name] = tf.stack([orojar, *diagonalness(G, z, value, axes=AXES)])
        return found

    found = compute(mode, function, arrays={"z": Z, "epsilon": np.array(0.2)}, weights={"first": WEIGHTS["first"]})
    np.testing.assert_allclose(found["tensor"], found["number"], rtol=1e-9)


@eager_only
@pytest.mark.parametrize("epsilon", [0.0, -1.0, np.nan])
def test_epsilon_is_checked_where_its_value_is_known(epsilon):
    for given in (tf.constant(epsilon), tf.Variable(epsilon)):
        for function in (hessian_penalty, orojar_penalty, diagonalness):
            with pytest.raises(ValueError, match=r"^epsilon must be positive, got"):
                function(lambda z: z, tf.constant(Z), epsilon=given)

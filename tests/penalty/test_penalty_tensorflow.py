"""The TensorFlow file in each of TensorFlow's ways of running: graph and session, eager, tf.function, Keras.

TensorFlow 1.14 can go eager only when a program starts, so there these tests run a second time in a process that does.
"""

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from hessian_penalty_tf import hessian_penalty

MODES = ["graph", "eager", "function"] if tf.executing_eagerly() else ["graph"]
WEIGHTS = [np.random.RandomState(0).randn(4, 16) / 2, np.random.RandomState(1).randn(16, 3) / 4]
Z = np.random.RandomState(2).randn(5, 4)
DIRECTIONS = np.random.RandomState(3).choice([-1.0, 1.0], size=(3, 5, 4))


@pytest.fixture(params=MODES)
def run(request):
    """run(function, *arrays, batch_axes=…): the function's values; its graph does not know the sizes of these axes."""

    def shape(array, batch_axis):
        return [None if axis == batch_axis else size for axis, size in enumerate(array.shape)]

    def in_graph(function, *arrays, batch_axes):
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            inputs = [tf.compat.v1.placeholder(a.dtype, shape(a, axis)) for a, axis in zip(arrays, batch_axes)]
            outputs = function(*inputs)
            session.run(tf.compat.v1.global_variables_initializer())
            return session.run(outputs, dict(zip(inputs, arrays)))

    def eagerly(function, *arrays, batch_axes):
        return tf.nest.map_structure(lambda tensor: tensor.numpy(), function(*map(tf.constant, arrays)))

    def in_function(function, *arrays, batch_axes):
        signature = [tf.TensorSpec(shape(a, axis), a.dtype) for a, axis in zip(arrays, batch_axes)]
        return eagerly(tf.function(function, input_signature=signature), *arrays, batch_axes=batch_axes)

    way = {"graph": in_graph, "eager": eagerly, "function": in_function}[request.param]

    def run(function, *arrays, batch_axes=None):
        return way(function, *arrays, batch_axes=batch_axes or [-1] * len(arrays))

    run.mode = request.param
    return run


needs_another_process = pytest.mark.skipif(
    tf.executing_eagerly(), reason="this process is eager: the same tests run in it directly"
)


def assert_passes_eagerly(path):
    environment = dict(os.environ, PENALTY_TESTS_EAGER="1")
    command = [sys.executable, "-m", "pytest", "-W", "ignore", "-p", "no:cacheprovider", os.path.abspath(path)]
    finished = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert finished.returncode == 0, finished.stdout.decode()


@needs_another_process
def test_all_of_this_eagerly_in_tensorflow_1():
    assert_passes_eagerly(__file__)


def network(z, first, second):
    return [tf.tanh(tf.matmul(z, first)), tf.matmul(tf.tanh(tf.matmul(z, first)), second)]


def reference_value():
    """The definition in NumPy."""
    first, second = WEIGHTS

    def G(z):
        return [np.tanh(z @ first), np.tanh(z @ first) @ second]

    s = [[(p - 2 * g + m) / 0.01 for p, g, m in zip(G(Z + 0.1 * v), G(Z), G(Z - 0.1 * v))] for v in DIRECTIONS]
    return [np.max(np.var(of_one, axis=0, ddof=1)) for of_one in zip(*s)]


@pytest.mark.parametrize("batch_axes", [[-1, -1], [0, 1], [0, -1], [-1, 1]])
def test_value_with_the_batch_known_and_unknown(run, batch_axes):
    def penalties(z, directions):
        weights = [tf.constant(weight) for weight in WEIGHTS]
        return hessian_penalty(lambda z: network(z, *weights), z, 3, 0.1, tf.reduce_max, True, directions=directions)

    values = run(penalties, Z, DIRECTIONS, batch_axes=batch_axes)
    np.testing.assert_allclose(values, reference_value(), rtol=1e-8)


@pytest.mark.parametrize("run", [mode for mode in MODES if mode != "eager"], indirect=True)
def test_unknown_shapes_altogether(run):
    """Even the rank of z and of the directions may be unknown in a graph."""

    def penalty(z, directions):
        z, directions = (tf.compat.v1.placeholder_with_default(x, None) for x in (z, directions))
        return hessian_penalty(lambda z: network(z, *WEIGHTS)[0], z, 3, directions=directions)

    np.testing.assert_allclose(run(penalty, Z, DIRECTIONS), reference_value()[0], rtol=1e-8)


def test_gradients_of_weights_and_latents(run):
    """Against central differences of the value in float64."""

    def value(z, first, second, directions):
        return hessian_penalty(
            lambda z: network(z, first, second), z, 3, directions=directions, reduction=tf.reduce_mean
        )

    def value_and_gradients(z, first, second, directions):
        inputs = [z, first, second]
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            penalty = value(z, first, second, directions)
        return [penalty, *tape.gradient(penalty, inputs)]

    arrays = [Z, *WEIGHTS]
    _, *gradients = run(value_and_gradients, *arrays, DIRECTIONS, batch_axes=[0, -1, -1, 1])
    for i, gradient in enumerate(gradients):
        step = 1e-5 * np.random.RandomState(i).randn(*arrays[i].shape)
        above, below = (
            run(value, *arrays[:i], moved, *arrays[i + 1 :], DIRECTIONS)
            for moved in (arrays[i] + step, arrays[i] - step)
        )
        assert abs(above - below) > 1e-9
        assert np.sum(gradient * step) == pytest.approx((above - below) / 2, rel=1e-4)


def test_directions_are_new_in_every_run(run):
    """In a graph they are drawn when it runs, not when it is built."""

    def estimates(z):
        return hessian_penalty(lambda z: z[:, 0] * z[:, 1], z, reduction=lambda variances: variances)

    z = np.zeros((200, 2))
    if run.mode == "graph":
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            output = estimates(tf.constant(z))
            values = [session.run(output) for _ in range(2)]
    else:
        function = tf.function(estimates) if run.mode == "function" else estimates
        values = [function(tf.constant(z)).numpy() for _ in range(2)]
    assert np.any(values[0] != values[1])
    for value in values:
        np.testing.assert_allclose(np.unique(np.round(value, 6)), [0, 8])


def test_shapes_known_only_at_run_time_are_checked_then(run):
    def with_directions(z, directions):
        return hessian_penalty(lambda z: z**2, z, 3, directions=directions)

    def without_batch(z):
        return hessian_penalty(lambda z: tf.transpose(z), z)

    error = ValueError if run.mode == "eager" else tf.errors.InvalidArgumentError
    with pytest.raises(error, match=r"directions must have shape \[k, \*z.shape\]"):
        run(with_directions, Z, DIRECTIONS[:, :1], batch_axes=[0, 1])
    with pytest.raises(error, match="G must return the batch axis of z first"):
        run(without_batch, Z, batch_axes=[0])


def test_known_shapes_leave_no_checks_in_the_graph():
    with tf.Graph().as_default() as graph:
        z, directions = tf.constant(Z), tf.constant(DIRECTIONS)
        hessian_penalty(lambda z: network(z, *WEIGHTS), z, 3, directions=directions)
        assert not [operation for operation in graph.get_operations() if operation.type == "Assert"]


def dropout(activation, rate, uniform):
    return activation * tf.cast(uniform >= rate, activation.dtype) / (1 - rate)


def test_stateless_dropout_with_the_seed_as_an_argument_is_the_same_in_every_pass(run):
    """A linear network has no second derivative: only the masks could look like one, and fresh masks do."""

    def penalties(z):
        def stateless(z, seed):
            uniform = tf.random.stateless_uniform(tf.shape(z), seed, dtype=tf.float64)
            return dropout(z, 0.5, uniform)

        def stateful(z):
            return dropout(z, 0.5, tf.random.uniform(tf.shape(z), dtype=tf.float64))

        seed = tf.random.uniform([2], maxval=2**31 - 1, dtype=tf.int32)
        return [hessian_penalty(stateless, z, k=3, seed=seed), hessian_penalty(stateful, z, k=3)]

    with pytest.warns(UserWarning, match="RandomUniform draws new numbers"):
        held_still, fresh = run(penalties, Z, batch_axes=[0])
    assert held_still < 1e-15
    assert fresh > 1


def keras_generator(dtype="float64"):
    layers = tf.keras.layers
    z = tf.keras.Input([4], dtype=dtype)
    hidden = layers.Dense(16, activation="tanh", dtype=dtype)(z)
    dropped = layers.Dropout(0.5, dtype=dtype)(hidden)
    image = layers.Reshape([1, 1, 3], dtype=dtype)(layers.Dense(3, dtype=dtype)(dropped))
    return tf.keras.Model(z, [hidden, image])


@pytest.mark.parametrize("run", [mode for mode in MODES if mode != "graph" or tf.__version__ < "2"], indirect=True)
def test_a_keras_model_in_inference_mode(run):
    """Keras 3 knows no graphs with sessions."""
    made_before = None if run.mode == "graph" else keras_generator()

    def penalties(z, directions):
        G = keras_generator() if made_before is None else made_before  # a graph's model is made in the graph
        values = hessian_penalty(G, z, 3, 0.1, tf.reduce_max, True, directions=directions, training=False)
        return [*values, *[tf.convert_to_tensor(weight) for weight in G.trainable_variables]]

    hidden, image, kernel, bias, kernel2, bias2 = run(penalties, Z, DIRECTIONS, batch_axes=[0, 1])

    def G(z):
        a = np.tanh(z @ kernel + bias)
        return [a, a @ kernel2 + bias2]

    s = [[(p - 2 * g + m) / 0.01 for p, g, m in zip(G(Z + 0.1 * v), G(Z), G(Z - 0.1 * v))] for v in DIRECTIONS]
    expected = [np.max(np.var(of_one, axis=0, ddof=1)) for of_one in zip(*s)]
    np.testing.assert_allclose([hidden, image], expected, rtol=1e-7)


@pytest.mark.skipif(tf.__version__ < "2", reason="a tf.function is TensorFlow 2's")
@pytest.mark.parametrize("options", [{}, {"select": True}, {"memory": "lean"}], ids=str)
def test_within_a_function_conditions_on_tensors_are_converted_in_G(options):
    z, weights, codes = tf.constant(Z), tf.constant(WEIGHTS[0]), set()

    def G(z):
        x = tf.matmul(z, weights)
        codes.add(sys._getframe().f_code.co_filename)
        if tf.reduce_sum(x) > 1e9:
            x = 0 * x
        return tf.tanh(x)

    def penalty():
        return hessian_penalty(G, z, 3, directions=DIRECTIONS, **options)

    eagerly = penalty().numpy()
    assert codes == {__file__}  # and nothing is outside of one
    assert tf.function(penalty)().numpy() == pytest.approx(eagerly, rel=1e-5)


@pytest.mark.skipif(tf.__version__ < "2", reason="TensorFlow 1.14's Keras has no mixed precision")
def test_mixed_precision_layers_are_refused():
    G = tf.keras.Sequential([tf.keras.layers.Dense(3, dtype="mixed_float16")])
    with pytest.raises(ValueError, match=r"float32 or float64 .* got float16$"):
        hessian_penalty(G, tf.ones([2, 4]))


@pytest.mark.skipif(not tf.executing_eagerly(), reason="an optimiser step by step is written for eager mode")
def test_descending_on_it_removes_the_product_and_keeps_the_rest():
    weights = tf.Variable([1.0, 1.0])
    for step in range(50):
        z = tf.random.normal([16, 2], seed=step)
        with tf.GradientTape() as tape:
            penalty = hessian_penalty(lambda z: weights[0] * z[:, 0] * z[:, 1] + weights[1] * z[:, 0] ** 2, z)
        weights.assign_sub(0.05 * tf.convert_to_tensor(tape.gradient(penalty, weights)))
    assert abs(float(weights[0])) < 0.01
    assert float(weights[1]) == pytest.approx(1, abs=0.01)

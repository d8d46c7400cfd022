"""What only TensorFlow has: graphs and sessions, unknown shapes, tf.function, XLA, tapes, variables, Keras.

TensorFlow 1.14 can go eager only when a program starts, so there these tests run a second time in a process that does.
"""

import sys

import numpy as np
import pytest
import tensorflow as tf
from frameworks import TensorFlow, assert_passes_eagerly, needs_another_process
from test_options import ARRAYS, DIRECTIONS, NZ, WEIGHTS, K, N, draw
from test_penalty_interface import definition

import hessian_penalty_np
from hessian_penalty_tf import diagonalness, hessian_penalty

MODES, compute, differentiate = TensorFlow.modes, TensorFlow.compute, TensorFlow.differentiate
NOT_XLA = [mode for mode in MODES if mode != "xla"]
eager_only = pytest.mark.skipif(not tf.executing_eagerly(), reason="looks at values: a process that is eager runs it")
tensorflow_2 = pytest.mark.skipif(tf.__version__ < "2", reason="of TensorFlow 2")
FIRST, Z = WEIGHTS["first"], ARRAYS["z"]


@needs_another_process
def test_all_of_this_eagerly_in_tensorflow_1():
    assert_passes_eagerly(__file__)


def smooth(z):
    return tf.tanh(tf.matmul(z, FIRST))


# ----------------------------------------------------------------------------------------------------------------------
# Shapes


@pytest.mark.parametrize("mode", NOT_XLA)
@pytest.mark.parametrize("unknown", [{}, {"directions": 1}, {"z": 0, "directions": 1}, "rank"], ids=str)
def test_the_batch_and_even_the_rank_may_be_unknown_to_a_graph(mode, unknown):
    def function(inputs, weights):
        z, directions = inputs["z"], inputs["directions"]
        if unknown == "rank" and mode != "eager":
            z, directions = (tf.compat.v1.placeholder_with_default(each, None) for each in (z, directions))
        return {"value": hessian_penalty(smooth, z, K, directions=directions)}

    arrays, unknown_axes = {"z": Z, "directions": DIRECTIONS}, {} if unknown == "rank" else unknown
    (expected,) = definition(lambda z: [np.tanh(z @ FIRST)], Z, K, 0.1, DIRECTIONS)
    assert compute(mode, function, arrays, unknown_axes=unknown_axes)["value"] == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("mode", NOT_XLA)
def test_shapes_known_only_at_run_time_are_checked_then(mode):
    def with_directions(inputs, weights):
        return {"value": hessian_penalty(lambda z: z**2, inputs["z"], K, directions=inputs["directions"])}

    def without_batch(inputs, weights):
        return {"value": hessian_penalty(tf.transpose, inputs["z"])}

    error = ValueError if mode == "eager" else tf.errors.InvalidArgumentError
    arrays = {"z": Z, "directions": DIRECTIONS[:, :1]}
    with pytest.raises(error, match=r"directions must have shape \[k, \*z.shape\]"):
        compute(mode, with_directions, arrays, unknown_axes={"z": 0, "directions": 1})
    with pytest.raises(error, match="G must return the batch axis of z first"):
        compute(mode, without_batch, {"z": Z}, unknown_batch=True)


def test_known_shapes_leave_no_checks_in_the_graph():
    with tf.Graph().as_default() as graph:
        hessian_penalty(smooth, tf.constant(Z), K, directions=tf.constant(DIRECTIONS))
        assert not [operation for operation in graph.get_operations() if operation.type == "Assert"]


def test_chunks_of_an_unknown_number_are_refused():
    with tf.Graph().as_default():
        z = tf.compat.v1.placeholder(tf.float32, [None, 3])
        with pytest.raises(ValueError, match="chunk_size needs a batch of known length when a graph is built"):
            hessian_penalty(tf.tanh, z, reduction=tf.reduce_mean, chunk_size=2)


def test_exact_is_refused():
    with pytest.raises(ValueError, match="exact=True: TensorFlow has no exact mode, use hessian_penalty_pytorch or"):
        hessian_penalty(tf.tanh, tf.constant(Z), exact=True)


# ----------------------------------------------------------------------------------------------------------------------
# Randomness


@pytest.mark.parametrize("mode", NOT_XLA)
def test_directions_are_new_in_every_run(mode):
    """In a graph they are drawn when it runs, not when it is built."""

    def estimates(z):
        return hessian_penalty(lambda z: z[:, 0] * z[:, 1], z, reduction=lambda variances: variances)

    z = np.zeros((200, 2))
    if mode == "graph":
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            output = estimates(tf.constant(z))
            values = [session.run(output) for _ in range(2)]
    else:
        function = tf.function(estimates) if mode == "function" else estimates
        values = [function(tf.constant(z)).numpy() for _ in range(2)]
    assert np.any(values[0] != values[1])
    for value in values:
        np.testing.assert_allclose(np.unique(np.round(value, 6)), [0, 8])


@pytest.mark.parametrize("mode", NOT_XLA)
def test_stateless_dropout_with_the_seed_as_an_argument_is_the_same_in_every_pass(mode):
    """A linear network has no second derivative: only the masks could look like one, and fresh masks do."""

    def dropout(z, uniform):
        return 2 * z * tf.cast(uniform >= 0.5, z.dtype)

    def function(inputs, weights):
        def stateless(z, seed):
            return dropout(z, tf.random.stateless_uniform(tf.shape(z), seed, dtype=z.dtype))

        def stateful(z):
            return dropout(z, tf.random.uniform(tf.shape(z), dtype=z.dtype))

        seed = tf.random.uniform([2], maxval=2**31 - 1, dtype=tf.int32)
        z = inputs["z"]
        return dict(held_still=hessian_penalty(stateless, z, K, seed=seed), fresh=hessian_penalty(stateful, z, K))

    with pytest.warns(UserWarning, match="RandomUniform draws new numbers"):
        found = compute(mode, function, {"z": Z}, unknown_batch=True)
    assert found["held_still"] < 1e-15 and found["fresh"] > 1


# ----------------------------------------------------------------------------------------------------------------------
# Gradients, and what is computed again for them

SHARED = {
    "z itself": lambda z, y, weight: dict(factor=z, other=y),
    "one tensor twice": lambda z, y, weight: dict(factor=y, other=[y, None]),
    "a variable": lambda z, y, weight: dict(factor=y, other=weight),
}


@pytest.mark.parametrize("mode", NOT_XLA)
@pytest.mark.parametrize("case", sorted(SHARED))
def test_what_g_gets_in_several_ways_has_its_gradient_once(mode, case):
    options = {"plain": {}, "lean": dict(memory="lean"), "chunks": dict(chunk_size=3), "one": dict(chunk_size=N)}

    def function(inputs, variables):
        found, y = {}, tf.constant(draw(9, N, NZ))  # in a graph a constant may be differentiated as well

        for name, given in options.items():
            common = dict(given, reduction=tf.reduce_mean, directions=DIRECTIONS, batch_kwargs=["factor"])

            def penalties(z, y, weight, common=common):
                def G(x, factor, other):
                    return tf.tanh(tf.matmul(x * factor, weight)) * tf.reduce_sum(tf.nest.flatten(other)[0])

                return [hessian_penalty(G, z, K, **common, **SHARED[case](z, y, weight))]

            values, gradients = differentiate(penalties, [inputs["z"], y, variables["first"]])
            found.update({f"{name}: {i}": tensor for i, tensor in enumerate([*values, *gradients])})
        return found

    found = compute(mode, function, {"z": Z}, WEIGHTS)
    for name, value in found.items():
        plain = found["plain: " + name[-1]]
        np.testing.assert_allclose(value, plain, rtol=1e-7, atol=1e-9 * np.abs(plain).max(), err_msg=name)
        assert np.any(plain != 0)


@tensorflow_2
@pytest.mark.parametrize(
    "options", [dict(chunk_size=3, memory="lean"), dict(memory="lean"), dict(chunk_size=3)], ids=str
)
def test_a_tape_around_a_function(options):
    """Its backward pass is then a graph of its own."""
    z, y, weight = tf.constant(Z), tf.constant(ARRAYS["y"]), tf.Variable(FIRST)

    def gradients(call, **options):
        def penalty(z, y):
            given = dict(options, directions=DIRECTIONS, reduction=tf.reduce_mean, y=y)
            return hessian_penalty(lambda z, y: tf.tanh(tf.matmul(z, weight)) * y[:, :1], z, K, **given)

        penalty = call(penalty)
        with tf.GradientTape() as tape:
            tape.watch([z, y])
            value = penalty(z, y)
        return [value, *tape.gradient(value, [z, y, weight])]

    found = gradients(tf.function, batch_kwargs=["y"], **options)
    for gradient, plain in zip(found, gradients(lambda function: function)):
        np.testing.assert_allclose(tf.convert_to_tensor(gradient), plain, rtol=1e-7, atol=1e-12)


@eager_only
def test_gradients_of_selected_samples_are_dense():
    z = tf.constant(Z)
    with tf.GradientTape() as tape:
        tape.watch(z)
        value = hessian_penalty(smooth, z, select=True)
    assert isinstance(tape.gradient(value, z), tf.Tensor)


@pytest.mark.parametrize("mode", NOT_XLA)
@pytest.mark.parametrize("options, passes", [(dict(memory="lean"), 2 * K), (dict(chunk_size=2), 4)], ids=str)
def test_little_memory_is_passes_made_again_one_or_two_at_a_time(mode, options, passes):
    """Forward (f) and backward (b) through G, in the order in which they are run.

    Nothing makes the backward pass of a chunk wait until others have been forward.
    """
    log = []

    def noted(letter, tensor):
        def note(array):
            log.append(letter)
            return array

        result = tf.compat.v1.py_func(note, [tensor], tensor.dtype, stateful=False)  # stateful ones would wait in turn
        result.set_shape(tensor.shape)
        return result

    @tf.custom_gradient
    def logging(tensor):
        return noted("f", tensor), lambda upstream: noted("b", upstream)

    def function(inputs, variables):
        def penalties(weight):
            def G(z):
                return tf.tanh(logging(tf.matmul(z, weight)))

            return [hessian_penalty(G, inputs["z"], K, reduction=tf.reduce_mean, directions=DIRECTIONS, **options)]

        if mode == "eager":
            penalties(variables["first"])  # which begins with a look at G
            log.clear()
        values, gradients = differentiate(penalties, [variables["first"]])
        return dict(value=values[0], gradient=gradients[0])

    compute(mode, function, {"z": Z}, {"first": FIRST})
    assert sorted(log) == sorted("ffb" * passes)
    if "memory" in options and (tf.__version__ >= "2" or mode != "eager"):  # where all passes are held
        assert log[:passes] == ["f"] * passes
        assert max(np.cumsum([1 if letter == "f" else -1 for letter in log[passes:]])) <= 2


@pytest.mark.skipif("xla" not in MODES, reason="an eager process of TensorFlow 2 runs it")
def test_xla_gives_the_plain_maximum_its_gradient():
    """Where reduce_max does not find its maximum again among numbers rounded anew, an activation's part is missing."""

    def function(inputs, variables):
        def penalties(z, y, weight):
            def G(z):
                hidden = tf.tanh(tf.matmul(z, weight) + y[:, :1])
                image = tf.matmul(hidden, WEIGHTS["second"]) * z[:, :1]
                return [hidden, tf.reshape(image, [-1, 3, 1]), image[:, 0], tf.reshape(image**2, [-1, 1, 3, 1])]

            return hessian_penalty(G, z, K, return_separately=True, directions=DIRECTIONS)

        values, gradients = differentiate(penalties, [inputs["z"], inputs["y"], variables["first"]])
        return {str(i): tensor for i, tensor in enumerate([*values, *gradients])}

    arrays = {"z": draw(1, N, NZ), "y": draw(6, N, 2)}
    found, expected = (compute(mode, function, arrays, WEIGHTS) for mode in ("xla", "eager"))
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-7, atol=1e-9 * np.abs(value).max(), err_msg=name)


@pytest.mark.parametrize("mode", NOT_XLA)
def test_diagonalness_is_that_of_the_reference(mode):
    axes = np.stack([np.random.RandomState(n).permutation(NZ)[:2] for n in range(N)])[None]
    expected = hessian_penalty_np.diagonalness(lambda z: np.tanh(z @ FIRST), Z, axes=axes)
    found = compute(
        mode, lambda inputs, _: diagonalness(smooth, inputs["z"], axes=axes)._asdict(), {"z": Z}, unknown_batch=True
    )
    np.testing.assert_allclose([found["ratio"], found["standard_error"]], expected)


# ----------------------------------------------------------------------------------------------------------------------
# Keras, AutoGraph


def keras_generator(dtype="float64"):
    layers = tf.keras.layers
    z = tf.keras.Input([NZ], dtype=dtype)
    hidden = layers.Dense(16, activation="tanh", dtype=dtype)(z)
    dropped = layers.Dropout(0.5, dtype=dtype)(hidden)
    image = layers.Reshape([1, 1, 3], dtype=dtype)(layers.Dense(3, activation="tanh", dtype=dtype)(dropped))
    return tf.keras.Model(z, [hidden, image])


@pytest.mark.parametrize("mode", [mode for mode in NOT_XLA if mode != "graph" or tf.__version__ < "2"])
def test_a_keras_model_in_inference_mode(mode):
    """Keras 3 knows no graphs with sessions."""
    made_before = None if mode == "graph" else keras_generator()
    cases = {"plain": {}, "select": dict(select=True), "lean": dict(memory="lean"), "batched": dict(batched=True)}

    def function(inputs, variables):
        model = keras_generator() if made_before is None else made_before  # a graph's model is made in the graph
        weights = [getattr(variable, "value", variable) for variable in model.trainable_variables]
        if callable(weights[0]):  # a method of TensorFlow's own variables
            weights = model.trainable_variables
        found = {f"weight {i}": tf.convert_to_tensor(weight) for i, weight in enumerate(weights)}
        given = dict(directions=inputs["directions"], return_separately=True, training=False)
        for case, options in cases.items():

            def penalties(*weights, options=options):
                return hessian_penalty(model, inputs["z"], K, **given, **options)

            values, gradients = differentiate(penalties, weights)
            found.update({f"{case}: {i}": tensor for i, tensor in enumerate([*values, *gradients])})
        return found

    arrays, unknown = {"z": Z, "directions": DIRECTIONS}, {"z": 0, "directions": 1}
    found = compute(mode, function, arrays, unknown_axes=unknown)
    kernel, bias, kernel2, bias2 = (found[f"weight {i}"] for i in range(4))

    def G(z):
        hidden = np.tanh(z @ kernel + bias)
        return [hidden, np.tanh(hidden @ kernel2 + bias2)]

    expected = definition(G, Z, K, 0.1, DIRECTIONS)
    np.testing.assert_allclose([found["plain: 0"], found["plain: 1"]], expected, rtol=1e-7)
    for name, value in found.items():
        if ":" in name:
            plain = found["plain: " + name[-1]]
            np.testing.assert_allclose(value, plain, rtol=1e-7, atol=1e-9 * np.abs(plain).max(), err_msg=name)


@pytest.mark.skipif(tf.__version__ < "2", reason="TensorFlow 1.14's Keras has no mixed precision")
def test_mixed_precision_layers_are_refused():
    G = tf.keras.Sequential([tf.keras.layers.Dense(3, dtype="mixed_float16")])
    with pytest.raises(ValueError, match=r"float32 or float64 .* got float16$"):
        hessian_penalty(G, tf.ones([2, 4]))


@tensorflow_2
@pytest.mark.parametrize("options", [{}, {"select": True}, {"memory": "lean"}], ids=str)
def test_within_a_function_conditions_on_tensors_are_converted_in_G(options):
    z, weights, codes = tf.constant(Z), tf.constant(FIRST), set()

    def G(z):
        x = tf.matmul(z, weights)
        codes.add(sys._getframe().f_code.co_filename)
        if tf.reduce_sum(x) > 1e9:
            x = 0 * x
        return tf.tanh(x)

    def penalty():
        return hessian_penalty(G, z, K, directions=DIRECTIONS, **options)

    eagerly = penalty().numpy()
    assert codes == {__file__}  # and nothing is outside of one
    assert tf.function(penalty)().numpy() == pytest.approx(eagerly, rel=1e-5)

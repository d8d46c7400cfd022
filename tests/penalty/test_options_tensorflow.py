"""The TensorFlow file's options give the plain values and gradients, in each of TensorFlow's ways of running.

The plain path is tested against the definition elsewhere. TensorFlow 1.14 can go eager only when a program starts, so
there these tests run a second time in a process that does.
"""

import os
import warnings

import numpy as np
import pytest
import tensorflow as tf
from test_penalty_tensorflow import assert_passes_eagerly, needs_another_process

import hessian_penalty_np
from hessian_penalty_tf import diagonalness, hessian_penalty, orojar_penalty

if tf.executing_eagerly():
    MODES = ["eager", "function", "xla"] if tf.__version__ >= "2" else ["eager"]
else:
    MODES = []
MODES += [] if os.environ.get("PENALTY_TESTS_EAGER") else ["graph"]
NOT_XLA = [mode for mode in MODES if mode != "xla"]
eager_only = pytest.mark.skipif(not tf.executing_eagerly(), reason="looks at values: a process that is eager runs it")
tensorflow_2 = pytest.mark.skipif(tf.__version__ < "2", reason="of TensorFlow 2")
N, NZ, K = 7, 4, 3


def draw(seed, *shape):
    return np.random.RandomState(seed).randn(*shape)


ARRAYS = {"z": draw(2, N, NZ), "y": draw(1, N, 2), "scale": np.array(0.8)}
WEIGHTS = {"first": draw(3, NZ, 12) / 2, "label": draw(4, 2, 12), "second": draw(5, 12, 3) / 3}
DIRECTIONS = np.random.RandomState(6).choice([-1.0, 1.0], size=(K, N, NZ))


@needs_another_process
def test_all_of_this_eagerly_in_tensorflow_1():
    assert_passes_eagerly(__file__)


def compute(mode, function, unknown_batch=False, arrays=ARRAYS, weights=WEIGHTS):
    """{name: array} that function(tensors by name, variables by name) returns by name, run in this way."""

    def shape(array):
        batched = array.shape[:1] == (N,) and unknown_batch
        return [None] * batched + list(array.shape[batched:])

    if mode == "graph":
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            inputs = {name: tf.compat.v1.placeholder(a.dtype, shape(a)) for name, a in arrays.items()}
            outputs = function(inputs, variables_of(weights))
            session.run(tf.compat.v1.global_variables_initializer())
            return session.run(outputs, {inputs[name]: array for name, array in arrays.items()})
    variables, inputs = variables_of(weights), {name: tf.constant(array) for name, array in arrays.items()}

    def call(inputs):
        return function(inputs, variables)

    if mode != "eager":
        signature = {name: tf.TensorSpec(shape(array), array.dtype) for name, array in arrays.items()}
        call = tf.function(call, input_signature=[signature], jit_compile=mode == "xla")
    return {name: tensor.numpy() for name, tensor in call(inputs).items()}


def variables_of(weights):
    return {name: tf.Variable(weight, name=name) for name, weight in weights.items()}


def network(weights, activation):
    """G(z, y, scale): three activations, whose maxima lie in different samples."""

    def G(z, y, scale):
        hidden = activation(tf.matmul(z, weights["first"]) + tf.matmul(y, weights["label"]))
        image = scale * tf.matmul(hidden, weights["second"])
        return [hidden, tf.reshape(image * z[:, :1], [-1, 3, 1]), tf.tanh(image)[:, 0]]

    return G


def leaky_relu(x):
    return tf.maximum(0.2 * x, x)


def values_and_gradients(penalty, activation, cases):
    """function for `compute`: of each case the separate penalties, and the gradients for all there is to train."""

    def function(inputs, variables):
        sources, found = {**inputs, **variables}, {}
        for case, options in cases.items():
            given = dict(options, y=inputs["y"], scale=inputs["scale"], directions=DIRECTIONS, return_separately=True)

            def penalties(given=given):
                return penalty(network(variables, activation), inputs["z"], K, **given)

            separate, gradients = weighted_gradients(penalties, list(sources.values()))
            found.update({f"{case}: value {i}": value for i, value in enumerate(separate)})
            found.update({f"{case}: {name}": tf.convert_to_tensor(g) for name, g in zip(sources, gradients)})
        return found

    return function


def weighted_gradients(penalties, sources):
    """The list penalties(), and the gradients of a sum in which each of them has a weight of its own."""

    def weighted(separate):
        return tf.add_n([(i + 1) * value for i, value in enumerate(separate)])

    if not tf.executing_eagerly() and type(tf.compat.v1.get_default_graph()) is tf.Graph:  # not a tf.function's
        separate = penalties()
        return separate, tf.gradients(weighted(separate), sources)
    with tf.GradientTape() as tape:
        for tensor in sources:
            tape.watch(tensor)
        separate = penalties()
        total = weighted(separate)
    return separate, tape.gradient(total, sources)


def assert_all_are_plain(found):
    """Each case's numbers are those of the case named plain."""
    plain = {name[len("plain: ") :]: value for name, value in found.items() if name.startswith("plain: ")}
    others = sorted({name.split(":")[0] for name in found} - {"plain"})
    assert others and all(np.any(value != 0) for value in plain.values())
    for other in others:
        for name, value in plain.items():
            tolerance = dict(rtol=1e-7, atol=1e-9 * np.abs(value).max())
            np.testing.assert_allclose(found[f"{other}: {name}"], value, err_msg=f"{other}: {name}", **tolerance)


MAXIMUM_OPTIONS = [
    dict(select=True),
    dict(memory="lean"),
    dict(batched=True),
    dict(select=True, memory="lean"),
    dict(select=True, batched=True),
]
MEAN_OPTIONS = [
    dict(chunk_size=3),
    dict(memory="lean"),
    dict(chunk_size=4, memory="lean"),
    dict(chunk_size=5, batched=True),
    dict(chunk_size=100),
]


def cases_of(options, **common):
    return dict(
        {" ".join(map(str, each.items())): dict(each, batch_kwargs=["y"], **common) for each in options}, plain=common
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("activation", [tf.tanh, leaky_relu], ids=["smooth", "leaky"])
def test_values_and_gradients_of_the_maximum(mode, activation):
    """With the length of the batch unknown to graphs, but for XLA, which compiles for one."""
    options = MAXIMUM_OPTIONS[:2] if mode == "xla" else MAXIMUM_OPTIONS
    function = values_and_gradients(hessian_penalty, activation, cases_of(options))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "select")  # nothing falls back
        assert_all_are_plain(compute(mode, function, unknown_batch=mode != "xla"))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "penalty, reduction",
    [(hessian_penalty, tf.reduce_mean), (orojar_penalty, tf.reduce_mean), (orojar_penalty, tf.reduce_sum)],
)
def test_values_and_gradients_of_the_mean_and_the_sum(mode, penalty, reduction):
    options = MEAN_OPTIONS if penalty is hessian_penalty else MEAN_OPTIONS[:2]  # it shares the passes
    options = options[:1] if reduction is tf.reduce_sum or mode == "xla" else options
    function = values_and_gradients(penalty, tf.tanh, cases_of(options, reduction=reduction))
    assert_all_are_plain(compute(mode, function))


@tensorflow_2
@pytest.mark.skipif("xla" not in MODES, reason="an eager process runs it")
def test_xla_gives_the_plain_maximum_its_gradient():
    """Where reduce_max does not find its maximum again among numbers rounded anew, an activation's part is missing."""

    def function(inputs, variables):
        z, y = inputs["z"], inputs["y"]

        def G(z):
            hidden = tf.tanh(tf.matmul(z, variables["first"]) + y[:, :1])
            image = tf.matmul(hidden, variables["second"]) * z[:, :1]
            return [hidden, tf.reshape(image, [-1, 3, 1]), image[:, 0], tf.reshape(image**2, [-1, 1, 3, 1])]

        def penalties():
            return hessian_penalty(G, z, K, return_separately=True, directions=DIRECTIONS)

        separate, gradients = weighted_gradients(penalties, [z, y, variables["first"]])
        return {str(i): tensor for i, tensor in enumerate([*separate, *gradients])}

    arrays = {"z": draw(1, N, NZ), "y": draw(6, N, 2)}
    found, expected = (compute(mode, function, arrays=arrays) for mode in ("xla", "eager"))
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-7, atol=1e-9 * np.abs(value).max(), err_msg=name)


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
        z, weight, found = inputs["z"], variables["first"], {}
        y = tf.constant(draw(9, N, NZ))  # in a graph a constant may be differentiated as well
        sources = [z, y, weight]

        def G(x, factor, other):
            return tf.tanh(tf.matmul(x * factor, weight)) * tf.reduce_sum(tf.nest.flatten(other)[0])

        for name, given in options.items():
            common = dict(given, reduction=tf.reduce_mean, directions=DIRECTIONS, batch_kwargs=["factor"])

            def penalties(common=common):
                return [hessian_penalty(G, z, K, **common, **SHARED[case](z, y, weight))]

            separate, gradients = weighted_gradients(penalties, sources)
            found[f"{name}: value"] = separate[0]
            found.update({f"{name}: {i}": tf.convert_to_tensor(gradient) for i, gradient in enumerate(gradients)})
        return found

    assert_all_are_plain(compute(mode, function, arrays={"z": ARRAYS["z"]}))


@pytest.mark.parametrize("mode", NOT_XLA)
def test_select_overlooks_no_nan(mode):
    mask = np.where(np.arange(N) == 3, np.nan, 1)[:, None]

    def function(inputs, variables):
        given = dict(select=True, mask=inputs["mask"], batch_kwargs=["mask"])
        return {"value": hessian_penalty(lambda z, mask: z * z[:, ::-1] * mask, inputs["z"], **given)}

    assert np.isnan(compute(mode, function, arrays={"z": ARRAYS["z"], "mask": mask})["value"])


def test_the_maxima_are_in_different_samples():
    for activation in (np.tanh, lambda x: np.maximum(0.2 * x, x)):
        hidden = activation(ARRAYS["z"] @ WEIGHTS["first"] + ARRAYS["y"] @ WEIGHTS["label"])
        assert hidden.shape == (N, 12)

    def samples(inputs, variables):
        G = network(variables, tf.tanh)
        options = dict(y=inputs["y"], scale=inputs["scale"], directions=DIRECTIONS, return_separately=True)
        each = hessian_penalty(G, inputs["z"], K, reduction=lambda variance: variance, **options)
        return {str(i): tf.argmax(tf.reduce_max(tf.reshape(v, [N, -1]), axis=1)) for i, v in enumerate(each)}

    assert len({int(sample) for sample in compute(MODES[0], samples).values()}) > 1


@tensorflow_2
@pytest.mark.parametrize(
    "options", [dict(chunk_size=3, memory="lean"), dict(memory="lean"), dict(chunk_size=3)], ids=str
)
def test_a_tape_around_a_function(options):
    """Its backward pass is then a graph of its own."""
    variables, z, y = variables_of(WEIGHTS), tf.constant(ARRAYS["z"]), tf.constant(ARRAYS["y"])
    sources = [z, y, *variables.values()]

    def gradients(call, **options):
        def penalty(z, y):
            given = dict(options, directions=DIRECTIONS, reduction=tf.reduce_mean, y=y, scale=0.8)
            return hessian_penalty(network(variables, tf.tanh), z, K, **given)

        penalty = call(penalty)
        with tf.GradientTape() as tape:
            tape.watch([z, y])
            value = penalty(z, y)
        return [value, *tape.gradient(value, sources)]

    found = gradients(tf.function, batch_kwargs=["y"], **options)
    for gradient, plain in zip(found, gradients(lambda function: function)):
        np.testing.assert_allclose(tf.convert_to_tensor(gradient), plain, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("mode", NOT_XLA)
def test_little_memory_is_one_pair_of_passes_after_the_other(mode):
    """Forward (f) and backward (b) through G, in the order in which they are run."""
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
        def G(z):
            return logging(tf.tanh(tf.matmul(z, variables["first"])))

        def penalties():
            return [hessian_penalty(G, inputs["z"], K, memory="lean", directions=DIRECTIONS)]

        if mode == "eager":
            penalties()  # which begins with a look at G
            log.clear()
        return {"gradient": weighted_gradients(penalties, [variables["first"]])[1][0]}

    compute(mode, function)
    if tf.__version__ < "2" and mode == "eager":  # where all passes are held
        assert sorted(log) == sorted("ffb" * 2 * K)
    else:
        assert "".join(log) == "f" * 2 * K + "ffbb" * K


def test_what_g_is_called_with():
    def sizes(**options):
        calls = []

        def G(z):
            calls.append(int(z.shape[0]))
            return [z * z[:, :1], z**2]

        for _ in range(2):  # the first call begins with a look at G
            calls.clear()
            hessian_penalty(G, tf.constant(ARRAYS["z"]), K, **options)
        return calls

    assert sizes() == [N] * 2 * K
    assert sizes(batched=True) == [N * 2 * K]
    assert sizes(select=True) == [N] * 2 * K + [2 * 2 * K]
    assert sizes(select=True, memory="lean")[: 2 * K] == [N] * 2 * K
    assert set(sizes(select=True, memory="lean")[2 * K :]) == {2}
    assert sizes(chunk_size=3, reduction=tf.reduce_mean) == [3 * 2 * K, 3 * 2 * K, 2 * K]


def select_and_plain(G, z, directions=DIRECTIONS, **kwargs):
    """Value and gradient with select and without."""
    results = []
    for select in (True, False):
        with tf.GradientTape() as tape:
            tape.watch(z)
            value = hessian_penalty(G, z, len(directions), directions=directions, select=select, **kwargs)
        results.append((value.numpy(), tape.gradient(value, z).numpy()))  # IndexedSlices have no numpy
    return results


def with_batch_statistics(z):
    return tf.tanh(tf.matmul(z - tf.reduce_mean(z, axis=0), WEIGHTS["first"]))


def with_a_batch_of_its_own(z):
    return tf.tanh(tf.matmul(z, WEIGHTS["first"]) + ARRAYS["y"][:, :1])


def with_the_batch_size_inside(z):
    return tf.tanh(tf.matmul(z, WEIGHTS["first"]) * tf.cast(tf.shape(z)[0], z.dtype) / N)


@eager_only
@pytest.mark.parametrize(
    "G, reason",
    [
        (with_batch_statistics, "do not reproduce the maxima"),
        (with_the_batch_size_inside, "do not reproduce the maxima"),
        (with_a_batch_of_its_own, "G fails on fewer"),
    ],
)
def test_select_falls_back_where_samples_do_not_stand_alone(G, reason):
    with pytest.warns(UserWarning, match=f"^select=True: all samples were differentiated, since .*{reason}") as caught:
        (value, gradient), (plain_value, plain_gradient) = select_and_plain(G, tf.constant(ARRAYS["z"]))
    (message,) = [str(each.message) for each in caught if each.category is UserWarning]
    assert "\n" not in message
    np.testing.assert_allclose(value, plain_value, rtol=1e-12)
    np.testing.assert_allclose(gradient, plain_gradient, rtol=1e-12)


@eager_only
def test_select_is_quiet_about_rounding_errors_and_numbers_that_are_none():
    z = tf.constant(ARRAYS["z"], tf.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for G in (lambda z: 1e3 * tf.matmul(z, tf.ones([NZ, 20])), lambda z: z * z[:, ::-1] + tf.constant(np.nan)):
            assert hessian_penalty(G, z, select=True) is not None


@eager_only
def test_of_samples_that_tie_the_first_has_the_whole_gradient():
    same, directions = tf.constant(np.repeat(ARRAYS["z"][:1], N, axis=0)), np.repeat(DIRECTIONS[:, :1], N, axis=1)
    (value, gradient), (plain_value, plain_gradient) = select_and_plain(
        lambda z: z[:, 0] * z[:, 1] * tf.tanh(z[:, 2]), same, directions
    )
    assert value == pytest.approx(plain_value, rel=1e-12)
    np.testing.assert_allclose(gradient[0], plain_gradient.sum(axis=0), rtol=1e-9, atol=1e-10)
    assert np.all(gradient[1:] == 0)


@eager_only
def test_as_many_activations_as_samples_leave_nothing_to_select():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        (value, gradient), (plain_value, plain_gradient) = select_and_plain(
            lambda z: [with_batch_statistics(z)] * N, tf.constant(ARRAYS["z"])
        )
    assert value == plain_value
    np.testing.assert_array_equal(gradient, plain_gradient)


@tensorflow_2
@pytest.mark.parametrize("mode", [mode for mode in NOT_XLA if mode != "graph"])
def test_a_keras_model(mode):
    layers = tf.keras.layers
    z = tf.keras.Input([NZ])
    hidden = layers.Dense(8, activation="tanh")(z)
    model = tf.keras.Model(z, [hidden, layers.Dense(3, activation="softplus")(layers.Dropout(0.5)(hidden))])
    cases = {"plain": {}, "select": dict(select=True), "lean": dict(memory="lean"), "batched": dict(batched=True)}

    def function(inputs, variables):
        found, given = {}, dict(directions=DIRECTIONS, return_separately=True, training=False)
        for case, options in cases.items():
            separate, gradients = weighted_gradients(
                lambda options=options: hessian_penalty(model, inputs["z"], K, **given, **options),
                [getattr(variable, "value", variable) for variable in model.trainable_variables],
            )
            found.update({f"{case}: {i}": tensor for i, tensor in enumerate(separate + gradients)})
        return found

    found = compute(mode, function, arrays={"z": ARRAYS["z"].astype("float32")})
    for name, value in found.items():
        plain = found["plain:" + name.split(":")[1]]
        np.testing.assert_allclose(value, plain, rtol=2e-2, atol=2e-3 * np.abs(plain).max(), err_msg=name)


@pytest.mark.parametrize("mode", NOT_XLA)
def test_orojar_is_its_definition_and_diagonalness_that_of_numpy(mode):
    def G(z):
        return np.tanh(z @ WEIGHTS["first"])

    z, axes = ARRAYS["z"], np.stack([np.random.RandomState(n).permutation(NZ)[:2] for n in range(N)])[None]
    slopes = [(G(z + 0.1 * v) - G(z - 0.1 * v)) / 0.2 for v in DIRECTIONS]
    expected = np.mean(np.var([np.sum(Jv**2, axis=1) for Jv in slopes], axis=0, ddof=1))

    def function(inputs, variables):
        def G(z):
            return tf.tanh(tf.matmul(z, variables["first"]))

        ratio, error = diagonalness(G, inputs["z"], axes=axes)
        return {
            "orojar": orojar_penalty(G, inputs["z"], K, directions=DIRECTIONS),
            "ratio": ratio,
            "error": error,
        }

    found = compute(mode, function, unknown_batch=True)
    assert found["orojar"] == pytest.approx(expected, rel=1e-9)
    np.testing.assert_allclose([found["ratio"], found["error"]], hessian_penalty_np.diagonalness(G, z, axes=axes))


def test_half_precision_latents_become_float32():
    def function(inputs, variables):
        def penalty(z, **options):
            return hessian_penalty(lambda z: z**2 * z[:, :1], z, K, directions=DIRECTIONS, **options)

        half = inputs["z"]
        options = [dict(select=True), dict(memory="lean"), dict(chunk_size=3, reduction=tf.reduce_sum)]
        found = {str(i): penalty(half, **each) for i, each in enumerate(options)}
        found.update({f"{i} plain": penalty(tf.cast(half, tf.float32), **each) for i, each in enumerate(options)})
        return found

    found = compute(MODES[0], function, arrays={"z": ARRAYS["z"].astype("float16")})
    for i in range(3):
        assert found[f"{i}"].dtype == np.float32
        assert found[f"{i}"] == pytest.approx(found[f"{i} plain"], rel=1e-3)


Z = np.ones((4, 3))
REFUSED = {
    "exact": (dict(exact=True), "exact=True: TensorFlow has no exact mode, use hessian_penalty_pytorch or"),
    "select with the mean": (
        dict(select=True, reduction=tf.reduce_mean),
        "select=True needs the maximum reduction (tf.reduce_max), got reduce_mean",
    ),
    "chunks with the maximum": (
        dict(chunk_size=2),
        "chunk_size needs the mean or sum reduction (tf.reduce_mean or tf.reduce_sum), got reduce_max",
    ),
    "chunks with one's own": (dict(chunk_size=2, reduction=lambda v: v), "chunk_size needs the mean or sum reduction"),
    "chunks of nothing": (
        dict(chunk_size=0, reduction=tf.reduce_sum),
        "chunk_size must be a positive number of samples, got 0",
    ),
    "chunks of a half": (dict(chunk_size=2.5, reduction=tf.reduce_sum), "a positive number of samples, got 2.5"),
    "another memory": (dict(memory="low"), "memory must be None or \"lean\", got 'low'"),
    "batched and lean": (
        dict(batched=True, memory="lean"),
        'batched=True and memory="lean" exclude each other: one makes all passes at once, the other one at a time',
    ),
    "a string of names": (dict(batch_kwargs="y", y=Z), "batch_kwargs must be a list of names, got 'y'"),
    "a name not passed": (dict(batch_kwargs=["y"]), "batch_kwargs names 'y', which was not passed"),
    "another length": (
        dict(batch_kwargs=["y"], y=np.ones(3)),
        "batch_kwargs: 'y' must have the batch's length 4 first, got shape (3,)",
    ),
    "no length": (dict(batch_kwargs=["y"], y=1.0), "'y' must have the batch's length 4 first, got shape ()"),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_bad_input_is_refused_in_one_line(case):
    options, expected = REFUSED[case]
    with pytest.raises(ValueError) as error:
        hessian_penalty(lambda z, y=None: z, tf.constant(Z), **options)
    assert expected in str(error.value) and "\n" not in str(error.value)


def test_chunks_of_an_unknown_number_are_refused():
    with tf.Graph().as_default():
        z = tf.compat.v1.placeholder(tf.float32, [None, 3])
        with pytest.raises(ValueError, match="chunk_size needs a batch of known length when a graph is built"):
            hessian_penalty(tf.tanh, z, reduction=tf.reduce_mean, chunk_size=2)

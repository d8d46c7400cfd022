"""The losses on players simple enough to work out."""

import numpy as np
import numpy_progan
import pytest
import tensorflow.compat.v1 as tf
from closeness import assert_close
from progan_helpers import random_networks

from hessian_penalty_tf import hessian_penalty
from progan import losses
from progan.networks import Generator, NetworkSpec, downscale, upscale


def evaluate(tensors):
    with tf.Session() as session:
        return session.run(tensors)


@pytest.fixture(autouse=True)
def graph():
    with tf.Graph().as_default():
        yield


def draw(*shape, seed=0):
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("images_per_pixel", [1, 8])
def test_wgan_gp_of_a_linear_critic(images_per_pixel):
    """D(x) = <w, x> + b: the gradient is w everywhere."""
    w, b, reals, fakes = draw(4, 4, 3), 0.7, draw(6, 4, 4, 3, seed=1), draw(6, 4, 4, 3, seed=2)
    code = draw(6, 2)

    def D(images):
        return tf.reduce_sum(images * w, axis=[1, 2, 3])[:, None] + b, tf.constant(code)

    mixing = np.random.RandomState(3).uniform(size=[6, 1, 1, 1]).astype(np.float32)
    loss, terms, of_fakes = evaluate(
        losses.discriminator_loss(D, tf.constant(reals), tf.constant(fakes), mixing, images_per_pixel)
    )
    real_scores, fake_scores = (np.sum(images * w, axis=(1, 2, 3)) + b for images in (reals, fakes))
    wasserstein = fake_scores.mean() - real_scores.mean()
    penalty = (np.sqrt(np.sum(w.astype(np.float64) ** 2)) / images_per_pixel - 1) ** 2
    drift = (real_scores**2).mean()
    assert terms["D/wasserstein"] == pytest.approx(wasserstein, rel=1e-4)
    assert terms["D/gradient_penalty"] == pytest.approx(penalty, rel=1e-4)
    assert terms["D/drift"] == pytest.approx(drift, rel=1e-4)
    assert loss == pytest.approx(wasserstein + 10 * penalty + 0.001 * drift, rel=1e-4)
    np.testing.assert_array_equal(of_fakes, code)


def test_the_gradient_is_taken_between_real_and_fake():
    """D(x) = sum(x^2) / 2 has the gradient x: the norm tells where it was taken."""
    reals, fakes, mixing = draw(3, 4, 4, 1), draw(3, 4, 4, 1, seed=1), np.float32([0, 0.25, 1]).reshape(3, 1, 1, 1)

    def D(images):
        return tf.reduce_sum(images**2, axis=[1, 2, 3])[:, None] / 2, None

    _, terms, _ = losses.discriminator_loss(D, tf.constant(reals), tf.constant(fakes), mixing, 1)
    points = reals * (1 - mixing) + fakes * mixing
    expected = np.mean((np.sqrt(np.sum(points**2, axis=(1, 2, 3))) - 1) ** 2)
    assert evaluate(terms["D/gradient_penalty"]) == pytest.approx(expected, rel=1e-4)


def test_the_gradient_penalty_is_that_of_full_size_images():
    """A critic at 4 px, of a model of 16 px: as if it were shown images repeated 4x4, and averaged them itself."""
    reals, fakes, mixing = draw(3, 4, 4, 2), draw(3, 4, 4, 2, seed=1), np.float32([0.1, 0.5, 0.8]).reshape(3, 1, 1, 1)
    w1, w2 = draw(32, 5, seed=2), draw(5, 1, seed=3)

    def D(images):
        return tf.matmul(tf.tanh(tf.matmul(tf.reshape(images, [3, 32]), w1)), w2), None

    def full_size(images):
        return upscale(upscale(tf.constant(images)))

    at_full_size = losses.discriminator_loss(
        lambda images: D(downscale(downscale(images))), full_size(reals), full_size(fakes), mixing, 1
    )
    native = losses.discriminator_loss(D, tf.constant(reals), tf.constant(fakes), mixing, 4)
    (loss, terms), (expected_loss, expected) = evaluate([native[:2], at_full_size[:2]])
    assert loss == pytest.approx(expected_loss, rel=1e-4)
    assert terms == pytest.approx(expected, rel=1e-4)


def test_generator_loss():
    assert evaluate(losses.generator_loss(tf.constant([[1.0], [4.0]]))) == -2.5


def test_infogan_regresses_the_first_raw_components():
    code, z = draw(4, 2), 3 * draw(4, 5, seed=1)
    expected = np.mean((code - z[:, :2]) ** 2)
    assert evaluate(losses.infogan_loss(tf.constant(code), tf.constant(z))) == pytest.approx(expected, rel=1e-5)


# ----------------------------------------------------------------------------------------------------------------------
# Penalties of G's layers


DEFINITIONS = {"hessian_penalty": numpy_progan.hessian_penalties, "orojar": numpy_progan.orojar_penalties}


def signs(*shape, seed=6):
    return np.random.RandomState(seed).choice(np.float32([-1, 1]), size=shape)


def of_one_length(z):
    """z that G has not to normalise: of others the shortest has nearly all the curvature."""
    return z / np.sqrt((z**2).mean(axis=1, keepdims=True))


@pytest.mark.parametrize("regularizer", sorted(DEFINITIONS))
@pytest.mark.parametrize("k, epsilon, count", [(2, 0.1, 7), (3, 0.25, 3)])
def test_penalties_of_layers_are_those_of_the_definition(regularizer, k, epsilon, count):
    """With respect to the raw z; of more samples than layers, and of fewer."""
    spec = NetworkSpec(resolution=8, channels=3, nz=4, fmap_base=16)
    weights, z, directions = random_networks(spec)["G"], draw(count, 4, seed=5), signs(k, count, 4)
    layers = [1, 5, 2, 4]
    G = Generator({name: tf.constant(value) for name, value in weights.items()}, spec, 8, fade=tf.constant(0.25))
    found = evaluate(losses.layer_penalties(regularizer, G, tf.constant(z), layers, tf.constant(directions), epsilon))
    expected = DEFINITIONS[regularizer](
        weights, z.astype(np.float64), layers, directions, epsilon, resolution=8, full_resolution=8, fade=0.25
    )
    np.testing.assert_allclose(found, expected, rtol=2e-3)


def test_value_and_gradients_are_those_of_differentiating_all_samples():
    """With respect to every weight and z: of the plain penalty of all activations of the whole G."""
    spec, layers, weight = NetworkSpec(resolution=8, channels=1, nz=5, fmap_base=32), [4, 2, 1], [0.3, 2.0, 0.7]
    variables = {name: tf.constant(value) for name, value in random_networks(spec)["G"].items()}
    z, directions = tf.constant(of_one_length(draw(12, 5))), tf.constant(signs(2, 12, 5))
    G, sources = Generator(variables, spec, 8), [z, *(variables[n] for n in sorted(variables) if "RGB" not in n)]

    def value_and_gradients(penalties):
        gradients = tf.gradients(tf.reduce_sum(tf.stack(penalties) * weight), sources)
        return [penalties, *map(tf.convert_to_tensor, gradients)]

    ours = losses.layer_penalties("hessian_penalty", G, z, layers, directions, 0.1)
    plain = hessian_penalty(
        lambda z: [G(z)[1][layer - 1] for layer in layers], z, directions=directions, return_separately=True
    )
    with tf.Session() as session:
        found, expected = session.run([value_and_gradients(ours), value_and_gradients(plain)])
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-4)
    touched = np.abs(expected[1]).max(axis=1) > 0
    assert 2 <= touched.sum() <= len(layers)  # the maxima are not all in one sample
    for ours, plain in zip(found[1:], expected[1:]):
        assert_close(ours, plain, within=1e-3)
        assert np.linalg.norm(plain) > 0


@pytest.mark.parametrize("regularizer", sorted(DEFINITIONS))
@pytest.mark.parametrize(
    "layers, used",
    [
        ([1], "4x4/Dense"),
        ([3, 1], "4x4/Dense 4x4/Conv 8x8/Conv0_up"),
        ([2, 4], "4x4/Dense 4x4/Conv 8x8/Conv0_up 8x8/Conv1"),
        ([5], "4x4/Dense 4x4/Conv 8x8/Conv0_up 8x8/Conv1 ToRGB_lod0 ToRGB_lod1"),
    ],
)
def test_nothing_beyond_the_deepest_layer_is_in_the_graph(regularizer, layers, used):
    spec = NetworkSpec(resolution=8, channels=1, nz=5, fmap_base=16)
    variables = {name: tf.placeholder(tf.float32, v.shape) for name, v in random_networks(spec)["G"].items()}
    G = Generator(variables, spec, 8, fade=tf.constant(0.25))
    penalties = losses.layer_penalties(regularizer, G, tf.zeros([8, 5]), layers, tf.ones([2, 8, 5]), 0.1)
    tf.gradients(tf.add_n(penalties), [variables["4x4/Dense/weight"]])
    assert {name.rsplit("/", 1)[0] for name, tensor in variables.items() if tensor.consumers()} == set(used.split())


@pytest.mark.parametrize("regularizer", sorted(DEFINITIONS))
def test_training_on_the_penalty_lowers_it(regularizer):
    """Adam on the penalty alone, new latents and directions at every step; judged on others, never trained on."""
    spec, rng = NetworkSpec(resolution=8, channels=3, nz=8, fmap_base=32), np.random.RandomState(0)
    variables = {name: tf.Variable(value) for name, value in random_networks(spec)["G"].items()}
    z, directions = tf.placeholder(tf.float32, [None, 8]), tf.placeholder(tf.float32, [2, None, 8])
    penalties = losses.layer_penalties(regularizer, Generator(variables, spec, 8), z, [2, 3, 4], directions, 0.1)
    update = tf.train.AdamOptimizer(0.01, beta1=0.0, beta2=0.99).minimize(tf.add_n(penalties))

    def feed(count):
        return {
            z: of_one_length(rng.standard_normal([count, 8])),
            directions: rng.choice([-1.0, 1.0], size=[2, count, 8]),
        }

    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        held_out = feed(256)
        before = np.array(session.run(penalties, held_out))
        for _ in range(100):
            session.run(update, feed(8))
        after = np.array(session.run(penalties, held_out))
    assert after.sum() < 0.3 * before.sum()

"""The losses on players simple enough to work out."""

import numpy as np
import numpy_progan
import pytest
import tensorflow.compat.v1 as tf
from progan_helpers import random_networks

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


@pytest.mark.parametrize("k, epsilon", [(2, 0.1), (3, 0.25)])
def test_penalties_of_layers_are_those_of_the_definition(k, epsilon):
    """The unbiased variance of second differences with respect to the raw z, maximum over elements and samples."""
    spec = NetworkSpec(resolution=8, channels=3, nz=4, fmap_base=16)
    weights, z = random_networks(spec)["G"], draw(3, 4, seed=5)
    directions = np.random.RandomState(6).choice(np.float32([-1, 1]), size=[k, 3, 4])
    layers = [1, 2, 4, 5]
    G = Generator({name: tf.constant(value) for name, value in weights.items()}, spec, 8, fade=tf.constant(0.25))
    found = evaluate(losses.layer_penalties(G, tf.constant(z), layers, tf.constant(directions), epsilon))
    expected = numpy_progan.hessian_penalties(
        weights, z.astype(np.float64), layers, directions, epsilon, resolution=8, full_resolution=8, fade=0.25
    )
    np.testing.assert_allclose(found, expected, rtol=2e-3)


def test_training_on_the_penalty_lowers_it():
    """Adam on the penalty alone, new latents and directions at every step; judged on others, never trained on."""
    spec, rng = NetworkSpec(resolution=8, channels=3, nz=8, fmap_base=32), np.random.RandomState(0)
    variables = {name: tf.Variable(value) for name, value in random_networks(spec)["G"].items()}
    z, directions = tf.placeholder(tf.float32, [None, 8]), tf.placeholder(tf.float32, [2, None, 8])
    penalties = losses.layer_penalties(Generator(variables, spec, 8), z, [2, 3, 4], directions, 0.1)
    update = tf.train.AdamOptimizer(0.01, beta1=0.0, beta2=0.99).minimize(tf.add_n(penalties))

    def feed(count):
        return {z: rng.standard_normal([count, 8]), directions: rng.choice([-1.0, 1.0], size=[2, count, 8])}

    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        held_out = feed(256)
        before = np.array(session.run(penalties, held_out))
        for _ in range(200):
            session.run(update, feed(8))
        after = np.array(session.run(penalties, held_out))
    assert (after < before).all() and after.sum() < 0.15 * before.sum()

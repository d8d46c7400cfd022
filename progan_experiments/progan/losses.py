"""The players' losses: WGAN-GP, the penalties of G's layers, and InfoGAN's regression. All scalars, float32."""

import tensorflow.compat.v1 as tf

from hessian_penalty_tf import hessian_penalty, orojar_penalty
from progan.networks import lerp

GRADIENT_PENALTY_WEIGHT = 10.0
DRIFT_WEIGHT = 0.001


def discriminator_loss(D, real_images, fake_images, mixing, images_per_pixel):
    """Return (loss, {name: scalar}, code of the fakes) of the Wasserstein critic (Gulrajani et al. 2017, Eq. 3).

    real_images, fake_images  float32 [N, H, W, C]
    mixing                    float32 [N, 1, 1, 1] in [0, 1): where between real and fake the gradient is taken
    images_per_pixel          2^floor(lod): the gradient penalty is defined on full-size images, in which a pixel of the
                              current resolution is repeated so many times along each side; the gradient's norm
                              with respect to those is this much smaller
    """
    real_scores, _ = D(real_images)
    fake_scores, code = D(fake_images)
    mixed_images = lerp(real_images, fake_images, mixing)
    mixed_scores, _ = D(mixed_images)
    gradients = tf.gradients(tf.reduce_sum(mixed_scores), [mixed_images])[0]
    norms = tf.sqrt(tf.reduce_sum(tf.square(gradients), axis=[1, 2, 3])) / images_per_pixel
    terms = {
        "D/wasserstein": tf.reduce_mean(fake_scores) - tf.reduce_mean(real_scores),
        "D/gradient_penalty": tf.reduce_mean(tf.square(norms - 1)),
        "D/drift": tf.reduce_mean(tf.square(real_scores)),  # of real scores only
    }
    loss = (
        terms["D/wasserstein"] + GRADIENT_PENALTY_WEIGHT * terms["D/gradient_penalty"] + DRIFT_WEIGHT * terms["D/drift"]
    )
    return loss, terms, code


def generator_loss(fake_scores):
    """Return the generator's side of the Wasserstein game: minus the mean score."""
    return -tf.reduce_mean(fake_scores)


def infogan_loss(code, z):
    """Return the mean squared error of the Q head's code [N, n] against the first n raw components of z [N, nz]."""
    return tf.reduce_mean(tf.square(code - z[:, : int(code.shape[1])]))


def layer_penalties(regularizer, G, z, layers, directions, epsilon):
    """Return the list of penalties of G's activations at `layers`, with respect to the raw z.

    regularizer  'hessian_penalty': the largest of all elements' and samples'; 'orojar': the mean over samples
    layers       numbers counted from 1, as in `Generator.activations`
    directions   float32 [k, N, nz], entries +-1: shared by all layers
    """

    def activations(z):
        return G.activations(z, layers)

    common = {"k": int(directions.shape[0]), "epsilon": epsilon, "directions": directions, "return_separately": True}
    if regularizer == "orojar":
        return orojar_penalty(activations, z, **common)
    return hessian_penalty(activations, z, select=True, **common)

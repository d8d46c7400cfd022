"""Activeness: how much a latent component changes the images (Peebles et al. 2020, Sec. 4)."""

import numpy as np

from latent_traversal import traversal_strips


def activeness(G, latents, extent=2.0, minibatch=100):
    """Return float64 [nz]: for each component the variance of the images over its values {-extent, 0, extent}.

    The variance has ddof = 1, images count in [-1, 1], and it is averaged over pixels, channels and samples.

    G        callable: float32 [n, nz] -> uint8 images [n, H, W, C]
    latents  [samples, nz]: the other components' values, already normalised if G expects that
    """
    scores = []
    for component in range(latents.shape[1]):  # one at a time: memory for 3 images a sample, whatever nz is
        strips = traversal_strips(G, latents, [component], extent, steps=3, minibatch=minibatch)
        scores.append(np.var(strips[0] / 127.5, axis=1, ddof=1).mean())
    return np.array(scores)

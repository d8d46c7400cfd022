"""Activeness: how much a latent component changes the images (Peebles et al. 2020, Sec. 4)."""

import numpy as np

import latent_traversal


def activeness(G, latents, extent=2.0, minibatch=100):
    """Return float64 [nz]: for each component `latent_traversal.activeness` over its values {-extent, 0, extent}.

    G        callable: float32 [n, nz] -> uint8 images [n, H, W, C]
    latents  [samples, nz]: the other components' values, already normalised if G expects that
    """
    scores = []
    for component in range(latents.shape[1]):  # one at a time: memory for 3 images a sample, whatever nz is
        strips = latent_traversal.traversal_strips(G, latents, [component], extent, steps=3, minibatch=minibatch)
        scores.append(latent_traversal.activeness(strips)[0])
    return np.array(scores)

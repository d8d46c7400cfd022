"""Traversals of a ProGAN's latent components: which latents to sweep, in what order, with what written beside them."""

import numpy as np

from latent_traversal import grid_frames, traversal_strips
from progan.metrics.activeness import activeness

ACTIVENESS_SAMPLES = 64


def normalized(z):
    """Return latents [N, nz] divided by their root mean square, as G does with its input."""
    z = np.asarray(z, np.float32)
    return z / np.sqrt(np.mean(np.square(z), axis=1, keepdims=True) + 1e-8)


def latent_function(sample, pre_norm=False):
    """Return (G, prepare): images of latents whose entries are swept, and what is done to a raw sample before.

    A sample is normalised first, then an entry is overwritten, and G does not normalise again; so the sweep leaves the
    other entries alone. With `pre_norm` the raw sample is swept, and G normalises: at small nz the sweep would
    otherwise leave the sphere that G knows too far.

    sample  callable: (latents, normalize_latents) -> uint8 images [N, H, W, C]
    """
    return (lambda z: sample(z, normalize_latents=pre_norm)), (np.asarray if pre_norm else normalized)


def activeness_by_component(sample, nz, seed=0, pre_norm=False, extent=2.0, minibatch=100):
    """Return float64 [nz]: the activeness of each component, over `ACTIVENESS_SAMPLES` samples drawn from `seed`."""
    G, prepare = latent_function(sample, pre_norm)
    z = np.random.RandomState(seed).standard_normal([ACTIVENESS_SAMPLES, nz]).astype(np.float32)
    return activeness(G, prepare(z), extent, minibatch)


def component_strips(sample, z, components, extent=2.0, steps=90, pre_norm=False, minibatch=100):
    """Return strips [components, samples, steps, H, W, C], uint8, of raw latents z [samples, nz]."""
    G, prepare = latent_function(sample, pre_norm)
    return traversal_strips(G, prepare(z), components, extent, steps, minibatch)


def component_frames(strips, components, scores, **layout):
    """Return the labelled grid, frames [steps, height, width, 3]; `scores` is the activeness of all components."""
    labels = [f"z{component}" for component in components]
    return grid_frames(strips, row_labels=labels, row_values=[scores[c] for c in components], **layout)

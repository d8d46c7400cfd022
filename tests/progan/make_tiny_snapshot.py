"""Make data/tiny.safetensors and data/tiny_images.npy: `python make_tiny_snapshot.py`, in this directory.

The networks are drawn at random, of 16 px, in the middle of a fade-in. The images, float32, are what the generator of
`numpy_progan.py` makes of Gs: TensorFlow has no part in them.
"""

import os

import numpy as np
import numpy_progan
from progan_helpers import random_networks

from progan.networks import NetworkSpec
from progan.snapshot import Snapshot, save_snapshot

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data")
SNAPSHOT, IMAGES = os.path.join(DATA, "tiny.safetensors"), os.path.join(DATA, "tiny_images.npy")
LOD = 0.375


def latents():
    return np.random.RandomState(11).standard_normal([3, 4]).astype(np.float32)


def main():
    spec = NetworkSpec(resolution=16, channels=3, nz=4, fmap_base=16, fmap_max=6)
    networks = random_networks(spec, seed=5)
    save_snapshot(SNAPSHOT, Snapshot(spec, networks, LOD, 123456, {"flags": {}}, None))
    weights = {name: value.astype(np.float64) for name, value in networks["Gs"].items()}
    images, _ = numpy_progan.generator(weights, latents().astype(np.float64), 16, 16, fade=LOD)
    np.save(IMAGES, images.astype(np.float32), allow_pickle=False)


if __name__ == "__main__":
    main()

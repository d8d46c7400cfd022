"""Make data/tiny.safetensors and its images, data/tiny_images*: `python make_tiny_snapshot.py`, in this directory.

The networks are drawn at random, of 16 px, in the middle of a fade-in. The images, float32, are what the generator of
`numpy_progan.py` makes of Gs: TensorFlow has no part in them. tiny_images_grown.npz has those of other levels of detail
({lod: images}), and shipped_images.npy those of a model that ships with the project; PyTorch's tests compare with all.
"""

import os

import numpy as np
import numpy_progan
from progan_helpers import random_networks

from progan.networks import NetworkSpec
from progan.snapshot import Snapshot, load_snapshot, pretrained_models, save_snapshot

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data")
SNAPSHOT, IMAGES = os.path.join(DATA, "tiny.safetensors"), os.path.join(DATA, "tiny_images.npy")
SHIPPED = "clevr_1fov_16_fs"
LOD = 0.375
SHIPPED_IMAGES = os.path.join(DATA, "shipped_images.npy")
GROWN = os.path.join(DATA, "tiny_images_grown.npz")
STAGES = {"2.0": (4, None), "1.25": (8, 0.25), "1.0": (8, None), "0.0": (16, None)}  # lod: resolution, fade


def latents(nz=4):
    return np.random.RandomState(11).standard_normal([3, nz]).astype(np.float32)


def main():
    spec = NetworkSpec(resolution=16, channels=3, nz=4, fmap_base=16, fmap_max=6)
    networks = random_networks(spec, seed=5)
    save_snapshot(SNAPSHOT, Snapshot(spec, networks, LOD, 123456, {"flags": {}}, None))
    weights = {name: value.astype(np.float64) for name, value in networks["Gs"].items()}
    images, _ = numpy_progan.generator(weights, latents().astype(np.float64), 16, 16, fade=LOD)
    np.save(IMAGES, images.astype(np.float32), allow_pickle=False)
    grown = {}
    for lod, (resolution, fade) in STAGES.items():
        images, _ = numpy_progan.generator(weights, latents().astype(np.float64), resolution, 16, fade)
        grown[lod] = images.repeat(16 // resolution, axis=1).repeat(16 // resolution, axis=2).astype(np.float32)
    np.savez_compressed(GROWN, **grown)
    shipped = load_snapshot(pretrained_models()[SHIPPED])
    weights = {name: value.astype(np.float64) for name, value in shipped.networks["Gs"].items()}
    images, _ = numpy_progan.generator(weights, latents(shipped.spec.nz).astype(np.float64), 16, 16)
    np.save(SHIPPED_IMAGES, images.astype(np.float32), allow_pickle=False)


if __name__ == "__main__":
    main()

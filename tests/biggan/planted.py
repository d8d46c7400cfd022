"""Generators whose best directions are known, for tests: three gauges, each shows one coordinate of a rotated latent.

No pixel depends on two of the hidden coordinates, so along the rotation's rows the Hessian of every pixel is diagonal.
"""

import numpy as np
import torch

from biggan.directions import orthonormalise

DIM_Z, SIZE, CLASSES = 6, 16, 3
INFO = [
    {"name": "upper", "kind": "continuous", "range": [-1.0, 1.0]},
    {"name": "middle", "kind": "continuous", "range": [-1.0, 1.0]},
    {"name": "light", "kind": "continuous", "range": [0.0, 1.0]},
]


def rotation(seed=0):
    """float32 [DIM_Z, DIM_Z], orthonormal rows: the directions to find."""
    return orthonormalise(torch.randn(DIM_Z, DIM_Z, generator=torch.Generator().manual_seed(seed)))


def factors_of(z):
    """float [N, 3], each a function of one of the hidden coordinates (the others do nothing)."""
    hidden = z @ rotation().T.to(z)
    return torch.stack(
        [0.8 * torch.tanh(hidden[:, 0]), 0.8 * torch.tanh(hidden[:, 1]), torch.sigmoid(2 * hidden[:, 2])], 1
    )


def draw(factors):
    """float [N, 3, SIZE, SIZE] in [-1, 1]: two needles that stand at the first two factors, and a lamp."""
    upper, middle, light = (factor[:, None, None] for factor in factors.unbind(1))
    pixels = torch.linspace(-1, 1, SIZE).to(factors)
    rows = [torch.exp(-((pixels - at) ** 2) / 0.1).expand(-1, 5, -1) for at in (upper, middle)]
    rows.append(light.expand(-1, SIZE - 10, SIZE))
    return (1.6 * torch.cat(rows, 1) - 0.8)[:, None].expand(-1, 3, -1, -1)


def read(images):
    """float64 [N, 3]: the factors of uint8 images [N, SIZE, SIZE, 3], by the needles' centres of mass."""
    pixels = np.linspace(-1, 1, SIZE)
    grey = images.mean(3) / 127.5 - 1
    needles = [
        np.maximum(grey[:, rows].mean(1) - grey[:, rows].min((1, 2))[:, None], 0) ** 2
        for rows in (slice(5), slice(5, 10))
    ]
    centres = [needle @ pixels / needle.sum(1) for needle in needles]
    return np.stack([*centres, grey[:, 10:].mean((1, 2)) / 1.6 + 0.5], 1)


class Gauges(torch.nn.Module):
    """The gauges; a class tints them."""

    dim_z, num_classes = DIM_Z, CLASSES

    def forward(self, z, y):
        tint = 0.1 * torch.nn.functional.one_hot(y, CLASSES).to(z)[:, :, None, None]
        return draw(factors_of(z)) - tint

    def latent_weights(self):
        return rotation()[:3] * torch.tensor([[1.0], [0.9], [0.8]])

    def early_activations(self, z, y):
        return z @ self.latent_weights().T


class Unconditional(torch.nn.Module):
    """The same gauges, without classes, and without a linear layer that one could look into."""

    dim_z = DIM_Z

    def forward(self, z):
        return draw(factors_of(z))


def data(count, seed):
    """(images uint8 [N, SIZE, SIZE, 3], factors float32 [N, 3]) that a regressor can be fitted on."""
    random = np.random.RandomState(seed)
    factors = np.float32(random.uniform([-0.9, -0.9, 0], [0.9, 0.9, 1], [count, 3]))
    images = draw(torch.from_numpy(factors)).permute(0, 2, 3, 1).numpy()
    return np.uint8(np.clip(images * 127.5 + 128, 0, 255)), factors


class ImageNetLike(torch.nn.Module):
    """As many components of z and classes as the published BigGAN at 128 px, in as little time as possible."""

    dim_z, num_classes = 120, 1000

    def forward(self, z, y):
        return torch.tanh(
            z[:, :48].reshape(-1, 3, 4, 4) * z[:, 60:108].reshape(-1, 3, 4, 4) + y[:, None, None, None] / 1000
        )

"""Generators G(z) = f(Rz) with a hidden rotation R and a separable f: the axes of R are the directions to be found."""

import torch

from biggan.directions import initial, orthonormalise, search_space
from biggan.discovery import Discovery, Settings
from biggan.frozen import FrozenGenerator


class Separable(torch.nn.Module):
    """Images [N, 1, 8, 8], each pixel a weighted sum of sines, one sine for each coordinate of Rz; or its tanh."""

    def __init__(self, dim_z, seed=0, squashed=False):
        super().__init__()
        draws = torch.Generator().manual_seed(seed)
        self.dim_z, self.squashed = dim_z, squashed
        self.R = orthonormalise(torch.randn(dim_z, dim_z, generator=draws))
        self.weights = torch.randn(dim_z, 64, generator=draws) / dim_z**0.5
        self.phases = 6 * torch.rand(dim_z, generator=draws)
        self.frequencies = 0.7 + torch.rand(dim_z, generator=draws)
        self.samples = 0  # that were asked for

    def forward(self, z):
        self.samples += len(z)
        pixels = torch.sin(self.frequencies * (z @ self.R.T) + self.phases) @ self.weights
        return (torch.tanh(pixels / 2) if self.squashed else pixels).reshape(-1, 1, 8, 8)


def start(module, ndirs=None, search="all", **settings):
    """Return a Discovery in the generator from random directions; batch 64 unless `settings` say otherwise."""
    G = FrozenGenerator(module, "planted")
    space = search_space(search, G.dim_z)
    settings = Settings(**settings)
    return Discovery(G, initial("random", ndirs or space.width, space, settings.seed), space, settings)


def found(ours):
    """Mean |cos| of each direction with the axis that it is closest to: 1 when the axes are found."""
    return (ours.Q() @ ours.G.module.R.T).detach().abs().max(1).values.mean().item()


def passes_to_find(ours, limit, enough=0.97, every=10):
    """Step until `found` is enough, or for `limit` passes of a batch; return (passes, what was found)."""
    module, before = ours.G.module, ours.G.module.samples
    passes = 0
    while passes < limit:
        for _ in range(every):
            ours.step()
        passes = (module.samples - before) / ours.settings.batch_size
        if found(ours) >= enough:
            break
    return passes, found(ours)


def of_eight_components():
    """A factory for --G_path: separable:of_eight_components."""
    return Separable(8, squashed=True)

"""Factories for --G_path odd_generators:NAME: the gauges of planted.py, each with a habit of users' generators."""

import torch
from planted import DIM_Z, Unconditional
from torch import nn


class Wide(Unconditional):
    """Twice as wide as high."""

    def forward(self, z):
        return super().forward(z).repeat_interleave(2, dim=3)


class UnitInterval(Unconditional):
    def forward(self, z):
        return (super().forward(z) + 1) / 2


class Bytes(Unconditional):
    def forward(self, z):
        return (super().forward(z) + 1) * 127.5


class InATuple(Unconditional):
    def forward(self, z):
        return z, super().forward(z)


class WithoutGradient(Unconditional):
    @torch.no_grad()
    def forward(self, z):
        return super().forward(z)


class InInferenceMode(Unconditional):
    def forward(self, z):
        with torch.inference_mode():
            return super().forward(z.clone())


class BatchStatistics(Unconditional):
    """Normalises z by its batch's statistics."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(DIM_Z, track_running_stats=False)

    def forward(self, z):
        return super().forward(self.norm(z))


class FixedBatch(Unconditional):
    def forward(self, z):
        return super().forward(z).view(16, 3, 16, 16)


class NearOnly(Unconditional):
    """Gives no numbers far from the origin."""

    def forward(self, z):
        near = (z.norm(dim=1) < 8).to(z)
        return super().forward(z) * (near / near)[:, None, None, None]


class FewAtOnce(Unconditional):
    def forward(self, z):
        if len(z) > 8:
            raise RuntimeError("too many at once")
        return super().forward(z)


class Noise(Unconditional):
    def forward(self, z):
        images = super().forward(z)
        return images + 0.1 * torch.randn_like(images)

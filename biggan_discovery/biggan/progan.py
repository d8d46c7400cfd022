"""Trained ProGAN generators (Karras et al. 2018) in PyTorch, read from the snapshots of progan_experiments/train.py."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from experiment_utils.errors import SnapshotError

KIND = "progan-snapshot"  # what the metadata of such a file says it is
LEAK = 0.2  # slope of the leaky ReLU for negative inputs
GAIN = math.sqrt(2)


class Generator(nn.Module):
    """G(z [N, dim_z]) -> images [N, channels, resolution, resolution], about [-1, 1], not clipped. Unconditional.

    weights      {published name: tensor}, unscaled as snapshots hold them; of convolutions [height, width, in, out]
    resolution   of the images, a power of two
    lod          level of detail that training had come to: beyond 0 the last levels are not in use yet, and a fraction
                 is the share of the previous resolution's image in the picture

    What training applies at run time (the equalised learning rate, the fused upscaling) is folded into plain layers
    here: these generators are for use, not for more training.
    """

    num_classes = 0
    image_range = (-1.0, 1.0)

    def __init__(self, weights, resolution, lod=0.0):
        super().__init__()
        self.resolution, self.fade = resolution, lod % 1
        self.dim_z, features = weights["4x4/Dense/weight"].shape
        width = features // 16
        self.dense = nn.Linear(self.dim_z, features, bias=False)
        dense = weights["4x4/Dense/weight"] * (GAIN / 4 / math.sqrt(self.dim_z))
        self.dense.weight = nn.Parameter(dense.t().contiguous())
        self.dense_bias = nn.Parameter(weights["4x4/Dense/bias"].view(1, width, 1, 1))
        self.conv = _convolution(weights, "4x4/Conv")
        levels = int(math.log2(resolution)) - math.floor(lod)  # log2 of the resolution that the network works at
        self.blocks = nn.ModuleList(
            nn.ModuleList(
                [_upscaling(weights, f"{size}x{size}/Conv0_up"), _convolution(weights, f"{size}x{size}/Conv1")]
            )
            for size in (2**level for level in range(3, levels + 1))
        )
        last = math.floor(lod)
        self.to_rgb = _convolution(weights, f"ToRGB_lod{last}", gain=1)
        self.to_rgb_before = _convolution(weights, f"ToRGB_lod{last + 1}", gain=1) if self.fade else None

    def forward(self, z, normalize_latents=True):
        """normalize_latents: divide z by its root mean square first, as in training."""
        x, before = self._begin(z, normalize_latents), None
        for up, conv in self.blocks:
            before = x
            x = _finish(conv(_finish(up(x))))
        images = self.to_rgb(x)
        if self.fade:
            images = torch.lerp(images, F.interpolate(self.to_rgb_before(before), scale_factor=2), self.fade)
        return F.interpolate(images, size=(self.resolution, self.resolution))

    def early_activations(self, z, y=None):
        """Return what the two 4×4 layers make of z, [N, features]."""
        return self._begin(z).flatten(1)

    def latent_weights(self):
        """Return the matrix [outputs, dim_z] of the only layer that z feeds (behind its normalisation)."""
        return self.dense.weight

    def _begin(self, z, normalize_latents=True):
        x = _pixel_norm(z) if normalize_latents else z
        x = _finish(self.dense(x).view(len(z), -1, 4, 4) + self.dense_bias)
        return _finish(self.conv(x))


def from_snapshot(tensors, metadata, where):
    """Return the Generator of a snapshot's Gs, the averaged weights. Raises SnapshotError where something is missing.

    where   the file, for messages
    """
    weights = {name[len("Gs/") :]: tensor for name, tensor in tensors.items() if name.startswith("Gs/")}
    try:
        return Generator(weights, metadata["spec"]["resolution"], metadata["lod"])
    except KeyError as missing:
        raise SnapshotError(f"{where}: an incomplete snapshot, without {missing}") from None


def _finish(x):
    return _pixel_norm(F.leaky_relu(x, LEAK))


def _pixel_norm(x):
    """x / √(mean over the channels of x² + 1e-8)"""
    return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-8)


def _scaled(weights, name, gain):
    """The run-time weight of a convolution, float64 [height, width, in, out]: N(0, 1) numbers times gain / √fan_in."""
    weight = weights[f"{name}/weight"].double()
    return weight * (gain / math.sqrt(weight[..., 0].numel()))


def _convolution(weights, name, gain=GAIN):
    weight = _scaled(weights, name, gain)
    size, _, inputs, outputs = weight.shape
    layer = nn.Conv2d(inputs, outputs, size, padding=size // 2)
    layer.weight = nn.Parameter(weight.permute(3, 2, 0, 1).contiguous().float())
    layer.bias = nn.Parameter(weights[f"{name}/bias"])
    return layer


def _upscaling(weights, name):
    """Nearest upscaling and a 3×3 convolution in one: four shifts of the kernel summed, transposed, stride 2."""
    weight = F.pad(_scaled(weights, name, GAIN).permute(2, 3, 0, 1), (1, 1, 1, 1))
    weight = weight[..., 1:, 1:] + weight[..., :-1, 1:] + weight[..., 1:, :-1] + weight[..., :-1, :-1]
    inputs, outputs = weight.shape[:2]
    layer = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)
    layer.weight = nn.Parameter(weight.contiguous().float())
    layer.bias = nn.Parameter(weights[f"{name}/bias"])
    return layer

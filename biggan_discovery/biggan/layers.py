"""Layers of BigGAN (Brock et al. 2019), with the parameter and buffer names of the published state dicts."""

import torch
import torch.nn.functional as F
from torch import nn

# ----------------------------------------------------------------------------------------------------------------------
# Spectral normalisation


class SpectralNorm:
    """Mixin: `normalised_weight()` is the weight over an estimate σ of its largest singular value (Miyato et al. 2018).

    σ = ‖W v‖ with v = u0 W / ‖u0 W‖ and W the weight as [outputs, rest]: one power iteration from the stored vector
    u0 [1, outputs]. In training u0 moves on at every call and sv0 [1] keeps σ; in evaluation mode both stay, so that
    the normalised weight is a constant, computed once.
    """

    sn_eps = 1e-6  # vectors shorter than this are not scaled up to length 1

    def add_spectral_norm(self):
        self.register_buffer("u0", F.normalize(torch.randn(1, self.weight.shape[0]), eps=self.sn_eps))
        self.register_buffer("sv0", torch.ones(1))
        self._constant = (None, None)

    def normalised_weight(self):
        if self.training or (torch.is_grad_enabled() and self.weight.requires_grad):
            return self._normalise()
        # In place of a flag that someone might forget to reset: a tensor's version counts the changes made to it.
        key = [(id(t), t._version, t.data_ptr(), t.dtype) for t in (self.weight, self.u0)]
        if self._constant[0] != key:
            with torch.no_grad():
                self._constant = (key, self._normalise())
        return self._constant[1]

    def _normalise(self):
        matrix = self.weight.flatten(1)
        with torch.no_grad():
            v = F.normalize(self.u0 @ matrix, eps=self.sn_eps)
            u = F.normalize(v @ matrix.t(), eps=self.sn_eps)
        sigma = (v @ matrix.t() @ u.t()).squeeze()
        if self.training:
            self.u0.copy_(u)
            self.sv0.fill_(sigma.detach())
        return self.weight / sigma


class SNLinear(SpectralNorm, nn.Linear):
    """A linear layer with spectral normalisation."""

    def __init__(self, inputs, outputs, bias=True):
        super().__init__(inputs, outputs, bias)
        self.add_spectral_norm()

    def forward(self, x):
        return F.linear(x, self.normalised_weight(), self.bias)


class SNConv2d(SpectralNorm, nn.Conv2d):
    """A convolution that keeps height and width, with spectral normalisation."""

    def __init__(self, inputs, outputs, kernel_size, bias=True):
        super().__init__(inputs, outputs, kernel_size, padding=kernel_size // 2, bias=bias)
        self.add_spectral_norm()

    def forward(self, x):
        return F.conv2d(x, self.normalised_weight(), self.bias, padding=self.padding)


class SNEmbedding(SpectralNorm, nn.Embedding):
    """A table of vectors with spectral normalisation."""

    def __init__(self, count, size):
        super().__init__(count, size)
        self.add_spectral_norm()

    def forward(self, y):
        return F.embedding(y, self.normalised_weight())


# ----------------------------------------------------------------------------------------------------------------------
# Batch normalisation with stored statistics


class StoredStatistics(nn.Module):
    """What both batch normalisations share: x -> (x − mean) / √(var + ε) · gain + bias.

    In training mean and variance are the batch's and the stored ones follow them; in evaluation mode they are the
    stored ones, and everything is one multiplication and one addition. `momentum` None takes the stored ones as the
    plain average of all batches since `reset_statistics`.
    """

    eps = 1e-5
    momentum = 0.1

    def __init__(self, channels):
        super().__init__()
        self.register_buffer("stored_mean", torch.zeros(channels))
        self.register_buffer("stored_var", torch.ones(channels))
        self._batches = 0

    def reset_statistics(self):
        self.stored_mean.zero_()
        self.stored_var.zero_()
        self._batches = 0

    def normalise(self, x, gain, bias):
        """x [N, C, H, W]; gain and bias [N or 1, C]."""
        gain, bias = gain[:, :, None, None], bias[:, :, None, None]
        if self.training:
            self._batches += 1
            momentum = 1 / self._batches if self.momentum is None else self.momentum
            normal = F.batch_norm(x, self.stored_mean, self.stored_var, None, None, True, momentum, self.eps)
            return torch.addcmul(bias, normal, gain)
        scale = gain * torch.rsqrt(self.stored_var + self.eps)[:, None, None]
        return torch.addcmul(bias - self.stored_mean[:, None, None] * scale, x, scale)


class BatchNorm(StoredStatistics):
    """Batch normalisation with a gain and a bias of its own."""

    def __init__(self, channels):
        super().__init__(channels)
        self.gain = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        return self.normalise(x, self.gain[None], self.bias[None])


class ConditionalBatchNorm(StoredStatistics):
    """Batch normalisation whose gain, 1 + a linear map, and bias, another, depend on a condition [N, condition]."""

    def __init__(self, channels, condition):
        super().__init__(channels)
        self.gain = SNLinear(condition, channels, bias=False)
        self.bias = SNLinear(condition, channels, bias=False)

    def forward(self, x, condition):
        return self.normalise(x, 1 + self.gain(condition), self.bias(condition))


# ----------------------------------------------------------------------------------------------------------------------
# Blocks


class Attention(nn.Module):
    """Self-attention over positions (Zhang et al. 2019): x + γ·o(attention), no biases, no scaling before the softmax.

    Queries θ and keys φ have an eighth of the channels, values g half of them; φ and g are max-pooled 2×2.
    """

    def __init__(self, channels):
        super().__init__()
        self.theta = SNConv2d(channels, channels // 8, 1, bias=False)
        self.phi = SNConv2d(channels, channels // 8, 1, bias=False)
        self.g = SNConv2d(channels, channels // 2, 1, bias=False)
        self.o = SNConv2d(channels // 2, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.tensor(0.0))

    def forward(self, x):
        return x + self.gamma * self.o(attend(self.theta(x), self.phi(x), self.g(x)))


def attend(queries, keys, values):
    """At each position of queries [N, C, H, W] the softmax-weighted mean of values at the positions of keys."""
    height, width = queries.shape[2:]
    queries, keys, values = queries.flatten(2), F.max_pool2d(keys, 2).flatten(2), F.max_pool2d(values, 2).flatten(2)
    weights = torch.softmax(queries.transpose(1, 2) @ keys, dim=-1)  # [N, positions, positions / 4]
    return (values @ weights.transpose(1, 2)).unflatten(2, (height, width))


class GeneratorBlock(nn.Module):
    """Residual block that doubles height and width: BN, ReLU, upsample, conv, BN, ReLU, conv; plus a 1×1 conv of x."""

    def __init__(self, inputs, outputs, condition):
        super().__init__()
        self.bn1 = ConditionalBatchNorm(inputs, condition)
        self.conv1 = SNConv2d(inputs, outputs, 3)
        self.bn2 = ConditionalBatchNorm(outputs, condition)
        self.conv2 = SNConv2d(outputs, outputs, 3)
        self.conv_sc = SNConv2d(inputs, outputs, 1)

    def forward(self, x, condition):
        h = self.conv1(upsample(torch.relu(self.bn1(x, condition))))
        h = self.conv2(torch.relu(self.bn2(h, condition)))
        return h + upsample(self.conv_sc(x))  # a 1×1 convolution and nearest upsampling commute: a quarter of the work


class DiscriminatorBlock(nn.Module):
    """Residual block: ReLU (but for the first block, which sees the image), conv, ReLU, conv, and 2×2 mean pooling."""

    def __init__(self, inputs, outputs, downsample, first):
        super().__init__()
        self.downsample, self.first = downsample, first
        self.conv1 = SNConv2d(inputs, outputs, 3)
        self.conv2 = SNConv2d(outputs, outputs, 3)
        if downsample or inputs != outputs:
            self.conv_sc = SNConv2d(inputs, outputs, 1)

    def forward(self, x):
        h = self.conv2(torch.relu(self.conv1(x if self.first else torch.relu(x))))
        if self.downsample:  # pooling and a 1×1 convolution commute too
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        return h + (self.conv_sc(x) if hasattr(self, "conv_sc") else x)


def upsample(x):
    """Nearest neighbour, twice the height and width."""
    return F.interpolate(x, scale_factor=2)

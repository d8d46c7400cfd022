"""BigGAN-deep (Brock et al. 2019, Appendix B) in the format of the package pytorch-pretrained-biggan, for use only.

That package's weights, converted from DeepMind's 128, 256 and 512 px models, load with strict=True and give its images.
"""

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import nn

from biggan.layers import SpectralNorm, attend, upsample

BOTTOM = 4  # height and width of the first feature map
REDUCTION = 4  # a residual block works on this many times fewer feature maps than it takes


@dataclasses.dataclass(frozen=True)
class DeepSpec:
    """What decides the shapes of a generator's weights, and the little that shapes do not show.

    blocks       (feature maps in, feature maps out, whether it doubles the resolution) of each residual block
    attention    number of the block that self-attention stands in front of, or None
    num_classes  classes that y tells apart
    dim_z        components of z, and the size of the class embedding
    n_stats      rows of stored statistics: for truncations 0, 1/(n_stats − 1), …, 1
    eps          added to variances
    """

    blocks: tuple
    attention: int
    num_classes: int
    dim_z: int
    n_stats: int = 51
    eps: float = 1e-4

    @property
    def resolution(self):
        return BOTTOM << sum(up for _, _, up in self.blocks)


class Generator(nn.Module):
    """G(z [N, dim_z], y int64 [N]) -> images [N, 3, resolution, resolution] in [-1, 1].

    truncation   in (0, 1]: which stored statistics batch normalisation takes. It should be the one that z is drawn
                 with; 1, the default, goes with z ~ N(0, I)
    """

    image_range = (-1.0, 1.0)

    def __init__(self, spec):
        super().__init__()
        self.spec, self.dim_z, self.num_classes, self.truncation = spec, spec.dim_z, spec.num_classes, 1.0
        self.embeddings = nn.Linear(spec.num_classes, spec.dim_z, bias=False)
        self.generator = _Layers(spec)

    def forward(self, z, y, truncation=None):
        condition = self._condition(z, y)
        h = self.generator.first(condition)
        row = self._row(truncation)
        for layer in self.generator.layers:
            h = layer(h, condition, row)
        return self.generator.last(h, row)

    def early_activations(self, z, y):
        """Return the output of the first residual block, [N, features]."""
        condition = self._condition(z, y)
        h = self.generator.first(condition)
        return self.generator.layers[0](h, condition, self._row()).flatten(1)

    def latent_weights(self):
        """Return the matrix [outputs, dim_z] of all linear maps that z feeds, one below the other.

        They are the first layer and the gains and biases of every conditional batch normalisation; all see all of z.
        """
        maps = [self.generator.gen_z]
        for block in self.generator.layers:
            if isinstance(block, Block):
                maps += [each for norm in block.norms() for each in (norm.scale, norm.offset)]
        return torch.cat([each.normalised_weight()[:, : self.dim_z] for each in maps])

    def _condition(self, z, y):
        return torch.cat([z, F.embedding(y, self.embeddings.weight.t())], dim=1)

    def _row(self, truncation=None):
        """Where in the stored statistics a truncation stands: the row (of an integer part and a fraction)."""
        truncation = self.truncation if truncation is None else truncation
        if not 0 < truncation <= 1:
            raise ValueError(f"truncation must be greater than 0 and at most 1, got {truncation}")
        return truncation / (1 / (self.spec.n_stats - 1))


class _Layers(nn.Module):
    """The network behind the class embedding; its attributes are named as in the weights."""

    def __init__(self, spec):
        super().__init__()
        condition = 2 * spec.dim_z
        first, last = spec.blocks[0][0], spec.blocks[-1][1]
        self.gen_z = SNLinear(condition, BOTTOM * BOTTOM * first)
        layers = []
        for number, (inputs, outputs, up) in enumerate(spec.blocks):
            if number == spec.attention:
                layers.append(Attention(inputs))
            layers.append(Block(inputs, outputs, up, condition, spec))
        self.layers = nn.ModuleList(layers)
        self.bn = BatchNorm(last, spec)
        self.conv_to_rgb = SNConv2d(last, last, 3)

    def first(self, condition):
        """The first feature map. The linear layer's outputs are in TensorFlow's order: height, width, channel."""
        return self.gen_z(condition).view(len(condition), BOTTOM, BOTTOM, -1).permute(0, 3, 1, 2).contiguous()

    def last(self, h, row):
        """Images of the last feature map: of the convolution's outputs only the first three are used."""
        weight, bias = self.conv_to_rgb.normalised_weight()[:3], self.conv_to_rgb.bias[:3]
        return torch.tanh(F.conv2d(torch.relu(self.bn(h, row)), weight, bias, padding=1))


def deep_spec(state, config=None):
    """Return the DeepSpec of a state dict ({name: tensor}).

    config   the weights' config.json, if it is there. Without it every second block doubles the resolution, and eps is
             1e-4, as in all published models.

    Raises ValueError where it is not the state dict of such a generator. Shapes that do not fit together are left to
    `load_state_dict`.
    """
    prefix = "generator.layers."
    numbers = sorted({int(name[len(prefix) :].split(".")[0]) for name in state if name.startswith(prefix)})
    blocks = [number for number in numbers if f"{prefix}{number}.conv_0.weight_orig" in state]
    attention = [number for number in numbers if f"{prefix}{number}.gamma" in state]
    needed = ["embeddings.weight", "generator.gen_z.weight_orig", "generator.bn.running_means"]
    needed += [f"{prefix}{number}.{name}.weight_orig" for number in blocks for name in ("bn_0.scale", "conv_3")]
    missing = [name for name in needed if name not in state]
    if missing or not blocks or numbers != list(range(len(blocks) + len(attention))) or len(attention) > 1:
        raise ValueError(f"no tensor {missing[0]}" if missing else "its layers are not those of a BigGAN-deep")
    config = config or {}
    ups = [bool(layer[0]) for layer in config.get("layers", [])] or [bool(index % 2) for index in range(len(blocks))]
    if len(ups) != len(blocks):
        raise ValueError(f"config.json has {len(ups)} blocks, the weights have {len(blocks)}")
    inputs = [state[f"{prefix}{number}.bn_0.scale.weight_orig"].shape[0] for number in blocks]
    outputs = [state[f"{prefix}{number}.conv_3.weight_orig"].shape[0] for number in blocks]
    dim_z, num_classes = state["embeddings.weight"].shape
    return DeepSpec(
        blocks=tuple(zip(inputs, outputs, ups)),
        attention=attention[0] if attention else None,
        num_classes=num_classes,
        dim_z=dim_z,
        n_stats=state["generator.bn.running_means"].shape[0],
        eps=float(config.get("eps", 1e-4)),
    )


# ----------------------------------------------------------------------------------------------------------------------
# Layers


class _StoredSpectralNorm(SpectralNorm):
    """Spectral normalisation as PyTorch's own: σ = u·(W v) with both vectors stored, W as [outputs, rest]."""

    weight = property(lambda self: self.weight_orig)
    u0 = property(lambda self: self.weight_u)  # changes to it make the base class compute the weight anew

    def add_weight(self, weight, bias):
        self.weight_orig = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(len(weight))) if bias else None
        self.register_buffer("weight_u", F.normalize(torch.randn(len(weight)), dim=0))
        self.register_buffer("weight_v", F.normalize(torch.randn(weight[0].numel()), dim=0))
        self._constant = (None, None)

    def _normalise(self):
        return self.weight_orig / torch.dot(self.weight_u, self.weight_orig.flatten(1) @ self.weight_v)


class SNLinear(_StoredSpectralNorm, nn.Module):
    def __init__(self, inputs, outputs, bias=True):
        super().__init__()
        self.add_weight(torch.randn(outputs, inputs) / math.sqrt(inputs), bias)

    def forward(self, x):
        return F.linear(x, self.normalised_weight(), self.bias)


class SNConv2d(_StoredSpectralNorm, nn.Module):
    """A convolution that keeps height and width."""

    def __init__(self, inputs, outputs, kernel_size, bias=True):
        super().__init__()
        fan_in = inputs * kernel_size**2
        self.add_weight(torch.randn(outputs, inputs, kernel_size, kernel_size) / math.sqrt(fan_in), bias)

    def forward(self, x):
        return F.conv2d(x, self.normalised_weight(), self.bias, padding=self.weight_orig.shape[-1] // 2)


class _Statistics(nn.Module):
    """Means and variances of the feature maps, a row for each of n_stats truncations."""

    def __init__(self, channels, spec):
        super().__init__()
        self.eps = spec.eps
        self.register_buffer("running_means", torch.zeros(spec.n_stats, channels))
        self.register_buffer("running_vars", torch.ones(spec.n_stats, channels))

    def normalise(self, x, row, gain, bias):
        """(x − mean) / √(variance + ε) · gain + bias, as one multiplication and one addition; gain, bias [N or 1, C].

        Between two rows the package gives the lower one the weight that belongs to the upper one, and the other way
        round. Its images are the standard here, so it is done its way; multiples of 1/(n_stats − 1) are exact.
        """
        fraction, whole = math.modf(row)
        mean, variance = self.running_means[int(whole)], self.running_vars[int(whole)]
        if fraction:
            mean = mean * fraction + self.running_means[int(whole) + 1] * (1 - fraction)
            variance = variance * fraction + self.running_vars[int(whole) + 1] * (1 - fraction)
        scale = gain * torch.rsqrt(variance + self.eps)
        return torch.addcmul((bias - mean * scale)[:, :, None, None], x, scale[:, :, None, None])


class BatchNorm(_Statistics):
    """Batch normalisation with a gain and a bias of its own."""

    def __init__(self, channels, spec):
        super().__init__(channels, spec)
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x, row):
        return self.normalise(x, row, self.weight[None], self.bias[None])


class ConditionalBatchNorm(_Statistics):
    """Batch normalisation whose gain, 1 + a linear map, and bias, another, depend on a condition."""

    def __init__(self, channels, condition, spec):
        super().__init__(channels, spec)
        self.scale = SNLinear(condition, channels, bias=False)
        self.offset = SNLinear(condition, channels, bias=False)

    def forward(self, x, condition, row):
        return self.normalise(x, row, 1 + self.scale(condition), self.offset(condition))


class Block(nn.Module):
    """Residual block: four times BN, ReLU, conv (1×1 down to a quarter of the maps, 3×3, 3×3, 1×1 up again).

    The way past it drops the last feature maps where there are fewer outputs than inputs.
    """

    def __init__(self, inputs, outputs, up, condition, spec):
        super().__init__()
        self.outputs, self.up, middle = outputs, up, inputs // REDUCTION
        self.bn_0 = ConditionalBatchNorm(inputs, condition, spec)
        self.conv_0 = SNConv2d(inputs, middle, 1)
        self.bn_1 = ConditionalBatchNorm(middle, condition, spec)
        self.conv_1 = SNConv2d(middle, middle, 3)
        self.bn_2 = ConditionalBatchNorm(middle, condition, spec)
        self.conv_2 = SNConv2d(middle, middle, 3)
        self.bn_3 = ConditionalBatchNorm(middle, condition, spec)
        self.conv_3 = SNConv2d(middle, outputs, 1)

    def norms(self):
        return self.bn_0, self.bn_1, self.bn_2, self.bn_3

    def forward(self, x, condition, row):
        h = self.conv_0(torch.relu(self.bn_0(x, condition, row)))
        h = torch.relu(self.bn_1(h, condition, row))
        h = self.conv_1(upsample(h) if self.up else h)
        h = self.conv_2(torch.relu(self.bn_2(h, condition, row)))
        h = self.conv_3(torch.relu(self.bn_3(h, condition, row)))
        past = x[:, : self.outputs]
        return h + (upsample(past) if self.up else past)


class Attention(nn.Module):
    """Self-attention over positions (Zhang et al. 2019), under the names of this format."""

    def __init__(self, channels):
        super().__init__()
        self.snconv1x1_theta = SNConv2d(channels, channels // 8, 1, bias=False)
        self.snconv1x1_phi = SNConv2d(channels, channels // 8, 1, bias=False)
        self.snconv1x1_g = SNConv2d(channels, channels // 2, 1, bias=False)
        self.snconv1x1_o_conv = SNConv2d(channels // 2, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x, condition, row):
        attended = attend(self.snconv1x1_theta(x), self.snconv1x1_phi(x), self.snconv1x1_g(x))
        return x + self.gamma * self.snconv1x1_o_conv(attended)

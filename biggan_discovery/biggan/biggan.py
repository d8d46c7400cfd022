"""BigGAN (Brock et al. 2019): generator and discriminator, compatible with the published PyTorch state dicts."""

import dataclasses

import torch
from torch import nn

from biggan.layers import (
    Attention,
    BatchNorm,
    ConditionalBatchNorm,
    DiscriminatorBlock,
    GeneratorBlock,
    SNConv2d,
    SNEmbedding,
    SNLinear,
)

BOTTOM = 4  # height and width of the first feature map

# ----------------------------------------------------------------------------------------------------------------------
# Generator


@dataclasses.dataclass(frozen=True)
class GeneratorSpec:
    """What decides the shapes of a generator's weights.

    widths        feature maps of the first 4×4 map and after each residual block; every block doubles the resolution
    num_classes   classes that y tells apart
    dim_z         components of z
    shared_dim    size of the class embedding that all blocks share
    hierarchical  z is cut into one chunk for the first linear layer and one for each block; otherwise all of it feeds
                  the linear layer
    attention     resolutions after whose block there is self-attention
    channels      of an image
    """

    widths: tuple
    num_classes: int
    dim_z: int
    shared_dim: int
    hierarchical: bool = True
    attention: tuple = ()
    channels: int = 3

    @property
    def resolution(self):
        return BOTTOM << (len(self.widths) - 1)

    @property
    def chunk(self):
        """Components of z that feed the first linear layer."""
        return self.dim_z // len(self.widths) if self.hierarchical else self.dim_z


def published_spec(ch=96, resolution=128, num_classes=1000):
    """Return the GeneratorSpec of the published models: base width `ch`, chunks of 20, so that 128 px has dim_z 120."""
    multiples = {
        32: (4, 4, 4, 4),
        64: (16, 16, 8, 4, 2),
        128: (16, 16, 8, 4, 2, 1),
        256: (16, 16, 8, 8, 4, 2, 1),
    }[resolution]
    return GeneratorSpec(
        widths=tuple(multiple * ch for multiple in multiples),
        num_classes=num_classes,
        dim_z=20 * len(multiples),
        shared_dim=128,
        attention=(64,) if resolution > 32 else (),
    )


class Generator(nn.Module):
    """G(z [N, dim_z], y int64 [N]) -> images [N, channels, resolution, resolution] in [-1, 1].

    `load_state_dict` of a published G_ema.pth works with strict=True.
    """

    image_range = (-1.0, 1.0)

    def __init__(self, spec):
        super().__init__()
        self.spec, self.dim_z, self.num_classes = spec, spec.dim_z, spec.num_classes
        condition = spec.shared_dim + (spec.chunk if spec.hierarchical else 0)
        self.shared = nn.Embedding(spec.num_classes, spec.shared_dim)
        self.linear = SNLinear(spec.chunk, spec.widths[0] * BOTTOM**2)
        self.blocks = nn.ModuleList()
        for index, (inputs, outputs) in enumerate(zip(spec.widths, spec.widths[1:])):
            stage = [GeneratorBlock(inputs, outputs, condition)]
            if BOTTOM << (index + 1) in spec.attention:
                stage.append(Attention(outputs))
            self.blocks.append(nn.ModuleList(stage))
        self.output_layer = nn.Sequential(
            BatchNorm(spec.widths[-1]), nn.ReLU(), SNConv2d(spec.widths[-1], spec.channels, 3)
        )

    def forward(self, z, y):
        h, conditions = self._begin(z, y)
        for stage, condition in zip(self.blocks, conditions):
            h = _apply_stage(stage, h, condition)
        return torch.tanh(self.output_layer(h))

    def early_activations(self, z, y):
        """Return the output of the first residual block, [N, features]."""
        h, conditions = self._begin(z, y)
        return self.blocks[0][0](h, conditions[0]).flatten(1)

    def latent_weights(self):
        """Return the matrix [outputs, dim_z] of all linear maps that z feeds, one below the other.

        They are the first linear layer and the gains and biases of every conditional batch normalisation; a map has
        zeros for the chunks of z that it does not see.
        """
        spec, maps = self.spec, [(0, self.linear.normalised_weight())]
        for index, stage in enumerate(self.blocks if spec.hierarchical else []):
            for norm in (stage[0].bn1, stage[0].bn2):
                maps += [((index + 1) * spec.chunk, each.normalised_weight()) for each in (norm.gain, norm.bias)]
        rows = []
        for begin, weight in maps:
            row = weight.new_zeros(len(weight), spec.dim_z)
            row[:, begin : begin + spec.chunk] = weight[:, -spec.chunk :]  # before it stands the class embedding
            rows.append(row)
        return torch.cat(rows)

    def _begin(self, z, y):
        """Return the first feature map and the condition of every block."""
        embedding = self.shared(y)
        blocks = len(self.blocks)
        if self.spec.hierarchical:
            first, *chunks = z.split(self.spec.chunk, dim=1)
            conditions = [torch.cat([embedding, chunk], dim=1) for chunk in chunks]
        else:
            first, conditions = z, [embedding] * blocks
        return self.linear(first).view(len(z), self.spec.widths[0], BOTTOM, BOTTOM), conditions


def _apply_stage(stage, h, condition):
    h = stage[0](h, condition)
    return stage[1](h) if len(stage) > 1 else h


def generator_spec(state):
    """Return the GeneratorSpec that a generator's state dict ({name: tensor}) was made with.

    Raises ValueError where it is not the state dict of such a generator. Shapes that do not fit together are left to
    `load_state_dict`.
    """
    blocks = sorted({int(name.split(".")[1]) for name in state if name.startswith("blocks.")})
    needed = ["shared.weight", "linear.weight", "output_layer.2.weight"]
    needed += [f"blocks.{index}.0.{name}.weight" for index in blocks for name in ("conv1", "bn1.gain")]
    missing = [name for name in needed if name not in state]
    if missing or not blocks or blocks != list(range(len(blocks))):
        raise ValueError(f"no tensor {missing[0]}" if missing else "its blocks are not numbered 0, 1, 2, …")
    convolutions = [state[f"blocks.{index}.0.conv1.weight"] for index in blocks]
    num_classes, shared_dim = state["shared.weight"].shape
    first, condition = state["linear.weight"].shape[1], state["blocks.0.0.bn1.gain.weight"].shape[1]
    hierarchical = condition > shared_dim
    return GeneratorSpec(
        widths=(convolutions[0].shape[1], *[weight.shape[0] for weight in convolutions]),
        num_classes=num_classes,
        dim_z=first * (len(blocks) + 1) if hierarchical else first,
        shared_dim=shared_dim,
        hierarchical=hierarchical,
        attention=tuple(BOTTOM << (index + 1) for index in blocks if f"blocks.{index}.1.gamma" in state),
        channels=state["output_layer.2.weight"].shape[0],
    )


# ----------------------------------------------------------------------------------------------------------------------
# Discriminator


@dataclasses.dataclass(frozen=True)
class DiscriminatorSpec:
    """What decides the shapes of a discriminator's weights.

    widths        feature maps after each residual block
    resolution    of the images; blocks halve it until the maps are 4×4 (as far as there are blocks), the others keep it
    """

    widths: tuple
    resolution: int
    num_classes: int
    attention: tuple = ()
    channels: int = 3


class Discriminator(nn.Module):
    """D(x [N, C, H, W], y int64 [N]) -> scores [N, 1]: linear in the features plus their projection on y's embedding.

    (Miyato & Koyama 2018.) The features are the last maps, summed over positions.
    """

    def __init__(self, spec):
        super().__init__()
        self.spec = spec
        self.blocks = nn.ModuleList()
        inputs, resolution = spec.channels, spec.resolution
        for index, outputs in enumerate(spec.widths):
            downsample = resolution > BOTTOM
            stage = [DiscriminatorBlock(inputs, outputs, downsample, first=index == 0)]
            resolution = resolution // 2 if downsample else resolution
            if resolution in spec.attention and downsample:
                stage.append(Attention(outputs))
            self.blocks.append(nn.Sequential(*stage))
            inputs = outputs
        self.linear = SNLinear(inputs, 1)
        self.embed = SNEmbedding(spec.num_classes, inputs)

    def forward(self, x, y):
        for stage in self.blocks:
            x = stage(x)
        features = torch.relu(x).sum((2, 3))
        return self.linear(features) + (self.embed(y) * features).sum(1, keepdim=True)


# ----------------------------------------------------------------------------------------------------------------------
# First values, statistics


def initialise(network):
    """Give every weight an orthogonal matrix (as [outputs, rest]) and every bias 0, as BigGAN starts.

    A generator's last gain is 1/2 to begin with, for images of about the contrast of photographs: where tanh saturates
    at the start, some latents never come back from it in a short training.
    """
    for module in network.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.Embedding)):
            nn.init.orthogonal_(module.weight)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)
    if isinstance(network, Generator):
        nn.init.constant_(network.output_layer[0].gain, 0.5)
    return network


def collect_statistics(generator, batches):
    """Set the stored statistics of all batch normalisations to their averages over `batches` of (z, y).

    Called standing statistics in Brock et al. 2019, Appendix: what a moving average of weights needs, since it has
    seen no batch itself. Nothing else of the generator changes.
    """
    norms = [module for module in generator.modules() if isinstance(module, (BatchNorm, ConditionalBatchNorm))]
    generator.eval()
    for norm in norms:
        norm.reset_statistics()
        norm.momentum = None
        norm.training = True  # its own flag only: the linear maps of its condition stay in evaluation mode
    with torch.no_grad():
        for z, y in batches:
            generator(z, y)
    for norm in norms:
        norm.momentum = type(norm).momentum
        norm.training = False

"""BigGAN's networks: names and shapes of the published weights, and a forward pass that plain NumPy repeats."""

import dataclasses

import numpy as np
import numpy_biggan
import pytest
import torch

from biggan.biggan import (
    Discriminator,
    DiscriminatorSpec,
    Generator,
    GeneratorSpec,
    collect_statistics,
    generator_spec,
    initialise,
    published_spec,
)

SMALL = GeneratorSpec(widths=(16, 16, 8), num_classes=3, dim_z=9, shared_dim=5, attention=(8,))
FLAT = dataclasses.replace(SMALL, dim_z=4, hierarchical=False, attention=(), channels=1)


def randomised(network, seed=0):
    """Every parameter and buffer drawn at random (variances positive), in float64, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    network = network.double().eval().requires_grad_(False)
    for name, tensor in network.state_dict().items():
        drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        tensor.copy_(drawn.abs() + 0.5 if name.endswith("var") else 0.7 * drawn)
    return network


def arrays(network):
    return {name: tensor.numpy() for name, tensor in network.state_dict().items()}


def latents(spec, count=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(count, spec.dim_z, generator=generator, dtype=torch.float64)
    return z, torch.randint(spec.num_classes, [count], generator=generator)


# ----------------------------------------------------------------------------------------------------------------------
# Names and shapes


def published_shapes():
    """{name: shape} of the published 128-px generator, written out from its description."""
    ch, condition = 96, 128 + 20
    shapes = {"shared.weight": (1000, 128)}

    def normalised(name, *shape, bias=True):
        shapes.update({f"{name}.weight": shape, f"{name}.u0": (1, shape[0]), f"{name}.sv0": (1,)})
        if bias:
            shapes[f"{name}.bias"] = (shape[0],)

    normalised("linear", 4 * 4 * 16 * ch, 20)
    for index, (inputs, outputs) in enumerate([(16, 16), (16, 8), (8, 4), (4, 2), (2, 1)]):
        inputs, outputs = inputs * ch, outputs * ch
        for conv, fan_in, size in (("conv1", inputs, 3), ("conv2", outputs, 3), ("conv_sc", inputs, 1)):
            normalised(f"blocks.{index}.0.{conv}", outputs, fan_in, size, size)
        for norm, maps in (("bn1", inputs), ("bn2", outputs)):
            for part in ("gain", "bias"):
                normalised(f"blocks.{index}.0.{norm}.{part}", maps, condition, bias=False)
            shapes.update({f"blocks.{index}.0.{norm}.stored_{kind}": (maps,) for kind in ("mean", "var")})
    maps = 2 * ch  # of the block whose output is 64×64
    for part, fan_out, fan_in in (("theta", 24, maps), ("phi", 24, maps), ("g", 96, maps), ("o", maps, 96)):
        normalised(f"blocks.3.1.{part}", fan_out, fan_in, 1, 1, bias=False)
    shapes["blocks.3.1.gamma"] = ()
    shapes.update({f"output_layer.0.{name}": (ch,) for name in ("gain", "bias", "stored_mean", "stored_var")})
    normalised("output_layer.2", 3, ch, 3, 3)
    return shapes


def test_names_and_shapes_are_the_published_ones():
    G = Generator(published_spec(ch=96, resolution=128))
    assert {name: tuple(tensor.shape) for name, tensor in G.state_dict().items()} == published_shapes()
    assert (G.dim_z, G.num_classes, G.spec.resolution) == (120, 1000, 128)


@pytest.mark.parametrize("spec", [SMALL, FLAT, published_spec(8, 128, 10), published_spec(4, 256, 10)])
def test_the_architecture_is_read_from_names_and_shapes(spec):
    G = Generator(spec)
    assert generator_spec(G.state_dict()) == spec
    G.load_state_dict(Generator(spec).state_dict(), strict=True)


@pytest.mark.parametrize(
    "without", ["shared.weight", "linear.weight", "blocks.0.0.conv1.weight", "output_layer.2.weight"]
)
def test_other_state_dicts_are_recognised(without):
    state = Generator(SMALL).state_dict()
    del state[without]
    with pytest.raises(ValueError, match=without.replace(".", r"\.")):
        generator_spec(state)
    with pytest.raises(ValueError, match="shared"):
        generator_spec(Discriminator(DiscriminatorSpec((8, 8), 8, 3)).state_dict())


# ----------------------------------------------------------------------------------------------------------------------
# Values


@pytest.mark.parametrize("spec", [SMALL, FLAT])
def test_images_equal_a_naive_forward_pass(spec):
    G = randomised(Generator(spec))
    z, y = latents(spec)
    chunks = [3, 3, 3] if spec.hierarchical else [4, 0, 0]
    expected = numpy_biggan.generator(arrays(G), z.numpy(), y.numpy(), chunks)
    assert expected.shape == (2, spec.channels, 16, 16) and 0.1 < expected.std() < 0.99
    np.testing.assert_allclose(G(z, y).numpy(), expected, atol=1e-10)


def test_scores_equal_a_naive_forward_pass():
    D = randomised(Discriminator(DiscriminatorSpec((8, 16, 16), 16, 3, attention=(8,))))
    x, y = torch.randn(2, 3, 16, 16, dtype=torch.float64), torch.tensor([2, 0])
    expected = numpy_biggan.discriminator(arrays(D), x.numpy(), y.numpy(), [True, True, False])
    np.testing.assert_allclose(D(x, y)[:, 0].numpy(), expected, rtol=1e-9)


def test_the_normalised_weight_follows_the_weight():
    """It is computed once, and again after any change: by an optimiser, a loaded state, a cast."""
    layer = randomised(Discriminator(DiscriminatorSpec((4,), 8, 3))).linear
    first = layer.normalised_weight()
    assert layer.normalised_weight() is first
    layer.weight.mul_(torch.tensor([[2.0, 1, 1, 1]]))
    second = layer.normalised_weight()
    assert not torch.equal(first, second)
    layer.u0.neg_()
    layer.load_state_dict(dict(layer.state_dict(), weight=torch.ones(1, 4)))
    torch.testing.assert_close(layer.normalised_weight(), torch.full([1, 4], 0.5, dtype=torch.float64))
    assert layer.float().normalised_weight().dtype == torch.float32


def test_evaluation_changes_no_buffer_and_training_follows_the_largest_singular_value():
    layer = initialise(Discriminator(DiscriminatorSpec((8, 8), 8, 3))).blocks[0][0].conv1
    torch.nn.init.normal_(layer.weight)
    x = torch.randn(1, 3, 8, 8)
    layer.eval()
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    layer(x)
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())
    layer.train()
    for _ in range(200):
        layer(x)
    largest = np.linalg.norm(layer.weight.detach().flatten(1).numpy(), 2)
    assert abs(layer.sv0.item() - largest) < 1e-4 * largest


def test_the_gradient_runs_through_sigma():
    """d(W/σ)/dW by autograd equals central differences with the singular vectors held."""
    layer = randomised(Discriminator(DiscriminatorSpec((4,), 8, 3))).linear
    weight, change = layer.weight.clone(), torch.randn_like(layer.weight)

    def outcome(w):
        layer.weight.data.copy_(w)
        return layer._normalise()[0, 0]

    numeric = (outcome(weight + 1e-6 * change) - outcome(weight - 1e-6 * change)) / 2e-6
    layer.weight.data.copy_(weight)
    layer.requires_grad_(True)
    layer.normalised_weight()[0, 0].backward()
    assert abs((layer.weight.grad * change).sum() - numeric) < 1e-7


# ----------------------------------------------------------------------------------------------------------------------
# What discovery asks of a generator


@pytest.mark.parametrize("spec", [SMALL, FLAT])
def test_latent_weights_are_all_that_z_feeds(spec):
    """Moving z along the null space of the matrix changes no image; along its rows it does."""
    G = randomised(Generator(spec))
    narrow = 2  # let no layer see the second entry of its chunk
    with torch.no_grad():
        G.linear.weight[:, narrow - 1] = 0
        for stage in G.blocks if spec.hierarchical else []:
            for norm in (stage[0].bn1, stage[0].bn2):
                for part in (norm.gain, norm.bias):
                    part.weight[:, spec.shared_dim + narrow - 1] = 0
    W = G.latent_weights()
    assert W.shape[1] == spec.dim_z
    _, values, rows = torch.linalg.svd(W, full_matrices=True)
    unseen = [row for row, value in zip(rows, values) if value < 1e-10]
    assert len(unseen) == (3 if spec.hierarchical else 1)
    z, y = latents(spec)
    for row in unseen:
        torch.testing.assert_close(G(z + 3 * row, y), G(z, y), atol=1e-9, rtol=0)
    assert (G(z + 3 * rows[0], y) - G(z, y)).abs().max() > 1e-3


def test_early_activations_do_not_see_the_later_chunks():
    G = randomised(Generator(SMALL))
    z, y = latents(SMALL)
    activations = G.early_activations(z, y)
    assert activations.shape == (2, 16 * 8 * 8)
    moved = z.clone()
    moved[:, 6:] += 1
    assert torch.equal(G.early_activations(moved, y), activations)
    moved[:, 3:] += 1
    assert not torch.allclose(G.early_activations(moved, y), activations)


# ----------------------------------------------------------------------------------------------------------------------
# First values, statistics


def test_first_weights_are_orthogonal():
    for module in initialise(Generator(SMALL)).modules():
        if hasattr(module, "weight"):
            matrix = module.weight.detach().flatten(1)
            matrix = matrix if len(matrix) < matrix.shape[1] else matrix.t()
            torch.testing.assert_close(matrix @ matrix.t(), torch.eye(len(matrix)), atol=1e-5, rtol=0)


def test_collected_statistics_are_those_of_all_batches_together():
    """With equal batches the mean of the batches' means and variances; then images no longer depend on the batch."""
    G = initialise(Generator(SMALL)).double()
    batches = [latents(SMALL, 6, seed) for seed in range(3)]
    before = {name: tensor.clone() for name, tensor in G.state_dict().items()}
    collect_statistics(G, batches)
    first = torch.cat([G.linear(z[:, :3]).view(6, 16, 4, 4)[None] for z, _ in batches])
    norm = G.blocks[0][0].bn1
    torch.testing.assert_close(norm.stored_mean, first.mean((1, 3, 4)).mean(0))
    torch.testing.assert_close(norm.stored_var, first.transpose(1, 2).flatten(2).var(2).mean(0))
    changed = {name for name, tensor in G.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if "stored" in name}
    z, y = batches[0]
    torch.testing.assert_close(G(z, y)[:1], G(z[:1], y[:1]))
    assert not any(module.training for module in G.modules())

"""Our BigGAN-deep against the package whose weights it loads."""

import pytest
import torch
from closeness import ROUNDED, assert_close
from package_models import package_model

from biggan.biggan_deep import DeepSpec, Generator, deep_spec

TINY = {
    "output_dim": 32,
    "z_dim": 8,
    "class_embed_dim": 8,
    "channel_width": 8,
    "num_classes": 5,
    "layers": [(False, 16, 16), (True, 16, 8), (True, 8, 8), (False, 8, 4), (True, 4, 2), (False, 2, 1)],
    "attention_layer_position": 3,
    "n_stats": 11,
}


def ours(model, config=None):
    state = model.state_dict()
    G = Generator(deep_spec(state, config))
    G.load_state_dict(state, strict=True)
    return G.eval().requires_grad_(False)


def samples(G, count=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(count, G.dim_z, generator=generator)
    return z, torch.randint(G.num_classes, (count,), generator=generator)


def one_hot(y, num_classes):
    return torch.nn.functional.one_hot(y, num_classes).float()


@pytest.fixture(scope="module")
def tiny():
    model = package_model(TINY)
    return model, ours(model, TINY)


@pytest.mark.parametrize("truncation", [1.0, 0.5, 0.43, 0.3, 0.02])
def test_tiny_model(tiny, truncation):
    """0.3 is no multiple of a tenth in binary, 0.43 and 0.02 lie between two rows."""
    model, G = tiny
    z, y = samples(G, count=5)
    with torch.no_grad():
        expected = model(z, one_hot(y, G.num_classes), truncation)
    assert expected.std() > 0.05
    assert_close(G(z, y, truncation), expected, within=ROUNDED)
    G.truncation = truncation
    assert torch.equal(G(z, y), G(z, y, truncation))
    G.truncation = 1.0


def test_the_truncation_matters(tiny):
    _, G = tiny
    z, y = samples(G)
    assert (G(z, y, 1.0) - G(z, y, 0.43)).abs().max() > 0.01
    for outside in (0, 1.01, -0.5):
        with pytest.raises(ValueError, match="truncation must be"):
            G(z, y, outside)


def test_the_published_configuration_at_128_pixels():
    model = package_model()
    G = ours(model)
    assert G.spec.resolution == 128 and G.dim_z == 128 and G.num_classes == 1000
    z, y = samples(G, count=1)
    with torch.no_grad():
        expected = model(z, one_hot(y, 1000), 0.4)
    assert expected.shape == (1, 3, 128, 128) and expected.std() > 0.05
    assert_close(G(z, y, 0.4), expected, within=3e-5)


@pytest.mark.parametrize(
    ("resolution", "layers"),
    [
        (256, [16, 16, 16, 16, 8, 8, 8, 8, 4, 4, 2, 2, 1]),
        (512, [16, 16, 16, 16, 8, 8, 8, 8, 4, 4, 2, 2, 1, 1, 1]),
    ],
)
def test_the_other_resolutions_are_read_off_the_names_and_shapes(resolution, layers):
    """The published layouts, at an eighth of the width."""
    blocks = [(bool(index % 2), *pair) for index, pair in enumerate(zip(layers, layers[1:]))]
    model = package_model({"channel_width": 16, "layers": blocks, "num_classes": 3, "output_dim": resolution})
    G = ours(model)
    assert G.spec.resolution == resolution
    z, y = samples(G, count=1)
    with torch.no_grad():
        assert_close(G(z, y), model(z, one_hot(y, 3), 1.0), within=3e-5)


def test_gradients_with_respect_to_z(tiny):
    model, G = tiny
    z, y = samples(G)
    gradients = []
    for forward in (lambda z: G(z, y), lambda z: model(z, one_hot(y, G.num_classes), 1.0)):
        latents = z.clone().requires_grad_()
        forward(latents).square().sum().backward()
        gradients.append(latents.grad)
    assert_close(*gradients, within=1e-3)  # at a kink, rounding decides which side counts


def test_latent_weights_are_the_derivatives_of_what_z_feeds(tiny):
    """Columns of the package's own spectrally normalised weights, in the order of the network."""
    model, G = tiny
    expected = [model.generator.gen_z.weight]
    for layer in model.generator.layers:
        for number in range(4):
            norm = getattr(layer, f"bn_{number}", None)
            expected += [] if norm is None else [norm.scale.weight, norm.offset.weight]
    assert_close(G.latent_weights(), torch.cat(expected)[:, : G.dim_z].detach(), within=ROUNDED)


def test_early_activations_are_the_first_blocks_output(tiny):
    model, G = tiny
    z, y = samples(G)
    seen = []
    handle = model.generator.layers[0].register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        model(z, one_hot(y, G.num_classes), 1.0)
    handle.remove()
    assert_close(G.early_activations(z, y), seen[0].flatten(1), within=ROUNDED)


def test_a_reloaded_state_is_the_one_used(tiny):
    """The normalised weights are computed once; loading others must not leave the old ones in place."""
    _, G = tiny
    z, y = samples(G)
    before = G(z, y)
    other = package_model(TINY, seed=5)
    fresh = ours(package_model(TINY), TINY)
    fresh(z, y)
    fresh.load_state_dict(other.state_dict())
    with torch.no_grad():
        expected = other(z, one_hot(y, G.num_classes), 1.0)
    assert_close(fresh(z, y), expected, within=ROUNDED)
    assert (before - expected).abs().max() > 0.01


def test_what_is_no_state_dict_of_it():
    state = package_model(TINY).state_dict()
    spec = deep_spec(state, TINY)
    assert spec == DeepSpec(
        blocks=tuple((inputs * 8, outputs * 8, up) for up, inputs, outputs in TINY["layers"]),
        attention=3,
        num_classes=5,
        dim_z=8,
        n_stats=11,
    )
    with pytest.raises(ValueError, match=r"no tensor generator\.gen_z\.weight_orig"):
        deep_spec({name: tensor for name, tensor in state.items() if "gen_z" not in name})
    with pytest.raises(ValueError, match="not those of a BigGAN-deep"):
        deep_spec({name: tensor for name, tensor in state.items() if not name.startswith("generator.layers.2.")})
    with pytest.raises(ValueError, match=r"config\.json has 1 blocks, the weights have 6"):
        deep_spec(state, {"layers": [[True, 16, 16]]})

"""The worked examples: generators of other kinds, by way of module:factory, as the README tells users to write them."""

import ast
import os
import subprocess
import sys

import pytest
import torch

from biggan.frozen import FrozenGenerator
from biggan.weights import load_generator
from hessian_penalty_pytorch import hessian_penalty

DISCOVERY = os.path.join(
    os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "biggan_discovery"
)
EXAMPLES = ["stylegan2_like", "vae_decoder"]


@pytest.fixture(autouse=True)
def beside_the_commands(monkeypatch):
    """As `python discover.py` in biggan_discovery has it."""
    monkeypatch.chdir(DISCOVERY)
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_can_be_discovered_on(name):
    G = load_generator(f"examples.{name}:factory")
    assert (G.num_classes, G.image_shape, G.name) == (0, (32, 32, 3), f"examples_{name}")
    z = torch.randn(4, G.dim_z, requires_grad=True)
    images = G(z)
    assert images.std() > 0.01 and (images[0] - images[1]).abs().max() > 0.01
    hessian_penalty(G, z).backward()
    assert torch.isfinite(z.grad).all() and z.grad.abs().max() > 0
    assert G.latent_weights().shape[1] == G.dim_z and G.early_activations(z).shape[0] == 4


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_factory_makes_the_same_generator_every_time(name):
    """Processes of one run, and a resumed one, each call it."""
    z = torch.randn(2, 64)
    first, second = (load_generator(f"examples.{name}:factory") for _ in range(2))
    assert torch.equal(first(z[:, : first.dim_z]), second(z[:, : first.dim_z]))


def test_the_stylegan_has_noise_and_the_factory_switches_it_off():
    G = load_generator("examples.stylegan2_like:factory")
    network, z = G.module.network, torch.randn(2, G.dim_z)
    spread = network(z, "const").std()
    assert (network(z, "random") - network(z, "random")).abs().mean() > 0.05 * spread
    assert (network(z, "const") - network(z, "none")).abs().mean() > 0.05 * spread
    assert torch.equal(network(z, "const"), network(z, "const"))
    assert G.is_deterministic


def test_noise_that_stays_on_is_noticed():
    """The same network as its authors call it."""
    network = load_generator("examples.stylegan2_like:factory").module.network
    network.dim_z = network.z_dim
    network.forward = lambda z: type(network).forward(network, z)
    assert not FrozenGenerator(network, "as it is").is_deterministic


def test_discover_refuses_a_generator_whose_noise_stays_on(tmp_path):
    (tmp_path / "noisy.py").write_text(
        "from examples.networks import StyleGAN2\n"
        "def factory():\n    network = StyleGAN2()\n    network.dim_z = network.z_dim\n"
        "    network.forward = lambda z: StyleGAN2.forward(network, z)\n    return network\n"
    )
    command = [sys.executable, os.path.join(DISCOVERY, "discover.py"), "--G_path", "noisy:factory", "--device", "cpu"]
    done = subprocess.run(command, cwd=str(tmp_path), capture_output=True)
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert "noisy" in line and "switch its noise off" in line
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_short(name):
    with open(os.path.join(DISCOVERY, "examples", f"{name}.py")) as stream:
        text = stream.read()
    ast.parse(text)
    assert len([line for line in text.splitlines() if line.strip()]) < 30


def test_the_vaes_dropout_is_off():
    G = load_generator("examples.vae_decoder:factory")
    assert any(isinstance(module, torch.nn.Dropout) for module in G.module.modules())
    assert G.is_deterministic
    G.module.train()
    z = torch.randn(2, G.dim_z)
    assert not torch.equal(G(z), G(z))

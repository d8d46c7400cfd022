"""What only PyTorch has: generators' random state, autocast, TF32 switches, devices, distributed training."""

import json
import os
import subprocess
import sys

import pytest
import torch
from ddp_worker import generator
from torch.nn import functional

from hessian_penalty_pytorch import check_generator, full_float32, hessian_penalty

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


def signs(*shape):
    return torch.randint(0, 2, shape) * 2 - 1


@pytest.mark.parametrize("device", DEVICES)
def test_dropout_and_noise_are_the_same_in_every_pass(device):
    """A linear G with random masks and noise has no second derivative: only fresh masks could look like one."""
    weight = torch.randn(6, 50, dtype=torch.float64, device=device)
    masks = []

    def G(z):
        activation = functional.dropout(z @ weight, 0.5)
        masks.append(activation == 0)
        return activation + torch.randn_like(activation)

    z = torch.randn(4, 6, dtype=torch.float64, device=device)
    check_generator(G, z)
    masks.clear()
    for k in (2, 3):
        assert hessian_penalty(G, z, k=k) < 1e-15
    assert all(torch.equal(mask, masks[0]) for mask in masks[:4])
    assert not torch.equal(masks[0], masks[4])


@pytest.mark.parametrize("device", DEVICES)
def test_the_generator_advances_as_in_one_pass(device):
    z, directions = torch.randn(4, 6, device=device), signs(2, 4, 6)

    def G(z):
        return z * torch.rand_like(z)

    torch.manual_seed(3)
    hessian_penalty(G, z, directions=directions)
    after_penalty = torch.rand(5, device=device)
    torch.manual_seed(3)
    G(z)
    assert torch.equal(after_penalty, torch.rand(5, device=device))


def test_dropout_inside_a_smooth_network_is_that_of_the_first_pass():
    """The value is that of the network with the mask written out."""
    torch.manual_seed(0)
    first, second = torch.randn(6, 30, dtype=torch.float64), torch.randn(30, 5, dtype=torch.float64)
    z, directions = torch.randn(4, 6, dtype=torch.float64), signs(3, 4, 6)

    torch.manual_seed(7)
    random = hessian_penalty(
        lambda z: functional.dropout(torch.tanh(z @ first), 0.3) @ second, z, 3, directions=directions
    )
    torch.manual_seed(7)
    mask = functional.dropout(torch.ones(4, 30, dtype=torch.float64), 0.3)
    fixed = hessian_penalty(lambda z: (mask * torch.tanh(z @ first)) @ second, z, 3, directions=directions)
    assert random.item() == pytest.approx(fixed.item(), rel=1e-10)


@pytest.mark.parametrize("device", DEVICES)
def test_autocast_is_off_inside_and_on_again_outside(device):
    torch.manual_seed(0)
    G, z, directions = generator(6).to(device), torch.randn(4, 6, device=device), signs(2, 4, 6)
    dtypes = []

    def recorded(z):
        dtypes.append(G[0](z).dtype)
        return G(z)

    expected = hessian_penalty(G, z, directions=directions)
    with torch.autocast(device, dtype=torch.bfloat16):
        assert G(z).dtype == torch.bfloat16
        value = hessian_penalty(recorded, z, directions=directions)
        assert G(z).dtype == torch.bfloat16
    assert value == expected and value.dtype == torch.float32 and set(dtypes) == {torch.float32}


def test_half_precision_inputs_are_cast_and_their_gradients_come_back():
    """A latent that a mapping network made under autocast, and a half-precision class embedding."""
    torch.manual_seed(0)
    z = torch.randn(4, 6, dtype=torch.bfloat16, requires_grad=True)
    embedding = torch.randn(4, 6, dtype=torch.float16)
    seen = []

    def G(z, embedding, labels):
        seen.append((z.dtype, embedding.dtype, labels.dtype))
        return torch.tanh(z * embedding) * z[:, :1]

    directions = signs(2, 4, 6)
    value = hessian_penalty(G, z, directions=directions, embedding=embedding, labels=torch.arange(4))
    assert set(seen) == {(torch.float32, torch.float32, torch.int64)}
    value.backward()
    assert z.grad.dtype == torch.bfloat16 and z.grad.abs().sum() > 0
    single = z.detach().float()
    assert value == hessian_penalty(
        G, single, directions=directions, embedding=embedding.float(), labels=torch.arange(4)
    )


def test_a_half_precision_network_is_refused():
    """G does its own autocast inside: the outputs would be in half precision again."""

    def G(z):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return z @ torch.ones(6, 6)

    with pytest.raises(ValueError, match=r"float32 or float64 .* got torch\.bfloat16"):
        hessian_penalty(G, torch.randn(4, 6))


def run_worker(name, *arguments):
    """Run a script beside this file: it starts from a fresh PyTorch and forks its processes from that."""
    worker = os.path.join(os.path.dirname(__file__), name)
    finished = subprocess.run(
        [sys.executable, "-W", "ignore", worker, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stdout.decode()


def test_tf32_is_off_inside_and_the_callers_settings_are_back_afterwards():
    run_worker("float32_worker.py")


@pytest.mark.parametrize("options", [{}, dict(memory="lean"), dict(chunk_size=2)], ids=str)
def test_distributed_data_parallel_gradients_are_those_of_one_process(options, tmp_path):
    """Two gloo processes, each with half of the batch: DDP's mean of their gradients is that of the whole."""
    torch.manual_seed(0)
    G, z, directions = generator(6).double(), torch.randn(8, 6, dtype=torch.float64), signs(3, 8, 6)
    torch.save({"weights": G.state_dict(), "z": z, "directions": directions}, tmp_path / "problem.pt")
    run_worker("ddp_worker.py", "2", str(tmp_path), json.dumps(options))

    hessian_penalty(G, z, k=3, reduction=torch.mean, directions=directions).backward()
    for rank in range(2):
        for gradient, parameter in zip(
            torch.load(tmp_path / f"gradients-{rank}.pt", weights_only=True), G.parameters()
        ):
            assert parameter.grad.norm() > 0 or parameter.shape == (5,)
            assert torch.allclose(gradient, parameter.grad, rtol=1e-9, atol=1e-12)


def test_descending_on_it_removes_the_product_and_keeps_the_rest():
    weights = torch.tensor([1.0, 1.0], requires_grad=True)

    def G(z):
        return weights[0] * z[:, 0] * z[:, 1] + weights[1] * z[:, 0] ** 2

    for _ in range(50):
        penalty = hessian_penalty(G, torch.randn(16, 2))
        with torch.no_grad():
            weights -= 0.05 * torch.autograd.grad(penalty, weights)[0]
    assert abs(weights[0].item()) < 0.01
    assert weights[1].item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("device", DEVICES)
def test_gradients_on_the_device_match_those_on_the_cpu_in_float64(device):
    torch.manual_seed(0)
    G, z, directions = generator(6).double(), torch.randn(4, 6, dtype=torch.float64), signs(2, 4, 6)
    expected = torch.autograd.grad(hessian_penalty(G, z, directions=directions), list(G.parameters()))
    G, z = G.float().to(device), z.float().to(device)
    with full_float32():
        found = torch.autograd.grad(hessian_penalty(G, z, directions=directions), list(G.parameters()))
    for gradient, truth in zip(found, expected):
        assert (gradient.cpu().double() - truth).norm() <= 1e-3 * truth.norm() + 1e-9


def test_no_gradient_mode_is_respected():
    G, z = generator(6), torch.randn(4, 6)
    with torch.no_grad():
        assert not hessian_penalty(G, z).requires_grad

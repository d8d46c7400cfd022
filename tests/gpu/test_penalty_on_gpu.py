"""The PyTorch penalty on a GPU: values, gradients, callers' precision, random state, refusals."""

import json
import os
import subprocess
import sys

import pytest
import torch
from gpu_helpers import NZ, N, assert_close, problem, value_and_gradients
from torch.nn import functional

from hessian_penalty_pytorch import check_generator, diagonalness, full_float32, hessian_penalty, orojar_penalty

pytestmark = pytest.mark.gpu
HERE = os.path.dirname(os.path.abspath(__file__))

OPTIONS = {
    "default": {},
    "mean": dict(reduction=torch.mean),
    "select": dict(select=True),
    "select in little memory": dict(select=True, memory="lean"),
    "little memory": dict(memory="lean"),
    "batched": dict(batched=True),
    "chunks": dict(chunk_size=3, reduction=torch.mean),
    "chunks in little memory": dict(chunk_size=3, memory="lean", reduction=torch.sum),
    "exact": dict(exact=True),
    "exact, select": dict(exact=True, select=True),
}


def plain(options):
    """The options without those that change nothing but time and memory."""
    return {name: value for name, value in options.items() if name in ("reduction", "exact")}


# ----------------------------------------------------------------------------------------------------------------------
# Values and gradients


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("name", OPTIONS)
def test_float32_on_the_device_is_float64_on_the_cpu(name, k, device):
    options = OPTIONS[name]
    G, z, kwargs = problem("cpu", torch.float64, k)
    truth = value_and_gradients(hessian_penalty, G, z, k=k, **kwargs, **plain(options))
    G, z, kwargs = problem(device, k=k)
    assert_close(value_and_gradients(hessian_penalty, G, z, k=k, batch_kwargs=["y"], **kwargs, **options), truth)


@pytest.mark.parametrize("options", [{}, dict(memory="lean"), dict(chunk_size=3), dict(batched=True)], ids=str)
def test_orojar_penalty(options, device):
    G, z, kwargs = problem("cpu", torch.float64)
    truth = value_and_gradients(orojar_penalty, G, z, **kwargs)
    G, z, kwargs = problem(device)
    assert_close(value_and_gradients(orojar_penalty, G, z, batch_kwargs=["y"], **kwargs, **options), truth)


def test_diagonalness(device):
    axes = torch.stack([torch.randperm(NZ)[:2] for _ in range(3 * N)]).view(3, N, 2)
    found = []
    for where, dtype in (("cpu", torch.float64), (device, torch.float32)):
        G, z, kwargs = problem(where, dtype)
        found.append([field.item() for field in diagonalness(G, z, k=3, axes=axes.to(where), y=kwargs["y"])])
    assert found[1] == pytest.approx(found[0], rel=2e-2)


def test_frozen_weights(device):
    """Gradients go to z alone, with `select` too."""
    found = []
    for where, dtype, options in (("cpu", torch.float64, {}), (device, torch.float32, dict(select=True))):
        G, z, kwargs = problem(where, dtype)
        G.requires_grad_(False)
        z.requires_grad_()
        with full_float32():
            value = hessian_penalty(G, z, batch_kwargs=["y"], **kwargs, **options)
            found.append((value.item(), torch.autograd.grad(value, z)))
    assert_close(found[1], found[0])


def test_directions_are_drawn_on_the_device(device):
    G, z, kwargs = problem(device)
    values = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        values.append(hessian_penalty(G, z, y=kwargs["y"]).item())
    assert values[0] == pytest.approx(values[1], rel=1e-3)
    assert values[0] != pytest.approx(values[2], rel=1e-2)


# ----------------------------------------------------------------------------------------------------------------------
# Precision of the caller


@pytest.fixture(scope="module")
def tf32_callers(device):
    """What tf32_worker.py found out: {caller: what went wrong, or None}."""
    command = [sys.executable, os.path.join(HERE, "tf32_worker.py"), device.type]
    root = os.path.join(HERE, "..", "..")
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(command, capture_output=True, timeout=200, env=dict(os.environ, PYTHONPATH=path))
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def test_tf32_of_callers(tf32_callers):
    """No caller's TF32 gets in, and every setting, old and new, is as before afterwards."""
    assert len(tf32_callers) >= 5
    wrong = {caller: problem for caller, problem in tf32_callers.items() if problem}
    assert not wrong, "\n".join(f"{caller}: {problem}" for caller, problem in wrong.items())


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["default", "select", "little memory", "chunks"])
def test_autocast_of_callers(name, half, device):
    if device.type == "cpu" and half == torch.float16:
        pytest.skip("autocast to float16 is a GPU's")
    options = OPTIONS[name]
    G, z, kwargs = problem("cpu", torch.float64)
    truth = value_and_gradients(hessian_penalty, G, z, **kwargs, **plain(options))
    G, z, kwargs = problem(device)
    z.requires_grad_()
    with torch.autocast(device.type, half):
        assert G(z, kwargs["y"])[1].dtype == half or device.type == "cpu"
        value = hessian_penalty(G, z, batch_kwargs=["y"], **kwargs, **options)
        assert torch.is_autocast_enabled(device.type)
        with full_float32():
            gradients = torch.autograd.grad(value, [z, *G.parameters()])
        assert torch.is_autocast_enabled(device.type)
    assert value.dtype == torch.float32
    assert_close((value.item(), gradients), truth)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("way", ["autocast", "cast"])
def test_half_precision_inside_g_is_refused(way, half, device):
    if device.type == "cpu" and half == torch.float16:
        pytest.skip("autocast to float16 is a GPU's")
    G, z, kwargs = problem(device)

    def in_autocast(z, y):
        with torch.autocast(device.type, half):
            hidden = G.first(z)
        return torch.tanh(hidden.float())

    def cast(z, y):
        return torch.tanh(G.first(z).to(half).float())

    inner = {"autocast": in_autocast, "cast": cast}[way]
    for refusing in (hessian_penalty, orojar_penalty, check_generator):
        with pytest.raises(ValueError, match=r"half precision|float32 or float64"):
            refusing(lambda z, y: inner(z, y), z, y=kwargs["y"])


# ----------------------------------------------------------------------------------------------------------------------
# Random state


@pytest.mark.parametrize("k", [2, 3])
def test_masks_and_noise_are_the_same_in_every_pass(k, device):
    """A linear G with random masks and noise has no second derivative: only fresh ones could look like one."""
    weight, masks = torch.randn(NZ, 50, dtype=torch.float64).to(device), []

    def G(z):
        activation = functional.dropout(z @ weight, 0.5)
        masks.append((activation == 0).cpu())
        return activation + torch.randn_like(activation)

    z = torch.randn(N, NZ, dtype=torch.float64).to(device)
    check_generator(G, z)
    for options in ({}, dict(memory="lean")):
        masks.clear()
        assert hessian_penalty(G, z, k=k, **options) < 1e-15
        assert len(masks) == 2 * k and all(torch.equal(mask, masks[0]) for mask in masks)
    before = masks[0]
    hessian_penalty(G, z, k=k)
    assert not torch.equal(before, masks[-1])


def test_the_generators_advance_as_in_one_pass(device):
    z, directions = torch.randn(N, NZ).to(device), 2 * torch.randint(0, 2, (2, N, NZ)) - 1

    def G(z):
        return z * torch.rand_like(z) + torch.rand(NZ).to(z)  # of the device's generator, and of the CPU's

    after = []
    for call in (lambda: hessian_penalty(G, z, directions=directions), lambda: G(z)):
        torch.manual_seed(3)
        call()
        after.append(torch.cat([torch.rand(5, device=device).cpu(), torch.rand(5)]))
    assert torch.equal(*after)


def test_what_is_recomputed_gets_the_same_mask(device):
    """With memory="lean" and in chunks of all samples the gradient is the one without them, dropout and all."""
    found = []
    for options in ({}, dict(memory="lean"), dict(chunk_size=N)):
        G, z, kwargs = problem(device, dropout=0.3)
        kwargs["batch_kwargs"] = ["y"]
        torch.manual_seed(5)
        found.append(value_and_gradients(hessian_penalty, G, z, reduction=torch.mean, **kwargs, **options))
        after = torch.rand(5, device=device)
        torch.manual_seed(5)
        G(z, kwargs["y"])
        assert torch.equal(after, torch.rand(5, device=device))  # neither pass moves the caller's random numbers
    for each in found[1:]:
        assert_close(each, found[0])

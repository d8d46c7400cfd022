"""What only PyTorch has: its random state, autocast, TF32 switches, saved tensors, torch.compile, several processes."""

import json
import os
import shutil
import subprocess
import sys
import warnings

import pytest
import torch
from ddp_worker import generator
from torch.nn import functional

from hessian_penalty_pytorch import check_generator, full_float32, hessian_penalty, orojar_penalty


def signs(*shape):
    return torch.randint(0, 2, shape) * 2 - 1


def test_dropout_and_noise_are_the_same_in_every_pass():
    """A linear G with random masks and noise has no second derivative: only fresh masks could look like one."""
    weight = torch.randn(6, 50, dtype=torch.float64)
    masks = []

    def G(z):
        activation = functional.dropout(z @ weight, 0.5)
        masks.append(activation == 0)
        return activation + torch.randn_like(activation)

    z = torch.randn(4, 6, dtype=torch.float64)
    check_generator(G, z)
    masks.clear()
    for k in (2, 3):
        assert hessian_penalty(G, z, k=k) < 1e-15
    assert all(torch.equal(mask, masks[0]) for mask in masks[:4])
    assert not torch.equal(masks[0], masks[4])


def test_the_generator_advances_as_in_one_pass():
    z, directions = torch.randn(4, 6), signs(2, 4, 6)

    def G(z):
        return z * torch.rand_like(z)

    torch.manual_seed(3)
    hessian_penalty(G, z, directions=directions)
    after_penalty = torch.rand(5)
    torch.manual_seed(3)
    G(z)
    assert torch.equal(after_penalty, torch.rand(5))


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


def test_no_gradient_mode_is_respected():
    G, z = generator(6), torch.randn(4, 6)
    with torch.no_grad():
        assert not hessian_penalty(G, z).requires_grad


# ----------------------------------------------------------------------------------------------------------------------
# Options: what is held, what is made again, and random numbers

N, NZ = 8, 6
LEAN, CHUNKS = dict(memory="lean"), dict(chunk_size=3, reduction=torch.mean)


@pytest.fixture
def z():
    return torch.randn(N, NZ, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def smooth_network(hidden=32, outputs=5):
    torch.manual_seed(0)
    layers = torch.nn.Linear(NZ, hidden), torch.nn.Softplus(), torch.nn.Linear(hidden, outputs)
    return torch.nn.Sequential(*layers).double()


def saved_bytes(function, *arguments, **kwargs):
    """What a call keeps for its backward pass, with every tensor counted once."""
    storages = {}

    def pack(tensor):
        storages[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = function(*arguments, **kwargs)
    value.backward()
    return sum(storages.values())


@pytest.mark.parametrize("function", [hessian_penalty, orojar_penalty])
def test_little_memory_is_held_whatever_k_is(function, z):
    """A wide network with a small output: what is held may grow with k by outputs, not by hidden layers.

    One pass is held, the last one, with which the backward pass begins.
    """
    G, one_pass = smooth_network(4096, 4), 8 * N * 4096  # bytes
    parameters = 8 * sum(parameter.numel() for parameter in G.parameters())
    ks_and_memories = [(k, memory) for k in (2, 8) for memory in (None, "lean")]
    held = {
        (k, memory): saved_bytes(function, G, z, k=k, reduction=torch.mean, memory=memory)
        for k, memory in ks_and_memories
    }
    assert held[2, None] > 2 * 2 * one_pass and held[8, None] > 2 * 8 * one_pass
    assert held[8, "lean"] < held[2, "lean"] + 10 * 8 * N * (NZ + 4) * 8 < parameters + 2.5 * one_pass


@pytest.mark.parametrize("options", [{}, dict(batched=True)], ids=str)
def test_chunks_hold_little_memory(options, z):
    held = saved_bytes(hessian_penalty, smooth_network(4096, 4), z, reduction=torch.mean, chunk_size=2, **options)
    assert held < 4 * (8 * N * 4096)  # of 8, for two numbers a hidden unit and pass, and 1.4 for the weights


def test_every_pass_but_the_last_is_made_twice_in_little_memory(z):
    passes = []

    def G(z):
        passes.append(len(z))
        return torch.tanh(z)

    check_generator(G, z)
    passes.clear()
    hessian_penalty(G, z.requires_grad_(), k=3, **LEAN).backward()
    assert passes == [N] * (2 * 3 + 2 * 3 - 1)
    passes.clear()
    hessian_penalty(G, z, **CHUNKS).backward()
    assert sorted(passes) == [2] * 4 + [3] * (2 * 2 * 4)


def test_gradients_of_gradients_are_the_same_with_every_option(z):
    G, directions = smooth_network(), signs(2, N, NZ)

    def of_squared_gradient(**options):
        penalty = hessian_penalty(G, z, directions=directions, **options)
        (gradient,) = torch.autograd.grad(penalty, G[0].weight, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), G[2].weight)[0]

    for options in (dict(select=True), LEAN, dict(batched=True)):
        assert torch.allclose(of_squared_gradient(**options), of_squared_gradient(), rtol=1e-8, atol=1e-12)
    mean = of_squared_gradient(reduction=torch.mean)
    assert torch.allclose(of_squared_gradient(**CHUNKS), mean, rtol=1e-8, atol=1e-14) and mean.norm() > 0


def test_little_memory_with_closures_accumulation_and_two_penalties(z):
    """Weights that G closes over, gradients added up over two calls, and a graph that is walked twice."""
    weight = torch.randn(NZ, 12, dtype=torch.float64, requires_grad=True)
    directions = signs(3, N, NZ)

    def G(z):
        return torch.tanh(z @ weight)

    def gradients(**kwargs):
        weight.grad = None
        for part in (slice(0, 4), slice(4, N)):
            given = dict(kwargs, directions=directions[:, part])
            (hessian_penalty(G, z[part], 3, **given) + orojar_penalty(G, z[part], 3, **given)).backward()
        return weight.grad.clone()

    assert torch.allclose(gradients(**LEAN), gradients(), rtol=1e-10)
    penalty = hessian_penalty(G, z, **LEAN)
    first = torch.autograd.grad(penalty, weight, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(penalty, weight)[0], first)


@pytest.mark.parametrize("options", [LEAN, CHUNKS], ids=["lean", "chunks"])
def test_recomputation_repeats_random_numbers_and_precision(options):
    """Dropout's masks in the backward pass are those of the forward pass, and autocast stays off there."""
    torch.manual_seed(0)
    first, second = torch.nn.Linear(NZ, 32), torch.nn.Linear(32, 5)
    latents, directions, dtypes = torch.randn(N, NZ), signs(2, N, NZ), set()

    def G(z):
        hidden = first(z)
        dtypes.add(hidden.dtype)
        return second(functional.dropout(torch.tanh(hidden), 0.5))

    def gradient(**kwargs):
        torch.manual_seed(5)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = hessian_penalty(G, latents, directions=directions, **kwargs)
            after = torch.rand(3)
            return value.detach(), torch.autograd.grad(value, first.weight)[0], after

    # Each chunk has numbers of its own, so there is nothing to compare but itself.
    for found, expected in zip(gradient(**options), gradient(**(options if options is CHUNKS else {}))):
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-9) and found.norm() > 0
    assert dtypes == {torch.float32}


def dropout_network():
    weight = torch.randn(NZ, 16, dtype=torch.float64)
    return lambda z: torch.tanh(functional.dropout(z @ weight, 0.5))


def network_with_a_generator_of_its_own():
    generator, weight = torch.Generator().manual_seed(0), torch.randn(NZ, 16, dtype=torch.float64)
    return lambda z: torch.tanh(z @ weight * torch.rand(len(z), 16, dtype=torch.float64, generator=generator))


@pytest.mark.parametrize(
    "make, options, problem",
    [
        (dropout_network, dict(select=True), "^select=True: all samples were differentiated, since G draws random"),
        (dropout_network, dict(batched=True), "^batched=True: G draws random numbers"),
        (network_with_a_generator_of_its_own, dict(select=True), "^select=True: all samples were differentiated"),
    ],
)
def test_random_networks_have_their_passes_one_by_one_and_of_all_samples(make, options, problem, z):
    torch.manual_seed(0)
    G, directions = make(), signs(2, N, NZ)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the first look, which has tests of its own
        check_generator(G, z)
    torch.manual_seed(1)
    expected = hessian_penalty(G, z, directions=directions)
    torch.manual_seed(1)
    with pytest.warns(UserWarning, match=problem) as caught:
        found = hessian_penalty(G, z, directions=directions, **options)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert found == expected or make is network_with_a_generator_of_its_own  # whose next numbers are others


def test_where_there_is_nothing_to_select_one_pass_tells_and_nothing_is_said_of_random_numbers(z):
    passes = []

    def G(z):
        passes.append(torch.is_grad_enabled())
        return [functional.dropout(torch.tanh(z) * z[:, :1], 0.5)] * 3

    directions = signs(2, 3, NZ)
    check_generator(G, z[:3])
    passes.clear()
    torch.manual_seed(0)
    expected = hessian_penalty(G, z[:3], directions=directions)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert hessian_penalty(G, z[:3], select=True, directions=directions) == expected
    assert passes == [True] * 4 + [False] + [True] * 4


# ----------------------------------------------------------------------------------------------------------------------
# Precision, compilation


def test_a_callers_autocast_to_bfloat16_is_off_inside_and_costs_the_gradient_nothing(z):
    """Around the call alone or around backward() too, there within full_float32; the truth is that in float64."""
    directions, dtypes = signs(2, N, NZ), set()

    def gradient(dtype, autocast=False, backward_too=False, **options):
        network = smooth_network().to(dtype)

        def G(z):
            dtypes.add(network[0](z).dtype)
            return network(z)

        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            value = hessian_penalty(G, z.to(dtype), directions=directions, **options)
            assert (network(z.to(dtype)).dtype == torch.bfloat16) == autocast  # on again
            if backward_too:
                with full_float32():
                    value.backward()
        if not backward_too:
            value.backward()
        return torch.cat([parameter.grad.double().flatten() for parameter in network.parameters()])

    truth = gradient(torch.float64)
    plain_error = (gradient(torch.float32) - truth).norm()
    for options in ({}, dict(select=True), LEAN, dict(batched=True)):
        for backward_too in (False, True):
            found = gradient(torch.float32, True, backward_too, **options)
            assert (found - truth).norm() <= max(2 * plain_error, 1e-5 * truth.norm())
    assert dtypes == {torch.float32, torch.float64}


def test_a_default_dtype_of_half_precision_is_replaced_inside_and_put_back(z):
    dtypes, before = [], torch.get_default_dtype()

    def G(z):
        dtypes.append(torch.ones(1).dtype)
        return torch.tanh(z)

    torch.set_default_dtype(torch.bfloat16)
    try:
        hessian_penalty(G, z.requires_grad_(), **LEAN).backward()  # where passes are made again
        with pytest.raises(ZeroDivisionError):
            hessian_penalty(lambda z: 1 / 0, z)
        after = torch.get_default_dtype()
    finally:
        torch.set_default_dtype(before)
    assert set(dtypes) == {torch.float32} and after == torch.bfloat16


def test_a_device_without_autocast_does():
    """PyTorch's own stand-in: shapes without numbers. Older versions have no autocast on Apple's GPUs."""
    z = torch.empty(N, NZ, device="meta")
    for function in (hessian_penalty, orojar_penalty):
        assert function(torch.tanh, z, memory="lean").shape == ()


@pytest.mark.skipif(not hasattr(torch, "compile"), reason="torch.compile is PyTorch 2's")
@pytest.mark.parametrize("options", [{}, dict(select=True)], ids=str)
def test_compiled_as_one_graph(options, z):
    backend = "inductor" if shutil.which("g++") else "aot_eager"
    G, directions = generator(NZ), signs(2, N, NZ).float()
    parameters, latents = list(G.parameters()), z.float()

    def penalty(z, directions):
        return hessian_penalty(G, z, directions=directions, **options)

    expected = penalty(latents, directions)
    value = torch.compile(penalty, fullgraph=True, backend=backend)(latents, directions)
    assert value.item() == pytest.approx(expected.item(), rel=1e-3)
    for found, truth in zip(torch.autograd.grad(value, parameters), torch.autograd.grad(expected, parameters)):
        assert (found - truth).norm() <= 1e-2 * truth.norm() + 1e-6
    fresh = torch.compile(lambda z: penalty(z, None), fullgraph=True, backend="eager")
    assert fresh(latents).item() != fresh(latents).item()  # directions are drawn in every call

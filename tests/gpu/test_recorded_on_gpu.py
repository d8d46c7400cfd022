"""The PyTorch penalty under torch.compile and inside CUDA graphs, forward and backward."""

import importlib.util
import shutil

import pytest
import torch
from gpu_helpers import NZ, N, assert_close, problem, value_and_gradients

from hessian_penalty_pytorch import check_generator, full_float32, hessian_penalty

pytestmark = pytest.mark.gpu

RECORDED = {
    "default": {},
    "select": dict(select=True),
    "little memory": dict(memory="lean"),
    "batched": dict(batched=True),
    "chunks": dict(chunk_size=4, reduction=torch.mean),
}


def truth_of(z, options):
    """The value and gradients of the plain penalty in float64 on the CPU, at latents z."""
    G, _, kwargs = problem("cpu", torch.float64)
    reduction = options.get("reduction", torch.max)
    return value_and_gradients(hessian_penalty, G, z.double().cpu(), reduction=reduction, **kwargs)


# ----------------------------------------------------------------------------------------------------------------------
# CUDA graphs


def warmed_up(run):
    """Run a few times on a side stream, as PyTorch's manual says, before a graph is recorded."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()


@pytest.mark.parametrize("autotune", [False, True], ids=["", "cuDNN autotune"])
@pytest.mark.parametrize("name", RECORDED)
def test_captured_in_a_cuda_graph(name, autotune, cuda, monkeypatch):
    """Forward and backward, replayed with other latents in the same memory."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", autotune)
    G, z, kwargs = problem(cuda)
    latents = z.clone().requires_grad_()

    def run():
        value = hessian_penalty(G, latents, batch_kwargs=["y"], **kwargs, **RECORDED[name])
        return value.detach(), torch.autograd.grad(value, [latents, *G.parameters()])

    with full_float32():  # within a recording TF32 is the caller's to switch off
        warmed_up(run)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            value, gradients = run()
    for scale in (0.5, 1, 2):
        with torch.no_grad():
            latents.copy_(scale * z)
        graph.replay()
        assert_close((value.item(), gradients), truth_of(scale * z, RECORDED[name]))


@pytest.mark.parametrize("name", ["default", "select"])
def test_frozen_weights_in_a_cuda_graph(name, cuda):
    G, z, kwargs = problem(cuda)
    G.requires_grad_(False)
    latents = z.clone().requires_grad_()

    def run():
        value = hessian_penalty(G, latents, batch_kwargs=["y"], **kwargs, **RECORDED[name])
        return value.detach(), torch.autograd.grad(value, latents)

    with full_float32():
        warmed_up(run)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            value, gradients = run()
    graph.replay()
    truth = truth_of(z, RECORDED[name])
    assert_close((value.item(), gradients), (truth[0], truth[1][:1]))


def test_every_replay_draws_its_directions_anew(cuda):
    G, z, kwargs = problem(cuda)

    def run():
        return hessian_penalty(G, z, y=kwargs["y"])

    with torch.no_grad():
        warmed_up(run)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            value = run()
    values = []
    for _ in range(3):
        graph.replay()
        values.append(value.item())
    assert len(set(values)) == 3
    assert torch.rand(3, device=cuda).unique().numel() == 3  # the generator still works outside


def test_settings_are_as_before_after_a_capture(cuda):
    """Inside one, full_float32 leaves the settings to the caller; outside it works on."""
    G, z, kwargs = problem(cuda)
    before = torch.backends.cudnn.allow_tf32

    def run():
        with full_float32():
            return hessian_penalty(G, z, **kwargs)

    with torch.no_grad():
        warmed_up(run)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
            assert torch.backends.cudnn.allow_tf32 == before
        assert torch.backends.cudnn.allow_tf32 == before
        with full_float32():
            assert not torch.backends.cudnn.allow_tf32


def test_a_graphed_generator_is_refused_where_gradients_are_wanted(cuda):
    """Its backward pass knows its last forward pass alone."""
    G = torch.nn.Sequential(torch.nn.Linear(NZ, 16), torch.nn.Tanh()).to(cuda)
    sample = torch.randn(N, NZ, device=cuda, requires_grad=True)
    graphed = torch.cuda.make_graphed_callables(G, (sample,))
    with pytest.raises(ValueError, match="G is a recorded CUDA graph"):
        hessian_penalty(graphed, sample)


# ----------------------------------------------------------------------------------------------------------------------
# torch.compile


@pytest.fixture
def compiler(device):
    """torch.compile's keywords: its own code generator on a GPU; on a CPU, where other tests have that, none."""
    if device.type == "cuda" and not importlib.util.find_spec("triton"):
        pytest.skip("torch.compile needs Triton")
    if device.type == "cuda" and not any(map(shutil.which, ("gcc", "cc", "clang"))):
        pytest.skip("torch.compile's Triton needs a C compiler")
    torch.compiler.reset()
    yield {"fullgraph": True, "backend": "inductor" if device.type == "cuda" else "aot_eager"}
    torch.compiler.reset()


@pytest.mark.parametrize("mode", ["default", "max-autotune"])
@pytest.mark.parametrize("name", ["default", "select"])
def test_compiled(name, mode, compiler, device):
    """As one graph, at two batches of latents. max-autotune replays CUDA graphs, which overwrite what they returned."""
    if mode != "default" and device.type == "cpu":
        pytest.skip("max-autotune is a GPU's")
    G, z, kwargs = problem(device)
    y, directions = kwargs["y"], kwargs["directions"]
    check_generator(G, z, y=y)

    def penalty(z):
        return hessian_penalty(G, z, y=y, directions=directions, batch_kwargs=["y"], **RECORDED[name])

    compiled = torch.compile(penalty, **compiler, mode=None if mode == "default" else mode)
    for scale in (1, 0.5, 1):
        latents = (scale * z).requires_grad_()
        torch.compiler.cudagraph_mark_step_begin()
        with full_float32():
            value = compiled(latents)
            gradients = torch.autograd.grad(value, [latents, *G.parameters()])
        assert_close((value.item(), [gradient.clone() for gradient in gradients]), truth_of(scale * z, RECORDED[name]))


def test_compiled_code_draws_its_directions_anew(compiler, device):
    G, z, kwargs = problem(device)
    compiled = torch.compile(lambda z: hessian_penalty(G, z, y=kwargs["y"]), **compiler)
    values = [compiled(z).item() for _ in range(3)]
    assert len(set(values)) == 3

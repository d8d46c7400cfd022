"""What benchmarks/penalty.py measures in PyTorch: the definition written out, the networks, one step."""

import contextlib
import functools
import warnings

import numpy as np
import torch
from measure import count_from_here, in_turns, resident_peak, timed
from torch import nn
from torch.utils.checkpoint import checkpoint

from biggan.biggan import Generator, published_spec
from hessian_penalty_pytorch import full_float32, hessian_penalty

EPSILON, SEED = 0.1, 0
REDUCTIONS = {"max": torch.max, "mean": torch.mean}


def definition(G, z, k, reduction, directions, G_z=None, **G_kwargs):
    """Equation 5 as it stands: second differences around G(z), their unbiased variance, the reduction."""
    centre = G(z, **G_kwargs) if G_z is None else G_z
    differences = []
    for v in directions:
        plus, minus = G(z + EPSILON * v, **G_kwargs), G(z - EPSILON * v, **G_kwargs)
        differences.append((plus - 2 * centre + minus) / EPSILON**2)
    return reduction(torch.stack(differences).var(dim=0, unbiased=True))


# ----------------------------------------------------------------------------------------------------------------------
# Networks


def dcgan(activation, width=64, dim_z=100):
    """The generator of DCGAN (Radford et al. 2016) at 64 px, in evaluation mode, weights scaled to keep variances."""
    widths = [8 * width, 4 * width, 2 * width, width, 3]
    layers = [nn.ConvTranspose2d(dim_z, widths[0], 4)]
    for inputs, outputs in zip(widths, widths[1:]):
        layers += [nn.BatchNorm2d(inputs), activation(), nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)]
    for layer in layers[::3]:
        taps = layer.in_channels * (16 / layer.stride[0] ** 2 if layer.stride[0] > 1 else 1)  # that one output sums
        nn.init.normal_(layer.weight, std=(2 / taps) ** 0.5)
    return nn.Sequential(*layers, nn.Tanh()).eval()


def build(network, size, batch_size, device="cpu", dtype=torch.float32):
    """Return G, z [N, ...] and what else G gets. size: the base width."""
    torch.manual_seed(SEED)
    if network == "biggan":
        G = Generator(published_spec(size)).eval()
        z, kwargs = torch.randn(batch_size, G.dim_z), {"y": torch.randint(0, G.num_classes, (batch_size,))}
    else:
        activation = {"leaky": lambda: nn.LeakyReLU(0.2), "softplus": nn.Softplus}[network]
        G, z, kwargs = dcgan(activation, size), torch.randn(batch_size, 100, 1, 1), {}
    kwargs = {name: value.to(device) for name, value in kwargs.items()}
    return G.to(device, dtype), z.to(device, dtype), kwargs


def step(problem, k, reduction, options, centre, caller):
    """Return a function that leaves the gradient of the definition (options None) or of ours in G's parameters.

    centre: G(z) is given to both. It comes from the generator's loss, whose backward pass goes through it anyway.
    caller: "float32", or "bfloat16" as under autocast, where backward() runs outside of it.
    """
    G, z, kwargs = problem
    draws = torch.Generator().manual_seed(SEED)
    directions = (2 * torch.randint(0, 2, (k, *z.shape), generator=draws) - 1).to(z)
    with torch.no_grad():
        G_z = G(z, **kwargs) if centre else None
    common = dict(kwargs, directions=directions, G_z=G_z)
    if options and ({"select", "batched", "chunk_size"} & set(options)):
        common["batch_kwargs"] = list(kwargs)

    def penalty():
        if options is None:
            return definition(G, z, k, REDUCTIONS[reduction], **common)
        return hessian_penalty(G, z, k, EPSILON, REDUCTIONS[reduction], **common, **options)

    if options and options.get("compile"):
        options = {name: value for name, value in options.items() if name != "compile"}
        penalty = torch.compile(penalty)

    def run():
        G.zero_grad(set_to_none=False)
        halved = torch.autocast(z.device.type, torch.bfloat16) if caller == "bfloat16" else contextlib.nullcontext()
        with contextlib.nullcontext() if caller == "bfloat16" else full_float32():
            with halved:
                value = penalty()
            value.backward()

    return run


# ----------------------------------------------------------------------------------------------------------------------
# Measurements


def gradient(problem):
    return np.concatenate([p.grad.double().cpu().numpy().ravel() for p in problem[0].parameters()])


def times_and_errors(network, k, reduction, centre, options, turns, device, caller):
    """Return {name: (seconds, gradient error, seconds of the first call)} of options ({name: keywords or None}).

    The error: relative distance from the definition's gradient in float64.
    """
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)
    warnings.filterwarnings("ignore", message="exact=True")  # what it says is the point of that row
    G, z, kwargs = build(*network, device, torch.float64)
    G.forward = functools.partial(checkpoint, G.forward, use_reentrant=False)  # the same in less memory
    step((G, z, kwargs), k, reduction, None, centre, "float32")()
    truth = gradient((G, z, kwargs))
    del G, z, kwargs
    problem = build(*network, device)
    steps = {name: step(problem, k, reduction, each, centre, caller) for name, each in options.items()}
    synchronise = torch.cuda.synchronize if device == "cuda" else None
    first, errors = {}, {}
    for name, run in steps.items():
        first[name] = timed(run, synchronise)
        errors[name] = float(np.linalg.norm(gradient(problem) - truth) / np.linalg.norm(truth))
    seconds = in_turns(steps, turns, synchronise)
    return {name: (seconds[name], errors[name], first[name]) for name in steps}


def peak_memory(network, k, reduction, centre, options, device, caller):
    """Return the bytes that a step takes at its peak beyond what was held before: G, z and the gradients' storage."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)
    small = build(network[0], 4, 2, device)
    chunk = {"chunk_size": 1} if options and "chunk_size" in options else {}
    step(small, k, reduction, options and {**options, **chunk}, centre, caller)()  # what libraries load at first use
    problem = build(*network, device)
    for parameter in problem[0].parameters():
        parameter.grad = torch.zeros_like(parameter).fill_(0)  # filled, so that the pages are there
    run = step(problem, k, reduction, options, centre, caller)
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        before = count_from_here()
    run()
    return (torch.cuda.max_memory_allocated() if device == "cuda" else resident_peak()) - before


def versions(device):
    return f"PyTorch {torch.__version__}" + (f", {torch.cuda.get_device_name()}" if device == "cuda" else "")

"""PyTorch's side of penalty.py and gpu.py: the definition written out, the networks, one step, how it is measured."""

import functools
import gc
import traceback
import warnings

import torch
from measure import count_from_here, in_turns, peak, resident_peak, synchronizer, timed
from torch import nn
from torch.utils.checkpoint import checkpoint

from biggan.biggan import Generator, published_spec
from hessian_penalty_pytorch import full_float32, hessian_penalty

EPSILON, SEED = 0.1, 0
RESOLUTIONS = {"biggan": 128, "biggan32": 32}
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


def build(network, size, batch_size, device="cpu", dtype=torch.float32, frozen=False):
    """Return G, z [N, ...] and what else G gets.

    size: the base width. frozen: gradients go to z instead of G's weights, as in direction discovery.
    """
    torch.manual_seed(SEED)
    if network in RESOLUTIONS:
        G = Generator(published_spec(size, RESOLUTIONS[network])).eval()
        z, kwargs = torch.randn(batch_size, G.dim_z), {"y": torch.randint(0, G.num_classes, (batch_size,))}
    else:
        activation = {"leaky": lambda: nn.LeakyReLU(0.2), "softplus": nn.Softplus}[network]
        G, z, kwargs = dcgan(activation, size), torch.randn(batch_size, 100, 1, 1), {}
    kwargs = {name: value.to(device) for name, value in kwargs.items()}
    G, z = G.to(device, dtype), z.to(device, dtype)
    if frozen:
        freeze(G)
        z.requires_grad_()
    return G, z, kwargs


def freeze(G):
    """Let G's weights take no gradients, with spectral normalization worked into them once and for all.

    BigGAN's own layers keep such a constant too, but torch.compile breaks the graph where they look whether it holds.
    """
    for module in G.requires_grad_(False).modules():
        if hasattr(module, "normalised_weight"):
            module.weight.copy_(module.normalised_weight())
            module.normalised_weight = functools.partial(_weight_of, module)


def _weight_of(module):
    return module.weight


def wanted(problem):
    """List the tensors that take gradients: G's weights, or where those are frozen, z."""
    G, z, _ = problem
    return [parameter for parameter in G.parameters() if parameter.requires_grad] or [z]


def step(problem, k, reduction, options, centre=False, compiler=None):
    """Return a function that leaves the gradient of the definition (options None) or of ours in what is `wanted`.

    centre: G(z) is given to both. It comes from the generator's loss, whose backward pass goes through it anyway.
    compiler: the backend of torch.compile; None: not compiled, unless the option "compile" asks for it.
    """
    G, z, kwargs = problem
    draws = torch.Generator().manual_seed(SEED)
    directions = (2 * torch.randint(0, 2, (k, *z.shape), generator=draws) - 1).to(z)
    with torch.no_grad():
        G_z = G(z, **kwargs) if centre else None
    common = dict(kwargs, directions=directions, G_z=G_z)
    if options and ({"select", "batched", "chunk_size"} & set(options)):
        common["batch_kwargs"] = list(kwargs)
    if options and "compile" in options:
        options, compiler = {name: value for name, value in options.items() if name != "compile"}, "inductor"
    for tensor in wanted(problem):
        if tensor.grad is None:
            tensor.grad = torch.zeros_like(tensor)

    def penalty():
        if options is None:
            return definition(G, z, k, REDUCTIONS[reduction], **common)
        return hessian_penalty(G, z, k, EPSILON, REDUCTIONS[reduction], **common, **options)

    if compiler:
        penalty = torch.compile(penalty, backend=compiler)

    def run():
        G.zero_grad(set_to_none=False)
        if z.grad is not None:
            z.grad.zero_()
        with full_float32():
            penalty().backward()

    return run


def gradient(problem):
    return torch.cat([tensor.grad.double().cpu().flatten() for tensor in wanted(problem)])


def true_gradient(k, reduction, centre, *problem, **frozen):
    """The definition's gradient in float64. problem: the arguments of `build`, but for dtype."""
    G, z, kwargs = build(*problem, torch.float64, **frozen)
    G.forward = functools.partial(checkpoint, G.forward, use_reentrant=False)  # the same in less memory
    step((G, z, kwargs), k, reduction, None, centre)()
    return gradient((G, z, kwargs))


def distance(found, truth):
    return ((found - truth).norm() / truth.norm()).item()


# ----------------------------------------------------------------------------------------------------------------------
# Measurements on a CPU, for penalty.py


def times_and_errors(network, k, reduction, centre, options, turns):
    """Return {name: (seconds, gradient error, seconds of the first call)} of options ({name: keywords or None}).

    The error: relative distance from the definition's gradient in float64.
    """
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)
    warnings.filterwarnings("ignore", message="exact=True")  # what it says is the point of that row
    truth = true_gradient(k, reduction, centre, *network, "cpu")
    problem = build(*network)
    steps = {name: step(problem, k, reduction, each, centre) for name, each in options.items()}
    first, errors = {}, {}
    for name, run in steps.items():
        first[name] = timed(run)
        errors[name] = distance(gradient(problem), truth)
    seconds = in_turns(steps, turns)
    return {name: (seconds[name], errors[name], first[name]) for name in steps}


def peak_memory(network, k, reduction, centre, options):
    """Return the bytes that a step takes at its peak beyond what was held before: G, z and the gradients' storage."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)
    small = build(network[0], 4, 2)
    chunk = {"chunk_size": 1} if options and "chunk_size" in options else {}
    step(small, k, reduction, options and {**options, **chunk}, centre)()  # what libraries load at first use
    problem = build(*network)
    for parameter in problem[0].parameters():
        parameter.grad = torch.zeros_like(parameter).fill_(0)  # filled, so that the pages are there
    run = step(problem, k, reduction, options, centre)
    before = count_from_here()
    run()
    return resident_peak() - before


def versions():
    return f"PyTorch {torch.__version__}"


# ----------------------------------------------------------------------------------------------------------------------
# Measurements on a GPU, for gpu.py


def on_device(network, frozen, mode, rows, device, seconds, report):
    """Measure rows ({name: keywords of hessian_penalty, None: the definition}) at k = 2, all in this process.

    mode: "eager", "compiled" or "graph" (a CUDA graph of the step, replayed). seconds: what the turns may take in all.
    report: called after each row with what there is by then, times of single steps in place of medians.
    Returns {name: a dict of its seconds, peak (bytes), error and first (seconds), or of its problem}.

    The peak is that of a step after the first one, in which cuDNN tries its algorithms; of a graph, it is the memory
    that its recording reserves and keeps. For the turns all graphs then share memory, since theirs may not fit at once.
    """
    warnings.simplefilter("ignore", FutureWarning)
    synchronize = synchronizer(device)
    torch.backends.cudnn.benchmark = False  # in float64 its trials would take longest
    try:
        truth = true_gradient(2, "max", False, *network, device, frozen=frozen)
    except torch.cuda.OutOfMemoryError:
        truth = None
    torch.backends.cudnn.benchmark = True
    problem = build(*network, device, frozen=frozen)
    compiler = {"cuda": "inductor", "cpu": "aot_eager"}[device] if mode == "compiled" else None
    results, steps = {}, {}
    for name, options in rows.items():
        _give_back(device)
        try:
            run = step(problem, 2, "max", options, compiler=compiler)
            first = timed(run, synchronize)
            if mode == "graph":
                memory, single = _graph_alone(run)
            else:
                memory, single = peak(run, device), timed(run, synchronize)
            error = None if truth is None else distance(gradient(problem), truth)
            results[name] = {"seconds": single, "peak": memory, "error": error, "first": first}
            steps[name] = run
        except torch.cuda.OutOfMemoryError:
            results[name] = {"problem": "out of memory"}
        except Exception as reason:  # the other rows are still wanted
            traceback.print_exc()
            results[name] = {"problem": f"{type(reason).__name__}: {(str(reason).splitlines() or [''])[0]}"[:200]}
        report(results)
    _give_back(device)
    if mode == "graph" and steps:
        pool = torch.cuda.graph_pool_handle()
        steps = {name: recorded(run, pool) for name, run in steps.items()}
        for replay in steps.values():
            replay()
    turns = int(seconds / max(1e-3, sum(results[name]["seconds"] for name in steps))) if steps else 0
    for name, median in in_turns(steps, max(3, min(turns, 15)), synchronize).items():
        results[name]["seconds"] = median
    return results


def recorded(run, pool=None):
    """Return a function that replays run(), recorded as a CUDA graph, in the memory of a pool (None: its own)."""
    with full_float32():  # while a graph is recorded the settings are the caller's
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            run()
    return graph.replay


def _warm_up(run):
    """Run on a side stream, as graphs are recorded: so that cuDNN has chosen, and libraries have what they load."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side), full_float32():
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)


def _graph_alone(run):
    """Return the bytes that a graph of run() reserves in a pool of its own, and the seconds of a replay."""
    _warm_up(run)
    _give_back("cuda")
    before = torch.cuda.memory_reserved()
    replay = recorded(run)
    _give_back("cuda")
    reserved = torch.cuda.memory_reserved() - before
    timed(replay, torch.cuda.synchronize)
    return reserved, timed(replay, torch.cuda.synchronize)


def _give_back(device):
    """Give back all memory that nothing refers to."""
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()

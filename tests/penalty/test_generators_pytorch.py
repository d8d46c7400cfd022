"""Generators that keep state, compute in half precision or hand out the same memory, as PyTorch users have them."""

import contextlib
import copy
import functools
import gc
import random
import shutil
import subprocess
import sys
import warnings
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hessian_penalty_pytorch import check_generator, diagonalness, hessian_penalty, orojar_penalty

N, NZ, EPSILON = 5, 6, 0.1
needs_compile = pytest.mark.skipif(not hasattr(torch, "compile"), reason="torch.compile and torch.func are PyTorch 2's")


def signs(k=2):
    return torch.from_numpy(np.random.RandomState(0).choice([-1.0, 1.0], size=(k, N, NZ)))


@pytest.fixture
def z():
    return torch.randn(N, NZ, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


@contextlib.contextmanager
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# ----------------------------------------------------------------------------------------------------------------------
# State that moves with each forward pass


class MovingScale(nn.Module):
    """A layer that counts its passes in one buffer and uses another after it has changed it in place."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("scale", torch.ones(8))

    def forward(self, x):
        self.count = self.count + 1
        self.scale.mul_(1.5)
        return x * self.scale * self.count


def network(layer, wrap=lambda layer: layer):
    torch.manual_seed(0)
    G = nn.Sequential(wrap(nn.Linear(NZ, 8)), layer, nn.Tanh(), wrap(nn.Linear(8, 3)), nn.Softplus())
    return G.double().train()


MOVING = {
    "spectral_norm": lambda: network(nn.Identity(), nn.utils.parametrizations.spectral_norm),
    "the older spectral_norm": lambda: network(nn.Identity(), nn.utils.spectral_norm),
    "batch_norm": lambda: network(nn.BatchNorm1d(8)),
    "a layer of one's own": lambda: network(MovingScale()),
    "a layer of one's own in evaluation mode": lambda: network(MovingScale()).eval(),
}


def by_hand(G, z, directions):
    """The penalty's value and gradients by Equation 5, every pass by a copy of G that has seen no other."""
    passes, copies = [], []
    for v in directions:
        for latents in (z + EPSILON * v, z, z - EPSILON * v):
            copies.append(copy.deepcopy(G))
            passes.append(copies[-1](latents))
    slopes = [(passes[i] - 2 * passes[i + 1] + passes[i + 2]) / EPSILON**2 for i in range(0, len(passes), 3)]
    value = torch.stack(slopes).var(dim=0).mean()
    value.backward()
    gradients = zip(*[[parameter.grad for parameter in one.parameters()] for one in copies])
    return value.item(), [sum(of_one) for of_one in gradients]


def value_and_gradients(G, function, z, **options):
    value = hessian_penalty(function, z, epsilon=EPSILON, reduction=torch.mean, directions=signs(), **options)
    return value.item(), torch.autograd.grad(value, list(G.parameters()))


def assert_same(found, expected):
    assert found[0] == pytest.approx(expected[0], rel=1e-9) and expected[0] > 1e-6
    size = max(truth.norm() for truth in expected[1])
    for gradient, truth in zip(found[1], expected[1]):
        assert (gradient - truth).norm() <= 1e-8 * size


@pytest.mark.parametrize(
    "name, options",
    [(name, options) for name in sorted(MOVING) for options in ({}, dict(memory="lean"))]
    + [(name, dict(batched=True)) for name in sorted(set(MOVING) - {"batch_norm"})],  # which mixes all 2kN samples
)
def test_every_pass_sees_the_same_state_and_the_call_leaves_it(name, options, z):
    G = MOVING[name]()
    expected = by_hand(MOVING[name](), z, signs())
    before = [(buffer, buffer._version, buffer.clone()) for buffer in G.buffers()]
    with no_warnings():
        assert_same(value_and_gradients(G, G, z, **options), expected)
    assert before and len(before) == len(list(G.buffers()))
    for (buffer, version, value), now in zip(before, G.buffers()):
        assert now is buffer and now._version == version and torch.equal(now, value)


@pytest.mark.parametrize("function", [orojar_penalty, diagonalness])
@pytest.mark.parametrize("name", sorted(MOVING))
def test_the_other_measures_hold_it_still_too(name, function, z):
    G, options = MOVING[name](), dict(directions=signs())
    if function is diagonalness:
        options = dict(axes=torch.tensor([[[0, 1], [1, 2], [2, 3], [3, 4], [4, 5]]]))
    state = copy.deepcopy(G.state_dict())

    def fresh(z):
        return MOVING[name]()(z)

    with no_warnings():
        torch.testing.assert_close(function(G, z, **options), function(fresh, z, **options), rtol=1e-9, atol=0)
    assert all(torch.equal(state[key], value) for key, value in G.state_dict().items())


def test_select_holds_it_still_too(z):
    G = MOVING["spectral_norm"]()
    with no_warnings():
        selected = hessian_penalty(G, z, directions=signs(), select=True)
    expected = hessian_penalty(lambda z: MOVING["spectral_norm"]()(z), z, directions=signs())
    assert selected.item() == pytest.approx(expected.item(), rel=1e-9)


class InAList(nn.Module):
    def __init__(self, G):
        super().__init__()
        self.networks = [G]

    def forward(self, z):
        return self.networks[0](z)


class Owner:
    """An object that is no module, holds one, and can be called."""

    def __init__(self, G):
        self.parts = {"G": G}

    def generate(self, z):
        return self.parts["G"](z)

    __call__ = generate


GLOBAL = MOVING["spectral_norm"]()
WAYS = {
    "a lambda's closure": lambda G: lambda z: G(z),
    "a function in a closure": lambda G: (lambda inner: lambda z: inner(z))(lambda z: G(z)),
    "a module's method": lambda G: G.forward,
    "an object's method": lambda G: Owner(G).generate,
    "an object": Owner,
    "functools.partial": lambda G: functools.partial(lambda G, z: G(z), G),
    "a list in a closure": lambda G: (lambda parts: lambda z: parts[0](z))([G]),
    "a default": lambda G: lambda z, G=G: G(z),
    "a list of a module": lambda G: InAList(G),
    "a function within a function": lambda G: (lambda: lambda z: (lambda: G(z))())(),
    "a wrapper": lambda G: functools.wraps(G.forward)(lambda *args: G(*args)),
}


@pytest.mark.parametrize("way", sorted(WAYS))
def test_modules_are_found_wherever_a_function_has_them(way, z):
    G = MOVING["spectral_norm"]()
    expected = by_hand(MOVING["spectral_norm"](), z, signs())
    with no_warnings():
        assert_same(value_and_gradients(G, WAYS[way](G), z), expected)


def test_modules_are_found_among_the_globals_of_a_lambda_and_the_keyword_arguments(z):
    expected = by_hand(MOVING["spectral_norm"](), z, signs())
    with no_warnings():
        assert_same(value_and_gradients(GLOBAL, lambda z: GLOBAL(z), z), expected)
        G = MOVING["spectral_norm"]()
        assert_same(value_and_gradients(G, lambda z, mapping: mapping(z), z, mapping=G), expected)
        assert_same(value_and_gradients(GLOBAL, lambda z: torch.cat([GLOBAL(part) for part in [z]]), z), expected)


def test_recomputation_sees_the_state_of_the_forward_pass(z):
    """Whatever G has gone through between the penalty and backward()."""
    G, expected = MOVING["spectral_norm"](), by_hand(MOVING["spectral_norm"](), z, signs())
    value = hessian_penalty(G, z, reduction=torch.mean, directions=signs(), memory="lean")
    with torch.no_grad():
        for _ in range(5):
            G(z)
    moved = [buffer.clone() for buffer in G.buffers()]
    assert_same((value.item(), torch.autograd.grad(value, list(G.parameters()))), expected)
    assert all(map(torch.equal, moved, G.buffers()))


@needs_compile
@pytest.mark.parametrize("name", ["spectral_norm", "batch_norm"])
def test_the_state_is_held_still_under_torch_compile(name, z):
    G, expected = MOVING[name](), by_hand(MOVING[name](), z, signs())
    state = copy.deepcopy(G.state_dict())

    def penalty(z):
        return hessian_penalty(G, z, epsilon=EPSILON, reduction=torch.mean, directions=signs_of_double)

    signs_of_double = signs()
    value = torch.compile(penalty, fullgraph=True, backend="aot_eager")(z)
    assert_same((value.item(), torch.autograd.grad(value, list(G.parameters()))), expected)
    assert all(torch.equal(state[key], value) for key, value in G.state_dict().items())


@needs_compile
@pytest.mark.skipif(not shutil.which("g++"), reason="no compiler")
def test_a_compiled_generator_in_training_mode(z):
    G, expected = MOVING["spectral_norm"](), by_hand(MOVING["spectral_norm"](), z, signs())
    with no_warnings():
        value = hessian_penalty(torch.compile(G), z, reduction=torch.mean, directions=signs())
    assert value.item() == pytest.approx(expected[0], rel=1e-9)


class SpectralNormOfParameters(nn.Module):
    """As in many repositories: its vectors are parameters that take no gradient, and .data is assigned to them."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8))
        self.u, self.v = (nn.Parameter(torch.randn(8), requires_grad=False) for _ in range(2))

    def forward(self, x):
        weight = self.weight.detach()
        self.v.data = F.normalize(weight.t() @ self.u, dim=0)
        self.u.data = F.normalize(weight @ self.v, dim=0)
        return x @ (self.weight / (self.u @ self.weight @ self.v)).t()


def test_vectors_that_are_frozen_parameters_are_held_still_too(z):
    G = network(SpectralNormOfParameters())
    passes = [copy.deepcopy(G)(z + sign * EPSILON * v) for v in signs() for sign in (1, 0, -1)]
    slopes = [(passes[i] - 2 * passes[i + 1] + passes[i + 2]) / EPSILON**2 for i in (0, 3)]
    state = copy.deepcopy(G.state_dict())
    with no_warnings():
        value = hessian_penalty(G, z, epsilon=EPSILON, reduction=torch.mean, directions=signs())
    assert value.item() == pytest.approx(torch.stack(slopes).var(dim=0).mean().item(), rel=1e-9)
    assert all(torch.equal(state[key], value) for key, value in G.state_dict().items())


def test_what_a_pass_does_not_change_is_not_copied(z):
    G = nn.Sequential(nn.Linear(NZ, 8), nn.Tanh()).double().train()
    G.register_buffer("table", torch.randn(1000, dtype=torch.float64))
    seen = []
    G.register_forward_pre_hook(lambda module, inputs: seen.append(module.table is table))
    table = G.table
    hessian_penalty(G, z)
    assert seen == [False] * 2 + [True] * 4  # but in the first look


def test_gradients_go_through_buffers(z):
    """A hypernetwork makes the weight."""
    G, theta = network(nn.BatchNorm1d(8)), torch.ones(8, dtype=torch.float64, requires_grad=True)
    G[1].register_buffer("gain", theta * 2)
    G[1].register_forward_hook(lambda module, inputs, output: output * module.gain)
    hessian_penalty(G, z, reduction=torch.mean).backward()
    assert theta.grad.norm() > 0


class Lazy(nn.Module):
    """Makes what it needs in its first pass: noise for each sample, a cached weight; and a buffer that was None."""

    def __init__(self):
        super().__init__()
        self.layer, self.noise, self.cache = nn.Linear(NZ, 3).double(), None, None
        self.register_buffer("bias", None)

    def forward(self, z):
        if self.noise is None:
            self.noise = torch.linspace(0, 1, len(z), dtype=z.dtype)[:, None]
        if self.bias is None:
            self.bias = torch.full((len(z), 1), 0.1, dtype=z.dtype)
        if self.cache is None:
            self.cache = 2 * self.layer.weight
        return torch.tanh(z @ self.cache.t() + self.noise + self.bias)


def test_the_look_leaves_nothing_in_a_module(z):
    """What is made for two samples, or without gradient, would be in the way of the penalty's own passes."""
    G = Lazy()
    check_generator(G, z)
    assert G.noise is None and G.cache is None and G.bias is None
    hessian_penalty(G, z).backward()
    assert G.layer.weight.grad.norm() > 0 and G.bias is None


@pytest.mark.parametrize("options", [{}, dict(select=True), dict(exact=True)], ids=str)
def test_parametrized_weights_that_are_cached_keep_their_gradient(options, z):
    G = MOVING["spectral_norm"]().eval()
    with nn.utils.parametrize.cached():
        hessian_penalty(G, z, **options).backward()
    assert G[0].parametrizations.weight.original.grad.norm() > 0


class Surprising:
    """Has attributes of all kinds, some of which raise when they are looked at."""

    def __init__(self, G):
        self.G, self.phase, self.log = G, "warm-up", []
        self.proxy, self.mock = weakref.proxy(G), nn.Module.__new__(nn.Module)

        class Dying:
            pass

        self.dead = weakref.proxy(Dying())

    def generate(self, z):
        self.log.append(float(z.sum()))
        self.phase = f"step {len(self.log)}"
        return self.G(z)


def test_whatever_an_object_holds_it_is_looked_at_once(z):
    passes, G = [], MOVING["spectral_norm"]()
    G.register_forward_hook(lambda *_: passes.append(1))
    owner = Surprising(G)
    expected = by_hand(MOVING["spectral_norm"](), z, signs())
    for count in (6, 4, 4):
        with no_warnings():
            assert_same(value_and_gradients(G, owner.generate, z), expected)
        assert len(passes) == count
        passes.clear()


def test_nothing_of_a_generator_is_kept_alive(z):
    G = MOVING["batch_norm"]()

    def make(G):
        class Own:
            def __call__(self, z):
                return G(z)

        return Own

    Own = make(G)
    references = [weakref.ref(G), weakref.ref(Own)]
    hessian_penalty(Own(), z)
    del G, Own
    gc.collect()
    assert [reference() for reference in references] == [None, None]


def test_the_first_look_does_not_import_the_compiler():
    """Which takes seconds, for a generator of milliseconds."""
    program = """
import sys, torch
from hessian_penalty_pytorch import hessian_penalty
before = "torch._dynamo" in sys.modules
hessian_penalty(torch.tanh, torch.randn(4, 3))
assert ("torch._dynamo" in sys.modules) == before
"""
    subprocess.run([sys.executable, "-c", program], check=True)


# ----------------------------------------------------------------------------------------------------------------------
# What cannot be held still is noticed


def of_numpy():
    return lambda z: torch.tanh(z) * torch.from_numpy(np.random.rand(*z.shape))


def of_python():
    return lambda z: torch.tanh(z) * random.random()


def of_a_generator():
    generator = torch.Generator()
    return lambda z: torch.tanh(z) * torch.rand(z.shape, generator=generator, dtype=z.dtype)


def of_a_counter():
    counter = []
    return lambda z: counter.append(1) or torch.tanh(z) * len(counter)


STARTS = "^G gives other outputs when it is called again with the same latents, which would be taken for curvature: it "


@pytest.mark.parametrize("function", [hessian_penalty, orojar_penalty, diagonalness, check_generator])
@pytest.mark.parametrize(
    "make, cause",
    [
        (of_numpy, "draws from NumPy's random generator"),
        (of_python, "draws from Python's random generator"),
        (
            of_a_generator,
            "keeps state that is no buffer of a module it refers to, or draws from a generator of its own",
        ),
        (of_a_counter, "keeps state that is no buffer of a module"),
    ],
)
def test_outputs_that_change_are_warned_of_once(make, cause, function, z):
    inner, name = make(), function.__name__

    def G(z):
        return inner(z) if name else z

    state, python = np.random.get_state()[1].copy(), random.getstate()
    with pytest.warns(UserWarning, match=STARTS + cause) as caught:
        check_generator(G, z)
    assert len(caught) == 1 and caught[0].filename == __file__ and "\n" not in str(caught[0].message)
    assert (np.random.get_state()[1] == state).all() and random.getstate() == python
    with no_warnings():
        function(G, z)


@pytest.mark.parametrize("function", [hessian_penalty, orojar_penalty, diagonalness])
def test_the_warning_points_at_the_call(function, z):
    counter = []

    def G(z, name=function.__name__):
        counter.append(z)
        return torch.tanh(z) * len(counter)

    with pytest.warns(UserWarning, match=STARTS) as caught:
        function(G, z)
    assert [one.filename for one in caught] == [__file__]


def test_selects_warning_names_the_cause(z):
    counter = []

    def G(z):
        counter.append(z)
        return torch.tanh(z) * len(counter) * z.flip(1)

    with pytest.warns(UserWarning) as caught:
        hessian_penalty(G, z, select=True)
    first, second = (str(one.message) for one in caught)
    assert first.startswith("G gives other outputs")
    assert second.startswith(
        "select=True: all samples were differentiated, since fewer do not reproduce the maxima: it k"
    )


def test_a_lambda_made_anew_in_every_step_is_looked_at_once(z):
    """As direction discovery has it: another object, other tensors, the same generator."""
    G, passes = nn.Sequential(nn.Linear(NZ, 8), nn.Tanh()).double(), []

    def counting(z):
        passes.append(len(z))
        return G(z)

    def along(Q):
        return lambda w: counting(w @ Q)

    for step in range(3):
        hessian_penalty(along(torch.randn(NZ, NZ, dtype=torch.float64)), z, directions=signs())
        assert passes == [2] * 2 * (step == 0) + [N] * 4
        passes.clear()


def test_an_ordinary_generator_is_looked_at_without_a_trace(z):
    """Neither random numbers nor gradients, and no more than two samples."""
    passes = []
    weight = torch.randn(NZ, 4, dtype=torch.float64, requires_grad=True)

    def G(z):
        passes.append((len(z), torch.is_grad_enabled()))
        return torch.tanh(F.dropout(z @ weight))

    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    check_generator(G, z)
    assert torch.equal(torch.rand(3), expected) and passes == [(2, False)] * 2
    with no_warnings():
        hessian_penalty(G, z)
    assert len(passes) == 2 + 4


# ----------------------------------------------------------------------------------------------------------------------
# Half precision inside G

WEIGHT = torch.randn(NZ, NZ, generator=torch.Generator().manual_seed(0))
TABLE = torch.randn(10, NZ, generator=torch.Generator().manual_seed(1)).bfloat16()


def own_autocast(z):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return torch.tanh(z @ WEIGHT).float()


def own_dtype(dtype):
    return lambda z: torch.tanh(z.to(dtype) @ WEIGHT.to(dtype)).float()


def in_half_for_a_moment(z):
    return torch.tanh(z).half().float()


def into_a_part(z):
    image = torch.empty(len(z), 2, NZ)
    image[:, 0] = z
    image[:, 1] = torch.tanh(z).bfloat16() * z.bfloat16()
    return image


def one_of_two(z):
    return [torch.tanh(z), (z.bfloat16() @ WEIGHT.bfloat16()).float()]


class HalfModule(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(NZ, 4).bfloat16()

    def forward(self, z):
        return self.layer(z.bfloat16()).float()


HALF = {
    "its own autocast": (own_autocast, "torch.bfloat16 from (mm|bmm)"),
    "bfloat16": (own_dtype(torch.bfloat16), "torch.bfloat16 from mm"),
    "a module": (HalfModule(), "torch.bfloat16 from (addmm|mm)"),
    "casts alone": (in_half_for_a_moment, "torch.float16 from _to_copy"),
    "a part of an output": (into_a_part, "torch.bfloat16 from mul"),
    "one of two outputs": (one_of_two, "torch.bfloat16 from mm"),
}


@pytest.mark.parametrize("function", [hessian_penalty, orojar_penalty, diagonalness, check_generator])
@pytest.mark.parametrize("case", sorted(HALF))
def test_half_precision_between_z_and_the_outputs_is_refused(case, function, z):
    G, found = HALF[case]
    expected = rf"^G must compute in float32 or float64 for its differences to count, got {found}$"
    for _ in range(2):  # not only the first time
        with pytest.raises(ValueError, match=expected):
            function(G, z.float())


def test_closures_of_one_factory_are_told_apart(z):
    """One code, two generators: the second must not pass for the first, which was looked at."""
    hessian_penalty(own_dtype(torch.float32), z.float())
    with pytest.raises(ValueError, match=r"got torch.bfloat16 from mm"):
        hessian_penalty(own_dtype(torch.bfloat16), z.float())


def test_a_module_that_changes_its_ways_is_looked_at_again(z):
    class Switch(nn.Module):
        half = False

        def forward(self, z):
            return in_half_for_a_moment(z) if self.half else torch.tanh(z)

    G = Switch()
    hessian_penalty(G, z.float())
    G.half = True
    with pytest.raises(ValueError, match=r"got torch.float16"):
        hessian_penalty(G, z.float())


def test_flags_that_change_together_are_told_apart(z):
    def G(z, plain, half):
        return in_half_for_a_moment(z) if half else torch.tanh(z)

    hessian_penalty(G, z.float(), plain=True, half=False)
    with pytest.raises(ValueError, match=r"got torch\.float16"):
        hessian_penalty(G, z.float(), plain=False, half=True)


def a_mask(z, y):
    return torch.tanh(z) * (z > 0).half()


def a_codebook(z, y):
    return torch.tanh(z) * TABLE[z.argmax(dim=1)].float()


def of_the_shape_alone(z, y):
    return torch.tanh(z) + torch.zeros_like(z, dtype=torch.float16) + z.new_ones(1, dtype=torch.bfloat16)


def a_table(z, y):
    return torch.tanh(z * TABLE[y].float())


def a_number_to_log(z, y):
    z.bfloat16().sum()
    return torch.tanh(z)


@pytest.mark.parametrize("G", [a_table, a_number_to_log, a_mask, a_codebook, of_the_shape_alone])
def test_half_precision_that_is_not_on_the_way_is_none_of_ours(G, z):
    with no_warnings():
        hessian_penalty(G, z.float(), y=torch.arange(N))


@needs_compile
def test_half_precision_under_torch_func_is_refused(z):
    def G(z):
        return torch.tanh(z.bfloat16()).float()

    with pytest.raises(ValueError, match=r"got torch.bfloat16 from tanh"):
        torch.func.grad(lambda z: hessian_penalty(G, z))(z.float())


# ----------------------------------------------------------------------------------------------------------------------
# One output buffer


def into_a_buffer(count=1):
    """A G that returns one of so many tensors, by turns."""
    buffers, calls = [torch.empty(N, NZ, dtype=torch.float64) for _ in range(count)], []

    def G(z):
        calls.append(z)
        buffer = buffers[len(calls) % count][: len(z)]
        buffer.copy_(torch.tanh(z @ WEIGHT.double()))
        return buffer

    return G


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("function", [hessian_penalty, orojar_penalty, diagonalness])
def test_outputs_in_memory_that_is_used_again_are_copied(function, count, z):
    options = dict(directions=signs())
    if function is diagonalness:
        options = dict(axes=torch.tensor([[[0, 1], [1, 2], [2, 3], [3, 4], [4, 5]]]))
    with torch.no_grad():
        found = function(into_a_buffer(count), z, **options)
        expected = function(lambda z: torch.tanh(z @ WEIGHT.double()), z, **options)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)


@needs_compile
def test_outputs_in_one_buffer_under_torch_compile(z):
    buffer = torch.empty(N, NZ, dtype=torch.float64)

    def G(z):
        buffer.copy_(torch.tanh(z @ WEIGHT.double()))
        return buffer

    directions = signs()
    penalty = torch.compile(lambda z: hessian_penalty(G, z, directions=directions), backend="aot_eager")
    expected = hessian_penalty(lambda z: torch.tanh(z @ WEIGHT.double()), z, directions=signs())
    with torch.no_grad():
        assert penalty(z).item() == pytest.approx(expected.item(), rel=1e-9)


class Graphed(torch.autograd.Function):
    """Stands in for torch.cuda.make_graphed_callables: static memory, and a backward pass of the last forward pass."""

    MEMORY = torch.empty(N, NZ, dtype=torch.float64)

    @staticmethod
    def forward(ctx, z):
        return Graphed.MEMORY[: len(z)].copy_(torch.tanh(z)).detach()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * (1 - Graphed.MEMORY**2)


def test_a_recorded_cuda_graph_is_refused_where_gradients_are_wanted(z):
    with torch.no_grad():
        assert hessian_penalty(Graphed.apply, z, directions=signs()) == hessian_penalty(
            torch.tanh, z, directions=signs()
        )
    with pytest.raises(ValueError, match=r"^G is a recorded CUDA graph, whose backward pass knows its last forward"):
        hessian_penalty(Graphed.apply, z.requires_grad_(), directions=signs())


# ----------------------------------------------------------------------------------------------------------------------
# torch.func, torch.compile


@needs_compile
@pytest.mark.parametrize("options", [dict(memory="lean"), dict(chunk_size=2, reduction=torch.mean)], ids=str)
def test_recomputation_under_torch_func_is_refused_in_one_line(options, z):
    with pytest.raises(ValueError, match=r"^memory=\"lean\" and chunk_size do not work under torch\.func: use select"):
        torch.func.grad(lambda z: hessian_penalty(torch.tanh, z, **options))(z)


@needs_compile
def test_the_penalty_under_torch_func(z):
    G, directions = network(nn.Identity()), signs()
    latents = z.clone().requires_grad_()
    (expected,) = torch.autograd.grad(hessian_penalty(G, latents, directions=directions), latents)
    found = torch.func.grad(lambda z: hessian_penalty(G, z, directions=directions))(z)
    assert torch.allclose(found, expected, rtol=1e-9, atol=0)
    values = torch.func.vmap(lambda z: hessian_penalty(G, z, directions=directions))(torch.stack([z, 2 * z]))
    each = torch.stack([hessian_penalty(G, one, directions=directions) for one in (z, 2 * z)])
    assert torch.allclose(values, each, rtol=1e-9, atol=0)


@needs_compile
def test_an_epsilon_that_is_a_tensor_may_be_annealed_under_torch_compile(z):
    directions = signs()

    @functools.partial(torch.compile, fullgraph=True, backend="aot_eager")
    def penalty(epsilon):
        return hessian_penalty(lambda z: torch.tanh(z @ WEIGHT.double()), z, epsilon=epsilon, directions=directions)

    for epsilon in (0.3, 0.1, 0.03):
        expected = hessian_penalty(lambda z: torch.tanh(z @ WEIGHT.double()), z, epsilon=epsilon, directions=directions)
        assert penalty(torch.tensor(epsilon, dtype=torch.float64)).item() == pytest.approx(expected.item(), rel=1e-6)
    with pytest.raises(ValueError, match="epsilon must be positive"):
        hessian_penalty(torch.tanh, z, epsilon=torch.tensor(-1.0))


def test_the_state_is_held_still_in_inference_mode(z):
    G = MOVING["spectral_norm"]()
    state = copy.deepcopy(G.state_dict())
    with torch.inference_mode(), no_warnings():
        value = hessian_penalty(G, z, reduction=torch.mean, directions=signs())
    assert value.item() == pytest.approx(by_hand(MOVING["spectral_norm"](), z, signs())[0], rel=1e-9)
    assert all(torch.equal(state[key], value) for key, value in G.state_dict().items())
    with torch.inference_mode(), pytest.raises(ValueError, match=r"got torch\.bfloat16 from "):
        hessian_penalty(own_dtype(torch.bfloat16), z.float())

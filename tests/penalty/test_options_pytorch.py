"""The PyTorch file's options: the plain estimator's values and gradients, to rounding, in less time or memory."""

import shutil
import warnings

import numpy as np
import pytest
import torch
from ddp_worker import generator
from torch.nn import functional

from hessian_penalty_pytorch import check_generator, full_float32, hessian_penalty, orojar_penalty

N, NZ = 8, 6
OPTIONS = {
    "select": dict(select=True),
    "select in little memory": dict(select=True, memory="lean"),
    "batched": dict(batched=True),
    "little memory": dict(memory="lean"),
    "chunks of mean": dict(chunk_size=3, reduction=torch.mean),
    "chunks of sum": dict(chunk_size=3, reduction=torch.sum),
    "chunks in little memory": dict(chunk_size=3, memory="lean", reduction=torch.mean),
    "batched chunks": dict(chunk_size=3, batched=True, reduction=torch.mean),
    "one chunk": dict(chunk_size=N, reduction=torch.mean),
}


def signs(*shape, seed=0):
    return torch.from_numpy(np.random.RandomState(seed).choice([-1.0, 1.0], size=shape))


class Network(torch.nn.Module):
    """Three activations, the second conditional: on a class for each sample, and on a gain that all share."""

    def __init__(self, activation, dtype=torch.float64, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.second, self.third = (torch.nn.Linear(*shape) for shape in [(NZ, 32), (32, 32), (32, 12)])
        self.classes = torch.nn.Embedding(5, 32)
        self.activation = activation
        self.to(dtype)

    def forward(self, z, y, gain=1.0):
        first = self.activation(self.first(z))
        second = self.activation(self.second(first) * self.classes(y)) * gain
        return first, second, torch.tanh(self.third(second)).reshape(len(z), 3, 2, 2)


def softplus(x):
    return functional.softplus(x)


def leaky_relu(x):
    return functional.leaky_relu(x, 0.2)


def value_and_gradients(function, G, z, **kwargs):
    z = z.clone().requires_grad_()
    value = function(G, z, **kwargs)
    wanted = [z, *G.parameters()] if isinstance(G, torch.nn.Module) else [z]
    gradients = torch.autograd.grad(value, wanted, allow_unused=True)
    return value.item(), [torch.zeros(()) if g is None else g for g in gradients]


def assert_same(found, expected, tolerance=1e-8):
    assert found[0] == pytest.approx(expected[0], rel=tolerance)
    for gradient, truth in zip(found[1], expected[1]):
        assert (gradient - truth).norm() <= tolerance * truth.norm() + 1e-14


@pytest.fixture
def z():
    return torch.randn(N, NZ, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


CLASSES = torch.arange(N) % 5
CONDITION = dict(y=CLASSES, gain=torch.tensor(1.5, dtype=torch.float64))


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("activation", [softplus, leaky_relu])
@pytest.mark.parametrize("option", sorted(OPTIONS))
def test_an_option_changes_neither_value_nor_gradients(option, activation, k, z):
    options, plain = dict(OPTIONS[option]), dict(directions=signs(k, N, NZ), **CONDITION)
    plain["reduction"] = options.pop("reduction", torch.max)
    G = Network(activation)
    expected = value_and_gradients(hessian_penalty, G, z, k=k, **plain)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(value_and_gradients(hessian_penalty, G, z, k=k, batch_kwargs=["y"], **plain, **options), expected)
    assert expected[0] > 0 and all(gradient.norm() > 0 for gradient in expected[1][:3])


@pytest.mark.parametrize("option", [name for name in sorted(OPTIONS) if "select" not in name])
def test_options_of_orojar_change_nothing_either(option, z):
    options, plain = dict(OPTIONS[option]), dict(directions=signs(3, N, NZ), k=3, **CONDITION)
    plain["reduction"] = options.pop("reduction", torch.max)
    G = Network(softplus)
    expected = value_and_gradients(orojar_penalty, G, z, **plain)
    assert_same(value_and_gradients(orojar_penalty, G, z, batch_kwargs=("y",), **plain, **options), expected)
    assert expected[0] > 0


# ----------------------------------------------------------------------------------------------------------------------
# select


def test_select_differentiates_the_samples_that_hold_the_maxima(z):
    """And no others: with maxima in different samples, each activation's in its own."""
    G, directions = Network(softplus), signs(2, N, NZ)
    every = hessian_penalty(G, z, reduction=lambda v: v, return_separately=True, directions=directions, **CONDITION)
    holders = {int(variance.reshape(N, -1).amax(dim=1).argmax()) for variance in every}
    assert len(holders) > 1
    batches = []

    def noting(z, y, gain):
        if torch.is_grad_enabled():
            batches.append(len(z))
        return G(z, y, gain)

    latents = z.clone().requires_grad_()
    value = hessian_penalty(noting, latents, select=True, directions=directions, batch_kwargs=["y"], **CONDITION)
    (gradient,) = torch.autograd.grad(value, latents)
    assert sum(batches) == 2 * 2 * 3  # passes · signs · activations
    assert set(gradient.norm(dim=1).nonzero().flatten().tolist()) == holders


def test_ties_within_a_sample_share_the_gradient_and_between_samples_the_first_takes_it():
    z, directions = torch.ones(4, 2, dtype=torch.float64), signs(2, 1, 2, seed=1).repeat(1, 4, 1)
    directions[1] = directions[0] * torch.tensor([1.0, -1.0])

    def G(z):
        product = z[:, :1] * z[:, 1:] * z[:, :1]
        return torch.cat([product, product], dim=1)

    plain = value_and_gradients(hessian_penalty, G, z, directions=directions)
    found = value_and_gradients(hessian_penalty, G, z, directions=directions, select=True)
    assert found[0] == pytest.approx(plain[0], rel=1e-12)
    assert torch.allclose(found[1][0].sum(dim=0), plain[1][0].sum(dim=0))
    assert torch.allclose(plain[1][0], plain[1][0][:1].expand(4, 2))
    assert found[1][0][1:].abs().sum() == 0


def norm_in_training_mode():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(NZ, 16), torch.nn.BatchNorm1d(16, track_running_stats=False), torch.nn.Tanh()
    ).double()


def noise_of_ones_own():
    generator, weight = torch.Generator().manual_seed(0), torch.randn(NZ, 16, dtype=torch.float64)
    return lambda z: torch.tanh(z @ weight * torch.rand(len(z), 16, dtype=torch.float64, generator=generator))


def a_batch_closed_over():
    scales, weight = torch.linspace(0.5, 3, N, dtype=torch.float64)[:, None], torch.randn(NZ, 16, dtype=torch.float64)
    return lambda z: torch.tanh(z @ weight * scales)


def position_in_the_batch():
    weight = torch.randn(NZ, 16, dtype=torch.float64)
    return lambda z: torch.tanh(z @ weight * torch.linspace(0.5, 3, len(z), dtype=torch.float64)[:, None])


def only_its_own_batch_size():
    weight = torch.randn(NZ, 16, dtype=torch.float64)

    def G(z):
        assert len(z) == N, "a batch of\nanother size"
        return torch.tanh(z @ weight)

    return G


def dropout():
    weight = torch.randn(NZ, 16, dtype=torch.float64)
    return lambda z: torch.tanh(functional.dropout(z @ weight, 0.5))


@pytest.mark.parametrize(
    "make",
    [
        norm_in_training_mode,
        noise_of_ones_own,
        a_batch_closed_over,
        position_in_the_batch,
        only_its_own_batch_size,
        dropout,
    ],
)
def test_select_notices_samples_that_are_not_independent_and_differentiates_all(make, z):
    torch.manual_seed(0)
    G, directions = make(), signs(2, N, NZ)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the first look, which has tests of its own
        check_generator(G, z)
    torch.manual_seed(1)
    expected = value_and_gradients(hessian_penalty, G, z, directions=directions)
    torch.manual_seed(1)
    with pytest.warns(UserWarning, match="^select=True: all samples were differentiated, since ") as caught:
        found = value_and_gradients(hessian_penalty, G, z, directions=directions, select=True)
    assert all(one.filename == __file__ and "\n" not in str(one.message) for one in caught)
    assert len(caught) == 1
    if make is not noise_of_ones_own:  # its next numbers are others
        assert_same(found, expected)


def test_select_is_quiet_where_only_rounding_errors_are_left(z):
    """A network in float32 whose penalty has all but gone: the maximum is then noise, another one in another batch.

    The noise, of some units in the last place of the output, is made here as a kernel could that depends on the batch.
    """
    weight = 1e-3 * torch.randn(NZ, 16, generator=torch.Generator().manual_seed(0))

    def G(z):
        return 1 + torch.tanh(z @ weight) + 1e-6 * torch.sin(1e5 * z.sum(dim=1, keepdim=True) + len(z))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value = hessian_penalty(G, z.float(), select=True, directions=signs(2, N, NZ))
    assert 0 < value < 1e-3


def test_select_is_not_taken_in_by_a_value_that_is_not_a_number(z):
    """A spread that a batch of one, which memory="lean" makes of one activation, does not have."""
    weight = torch.randn(NZ, 16, dtype=torch.float64)

    def G(z):
        hidden = z @ weight
        spread = ((hidden - hidden.mean(dim=0)).square().sum(dim=0) / (len(z) - 1)).sqrt()
        return torch.tanh(hidden / spread)

    directions = signs(2, N, NZ)
    expected = value_and_gradients(hessian_penalty, G, z, directions=directions)
    with pytest.warns(UserWarning, match="all samples were differentiated"):
        assert_same(
            value_and_gradients(hessian_penalty, G, z, directions=directions, select=True, memory="lean"), expected
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # where the plain value is none either, there is nothing to warn of
        assert torch.isnan(hessian_penalty(lambda z: torch.log(-(z**2)) * z, z, select=True))


def test_as_many_activations_as_samples_leave_nothing_to_select(z):
    """One pass tells, and nothing is said, not even of random numbers."""
    G, directions, passes = Network(softplus), signs(2, 3, NZ), []

    def counting(z, y):
        passes.append(torch.is_grad_enabled())
        return [functional.dropout(activation, 0.5) for activation in G(z, y)]

    condition = dict(y=CLASSES[:3], directions=directions)
    check_generator(counting, z[:3], y=CLASSES[:3])
    passes.clear()
    torch.manual_seed(0)
    expected = hessian_penalty(counting, z[:3], **condition)
    assert passes == [True] * 4
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert hessian_penalty(counting, z[:3], select=True, batch_kwargs=["y"], **condition) == expected
    assert passes[4:] == [False] + [True] * 4


def test_names_of_keywords_are_gs_own(z):
    """Any but those of the call, and named by any iterable."""
    value = hessian_penalty(lambda z: z**2 * z.flip(1), z, directions=signs(2, N, NZ)).item()

    def G(z, a, b, function, kwargs, batch):
        return a * b * function * kwargs * batch * z**2 * z.flip(1)

    scales = dict(a=torch.ones(N, 1), b=1, function=1, kwargs=1, batch=1)
    for options in (dict(select=True), dict(batched=True), dict(memory="lean")):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            names = (name for name in ["a"])
            found = hessian_penalty(G, z, directions=signs(2, N, NZ), batch_kwargs=names, **options, **scales)
        assert found.item() == pytest.approx(value, rel=1e-9)
    # Of a cubic, differences along signs are exact too, but for rounding
    found = hessian_penalty(G, z, directions=signs(2, N, NZ), exact=True, **scales)
    assert found.item() == pytest.approx(value, rel=1e-9)


# ----------------------------------------------------------------------------------------------------------------------
# memory and chunks


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
def test_little_memory_is_held_whatever_k_is(function):
    """A wide network with a small output: what is held may grow with k by outputs, not by hidden layers.

    One pass is held, the last one, with which the backward pass begins.
    """
    hidden, outputs, size = 4096, 4, 8  # bytes a number
    G = torch.nn.Sequential(torch.nn.Linear(NZ, hidden), torch.nn.Softplus(), torch.nn.Linear(hidden, outputs)).double()
    latents = torch.randn(N, NZ, dtype=torch.float64)
    parameters = size * sum(parameter.numel() for parameter in G.parameters())
    held = {
        (k, memory): saved_bytes(function, G, latents, k=k, reduction=torch.mean, memory=memory)
        for k in (2, 8)
        for memory in (None, "lean")
    }
    one_pass = size * N * hidden
    assert held[2, None] > 2 * 2 * one_pass and held[8, None] > 2 * 8 * one_pass
    assert held[8, "lean"] < held[2, "lean"] + 10 * size * N * (NZ + outputs) * 8 < parameters + 2.5 * one_pass


def test_a_chunk_size_of_numpy_is_one_too(z):
    value = hessian_penalty(torch.tanh, z, reduction=torch.mean, chunk_size=np.int64(3), directions=signs(2, N, NZ))
    assert value == hessian_penalty(torch.tanh, z, reduction=torch.mean, chunk_size=3, directions=signs(2, N, NZ))


def test_gradients_of_gradients_are_the_same_too(z):
    G, directions = Network(softplus), signs(2, N, NZ)

    def of_squared_gradient(**options):
        penalty = hessian_penalty(G, z, directions=directions, y=CLASSES, batch_kwargs=["y"], **options)
        (gradient,) = torch.autograd.grad(penalty, G.first.weight, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), G.second.weight)[0]

    for options in (dict(select=True), dict(memory="lean"), dict(batched=True)):
        assert torch.allclose(of_squared_gradient(**options), of_squared_gradient(), rtol=1e-8, atol=1e-12)
    mean, chunked = (of_squared_gradient(reduction=torch.mean, chunk_size=size) for size in (None, 3))
    assert torch.allclose(chunked, mean, rtol=1e-8, atol=1e-14) and mean.norm() > 0


def test_every_pass_but_the_last_is_made_twice_in_little_memory(z):
    latents, passes = z.clone().requires_grad_(), []

    def G(z):
        passes.append(len(z))
        return torch.tanh(z)

    check_generator(G, latents)
    passes.clear()
    hessian_penalty(G, latents, k=3, memory="lean").backward()
    assert passes == [N] * (2 * 3 + 2 * 3 - 1)
    passes.clear()
    hessian_penalty(G, latents, reduction=torch.mean, chunk_size=3).backward()
    assert sorted(passes) == [2] * 4 + [3] * (2 * 2 * 4)


def test_chunks_hold_little_memory():
    hidden = 4096
    G = torch.nn.Sequential(torch.nn.Linear(NZ, hidden), torch.nn.Softplus(), torch.nn.Linear(hidden, 4)).double()
    latents = torch.randn(N, NZ, dtype=torch.float64)
    for options in ({}, dict(batched=True)):
        held = saved_bytes(hessian_penalty, G, latents, reduction=torch.mean, chunk_size=2, **options)
        assert held < 4 * (8 * N * hidden)  # of 8, for two numbers a hidden unit and pass, and 1.4 for the weights


@pytest.mark.parametrize("options", [dict(memory="lean"), dict(chunk_size=3)], ids=str)
def test_recomputation_repeats_random_numbers_and_precision(options):
    """Dropout's masks in the backward pass are those of the forward pass, and autocast stays off there."""
    torch.manual_seed(0)
    first, second = torch.nn.Linear(NZ, 32), torch.nn.Linear(32, 5)
    latents, directions = torch.randn(N, NZ), signs(2, N, NZ)
    dtypes = set()

    def G(z):
        hidden = first(z)
        dtypes.add(hidden.dtype)
        return second(functional.dropout(torch.tanh(hidden), 0.5))

    def gradient(**kwargs):
        torch.manual_seed(5)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = hessian_penalty(G, latents, reduction=torch.mean, directions=directions, **kwargs)
            after = torch.rand(3)
            return value.detach(), torch.autograd.grad(value, first.weight)[0], after

    if "chunk_size" in options:  # each chunk has numbers of its own, so there is nothing to compare but itself
        value, found, _ = gradient(**options)
        again = gradient(**options)
        assert torch.equal(value, again[0]) and torch.equal(found, again[1]) and found.norm() > 0
    else:
        for found, expected in zip(gradient(**options), gradient()):
            assert torch.allclose(found, expected, rtol=1e-4, atol=1e-9)
    assert dtypes == {torch.float32}


def test_little_memory_with_closures_accumulation_and_two_penalties(z):
    """Weights that G closes over, gradients added up over two calls, and a graph that is walked twice."""
    weight = torch.randn(NZ, 12, dtype=torch.float64, requires_grad=True)
    directions = signs(3, N, NZ)

    def G(z):
        return torch.tanh(z @ weight)

    def gradients(**kwargs):
        weight.grad = None
        for part in (slice(0, 4), slice(4, N)):
            penalty = hessian_penalty(G, z[part], 3, directions=directions[:, part], **kwargs)
            (penalty + orojar_penalty(G, z[part], 3, directions=directions[:, part], **kwargs)).backward()
        return weight.grad.clone()

    assert torch.allclose(gradients(memory="lean"), gradients(), rtol=1e-10)
    penalty = hessian_penalty(G, z, memory="lean")
    first = torch.autograd.grad(penalty, weight, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(penalty, weight)[0], first)


def test_batched_passes_of_a_random_network_are_made_one_by_one(z):
    G, directions = dropout(), signs(2, N, NZ)
    torch.manual_seed(1)
    expected = hessian_penalty(G, z, directions=directions)
    torch.manual_seed(1)
    with pytest.warns(UserWarning, match="batched=True: G draws random numbers") as caught:
        assert hessian_penalty(G, z, directions=directions, batched=True) == expected
    assert caught[0].filename == __file__


def test_batched_is_one_call(z):
    calls = []
    for _ in range(2):
        hessian_penalty(lambda z: calls.append(len(z)) or torch.tanh(z), z, k=3, batched=True)
    assert calls == [2, 2, 2 * 3 * N, 2 * 3 * N]  # two samples twice in the first look


# ----------------------------------------------------------------------------------------------------------------------
# OroJaR


def test_orojar_is_that_of_the_jacobian(z):
    """Var_v(‖Jv‖²) over all 2ⁿ vectors of signs is 2 Σ_{i≠j} (J_iᵀJ_j)², and so is the estimates' mean."""
    weight = torch.randn(NZ, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    gram = weight @ weight.t()
    expected = 2 * (gram.square().sum() - gram.diagonal().square().sum()).item()
    for k in (2, 4):
        estimates = orojar_penalty(lambda z: z @ weight, z[:1].repeat(20000, 1), k, reduction=lambda v: v)
        assert estimates.shape == (20000,)
        assert abs(estimates.mean().item() - expected) < 5 * estimates.std().item() / 20000**0.5


def test_orojar_is_its_definition(z):
    G, directions, epsilon = Network(softplus), signs(3, N, NZ), 0.1
    squares = []
    for v in directions:
        plus, minus = (G(z + sign * epsilon * v, CLASSES) for sign in (1, -1))
        squares.append([((p - m) / (2 * epsilon)).square().flatten(1).sum(1) for p, m in zip(plus, minus)])
    expected = [torch.stack(of_one).var(dim=0).mean().item() for of_one in zip(*squares)]
    found = orojar_penalty(G, z, 3, epsilon, return_separately=True, directions=directions, y=CLASSES)
    assert [value.item() for value in found] == pytest.approx(expected, rel=1e-10)


def test_orojar_of_orthogonal_columns_is_zero(z):
    assert orojar_penalty(lambda z: z * torch.arange(1.0, NZ + 1), z) < 1e-20
    assert orojar_penalty(lambda z: z[:, 0] + z[:, 1], z) >= 0  # an activation [N]


# ----------------------------------------------------------------------------------------------------------------------
# precision, compilation


def test_under_bfloat16_the_gradient_is_as_good_as_in_float32(z):
    """The caller's autocast is to bfloat16, around the call alone or around backward() too, there within full_float32.

    The truth is the gradient in float64.
    """
    directions = signs(2, N, NZ)

    def gradient(dtype, autocast=False, backward_too=False, **options):
        G = Network(softplus, dtype)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            value = hessian_penalty(G, z.to(dtype), directions=directions, y=CLASSES, batch_kwargs=["y"], **options)
            if backward_too:
                with full_float32():
                    value.backward()
        if not backward_too:
            value.backward()
        return torch.cat([parameter.grad.double().flatten() for parameter in G.parameters()])

    truth = gradient(torch.float64)
    plain_error = (gradient(torch.float32) - truth).norm()
    for options in ({}, dict(select=True), dict(memory="lean"), dict(batched=True)):
        for backward_too in (False, True):
            found = gradient(torch.float32, True, backward_too, **options)
            assert (found - truth).norm() <= max(2 * plain_error, 1e-5 * truth.norm())


def test_a_default_dtype_of_half_precision_is_replaced_inside_and_put_back(z):
    dtypes, before = [], torch.get_default_dtype()

    def G(z):
        dtypes.append(torch.ones(1).dtype)
        return torch.tanh(z)

    torch.set_default_dtype(torch.bfloat16)
    try:
        hessian_penalty(G, z.requires_grad_(), memory="lean").backward()  # where passes are made again
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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("options", [{}, dict(select=True)], ids=str)
def test_captured_in_a_cuda_graph(options, z):
    G = Network(softplus, torch.float32).cuda()
    latents, directions, y = z.float().cuda(), signs(2, N, NZ).float().cuda(), CLASSES.cuda()

    def penalty():
        return hessian_penalty(G, latents, directions=directions, y=y, batch_kwargs=["y"], **options)

    expected = penalty()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            penalty()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value = penalty()
    graph.replay()
    assert value.item() == pytest.approx(expected.item(), rel=1e-3)


# ----------------------------------------------------------------------------------------------------------------------
# bad input

REFUSED = {
    "select of a mean": (
        dict(select=True, reduction=torch.mean),
        "select=True needs the maximum reduction (torch.max), got mean",
    ),
    "select of one's own": (dict(select=True, reduction=lambda v: v.max()), "got <lambda>"),
    "chunks of a maximum": (
        dict(chunk_size=2),
        "chunk_size needs the mean or sum reduction (torch.mean or torch.sum), got max",
    ),
    "chunks of one's own": (dict(chunk_size=2, reduction=lambda v: v.mean()), "got <lambda>"),
    "chunks of nothing": (
        dict(chunk_size=0, reduction=torch.mean),
        "chunk_size must be a positive number of samples, got 0",
    ),
    "chunks of a half": (dict(chunk_size=0.5, reduction=torch.mean), "got 0.5"),
    "unknown memory": (dict(memory="low"), "memory must be None or \"lean\", got 'low'"),
    "batched in little memory": (
        dict(batched=True, memory="lean"),
        'batched=True and memory="lean" exclude each other: one makes all passes at once, the other one at a time',
    ),
    "one name": (dict(batch_kwargs="y", y=CLASSES), "batch_kwargs must be a list of names, got 'y'"),
    "a name not passed": (dict(batch_kwargs=["label"]), "batch_kwargs names 'label', which was not passed"),
    "another length": (
        dict(batch_kwargs=["y"], y=CLASSES[:3]),
        "batch_kwargs: 'y' must have the batch's length 8 first, got shape (3,)",
    ),
    "not a tensor": (dict(batch_kwargs=["y"], y=[1] * N), "batch_kwargs: 'y' must have the batch's length 8 first"),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_bad_input_is_refused_in_one_line(case, z):
    arguments, expected = REFUSED[case]
    with pytest.raises(ValueError) as error:
        hessian_penalty(lambda z, **kwargs: z, z, **arguments)
    assert expected in str(error.value) and "\n" not in str(error.value)
    if "select" not in arguments:
        with pytest.raises(ValueError) as error:
            orojar_penalty(lambda z, **kwargs: z, z, **dict(dict(reduction=torch.max), **arguments))
        assert expected in str(error.value)

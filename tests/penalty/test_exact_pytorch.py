"""exact=True in PyTorch against dense Hessians by reverse mode over reverse mode, in float64."""

import contextlib

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from hessian_penalty_pytorch import hessian_penalty

N, NZ, WIDTH = 3, 4, 16


def signs(k, seed=0):
    return torch.from_numpy(np.random.RandomState(seed).choice([-1.0, 1.0], size=(k, N, NZ)))


@pytest.fixture
def z():
    return torch.randn(N, NZ, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def dense_penalties(G, z, directions):
    """The variance over v of vᵀHv for each element of G(z), H its Hessian with respect to the whole batch."""
    values = []
    for element in G(z).flatten():
        (gradient,) = torch.autograd.grad(element, z, create_graph=True)
        rows = [torch.autograd.grad(entry, z, create_graph=True)[0].flatten() for entry in gradient.flatten()]
        v = directions.reshape(len(directions), -1)
        values.append(torch.einsum("ki,ij,kj->k", v, torch.stack(rows), v).var())
    return torch.stack(values)


def value_and_gradients(penalty, G, z):
    latents = z.clone().requires_grad_()
    value = penalty(G, latents)
    gradients = torch.autograd.grad(value, [latents, *G.parameters()], allow_unused=True)
    return value.item(), [torch.zeros(1) if gradient is None else gradient for gradient in gradients]


# ----------------------------------------------------------------------------------------------------------------------
# Layers, and the same written out: PyTorch's own third derivatives of normalization layers are no truth


class Network(nn.Module):
    """A layer between two smooth ones."""

    def __init__(self, layer):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.layer, self.last = nn.Linear(NZ, WIDTH), layer, nn.Linear(WIDTH, 2)
        self.double()
        with torch.no_grad():
            for parameter in self.layer.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))

    def forward(self, z):
        return torch.tanh(self.last(self.layer(torch.tanh(self.first(z))).reshape(len(z), -1)))


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class WrittenOut(nn.Module):
    """(x − mean) / √(variance + eps) over some axes of x in some shape, times weight, plus bias."""

    def __init__(self, norm, shape, dims, parameter_shape):
        super().__init__()
        self.norm, self.shape, self.dims, self.parameter_shape = norm, shape, dims, parameter_shape

    def forward(self, x):
        x = x.reshape(-1, *self.shape)
        centered = x - x.mean(self.dims, keepdim=True)
        x = centered / (centered.square().mean(self.dims, keepdim=True) + self.norm.eps).sqrt()
        if getattr(self.norm, "weight", None) is not None:
            x = x * self.norm.weight.view(self.parameter_shape) + self.norm.bias.view(self.parameter_shape)
        return x.reshape(-1, WIDTH)


class Images(nn.Module):
    """A layer that takes images of 4 channels."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x.reshape(-1, 4, 2, 2)).reshape(-1, WIDTH)


def layer_norm(affine):
    norm = nn.LayerNorm(WIDTH, elementwise_affine=affine)
    return norm, WrittenOut(norm, (WIDTH,), (1,), (1, WIDTH))


def instance_norm(affine):
    norm = nn.InstanceNorm2d(4, affine=affine)
    return Images(norm), WrittenOut(norm, (4, 2, 2), (2, 3), (1, 4, 1, 1))


def batch_norm_in_training_mode(affine):
    norm = nn.BatchNorm1d(WIDTH, affine=affine)
    return norm, WrittenOut(norm, (WIDTH,), (0,), (1, WIDTH))


NORMS = {
    f"{make.__name__} {affine}": (make, affine)
    for make in (layer_norm, instance_norm, batch_norm_in_training_mode)
    for affine in (True, False)
}


def square(x):
    return x.reshape(-1, 4, 4)


def invertible(x):
    return square(x) + 3 * torch.eye(4, dtype=x.dtype)


LAYERS = {
    "group_norm": lambda: nn.GroupNorm(4, WIDTH),
    "batch_norm in evaluation mode": lambda: nn.BatchNorm1d(WIDTH).eval(),
    "instance_norm of running statistics": lambda: Images(nn.InstanceNorm2d(4, track_running_stats=True).eval()),
    "gelu": nn.GELU,
    "softplus": nn.Softplus,
    "softmax": lambda: nn.Softmax(dim=1),
    "normalize": lambda: Function(F.normalize),
    "std": lambda: Function(lambda x: x / x.std(dim=1, keepdim=True)),
    "convolution": lambda: Images(nn.Sequential(nn.ConvTranspose2d(4, 4, 4, stride=2, padding=1), nn.AvgPool2d(2))),
    "slogdet": lambda: Function(lambda x: x * torch.linalg.slogdet(invertible(x))[1][:, None]),
    "det": lambda: Function(lambda x: x * torch.det(square(x))[:, None]),
    "solve": lambda: Function(lambda x: torch.linalg.solve(invertible(x), square(x))),
    "householder_product": lambda: Function(lambda x: torch.linalg.householder_product(square(x), x[:, :4])),
}
if hasattr(torch, "compile"):  # PyTorch 2: the older versions have no second derivatives of these
    LAYERS["cdist"] = lambda: Function(lambda x: torch.cdist(square(x), square(x + 1)))
    LAYERS["grid_sample"] = lambda: Function(
        lambda x: F.grid_sample(x.view(-1, 4, 2, 2), 0.3 * x[:, :8].view(-1, 2, 2, 2), align_corners=False)
    )
if hasattr(nn, "RMSNorm"):
    LAYERS["rms_norm"] = lambda: nn.RMSNorm(WIDTH)
if hasattr(nn, "attention"):
    LAYERS["attention"] = lambda: Function(lambda x: F.scaled_dot_product_attention(*[square(x)[:, None]] * 3))
    slow_attention = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)  # the fast one has no Hessian


def assert_same(found, expected):
    assert found[0] == pytest.approx(expected[0], rel=1e-9) and expected[0] > 1e-6
    assert any(truth.norm() > 1e-6 for truth in expected[1])
    for gradient, truth in zip(found[1], expected[1]):
        assert (gradient - truth).norm() <= 1e-8 * max(map(torch.norm, expected[1]))


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("name", sorted(NORMS))
def test_normalization_layers_have_their_true_second_derivatives(name, k, z):
    make, affine = NORMS[name]
    layer, reference = make(affine)
    G, truth, directions = Network(layer), Network(reference), signs(k)
    expected = value_and_gradients(lambda G, z: dense_penalties(G, z, directions).sum(), truth, z)
    found = value_and_gradients(
        lambda G, z: hessian_penalty(G, z, k, directions=directions, reduction=torch.sum, exact=True), G, z
    )
    assert_same(found, expected)
    values = dense_penalties(G, z.clone().requires_grad_(), directions)  # PyTorch's own second derivatives are right
    assert values.sum().item() == pytest.approx(expected[0], rel=1e-9)


@pytest.mark.parametrize("name", sorted(LAYERS))
def test_other_layers_have_their_true_second_derivatives(name, z):
    G, directions = Network(LAYERS[name]()), signs(2)
    with slow_attention if name == "attention" else contextlib.nullcontext():
        expected = value_and_gradients(lambda G, z: dense_penalties(G, z, directions).sum(), G, z)
    found = value_and_gradients(
        lambda G, z: hessian_penalty(G, z, directions=directions, reduction=torch.sum, exact=True), G, z
    )
    assert_same(found, expected)
    small_steps = hessian_penalty(G, z, epsilon=1e-3, directions=directions, reduction=torch.sum)
    assert small_steps.item() == pytest.approx(expected[0], rel=1e-3)


# ----------------------------------------------------------------------------------------------------------------------
# Refusals, and what counts


def test_no_gradient_is_needed_from_outside(z):
    G = Network(nn.Tanh()).requires_grad_(False)
    with torch.no_grad():
        value = hessian_penalty(G, z, exact=True, directions=signs(2))
    assert not value.requires_grad
    assert value.item() == hessian_penalty(G.requires_grad_(), z, exact=True, directions=signs(2)).item()


def test_activations_that_do_not_bend_or_do_not_depend_on_z_have_none(z):
    weight = torch.randn(NZ, WIDTH, dtype=torch.float64)
    penalties = hessian_penalty(
        lambda z: [torch.tanh(z @ weight), z @ weight, torch.ones(N, 2)], z, exact=True, return_separately=True
    )
    assert penalties[0] > 0 and penalties[1] == penalties[2] == 0


def test_only_the_argument_counts_and_not_what_else_is_made_from_z(z):
    """A condition that another network makes of the same latents, or that a closure holds, is held still."""
    latents = z.clone().requires_grad_()
    condition = torch.sin(latents)

    def G(z, c):
        return torch.tanh(z) * z.flip(1) * c

    options = dict(directions=signs(2), reduction=torch.mean)
    expected = hessian_penalty(G, z, epsilon=1e-3, c=condition.detach(), **options)
    for value in (
        hessian_penalty(G, latents, exact=True, c=condition, **options),
        hessian_penalty(lambda z: G(z, torch.sin(latents)), latents, exact=True, **options),
    ):
        assert value.item() == pytest.approx(expected.item(), rel=1e-3)


def test_inference_mode_is_refused(z):
    with torch.inference_mode(), pytest.raises(ValueError, match=r"exact=True needs derivatives: use torch\.no_grad"):
        hessian_penalty(torch.sin, z, exact=True)


def test_checkpoints_within_g_are_refused(z):
    G = Network(nn.LayerNorm(WIDTH))
    with pytest.raises(ValueError, match=r"exact=True: G uses torch\.utils\.checkpoint, .* switch that off"):
        hessian_penalty(lambda z: checkpoint(G, z, use_reentrant=False), z, exact=True)


def test_layer_norm_by_keywords(z):
    G = Network(nn.LayerNorm(WIDTH, elementwise_affine=False))
    expected = hessian_penalty(G, z, directions=signs(2), exact=True).item()
    for norm in (
        lambda x: torch.layer_norm(input=x, normalized_shape=(WIDTH,), cudnn_enable=False),
        lambda x: F.layer_norm(input=x, normalized_shape=[WIDTH], eps=1e-5),
    ):
        G.layer = Function(norm)
        assert hessian_penalty(G, z, directions=signs(2), exact=True).item() == pytest.approx(expected, rel=1e-9)


class OnceOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return 3 * ctx.saved_tensors[0] ** 2 * gradient


def multilabel(z):
    return F.multilabel_margin_loss(z, torch.zeros(len(z), NZ, dtype=torch.int64), reduction="none")


def partly_once(z):
    return torch.tanh(z) + OnceOnly.apply(z)


@pytest.mark.parametrize(
    "G, name",
    [
        (multilabel, "multilabel_margin_loss_backward"),
        (OnceOnly.apply, "once_differentiable"),
        (partly_once, "once_differentiable"),  # torch.autograd.grad would leave its part out
    ],
)
def test_an_operation_without_a_second_derivative_is_named(G, name, z):
    with pytest.raises(ValueError, match=f"^exact=True: G uses .*{name}.*, which has no second derivative$"):
        hessian_penalty(G, z, exact=True)


@pytest.mark.parametrize("options", [dict(memory="lean"), dict(chunk_size=2, reduction=torch.mean)], ids=str)
def test_recomputation_is_refused(options, z):
    with pytest.raises(ValueError, match=r"^exact=True cannot compute passes again: leave memory and chunk_size out"):
        hessian_penalty(torch.tanh, z, exact=True, **options)


def test_layer_norm_that_is_not_replaced_is_refused(z):
    """A scripted module does not let its operations be replaced, and PyTorch's formula would be silently wrong."""
    with pytest.raises(ValueError, match=r"^exact=True: G uses NativeLayerNorm where it cannot be replaced"):
        hessian_penalty(torch.jit.script(Network(nn.LayerNorm(WIDTH))), z, exact=True)

"""A generator, its latents, and what the penalty of both is in float64 on the CPU."""

import torch
from torch import nn
from torch.nn import functional

from hessian_penalty_pytorch import full_float32

N, NZ, CLASSES = 8, 12, 5
# A share of their size. On a CPU float32 makes up to 2e-5; the inputs of one layer alone, rounded to TF32, make 2e-3.
TOLERANCE = 5e-4


class Generator(nn.Module):
    """Two smooth activations of z and a class, by layers that cuBLAS and cuDNN compute: a vector and an image."""

    def __init__(self, width=32, dropout=0.0):
        super().__init__()
        self.first, self.second = nn.Linear(NZ, width), nn.Linear(width, 4 * 4 * width)
        self.gains = nn.Embedding(CLASSES, width)
        self.up = nn.ConvTranspose2d(width, width, 4, stride=2, padding=1)
        self.norm, self.last = nn.BatchNorm2d(width), nn.Conv2d(width, 3, 3, padding=1)
        self.dropout = dropout

    def forward(self, z, y):
        hidden = functional.softplus(self.first(z)) * self.gains(y)
        hidden = functional.dropout(hidden, self.dropout, training=self.dropout > 0)
        maps = torch.tanh(self.second(hidden)).view(len(z), -1, 4, 4)
        return hidden, torch.tanh(self.last(functional.softplus(self.norm(self.up(maps)))))


def problem(device, dtype=torch.float32, k=2, **options):
    """Return G, its latents, and keywords of the penalty (classes, directions): the same on every device."""
    torch.manual_seed(1)
    G = Generator(**options).eval()
    z, y = torch.randn(N, NZ), torch.arange(N) % CLASSES
    directions = 2 * torch.randint(0, 2, (k, N, NZ)) - 1
    kwargs = {"y": y.to(device), "directions": directions.to(device, dtype)}
    return G.to(device, dtype), z.to(device, dtype), kwargs


def value_and_gradients(penalty, G, z, **kwargs):
    """Return the value, and its gradient with respect to z and to all weights, in float64 on the CPU."""
    z = z.detach().clone().requires_grad_()
    with full_float32():
        value = penalty(G, z, **kwargs)
        gradients = torch.autograd.grad(value, [z, *G.parameters()])
    return value.item(), [gradient.double().cpu() for gradient in gradients]


def assert_close(found, truth, tolerance=TOLERANCE):
    """Assert that a value, and gradients as a whole, differ from the truth by a share of its size at most."""
    assert abs(found[0] - truth[0]) <= tolerance * abs(truth[0]), f"{found[0]} instead of {truth[0]}"
    error = distance(found, truth)
    assert error <= tolerance, f"gradients are off by {error:.2g} of their size"


def distance(found, truth):
    """Return how far gradients are apart, as a share of their size."""
    found, truth = (torch.cat([each.double().cpu().flatten() for each in gradients]) for _, gradients in (found, truth))
    return ((found - truth).norm() / truth.norm()).item()

"""The measured examples of tips_and_tricks.md: what goes wrong in the Hessian Penalty, on networks small enough to try.

python benchmarks/tips.py         five seconds on one CPU thread
"""

import warnings

import numpy as np
import torch

import hessian_penalty_np
from hessian_penalty_pytorch import diagonalness, hessian_penalty

NZ, HIDDEN, PIXELS = 8, 64, 64


def network(activation, *extra):
    """A network of two layers, its last one linear; `extra` layers come after the activation."""
    torch.manual_seed(0)
    hidden, image = torch.nn.Linear(NZ, HIDDEN), torch.nn.Linear(HIDDEN, PIXELS)
    return torch.nn.Sequential(hidden, activation, *extra, image)


def latents(n=256):
    return torch.randn(n, NZ, generator=torch.Generator().manual_seed(1))


def by_hand(G, z, **options):
    """The penalty's formula by the NumPy file: it calls G as it is, holds nothing still, and takes what G returns."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that G changes from call to call is what is shown here
        return float(hessian_penalty_np.hessian_penalty(lambda z: G(torch.from_numpy(z)).numpy(), z.numpy(), **options))


def shrinking(steps=1000):
    """The penalty alone, after a linear layer: it falls since the outputs shrink."""
    G, z = network(torch.nn.Tanh()), latents(2048)
    optimizer = torch.optim.Adam(G.parameters(), lr=1e-3)
    report = "penalty {:.2g}, diagonal-ness {:.2f}, standard deviation of an output {:.2f}".format

    def state():
        with torch.no_grad():
            penalty = hessian_penalty(G, z, reduction=torch.mean)
        return report(penalty.item(), diagonalness(G, z).ratio.item(), G(z).std(0).mean().item())

    before = state()
    for _ in range(steps):
        optimizer.zero_grad()
        hessian_penalty(G, torch.randn(64, NZ)).backward()
        optimizer.step()
    print(f"minimising the penalty and nothing else, after a linear layer\n  before: {before}")
    print(f"  after {steps} steps: {state()}")


def dropout():
    """Noise that differs between the passes is divided by ε²."""
    G, z = network(torch.nn.Softplus(), torch.nn.Dropout(0.1)), latents()
    torch.manual_seed(2)
    print("dropout of 0.1, mean penalty")
    print(f"  another mask in each pass: {by_hand(G, z, reduction=np.mean):.3g}")
    print(f"  hessian_penalty_pytorch, which holds it still: {hessian_penalty(G, z, reduction=torch.mean).item():.3g}")
    print(f"  evaluation mode: {hessian_penalty(G.eval(), z, reduction=torch.mean).item():.3g}")


def half_precision():
    """Rounding errors of G's outputs are divided by ε² too."""
    G, z = network(torch.nn.Softplus()), latents()
    directions = np.random.RandomState(0).choice([-1.0, 1.0], (2, *z.shape))
    exact = by_hand(G.double(), z.double(), directions=directions, reduction=np.mean)
    print(f"half precision, mean penalty; in float64 {exact:.3g}")
    for name, dtype in (("float16", torch.float16), ("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        G = network(torch.nn.Softplus()).to(dtype)
        value = by_hand(
            lambda z, G=G, dtype=dtype: G(z.to(dtype)).double(), z.double(), directions=directions, reduction=np.mean
        )
        print(f"  G in {name}: {value:.3g}")
    with torch.autocast("cpu", torch.bfloat16), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = hessian_penalty(
            network(torch.nn.Softplus()), z, directions=torch.from_numpy(directions).float(), reduction=torch.mean
        )
    print(f"  hessian_penalty_pytorch within bfloat16 autocast: {value.item():.3g}")


def epsilons():
    """A smaller ε explodes on kinks."""
    z = latents(2048)
    print("ε, mean penalty")
    for name, activation in (("leaky ReLU", torch.nn.LeakyReLU(0.2)), ("softplus", torch.nn.Softplus())):
        G = network(activation)
        values = [
            f"{epsilon:g}: {hessian_penalty(G, z, epsilon=epsilon, reduction=torch.mean).item():.2g}"
            for epsilon in (1, 0.3, 0.1, 0.03, 0.01)
        ]
        print(f"  {name}: " + ", ".join(values))


def spectral_norm():
    """A layer of spectral normalisation that moves its vectors in every pass."""
    torch.manual_seed(0)
    layer = torch.nn.utils.parametrizations.spectral_norm(torch.nn.Linear(NZ, HIDDEN))
    G, z = torch.nn.Sequential(layer, torch.nn.Softplus()), latents()
    held = hessian_penalty(G, z, reduction=torch.mean).item()  # leaves the vectors as they are
    print("spectral normalisation in training mode, its vectors still young, mean penalty")
    print(f"  moving in each pass: {by_hand(G, z, reduction=np.mean):.3g}")
    print(f"  hessian_penalty_pytorch, which holds them still: {held:.3g}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    np.random.seed(0)
    for tip in (shrinking, dropout, spectral_norm, half_precision, epsilons):
        tip()

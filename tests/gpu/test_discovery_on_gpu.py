"""Direction discovery on the bundled generator: a GPU beside the CPU."""

import pytest
import torch

pytestmark = pytest.mark.gpu
for package in ("numpy", "safetensors", "tqdm"):
    pytest.importorskip(package)

from biggan import directions  # noqa: E402
from biggan.discovery import OBJECTIVES, Discovery, Settings, diagonal_share  # noqa: E402
from biggan.weights import load_generator  # noqa: E402
from hessian_penalty_pytorch import full_float32  # noqa: E402


def test_images_are_those_of_the_cpu(device):
    images = []
    for where in ("cpu", device):
        G = load_generator(device=where)
        generator = torch.Generator().manual_seed(0)
        z, y = torch.randn(8, G.dim_z, generator=generator), G.random_classes(8, generator)
        with torch.no_grad(), full_float32():
            images.append(G(z, y).cpu())
    assert (images[0] - images[1]).abs().max() <= 1e-4


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_same_directions_are_found(objective, device):
    """From the same seed. Over many steps rounding would grow, where it moves a sample across the kink of a ReLU."""
    A, theirs = start(objective, "cpu")
    _, ours = start(objective, device, microbatch=8)  # parts of another size, so that a CPU rounds differently as well
    assert ours.step()[0] == pytest.approx(theirs.step()[0], rel=1e-3)
    assert difference(ours.A.grad, theirs.A.grad) <= 1e-2 * theirs.A.grad.norm()
    for _ in range(3):
        theirs.step()
        ours.step()
    assert difference(ours.A, theirs.A) <= 0.1 * (theirs.A - A).norm()  # of what the steps have changed
    with torch.no_grad():
        ours.A.copy_(theirs.A)
    theirs.step()
    ours.step()
    assert difference(ours.A.grad, theirs.A.grad) <= 1e-2 * theirs.A.grad.norm()


def start(objective, device, microbatch=None):
    """Return the first A, and a Discovery from there."""
    G = load_generator(device=device)
    space = directions.search_space("all", G.dim_z)
    A = directions.initial("random", G.dim_z, space, 0)
    settings = Settings(batch_size=16, seed=1, objective=objective, microbatch=microbatch)
    return A, Discovery(G, A, space, settings)


def difference(ours, theirs):
    return (ours.detach().cpu() - theirs.detach()).norm()


def test_the_share_of_the_diagonal(device):
    shares = []
    for where in ("cpu", device):
        G = load_generator(device=where)
        space = directions.search_space("all", G.dim_z)
        Q = directions.rows(directions.initial("random", G.dim_z, space, 0), space).to(where)
        generator = torch.Generator().manual_seed(0)
        z, w = torch.randn(32, G.dim_z, generator=generator), torch.randn(32, len(Q), generator=generator)
        y, axes = G.random_classes(32, generator), torch.arange(32) % len(Q)
        signs = 2.0 * torch.randint(0, 2, (2, 32, len(Q)), generator=generator) - 1
        z, w, signs, axes = (each.to(where) for each in (z, w, signs, axes))
        y = None if y is None else y.to(where)
        shares.append(diagonal_share(G, Q, z, w, y, directions=signs, axes=axes))
    assert shares[1] == pytest.approx(shares[0], rel=1e-2)

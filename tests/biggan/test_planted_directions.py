"""Discovery finds hidden axes: of generators f(Rz) with f separable, or separable and then squashed by tanh."""

import pytest
import torch
from separable import Separable, start


def discovered(dim_z, steps, seed, squashed):
    """|cos| [dim_z, dim_z] of each direction with each of the axes, and diagonal-ness before and after."""
    module = Separable(dim_z, seed, squashed)
    ours = start(module, seed=seed, microbatch=64)
    before = ours.diagonalness()
    for _ in range(steps):
        ours.step()
    return (ours.Q() @ module.R.T).detach().abs(), before, ours.diagonalness()


CASES = [(8, 1500, seed, squashed) for seed in range(3) for squashed in (False, True)]
CASES += [(16, 4000, 0, False), (16, 4000, 1, True)]


@pytest.mark.parametrize("dim_z, steps, seed, squashed", CASES)
def test_every_axis_is_found_exactly_once(dim_z, steps, seed, squashed):
    cosines, before, after = discovered(dim_z, steps, seed, squashed)
    assert sorted(cosines.argmax(1).tolist()) == list(range(dim_z))
    assert torch.mean(cosines.max(1).values) >= 0.99
    assert before < 0.5 and after > (0.9 if squashed else 0.99)

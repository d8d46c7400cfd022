"""Discovery finds hidden axes: of generators f(Rz) with f separable, or separable and then squashed by tanh."""

import pytest
import torch
from separable import Separable, passes_to_find, start


def discovered(dim_z, steps, seed, squashed):
    """|cos| [dim_z, dim_z] of each direction with each of the axes, and diagonal-ness before and after."""
    module = Separable(dim_z, seed, squashed)
    ours = start(module, seed=seed, microbatch=64)
    before = ours.diagonal_share()
    for _ in range(steps):
        ours.step()
    return (ours.Q() @ module.R.T).detach().abs(), before, ours.diagonal_share()


CASES = [(8, 1500, seed, squashed) for seed in range(3) for squashed in (False, True)]
CASES += [(16, 4000, 0, False), (16, 4000, 1, True)]


@pytest.mark.parametrize("dim_z, steps, seed, squashed", CASES)
def test_every_axis_is_found_exactly_once(dim_z, steps, seed, squashed):
    cosines, before, after = discovered(dim_z, steps, seed, squashed)
    assert sorted(cosines.argmax(1).tolist()) == list(range(dim_z))
    assert torch.mean(cosines.max(1).values) >= 0.99
    assert before < 0.5 and after > (0.9 if squashed else 0.99)


def test_the_diagonal_objective_takes_at_most_half_the_passes():
    """Over six problems; benchmarks/planted_directions.py has larger ones."""
    total = {"hessian_penalty": 0, "diagonal": 0}
    for objective in total:
        for seed in range(6):
            ours = start(Separable(16, seed, squashed=True), seed=seed, objective=objective, microbatch=64)
            passes, cosine = passes_to_find(ours, limit=4000)
            assert cosine >= 0.97
            total[objective] += passes
    assert 2 * total["diagonal"] <= total["hessian_penalty"]

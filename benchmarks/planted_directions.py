"""Passes of the generator until discovery has found hidden axes, for each objective of discover.py.

    python benchmarks/planted_directions.py [DIMENSIONS ...] [--seeds 6]

The generators are tanh of a separable function of a rotated latent (tests/biggan/separable.py), so the axes of the
rotation are the directions to find: batch 64, Adam at 0.01, path size 5, as many directions as dimensions. A run ends
when the mean |cos| of the directions with their closest axes is 0.97. The baseline is the Hessian Penalty with k = 2
and epsilon 0.1, in the same run and from the same start; the others are given up at twice its passes. Each pass of
the generator over a batch counts as one, with or without gradient. Two starts: discover.py's own (Kaiming-normal),
and A ~ N(0, 1), whose directions Adam turns √(n/2) times more slowly.

A number in brackets was not enough: what was found when the run was given up.
"""

import argparse
import math
import os
import statistics
import sys

import torch

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests", "biggan"))  # the planted generators, which the tests have too

from separable import Separable, passes_to_find, start  # noqa: E402

DIMENSIONS = [16, 32, 64]  # 120, the published BigGAN's, takes half an hour
STARTS = {"start of discover.py": lambda n: 1.0, "start A ~ N(0, 1)": lambda n: math.sqrt(n / 2)}
ENOUGH, LIMIT = 0.97, 100000  # mean |cos|; passes of the baseline, at most


def rows_of(n):
    """[(name, module, settings)] of a table, the baseline first. Settings.epsilon is the step of a diagonal over √n."""
    rows = [
        ("hessian_penalty", Separable, {"objective": "hessian_penalty"}),
        (f"diagonal (steps {0.1 * n**0.5:.2g})", Separable, {"objective": "diagonal"}),
        ("diagonal, steps 0.1", Separable, {"objective": "diagonal", "epsilon": 0.1 / n**0.5}),
        ("diagonal, steps 1.0", Separable, {"objective": "diagonal", "epsilon": 1 / n**0.5}),
    ]
    if n == min(DIMENSIONS):
        rows.append(("orojar", Separable, {"objective": "orojar"}))
    return rows


def run(n, module, settings, scale, seed, limit):
    """Return (passes, mean |cos|)."""
    ours = start(module(n, seed, squashed=True), seed=seed, microbatch=64, **settings)
    with torch.no_grad():
        ours.A.mul_(scale)
    return passes_to_find(ours, limit, ENOUGH)


def in_words(outcome):
    passes, cosine = outcome
    return f"{passes:.0f}" if cosine >= ENOUGH else f"({cosine:.2f})"


def mean_passes(outcomes):
    return statistics.mean(passes for passes, _ in outcomes)


def table(n, start_name, seeds):
    """Print what each objective takes from one start."""
    scale = STARTS[start_name](n)
    title = f"{n} dimensions, {start_name}"
    print(f"{title:38}" + "".join(f"{f'seed {seed}':>8}" for seed in range(seeds)) + "    mean  ratio")
    baseline, limit = None, LIMIT
    for name, module, settings in rows_of(n):
        outcomes = [run(n, module, settings, scale, seed, limit) for seed in range(seeds)]
        if baseline is None:
            baseline = mean_passes(outcomes)
            limit = 2 * baseline
        cells = "".join(f"{in_words(outcome):>8}" for outcome in outcomes)
        mean = mean_passes(outcomes)
        all_found = all(cosine >= ENOUGH for _, cosine in outcomes)
        last = f"{mean:8.0f}{baseline / mean:7.2f}" if all_found else f"{'-':>8}{'-':>7}"
        print(f"  {name:36}{cells}{last}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dimensions", nargs="*", type=int, default=DIMENSIONS)
    parser.add_argument("--seeds", type=int, default=6)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print(f"PyTorch {torch.__version__}, CPU, one thread; passes to mean |cos| {ENOUGH}")
    for n in chosen.dimensions:
        for name in STARTS:
            table(n, name, chosen.seeds)


if __name__ == "__main__":
    main()

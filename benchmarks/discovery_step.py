"""Seconds and peak memory of one discovery step, against the reference's algorithm written out plainly.

    python benchmarks/discovery_step.py [cpu|cuda]

On a CPU: a BigGAN of base width 16 at 128 px, batch 4, 120 directions, one thread. With CUDA: the published setting
(base width 96, batch 24), which gpu.py measures too. The baseline orthonormalises row by row, makes 2k + 1 passes and
takes the unbiased variance of Equation 5's second differences; the generator is the same frozen one, its weights
random, and both get the same draws. Times are medians of interleaved steps in one process; on a CPU each peak is that
of a process of its own, less what it held before the first step. How far their first gradients are apart is printed
too.
"""

import argparse

import torch
from measure import count_from_here, in_a_fresh_process, in_turns, peak, resident_peak, synchronizer

from biggan import directions
from biggan.biggan import Generator, published_spec
from biggan.discovery import Discovery, Settings, draw
from biggan.frozen import FrozenGenerator
from hessian_penalty_pytorch import full_float32

NDIRS, SEED = 120, 0  # directions, or as many as z has components
STEPS = {"cpu": 7, "cuda": 15}  # timed, of each algorithm
ORTHONORMALISATIONS = 5
SETTINGS = {"cpu": (16, 4, 128), "cuda": (96, 24, 128)}  # base width, batch size, resolution


# ----------------------------------------------------------------------------------------------------------------------
# The reference's algorithm


def gram_schmidt(A):
    """Row by row: each loses its components along those before it, and is normalised."""
    rows = []
    for row in A:
        for q in rows:
            row = row - (row @ q) * q
        rows.append(row / row.norm())
    return torch.stack(rows)


class Baseline:
    """The step as one would write it down from the paper."""

    def __init__(self, G, A, settings):
        self.G, self.settings = G, settings
        self.A = A.clone().to(G.device).requires_grad_()
        self.steps = 0
        self.optimiser = torch.optim.Adam([self.A], lr=settings.lr)

    def step(self):
        with full_float32():
            self.optimiser.zero_grad()
            self.penalty(draw(self.G, len(self.A), self.settings, self.steps)).backward()
        self.optimiser.step()
        self.steps += 1

    def penalty(self, batch):
        """Equation 5: second differences around w, their unbiased variance, the mean over all elements."""
        z, w, y, signs = (None if part is None else part.to(self.G.device) for part in batch)
        epsilon, Q = self.settings.epsilon, gram_schmidt(self.A)
        centre = self.G(z + w @ Q, y)
        differences = []
        for v in signs:
            plus, minus = self.G(z + (w + epsilon * v) @ Q, y), self.G(z + (w - epsilon * v) @ Q, y)
            differences.append((plus - 2 * centre + minus) / epsilon**2)
        return torch.stack(differences).var(dim=0, unbiased=True).mean()


# ----------------------------------------------------------------------------------------------------------------------
# Measurements


def build(algorithm, ch, batch_size, resolution, device):
    """Return the Baseline or the Discovery, over the same generator and from the same A."""
    torch.manual_seed(SEED)
    G = FrozenGenerator(Generator(published_spec(ch, resolution)), "random weights", device, known=True)
    space = directions.search_space("all", G.dim_z)
    A = directions.initial("random", min(NDIRS, G.dim_z), space, SEED)
    settings = Settings(batch_size=batch_size, seed=SEED)
    return Baseline(G, A, settings) if algorithm == "baseline" else Discovery(G, A, space, settings)


def measured(setting, device, fresh):
    """Return ({algorithm: median seconds of a step}, {algorithm: peak bytes}, relative distance of first gradients).

    fresh: take each peak in a process of its own, as a CPU's have to be.
    """
    torch.backends.cudnn.benchmark = True  # for both; a CPU does not care
    both = {name: build(name, *setting, device) for name in ("baseline", "ours")}
    for each in both.values():
        each.step()
    theirs, ours = (each.A.grad for each in both.values())
    distance = ((theirs - ours).norm() / theirs.norm()).item()
    steps = {name: each.step for name, each in both.items()}
    if fresh:
        peaks = {name: in_a_fresh_process("discovery_step", "peak_memory", name, setting) for name in both}
    else:
        peaks = {name: peak(step, device) for name, step in steps.items()}
    return in_turns(steps, STEPS[device], synchronizer(device)), peaks, distance


def peak_memory(algorithm, setting):
    """Return the bytes that two steps take at their peak beyond what was held before. Run it in a fresh process."""
    torch.set_num_threads(1)
    each = build(algorithm, *setting, "cpu")
    before = count_from_here()
    for _ in range(2):
        each.step()
    return resident_peak() - before


def orthonormalisation_seconds(device="cpu"):
    """Return {algorithm: median seconds} of 120×120, forward and backward."""
    draws = directions.generator(SEED)
    A, cotangent = (torch.randn(NDIRS, NDIRS, generator=draws).to(device) for _ in range(2))
    A.requires_grad_()
    both = {"baseline": gram_schmidt, "ours": directions.orthonormalise}
    calls = {name: lambda function=each: torch.autograd.grad(function(A), A, cotangent) for name, each in both.items()}
    for call in calls.values():
        call()
    return in_turns(calls, ORTHONORMALISATIONS, synchronizer(device))


def main():
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("device", nargs="?", choices=sorted(SETTINGS), default=default)
    device = parser.parse_args().device
    torch.set_num_threads(1)
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU, one thread"
    print(f"PyTorch {torch.__version__}, {name}; {NDIRS} directions, 128 px, float32")
    print(f"{'':26} {'baseline':>10} {'ours':>10} {'ratio':>7}")
    seconds, peaks, distance = measured(SETTINGS[device], device, fresh=device == "cpu")
    ch, batch_size, _ = SETTINGS[device]
    print(f"ch {ch}, batch {batch_size} (gradients differ by {distance:.1e})")
    for what, values, unit in (("seconds a step", seconds, 1), ("peak memory, MiB", peaks, 2**20)):
        ratio = values["ours"] / values["baseline"]
        print(f"  {what:24} {values['baseline'] / unit:10.4g} {values['ours'] / unit:10.4g} {ratio:7.2f}")
    theirs, ours = orthonormalisation_seconds(device).values()
    print(f"orthonormalisation, ms     {1e3 * theirs:10.4g} {1e3 * ours:10.4g} {ours / theirs:7.4f}")
    where = "GPU" if device == "cuda" else "CPU"
    print(f"  that is {theirs / ours:.0f} times as fast, forward and backward, at {NDIRS}x{NDIRS} on the {where}")


if __name__ == "__main__":
    main()

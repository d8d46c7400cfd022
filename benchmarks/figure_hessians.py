"""Hessians of images that share their evaluations, against the textbook's four evaluations an entry.

    python benchmarks/figure_hessians.py

The generator is an untrained ProGAN of 128 px and nz 12, fmap_base 512 (256 maps at 4x4, 8 at 128x128), on one thread.
The baseline makes H_ij = (f(+i+j) − f(+i−j) − f(−i+j) + f(−i−j)) / 4ε² of four images for each of the n (n + 1) / 2
entries of a symmetric matrix, in minibatches of the same size. The two take turns in one process: the ratio is that of
their total times. The memory is the peak of a process of its own that makes the `diag` statistics of 100 samples, above
what it held with the generator loaded and run once (Linux).
"""

import multiprocessing
import statistics
import time

import numpy as np

EPSILON, MINIBATCH, NZ, RESOLUTION, FMAP_BASE = 0.1, 100, 12, 128, 512
ROUNDS, SAMPLES = 5, 100


def generator():
    """Return latents -> float32 images of an untrained network; one thread."""
    from progan.inference import TrainedGenerator
    from progan.networks import NetworkSpec, generator_shapes, initial_weights
    from progan.snapshot import Snapshot

    spec = NetworkSpec(resolution=RESOLUTION, nz=NZ, fmap_base=FMAP_BASE)
    weights = initial_weights(generator_shapes(spec), np.random.RandomState(0))
    trained = TrainedGenerator(Snapshot(spec, {"Gs": weights}, 0.0, 0, {}), num_gpus=0, num_threads=1)
    return lambda latents: trained(latents, minibatch=MINIBATCH, dtype=np.float32)


def latents(count):
    return np.random.RandomState(1).standard_normal([count, NZ])


# ----------------------------------------------------------------------------------------------------------------------
# The two of them: all H_ij, i <= j, of one latent, folded up into the sum of their squares


def ours(G, z):
    from progan.metrics.hessian import hessian_entries

    return sum(np.square(entry).sum() for _, _, entry in hessian_entries(G, z, EPSILON, MINIBATCH))


def four_points(G, z):
    axes, total = EPSILON * np.eye(NZ), 0.0
    pairs = [(i, j) for i in range(NZ) for j in range(i, NZ)]
    for first in range(0, len(pairs), MINIBATCH // 4):
        part = pairs[first : first + MINIBATCH // 4]
        corners = [z + a * axes[i] + b * axes[j] for i, j in part for a in (1, -1) for b in (1, -1)]
        images = G(np.float32(corners)).astype(np.float64)
        for up_up, up_down, down_up, down_down in zip(images[0::4], images[1::4], images[2::4], images[3::4]):
            total += np.square((up_up - up_down - down_up + down_down) / (4 * EPSILON**2)).sum()
    return total


# ----------------------------------------------------------------------------------------------------------------------


def seconds(G):
    """Return {name: seconds a sample, one for each of ROUNDS}, measured in turn."""
    taken = {"four points": [], "ours": []}
    for z in latents(ROUNDS):
        for name, method in (("four points", four_points), ("ours", ours)):
            start = time.perf_counter()
            method(G, z)
            taken[name].append(time.perf_counter() - start)
    return taken


def memory_and_time():
    """Return (MiB above the generator's own, seconds) of the statistics of SAMPLES samples."""
    from progan.metrics.hessian import diagonal_statistics

    G = generator()
    G(np.zeros([MINIBATCH, NZ], np.float32))
    with open("/proc/self/clear_refs", "w") as stream:
        stream.write("5")  # the peak counts from here
    before, start = memory("VmRSS"), time.perf_counter()
    diagonal_statistics(G, latents(SAMPLES), EPSILON, MINIBATCH)
    return memory("VmHWM") - before, time.perf_counter() - start


def memory(name):
    """MiB that this process holds (VmRSS), or has held at most (VmHWM). Linux."""
    with open("/proc/self/status") as stream:
        return next(int(line.split()[1]) / 1024 for line in stream if line.startswith(name))


def main():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        peak, total = pool.apply(memory_and_time)
    G = generator()
    G(np.zeros([MINIBATCH, NZ], np.float32))  # TensorFlow's first run is slower
    taken = seconds(G)
    print(f"ProGAN of {RESOLUTION} px, nz {NZ}, fmap_base {FMAP_BASE}, untrained, one thread; epsilon {EPSILON}")
    print(f"{'':12} {'images a sample':>16} {'seconds a sample':>17}")
    images = {"four points": 4 * NZ * (NZ + 1) // 2, "ours": 1 + 2 * NZ + NZ * (NZ - 1)}
    for name, values in taken.items():
        print(f"{name:12} {images[name]:16d} {statistics.median(values):17.3f}")
    print(f"ours is {sum(taken['four points']) / sum(taken['ours']):.2f} times as fast")
    print(f"diag of {SAMPLES} samples: {peak:.0f} MiB at most above the generator's own, {total:.0f} s")


if __name__ == "__main__":
    main()

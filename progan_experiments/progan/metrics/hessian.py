"""Hessians of images with respect to the latent z, by central differences, and how diagonal they are.

Every element of an image (a pixel's red, green or blue) is a function f of z with a Hessian H of its own. With f(+i-j)
for f(z + ε e_i − ε e_j):

    H_ii ≈ (f(+i) + f(-i) − 2 f(0)) / ε²
    H_ij ≈ (f(+i+j) + f(-i-j) − f(+i) − f(-i) − f(+j) − f(-j) + 2 f(0)) / (2 ε²)

The entries share what they have in common: 1 + 2n + n(n − 1) images for n components, where the textbook's four images
an entry make 2n(n + 1), twice as many. Both err by O(ε²).

Rounding: the differences are taken in float64, so only the images' own rounding counts. Where an image element is off
by δ, entries are off by √6 δ/ε² on the diagonal and √10 δ/(2 ε²) off it (standard deviations): 245 δ and 158 δ at
ε = 0.1. The shipped model of 16 px has δ = 3e-7 in float32: so its entries, of 0.12 and 0.016 (root mean squares), are
off by 7e-5 and 4e-5.
"""

import numpy as np


def hessian_entries(G, z, epsilon=0.1, minibatch=100):
    """Yield (i, j, H_ij) for 0 <= i <= j < nz: the diagonal first. H_ij: float64, of the shape of an image.

    One entry at a time, so that memory holds 3 nz + 1 images and those of a minibatch, whatever is made of them.

    G  callable: latents [n, nz], n <= minibatch -> floating-point images [n, ...]
    z  [nz]: one latent
    """
    z = np.asarray(z, np.float64)
    nz, axes = len(z), epsilon * np.eye(len(z))
    plus, minus = _images(G, z + axes, minibatch), _images(G, z - axes, minibatch)
    centre = _images(G, z[None], minibatch)[0]
    bends = []  # f(+i) + f(-i) − 2 f(0)
    for i in range(nz):
        bends.append((plus[i] - centre) + (minus[i] - centre))
        yield i, i, bends[i] / epsilon**2
    del plus, minus
    pairs = [(i, j) for i in range(nz) for j in range(i + 1, nz)]
    for first in range(0, len(pairs), max(minibatch // 2, 1)):
        part = pairs[first : first + max(minibatch // 2, 1)]
        steps = np.array([axes[i] + axes[j] for i, j in part])
        images = _images(G, np.concatenate([z + steps, z - steps]), minibatch)
        for (i, j), both_up, both_down in zip(part, images[: len(part)], images[len(part) :]):
            bend = (both_up - centre) + (both_down - centre)
            yield i, j, (bend - bends[i] - bends[j]) / (2 * epsilon**2)


def image_hessians(G, z, epsilon=0.1, minibatch=100):
    """Yield for each latent of z [N, nz] the Hessians of its image: float64 [..., nz, nz], ... an image's shape.

    They take nz² times the memory of an image; where sums over entries do, fold up `hessian_entries` instead.
    """
    for latent in z:
        nz = len(latent)
        for i, j, entry in hessian_entries(G, latent, epsilon, minibatch):
            if (i, j) == (0, 0):
                hessians = np.empty([*entry.shape, nz, nz])
            hessians[..., i, j] = hessians[..., j, i] = entry
        yield hessians


def penalty_map(G, z, random, k=2, epsilon=0.1, minibatch=100):
    """Return the Hessian Penalty of every element of the image at one latent z [nz]: float64, of the image's shape.

    The unbiased variance over k directions of signs of vᵀHv, whose expectation is 2 Σ_{i≠j} H_ij² (Peebles et al. 2020,
    Eq. 5), added up over minibatches.

    random  numpy RandomState that draws the directions
    """
    z, steps = np.asarray(z, np.float64), epsilon * random.choice([-1.0, 1.0], [k, len(z)])
    centre = _images(G, z[None], minibatch)[0]
    total = squares = 0.0
    for first in range(0, k, max(minibatch // 2, 1)):
        x = steps[first : first + max(minibatch // 2, 1)]
        plus, minus = np.split(_images(G, np.concatenate([z + x, z - x]), minibatch), 2)
        vHv = ((plus - centre) + (minus - centre)) / epsilon**2
        total, squares = total + vHv.sum(axis=0), squares + np.square(vHv).sum(axis=0)
    return np.maximum(squares - total**2 / k, 0) / (k - 1)


def _images(G, latents, minibatch):
    """G in parts of at most `minibatch`, as float64: differences then lose nothing more."""
    parts = [
        np.asarray(G(latents[i : i + minibatch].astype(np.float32)), np.float64)
        for i in range(0, len(latents), minibatch)
    ]
    return np.concatenate(parts)


# ----------------------------------------------------------------------------------------------------------------------
# How diagonal they are


def diagonal_statistics(G, z, epsilon=0.1, minibatch=100):
    """Return {name: float64 [N]} of the Hessians at each latent of z [N, nz], over all elements of its image:

    diagonal_energy      Σ_i H_ii², mean over elements
    off_diagonal_energy  Σ_{i≠j} H_ij², mean over elements: half the Hessian Penalty with the mean reduction
    largest_on_diagonal  share of elements whose largest |H_ij| is on the diagonal. Where H is 0 it is nowhere.
    ratio                mean over elements of each one's mean |H_ii| / (mean |H_ij|, i≠j, + 1e-8)
    """
    rows = [_diagonal_statistics(G, latent, epsilon, minibatch) for latent in z]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _diagonal_statistics(G, latent, epsilon, minibatch):
    nz = len(latent)
    on, off = _Magnitudes(), _Magnitudes()
    for i, j, entry in hessian_entries(G, latent, epsilon, minibatch):
        (on if i == j else off).add(np.abs(entry))
    mean_off = 2 * off.total / max(nz * (nz - 1), 1)  # an entry above the diagonal stands for its mirror image too
    return {
        "diagonal_energy": on.energy,
        "off_diagonal_energy": 2 * off.energy,
        "largest_on_diagonal": np.mean(on.largest > off.largest),
        "ratio": np.mean(on.total / nz / (mean_off + 1e-8)),
    }


class _Magnitudes:
    """Sums and the largest of |entries| seen, for each element of an image; their energy over all elements."""

    def __init__(self):
        self.total = self.largest = self.energy = 0.0

    def add(self, magnitude):
        self.total = self.total + magnitude
        self.largest = np.maximum(self.largest, magnitude)
        self.energy += np.mean(np.square(magnitude))


def summary(statistics):
    """Return {name: float} of what `diagonal_statistics` gave: means over samples, and

    energy_share  Σ_i H_ii² / Σ_ij H_ij², numerator and denominator summed over samples and elements first, so that an
                  element counts by the energy of its Hessian. 1: diagonal. nan: G does not bend at all.
    """
    means = {name: float(np.mean(values)) for name, values in statistics.items()}
    total = means["diagonal_energy"] + means["off_diagonal_energy"]
    return {
        "energy_share": means["diagonal_energy"] / total if total else float("nan"),
        "ratio": means["ratio"],
        "largest_on_diagonal": means["largest_on_diagonal"],
    }


def standard_errors(statistics):
    """Return {name: float}: of the numbers of `summary`, from the choice of samples, by the jackknife (nan for one)."""
    samples = len(statistics["ratio"])
    if samples == 1:
        return dict.fromkeys(summary(statistics), float("nan"))
    without = [summary({name: np.delete(values, i) for name, values in statistics.items()}) for i in range(samples)]
    return {name: float(np.sqrt(samples - 1) * np.std([numbers[name] for numbers in without])) for name in without[0]}


def diagonalness(sample, nz, samples=16, seed=0, epsilon=0.1, minibatch=100):
    """How diagonal the Hessians of z -> image are, whatever their scale: {energy_share, ratio, largest_on_diagonal}.

    See `summary` and `diagonal_statistics`. Unlike the penalty, none of the three improves when the images merely
    change less. Latents are drawn from `seed` and enter as they do in training, where G normalises them.

    What to compare energy_share with: components turned at random leave (2 + tr(H)²/‖H‖²) / (nz + 2) of the energy on
    the diagonal, for nz 12 from 0.14 to 0.21. Where z enters additively, also through ReLUs, off-diagonal entries
    vanish exactly, and it is 1. Where ReLUs bend G, a second difference grows as its step shrinks, so steps of unequal
    length can flatter the diagonal; here entries off it are made of steps ε and √2 ε, and the bias is small: on
    isotropic kinks, one each, nz 12, it is 0.241, with steps of one length 0.236, and exact Hessians give 3/14 = 0.214.
    (Steps ε on the diagonal beside the textbook's H_ij, whose steps are all √2 ε, would give 0.303.)

    sample  callable: (latents, minibatch=, dtype=) -> images [n, R, R, C], such as a TrainedGenerator
    """
    z = np.random.RandomState(seed).standard_normal([samples, nz])

    def G(latents):
        return sample(latents, minibatch=minibatch, dtype=np.float32)

    return summary(diagonal_statistics(G, z, epsilon, minibatch))

"""Perceptual path length (Karras et al. 2019, Sec. 4.1): how far images move, to the eye, per step in latent space."""

import numpy as np

from experiment_utils.runs import progress

EPSILON = 1e-4  # step along the path from one latent to another; paths are of length 1
LPIPS_SIZE = 256  # pixels at which images are compared


def perceptual_path_length(worker, sample, nz, num_pairs=100000, seed=0, minibatch=100):
    """Return the mean of LPIPS distance / EPSILON² over the steps that `num_pairs` paths begin with.

    Paths are great circles in z between latents drawn from `seed`; the step is at their beginning ('end' sampling).
    Images are compared as G makes them, neither rounded nor clipped, resized to LPIPS_SIZE.

    worker   FeatureWorker      sample   callable: (latents, minibatch=, dtype=) -> images
    """
    ends = np.random.RandomState([seed, 0]).standard_normal([num_pairs, 2, nz])
    steps = np.stack([slerp(ends[:, 0], ends[:, 1], t) for t in (0.0, EPSILON)], axis=1).astype(np.float32)

    def pairs():
        for begin in range(0, num_pairs, minibatch):
            latents = steps[begin : begin + minibatch].reshape(-1, nz)
            images = sample(latents, minibatch=minibatch, dtype=np.float32)
            yield {"network": "vgg", "images": images[::2], "others": images[1::2]}

    distances = []
    with progress(total=num_pairs, desc="PPL", unit="pair", disable=None) as bar:
        for found in worker.stream("distances", pairs()):
            distances.append(found)
            bar.update(len(found))
    return trimmed_mean(np.concatenate(distances) / EPSILON**2)


def slerp(a, b, t):
    """Return the points a share t along the great circle from a to b, float64 [N, nz], all of length 1."""
    a, b = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (a, b))
    cosine = (a * b).sum(1, keepdims=True)
    across = b - cosine * a
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    angle = t * np.arccos(np.clip(cosine, -1, 1))
    return a * np.cos(angle) + across * np.sin(angle)


def trimmed_mean(values):
    """Return the mean without what lies below the 1st or above the 99th percentile.

    Where a percentile falls between two values it is taken outwards, and values equal to it stay.
    """
    values = np.asarray(values, float)
    ordered, last = np.sort(values), len(values) - 1
    low, high = ordered[last // 100], ordered[-(-99 * last // 100)]
    return float(values[(values >= low) & (values <= high)].mean())


def resize_matrix(size, new_size):
    """Return float32 [new_size, size]: M such that M X Mᵀ is TensorFlow 1's bilinear resize of X [size, size].

    Pixel i of the new image is read at i · size / new_size, without the half-pixel shift of other libraries.
    """
    at = np.arange(new_size) * (size / new_size)
    low = np.minimum(np.floor(at).astype(int), size - 1)
    matrix = np.zeros([new_size, size])
    matrix[np.arange(new_size), low] += 1 - (at - low)
    matrix[np.arange(new_size), np.minimum(low + 1, size - 1)] += at - low
    return matrix.astype(np.float32)

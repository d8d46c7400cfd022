"""Fréchet distance (Heusel et al. 2017) and kernel distance (Bińkowski et al. 2018) between sets of images' features.

In InceptionV3 they are FID and KID. Features are float32 [images, d]; what they are computed with is torchmetrics.
"""

import numpy as np

from experiment_utils.errors import UserError
from experiment_utils.files import load_tensors, save_tensors
from experiment_utils.runs import progress

KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000
_CHUNK = 1000  # features sent at a time


def real_features(worker, network, dataset, resolution, count, cache, minibatch=100):
    """Return the features of the first `count` images of a dataset, or of all: float32 [min(count, images), d].

    They are kept beside the dataset (`cache`, a DatasetCache), under a key of its content and of the network's.
    """
    count = min(count, len(dataset))
    _, fingerprint = worker.call("describe", network=network, resolution=resolution)
    path = cache.path(f"features-{network}", [fingerprint, count])
    try:
        return load_tensors(path)[0]["features"]
    except UserError:  # not there, or damaged
        pass

    def batches():
        for begin in range(0, count, minibatch):
            indices = range(begin, min(begin + minibatch, count))
            yield {"networks": [network], "images": dataset.images(resolution, indices)}

    found = _collect(worker, batches(), count, f"real images ({network})")[network]
    cache.keep(path, lambda path: save_tensors(path, {"features": found}, {"fingerprint": fingerprint}))
    return found


def generated_features(worker, networks, sample, nz, count, seed=0, minibatch=100):
    """Return {network: float32 [count, d]}: features of images of latents drawn from `seed`."""
    z = np.random.RandomState([seed, 1]).standard_normal([count, nz]).astype(np.float32)

    def batches():
        for begin in range(0, count, minibatch):
            yield {"networks": networks, "images": sample(z[begin : begin + minibatch], minibatch=minibatch)}

    return _collect(worker, batches(), count, "generated images")


def frechet_distance(worker, real, generated):
    """Return |μ - μ'|² + tr(C + C' - 2 (C C')^½) of the features' means and covariances (ddof 1).

    The real ones are cycled until they are as many as the generated ones, as the published numbers have it.
    """
    worker.call("begin", metric="FID", dimensions=real.shape[1])
    for begin in range(0, len(generated), _CHUNK):
        some = np.arange(begin, min(begin + _CHUNK, len(generated)))
        worker.call("update", metric="FID", features=real[some % len(real)], real=True)
        worker.call("update", metric="FID", features=generated[some], real=False)
    return worker.call("compute", metric="FID", seed=0)[0]


def kernel_distance(worker, real, generated, subset_size, seed=0):
    """Return (mean, standard deviation), over KID_SUBSETS subsets, of the squared MMD with kernel (x·y / d + 1)³."""
    worker.call("begin", metric="KID", dimensions=real.shape[1], subsets=KID_SUBSETS, subset_size=subset_size)
    for features, is_real in ((real, True), (generated, False)):
        for begin in range(0, len(features), _CHUNK):
            worker.call("update", metric="KID", features=features[begin : begin + _CHUNK], real=is_real)
    return tuple(worker.call("compute", metric="KID", seed=seed))


def _collect(worker, batches, count, what):
    parts = []
    with progress(total=count, desc=what, unit="img", disable=None) as bar:
        for found in worker.stream("features", batches):
            parts.append(found)
            bar.update(len(next(iter(found.values()))))
    return {network: np.concatenate([part[network] for part in parts]) for network in parts[0]}

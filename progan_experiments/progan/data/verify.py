"""Checking a dataset from end to end."""

import os

import numpy as np

from experiment_utils.errors import DataError
from progan.data.writer import pyramid

TOLERANCE = 1  # gray levels between a stored smaller image and the one computed from the full one: a rounding, no more


def verify(dataset, indices):
    """Read every image of a Dataset at every resolution; raise DataError at the first thing wrong.

    Checked are each record's checksums and shape, the number of records of every level, that each smaller image is the
    box average of the full one to `TOLERANCE`, and that the factors are within what their description allows.
    `indices` is range(len(dataset)), or a progress bar around it.
    """
    if dataset.factors is not None:
        _verify_factors(dataset)
    _verify_labels(dataset)
    for index in indices:
        full = dataset.images(dataset.resolution, [index])[0]
        for level in pyramid(full):
            stored = dataset.images(len(level), [index])[0]
            difference = np.abs(stored.astype(int) - level).max()
            if difference > TOLERANCE:
                raise DataError(
                    "%s: record %d differs by %d of 255 from the average of the %dx%d image"
                    % (dataset.level_path(len(level)), index, difference, dataset.resolution, dataset.resolution)
                )


def _verify_factors(dataset):
    path = os.path.join(dataset.path, dataset.name + "-factors.npy")
    for column, info in zip(dataset.factors.T, dataset.factor_info):
        if info["kind"] == "continuous":
            low, high = np.float32(info["range"])
            wrong = ~((column >= low) & (column <= high))
        else:
            wrong = ~np.isin(column, np.arange(len(info["values"])))
        if wrong.any():
            index = int(np.argmax(wrong))
            raise DataError("%s: %s of image %d is %g, out of its range" % (path, info["name"], index, column[index]))


def _verify_labels(dataset):
    path = os.path.join(dataset.path, dataset.name + "-rxx.labels")
    if not os.path.exists(path):
        return
    try:
        labels = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as problem:
        raise DataError("%s: not a readable .npy file (%s)" % (path, problem)) from None
    if labels.ndim != 2 or len(labels) != len(dataset):
        raise DataError("%s: %s labels for %d images" % (path, list(labels.shape), len(dataset)))

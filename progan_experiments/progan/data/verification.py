"""Checking a dataset from end to end. Whatever is wrong raises DataError, naming the file and the record."""

import os

import numpy as np

from experiment_utils.datasets import load_array
from experiment_utils.errors import DataError
from progan.data.writer import pyramid

TOLERANCE = 1  # gray levels between a stored smaller image and the one computed from the full one: a rounding, no more


def verify_image(dataset, index):
    """Read one image of a Dataset at every resolution: checksums, shapes, and whether the levels agree.

    Each smaller image must be the box average of the full one, to `TOLERANCE`.
    """
    full = dataset.images(dataset.resolution, [index])[0]
    for level in pyramid(full):
        stored = dataset.images(len(level), [index])[0]
        difference = np.abs(stored.astype(int) - level).max()
        if difference > TOLERANCE:
            raise DataError(
                "%s: record %d differs by %d of 255 from the average of the %dx%d image"
                % (dataset.level_path(len(level)), index, difference, dataset.resolution, dataset.resolution)
            )


def verify_factors(dataset):
    """Check the factors against their description, and the number of labels, where a Dataset has them."""
    prefix = os.path.join(dataset.path, dataset.name)
    if dataset.factors is not None:
        for column, info in zip(dataset.factors.T, dataset.factor_info):
            wrong = ~_allowed(column, info)
            if wrong.any():
                index = int(np.argmax(wrong))
                found = (prefix + "-factors.npy", info["name"], index, column[index])
                raise DataError("%s: %s of image %d is %g, out of its range" % found)
    labels_path = prefix + "-rxx.labels"
    if os.path.exists(labels_path):
        labels = load_array(labels_path)
        if labels.ndim != 2 or len(labels) != len(dataset):
            raise DataError("%s: %s labels for %d images" % (labels_path, list(labels.shape), len(dataset)))


def _allowed(column, info):
    """Return which values of a factor its description allows."""
    if info["kind"] == "categorical":
        return np.isin(column, np.arange(len(info["values"])))
    low, high = np.float32(info["range"])
    return (column >= low) & (column <= high)

"""Datasets by name: a directory, or a set that ships with the project."""

from experiment_utils import datasets
from progan.data import bundled


def open_dataset(name, data_dir):
    """Return the Dataset `name`: a directory in `data_dir`, a path, or a set that ships with the project.

    A shipped set is unpacked into `data_dir` the first time. Any other name raises DataError, listing what there is.
    """
    return datasets.open_dataset(name, data_dir, bundled.names(), bundled.unpack)

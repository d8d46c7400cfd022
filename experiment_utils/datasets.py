"""Image datasets: batches at a resolution, in an order that is a function of (seed, images shown).

A dataset is a directory of TFRecord files, one a resolution: NAME-r02.tfrecords holds the images at 4x4, r03 at 8x8,
and so on. Beside them stand the true factors, where they are known: NAME-factors.npy, float32 [images, factors], and
NAME-factors.json, a list with the name, the kind and the range or the values of each. Nothing here needs TensorFlow.
"""

import functools
import os
import re

import numpy as np

from experiment_utils.errors import DataError
from experiment_utils.files import read_json
from experiment_utils.tfrecords import RecordFile, decode_image

PARTIAL = ".partial"  # what the name of an unfinished dataset ends in


def open_dataset(name, data_dir, shipped=(), unpack=None):
    """Return the Dataset `name`: a directory in `data_dir`, or a path.

    A name among `shipped` becomes a directory of `data_dir` through unpack(name, data_dir), which returns its path. Any
    other name raises DataError, listing what there is.
    """
    if os.path.isdir(os.path.join(data_dir, name)):
        return Dataset(os.path.join(data_dir, name))
    if os.path.isdir(name):
        return Dataset(name)
    if name in shipped:
        return Dataset(unpack(name, data_dir))
    entries = os.listdir(data_dir) if os.path.isdir(data_dir) else []
    there = sorted(entry for entry in entries if level_files(os.path.join(data_dir, entry)))
    complete = [entry for entry in there if not entry.startswith(".") and not entry.endswith(PARTIAL)]
    found = "in %s: %s" % (data_dir, ", ".join(complete) or "none")
    if shipped:
        found += "; shipped with the project: %s" % ", ".join(shipped)
    raise DataError("%s: no such dataset (%s)" % (name, found))


def level_files(path):
    """Return the (basename, resolution) of every TFRecord file NAME-rNN.tfrecords in the directory `path`."""
    entries = os.listdir(path) if os.path.isdir(path) else []
    matches = [re.match(r"(.+)-r(\d\d)\.tfrecords$", entry) for entry in sorted(entries)]
    return [(match.group(1), 2 ** int(match.group(2))) for match in matches if match]


def epoch_order(count, seed, epoch):
    """Return the order of `count` images in an epoch: a permutation drawn from (seed, epoch) alone."""
    # RandomState's stream is frozen: the same order with every release of NumPy.
    return np.random.RandomState([seed, epoch]).permutation(count)


class Dataset:
    """A directory of images at every resolution from 4 to `resolution`, and their factors if they are known.

    name, path     as on disk
    resolution     of the largest level (int); resolutions: all of them, ascending
    channels       1 or 3
    factors        float32 [images, factors], or None
    factor_info    a list of dictionaries, {"name", "kind": "continuous", "range"} or {"name", "kind": "categorical",
                   "values"}, or None

    Raises DataError, one line, for whatever is missing or broken.
    """

    def __init__(self, path):
        self.path = os.path.normpath(path)
        files = level_files(self.path)
        names = sorted({name for name, _ in files})
        if len(names) != 1:
            found = "several datasets (%s)" % ", ".join(names) if names else "no dataset (no NAME-rNN.tfrecords)"
            raise DataError("%s: holds %s; give a directory of one" % (self.path, found))
        self.name = names[0]
        self.resolution = max(resolution for _, resolution in files)
        self.resolutions = [2**log2 for log2 in range(2, self.resolution.bit_length())]
        for resolution in self.resolutions:
            if (self.name, resolution) not in files:
                path = self.level_path(resolution)
                raise DataError("%s: no such file: the %dx%d images are missing" % (path, resolution, resolution))
        self._levels = {}
        largest = self._open(self.resolution)
        self._count = len(largest)
        if not self._count:
            raise DataError("%s: holds no image" % largest.path)
        self.channels = self._decode(largest, 0).shape[2]
        if self.channels not in (1, 3):
            raise DataError("%s: images of %d channels; 1 or 3 can be used" % (largest.path, self.channels))
        self.factors, self.factor_info = _load_factors(os.path.join(self.path, self.name), self._count)
        self._epoch_order = functools.lru_cache(maxsize=2)(epoch_order)

    def __len__(self):
        return self._count

    def level_path(self, resolution):
        """Return the path of the TFRecord file of a resolution."""
        return os.path.join(self.path, "%s-r%02d.tfrecords" % (self.name, resolution.bit_length() - 1))

    def images(self, resolution, indices):
        """Return the images at `indices`, uint8 [len(indices), resolution, resolution, channels]."""
        level = self._level(resolution)
        images = np.empty([len(indices), resolution, resolution, self.channels], np.uint8)
        for image, index in zip(images, indices):
            decoded = self._decode(level, int(index))
            if decoded.shape != image.shape:
                raise DataError(
                    "%s: record %d is an image of %s, not of %s like the others (height x width x channels)"
                    % (level.path, index, "x".join(map(str, decoded.shape)), "x".join(map(str, image.shape)))
                )
            image[:] = decoded
        return images

    def minibatch(self, resolution, seed, images_shown, size, part=slice(None)):
        """Return the `size` images that follow the first `images_shown` of training, uint8 [size, H, W, C].

        Each epoch shows every image once, in an order of its own. The same (seed, images_shown) gives the same images,
        and it does not matter how training is cut into minibatches.

        part  slice: which of them to return, where several workers share a minibatch
        """
        epochs, offsets = np.divmod(np.arange(images_shown, images_shown + size)[part], self._count)
        orders = {epoch: self._epoch_order(self._count, seed, epoch) for epoch in np.unique(epochs).tolist()}
        return self.images(resolution, [orders[epoch][offset] for epoch, offset in zip(epochs.tolist(), offsets)])

    def _level(self, resolution):
        if resolution not in self.resolutions:
            sizes = ", ".join(str(each) for each in self.resolutions)
            raise DataError("%s: no images of %dx%d (there are: %s)" % (self.path, resolution, resolution, sizes))
        level = self._open(resolution)
        if len(level) != self._count:
            raise DataError(
                "%s: holds %d images, but %s holds %d"
                % (level.path, len(level), os.path.basename(self.level_path(self.resolution)), self._count)
            )
        return level

    def _open(self, resolution):
        if resolution not in self._levels:
            self._levels[resolution] = RecordFile(self.level_path(resolution))
        return self._levels[resolution]

    def _decode(self, level, index):
        try:
            return decode_image(level[index])
        except ValueError as problem:
            raise DataError("%s: record %d is not an image: %s" % (level.path, index, problem)) from None


def _load_factors(prefix, count):
    """Return (factors, factor_info) of the dataset whose files begin with `prefix`, or (None, None)."""
    array_path, info_path = prefix + "-factors.npy", prefix + "-factors.json"
    if not os.path.exists(array_path):
        return None, None
    factors, info = load_array(array_path), read_json(info_path, DataError)
    if factors.ndim != 2 or factors.shape[0] != count or factors.dtype.kind != "f":
        raise DataError(
            "%s: %s %s, but there are %d images: float32 [%d, factors] is needed"
            % (array_path, factors.dtype, list(factors.shape), count, count)
        )
    if not np.isfinite(factors).all():
        raise DataError("%s: holds values that are not finite" % array_path)
    if not isinstance(info, list) or len(info) != factors.shape[1] or not all(map(_is_factor, info)):
        raise DataError("%s: does not describe the %d factors of the .npy file" % (info_path, factors.shape[1]))
    return factors.astype(np.float32), info


def load_array(path):
    """Return the array of a .npy stream. Raises DataError where it is damaged; pickled objects are never loaded."""
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as problem:
        raise DataError("%s: not a readable .npy file (%s)" % (path, problem)) from None


def _is_factor(info):
    """Whether a JSON value describes a factor."""
    if not isinstance(info, dict) or not isinstance(info.get("name"), str):
        return False
    if info.get("kind") == "categorical":
        return isinstance(info.get("values"), list)
    limits = info.get("range")
    return (
        info.get("kind") == "continuous"
        and isinstance(limits, list)
        and len(limits) == 2
        and all(isinstance(limit, (int, float)) for limit in limits)
    )

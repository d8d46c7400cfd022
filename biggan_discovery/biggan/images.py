"""Images with a class each, to train a generator on: a dataset with a discrete factor, or a folder of folders."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from experiment_utils.datasets import epoch_order, level_files, open_dataset
from experiment_utils.errors import DataError
from experiment_utils.image_files import centre_crop, list_images, once, read_image, to_array


class LabelledImages:
    """Images of one size and the class of each.

    name         for messages and file names
    labels       int64 [N]: indices into `class_names`
    resolution   height and width of the images
    channels     1 or 3
    images       callable: indices -> uint8 [n, H, W, C]
    factors, factor_info    the dataset's true factors (experiment_utils.datasets.Dataset), or None
    """

    def __init__(self, name, labels, class_names, resolution, channels, images, factors=None, factor_info=None):
        self.name, self.labels, self.class_names = name, np.asarray(labels, np.int64), list(class_names)
        self.resolution, self.channels, self.images = resolution, channels, images
        self.factors, self.factor_info = factors, factor_info

    def __len__(self):
        return len(self.labels)

    def minibatch(self, seed, images_shown, size):
        """Return (uint8 images [size, H, W, C], labels [size]) that follow the first `images_shown` of training."""
        epochs, offsets = np.divmod(np.arange(images_shown, images_shown + size), len(self))
        orders = {epoch: epoch_order(len(self), seed, epoch) for epoch in np.unique(epochs).tolist()}
        indices = [orders[epoch][offset] for epoch, offset in zip(epochs.tolist(), offsets)]
        return self.images(indices), self.labels[indices]


def open_images(name, data_dir, resolution=None, class_factor=None, value_range=None, say=print):
    """Return the LabelledImages `name`: TFRecords (a path, or a name in `data_dir`), or a folder of images.

    resolution     of the images; None: a dataset's own. A folder's pictures are cropped to a centred square and scaled
    class_factor   the categorical factor that is the class; None: a folder's subfolders, or a single class
    value_range    what is black and white where a folder's pictures have more than 8 bits, as `read_image` takes it
    say            gets a line that counts the files of a folder that are no pictures
    Raises DataError, one line, for whatever is missing, broken or does not fit.
    """
    for path in (os.path.join(data_dir, name), name):
        if os.path.isdir(path) and not level_files(path):
            return _folder(path, resolution, class_factor, value_range, say)
    dataset = open_dataset(name, data_dir)
    resolution = resolution or dataset.resolution
    if resolution not in dataset.resolutions:
        sizes = ", ".join(map(str, dataset.resolutions))
        raise DataError(f"--resolution {resolution}: {dataset.path} has images of {sizes} px")
    labels, class_names = _classes_from_factor(dataset, class_factor)
    return LabelledImages(
        dataset.name,
        labels,
        class_names,
        resolution,
        dataset.channels,
        lambda indices: dataset.images(resolution, indices),
        dataset.factors,
        dataset.factor_info,
    )


def _classes_from_factor(dataset, class_factor):
    if class_factor is None:
        return np.zeros(len(dataset)), ["all"]
    names = [info["name"] for info in dataset.factor_info or [] if info["kind"] == "categorical"]
    if class_factor not in names:
        known = ", ".join(names) or "none"
        raise DataError(f"--class_factor {class_factor}: {dataset.path} has no such categorical factor ({known})")
    number = [info["name"] for info in dataset.factor_info].index(class_factor)
    return dataset.factors[:, number], [str(value) for value in dataset.factor_info[number]["values"]]


# ----------------------------------------------------------------------------------------------------------------------
# Folders


def _folder(path, resolution, class_factor, value_range, say):
    path = os.path.normpath(path)
    if class_factor is not None:
        raise DataError(f"--class_factor {class_factor}: {path} is a folder of images; its subfolders are the classes")
    if resolution is None:
        raise DataError(f"--resolution: needed for a folder of images ({path})")
    files, say = list_images(path, say), once(say)
    parts = [os.path.relpath(file, path).split(os.sep) for file in files]
    folders = [each[0] if len(each) > 1 else None for each in parts]
    class_names = sorted({folder for folder in folders if folder is not None})
    if class_names and None in folders:
        stray = files[folders.index(None)]
        raise DataError(f"{stray}: beside folders that are classes; put it into one of them, or remove the folders")
    labels = [class_names.index(folder) if class_names else 0 for folder in folders]

    def images(indices):
        with ThreadPoolExecutor(8) as pool:
            return np.stack(list(pool.map(lambda index: _load(files[index], resolution, value_range, say), indices)))

    return LabelledImages(os.path.basename(path), labels, class_names or ["all"], resolution, 3, images)


def _load(path, resolution, value_range, say):
    """uint8 [resolution, resolution, 3]: the centred square of a picture, scaled."""
    return to_array(centre_crop(read_image(path, path, 3, value_range, say), resolution))

"""Images from a folder of files."""

import numpy as np

from experiment_utils.errors import DataError
from experiment_utils.image_files import centre_crop, list_images, once, read_image, to_array


def shuffled(count):
    """Return the order in which `count` images are stored: that of the reference, so that datasets compare equal."""
    order = np.arange(count)
    np.random.RandomState(123).shuffle(order)
    return order


def check_square(image, name):
    """Raise DataError unless a Pillow image can be stored at the size it has."""
    width, height = image.size
    if width != height:
        raise DataError("%s: %dx%d is not square; crop the images with --resize R" % (name, width, height))
    if width < 4 or width & (width - 1):
        raise DataError("%s: %d pixels wide, which is not a power of two from 4 on; use --resize R" % (name, width))


def folder_images(folder, resize=None, channels=None, value_range=None):
    """Return (images, count): an iterator over the images of a folder, uint8 [R, R, C], in the order they are stored.

    resize        crop to the centred square and resize to this; None demands square images, a power of two wide
    channels      1 or 3 converts all images; None demands that they agree
    value_range   what is black and white where images have more than 8 bits, as `read_image` takes it

    Raises DataError naming the file that does not fit; the first in alphabetical order sets the measure.
    """
    paths, say = list_images(folder), once(print)

    def load(path):
        image = read_image(path, path, channels, value_range, say)
        if resize is None:
            check_square(image, path)
            return to_array(image)
        return to_array(centre_crop(image, resize))

    def images():
        measure = load(paths[0]).shape
        for index in shuffled(len(paths)):
            image = load(paths[index])
            if image.shape[2] != measure[2]:
                raise DataError(
                    "%s has %d colour channel(s), but %s has %d; make them alike with --channels"
                    % (paths[index], image.shape[2], paths[0], measure[2])
                )
            if image.shape != measure:
                raise DataError(
                    "%s is %d pixels wide, but %s is %d; make them alike with --resize R"
                    % (paths[index], image.shape[0], paths[0], measure[0])
                )
            yield image

    return images(), len(paths)

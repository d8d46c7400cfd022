"""Edges+Shoes: both halves of the edges2shoes images of pix2pix (Isola et al. 2017), as images of their own.

Each source image is twice as wide as high: the edges on the left, the shoe on the right. Of N images in train/, sorted
by name, image i < N of the dataset is the shoe of file i, and image N + i its edges; they are stored in shuffled order.
"""

import contextlib
import io
import os
import posixpath
import tarfile
import tempfile
import zlib

from experiment_utils.errors import DataError
from experiment_utils.image_files import centre_crop, list_images, once, read_image, to_array
from progan.data.folders import shuffled

_EXTENSIONS = (".jpg", ".jpeg", ".png")


@contextlib.contextmanager
def open_pairs(source, scratch_dir, value_range=None):
    """Yield (names, read): the sorted names of the train images, and a function from an index to a Pillow image.

    source        the folder that holds train/, or train/ itself, or the .tar.gz of it
    scratch_dir   where the compressed images of an archive are put meanwhile (one nameless file; 2 GB for edges2shoes)
    value_range   what is black and white where images have more than 8 bits, as `read_image` takes it
    """
    say = once(print)
    if os.path.isdir(source):
        train = os.path.join(source, "train")
        paths = list_images(train if os.path.isdir(train) else source)
        yield paths, lambda index: read_image(paths[index], paths[index], 3, value_range, say)
        return
    if not os.path.exists(source):
        raise DataError("%s: no such folder or archive" % source)
    with tempfile.TemporaryFile(dir=scratch_dir) as scratch:
        try:
            entries = sorted(_copy_members(source, scratch))
        except OSError as error:
            error.filename = scratch_dir
            raise
        if not entries:
            raise DataError("%s: no train/*.jpg in the archive" % source)

        def read(index):
            name, offset, size = entries[index]
            scratch.seek(offset)
            return read_image(io.BytesIO(scratch.read(size)), "%s: %s" % (source, name), 3, value_range, say)

        yield [name for name, _, _ in entries], read


def _copy_members(archive, scratch):
    """Append the train images of a tar file to `scratch`; return their (name, offset, size). No name becomes a path."""
    entries = []
    try:
        with tarfile.open(archive, "r|gz") as tar:
            for member in tar:
                folder = posixpath.basename(posixpath.dirname(member.name))
                if member.isfile() and folder == "train" and member.name.lower().endswith(_EXTENSIONS):
                    content = tar.extractfile(member).read()
                    entries.append((posixpath.basename(member.name), scratch.tell(), len(content)))
                    scratch.write(content)
    except (tarfile.TarError, EOFError, zlib.error) as problem:
        raise DataError("%s: not a whole .tar.gz archive (%s); fetch it again" % (archive, problem)) from None
    return entries


def images(names, read, resolution):
    """Yield the 2N images of N pairs, uint8 [resolution, resolution, 3], in the order they are stored."""
    count = len(names)
    for index in shuffled(2 * count):
        pair = read(index % count)
        width, height = pair.size
        if width != 2 * height:
            raise DataError("%s: %dx%d is not twice as wide as high" % (names[index % count], width, height))
        left = 0 if index >= count else height
        yield to_array(centre_crop(pair.crop((left, 0, left + height, height)), resolution))

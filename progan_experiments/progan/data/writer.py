"""Writing a dataset: every resolution of each image, under the final name only when all of it is there."""

import contextlib
import fcntl
import os
import re
import shutil
import uuid

import numpy as np

from experiment_utils.datasets import PARTIAL
from experiment_utils.errors import DataError
from experiment_utils.files import read_json, write_json
from experiment_utils.tfrecords import encode_image, record, whole_records

_SETTINGS = "settings.json"  # in an unfinished dataset: what it is to become
_PARTS = r"-(r\d\d\.tfrecords|rxx\.labels|factors\.npy|factors\.json)"


def pyramid(image):
    """Yield a uint8 image [R, R, C] and its 2x2 box averages down to 4x4, each uint8.

    Every level is the mean of the *unrounded* level above and rounded only to be stored. (float32 is exact here: eight
    bits, and two more a level.)
    """
    level = image.astype(np.float32)
    yield image
    while level.shape[0] > 4:
        level = (level[0::2, 0::2] + level[0::2, 1::2] + level[1::2, 0::2] + level[1::2, 1::2]) * np.float32(0.25)
        yield np.clip(np.rint(level), 0, 255).astype(np.uint8)


def check_replaceable(out, overwrite):
    """Raise DataError unless a dataset may be written as the directory `out`."""
    if not os.path.lexists(out):
        return
    if not os.path.isdir(out):
        raise DataError("%s: is a file; a dataset is a directory" % out)
    entries = sorted(os.listdir(out))
    if entries and not overwrite:
        raise DataError("%s: exists already; choose another name, or replace it with --overwrite" % out)
    part = re.compile(re.escape(os.path.basename(os.path.abspath(out))) + _PARTS)
    foreign = [entry for entry in entries if not part.fullmatch(entry) and entry != _SETTINGS]
    if foreign:
        raise DataError("%s: holds %s, which is no part of a dataset, so it is not replaced" % (out, foreign[0]))


class DatasetWriter:
    """Writes a dataset beside OUT, and gives it the name OUT when it is complete.

    with DatasetWriter(out, resolution, channels) as writer:
        for image in images:
            writer.add(image)
        writer.finish()

    Leaving the block without `finish` leaves nothing behind, and OUT as it was. An existing dataset is replaced only
    with `overwrite`. Raises DataError, and OSError with OUT as its filename where the operating system refuses.
    """

    def __init__(self, out, resolution, channels, overwrite=False):
        self.out = os.path.abspath(out)
        self.name = os.path.basename(self.out)
        self.shape = (resolution, resolution, channels)
        self.count = 0  # images written so far
        self._overwrite = overwrite
        self._directory = None  # where the files are until they are complete
        self._streams = []

    def __enter__(self):
        check_replaceable(self.out, self._overwrite)
        try:
            with self._naming_out():
                os.makedirs(os.path.dirname(self.out), exist_ok=True)
                self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *exception):
        self._stop()

    @contextlib.contextmanager
    def _naming_out(self):
        """Give errors of the operating system the name that the user knows."""
        try:
            yield
        except OSError as error:
            error.filename = self.out
            raise

    def _start(self):
        self._directory = self._beside("part")
        os.mkdir(self._directory)
        self._streams = [open(path, "wb") for path in self._level_paths()]

    def _stop(self):
        self._close()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    def _close(self):
        streams, self._streams = self._streams, []
        for stream in streams:
            try:
                stream.close()
            except OSError:  # a full disk again, while an earlier error is on its way to the user
                pass

    def _beside(self, suffix):
        """Return a new path in the directory that OUT is in."""
        return os.path.join(os.path.dirname(self.out), ".%s.%s.%s" % (self.name, uuid.uuid4().hex[:8], suffix))

    def _level_paths(self):
        levels = range(self.shape[0].bit_length() - 1, 1, -1)
        return [os.path.join(self._directory, "%s-r%02d.tfrecords" % (self.name, level)) for level in levels]

    def add(self, image):
        """Append an image, uint8 [resolution, resolution, channels], and all its smaller versions."""
        assert image.shape == self.shape and image.dtype == np.uint8, (image.shape, image.dtype)
        with self._naming_out():
            for stream, level in zip(self._streams, pyramid(image)):
                stream.write(record(encode_image(level)))
        self.count += 1

    def finish(self, factors=None, factor_info=None, labels=False):
        """Write the factors (float32 [images, F], and their description) if given, and move everything to OUT.

        labels   write the factors as the conditioning labels NAME-rxx.labels too
        """
        prefix = os.path.join(self._directory, self.name)
        with self._naming_out():
            for stream in self._streams:
                stream.flush()
                os.fsync(stream.fileno())
            self._close()
            if factors is not None:
                factors = np.ascontiguousarray(factors, np.float32)
                _save_array(prefix + "-factors.npy", factors)
                write_json(prefix + "-factors.json", factor_info)
                if labels:
                    _save_array(prefix + "-rxx.labels", factors)
            self._publish()

    def _publish(self):
        check_replaceable(self.out, self._overwrite)  # again: much may have happened in the meantime
        if self._overwrite and os.path.isdir(self.out) and os.listdir(self.out):
            replaced = self._beside("old")
            os.rename(self.out, replaced)
            os.rename(self._directory, self.out)
            shutil.rmtree(replaced)
        else:
            try:
                os.rename(self._directory, self.out)
            except OSError:
                check_replaceable(self.out, self._overwrite)  # another process may have been faster
                raise
        self._directory = None


class ResumableWriter(DatasetWriter):
    """A DatasetWriter whose unfinished work stays in OUT.partial, and is continued by the next one.

    settings   a JSON value that says what is being made. The first `writer.count` images of the same settings are there
               already; work of other settings is refused, unless `restart` throws it away.
    """

    def __init__(self, out, resolution, channels, settings, overwrite=False, restart=False):
        super().__init__(out, resolution, channels, overwrite)
        self.partial = self.out + PARTIAL
        self._settings = settings
        self._restart = restart
        self._lock = None

    def _start(self):
        os.makedirs(self.partial, exist_ok=True)
        self._lock = _lock(self.partial)
        self._directory = self.partial
        for entry in os.listdir(self.partial):
            if self._restart or entry.startswith("."):  # what a kill left of an atomic write
                os.remove(os.path.join(self.partial, entry))
        settings_path = os.path.join(self.partial, _SETTINGS)
        if not any(map(os.path.exists, self._level_paths())):
            write_json(settings_path, self._settings)
        self._refuse_other(read_json(settings_path, DataError))
        offsets = [whole_records(path) for path in self._level_paths()]
        self.count = min(map(len, offsets)) - 1
        for path, ends in zip(self._level_paths(), offsets):
            stream = open(path, "ab")
            self._streams.append(stream)
            stream.truncate(ends[self.count])

    def add(self, image):
        super().add(image)
        with self._naming_out():
            for stream in self._streams:
                stream.flush()  # a kill shall lose nothing: an image costs far more to make than to flush

    def _refuse_other(self, found):
        if found != self._settings:
            found = found if isinstance(found, dict) else {}
            different = [
                "%s %s, not %s" % (name, found.get(name, "unknown"), value)
                for name, value in self._settings.items()
                if found.get(name) != value
            ]
            raise DataError(
                "%s: unfinished, and of other settings (%s); go on with those, or throw it away with --restart"
                % (self.partial, "; ".join(different))
            )

    def _stop(self):
        self._close()
        if self._lock is not None:
            os.close(self._lock)

    def _publish(self):
        super()._publish()
        os.remove(os.path.join(self.out, _SETTINGS))  # last: whenever a kill comes, the work goes on or is complete


def _lock(directory):
    """Take a directory for this process until the descriptor returned is closed. Raises DataError if another has it."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise DataError("%s: another process is at work there" % directory) from None
    return descriptor


def _save_array(path, array):
    with open(path, "wb") as stream:  # np.save would append .npy to the name of the labels
        np.save(stream, array, allow_pickle=False)
        stream.flush()
        os.fsync(stream.fileno())

"""The datasets that ship with the project, and how they are packed.

NAME.tar.xz holds images.npy (uint8 [H, W, C, N], the full resolution only), factors.npy (float32 [N, F]) and
factors.json. The images are sorted by their first factor, with the sample as the *last* axis, so that equal pixels of
like images lie side by side, and xz stores differences of neighbours (its delta filter). order.npy (int64 [N]) says
where each belongs. The smaller resolutions follow from the full one exactly, so unpacking writes the very files that
were packed.
"""

import hashlib
import io
import json
import lzma
import os
import sys
import tarfile

import numpy as np

from experiment_utils.errors import DataError
from experiment_utils.files import atomic_write
from progan.data.writer import DatasetWriter

_HERE = os.path.dirname(os.path.abspath(__file__))
DIRECTORY = os.path.normpath(os.path.join(_HERE, "..", "..", "bundled_datasets"))
CHECKSUMS = "SHA256SUMS"


def names():
    """Return the names of the datasets that ship with the project."""
    entries = sorted(os.listdir(DIRECTORY)) if os.path.isdir(DIRECTORY) else []
    return [entry[: -len(".tar.xz")] for entry in entries if entry.endswith(".tar.xz")]


def unpack(name, data_dir):
    """Write the shipped dataset `name` as a directory of `data_dir` and return its path."""
    out = os.path.join(data_dir, name)
    images, factors, factor_info = _read(os.path.join(DIRECTORY, name + ".tar.xz"))
    sys.stderr.write("Unpacking the shipped dataset %s (%d images) into %s\n" % (name, len(images), out))
    try:
        with DatasetWriter(out, images.shape[1], images.shape[3]) as writer:
            for image in images:
                writer.add(image)
            writer.finish(factors, factor_info)
    except DataError:
        if not os.path.isdir(out):  # otherwise another process unpacked it in the meantime: the same bytes
            raise
    return out


def pack(images, factors, factor_info, name, directory=DIRECTORY):
    """Write `directory`/NAME.tar.xz and its checksum, and return its path. `images` is uint8 [N, H, W, C]."""
    order = np.argsort(factors[:, 0], kind="stable")
    members = {
        "images.npy": _npy(np.ascontiguousarray(images[order].transpose(1, 2, 3, 0))),
        "order.npy": _npy(order.astype("<i8")),
        "factors.npy": _npy(factors.astype("<f4")),
        "factors.json": json.dumps(factor_info, indent=2).encode("utf-8"),
    }
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for member, content in members.items():
            tar.addfile(_member(member, len(content)), io.BytesIO(content))
    filters = [{"id": lzma.FILTER_DELTA, "dist": 1}, {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]
    compressed = lzma.compress(archive.getvalue(), check=lzma.CHECK_CRC64, filters=filters)
    path = os.path.join(directory, name + ".tar.xz")
    with atomic_write(path) as stream:
        stream.write(compressed)
    sums = _checksums(directory)
    sums[name + ".tar.xz"] = hashlib.sha256(compressed).hexdigest()
    with atomic_write(os.path.join(directory, CHECKSUMS), "w") as stream:
        stream.writelines("%s  %s\n" % (sums[file], file) for file in sorted(sums))
    return path


def _member(name, size):
    info = tarfile.TarInfo(name)  # of no time, owner or mode but the defaults
    info.size = size
    return info


def _read(path):
    """Return (images uint8 [N, H, W, C], factors, factor_info) of an archive. Nothing is extracted to disk."""
    with open(path, "rb") as stream:
        compressed = stream.read()
    expected = _checksums(os.path.dirname(path)).get(os.path.basename(path))
    if hashlib.sha256(compressed).hexdigest() != expected:
        raise DataError("%s: damaged (not the SHA-256 in %s); fetch the repository again" % (path, CHECKSUMS))
    with tarfile.open(fileobj=io.BytesIO(lzma.decompress(compressed)), mode="r:") as tar:
        members = {info.name: tar.extractfile(info).read() for info in tar}
    arrays = {
        name: np.load(io.BytesIO(members[name + ".npy"]), allow_pickle=False) for name in ("images", "order", "factors")
    }
    images = np.empty_like(arrays["images"].transpose(3, 0, 1, 2), order="C")
    images[arrays["order"]] = arrays["images"].transpose(3, 0, 1, 2)
    return images, arrays["factors"], json.loads(members["factors.json"].decode("utf-8"))


def _checksums(directory):
    """Return {file name: SHA-256} of SHA256SUMS."""
    path = os.path.join(directory, CHECKSUMS)
    if not os.path.exists(path):
        return {}
    with open(path, encoding="utf-8") as stream:
        return {name: digest for digest, name in (line.split() for line in stream)}


def _npy(array):
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()

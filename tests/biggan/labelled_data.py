"""A small dataset with classes, for tests: discs of two shades at places of their own, and how to write it."""

import json
import os

import numpy as np

from experiment_utils.tfrecords import encode_image, record

INFO = [
    {"name": "shade", "kind": "categorical", "values": ["dark", "bright"]},
    {"name": "x", "kind": "continuous", "range": [0.0, 1.0]},
]


def discs(count=60, resolution=8, seed=0):
    """Return (uint8 images [count, R, R, 3], float32 factors [count, 2]: the number of the shade, and x)."""
    random = np.random.RandomState(seed)
    factors = np.stack([random.randint(2, size=count), random.uniform(size=count)], axis=1).astype(np.float32)
    images = np.full([count, resolution, resolution, 3], 128, np.uint8)
    for image, (shade, x) in zip(images, factors):
        left = int(x * (resolution - 3))
        image[2:6, left : left + 3] = [250, 240, 230] if shade else [20, 10, 5]
    return images, factors


def write_dataset(path, images, factors=None, info=INFO):
    """Write a directory of TFRecords of every resolution down to 4, with its factors if there are any."""
    os.makedirs(str(path))
    prefix = os.path.join(str(path), os.path.basename(str(path)))
    level = images.astype(np.float64)
    while level.shape[1] >= 4:
        with open(f"{prefix}-r{int(np.log2(level.shape[1])):02d}.tfrecords", "wb") as stream:
            stream.writelines(record(encode_image(image)) for image in np.rint(level).astype(np.uint8))
        level = (level[:, ::2, ::2] + level[:, 1::2, ::2] + level[:, ::2, 1::2] + level[:, 1::2, 1::2]) / 4
    if factors is not None:
        np.save(prefix + "-factors.npy", factors)
        with open(prefix + "-factors.json", "w") as stream:
            json.dump(info, stream)
    return str(path)

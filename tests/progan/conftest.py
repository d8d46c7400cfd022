"""A tiny data set, and train.py as a module."""

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from progan_helpers import load_command

from progan.data.writer import DatasetWriter
from progan.inference import count_gpus

# A process's first session fixes the threads of all later ones: here one, as bits are compared
count_gpus(num_threads=1)

# On a busy machine the time that an example takes says nothing
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def train_command():
    """The module train.py: a command, not part of a package."""
    return load_command("train")


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A directory with the data set `squares`: 40 images of 16 px, a red square that moves over grey."""
    directory = tmp_path_factory.mktemp("datasets")
    with DatasetWriter(str(directory / "squares"), 16, 3) as writer:
        for i in range(40):
            image = np.full([16, 16, 3], 100, np.uint8)
            row, column = divmod(i, 10)
            image[3 * row : 3 * row + 5, column : column + 5] = [200, 40, 30]
            writer.add(image)
        writer.finish()
    return str(directory)

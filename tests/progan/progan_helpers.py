"""What several of the tests of training need: networks with every weight drawn, and the commands as modules."""

import importlib.util
import os

import numpy as np

from progan.snapshot import network_shapes

PROGAN_EXPERIMENTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "progan_experiments")


def load_command(name):
    """Return progan_experiments/NAME.py as a module: it is a command, not part of a package."""
    spec = importlib.util.spec_from_file_location(f"{name}_command", os.path.join(PROGAN_EXPERIMENTS, f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def random_networks(spec, seed=0):
    """Return {'G' | 'D' | 'Gs': {name: array}} with every entry from N(0, 1), biases too, three networks unalike."""
    rng = np.random.RandomState(seed)
    return {
        net: {name: rng.standard_normal(shape).astype(np.float32) for name, shape in sorted(shapes.items())}
        for net, shapes in sorted(network_shapes(spec).items())
    }


def read_scalars(run_dir):
    """Return {tag: {images shown: value}} of what TensorBoard shows of a run; each step must be there once."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run_dir), size_guidance={"scalars": 0})
    events.Reload()
    scalars = {}
    for tag in events.Tags()["scalars"]:
        values = events.Scalars(tag)
        scalars[tag] = {value.step: value.value for value in values}
        assert len(scalars[tag]) == len(values), tag
    return scalars

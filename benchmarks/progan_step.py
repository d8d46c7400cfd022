"""Seconds that ProGAN's trainer takes for a thousand images at 16 px, with the penalties over without one.

    python benchmarks/progan_step.py [steps]

The laptop-sized networks of the README at their full resolution, no longer fading in: 16 px, fmap_base 64, minibatch
16, layers 1 to 6, k = 2, on one CPU thread. A step is the trainer's own: it reads images, trains D, averages G, trains
G. The plain estimator is the same Hessian Penalty without select=True: all samples are differentiated. Steps of all
rows take turns in one process, and the median counts.
"""

import argparse
import functools
import os
import tempfile
from unittest import mock

import numpy as np
import tensorflow as tf
from measure import in_turns, machine

from hessian_penalty_tf import hessian_penalty
from progan import losses
from progan.data.writer import DatasetWriter
from progan.dataset import open_dataset
from progan.networks import NetworkSpec
from progan.stage import LossOptions, Stage, StageKey
from progan.training import new_networks

RESOLUTION, MINIBATCH, LAYERS, SEED = 16, 16, [1, 2, 3, 4, 5, 6], 0
SPEC = NetworkSpec(RESOLUTION, channels=3, nz=12, fmap_base=64)
WEIGHTS = {"hessian_penalty": 0.0125, "orojar": 1e-5}  # of the regularizers: no update may be skipped
NONE, PLAIN, SELECT, OROJAR = "no penalty", "Hessian Penalty, plain estimator", "Hessian Penalty", "OroJaR"


def plain_penalties(regularizer, G, z, layers, directions, epsilon):
    """losses.layer_penalties of the Hessian Penalty, but that all samples are differentiated."""
    return hessian_penalty(
        lambda z: G.activations(z, layers), z, epsilon=epsilon, directions=directions, return_separately=True
    )


def write_dataset(directory):
    """Noise: what is in the images does not matter to the time."""
    random = np.random.RandomState(SEED)
    with DatasetWriter(directory, RESOLUTION, 3) as writer:
        for _ in range(64):
            writer.add(random.randint(0, 256, [RESOLUTION, RESOLUTION, 3]).astype(np.uint8))
        writer.finish()


class Training:
    """The trainer at 16 px, from new networks."""

    def __init__(self, dataset, regularizer):
        penalised = regularizer is not None
        self.dataset, self.steps, self.weight = dataset, 0, WEIGHTS.get(regularizer, 0.0)
        options = LossOptions(self.weight, 0.1, 2, LAYERS, 0, 0, 0, regularizer or "hessian_penalty")
        key = StageKey(RESOLUTION, fading=False, penalised=penalised, minibatch=MINIBATCH)
        self.stage = Stage(key, SPEC, options, new_networks(SPEC, SEED), None, lr=0.001, num_threads=1)

    def step(self):
        images = self.dataset.minibatch(RESOLUTION, SEED, MINIBATCH * self.steps, MINIBATCH)
        values = self.stage.train_step(images, 0.0, self.weight, SEED, self.steps)
        if values["skipped"]:
            raise RuntimeError(f"step {self.steps} was skipped: its gradient is not finite")
        self.steps += 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="?", type=int, default=200, help="timed steps of each row")
    steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(os.path.join(folder, "noise"))
        training = functools.partial(Training, open_dataset("noise", folder))
        rows = {NONE: training(None)}
        with mock.patch.object(losses, "layer_penalties", plain_penalties):
            rows[PLAIN] = training("hessian_penalty")
        rows.update({SELECT: training("hessian_penalty"), OROJAR: training("orojar")})
        for row in rows.values():
            for _ in range(3):  # TensorFlow's first steps do more than the others
                row.step()
        seconds = in_turns({name: row.step for name, row in rows.items()}, steps)
    print(f"TensorFlow {tf.__version__}, one thread of {machine()}; medians of {steps} steps\n")
    print("| trained with | s/kimg | over no penalty |\n|---|---|---|")
    for name, value in seconds.items():
        print(f"| {name} | {1000 / MINIBATCH * value:.2f} | {value / seconds[NONE]:.2f} |")


if __name__ == "__main__":
    main()

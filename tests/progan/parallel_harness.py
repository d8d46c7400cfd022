"""Take training steps by 1, 2 and 4 workers: `python parallel_harness.py OUT`.

Each worker is a process forked from this one, which has imported TensorFlow but never opened a session. Worker I of N
leaves OUT/N-I.json: for every case what its steps gave, and its weights and slots by name as lists.
"""

import contextlib
import json
import os
import signal
import sys
import traceback
from unittest import mock

import numpy as np
import tensorflow.compat.v1 as tf
from parallel_helpers import use_plain_graphs
from progan_helpers import random_networks

from progan import networks, stage
from progan.cluster import Cluster
from progan.launch import free_ports
from progan.networks import NetworkSpec
from progan.parallel import Workers
from progan.stage import LossOptions, Stage, StageKey

SPEC = NetworkSpec(resolution=8, channels=1, nz=3, fmap_base=16, infogan_nz=2)
LAYERS = [1, 2, 3, 4]
FADE, LR, MINIBATCH, SEED, STEP, EPSILON = 0.4, 0.01, 16, 7, 30, 0.1
HP_WEIGHTS = {"hessian_penalty": 0.02, "orojar": 0.001}

SILENCE = 60  # seconds; nobody is to be lost here, however slow the machine

# {name: (resolution, optimiser, regularizer or None, InfoGAN, steps)}; 8 px fade in
CASES = {
    "SGD, all losses": (8, "SGD", "orojar", 0.5, 3),
    "SGD, InfoGAN": (4, "SGD", None, 0.5, 3),
    "Adam": (4, "Adam", None, 0.0, 3),
    "maximum": (4, "SGD", "hessian_penalty", 0.0, 1),
}
BY_WORKERS = {
    1: ["SGD, all losses", "SGD, InfoGAN", "Adam"],
    2: ["SGD, all losses", "Adam", "maximum"],
    4: ["SGD, InfoGAN"],
}


def loss_options(infogan_lambda, regularizer):
    weight = HP_WEIGHTS.get(regularizer, 0.0)
    return LossOptions(weight, EPSILON, 2, LAYERS, 0, 0, infogan_lambda, regularizer or "hessian_penalty")


def smooth_relu(x):
    """Stands in for the leaky ReLU: at its kink the last bit of a sum can decide between two gradients."""
    return networks.LEAK * x + (1 - networks.LEAK) * tf.nn.softplus(x)


def descent(lr, **adam):
    return tf.train.GradientDescentOptimizer(lr)


def spec_of(infogan_lambda):
    return SPEC if infogan_lambda else NetworkSpec(**dict(vars(SPEC), infogan_nz=0))


def start(infogan_lambda, seed=0):
    return random_networks(spec_of(infogan_lambda), seed)


def build(workers, networks, resolution, regularizer=None, infogan_lambda=0.0, slots=None):
    key = StageKey(resolution, fading=resolution > 4, penalised=regularizer is not None, minibatch=MINIBATCH)
    options = loss_options(infogan_lambda, regularizer)
    return Stage(key, spec_of(infogan_lambda), options, networks, slots, LR, num_threads=1, workers=workers)


def train_step(built, workers, step):
    size = built.key.resolution
    images = np.random.RandomState(step).randint(0, 256, size=[MINIBATCH, size, size, 1]).astype(np.uint8)
    values = built.train_step(images[workers.part], FADE, built.options.hp_lambda, SEED, step)
    return {name: float(value) for name, value in values.items()}


def read(built):
    networks = {"G": {}, "D": {}, "Gs": {}}
    built.read(networks)
    weights = {f"{net}/{name}": value.tolist() for net, values in networks.items() for name, value in values.items()}
    return {"weights": weights, "slots": {name: value.tolist() for name, value in built.read_slots().items()}}


def steps_of(workers, resolution, optimiser, regularizer, infogan_lambda, steps):
    with contextlib.ExitStack() as stack:
        if optimiser == "SGD":
            stack.enter_context(mock.patch.object(tf.train, "AdamOptimizer", descent))
        if regularizer != "hessian_penalty":  # whose truth has the leaky one
            stack.enter_context(mock.patch.object(networks, "leaky_relu", smooth_relu))
        built = build(workers, start(infogan_lambda), resolution, regularizer, infogan_lambda)
    values = [train_step(built, workers, step) for step in range(STEP, STEP + steps)]
    result = dict(read(built), values=values)
    built.close()
    return result


def broadcast_and_skip(workers):
    """Each worker comes with weights and slots of its own; then one of them has latents that are no numbers."""
    names = [f"Adam_{net}/{power}" for net in "GD" for power in ("beta1_power", "beta2_power")]
    mine = np.float32(1 + workers.index)
    slots = {name: mine for name in names}
    for net in "GD":
        for name, value in start(0.0)[net].items():
            slots[f"{net}/{name}/Adam_{net}"] = slots[f"{net}/{name}/Adam_{net}_1"] = np.full_like(value, mine)
    built = build(workers, start(0.0, seed=workers.index), 4, slots=slots)
    before = read(built)
    draw = stage.draw

    def not_a_number(seed, step, purpose, minibatch, nz, k=2):
        drawn = draw(seed, step, purpose, minibatch, nz, k)
        return drawn * np.nan if purpose == stage.LATENTS_G else drawn

    if workers.index == 1:
        stage.draw = not_a_number
    values = train_step(built, workers, STEP)
    stage.draw = draw
    after = read(built)
    built.close()
    return {"before": before, "after": after, "skipped": values["skipped"]}


def agreements(workers):
    """What all learn when none, one, or each of them was asked to stop."""
    mine = [None, signal.SIGTERM if workers.index == 1 else None, signal.SIGINT if workers.index == 0 else None, None]
    return [workers.agree(number) for number in mine]


def work(cluster, out):
    count, index = (1, 0) if cluster is None else (len(cluster), cluster.index)
    with Workers(cluster, 0, 1).together({"same": 1}, timeout=300, silence=SILENCE) as workers:
        result = {name: steps_of(workers, *CASES[name]) for name in BY_WORKERS[count]}
        if count == 2:
            result.update(broadcast=broadcast_and_skip(workers), agreements=agreements(workers))
    with open(os.path.join(out, f"{count}-{index}.json"), "w") as stream:
        json.dump(result, stream)


def fork(function, *arguments):
    pid = os.fork()
    if pid:
        return pid
    try:
        function(*arguments)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def main(out):
    use_plain_graphs()
    for count in BY_WORKERS:
        addresses = tuple(f"127.0.0.1:{port}" for port in free_ports(count))
        clusters = [Cluster(addresses, i) for i in range(count)] if count > 1 else [None]
        pids = [fork(work, cluster, out) for cluster in clusters]
        statuses = [os.waitpid(pid, 0)[1] for pid in pids]
        if any(statuses):
            sys.exit(f"{count} workers ended with {statuses}")


if __name__ == "__main__":
    main(*sys.argv[1:])

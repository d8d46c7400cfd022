"""Discover the same directions whole, and stopped again and again: `python discover_harness.py OUT`.

OUT/whole and OUT/stopped become results directories; OUT/endings.json tells how each process ended.
"""

import os
import random
import signal
import sys
import time

import torch
from biggan_helpers import HERE, load_command

from biggan import reporting  # noqa: F401 - what takes long to import, the forks have
from biggan.discovery import Discovery
from experiment_utils import files

sys.path.insert(0, os.path.join(os.path.dirname(HERE), "helpers"))
from interruptions import at_call, process

FLAGS = "--G_path separable:of_eight_components --batch_size 16 --steps 60 --save_every 10 --device cpu".split()


def replaces(part_of_name):
    return lambda _, path: part_of_name in os.path.basename(path)


def until_done(results_dir, stops):
    """Start a run, and go on with it after each of the stops; return how the processes ended."""
    command, endings = load_command("discover"), []
    for stop in [*stops, lambda: None]:
        flags = ["--resume"] if os.path.isdir(os.path.join(results_dir, "discovery")) else FLAGS
        endings.append(process("discover.py", command.main, ["--results_dir", results_dir, *flags], stop))
    return endings


def main(out):
    torch.set_num_threads(1)
    torch.optim.Adam([torch.zeros(1)]).step()  # imports more
    seed = int(time.time())
    random.seed(seed)
    endings = {"seed": seed, "whole": until_done(os.path.join(out, "whole"), [])}
    stops = [
        at_call(os, "rename", 1),  # the run's folder is complete, but has not its name
        at_call(Discovery, "step", 4),  # nothing is saved yet
        at_call(files.os, "replace", 1, when=replaces("A_")),  # step 10 is made, its A not yet written
        at_call(files.os, "replace", 1, when=replaces("state")),  # the A of step 10 is there, the state not
        at_call(Discovery, "step", 14, signal.SIGINT),  # between two saves
        at_call(Discovery, "step", 7 + random.randint(1, 10)),
        at_call(files.os, "replace", 1, when=replaces("state")),  # of two states the old one is there
        at_call(Discovery, "step", 2, signal.SIGTERM),
        at_call(Discovery, "step", random.randint(1, 5), seconds=random.uniform(0.001, 0.03)),  # at any moment
    ]
    endings["stopped"] = until_done(os.path.join(out, "stopped"), stops)
    files.write_json(os.path.join(out, "endings.json"), endings)


if __name__ == "__main__":
    main(sys.argv[1])

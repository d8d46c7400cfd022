"""Train the same small run whole, and stopped again and again: `python resume_harness.py DATA_DIR OUT`.

OUT/whole and OUT/stopped become results directories; OUT/endings.json tells how each process ended. Every training is a
process of its own, forked from this one, which has imported TensorFlow but never opened a session.
"""

import os
import random
import signal
import sys
import time

from progan_helpers import load_command

from experiment_utils import files
from progan.stage import Stage

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "helpers"))
from interruptions import at_call, process

# 48 steps of 4 images, the schedule looked up at every 4th: 4 px (steps 1-4), 8 px fading in (5-20), 16 px fading in
# (21-36), 16 px (37-48). A report and a snapshot every 8 steps.
FLAGS = (
    "--dataset squares --num_gpus 0 --num_threads 1 --resolution 16 --nz 3 --fmap_base 24 --minibatch 4 --stage_kimg 0 "
    "--fade_kimg 0.072 --total_kimg 0.192 --tick_kimg 0.032 --snapshot_kimg 0.032 --compute_interp_ticks 0 "
    "--hp_lambda 0.01 --layers_to_reg 2 4 --warmup_kimg 0.1"
).split()


def is_snapshot(_, path):
    return "network-snapshot" in os.path.basename(path)


def until_done(results_dir, data_dir, stops):
    """Start a run, and go on with it after each of the stops; return how the processes ended."""
    places, endings = ["--results_dir", results_dir, "--data_dir", data_dir], []
    for stop in [*stops, lambda: None]:
        arguments = places + (["--resume_exp", "0"] if endings else FLAGS)
        endings.append(process("train.py", lambda argv: load_command("train").main(argv), arguments, stop))
    return endings


def main(data_dir, out):
    seed = int(time.time())
    random.seed(seed)
    endings = {"seed": seed, "whole": until_done(os.path.join(out, "whole"), data_dir, [])}
    stops = [
        # in step 10, between two reports, while 8 px fade in
        at_call(Stage, "train_step", 10, signal.SIGINT),
        # resumed after step 12; in the middle of saving after step 16: the snapshot is written, but has not its name
        at_call(files.os, "replace", 1, signal.SIGKILL, when=is_snapshot),
        # after step 12 again; in one of the steps 25 to 28, while 16 px fade in
        at_call(Stage, "train_step", 12 + random.randint(1, 4), signal.SIGKILL),
        # resumed after step 24; in step 26
        at_call(Stage, "train_step", 2, signal.SIGTERM),
        # resumed after step 28; at any moment
        at_call(Stage, "train_step", random.randint(1, 8), signal.SIGKILL, seconds=random.uniform(0.001, 0.5)),
    ]
    endings["stopped"] = until_done(os.path.join(out, "stopped"), data_dir, stops)
    files.write_json(os.path.join(out, "endings.json"), endings)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Train the same small run whole, and stopped again and again: `python resume_harness.py DATA_DIR OUT`.

OUT/whole and OUT/stopped become results directories; OUT/endings.json tells how each process ended. Every training is a
process of its own, forked from this one, which has imported TensorFlow but never opened a session.
"""

import os
import random
import signal
import sys
import threading
import time
import traceback

from progan_helpers import load_command

from experiment_utils import files
from experiment_utils.errors import run_command
from progan.stage import Stage

# 48 steps of 4 images, the schedule looked up at every 4th: 4 px (steps 1-4), 8 px fading in (5-20), 16 px fading in
# (21-36), 16 px (37-48). A report and a snapshot every 8 steps.
FLAGS = (
    "--dataset squares --num_gpus 0 --num_threads 1 --resolution 16 --nz 3 --fmap_base 24 --minibatch 4 --stage_kimg 0 "
    "--fade_kimg 0.072 --total_kimg 0.192 --tick_kimg 0.032 --snapshot_kimg 0.032 --compute_interp_ticks 0 "
    "--hp_lambda 0.01 --layers_to_reg 2 4 --warmup_kimg 0.1"
).split()


def process(arguments, patch):
    """Run train.py in a process of its own; return its exit status, or minus the signal that ended it.

    patch   called first, to arrange for the end
    """
    pid = os.fork()
    if pid == 0:
        sys.argv = ["train.py"]
        patch()
        try:
            run_command(lambda: load_command("train").main(arguments))
        except SystemExit as end:
            os._exit(end.code)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)


def at_call(owner, name, call, number, when=lambda *arguments: True, seconds=0):
    """Return a patch: `seconds` after the `call`-th call of owner.name for which `when` holds, signal this process."""
    original, left = getattr(owner, name), [call]

    def patched(*arguments, **keywords):
        if when(*arguments):
            left[0] -= 1
            if left[0] == 0 and seconds:
                threading.Timer(seconds, os.kill, [os.getpid(), number]).start()
            elif left[0] == 0:
                os.kill(os.getpid(), number)
        return original(*arguments, **keywords)

    return lambda: setattr(owner, name, patched)


def is_snapshot(_, path):
    return "network-snapshot" in os.path.basename(path)


def until_done(results_dir, data_dir, stops):
    """Start a run, and go on with it after each of the stops; return how the processes ended."""
    places, endings = ["--results_dir", results_dir, "--data_dir", data_dir], []
    for stop in [*stops, lambda: None]:
        endings.append(process(places + (["--resume_exp", "0"] if endings else FLAGS), stop))
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

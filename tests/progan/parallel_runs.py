"""Run train.py as workers that lose one of them: `python parallel_runs.py DATA_DIR OUT`.

The workers are told of each other by TF_CONFIG, as on several hosts; each is forked from this process, which has
imported TensorFlow but never opened a session. What they write goes to OUT/NAME-INDEX.out and .err; OUT/endings.json
tells how each run ended.
"""

import json
import os
import signal
import sys
import time
import traceback

from parallel_helpers import use_plain_graphs
from progan_helpers import load_command

from experiment_utils import files
from experiment_utils.errors import run_command
from progan import parallel, stage, training  # noqa: F401 - what train.py imports late, imported once for all forks
from progan.launch import free_ports

FLAGS = (
    "--dataset squares --num_gpus 0 --num_threads 1 --resolution 4 --nz 3 --fmap_base 16 --minibatch 24 --hp_lambda 0 "
    "--total_kimg 1000 --tick_kimg 0.192 --snapshot_kimg 0.192 --compute_interp_ticks 0"
).split()
PATIENCE = 300  # seconds for what should take ten, on a machine that does other things too


def worker(name, index, ports, arguments, out):
    """In a fork: be this worker."""
    addresses = [f"127.0.0.1:{port}" for port in ports]
    task = {"type": "worker", "index": index}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": task})
    for stream, kind in ((sys.stdout, "out"), (sys.stderr, "err")):
        with open(os.path.join(out, f"{name}-{index}.{kind}"), "wb") as target:
            os.dup2(target.fileno(), stream.fileno())
    sys.argv = ["train.py"]
    try:
        run_command(lambda: load_command("train").main(arguments))
    except SystemExit as end:
        os._exit(end.code)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def wait_for(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"no end of the wait within {PATIENCE} s")
        time.sleep(0.05)


def run(name, arguments, out, workers, number, victim):
    """Run workers; once worker 0 has reported, send the victim that signal.

    Returns ([{"status", "after": whether the signal had been sent}], None for a victim that has not ended when all
    others have; the seconds until that report).
    """
    ports, pids, begin = free_ports(workers), [], time.monotonic()
    for index in range(workers):
        pids.append(os.fork())
        if not pids[-1]:
            worker(name, index, ports, arguments, out)
    endings, signalled = [None] * workers, None

    def ended():
        for index, pid in enumerate(pids):
            if endings[index] is None:
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
                    endings[index] = {"status": code, "after": signalled is not None}
        return all(endings[index] for index in range(workers) if index != victim)

    def reported():
        with open(os.path.join(out, f"{name}-0.out")) as stream:
            return stream.read().count("\ntick ") or ended()

    try:
        wait_for(lambda: os.path.exists(os.path.join(out, f"{name}-0.out")))
        wait_for(reported)
        os.kill(pids[victim], number)
        signalled = time.monotonic()
        wait_for(ended)
    finally:
        for pid, ending in zip(pids, endings):
            if ending is None:
                os.kill(pid, signal.SIGKILL)
    return endings, signalled - begin


def main(data_dir, out):
    use_plain_graphs()
    places = ["--data_dir", data_dir, "--results_dir", os.path.join(out, "results")]
    killed, seconds = run("killed", places + FLAGS, out, workers=3, number=signal.SIGKILL, victim=1)
    # A machine that is slow to start is slow to give signs of life
    again = ["--resume_exp", "0", "--worker_silence", str(max(6, round(seconds)))]
    stopped, _ = run("stopped", places + again, out, workers=2, number=signal.SIGSTOP, victim=0)
    files.write_json(os.path.join(out, "endings.json"), {"killed": killed, "stopped": stopped})


if __name__ == "__main__":
    main(*sys.argv[1:])

"""What the tests of training by several workers share."""

import os
import signal
import subprocess
import sys

import pytest

from progan import parallel

SESSION_CONFIG = parallel.session_config
PATIENCE = 900  # seconds for scripts that take half a minute on an idle machine


def plain_config(*arguments):
    """session_config, but for the rewriting of graphs: it takes half of the time, and what it fuses may vary."""
    config = SESSION_CONFIG(*arguments)
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    return config


def use_plain_graphs():
    """From now on this process, and its forks, run graphs as they are built."""
    parallel.session_config = plain_config


def run_script(name, *arguments):
    """Run a script of this directory, which forks workers, to its end; fail, with what it wrote, unless that is good.

    One that does not end is ended, with its workers.
    """
    command = [sys.executable, os.path.join(os.path.dirname(os.path.abspath(__file__)), name), *arguments]
    log = os.path.join(arguments[-1], "log.txt")  # not a pipe: workers would hold it open
    with open(log, "wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        status = process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        status = f"no end within {PATIENCE} s"
    finally:
        end_session(process)
    if status != 0:
        with open(log, errors="replace") as stream:
            pytest.fail(f"{name}: {status}\n{stream.read()}")


def end_session(process):
    """Kill the process and all that it started, where they are still there."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()

"""Run directories, interruption, and what a long run tells its user."""

import contextlib
import os
import re
import signal
import sys
import time

from tqdm import tqdm

from experiment_utils.errors import OptionError


def create_run_dir(results_dir, description):
    """Make and return `results_dir`/NNNNN-`description`, NNNNN being one more than the largest number there."""
    os.makedirs(results_dir, exist_ok=True)
    while True:
        number = max(list(_numbered(results_dir)), default=-1) + 1
        path = os.path.join(results_dir, "%05d-%s" % (number, description))
        try:
            os.mkdir(path)
            return path
        except FileExistsError:  # another run took the number in the meantime
            continue


def find_run_dir(results_dir, number):
    """Return the directory of run `number`. Raises OptionError, listing the runs that exist, where there is none."""
    runs = _numbered(results_dir) if os.path.isdir(results_dir) else {}
    if number not in runs:
        known = ", ".join(sorted(runs.values())) or "none"
        raise OptionError("no run number %s in %s (runs there: %s)" % (number, results_dir, known))
    return os.path.join(results_dir, runs[number])


def latest_run(results_dir):
    """Return the largest run number in `results_dir`. Raises OptionError where there is no run."""
    numbers = _numbered(results_dir) if os.path.isdir(results_dir) else {}
    if not numbers:
        raise OptionError(f"no runs in {results_dir}")
    return max(numbers)


def _numbered(results_dir):
    """{number: directory name} of the runs in `results_dir`."""
    matches = ((re.match(r"^(\d{5,})-", name), name) for name in os.listdir(results_dir))
    return {int(match.group(1)): name for match, name in matches if match}


class Log:
    """Lines for the user: on standard output (around a progress bar, if one is shown) and appended to a file."""

    def __init__(self, path):
        self._stream = open(path, "a", encoding="utf-8")

    def __call__(self, line):
        self._stream.write("%s %s\n" % (time.strftime("%Y-%m-%d %H:%M:%S"), line))
        self._stream.flush()
        tqdm.write(line)
        sys.stdout.flush()

    def close(self):
        self._stream.close()


@contextlib.contextmanager
def stop_signals():
    """Within the block SIGINT and SIGTERM only set `.received` (the signal's number); a second one acts as usual."""
    state = _Stop()
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handler(number, frame):
        state.received = number
        for each, action in previous.items():
            signal.signal(each, action)

    for number in previous:
        signal.signal(number, handler)
    try:
        yield state
    finally:
        for number, action in previous.items():
            signal.signal(number, action)


class _Stop:
    received = None


def progress(iterable=None, **keywords):
    """A tqdm progress bar: rate and time left on a terminal, a line every half minute into a file or pipe."""
    interactive = sys.stderr.isatty()
    keywords.setdefault("mininterval", 0.1 if interactive else 30)
    keywords.setdefault("dynamic_ncols", interactive)
    return tqdm(iterable, **keywords)

"""Several workers on one host: start them, wait for them, and end with one line, whichever of them it was.

A worker is the same command once more, told by TF_CONFIG which one it is. Worker 0 writes to the terminal; what ends a
worker goes to a file, so that an error that all of them run into is said once.
"""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time

LOST = 3  # exit status: a worker died or hung; started again, the training goes on from its last snapshot
SUPERVISOR = "PROGAN_SUPERVISOR"  # environment of a worker: PID:PATH, who started it and where its last words go
PORTS = range(20000, 32000)  # below those that systems hand out by themselves
POLL = 0.1
GRACE = 2.0  # seconds that the others get to end by themselves when one has failed...
LONG_GRACE = 30.0  # ...and when one has ended well, or by a signal, which all do together


# ----------------------------------------------------------------------------------------------------------------------
# In the process that starts the others


def supervise(count, command):
    """Run `command` (a list) as `count` workers of this host. Returns the exit status for all.

    SIGINT and SIGTERM are passed on: the workers stop together at the same step, and worker 0 saves. Where a worker
    fails the others are ended, and what it said last is written to standard error.
    """
    addresses = [f"127.0.0.1:{port}" for port in free_ports(count)]
    workers = []
    with tempfile.TemporaryDirectory(prefix="progan-workers-") as directory, _pass_signals_on(workers) as passed_on:
        try:
            for index in range(count):
                workers.append(_Worker(index, command, addresses, directory))
            for number in tuple(passed_on):  # while they were being started: not all may have been told
                for worker in workers:
                    worker.signal(number)
            ended = _wait(workers)
        finally:
            for worker in workers:
                worker.kill()
        first = min(ended, key=_rank)
        if first.status == 0:
            return 0
        sys.stderr.write(first.last_words(passed_on))
        return first.exit_status(passed_on)


def free_ports(count):
    """Return `count` ports of this host that are free for TCP and UDP."""
    found = []
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            try:
                tcp.bind(("", port))
                udp.bind(("", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise OSError(f"fewer than {count} free ports between {PORTS[0]} and {PORTS[-1]}")


class _Worker:
    """A worker process, and what it leaves behind."""

    def __init__(self, index, command, addresses, directory):
        self.index, self.status = index, None
        self._program = os.path.basename(sys.argv[0])
        self._report = os.path.join(directory, f"report-{index}")
        self._errors = os.path.join(directory, f"stderr-{index}")
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        environment = dict(os.environ, TF_CONFIG=json.dumps(config))
        environment[SUPERVISOR] = f"{os.getpid()}:{self._report}"
        with open(self._errors, "wb") as errors:
            # In a session of its own: a Ctrl-C in the terminal reaches it through us, once.
            self._process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL if index else None,
                stderr=errors if index else None,
                start_new_session=True,
            )

    def poll(self):
        """Return whether the process has ended."""
        self.status = self._process.poll()
        return self.status is not None

    def signal(self, number):
        if not self.poll():
            self._process.send_signal(number)

    def kill(self):
        self.signal(signal.SIGKILL)
        self._process.wait()

    def exit_status(self, passed_on):
        if self.status < 0:
            return 128 - self.status if -self.status in passed_on else LOST
        return self.status

    def last_words(self, passed_on):
        """Return what is to be said when this worker was the first to fail."""
        if os.path.exists(self._report) and os.path.getsize(self._report):
            return _read(self._report)
        if -self.status in passed_on:
            return f"{self._program}: stopped by signal {-self.status}; nothing to save yet\n"
        if self.status < 0:
            how = f"was ended by {signal.Signals(-self.status).name}"
        else:
            how = f"ended with status {self.status}"
        log = "".join(_read(self._errors).splitlines(True)[-20:]) if self.index else ""
        return (
            f"{log}{self._program}: error: worker {self.index} {how}: training stopped; go on from the last snapshot "
            "with --resume_exp\n"
        )


def _read(path):
    with open(path, encoding="utf-8", errors="replace") as stream:
        return stream.read()


@contextlib.contextmanager
def _pass_signals_on(workers):
    """Within the block SIGINT and SIGTERM go to all workers. Gives the set of those that came, which grows."""
    passed_on = set()

    def handler(number, frame):
        passed_on.add(number)
        for worker in workers:
            worker.signal(number)

    previous = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield passed_on
    finally:
        for number, action in previous.items():
            signal.signal(number, action)


def _wait(workers):
    """Return the workers in the order in which they ended; when one has failed, without those that went on too long.

    Worker 0 may go on after all others have ended well: it may have curves to upload.
    """
    ended, deadline = [], None
    while len(ended) < len(workers) and (deadline is None or time.monotonic() < deadline):
        for worker in workers:
            if worker not in ended and worker.poll():
                ended.append(worker)
                together = worker.status == 0 or worker.status > 128
                if worker.status != 0 or worker.index == 0:
                    limit = time.monotonic() + (LONG_GRACE if together else GRACE)
                    deadline = limit if deadline is None else min(deadline, limit)
        time.sleep(POLL)
    return ended


def _rank(worker):
    """Order the workers by how much their end explains: the cause of a failure before what follows from it."""
    if worker.status == 0:
        return 4, 0
    if worker.status == LOST:  # of another one
        return 3, 0
    if worker.status > 128:  # stopped together: worker 0 knows what was saved
        return 2, worker.index
    return (1 if worker.status < 0 else 0), 0


# ----------------------------------------------------------------------------------------------------------------------
# In a worker


def supervisor():
    """Return the process id of the one that supervises this process, or None."""
    return int(os.environ[SUPERVISOR].split(":")[0]) if SUPERVISOR in os.environ else None


def reporting(main):
    """Return `main` as a worker calls it: the line, or the traceback, in which it ends goes to the supervisor."""

    def wrapped():
        try:
            return main()
        except BaseException:
            sys.stderr = _last_words()
            raise

    return main if supervisor() is None else wrapped


def _last_words():
    """Return the stream for what ends this process."""
    return sys.stderr if supervisor() is None else open(os.environ[SUPERVISOR].split(":", 1)[1], "w", encoding="utf-8")


def leave(line):
    """End this process at once, in one line: another worker is lost, and TensorFlow may never return."""
    with contextlib.suppress(OSError):
        stream = _last_words()
        stream.write(f"{os.path.basename(sys.argv[0])}: error: {line}\n")
        stream.flush()
    os._exit(LOST)

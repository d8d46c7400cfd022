"""Features of images, and distances between images, from networks in PyTorch: in a process of their own.

TensorFlow and PyTorch in one process can crash each other, so the worker never imports TensorFlow, and this module
imports neither.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import traceback
from multiprocessing.connection import Connection

from experiment_utils.errors import UserError

INSTALL = 'pip install -e ".[torch]"'


class FeatureWorker:
    """A process with PyTorch in it, started when it is first asked for something. Close it, or use `with`.

    num_gpus    0: the CPU; else (None too) a GPU if PyTorch finds one
    inception   path of InceptionV3's weights, or module:factory of a network of one's own, which gets uint8 images
                [N, 3, R, R] and returns features [N, d] (None: the weights are fetched once)
    vgg         path of VGG16's weights, or module:factory of a distance of one's own, between float images
                [N, 3, 256, 256], about [-1, 1] (None: fetched)

    What a user can put right is raised as UserError, also that the process died.
    """

    def __init__(self, num_gpus=None, num_threads=0, inception=None, vgg=None):
        self._arguments = num_gpus, num_threads, {"inception": inception, "vgg": vgg}
        self._process = self._connection = None

    def call(self, method, **arguments):
        """Return what the method of that name of `extractors.Extractors` returns."""
        self._send(method, arguments)
        return self._receive(method)

    def stream(self, method, calls):
        """Yield what the method returns for each of an iterable of arguments, {name: value}.

        The next arguments are made while the worker is at work.
        """
        waiting = False
        try:
            for arguments in calls:
                if waiting:
                    answer, waiting = self._receive(method), False
                    yield answer
                self._send(method, arguments)
                waiting = True
            if waiting:
                answer, waiting = self._receive(method), False
                yield answer
        finally:
            if waiting:  # the making of arguments failed: nobody will take the answer that is under way
                self.close()

    def _start(self):
        # Not multiprocessing's spawn, which would import the caller's main module again, TensorFlow and all.
        ours, theirs = socket.socketpair()
        with theirs:
            descriptor = theirs.fileno()
            lines = (
                "import sys",
                f"sys.path[:] = {sys.path!r}",
                "from progan.metrics.features import serve",
                f"serve({descriptor}, *{self._arguments!r})",
            )
            self._process = subprocess.Popen(
                [sys.executable, "-c", "; ".join(lines)], stdin=subprocess.DEVNULL, pass_fds=[descriptor]
            )
        self._connection = Connection(ours.detach())

    def _send(self, method, arguments):
        if self._connection is None:
            self._start()
        try:
            self._connection.send((method, arguments))
        except OSError:
            raise UserError(self._epitaph(method)) from None

    def _receive(self, method):
        try:
            kind, value = self._connection.recv()
        except (EOFError, OSError):
            raise UserError(self._epitaph(method)) from None
        if kind == "user error":
            raise UserError(value)
        if kind == "bug":
            raise RuntimeError(f"in the process of the feature worker:\n{value}")
        return value

    def _epitaph(self, method):
        """What to say of the process that has died; the next call starts another."""
        process = self._process
        with contextlib.suppress(subprocess.TimeoutExpired):  # then it only closed its socket
            process.wait(10)
        self.close()
        if process.returncode == -signal.SIGKILL:
            how = "was killed, by the system if memory ran out: free some, or lower --minibatch_size"
        elif process.returncode < 0:
            how = f"died of signal {-process.returncode}; try again, or with --num_gpus 0"
        else:
            how = f"ended with status {process.returncode}; what it wrote stands above"
        return f"the process that extracts features ({method}) {how}"

    def close(self):
        """End the process, whatever it is doing: it has nothing to save."""
        if self._connection is not None:
            self._connection.close()
            self._process.kill()
            self._process.wait()
            self._process = self._connection = None

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


# ----------------------------------------------------------------------------------------------------------------------
# The worker's side


def serve(descriptor, num_gpus, num_threads, sources):
    """Answer (method, arguments) with ('result' | 'user error' | 'bug', value) until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business; when it ends, so does this
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    connection = Connection(descriptor)
    extractors = None
    while True:
        try:
            method, arguments = connection.recv()
        except (EOFError, OSError):
            return
        try:
            if extractors is None:
                sys.path.append(os.getcwd())  # for module:factory
                extractors = _extractors(num_gpus, num_threads, sources)
            answer = "result", getattr(extractors, method)(**arguments)
        except Exception as problem:
            answer = _describe(problem)
        try:
            connection.send(answer)
        except OSError:
            return


def _extractors(*arguments):
    try:
        from progan.metrics.extractors import Extractors
    except ImportError as problem:
        raise UserError(f"features of images need PyTorch and its libraries: {INSTALL} ({problem})") from None
    return Extractors(*arguments)


def _describe(problem):
    if isinstance(problem, UserError):
        return "user error", str(problem)
    if isinstance(problem, ImportError):
        return "user error", f"{problem}: {INSTALL}"
    if isinstance(problem, MemoryError) or "out of memory" in str(problem) or "can't allocate memory" in str(problem):
        return "user error", f"out of memory while extracting features; lower --minibatch_size ({problem})"
    return "bug", traceback.format_exc()

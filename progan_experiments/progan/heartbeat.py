"""Signs of life between workers, so that one that dies or hangs ends the others instead of leaving them to wait.

TensorFlow does not tell: a collective whose peer has died never returns in 1.14, and in no version where the peer is
merely stopped. So each worker sends the others a datagram every half second, from a thread, on the UDP port of its
address in TF_CONFIG. Silence for some seconds ends the process, with one line that names the silent worker. It must be
the process itself that answers (a stopped one still accepts TCP connections: its kernel does), but not its main
thread, which may rightly be busy for long: with a first step, a graph, a snapshot, metrics.

The same messages bring the workers together at the start, compare what they were started with, and pass on why one
ended. Anyone who can send to the port can end the training, as with TensorFlow's own: use a network that you trust.
"""

import dataclasses
import hashlib
import json
import os
import select
import socket
import threading
import time
import uuid

from experiment_utils.errors import OptionError, TrainingError

PERIOD = 0.5  # seconds between two messages
MAX_ERROR = 1000  # characters of what ended a worker: some of TensorFlow's texts are longer than a datagram
# What a worker says of itself. From `failed` on, all others end too; `done`: it may fall silent.
HELLO, READY, DONE, FAILED = "hello", "ready", "done", "failed"


@dataclasses.dataclass
class _Peer:
    index: int
    address: tuple = None  # (IP, port), once its name is known to the resolver
    id: str = None  # drawn by its process: another one is another process
    knows_us: bool = False  # it has answered this process, not an earlier one at the same address
    state: str = None
    settings: dict = None
    error: str = None
    heard: float = 0.0


class Heartbeat:
    """The messages between this worker and its peers.

    settings  {name: JSON value}: what must be the same everywhere
    timeout   seconds to wait for the others at the start
    silence   seconds without a message after which a worker counts as lost
    on_loss   called with one line, in the thread, when a worker is lost or has failed; ends the process

    Raises OptionError where the port is taken.
    """

    def __init__(self, cluster, settings, timeout, silence, on_loss, parent=None):
        self._cluster, self._timeout, self._silence, self._on_loss = cluster, timeout, silence, on_loss
        self._settings = {name: _digest(value) for name, value in settings.items()}
        self._parent = parent
        self._id, self._state, self._error = uuid.uuid4().hex[:8], HELLO, None
        self._peers = {i: _Peer(i) for i in range(len(cluster)) if i != cluster.index}
        self._changed = threading.Condition()
        self._watching = self._closed = False
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._socket.bind(("", cluster.host_port(cluster.index)[1]))
        except OSError as problem:
            raise OptionError(
                f"TF_CONFIG: {cluster.name(cluster.index)}: cannot use that UDP port here ({problem.strerror}); "
                "is another worker of this index running?"
            ) from None
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    def meet(self):
        """Wait until all others are there, started with the same settings. Raises OptionError, TrainingError."""
        self._wait_for_all(lambda peer: peer.knows_us, "did not answer")
        for peer in self._peers.values():
            names = set(self._settings) | set(peer.settings)
            differing = [name for name in sorted(names) if self._settings.get(name) != peer.settings.get(name)]
            if differing:
                raise OptionError(
                    f"{self._cluster.name(peer.index)} was started with another {', '.join(differing)}; "
                    "give all workers the same flags, and the same files to go on from"
                )

    def ready(self):
        """Say that this worker can be reached through TensorFlow; wait until all can. From now on, watch."""
        self._state = READY
        self._wait_for_all(lambda peer: peer.state in (READY, DONE), "did not get ready")
        self._watching = True

    def wait_for_verdict(self):
        """Where something broke off that others take part in: return once it is certain that all of them are alive.

        If one is not, the thread ends this process before.
        """
        certain = time.monotonic() + self._silence
        while any(peer.state != DONE and peer.heard < certain for peer in self._peers.values()):
            time.sleep(PERIOD)

    def close(self, error=None):
        """Say goodbye: done, or `error`, the line with which the others are to end."""
        with self._changed:
            self._watching, self._closed = False, True
            self._state, self._error = (DONE, None) if error is None else (FAILED, error[:MAX_ERROR])
        for _ in range(3):  # a datagram may be lost
            self._send()
            time.sleep(0.02)
        self._thread.join(2 * PERIOD)
        if not self._thread.is_alive():  # else it waits for the resolver, and will look at the socket once more
            self._socket.close()

    # ------------------------------------------------------------------------------------------------------------------

    def _wait_for_all(self, condition, failing):
        deadline = time.monotonic() + self._timeout
        with self._changed:
            while True:
                for peer in self._peers.values():
                    if peer.state == FAILED and peer.knows_us:
                        raise TrainingError(peer.error)
                missing = [peer.index for peer in self._peers.values() if not condition(peer)]
                if not missing:
                    return
                if time.monotonic() > deadline:
                    raise TrainingError(
                        f"{' and '.join(map(self._cluster.name, missing))} {failing} within {self._timeout:g} s; start "
                        "all workers, check TF_CONFIG (or wait longer: --worker_timeout)"
                    )
                self._changed.wait(PERIOD)

    def _beat(self):
        """The thread: send, receive, judge."""
        sent, last = -PERIOD, time.monotonic()
        while not self._closed:
            now = time.monotonic()
            if now - sent >= PERIOD:
                self._send()
                sent = now
            if select.select([self._socket], [], [], PERIOD / 2)[0]:
                with self._changed:
                    self._receive()
                    self._changed.notify_all()
            # Time in which this process itself did not run is not held against the others.
            now = time.monotonic()
            if now - last > 4 * PERIOD:
                for peer in self._peers.values():
                    peer.heard += now - last
            last = now
            self._judge(now)

    def _judge(self, now):
        if self._parent is not None and os.getppid() != self._parent:
            self._lose("the process that started the workers has ended")
        for peer in self._peers.values() if self._watching else ():
            if peer.state == FAILED:
                self._lose(peer.error)
            elif peer.state != DONE and now - peer.heard > self._silence:
                self._lose(
                    f"{self._cluster.name(peer.index)} has given no sign of life for {self._silence:g} s: training "
                    "stopped; go on from the last snapshot with --resume_exp"
                )

    def _lose(self, line):
        self._watching, self._closed, self._state, self._error = False, True, FAILED, line
        self._send()
        self._on_loss(line)

    def _send(self):
        message = {"from": self._cluster.index, "id": self._id, "state": self._state, "error": self._error}
        if self._state == HELLO:
            message["settings"] = self._settings
        for peer in self._peers.values():
            try:
                if peer.address is None:
                    peer.address = socket.getaddrinfo(*self._cluster.host_port(peer.index), socket.AF_INET)[0][4]
                self._socket.sendto(json.dumps(dict(message, to=peer.id)).encode(), peer.address)
            except (OSError, UnicodeError):  # not started, not known to the resolver (yet), or gone
                continue

    def _receive(self):
        try:
            message = json.loads(self._socket.recv(65536).decode())
            peer, sender, to, state = self._peers[message["from"]], message["id"], message["to"], message["state"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):  # a stranger, or a closed port
            return
        if not peer.knows_us and (sender != peer.id or "settings" in message):
            peer.id, peer.settings = sender, message.get("settings")
        if sender != peer.id or to != self._id:
            return  # from, or to, an earlier process at the same address
        if peer.settings is not None:
            peer.knows_us = True
        peer.state, peer.error, peer.heard = state, message.get("error"), time.monotonic()


def _digest(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]

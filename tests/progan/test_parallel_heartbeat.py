"""Signs of life between workers: several in this process, on ports of their own."""

import contextlib
import json
import socket
import threading
import time

import pytest
from patience import PATIENCE, wait_until

from experiment_utils.errors import OptionError, TrainingError
from progan import heartbeat
from progan.cluster import Cluster
from progan.heartbeat import Heartbeat
from progan.launch import free_ports

SILENCE = 30.0


class Clock:
    """In the place of the module `time` of heartbeat.py: goes with the real one until it is stopped."""

    def __init__(self):
        self.stopped, self._slept = None, threading.Event()

    def monotonic(self):
        return time.monotonic() if self.stopped is None else self.stopped

    def sleep(self, seconds):
        self._slept.set()
        time.sleep(seconds if self.stopped is None else 0.01)

    def wait_for_sleep(self):
        """Wait until someone sleeps, from now on."""
        self._slept.clear()
        assert self._slept.wait(PATIENCE)


class Group:
    """Workers of one cluster; `lost` gathers {index: line} of those that would have ended."""

    def __init__(self, count, clock):
        self.addresses = tuple(f"127.0.0.1:{port}" for port in free_ports(count))
        self.lost, self.members, self.clock = {}, {}, clock

    def start(self, index, settings=None, timeout=PATIENCE, parent=None, silence=SILENCE):
        cluster = Cluster(self.addresses, index)
        on_loss = lambda line: self.lost.setdefault(index, line)  # noqa: E731
        self.members[index] = Heartbeat(cluster, settings or {"seed": 1}, timeout, silence, on_loss, parent)
        return self.members[index]

    def name(self, index):
        return f"worker {index} ({self.addresses[index]})"

    def connect(self):
        """All members meet and get ready, each in a thread."""

        def enter(member):
            member.meet()
            member.ready()

        threads = [threading.Thread(target=enter, args=[member]) for member in self.members.values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()

    def pass_time(self, seconds):
        """Let the clock, which stands still otherwise, go on, message by message; those that live hear each other."""
        self.clock.stopped = self.clock.monotonic()
        for _ in range(round(seconds / heartbeat.PERIOD)):
            self.clock.stopped += heartbeat.PERIOD
            alive = {index: member for index, member in self.members.items() if not member._closed}
            for index in alive:
                self.send(index, b"")  # wakes it up
            heard = [member._peers[peer] for index, member in alive.items() for peer in alive if peer != index]
            wait_until(lambda heard=heard: all(peer.heard == self.clock.stopped for peer in heard))

    def freeze(self, index):
        """From now on that member neither sends nor receives, as if its process were stopped."""
        self.members[index]._closed = True
        self.members[index]._thread.join()

    def close(self):
        for member in self.members.values():
            if member._socket.fileno() >= 0:
                member.close()

    def send(self, index, payload):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(payload, ("127.0.0.1", int(self.addresses[index].split(":")[1])))


@pytest.fixture
def group(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(heartbeat, "time", clock)
    with contextlib.ExitStack() as stack:

        def make(count):
            group = Group(count, clock)
            stack.callback(group.close)
            return group

        yield make


def test_a_silent_worker_is_named_by_all_others(group):
    three = group(3)
    for index in range(3):
        three.start(index)
    three.connect()
    three.pass_time(heartbeat.PERIOD)
    three.freeze(1)
    three.pass_time(SILENCE)
    assert not three.lost
    three.clock.stopped += heartbeat.PERIOD
    wait_until(lambda: set(three.lost) == {0, 2})
    for line in three.lost.values():
        assert line.startswith(f"{three.name(1)} has given no sign of life for 30 s: ") and "--resume_exp" in line


def test_one_that_fails_ends_the_others_at_once_with_its_own_line(group):
    three = group(3)
    for index in range(3):
        three.start(index)
    three.connect()
    three.members[2].close("worker 2 ended: no space left")
    wait_until(lambda: set(three.lost) == {0, 1})
    assert set(three.lost.values()) == {"worker 2 ended: no space left"}


def test_what_ended_a_worker_may_be_long(group):
    two = group(2)
    two.start(0)
    two.start(1)
    two.connect()
    two.members[1].close("worker 1 ended: " + "ResourceExhausted " * 10000)  # more than a datagram holds
    wait_until(lambda: 0 in two.lost)
    assert two.lost[0].startswith("worker 1 ended: ResourceExhausted ")


def test_connected_workers_stay_so_and_one_that_is_done_may_fall_silent(group):
    three = group(3)
    for index in range(3):
        three.start(index)
    three.connect()
    three.members[1].close()
    three.pass_time(2 * SILENCE)
    assert not three.lost


def test_a_worker_that_never_answers_is_named_after_the_timeout(group):
    three = group(3)
    three.start(0, timeout=1)
    begin = time.monotonic()
    with pytest.raises(TrainingError) as refusal:
        three.members[0].meet()
    assert time.monotonic() - begin >= 1
    assert str(refusal.value).startswith(f"{three.name(1)} and {three.name(2)} did not answer within 1 s; ")
    assert "--worker_timeout" in str(refusal.value)


def test_one_that_comes_late_is_waited_for(group):
    two = group(2)
    two.start(0)
    timer = threading.Timer(1.0, two.start, [1])
    timer.start()
    two.members[0].meet()
    timer.join()
    two.members[1].meet()


def test_one_that_meets_but_does_not_get_ready(group):
    two = group(2)
    two.start(0)
    two.start(1)
    two.members[0].meet()
    two.members[0]._timeout = 1
    with pytest.raises(TrainingError, match="did not get ready within 1 s"):
        two.members[0].ready()


def test_other_settings_are_named(group):
    two = group(2)
    two.start(0, {"seed": 1, "lr": 0.1, "minibatch": "4"})
    two.start(1, {"seed": 2, "lr": 0.1, "minibatch": "8"})
    for index in (0, 1):
        with pytest.raises(OptionError) as refusal:
            two.members[index].meet()
        assert str(refusal.value).startswith(f"{two.name(1 - index)} was started with another minibatch, seed; ")


def test_one_that_fails_at_the_start(group):
    two = group(2)
    two.start(0)
    two.start(1)
    two.members[1].meet()
    two.members[1].close("worker 1 ended: no GPU")
    with pytest.raises(TrainingError, match="worker 1 ended: no GPU"):
        two.members[0].meet()
        two.members[0].ready()


def test_a_port_that_is_taken(group):
    two = group(2)
    two.start(0)
    with pytest.raises(OptionError, match=r"worker 0 .*: cannot use that UDP port here \(Address already in use\)"):
        Heartbeat(Cluster(two.addresses, 0), {}, 1, 1, print)


def test_a_worker_that_was_started_again_is_not_the_one_that_was_lost(group):
    """The others end, rather than wait for a collective that the new process knows nothing of."""
    two = group(2)
    two.start(0, silence=1)
    two.start(1)
    two.connect()
    two.freeze(1)
    two.members[1]._socket.close()
    two.start(1)
    wait_until(lambda: 0 in two.lost)
    assert two.lost[0].startswith(two.name(1))
    assert 1 not in two.lost  # it waits for a worker 0 that is new too


def test_strangers_are_not_listened_to(group):
    two = group(2)
    for index in range(2):
        two.start(index)
    two.connect()
    forged = {"from": 1, "id": "00000000", "to": "00000000", "state": "failed", "error": "forged"}
    for payload in (
        b"",
        b"\xff\x00",
        b"[]",
        b"7",
        b'{"from": 9}',
        b'{"from": {}}',
        b"[" * 60000,
        json.dumps(forged).encode(),
    ):
        two.send(0, payload)
    two.pass_time(2 * heartbeat.PERIOD)
    assert not two.lost and all(member._thread.is_alive() for member in two.members.values())


def test_a_name_that_cannot_be_one_is_waited_for_like_any_other(group):
    """Python raises an error of its own where a name cannot be encoded, rather than the resolver's."""
    two = group(2)
    two.addresses = (two.addresses[0], f"{64 * 'a'}.example:1")
    two.start(0, timeout=1)
    with pytest.raises(TrainingError, match="did not answer within 1 s"):
        two.members[0].meet()
    assert two.members[0]._thread.is_alive()


def test_the_socket_outlives_a_thread_that_waits_for_the_resolver(monkeypatch, group):
    released, waiting = threading.Event(), threading.Event()

    def resolve(*arguments):
        if threading.current_thread().name == "heartbeat":
            waiting.set()
            released.wait()
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    one = group(2).start(0)
    assert waiting.wait(PATIENCE)
    one.close()
    assert one._socket.fileno() >= 0
    released.set()
    one._thread.join(PATIENCE)
    one.close()
    assert one._socket.fileno() < 0


def test_a_verdict_is_waited_for(group):
    """When TensorFlow breaks off: until a lost worker is named, or all are known to be alive."""
    three = group(3)
    for index in range(3):
        three.start(index)
    three.connect()
    three.pass_time(heartbeat.PERIOD)
    waiting = threading.Thread(target=three.members[0].wait_for_verdict, daemon=True)
    waiting.start()
    three.clock.wait_for_sleep()
    three.pass_time(SILENCE - heartbeat.PERIOD)
    three.clock.wait_for_sleep()  # still
    three.pass_time(heartbeat.PERIOD)
    waiting.join(PATIENCE)
    assert not waiting.is_alive() and not three.lost
    three.freeze(1)
    waiting = threading.Thread(target=three.members[0].wait_for_verdict, daemon=True)
    waiting.start()
    three.pass_time(SILENCE)
    three.clock.stopped += heartbeat.PERIOD
    wait_until(lambda: 0 in three.lost)
    three.clock.wait_for_sleep()  # here the loss does not end the process
    three.members[0]._peers[1].state = heartbeat.DONE
    waiting.join(PATIENCE)
    assert not waiting.is_alive()


def test_an_orphan_ends(group):
    """Its parent, the supervisor, is not this process's."""
    two = group(2)
    two.start(0, parent=1 << 30)
    wait_until(lambda: 0 in two.lost)
    assert two.lost[0] == "the process that started the workers has ended"

"""The supervisor of workers on one host, with small scripts in the place of train.py."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest
from patience import PATIENCE, wait_until

from progan import launch
from progan.launch import free_ports

SUPERVISOR = """
import sys
from experiment_utils.errors import run_command
from progan import launch
launch.GRACE, launch.LONG_GRACE = {grace}, {long_grace}
sys.argv = ["train.py"]
run_command(lambda: launch.supervise({count}, [sys.executable, {script!r}]))
"""

# What every script begins with: which worker it is, and the command's frame as train.py has it.
WORKER = """
import json, os, signal, sys, time
from experiment_utils.errors import Interrupted, TrainingError, run_command
from progan import launch
sys.argv[0] = "train.py"
index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]

def main():
{body}

run_command(launch.reporting(main))
"""


class Job:
    """A supervisor and its workers; `body` is the code of a worker's main()."""

    def __init__(self, directory, body, count=3, grace=launch.GRACE, long_grace=PATIENCE):
        script = directory / "worker.py"
        script.write_text(WORKER.format(body=textwrap.indent(textwrap.dedent(body), "    ")))
        code = SUPERVISOR.format(count=count, script=str(script), grace=grace, long_grace=long_grace)
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=str(directory)
        )
        self.directory = directory

    def wait_for(self, *names):
        def there():
            assert self.process.poll() is None, self.process.communicate()
            return all((self.directory / name).exists() for name in names)

        wait_until(there)

    def end(self):
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err


READY = """
with open("ready-%d.part" % index, "w") as stream:
    stream.write(str(os.getpid()))
os.rename("ready-%d.part" % index, "ready-%d" % index)
"""


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as stream:
        return stream.read().split()[2] != "Z"


def test_each_worker_knows_who_it_is_and_only_the_first_is_heard(tmp_path):
    job = Job(tmp_path, "open('config-%d' % index, 'w').write(os.environ['TF_CONFIG'])\nprint('out', index)\n"
                        "sys.stderr.write('err %d\\n' % index)")  # fmt: skip
    assert job.end() == (0, "out 0\n", "err 0\n")
    configs = [json.loads((tmp_path / f"config-{index}").read_text()) for index in range(3)]
    assert [config["task"] for config in configs] == [{"type": "worker", "index": index} for index in range(3)]
    addresses = configs[0]["cluster"]["worker"]
    assert all(config["cluster"] == {"worker": addresses} for config in configs)
    assert len(set(addresses)) == 3 and all(address.startswith("127.0.0.1:") for address in addresses)


def test_the_first_may_go_on_when_the_others_have_ended_well(tmp_path):
    """It may have curves to upload; others that go on after it have nothing to do."""
    body = READY + textwrap.dedent("""
        while index == 0 and not (os.path.exists("ready-1") and os.path.exists("ready-2")):
            time.sleep(0.01)
        time.sleep((2, 0, 1000)[index])
        print("uploaded")
    """)
    assert Job(tmp_path, body, long_grace=0.5).end()[:2] == (0, "uploaded\n")
    assert not alive(int((tmp_path / "ready-2").read_text()))


def test_an_error_that_all_run_into_is_said_once(tmp_path):
    status, _, err = Job(tmp_path, "raise TrainingError('step 7: loss/D is nan')").end()
    assert (status, err) == (2, "train.py: error: step 7: loss/D is nan\n")


def test_the_cause_is_said_rather_than_what_follows_from_it(tmp_path):
    body = """
        if index == 2:
            time.sleep(0.5)
            raise TrainingError("dataset is gone")
        launch.leave("worker 2 ended: dataset is gone")
    """
    assert Job(tmp_path, body, grace=PATIENCE).end()[::2] == (2, "train.py: error: dataset is gone\n")


def test_a_worker_that_hangs_is_named_by_the_others_and_ended(tmp_path):
    body = READY + textwrap.dedent("""
        if index == 1:
            time.sleep(1000)
        while not os.path.exists("ready-1"):
            time.sleep(0.01)
        launch.leave("worker 1 has given no sign of life")
    """)
    assert Job(tmp_path, body).end()[::2] == (3, "train.py: error: worker 1 has given no sign of life\n")
    assert not alive(int((tmp_path / "ready-1").read_text()))


@pytest.mark.parametrize("victim", [0, 2])
def test_a_worker_that_is_killed_is_named_and_ends_the_others(tmp_path, victim):
    job = Job(tmp_path, READY + "time.sleep(1000)")
    job.wait_for("ready-0", "ready-1", "ready-2")
    pids = [int((tmp_path / f"ready-{index}").read_text()) for index in range(3)]
    os.kill(pids[victim], signal.SIGKILL)
    status, _, err = job.end()
    assert status == 3 and err == (
        f"train.py: error: worker {victim} was ended by SIGKILL: training stopped; go on from the last snapshot with "
        "--resume_exp\n"
    )
    assert not any(map(alive, pids))


def test_a_bug_keeps_its_traceback(tmp_path):
    status, _, err = Job(tmp_path, "if index == 1:\n    [][3]\ntime.sleep(1000)").end()
    assert status == 1 and err.count("Traceback") == 1 and "IndexError" in err


def test_a_crash_shows_what_the_worker_wrote_last(tmp_path):
    body = "if index == 1:\n    os.write(2, b'Check failed: device\\n')\n    os.abort()\ntime.sleep(1000)"
    status, _, err = Job(tmp_path, body).end()
    assert status == 3 and err.startswith("Check failed: device\n") and "worker 1 was ended by SIGABRT" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_every_worker_and_worker_0_says_what_was_saved(tmp_path, number):
    body = """
        received = []
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, lambda number, frame: received.append(number))
        open("ready-%d" % index, "w")
        while not received:
            time.sleep(0.01)
        time.sleep(1 if index == 0 else 0)  # it saves
        raise Interrupted("saved by %d" % index, received[0])
    """
    job = Job(tmp_path, body)
    job.wait_for("ready-0", "ready-1", "ready-2")
    job.process.send_signal(number)
    assert job.end()[::2] == (128 + number, "train.py: saved by 0\n")


def test_a_signal_before_anything_could_be_saved(tmp_path):
    job = Job(tmp_path, "signal.signal(signal.SIGTERM, signal.SIG_DFL)\n" + READY + "time.sleep(1000)")
    job.wait_for("ready-0", "ready-1", "ready-2")
    job.process.send_signal(signal.SIGTERM)
    assert job.end()[::2] == (143, "train.py: stopped by signal 15; nothing to save yet\n")


def test_a_signal_while_a_worker_is_being_started_reaches_it(monkeypatch):
    """When it runs already, but is not known yet."""

    class Worker:
        index, status = 0, None

        def __init__(self, *arguments):
            os.kill(os.getpid(), signal.SIGTERM)

        def signal(self, number):
            self.status = 128 + number

        def poll(self):
            return self.status is not None

        def kill(self):
            pass

        def last_words(self, passed_on):
            return ""

        def exit_status(self, passed_on):
            return self.status

    monkeypatch.setattr(launch, "_Worker", Worker)
    assert launch.supervise(1, []) == 143


def test_ports_are_free_and_different():
    ports = free_ports(20)
    assert len(set(ports)) == 20

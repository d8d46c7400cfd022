"""Run directories, the log, and signals that wait until the work is safe."""

import os
import signal
import subprocess
import sys

import pytest
from patience import PATIENCE

from experiment_utils import runs
from experiment_utils.errors import OptionError


def test_runs_are_numbered_upwards(tmp_path):
    results = str(tmp_path / "results")
    assert runs.create_run_dir(results, "a") == os.path.join(results, "00000-a")
    assert runs.create_run_dir(results, "b") == os.path.join(results, "00001-b")
    os.mkdir(os.path.join(results, "00007-c"))
    os.mkdir(os.path.join(results, "notes-9"))
    os.rmdir(os.path.join(results, "00001-b"))  # a number is not given again while a larger one is there
    assert runs.create_run_dir(results, "d") == os.path.join(results, "00008-d")


def test_a_number_that_another_process_takes_first_is_passed_over(tmp_path, monkeypatch):
    results, listdir = str(tmp_path), os.listdir
    os.mkdir(os.path.join(results, "00000-a"))
    stale = [[]]  # what a listing made a moment too early shows

    monkeypatch.setattr(runs.os, "listdir", lambda path: stale.pop() if stale else listdir(path))
    assert runs.create_run_dir(results, "a") == os.path.join(results, "00001-a")


def test_find_run_dir(tmp_path):
    path = runs.create_run_dir(str(tmp_path), "a")
    assert runs.find_run_dir(str(tmp_path), 0) == path


def test_a_missing_run_is_an_error_that_lists_those_there_are(tmp_path):
    results = str(tmp_path / "results")
    with pytest.raises(OptionError, match=r"no run number 3 in .*results \(runs there: none\)"):
        runs.find_run_dir(results, 3)
    runs.create_run_dir(results, "a")
    runs.create_run_dir(results, "b")
    with pytest.raises(OptionError, match=r"no run number 3 .*\(runs there: 00000-a, 00001-b\)"):
        runs.find_run_dir(results, 3)


def test_the_log_goes_to_standard_output_and_is_appended_to_the_file(tmp_path, capsys):
    path = str(tmp_path / "log.txt")
    for line in ("first", "second"):
        log = runs.Log(path)
        log(line)
        log.close()
    assert capsys.readouterr().out == "first\nsecond\n"
    with open(path, encoding="utf-8") as stream:
        lines = stream.read().splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == ["first", "second"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_within_the_block_a_signal_is_only_noted(number):
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with runs.stop_signals() as stop:
        assert stop.received is None
        os.kill(os.getpid(), number)
        assert stop.received == number
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_second_signal_acts_as_usual():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs begin with it ignored
    try:
        with pytest.raises(KeyboardInterrupt), runs.stop_signals():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_second_sigterm_ends_a_process_that_does_not_stop():
    program = (
        "import os, signal, time\n"
        "from experiment_utils.runs import stop_signals\n"
        "with stop_signals() as stop:\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print(stop.received, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(1000)\n"
    )
    process = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, timeout=PATIENCE)
    assert process.stdout == b"15\n" and process.returncode == -signal.SIGTERM


def test_progress_into_a_pipe_is_sparse(monkeypatch):
    monkeypatch.setattr(sys, "stderr", open(os.devnull, "w"))
    assert runs.progress(total=3).mininterval == 30

"""How a command ends: its exit status, and what it leaves on standard error."""

import errno
import os
import subprocess
import sys

import pytest
from patience import PATIENCE

from experiment_utils.errors import DataError, Interrupted, OptionError, SnapshotError, TrainingError, run_command


def ending(main, capsys):
    """Return (exit status, standard error) of a command."""
    with pytest.raises(SystemExit) as stopped:
        run_command(main)
    return stopped.value.code, capsys.readouterr().err


def raises(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize("kind", [OptionError, DataError, SnapshotError, TrainingError])
def test_a_user_error_is_one_line_and_status_2(kind, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/train.py"])
    status, text = ending(raises(kind("a.tfrecords: truncated\n  after record 3")), capsys)
    assert status == 2
    assert text == "train.py: error: a.tfrecords: truncated after record 3\n"


@pytest.mark.parametrize("result, expected", [(None, 0), (0, 0), (3, 3)])
def test_a_command_that_returns_ends_with_its_status(result, expected, capsys):
    assert ending(lambda: result, capsys) == (expected, "")


@pytest.mark.parametrize("number, expected", [(2, 130), (15, 143)])
def test_an_interrupted_command_says_how_to_go_on(number, expected, capsys):
    status, text = ending(raises(Interrupted("saved x; go on with: train.py --resume_exp 3", number)), capsys)
    assert status == expected
    assert text.endswith("saved x; go on with: train.py --resume_exp 3\n") and text.count("\n") == 1


def test_ctrl_c_where_nothing_is_to_be_saved(capsys):
    status, text = ending(raises(KeyboardInterrupt()), capsys)
    assert status == 130 and text.endswith("interrupted\n")


@pytest.mark.parametrize(
    "number",
    [
        *(errno.ENOSPC, errno.EACCES, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
        errno.ENAMETOOLONG,
    ],
)
def test_what_the_operating_system_refuses_is_one_line_with_the_file_and_advice(number, capsys):
    status, text = ending(raises(OSError(number, os.strerror(number), "/data/file")), capsys)
    assert status == 2 and text.count("\n") == 1
    reason, advice = text.split(": ", 2)[2].split("; ")
    assert reason == "/data/file: %s" % os.strerror(number) and advice.strip()


def test_a_refusal_without_a_file_name_is_reported_too(capsys):
    status, text = ending(raises(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))), capsys)
    assert status == 2 and "error: No space left on device; " in text


@pytest.mark.parametrize("bug", [ValueError("x"), AssertionError(), OSError(errno.EBADF, "bad descriptor")])
def test_a_bug_keeps_its_traceback(bug):
    with pytest.raises(type(bug)):
        run_command(raises(bug))


def test_a_reader_that_leaves_is_no_error():
    """As in `command | head -1`: no message, and the status that shells give a process killed by SIGPIPE."""
    program = (
        "from experiment_utils.errors import run_command\n"
        "def main():\n"
        "    while True:\n"
        "        print('a line')\n"
        "run_command(main)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == b"a line\n"
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(PATIENCE) == 141

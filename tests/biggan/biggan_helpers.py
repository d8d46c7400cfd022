"""What tests of the commands need: the commands as modules, and how one that refuses ends."""

import importlib.util
import os
import sys

import pytest

from experiment_utils.errors import run_command

HERE = os.path.dirname(os.path.abspath(__file__))
BIGGAN_DISCOVERY = os.path.join(os.path.dirname(os.path.dirname(HERE)), "biggan_discovery")


def command_path(name):
    return os.path.join(BIGGAN_DISCOVERY, f"{name}.py")


def load_command(name):
    """Return biggan_discovery/NAME.py as a module: it is a command, not part of a package."""
    spec = importlib.util.spec_from_file_location(f"{name}_command", command_path(name))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name, module, capfd, arguments):
    """Run a command in this process; return (exit status, standard output, standard error)."""
    argv, sys.argv = sys.argv, [f"{name}.py", *arguments]
    try:
        with pytest.raises(SystemExit) as end:
            run_command(module.main)
    finally:
        sys.argv = argv
    captured = capfd.readouterr()
    return end.value.code, captured.out, captured.err


def refusal(ending):
    """The message of a command that refused: one line on standard error, exit status 2."""
    status, _, err = ending
    lines = [line for line in err.splitlines() if line]
    assert status == 2 and len(lines) == 1 and ": error: " in lines[0], err
    return lines[0].split(": error: ", 1)[1]

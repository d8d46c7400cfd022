"""Running this project's commands one after another, as a user would, and showing each."""

import os
import shlex
import subprocess
import sys

from experiment_utils.errors import UserError


def title(text):
    print(f"\n== {text}", flush=True)


def command(script, *arguments):
    """Show and run the Python script of that path with these arguments. Raises UserError where it fails."""
    words = [os.path.relpath(script), *map(str, arguments)]
    print("$ python " + " ".join(map(shlex.quote, words)), flush=True)
    status = subprocess.run([sys.executable, *words]).returncode
    if status != 0:
        raise UserError(f"{os.path.basename(script)} ended with status {status}; its own message stands above")

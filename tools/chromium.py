"""Find the Chromium that the browser tests drive; install it where there is none and that can be done without asking.

    python tools/chromium.py        prints its path; exit status 2, and how to install it, where there is none

It is looked for in $CHROMIUM, on the PATH, and among the browsers that `python -m playwright install chromium` fetches.
Debian's package is installed only by root (a container, as a rule): nobody else could without typing a password.
"""

import os
import shutil
import subprocess
import sys

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PACKAGES = ["chromium", "fonts-dejavu-core"]
ADVICE = (
    "no Chromium for the browser tests: install it (Debian: sudo apt install chromium; elsewhere: "
    "python -m playwright install chromium), or name one: CHROMIUM=/path/to/chromium make test"
)


class NoChromiumError(Exception):
    """There is no Chromium; the message says what to do."""


def find():
    """Return the path of a Chromium. Raises NoChromiumError."""
    named = os.environ.get("CHROMIUM")
    if named:
        if shutil.which(named) is None:
            raise NoChromiumError(f"CHROMIUM={named}: no such program")
        return shutil.which(named)
    for name in NAMES:
        if shutil.which(name):
            return shutil.which(name)
    path = _playwrights_own()
    if path is None:
        raise NoChromiumError(ADVICE)
    return path


def _playwrights_own():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if os.path.exists(path) else None


def install():
    """Install Debian's package if this user may. Raises NoChromiumError."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise NoChromiumError(ADVICE)
    print("Installing Chromium for the browser tests: apt-get install " + " ".join(PACKAGES), flush=True)
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    for arguments in (["update"], ["install", "--yes", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(
            ["apt-get", "--quiet", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
        )
        if done.returncode != 0:
            words = done.stdout.decode("utf-8", "replace").split("\n")
            raise NoChromiumError(f"apt-get {arguments[0]} failed ({' '.join(words[-3:]).strip()}); {ADVICE}")


def main():
    try:
        try:
            path = find()
        except NoChromiumError:
            if os.environ.get("CHROMIUM"):
                raise
            install()
            path = find()
    except NoChromiumError as problem:
        sys.stderr.write(f"chromium.py: error: {problem}\n")
        sys.exit(2)
    print(path)


if __name__ == "__main__":
    main()

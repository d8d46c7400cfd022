"""Without Chromium: one line that says how to install it."""

import os
import subprocess
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def run(arguments, tmp_path, **variables):
    """Run Python where neither Chromium nor apt-get is on the PATH."""
    environment = dict(os.environ, PATH=str(tmp_path), PLAYWRIGHT_BROWSERS_PATH=str(tmp_path), **variables)
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize(
    "arguments", [["tools/chromium.py"], ["-m", "pytest", "-q", "tests/browser/test_chromium.py", "-k", "opens"]]
)
def test_no_chromium(arguments, tmp_path, monkeypatch):
    monkeypatch.delenv("CHROMIUM", raising=False)
    finished = run(arguments, tmp_path)
    assert finished.returncode == 2
    (line,) = [line for line in finished.stdout.splitlines() if "no Chromium" in line]
    assert "sudo apt install chromium" in line and "playwright install chromium" in line
    assert "Traceback" not in finished.stdout


def test_a_chromium_that_is_not_there(tmp_path):
    finished = run(["tools/chromium.py"], tmp_path, CHROMIUM="/no/chromium")
    assert (finished.returncode, finished.stdout) == (2, "chromium.py: error: CHROMIUM=/no/chromium: no such program\n")


def test_a_page_opens(open_page, tmp_path):
    """And is listened to."""
    path = tmp_path / "page.html"
    path.write_text("<h1>there</h1><script>console.error('oh')</script>")
    page = open_page(path.as_uri())
    assert page.inner_text("h1") == "there"
    assert (page.requests, page.complaints) == ([path.as_uri()], ["oh"])

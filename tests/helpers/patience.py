"""Waiting for what must come, however long a busy machine takes: only a failure ever meets the deadline."""

import time

PATIENCE = 300  # seconds for what takes a few on an idle machine


def wait_until(condition):
    """Return once condition() holds; fail when it never does."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"still waiting after {PATIENCE} s"
        time.sleep(0.01)

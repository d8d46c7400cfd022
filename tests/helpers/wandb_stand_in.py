"""A package wandb that only notes what it is asked for: the service itself cannot be reached from a test."""

import json
import sys

MODULE = """
import json, os
def note(*what):
    with open(os.environ["WANDB_NOTES"], "a") as stream:
        stream.write(json.dumps(what) + "\\n")
init = lambda **keywords: note("init", keywords)
log = lambda values, step: note("log", values, step)
finish = lambda: note("finish")
Video = lambda path: "video " + os.path.basename(path)
Image = lambda pixels: "image %s" % (pixels.shape,)
"""


def install(monkeypatch, tmp_path):
    """Let `import wandb` find the stand-in until the test ends. Returns notes(): [[what, ...]] so far."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "wandb.py").write_text(MODULE)
    path = tmp_path / "notes"
    monkeypatch.setenv("WANDB_NOTES", str(path))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    monkeypatch.setitem(sys.modules, "wandb", None)  # so that it is put back, whatever was there
    monkeypatch.delitem(sys.modules, "wandb")
    return lambda: [json.loads(line) for line in path.read_text().splitlines()]

"""Milliseconds from a slider to its picture, in the browser, of explore.py with the bundled generator.

    python benchmarks/explore_latency.py [changes] [flags of explore.py]

The server has one core and one thread. Measured in the page: from the slider's input event until the new picture is
decoded. Below it, what of that goes to Python alone: the generator's pass, enlarging and the PNG, on the same core.
"""

import os
import re
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
COMMAND = os.path.join(ROOT, "biggan_discovery", "explore.py")
sys.path.insert(0, os.path.join(ROOT, "tools"))

CHANGE = """async (value) => {
  const image = document.querySelector("#picture img"), slider = document.querySelector("#direction-0");
  const changed = new Promise((done) => image.addEventListener("load", done, {once: true}));
  const begin = performance.now();
  slider.value = value;
  slider.dispatchEvent(new Event("input", {bubbles: true}));
  await changed;
  return performance.now() - begin;
}"""


def serve(flags):
    """Start explore.py on one core; return (process, address)."""
    command = [sys.executable, COMMAND, "--port", "0", "--device", "cpu", *flags]
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, preexec_fn=on_one_core)
    for line in server.stdout:
        print(line, end="")
        found = re.search(r"http://\S+", line)
        if line.startswith("open ") and found:
            return server, found.group()
    raise SystemExit(server.wait())


def on_one_core():
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def in_the_browser(address, changes):
    """Return the milliseconds of each change."""
    import chromium
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium.find())
        page = browser.new_page()
        page.goto(address)
        page.wait_for_selector("#direction-0")
        values = [(-1) ** number * (1 + number / changes) for number in range(changes + 5)]
        measured = [page.evaluate(CHANGE, value) for value in values]
        browser.close()
    return measured[5:]  # the first ones warm up


def in_python(changes):
    """Return the milliseconds of each picture of the bundled generator in this process, on the server's core."""
    import torch

    from biggan import exploring, weights

    on_one_core()
    torch.set_num_threads(1)
    G = weights.load_generator()
    explorer = exploring.Explorer(G, torch.eye(G.dim_z), 3.0)
    measured = []
    for number in range(changes + 5):
        setting = exploring.Setting((number / changes,) + (0.0,) * (G.dim_z - 1), label=0)
        begin = time.perf_counter()
        explorer.preview(setting)
        measured.append(1000 * (time.perf_counter() - begin))
    return measured[5:]


def report(what, measured):
    deciles = statistics.quantiles(measured, n=10)
    print(f"{what:<28} {statistics.median(measured):8.1f} {deciles[8]:8.1f} {max(measured):8.1f}")


def main():
    changes = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    server, address = serve(sys.argv[2:])
    try:
        in_page = in_the_browser(address, changes)
    finally:
        server.terminate()
        server.wait()
    print(f"{'milliseconds':<28} {'median':>8} {'90 %':>8} {'max':>8}")
    report("slider to picture, browser", in_page)
    if len(sys.argv) <= 2:
        report("of that the picture, Python", in_python(changes))


if __name__ == "__main__":
    main()

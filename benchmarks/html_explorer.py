#!/usr/bin/env python
"""Size of an explorer page, and seconds until it answers a key: 12 rows, 8 samples, 24 steps at 128 px, in Chromium.

The pictures are crops of the two photographs that come with scikit-learn, each strip a pan and zoom of its own: sharp,
textured and in motion everywhere, so harder to compress than most generators' images. The baseline is the page that one
would write first: a PNG for every frame, and a script that shows one. Both are opened in turn, in a fresh context;
the clock stops when a slider, moved by a key, has changed its picture.
"""

import base64
import io
import json
import os
import statistics
import sys
import tempfile
import time

import numpy as np
from PIL import Image

from experiment_utils import options
from experiment_utils.errors import OptionError, run_command
from latent_traversal import ExplorerPanel, save_html, sweep_values

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tools"))
import chromium

ROWS, SAMPLES, STEPS, SIZE = 12, 8, 24, 128
BASELINE = """<!DOCTYPE html><meta charset="utf-8"><title>baseline</title><div id="rows"></div><script>
for (const strips of %s) {
  const row = document.getElementById("rows").appendChild(document.createElement("div"));
  const picture = row.appendChild(new Image());
  const slider = row.appendChild(document.createElement("input"));
  Object.assign(slider, { type: "range", max: strips[0].length - 1, value: strips[0].length >> 1 });
  const show = () => { picture.src = "data:image/png;base64," + strips[0][slider.value]; };
  slider.oninput = show;
  show();
}
document.documentElement.dataset.ready = "";
</script>"""
SHOWN = """async () => {
    const picture = document.querySelector("#rows canvas, #rows img");
    if (picture.decode) await picture.decode();
    const canvas = Object.assign(document.createElement("canvas"), { width: 32, height: 32 });
    canvas.getContext("2d").drawImage(picture, 0, 0, 32, 32);
    return canvas.toDataURL();
}"""


def photographs():
    """Return uint8 strips [ROWS, SAMPLES, STEPS, SIZE, SIZE, 3]: windows that move over two photographs, and zoom."""
    from sklearn.datasets import load_sample_images

    random = np.random.RandomState(0)
    pictures = [Image.fromarray(image) for image in load_sample_images().images]
    strips = np.empty((ROWS * SAMPLES, STEPS, SIZE, SIZE, 3), np.uint8)
    for number, strip in enumerate(strips):
        picture = pictures[number % 2]
        side, zoom = random.uniform(170, 300), random.uniform(0.85, 1.15)
        least, room = side * 0.6 + 20, np.array(picture.size)
        x, y = least + random.uniform(size=2) * (room - 2 * least)
        shift = random.uniform(-20, 20, 2)
        for step, t in enumerate(np.linspace(-1, 1, STEPS)):
            half = side / 2 * zoom**t
            box = (x + shift[0] * t - half, y + shift[1] * t - half, x + shift[0] * t + half, y + shift[1] * t + half)
            box = (max(box[0], 0), max(box[1], 0), min(box[2], room[0]), min(box[3], room[1]))
            strip[step] = np.asarray(picture.resize((SIZE, SIZE), Image.LANCZOS, box=box))
    return strips.reshape(ROWS, SAMPLES, STEPS, SIZE, SIZE, 3)


def save_baseline(path, strips):
    def png(image):
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, format="PNG")
        return base64.b64encode(stream.getvalue()).decode("ascii")

    frames = [[[png(image) for image in strip] for strip in row] for row in strips]
    with open(path, "w", encoding="utf-8") as stream:
        stream.write(BASELINE % json.dumps(frames))


def seconds_until_interactive(browser, path):
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    page = context.new_page()
    begin = time.perf_counter()
    page.goto("file://" + path, wait_until="commit")
    page.wait_for_selector("html[data-ready]", state="attached")
    before = page.evaluate(SHOWN)
    page.locator("#rows input").first.press("ArrowRight")
    while page.evaluate(SHOWN) == before:
        pass
    seconds = time.perf_counter() - begin
    context.close()
    return seconds


def main(argv=None):
    parser = options.make_parser(__doc__)
    parser.add_argument("--turns", type=int, default=5, help="how often each page is opened; the median counts")
    turns = parser.parse_args(argv).turns
    try:
        program = chromium.find()
    except (chromium.NoChromiumError, ImportError) as problem:
        raise OptionError(str(problem)) from None
    from playwright.sync_api import sync_playwright

    strips = photographs()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        paths = {name: os.path.join(folder, name + ".html") for name in ("ours", "baseline")}
        save_html(paths["ours"], [ExplorerPanel("photographs", strips)], positions=sweep_values(STEPS), max_mb=100)
        save_baseline(paths["baseline"], strips)
        browser = playwright.chromium.launch(executable_path=program)
        seconds = {name: [] for name in paths}
        for _ in range(turns):
            for name, path in paths.items():
                seconds[name].append(seconds_until_interactive(browser, path))
        ours, baseline = (
            f"{os.path.getsize(paths[name]) / 1e6:.1f} MB, {statistics.median(seconds[name]):.2f} s until interactive"
            for name in paths
        )
        print(f"{ROWS} x {SAMPLES} x {STEPS} frames of photographs at {SIZE} px: {ours}; as PNGs {baseline}")


if __name__ == "__main__":
    run_command(main)

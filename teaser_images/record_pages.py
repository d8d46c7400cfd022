"""Film the two explorers in a real browser: explorer.gif and live_explorer.gif, here. A minute; needs Chromium.

python teaser_images/record_pages.py
"""

import io
import os
import re
import subprocess
import sys
import tempfile

import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright

from latent_traversal import save_gif

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tools"))
import chromium

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)

VIEW = {"width": 960, "height": 600}
DIRECTIONS = (1, 3, 9)  # that show something in the sample of seed 0


def main():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium.find())
        context = browser.new_context(viewport=VIEW, reduced_motion="reduce")
        film_page(context)
        film_server(context)
        browser.close()


def film_page(context):
    """Two ProGANs side by side: all sliders from one end to the other."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["progan_experiments/visualize.py", "--models", "clevr_1fov_16_rel", "clevr_1fov_16_bl"]
        run(*command, "--format", "html", "--out_dir", folder)
        (path,) = [os.path.join(folder, name) for name in os.listdir(folder)]
        page = context.new_page()
        page.goto("file://" + path)
        sliders = page.locator("input[type=range]")
        frames = []
        for step in range(0, 25, 2):
            sliders.evaluate_all(
                "(all, step) => all.forEach((one) => { one.value = step; one.dispatchEvent(new Event('input')); })",
                step,
            )
            frames.append(picture_of(page))
        save_gif(os.path.join(HERE, "explorer.gif"), frames, fps=10, max_colors=200)


def film_server(context):
    """The live explorer: one direction after another, there and back."""
    command = [sys.executable, os.path.join(ROOT, "biggan_discovery", "explore.py"), "--port", "7861"]
    command += ["--load_A", os.path.join(ROOT, "biggan_discovery", "checkpoints", "clevr_simple_32-seed1.pt")]
    server = subprocess.Popen([*command, "--path_size", "3"], stdout=subprocess.PIPE, text=True)
    try:
        address = next(re.search(r"http://\S+", line).group() for line in server.stdout if "http://" in line)
        page = context.new_page()
        page.goto(address)
        frames = [picture_of(page, 3000)]
        for number in DIRECTIONS:
            slider = page.locator(f"#direction-{number}")
            for share in np.sin(np.linspace(0, 2 * np.pi, 13))[1:]:
                slider.evaluate(
                    "(one, share) => { one.value = share * one.max; one.dispatchEvent(new Event('input')); }",
                    float(share),
                )
                frames.append(picture_of(page, 400))
        save_gif(os.path.join(HERE, "live_explorer.gif"), frames, fps=8, max_colors=200, loop=False)
    finally:
        server.terminate()
        server.wait()


def run(script, *arguments):
    subprocess.run([sys.executable, os.path.join(ROOT, script), *arguments], check=True, stdout=subprocess.DEVNULL)


def picture_of(page, wait=150):
    page.wait_for_timeout(wait)
    return np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))


if __name__ == "__main__":
    main()

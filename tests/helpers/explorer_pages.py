"""Pages that latent_traversal.save_html wrote, read back without a browser."""

import base64
import io
import json
import re

import numpy as np
from PIL import Image


def page_data(path):
    """(title, what the page shows) of a page."""
    with open(str(path), encoding="utf-8") as stream:
        title, data = re.search('<title>(.*)</title>.*id="data">(.*?)</script>', stream.read(), re.DOTALL).groups()
    return title, json.loads(data)


def sheet_frames(panel, row, column, steps):
    """uint8 [steps, H, W, 3]: the frames of a strip as they stand in its sheets, by the page's own numbers."""
    width, frames = panel["cellWidth"], []
    for step in range(steps):
        data = base64.b64decode(panel["sheets"][row][column][step // panel["inSheet"]])
        sheet = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        place = step % panel["inSheet"]
        cell = sheet[:, place * width :][:, :width][:, :: -1 if place % 2 else 1]
        frames.append(cell[: panel["height"], : panel["width"]])
    return np.stack(frames)


def codec_error(panel, row, column, images):
    """The mean difference, of 255, between a strip's frames and the uint8 images [steps, H, W, 3] they should show."""
    size = (panel["width"], panel["height"])
    true = np.stack([np.asarray(Image.fromarray(image).resize(size, Image.BICUBIC)) for image in images])
    return np.abs(sheet_frames(panel, row, column, len(images)).astype(int) - true).mean()

"""Latent traversals: what each latent component, or direction, does to a generator's images.

Self-contained: NumPy arrays in, files out. Copy this file into your project; it needs NumPy, Pillow and imageio-ffmpeg.

    strips = traversal_strips(G, z)                                  # G: latents [N, nz] -> images [N, H, W, C]
    save_html("traversal.html", [ExplorerPanel("G", strips)])        # sliders for the browser, in one file
    frames = grid_frames(strips, row_labels=["z0", "z1", ...])       # one row a component, one column a sample
    save_gif("traversal.gif", frames, fps=30)                        # plays there and back, for ever
    save_mp4("traversal.mp4", frames, fps=30)

Three kinds of arrays pass between the functions:

    images   [N, H, W, C]                       uint8, or floating point in [-1, 1]; C is 1 or 3
    strips   [rows, columns, steps, H, W, C]    uint8; `steps` goes once from one end of the sweep to the other
    frames   [steps, height, width, 3]          uint8; the whole grid with its labels, one picture a step

Wrong arguments raise ValueError with one line that names the value. Files appear under their name only when complete.
"""

import base64
import collections
import collections.abc
import contextlib
import errno
import hashlib
import html
import io
import json
import math
import os
import re
import struct
import subprocess
import tempfile
import uuid

import imageio_ffmpeg
import numpy as np
from PIL import GifImagePlugin, Image, ImageDraw, ImageFont

# ----------------------------------------------------------------------------------------------------------------------
# From latents to strips


def sweep_values(steps, extent=2.0, eased=False):
    """Return float32 [steps] from -extent to +extent: evenly spaced, or `eased` (a sine: slow at both ends)."""
    if steps < 2:
        raise ValueError(f"steps={steps}: a sweep needs at least 2")
    if not (math.isfinite(extent) and extent > 0):
        raise ValueError(f"extent={extent}: must be greater than 0 and finite")
    positions = np.linspace(-1, 1, steps)
    return np.float32(extent * (np.sin(positions * np.pi / 2) if eased else positions))


def traversal_strips(G, latents, components=None, extent=2.0, steps=90, minibatch=100):
    """Sweep single latent components: one row a component, one column a sample.

    G            callable: float32 [n, nz] -> images [n, H, W, C], n <= minibatch
    latents      [columns, nz]: the samples, already normalised if the network expects that. The swept value is written
                 over its entry and nothing is normalised again, so every image of a strip differs in that entry only.
    components   the component of each row, in order (default: all nz)
    extent       the sweep goes from -extent to +extent
    steps        images in a sweep
    Returns strips [rows, columns, steps, H, W, C], uint8.
    """
    latents = np.asarray(latents, np.float32)
    if latents.ndim != 2 or 0 in latents.shape:
        raise ValueError(f"latents of shape {latents.shape}: expected [columns, nz]")
    nz = latents.shape[1]
    components = np.arange(nz) if components is None else np.asarray(components)
    if components.ndim != 1 or len(components) == 0 or not np.issubdtype(components.dtype, np.integer):
        raise ValueError(f"components={components.tolist()}: expected a list of component numbers")
    for component in components:
        if not 0 <= component < nz:
            raise ValueError(f"component {component}: the latents have components 0 to {nz - 1}")
    paths = np.tile(latents[None, :, None, :], (len(components), 1, steps, 1))
    values = sweep_values(steps, extent)
    for row, component in enumerate(components):
        paths[row, :, :, component] = values
    return path_strips(G, paths, minibatch)


def path_strips(G, paths, minibatch=100):
    """Generate the images along any latent paths [rows, columns, steps, nz]; otherwise as `traversal_strips`.

    To sweep along orthonormal directions Q [rows, nz] instead of single components, each sample z [columns, nz] losing
    its own component along the row's direction:

        t = sweep_values(steps, path_size, eased=True)
        distances = t - (Q @ z.T)[:, :, None]                               # [rows, columns, steps]
        paths = z[:, None, :] + distances[..., None] * Q[:, None, None, :]

    and `there_and_back(frames, start=steps // 2)` plays it from the centre to one end, to the other, and back.
    """
    paths = np.asarray(paths, np.float32)
    if paths.ndim != 4 or 0 in paths.shape:
        raise ValueError(f"paths of shape {paths.shape}: expected [rows, columns, steps, nz]")
    if minibatch < 1:
        raise ValueError(f"minibatch={minibatch}: must be at least 1")
    latents = paths.reshape(-1, paths.shape[-1])
    strips = None
    for begin in range(0, len(latents), minibatch):
        batch = latents[begin : begin + minibatch]
        images = to_uint8(G(batch))
        if strips is None:
            strips = np.empty((len(latents), *images.shape[1:]), np.uint8)
        expected = (len(batch), *strips.shape[1:])
        if images.shape != expected:
            raise ValueError(f"G returned images of shape {images.shape} for {len(batch)} latents: expected {expected}")
        strips[begin : begin + minibatch] = images
    return strips.reshape(paths.shape[:3] + strips.shape[1:])


def to_uint8(images):
    """Return images [..., H, W, C] as uint8: as they are, or x·127.5 + 128 rounded down and saturated."""
    images = np.asarray(images)
    if images.ndim < 3 or images.shape[-1] not in (1, 3):
        raise ValueError(f"images of shape {images.shape}: expected [..., height, width, 1 or 3]")
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.floating):
        raise ValueError(f"images of type {images.dtype}: expected uint8, or floating point in [-1, 1]")
    if not np.isfinite(images).all():
        raise ValueError("images that are not finite: expected floating point in [-1, 1]")
    return np.clip(images * 127.5 + 128, 0, 255).astype(np.uint8)


def activeness(strips):
    """Return float64 [rows]: how much each row changes the images (Peebles et al. 2020, Sec. 4).

    The variance over the steps with ddof = 1, images counted in [-1, 1], averaged over pixels, channels and columns.
    The number of the paper takes three steps: -extent, 0, extent.
    """
    return np.array([np.var(row / 127.5, axis=1, ddof=1).mean() for row in _checked_strips(strips)])


def sweep_columns(strips, sample=0, n=9):
    """Spread one sample's sweep over the columns: strips [rows, n, 1, H, W, C], n evenly spaced steps with both ends.

    `grid_frames(sweep_columns(strips))[0]` is then one picture that shows the whole sweep.
    """
    strips = _checked_strips(strips)
    if not 0 <= sample < strips.shape[1]:
        raise ValueError(f"sample={sample}: the strips have samples 0 to {strips.shape[1] - 1}")
    return strips[:, sample, _evenly(strips.shape[2], n)][:, :, None]


def there_and_back(frames, start=0):
    """Return a list that plays `frames` from `start` to the end, back to the beginning and up to `start` again.

    It closes without a jump: neither end is shown twice. With `start=len(frames) // 2` it goes centre, right, centre,
    left, centre. The frames are not copied.
    """
    cycle = list(range(len(frames))) + list(range(len(frames) - 2, 0, -1))
    if not 0 <= start < len(frames):
        raise ValueError(f"start={start}: there are frames 0 to {len(frames) - 1}")
    return [frames[step] for step in cycle[start:] + cycle[:start]]


def _evenly(count, n):
    """`n` of the numbers 0..count-1, evenly spaced, both ends included (all of them where there are fewer)."""
    if n < 1:
        raise ValueError(f"n={n}: must be at least 1")
    return np.round(np.linspace(0, count - 1, min(n, count))).astype(int)


def _checked_strips(strips):
    strips = to_uint8(strips)
    if strips.ndim != 6 or 0 in strips.shape:
        raise ValueError(f"strips of shape {strips.shape}: expected [rows, columns, steps, height, width, channels]")
    return strips


# ----------------------------------------------------------------------------------------------------------------------
# From strips to frames

_INK = (40, 44, 52)
_BAR = (66, 133, 190)
_TRACK = (228, 231, 235)


def grid_frames(
    strips, row_labels=None, row_values=None, column_labels=None, pad_x=4, pad_y=4, scale=None, transpose=False
):
    """Lay strips out as a labelled grid on white.

    strips          [rows, columns, steps, H, W, C], uint8 or floating point in [-1, 1]
    row_labels      one text a row, written beside it
    row_values      one number >= 0 a row (its activeness, its purity), written after the label, with a bar below whose
                    full length is the largest of them
    column_labels   one text a column, written above it
    pad_x, pad_y    pixels between columns, and between rows
    scale           a whole number: every image pixel becomes scale × scale pixels, smoothly interpolated; by default
                    the smallest that makes images at least 64 pixels large
    transpose       let the rows run down and the columns across: what belonged to a row then stands above it
    Returns frames [steps, height, width, 3], uint8.
    """
    strips = _checked_strips(strips)
    rows, columns, steps, height, width, _ = strips.shape
    scale = -(-64 // max(height, width)) if scale is None else scale
    for name, value, least in (("pad_x", pad_x, 0), ("pad_y", pad_y, 0), ("scale", scale, 1)):
        if value != int(value) or value < least:
            raise ValueError(f"{name}={value}: must be a whole number, at least {least}")
    pen = _Pen(min(max(min(height, width) * scale // 8, 13), 24))
    row_headers = _headers(pen, "row", rows, row_labels, row_values)
    column_headers = _headers(pen, "column", columns, column_labels, None)
    if transpose:
        strips = strips.swapaxes(0, 1)
        row_headers, column_headers = column_headers, row_headers
    left = _Axis(strips.shape[1], width * scale, pad_x, [header.shape[1] + pen.gap for header in column_headers])
    top = _Axis(strips.shape[0], height * scale, pad_y, [header.shape[0] + pen.gap for header in row_headers])
    left.begin += max([header.shape[1] + pen.gap for header in row_headers], default=0)
    top.begin += max([header.shape[0] + pen.gap // 2 for header in column_headers], default=0)

    page = np.full((top.end(), left.end(), 3), 255, np.uint8)
    for i, header in enumerate(row_headers):
        _paste(page, header, top.centre(i) - header.shape[0] // 2, left.margin)
    for j, header in enumerate(column_headers):
        _paste(page, header, top.margin, left.centre(j) - header.shape[1] // 2)
    frames = np.tile(page, (steps, 1, 1, 1))
    for i, row in enumerate(strips):
        for j, strip in enumerate(row):
            y, x = top.cell(i), left.cell(j)
            for frame, image in zip(frames, strip):
                frame[y : y + height * scale, x : x + width * scale] = _enlarge(image, scale)
    return frames


class _Axis:
    """Where a grid's cells stand along one axis: `count` cells, `size` pixels each, further apart if a header asks."""

    def __init__(self, count, size, pad, headers):
        self.count, self.size, self.pad = count, size, pad
        self.margin = max(pad, 8)
        self.begin = self.margin
        self.room = max([size, *headers])

    def cell(self, index):
        return self.begin + index * (self.room + self.pad) + (self.room - self.size) // 2

    def centre(self, index):
        return self.cell(index) + self.size // 2

    def end(self):
        return self.begin + self.count * (self.room + self.pad) - self.pad + self.margin


def _headers(pen, what, count, labels, values):
    """One picture for each row (or column): its label, its value, and the value's bar. None where there is neither."""
    if labels is None and values is None:
        return []
    labels, values = _checked_labels(what, count, labels, values)
    if values is None:
        return [pen.text(label) for label in labels]
    numbers = [pen.text(text) for text in _value_texts(values)]
    labels = [pen.text(label) for label in labels]
    label_width = max(label.shape[1] for label in labels)
    width = label_width + pen.gap + max(number.shape[1] for number in numbers)
    return [
        _labelled_bar(pen, label, number, share, width)
        for label, number, share in zip(labels, numbers, values / (values.max() or 1.0))
    ]


def _checked_labels(what, count, labels, values):
    """Return (labels as texts, "" where there are none; values as a float array, None where there are none)."""
    for name, given in (("labels", labels), ("values", values)):
        if given is not None and len(given) != count:
            raise ValueError(f"{len(given)} {what}_{name} for {count} {what}s")
    labels = [""] * count if labels is None else [str(label) for label in labels]
    if values is None:
        return labels, None
    values = np.asarray(values, float)
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise ValueError(f"{what}_values={values.tolist()}: must be finite and not negative")
    return labels, values


def _value_texts(values):
    """Three significant digits of the largest value, the others with as many decimals."""
    decimals = min(max(2 - math.floor(math.log10(values.max() or 1.0)), 0), 6)
    return [f"{value:.{decimals}f}" for value in values]


def _labelled_bar(pen, label, number, share, width):
    """The label at the left, the number at the right, and below them a bar that fills `share` of the width."""
    text_height, bar_height = pen.height, max(pen.height // 4, 3)
    header = np.full((text_height + 2 + bar_height, width, 3), 255, np.uint8)
    _paste(header, label, 0, 0)
    _paste(header, number, 0, width - number.shape[1])
    header[-bar_height:] = _TRACK
    header[-bar_height:, : round(share * width)] = _BAR
    return header


class _Pen:
    """Text as pictures, in the font that comes with Pillow: scalable since 10.1, before that a bitmap of one size."""

    def __init__(self, size):
        try:
            self.font, self.enlarge = ImageFont.load_default(size), 1
        except TypeError:  # Pillow < 10.1
            self.font, self.enlarge = ImageFont.load_default(), max(round(size / 13), 1)
        self.height = self._box("Ag|")[3] * self.enlarge
        self.gap = self.height // 2 + 4

    def _box(self, text):
        return ImageDraw.Draw(Image.new("L", (1, 1))).textbbox((0, 0), text, font=self.font)

    def text(self, text):
        """uint8 [pen.height, width, 3]: one line of text on white. What the font lacks becomes a question mark."""
        text = " ".join(text.split()).encode("latin-1", "replace").decode("latin-1")
        picture = Image.new("RGB", (max(self._box(text)[2], 1), self.height // self.enlarge), (255, 255, 255))
        ImageDraw.Draw(picture).text((0, 0), text, fill=_INK, font=self.font)
        return np.asarray(picture).repeat(self.enlarge, 0).repeat(self.enlarge, 1)


def _paste(page, picture, y, x):
    page[y : y + picture.shape[0], x : x + picture.shape[1]] = picture


def _enlarge(image, scale):
    """uint8 [H, W, C] -> [H·scale, W·scale, C]."""
    if scale == 1:
        return image
    size = (image.shape[1] * scale, image.shape[0] * scale)
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    return np.asarray(picture.resize(size, Image.BICUBIC)).reshape(size[1], size[0], image.shape[-1])


# ----------------------------------------------------------------------------------------------------------------------
# From frames to files


def save_gif(path, frames, fps=30, max_colors=256, loop=True, tolerance=2):
    """Save frames [T, H, W, 3] (or a list of them) as a GIF that repeats for ever.

    It is small because all frames share one palette, none is dithered, and each repaints only the pixels whose new
    colour the palette can show better than they stand by more than `tolerance` levels (of 255, in the worst channel).
    A GIF's clock ticks in hundredths of a second, and players slow down delays below two ticks, so fps is at most 50;
    rates that do not divide 100 hold on average.

    max_colors   2 to 256, of which one marks unchanged pixels
    loop         play there and back, so that the repetition does not jump; False: as the frames come
    """
    frames = _checked_frames(frames, fps)
    if fps > 50:
        raise ValueError(f"fps={fps}: a GIF shows at most 50 frames a second")
    if not 2 <= max_colors <= 256:
        raise ValueError(f"max_colors={max_colors}: must be 2 to 256")
    if not 0 <= tolerance <= 255:
        raise ValueError(f"tolerance={tolerance}: must be 0 to 255")
    palette = _Palette(frames, max_colors - 1)
    unchanged = max_colors - 1
    if loop:
        frames = there_and_back(frames)
    height, width = frames[0].shape[:2]
    if max(height, width) > 65535:
        raise ValueError(f"frames of {width}x{height} pixels: a GIF holds at most 65535x65535")
    with _whole_file(path) as partial, open(partial, "wb") as stream:
        stream.write(b"GIF89a" + struct.pack("<HHBBB", width, height, 0xF7, 0, 0))  # a global table of 256 colours
        stream.write(palette.colors.astype(np.uint8).tobytes().ljust(768, b"\0"))
        stream.write(b"!\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00")  # repeat for ever
        for number, (patch, left, top) in enumerate(_patches(frames, palette, unchanged, tolerance)):
            delay = round(100 * (number + 1) / fps) - round(100 * number / fps)
            # Graphic control: leave the frame standing (1 << 2), one colour is transparent (1), the delay.
            stream.write(struct.pack("<3sBHBB", b"!\xf9\x04", 1 << 2 | 1, delay, unchanged, 0))
            for block in GifImagePlugin.getdata(Image.fromarray(patch), offset=(left, top)):
                stream.write(block)
        stream.write(b";")


def _patches(frames, palette, unchanged, tolerance):
    """Yield what each frame has to paint over the one before it: (palette indices, left, top)."""
    shown = palette.nearest(frames[0])
    yield shown, 0, 0
    for frame in frames[1:]:
        indices = palette.nearest(frame)
        better = palette.betters(indices, shown, frame, tolerance)
        shown = np.where(better, indices, shown)
        ys, xs = np.flatnonzero(better.any(1)), np.flatnonzero(better.any(0))
        if len(ys) == 0:  # a frame has to paint something, if only one transparent pixel
            yield np.full((1, 1), unchanged, np.uint8), 0, 0
            continue
        box = slice(ys[0], ys[-1] + 1), slice(xs[0], xs[-1] + 1)
        yield np.where(better, indices, np.uint8(unchanged))[box], int(xs[0]), int(ys[0])


class _Palette:
    """One palette for all frames, at most `size` colours: `.colors`, int16 [n, 3]."""

    def __init__(self, frames, size, pixels=100000):
        random = np.random.RandomState(0)
        each = -(-pixels // len(frames))
        sample = np.concatenate([_sampled(frame.reshape(-1, 3), each, random) for frame in frames])
        quantized = Image.fromarray(sample[None]).quantize(size, method=Image.MEDIANCUT, kmeans=1)
        used = int(np.asarray(quantized).max()) + 1
        self.colors = np.array(quantized.getpalette()[: 3 * used], np.int16).reshape(used, 3)
        self._nearest = np.full(1 << 24, -1, np.int16)  # by 24-bit colour, filled in as colours turn up

    def nearest(self, frame):
        """uint8 [H, W, 3] -> uint8 [H, W], the nearest colours. (Pillow's own mapping ignores the two lowest bits.)"""
        codes = frame.astype(np.int32).dot(np.array([1 << 16, 1 << 8, 1], np.int32))
        new = codes[self._nearest[codes] < 0]
        colors = self.colors.astype(np.float32)
        form = np.vstack([-2 * colors.T, (colors**2).sum(1)])  # (r, g, b, 1)·form = squared distance - |(r, g, b)|²
        for begin in range(0, len(new), 2000):
            some = new[begin : begin + 2000]
            rgb1 = np.stack([some >> 16, some >> 8 & 255, some & 255, np.ones_like(some)], 1).astype(np.float32)
            self._nearest[some] = rgb1.dot(form).argmin(1)
        return self._nearest[codes].astype(np.uint8)

    def betters(self, indices, shown, frame, tolerance):
        """bool [H, W]: where `indices` are closer to the frame than `shown` by more than `tolerance`."""
        better = indices != shown
        true = frame[better].astype(np.int16)
        better[better] = self._error(shown[better], true) > self._error(indices[better], true) + tolerance
        return better

    def _error(self, indices, true):
        red, green, blue = np.abs(self.colors[indices] - true).T
        return np.maximum(np.maximum(red, green), blue)


def _sampled(pixels, count, random):
    return pixels if len(pixels) <= count else pixels[random.randint(0, len(pixels), count)]


def save_mp4(path, frames, fps=30, crf=18, loop=True):
    """Save frames [T, H, W, 3] (or a list of them) as H.264 in the pixel format that every player knows (yuv420p).

    Odd widths and heights, which that format cannot hold, get one more white column or row.

    crf    x264's constant rate factor, 0 to 51: smaller is better and larger; 18 looks like the original
    loop   play there and back, so that a repeating player does not jump; False: as the frames come
    """
    frames = _checked_frames(frames, fps)
    if not 0 <= crf <= 51:
        raise ValueError(f"crf={crf}: must be 0 to 51")
    if loop:
        frames = there_and_back(frames)
    height, width = frames[0].shape[:2]
    padding = ((0, height % 2), (0, width % 2), (0, 0))
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", f"{width + width % 2}x{height + height % 2}", "-r", str(fps), "-i", "-"]
    command += ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", str(crf), "-movflags", "+faststart", "-f", "mp4"]
    with _whole_file(path) as partial, tempfile.TemporaryFile() as messages:
        encoder = subprocess.Popen([*command, partial], stdin=subprocess.PIPE, stderr=messages)
        try:
            with contextlib.suppress(BrokenPipeError), encoder.stdin as stream:  # its exit status tells more
                for frame in frames:
                    stream.write(np.pad(frame, padding, "constant", constant_values=255).tobytes())
        except BaseException:
            encoder.kill()
            raise
        finally:
            encoder.wait()
        if encoder.returncode != 0:
            messages.seek(0)
            words = " ".join(messages.read().decode("utf-8", "replace").split())
            full = os.strerror(errno.ENOSPC) in words
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) if full else OSError(errno.EIO, f"ffmpeg: {words}")


def save_stills(prefix, frames, n):
    """Save `n` of the frames, evenly spaced with both ends, as PREFIX_00.png, PREFIX_01.png, …; return the paths."""
    frames = _checked_frames(frames)
    paths = []
    for number, step in enumerate(_evenly(len(frames), n)):
        paths.append(f"{os.fspath(prefix)}_{number:02d}.png")
        save_png(paths[-1], frames[step])
    return paths


def save_png(path, frame):
    """Save one frame [H, W, 3], uint8, as PNG."""
    (frame,) = _checked_frames([frame])
    with _whole_file(path) as partial:
        Image.fromarray(frame).save(partial, format="PNG", optimize=True)


def _checked_frames(frames, fps=1):
    if len(frames) == 0:
        raise ValueError("no frames to save")
    for frame in frames:
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[-1] != 3 or frame.shape != frames[0].shape:
            raise ValueError(f"a {frame.dtype} frame of shape {frame.shape}: expected uint8 [H, W, 3], all alike")
    if not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"fps={fps}: must be greater than 0")
    return frames


@contextlib.contextmanager
def _whole_file(path):
    """Give a temporary name beside `path`; rename it to `path` when the block ends well, and remove it otherwise."""
    path = os.path.abspath(os.fspath(path))
    partial = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.{uuid.uuid4().hex}.part")
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(partial, "wb") as stream:  # fails here, with the system's reason, where nothing can be written
            yield partial
            os.fsync(stream.fileno())
        os.replace(partial, path)
    except OSError as error:
        error.filename = path
        raise
    finally:
        if os.path.exists(partial):
            os.remove(partial)


# ----------------------------------------------------------------------------------------------------------------------
# From strips to one page


ExplorerPanel = collections.namedtuple(
    "ExplorerPanel",
    "name strips row_labels row_values value_name column_labels",
    defaults=(None, None, "activeness", None),
)
ExplorerPanel.__doc__ = """What `save_html` shows of one model, or of one set of directions.

    name            written above its pictures where there are several panels
    strips          [rows, columns, steps, H, W, C], or a sequence of such rows (see `RowsOnDemand`)
    row_labels      one text a row (default: 0, 1, …)
    row_values      one number >= 0 a row, shown as a bar
    value_name      what these numbers are
    column_labels   one text a column (default: sample 1, sample 2, …)
    """


class RowsOnDemand(collections.abc.Sequence):
    """Strips that are rendered when they are asked for: row i is `render(i)`, [columns, steps, H, W, C]."""

    def __init__(self, render, count):
        self.render, self.count = render, count

    def __len__(self):
        return self.count

    def __getitem__(self, row):
        if not 0 <= row < self.count:
            raise IndexError(row)
        return self.render(row)


class PageTooLargeError(ValueError):
    """A page that would exceed `max_mb`; .megabytes is what it would have."""

    def __init__(self, path, megabytes, max_mb):
        self.megabytes = megabytes
        super().__init__(
            f"{path} would be about {megabytes:.3g} MB, more than max_mb={max_mb:g}: lower the quality, the steps, the "
            "samples or the rows, or raise max_mb"
        )


def save_html(path, panels, title="Latent traversals", positions=None, fps=15, quality=70, max_mb=8.0):
    """Save one self-contained page that explores the strips: a slider and a picture a row, in any browser, offline.

    Row i of all panels stands side by side under one slider, so the rows should come in the order of their meaning (the
    most active first); the page can sort them by value and by name. Rows are encoded as they come, one at a time, so
    neither memory nor the time until a page is found too large depends on how many there are.

    panels      an ExplorerPanel, or a list of them: equal numbers of steps and of columns, any numbers of rows, any
                sizes of images
    title       of the page
    positions   [steps], the numbers that the slider shows, such as `sweep_values(steps)` (default: the step's number)
    fps         steps a second while it plays, there and back
    quality     1 to 100, of the pictures (lossy WebP). Small ones are enlarged first, as in `grid_frames`, to at least
                128 pixels: that is smaller than losing nothing at their own size, and keeps their colours sharp.
    max_mb      megabytes (10^6 bytes) that the page may have. Raises PageTooLargeError, a ValueError, beyond that.
    """
    panels = [panels] if isinstance(panels, ExplorerPanel) else list(panels)
    if not panels:
        raise ValueError("no panels to show")
    if quality != int(quality) or not 1 <= quality <= 100:
        raise ValueError(f"quality={quality}: must be a whole number, 1 to 100")
    for name, value in (("fps", fps), ("max_mb", max_mb)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name}={value}: must be greater than 0")
    measures = [_measures(panel) for panel in panels]
    budget = _Budget(path, max_mb, sum(len(panel.strips) for panel in panels))
    shown, shape = [], None
    for panel, (labels, values) in zip(panels, measures):
        sheets, layout, of_panel = [], None, None
        for row in panel.strips:
            (row,) = _checked_strips(np.asarray(row)[None])
            shape, of_panel = shape or row.shape[:2], of_panel or row.shape
            if row.shape != of_panel or row.shape[:2] != shape:
                expected = "[%d, %d, H, W, C]" % shape
                raise ValueError(f"panel {panel.name}: a row of shape {row.shape}: expected {expected}, all rows alike")
            if row.shape[1] < 2:
                raise ValueError(f"panel {panel.name}: its rows have 1 step: a sweep needs at least 2")
            layout = layout or _SheetLayout(*row.shape[1:4])
            sheets.append([layout.encode(strip, int(quality)) for strip in row])
            budget.add_row(sum(len(sheet) for strip in sheets[-1] for sheet in strip))
        shown.append(dict(layout.facts, name=str(panel.name), labels=labels, sheets=sheets, values=None))
        if values is not None:
            texts = _value_texts(values)
            shown[-1].update(values=values.tolist(), valueTexts=texts, valueName=str(panel.value_name))
    columns, steps = shape
    data = {"panels": shown, "steps": steps, "fps": fps, "samples": _sample_names(panels, columns)}
    data["positions"] = None if positions is None else _checked_positions(positions, steps)
    page = _fill_page(title, data)
    budget.check(len(page))
    with _whole_file(path) as partial, open(partial, "wb") as stream:
        stream.write(page)


def _measures(panel):
    """Return (labels, values or None) of a panel's rows."""
    rows = len(panel.strips)
    if rows == 0:
        raise ValueError(f"panel {panel.name}: it has no rows")
    labels, values = _checked_labels("row", rows, panel.row_labels, panel.row_values)
    labels = [str(row) for row in range(rows)] if panel.row_labels is None else labels
    return labels, values


def _sample_names(panels, columns):
    """The columns' labels, of the first panel that has some."""
    for panel in panels:
        if panel.column_labels is not None:
            return _checked_labels("column", columns, panel.column_labels, None)[0]
    return [f"sample {number + 1}" for number in range(columns)]


def _checked_positions(positions, steps):
    positions = np.asarray(positions, float)
    if positions.shape != (steps,) or not np.isfinite(positions).all():
        raise ValueError(f"positions of shape {positions.shape}: expected {steps} finite numbers, one a step")
    return positions.tolist()


class _Budget:
    """Raises PageTooLargeError as soon as it is certain, with what the rest would add by the rows so far."""

    def __init__(self, path, max_mb, rows):
        self.path, self.max_mb, self.rows = path, max_mb, rows
        self.size, self.done = 0, 0

    def add_row(self, size):
        self.size, self.done = self.size + size, self.done + 1
        self.check(self.size, self.rows / self.done)

    def check(self, size, times=1):
        if size > self.max_mb * 1e6:
            raise PageTooLargeError(self.path, size * times / 1e6, self.max_mb)


class _SheetLayout:
    """How the frames of one strip stand in sprite sheets: side by side.

    The codec works in blocks of 16 pixels and smooths where they meet. So a cell has whole blocks; and every other one
    is mirrored, so that successive frames meet at nearly equal edges and do not show in each other.
    A sheet is at most `_SHEET_SIDE` pixels wide (WebP itself ends at 16383), unless a single frame is larger.
    """

    def __init__(self, steps, height, width):
        self.scale = -(-_LEAST_SIDE // max(height, width))
        self.height, self.width = height * self.scale, width * self.scale
        self.cell = [-(-side // 16) * 16 for side in (self.height, self.width)]
        if max(self.cell) > 16383:
            raise ValueError(f"images of {width}x{height} pixels: a page holds at most 16368x16368")
        sheets = -(-steps // max(_SHEET_SIDE // self.cell[1], 1))
        self.in_sheet = -(-steps // sheets)
        self.facts = {"width": self.width, "height": self.height, "cellWidth": self.cell[1], "inSheet": self.in_sheet}

    def encode(self, strip, quality):
        """uint8 [steps, H, W, C] -> a list of sheets, WebP in Base64."""
        return [
            self._encode_sheet(strip[begin : begin + self.in_sheet], quality)
            for begin in range(0, len(strip), self.in_sheet)
        ]

    def _encode_sheet(self, frames, quality):
        height, width = self.cell
        sheet = np.empty((height, len(frames) * width, 3), np.uint8)
        padding = ((0, height - self.height), (0, width - self.width), (0, 0))
        for number, frame in enumerate(frames):
            cell = np.pad(_enlarge(frame, self.scale), padding, "edge")
            sheet[:, number * width : (number + 1) * width] = cell[:, :: -1 if number % 2 else 1]
        stream = io.BytesIO()
        Image.fromarray(sheet).save(stream, format="WEBP", quality=quality, method=6)
        return base64.b64encode(stream.getvalue()).decode("ascii")


def _fill_page(title, data):
    """The whole page, bytes. Its policy lets run nothing but its own script: no request, nobody else's code."""
    parts = {
        "TITLE": html.escape(str(title)),
        "STYLE": _STYLE,
        "SCRIPT": _SCRIPT,
        "STYLE_HASH": _csp_hash(_STYLE),
        "SCRIPT_HASH": _csp_hash(_SCRIPT),
        "DATA": json.dumps(data, ensure_ascii=False).replace("<", "\\u003c"),  # so no </script> ends it early
    }
    return re.sub(r"\{\{([A-Z_]+)\}\}", lambda match: parts[match.group(1)], _PAGE).encode("utf-8", "replace")


def _csp_hash(text):
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


_LEAST_SIDE = 128  # pixels that an image's larger side has in a page, at least
_SHEET_SIDE = 4096  # pixels; what every browser decodes, and quickly enough not to be noticed

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data: blob:; base-uri 'none';
  form-action 'none'; style-src '{{STYLE_HASH}}'; script-src '{{SCRIPT_HASH}}'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{{TITLE}}</title>
<style>{{STYLE}}</style>
</head>
<body>
<header>
  <div>
    <h1>{{TITLE}}</h1>
    <p id="summary"></p>
  </div>
  <button type="button" id="theme">Dark</button>
</header>
<div id="toolbar" role="group" aria-label="All rows">
  <fieldset id="samples"><legend>Sample</legend></fieldset>
  <div id="actions">
    <button type="button" id="play-all"><i class="icon"></i><span>Play all</span></button>
    <button type="button" id="reset">Reset</button>
    <label id="sorting"><span>Sort</span> <select id="sort" aria-label="Sort"></select></label>
  </div>
</div>
<main>
  <noscript><p>This page needs JavaScript to move its pictures.</p></noscript>
  <ol id="rows" role="list" aria-label="Rows"></ol>
</main>
<footer>
  <span><kbd>←</kbd> <kbd>→</kbd> one step</span>
  <span><kbd>Home</kbd> <kbd>End</kbd> the ends</span>
  <span><kbd>↑</kbd> <kbd>↓</kbd> another row</span>
  <span><kbd>Space</kbd> play, pause</span>
  <span>or drag across a picture</span>
</footer>
<p id="status" role="status" class="unseen"></p>
<script type="application/json" id="data">{{DATA}}</script>
<script>{{SCRIPT}}</script>
</body>
</html>
"""

_STYLE = """
:root {
  color-scheme: light dark;
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  font-variant-numeric: tabular-nums;
  scroll-padding: 8rem 0 2rem;
}
:root[data-theme="light"] {
  color-scheme: light; --page: #fdfdfc; --ink: #1f2328; --soft: #5c646e;
  --rule: #e1e4e8; --track: #d9dde2; --accent: #2c6fa6; --shade: #f1f3f5;
}
:root[data-theme="dark"] {
  color-scheme: dark; --page: #15171a; --ink: #e4e5e2; --soft: #a0a6ad;
  --rule: #30353b; --track: #3a4047; --accent: #7db5e0; --shade: #1e2125;
}
@media (forced-colors: active) {
  :root[data-theme] { --page: Canvas; --ink: CanvasText; --track: CanvasText; --accent: Highlight; --shade: Canvas; }
  .icon, .bar, .bar i, #samples :checked + *, input[type="range"] { forced-color-adjust: none; }
  :root .bar { background: Canvas; }
}
* { box-sizing: border-box; margin: 0; }
html { background: var(--page); }
body { color: var(--ink); padding: 0 clamp(16px, 3vw, 48px) 32px; max-width: 1720px; margin: auto; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 3px; border-radius: 4px; }

header { display: flex; justify-content: space-between; align-items: start; gap: 16px; padding: 28px 0 16px; }
h1 { font-size: clamp(1.3rem, 1rem + 1.4vw, 1.9rem); font-weight: 600; letter-spacing: -0.015em; line-height: 1.2; }
h1, .label { overflow-wrap: anywhere; }
#summary { color: var(--soft); margin-top: 4px; }
button, select {
  font: inherit; color: inherit; background: none; border: 1px solid var(--rule); border-radius: 6px;
  min-height: 36px; padding: 0 12px; cursor: pointer; white-space: nowrap;
}
select { background: var(--page); padding: 0 6px; max-width: 60vw; }
button:hover, select:hover { border-color: var(--soft); }
.icon { display: inline-block; width: 10px; height: 12px; background: currentColor; }
.icon { clip-path: polygon(0 0, 100% 50%, 0 100%); }
[data-playing] .icon {
  clip-path: polygon(0 0, 35% 0, 35% 100%, 0 100%, 0 0, 65% 0, 100% 0, 100% 100%, 65% 100%, 65% 0);
}

#toolbar {
  position: sticky; top: 0; z-index: 1; background: var(--page); border-block: 1px solid var(--rule); padding: 10px 0;
  display: flex; flex-wrap: wrap; justify-content: space-between; align-items: center; gap: 10px 24px;
}
#samples { border: 0; padding: 4px; margin: -4px; display: flex; gap: 6px; min-width: 0; overflow-x: auto; }
#samples legend { float: left; align-self: center; color: var(--soft); padding: 0 6px 0 0; }
#samples label { flex: none; position: relative; cursor: pointer; }
#samples canvas, #samples .all { width: 44px; height: 44px; border-radius: 5px; background: var(--shade); }
#samples canvas { display: block; object-fit: cover; }
#samples .all { display: grid; place-items: center; }
#samples :checked + * { box-shadow: 0 0 0 2px var(--page), 0 0 0 4px var(--ink); }
#samples :focus-visible + * { box-shadow: 0 0 0 2px var(--page), 0 0 0 5px var(--accent); }
#actions { display: flex; flex-wrap: wrap; gap: 8px; align-items: center; }
#play-all .icon { margin-right: 8px; }
#sorting { color: var(--soft); }
#sorting select { color: var(--ink); }

#rows {
  list-style: none; padding: 0; margin: 24px 0; display: grid; gap: 32px 28px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, calc(180px * var(--panels) + 20px)), 1fr));
}
.row { display: grid; gap: 4px 12px; align-content: start; grid-auto-flow: dense; }
.row { grid-template-columns: repeat(var(--panels), minmax(0, 1fr)); }
.panel { display: contents; }
.panel > * { grid-column: var(--column); }
.name { grid-row: 1; color: var(--soft); font-size: 0.86em; }
.name { white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.pictures { grid-row: 2; display: grid; gap: 4px; touch-action: pan-y; cursor: ew-resize; }
.pictures canvas { display: block; width: 100%; height: auto; border-radius: 4px; background: var(--shade); }
.measure { grid-row: 3; display: flex; flex-wrap: wrap; gap: 0 8px; align-content: start; }
.label { font-weight: 600; font-size: min(1em, 100vw / var(--panels) / 7); }
.value { color: var(--soft); margin-left: auto; }
.bar { flex: 0 0 100%; height: 4px; border-radius: 2px; background: var(--track); overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--accent); width: var(--share); }
.control { grid-row: 4; grid-column: 1 / -1; display: flex; align-items: center; align-self: start; gap: 8px; }
.control button { flex: none; width: 30px; min-height: 30px; padding: 0; }
.control button { border-color: transparent; border-radius: 50%; }
.control button:hover { border-color: var(--rule); }
.position { flex: none; min-width: 2.8em; text-align: right; }

input[type="range"] {
  appearance: none; flex: 1; min-width: 0; height: 30px; cursor: pointer;
  background: linear-gradient(var(--track), var(--track)) var(--centre) 50% / 1px 11px no-repeat;
}
input[type="range"]::-webkit-slider-runnable-track { height: 3px; border-radius: 2px; background: var(--fill); }
input[type="range"]::-moz-range-track { height: 3px; border-radius: 2px; background: var(--fill); }
input[type="range"]::-webkit-slider-thumb {
  appearance: none; width: 16px; height: 16px; margin-top: -6.5px; border-radius: 50%;
  background: var(--accent); border: 2px solid var(--page); box-shadow: 0 0 0 1px var(--accent);
}
input[type="range"]::-moz-range-thumb {
  width: 12px; height: 12px; border-radius: 50%;
  background: var(--accent); border: 2px solid var(--page); box-shadow: 0 0 0 1px var(--accent);
}

.all-samples #rows { grid-template-columns: minmax(0, 1fr); gap: 20px; }
.all-samples .row { grid-template-columns: 200px minmax(0, 1fr); grid-auto-rows: auto 1fr; gap: 4px 24px; }
.all-samples .panel > * { grid-column: 1; grid-row: auto; }
.all-samples .panel .pictures { grid-column: 2; grid-row: span 2; }
.all-samples .pictures { grid-template-columns: repeat(var(--samples), minmax(0, 1fr)); }
.all-samples .control { grid-column: 1; grid-row: auto; }

footer { display: flex; flex-wrap: wrap; gap: 6px 20px; color: var(--soft); font-size: 0.9em; }
footer { padding-top: 14px; border-top: 1px solid var(--rule); }
kbd { font: inherit; font-size: 0.9em; color: var(--ink); }
kbd { padding: 1px 5px; border: 1px solid var(--rule); border-radius: 4px; }
@media print {
  #toolbar, #theme, footer, .control button { display: none; }
  .row { break-inside: avoid; }
}
@media (hover: none) { footer span:not(:last-child) { display: none; } }
@media (max-width: 640px) {
  .alone:not(.all-samples) .row { grid-template: auto 1fr / 42% minmax(0, 1fr); gap: 8px 16px; }
  .alone:not(.all-samples) .pictures { grid-row: 1 / 3; grid-column: 1; }
  .alone:not(.all-samples) :is(.measure, .control) { grid-column: 2; grid-row: auto; }
  .alone:not(.all-samples) .control { flex-wrap: wrap; justify-content: space-between; }
  .alone:not(.all-samples) .control input { order: -1; flex-basis: 100%; }
  .all-samples .row { grid-template-columns: minmax(0, 1fr); grid-auto-rows: auto; }
  .all-samples .panel .pictures { grid-column: 1; grid-row: auto; }
  .all-samples .pictures { grid-template-columns: repeat(min(var(--samples), 4), minmax(0, 1fr)); }
  #rows { gap: 24px; margin: 20px 0; }
  header { padding: 16px 0 12px; }
  #toolbar { gap: 8px; }
  #samples legend, #sorting span { display: none; }
}
"""

_SCRIPT = """
"use strict";

const { panels, steps, positions, fps, samples } = JSON.parse(document.getElementById("data").textContent);
const ALL = samples.length; // the picker's last choice
const CENTRE = middleStep();
const SHEET_PIXELS = 40e6; // decoded and kept: 160 MB
const find = (id) => document.getElementById(id);
let sample = 0;

function middleStep() {
  if (!positions) return Math.floor((steps - 1) / 2);
  const distances = positions.map(Math.abs);
  return distances.indexOf(Math.min(...distances));
}

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function positionText(step) {
  if (!positions) return `${step + 1} / ${steps}`;
  const spacing = (Math.max(...positions) - Math.min(...positions)) / (steps - 1) || 1;
  const text = Math.abs(positions[step]).toFixed(Math.min(Math.max(Math.ceil(-Math.log10(spacing)), 0), 4));
  return (Number(text) === 0 ? "" : positions[step] < 0 ? "\\u2212" : "+") + text;
}

// ---------------------------------------------------------------------------------------------------------------------
// Frames: a strip's sheets are decoded when they are to be seen, and in advance when there is nothing else to do

const decoded = new Map(); // "panel/row/sample" -> { sheets, pixels }, the least recently seen first
const decoding = new Map(); // the same -> Promise
const isFull = () => [...decoded.values()].reduce((sum, strip) => sum + strip.pixels, 0) > SHEET_PIXELS;

function sheetsOf(panel, row, column) {
  const key = `${panel}/${row}/${column}`;
  const strip = decoded.get(key);
  if (!strip) return null;
  decoded.delete(key);
  decoded.set(key, strip);
  return strip.sheets;
}

function bytesOf(base64) {
  const letters = atob(base64);
  const bytes = new Uint8Array(letters.length);
  for (let at = 0; at < letters.length; at++) bytes[at] = letters.charCodeAt(at);
  return bytes;
}

function decode(panel, row, column) {
  const key = `${panel}/${row}/${column}`;
  if (decoded.has(key)) return Promise.resolve();
  if (!decoding.has(key)) {
    const image = (text) => createImageBitmap(new Blob([bytesOf(text)], { type: "image/webp" }));
    const done = Promise.all(panels[panel].sheets[row][column].map(image)).then((sheets) => {
      decoding.delete(key);
      decoded.set(key, { sheets, pixels: sheets.reduce((sum, sheet) => sum + sheet.width * sheet.height, 0) });
      setTimeout(forget); // not before those who wait for it have painted it
    });
    decoding.set(key, done);
  }
  return decoding.get(key);
}

function forget() {
  for (const key of isFull() ? [...decoded.keys()] : []) {
    const [, row, column] = key.split("/").map(Number);
    if (wanted(rows[row], column)) continue;
    decoded.get(key).sheets.forEach((sheet) => sheet.close());
    decoded.delete(key);
    if (!isFull()) return;
  }
}

function* strips() {
  for (let column = 0; column < samples.length; column++) {
    for (const row of rows) for (const panel of row.panels) yield [panel.number, row.number, column];
  }
}

async function decodeAhead(waiting = strips()) {
  const { value, done } = waiting.next();
  if (done || isFull()) return;
  await decode(...value);
  (window.requestIdleCallback || setTimeout)(() => decodeAhead(waiting));
}

function paint(context, panel, sheets, step) {
  const { width, height, cellWidth, inSheet } = panels[panel];
  const at = step % inSheet;
  const mirrored = at % 2;
  const x = mirrored ? (at + 1) * cellWidth - width : at * cellWidth;
  context.setTransform(mirrored ? -1 : 1, 0, 0, 1, mirrored * width, 0);
  context.drawImage(sheets[Math.floor(step / inSheet)], x, 0, width, height, 0, 0, width, height);
}

// ---------------------------------------------------------------------------------------------------------------------
// Rows: for each a slider, and the pictures and the measure of every panel

const longest = panels.reduce((one, other) => (other.labels.length > one.labels.length ? other : one));
const rows = longest.labels.map((_, number) => makeRow(number));

function makeRow(number) {
  const there = panels.flatMap((panel, index) => (number < panel.labels.length ? [index] : []));
  const row = { number, step: CENTRE, direction: 1, playing: false, turns: 0, seen: false };
  row.name = [...new Set(there.map((index) => panels[index].labels[number]))].join(" / ");
  row.panels = there.map((index) => makePanel(row, index));
  row.slider = element("input", { type: "range", min: 0, max: steps - 1, step: 1, "aria-label": row.name });
  row.output = element("span", { class: "position", "aria-hidden": true }); // the slider says it
  row.play = element("button", { type: "button" }, element("i", { class: "icon" }));
  row.control = element("div", { class: "control" }, row.play, row.slider, row.output);
  row.item = element("li", { class: "row" }, ...row.panels.map((panel) => panel.box), row.control);
  row.slider.addEventListener("input", () => move(row, Number(row.slider.value)));
  row.slider.addEventListener("keydown", (event) => slideByKey(row, event));
  row.play.addEventListener("click", () => play(row, !row.playing));
  for (const panel of row.panels) panel.pictures.addEventListener("pointerdown", (event) => drag(row, event));
  return row;
}

function makePanel(row, number) {
  const { name, labels, values, valueTexts, valueName } = panels[number];
  const pictures = element("div", { class: "pictures" });
  const measure = element("div", { class: "measure" }, element("span", { class: "label" }, labels[row.number]));
  if (values) {
    const bar = element("div", { class: "bar" }, element("i"));
    const largest = Math.max(...panels.flatMap((panel) => (panel.valueName === valueName && panel.values) || []));
    bar.style.setProperty("--share", `${(100 * values[row.number]) / (largest || 1)}%`);
    const unseen = element("span", { class: "unseen" }, `${valueName} `);
    measure.append(element("span", { class: "value", title: valueName }, unseen, valueTexts[row.number]), bar);
  }
  const box = element("div", { class: "panel" }, pictures, measure);
  if (panels.length > 1) box.prepend(element("p", { class: "name", title: name }, name));
  box.style.setProperty("--column", number + 1);
  return { number, box, pictures, contexts: [] };
}

function layOut(row) {
  const columns = sample === ALL ? [...samples.keys()] : [sample];
  for (const panel of row.panels) {
    const { width, height, labels } = panels[panel.number];
    panel.columns = columns;
    if (panel.contexts.length !== panel.columns.length) {
      const canvases = panel.columns.map(() => element("canvas", { role: "img", width, height }));
      panel.pictures.replaceChildren(...canvases);
      panel.contexts = canvases.map((canvas) => canvas.getContext("2d", { alpha: false }));
    }
    panel.columns.forEach((column, index) => {
      const named = panels.length > 1 ? `${panels[panel.number].name}, ` : "";
      const { canvas } = panel.contexts[index];
      canvas.setAttribute("aria-label", `${named}${labels[row.number]}, ${samples[column]}`);
      canvas.title = samples[column];
    });
  }
  show(row);
}

function show(row) {
  const [at, centre] = [row.step, CENTRE].map((step) => (100 * step) / (steps - 1));
  const [from, to] = [Math.min(at, centre), Math.max(at, centre)];
  const fill = `linear-gradient(90deg, var(--track) ${from}%, var(--accent) ${from}% ${to}%, var(--track) ${to}%)`;
  row.slider.style.setProperty("--fill", fill);
  row.slider.value = row.step;
  row.slider.setAttribute("aria-valuetext", `${row.name}: ${positionText(row.step)}`);
  row.output.textContent = positionText(row.step);
  if (row.seen) draw(row);
}

function draw(row) {
  for (const { number, columns, contexts } of row.panels) {
    columns.forEach((column, index) => drawPicture(row, number, column, contexts[index]));
  }
}

function drawPicture(row, panel, column, context) {
  const sheets = sheetsOf(panel, row.number, column);
  if (sheets) paint(context, panel, sheets, row.step);
  else decode(panel, row.number, column).then(() => wanted(row, column) && drawPicture(row, panel, column, context));
}

const wanted = (row, column) => row.seen && (sample === ALL || sample === column);

function move(row, step) {
  row.step = step;
  play(row, false);
  show(row);
}

// ---------------------------------------------------------------------------------------------------------------------
// Playing: there and back

let clock = null; // the time up to which steps were made; null: nothing plays

function play(row, on, turns = Infinity) {
  row.playing = on;
  row.turns = turns;
  row.play.toggleAttribute("data-playing", on);
  row.play.setAttribute("aria-label", `${on ? "Pause" : "Play"} ${row.name}`);
  const any = rows.some((each) => each.playing);
  find("play-all").toggleAttribute("data-playing", any);
  find("play-all").lastChild.textContent = any ? "Pause all" : "Play all";
  if (any && clock === null) {
    clock = performance.now();
    requestAnimationFrame(tick);
  }
  if (!any) remember();
}

function playAll(on, turns) {
  for (const row of rows) play(row, on, turns);
}

function tick(now) {
  const due = Math.max(Math.floor(((now - clock) * fps) / 1000), 0);
  clock += (due * 1000) / fps;
  for (const row of rows.filter((each) => due && each.playing)) {
    for (let turn = 0; turn < Math.min(due, 3, row.turns); turn++) advance(row);
    row.turns -= Math.min(due, 3, row.turns);
    show(row);
    if (row.turns === 0) play(row, false);
  }
  if (rows.some((row) => row.playing)) requestAnimationFrame(tick);
  else clock = null;
}

function advance(row) {
  if (row.step + row.direction < 0 || row.step + row.direction >= steps) row.direction *= -1;
  row.step += row.direction;
}

// ---------------------------------------------------------------------------------------------------------------------
// Keys and fingers

function slideByKey(row, event) {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const beside = { ArrowUp: row.item.previousElementSibling, ArrowDown: row.item.nextElementSibling };
  if (event.key === " ") event.repeat || play(row, !row.playing);
  else if (!(event.key in beside)) return;
  else if (beside[event.key]) {
    beside[event.key].querySelector("input").focus({ preventScroll: true });
    beside[event.key].scrollIntoView({ block: "nearest" });
  }
  event.preventDefault();
}

function drag(row, press) {
  if (press.button !== 0) return;
  const { left, width } = press.target.getBoundingClientRect();
  const follow = (event) => {
    const share = Math.min(Math.max((event.clientX - left) / width, 0), 1);
    move(row, Math.round(share * (steps - 1)));
  };
  const target = press.currentTarget;
  target.setPointerCapture(press.pointerId);
  target.addEventListener("pointermove", follow);
  for (const end of ["pointerup", "pointercancel"]) {
    target.addEventListener(end, () => target.removeEventListener("pointermove", follow), { once: true });
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// All rows: which sample, which order, light or dark; and the address, which holds the view

function pick(choice) {
  sample = choice;
  document.body.classList.toggle("all-samples", sample === ALL);
  find("samples").querySelectorAll("input")[choice].checked = true;
  rows.forEach(layOut);
  find("status").textContent = sample === ALL ? "all samples" : samples[sample];
  remember();
}

function makePicker() {
  const choice = (number, name, picture) => {
    const radio = element("input", { type: "radio", name: "sample", class: "unseen", "aria-label": name });
    radio.addEventListener("change", () => pick(number));
    find("samples").append(element("label", { title: name }, radio, picture));
  };
  const { width, height } = panels[0];
  samples.forEach((name, number) => choice(number, name, element("canvas", { width, height })));
  if (samples.length > 1) choice(ALL, "all samples", element("span", { class: "all" }, "all"));
}

async function paintPicker() {
  for (const [number, canvas] of find("samples").querySelectorAll("canvas").entries()) {
    await decode(0, 0, number);
    paint(canvas.getContext("2d"), 0, sheetsOf(0, 0, number), CENTRE);
  }
}

function orders() {
  const { labels, values, valueName } = panels[0];
  const valueOf = (row) => values[row.number] ?? -1;
  const nameOf = (row) => labels[row.number] ?? row.name;
  const byValue = (a, b) => valueOf(b) - valueOf(a) || a.number - b.number;
  const byName = (a, b) => nameOf(a).localeCompare(nameOf(b), undefined, { numeric: true }) || a.number - b.number;
  const found = { ...(values && { value: [valueName, byValue] }), name: ["name", byName] };
  const first = Object.keys(found).find((key) => [...rows].sort(found[key][1]).every((row, at) => row === rows[at]));
  return first ? [found, first] : [{ given: ["as given", (a, b) => a.number - b.number], ...found }, "given"];
}

const [ORDERS, FIRST_ORDER] = orders(); // { key: [what it is called, compare] }, and the key of the order that came

function sort(key) {
  find("sort").value = key;
  find("rows").append(...[...rows].sort(ORDERS[key][1]).map((row) => row.item));
  remember();
}

function reset() {
  for (const row of rows) {
    row.direction = 1;
    move(row, CENTRE);
  }
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  const other = theme === "dark" ? "Light" : "Dark";
  find("theme").textContent = other;
  find("theme").setAttribute("aria-label", `${other} theme`);
}

const viewOf = (chosen, order, at) => `#sample=${chosen}&sort=${order}&steps=${at.join(".")}`;
const FIRST_VIEW = viewOf(1, FIRST_ORDER, rows.map(() => CENTRE));
let remembering = null;

function remember() {
  clearTimeout(remembering);
  remembering = setTimeout(() => {
    const at = rows.map((row) => (row.playing ? CENTRE : row.step));
    const view = viewOf(sample === ALL ? "all" : sample + 1, find("sort").value, at);
    history.replaceState(null, "", view === FIRST_VIEW ? location.pathname + location.search : view);
  }, 200);
}

function restore() {
  const view = new URLSearchParams((location.hash || FIRST_VIEW).slice(1));
  const within = (number, end) => Number.isInteger(number) && number >= 0 && number < end;
  const at = (view.get("steps") || "").split(".").map((text) => parseInt(text, 10));
  for (const row of rows) row.step = within(at[row.number], steps) ? at[row.number] : CENTRE;
  const chosen = view.get("sample") === "all" ? ALL : Number(view.get("sample")) - 1;
  sort(Object.keys(ORDERS).includes(view.get("sort")) ? view.get("sort") : FIRST_ORDER);
  pick(within(chosen, find("samples").querySelectorAll("input").length) ? chosen : 0);
}

// ---------------------------------------------------------------------------------------------------------------------
// Opening the page

function describe() {
  const count = (number, what) => `${number} ${what}${number === 1 ? "" : "s"}`;
  const words = [count(rows.length, "row"), count(samples.length, "sample")];
  words.push(positions ? `${positionText(0)} to ${positionText(steps - 1)}` : count(steps, "step"));
  const measured = [...new Set(panels.filter((panel) => panel.values).map((panel) => panel.valueName))];
  if (measured.length) words.push(`bars: ${measured.join(", ")}`);
  if (panels.length > 1) words.unshift(panels.map((panel) => panel.name).join(" beside "));
  find("summary").textContent = words.join(" \u00b7 ");
}

function listen() {
  find("sort").addEventListener("change", () => sort(find("sort").value));
  find("play-all").addEventListener("click", () => playAll(!rows.some((row) => row.playing)));
  find("reset").addEventListener("click", reset);
  find("theme").addEventListener("click", () => setTheme(find("theme").textContent.toLowerCase()));
  document.addEventListener("keydown", (event) => {
    if (event.key !== " " || event.target !== document.body) return;
    event.preventDefault();
    find("play-all").click();
  });
  addEventListener("hashchange", restore);
  addEventListener("beforeprint", () => rows.forEach(draw)); // those out of sight too
}

function open() {
  const { style } = document.documentElement;
  style.setProperty("--panels", panels.length);
  style.setProperty("--samples", samples.length);
  style.setProperty("--centre", `${(100 * CENTRE) / (steps - 1)}%`);
  document.body.classList.toggle("alone", panels.length === 1);
  setTheme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  for (const [key, [name]] of Object.entries(ORDERS)) find("sort").append(element("option", { value: key }, name));
  describe();
  listen();
  playAll(false);
  makePicker();
  restore();
}

async function begin(seen) {
  const pictures = seen.flatMap((row) => row.panels.flatMap((panel) => panel.columns.map((c) => [panel, row, c])));
  await Promise.all(pictures.map(([panel, row, column]) => decode(panel.number, row.number, column)));
  document.documentElement.dataset.ready = "";
  performance.mark("ready");
  paintPicker().then(() => decodeAhead());
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (!still && !linked) playAll(true, 2 * (steps - 1)); // once, from the centre and back to it
}

const linked = location.hash !== ""; // before remember() shortens the address
open();
const watcher = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      const row = rows.find((each) => each.item === entry.target);
      row.seen = entry.isIntersecting;
      if (row.seen) draw(row);
    }
    if (!("ready" in document.documentElement.dataset)) begin(rows.filter((row) => row.seen));
  },
  { rootMargin: "200px" },
);
for (const row of rows) watcher.observe(row.item);
"""

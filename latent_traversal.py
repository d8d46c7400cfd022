"""Latent traversals: what each latent component, or direction, does to a generator's images.

Self-contained: NumPy arrays in, files out. Copy this file into your project; it needs NumPy, Pillow and imageio-ffmpeg.

    strips = traversal_strips(G, z)                                  # G: latents [N, nz] -> images [N, H, W, C]
    frames = grid_frames(strips, row_labels=["z0", "z1", ...])       # one row a component, one column a sample
    save_gif("traversal.gif", frames, fps=30)                        # plays there and back, for ever
    save_mp4("traversal.mp4", frames, fps=30)

Three kinds of arrays pass between the functions:

    images   [N, H, W, C]                       uint8, or floating point in [-1, 1]; C is 1 or 3
    strips   [rows, columns, steps, H, W, C]    uint8; `steps` goes once from one end of the sweep to the other
    frames   [steps, height, width, 3]          uint8; the whole grid with its labels, one picture a step

Wrong arguments raise ValueError with one line that names the value. Files appear under their name only when complete.
"""

import contextlib
import errno
import math
import os
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
    for name, given in (("labels", labels), ("values", values)):
        if given is not None and len(given) != count:
            raise ValueError(f"{len(given)} {what}_{name} for {count} {what}s")
    if labels is None and values is None:
        return []
    labels = [""] * count if labels is None else [str(label) for label in labels]
    if values is None:
        return [pen.text(label) for label in labels]
    values = np.asarray(values, float)
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise ValueError(f"{what}_values={values.tolist()}: must be finite and not negative")
    largest = values.max() or 1.0
    decimals = min(max(2 - math.floor(math.log10(largest)), 0), 6)
    numbers = [pen.text(f"{value:.{decimals}f}") for value in values]
    labels = [pen.text(label) for label in labels]
    label_width = max(label.shape[1] for label in labels)
    width = label_width + pen.gap + max(number.shape[1] for number in numbers)
    return [
        _labelled_bar(pen, label, number, share, width)
        for label, number, share in zip(labels, numbers, values / largest)
    ]


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

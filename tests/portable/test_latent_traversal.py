"""latent_traversal.py against brute-force loops, Pillow's own reader and ffmpeg's decoder."""

import base64
import errno
import hashlib
import html.parser
import io
import json
import os
import re
import struct

import imageio_ffmpeg
import numpy as np
import pytest
from explorer_pages import codec_error, sheet_frames
from PIL import Image, ImageSequence

import latent_traversal
from latent_traversal import (
    ExplorerPanel,
    PageTooLargeError,
    RowsOnDemand,
    activeness,
    grid_frames,
    path_strips,
    save_gif,
    save_html,
    save_mp4,
    save_png,
    save_stills,
    sweep_columns,
    sweep_values,
    there_and_back,
    to_uint8,
    traversal_strips,
)

WEIGHTS = np.random.RandomState(0).randn(5, 4 * 6 * 3)


def toy_generator(latents):
    """float [N, 5] -> float [N, 4, 6, 3], a different smooth function in every pixel."""
    return np.tanh(latents.dot(WEIGHTS)).reshape(-1, 4, 6, 3)


def moving_square(steps, size=96):
    """uint8 [steps, size, size, 3]: a red square that crosses a grey gradient."""
    shades = np.linspace(90, 170, size).astype(np.uint8)
    frames = np.tile(shades[None, :, None, None], (steps, 1, size, 3))
    for step, frame in enumerate(frames):
        x = 4 + step * (size - 28) // max(steps - 1, 1)
        frame[30:50, x : x + 20] = (180, 30, 40)
    return frames


def read_gif(path):
    with Image.open(str(path)) as picture:
        return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(picture)])


def read_mp4(path):
    reader = imageio_ffmpeg.read_frames(str(path))
    meta = next(reader)
    width, height = meta["size"]
    return np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]), meta


# ----------------------------------------------------------------------------------------------------------------------
# Strips


def test_strips_equal_a_loop_over_single_latents():
    z = np.random.RandomState(1).randn(3, 5)
    strips = traversal_strips(toy_generator, z, components=[4, 1], extent=1.5, steps=7, minibatch=4)
    assert strips.shape == (2, 3, 7, 4, 6, 3) and strips.dtype == np.uint8
    for row, component in enumerate([4, 1]):
        for column in range(3):
            for step in range(7):
                latent = z[column].astype(np.float32)
                latent[component] = -1.5 + 3.0 * step / 6
                image = toy_generator(latent[None])[0]
                expected = np.floor(np.clip(image * 127.5 + 128, 0, 255))
                # float32 sums differ in their last bit between batch sizes, which may cross a rounding boundary
                assert np.abs(strips[row, column, step] - expected).max() <= 1


def test_strips_sweep_every_component_and_leave_the_callers_latents_alone():
    z = np.random.RandomState(1).randn(2, 5).astype(np.float32)
    before = z.copy()
    seen = []

    def G(latents):
        seen.append(latents.copy())
        return np.zeros((len(latents), 2, 2, 1), np.uint8)

    assert traversal_strips(G, z, steps=4, minibatch=9).shape == (5, 2, 4, 2, 2, 1)
    assert [len(batch) for batch in seen] == [9, 9, 9, 9, 4]
    latents = np.concatenate(seen).reshape(5, 2, 4, 5)
    for row in range(5):
        others = [component for component in range(5) if component != row]
        np.testing.assert_array_equal(latents[row][:, :, others], np.repeat(z[:, None, others], 4, 1))
    np.testing.assert_array_equal(z, before)


def test_paths_may_be_any_curve():
    paths = np.random.RandomState(2).randn(2, 3, 4, 5)
    strips = path_strips(toy_generator, paths, minibatch=5)
    expected = to_uint8(toy_generator(np.float32(paths.reshape(-1, 5))))
    assert np.abs(strips.reshape(expected.shape).astype(int) - expected).max() <= 1


def test_paths_along_directions_as_the_docstring_builds_them():
    Q = np.linalg.qr(np.random.RandomState(0).randn(5, 5))[0][:2]
    z = np.random.RandomState(1).randn(3, 5)
    t = sweep_values(7, 2.5, eased=True)
    distances = t - (Q @ z.T)[:, :, None]
    paths = z[:, None, :] + distances[..., None] * Q[:, None, None, :]
    seen = []
    path_strips(lambda latents: seen.append(latents) or toy_generator(latents), paths)
    latents = np.concatenate(seen).reshape(2, 3, 7, 5)
    for row in range(2):
        np.testing.assert_allclose(latents[row] @ Q[row], np.tile(t, (3, 1)), atol=1e-5)
        rest = np.eye(5) - np.outer(Q[row], Q[row])
        np.testing.assert_allclose(latents[row] @ rest, np.repeat((z @ rest)[:, None], 7, 1), atol=1e-5)


def test_sweep_values_are_even_or_eased():
    np.testing.assert_allclose(sweep_values(5, 2), [-2, -1, 0, 1, 2])
    eased = sweep_values(91, 3, eased=True)
    np.testing.assert_allclose(eased[[0, 15, 45, 90]], [-3, -3 * np.sqrt(0.75), 0, 3], atol=1e-6)
    assert (np.diff(eased) > 0).all()
    assert np.diff(eased)[0] < np.diff(eased)[45] / 20


def test_uint8_rounds_and_saturates():
    values = np.array([-9.0, -1.0, -1 + 1 / 255.1, -1 + 1 / 254.9, 0.0, 1.0, 9.0])
    np.testing.assert_array_equal(to_uint8(values.reshape(1, 7, 1)).ravel(), [0, 0, 0, 1, 128, 255, 255])
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    np.testing.assert_array_equal(to_uint8(ramp / np.float32(127.5) - 1), ramp)
    assert to_uint8(ramp) is ramp


def test_there_and_back_closes_without_a_jump():
    assert there_and_back("abcd") == list("abcdcb")
    assert there_and_back("abcde", start=2) == list("cdedcbab")
    assert there_and_back("ab") == ["a", "b"]
    assert there_and_back("a") == ["a"]
    frames = moving_square(3)
    assert all(np.shares_memory(frame, frames) for frame in there_and_back(frames))


def test_sweep_columns_show_one_sample_from_end_to_end():
    strips = np.random.RandomState(0).randint(0, 256, (2, 3, 9, 4, 4, 3)).astype(np.uint8)
    sheet = sweep_columns(strips, sample=1, n=3)
    assert sheet.shape == (2, 3, 1, 4, 4, 3)
    np.testing.assert_array_equal(sheet[:, :, 0], strips[:, 1, [0, 4, 8]])
    assert sweep_columns(strips, n=50).shape[1] == 9


# ----------------------------------------------------------------------------------------------------------------------
# Grids


def random_strips(rows=2, columns=3, steps=2, size=64, channels=3):
    return np.random.RandomState(3).randint(0, 255, (rows, columns, steps, size, size, channels)).astype(np.uint8)


def cell_corners(frame, image):
    """(y, x) of every place in `frame` where `image` stands exactly."""
    height, width = image.shape[:2]
    candidates = np.argwhere((frame == image[0, 0]).all(-1))
    return [
        (y, x)
        for y, x in candidates
        if np.array_equal(frame[y : y + height, x : x + width], np.broadcast_to(image, (height, width, 3)))
    ]


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("transpose", [False, True])
def test_every_image_stands_once_in_a_regular_grid(labels, transpose):
    strips = random_strips()
    keywords = (
        {"row_labels": ["z7", "z0"], "row_values": [0.2, 0.1], "column_labels": ["a", "b", "c"]} if labels else {}
    )
    frames = grid_frames(strips, pad_x=5, pad_y=11, transpose=transpose, **keywords)
    assert frames.dtype == np.uint8 and len(frames) == 2
    for step in range(2):
        corners = np.array([[cell_corners(frames[step], strips[i, j, step]) for j in range(3)] for i in range(2)])
        assert corners.shape == (2, 3, 1, 2)
        y, x = corners[:, :, 0, 0], corners[:, :, 0, 1]
        if transpose:
            y, x = y.T, x.T
        assert (y == y[:, :1]).all() and (x == x[:1]).all()
        assert set(np.diff(y[:, 0])) == {64 + 11}
        assert labels or set(np.diff(x[0])) == {64 + 5}
        background = np.ones(frames.shape[1:3], bool)
        for top, left in zip(y.ravel(), x.ravel()):
            background[top : top + 64, left : left + 64] = False
        assert labels or (frames[step][background] == 255).all()


def test_transposing_the_grid_is_transposing_the_strips():
    strips = random_strips()
    np.testing.assert_array_equal(grid_frames(strips, transpose=True), grid_frames(strips.swapaxes(0, 1)))
    labelled = grid_frames(strips, row_labels=["x", "y"], transpose=True)
    np.testing.assert_array_equal(labelled, grid_frames(strips.swapaxes(0, 1), column_labels=["x", "y"]))


def test_one_channel_floats_and_scale():
    strips = np.linspace(-1, 1, 2 * 16 * 16).reshape(1, 2, 1, 16, 16, 1)
    frames = grid_frames(strips, pad_x=4, pad_y=4)
    assert frames.shape == (1, 8 + 64 + 8, 8 + 64 + 4 + 64 + 8, 3)
    assert (frames[..., 0] == frames[..., 1]).all() and (frames[..., 0] == frames[..., 2]).all()
    cell = frames[0, 8:72, 8:72, 0].reshape(16, 4, 16, 4).mean((1, 3))
    np.testing.assert_allclose(cell, to_uint8(strips)[0, 0, 0, :, :, 0], atol=2)
    edge = np.repeat(np.uint8([[[0], [200]]]), 8, 1).repeat(16, 0)[None, None, None]
    steps = np.diff(grid_frames(edge)[0, 40, 8:72, 0].astype(int))
    assert 0 < steps.max() < 100  # enlarged smoothly, not in blocks
    assert grid_frames(strips, scale=1).shape[1] == 16 + 16
    assert grid_frames(np.zeros((1, 1, 1, 100, 100, 3))).shape[1] == 100 + 16


def test_bars_are_proportional_to_their_values():
    values = [0.4, 0.1, 0.0, 0.2]
    frame = grid_frames(random_strips(rows=4), row_labels=["z%d" % i for i in range(4)], row_values=values)[0]
    label_column = frame[:, : cell_corners(frame, random_strips(rows=4)[0, 0, 0])[0][1] - 1]
    bar = (label_column == latent_traversal._BAR).all(-1)
    track = bar | (label_column == latent_traversal._TRACK).all(-1)
    lengths = [max(bar[y : y + 64].sum(1)) for y in range(8, len(frame) - 64, 68)]
    full = max(track.sum(1))
    assert full > 20
    np.testing.assert_allclose(np.array(lengths) / full, [1, 0.25, 0, 0.5], atol=0.03)


def test_labels_are_drawn_and_differ():
    strips = random_strips(rows=1, columns=1, steps=1)
    pages = [grid_frames(strips, row_labels=[label]) for label in ("z7", "z8", "ε → ∞", "", "two\nlines")]
    assert not np.array_equal(pages[0], pages[1])
    for page in (pages[0], pages[2], pages[4]):
        assert (page[0, :, :20] < 128).any()
    numbers = [grid_frames(strips, row_values=[value]) for value in (0.132, 0.133, 0.1321)]
    assert not np.array_equal(numbers[0], numbers[1])
    np.testing.assert_array_equal(numbers[0], numbers[2])  # three digits are shown


def test_long_labels_never_overlap():
    label = "a direction with a long name"
    strips = random_strips(rows=3, size=64)
    wide = grid_frames(strips, row_labels=[label] * 3, row_values=[1, 2, 3], transpose=True)[0]
    corners = [cell_corners(wide, strips[i, 0, 0])[0] for i in range(3)]
    ink = (wide[: corners[0][0]] < 128).any(-1).any(0)
    gaps = [ink[(a + b + 64) // 2 - 1 : (a + b + 64) // 2 + 1] for (_, a), (_, b) in zip(corners, corners[1:])]
    assert not np.any(gaps)
    low = grid_frames(random_strips(rows=2, size=8), row_labels=["z0", "z1"], row_values=[1, 1], scale=1)[0]
    assert low.shape[0] > 2 * 8 + 4 + 16


# ----------------------------------------------------------------------------------------------------------------------
# Files


def test_gif_reads_back(tmp_path):
    frames = moving_square(12)
    save_gif(tmp_path / "new" / "a.gif", frames, fps=25, loop=False)
    shown = read_gif(tmp_path / "new" / "a.gif")
    assert shown.shape == frames.shape
    error = np.abs(shown.astype(int) - frames)
    assert error.max() <= 3
    np.testing.assert_array_equal(shown[0, 40, 10], [180, 30, 40])
    with Image.open(str(tmp_path / "new" / "a.gif")) as picture:
        assert picture.info["loop"] == 0  # for ever
        assert picture.info["duration"] == 40


def test_gif_of_few_colours_is_exact(tmp_path):
    few = np.array([[255, 255, 255], [173, 35, 35], [87, 87, 87], [42, 75, 215]], np.uint8)
    frames = few[np.random.RandomState(0).randint(0, 4, (6, 20, 30))]
    save_gif(tmp_path / "a.gif", frames, max_colors=5, loop=False)
    np.testing.assert_array_equal(read_gif(tmp_path / "a.gif"), frames)


def test_gif_tolerance_bounds_what_is_left_standing(tmp_path):
    """A picture that brightens by one level a frame is repainted only when it is more than `tolerance` levels off."""
    frames = np.full((9, 8, 8, 3), 100, np.uint8) + np.arange(9, dtype=np.uint8)[:, None, None, None]
    for tolerance, expected in ((0, range(100, 109)), (2, [100, 100, 100, 103, 103, 103, 106, 106, 106])):
        save_gif(tmp_path / "a.gif", frames, loop=False, tolerance=tolerance)
        np.testing.assert_array_equal(read_gif(tmp_path / "a.gif")[:, 3, 4, 0], expected)


def test_gif_plays_there_and_back_and_keeps_still_frames(tmp_path):
    frames = moving_square(5)
    save_gif(tmp_path / "a.gif", frames)
    shown = read_gif(tmp_path / "a.gif")
    assert len(shown) == 8
    assert np.abs(shown.astype(int) - frames[[0, 1, 2, 3, 4, 3, 2, 1]]).max() <= 3
    save_gif(tmp_path / "still.gif", [frames[0]] * 4, loop=False)
    assert len(read_gif(tmp_path / "still.gif")) == 4


@pytest.mark.parametrize("fps", [30, 24, 7.5])
def test_gif_keeps_the_rate_on_average(tmp_path, fps):
    save_gif(tmp_path / "a.gif", moving_square(31), fps=fps, loop=False)
    with Image.open(str(tmp_path / "a.gif")) as picture:
        total = sum(frame.info["duration"] for frame in ImageSequence.Iterator(picture))
    assert abs(total / 1000 - 31 / fps) < 0.011


def test_gif_is_small(tmp_path):
    strips = np.stack([np.stack([moving_square(20, 64)[::sign] for sign in (1, -1, 1)]) for _ in range(3)])
    frames = grid_frames(strips, row_labels=["z0", "z1", "z2"])
    save_gif(tmp_path / "ours.gif", frames, loop=False)
    pictures = [Image.fromarray(frame) for frame in frames]
    pictures[0].save(str(tmp_path / "naive.gif"), save_all=True, append_images=pictures[1:], loop=0)
    ours, naive = (os.path.getsize(str(tmp_path / name)) for name in ("ours.gif", "naive.gif"))
    assert ours < 0.65 * naive
    data = (tmp_path / "ours.gif").read_bytes()
    assert data[10] & 0x80  # one palette for all …
    assert data.count(b"\xff\x0bNETSCAPE2.0") == 1
    local_tables = 0
    position = 13 + 768
    while data[position : position + 1] != b";":  # … and none of a frame's own
        if data[position : position + 1] == b"!":
            position += 2
        else:
            local_tables += data[position + 9] >> 7
            position += 11
        while data[position]:
            position += 1 + data[position]
        position += 1
    assert local_tables == 0


@pytest.mark.parametrize("size", [(64, 48), (63, 47)])
def test_mp4_reads_back(tmp_path, size):
    frames = moving_square(10)[:, : size[1], : size[0]]
    save_mp4(tmp_path / "a.mp4", frames, fps=25, loop=False)
    shown, meta = read_mp4(tmp_path / "a.mp4")
    assert shown.shape == (10, 48, 64, 3)
    assert meta["codec"] == "h264" and meta["pix_fmt"].startswith("yuv420p") and meta["fps"] == 25
    error = np.abs(shown[:, : size[1], : size[0]].astype(int) - frames)
    assert error.mean() < 3
    if size[0] % 2:
        assert shown[:, :40, -1].min() > 200  # the added column is white
    save_mp4(tmp_path / "b.mp4", frames, fps=25)
    assert len(read_mp4(tmp_path / "b.mp4")[0]) == 18


def test_mp4_can_start_playing_at_once(tmp_path):
    save_mp4(tmp_path / "a.mp4", moving_square(4))
    data, order, position = (tmp_path / "a.mp4").read_bytes(), [], 0
    while position < len(data):
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        order.append(kind)
        position += length
    assert order.index(b"moov") < order.index(b"mdat")


def test_stills_are_the_frames(tmp_path):
    frames = moving_square(9)
    paths = save_stills(tmp_path / "still", frames, 3)
    assert paths == [str(tmp_path / name) for name in ("still_00.png", "still_01.png", "still_02.png")]
    for path, step in zip(paths, (0, 4, 8)):
        np.testing.assert_array_equal(np.asarray(Image.open(path)), frames[step])
    assert len(save_stills(tmp_path / "all", frames, 100)) == 9


def failing_getdata(*args, **keywords):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("save", [save_gif, save_mp4, lambda path, frames: save_png(path, frames[0])])
def test_saving_replaces_the_file_at_once(tmp_path, save):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with open(str(path), "rb") as reader:  # whoever is reading the old file keeps it
        save(path, moving_square(4))
        assert reader.read() == b"old"
    assert path.read_bytes() != b"old"


@pytest.mark.parametrize("kind", ["gif", "mp4", "png"])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, kind):
    path = tmp_path / ("a." + kind)
    path.write_bytes(b"old")
    if kind == "gif":
        monkeypatch.setattr(latent_traversal.GifImagePlugin, "getdata", failing_getdata)
    elif kind == "mp4":
        monkeypatch.setattr(latent_traversal.np, "pad", failing_getdata)
    else:
        monkeypatch.setattr(Image.Image, "save", failing_getdata)
    save = {"gif": save_gif, "mp4": save_mp4, "png": lambda path, frames: save_png(path, frames[0])}[kind]
    with pytest.raises(OSError) as caught:
        save(path, moving_square(4))
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a." + kind]


def test_an_encoder_that_fails_is_reported_in_one_line(tmp_path, monkeypatch):
    encoder = tmp_path / "encoder"
    encoder.write_text(
        '#!/bin/sh\ncat > /dev/null\nfor last; do :; done\necho half > "$last"\necho bad luck >&2\nexit 1\n'
    )
    encoder.chmod(0o755)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(encoder))
    with pytest.raises(OSError, match="bad luck") as caught:
        save_mp4(tmp_path / "a.mp4", moving_square(4))
    assert "\n" not in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["encoder"]


# ----------------------------------------------------------------------------------------------------------------------
# Wrong arguments

Z = np.zeros((2, 5))
STRIPS = np.zeros((1, 2, 3, 4, 4, 3), np.uint8)
FRAMES = np.zeros((2, 8, 8, 3), np.uint8)
MISTAKES = {
    "steps=1": lambda path: traversal_strips(toy_generator, Z, steps=1),
    "extent=0": lambda path: traversal_strips(toy_generator, Z, extent=0),
    "extent=nan": lambda path: sweep_values(3, float("nan")),
    "component 5": lambda path: traversal_strips(toy_generator, Z, components=[5]),
    "component -1": lambda path: traversal_strips(toy_generator, Z, components=[-1]),
    "components=[]": lambda path: traversal_strips(toy_generator, Z, components=[]),
    "minibatch=0": lambda path: traversal_strips(toy_generator, Z, minibatch=0),
    "latents of shape (5,)": lambda path: traversal_strips(toy_generator, Z[0]),
    "paths of shape (2, 5)": lambda path: path_strips(toy_generator, Z),
    "(7, 4, 6, 3) for 8 latents": lambda path: traversal_strips(
        lambda z: toy_generator(z)[1:], Z, steps=4, minibatch=8
    ),
    "images of shape (8, 3, 4, 6)": lambda path: path_strips(
        lambda z: toy_generator(z).transpose(0, 3, 1, 2), np.zeros((1, 2, 4, 5))
    ),
    "images of type int64": lambda path: to_uint8(np.zeros((4, 4, 3), np.int64)),
    "not finite": lambda path: to_uint8(np.full((4, 4, 3), np.nan)),
    "strips of shape (2, 3, 4, 4, 3)": lambda path: grid_frames(STRIPS[0]),
    "3 row_labels for 1 rows": lambda path: grid_frames(STRIPS, row_labels=["a", "b", "c"]),
    "1 column_labels for 2 columns": lambda path: grid_frames(STRIPS, column_labels=["a"]),
    "row_values=[-1.0]": lambda path: grid_frames(STRIPS, row_values=[-1]),
    "pad_x=-1": lambda path: grid_frames(STRIPS, pad_x=-1),
    "scale=0": lambda path: grid_frames(STRIPS, scale=0),
    "sample=2": lambda path: sweep_columns(STRIPS, sample=2),
    "start=2": lambda path: there_and_back([1, 2], start=2),
    "n=0": lambda path: save_stills(path, FRAMES, 0),
    "fps=60": lambda path: save_gif(path, FRAMES, fps=60),
    "fps=0": lambda path: save_mp4(path, FRAMES, fps=0),
    "max_colors=257": lambda path: save_gif(path, FRAMES, max_colors=257),
    "tolerance=-1": lambda path: save_gif(path, FRAMES, tolerance=-1),
    "crf=99": lambda path: save_mp4(path, FRAMES, crf=99),
    "no frames": lambda path: save_gif(path, []),
    "float64 frame": lambda path: save_mp4(path, FRAMES / 255.0),
    "frame of shape (4, 8, 3)": lambda path: save_gif(path, [FRAMES[0], FRAMES[0, :4]]),
}


@pytest.mark.parametrize("words", sorted(MISTAKES))
def test_mistakes_are_named_in_one_line_and_write_nothing(tmp_path, words):
    with pytest.raises(ValueError) as caught:
        MISTAKES[words](tmp_path / "file")
    message = str(caught.value)
    assert words in message and "\n" not in message
    assert list(tmp_path.iterdir()) == []


# ----------------------------------------------------------------------------------------------------------------------
# The page (its behaviour: tests/browser/test_html_explorer.py)


class PageReader(html.parser.HTMLParser):
    """What stands in a page: .texts, [(the tag around it, text)]; .tags, [(tag, attributes)]."""

    def __init__(self, path):
        super().__init__()
        self.texts, self.tags, self._open = [], [], None
        with open(str(path), encoding="utf-8") as stream:
            self.feed(stream.read())
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._open = tag

    def handle_endtag(self, tag):
        self._open = None

    def handle_data(self, data):
        self.texts.append((self._open, data))

    def text(self, tag):
        return "".join(data for at, data in self.texts if at == tag)

    def data(self):
        return json.loads(next(text for tag, text in self.texts if tag == "script"))


def page_strips(rows=2, columns=3, steps=5, height=20, width=28, seed=0):
    """Smooth strips without any symmetry, every frame another."""
    y, x = np.mgrid[:height, :width]
    waves = np.random.RandomState(seed).uniform(0, 6, [rows, columns, 1, 1, 1, 3])
    step = np.arange(steps)[:, None, None, None]
    phase = 6 * x[..., None] / width + 2 * y[..., None] / height + step
    return np.uint8(127 + 100 * np.sin(waves + phase))


@pytest.mark.parametrize("side", [4096, 300, 10], ids=["one sheet", "several sheets", "a sheet a frame"])
@pytest.mark.parametrize("size", [(20, 28), (130, 150), (64, 64)])
def test_page_holds_every_frame(tmp_path, monkeypatch, size, side):
    monkeypatch.setattr(latent_traversal, "_SHEET_SIDE", side)
    strips = page_strips(1, 2, 5, *size)
    save_html(tmp_path / "page.html", [ExplorerPanel("G", strips)], quality=90)
    (panel,) = PageReader(tmp_path / "page.html").data()["panels"]
    scale = -(-128 // max(size))
    assert (panel["height"], panel["width"]) == (size[0] * scale, size[1] * scale)
    for column in range(2):
        assert codec_error(panel, 0, column, strips[0, column]) < 3
    for sheet in panel["sheets"][0][0]:
        assert Image.open(io.BytesIO(base64.b64decode(sheet))).size[0] <= max(side, panel["cellWidth"])


@pytest.mark.parametrize("steps", [5, 24, 25])
def test_frames_on_a_sheet_do_not_show_in_each_other(tmp_path, steps):
    strips = page_strips(1, 1, steps, 128, 128)
    save_html(tmp_path / "page.html", [ExplorerPanel("G", strips)])
    (panel,) = PageReader(tmp_path / "page.html").data()["panels"]
    errors = np.abs(sheet_frames(panel, 0, 0, steps) - strips[0, 0].astype(int))
    assert errors.mean() < 4 and errors[:, [0, 1, 2, -3, -2, -1]].mean() < 6


def test_page_says_what_is_in_it(tmp_path):
    panels = [
        ExplorerPanel("A", page_strips(3), ["z8", "z2", "z0"], [0.31, 0.0421, 0], "purity"),
        ExplorerPanel("B", page_strips(2, height=16, width=16)[..., :1], column_labels=["cat", "dog", "cow"]),
    ]
    save_html(tmp_path / "page.html", panels, "Title", positions=sweep_values(5, 2), fps=12)
    data = PageReader(tmp_path / "page.html").data()
    assert data["positions"] == [-2, -1, 0, 1, 2] and data["fps"] == 12 and data["steps"] == 5
    assert data["samples"] == ["cat", "dog", "cow"]
    first, second = data["panels"]
    assert (first["name"], first["labels"], first["valueName"]) == ("A", ["z8", "z2", "z0"], "purity")
    assert first["values"] == [0.31, 0.0421, 0] and first["valueTexts"] == ["0.310", "0.042", "0.000"]
    assert (second["name"], second["labels"], second["values"]) == ("B", ["0", "1"], None)
    frames = sheet_frames(second, 1, 2, 5)
    assert np.ptp(frames.astype(int), axis=-1).max() <= 4  # grey


def test_page_runs_and_loads_nothing_but_its_own(tmp_path):
    save_html(tmp_path / "page.html", [ExplorerPanel("G", page_strips())])
    page = PageReader(tmp_path / "page.html")
    (policy,) = [given["content"] for tag, given in page.tags if given.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.split(None, 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and set(rules["img-src"].split()) <= {"data:", "blob:"}
    script = [text for tag, text in page.texts if tag == "script"][-1]
    for text, rule in ((page.text("style"), "style-src"), (script, "script-src")):
        digest = base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode()
        assert rules[rule].strip() == f"'sha256-{digest}'"
    for _, given in page.tags:
        assert "src" not in given and given.get("href", "data:").startswith("data:")
        assert not any(name.startswith("on") or name == "style" for name in given)


@pytest.mark.parametrize("text", ["</script><b>", "<!--", "{{DATA}} \\1", "&amp; \"'", "\u2028 é 猫 \ud800"])
def test_page_texts_are_texts(tmp_path, text):
    whole = text.encode("utf-8", "replace").decode("utf-8")
    panel = ExplorerPanel(text, page_strips(1), [text], [1], text, [text] * 3)
    save_html(tmp_path / "page.html", [panel], text)
    page = PageReader(tmp_path / "page.html")
    data = page.data()
    (shown,) = data["panels"]
    assert [shown["name"], *shown["labels"], shown["valueName"], *data["samples"]] == [whole] * 6
    assert page.text("title") == page.text("h1") == whole
    assert "b" not in [tag for tag, _ in page.tags]


def test_rows_on_demand_come_one_at_a_time_and_once(tmp_path):
    strips, asked = page_strips(3), []
    rows = RowsOnDemand(lambda row: asked.append(row) or strips[row], 3)
    save_html(tmp_path / "a.html", [ExplorerPanel("G", rows)])
    assert asked == [0, 1, 2]
    save_html(tmp_path / "b.html", ExplorerPanel("G", strips))  # one alone need not stand in a list
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_page_too_large_is_noticed_early_and_leaves_the_old_one(tmp_path):
    noise = np.random.RandomState(0).randint(0, 256, [1, 2, 4, 128, 128, 3]).astype(np.uint8)
    path, asked = tmp_path / "page.html", []
    rows = RowsOnDemand(lambda row: asked.append(row) or noise[0], 40)
    save_html(path, [ExplorerPanel("G", noise)])
    before = path.read_bytes()
    with pytest.raises(PageTooLargeError) as caught:
        save_html(path, [ExplorerPanel("G", rows)], max_mb=0.5)
    assert len(asked) < 6 and path.read_bytes() == before and os.listdir(str(tmp_path)) == ["page.html"]
    sheets = [sheet for strip in PageReader(path).data()["panels"][0]["sheets"][0] for sheet in strip]
    assert caught.value.megabytes == pytest.approx(40 * sum(map(len, sheets)) / 1e6, rel=0.02)
    words = str(caught.value)
    assert all(word in words for word in ("page.html", "MB", "max_mb=0.5", "quality", "steps", "samples", "rows"))
    with pytest.raises(PageTooLargeError, match=r"about 0\.0[1-9]\d* MB, more than max_mb=0.01:"):
        save_html(path, [ExplorerPanel("G", page_strips(1))], max_mb=0.01)
    save_html(path, [ExplorerPanel("G", noise)], max_mb=len(before) / 1e6)  # its own size is not too much
    with pytest.raises(PageTooLargeError):
        save_html(path, [ExplorerPanel("G", noise)], max_mb=(len(before) - 1) / 1e6)


@pytest.mark.parametrize(
    "panels, options, words",
    [
        ([], {}, "no panels"),
        ([ExplorerPanel("A", [])], {}, "A: it has no rows"),
        ([ExplorerPanel("A", page_strips()), ExplorerPanel("B", page_strips(steps=4))], {}, r"B.*\(3, 4, 20.*3, 5, H"),
        ([ExplorerPanel("A", page_strips()), ExplorerPanel("B", page_strips(columns=2))], {}, r"B.*\(2, 5, 20"),
        ([ExplorerPanel("A", [page_strips()[0], page_strips(height=9)[0]])], {}, r"A.*\(3, 5, 9"),
        ([ExplorerPanel("A", page_strips(steps=1))], {}, "1 step"),
        ([ExplorerPanel("A", page_strips()[0])], {}, "shape"),
        ([ExplorerPanel("A", page_strips(), ["a"])], {}, "1 row_labels for 2 rows"),
        ([ExplorerPanel("A", page_strips(), None, [1, -1])], {}, "row_values"),
        ([ExplorerPanel("A", page_strips(), column_labels=["a"])], {}, "1 column_labels for 3 columns"),
        ([ExplorerPanel("A", page_strips())], {"positions": [1, 2]}, r"positions of shape \(2,\).*5"),
        ([ExplorerPanel("A", page_strips())], {"positions": [1, 2, 3, 4, np.nan]}, "positions"),
        ([ExplorerPanel("A", page_strips())], {"quality": 0}, "quality=0"),
        ([ExplorerPanel("A", page_strips())], {"quality": 70.5}, "quality=70.5"),
        ([ExplorerPanel("A", page_strips())], {"fps": 0}, "fps=0"),
        ([ExplorerPanel("A", page_strips())], {"max_mb": float("nan")}, "max_mb=nan"),
        ([ExplorerPanel("A", np.zeros([1, 1, 2, 1, 17000, 3], np.uint8))], {}, "17000x1"),
    ],
)
def test_pages_that_cannot_be(tmp_path, panels, options, words):
    with pytest.raises(ValueError) as caught:
        save_html(tmp_path / "page.html", panels, **options)
    assert re.search(words, str(caught.value)) and "\n" not in str(caught.value)
    assert os.listdir(str(tmp_path)) == []


def test_activeness_is_the_variance_along_the_sweep():
    random = np.random.RandomState(0)
    strips = random.randint(0, 256, [2, 3, 5, 4, 4, 1]).astype(np.uint8)
    strips[1] = strips[1, :, :1]  # a row that does nothing
    pixels = strips[0] / 127.5 - 1
    squares = (pixels - pixels.mean(1, keepdims=True)) ** 2
    assert activeness(strips).tolist() == pytest.approx([(squares.sum(1) / 4).mean(), 0])

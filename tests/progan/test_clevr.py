"""CLEVR scenes: the factors are what the pictures show, and rendering is a function of (seed, index) alone."""

import importlib.util
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from data_helpers import TOOL, assert_refused, contents, run_tool
from patience import wait_until
from scipy.spatial import Delaunay

from experiment_utils.datasets import Dataset
from experiment_utils.tfrecords import whole_records
from progan.data import clevr, render
from progan.dataset import open_dataset

DRAWS = 400


def draws(variant, count=DRAWS, seed=0):
    return [clevr.draw(variant, seed, index) for index in range(count)]


def corners(thing):
    """Return points [n, 3] that an object's outline lies within."""
    radius = clevr.SIZES[thing.size]
    if thing.shape == "cube":
        angles = np.radians(render.CUBE_ANGLE + 45 + 90 * np.arange(4))  # half the diagonal of a face is the radius
        heights = [0, radius * np.sqrt(2)]
    else:
        angles = np.linspace(0, 2 * np.pi, 32, endpoint=False)
        heights = [0, radius, 2 * radius]
    ring = np.stack([thing.x + radius * np.cos(angles), thing.y + radius * np.sin(angles)], 1)
    return np.concatenate([np.column_stack([ring, np.full(len(ring), height)]) for height in heights])


# ----------------------------------------------------------------------------------------------------------------------
# Scenes


def test_the_palette_is_clevrs():
    assert len(clevr.PALETTE) == 8 and clevr.PALETTE["cyan"] == (41, 208, 208) and clevr.PALETTE["gray"] == (87, 87, 87)
    assert clevr.SIZES == {"small": 0.35, "large": 0.7}


@pytest.mark.parametrize("variant, count", [("1fov", 1), ("simple", 4), ("complex", 10)])
def test_factors_are_as_many_as_published_and_described(variant, count):
    info = clevr.factor_info(variant)
    factors = np.stack([factors for _, factors in draws(variant)])
    assert factors.shape == (DRAWS, count) and factors.dtype == np.float32 and len(info) == count
    assert len({each["name"] for each in info}) == count
    for column, each in zip(factors.T, info):
        if each["kind"] == "categorical":
            assert set(column) == set(range(len(each["values"])))
        else:
            low, high = each["range"]
            assert low <= column.min() < column.max() <= high
            if variant != "complex":  # where the left one cannot be at the right edge
                assert column.min() < 0.9 * low and 0.9 * high < column.max()


@pytest.mark.parametrize("variant", ["simple", "complex"])
def test_factors_say_what_is_in_the_scene(variant):
    for scene, factors in draws(variant, 50):
        values = iter(zip(factors, clevr.factor_info(variant)))
        for thing in scene.things:
            for name in (
                ("size", "shape", "colour", "x", "y") if variant == "complex" else ("shape", "colour", "x", "y")
            ):
                value, info = next(values)
                assert info["name"].endswith(name)
                expected = getattr(thing, name)
                assert info["values"][int(value)] == expected if "values" in info else value == np.float32(expected)


@pytest.mark.parametrize("variant", ["1fov", "simple"])
def test_factors_of_one_object_are_uniform_and_independent(variant):
    factors = np.stack([factors for _, factors in draws(variant, 2000)])
    for column, info in zip(factors.T, clevr.factor_info(variant)):
        bins = len(info.get("values", range(10)))
        limits = info.get("range", [-0.5, bins - 0.5])
        counts, _ = np.histogram(column, bins, limits)
        expected = 2000 / bins
        assert ((counts - expected) ** 2 / expected).sum() < bins + 5 * np.sqrt(2 * bins)
    correlation = np.atleast_2d(np.corrcoef(factors.T))
    assert np.abs(correlation - np.eye(len(correlation))).max() < 0.1


def test_a_scene_is_a_function_of_seed_and_index():
    for variant in clevr.VARIANTS:
        scenes = [clevr.draw(variant, seed, index)[0] for seed in (0, 1) for index in (3, 4)]
        again = [clevr.draw(variant, seed, index)[0] for seed in (0, 1) for index in (3, 4)]
        assert str(scenes) == str(again)
        assert len({str(scene.things) for scene in scenes}) == 4
        assert len({scene.sampler_seed for scene in scenes}) == 4


def test_the_camera_moves_a_little_but_not_in_1fov():
    for variant, spread in (("1fov", 0), ("simple", 0.15), ("complex", 0.15)):
        cameras = np.stack([scene.camera for scene, _ in draws(variant)])
        moved = np.abs(cameras - cameras.mean(0)).max(0)
        assert (moved <= 1.1 * spread + 1e-9).all() and (moved >= 0.8 * spread).all()


@pytest.mark.parametrize("variant", clevr.VARIANTS)
def test_objects_stay_inside_the_picture(variant):
    for scene, _ in draws(variant):
        for thing in scene.things:
            assert np.abs(clevr.project(scene.camera, corners(thing))).max() < 0.99


def test_two_objects_are_ordered_apart_and_both_visible():
    for scene, _ in draws("complex"):
        left, right = scene.things
        outlines = [clevr.project(scene.camera, corners(thing)) for thing in scene.things]
        (left_low, left_high), (right_low, right_high) = [(line[:, 0].min(), line[:, 0].max()) for line in outlines]
        assert left_low + left_high < right_low + right_high
        overlap = max(0, left_high - right_low)
        assert overlap < 0.45 * min(left_high - left_low, right_high - right_low)
        assert np.hypot(left.x - right.x, left.y - right.y) > clevr.SIZES[left.size] + clevr.SIZES[right.size]


def test_projection_puts_known_points_where_they_belong():
    """The target is the middle; the edge of the picture is half the field of view away from it."""
    scene, _ = clevr.draw("1fov", 0, 0)
    np.testing.assert_allclose(clevr.project(scene.camera, clevr.TARGET), [0, 0], atol=1e-12)
    distance = np.linalg.norm(scene.camera - clevr.TARGET)
    edge = np.add(clevr.TARGET, [distance * np.tan(clevr.FIELD_OF_VIEW / 2), 0, 0])
    np.testing.assert_allclose(clevr.project(scene.camera, edge), [1, 0], atol=1e-12)


@pytest.mark.parametrize("resolution", [4, 32, 64, 128, 256])
def test_default_samples_are_allowed(resolution):
    render.check_samples(render.default_samples(resolution))


def test_without_mitsuba_one_line_names_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert_refused(run_tool("render_clevr", tmp_path / "a"), "Mitsuba", 'pip install "hessian-penalty[render]"')
    assert os.listdir(str(tmp_path)) == []


# ----------------------------------------------------------------------------------------------------------------------
# Pictures. Mitsuba is only ever imported by worker processes: TensorFlow may be in this one.

needs_mitsuba = pytest.mark.skipif(importlib.util.find_spec("mitsuba") is None, reason="needs Mitsuba (Python >= 3.10)")


def rendered(variant, count, resolution, samples=25):
    return np.stack(list(render.images(variant, 0, range(count), resolution, samples, workers=2))).astype(float)


def well_inside(scene, thing, resolution):
    """Return a mask [resolution, resolution] of the pixels that lie well inside an object's outline."""
    outline = clevr.project(scene.camera, corners(thing))
    outline = outline.mean(0) + 0.6 * (outline - outline.mean(0))
    centres = (np.arange(resolution) + 0.5) / resolution * 2 - 1
    x, y = np.meshgrid(centres, -centres)
    return Delaunay(outline).find_simplex(np.stack([x, y], -1)) >= 0


@needs_mitsuba
@pytest.mark.parametrize("variant", ["simple", "complex"])
def test_objects_are_where_the_factors_say_and_of_that_colour(variant):
    for image, (scene, _) in zip(rendered(variant, 10, 64), draws(variant, 10)):
        masks = [well_inside(scene, thing, 64) for thing in scene.things]
        hidden = np.all(masks, 0) & (len(masks) > 1)
        for thing, mask in zip(scene.things, masks):
            colour = np.median(image[mask & ~hidden], 0)
            chroma = colour - colour.mean()
            expected = clevr.PALETTE[thing.colour] - np.mean(clevr.PALETTE[thing.colour])
            if thing.colour == "gray":
                assert np.abs(chroma).max() < 6 and colour.mean() < 120
            else:
                assert chroma @ expected > 0.96 * np.linalg.norm(chroma) * np.linalg.norm(expected), (thing, colour)


@needs_mitsuba
def test_the_cube_of_1fov_is_where_its_factor_says():
    images = rendered("1fov", 12, 32)
    red = images[..., 0] - images[..., 1] > 40
    columns = (red.sum(1) * (np.arange(32) + 0.5)).sum(1) / red.sum((1, 2))
    expected = [clevr.project(scene.camera, [factors[0], 0, 0.5])[0] for scene, factors in draws("1fov", 12)]
    assert np.abs(columns - 16 * (np.array(expected) + 1)).max() < 0.5  # pixels
    assert (np.argsort(columns) == np.argsort(expected)).all()


@needs_mitsuba
def test_pictures_are_clean_and_well_exposed():
    """At the default samples against nine times as many; and a light to middling gray floor that nothing clips."""
    images = rendered("simple", 4, 32, render.default_samples(32))
    noise = images[:2] - rendered("simple", 2, 32, 9 * render.default_samples(32))
    assert np.sqrt((noise**2).mean()) < 2
    floor = np.median(images, (1, 2))
    assert floor.min() > 130 and floor.max() < 200 and np.ptp(floor, 1).max() <= 3
    assert (images == 255).mean() < 0.01


SMALL = ["--variant", "complex", "--resolution", "8", "--samples", "25", "--seed", "7"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """40 tiny images rendered by one worker without a break."""
    out = tmp_path_factory.mktemp("whole") / "tiny"
    result = run_tool("render_clevr", out, *SMALL, "--images", 40, "--workers", 1)
    assert result[0] == 0, result
    return out


@needs_mitsuba
def test_the_dataset_is_what_was_asked_for(uninterrupted):
    dataset = Dataset(str(uninterrupted))
    assert (len(dataset), dataset.resolution, dataset.channels) == (40, 8, 3)
    np.testing.assert_array_equal(dataset.factors, [factors for _, factors in draws("complex", 40, seed=7)])
    assert dataset.factor_info == clevr.factor_info("complex")
    assert run_tool("verify", uninterrupted)[0] == 0
    assert os.listdir(str(uninterrupted.parent)) == ["tiny"]


@needs_mitsuba
def test_another_number_of_workers_gives_the_same_bytes(uninterrupted, tmp_path):
    assert run_tool("render_clevr", tmp_path / "tiny", *SMALL, "--images", 40, "--workers", 3)[0] == 0
    assert contents(tmp_path / "tiny") == contents(uninterrupted)


@needs_mitsuba
def test_the_shipped_set_is_what_the_command_renders(tmp_path):
    """To the noise, as another processor may round differently."""
    shipped = open_dataset("clevr_1fov_32", str(tmp_path))
    difference = shipped.images(32, range(6)) - rendered("1fov", 6, 32, samples=225)
    assert np.abs(difference).mean() < 0.2
    np.testing.assert_array_equal(shipped.factors, [factors for _, factors in draws("1fov", 1000)])


@needs_mitsuba
def test_labels_are_written_on_request(tmp_path):
    assert run_tool("render_clevr", tmp_path / "tiny", *SMALL, "--images", 2, "--labels")[0] == 0
    with open(str(tmp_path / "tiny" / "tiny-rxx.labels"), "rb") as stream:
        np.testing.assert_array_equal(np.load(stream), Dataset(str(tmp_path / "tiny")).factors)


# dataset_tool.py, with its path and arguments as this script's; after the third image it waits for a file GO.
WAITING_TOOL = """
import os, runpy, sys, time
from progan.data.writer import ResumableWriter
go, add = sys.argv.pop(1), ResumableWriter.add
def add_and_wait(self, image):
    add(self, image)
    while self.count == 3 and not os.path.exists(go):
        time.sleep(0.01)
ResumableWriter.add = add_and_wait
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@needs_mitsuba
@pytest.mark.parametrize("signal_number, status", [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_run_goes_on_to_the_same_bytes(uninterrupted, tmp_path, tmp_path_factory, signal_number, status):
    arguments = ["render_clevr", str(tmp_path / "tiny"), *SMALL, "--images", "40", "--workers", "1"]
    go, partial = tmp_path_factory.mktemp("go") / "go", tmp_path / "tiny.partial"
    command = [sys.executable, "-c", WAITING_TOOL, str(go), TOOL, *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, universal_newlines=True)

    def kept():
        """How many images there are, at each of the resolutions."""
        return [len(whole_records(str(partial / f"tiny-r0{level}.tfrecords"))) - 1 for level in (2, 3)]

    wait_until(lambda: kept() == [3, 3])
    children = [int(pid) for pid in open("/proc/%d/task/%d/children" % (process.pid, process.pid)).read().split()]
    process.send_signal(signal_number)
    go.touch()
    _, err = process.communicate()
    assert process.returncode == status and children
    wait_until(lambda: not any(os.path.exists("/proc/%d" % pid) for pid in children))  # no worker outlives it
    if signal_number != signal.SIGKILL:
        assert "3 of 40 images are kept in" in err and "run the same command again" in err
    assert os.listdir(str(tmp_path)) == ["tiny.partial"] and kept() == [3, 3]
    different = run_tool(*["8" if word == "7" else word for word in arguments])
    assert_refused(different, partial, "seed 7, not 8", "--restart")
    assert run_tool(*arguments)[0] == 0
    assert contents(tmp_path / "tiny") == contents(uninterrupted)
    assert os.listdir(str(tmp_path)) == ["tiny"]


@needs_mitsuba
def test_a_killed_worker_ends_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(render, "_render", die)
    assert_refused(run_tool("render_clevr", tmp_path / "a", *SMALL, "--images", 2), "a rendering process was killed")


def die(*arguments):
    os._exit(1)

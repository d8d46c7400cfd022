"""Rendering CLEVR scenes with Mitsuba 3, in worker processes of one thread each.

Mitsuba and TensorFlow do not share a process well: so the workers are spawned, import Mitsuba and never TensorFlow, and
this module imports neither. Every image is a function of its scene alone, whatever the number of workers.
"""

import collections
import concurrent.futures
import functools
import importlib.util
import itertools
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading

import numpy as np

from experiment_utils.errors import UserError
from progan.data import clevr

# The path tracer picks a light for every sample. With these weights, out of five, and samples in a grid whose side is a
# multiple of five, every column of the grid has one light: picking adds no noise.
LIGHT_WEIGHTS = {"key": 2.0, "fill": 1.0, "back": 1.0, "ambient": 1.0}
CUBE_ANGLE = 30.0  # degrees about the vertical: two faces show
GROUND = 0.33  # reflectance
AMBIENT = 0.25  # radiance from every direction


def default_samples(resolution):
    """Return the samples per pixel that leave little noise: an error of about 1 of 255 up to 64 px, 1.5 above."""
    return 100 if resolution <= 64 else 25


def available_cores():
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def check_samples(samples):
    """Raise ValueError unless `samples` fill a square grid whose side is a multiple of five."""
    side = round(max(samples, 0) ** 0.5)
    if side < 5 or side % 5 or side**2 != samples:
        raise ValueError("must be the square of a multiple of five: 25, 100, 225, 400, …")


def require_mitsuba():
    """Raise UserError, saying what to install, where Mitsuba is missing."""
    if importlib.util.find_spec("mitsuba") is None:
        raise UserError(
            'rendering needs Mitsuba 3: pip install "hessian-penalty[render]" under Python 3.10 or later '
            "(the shipped clevr_1fov_32, or a dataset rendered elsewhere, needs no Mitsuba)"
        )


def images(variant, seed, indices, resolution, samples, workers):
    """Yield the images at `indices` of a dataset, uint8 [resolution, resolution, 3], in that order.

    samples   per pixel: the square of a multiple of five
    workers   processes to render in

    Raises UserError where a worker was killed.
    """
    pool = concurrent.futures.ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker)
    indices = iter(indices)
    submit = functools.partial(pool.submit, _render, variant, seed, resolution, samples)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # the workers inherit it: Ctrl-C is the parent's
    pending = collections.deque(map(submit, itertools.islice(indices, 4 * workers)))
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        while pending:
            yield pending.popleft().result()
            pending.extend(map(submit, itertools.islice(indices, 1)))
    except concurrent.futures.process.BrokenProcessPool:
        raise UserError("a rendering process was killed, for want of memory perhaps; run the command again") from None
    finally:
        for future in pending:
            future.cancel()
        pool.shutdown()


def _start_worker():
    """Prepare a worker: one thread, and gone when the parent is."""
    import drjit
    import mitsuba

    mitsuba.set_variant("scalar_rgb")  # the variant that needs no LLVM library
    drjit.set_thread_count(1)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent():
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _render(variant, seed, resolution, samples, index):
    import mitsuba

    scene, _ = clevr.draw(variant, seed, index)
    # Without optimize=False the order of the lights changes from one time to the next, and with it the noise.
    loaded = mitsuba.load_dict(describe(scene, resolution, samples), parallel=False, optimize=False)
    return quantise(np.array(mitsuba.render(loaded, seed=scene.sampler_seed)))


def quantise(radiance):
    """Return linear RGB as uint8 sRGB (IEC 61966-2-1)."""
    linear = np.clip(radiance, 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(255 * encoded).astype(np.uint8)


def _linear(colour):
    """Return an sRGB colour of 0 to 255 as linear reflectances."""
    encoded = np.array(colour) / 255
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4).tolist()


# ----------------------------------------------------------------------------------------------------------------------
# A scene in Mitsuba's words


def describe(scene, resolution, samples):
    """Return the dictionary that mitsuba.load_dict takes for a clevr.Scene."""
    from mitsuba import ScalarTransform4f as Transform

    description = {
        "type": "scene",
        "integrator": {"type": "path", "max_depth": 2, "hide_emitters": True},
        "sensor": {
            "type": "perspective",
            "fov": float(np.degrees(clevr.FIELD_OF_VIEW)),
            "to_world": Transform().look_at(origin=scene.camera.tolist(), target=clevr.TARGET, up=[0, 0, 1]),
            "sampler": {"type": "multijitter", "sample_count": samples},
            "film": {
                "type": "hdrfilm",
                "width": resolution,
                "height": resolution,
                "pixel_format": "rgb",
                "component_format": "float32",
                "rfilter": {"type": "box"},
            },
        },
        "ground": {"type": "rectangle", "to_world": Transform().scale([60, 60, 1]), "bsdf": _matte([GROUND] * 3)},
        "key": _area_light("key", [7.5, -4.0, 8.5], half_side=2.0, power=130),
        "fill": _area_light("fill", [-8.0, -8.0, 7.0], half_side=3.0, power=50),
        "back": _area_light("back", [-3.0, 14.0, 14.0], half_side=3.0, power=100),
        "ambient": {
            "type": "constant",
            "radiance": {"type": "rgb", "value": AMBIENT},
            "sampling_weight": LIGHT_WEIGHTS["ambient"],
        },
    }
    for number, thing in enumerate(scene.things):
        for part, shape in _solid(thing).items():
            shape["bsdf"] = rubber(clevr.PALETTE[thing.colour])
            description["thing%d_%s" % (number, part)] = shape
    return description


def _solid(thing):
    """Return the shapes, without material, that make up an object standing on the ground."""
    from mitsuba import ScalarTransform4f as Transform

    radius = clevr.SIZES[thing.size]
    if thing.shape == "sphere":
        return {"ball": {"type": "sphere", "center": [thing.x, thing.y, radius], "radius": radius}}
    if thing.shape == "cylinder":
        foot, top = [thing.x, thing.y, 0], [thing.x, thing.y, 2 * radius]
        lid = Transform().translate(top).scale([radius, radius, 1])
        return {
            "side": {"type": "cylinder", "p0": foot, "p1": top, "radius": radius},
            "lid": {"type": "disk", "to_world": lid},
        }
    half = radius / np.sqrt(2)
    place = Transform().translate([thing.x, thing.y, half]).rotate([0, 0, 1], CUBE_ANGLE).scale([half, half, half])
    return {"box": {"type": "cube", "to_world": place}}


def _matte(reflectance):
    return {"type": "diffuse", "reflectance": {"type": "rgb", "value": reflectance}}


@functools.lru_cache(maxsize=None)
def rubber(colour):
    """CLEVR's rubber: mostly diffuse, under a dull sheen. One object for all scenes, as it takes 10 ms to make."""
    from mitsuba import load_dict

    return load_dict(
        {
            "type": "roughplastic",
            "distribution": "ggx",
            "alpha": 0.35,
            "int_ior": 1.3,
            "diffuse_reflectance": {"type": "rgb", "value": _linear(colour)},
        }
    )


def _area_light(name, origin, half_side, power):
    """A white square at `origin` that faces the middle of the scene."""
    from mitsuba import ScalarTransform4f as Transform

    place = Transform().look_at(origin=origin, target=[0, 0, 0], up=[0, 0, 1]).scale([half_side, half_side, 1])
    emitter = {
        "type": "area",
        "radiance": {"type": "rgb", "value": power / half_side**2},
        "sampling_weight": LIGHT_WEIGHTS[name],
    }
    return {"type": "rectangle", "to_world": place, "emitter": emitter}

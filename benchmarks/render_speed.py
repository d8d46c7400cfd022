"""Images a second that `dataset_tool.py render_clevr` makes, against Mitsuba's own threads in a single process.

    python benchmarks/render_speed.py [workers]

The baseline is what one would write first: one process that loads each scene whole, renders it, and lets Mitsuba use as
many threads as there are workers. Both draw the same scenes with the same samples per pixel; no start is timed.
"""

import itertools
import multiprocessing
import sys
import time

import numpy as np

from progan.data import clevr, render

VARIANT, SEED = "complex", 0
IMAGES = {32: 100, 128: 24}  # resolution: how many are timed


def baseline(resolution, threads):
    """Return images a second of one process with Mitsuba's own threads."""
    import drjit
    import mitsuba

    mitsuba.set_variant("scalar_rgb")
    drjit.set_thread_count(threads)
    samples = render.default_samples(resolution)
    start = time.perf_counter()
    for index in range(IMAGES[resolution]):
        scene, _ = clevr.draw(VARIANT, SEED, index)
        render.rubber.cache_clear()
        description = mitsuba.load_dict(render.describe(scene, resolution, samples))
        render.quantise(np.array(mitsuba.render(description, seed=scene.sampler_seed)))
    return IMAGES[resolution] / (time.perf_counter() - start)


def ours(resolution, workers):
    """Return images a second of the worker processes, once they are running."""
    warm_up = 8 * workers
    indices = range(warm_up + IMAGES[resolution])
    images = render.images(VARIANT, SEED, indices, resolution, render.default_samples(resolution), workers)
    for _ in itertools.islice(images, warm_up):
        pass
    start = time.perf_counter()
    for _ in images:
        pass
    return IMAGES[resolution] / (time.perf_counter() - start)


def main():
    render.require_mitsuba()
    workers = int(sys.argv[1]) if len(sys.argv) > 1 else render.available_cores()
    print("%d workers, %s scenes" % (workers, VARIANT))
    print("%10s %8s %15s %11s %6s" % ("resolution", "samples", "baseline img/s", "ours img/s", "ratio"))
    for resolution in IMAGES:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            theirs = pool.apply(baseline, (resolution, workers))
        speed = ours(resolution, workers)
        samples = render.default_samples(resolution)
        print("%10d %8d %15.1f %11.1f %6.2f" % (resolution, samples, theirs, speed, speed / theirs))


if __name__ == "__main__":
    main()

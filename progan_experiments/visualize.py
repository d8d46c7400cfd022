#!/usr/bin/env python
"""Show what each latent component of a ProGAN does: a row a component, a column a sample.

As GIF, MP4 or stills; or as a page for the browser, with a slider a component and several models side by side.
"""

import collections
import contextlib
import dataclasses
import os

import numpy as np

from experiment_utils import options, runs
from experiment_utils.errors import OptionError, run_command
from experiment_utils.options import not_negative, option, positive
from experiment_utils.pages import PageOptions, save_page
from latent_traversal import ExplorerPanel, RowsOnDemand, save_gif, save_mp4, save_png, save_stills, sweep_columns
from progan.options import ModelOptions

EXAMPLES = """
  a model that ships with the project
    visualize.py --models clevr_1fov_16_fs
  the latest snapshot of run 3, and snapshot 600 of run 5, as videos
    visualize.py --models 3 5 --snapshot_kimgs latest 600 --format mp4
  two models side by side, in one file that any browser opens
    visualize.py --models clevr_1fov_16_bl clevr_1fov_16_fs --format html
  any snapshot, two sets of samples, the components as they are numbered
    visualize.py --models path/to/network-snapshot-000600.safetensors --seeds 1 2 --no_sort
"""

BAR_WIDTH = 30  # characters of the longest bar of the printed table


@dataclasses.dataclass
class VisualizeOptions(PageOptions, ModelOptions):
    """The flags of visualize.py."""

    out_dir: str = option("visualizations", "where the pictures go")
    format: list = option(["gif"], "what to write", nargs="+", choices=("gif", "mp4", "stills", "html"))
    stills_only: bool = option(False, "the same as --format stills")
    n_frames_to_save: int = option(0, "frames of each video to save as PNG too", check=not_negative)

    seeds: list = option([0], "of the samples; a video for each", nargs="+", check=not_negative, metavar="SEED")
    samples: int = option(8, "columns", check=positive)
    nz_per_vid: int = option(12, "rows of a video; further components go into further ones", check=positive)
    html_rows: int = option(None, "rows of a page, the first ones (default: all components)", int, check=positive)
    steps: int = option(90, "frames of a sweep from one end to the other", check=options.at_least(2))
    extent: float = option(2.0, "the sweep goes from minus this to this", check=positive)
    no_sort: bool = option(False, "leave the components in their order, not the most active first")
    interpolate_pre_norm: bool = option(
        False, "sweep before the latents are normalised, not after (for models of few components)"
    )
    no_loop: bool = option(False, "sweep one way, not there and back")
    fps: int = option(30, "frames a second", check=positive)
    transpose: bool = option(False, "components as columns, samples as rows")
    pad_x: int = option(4, "pixels between columns", check=not_negative)
    pad_y: int = option(4, "pixels between rows", check=not_negative)
    minibatch_size: int = option(100, "images to generate at once", check=positive)
    num_gpus: int = option(None, "0: the CPU; 1: a GPU (default: one if there is one)", int, check=not_negative)


def main(argv=None):
    chosen = options.parse(VisualizeOptions, __doc__, EXAMPLES, argv)
    if not chosen.models:
        raise OptionError("--models: which? (a run number, the path of a snapshot, or a shipped model)")
    formats = {"stills"} if chosen.stills_only else set(chosen.format)
    if "gif" in formats and chosen.fps > 50:
        raise OptionError(f"--fps {chosen.fps}: a GIF shows at most 50 frames a second; use --format mp4")

    from progan.inference import TrainedGenerator, count_gpus
    from progan.models import find_models
    from progan.snapshot import load_snapshot

    num_gpus = count_gpus() if chosen.num_gpus is None else chosen.num_gpus
    models = []
    with contextlib.ExitStack() as generators:
        for name, path in find_models(chosen.models, chosen.snapshot_kimgs, chosen.results_dir):
            generator = generators.enter_context(TrainedGenerator(load_snapshot(path), num_gpus))
            models.append(measure(generator, name, chosen))
            if formats - {"html"}:
                visualize(models[-1], chosen, formats)
            if "html" not in formats:
                generators.close()
        for seed in chosen.seeds if "html" in formats else []:
            explore(models, seed, chosen)


Model = collections.namedtuple("Model", "name generator scores order")
Model.__doc__ = """A model, the activeness of its components [nz], and the order in which they are shown."""


def measure(generator, name, chosen):
    """Return a Model, and print what each component does."""
    from progan.traversal import activeness_by_component

    nz, pre_norm = generator.spec.nz, chosen.interpolate_pre_norm
    scores = activeness_by_component(
        generator, nz, pre_norm=pre_norm, extent=chosen.extent, minibatch=chosen.minibatch_size
    )
    order = list(range(nz)) if chosen.no_sort else np.argsort(-scores, kind="stable").tolist()
    print(f"{name}: activeness of the {nz} components of z")
    for component in order:
        bar = "#" * round(BAR_WIDTH * float(scores[component] / max(scores.max(), 1e-12)))
        print(f"  z{component:<3d} {scores[component]:.5f} {bar}")
    return Model(name, generator, scores, order)


def draw_samples(model, seed, chosen):
    return np.random.RandomState(seed).standard_normal([chosen.samples, model.generator.spec.nz])


def strips_of(model, z, components, steps, chosen):
    from progan.traversal import component_strips

    pre_norm = chosen.interpolate_pre_norm
    return component_strips(model.generator, z, components, chosen.extent, steps, pre_norm, chosen.minibatch_size)


def visualize(model, chosen, formats):
    """Write the videos and stills of one model."""
    from progan.traversal import component_frames

    order = model.order
    layout = {"pad_x": chosen.pad_x, "pad_y": chosen.pad_y, "transpose": chosen.transpose}
    parts = [order[i : i + chosen.nz_per_vid] for i in range(0, len(order), chosen.nz_per_vid)]
    for seed in chosen.seeds:
        z = draw_samples(model, seed, chosen)
        for number, components in enumerate(runs.progress(parts, desc="rendering", unit="video", disable=None)):
            strips = strips_of(model, z, components, chosen.steps, chosen)
            frames = component_frames(strips, components, model.scores, **layout)
            part = f"-part{number}" if len(parts) > 1 else ""
            stem = os.path.join(chosen.out_dir, f"{model.name}-seed{seed}{part}")
            for path in write(stem, frames, formats, chosen):
                print(path)
            if "stills" in formats:
                sweep = component_frames(sweep_columns(strips), components, model.scores, **layout)
                save_png(stem + "-sweep.png", sweep[0])
                print(stem + "-sweep.png")


def explore(models, seed, chosen):
    """Write the page of all models, side by side."""
    path = os.path.join(chosen.out_dir, "-vs-".join(model.name for model in models) + f"-seed{seed}.html")
    shown = [model.order[: chosen.html_rows] for model in models]
    with runs.progress(total=sum(map(len, shown)), desc="rendering", unit="row", disable=None) as bar:
        panels = [panel(model, components, seed, chosen, bar) for model, components in zip(models, shown)]
        title = "What each component of z does" + (f" in {models[0].name}" if len(models) == 1 else "")
        save_page(path, panels, title, chosen.extent, chosen, "--samples, --html_rows")
    print(path)


def panel(model, components, seed, chosen, bar):
    z = draw_samples(model, seed, chosen)

    def row(number):
        (strips,) = strips_of(model, z, [components[number]], chosen.html_steps, chosen)
        bar.update()
        return strips

    labels = [f"z{component}" for component in components]
    return ExplorerPanel(model.name, RowsOnDemand(row, len(components)), labels, model.scores[components])


def write(stem, frames, formats, chosen):
    """Write the frames in all formats; return the paths."""
    os.makedirs(os.path.dirname(stem), exist_ok=True)
    paths = []
    for form, save in (("gif", save_gif), ("mp4", save_mp4)):
        if form in formats:
            paths.append(f"{stem}.{form}")
            save(paths[-1], frames, fps=chosen.fps, loop=not chosen.no_loop)
    stills = chosen.n_frames_to_save or (5 if "stills" in formats else 0)
    if stills:
        paths += save_stills(stem, frames, min(stills, len(frames)))
    return paths


if __name__ == "__main__":
    run_command(main)

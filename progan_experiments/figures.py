#!/usr/bin/env python
"""Draw the figures of the paper's ProGAN section for any models, as PNG and PDF, with the numbers as JSON.

hessians  |Hessian| with respect to z, at the pixel of each sample with the largest Hessian Penalty
heatmaps  the Hessian Penalty of each pixel, below the image
diag      how often a pixel's largest |entry| is on the diagonal, mean |diagonal| / mean |off-diagonal|, share of energy
active    how much each component of z changes the images, sorted, and how many of them are effectively in use
"""

import dataclasses
import os

import numpy as np

from experiment_utils import __version__, options
from experiment_utils.errors import OptionError, run_command
from experiment_utils.files import write_json
from experiment_utils.options import not_negative, option, positive
from progan.options import ModelOptions

EXAMPLES = """
  the Hessians of two models side by side
    figures.py --fig hessians --models clevr_1fov_16_fs 3 --model_names "Hessian Penalty" Vanilla
  all four figures of the latest snapshot of run 3
    figures.py --fig hessians heatmaps diag active --models 3
  two methods on two datasets
    figures.py --fig active --models 3 4 5 6 --model_names Vanilla Ours Vanilla Ours
               --dataset_names CLEVR-1FOV CLEVR-1FOV CLEVR-Simple CLEVR-Simple
"""

FIGURES = ("hessians", "heatmaps", "diag", "active")
SAMPLES = {"hessians": 3, "heatmaps": 6, "diag": 100, "active": 64}


@dataclasses.dataclass
class FigureOptions(ModelOptions):
    """The flags of figures.py."""

    fig: list = option([], "what to draw", str, nargs="+", choices=FIGURES)
    out_dir: str = option("figures", "where the figures go")
    model_names: list = option([], "what to call the models, one each", str, nargs="+", metavar="NAME")
    dataset_names: list = option(
        [], "what to call their datasets, one for all models or one each", str, nargs="+", metavar="NAME"
    )

    samples: int = option(
        None,
        f"latents to draw (default: {', '.join(f'{n} for {fig}' for fig, n in SAMPLES.items())})",
        int,
        check=positive,
    )
    seeds: list = option([0], "of the latents; a figure for each", nargs="+", check=options.random_seed, metavar="SEED")
    epsilon: float = option(0.1, "step of the finite differences; well below it, rounding shows", check=positive)
    num_rademacher_samples: int = option(
        None,
        "directions of the penalty (default: 2 for heatmaps, 200 to choose the pixel of hessians)",
        int,
        check=options.at_least(2),
    )
    extent: float = option(2.0, "active: the variance over a component's values {-extent, 0, extent}", check=positive)
    interpolate_pre_norm: bool = option(
        False, "active: change components before the latents are normalised, not after (for models of few components)"
    )
    shared_scale: bool = option(False, "hessians, heatmaps: one colour scale for all models")
    format: list = option(["png", "pdf"], "of the figures", nargs="+", choices=("png", "pdf"))
    dpi: int = option(200, "pixels an inch, of the PNG", check=options.at_least(10))

    minibatch_size: int = option(100, "images to generate at once", check=positive)
    num_gpus: int = option(None, "0: the CPU; 1: a GPU (default: one if there is one)", int, check=not_negative)
    num_threads: int = option(0, "threads of TensorFlow (0: as many as it likes)", check=not_negative)


def main(argv=None):
    chosen = options.parse(FigureOptions, __doc__, EXAMPLES, argv)
    check(chosen)

    from progan.inference import count_gpus
    from progan.models import find_models

    found = find_models(chosen.models, chosen.snapshot_kimgs, chosen.results_dir)
    num_gpus = count_gpus(chosen.num_threads) if chosen.num_gpus is None else chosen.num_gpus
    records = [
        measure_model(name, dataset, path, num_gpus, chosen)
        for name, dataset, (_, path) in zip(model_names(found, chosen), dataset_names(chosen), found)
    ]
    for fig in dict.fromkeys(chosen.fig):
        for seed in dict.fromkeys(chosen.seeds):
            report(fig, seed, records, chosen)


def check(chosen):
    """Raise OptionError where flags do not fit together."""
    count = len(chosen.models)
    if not chosen.fig:
        raise OptionError(f"--fig: which? ({', '.join(FIGURES)})")
    if not chosen.models:
        raise OptionError("--models: which? (run numbers, paths of snapshots, or shipped models)")
    if len(chosen.model_names) not in (0, count):
        raise OptionError(f"--model_names: {len(chosen.model_names)} for {count} models; give one each")
    if len(chosen.dataset_names) not in (0, 1, count):
        raise OptionError(f"--dataset_names: {len(chosen.dataset_names)} for {count} models; give one, or one each")


def model_names(found, chosen):
    """Return what to call each model; snapshots of one file name, from several runs, are numbered."""
    names = [name for name, _ in found]
    numbered = [
        f"{name} ({names[: i + 1].count(name)})" if names.count(name) > 1 else name for i, name in enumerate(names)
    ]
    return chosen.model_names or numbered


def dataset_names(chosen):
    """Return what to call each model's dataset; None: as its snapshot does."""
    names = chosen.dataset_names or [None]
    return names * (len(chosen.models) if len(names) == 1 else 1)


def measure_model(name, dataset, path, num_gpus, chosen):
    """Return {name, dataset, path, kimg, nz, channels, measured: {(fig, seed): numbers}} of one model."""
    from progan import figures
    from progan.inference import TrainedGenerator
    from progan.snapshot import load_snapshot

    snapshot = load_snapshot(path)
    if dataset is None:
        dataset = snapshot.options.get("flags", {}).get("dataset", "")
    measured = {}
    with TrainedGenerator(snapshot, num_gpus, chosen.num_threads) as generator:
        for fig in chosen.fig:
            for seed in chosen.seeds:
                z = np.random.RandomState(seed).standard_normal([samples_of(fig, chosen), snapshot.spec.nz])
                measured[fig, seed] = figures.MEASURES[fig](generator, z, settings(seed, chosen))
    return {
        "name": name,
        "dataset": dataset,
        "path": path,
        "kimg": snapshot.kimg,
        "nz": snapshot.spec.nz,
        "channels": snapshot.spec.channels,
        "measured": measured,
    }


def samples_of(fig, chosen):
    return SAMPLES[fig] if chosen.samples is None else chosen.samples


def settings(seed, chosen):
    from progan.figures import Settings

    return Settings(
        epsilon=chosen.epsilon,
        directions=chosen.num_rademacher_samples,
        extent=chosen.extent,
        pre_norm=chosen.interpolate_pre_norm,
        minibatch=chosen.minibatch_size,
        seed=seed,
    )


# ----------------------------------------------------------------------------------------------------------------------
# What comes out


def report(fig, seed, records, chosen):
    """Draw one figure, write it and its numbers, print the table and the paths."""
    from progan import figures, plots

    measured = [record["measured"][fig, seed] for record in records]
    models = [
        plots.Model(record["name"], record["dataset"], each, record["channels"])
        for record, each in zip(records, measured)
    ]
    scale = {"shared_scale": chosen.shared_scale} if fig in ("hessians", "heatmaps") else {}
    stem = os.path.join(chosen.out_dir, f"{fig}-seed{seed}")
    paths = plots.save(stem, plots.draw(fig, models, **scale), dict.fromkeys(chosen.format), chosen.dpi)
    write_json(stem + ".json", json_value(fig, seed, records, chosen))
    print("\n".join(figures.table(fig, plots.titles(models, ", "), measured)))
    print("\n".join([*paths, stem + ".json"]))


def json_value(fig, seed, records, chosen):
    """Return how a figure was made, and its numbers, model by model."""
    from progan import figures

    about = {"figure": fig, "package_version": __version__, "samples": samples_of(fig, chosen)}
    about.update(figures.settings_of(fig, settings(seed, chosen)))
    about["models"] = [
        dict(
            {name: record[name] for name in ("name", "dataset", "path", "kimg", "nz")},
            **figures.json_value(fig, record["measured"][fig, seed]),
        )
        for record in records
    ]
    return about


if __name__ == "__main__":
    run_command(main)

#!/usr/bin/env python
"""Train and measure every model of a study: python benchmarks/reproduction/run.py clevr_1fov_16

A model is trained by train.py in one CPU thread, so that it repeats bit for bit, and is resumed where it was
interrupted. What is finished already is not done again. Results go to benchmarks/reproduction/results/STUDY.json and
STUDY.md; runs, heat maps and GIFs stay in --out_dir. Hours on a CPU.
"""

import concurrent.futures
import contextlib
import dataclasses
import glob
import os
import re
import subprocess
import sys

import matplotlib
import numpy as np
from studies import STUDIES

import factor_scores
from experiment_utils import options
from experiment_utils.errors import OptionError, UserError, run_command
from experiment_utils.files import atomic_write, read_json, write_json
from experiment_utils.options import option, positive
from latent_traversal import save_gif, save_png, sweep_columns
from progan.dataset import open_dataset
from progan.inference import TrainedGenerator
from progan.metrics.evaluation import Evaluator
from progan.metrics.hessian import diagonalness
from progan.snapshot import load_snapshot
from progan.traversal import activeness_by_component, component_frames, component_strips

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = os.path.dirname(os.path.abspath(__file__))
PROGAN_EXPERIMENTS = os.path.join(os.path.dirname(os.path.dirname(HERE)), "progan_experiments")
METRICS = ("activeness", "diagonalness", "factors", "faithfulness", "FD_random")
TITLES = {"bl": "vanilla", "info": "InfoGAN", "fs": "from scratch", "ft": "fine-tuned", "rel": "released"}


@dataclasses.dataclass
class StudyOptions:
    """The flags of run.py."""

    out_dir: str = option("reproduction", "where the runs go")
    data_dir: str = option("datasets", "where the datasets are")
    results_dir: str = option(os.path.join(HERE, "results"), "where the table goes")
    jobs: int = option(2, "trainings at once, a thread each", check=positive)
    train_only: bool = option(False, "train, and leave the measuring for later")
    measure_only: bool = option(False, "train nothing, and measure the models that are finished")


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] not in STUDIES:
        raise OptionError(f"which study? ({', '.join(STUDIES)})")
    chosen = options.parse(StudyOptions, __doc__, "", argv[1:])
    study = STUDIES[argv[0]]
    make_dataset(study, chosen.data_dir)
    models = [(family, seed) for family in study.families for seed in study.seeds]
    folder = os.path.join(chosen.out_dir, argv[0])
    if chosen.measure_only:
        models = [model for model in models if finished(study, *model, folder)]
        if not models:
            raise OptionError(f"--measure_only: no model of {argv[0]} is finished in {folder}")
    else:
        train_all(study, models, folder, chosen)
    if not chosen.train_only:
        rows = measure(study, models, folder, chosen.data_dir)
        os.makedirs(chosen.results_dir, exist_ok=True)
        stem = os.path.join(chosen.results_dir, argv[0])
        write_json(stem + ".json", rows)
        with atomic_write(stem + ".md", "w") as stream:
            stream.write(report(argv[0], study, rows))
        save_curves(stem + ".png", rows)
        print(f"{stem}.md")


# ----------------------------------------------------------------------------------------------------------------------
# Training


def make_dataset(study, data_dir):
    """Render the dataset unless it is there or ships with the project."""
    if study.render and not os.path.exists(os.path.join(data_dir, study.dataset)):
        out = os.path.join(data_dir, study.dataset)
        command = [sys.executable, os.path.join(PROGAN_EXPERIMENTS, "dataset_tool.py"), "render_clevr", out]
        subprocess.run([*command, *study.render], check=True)


def train_all(study, models, folder, chosen):
    """Train what is not finished, `chosen.jobs` at a time; models that begin as another one come after it."""
    for later in (False, True):
        jobs = [model for model in models if (model[0] in study.starts) == later]
        with concurrent.futures.ThreadPoolExecutor(chosen.jobs) as pool:
            list(pool.map(lambda model: train(study, *model, folder, chosen.data_dir), jobs))


def finished(study, family, seed, folder):
    run_dir = find_run(folder, family, seed)
    return run_dir is not None and max(snapshots(run_dir)) >= study.kimg


def train(study, family, seed, folder, data_dir):
    """Train one model to the end: from the beginning, or from where it was interrupted."""
    if finished(study, family, seed, folder):
        return
    results = os.path.join(folder, f"{family}-{seed}")
    places = ["--results_dir", results, "--data_dir", data_dir]
    if find_run(folder, family, seed) is not None:
        flags = ["--resume_exp", "0", "--total_kimg", str(study.kimg), *places]
    else:
        flags = [*study.train_flags(family, seed), *places]
        if family in study.starts:
            origin, start_kimg = study.starts[family]
            earlier = snapshots(find_run(folder, origin, seed))
            flags += ["--resume_snapshot", earlier[min(kimg for kimg in earlier if kimg >= start_kimg)]]
    print(f"{results}: train.py {' '.join(flags)}", flush=True)
    os.makedirs(results, exist_ok=True)
    with open(results + ".log", "a") as log:
        command = [sys.executable, os.path.join(PROGAN_EXPERIMENTS, "train.py"), *flags]
        ended = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT)
    if ended.returncode:
        raise UserError(f"{results}: train.py ended with status {ended.returncode}; see {results}.log")


def find_run(folder, family, seed):
    """Return the run directory of a model, or None. Without a snapshot the run begins anew, in the next directory."""
    runs = sorted(glob.glob(os.path.join(glob.escape(folder), f"{family}-{seed}", "*-*")))
    whole = [path for path in runs if snapshots(path)]
    return whole[-1] if whole else None


def snapshots(run_dir):
    """Return {kimg: path}."""
    paths = glob.glob(os.path.join(glob.escape(run_dir), "network-snapshot-*.safetensors"))
    return {int(re.search(r"(\d+)\.safetensors$", path).group(1)): path for path in sorted(paths)}


def training_seconds(run_dir, start_kimg):
    """Return the seconds that training took, by the rates in the run's own log."""
    seconds, before = 0.0, start_kimg
    with open(os.path.join(run_dir, "log.txt"), encoding="utf-8") as stream:
        for kimg, rate in re.findall(r"kimg (\S+) .* (\S+) s/kimg", stream.read()):
            seconds += max(float(kimg) - before, 0) * float(rate)
            before = float(kimg)
    return seconds


# ----------------------------------------------------------------------------------------------------------------------
# Measuring


def measure(study, models, folder, data_dir):
    """Return a list of {name: value}, one for each model, of its last snapshot; what was measured before is read."""
    dataset = open_dataset(study.dataset, data_dir)
    rows, evaluator = [], None
    for family, seed in models:
        run_dir = find_run(folder, family, seed)
        kimg = max(snapshots(run_dir))
        kept = os.path.join(folder, f"{family}-{seed}", f"measured-{kimg:06d}.json")
        if not os.path.exists(kept):
            with contextlib.ExitStack() as stack:
                generator = stack.enter_context(TrainedGenerator(load_snapshot(snapshots(run_dir)[kimg]), 0, 1))
                if evaluator is None:
                    evaluator = Evaluator(dataset, generator.spec, METRICS, len(dataset), num_gpus=0, num_threads=1)
                row = {"family": family, "seed": seed, "kimg": kimg}
                row["minutes"] = training_seconds(run_dir, study.starts.get(family, ("", 0))[1]) / 60
                row.update(evaluator.evaluate(generator))
                row["history"] = history(run_dir)
                save_sweeps(generator, os.path.join(folder, f"{family}-{seed}"), seed)
            write_json(kept, row)
        rows.append(read_json(kept))
        print(f"{family}-{seed}: effective number {rows[-1]['activeness/effective_number']:.2f}", flush=True)
    if evaluator is not None:
        evaluator.close()
    return rows


def history(run_dir):
    """Return [[kimg, effective number of components, energy share on the diagonal]] of all of a run's snapshots."""
    points = []
    for kimg, path in sorted(snapshots(run_dir).items()):
        with TrainedGenerator(load_snapshot(path), 0, 1) as generator:
            nz = generator.spec.nz
            number = factor_scores.effective_number(activeness_by_component(generator, nz))
            points.append([kimg, number, float(diagonalness(generator, nz)["energy_share"])])
    return points


def save_sweeps(generator, stem, seed):
    """Write STEM.gif and STEM.png: each row sweeps a component of z, the most active first, for six samples."""
    scores = activeness_by_component(generator, generator.spec.nz)
    order = np.argsort(-scores, kind="stable").tolist()
    z = np.random.RandomState(seed).standard_normal([6, generator.spec.nz])
    strips = component_strips(generator, z, order, steps=30)
    save_gif(stem + ".gif", component_frames(strips, order, scores), fps=20)
    save_png(stem + ".png", component_frames(sweep_columns(strips), order, scores)[0])


# ----------------------------------------------------------------------------------------------------------------------
# The table

COLUMNS = {  # heading: (key of a row, digits)
    "effective number": ("activeness/effective_number", 2),
    "diagonal-ness": ("diagonalness/energy_share", 3),
    "DCI D": ("DCI/disentanglement", 2),
    "DCI C": ("DCI/completeness", 2),
    "MIG": ("MIG", 3),
    "SAP": ("SAP", 3),
    "nearest-image error": ("faithfulness/nearest_image_error", 2),
    "FD_random": ("FD_random", 3),
}


def report(name, study, rows):
    """Return the study's table as Markdown: a line a family (mean ± deviation over seeds), then every model."""
    columns = {title: column for title, column in COLUMNS.items() if column[0] in rows[0]}
    for key in rows[0]:
        if key.startswith("faithfulness/coverage/"):
            columns["coverage of " + key.rsplit("/", 1)[1]] = (key, 2)
    members = {family: [row for row in rows if row["family"] == family] for family in study.families}
    families = [family for family in study.families if members[family]]
    lines = [f"# {name}", ""]
    lines += [
        f"`python benchmarks/reproduction/run.py {name}`: {study.dataset} at {study.resolution} px, {study.kimg} kimg. "
        "Mean ± standard deviation over seeds.",
        "",
        *_table("family", columns, [(f"{TITLES[f]} ({len(members[f])})", members[f]) for f in families]),
        "",
        *_table(
            "model",
            dict(columns, minutes=("minutes", 0)),
            [(f"{TITLES[row['family']]}, seed {row['seed']}", [row]) for row in rows],
        ),
        "",
        "Nearest-image error of one half of the training images to the other: "
        f"{rows[0]['faithfulness/nearest_image_baseline']:.2f} of 255. Minutes: of training, one thread of a machine "
        "that had other work too.",
        "",
        "What train.py was given, for the first seed:",
        "",
    ]
    for family in families:
        origin, start_kimg = study.starts.get(family, (None, 0))
        more = f" --resume_snapshot <{TITLES[origin]}, at {start_kimg} kimg>" if origin else ""
        lines.append(f"- {TITLES[family]}: `train.py {' '.join(study.train_flags(family, study.seeds[0]))}{more}`")
    return "\n".join(lines) + "\n"


def _table(first, columns, groups):
    lines = ["| " + " | ".join([first, *columns]) + " |", "|---" * (1 + len(columns)) + "|"]
    for title, rows in groups:
        cells = []
        for key, digits in columns.values():
            values = [row[key] for row in rows]
            spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.{digits}f}{spread}")
        lines.append("| " + " | ".join([title, *cells]) + " |")
    return lines


def save_curves(path, rows):
    """Plot how many components are in use, and how diagonal the Hessians are, while the models train."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), constrained_layout=True)
    for number, family in enumerate(TITLES):
        for row in (row for row in rows if row["family"] == family):
            kimg, effective, share = zip(*row["history"])
            label = TITLES[family] if row is next(r for r in rows if r["family"] == family) else None
            for axis, values in zip(axes, (effective, share)):
                axis.plot(kimg, values, color=f"C{number}", label=label, marker=".", linewidth=1)
    axes[0].set(xlabel="kimg", ylabel="effective number of components", ylim=(0, None))
    axes[1].set(xlabel="kimg", ylabel="diagonal-ness (energy share)", ylim=(0, 1))
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    run_command(main)

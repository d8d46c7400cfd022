#!/usr/bin/env python
"""Measure models: FID, KID, PPL, and how their latents relate to the true factors of the data, in one table."""

import dataclasses
import os

from experiment_utils import options
from experiment_utils.errors import OptionError, UserError, run_command
from experiment_utils.files import read_json, write_json
from experiment_utils.options import option, positive, power_of_two, random_seed
from progan.options import MetricOptions

EXAMPLES = """
  a model that ships with the project, on the dataset it was trained on
    evaluate.py --model clevr_1fov_16_fs --metrics factors faithfulness activeness diagonalness
  FID and PPL of the latest snapshots of runs 3 and 5 (fetches the weights of InceptionV3 and VGG16 once)
    evaluate.py --model 3 5
  without a network, with the weights in files
    evaluate.py --model 3 --metrics FID KID PPL --inception weights-inception-2015-12-05-6726825d.pth \\
                --vgg vgg16-397923af.pth
"""

FORMAT_VERSION = 1


@dataclasses.dataclass
class EvaluationOptions:
    """Those of what is measured."""

    model: list = option(
        [], "run numbers, paths of snapshots, or names of shipped models", str, nargs="+", metavar="MODEL"
    )
    snapshot_kimg: list = option(
        ["latest"],
        "for run numbers: kimg of the snapshot, or latest; one for all models or one each",
        nargs="+",
        metavar="KIMG",
    )
    metrics: list = option(["FID", "PPL"], "what to compute", nargs="+", metavar="METRIC")
    dataset: str = option(
        None, "name in --data_dir, shipped name, or path of a dataset (default: what each was trained on)", str
    )
    data_dir: str = option("datasets", "where datasets are found, and shipped ones unpacked")
    resolution: int = option(
        None,
        "average images down to this resolution first (default: as each model makes them)",
        int,
        check=power_of_two,
    )
    results_dir: str = option("results", "where run numbers are looked up; their results are written beside the run")
    out_dir: str = option("evaluations", "where results of snapshots go that lie in no run directory")

    minibatch_size: int = option(100, "images to generate at once", check=positive)
    seed: int = option(0, "of all latents", check=random_seed)
    num_gpus: int = option(None, "0: the CPU; 1: a GPU (default: one if there is one)", int, check=options.not_negative)
    num_threads: int = option(0, "CPU threads; 0: all", check=options.not_negative)


@dataclasses.dataclass
class EvaluateOptions(MetricOptions, EvaluationOptions):
    """The flags of evaluate.py, in this order: what is measured, and how."""


def main(argv=None):
    from progan.metrics.evaluation import METRICS, parse_metrics

    described = "\n".join(f"  {name:<13} {metric.help}" for name, metric in METRICS.items())
    chosen = options.parse(EvaluateOptions, __doc__, f"{EXAMPLES.rstrip()}\n\nmetrics:\n{described}", argv)
    chosen.metrics = parse_metrics(chosen.metrics)
    if not chosen.model:
        raise OptionError("--model: which? (a run number, the path of a snapshot, or a shipped model)")

    from progan.inference import count_gpus
    from progan.metrics.features import FeatureWorker
    from progan.models import find_models

    models = find_models(chosen.model, chosen.snapshot_kimg, chosen.results_dir, ("--model", "--snapshot_kimg"))
    if chosen.num_gpus is None:
        chosen.num_gpus = count_gpus(chosen.num_threads)
    records, evaluators = [], {}
    with FeatureWorker(chosen.num_gpus, chosen.num_threads, chosen.inception, chosen.vgg) as worker:
        for name, path in models:  # what is wrong with any of them is said before the first is measured
            records.append(Record(name, path, chosen.out_dir))
            check_place(records)
            evaluator_for(path, chosen, evaluators, worker)
        for record in records:
            evaluate(record, evaluator_for(record.path, chosen, evaluators, worker), chosen)
    print()
    print("\n".join(table([record.name for record in records], [record.values for record in records])))
    for record in records:
        print("\n".join(record.written))


def check_place(records):
    """Raise OptionError where the last of the records would be written over one of the others."""
    *others, last = records
    for other in others:
        if other.written == last.written and other.path != last.path:
            raise OptionError(
                f"--model {last.path}: its results and those of {other.path} would be one file, {last.written[0]}; "
                "evaluate them one by one, with another --out_dir, or rename one"
            )


def evaluator_for(path, chosen, evaluators, worker):
    """Return the Evaluator of a snapshot; `evaluators` keeps one for all that have dataset, resolution and nz alike."""
    from progan.dataset import open_dataset
    from progan.metrics.evaluation import METRICS, Evaluator
    from progan.snapshot import load_snapshot

    snapshot = load_snapshot(path)
    spec, dataset = snapshot.spec, None
    if chosen.resolution is not None:
        if chosen.resolution > spec.resolution:
            raise OptionError(f"--resolution {chosen.resolution}: {path} makes images of {spec.resolution} px")
        spec = dataclasses.replace(spec, resolution=chosen.resolution)
    if any(METRICS[metric].needs for metric in chosen.metrics):
        name = chosen.dataset or snapshot.options.get("flags", {}).get("dataset")
        if name is None:
            raise OptionError(f"--dataset: which one? {path} does not say what it was trained on")
        dataset = open_dataset(name, chosen.data_dir)
    key = dataset and dataset.path, spec.resolution, spec.channels, spec.nz
    if key not in evaluators:
        evaluators[key] = Evaluator(
            dataset,
            spec,
            chosen.metrics,
            num_images=chosen.num_images,
            num_pairs=chosen.num_pairs,
            minibatch=chosen.minibatch_size,
            seed=chosen.seed,
            worker=worker,
        )
    return evaluators[key]


def evaluate(record, evaluator, chosen):
    """Compute every metric of one snapshot; each is written as soon as it is there."""
    from progan.inference import TrainedGenerator
    from progan.metrics.evaluation import at_resolution
    from progan.metrics.factors import save_heat_map
    from progan.snapshot import load_snapshot

    print(f"{record.name}: {', '.join(chosen.metrics)}")
    snapshot = load_snapshot(record.path)
    with TrainedGenerator(snapshot, chosen.num_gpus, chosen.num_threads) as generator:
        sample = generator if chosen.resolution is None else at_resolution(generator, chosen.resolution)
        for result in evaluator.results(sample):
            record.add(result, snapshot.kimg)
            if result.matrices:
                title = f"{record.name} on {result.settings['dataset']}: which z moves which factor"
                save_heat_map(record.heat_map, result.matrices, result.settings["factors"], title)
                record.written.append(record.heat_map)


class Record:
    """What is known of one snapshot, as JSON beside its run: a list with an entry a metric and dataset.

    A metric that is computed again with the same dataset and resolution replaces its entry; the others stay.
    """

    def __init__(self, name, path, out_dir):
        self.name, self.path, self.values = name, path, {}
        directory, file = os.path.split(os.path.abspath(path))
        stem = os.path.splitext(file)[0].replace("network-snapshot", "metrics")
        self._beside_run = os.path.exists(os.path.join(directory, "options.json"))
        if self._beside_run:
            stem = os.path.join(directory, stem)
        else:
            stem = os.path.join(out_dir, f"{name}-metrics")
        self._json, self.heat_map = stem + ".json", stem + "-factors.png"
        self.written = [self._json]
        self._entries = []
        if os.path.exists(self._json):
            self._entries = self._earlier_entries(read_json(self._json))

    def _earlier_entries(self, content):
        entries = content.get("results") if isinstance(content, dict) else None
        whole = isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)
        if not whole or content.get("format_version") != FORMAT_VERSION:
            raise UserError(f"{self._json}: not written by this version of evaluate.py; move it away")
        # Beside a run the file belongs to the snapshot whose kimg it bears, wherever the run has moved to.
        other = content.get("snapshot")
        if not self._beside_run and other != self.path:
            raise UserError(f"{self._json}: holds results of {other}; move it away, or give another --out_dir")
        return entries

    def add(self, result, kimg):
        """Add a Result, and write the file."""
        self.values.update(result.values)
        entry = {"metric": result.metric, "values": result.values, **result.settings}
        entry.update({name: matrix.tolist() for name, matrix in result.matrices.items()})
        same = ("metric", "dataset", "resolution")
        kept = [old for old in self._entries if any(old.get(name) != entry.get(name) for name in same)]
        self._entries = [*kept, entry]
        head = {"format_version": FORMAT_VERSION, "model": self.name, "snapshot": self.path, "kimg": kimg}
        write_json(self._json, dict(head, results=self._entries))


def table(names, columns):
    """Lines with a row a number and a column a model; a component's own activeness is in the JSON only."""
    rows = [row for row in dict.fromkeys(row for values in columns for row in values) if "activeness/z" not in row]
    heads = names if len(names) == 1 else [f"[{number}]" for number in range(1, len(names) + 1)]
    lines = [] if len(names) == 1 else [f"{head} {name}" for head, name in zip(heads, names)]
    width = max(map(len, [*heads, "0" * 9])) + 2
    label = max(map(len, rows))
    lines.append(" " * label + "".join(head.rjust(width) for head in heads))
    for row in rows:
        cells = (number(values[row]) if row in values else "-" for values in columns)
        lines.append(row.ljust(label) + "".join(cell.rjust(width) for cell in cells))
    return lines


def number(value):
    return f"{value:.1f}" if abs(value) >= 1000 else f"{value:.4g}"


if __name__ == "__main__":
    run_command(main)

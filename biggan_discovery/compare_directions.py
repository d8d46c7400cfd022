#!/usr/bin/env python
"""Score discovered directions beside random ones, the axes of z, PCA (GANSpace) and SeFa, in one table.

Which objective found them is read from the options.json of the run that a file lies in; a file outside a run counts as
one of the Hessian Penalty. All sets have as many directions, of length 1 and (but for --no_ortho) orthogonal, and are
measured on the same samples. Where a regressor that reads the data's true factors lies beside the generator, the table
says how purely each direction moves one.
"""

import csv
import dataclasses
import os

from biggan import directions, sources, weights
from experiment_utils import options, runs
from experiment_utils.errors import OptionError, SnapshotError, run_command
from experiment_utils.files import atomic_write, read_json
from experiment_utils.options import option, positive

EXAMPLES = """
  the bundled generator and its directions
    compare_directions.py
  three runs of discover.py with different seeds
    compare_directions.py --load_A results/seed0/A_010000.pt results/seed1/A_010000.pt results/seed2/A_010000.pt
  the objectives of discover.py against each other, two seeds each
    compare_directions.py --load_A results/penalty*/A_010000.pt results/diagonal*/A_010000.pt
  the first 40 directions of published weights, golden retrievers
    compare_directions.py --download 138k --fix_class 207 --load_A goldens.pt --ndirs 40 --device cuda
"""


OBJECTIVES = {"hessian_penalty": "Hessian Penalty", "orojar": "OroJaR penalty", "diagonal": "diagonal objective"}


@dataclasses.dataclass
class CompareOptions(directions.DirectionOptions, weights.GeneratorOptions):
    """The flags of compare_directions.py."""

    load_A: list = option(
        [],
        "direction files, the seeds of one objective or of several (default: those beside the generator)",
        str,
        "+",
        metavar="A",
    )
    regressor: str = option(None, "reads factors off images (default: the one beside the generator)", str)
    baseline_seeds: list = option(
        [0, 1, 2], "of the random directions, and of PCA's samples", nargs="+", check=options.random_seed
    )
    seed: int = option(0, "of the samples that everything is measured on", check=options.random_seed)
    penalty_samples: int = option(512, "to measure the penalty and the diagonal-ness on", check=options.at_least(16))
    epsilon: float = option(0.1, "step of the finite differences", check=positive)
    factor_samples: int = option(32, "sweeps along each direction, to read factors off", check=options.at_least(8))
    factor_steps: int = option(9, "images in such a sweep", check=options.at_least(2))
    extent: float = option(2.0, "such a sweep goes from minus this to this", check=positive)
    val_minibatch_size: int = option(80, "images to generate at once", check=positive)
    out_dir: str = option("comparisons", "where the tables and the plot go")


def main(argv=None):
    chosen = options.parse(CompareOptions, __doc__, EXAMPLES, argv)
    G = weights.from_options(chosen)
    if chosen.fix_class is not None:
        G.check_class(chosen.fix_class, "--fix_class")
    G.check_measurable()
    ours, space = load_directions(chosen, G)

    from biggan import comparison

    regressor = comparison.load_regressor(
        G, chosen.regressor or sources.files_beside(chosen.download or chosen.G_path)[0]
    )

    ndirs = len(next(iter(next(iter(ours.values())).values())))
    print(f"{G.name}: {ndirs} directions in {space}, {chosen.penalty_samples} samples, path_size {chosen.path_size:g}")
    sets, left_out = comparison.baseline_sets(
        G, ndirs, space, chosen.baseline_seeds, chosen.fix_class, chosen.val_minibatch_size
    )
    for reason in left_out:
        print(f"left out: {reason}")
    print(describe(regressor))
    sets = dict(ours, **sets)
    total = sum(map(len, sets.values()))
    with runs.progress(total=total, desc="measuring", unit="set", disable=None) as bar:
        methods = comparison.measure_all(G, sets, protocol(chosen), regressor, bar.update)
    report(G, methods, len(ours), chosen)


def load_directions(chosen, G):
    """Return ({method: {file: Q [ndirs, dim_z]}}, SearchSpace) of --load_A, all of as many directions."""
    paths = chosen.load_A or sources.files_beside(chosen.download or chosen.G_path)[1]
    if not paths:
        raise OptionError(f"--load_A: which directions? ({G.name} has none beside it; discover.py makes some)")
    found = {}
    for path in paths:
        if path in ("random", "coord", "coords"):
            raise OptionError(f"--load_A {path}: is in the table anyway; name files of discovered directions")
        A, space = directions.from_options(dataclasses.replace(chosen, load_A=path), G.dim_z)
        Q = directions.rows(A, space, not chosen.no_ortho)
        Q = Q / Q.norm(dim=1, keepdim=True)  # also without orthonormalisation: steps as long as the others'
        found.setdefault(method_of(path), {})[path] = Q
    counts = sorted({len(Q) for of_method in found.values() for Q in of_method.values()})
    if len(counts) > 1:
        raise OptionError(f"--load_A: files of {counts[0]} and {counts[-1]} directions; add --ndirs {counts[0]}")
    return found, space


def method_of(path):
    """Return the name of the objective that found the directions in a file, by the options.json beside it."""
    beside = os.path.join(os.path.dirname(path), "options.json")
    record = read_json(beside, SnapshotError) if os.path.exists(beside) else {}
    flags = record.get("flags") if isinstance(record, dict) else None
    name = flags.get("objective", "hessian_penalty") if isinstance(flags, dict) else "hessian_penalty"
    return OBJECTIVES.get(name, str(name))


def describe(regressor):
    """One line on the regressor: how well it reads each factor off images that it was not fitted on."""
    if regressor is None:
        return "no regressor beside the generator (or in --regressor), so no scores of true factors"
    words = []
    for info, noise in zip(regressor.factor_info, regressor.noise):
        kind = "R²" if info["kind"] == "continuous" else "accuracy"
        words.append(f"{info['name']} {kind} {regressor.held_out[info['name']]:.3f} (noise {noise:.3f})")
    return "factors, as read on held-out images of the data: " + ", ".join(words)


def protocol(chosen):
    from biggan.comparison import Protocol

    return Protocol(
        samples=chosen.penalty_samples,
        path_size=chosen.path_size,
        epsilon=chosen.epsilon,
        factor_samples=chosen.factor_samples,
        factor_steps=chosen.factor_steps,
        extent=chosen.extent,
        fix_class=chosen.fix_class,
        minibatch=chosen.val_minibatch_size,
        seed=chosen.seed,
    )


def report(G, methods, discovered, chosen):
    """Print the table, and the verdict on each of the discovered methods (the first ones); write CSV files and plot."""
    from biggan import comparison
    from biggan.comparison_plot import save_figure

    print()
    print("\n".join(comparison.table(methods)))
    print("± standard deviation over sets of directions; [standard error of the mean, from the choice of samples]")
    print()
    for ours in methods[:discovered]:
        print(f"Are the directions of the {ours.name} the best?")
        for name, verdict in comparison.verdicts(ours, [other for other in methods if other is not ours]).items():
            print(f"  {comparison.TITLES[name]:<14} {verdict}")
        print()
    stem = os.path.join(chosen.out_dir, G.name + ("" if chosen.fix_class is None else f"-class{chosen.fix_class}"))
    tables = {
        "methods": comparison.method_records(methods),
        "sets": comparison.set_records(methods),
        "directions": comparison.direction_records(methods),
    }
    for name, records in tables.items():
        if records:
            write_csv(f"{stem}-{name}.csv", records)
            print(f"{stem}-{name}.csv")
    save_figure(stem + ".png", methods, f"Directions in {G.name}", discovered)
    print(stem + ".png")


def write_csv(path, records):
    with atomic_write(path, "w") as stream:
        writer = csv.DictWriter(stream, list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)


if __name__ == "__main__":
    run_command(main)

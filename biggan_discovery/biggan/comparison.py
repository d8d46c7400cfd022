"""Numbers by which sets of directions are held against each other, all on the same samples.

    penalty        the Hessian Penalty along the directions (discovery.penalty), lower is better
    energy_share   how diagonal the Hessian is whatever its scale, 0 to 1 (discovery.diagonal_share), higher is better
  and where a regressor reads the data's true factors off images (factor_scores.py):
    purity         mean purity of the directions that move any factor, 0 to 1, higher is better
    moving         how many directions move any factor beyond the regressor's noise
    coverage       how many factors have a direction of their own, higher is better

Standard errors, of a number and of its difference between two methods, come from the jackknife: the samples are in
GROUPS groups, and the number is taken again without each (Efron & Tibshirani 1993, ch. 11). So one rule serves a mean,
a ratio and a purity, and the pairing of samples carries over to differences. Counts (moving, coverage) jump, so that
the jackknife cannot tell their error: they have none.
"""

import dataclasses

import numpy as np

from biggan import baselines, directions, discovery
from biggan.traversal import direction_strips
from experiment_utils.errors import UserError
from factor_scores import FactorRegressor, direction_changes, factor_coverage, purity

GROUPS = 8
COMPARE, SWEEP = 5, 6  # what a draw is for: the last part of its seed
COUNTS = ("moving", "coverage")
BETTER = {"penalty": -1, "energy_share": 1, "purity": 1, "moving": 0, "coverage": 1}  # sign of an improvement

# ----------------------------------------------------------------------------------------------------------------------
# Measuring one set of directions


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What all sets of directions are measured on."""

    samples: int = 512  # for the penalty and the diagonal-ness
    path_size: float = 5.0  # farthest along a direction at which they are measured, as in discovery
    epsilon: float = 0.1  # step of the finite differences
    factor_samples: int = 32  # sweeps along each direction, to read factors off
    factor_steps: int = 9  # images in a sweep, evenly spaced
    extent: float = 2.0  # a sweep goes from -extent to +extent
    fix_class: int = None  # class of all samples; None: drawn
    minibatch: int = 80  # images to generate at once
    seed: int = 0  # of all samples


@dataclasses.dataclass
class Measurements:
    """What was measured of one set of directions.

    energies   float64 [GROUPS, 2]: sums over samples of Σ_i H_ii² and of Σ_{i≠j} H_ij²
    samples    how many there are in a group
    readings   [ndirs, factor_samples, steps, F], the factors along all sweeps; None without a regressor
    regressor  that read them
    """

    energies: np.ndarray
    samples: int
    readings: np.ndarray = None
    regressor: object = None

    def __post_init__(self):
        self._numbers = {}

    def numbers(self, without=None):
        """Return {name: number}, of all samples or of those outside one group."""
        if without not in self._numbers:
            self._numbers[without] = self._take_numbers(without)
        return self._numbers[without]

    def _take_numbers(self, without):
        kept = np.arange(GROUPS) != without
        diagonal, off_diagonal = self.energies[kept].sum(0)
        total = diagonal + off_diagonal
        found = {
            "penalty": 2 * off_diagonal / (self.samples * kept.sum()),
            "energy_share": diagonal / total if total > 0 else float("nan"),
        }
        if self.readings is not None:
            changes = self.changes(without)
            scores = purity(changes, self.regressor.noise)
            found["purity"] = scores[scores > 0].mean() if scores.any() else 0.0
            found["moving"] = float((scores > 0).sum())
            found["coverage"] = float(factor_coverage(changes, self.regressor.noise))
        return found

    def changes(self, without=None):
        """Return float64 [ndirs, F]: how much each direction changes each factor."""
        kept = np.arange(self.readings.shape[1]) % GROUPS != without
        return direction_changes(self.readings[:, kept], self.regressor.factor_info, self.regressor.spread)


def measure(G, Q, protocol, regressor=None):
    """Return the Measurements of directions Q [ndirs, dim_z] in a FrozenGenerator. Equal protocols, equal samples."""
    readings = None if regressor is None else read_sweeps(G, Q, protocol, regressor)
    each = -(-protocol.samples // GROUPS)
    # Drawn, not in turn: where some axes come up once more than others, these must not always be the first ones, as PCA
    # and SeFa put first what changes most.
    axes = discovery.even_axes(GROUPS * each, len(Q), directions.generator(protocol.seed, COMPARE)).view(GROUPS, each)
    energies = np.array([_group_energy(G, Q.to(G.device), protocol, group, axes[group]) for group in range(GROUPS)])
    if not np.isfinite(energies).all():
        far = f"{protocol.path_size:g} of a sample"
        raise UserError(f"{G.name}: gives values that are not finite within {far}; lower --path_size")
    return Measurements(energies, each, readings, regressor)


def _group_energy(G, Q, protocol, group, axes):
    """Sums over a group's samples of Σ_i H_ii² and Σ_{i≠j} H_ij²; `axes` [samples]: whose H_ii each sample measures."""
    samples = len(axes)
    settings = discovery.Settings(
        batch_size=samples, path_size=protocol.path_size, fix_class=protocol.fix_class, seed=protocol.seed
    )
    batch = discovery.draw(G, len(Q), settings, group, COMPARE)
    energy = np.zeros(2)
    for begin in range(0, samples, protocol.minibatch):
        some = slice(begin, begin + protocol.minibatch)
        z, w, y, signs = discovery.part(batch, some, G.device)
        energy += len(z) * np.array(
            discovery.hessian_energy(G, Q, z, w, y, protocol.epsilon, len(signs), signs, axes[some])
        )
    return energy


def read_sweeps(G, Q, protocol, regressor):
    """Return the factors along sweeps of every direction, [ndirs, factor_samples, factor_steps, F]."""
    settings = discovery.Settings(batch_size=protocol.factor_samples, fix_class=protocol.fix_class, seed=protocol.seed)
    z, _, y, _ = discovery.draw(G, len(Q), settings, 0, SWEEP)
    readings = []
    for number in range(len(z)):  # one by one, so that the images of one sample's sweeps are all there is in memory
        one = slice(number, number + 1)
        label = None if y is None else y[one]
        strips = direction_strips(
            G, Q, z[one], label, protocol.extent, protocol.factor_steps, protocol.minibatch, eased=False
        )
        images = strips.reshape(-1, *strips.shape[3:])
        readings.append(regressor.predict(images).reshape(*strips.shape[:3], -1))
    return np.concatenate(readings, axis=1)


def direction_purity(G, Q, protocol, regressor):
    """Return float64 [ndirs]: how purely each direction moves one factor, as compare_directions.py writes it."""
    changes = direction_changes(read_sweeps(G, Q, protocol, regressor), regressor.factor_info, regressor.spread)
    return purity(changes, regressor.noise)


def load_regressor(G, path):
    """Return the FactorRegressor of a file (None: None), which has to read images such as G makes."""
    if path is None:
        return None
    try:
        regressor = FactorRegressor.load(path)
    except ValueError as problem:
        raise UserError(str(problem)) from None
    if regressor.image_shape != G.image_shape:
        raise UserError(f"{path}: reads images of shape {regressor.image_shape}, but {G.name} makes {G.image_shape}")
    return regressor


# ----------------------------------------------------------------------------------------------------------------------
# Summing up


@dataclasses.dataclass
class Method:
    """Sets of directions of one kind: a method's seeds.

    name           "Hessian Penalty"
    labels         of the sets: a file's name, or a seed
    measurements   of the sets
    """

    name: str
    labels: list = dataclasses.field(default_factory=list)
    measurements: list = dataclasses.field(default_factory=list)

    def add(self, label, measurements):
        self.labels.append(label)
        self.measurements.append(measurements)

    def mean(self, without=None):
        """Return {name: mean over the sets}."""
        numbers = [each.numbers(without) for each in self.measurements]
        return {name: float(np.mean([each[name] for each in numbers])) for name in numbers[0]}

    def spread(self):
        """Return {name: standard deviation over the sets}; not-a-number where there is only one."""
        numbers = [each.numbers() for each in self.measurements]
        if len(numbers) == 1:
            return dict.fromkeys(numbers[0], float("nan"))
        return {name: float(np.std([each[name] for each in numbers], ddof=1)) for name in numbers[0]}

    def standard_error(self):
        """Return {name: standard error of the mean that the choice of samples causes}."""
        return jackknife(self.mean)


def baseline_sets(G, ndirs, space, seeds, fix_class=None, minibatch=80):
    """Return ({method: {label: Q}}, reasons): the sets to compare with, and why a method was left out, if one was."""
    sets = {"random": {f"seed {seed}": baselines.random(G, ndirs, space, seed) for seed in seeds}}
    sets["axes of z"] = {"all": baselines.coordinate(G, ndirs, space)}
    reasons = []
    try:
        pca = [baselines.pca(G, ndirs, space, seed, fix_class, minibatch=minibatch) for seed in seeds]
        sets["PCA (GANSpace)"] = {f"seed {seed}": Q for seed, Q in zip(seeds, pca)}
    except UserError as reason:
        reasons.append(f"PCA (GANSpace): {reason}")
    try:
        sets["SeFa"] = {"all": baselines.sefa(G, ndirs, space)}
    except UserError as reason:
        reasons.append(f"SeFa: {reason}")
    return sets, reasons


def measure_all(G, sets, protocol, regressor=None, measured=lambda: None):
    """Return a Method for each of `sets`, {method: {label: Q}}; `measured` is called after each set."""
    methods = []
    for name, of_method in sets.items():
        methods.append(Method(name))
        for label, Q in of_method.items():
            methods[-1].add(label, measure(G, Q, protocol, regressor))
            measured()
    return methods


def jackknife(numbers):
    """Return {name: standard error} of `numbers`, a function of the group left out that returns {name: number}.

    Counts get 0.
    """
    leaving = [numbers(group) for group in range(GROUPS)]
    factor = (GROUPS - 1) / np.sqrt(GROUPS)
    errors = {name: float(factor * np.std([each[name] for each in leaving], ddof=1)) for name in leaving[0]}
    return {name: 0.0 if name in COUNTS else error for name, error in errors.items()}


def compare(ours, other):
    """Return {name: (difference, its standard error)}: by how much `ours` is better than `other` in each number.

    The error is that of the choice of samples, which both share, and of the choice of sets: std²/n of either, where
    there are several.
    """

    def difference(without=None):
        first, second = ours.mean(without), other.mean(without)
        return {name: BETTER[name] * (first[name] - second[name]) for name in first if BETTER[name]}

    error = jackknife(difference)
    found = {}
    for name, value in difference().items():
        between = [(method.spread()[name], len(method.measurements)) for method in (ours, other)]
        variance = error[name] ** 2 + sum(std**2 / n for std, n in between if n > 1)
        found[name] = value, float(np.sqrt(variance))
    return found


def verdicts(ours, others):
    """Return {name: line} that says of each number whether `ours` is the best method, and by what it is decided.

    Against the best of the others; a difference of less than two standard errors counts as none.
    """
    lines = {}
    for name, value in ours.mean().items():
        if not BETTER[name]:
            continue
        best = max(others, key=lambda method: BETTER[name] * method.mean()[name])
        difference, error = compare(ours, best)[name]
        against = f"{number_text(value)} against {number_text(best.mean()[name])} of {best.name}"
        if difference == 0:
            lines[name] = f"level with the best other ({against})"
        elif abs(difference) <= 2 * error:
            lines[name] = f"no clear difference from the best other ({against}; standard error {number_text(error, 2)})"
        else:
            lines[name] = f"{'best' if difference > 0 else 'NOT the best'} ({against})"
    return lines


def number_text(value, digits=3):
    """So many significant digits, or a dash for what there is not."""
    if not np.isfinite(value):
        return "-"
    return f"{value:.{digits}g}" if value == 0 or 1e-3 <= abs(value) < 1e3 else f"{value:.{digits - 1}e}"


# ----------------------------------------------------------------------------------------------------------------------
# Tables


TITLES = {
    "penalty": "penalty",
    "energy_share": "diagonal-ness",
    "purity": "purity",
    "moving": "moving",
    "coverage": "coverage",
}


def table(methods):
    """Return the comparison as lines of text: mean, ± standard deviation over the sets, [standard error]."""
    names = list(methods[0].mean())
    rows = [["", "sets", *[TITLES[name] for name in names]]]
    for method in methods:
        mean, spread, error = method.mean(), method.spread(), method.standard_error()
        cells = [method.name, str(len(method.labels))]
        for name in names:
            cell = number_text(mean[name])
            cell += f" ± {number_text(spread[name], 2)}" if np.isfinite(spread[name]) else ""
            cells.append(cell + ("" if name in COUNTS else f" [{number_text(error[name], 2)}]"))
        rows.append(cells)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def method_records(methods):
    """One {column: value} a method: the mean of each number, its standard deviation over sets, its standard error."""
    records = []
    for method in methods:
        record = {"method": method.name, "sets": len(method.labels)}
        for name, value in method.mean().items():
            record[name] = value
            record[f"{name}_std"] = method.spread()[name]
            if name not in COUNTS:
                record[f"{name}_se"] = method.standard_error()[name]
        records.append(record)
    return records


def set_records(methods):
    """One {column: value} a set of directions."""
    return [
        dict({"method": method.name, "set": label}, **measurements.numbers())
        for method in methods
        for label, measurements in zip(method.labels, method.measurements)
    ]


def direction_records(methods):
    """One {column: value} a direction, its purity, largest factor and all changes; none where no factors were read."""
    records = []
    if methods[0].measurements[0].readings is None:
        return records
    for method in methods:
        for label, measurements in zip(method.labels, method.measurements):
            changes, regressor = measurements.changes(), measurements.regressor
            names = [info["name"] for info in regressor.factor_info]
            scores = purity(changes, regressor.noise)
            for number, (row, score) in enumerate(zip(changes, scores)):
                record = {"method": method.name, "set": label, "direction": number, "purity": score}
                record["factor"] = names[int(row.argmax())] if score > 0 else ""
                record.update({f"change_{name}": change for name, change in zip(names, row)})
                records.append(record)
    return records

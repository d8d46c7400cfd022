"""The comparison as one picture: a panel a number, a row a method, a dot a set of directions."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from biggan.comparison import BETTER

OURS, OTHERS = "#0072B2", "#6b6b6b"  # blue and grey: told apart by everyone (Okabe & Ito 2008), and in print
HEADINGS = {
    "penalty": "penalty",
    "energy_share": "diagonal-ness",
    "purity": "purity of directions that move a factor",
    "moving": "directions that move a factor",
    "coverage": "factors with a direction of their own",
}
ADVICE = {-1: "lower is better", 0: "", 1: "higher is better"}


def comparison_figure(methods, title, discovered=1):
    """Return a figure of the methods (biggan.comparison.Method), the first of which, those discovered, stand out.

    A panel shows each set of directions as a dot, the mean over sets as a bar, and as a line two standard errors of the
    mean either way, as the choice of samples causes them.
    """
    names = list(methods[0].mean())
    columns = min(len(names), 3)
    lines = -(-len(names) // columns)
    size = (1.6 + 3.1 * columns, 0.9 + lines * (0.75 + 0.36 * len(methods)))
    figure, axes = plt.subplots(lines, columns, figsize=size, dpi=150, sharey=True, squeeze=False)
    for axis, name in zip(axes.flat, names):
        _panel(axis, methods, name, discovered)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    key = "dot: a set of directions    bar: mean    line: ± 2 standard errors, from the choice of samples"
    figure.text(0.99, 0.01, key, ha="right", va="bottom", fontsize=8, color=OTHERS)
    figure.tight_layout(rect=(0, 0.03, 1, 0.99))
    return figure


def _panel(axis, methods, name, discovered):
    for row, method in enumerate(methods):
        color = OURS if row < discovered else OTHERS
        values = [each.numbers()[name] for each in method.measurements]
        mean, error = method.mean()[name], 2 * method.standard_error()[name]
        axis.plot([mean - error, mean + error], [row, row], color=color, linewidth=1.5, solid_capstyle="butt")
        axis.plot([mean], [row], marker="|", markersize=15, markeredgewidth=2.5, color=color)
        axis.plot(values, np.full(len(values), row), "o", markersize=5, color=color, alpha=0.55, markeredgewidth=0)
    axis.set_yticks(range(len(methods)))
    axis.set_yticklabels([method.name for method in methods])
    axis.set_ylim(len(methods) - 0.5, -0.5)
    axis.set_title(HEADINGS[name], fontsize=10, loc="left")
    axis.set_xlabel(ADVICE[BETTER[name]], fontsize=8, color=OTHERS)
    end = _largest(methods[0].measurements[0], name) or axis.get_xlim()[1]
    axis.set_xlim(-0.02 * end, 1.03 * end)  # from 0, so that lengths can be compared
    axis.tick_params(labelsize=8, length=0)
    axis.locator_params(axis="x", nbins=4)
    axis.grid(axis="x", color="#dddddd", linewidth=0.8)
    axis.set_axisbelow(True)
    for side in ("top", "right", "left", "bottom"):
        axis.spines[side].set_visible(False)


def _largest(measurements, name):
    """What a number can be at most; None: anything."""
    if name in ("energy_share", "purity"):
        return 1
    if name in ("moving", "coverage"):
        return measurements.readings.shape[0 if name == "moving" else 3]
    return None


def save_figure(path, methods, title, discovered=1):
    """Write the figure as PNG; it appears under its name only when complete."""
    from experiment_utils.files import atomic_write

    figure = comparison_figure(methods, title, discovered)
    try:
        with atomic_write(path) as stream:
            figure.savefig(stream, format="png")
    finally:
        plt.close(figure)

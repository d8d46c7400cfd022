"""The figures of `progan.figures`, drawn with matplotlib for print: a Figure from a list of models."""

import dataclasses

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from experiment_utils.files import atomic_write

# Told apart by everyone (Okabe & Ito 2008); the first two are those of the paper's comparison, vanilla and penalty
COLORS = ("#6b6b6b", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")
STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "pdf.fonttype": 42,  # TrueType: what publishers ask for, and text stays text
    "axes.spines.top": False,
    "axes.spines.right": False,
}
CHANNELS = {1: ("grey",), 3: ("red", "green", "blue")}


@dataclasses.dataclass(frozen=True)
class Model:
    """A model in a figure.

    name, dataset  as they are written there ('' where there is no dataset to tell)
    measured       what its function in `progan.figures` returned
    channels       of its images
    """

    name: str
    dataset: str
    measured: dict
    channels: int = 3


def titles(models, separator="\n"):
    """What to call each: its name, and the dataset's where there are several."""
    if len({model.dataset for model in models}) == 1:
        return [model.name for model in models]
    return [separator.join(filter(None, [model.name, model.dataset])) for model in models]


def draw(fig, models, **options):
    """Return the Figure of `fig` ('hessians', ...) over a list of Models; `options` are those of its function here."""
    with plt.rc_context(STYLE):
        return DRAWINGS[fig](models, **options)


def save(stem, figure, formats=("png", "pdf"), dpi=200):
    """Write STEM.png and STEM.pdf, the same bytes for the same figure; close it; return the paths."""
    paths = []
    with plt.rc_context(STYLE):
        for form in formats:
            paths.append(f"{stem}.{form}")
            metadata = {"CreationDate": None} if form == "pdf" else None
            with atomic_write(paths[-1]) as stream:
                figure.savefig(stream, format=form, dpi=dpi, bbox_inches="tight", pad_inches=0.05, metadata=metadata)
    plt.close(figure)
    return paths


# ----------------------------------------------------------------------------------------------------------------------
# hessians


def hessians_figure(models, shared_scale=False):
    """A column a model, a row a sample: |H_ij| of the image element with the largest penalty.

    Each panel has a scale of its own, unless it is shared by all.
    """
    samples = len(models[0].measured["hessians"])
    figure, axes = plt.subplots(
        samples, len(models), figsize=(2.3 * len(models), 2.02 * samples + 0.3), squeeze=False, constrained_layout=True
    )
    largest = max(np.abs(model.measured["hessians"]).max() for model in models) if shared_scale else None
    for column, (model, title) in enumerate(zip(models, titles(models))):
        for row, hessian in enumerate(model.measured["hessians"]):
            axis = axes[row, column]
            top = largest if shared_scale else max(np.abs(hessian).max(), 1e-12)  # no Hessian at all is black too
            image = axis.imshow(np.abs(hessian), cmap="magma", vmin=0, vmax=top, interpolation="nearest")
            axis.set_title(_pixel_title(model, row), fontsize=6.5, color="#444444", pad=3)
            _component_ticks(axis, len(hessian))
            if not shared_scale:
                _color_bar(figure, image, axis)
        axes[0, column].annotate(
            title, (0.5, 1), (0, 16), "axes fraction", textcoords="offset points", ha="center", fontsize=9
        )
    for row in range(samples):
        axes[row, 0].set_ylabel(f"sample {row}")
    if shared_scale:
        _color_bar(figure, image, axes.ravel().tolist(), "|H$_{ij}$|")
    return figure


def _pixel_title(model, row):
    y, x, channel = model.measured["pixels"][row]
    return f"|H$_{{ij}}$| at row {y}, column {x}, {CHANNELS[model.channels][channel]}"


def _component_ticks(axis, nz):
    step = -(-nz // 12)
    for which in (axis.xaxis, axis.yaxis):
        which.set_ticks(range(0, nz, step))
    axis.tick_params(length=0, labelsize=6)
    for spine in axis.spines.values():
        spine.set_visible(False)


def _color_bar(figure, image, axes, label=None):
    several = isinstance(axes, list)
    size = {"shrink": 0.5, "aspect": 30, "pad": 0.01} if several else {"shrink": 0.9, "fraction": 0.05, "pad": 0.03}
    bar = figure.colorbar(image, ax=axes, **size)
    bar.locator = matplotlib.ticker.MaxNLocator(4)
    bar.update_ticks()
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=6, length=2)
    if label:
        bar.set_label(label)
    return bar


# ----------------------------------------------------------------------------------------------------------------------
# heatmaps


def heatmaps_figure(models, shared_scale=False):
    """Two rows a model, images and their penalties; a column a sample.

    A map's colours go from 0 to its own largest penalty, which is written below it, unless a scale is shared by all.
    """
    samples = len(models[0].measured["images"])
    figure, axes = plt.subplots(
        2 * len(models),
        samples,
        figsize=(1.15 * samples + 0.9, 2.4 * len(models) + 0.1),
        squeeze=False,
        constrained_layout=True,
    )
    figure.set_constrained_layout_pads(w_pad=0.01, h_pad=0.015, wspace=0.01, hspace=0.01)
    largest = max(model.measured["penalties"].max() for model in models)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        for spine in axis.spines.values():
            spine.set_visible(False)
    for model, title, above, below in zip(models, titles(models), axes[0::2], axes[1::2]):
        for axis, image in zip(above, model.measured["images"]):
            gray = image.shape[-1] == 1
            axis.imshow(image[..., 0] if gray else image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        for axis, penalty in zip(below, model.measured["penalties"]):
            shown = penalty if shared_scale else penalty / max(penalty.max(), 1e-30)
            top = largest if shared_scale else 1
            mapped = axis.imshow(shown, cmap="magma", vmin=0, vmax=top, interpolation="nearest")
            axis.set_xlabel(f"max {_short(penalty.max())}", fontsize=7, labelpad=2)
        above[0].set_ylabel(title)
        below[0].set_ylabel("penalty")
    bar = _color_bar(figure, mapped, axes.ravel().tolist(), "penalty")
    if not shared_scale:
        bar.set_ticks([0, 1])
        bar.set_ticklabels(["0", "max"])
    return figure


def _short(number):
    return f"{number:.0f}" if 1000 <= number < 1e6 else f"{number:.3g}"


# ----------------------------------------------------------------------------------------------------------------------
# diag


DIAG_PANELS = {  # title, format, whether it is a share
    "largest_on_diagonal": ("largest |H$_{ij}$| on the diagonal\nshare of pixels", "{:.3f}", True),
    "ratio": ("mean |H$_{ii}$| / mean |H$_{i≠j}$|\nmean over pixels", "{:.2f}", False),
    "energy_share": ("Σ H$_{ii}$² / Σ H$_{ij}$²\nof all pixels together", "{:.3f}", True),
}


def diag_figure(models):
    """A panel for each of the three numbers, a bar a model, with two standard errors over samples and the number."""
    names = titles(models, ", ")
    size = (2.3 * len(DIAG_PANELS) + 0.075 * max(map(len, names)), 0.9 + 0.3 * len(models))
    figure, axes = plt.subplots(1, len(DIAG_PANELS), figsize=size, sharey=True, constrained_layout=True)
    for axis, (name, (title, form, share)) in zip(axes, DIAG_PANELS.items()):
        values = [model.measured["numbers"][name] for model in models]
        errors = [2 * model.measured["standard_errors"][name] for model in models]
        bars = {"color": _colors(models), "xerr": errors, "error_kw": {"lw": 1, "ecolor": "#222222"}}
        axis.barh(range(len(models)), np.nan_to_num(values), 0.65, **bars)
        ends = np.nan_to_num(values) + np.nan_to_num(errors)
        end = 1 if share else max(ends.max(), 1e-12)
        for row, value in enumerate(values):
            axis.text(ends[row] + 0.03 * end, row, form.format(value), va="center", fontsize=7)
        axis.set_xlim(0, 1.25 * max(end, ends.max()))
        axis.set_xticks([0, 0.5, 1] if share else _ticks_to(end))
        axis.set_title(title, loc="left")
        axis.spines["left"].set_visible(False)
        axis.tick_params(axis="y", length=0)
    axes[0].set_yticks(range(len(models)))
    axes[0].set_yticklabels(names, fontsize=8)
    axes[0].set_ylim(len(models) - 0.5, -0.5)
    samples = len(models[0].measured["statistics"]["ratio"])
    axes[-1].set_xlabel(f"lines: ± 2 standard errors, {samples} samples", fontsize=6.5, color="#444444", loc="right")
    return figure


def _ticks_to(end):
    ticks = matplotlib.ticker.MaxNLocator(4).tick_values(0, end)
    return ticks[ticks <= end]


def _colors(models):
    """A colour for each model: that of its name."""
    names = list(dict.fromkeys(model.name for model in models))
    return [COLORS[names.index(model.name) % len(COLORS)] for model in models]


# ----------------------------------------------------------------------------------------------------------------------
# active


def active_figure(models):
    """A panel a dataset, in it a group of bars a model, one bar a component, the most active first."""
    datasets = list(dict.fromkeys(model.dataset for model in models))
    groups = [[model for model in models if model.dataset == dataset] for dataset in datasets]
    widths = [sum(_group_width(model) for model in group) for group in groups]
    figure, axes = plt.subplots(
        1,
        len(groups),
        figsize=(0.7 + sum(widths) + 0.35 * (len(groups) - 1), 2.4),
        gridspec_kw={"width_ratios": widths},
        squeeze=False,
        constrained_layout=True,
    )
    colors = dict(zip([model.name for model in models], _colors(models)))
    for axis, dataset, group in zip(axes[0], datasets, groups):
        _active_panel(axis, group, colors)
        axis.set_title(dataset, fontsize=9)
    axes[0, 0].set_ylabel("activeness")
    return figure


def _group_width(model):
    """Inches: for its bars, and for its name below them."""
    return max(0.085 * (len(model.measured["activeness"]) + 2), 0.075 * max(len(model.name), 13))


def _active_panel(axis, models, colors):
    start, centres = 0.0, []
    for model in models:
        scores = np.sort(model.measured["activeness"])[::-1]
        width = _group_width(model) / 0.085  # of the group, in bars
        x = start + (width - len(scores)) / 2 + np.arange(len(scores)) + 0.5
        axis.bar(x, scores, 0.8, color=colors[model.name])
        centres.append(start + width / 2)
        start += width
    axis.set_xlim(0, start)
    axis.set_xticks(centres)
    axis.set_xticklabels(
        [f"{model.name}\neffective: {model.measured['effective_number']:.1f}" for model in models], fontsize=7
    )
    axis.tick_params(axis="x", length=0)
    axis.locator_params(axis="y", nbins=5)
    axis.ticklabel_format(axis="y", scilimits=(-3, 4))
    axis.grid(axis="y", color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)


DRAWINGS = {"hessians": hessians_figure, "heatmaps": heatmaps_figure, "diag": diag_figure, "active": active_figure}

"""What each of the paper's figures shows of a generator, as numbers. `progan.plots` draws them."""

import dataclasses

import numpy as np

import factor_scores
from experiment_utils import runs
from progan.metrics.activeness import activeness
from progan.metrics.hessian import diagonal_statistics, hessian_entries, penalty_map, standard_errors, summary
from progan.traversal import latent_function

# As published: the pixel is chosen with many directions; a map shows what a training step sees.
DIRECTIONS = {"hessians": 200, "heatmaps": 2}


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to measure.

    epsilon     step of the finite differences
    directions  of the Hessian Penalty; None: `DIRECTIONS`
    extent      activeness: the variance over a component's values {-extent, 0, extent}
    pre_norm    activeness: whether components are overwritten before G normalises, or after
    minibatch   images to generate at once
    seed        of the directions
    """

    epsilon: float = 0.1
    directions: int = None
    extent: float = 2.0
    pre_norm: bool = False
    minibatch: int = 100
    seed: int = 0

    def directions_of(self, fig):
        return DIRECTIONS[fig] if self.directions is None else self.directions


def hessians(sample, z, settings):
    """The Hessian of the image element with the largest penalty, for each latent of z [samples, nz].

    Returns {pixels: int [samples, 3], row, column and channel; penalties: [samples]; hessians: [samples, nz, nz]}
    """
    G, random, found = _floats(sample, settings), np.random.RandomState(settings.seed), []
    for latent in runs.progress(z, desc="hessians", unit="sample", leave=False, disable=None):
        penalties = penalty_map(
            G, latent, random, settings.directions_of("hessians"), settings.epsilon, settings.minibatch
        )
        pixel = np.unravel_index(np.argmax(penalties), penalties.shape)
        hessian = np.empty([len(latent)] * 2)
        for i, j, entry in hessian_entries(G, latent, settings.epsilon, settings.minibatch):
            hessian[i, j] = hessian[j, i] = entry[pixel]
        found.append((pixel, penalties[pixel], hessian))
    return {name: np.array(values) for name, values in zip(("pixels", "penalties", "hessians"), zip(*found))}


def heatmaps(sample, z, settings):
    """Where in the image the penalty is: {images: uint8 [samples, R, R, C], penalties: [samples, R, R]}.

    A pixel's penalty is the largest of its channels'.
    """
    G, random, maps = _floats(sample, settings), np.random.RandomState(settings.seed), []
    for latent in runs.progress(z, desc="heatmaps", unit="sample", leave=False, disable=None):
        penalties = penalty_map(
            G, latent, random, settings.directions_of("heatmaps"), settings.epsilon, settings.minibatch
        )
        maps.append(penalties.max(axis=-1))
    return {"images": sample(z, minibatch=settings.minibatch), "penalties": np.array(maps)}


def diag(sample, z, settings):
    """How diagonal the Hessians are (metrics.hessian): {statistics: {name: [samples]}, numbers, standard_errors}."""
    bar = runs.progress(z, desc="diag", unit="sample", leave=False, disable=None)
    statistics = diagonal_statistics(_floats(sample, settings), bar, settings.epsilon, settings.minibatch)
    return {
        "numbers": summary(statistics),
        "standard_errors": standard_errors(statistics),
        "statistics": statistics,
    }


def active(sample, z, settings):
    """How much each component changes the images: {activeness: [nz], effective_number}.

    As everywhere in the project: latents are normalised first, then a component is overwritten (`latent_function`).
    """
    G, prepare = latent_function(sample, settings.pre_norm)
    scores = activeness(G, prepare(np.float32(z)), settings.extent, settings.minibatch)
    return {"activeness": scores, "effective_number": factor_scores.effective_number(scores)}


def _floats(sample, settings):
    """latents -> images before they are rounded; raw latents, which G normalises, as the penalty regularises them."""
    return lambda latents: sample(latents, minibatch=settings.minibatch, dtype=np.float32)


MEASURES = {"hessians": hessians, "heatmaps": heatmaps, "diag": diag, "active": active}


def settings_of(fig, settings):
    """Return {name: value} of the settings that a figure depends on."""
    if fig == "active":
        return {"seed": settings.seed, "extent": settings.extent, "pre_norm": settings.pre_norm}
    directions = {"directions": settings.directions_of(fig)} if fig in DIRECTIONS else {}
    return dict({"seed": settings.seed, "epsilon": settings.epsilon}, **directions)


def json_value(fig, measured):
    """Return what a measurement gave, as a JSON value; of the maps of penalties, what sums them up."""
    if fig == "heatmaps":
        maps = measured["penalties"].reshape(len(measured["penalties"]), -1)
        peaks = [np.unravel_index(np.argmax(each), each.shape) for each in measured["penalties"]]
        return {
            "mean": maps.mean(axis=1).tolist(),
            "max": maps.max(axis=1).tolist(),
            "max_at_row_and_column": np.array(peaks).tolist(),
            "quantiles_50_90_99": np.quantile(maps, [0.5, 0.9, 0.99], axis=1).T.tolist(),
        }
    return _plain(measured)


def _plain(value):
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    return None if np.isnan(value) else value  # JSON has no nan


# ----------------------------------------------------------------------------------------------------------------------
# The numbers in words


def _hessians_columns(measured):
    energy = np.square(measured["hessians"]).sum(axis=(1, 2))
    diagonal = np.square(np.diagonal(measured["hessians"], axis1=1, axis2=2)).sum(axis=1)
    return {
        "largest penalty": f"{measured['penalties'].mean():.4g}",
        "energy share there": f"{np.mean(diagonal[energy > 0] / energy[energy > 0]):.3f}" if energy.any() else "none",
    }


def _heatmaps_columns(measured):
    penalties = measured["penalties"]
    return {"mean penalty": f"{penalties.mean():.4g}", "largest": f"{penalties.max():.4g}"}


def _diag_columns(measured):
    numbers, errors = measured["numbers"], measured["standard_errors"]
    titles = {"largest_on_diagonal": "largest on diagonal", "ratio": "mean ratio", "energy_share": "energy share"}
    return {title: f"{numbers[name]:.3f} ± {errors[name]:.3f}" for name, title in titles.items()}


def _active_columns(measured):
    scores = np.sort(measured["activeness"])[::-1]
    return {
        "effective": f"{measured['effective_number']:.2f} of {len(scores)}",
        "activeness": " ".join(f"{score:.2g}" for score in scores[:4]) + (" ..." if len(scores) > 4 else ""),
    }


COLUMNS = {
    "hessians": _hessians_columns,
    "heatmaps": _heatmaps_columns,
    "diag": _diag_columns,
    "active": _active_columns,
}


def table(fig, names, measured):
    """Return the lines of a table: a row for each of the models `names`, with what was measured of it."""
    cells = [COLUMNS[fig](each) for each in measured]
    rows = [[fig, *cells[0]], *([name, *row.values()] for name, row in zip(names, cells))]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]

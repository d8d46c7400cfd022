"""Which component of z moves which true factor: scores, matrices and a heat map (DCI, MIG, SAP: factor_scores.py)."""

import os

import numpy as np

import factor_scores
from experiment_utils.errors import DataError
from experiment_utils.files import atomic_write
from progan.traversal import normalized

SAMPLES = 2000  # generated images that factors are read off
MOST_IMAGES = 10000  # of the dataset that the regressor is fitted on

# What a matrix's columns say, for the headings of the heat map.
MATRICES = {
    "importance": "importance (DCI)",
    "information": "share of information (MIG)",
    "separability": "separability (SAP)",
}


def training_images(dataset, resolution):
    """Return the images that a regressor is fitted on, uint8 [N, R, R, C]: all, or the first MOST_IMAGES."""
    return dataset.images(resolution, range(min(len(dataset), MOST_IMAGES)))


def fitted_regressor(dataset, resolution, cache, note=print):
    """Return the FactorRegressor of a dataset with true factors, fitted once and then kept beside it (DatasetCache)."""
    path = cache.path("regressor", [MOST_IMAGES], with_factors=True)
    if os.path.exists(path):
        try:
            return factor_scores.FactorRegressor.load(path)
        except ValueError:  # damaged, or of another version
            pass
    note(f"fitting a regressor of {', '.join(info['name'] for info in dataset.factor_info)} to {dataset.name}")
    images = training_images(dataset, resolution)
    try:
        regressor = factor_scores.FactorRegressor.fit(images, dataset.factors[: len(images)], dataset.factor_info)
    except ValueError as problem:
        raise DataError(f"{dataset.path}: {problem}") from None
    cache.keep(path, regressor.save)
    return regressor


def describe(regressor):
    """One line on how well the regressor reads each factor off images that it was not fitted on."""
    kinds = {"continuous": "R²", "categorical": "accuracy"}
    words = [f"{i['name']} {kinds[i['kind']]} {regressor.held_out[i['name']]:.4f}" for i in regressor.factor_info]
    return "factors, as read off held-out images: " + ", ".join(words)


def latent_scores(sample, nz, regressor, samples=SAMPLES, seed=0, minibatch=100):
    """Return what `factor_scores.latent_factor_scores` does, of the images of `samples` latents drawn from `seed`.

    Codes are the latents as G sees them, normalised: their length does not reach the images.
    """
    z = np.random.RandomState([seed, 2]).standard_normal([samples, nz]).astype(np.float32)
    factors = regressor.predict(sample(z, minibatch=minibatch))
    return factor_scores.latent_factor_scores(normalized(z), factors, regressor.factor_info)


def save_heat_map(path, matrices, names, title):
    """Write the matrices [nz, F] as one PNG, side by side: a row a component, a column a factor, from 0 to 1.

    names   of the factors
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    nz = len(next(iter(matrices.values())))
    width = max(0.62 * len(names), 1.6)
    size = (0.9 + len(matrices) * (width + 0.35), 1.5 + 0.3 * nz)
    figure, axes = plt.subplots(1, len(matrices), figsize=size, dpi=150, sharey=True, squeeze=False)
    for axis, (name, matrix) in zip(axes[0], matrices.items()):
        axis.imshow(matrix, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for row, column in np.ndindex(*np.shape(matrix)):
            value = matrix[row][column]
            color = "white" if value > 0.6 else "black" if value >= 0.05 else "#aaaaaa"
            axis.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=color)
        axis.set_title(MATRICES[name], fontsize=8)
        axis.set_xticks(range(len(names)))
        axis.set_xticklabels(
            names, fontsize=8, rotation=0 if len(names) < 3 else 40, ha="center" if len(names) < 3 else "right"
        )
        axis.set_yticks(range(nz))
        axis.set_yticklabels([f"z{component}" for component in range(nz)], fontsize=8)
        axis.tick_params(length=0)
        for side in axis.spines.values():
            side.set_visible(False)
    figure.suptitle(title, fontsize=9, x=0.02, ha="left")
    figure.tight_layout(rect=(0, 0, 1, 0.98))
    try:
        with atomic_write(path) as stream:
            figure.savefig(stream, format="png")
    finally:
        plt.close(figure)

"""How faithful a ProGAN's images are to a dataset with true factors, and how many of its components are in use."""

import numpy as np

import factor_scores
from progan.traversal import activeness_by_component

GENERATED = 1000  # images that the numbers are about


def faithfulness(generator, dataset, seed=0):
    """Return {name: number} of a TrainedGenerator and the dataset it was trained on.

    effective_number   (Σa)² / Σa² of the components' activeness: about as many of them are in use
    and what `factor_scores.faithfulness` has to say.
    """
    images = dataset.images(generator.spec.resolution, range(len(dataset)))
    generated = generator(np.random.RandomState(seed).standard_normal([GENERATED, generator.spec.nz]))
    activeness = activeness_by_component(generator, generator.spec.nz, seed)
    regressor = factor_scores.FactorRegressor.fit(images, dataset.factors, dataset.factor_info)
    numbers = factor_scores.faithfulness(generated, images, regressor)
    return dict(numbers, effective_number=factor_scores.effective_number(activeness))

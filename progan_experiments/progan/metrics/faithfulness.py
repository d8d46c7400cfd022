"""How faithful generated images are to a dataset with true factors: range covered, distance to the nearest image."""

import numpy as np

from factor_scores import FactorRegressor, effective_number, nearest_image_error, range_coverage
from progan.traversal import activeness_by_component

GENERATED = 1000  # images that the numbers are about


def faithfulness(generator, dataset, seed=0):
    """Return {name: number} that compares a TrainedGenerator's images with those it was trained on.

    effective_number        (Σa)² / Σa² of the components' activeness: about as many of them are in use
    coverage/FACTOR         share of the factor's true range that generated images cover, for continuous factors
    held_out/FACTOR         score of the regressor that reads the factor off images, on images it was not fitted on
    nearest_image_error     mean over generated images of the RMS pixel error (of 255) to the nearest training image,
    nearest_image_baseline  and the same of one half of the training images to the other half
    """
    resolution = generator.spec.resolution
    images = dataset.images(resolution, range(len(dataset)))
    generated = generator(np.random.RandomState(seed).standard_normal([GENERATED, generator.spec.nz]))
    activeness = activeness_by_component(generator, generator.spec.nz, seed)
    regressor = FactorRegressor.fit(images, dataset.factors, dataset.factor_info)
    half = len(images) // 2
    numbers = {
        "effective_number": effective_number(activeness),
        "nearest_image_error": nearest_image_error(generated, images),
        "nearest_image_baseline": nearest_image_error(images[:half], images[half:]),
    }
    for values, info in zip(regressor.predict(generated).T, dataset.factor_info):
        numbers[f"held_out/{info['name']}"] = regressor.held_out[info["name"]]
        if info["kind"] == "continuous":
            numbers[f"coverage/{info['name']}"] = range_coverage(values, *info["range"])
    return numbers

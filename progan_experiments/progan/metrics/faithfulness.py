"""How faithful a ProGAN's images are to a dataset with true factors."""

import numpy as np

import factor_scores

GENERATED = 1000  # images that the numbers are about


def faithfulness(sample, nz, images, regressor, seed=0, minibatch=100):
    """Return what `factor_scores.faithfulness` has to say of the images of latents drawn from `seed`.

    sample   callable: (latents, minibatch=) -> uint8 images      images, regressor   of the dataset
    """
    z = np.random.RandomState(seed).standard_normal([GENERATED, nz])
    return factor_scores.faithfulness(sample(z, minibatch=minibatch), images, regressor)

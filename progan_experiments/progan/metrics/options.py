"""The flags that evaluate.py and train.py share."""

import dataclasses

from experiment_utils.options import option, positive


@dataclasses.dataclass
class MetricOptions:
    """How metrics are computed."""

    num_images: int = option(50000, "images for FID, KID and FD_random", check=positive)
    num_pairs: int = option(100000, "pairs of images for PPL", check=positive)
    inception: str = option(None, "weights of InceptionV3 (default: fetched once), or module:factory", str)
    vgg: str = option(None, "torchvision's weights of VGG16 (default: fetched once), or module:factory", str)

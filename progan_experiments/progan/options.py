"""The flags that several commands share."""

import dataclasses

from experiment_utils.options import option, positive


@dataclasses.dataclass
class ModelOptions:
    """Which models: of visualize.py and figures.py."""

    models: list = option(
        [], "run numbers, paths of snapshots, or names of shipped models", str, nargs="+", metavar="MODEL"
    )
    snapshot_kimgs: list = option(
        ["latest"],
        "for run numbers: kimg of the snapshot, or latest; one for all models or one each",
        nargs="+",
        metavar="KIMG",
    )
    results_dir: str = option("results", "where run numbers are looked up")


@dataclasses.dataclass
class MetricOptions:
    """How metrics are computed: of evaluate.py and train.py."""

    num_images: int = option(50000, "images for FID, KID and FD_random", check=positive)
    num_pairs: int = option(100000, "pairs of images for PPL", check=positive)
    inception: str = option(None, "weights of InceptionV3 (default: fetched once), or module:factory", str)
    vgg: str = option(None, "torchvision's weights of VGG16 (default: fetched once), or module:factory", str)

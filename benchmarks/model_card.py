#!/usr/bin/env python
"""Print the numbers of a model card: what a ProGAN snapshot's images have to do with the dataset it was trained on."""

from experiment_utils import options
from experiment_utils.errors import run_command
from progan.dataset import open_dataset
from progan.inference import TrainedGenerator
from progan.metrics.evaluation import Evaluator
from progan.snapshot import load_snapshot, pretrained_models


def main(argv=None):
    parser = options.make_parser(__doc__, "  model_card.py clevr_1fov_16_fs clevr_1fov_32")
    parser.add_argument("model", help="the path of a snapshot, or the name of a shipped one")
    parser.add_argument("dataset", help="a dataset with true factors")
    parser.add_argument("--data_dir", default="datasets")
    arguments = parser.parse_args(argv)
    snapshot = load_snapshot(pretrained_models().get(arguments.model, arguments.model))
    dataset = open_dataset(arguments.dataset, arguments.data_dir)
    with TrainedGenerator(snapshot) as generator:
        numbers = Evaluator(dataset, snapshot.spec, ["faithfulness", "activeness"]).evaluate(generator)
    print(f"{arguments.model}: {snapshot.kimg:g} kimg, seed {snapshot.options['flags']['seed']}")
    for name, value in sorted(numbers.items()):
        print(f"  {name:36s} {value:.4f}")


if __name__ == "__main__":
    run_command(main)

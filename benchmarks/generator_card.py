#!/usr/bin/env python
"""Print the numbers of a card of train_generator.py: a generator's images beside the dataset that it was trained on."""

import torch

from biggan.images import open_images
from biggan.sources import DEFAULT, files_beside
from biggan.weights import load_generator
from experiment_utils import options
from experiment_utils.errors import run_command
from factor_scores import FactorRegressor, faithfulness
from latent_traversal import to_uint8

GENERATED = 1000  # images that the numbers are about, the classes in turn


def main(argv=None):
    parser = options.make_parser(__doc__, "  generator_card.py clevr_simple_32 --data_dir datasets")
    parser.add_argument("dataset", help="a dataset with true factors: a path, or a name in --data_dir")
    parser.add_argument("--data_dir", default="datasets")
    parser.add_argument("--G_path", default=DEFAULT, help="as for discover.py; a regressor lies beside it")
    arguments = parser.parse_args(argv)
    G = load_generator(arguments.G_path)
    data = open_images(arguments.dataset, arguments.data_dir, G.image_shape[0])
    z = torch.randn(GENERATED, G.dim_z, generator=torch.Generator().manual_seed(0))
    y = torch.arange(GENERATED) % G.num_classes
    images = torch.cat([G(*part) for part in zip(z.split(100), y.split(100))])
    generated = to_uint8(images.permute(0, 2, 3, 1).numpy())
    regressor = FactorRegressor.load(files_beside(arguments.G_path)[0])
    for name, value in sorted(faithfulness(generated, data.images(range(len(data))), regressor).items()):
        print(f"  {name:24s} {value:.4f}")
    for number, info in enumerate(regressor.factor_info):
        if info["kind"] == "categorical":
            read = regressor.predict(generated)[:, number]
            shares = ", ".join(f"{value} {(read == index).mean():.3f}" for index, value in enumerate(info["values"]))
            print(f"  {info['name']}: {shares}")
            if [str(value) for value in info["values"]] == G.class_names:
                print(f"  images that show their class: {(read == y.numpy()).mean():.3f}")


if __name__ == "__main__":
    run_command(main)

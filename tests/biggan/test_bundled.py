"""What ships with the repository: the generator shows what its card says, and its directions are better than chance."""

import os

import pytest
import torch

from biggan import comparison, directions
from biggan.sources import DEFAULT, bundled_generators, files_beside
from biggan.weights import load_generator
from factor_scores import FactorRegressor, range_coverage
from latent_traversal import to_uint8


@pytest.fixture(scope="module")
def G():
    return load_generator()


@pytest.fixture(scope="module")
def beside():
    regressor, paths = files_beside(DEFAULT)
    return FactorRegressor.load(regressor), paths


def test_samples_show_their_class_and_every_factor(G, beside):
    regressor, _ = beside
    draws = torch.Generator().manual_seed(0)
    z, y = torch.randn(600, G.dim_z, generator=draws), torch.arange(600) % G.num_classes
    images = to_uint8(torch.cat([G(*part) for part in zip(z.split(100), y.split(100))]).permute(0, 2, 3, 1).numpy())
    factors = regressor.predict(images)
    info = {each["name"]: (number, each) for number, each in enumerate(regressor.factor_info)}
    number, shape = info["shape"]
    assert G.class_names == [str(value) for value in shape["values"]]
    assert (factors[:, number] == y.numpy()).mean() > 0.75
    for name in ("x", "y"):
        number, place = info[name]
        assert range_coverage(factors[:, number], *place["range"]) > 0.9


def test_directions_are_better_than_random_ones(G, beside):
    """On samples that no direction was learnt on: less penalty, and a more diagonal Hessian."""
    _, paths = beside
    assert len(paths) >= 3
    space = directions.search_space("all", G.dim_z)
    protocol = comparison.Protocol(samples=64, path_size=2.0)

    def mean(name, matrices):
        found = [comparison.measure(G, directions.rows(A, space), protocol).numbers()[name] for A in matrices]
        return sum(found) / len(found)

    learnt = [directions.load(path, space) for path in paths]
    random = [directions.initial("random", G.dim_z, space, seed) for seed in range(3)]
    assert mean("penalty", learnt) < 0.9 * mean("penalty", random)
    assert mean("energy_share", learnt) > mean("energy_share", random)


def test_what_ships_is_small():
    for path in bundled_generators().values():
        assert os.path.getsize(path) <= 5e6

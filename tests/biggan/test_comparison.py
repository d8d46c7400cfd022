"""comparison.py on generators whose Hessians, and whose factors, are known."""

import numpy as np
import planted
import pytest
import torch

from biggan import comparison
from biggan.comparison import Method, Protocol, compare, measure, measure_all, verdicts
from biggan.comparison_plot import comparison_figure, save_figure
from biggan.directions import orthonormalise, search_space
from biggan.frozen import FrozenGenerator

DIM_Z = planted.DIM_Z


class Quadratic:
    """G(z) = zᵀ M_p z / 2 for every pixel p: w -> G(z + wQ) has the Hessian Q M_p Qᵀ everywhere."""

    name, device, dim_z = "quadratic", torch.device("cpu"), DIM_Z

    def __init__(self, pixels=5):
        M = torch.randn(pixels, DIM_Z, DIM_Z, generator=torch.Generator().manual_seed(1))
        self.M = M + M.transpose(1, 2)

    def random_classes(self, count, generator):
        return None

    def __call__(self, z, y=None):
        return torch.einsum("ni,pij,nj->np", z, self.M, z)[:, None, None] / 2


class Reader:
    """Reads the factors off the pictures of `planted.Gauges`, all but without an error."""

    factor_info, noise = planted.INFO, np.array([0.02, 0.02, 0.02])
    spread = np.array([0.6, 0.6, 1 / 3])

    def predict(self, images):
        return planted.read(images)


@pytest.fixture(scope="module")
def gauges():
    return FrozenGenerator(planted.Gauges(), "planted")


def truth(G, Q):
    """(penalty, diagonal-ness) of a Quadratic by their definitions."""
    H = (Q.double() @ G.M.double() @ Q.T.double()).numpy()
    diagonal = (H.diagonal(axis1=1, axis2=2) ** 2).sum()
    return 2 * ((H**2).sum() - diagonal) / len(H), diagonal / (H**2).sum()


def test_penalty_and_energy_share_have_the_values_of_their_definitions():
    G, Q = Quadratic(), planted.rotation(3)[:4]
    estimates = []
    for seed in range(12):
        found = measure(G, Q, Protocol(samples=160, epsilon=0.5, path_size=1, seed=seed, minibatch=13))
        estimates.append((found.numbers(), comparison.jackknife(found.numbers)))
    for name, expected in zip(("penalty", "energy_share"), truth(G, Q)):
        values = np.array([numbers[name] for numbers, _ in estimates])
        error = np.sqrt(np.mean([errors[name] ** 2 for _, errors in estimates]))
        assert 0.6 < error / values.std(ddof=1) < 1.7  # the jackknife's error is the scatter over seeds
        assert abs(values.mean() - expected) < 4 * error / np.sqrt(12) < 0.1 * expected


class Squares:
    """G(z) = z₀² + z₁z₂: along the axes of z, H_00 = 2 and H_12 = 1 are all there is."""

    name, device, dim_z = "squares", torch.device("cpu"), 10

    def random_classes(self, count, generator):
        return None

    def __call__(self, z, y=None):
        return (z[:, 0] ** 2 + z[:, 1] * z[:, 2])[:, None, None, None]


@pytest.mark.parametrize("first", [0, 9])
def test_no_direction_counts_more_than_another(first):
    """16 samples on 10 directions, one of which has all of the diagonal: be it the first one or the last."""
    Q = torch.eye(10).roll(first, 0)
    energies = [measure(Squares(), Q, Protocol(samples=16, epsilon=0.5, seed=seed)).energies for seed in range(100)]
    diagonal, off_diagonal = np.mean(energies, (0, 1)) / 2  # 2 samples a group
    assert diagonal == pytest.approx(4, rel=0.12) and off_diagonal == pytest.approx(2, rel=0.12)


def test_minibatches_do_not_change_the_numbers():
    G, Q = Quadratic(), planted.rotation(3)[:4]
    one, other = (measure(G, Q, Protocol(samples=64, epsilon=0.5, minibatch=size)).numbers() for size in (64, 3))
    assert one == pytest.approx(other, rel=1e-4)


def test_factors_are_scored_along_every_direction(gauges):
    Q = planted.rotation()
    evenly = torch.tensor([[1.0, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
    protocol = Protocol(samples=16, factor_samples=16, factor_steps=5)
    pure, mixed = (measure(gauges, each, protocol, Reader()) for each in (Q[:5], evenly @ Q[:4]))
    changes = pure.changes()
    assert (changes.argmax(1)[:3] == [0, 1, 2]).all() and changes[:3].max(1).min() > 0.5 and changes[3:].max() < 0.02
    numbers = pure.numbers()
    assert numbers["purity"] > 0.9 and numbers["moving"] == 3 and numbers["coverage"] == 3
    numbers = mixed.numbers()
    assert 0.33 < numbers["purity"] < 0.45 and numbers["moving"] == 4 and numbers["coverage"] == 0


def test_means_and_spreads_are_over_sets():
    methods = [Method("ours"), Method("one")]
    G = Quadratic()
    Qs = [planted.rotation(seed)[:4] for seed in range(3)]
    found = [measure(G, Q, Protocol(samples=64, epsilon=0.5)) for Q in Qs]
    for number, each in enumerate(found):
        methods[0].add(f"seed {number}", each)
    methods[1].add("all", found[0])
    penalties = [each.numbers()["penalty"] for each in found]
    assert methods[0].mean()["penalty"] == pytest.approx(np.mean(penalties))
    assert methods[0].spread()["penalty"] == pytest.approx(np.std(penalties, ddof=1))
    assert np.isnan(methods[1].spread()["penalty"])
    records = comparison.set_records(methods)
    assert [record["penalty"] for record in records] == penalties + penalties[:1]
    assert [record["set"] for record in records] == ["seed 0", "seed 1", "seed 2", "all"]
    assert comparison.direction_records(methods) == []


def test_differences_are_taken_on_the_same_samples():
    """Half the Hessian on the same samples: the difference is known far better than either number."""
    G, Q = Quadratic(), planted.rotation(3)[:4]
    protocol = Protocol(samples=64, epsilon=0.5)
    methods = measure_all(G, {"a": {"": Q}, "b": {"": 0.99 * Q}}, protocol)
    difference, error = compare(methods[1], methods[0])["penalty"]
    assert difference == pytest.approx((1 - 0.99**4) * methods[0].mean()["penalty"], rel=0.01)
    assert error < 0.1 * methods[0].standard_error()["penalty"] and difference > 4 * error
    assert compare(methods[0], methods[1])["penalty"][0] == pytest.approx(-difference)


def test_verdicts_are_plain(gauges):
    Q = planted.rotation()[:3]
    mix = torch.tensor([[0.58, 0.58, 0.58], [0.71, -0.71, 0], [0.41, 0.41, -0.82]])
    turned = orthonormalise(mix @ Q)
    protocol = Protocol(samples=128, path_size=1, factor_samples=16, factor_steps=5)
    sets = {"true": {"": Q}, "turned": {"a": turned, "b": -turned}, "random": {"": planted.rotation(9)[:3]}}
    true, turned, random = measure_all(gauges, sets, protocol, Reader())
    lines = verdicts(true, [turned, random])
    assert set(lines) == {"penalty", "energy_share", "purity", "coverage"}
    assert all(line.startswith("best") for line in lines.values()), lines
    lines = verdicts(turned, [true, random])
    assert all(line.startswith("NOT the best") and "of true" in line for line in lines.values()), lines
    assert all(line.startswith("level") for line in verdicts(true, [true, random]).values())
    sets = {
        name: {seed: planted.rotation(seed)[:3] for seed in range(first, first + 4)}
        for name, first in (("a", 1), ("b", 5))
    }
    ours, other = measure_all(gauges, sets, protocol)
    lines = verdicts(ours, [other])
    assert all(line.startswith("no clear difference") for line in lines.values()), lines


def test_baselines_of_all_kinds_and_those_that_cannot_be_had(gauges):
    sets, reasons = comparison.baseline_sets(gauges, 3, search_space("all", DIM_Z), [4, 5])
    assert {name: list(of_method) for name, of_method in sets.items()} == {
        "random": ["seed 4", "seed 5"],
        "axes of z": ["all"],
        "PCA (GANSpace)": ["seed 4", "seed 5"],
        "SeFa": ["all"],
    }
    assert reasons == []
    np.testing.assert_allclose((sets["SeFa"]["all"] * planted.rotation()[:3]).sum(1).abs(), 1, atol=1e-5)

    blind = FrozenGenerator(planted.Unconditional(), "blind")
    sets, reasons = comparison.baseline_sets(blind, 3, search_space("all", DIM_Z), [0])
    assert list(sets) == ["random", "axes of z"]
    assert [reason.split(":")[0] for reason in reasons] == ["PCA (GANSpace)", "SeFa"]
    assert all("blind" in reason for reason in reasons)


def test_the_table_and_the_picture(gauges, tmp_path):
    sets = {
        "Hessian Penalty": {"a": planted.rotation()[:3]},
        "random": {"0": planted.rotation(1)[:3], "1": planted.rotation(2)[:3]},
    }
    methods = measure_all(gauges, sets, Protocol(samples=32, factor_samples=8, factor_steps=3), Reader())
    lines = comparison.table(methods)
    assert lines[0].split() == ["sets", "penalty", "diagonal-ness", "purity", "moving", "coverage"]
    assert lines[1].startswith("Hessian Penalty  1 ") and "±" not in lines[1] and lines[2].count("±") == 5
    figure = comparison_figure(methods, "title")
    shown = [axis for axis in figure.axes if axis.get_visible()]
    headings = [axis.get_title(loc="left").split()[0] for axis in shown]
    assert headings == ["penalty", "diagonal-ness", "purity", "directions", "factors"]
    for axis, name in zip(shown, methods[0].mean()):
        dots = [line.get_xdata() for line in axis.lines if line.get_marker() == "o"]
        assert [list(x) for x in dots] == [[each.numbers()[name] for each in method.measurements] for method in methods]
    save_figure(str(tmp_path / "plot.png"), methods, "title")
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"

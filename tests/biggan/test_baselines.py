"""baselines.py on generators whose first layers are chosen, and against the methods' definitions in NumPy."""

import functools

import numpy as np
import pytest
import torch

from biggan import baselines
from biggan.directions import search_space
from experiment_utils.errors import OptionError, UserError

pca = functools.partial(baselines.pca, pairs=600)
METHODS = (baselines.random, baselines.coordinate, pca, baselines.sefa)
DIM_Z = 9


class Planted:
    """A generator whose first layer is z W' + class offsets, and whose activations are a function f of that."""

    name, device, dim_z = "planted", torch.device("cpu"), DIM_Z

    def __init__(self, W, f=lambda a: a, class_offsets=None):
        self.W, self.f, self.class_offsets = torch.as_tensor(W, dtype=torch.float32), f, class_offsets
        self.num_classes = 0 if class_offsets is None else len(class_offsets)
        self.seen = []

    def random_classes(self, count, generator):
        return torch.randint(self.num_classes, [count], generator=generator) if self.num_classes else None

    def latent_weights(self):
        return self.W

    def early_activations(self, z, y=None):
        self.seen.append((z, y))
        offsets = 0 if y is None else self.class_offsets[y]
        return self.f(z @ self.W.T + offsets)


def planted(singular_values, outputs=30, seed=0):
    """(W [outputs, DIM_Z], its right singular vectors as rows) with the given singular values."""
    random = np.random.RandomState(seed)
    left = np.linalg.qr(random.standard_normal([outputs, outputs]))[0][:, : len(singular_values)]
    right = np.linalg.qr(random.standard_normal([DIM_Z, DIM_Z]))[0].T[: len(singular_values)]
    return left * singular_values @ right, right


def cosines(Q, truth):
    return np.abs((Q.numpy() * truth).sum(1))


SINGULAR_VALUES = np.array([8, 6, 4.5, 3.2, 2.2, 1.5, 1, 0.6, 0.3])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("where, ndirs", [("all", 9), ("all", 4), ("2:6", 3), ("fine", 3)])
def test_rows_are_orthonormal_and_stay_in_the_search_space(method, where, ndirs):
    space = search_space(where, DIM_Z)
    Q = method(Planted(planted(SINGULAR_VALUES)[0]), ndirs, space, seed=3)
    assert Q.shape == (ndirs, DIM_Z) and Q.dtype == torch.float32
    torch.testing.assert_close(Q @ Q.T, torch.eye(ndirs), atol=1e-5, rtol=0)
    outside = [i for i in range(DIM_Z) if not space.begin <= i < space.end]
    assert (Q[:, outside] == 0).all()
    assert torch.equal(Q, method(Planted(planted(SINGULAR_VALUES)[0]), ndirs, space, seed=3))


@pytest.mark.parametrize("method", METHODS)
def test_more_directions_than_dimensions_are_refused(method):
    with pytest.raises(OptionError, match=r"--ndirs 4.*z\[0:3\]"):
        method(Planted(np.eye(DIM_Z)), 4, search_space("coarse", DIM_Z))


def test_sefa_finds_the_right_singular_vectors_in_order():
    W, right = planted(SINGULAR_VALUES)
    np.testing.assert_allclose(cosines(baselines.sefa(Planted(W), 9, search_space("all", DIM_Z)), right), 1, atol=1e-5)


def test_sefa_within_a_search_space_is_sefa_of_those_columns():
    W, _ = planted(SINGULAR_VALUES)
    Q = baselines.sefa(Planted(W), 4, search_space("3:8", DIM_Z))
    right = np.linalg.svd(W[:, 3:8])[2]
    np.testing.assert_allclose(cosines(Q[:, 3:8], right[:4]), 1, atol=1e-5)


def test_sefa_has_a_sign_that_does_not_depend_on_the_solver():
    Q = baselines.sefa(Planted(planted(SINGULAR_VALUES)[0]), 9, search_space("all", DIM_Z)).numpy()
    assert (Q[np.arange(9), np.abs(Q).argmax(1)] > 0).all()


def test_pca_finds_the_components_of_a_linear_generator():
    W, right = planted(SINGULAR_VALUES)
    Q = pca(Planted(W), 9, search_space("all", DIM_Z))
    assert cosines(Q, right).min() > 0.96
    within = pca(Planted(W), 3, search_space("3:8", DIM_Z))
    assert cosines(within[:, 3:8], np.linalg.svd(W[:, 3:8])[2][:3]).min() > 0.96


@pytest.mark.parametrize("outputs", [30, 500])  # fewer than pairs of samples, and more
def test_pca_is_ganspace_by_its_definition(outputs):
    """Against a singular value decomposition and a least-squares regression of the very samples, in float64."""
    G = Planted(planted(SINGULAR_VALUES, outputs)[0], f=lambda a: torch.tanh(a) + 0.3 * torch.relu(a[:, :1]) * a)
    Q = baselines.pca(G, 5, search_space("all", DIM_Z), pairs=300, minibatch=70)
    assert max(len(z) for z, _ in G.seen) == 70
    z = [torch.cat([z for z, _ in G.seen[member::2]]).double() for member in (0, 1)]  # of each pair
    x = (G.f(z[0] @ G.W.T.double()) - G.f(z[1] @ G.W.T.double())).numpy()
    z = (z[0] - z[1]).numpy()
    scores = x @ np.linalg.svd(x, full_matrices=False)[2].T
    U = np.linalg.lstsq(scores[:, :20], z, rcond=None)[0]  # [components, dim_z]
    expected = np.linalg.qr(U[:5].T)[0].T
    np.testing.assert_allclose(cosines(Q, expected), 1, atol=1e-4)


def test_pca_sees_past_the_classes_and_the_rest_of_z():
    """Activations that mostly say which class it is, and what z outside the search space is."""
    W, _ = planted(SINGULAR_VALUES)
    W[:, :3] *= 50
    offsets = 300 * torch.randn(7, len(W), generator=torch.Generator().manual_seed(0))
    expected = np.linalg.svd(W[:, 3:])[2][:3]
    Q = pca(Planted(W, class_offsets=offsets), 3, search_space("3:9", DIM_Z))
    assert cosines(Q[:, 3:], expected).min() > 0.96
    G = Planted(W, class_offsets=offsets)
    baselines.pca(G, 3, search_space("3:9", DIM_Z), fix_class=5, pairs=20)
    assert all((y == 5).all() for _, y in G.seen)
    G = Planted(W, class_offsets=offsets)
    baselines.pca(G, 3, search_space("3:9", DIM_Z), pairs=200)
    assert len(torch.cat([y for _, y in G.seen]).unique()) == 7


def test_pca_completes_what_the_activations_do_not_show():
    W, right = planted(SINGULAR_VALUES[:2])
    Q = pca(Planted(W), 6, search_space("all", DIM_Z))
    assert cosines(Q[:2], right).min() > 0.97
    torch.testing.assert_close(Q @ Q.T, torch.eye(6), atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", [pca, baselines.sefa])
def test_a_search_space_that_the_first_layers_do_not_see(method):
    W, _ = planted(SINGULAR_VALUES)
    W[:, 6:] = 0
    with pytest.raises(UserError, match=r"planted.*z\[6:9\]"):
        method(Planted(W), 2, search_space("fine", DIM_Z))


def test_random_directions_point_everywhere():
    space = search_space("2:6", DIM_Z)
    Q = torch.stack([baselines.random(None, 3, space, seed=seed)[:, 2:6] for seed in range(400)])
    assert not torch.equal(Q[0], Q[1])
    np.testing.assert_allclose(Q.mean(0), 0, atol=0.1)
    np.testing.assert_allclose(np.einsum("sni,snj->nij", Q, Q) / 400, np.tile(np.eye(4) / 4, (3, 1, 1)), atol=0.05)


def test_coordinates_are_axes_spread_over_the_search_space():
    space = search_space("3:8", DIM_Z)
    assert torch.equal(baselines.coordinate(None, 2, space), torch.eye(DIM_Z)[[3, 5]])
    assert torch.equal(baselines.coordinate(None, 5, space), torch.eye(DIM_Z)[3:8])

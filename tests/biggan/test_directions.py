"""directions.py against Gram-Schmidt row by row, and the files that people have."""

import math
import os
import pickle

import numpy as np
import pytest
import torch

from biggan import directions
from biggan.directions import DirectionOptions, SearchSpace, orthonormalise, search_space
from experiment_utils.errors import OptionError, UserError


def gram_schmidt(A):
    """The definition: each row loses its components along the earlier ones, and is normalised."""
    rows = []
    for row in A:
        for q in rows:
            row = row - (row @ q) * q
        rows.append(row / row.norm())
    return torch.stack(rows)


def random_matrix(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# ----------------------------------------------------------------------------------------------------------------------
# Orthonormalisation


@pytest.mark.parametrize("n, d", [(1, 1), (1, 5), (4, 9), (7, 7), (40, 120), (60, 60)])
@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_gram_schmidt_with_its_gradient(n, d, seed):
    A = random_matrix(n, d, seed=seed)
    cotangent = random_matrix(n, d, seed=seed + 100)
    results = []
    for function in (gram_schmidt, orthonormalise):
        leaf = A.clone().requires_grad_()
        Q = function(leaf)
        results.append((Q.detach(), torch.autograd.grad(Q, leaf, cotangent)[0]))
    (Q, gradient), (our_Q, our_gradient) = results
    torch.testing.assert_close(our_Q, Q, rtol=0, atol=1e-11)
    torch.testing.assert_close(our_gradient, gradient, rtol=0, atol=1e-10 * float(gradient.abs().max() + 1))
    torch.testing.assert_close(our_Q @ our_Q.T, torch.eye(n, dtype=torch.float64), rtol=0, atol=1e-12)


def test_the_last_row_of_a_square_matrix_gets_no_rounding_errors():
    """The others determine it. Adam would make full steps of what is left of its gradient in float32."""
    A = random_matrix(20, 20, dtype=torch.float32).requires_grad_()
    (gradient,) = torch.autograd.grad(orthonormalise(A), A, random_matrix(20, 20, seed=1, dtype=torch.float32))
    assert (gradient[-1] == 0).all() and (gradient[:-1].abs().max(1).values > 1e-3).all()


def spoilt(change):
    A = random_matrix(5, 8, dtype=torch.float32)
    change(A)
    return A


def repeat(A):
    A[3] = 2 * A[1]


def combine(A):
    A[3] = A[0] - 3 * A[2]


def erase(A):
    A[3] = 0


def poison(A):
    A[3, 2] = math.nan


@pytest.mark.parametrize("change", [repeat, combine, erase, poison])
def test_rows_without_a_direction_of_their_own_are_refused(change):
    with pytest.raises(UserError, match=r"^direction 3 of A is not finite, or a combination of those before it"):
        orthonormalise(spoilt(change))


def test_more_rows_than_dimensions_are_refused():
    with pytest.raises(UserError, match="5 directions in a space of 4 dimensions"):
        orthonormalise(random_matrix(5, 4))


def test_small_and_nearly_parallel_rows_are_not_refused():
    A = random_matrix(6, 9)
    A[4] = A[1] + 1e-2 * A[4]
    A *= torch.tensor([[1e-12], [1], [1e12], [1], [1e-6], [1]], dtype=torch.float64)
    Q = orthonormalise(A.float())
    torch.testing.assert_close(Q.double(), gram_schmidt(A.float().double()), rtol=0, atol=1e-3)
    torch.testing.assert_close(Q @ Q.T, torch.eye(6), rtol=0, atol=1e-5)


# ----------------------------------------------------------------------------------------------------------------------
# Search spaces


@pytest.mark.parametrize(
    "text, dim_z, bounds",
    [
        ("all", 120, (0, 120)),
        ("coarse", 120, (0, 40)),
        ("mid", 120, (40, 80)),
        ("fine", 120, (80, 120)),
        ("20:60", 120, (20, 60)),
        ("coarse", 140, (0, 46)),
        ("mid", 140, (46, 93)),
        ("fine", 140, (93, 140)),
        ("3:4", 4, (3, 4)),
    ],
)
def test_search_spaces(text, dim_z, bounds):
    assert search_space(text, dim_z) == SearchSpace(*bounds, dim_z)


@pytest.mark.parametrize("text", ["middle", "20", "20:", "60:20", "5:5", "-2:5", "100:121", "a:b", "1:2:3", ""])
def test_other_search_spaces_are_refused(text):
    with pytest.raises(OptionError, match=f"^--search_space {text}: "):
        search_space(text, 120)


def test_a_generator_too_small_for_thirds():
    with pytest.raises(OptionError, match=r"--search_space coarse: z\[0:0\] is no part of z, which has 2 components"):
        search_space("coarse", 2)


@pytest.mark.parametrize("ortho", [True, False])
def test_rows_are_zero_outside_the_search_space(ortho):
    A = random_matrix(3, 4, dtype=torch.float32)
    Q = directions.rows(A, search_space("5:9", 12), ortho)
    assert Q.shape == (3, 12)
    assert torch.equal(Q[:, 5:9], orthonormalise(A) if ortho else A)
    assert (Q[:, :5] == 0).all() and (Q[:, 9:] == 0).all()


# ----------------------------------------------------------------------------------------------------------------------
# First values


def test_random_directions_are_kaiming_normal():
    """N(0, 2 / columns): mean, variance and kurtosis within four standard errors."""
    A = directions.initial("random", 100, search_space("all", 200), seed=3)
    assert A.shape == (100, 200) and A.dtype == torch.float32
    standard = A.double() / math.sqrt(2 / 200)
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (4, 3, 96)):
        assert abs((standard**power).mean() - moment) < 4 * math.sqrt(variance / A.numel())


def test_random_directions_are_a_function_of_the_seed():
    space = search_space("coarse", 30)
    first, again, other = (directions.initial("random", 7, space, seed) for seed in (5, 5, 6))
    assert torch.equal(first, again) and not torch.isclose(first, other).any()


@pytest.mark.parametrize("kind", ["coord", "coords"])
def test_axes(kind):
    assert torch.equal(directions.initial(kind, 3, search_space("mid", 12), seed=0), torch.eye(4)[:3])


def test_more_directions_than_the_search_space_has_dimensions():
    with pytest.raises(OptionError, match=r"--ndirs 41: the search space z\[40:80\] has 40 dimensions"):
        directions.initial("random", 41, search_space("mid", 120), seed=0)


# ----------------------------------------------------------------------------------------------------------------------
# Files


def test_saved_directions_are_a_plain_tensor(tmp_path):
    A = random_matrix(4, 6, dtype=torch.float32)
    path = str(tmp_path / "new" / "A_000007.pt")
    directions.save(path, A.clone().requires_grad_())
    for loaded in (torch.load(path), torch.load(path, weights_only=True)):
        assert type(loaded) is torch.Tensor and loaded.dtype == torch.float32 and not loaded.requires_grad
        assert torch.equal(loaded, A)
    assert torch.equal(directions.load(path, search_space("all", 6)), A)
    assert os.listdir(str(tmp_path / "new")) == ["A_000007.pt"]


def test_a_part_of_a_larger_tensor_is_saved_alone(tmp_path):
    path = str(tmp_path / "A.pt")
    directions.save(path, torch.zeros(1000, 1000)[:2, :3])
    assert os.path.getsize(path) < 10000


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", [torch.Tensor, torch.nn.Parameter])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width, search", [(120, "all"), (40, "coarse"), (40, "fine")])
def test_published_direction_files_load(tmp_path, width, search, dtype, kind, zipped):
    """120×120 or 40×40, from the PyTorch of 2020 (one pickle after another) or a later one (a zip)."""
    A = random_matrix(width, width).to(dtype)
    path = str(tmp_path / "goldens.pt")
    torch.save(kind(A), path, _use_new_zipfile_serialization=zipped)
    loaded = directions.load(path, search_space(search, 120))
    assert type(loaded) is torch.Tensor and loaded.dtype == torch.float32 and not loaded.requires_grad
    assert torch.equal(loaded, A.float())


@pytest.mark.parametrize(
    "A, search, said",
    [
        (torch.ones(5, 40), "all", r"its directions are 40 wide, .* z\[0:120\] is 120 wide; .* coarse or mid or fine"),
        (torch.ones(5, 120), "mid", r"its directions are 120 wide, .* z\[40:80\] is 40 wide; .* --search_space all"),
        (torch.ones(5, 50), "all", "its directions are 50 wide, .* BEGIN:END"),
        (torch.ones(5, 128), "all", "its directions are 128 wide, .* another generator: z has 120 components"),
        (torch.ones(121, 120), "all", "121 directions in a space of 120 dimensions"),
        (torch.full([2, 120], math.inf), "all", "not finite"),
        (torch.eye(3, 120).roll(1, 0) * torch.tensor([[0.0], [1.0], [1.0]]), "all", "direction 0 is zero"),
        (torch.ones(120), "all", r"holds a tensor of shape \(120,\)"),
        (torch.ones(2, 120, dtype=torch.int64), "all", "one floating-point matrix"),
        (torch.ones(0, 120), "all", r"shape \(0, 120\)"),
        ({"A": torch.ones(120, 120)}, "all", "holds a .*[Dd]ict"),
    ],
)
def test_other_contents_are_refused(tmp_path, A, search, said):
    path = str(tmp_path / "A.pt")
    torch.save(A, path)
    with pytest.raises(UserError, match=f"^{path}: .*{said}"):
        directions.load(path, search_space(search, 120))


def test_the_wrong_width_where_a_third_is_empty(tmp_path):
    directions.save(tmp_path / "A.pt", torch.ones(1, 3))
    with pytest.raises(UserError, match=r"A.pt: its directions are 3 wide, .* another generator: z has 2 components"):
        directions.load(tmp_path / "A.pt", search_space("all", 2))


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_malicious_file_is_refused_and_not_executed(tmp_path):
    path, trace = str(tmp_path / "A.pt"), str(tmp_path / "executed")
    torch.save(Attack(trace), path)
    with pytest.raises(UserError, match=path):
        directions.load(path, search_space("all", 120))
    with open(path, "wb") as stream:
        pickle.dump(Attack(trace), stream)
    with pytest.raises(UserError, match=path):
        directions.load(path, search_space("all", 120))
    assert not os.path.exists(trace)


def test_missing_and_truncated_files(tmp_path):
    path = str(tmp_path / "A.pt")
    with pytest.raises(UserError, match=path):
        directions.load(path, search_space("all", 120))
    directions.save(path, torch.ones(120, 120))
    with open(path, "r+b") as stream:
        stream.truncate(30000)
    with pytest.raises(UserError, match=path):
        directions.load(path, search_space("all", 120))


# ----------------------------------------------------------------------------------------------------------------------
# Flags


@pytest.mark.parametrize(
    "flags, shape, bounds",
    [
        ({}, (120, 140), (0, 140)),
        ({"search_space": "mid"}, (47, 47), (46, 93)),
        ({"ndirs": 3, "search_space": "20:60"}, (3, 40), (20, 60)),
        ({"load_A": "coords", "ndirs": 5}, (5, 140), (0, 140)),
    ],
)
def test_directions_of_the_flags(flags, shape, bounds):
    A, space = directions.from_options(DirectionOptions(**flags), dim_z=140, seed=4)
    assert A.shape == shape and space == SearchSpace(*bounds, 140)
    kind = flags.get("load_A", "random")
    assert torch.equal(A, directions.initial(kind, shape[0], space, seed=4))


def test_directions_of_a_file(tmp_path):
    """--ndirs takes the first ones: Gram-Schmidt makes the same of them whatever follows."""
    path = str(tmp_path / "A.pt")
    A = random_matrix(6, 9, dtype=torch.float32)
    directions.save(path, A)
    for ndirs, expected in ((None, A), (4, A[:4]), (6, A)):
        loaded, space = directions.from_options(DirectionOptions(load_A=path, ndirs=ndirs), dim_z=9)
        assert torch.equal(loaded, expected) and space.width == 9
    torch.testing.assert_close(orthonormalise(A[:4]), orthonormalise(A)[:4])
    with pytest.raises(OptionError, match=f"--ndirs 7: {path} has 6 directions"):
        directions.from_options(DirectionOptions(load_A=path, ndirs=7), dim_z=9)


def test_draws_depend_on_every_number():
    numbers = [(1, 2, 3), (1, 3, 2), (1, 2), (1, 2, 4), (2**32 - 1, 2, 3)]
    drawn = np.array([torch.randn(4, generator=directions.generator(*each)).numpy() for each in numbers])
    assert len(np.unique(drawn.round(6), axis=0)) == len(numbers)


def test_a_last_row_that_comes_to_lie_among_the_others():
    """The only direction left is still found in float32, and its gradient is that of an A without the trouble."""
    torch.manual_seed(3)
    A = torch.randn(6, 6, dtype=torch.float64)
    A[-1] = A[:-1].sum(0)  # exactly among them
    weights = torch.randn(6, 6, dtype=torch.float64)
    Q = orthonormalise(A.float())
    torch.testing.assert_close(Q @ Q.T, torch.eye(6), atol=1e-5, rtol=0)
    easy = A.clone()
    easy[-1] = Q[-1].double()
    gradients = []
    for each in (A.float(), easy):
        each.requires_grad_()
        (orthonormalise(each) * weights.to(each)).sum().backward()
        gradients.append(each.grad.double())
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-4, rtol=1e-4)
    assert not gradients[0][-1].any()
    assert torch.equal(orthonormalise(torch.tensor([[-2.0]])), torch.tensor([[-1.0]]))

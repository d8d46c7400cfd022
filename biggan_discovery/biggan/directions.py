"""The matrix A whose rows are the directions: first values, orthonormalisation, search spaces, files.

A is what is learnt and saved, as it is: [ndirs, width], the width being that of the search space, a range of z's
components. What moves z is Q [ndirs, dim_z]: the rows of A orthonormalised, with zeros outside the search space.

    space = search_space("coarse", G.dim_z)
    A = initial("random", 40, space, seed=0)
    Q = rows(A, space)                          # z + w @ Q moves the sample z by w[i] along direction i
"""

import dataclasses
import math
import os
import re

import numpy as np
import torch

from experiment_utils import inert_pickle
from experiment_utils.errors import OptionError, UserError
from experiment_utils.files import atomic_write
from experiment_utils.options import not_negative, option, positive

DEFAULT_NDIRS = 120
INITIAL_A = 1  # what a draw is for: the last part of its seed

# ----------------------------------------------------------------------------------------------------------------------
# Search spaces


@dataclasses.dataclass(frozen=True)
class SearchSpace:
    """The components begin..end-1 of z, which has dim_z of them."""

    begin: int
    end: int
    dim_z: int

    @property
    def width(self):
        return self.end - self.begin

    def __str__(self):
        return f"z[{self.begin}:{self.end}]"


def search_space(text, dim_z):
    """Return the SearchSpace of a flag's value: all, or a third (coarse, mid, fine: 40 of 120 each), or BEGIN:END.

    A BigGAN feeds the chunks of z to its layers one after another, so the first third governs what is coarse. Where
    dim_z is no multiple of 3, the bounds are rounded down. Raises OptionError.
    """
    thirds = [dim_z * i // 3 for i in range(4)]
    named = {"all": (0, dim_z), "coarse": thirds[0:2], "mid": thirds[1:3], "fine": thirds[2:4]}
    try:
        begin, end = named[text] if text in named else map(int, text.split(":"))
    except ValueError:
        raise OptionError(f"--search_space {text}: neither {', '.join(named)}, nor BEGIN:END such as 20:60") from None
    if not 0 <= begin < end <= dim_z:
        raise OptionError(f"--search_space {text}: z[{begin}:{end}] is no part of z, which has {dim_z} components")
    return SearchSpace(begin, end, dim_z)


# ----------------------------------------------------------------------------------------------------------------------
# From A to Q


def orthonormalise(A):
    """Return Q [n, d]: Gram-Schmidt of the rows of A [n, d] from the first to the last, each of length 1.

    A QR decomposition of the transpose is unique up to the signs on R's diagonal, which Gram-Schmidt has positive; put
    right, it is the same map, with the same gradient, at a hundredth of the time. Raises UserError where a row is (to
    A's precision) a combination of those before it, as there is no such Q then; but for the last row of a square A,
    which has to say no more than the sign of the only direction left.
    """
    n, d = A.shape
    if n > d:
        raise UserError(f"{n} directions in a space of {d} dimensions cannot be orthonormal: at most {d} can")
    if n == d:
        A = _with_a_safe_last_row(A)
    Q, R = torch.linalg.qr(A.T)
    diagonal = torch.diagonal(R)
    with torch.no_grad():
        lost = ~(diagonal.abs() > 4 * d * torch.finfo(A.dtype).eps * A.norm(dim=1))  # not-a-number counts as lost
        if lost.any():
            row = int(lost.nonzero()[0])
            raise UserError(
                f"direction {row} of A is not finite, or a combination of those before it: it cannot be orthonormalised"
            )
    return (Q * torch.sign(diagonal)).T


@torch.no_grad()
def _last_direction(A):
    """Return the unit vector that is orthogonal to all rows of a square A but the last, on that one's side."""
    complement = torch.linalg.qr(A[:-1].T, mode="complete")[0][:, -1]
    return torch.where(complement @ A[-1] < 0, -complement, complement) + 0 * A[-1].sum()  # not-a-number stays


def _with_a_safe_last_row(A):
    """Return a square A with another last row that has the same Q, and the same gradient, without rounding errors.

    The other rows determine the last direction but for its sign, so that the last row's own gradient is 0. As they
    turn it can come to lie among them, all but; Q would then be a matter of rounding, and gradients of its reciprocal.
    """
    return torch.cat([A[:-1], _last_direction(A)[None]])


def rows(A, space, ortho=True):
    """Return Q [ndirs, dim_z] of A [ndirs, width]: orthonormal rows (or A's own), and zeros outside the search space.

    Differentiable. Raises UserError where A cannot be orthonormalised.
    """
    Q = orthonormalise(A) if ortho else A
    return torch.nn.functional.pad(Q, (space.begin, space.dim_z - space.end))


# ----------------------------------------------------------------------------------------------------------------------
# Where A comes from, and where it goes


def initial(kind, ndirs, space, seed):
    """Return A [ndirs, width], float32, to begin with.

    kind    "random": Kaiming-normal (He et al. 2015), N(0, 2/width), drawn from the seed; "coord" or "coords": the axes
    Raises OptionError where the search space has fewer dimensions than there are to be directions.
    """
    if ndirs > space.width:
        raise OptionError(f"--ndirs {ndirs}: the search space {space} has {space.width} dimensions, so at most as many")
    if kind in ("coord", "coords"):
        return torch.eye(ndirs, space.width)
    draws = generator(seed, INITIAL_A)
    return torch.randn(ndirs, space.width, generator=draws) * math.sqrt(2 / space.width)


def generator(*numbers):
    """Return a CPU torch.Generator that depends on all of the (non-negative) numbers, and on nothing else."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(seed)


def save(path, A):
    """Write A as it is, not orthonormalised, atomically: a float32 tensor that plain `torch.load(path)` reads."""
    with atomic_write(path) as stream:
        torch.save(A.detach().to("cpu", torch.float32).clone(), stream)


def load(path, space):
    """Return the A [ndirs, width], float32, of a file of this project's or of the published ones.

    Nothing in the file is executed. Raises UserError where it holds anything else than one finite matrix as wide as
    the search space.
    """
    A = inert_pickle.load_pth(path)
    if not torch.is_tensor(A) or A.dim() != 2 or 0 in A.shape or not A.is_floating_point():
        found = f"a tensor of shape {tuple(A.shape)}" if torch.is_tensor(A) else f"a {type(A).__name__}"
        raise UserError(f"{path}: holds {found}; a direction file is one floating-point matrix [ndirs, width]")
    ndirs, width = A.shape
    if width != space.width:
        raise UserError(
            f"{path}: its directions are {width} wide, the search space {space} is {space.width} wide; "
            + _width_hint(width, space.dim_z)
        )
    if ndirs > width:
        raise UserError(f"{path}: {ndirs} directions in a space of {width} dimensions; there are at most {width}")
    if not torch.isfinite(A).all():
        raise UserError(f"{path}: some of its numbers are not finite")
    still = (A.float().square().sum(1) == 0).nonzero()
    if len(still):
        raise UserError(f"{path}: direction {int(still[0])} is zero, and leads nowhere")
    return A.detach().to(torch.float32).contiguous()


def name_of(path):
    """Return what a direction file is called in other files' names: its own name, after its run's if it is A_STEP."""
    folder, name = os.path.split(os.path.abspath(path))
    name = os.path.splitext(name)[0]
    return f"{os.path.basename(folder)}-{name}" if re.match(r"^A_\d+$", name) else name


def _width_hint(width, dim_z):
    if width == dim_z:
        return "they fit --search_space all"
    thirds = []
    if dim_z >= 3:  # with fewer, a third may be empty
        thirds = [name for name in ("coarse", "mid", "fine") if search_space(name, dim_z).width == width]
    if thirds:
        return f"they fit --search_space {' or '.join(thirds)}"
    if width < dim_z:
        return "name the part of z that they are for: --search_space BEGIN:END"
    return f"they are for another generator: z has {dim_z} components here"


# ----------------------------------------------------------------------------------------------------------------------
# Flags


@dataclasses.dataclass
class DirectionOptions:
    """The flags about directions that the commands share."""

    load_A: str = option("random", "directions to start from: random, coord (the axes of z), or a file", metavar="A")
    ndirs: int = option(
        None,
        f"directions (default: those of the file, or {DEFAULT_NDIRS}, or as many as the search space has dimensions)",
        int,
        check=positive,
    )
    search_space: str = option("all", "part of z to move in: all, coarse, mid, fine (thirds), or BEGIN:END as in 20:60")
    path_size: float = option(5.0, "how far along a direction to go, at most", check=positive)
    no_ortho: bool = option(False, "take the rows of A as they are, neither orthogonal nor of length 1")
    fix_class: int = option(
        None, "take samples of this class only (ImageNet: 207 golden retriever, 497 church)", int, check=not_negative
    )


def from_options(chosen, dim_z, seed=0):
    """Return (A [ndirs, width], SearchSpace) of DirectionOptions for a generator of dim_z. Raises UserError."""
    space = search_space(chosen.search_space, dim_z)
    if chosen.load_A in ("random", "coord", "coords"):
        return initial(chosen.load_A, chosen.ndirs or min(DEFAULT_NDIRS, space.width), space, seed), space
    A = load(chosen.load_A, space)
    if chosen.ndirs is not None and chosen.ndirs > len(A):
        raise OptionError(f"--ndirs {chosen.ndirs}: {chosen.load_A} has {len(A)} directions")
    return A[: chosen.ndirs], space

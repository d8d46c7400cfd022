"""Directions to hold the discovered ones against: drawn, axes of z, and two that are read off a generator.

All have one signature, (G, ndirs, space, seed, fix_class), and return Q [ndirs, dim_z], float32: orthonormal rows, zero
outside the search space. G is a FrozenGenerator. Raises OptionError where the search space has fewer dimensions than
there are to be directions.
"""

import torch

from biggan.directions import generator as seeded
from biggan.directions import initial, rows
from experiment_utils.errors import OptionError, UserError

NEGLIGIBLE = 1e-6  # share of the largest variance below which a principal component is rounding error
PCA_DRAWS, RANDOM_DRAWS = 2, 3  # what a draw is for: the last part of its seed


def random(G, ndirs, space, seed=0, fix_class=None):
    """Rows of a random rotation, every rotation of the search space being as likely. Does not look at G."""
    _check(ndirs, space)
    return rows(torch.randn(ndirs, space.width, generator=seeded(seed, RANDOM_DRAWS)), space)


def coordinate(G, ndirs, space, seed=0, fix_class=None):
    """ndirs axes of the search space, evenly spread over it. Looks neither at G nor at the seed.

    Not the first ones: where z is hierarchical they belong to the coarse layers.
    """
    axes = initial("coord", max(ndirs, space.width), space, seed)  # refuses more than there are
    chosen = [index * space.width // ndirs for index in range(ndirs)]
    return rows(axes[chosen], space)


def pca(G, ndirs, space, seed=0, fix_class=None, pairs=2000, minibatch=80):
    """Principal components of G's early activations, carried over to z: GANSpace (Härkönen et al. 2020, Sec. 3.2).

    z is regressed on a sample's coordinates x in the components, least squares: z ≈ U x. The columns of U, restricted
    to the search space and orthonormalised in the order of explained variance, are the directions.

    Everything is taken from `pairs` of samples that share their class and z outside the search space, as the difference
    of the two: it has (twice) the covariances that the search space causes within a class, where plain samples would
    put first what tells classes apart, or what the rest of z does. Should the activations have fewer components than
    ndirs, random directions orthogonal to theirs complete the set.

    fix_class  class of all samples; None: drawn for each pair
    minibatch  samples at a time. The differences are kept: pairs · features · 4 bytes (0.8 GB for BigGAN at 128 px).
    Raises UserError where the activations do not depend on the search space.
    """
    _check(ndirs, space)
    draws = seeded(seed, PCA_DRAWS)
    first = torch.randn(pairs, space.dim_z, generator=draws)
    second = first.clone()
    second[:, space.begin : space.end] = torch.randn(pairs, space.width, generator=draws)
    y = G.random_classes(pairs, draws)
    y = y if fix_class is None else torch.full_like(y, fix_class)
    activations = _differences(G, first, second, y, minibatch)
    z = (first - second)[:, space.begin : space.end].double()

    # With activations = E·√λ·Vᵀ, x = E·√λ, and the columns of zᵀx(xᵀx)⁻¹ = zᵀE/√λ point where zᵀE and zᵀ·activations·V
    # do. Of the two Gram matrices, whose eigenvectors are E and V, the smaller one is decomposed.
    many = activations.shape[1] > pairs
    gram = activations @ activations.T if many else activations.T @ activations
    variances, vectors = torch.linalg.eigh(gram.double())
    if not variances[-1] > 0:
        raise UserError(f"{G.name}: its early activations do not depend on {space}, so PCA has no directions there")
    vectors = vectors.flip(1)[:, variances.flip(0) > NEGLIGIBLE * variances[-1]]
    U = vectors.T @ (z if many else activations.double().T @ z)
    extra = torch.randn(ndirs, space.width, generator=draws).double()
    return rows(torch.cat([U, extra])[:ndirs], space).float()


def sefa(G, ndirs, space, seed=0, fix_class=None):
    """Eigenvectors of WᵀW, largest eigenvalues first, W being all that z is multiplied with: SeFa (Shen & Zhou 2021).

    They move the first activations furthest for a step of length 1 (their Eq. 5). Does not look at the seed. Raises
    UserError where nothing depends on the search space.
    """
    _check(ndirs, space)
    W = G.latent_weights()[:, space.begin : space.end].double().cpu()
    values, vectors = torch.linalg.eigh(W.T @ W)
    if not values[-1] > 0:
        raise UserError(f"{G.name}: no weight of its first layers applies to {space}, so SeFa has no directions there")
    vectors = vectors.T.flip(0)[:ndirs]
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    return rows(vectors * largest.sign(), space).float()  # eigenvectors have no sign: one that machines agree on


def _check(ndirs, space):
    if ndirs > space.width:
        raise OptionError(f"--ndirs {ndirs}: the search space {space} has {space.width} dimensions, so at most as many")


@torch.no_grad()
def _differences(G, first, second, y, minibatch):
    """float32 [N, features] on the CPU: the early activations of `first` less those of `second`, both [N, dim_z]."""
    parts = []
    for begin in range(0, len(first), minibatch):
        some = slice(begin, begin + minibatch)
        classes = None if y is None else y[some].to(G.device)
        one, other = (G.early_activations(z[some].to(G.device), classes) for z in (first, second))
        parts.append((one - other).flatten(1).float().cpu())
    return torch.cat(parts)

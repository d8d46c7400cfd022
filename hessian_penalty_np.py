"""The Hessian Penalty (Peebles et al. 2020, arXiv 2008.10599) in NumPy: the one to read first.

It measures any function; for gradients take the file for PyTorch, TensorFlow or JAX.

    from hessian_penalty_np import hessian_penalty
    G = lambda z: z[:, 0] * z[:, 1]
    hessian_penalty(G, np.random.randn(16, 2), k=1000)   # about 4 = 2·(1² + 1²)

The penalty is small where the Hessian of G with respect to the latent code z is diagonal, that is,
where each component of z acts regardless of the others. For one element of G(z) with Hessian H, and
v a vector of independent random signs (Rademacher), it is

    Var_v(vᵀHv) = 2 · Σ_{i≠j} H_ij²

estimated from k draws of v, separate ones for each sample, by the unbiased variance of

    vᵀHv ≈ (G(z + εv) − 2 G(z) + G(z − εv)) / ε²            (Equation 5)

Keep one ε when you compare: on piecewise linear (ReLU) networks the penalty changes with it. The
published TensorFlow code used the biased variance: multiply a weight that was tuned with it by
(k − 1)/k. Half precision inside G is not noticed, only in its outputs. More: docs/penalty.md.
"""

import collections
import contextlib
import warnings
import weakref
from typing import Any, Callable, List, Optional, Sequence, Union

import numpy as np

Generator = Callable[..., Union[np.ndarray, Sequence[np.ndarray]]]

# --------------------------------------------------------------------------------------------------
# The penalty: its computation (helpers are in the sections below)


def hessian_penalty(
    G: Generator, z: np.ndarray, k: int = 2, epsilon: float = 0.1, reduction: Callable = np.max,
    G_z: Any = None, *, directions: Optional[np.ndarray] = None, **G_kwargs: Any
) -> Any:  # fmt: skip
    """Estimate the Hessian Penalty of G at z, summed over G's activations if it returns several.

    Args:
        G: Function of an array like z, and of G_kwargs, which is called 2k times. It returns one
            array or a list of arrays, of any shapes [N, ...]. Draw random numbers that it needs
            once, and pass them as a keyword argument.
        z: Latent codes, floating point, [N, ...].
        k: Number of directions, at least 2.
        epsilon: Step of the finite differences, in units of z.
        reduction: Takes an activation's penalties, one for each element, to a number.
        G_z: Ignored, since G(z) cancels. It is there so that older calls keep working.
        directions: The directions v, [k, N, ...] of +1 and −1, instead of random ones.

    Raises:
        ValueError: For an argument outside these bounds.
    """
    z = _check_latents(z, epsilon)
    v = _get_directions(directions, k, z)
    _look_once(G, z, G_kwargs)

    x = z.dtype.type(epsilon) * v
    passes = [_activations(G, at, G_kwargs) for x_i in x for at in (z + x_i, z - x_i)]
    penalties = []
    for outputs in _zip(passes):
        plus, minus = outputs[0::2], outputs[1::2]
        # Equation 5, less the same for the first direction: the terms −2 G(z) cancel
        vHv = [((p - plus[0]) + (m - minus[0])) / epsilon**2 for p, m in zip(plus, minus)]
        penalties.append(reduction(np.var(vHv, axis=0, ddof=1)))
    return sum(penalties)


def _activations(G, z, G_kwargs):
    """Run G once, and return its activations as copies: G may fill the same array again."""
    outputs = G(z, **G_kwargs)
    outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    outputs = [np.array(output) for output in outputs]
    for output in outputs:
        if output.shape[:1] != z.shape[:1]:
            found = f"z is {z.shape}, the output is {output.shape}"
            raise ValueError(f"G must return the batch axis of z first: {found}")
        if np.result_type(output, np.float32) != output.dtype:
            problem = "for its differences to count"
            raise ValueError(f"G must compute in float32 or float64 {problem}, got {output.dtype}")
    return outputs


# --------------------------------------------------------------------------------------------------
# A number to log beside the penalty

Diagonalness = collections.namedtuple("Diagonalness", "ratio standard_error")


def diagonalness(
    G: Generator, z: np.ndarray, epsilon: float = 0.1, k: int = 1, return_separately: bool = False,
    *, axes: Optional[np.ndarray] = None, **G_kwargs: Any
) -> Union[Diagonalness, List[Diagonalness]]:  # fmt: skip
    """Estimate how diagonal G's Hessian is, whatever its scale: mean |H_aa| / mean |H_ab|, a ≠ b.

    About √2 where components are mixed at random, infinite for a diagonal Hessian, and meaningless
    where G is linear. Unlike the penalty, it does not change when activations shrink.

    Args:
        k: Number of random pairs (a, b) for each sample. The means are over these, elements and
            samples, from central differences in 1 + 6k passes. All steps have the length √2 ε,
            since on piecewise linear networks a second difference depends on it.
        return_separately: Return a list with one result per activation, not their mean ratio.
        axes: The pairs, integers [k, N, 2], indices of z's flattened components.

    The other arguments and the errors are those of `hessian_penalty`; z has at least 2 components.

    Returns:
        Diagonalness(ratio, standard_error). The standard error is that from the choice of samples
        (delta method), nan for a single sample.
    """
    z = _check_latents(z, epsilon)
    axes = _get_axes(axes, k, z)
    N, size = len(z), z[0].size
    _look_once(G, z, G_kwargs)

    latents = [z]
    for a, b in np.moveaxis(axes, 2, 1):  # 4 H_ab = uᵀHu − wᵀHw with u = e_a + e_b, w = e_a − e_b
        e_a, e_b = (np.eye(size, dtype=z.dtype)[axis].reshape(z.shape) for axis in (a, b))
        for step in (2**0.5 * e_a, e_a + e_b, e_a - e_b):
            latents += [z + epsilon * step, z - epsilon * step]
    ratios, residuals = [], []
    for center, *outputs in _zip([_activations(G, at, G_kwargs) for at in latents]):
        bends = np.reshape(outputs, (k, 3, 2, N, -1)) - center.reshape(N, -1)
        along_a, along_u, along_w = np.moveaxis(bends.sum(axis=2), 1, 0)
        H_aa = along_a / (2 * epsilon**2)
        H_ab = (along_u - along_w) / (4 * epsilon**2)
        diagonal, off_diagonal = (np.abs(H).mean(axis=(0, 2)) for H in (H_aa, H_ab))  # [N]
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios.append(diagonal.mean() / off_diagonal.mean())
            residuals.append((diagonal - ratios[-1] * off_diagonal) / off_diagonal.mean())

    def standard_error(residual):
        return np.sqrt(np.sum(residual**2) / (N * (N - 1))) if N > 1 else np.nan

    if return_separately:
        return [Diagonalness(ratio, standard_error(r)) for ratio, r in zip(ratios, residuals)]
    # All activations are of the same samples, so that their errors do not average out
    return Diagonalness(np.mean(ratios), standard_error(np.mean(residuals, axis=0)))


# --------------------------------------------------------------------------------------------------
# Checks of arguments


def _check_latents(z, epsilon):
    """Return z in at least float32: half precision is too coarse for differences."""
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive, got {epsilon}")
    z = np.asarray(z)
    if not np.issubdtype(z.dtype, np.floating) or z.ndim == 0:
        found = f"{z.dtype} of shape {z.shape}"
        raise ValueError(f"z must be a floating-point array with a batch axis, got {found}")
    return z.astype(np.result_type(z, np.float32), copy=False)


def _get_directions(directions, k, z):
    """Return random signs for every sample, [k, N, ...], or check those given."""
    if k < 2:
        raise ValueError(f"k must be at least 2, for a variance of k values, got {k}")
    expected = (k, *z.shape)
    if directions is None:
        directions = np.random.choice([-1, 1], size=expected)
    v = np.asarray(directions, dtype=z.dtype)
    if v.shape != expected:
        raise ValueError(f"directions must have shape [k, *z.shape] = {expected}, got {v.shape}")
    if np.any(np.abs(v) != 1):
        raise ValueError(f"directions must be +1 or -1 in every entry, got {v[np.abs(v) != 1][0]}")
    return v


def _get_axes(axes, k, z):
    """Return k pairs of components for each sample, integers [k, N, 2], or check those given."""
    if k < 1:
        raise ValueError(f"k must be at least 1 (it is the number of pairs of components), got {k}")
    N, size = len(z), z[0].size
    if size < 2:
        raise ValueError(f"z must have at least two components to be compared, got {size}")
    if axes is None:
        a = np.random.randint(size, size=(k, N))
        return np.stack([a, (a + np.random.randint(1, size, size=(k, N))) % size], axis=2)
    axes = np.asarray(axes)
    if axes.shape != (k, N, 2) or not np.issubdtype(axes.dtype, np.integer):
        found = f"{axes.dtype} {axes.shape}"
        raise ValueError(f"axes must be integers of shape [k, N, 2] = {(k, N, 2)}, got {found}")
    wrong = axes[(axes[..., 0] == axes[..., 1]) | np.any((axes < 0) | (axes >= size), axis=2)]
    if len(wrong):
        problem = f"from 0 to {size - 1}, got {tuple(wrong[0].tolist())}"
        raise ValueError(f"axes must be pairs of different components {problem}")
    return axes


def _zip(passes):
    """Zip the activations of all passes, of which there must be as many in each."""
    counts = sorted({len(outputs) for outputs in passes})
    if len(counts) > 1:
        problem = f"got {counts[0]} and {counts[-1]}"
        raise ValueError(f"G must return as many activations in every pass, {problem}")
    return zip(*passes)


# --------------------------------------------------------------------------------------------------
# The first look at a generator

_SEEN = weakref.WeakSet()  # generators, or the code of those that are Python functions


def _look_once(G, z, G_kwargs):
    code = getattr(G, "__code__", G)
    with contextlib.suppress(TypeError):  # a G that cannot be remembered
        if code not in _SEEN:
            check_generator(G, z, **G_kwargs)
            _SEEN.add(code)


def check_generator(G: Generator, z: np.ndarray, **G_kwargs: Any) -> None:
    """Warn if G gives other outputs when it is called again with the same latents.

    The arguments are those of `hessian_penalty`. G runs twice on two samples, or on all of them if
    it fails on two.
    """
    state = np.random.get_state()
    for few in (z[:2], z):
        try:
            first = _activations(G, few, G_kwargs)
            cause = "it keeps state, or draws from a generator of its own; pass what changes"
            if repr(np.random.get_state()) != repr(state):
                cause = "it draws from NumPy's random generator; draw once, and pass the numbers"
            second = _activations(G, few, G_kwargs)
        except Exception:  # whatever G raises here; the penalty's own passes will show it
            continue
        finally:
            np.random.set_state(state)
        tolerances = [1000 * np.finfo(a.dtype).eps * np.max(np.abs(a)) for a in first]
        if any(np.any(np.abs(a - b) > t) for a, b, t in zip(first, second, tolerances)):
            problem = "other outputs when it is called again with the same latents"
            message = f"G gives {problem}, which would be taken for curvature: {cause}"
            warnings.warn(f"{message} as a keyword argument", stacklevel=4)
        return

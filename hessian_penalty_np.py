"""The Hessian Penalty (Peebles et al. 2020, arXiv 2008.10599) in NumPy: the estimator to read, and to copy anywhere.

A generator G is disentangled, in this paper's sense, when its Hessian with respect to the latent code z is diagonal:
then each component of z acts regardless of the others. For one element of G(z) with Hessian H, and v a vector of
independent random signs (Rademacher), the penalty is

    Var_v(vᵀHv) = 2 · Σ_{i≠j} H_ij²

estimated from k draws of v, each sample with its own, by the unbiased variance of central second differences

    vᵀHv ≈ (G(z + εv) − 2 G(z) + G(z − εv)) / ε²            (Equation 5)

    from hessian_penalty_np import hessian_penalty
    G = lambda z: z[:, 0] * z[:, 1]
    hessian_penalty(G, np.random.randn(16, 2), k=1000)   # about 4 = 2·(1² + 1²)

The rounding error grows as 1/ε⁴, and on piecewise linear (ReLU) networks the value itself changes with ε: keep one ε
when comparing. The published TensorFlow code used the biased variance: multiply a weight λ tuned with it by (k − 1)/k
(at k = 2, λ = 0.1 becomes 0.05). The first time a call meets a G, it runs G twice more, on two samples, and warns where
the outputs differ. Half precision inside G is not noticed here, as it is in the other frameworks: only its outputs are
looked at.
"""

import collections
import warnings
import weakref

import numpy as np

OPTIONS_ABOUT_GRADIENTS = ("select", "batched", "memory", "chunk_size", "exact", "batch_kwargs")


def hessian_penalty(G, z, k=2, epsilon=0.1, reduction=np.max, G_z=None, *, directions=None, **G_kwargs):
    """The Hessian Penalty of G at z, summed over G's activations if it returns several.

    :param G: function of an array like z, and of G_kwargs; returns one array or a list or tuple of arrays, of any
        shapes whose first axis is z's batch. It is called 2k times. If it needs random numbers (dropout, noise), draw
        them once and pass them as a keyword argument, so that every call sees the same.
    :param z: floating-point array [N, ...] of latent codes.
    :param k: number of directions, at least 2.
    :param epsilon: step of the finite differences.
    :param reduction: takes an array of penalties, one for each element of an activation, to a number.
    :param G_z: ignored: G(z) cancels in the variance. It is there so that older calls keep working.
    :param directions: the directions v to use, an array [k, N, ...] of +1 and −1, instead of drawing them from NumPy's
        global generator.
    :param G_kwargs: passed on to G.
    :raises ValueError: for arguments outside these bounds, and for options that the other frameworks' files have about
        gradients, which NumPy does not compute.
    """
    if k < 2:
        raise ValueError(f"k must be at least 2 (it is the number of values in a variance), got {k}")
    z = _check_inputs(z, epsilon, G_kwargs)
    if directions is None:
        directions = np.random.choice([-1, 1], size=(k, *z.shape))
    directions = np.asarray(directions, dtype=z.dtype)
    if directions.shape != (k, *z.shape):
        raise ValueError(f"directions must have shape [k, *z.shape] = {(k, *z.shape)}, got {directions.shape}")
    if np.any(np.abs(directions) != 1):
        raise ValueError(f"directions must be +1 or -1 in every entry, got {directions[np.abs(directions) != 1][0]}")

    _look_once(G, z, G_kwargs)
    x = z.dtype.type(epsilon) * directions  # the perturbations εv
    passes = [_activations(G, latents, G_kwargs) for x_i in x for latents in (z + x_i, z - x_i)]
    _check_counts(passes)

    penalties = []
    for outputs in zip(*passes):
        plus, minus = outputs[0::2], outputs[1::2]
        # Equation 5 relative to its first value, in which G(z) cancels: the same variance, fewer rounding errors
        vHv = [((plus_i - plus[0]) + (minus_i - minus[0])) / epsilon**2 for plus_i, minus_i in zip(plus, minus)]
        penalties.append(reduction(np.var(vHv, axis=0, ddof=1)))
    return sum(penalties)


Diagonalness = collections.namedtuple("Diagonalness", "ratio standard_error")


def diagonalness(G, z, epsilon=0.1, k=1, return_separately=False, *, axes=None, **G_kwargs):
    """How diagonal G's Hessian is, whatever its scale: mean |H_aa| / mean |H_ab|, a ≠ b, over elements and samples.

    About √2 where components are mixed at random, infinite for a diagonal Hessian; meaningless where G is linear. To
    tell a penalty that falls because activations shrink (this stays) from one that falls because the Hessian becomes
    diagonal (this rises).

    Both means are over k random pairs (a, b) for each sample, in 1 + 6k passes. All steps have the length √2 ε, since
    on piecewise linear networks a second difference grows as its step shrinks: H_aa from a step along e_a, and
    4 H_ab = uᵀHu − wᵀHw from steps along u = e_a + e_b and w = e_a − e_b.

    :param G, z, epsilon, G_kwargs: those of hessian_penalty; z of at least two components.
    :param k: number of pairs for each sample.
    :param return_separately: return a list with a Diagonalness for each activation instead of the mean of their ratios.
    :param axes: the pairs to use, integers [k, N, 2] that index z's flattened components, instead of drawing them.
    :return: Diagonalness(ratio, standard_error). The standard error is that from the choice of samples (delta method),
        nan for a single one.
    :raises ValueError: for arguments outside these bounds.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1 (it is the number of pairs of components), got {k}")
    z = _check_inputs(z, epsilon, G_kwargs)
    axes = _check_axes(axes, k, z)
    N, size = len(z), z[0].size

    _look_once(G, z, G_kwargs)
    passes = [_activations(G, z, G_kwargs)]
    for a, b in np.moveaxis(axes, 2, 1):
        e_a, e_b = (np.eye(size, dtype=z.dtype)[axis].reshape(z.shape) for axis in (a, b))
        for step in (2**0.5 * e_a, e_a + e_b, e_a - e_b):
            passes += [_activations(G, latents, G_kwargs) for latents in (z + epsilon * step, z - epsilon * step)]
    _check_counts(passes)

    ratios, residuals = [], []
    for center, *outputs in zip(*passes):
        outputs = np.reshape(outputs, (k, 3, 2, N, -1))  # pair, step, sign, sample, element
        along_a, along_u, along_w = ((step - center.reshape(N, -1)).sum(axis=1) for step in np.moveaxis(outputs, 1, 0))
        H_aa, H_ab = along_a / (2 * epsilon**2), (along_u - along_w) / (4 * epsilon**2)
        diagonal, off_diagonal = (np.abs(H).mean(axis=(0, 2)) for H in (H_aa, H_ab))  # [N]
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios.append(diagonal.mean() / off_diagonal.mean())
            residuals.append((diagonal - ratios[-1] * off_diagonal) / off_diagonal.mean())

    def standard_error(residual):
        return np.sqrt(np.sum(residual**2) / (N * (N - 1))) if N > 1 else np.nan

    if return_separately:
        return [Diagonalness(ratio, standard_error(residual)) for ratio, residual in zip(ratios, residuals)]
    # The same samples serve all activations, so that their errors do not average out.
    return Diagonalness(np.mean(ratios), standard_error(np.mean(residuals, axis=0)))


_SEEN = weakref.WeakSet()  # generators, or the code of those that are Python functions


def _look_once(G, z, G_kwargs):
    code = getattr(G, "__code__", G)
    try:
        if code not in _SEEN:
            check_generator(G, z, **G_kwargs)
            _SEEN.add(code)
    except TypeError:  # a G that cannot be remembered
        pass


def check_generator(G, z, **G_kwargs):
    """Warn if G gives other outputs when it is called again with the same latents. The parameters are the penalty's."""
    state = np.random.get_state()
    for few in (z[:2], z):
        try:
            first = _activations(G, few, G_kwargs)
            cause = "it keeps state, or draws from a generator of its own; pass what changes"
            if repr(np.random.get_state()) != repr(state):
                cause = "it draws from NumPy's random generator; draw once, and pass the numbers"
            second = _activations(G, few, G_kwargs)
        except Exception:  # whatever G raises on so few samples: the penalty's own passes will tell
            continue
        finally:
            np.random.set_state(state)
        tolerances = [1000 * np.finfo(output.dtype).eps * np.max(np.abs(output)) for output in first]
        if any(np.any(np.abs(a - b) > tolerance) for a, b, tolerance in zip(first, second, tolerances)):
            problem = "G gives other outputs when it is called again with the same latents, which would be taken for"
            warnings.warn(f"{problem} curvature: {cause} as a keyword argument", stacklevel=4)
        return


def _check_inputs(z, epsilon, G_kwargs):
    """z in at least float32: half precision is too coarse for differences."""
    for name in OPTIONS_ABOUT_GRADIENTS:
        if name in G_kwargs:
            raise ValueError(
                f"{name} is about gradients, which NumPy does not compute: it is for PyTorch, TensorFlow and JAX"
            )
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive, got {epsilon}")
    z = np.asarray(z)
    if not np.issubdtype(z.dtype, np.floating) or z.ndim == 0:
        raise ValueError(f"z must be a floating-point array with a batch axis, got {z.dtype} of shape {z.shape}")
    return z.astype(np.result_type(z, np.float32), copy=False)


def _check_axes(axes, k, z):
    """Pairs of components for each sample, integers [k, N, 2]: those given, or random ones."""
    N, size = len(z), z[0].size
    if size < 2:
        raise ValueError(f"z must have at least two components for a Hessian to be diagonal or not, got {size}")
    if axes is None:
        a = np.random.randint(size, size=(k, N))
        return np.stack([a, (a + np.random.randint(1, size, size=(k, N))) % size], axis=2)
    axes = np.asarray(axes)
    if axes.shape != (k, N, 2) or not np.issubdtype(axes.dtype, np.integer):
        raise ValueError(f"axes must be integers of shape [k, N, 2] = {(k, N, 2)}, got {axes.dtype} of {axes.shape}")
    wrong = axes[(axes[..., 0] == axes[..., 1]) | np.any((axes < 0) | (axes >= size), axis=2)]
    if len(wrong):
        raise ValueError(
            f"axes must be pairs of different components from 0 to {size - 1}, got {tuple(wrong[0].tolist())}"
        )
    return axes


def _activations(G, z, G_kwargs):
    """G's outputs of one pass as a list of arrays: copies, since G may fill the same array again in the next."""
    outputs = G(z, **G_kwargs)
    outputs = [np.array(output) for output in (outputs if isinstance(outputs, (list, tuple)) else [outputs])]
    for output in outputs:
        if output.shape[:1] != z.shape[:1]:
            raise ValueError(f"G must return the batch axis of z first: z is {z.shape}, the output is {output.shape}")
        if np.result_type(output, np.float32) != output.dtype:
            raise ValueError(f"G must compute in float32 or float64 for its differences to count, got {output.dtype}")
    return outputs


def _check_counts(passes):
    counts = sorted({len(outputs) for outputs in passes})
    if len(counts) > 1:
        raise ValueError(f"G must return as many activations in every pass, got {counts[0]} and {counts[-1]}")

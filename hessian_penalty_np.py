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
(at k = 2, λ = 0.1 becomes 0.05).
"""

import numpy as np


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
    :raises ValueError: for arguments outside these bounds.
    """
    z = np.asarray(z)
    if k < 2:
        raise ValueError(f"k must be at least 2 (it is the number of values in a variance), got {k}")
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive, got {epsilon}")
    if not np.issubdtype(z.dtype, np.floating) or z.ndim == 0:
        raise ValueError(f"z must be a floating-point array with a batch axis, got {z.dtype} of shape {z.shape}")
    z = z.astype(np.result_type(z, np.float32), copy=False)  # half precision is too coarse for differences
    if directions is None:
        directions = np.random.choice([-1, 1], size=(k, *z.shape))
    directions = np.asarray(directions, dtype=z.dtype)
    if directions.shape != (k, *z.shape):
        raise ValueError(f"directions must have shape [k, *z.shape] = {(k, *z.shape)}, got {directions.shape}")
    if np.any(np.abs(directions) != 1):
        raise ValueError(f"directions must be +1 or -1 in every entry, got {directions[np.abs(directions) != 1][0]}")

    def activations(z):
        outputs = G(z, **G_kwargs)
        outputs = [np.asarray(output) for output in (outputs if isinstance(outputs, (list, tuple)) else [outputs])]
        for output in outputs:
            if output.shape[:1] != z.shape[:1]:
                raise ValueError(
                    f"G must return the batch axis of z first: z is {z.shape}, the output is {output.shape}"
                )
            if np.result_type(output, np.float32) != output.dtype:
                raise ValueError(
                    f"G must compute in float32 or float64 for its differences to count, got {output.dtype}"
                )
        return outputs

    x = z.dtype.type(epsilon) * directions  # the perturbations εv
    passes = [activations(latents) for x_i in x for latents in (z + x_i, z - x_i)]
    counts = sorted({len(outputs) for outputs in passes})
    if len(counts) > 1:
        raise ValueError(f"G must return as many activations in every pass, got {counts[0]} and {counts[-1]}")

    penalties = []
    for outputs in zip(*passes):
        plus, minus = outputs[0::2], outputs[1::2]
        # Equation 5 relative to its first value, in which G(z) cancels: the same variance, fewer rounding errors
        vHv = [((plus_i - plus[0]) + (minus_i - minus[0])) / epsilon**2 for plus_i, minus_i in zip(plus, minus)]
        penalties.append(reduction(np.var(vHv, axis=0, ddof=1)))
    return sum(penalties)

"""The Hessian Penalty (Peebles et al. 2020, arXiv 2008.10599) in JAX, under jit, grad and vmap. One file to copy.

A generator G is disentangled, in this paper's sense, when its Hessian with respect to the latent code z is diagonal:
then each component of z acts regardless of the others. For one element of G(z) with Hessian H, and v a vector of
independent random signs (Rademacher), the penalty is

    Var_v(vᵀHv) = 2 · Σ_{i≠j} H_ij²

estimated from k draws of v, each sample with its own, by central second differences

    vᵀHv ≈ s_i = (G(z + x_i) − 2 G(z) + G(z − x_i)) / ε²,   x_i = ε v_i            (Equation 5)

and their unbiased variance over i. G(z) cancels in a variance, so it is not computed; every s_i is taken relative to
s_0 instead, whose variance is the same:

    s_i − s_0 = ((G(z + x_i) − G(z + x_0)) + (G(z − x_i) − G(z − x_0))) / ε²

With neither G(z) nor this pivot, the float32 gradients of smooth networks would drown in rounding errors.

    from hessian_penalty_jax import hessian_penalty
    loss = generator_loss + 0.05 * hessian_penalty(G, z, key=key)      # G: any function of z; z: [N, ...]

What to know
- Weight and ε: the rounding error grows as 1/ε⁴, and on piecewise linear (ReLU) networks the value itself changes
  with ε: tune λ for one ε and keep it. The published TensorFlow code used the biased variance: multiply a λ tuned
  with it by (k − 1)/k (at k = 2, λ = 0.1 becomes 0.05).
- Randomness: `key` draws the directions and nothing else. What G draws itself must be the same in every pass: hand it
  a key of its own, drawn once, in a closure or under another name (rng=…).
- Precision: half precision and TF32 ruin finite differences. Products inside G are traced with matmul precision
  "highest", backward too, unless G asks for another one by name; z and floating G_kwargs in half precision are cast to
  float32, and a G that goes back to half precision is refused. float64 needs JAX's own switch (jax_enable_x64).
- Batch normalisation in training mode mixes the samples of a batch: let G use its running statistics.
- Memory and speed are meant under jit. Run eagerly, memory="lean" and chunk_size compile their loops in every call.
"""

import collections
import functools
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np


def hessian_penalty(
    G, z, k=2, epsilon=0.1, reduction=jnp.max, return_separately=False, G_z=None, *, key=None, directions=None,
    select=False, batched=False, memory=None, chunk_size=None, exact=False, batch_kwargs=(), **G_kwargs
):  # fmt: skip
    """The Hessian Penalty of G at z, differentiable with respect to z and to whatever G closes over or is passed.

    :param G: function of an array like z, and of G_kwargs; returns one array or a list or tuple of arrays (activations
        to regularise), of any shapes whose first axis is z's batch. It is evaluated at 2k points for each sample.
    :param z: floating-point array [N, ...] of latent codes.
    :param k: number of directions, at least 2.
    :param epsilon: step of the finite differences.
    :param reduction: takes an array of penalties, one for each element of an activation, to a scalar.
    :param return_separately: return a list with a scalar for each activation instead of their sum.
    :param G_z: ignored: G(z) is not needed. It is there so that calls look alike in all frameworks.
    :param key: a jax.random.key (or PRNGKey) to draw the directions from; needed unless they are given.
    :param directions: the directions v to use, an array [k, N, ...] of +1 and −1.
    :param G_kwargs: passed on to G (which therefore has no keyword of the names above).

    Options, for the same value and gradient in less time or memory. select and chunk_size take G to treat the samples
    of a batch independently, and need to know which of G_kwargs go with them:

    :param select: (maximum reduction only) find, without gradient, the sample that holds each activation's maximum, and
        differentiate those samples alone. Where G fails on them, or, outside of jit and vmap, they do not reproduce
        their maxima, a warning says so and all are differentiated. Of samples that tie, the first gets the whole
        gradient.
    :param batched: make all 2k passes at once, by vmap: G still sees N samples. Faster on small batches.
    :param memory: "lean": compute each pair of passes again in the backward pass: peak memory independent of k.
    :param chunk_size: (mean and sum reductions only) take so many samples at a time, and again in the backward pass.
    :param batch_kwargs: names of those G_kwargs (arrays, or pytrees of them) whose first axis is the batch.
    :param exact: derivatives by forward-mode differentiation (k − 1 mixed products aᵀHb) instead of differences: any
        precision does, and epsilon is ignored. Not for piecewise linear networks (ReLU, leaky ReLU): their Hessian is
        zero almost everywhere, while the differences measure their kinks, which is what the method lives on. A warning
        says so, outside of jit and vmap, when every activation comes out as exactly zero.
    :raises ValueError: for arguments outside these bounds, and for outputs of G without the batch axis, in half
        precision, or changing in number from pass to pass. Values (of directions) are checked where they are known.
    """
    z, G_kwargs, batch_kwargs = _check_inputs(z, epsilon, G_kwargs, batch_kwargs)
    _check_options(reduction, batched, memory, chunk_size, select)
    directions = _get_directions(key, directions, k, z)

    def variances(z, directions, G_kwargs):
        return _variances(_activations_of(G, z, G_kwargs), z, directions, epsilon, exact, batched, memory)

    with jax.default_matmul_precision("highest"):
        if chunk_size is not None:
            penalties = _reduce_in_chunks(variances, reduction, z, directions, G_kwargs, batch_kwargs, chunk_size)
        elif select:
            unit = 1 if exact else epsilon**2
            penalties = _maxima(variances, G, z, directions, G_kwargs, batch_kwargs, reduction, unit)
        else:
            # A maximum's gradient looks for what equals it. Without a barrier XLA (JAX 0.12) may compute both anew,
            # with other rounding errors, and find something else
            found = jax.lax.optimization_barrier(variances(z, directions, G_kwargs))
            penalties = [reduction(variance) for variance in found]
    if exact:
        _warn_if_zero(penalties)
    return penalties if return_separately else sum(penalties)


def _variances(activations, z, directions, epsilon, exact, batched, memory):
    """Unbiased variance over i of s_i (Equation 5) for each element of each activation, from d_i = s_i − s_0.

    As d_0 = 0, Σd² − (Σd)²/k loses no more than a factor k of precision, and the sums need no d_i to be kept.
    """
    unit = 1 if exact else epsilon**2  # of the d_i
    if batched and not exact:
        plus, minus = _batched_passes(activations, z, epsilon * directions)
        sums = [_sums((p[1:] - p[0]) + (m[1:] - m[0])) for p, m in zip(plus, minus)]
    else:
        if exact:
            difference = _mixed_product(activations, z, directions[0])
        else:
            difference = _pivoted_difference(activations, z, epsilon, directions[0], memory)
        if batched:
            sums = [_sums(d) for d in jax.vmap(difference)(directions[1:])]
        else:
            sums = _sum_over(directions[1:], lambda v: [(d, d**2) for d in difference(v)], memory)
    k = len(directions)
    return [(sum_of_squares - sum_of_d**2 / k) / ((k - 1) * unit**2) for sum_of_d, sum_of_squares in sums]


def _pivoted_difference(activations, z, epsilon, v_0, memory):
    """A function of v_i: ε² (s_i − s_0) for each activation."""
    if memory == "lean":  # a loop, which no compiler can turn into both passes at once
        pivot = jax.lax.map(jax.checkpoint(activations), jnp.stack([z + epsilon * v_0, z - epsilon * v_0]))
        plus_0, minus_0 = zip(*pivot)
    else:
        plus_0, minus_0 = activations(z + epsilon * v_0), activations(z - epsilon * v_0)

    def difference(v):
        passes = _same_count(plus_0, minus_0, activations(z + epsilon * v), activations(z - epsilon * v))
        return [(plus - first_plus) + (minus - first_minus) for first_plus, first_minus, plus, minus in zip(*passes)]

    return difference


def _mixed_product(activations, z, v_0):
    """A function of v_i: s_i − s_0 = v_iᵀHv_i − v_0ᵀHv_0 = 4 aᵀHb for each activation, a and b = (v_i ± v_0) / 2."""

    def difference(v):
        def along_b(z):
            return jax.jvp(activations, (z,), ((v - v_0) / 2,))[1]

        return [4 * product for product in jax.jvp(along_b, (z,), ((v + v_0) / 2,))[1]]

    try:
        reason = "it has a rule for the backward pass alone"
        forward_mode = "custom_lin[" not in str(jax.make_jaxpr(difference)(v_0))  # what JAX leaves in a rule's place
    except (TypeError, ValueError, NotImplementedError) as error:
        reason, forward_mode = " ".join(str(error).split()).rstrip("."), False
        if not re.search("jvp|differentiation rule", reason, re.IGNORECASE):
            raise
    if not forward_mode:
        found = re.search(r"custom_vjp_call\[\s*name=(\S+)", str(jax.make_jaxpr(activations)(z)))
        operation = f"{found.group(1)} (a jax.custom_vjp)" if found else "an operation"
        raise ValueError(f"exact=True: G uses {operation}, which has no forward-mode derivative: {reason}")
    return difference


def _batched_passes(activations, z, x):
    """All G(z + x_i), and all G(z − x_i), as one call: for each activation an array [k, N, ...]."""
    outputs = jax.vmap(activations)(jnp.concatenate([z + x, z - x]))
    return [output[: len(x)] for output in outputs], [output[len(x) :] for output in outputs]


def _sums(d):
    return jnp.sum(d, axis=0), jnp.sum(d**2, axis=0)


def _sum_over(directions, terms, memory):
    """The sum of the pytrees terms(v). Lean: a loop again, each step recomputed."""
    add = functools.partial(jax.tree_util.tree_map, jnp.add)
    if memory != "lean":
        return functools.reduce(add, map(terms, directions))
    zeros = jax.tree_util.tree_map(lambda term: jnp.zeros(term.shape, term.dtype), jax.eval_shape(terms, directions[0]))
    return jax.lax.scan(jax.checkpoint(lambda total, v: (add(total, terms(v)), None)), zeros, directions)[0]


def _maxima(variances, G, z, directions, G_kwargs, batch_kwargs, reduction, unit):
    """The maximum of each activation, differentiated at the sample that holds it; see `select`."""

    def plain():
        return [reduction(variance) for variance in variances(z, directions, G_kwargs)]

    outputs = jax.eval_shape(_activations_of(G, z, G_kwargs), z)
    if len(z) <= len(outputs):
        return plain()
    held = jax.lax.stop_gradient(z)
    of_samples = [_by_sample(v).max(axis=1) for v in jax.lax.stop_gradient(variances(held, directions, G_kwargs))]
    index = jnp.stack([jnp.argmax(values) for values in of_samples])
    chosen = dict(G_kwargs, **_each_array(lambda array: array[index], {name: G_kwargs[name] for name in batch_kwargs}))
    try:
        selected = variances(z[index], directions[:, index], chosen)
    except Exception as error:  # whatever G raises where a batch of another size does not fit
        problem = f"G fails on fewer (see batch_kwargs): {error!r}"
        warnings.warn(f"select=True: all samples were differentiated, since {problem}", stacklevel=3)
        return plain()
    penalties = [reduction(variance[i]) for i, variance in enumerate(selected)]
    if not any(isinstance(value, jax.core.Tracer) for value in of_samples):
        found = jnp.stack([values[i] for values, i in zip(of_samples, index)])
        G_z = jax.lax.stop_gradient(_activations_of(G, z[index], chosen)(z[index]))
        if not _reproduces(found, jnp.stack(jax.lax.stop_gradient(penalties)), G_z, unit):
            problem = "fewer do not reproduce the maxima: G mixes a batch's samples, or holds one (see batch_kwargs)"
            warnings.warn(f"select=True: all samples were differentiated, since {problem}", stacklevel=3)
            return plain()
    return penalties


def _reproduces(found, penalties, G_z, unit):
    """Whether second differences (√penalty) agree to rounding: their own, and of G's outputs over ε², their unit."""
    precision = jnp.finfo(found.dtype).eps
    floor = 100 * precision * jnp.stack([jnp.max(jnp.abs(output)) for output in G_z]) / unit
    off = jnp.abs(jnp.sqrt(penalties) - jnp.sqrt(found)) > floor + precision**0.5 * jnp.sqrt(found)
    return not jnp.any(off | (jnp.isfinite(found) & ~jnp.isfinite(penalties)))


def _reduce_in_chunks(estimates, reduction, z, directions, G_kwargs, batch_kwargs, chunk_size):
    """The mean or sum of the estimates [N, ...] of each activation, from so many samples at a time."""
    N = len(z)
    batch = (z, jnp.moveaxis(directions, 1, 0), {name: G_kwargs[name] for name in batch_kwargs})

    @jax.checkpoint
    def share(batch):
        z, directions, chosen = batch
        weight = len(z) / N if reduction is jnp.mean else 1
        of_chunk = estimates(z, jnp.moveaxis(directions, 0, 1), dict(G_kwargs, **chosen))
        return [weight * reduction(values) for values in of_chunk]

    whole = N - N % chunk_size
    shares = []
    if whole:
        chunks = _each_array(lambda array: array[:whole].reshape(-1, chunk_size, *array.shape[1:]), batch)
        shares = [jnp.sum(parts) for parts in jax.lax.map(share, chunks)]
    if whole < N:
        rest = share(_each_array(lambda array: array[whole:], batch))
        shares = [total + part for total, part in zip(shares, rest)] if whole else rest
    return shares


Diagonalness = collections.namedtuple("Diagonalness", "ratio standard_error")


def diagonalness(G, z, epsilon=0.1, k=1, return_separately=False, *, key=None, axes=None, **G_kwargs):
    """How diagonal G's Hessian is, whatever its scale: mean |H_aa| / mean |H_ab|, a ≠ b, over elements and samples.

    About √2 where components are mixed at random, infinite for a diagonal Hessian, meaningless where G is linear. To
    log beside the penalty, which also falls when activations shrink or bend less; this then stays as it is.

    Both means are estimated from k random pairs of components (a, b) for each sample by central differences, in
    1 + 6k passes. All steps have the length √2 ε: along e_a for H_aa, along u = e_a + e_b and w = e_a − e_b, whose
    second derivatives differ by 4 H_ab. (On piecewise linear networks a second difference grows as its step shrinks.)

    :param axes: the pairs to use, integers [k, N, 2]: indices of z's components, flattened.
    :return: Diagonalness(ratio, standard_error), not differentiable: the mean of the activations' ratios, or
        return_separately a list of one for each. The standard error is that from the choice of samples (delta method),
        nan for a single one.
    :raises ValueError: as `hessian_penalty`, of which the other parameters are, and for z of fewer than 2 components.
    """
    z, G_kwargs, _ = _check_inputs(z, epsilon, G_kwargs)
    axes = _get_axes(key, axes, k, z)
    z = jax.lax.stop_gradient(z)
    activations = _activations_of(G, z, G_kwargs)
    with jax.default_matmul_precision("highest"):
        centre = activations(z)
        sizes = [_mean_sizes(activations, z, centre, pairs, epsilon) for pairs in axes]
    results, residuals = [], []
    for of_activation in zip(*sizes):
        diagonal, off_diagonal = (jax.lax.stop_gradient(sum(part) / k) for part in zip(*of_activation))  # [N] each
        ratio = jnp.mean(diagonal) / jnp.mean(off_diagonal)
        residuals.append((diagonal - ratio * off_diagonal) / jnp.mean(off_diagonal))
        results.append(Diagonalness(ratio, _standard_error(residuals[-1])))
    if return_separately:
        return results
    # The same samples serve all activations: their residuals belong together.
    count = len(results)
    return Diagonalness(sum(result.ratio for result in results) / count, _standard_error(sum(residuals) / count))


def _mean_sizes(activations, z, centre, pairs, epsilon):
    """For each activation (|H_aa|, |H_ab|), each [N]: means over its elements."""
    e_a, e_b = (jax.nn.one_hot(pairs[:, i], z[0].size, dtype=z.dtype).reshape(z.shape) for i in (0, 1))
    steps = [2**0.5 * epsilon * e_a, epsilon * (e_a + e_b), epsilon * (e_a - e_b)]
    passes = [activations(z + sign * step) for step in steps for sign in (1, -1)]
    sizes = []
    for c, plus, minus, plus_u, minus_u, plus_w, minus_w in zip(*_same_count(centre, *passes)):
        H_aa = ((plus - c) + (minus - c)) / (2 * epsilon**2)
        H_ab = ((plus_u - plus_w) + (minus_u - minus_w)) / (4 * epsilon**2)
        sizes.append(tuple(jnp.mean(jnp.abs(_by_sample(H)), axis=1) for H in (H_aa, H_ab)))
    return sizes


def _standard_error(residuals):
    """Of a mean, from the N residuals of the samples, which sum to 0."""
    N = len(residuals)
    return jnp.sqrt(jnp.sum(residuals**2) / (N * (N - 1))) if N > 1 else jnp.full((), jnp.nan, residuals.dtype)


# ----------------------------------------------------------------------------------------------------------------------
# Checks, and arguments made ready


def _check_inputs(z, epsilon, G_kwargs, batch_kwargs=()):
    """z and G_kwargs in at least float32, and the names of batch_kwargs."""
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive, got {epsilon}")
    z = jnp.asarray(z)
    if not jnp.issubdtype(z.dtype, jnp.floating) or z.ndim == 0:
        raise ValueError(f"z must be a floating-point array with a batch axis, got {z.dtype} of shape {z.shape}")
    if isinstance(batch_kwargs, str):
        raise ValueError(f"batch_kwargs must be a list of names, got {batch_kwargs!r}")
    batch_kwargs = tuple(batch_kwargs)
    for name in batch_kwargs:
        if name not in G_kwargs:
            raise ValueError(f"batch_kwargs names {name!r}, which was not passed")
        for shape in map(jnp.shape, jax.tree_util.tree_leaves(G_kwargs[name])):
            if shape[:1] != z.shape[:1]:
                problem = f"{name!r} must have the batch's length {len(z)} first, got shape {shape}"
                raise ValueError(f"batch_kwargs: {problem}")
    return (*_each_array(_at_least_float32, (z, G_kwargs)), batch_kwargs)


def _check_options(reduction, batched, memory, chunk_size, select):
    name = getattr(reduction, "__name__", repr(reduction))
    if select and reduction not in (jnp.max, jnp.amax):
        raise ValueError(f"select=True needs the maximum reduction (jnp.max), got {name}")
    if chunk_size is not None and reduction not in (jnp.mean, jnp.sum):
        raise ValueError(f"chunk_size needs the mean or sum reduction (jnp.mean or jnp.sum), got {name}")
    if chunk_size is not None and not (hasattr(chunk_size, "__index__") and chunk_size > 0):
        raise ValueError(f"chunk_size must be a positive number of samples, got {chunk_size}")
    if memory not in (None, "lean"):
        raise ValueError(f'memory must be None or "lean", got {memory!r}')
    if batched and memory:
        raise ValueError(
            'batched=True and memory="lean" exclude each other: one makes all passes at once, the other one at a time'
        )


def _get_directions(key, directions, k, z):
    """k Rademacher directions for every sample, [k, *z.shape]: drawn independently from the key, or those given."""
    if k < 2:
        raise ValueError(f"k must be at least 2 (it is the number of values in a variance), got {k}")
    expected = (k, *z.shape)
    if directions is None:
        return jax.random.rademacher(_check_key(key, "directions"), expected, z.dtype)
    if jnp.shape(directions) != expected:
        raise ValueError(f"directions must have shape [k, *z.shape] = {expected}, got {jnp.shape(directions)}")
    if not isinstance(directions, jax.core.Tracer):  # in NumPy, since jax.numpy is traced under jit even here
        stray = np.asarray(directions)[np.abs(np.asarray(directions)) != 1]
        if stray.size:
            raise ValueError(f"directions must be +1 or -1 in every entry, got {stray[0]}")
    return jnp.asarray(directions, z.dtype)


def _get_axes(key, axes, k, z):
    """Pairs of different components of z, [k, N, 2]: drawn uniformly, or those given."""
    if k < 1:
        raise ValueError(f"k must be at least 1 (it is the number of pairs of components), got {k}")
    N, size = len(z), z[0].size
    if size < 2:
        raise ValueError(f"z must have at least two components for a Hessian to be diagonal or not, got {size}")
    if axes is None:
        key_a, key_b = jax.random.split(_check_key(key, "axes"))
        a = jax.random.randint(key_a, (k, N), 0, size)
        return jnp.stack([a, (a + jax.random.randint(key_b, (k, N), 1, size)) % size], axis=-1)
    axes = axes if isinstance(axes, jax.core.Tracer) else np.asarray(axes)
    if axes.shape != (k, N, 2) or not jnp.issubdtype(axes.dtype, jnp.integer):
        raise ValueError(f"axes must be integers of shape [k, N, 2] = {(k, N, 2)}, got {axes.dtype} of {axes.shape}")
    if not isinstance(axes, jax.core.Tracer):
        wrong = axes[(axes[..., 0] == axes[..., 1]) | np.any((axes < 0) | (axes >= size), axis=-1)]
        if len(wrong):
            pair = tuple(wrong[0].tolist())
            raise ValueError(f"axes must be pairs of different components from 0 to {size - 1}, got {pair}")
    return jnp.asarray(axes)


def _check_key(key, other):
    if key is None:
        raise ValueError(
            f"JAX has no generator of its own: pass key=jax.random.key(seed), a new one in every step, or {other}"
        )
    dtype = getattr(key, "dtype", None)
    if dtype != jnp.uint32 and not jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
        raise ValueError(f"key must be a jax.random.key or a PRNGKey, got {key!r}")
    return key


def _activations_of(G, z, G_kwargs):
    """G as a function of latents alone, returning a list of checked arrays."""

    def activations(latents):
        outputs = G(latents, **G_kwargs)
        return [_check_activation(o, z) for o in (outputs if isinstance(outputs, (list, tuple)) else [outputs])]

    return activations


def _check_activation(output, z):
    if not isinstance(output, jax.Array):
        raise ValueError(f"G must return an array, or a list or tuple of arrays, got {type(output).__name__}")
    if output.shape[:1] != z.shape[:1]:
        raise ValueError(f"G must return the batch axis of z first: z is {z.shape}, the output is {output.shape}")
    if output.dtype not in (jnp.float32, jnp.float64):
        raise ValueError(f"G must compute in float32 or float64 for its differences to count, got {output.dtype}")
    return output


def _same_count(*passes):
    counts = sorted({len(activations) for activations in passes})
    if len(counts) > 1:
        raise ValueError(f"G must return as many activations in every pass, got {counts[0]} and {counts[-1]}")
    return passes


def _warn_if_zero(penalties):
    penalties = jax.lax.stop_gradient(penalties)
    traced = any(isinstance(penalty, jax.core.Tracer) for penalty in penalties)
    if not traced and all(jnp.all(penalty == 0) for penalty in penalties):
        message = "exact=True: every penalty is exactly 0, as on piecewise linear networks; use exact=False for those"
        warnings.warn(message, stacklevel=3)


_each_array = jax.tree_util.tree_map


def _at_least_float32(value):
    """A half-precision array as float32, anything else as it is."""
    dtype = getattr(value, "dtype", jnp.float32)
    is_half = jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32
    return jnp.asarray(value, jnp.float32) if is_half else value


def _by_sample(array):
    """[N, ...] as [N, elements]."""
    return array.reshape(len(array), -1)

"""The Hessian Penalty (Peebles et al. 2020, arXiv 2008.10599) in JAX, under jit, grad and vmap.

Copy this file anywhere; it needs only JAX (0.10 or later, but not 0.10.2) and NumPy.

    from hessian_penalty_jax import hessian_penalty
    loss = generator_loss + 0.05 * hessian_penalty(G, z, key=key)  # G: any function; z: [N, ...]

The penalty is small where the Hessian of G with respect to the latent code z is diagonal, that is,
where each component of z acts regardless of the others. For one element of G(z) with Hessian H, and
v a vector of independent random signs (Rademacher), it is

    Var_v(vᵀHv) = 2 · Σ_{i≠j} H_ij²

estimated from k draws of v, separate ones for each sample, by central second differences

    vᵀHv ≈ s_i = (G(z + x_i) − 2 G(z) + G(z − x_i)) / ε²,   x_i = ε v_i            (Equation 5)

and their unbiased variance over i. The term −2 G(z) is the same in every s_i, and a constant shift
leaves a variance unchanged: so G(z) is never computed. For the same reason s_0 can be subtracted
from every s_i, which keeps the rounding errors of float32 small.

Before you train (more in docs/penalty.md of the project):
- Choose ε once: on piecewise linear (ReLU) networks the penalty depends on it.
- The published TensorFlow code used the biased variance. A weight λ that was tuned with it becomes
  λ (k − 1)/k here: at k = 2, 0.05 instead of 0.1.
- `key` draws the directions and nothing else. Random numbers inside G must be the same in every
  pass: draw a key for them once, and give it to G in a closure or as a keyword argument (rng=...).
- Half precision and TF32 ruin second differences. Matrix products and convolutions inside G run
  with precision "highest", backward too, and a G in half precision is refused.
- Batch normalization in training mode mixes the samples: let G use its running statistics.
- The first call with a new G runs it twice more (traces it, under jit), and warns if both differ.
- Memory and speed are meant under jit: eager calls with `chunk_size` or memory="lean" are slow.
"""

import collections
import contextlib
import gc
import itertools
import random
import re
import sys
import types
import warnings
from typing import Any, Callable, Iterable, List, Optional, Sequence, Union

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxprs_in_params

Generator = Callable[..., Union[jax.Array, Sequence[jax.Array]]]

# --------------------------------------------------------------------------------------------------
# The penalty: its computation (helpers are in the sections below)


def hessian_penalty(
    G: Generator, z: jax.Array, k: int = 2, epsilon: Union[float, jax.Array] = 0.1,
    reduction: Callable = jnp.max, return_separately: bool = False, G_z: Any = None, *,
    key: Optional[jax.Array] = None, directions: Optional[jax.Array] = None, select: bool = False,
    batched: bool = False, memory: Optional[str] = None, chunk_size: Optional[int] = None,
    exact: bool = False, batch_kwargs: Iterable[str] = (), **G_kwargs: Any
) -> Union[jax.Array, List[jax.Array]]:  # fmt: skip
    """Estimate the Hessian Penalty of G at z.

    It is differentiable with respect to z and to whatever G closes over or gets as an argument.

    Args:
        G: Function of an array like z, and of G_kwargs, which is called 2k times. It returns one
            array or a list of arrays (the activations to regularize), of any shapes [N, ...].
        z: Latent codes, floating point, [N, ...].
        k: Number of directions, at least 2.
        epsilon: Step of the finite differences, in units of z. It may be traced, unchecked.
        reduction: Takes an activation's penalties, one for each element, to a scalar. If elements
            tie for the maximum, the first one gets the whole gradient.
        return_separately: Return a list with a scalar for each activation instead of their sum.
        G_z: Ignored, since G(z) cancels. It is there so that calls look alike in all frameworks.
        key: A jax.random.key (or PRNGKey) to draw the directions from; needed without `directions`.
        directions: The directions v, [k, N, ...] of +1 and −1, instead of random ones.
        select: With the maximum reduction, find the samples that hold the maxima without gradient,
            and differentiate those alone. Where G fails on them or, outside of jit and vmap, they
            do not reproduce their maxima, a warning says so and all are differentiated.
        batched: Make all 2k passes at once, by vmap, in which G still sees N samples: faster for
            small batches.
        memory: "lean" holds two passes at a time, whatever k is, and computes them again in the
            backward pass.
        chunk_size: With the mean or sum reduction, number of samples to differentiate at a time,
            each computed again in the backward pass.
        exact: Use forward-mode derivatives (k − 1 mixed products aᵀHb) instead of differences, and
            ignore epsilon. They are zero on piecewise linear (ReLU) networks, whose kinks only
            differences can see; outside of jit and vmap, a warning says so.
        batch_kwargs: Names of those G_kwargs (arrays, or pytrees of them) whose first axis is the
            batch. `select` and `chunk_size` need them; they require that G treats
            samples independently.

    Returns:
        A scalar, or a list of one scalar for each activation. `select`, `batched`, `memory` and
        `chunk_size` change time and memory only.

    Raises:
        ValueError: For an invalid argument, outputs without the batch axis or in a number that
            changes from pass to pass, or half precision between z and the outputs.
    """
    options = _check_options(reduction, select, batched, memory, chunk_size)
    G, z, epsilon = _prepare(G, z, epsilon, G_kwargs, batch_kwargs)
    v = _get_directions(key, directions, k, z)
    _check_if_new(G.G, z, G.kwargs, G.batch_kwargs)
    with jax.default_matmul_precision("highest"):
        if options or exact:
            differences = _exact_differences if exact else _second_differences
            penalties = _with_options(differences, G, z, v, epsilon, reduction, **options)
        else:
            penalties = _reduced(reduction, _variances(_second_differences(G, z, v, epsilon)))
    if exact:
        _warn_if_zero(penalties)
    return penalties if return_separately else sum(penalties)


def _second_differences(G, z, v, epsilon):
    """Yield s_i − s_0 for i = 1 … k − 1, each a list with one array per activation."""
    steps = [epsilon * v_i for v_i in v]
    passes = G.passes([latents for x in steps for latents in (z + x, z - x)])
    plus_0, minus_0 = next(passes), next(passes)
    for plus, minus in zip(passes, passes):
        # Equation 5, less the same for i = 0: the terms −2 G(z) cancel
        yield [
            ((p - p_0) + (m - m_0)) / epsilon**2
            for p, p_0, m, m_0 in zip(plus, plus_0, minus, minus_0)
        ]


def _variances(differences):
    """Return the unbiased variance of s_0 … s_k−1, given every s_i − s_0, for each activation."""
    k, sums, squares = 1, [], []
    for values in differences:
        k += 1
        sums = [total + d for total, d in zip(sums, values)] or values
        squares = [total + d * d for total, d in zip(squares, values)] or [d * d for d in values]
    return _from_sums(k, sums, squares)


def _from_sums(k, sums, squares):
    return [(square - total * total / k) / (k - 1) for square, total in zip(squares, sums)]


def _reduced(reduction, variances):
    """Reduce the variances of each activation; the first maximum gets the whole gradient.

    JAX would look for the elements that equal the maximum. But XLA may compute them anew, with
    other rounding errors, so that none does (JAX issue 40564). A barrier keeps it from doing so.
    """
    if reduction not in (jnp.max, jnp.amax):
        return [reduction(jax.lax.optimization_barrier(variance)) for variance in variances]
    elements = [jnp.ravel(variance) for variance in variances]
    return [each[jnp.argmax(jax.lax.stop_gradient(each))] for each in elements]


class _Generator:
    """G as a function of z alone, which returns a list of checked activations."""

    def __init__(self, G, kwargs, batch_kwargs=()):
        self.G, self.kwargs, self.batch_kwargs, self.counts = G, kwargs, batch_kwargs, set()

    def passes(self, points, function=None):
        """Yield the activations at each of the points: G's own, or those of another function."""
        return map(function or self, points)

    def __call__(self, z):
        """Run G once."""
        outputs = self.G(z, **self.kwargs)
        outputs = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
        for output in outputs:
            _check_activation(output, z)
        self.counts.add(len(outputs))
        if len(self.counts) > 1:
            found = "{} and {}".format(*sorted(self.counts))
            raise ValueError(f"G must return as many activations in every pass, got {found}")
        return outputs


# --------------------------------------------------------------------------------------------------
# The same idea for the Jacobian, and a number to log beside the penalty


def orojar_penalty(
    G: Generator, z: jax.Array, k: int = 2, epsilon: Union[float, jax.Array] = 0.1,
    reduction: Callable = jnp.mean, return_separately: bool = False, *,
    key: Optional[jax.Array] = None, directions: Optional[jax.Array] = None, batched: bool = False,
    memory: Optional[str] = None, chunk_size: Optional[int] = None,
    batch_kwargs: Iterable[str] = (), **G_kwargs: Any
) -> Union[jax.Array, List[jax.Array]]:  # fmt: skip
    """Estimate the Orthogonal Jacobian Regularization (OroJaR, Wei et al. 2021, arXiv 2108.07668).

    For one sample and the Jacobian J of one activation, with flattened columns J_i, it is

        Var_v(‖Jv‖²) = 2 · Σ_{i≠j} (J_iᵀJ_j)²,    Jv ≈ (G(z + εv) − G(z − εv)) / 2ε

    estimated from the same 2k passes as `hessian_penalty`. The penalty grows with the number of
    elements of an activation. `reduction` takes its penalties, [N], to a scalar. The other
    arguments, the value and the errors are those of `hessian_penalty`.
    """
    options = _check_options(reduction, False, batched, memory, chunk_size)
    G, z, epsilon = _prepare(G, z, epsilon, G_kwargs, batch_kwargs)
    v = _get_directions(key, directions, k, z)
    _check_if_new(G.G, z, G.kwargs, G.batch_kwargs)
    with jax.default_matmul_precision("highest"):
        penalties = _with_options(_slope_differences, G, z, v, epsilon, reduction, **options)
    return penalties if return_separately else sum(penalties)


def _slope_differences(G, z, v, epsilon):
    """Yield ‖Jv_i‖² − ‖Jv_0‖² for i = 1 … k − 1, each a list with one array [N] per activation."""
    steps = [epsilon * v_i for v_i in v]
    passes = G.passes([latents for x in steps for latents in (z + x, z - x)])
    squares_0 = None
    for plus, minus in zip(passes, passes):
        slopes = [(p - m) / (2 * epsilon) for p, m in zip(plus, minus)]
        squares = [jnp.sum(_by_sample(Jv) ** 2, axis=1) for Jv in slopes]
        if squares_0 is not None:
            yield [square - square_0 for square, square_0 in zip(squares, squares_0)]
        squares_0 = squares_0 or squares


Diagonalness = collections.namedtuple("Diagonalness", "ratio standard_error")


def diagonalness(
    G: Generator, z: jax.Array, epsilon: Union[float, jax.Array] = 0.1, k: int = 1,
    return_separately: bool = False, *, key: Optional[jax.Array] = None,
    axes: Optional[jax.Array] = None, **G_kwargs: Any
) -> Union[Diagonalness, List[Diagonalness]]:  # fmt: skip
    """Measure how diagonal G's Hessian is, whatever its scale: mean |H_aa| / mean |H_ab|, a ≠ b.

    The means are over elements and samples. The ratio is about √2 where components are mixed at
    random, infinite for a diagonal Hessian, and meaningless where G is linear. Log it beside the
    penalty, which also falls when activations shrink or bend less; the ratio then stays as it is.

    Both means are estimated from k random pairs of components (a, b) for each sample by central
    differences, in 1 + 6k passes: along e_a for H_aa, and along e_a + e_b and e_a − e_b, whose
    second derivatives differ by 4 H_ab. All steps have the length √2 ε, since on piecewise linear
    networks a second difference grows as its step shrinks.

    Args:
        G: As in `hessian_penalty`, and so are z, epsilon, key and G_kwargs.
        k: Number of pairs for each sample.
        return_separately: Return a list with one result for each activation.
        axes: The pairs to use, integers [k, N, 2]: indices of z's components, flattened.

    Returns:
        Diagonalness(ratio, standard_error), scalars without gradient: the mean of the activations'
        ratios, and its standard error from the choice of samples (delta method), nan for a single
        sample.

    Raises:
        ValueError: As in `hessian_penalty`, and for z of fewer than two components.
    """
    G, z, epsilon = _prepare(G, z, epsilon, G_kwargs)
    axes = _get_axes(key, axes, k, z)
    _check_if_new(G.G, z, G.kwargs)
    z, diagonal, off_diagonal = jax.lax.stop_gradient(z), 0, 0  # [activations, N]
    with jax.default_matmul_precision("highest"):
        center = G(z)
        for a, b in jnp.moveaxis(axes, 2, 1):
            one_hot = jax.nn.one_hot(jnp.stack([a, b]), z[0].size, dtype=z.dtype)
            e_a, e_b = one_hot.reshape(2, *z.shape)
            steps = [epsilon * step for step in (2**0.5 * e_a, e_a + e_b, e_a - e_b)]
            passes = G.passes([latents for x in steps for latents in (z + x, z - x)])
            along_a, along_sum, along_difference = (
                [(p - c) + (m - c) for p, c, m in zip(plus, center, minus)]
                for plus, minus in zip(passes, passes)
            )
            mixed = [u - w for u, w in zip(along_sum, along_difference)]
            diagonal += jnp.stack([_mean_size(bend) / 2 for bend in along_a])
            off_diagonal += jnp.stack([_mean_size(bend) / 4 for bend in mixed])
    diagonal, off_diagonal = jax.lax.stop_gradient((diagonal, off_diagonal))
    means = jnp.mean(off_diagonal, axis=1, keepdims=True)
    ratios = jnp.mean(diagonal, axis=1, keepdims=True) / means
    residuals = (diagonal - ratios * off_diagonal) / means
    if return_separately:
        return list(map(Diagonalness, ratios[:, 0], map(_standard_error, residuals)))
    return Diagonalness(jnp.mean(ratios), _standard_error(jnp.mean(residuals, axis=0)))


def _mean_size(array):
    """Return the mean absolute value of each sample's elements, [N]."""
    return jnp.mean(jnp.abs(_by_sample(array)), axis=1)


def _standard_error(residuals):
    """Return the standard error of a mean over samples, from their residuals: nan for one."""
    return jnp.std(residuals, ddof=1) / len(residuals) ** 0.5


# --------------------------------------------------------------------------------------------------
# Options: the same value and gradient in less time or memory
#
#   exact        another estimator in place of _second_differences
#   batched      _AtOnce, a generator that makes all passes as one
#   memory       _lean_variances, which computes passes again in the backward pass
#   select       the estimator on the samples that hold the maxima
#   chunk_size   the estimator on some samples at a time


def _with_options(
    differences, G, z, v, epsilon, reduction,
    select=False, batched=False, memory=None, chunk_size=None
):  # fmt: skip
    """Return the reduced variances of each activation."""

    def variances(z, v, kwargs):
        if memory:
            return _lean_variances(differences, _Lean(G.G, kwargs), z, v, epsilon)
        bound = (_AtOnce if batched else _Generator)(G.G, kwargs)
        return _variances(differences(bound, z, v, epsilon))

    if chunk_size is not None:
        return _of_chunks(variances, G, z, v, reduction, chunk_size)
    if select:
        unit = 1 if differences is _exact_differences else epsilon**2
        return _of_selected_samples(variances, G, z, v, reduction, unit)
    return _reduced(reduction, variances(z, v, G.kwargs))


def _exact_differences(G, z, v, epsilon):
    """Yield v_iᵀHv_i − v_0ᵀHv_0 = 4 aᵀHb for i = 1 … k − 1, with a, b = (v_i ± v_0) / 2."""

    def mixed_product(a_and_b):
        def along_b(z):
            return jax.jvp(G, (z,), (a_and_b[1],))[1]

        return [4 * product for product in jax.jvp(along_b, (z,), (a_and_b[0],))[1]]

    pairs = [jnp.stack([v_i + v[0], v_i - v[0]]) / 2 for v_i in v[1:]]
    _check_forward_mode(mixed_product, jnp.stack([z, z]), G, z)
    return G.passes(pairs, mixed_product)


def _check_forward_mode(product, example, G, z):
    """Raise an error that names an operation of G for which JAX has no forward-mode derivative."""
    try:
        reason = "it has a rule for the backward pass alone"  # for which JAX leaves a custom_lin
        forward_mode = "custom_lin[" not in str(jax.make_jaxpr(product)(example))
    except (TypeError, ValueError, NotImplementedError) as error:
        reason, forward_mode = " ".join(str(error).split()).rstrip("."), False
        if not re.search("jvp|differentiation rule", reason, re.IGNORECASE):
            raise
    if not forward_mode:
        found = re.search(r"custom_vjp_call\[\s*name=(\S+)", str(jax.make_jaxpr(G)(z)))
        name = f"{found.group(1)} (a jax.custom_vjp)" if found else "an operation"
        problem = f"G uses {name}, which has no forward-mode derivative: {reason}"
        raise ValueError(f"exact=True: {problem}")


class _AtOnce(_Generator):
    """A generator that makes all passes at once."""

    def passes(self, points, function=None):
        """Yield the activations at each of the points."""
        outputs = jax.vmap(function or self)(jnp.stack(points))
        return zip(*map(jnp.unstack, outputs))


class _Lean(_Generator):
    """A generator that makes its first passes, those of s_0, once for all differences."""

    known = None

    def passes(self, points, function=None):
        """Yield the activations at each of the points: at the first ones, those already known."""
        if self.known is None:
            looped = jax.lax.map(jax.checkpoint(self.__call__), jnp.stack(points)) if points else []
            self.known = list(zip(*map(jnp.unstack, looped)))
        return itertools.chain(self.known, map(function or self, points[len(self.known) :]))


def _lean_variances(differences, G, z, v, epsilon):
    """Return what `_variances` does, by loops: outside of them, XLA may hold all passes at once.

    On CPUs that takes longer for convolutions, which are slow in loops (JAX issue 12868).
    """
    next(differences(G, z, v[:1], epsilon), None)  # makes the passes of s_0 alone

    def terms(v_i):
        (values,) = differences(G, z, [v[0], v_i], epsilon)
        return values, [d * d for d in values]

    def step(total, v_i):
        return jax.tree_util.tree_map(jnp.add, total, terms(v_i)), None

    shapes = jax.eval_shape(terms, v[0])
    zeros = jax.tree_util.tree_map(lambda term: jnp.zeros(term.shape, term.dtype), shapes)
    return _from_sums(len(v), *jax.lax.scan(jax.checkpoint(step), zeros, v[1:])[0])


def _of_selected_samples(variances, G, z, v, reduction, unit):
    """Return the maximum of each activation, differentiated at the sample that holds it.

    unit: What rounding errors of G's outputs are divided by in s_i.
    """

    def of_all():
        return _reduced(reduction, variances(z, v, G.kwargs))

    if len(z) <= len(jax.eval_shape(G, z)):
        return of_all()
    searched = jax.lax.stop_gradient(variances(jax.lax.stop_gradient(z), v, G.kwargs))
    maxima = [jnp.max(_by_sample(variance), axis=1) for variance in searched]  # [N] each
    rows = jnp.stack([jnp.argmax(of_samples) for of_samples in maxima])
    of_batch = {name: G.kwargs[name] for name in G.batch_kwargs}
    chosen = jax.tree_util.tree_map(lambda array: jnp.asarray(array)[rows], of_batch)
    few = _Generator(G.G, dict(G.kwargs, **chosen))
    try:
        selected = variances(z[rows], v[:, rows], few.kwargs)
    except Exception as error:  # whatever G raises on a batch of another size
        problem = f"G fails on fewer (see batch_kwargs): {error!r}"
        _warn(f"select=True: all samples were differentiated, since {problem}")
        return of_all()
    penalties = _reduced(reduction, [variance[a] for a, variance in enumerate(selected)])
    if any(isinstance(values, jax.core.Tracer) for values in maxima):
        return penalties  # under jit and vmap there are no values to compare
    found = jnp.stack([values[row] for values, row in zip(maxima, rows)])
    outputs = jax.lax.stop_gradient(few(z[rows]))
    if not _reproduce(jnp.stack(jax.lax.stop_gradient(penalties)), found, outputs, unit):
        change, _ = _look(G.G, z, G.kwargs, G.batch_kwargs)
        problem = change or "G mixes a batch's samples, or holds one (see batch_kwargs)"
        problem = f"fewer do not reproduce the maxima: {problem}"
        _warn(f"select=True: all samples were differentiated, since {problem}")
        return of_all()
    return penalties


def _reproduce(penalties, found, outputs, unit):
    """Tell whether second differences, the roots of penalties, are those found, to rounding."""
    precision = jnp.finfo(found.dtype).eps
    rounding = 100 * precision * jnp.stack([jnp.max(jnp.abs(output)) for output in outputs]) / unit
    change = jnp.abs(jnp.sqrt(penalties) - jnp.sqrt(found))
    wrong = change > rounding + precision**0.5 * jnp.sqrt(found)
    return not jnp.any(wrong | (jnp.isfinite(found) & ~jnp.isfinite(penalties)))


def _of_chunks(variances, G, z, v, reduction, chunk_size):
    """Return the mean or sum of each activation's variances, chunk_size samples at a time."""
    N, whole = len(z), len(z) - len(z) % chunk_size
    batch = (z, jnp.moveaxis(v, 1, 0), {name: G.kwargs[name] for name in G.batch_kwargs})

    @jax.checkpoint
    def share(chunk):
        z, v, kwargs = chunk
        weight = len(z) / N if reduction is jnp.mean else 1
        of_chunk = variances(z, jnp.moveaxis(v, 0, 1), dict(G.kwargs, **kwargs))
        return [weight * reduction(variance) for variance in of_chunk]

    def split(array):
        return array[:whole].reshape(-1, chunk_size, *array.shape[1:])

    shares = []
    if whole:
        chunks = jax.tree_util.tree_map(split, batch)
        shares.append([jnp.sum(parts) for parts in jax.lax.map(share, chunks)])
    if whole < N:
        shares.append(share(jax.tree_util.tree_map(lambda array: array[whole:], batch)))
    return [sum(parts) for parts in zip(*shares)]


# --------------------------------------------------------------------------------------------------
# Checks of arguments


def _prepare(G, z, epsilon, G_kwargs, batch_kwargs=()):
    """Return G bound to its keywords, z and epsilon, in at least float32."""
    if np.shape(epsilon) != ():
        raise ValueError(f"epsilon must be a number, got an array of shape {np.shape(epsilon)}")
    if not isinstance(epsilon, jax.core.Tracer):
        if not float(epsilon) > 0:
            raise ValueError(f"epsilon must be positive, got {epsilon}")
        epsilon = float(epsilon)
    z = jnp.asarray(z)
    if not jnp.issubdtype(z.dtype, jnp.floating) or z.ndim == 0:
        found = f"{z.dtype} of shape {z.shape}"
        raise ValueError(f"z must be a floating-point array with a batch axis, got {found}")
    if isinstance(batch_kwargs, str):
        raise ValueError(f"batch_kwargs must be a list of names, got {batch_kwargs!r}")
    batch_kwargs = tuple(batch_kwargs)
    for name in batch_kwargs:
        if name not in G_kwargs:
            raise ValueError(f"batch_kwargs names {name!r}, which was not passed")
        for shape in map(jnp.shape, jax.tree_util.tree_leaves(G_kwargs[name])):
            if shape[:1] != z.shape[:1]:
                problem = f"must have the batch's length {len(z)} first, got shape {shape}"
                raise ValueError(f"batch_kwargs: {name!r} {problem}")
    z, G_kwargs = jax.tree_util.tree_map(_at_least_float32, (z, G_kwargs))
    epsilon = epsilon if isinstance(epsilon, float) else epsilon.astype(z.dtype)
    return _Generator(G, G_kwargs, batch_kwargs), z, epsilon


def _get_directions(key, directions, k, z):
    """Return v, [k, N, ...] of +1 and −1: the given directions, or independent random ones."""
    if k < 2:
        raise ValueError(
            f"k must be at least 2 (it is the number of values in a variance), got {k}"
        )
    expected = (k, *z.shape)
    if directions is None:
        return jax.random.rademacher(_check_key(key, "directions"), expected, z.dtype)
    found = jnp.shape(directions)
    if found != expected:
        raise ValueError(f"directions must have shape [k, *z.shape] = {expected}, got {found}")
    if not isinstance(
        directions, jax.core.Tracer
    ):  # in NumPy: under jit, JAX would trace even this
        stray = np.asarray(directions)[np.abs(np.asarray(directions)) != 1]
        if stray.size:
            raise ValueError(f"directions must be +1 or -1 in every entry, got {stray[0]}")
    return jnp.asarray(directions, z.dtype)


def _get_axes(key, axes, k, z):
    """Return pairs of different components of z, [k, N, 2]: the given ones, or random ones."""
    if k < 1:
        raise ValueError(f"k must be at least 1 (it is the number of pairs of components), got {k}")
    N, size = len(z), z[0].size
    if size < 2:
        problem = "at least two components for a Hessian to be diagonal or not"
        raise ValueError(f"z must have {problem}, got {size}")
    if axes is None:
        key_a, key_b = jax.random.split(_check_key(key, "axes"))
        a = jax.random.randint(key_a, (k, N), 0, size)
        return jnp.stack([a, (a + jax.random.randint(key_b, (k, N), 1, size)) % size], axis=-1)
    axes = axes if isinstance(axes, jax.core.Tracer) else np.asarray(axes)
    if axes.shape != (k, N, 2) or not jnp.issubdtype(axes.dtype, jnp.integer):
        found = f"{axes.dtype} of {axes.shape}"
        raise ValueError(f"axes must be integers of shape [k, N, 2] = {(k, N, 2)}, got {found}")
    if not isinstance(axes, jax.core.Tracer):
        is_wrong = (axes[..., 0] == axes[..., 1]) | np.any((axes < 0) | (axes >= size), axis=-1)
        if np.any(is_wrong):
            expected = f"pairs of different components from 0 to {size - 1}"
            raise ValueError(f"axes must be {expected}, got {tuple(axes[is_wrong][0].tolist())}")
    return jnp.asarray(axes)


def _check_key(key, other):
    if key is None:
        expected = f"pass key=jax.random.key(seed), a new one in every step, or {other}"
        raise ValueError(f"JAX has no generator of its own: {expected}")
    dtype = getattr(key, "dtype", None)
    if dtype != jnp.uint32 and not jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
        raise ValueError(f"key must be a jax.random.key or a PRNGKey, got {key!r}")
    return key


def _check_options(reduction, select, batched, memory, chunk_size):
    """Return those options that are in use."""
    name = getattr(reduction, "__name__", repr(reduction))
    if select and reduction not in (jnp.max, jnp.amax):
        raise ValueError(f"select=True needs the maximum reduction (jnp.max), got {name}")
    if chunk_size is not None and reduction not in (jnp.mean, jnp.sum):
        needed = "the mean or sum reduction (jnp.mean or jnp.sum)"
        raise ValueError(f"chunk_size needs {needed}, got {name}")
    if chunk_size is not None and not (hasattr(chunk_size, "__index__") and chunk_size > 0):
        raise ValueError(f"chunk_size must be a positive number of samples, got {chunk_size}")
    if memory not in (None, "lean"):
        raise ValueError(f'memory must be None or "lean", got {memory!r}')
    if batched and memory:
        problem = "one makes all passes at once, the other one at a time"
        raise ValueError(f'batched=True and memory="lean" exclude each other: {problem}')
    options = dict(select=select, batched=batched, memory=memory, chunk_size=chunk_size)
    return {name: value for name, value in options.items() if value}


def _check_activation(output, z):
    if not isinstance(output, jax.Array):
        found = type(output).__name__
        raise ValueError(f"G must return an array, or a list or tuple of arrays, got {found}")
    if output.shape[:1] != z.shape[:1]:
        found = f"z is {z.shape}, the output is {output.shape}"
        raise ValueError(f"G must return the batch axis of z first: {found}")
    if output.dtype not in (jnp.float32, jnp.float64):
        _refuse_half_precision(output.dtype)


def _refuse_half_precision(found):
    expected = "in float32 or float64 for its differences to count"
    raise ValueError(f"G must compute {expected}, got {found}")


def _at_least_float32(value):
    """Return a half-precision array as float32, anything else as it is."""
    return jnp.asarray(value, jnp.float32) if _is_half(getattr(value, "dtype", None)) else value


def _is_half(dtype):
    is_floating = dtype is not None and jnp.issubdtype(dtype, jnp.floating)
    return is_floating and jnp.finfo(dtype).bits < 32


def _by_sample(array):
    """Return [N, ...] as [N, elements]."""
    return array.reshape(len(array), -1)


def _warn_if_zero(penalties):
    penalties = jax.lax.stop_gradient(penalties)
    traced = any(isinstance(penalty, jax.core.Tracer) for penalty in penalties)
    if not traced and all(jnp.all(penalty == 0) for penalty in penalties):
        problem = "every penalty is exactly 0, as on piecewise linear networks"
        _warn(f"exact=True: {problem}; use exact=False for those")


def _warn(message):
    """Warn at the line that called this file."""
    frame, level = sys._getframe(), 1
    while frame and frame.f_globals is globals():
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


# --------------------------------------------------------------------------------------------------
# The first look at a generator: does it repeat itself, and is it in full precision?


def check_generator(
    G: Generator, z: jax.Array, batch_kwargs: Iterable[str] = (), **G_kwargs: Any
) -> None:
    """Look at G as the penalty does when G is new: at its state, and at its precision.

    A G is new if its code, flags, types or dtypes are not those of one seen before. Warn if it does
    not repeat itself: outside of jit, two calls are compared on the first two samples, or on all if
    G fails on two; under jit, two traces. If G fails in both, leave it to the penalty's own passes.

    Args:
        G: As in `hessian_penalty`, and so are z, batch_kwargs and G_kwargs.

    Raises:
        ValueError: For an operation in half precision between z and the outputs.
    """
    G, z, _ = _prepare(G, z, 1.0, G_kwargs, batch_kwargs)
    change, half = _look(G.G, z, G.kwargs, G.batch_kwargs)
    if half:
        moves = ("convert_element_type", "reshape", "broadcast_in_dim", "squeeze", "transpose")
        dtype, operation = next((found for found in half if found[1] not in moves), half[0])
        _refuse_half_precision(f"{dtype} from {operation}")
    if change:
        _warn(change)


_SEEN = {}  # traits of the generators looked at, oldest first: whether there were values to compare


def _check_if_new(G, z, G_kwargs, batch_kwargs=()):
    """Call check_generator once for all generators with the same traits."""
    traits, has_values = _survey(G, z, G_kwargs)[0], not _is_traced(z)
    if _SEEN.get(traits, -1) < has_values:
        check_generator(G, z, batch_kwargs, **G_kwargs)
        _SEEN[traits] = has_values
        if len(_SEEN) > 256:
            del _SEEN[next(iter(_SEEN))]


def _survey(*things):
    """Find what things refer to.

    Returns:
        The traits of all: (name, code, flag, type or dtype); and all of them, {id: thing}.
    """
    traits, reached, stack, package = set(), {}, [("", thing) for thing in things], None
    while stack and len(reached) < 10_000:
        name, thing = stack.pop()
        is_array = isinstance(thing, (jax.Array, np.ndarray, np.generic))
        is_trait = isinstance(thing, (bool, str, type(None), type, np.dtype))
        is_trait = is_trait or isinstance(thing, (types.CodeType, types.ModuleType))
        if is_trait or not isinstance(thing, (int, float, complex)):  # numbers change too often
            traits.add((name, thing if is_trait else thing.dtype if is_array else type(thing)))
        known = id(thing) in reached
        reached[id(thing)] = thing  # kept, so that an id stands for one thing
        if known or is_array or is_trait:
            continue
        if isinstance(thing, types.FunctionType):
            parts = (thing.__code__, thing.__defaults__, thing.__kwdefaults__)
            stack += [(name, part) for part in parts]
            stack += zip(thing.__code__.co_freevars, thing.__closure__ or ())
            package = package or thing.__module__
            if thing.__module__ == package:  # the globals of other modules hardly change
                used = thing.__globals__
                stack += [(n, used[n]) for n in _global_names(thing.__code__) if n in used]
                reached[id(used)] = used
        elif isinstance(thing, dict):
            items = list(thing.items())
            stack += [(key if isinstance(key, str) else name, part) for key, part in items]
        else:
            parts = (getattr(thing, "__dict__", None), *gc.get_referents(thing))
            stack += [(name, part) for part in parts]
    return frozenset(traits), reached


def _global_names(code):
    """Yield the global names in a function's code, and in the functions within it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _global_names(constant)


def _look(G, z, G_kwargs, batch_kwargs):
    """Call G twice, if there are values, and trace it twice.

    Returns:
        What to say of outputs that change, or None; and (dtype, name) of each operation between z
        and the outputs that is in half precision.
    """
    reached, half, verb = _survey(G)[1], [], "gives"
    drawn = _generator_states(reached)
    with jax.default_matmul_precision("highest"), _without_tracers(reached):
        equal = _equal_values(G, z, G_kwargs, batch_kwargs)
        if equal is None or reached.keys() == _survey(G)[1].keys():  # else G would keep tracers
            try:
                z = jax.ShapeDtypeStruct(z.shape, z.dtype)
                traces = [jax.make_jaxpr(lambda z: G(z, **G_kwargs))(z) for _ in range(2)]
                _follow(_jaxpr(traces[0]), [True], half)
                equal = _equal_traces(*traces) if equal is None else equal
            except Exception as error:  # whatever G raises; Flax NNX this, where a module changes
                if equal is None and type(error).__name__ == "TraceContextError":
                    equal, verb = False, "may give"
    if equal is not False:
        return None, half
    cause = "it keeps state that a call changes, as a Flax NNX module in training mode does"
    cause = f"{cause}, or a Python object"
    for name, state in _generator_states(reached).items():
        if state != drawn[name]:
            cause = f"it draws from {name} random generator; draw once and pass the numbers"
            cause = f"{cause} as a keyword argument"
    outputs = "other outputs when it is called again with the same latents"
    return f"G {verb} {outputs}, which would be taken for curvature: {cause}", half


@contextlib.contextmanager
def _without_tracers(reached):
    """Put back what traced calls replace by tracers: entries of dictionaries and of closures."""
    dicts = [(thing, dict(thing)) for thing in reached.values() if type(thing) is dict]
    cells = [thing for thing in reached.values() if isinstance(thing, types.CellType)]
    cells = [(cell, *gc.get_referents(cell)) for cell in cells]  # no content: no value as yet
    yield
    for thing, before in dicts:
        now = list(thing.items())
        tracers = [name for name, value in now if isinstance(value, jax.core.Tracer)]
        thing.update((name, before[name]) for name in tracers if name in before)
    for cell, *content in cells:
        if content and isinstance(cell.cell_contents, jax.core.Tracer):
            cell.cell_contents = content[0]


def _generator_states(reached):
    """Return the states of NumPy's and Python's random generators, global and reached, as text."""
    states = {"NumPy's": [np.random.get_state()], "Python's": [random.getstate()]}
    for thing in reached.values():
        if isinstance(thing, np.random.Generator):
            states["NumPy's"].append(thing.bit_generator.state)
        elif isinstance(thing, np.random.RandomState):
            states["NumPy's"].append(thing.get_state())
        elif isinstance(thing, random.Random):
            states["Python's"].append(thing.getstate())
    return {name: str(each) for name, each in states.items()}


def _equal_values(G, z, G_kwargs, batch_kwargs):
    """Tell whether the outputs of two calls are equal to rounding; None if there are no values."""
    if _is_traced(z):
        return None
    few = {name: G_kwargs[name] for name in batch_kwargs}
    few = dict(G_kwargs, **jax.tree_util.tree_map(lambda array: array[:2], few))
    z = jax.lax.stop_gradient(z)
    for latents, kwargs in ((z[:2], few), (z, G_kwargs)):
        with contextlib.suppress(Exception):  # whatever G raises
            calls = [jax.tree_util.tree_leaves(G(latents, **kwargs)) for _ in range(2)]
            first, second = jax.lax.stop_gradient(calls)
            if any(isinstance(output, jax.core.Tracer) for output in first):
                return None
            return len(first) == len(second) and all(map(_are_close, first, second))
    return None


def _are_close(a, b):
    tolerance = 100 * jnp.finfo(b.dtype).eps * np.max(np.abs(b), initial=0)
    return np.allclose(a, b, 0, tolerance, equal_nan=True)


def _equal_traces(*traces):
    """Tell whether two traces have the same operations and the same constants that outputs need."""
    variables = zip(*(_jaxpr(trace).constvars for trace in traces))
    for (a, b), pair in zip(zip(*(trace.consts for trace in traces)), variables):
        if a is not b and any(one in _needed(_jaxpr(trace)) for one, trace in zip(pair, traces)):
            if isinstance(a, jax.core.Tracer) or not np.array_equal(a, b):
                return False
    return len({re.sub(r" at 0x\w+", "", str(trace)) for trace in traces}) == 1


def _needed(jaxpr, outputs=None):
    """Return the variables that outputs need: all of them, or those that are true in a list."""
    outputs = outputs or [True] * len(jaxpr.outvars)
    needed = {atom for atom, is_output in zip(jaxpr.outvars, outputs) if is_output}
    for equation in reversed(jaxpr.eqns):
        if not needed.isdisjoint(equation.outvars):
            needed.update(atom for atom in equation.invars if not hasattr(atom, "val"))
    return needed


def _follow(jaxpr, marks, half, outputs=None):
    """Follow what depends on the marked inputs to the outputs, or to those true in a list.

    Returns:
        Which outputs depend on them; and, in half, (dtype, name) of what is in half precision.
    """
    marked, needed = set(itertools.compress(jaxpr.invars, marks)), _needed(jaxpr, outputs)
    for equation in jaxpr.eqns:
        name, outputs = equation.primitive.name, equation.outvars
        marks = [_is_in(marked, atom) for atom in equation.invars]
        if not any(marks) or needed.isdisjoint(outputs):
            continue
        results, inside = [True] * len(outputs), list(jaxprs_in_params(equation.params))
        if name in ("scan", "while"):
            # Inputs: constants, what one step hands to the next, and slices, which lose an axis.
            step, before = inside[-1], None
            last = len(marks) - sum(map(_differ_in_rank, equation.invars[::-1], step.invars[::-1]))
            first = last - len(outputs) + sum(map(_differ_in_rank, outputs, step.outvars))
            while marks != before:
                before = list(marks)
                results = _follow(step, marks[len(marks) - len(step.invars) :], half)
                marks[first:last] = map(max, marks[first:last], results)
            if name == "while":  # all that it returns depends on its test
                constants = marks[: len(inside[0].invars) - (last - first)]
                test = _follow(inside[0], constants + marks[first:], half)
                results = map(max, results, test * len(outputs))
        elif inside:
            known = name == "cond" or {len(inner.invars) for inner in inside} == {len(marks)}
            results = [not known or (name == "cond" and marks[0])] * len(outputs)
            for inner in inside:
                count = len(inner.invars)
                given = marks[len(marks) - count :] if known else [True] * count
                needs = [output in needed for output in outputs] if known else None
                results = list(map(max, results, _follow(inner, given, half, needs)))
        else:
            dtypes = [output.aval.dtype for output in outputs if output in needed]
            half += [(dtype, name) for dtype in dtypes if _is_half(dtype)]
        marked.update(itertools.compress(outputs, results))
    return [_is_in(marked, atom) for atom in jaxpr.outvars]


def _is_in(variables, atom):
    return not hasattr(atom, "val") and atom in variables  # literals have a value


def _differ_in_rank(a, b):
    return a.aval.ndim != b.aval.ndim


def _jaxpr(trace):
    return getattr(trace, "jaxpr", trace)  # JAX 0.12 has one class for both


def _is_traced(array):
    return isinstance(jax.lax.stop_gradient(array), jax.core.Tracer)

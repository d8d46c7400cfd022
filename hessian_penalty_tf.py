"""The Hessian Penalty (Peebles et al. 2020, arXiv 2008.10599) in TensorFlow 1.14 and 2.x.

Copy this file anywhere; it needs only TensorFlow and NumPy. It works in a graph with a Session, in
eager mode, inside tf.function (XLA too) and on Keras models.

    from hessian_penalty_tf import hessian_penalty
    loss = generator_loss + 0.05 * hessian_penalty(G, z)      # G: any function of z; z: [N, ...]

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
- Half precision and TF32 ruin second differences. A G in half precision is refused; on GPUs, call
  tf.config.experimental.enable_tensor_float_32_execution(False) when your program starts.
- All passes see G's variables in one state, and leave them in it (not in a graph for a Session).
  Draw random numbers, or seeds, once, and pass them to G as keyword arguments.
- Batch normalization in training mode mixes the samples: pass training=False.
- The first call with a new G runs it three times more, and warns if its outputs change.
"""

import collections
import contextlib
import enum
import functools
import gc
import inspect
import itertools
import random
import re
import sys
import types
import warnings
import weakref
from typing import Any, Callable, Iterable, List, Optional, Sequence, Union

import numpy as np
import tensorflow as tf

Generator = Callable[..., Union[tf.Tensor, Sequence[tf.Tensor]]]

# --------------------------------------------------------------------------------------------------
# The penalty: its computation (helpers are in the sections below)


def hessian_penalty(
    G: Generator, z: tf.Tensor, k: int = 2, epsilon: Union[float, tf.Tensor] = 0.1,
    reduction: Callable = tf.reduce_max, return_separately: bool = False, G_z: Any = None, *,
    directions: Optional[tf.Tensor] = None, select: bool = False, batched: bool = False,
    memory: Optional[str] = None, chunk_size: Optional[int] = None, exact: bool = False,
    batch_kwargs: Iterable[str] = (), **G_kwargs: Any
) -> Union[tf.Tensor, List[tf.Tensor]]:  # fmt: skip
    """Estimate the Hessian Penalty of G at z, differentiable with respect to G's variables and z.

    Args:
        G: Function of a tensor like z, and of G_kwargs, which is called 2k times. Returns a tensor
            or a list of tensors (the activations to regularize), of any shapes [N, ...].
        z: Latent codes, floating point, [N, ...]. N may be unknown when a graph is built.
        k: Number of directions, at least 2.
        epsilon: Step of the finite differences, in units of z.
        reduction: Takes an activation's penalties, one for each element, to a scalar.
        return_separately: Return a list with a scalar for each activation instead of their sum.
        G_z: Ignored, since G(z) cancels. It is there so that older calls keep working.
        directions: The directions v, [k, N, ...] of +1 and −1, instead of random ones.
        select: With the maximum reduction, find the samples that hold the maxima without gradient,
            and differentiate those alone. In eager mode, where they do not reproduce their maxima,
            a warning says so and all are differentiated; graphs and tf.function cannot look. If
            samples tie, the first one gets the whole gradient.
        batched: Make all 2k passes as one, of 2kN samples: faster for small batches.
        memory: "lean" holds nothing of a pass but its outputs, and computes it again for its
            gradient, one pass after the other. That reaches z, variables, G_kwargs and tensors of a
            graph, but no other tensor of eager mode. TensorFlow 1's eager mode saves no memory.
        chunk_size: With the mean or sum reduction, number of samples to differentiate at a time,
            each computed again as with `memory`. N must be known.
        exact: Refused: hessian_penalty_pytorch and hessian_penalty_jax have true derivatives.
        batch_kwargs: Names of those G_kwargs whose first axis is the batch. `select`, `batched` and
            `chunk_size` need them; they require that G treats samples independently.

    Returns:
        A scalar, or a list of one scalar for each activation. The options `select`, `batched`,
        `memory` and `chunk_size` leave value and gradient as they are, and change time and memory.

    Raises:
        ValueError: For an invalid argument, outputs without the batch axis or in a number that
            changes from pass to pass, or half precision between z and the outputs.
        tf.errors.InvalidArgumentError: For shapes that are wrong but unknown until a graph runs.
    """
    if exact:
        others = "use hessian_penalty_pytorch or hessian_penalty_jax"
        raise ValueError(f"exact=True: TensorFlow has no exact mode, {others}")
    G, z, v, epsilon = _prepare(G, z, epsilon, G_kwargs, batch_kwargs, k, directions)
    if select or batched or memory or chunk_size is not None:
        options = (select, batched, memory, chunk_size)
        penalties = _with_options(_second_differences, G, z, v, epsilon, reduction, *options)
    else:
        penalties = _reduced(reduction, _variances(_second_differences(G, z, v, epsilon)))
    return penalties if return_separately else tf.add_n(penalties)


def _second_differences(G, z, v, epsilon):
    """Yield s_i − s_0 for i = 1 … k − 1, each a list with one tensor per activation."""
    steps = [epsilon * v_i for v_i in v]
    passes = G.passes([latents for x in steps for latents in (z + x, z - x)])
    plus_0, minus_0 = next(passes), next(passes)
    for plus, minus in zip(passes, passes):
        # Equation 5, less the same for i = 0: the terms −2 G(z) cancel
        yield [
            ((p - p_0) + (m - m_0)) / epsilon**2
            for p, p_0, m, m_0 in _zip(plus, plus_0, minus, minus_0)
        ]


def _variances(differences):
    """Return the unbiased variance of s_0 … s_k−1, given every s_i − s_0, for each activation."""
    k, sums, squares = 1, [], []
    for of_one in differences:
        k += 1
        sums = [total + d for total, d in zip(sums, of_one)] or of_one
        squares = [total + d * d for total, d in zip(squares, of_one)] or [d * d for d in of_one]
    return [(square - total * total / k) / (k - 1) for square, total in zip(squares, sums)]


class _Generator:
    """G as a function of z alone, which sees its variables in the same state in every pass."""

    def __init__(self, G, kwargs, batch_kwargs, look, state=()):
        self.fields = dict(G=G, kwargs=kwargs, batch_kwargs=batch_kwargs, look=look, state=state)
        self.__dict__.update(self.fields)

    def but(self, kind=None, **changes):
        """Return a copy, of another kind or with other fields."""
        return (kind or type(self))(**dict(self.fields, **changes))

    def passes(self, latents):
        """Yield the activations at each of the latents."""
        for z in latents:
            yield self(z)

    def __call__(self, z, **kwargs):
        """Run G once, and return its activations as a list."""
        with _held_still(self.state):
            outputs = self.G(z, **dict(self.kwargs, **kwargs))
            outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
            return [_check_activation(tf.convert_to_tensor(output), z) for output in outputs]


# --------------------------------------------------------------------------------------------------
# The same idea for the Jacobian, and a number to log beside the penalty


def orojar_penalty(
    G: Generator, z: tf.Tensor, k: int = 2, epsilon: Union[float, tf.Tensor] = 0.1,
    reduction: Callable = tf.reduce_mean, return_separately: bool = False, *,
    directions: Optional[tf.Tensor] = None, batched: bool = False, memory: Optional[str] = None,
    chunk_size: Optional[int] = None, batch_kwargs: Iterable[str] = (), **G_kwargs: Any
) -> Union[tf.Tensor, List[tf.Tensor]]:  # fmt: skip
    """Estimate the Orthogonal Jacobian Regularization (OroJaR, Wei et al. 2021, arXiv 2108.07668).

    For one sample and the Jacobian J of one activation, with flattened columns J_i, it is

        Var_v(‖Jv‖²) = 2 · Σ_{i≠j} (J_iᵀJ_j)²,    Jv ≈ (G(z + εv) − G(z − εv)) / 2ε

    estimated from the same 2k passes as `hessian_penalty`. The penalty grows with the number of
    elements of an activation. `reduction` takes its penalties, [N], to a scalar. The other
    arguments, the value and the errors are those of `hessian_penalty`.
    """
    G, z, v, epsilon = _prepare(G, z, epsilon, G_kwargs, batch_kwargs, k, directions)
    options = (False, batched, memory, chunk_size)
    penalties = _with_options(_slope_differences, G, z, v, epsilon, reduction, *options)
    return penalties if return_separately else tf.add_n(penalties)


def _slope_differences(G, z, v, epsilon):
    """Yield ‖Jv_i‖² − ‖Jv_0‖² for i = 1 … k − 1, each a list with one tensor [N] per activation."""
    steps = [epsilon * v_i for v_i in v]
    passes = G.passes([latents for x in steps for latents in (z + x, z - x)])
    plus_0, minus_0 = next(passes), next(passes)
    for plus, minus in zip(passes, passes):
        pairs = _zip(plus, minus, plus_0, minus_0)
        squares = [tf.square(p - m) - tf.square(p_0 - m_0) for p, m, p_0, m_0 in pairs]
        yield [tf.reduce_sum(_flat(square), axis=1) / (2 * epsilon) ** 2 for square in squares]


Diagonalness = collections.namedtuple("Diagonalness", "ratio standard_error")


def diagonalness(
    G: Generator, z: tf.Tensor, epsilon: Union[float, tf.Tensor] = 0.1, k: int = 1,
    return_separately: bool = False, *, axes: Optional[tf.Tensor] = None, **G_kwargs: Any
) -> Union[Diagonalness, List[Diagonalness]]:  # fmt: skip
    """Estimate how diagonal G's Hessian is, whatever its scale: mean |H_aa| / mean |H_ab|, a ≠ b.

    About √2 where components are mixed at random, infinite for a diagonal Hessian, and meaningless
    where G is linear. Unlike the penalty, it does not change when activations shrink.

    Args:
        k: Number of random pairs (a, b) for each sample. The means run over pairs, elements and
            samples, from central differences in 1 + 6k passes. All steps have the length √2 ε,
            since on piecewise linear networks a second difference depends on it.
        return_separately: Return a list with one result per activation, not their mean ratio.
        axes: The pairs, integers [k, N, 2], indices of z's flattened components.

    The other arguments and the errors are those of `hessian_penalty`; z has at least 2 components.

    Returns:
        Diagonalness(ratio, standard_error), scalars without gradient. The standard error is that
        from the choice of samples (delta method), nan for a single sample.
    """
    G, z, _, epsilon = _prepare(G, z, epsilon, G_kwargs)
    axes, shape = _check_axes(axes, k, z), tf.shape(z)
    e_a, e_b = (tf.one_hot(axes[:, :, i], tf.reduce_prod(shape[1:]), dtype=z.dtype) for i in (0, 1))
    steps = [s[j] for j in range(k) for s in (2**0.5 * e_a, e_a + e_b, e_a - e_b)]
    steps = [epsilon * tf.reshape(step, shape) for step in steps]

    def means(z):
        """Return the sums over pairs of |H_aa| and |H_ab|, [activations, N] each, less a factor."""
        passes = G.passes([z, *(latents for x in steps for latents in (z + x, z - x))])
        center, diagonal, off_diagonal = next(passes), 0, 0
        bends = (
            [(p - c) + (m - c) for p, c, m in _zip(plus, center, minus)]
            for plus, minus in zip(passes, passes)
        )
        for along_a, along_sum, along_difference in zip(bends, bends, bends):
            diagonal += tf.stack([_mean_size(bend) / 2 for bend in along_a])
            off_diagonal += tf.stack(
                [_mean_size(p - m) / 4 for p, m in zip(along_sum, along_difference)]
            )
        return diagonal, off_diagonal

    (diagonal, off_diagonal), _ = _without_gradient(means, z)
    mean = tf.reduce_mean(off_diagonal, axis=1, keepdims=True)
    ratios = tf.reduce_mean(diagonal, axis=1, keepdims=True) / mean
    residuals = (diagonal - ratios * off_diagonal) / mean
    if return_separately:
        separate = zip(tf.unstack(ratios[:, 0]), tf.unstack(residuals))
        return [Diagonalness(ratio, _standard_error(residual)) for ratio, residual in separate]
    return Diagonalness(tf.reduce_mean(ratios), _standard_error(tf.reduce_mean(residuals, axis=0)))


def _mean_size(tensor):
    """Return the mean absolute value of each sample's elements, [N]."""
    return tf.reduce_mean(_flat(tf.abs(tensor)), axis=1)


def _standard_error(residuals):
    """Return the standard error of the mean of N residuals, whose mean is 0: nan for N = 1."""
    N = tf.cast(tf.size(residuals), residuals.dtype)
    error = tf.sqrt(tf.reduce_sum(tf.square(residuals)) / (N * (N - 1)))
    return tf.where(N > 1, error, error * np.nan)


def _flat(tensor):
    """Reshape a tensor to [N, elements]."""
    return tf.reshape(tensor, [tf.shape(tensor)[0], -1])


# --------------------------------------------------------------------------------------------------
# Options: the same value and gradient in less time or memory
#
#   batched      G makes all passes as one                                   _Stacked
#   memory       G makes passes that are computed again for their gradient   _Recomputed
#   chunk_size   the estimator runs on one chunk of rows after the other     _in_chunks
#   select       the estimator runs on the rows that hold the maxima         _of_selected_rows

MAXIMA, MEANS, SUMS = (
    [getattr(module, name) for module in (tf, tf.math, tf.compat.v1, tf.compat.v2)]
    for name in ("reduce_max", "reduce_mean", "reduce_sum")
)


def _with_options(estimator, G, z, v, epsilon, reduction, select, batched, memory, chunk_size):
    """Return the reduced variances of each activation."""
    _check_options(reduction, select, batched, memory, chunk_size)
    draws = G.look.draws
    if draws and (select or batched):
        _warn(f"{'select' if select else 'batched'}=True is left out, since {draws}")
        select = batched = False
    few = G.but(_Recomputed if memory else _Generator if draws else _Stacked)
    G = few if memory or batched else G

    def estimate(G, z, v):
        return _variances(estimator(G, z, v, epsilon))

    if chunk_size is not None:
        penalties = _in_chunks(estimate, few, z, v, reduction, chunk_size)
    else:
        penalties = _of_selected_rows(estimate, G, few, z, v, epsilon) if select else None
        penalties = penalties or _reduced(reduction, estimate(G, z, v))
    found_late = G.look.draws if G.look.draws != draws and not G.look.cause else None
    if found_late and (select or batched or chunk_size):  # in a Session's graph
        _warn(f"{CHANGES}: {found_late} (leave out select, batched and chunk_size)")
    return penalties


def _take(tensor, rows):
    """Return some rows of a tensor, whose gradient is a tensor too: no IndexedSlices."""
    return tf.gather(tf.reshape(tensor, tf.shape(tensor)), rows)


def _rows(G, rows):
    """Return G for some samples of its batch. rows: int32 or int64 [n]."""
    kwargs = {name: _take(G.kwargs[name], rows) for name in G.batch_kwargs}
    return G.but(kwargs=dict(G.kwargs, **kwargs))


class _Stacked(_Generator):
    """Make all passes as one, of as many times the samples."""

    def passes(self, latents):
        n = len(latents)
        kwargs = {name: tf.concat([self.kwargs[name]] * n, axis=0) for name in self.batch_kwargs}
        outputs = self(tf.concat(latents, axis=0), **kwargs)
        return zip(*[tf.split(output, n) for output in outputs])


class _Recomputed(_Generator):
    """Hold nothing of a pass but its outputs, and compute it again for its gradient."""

    def passes(self, latents):
        return iter(_recomputed([self] * len(latents), latents, self.kwargs))


def _in_chunks(estimate, G, z, v, reduction, chunk_size):
    """Return the mean or sum of each activation's variances, from chunks of samples."""
    N = _length(z)
    if N is None:
        message = "chunk_size needs a batch of known length when a graph is built"
        raise ValueError(f"{message}, got z of unknown length")

    def share(z, begin):
        rows = tf.range(begin, begin + _length(z))
        weight = _length(z) / N if reduction in MEANS else 1
        variances = estimate(_rows(G, rows), z, [_take(v_i, rows) for v_i in v])
        return [weight * reduction(variance) for variance in variances]

    begins = range(0, N, chunk_size)
    shares = [functools.partial(share, begin=begin) for begin in begins]
    shares = _recomputed(shares, [z[begin : begin + chunk_size] for begin in begins], G.kwargs)
    return [tf.add_n(of_one) for of_one in zip(*shares)]


def _of_selected_rows(estimate, G, few, z, v, epsilon):
    """Return each activation's maximum, differentiated on the samples that hold the maxima.

    few: G for these samples. None where all samples have to be differentiated.
    """

    def search(z):
        sizes = []

        def passes(latents):
            for outputs in G.passes(latents):
                sizes.extend(tf.reduce_max(tf.abs(each)) for each in ([] if sizes else outputs))
                yield outputs

        variances = estimate(types.SimpleNamespace(passes=passes), z, v)
        maxima = [_maxima(variance) for variance in variances]
        rows = tf.stack([tf.argmax(of_samples) for of_samples in maxima])
        return rows, tf.stack([tf.reduce_max(of_samples) for of_samples in maxima]), tf.stack(sizes)

    (rows, maxima, sizes), _ = _without_gradient(search, z)
    if _length(z) is not None and _length(z) <= _length(rows):
        return None
    try:
        variances = estimate(_rows(few, rows), _take(z, rows), [_take(v_i, rows) for v_i in v])
        penalties = [_first_maximum(variance[a]) for a, variance in enumerate(variances)]
    except Exception as error:  # whatever G raises on a batch of another size
        problem = f"G fails on fewer (see batch_kwargs): {type(error).__name__}"
    else:
        if not tf.executing_eagerly() or _reproduce(penalties, maxima, sizes / epsilon**2):
            return penalties
        problem = G.look.cause or "G mixes samples, or holds a batch (see batch_kwargs)"
        problem = f"fewer do not reproduce the maxima: {problem}"
    _warn(f"select=True: all samples were differentiated, since {problem}")
    return None


def _maxima(variances):
    """Return each sample's maximum, [N], without gradient: infinity where it has a nan."""
    variances = _flat(tf.stop_gradient(variances))
    infinity = tf.fill(tf.shape(variances), tf.constant(np.inf, variances.dtype))
    return tf.reduce_max(tf.where(tf.math.is_nan(variances), infinity, variances), axis=1)


def _reduced(reduction, variances):
    """Return the reduced variances of each activation."""
    if reduction in MAXIMA and not tf.executing_eagerly():
        reduction = _first_maximum
    return [reduction(variance) for variance in variances]


def _first_maximum(variances):
    """Return the maximum as an element: reduce_max's gradient fails where XLA rounds it anew."""
    if variances.shape.ndims is None:
        variances = tf.reshape(variances, [-1])
    while variances.shape.ndims:  # axis by axis: argmax is slow on a GPU where an axis is long
        variances = variances[tf.argmax(_maxima(variances))]
    return variances


def _reproduce(penalties, maxima, sizes):
    """Tell whether the penalties' roots, second differences, are those found before.

    sizes: those of G's outputs over ε², to which rounding errors are relative.
    """
    roots, expected = tf.sqrt(tf.stack(penalties)), tf.sqrt(maxima)
    tolerance = 0.01 * expected + 100 * np.finfo(expected.dtype.as_numpy_dtype).eps * sizes
    near = tf.abs(roots - expected) <= tolerance
    return bool(tf.reduce_all(near | ~tf.math.is_finite(expected)))


def _recomputed(functions, latents, kwargs):
    """Return [function(z) for function, z in zip(functions, latents)], lists of tensors each.

    Of what a gradient needs nothing is held: the functions are run again for it, each when the
    gradients of those before are added up. tf.recompute_grad would run all of them at once in a
    graph, and not see tensors that a function has from elsewhere.
    """
    values, sources = [], {}
    for function, z in zip(functions, latents):
        value, used = _without_gradient(function, _after(z, values[-1:]), kwargs)
        values.append(value)
        sources.update((id(source), source) for source in used)
    sources = list(sources.values())

    @tf.custom_gradient
    def outputs(*_):
        def backward(*upstream):
            of_sources, of_latents, done = [None] * len(sources), [], list(upstream)
            for of_value, function, z in zip(pack(upstream), functions, latents):
                z = _after(z, done)
                with tf.GradientTape(watch_accessed_variables=False) as tape:
                    tape.watch([*sources, z])
                    value = function(z)
                of_value = [_after(each, done) for each in of_value]
                *new, of_z = tape.gradient(value, [*sources, z], of_value)
                _add_to(of_sources, new)
                of_latents.append(of_z)
                done = [each for each in [*of_sources, of_z] if each is not None]
            return [*of_sources, *of_latents]

        return [tf.identity(value) for value in tf.nest.flatten(values)], backward

    def pack(flat):
        return tf.nest.pack_sequence_as(values, list(flat))

    return pack(outputs(*[tf.convert_to_tensor(source) for source in sources], *latents))


def _add_to(gradients, new):
    """Add a list of gradients, of which some may be None, to another in its place."""
    for i in range(len(new)):
        both = [each for each in (gradients[i], new[i]) if each is not None]
        gradients[i], new[i] = tf.add_n(both) if both else None, None
        del both  # what is left of it would be held in eager mode


def _without_gradient(function, z, kwargs=()):
    """Return function(z), a nest of tensors that are constants to a tape, and what it depends on.

    That is a list of variables and tensors besides z: in a graph those that were there before; in
    eager mode the variables used and the keyword arguments.
    """
    graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
    before = set(graph.get_operations()) if graph else ()
    # recompute_grad stops all tapes, but still tells this one of the variables (TensorFlow 2)
    run = tf.recompute_grad(function) if not graph and hasattr(tf, "recompute_grad") else function
    with tf.GradientTape() as tape:
        values = run(z)
        sources = list(tape.watched_variables())
    if not graph:
        tensors = [each for each in tf.nest.flatten(kwargs) if isinstance(each, tf.Tensor)]
        sources += [each for each in tensors if each.dtype.is_floating]
        return tf.nest.map_structure(tf.stop_gradient, values), sources
    seen, queue = {z.name}, tf.nest.flatten(values)
    while queue:
        tensor = queue.pop()
        if tensor.name not in seen and tensor.op.type != "StopGradient":
            seen.add(tensor.name)
            # A tf.function takes what is outside by placeholders
            is_new = tensor.op not in before and tensor.op.type != "Placeholder"
            queue.extend(tensor.op.inputs if is_new else [])
            sources.extend([tensor] if tensor.dtype.is_floating and not is_new else [])
    return tf.nest.map_structure(tf.stop_gradient, values), sources


def _after(tensor, others):
    """Return the tensor, in a graph not before the others (a nest of tensors) are there."""
    others = tf.nest.flatten(others)
    if not others or tf.executing_eagerly():
        return tensor
    with tf.control_dependencies(others):
        tensor = tf.identity(tensor)
    one = tf.cast(tf.reduce_sum(tf.reshape(others[-1], [-1])[:1]), tensor.dtype)
    return tensor + tf.where(tf.math.is_nan(one), one, tf.zeros_like(one))  # XLA needs a data flow


# --------------------------------------------------------------------------------------------------
# Checks of arguments, and of what G returns


def _prepare(G, z, epsilon, kwargs, batch_kwargs=(), k=None, directions=None):
    """Return G with its variables held still, z, k directions, and epsilon."""
    G, z = _check(G, z, kwargs, batch_kwargs)
    epsilon = _check_epsilon(epsilon, z)
    v = None if k is None else _check_directions(directions, k, z)
    return _steady(G, z), z, v, epsilon


def _check(G, z, kwargs, batch_kwargs):
    """Return G as a function of z alone, and z in float32 or float64."""
    z = tf.convert_to_tensor(z)
    if not z.dtype.is_floating or z.shape.ndims == 0:
        found = f"{z.dtype.name} of shape {z.shape}"
        raise ValueError(f"z must be a floating-point tensor with a batch axis, got {found}")
    if isinstance(batch_kwargs, str):
        raise ValueError(f"batch_kwargs must be a list of names, got {batch_kwargs!r}")
    batch_kwargs = tuple(batch_kwargs)
    for name in batch_kwargs:
        if name not in kwargs:
            raise ValueError(f"batch_kwargs names {name!r}, which was not passed")
        kwargs = dict(kwargs, **{name: tf.convert_to_tensor(kwargs[name])})
        shape = kwargs[name].shape
        if shape.ndims == 0 or not shape[:1].is_compatible_with(z.shape[:1]):
            found = f"the batch's length {_length(z)} first, got shape {tuple(shape.as_list())}"
            raise ValueError(f"batch_kwargs: {name!r} must have {found}")
    z = tf.cast(z, tf.float32) if z.dtype.size < tf.float32.size else z
    return _Generator(G, kwargs, batch_kwargs, _Look()), z


def _check_epsilon(epsilon, z):
    """Return epsilon as a number, or as a tensor where its value is unknown until a graph runs."""
    if tf.is_tensor(epsilon) or isinstance(epsilon, tf.Variable):
        epsilon = tf.convert_to_tensor(epsilon)
        if not hasattr(epsilon, "numpy"):
            return tf.stop_gradient(tf.cast(tf.reshape(epsilon, []), z.dtype))
        epsilon = float(epsilon.numpy())
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive, got {epsilon}")
    return epsilon


def _check_directions(directions, k, z):
    """Return k tensors like z of ±1: those given, or independent random ones for every sample."""
    if k < 2:
        raise ValueError(
            f"k must be at least 2 (it is the number of values in a variance), got {k}"
        )
    shape = tf.concat([[k], tf.shape(z)], axis=0)
    expected = tf.TensorShape([k]).concatenate(z.shape)
    if directions is None:
        directions = 2 * tf.cast(tf.random.uniform(shape, maxval=2, dtype=tf.int32), z.dtype) - 1
        directions.set_shape(expected)
        return [directions[i] for i in range(k)]
    directions = tf.stop_gradient(tf.cast(directions, z.dtype))
    if not directions.shape.is_compatible_with(expected):
        message = f"directions must have shape [k, *z.shape] = {expected}"
        raise ValueError(f"{message}, got {directions.shape}")
    if tf.executing_eagerly():
        stray = tf.boolean_mask(directions, tf.not_equal(tf.abs(directions), 1))
        if len(stray):
            found = float(stray[0])
            raise ValueError(f"directions must be +1 or -1 in every entry, got {found}")
    elif not (directions.shape.is_fully_defined() and expected.is_fully_defined()):
        message = "directions must have shape [k, *z.shape]"
        directions = _check_when_run(directions, tf.shape(directions), shape, message)
    return [directions[i] for i in range(k)]


def _check_axes(axes, k, z):
    """Return pairs of components for each sample, [k, N, 2]: those given, or random ones."""
    if k < 1:
        raise ValueError(f"k must be at least 1 (it is the number of pairs of components), got {k}")
    n = z.shape[1:].num_elements() if z.shape.ndims else None
    if n is not None and n < 2:
        message = "z must have at least two components for a Hessian to be diagonal or not"
        raise ValueError(f"{message}, got {n}")
    if axes is None:
        shape, n = [k, tf.shape(z)[0]], tf.reduce_prod(tf.shape(z)[1:])
        first = tf.random.uniform(shape, maxval=n, dtype=tf.int32)
        second = first + 1 + tf.random.uniform(shape, maxval=n - 1, dtype=tf.int32)
        return tf.stack([first, tf.math.mod(second, n)], axis=2)
    axes = tf.convert_to_tensor(axes)
    expected = tf.TensorShape([k]).concatenate(z.shape[:1]).concatenate([2])
    if not axes.dtype.is_integer or not axes.shape.is_compatible_with(expected):
        found = f"{axes.dtype.name} {axes.shape}"
        raise ValueError(f"axes must be integers of shape [k, N, 2] = {expected}, got {found}")
    if tf.executing_eagerly():
        a, b = axes[..., 0], axes[..., 1]
        if not tf.reduce_all((a >= 0) & (a < n) & (b >= 0) & (b < n) & tf.not_equal(a, b)):
            raise ValueError(f"axes must be pairs of different components from 0 to {n - 1}")
    return axes


def _check_options(reduction, select, batched, memory, chunk_size):
    """Refuse options that do not go with the reduction, or with each other."""
    name = getattr(reduction, "__name__", repr(reduction))
    if select and reduction not in MAXIMA:
        raise ValueError(f"select=True needs the maximum reduction (tf.reduce_max), got {name}")
    if chunk_size is not None and reduction not in MEANS + SUMS:
        message = "chunk_size needs the mean or sum reduction (tf.reduce_mean or tf.reduce_sum)"
        raise ValueError(f"{message}, got {name}")
    if chunk_size is not None and not (hasattr(chunk_size, "__index__") and chunk_size > 0):
        raise ValueError(f"chunk_size must be a positive number of samples, got {chunk_size}")
    if memory not in (None, "lean"):
        raise ValueError(f'memory must be None or "lean", got {memory!r}')
    if batched and memory:
        raise ValueError(
            'batched=True and memory="lean" exclude each other: one makes all passes at once, '
            "the other one at a time"
        )


def _check_activation(output, z):
    """Return one of G's outputs, which must have the batch axis and be precise enough."""
    batch, expected = output.shape[:1], z.shape[:1]
    message = "G must return the batch axis of z first"
    if not batch.is_compatible_with(expected):
        raise ValueError(f"{message}: z is {z.shape}, the output is {output.shape}")
    if output.dtype not in (tf.float32, tf.float64):
        raise ValueError(f"{TOO_COARSE}, got {output.dtype.name}")
    if batch.is_fully_defined() and expected.is_fully_defined():
        return output
    return _check_when_run(output, tf.shape(output)[:1], tf.shape(z)[:1], message)


def _check_when_run(tensor, actual, expected, message):
    """Return the tensor, with a check of what is unknown until a graph runs."""
    check = tf.compat.v1.debugging.assert_equal(actual, expected, message=message)
    with tf.control_dependencies([check]):
        return tf.identity(tensor)


def _zip(*passes):
    """Zip the activations of several passes, of which each must have as many."""
    counts = sorted({len(outputs) for outputs in passes})
    if len(counts) > 1:
        message = "G must return as many activations in every pass"
        raise ValueError(f"{message}, got {counts[0]} and {counts[-1]}")
    return zip(*passes)


def _length(tensor):
    """Return the length of the first axis, or None where it is unknown until a graph runs."""
    return tf.compat.dimension_value(tensor.shape[0]) if tensor.shape.ndims else None


# --------------------------------------------------------------------------------------------------
# The first look at a generator, and its state
#
# All passes must see G in one state, and G must compute in float32 or float64. What a pass assigns,
# draws and computes in is read from the graph of one pass (_examine), and in eager mode seen in the
# values of two (_compare). Entry points: check_generator, _steady and _held_still.

TOO_COARSE = "G must compute in float32 or float64 for its differences to count"
CHANGES = (
    "G gives other outputs when it is called again with the same latents, "
    "which would be taken for curvature"
)
LIBRARIES = ("tensorflow", "tensorflow_core", "keras", "tf_keras", "numpy")
MOST_LOOKS, MOST_OBJECTS, MOST_ITEMS = 128, 500, 50
_looks = collections.OrderedDict()  # fingerprint: _Look, of the generators seen last


class _Look:
    """Findings about a generator, from the first look at it."""

    def __init__(self, moved=(), draws=None, cause=None):
        self.moved = [weakref.ref(handle) for handle in moved]  # of variables that a pass assigns
        self.draws = draws  # what draws random numbers for each sample from a seed, in words
        self.cause = cause  # why passes differ, in words
        self.references = []  # weak, to the models that its fingerprint has the ids of


def check_generator(G: Generator, z: tf.Tensor, batch_kwargs: Iterable[str] = (), **G_kwargs: Any):
    """Check that the differences of G's outputs come from z alone and are precise.

    Warns (UserWarning) if G gives other outputs when it is called again, naming the likely cause.
    The penalties call this for every G that is new to them. It takes three passes with two samples,
    and one of which only the graph is built; inside a tf.function only the latter, in which NumPy's
    generator and other state are not seen. In a graph for a Session, the first pass is examined.
    The arguments are those of `hessian_penalty`.

    Raises:
        ValueError: If G computes in half precision between z and its outputs.
    """
    G, z = _check(G, z, G_kwargs, batch_kwargs)
    if _in_session_graph():
        _examined_when_built(G)(z)
    else:
        _look(G, z)


def _steady(G, z):
    """Return G with its variables held in their present state, and a _Look, taken if G is new."""
    if _in_session_graph():
        return _examined_when_built(G)
    fingerprint, _ = _fingerprint(G, z)
    look = _looks.get(fingerprint)
    if tf.distribute.get_strategy().num_replicas_in_sync > 1:
        look = None  # each replica has variables of its own
    if look is None or any(reference() is None for reference in look.references + look.moved):
        look = _look(G, z)
        if look is None:
            return G
        built, look.references = _fingerprint(G, z)  # G may have built itself in the meantime
        _looks[fingerprint] = _looks[built] = look
        while len(_looks) > MOST_LOOKS:
            _looks.popitem(last=False)
    handles = [reference() for reference in look.moved]
    return G.but(look=look, state=_state(handle for handle in handles if handle is not None))


def _in_session_graph():
    """Tell a graph for a Session, which runs only what it is asked for, from a tf.function's."""
    graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
    return graph is not None and not hasattr(graph, "captures")


def _state(handles):
    """Return the handles of variables with their values, as pairs."""
    dtypes = [(each, tf.as_dtype(each._handle_data.shape_and_type[0].dtype)) for each in handles]
    return [(each, tf.raw_ops.ReadVariableOp(resource=each, dtype=dtype)) for each, dtype in dtypes]


def _restore(state):
    for handle, value in state:
        tf.raw_ops.AssignVariableOp(resource=handle, value=value)


@contextlib.contextmanager
def _held_still(state):
    """Let variables start from this state, and leave them as they were found.

    In the backward pass the two may differ.
    """
    found = _state(handle for handle, _ in state)
    _restore(state)
    try:
        yield
    finally:
        _restore(found)


def _look(G, z):
    """Examine one pass and, in eager mode, compare two. None if G fails, as it then will again."""
    eager, moved, draws, cause = tf.executing_eagerly(), None, None, None
    few = _first_pass(G, z) if eager else None  # before tracing, for variables that G then creates
    if eager and few is None:
        return None
    try:
        traced = tf.compat.v1.wrap_function(lambda z: G(z), [tf.TensorSpec(z.shape, z.dtype)])
    except Exception:  # whatever it is that G cannot do in a graph
        if not eager:
            return None
        _check_layers(G)
    else:
        operations = traced.graph.get_operations()
        moved, draws, cause = _examine(operations, traced.inputs[0], traced.outputs, traced)
    if eager:
        moved, cause = _compare(*few, moved, cause)
    if cause:
        _warn(f"{CHANGES}: {cause}")
    return _Look(moved, draws, cause)


def _first_pass(G, z):
    """Run G on two samples, or on all if it fails on two. Return it for them, and them; or None."""
    state = _state(_handles(G))
    for number in (2, None):
        rows = tf.range(_length(z))[:number]
        few = _rows(G, rows), _take(z, rows)
        try:
            _run(*few)
            return few
        except Exception:  # whatever G raises
            continue
        finally:
            _restore(state)
    return None


def _run(G, z):
    return _without_gradient(G, z)[0]


def _compare(G, z, moved, cause):
    """Run G twice. Return the handles of the variables that it assigns, and why outputs differ."""
    handles = _handles(G) + (moved or [])
    state, generators = _state(handles), _generators()
    outputs = _run(G, z)
    if moved is None:
        values = [(old.numpy(), new.numpy()) for (_, old), (_, new) in zip(state, _state(handles))]
        moved = [handle for handle, pair in zip(handles, values) if not np.array_equal(*pair)]
    _restore(state)
    again = _run(G.but(state=_state(moved)), z)
    if not any(_differ(a, b) for a, b in _zip(outputs, again)):
        return moved, cause  # random numbers without effect now may have one later
    for name, old, new in zip(("NumPy", "Python"), generators, _generators()):
        if old != new:
            advice = "(draw them once, and pass them to G)"
            cause = cause or f"{name}'s generator draws new numbers {advice}"
    if G.kwargs.get("training") is True:
        cause = cause or "a layer is in training mode (pass training=False)"
    return moved, cause or "it keeps state of its own"


def _differ(a, b):
    """Tell whether two outputs differ by more than rounding."""
    rounding = 100 * np.finfo(a.dtype.as_numpy_dtype).eps * tf.reduce_max(tf.abs(a))
    return bool(tf.reduce_any(tf.abs(a - b) > rounding))


def _generators():
    """Return the states of NumPy's and Python's global random generators."""
    numpy_state = np.random.get_state()
    return (numpy_state[1].tobytes(), *numpy_state[2:]), random.getstate()


def _check_layers(G):
    """Refuse Keras layers that compute in half precision, for want of a graph."""
    for each in _reachable(G):
        for layer in each._flatten_layers() if hasattr(type(each), "_flatten_layers") else ():
            dtype = tf.as_dtype(getattr(layer, "compute_dtype", None) or tf.float32)
            if dtype.is_floating and dtype.size < 4:
                raise ValueError(f"{TOO_COARSE}, got {dtype.name} from {layer.name}")


def _examined_when_built(G):
    """Return G with a _Look, filled in when its first call has added to a Session's graph."""
    look, graph, taken = _Look(), tf.compat.v1.get_default_graph(), []

    def examined(z, **kwargs):
        before = 0 if taken else len(graph.get_operations())
        outputs = G(z, **kwargs)
        if not taken:
            taken.append(True)
            _, look.draws, look.cause = _examine(graph.get_operations()[before:], z, outputs)
            if look.cause:
                _warn(f"{CHANGES}: {look.cause}")
        return outputs

    return G.but(G=examined, look=look)


# What one pass does: a search of its graph

# Types of operations: those that assign to their first input, that draw random numbers, ...
ASSIGNS = re.compile("Assign|Scatter|Apply|CountUpTo|^Rng|^Stateful(?!Part)")
DRAWS = re.compile(
    "^(Stateless)?(Random|Truncated|Parameterized|Multinomial|Shuffle)|^Stateful(?!Part)|^NonDeterm"
)
CALLS = re.compile("(PartitionedCall|While|If|Case)$")
COPIES = ("Cast", "Identity", "IdentityN", "Placeholder")


def _examine(operations, z, outputs, traced=None):
    """Refuse half precision between z and the outputs of a pass, given what is in its graph.

    Return the handles of the variables that it assigns; what draws random numbers for each sample
    from a seed; what makes passes differ. The last two are in words, or None. traced: the function
    whose graph this is; None for a Session's, in which what is assigned is not put back.
    """
    operations = list(operations)
    forward, backward = collections.defaultdict(list), collections.defaultdict(list)
    for source, target in _flow(operations):
        forward[id(source)].append(target)
        backward[id(target)].append(source)
    upstream = _reached(outputs, backward)
    downstream = _reached([z], forward, _holds_numbers)
    halves = [
        tensor
        for key, tensor in downstream.items()
        if key in upstream and tensor.dtype.is_floating and tensor.dtype.size < 4
    ]
    if halves:
        half = min(halves, key=lambda tensor: tensor.op.type in COPIES)  # the first that computes
        raise ValueError(f"{TOO_COARSE}, got {half.dtype.base_dtype.name} from {_name(half.op)}")

    behind = {id(tensor.op): tensor.op for tensor in upstream.values()}
    moved, draws, cause = [], None, None
    if traced:
        captured = zip(traced.inputs[::-1], traced.captured_inputs[::-1])
        inside = {id(tensor): handle for tensor, handle in captured}
        assigned = [operation.inputs[0] for operation in operations if _assigns(operation)]
        origins = _reached(assigned, backward, lambda tensor: tensor.dtype == tf.resource)
        moved = [inside[key] for key in origins if getattr(inside.get(key), "_handle_data", None)]
    else:  # here what the outputs wait for counts too
        earlier = {
            id(each): [*each.control_inputs, *(tensor.op for tensor in each.inputs)]
            for each in operations
        }
        behind = _reached(behind.values(), earlier, lambda operation: id(operation) in earlier)
    for each in behind.values():
        if _assigns(each):
            cause = cause or (None if traced else f"it assigns {each.inputs[0].op.name}")
        elif DRAWS.search(each.type) and not each.type.startswith("Stateless"):
            advice = "(pass training=False, or draw them in advance)"
            cause = cause or f"{_name(each)} draws new numbers {advice}"
        elif DRAWS.search(each.type):
            if each.outputs[0].shape[:1].is_compatible_with(z.shape[:1]):
                draws = draws or f"{_name(each)} draws numbers for each sample"
    return moved, draws, cause


def _flow(operations):
    """Yield the pairs of tensors (from, to) between which values flow.

    Extend the list of operations by those of the functions that they call.
    """
    seen = set()
    for operation in operations:
        inputs, outputs = list(operation.inputs), list(operation.outputs)
        bodies = _called(operation)
        # Of a call, all that its body does not take is a condition
        through = inputs[: len(inputs) - len(bodies[0].inputs)] if bodies else inputs
        yield from itertools.product(through, outputs)
        if _assigns(operation):
            yield from [(value, inputs[0]) for value in inputs[1:]]
        for body in bodies:
            taken = inputs[len(through) :]
            yield from [*zip(taken, body.inputs), *zip(body.outputs, outputs)]
            pairs = zip(body.inputs, taken)
            yield from [(inner, outer) for inner, outer in pairs if outer.dtype == tf.resource]
            if "While" in operation.type:
                yield from [*zip(body.outputs, body.inputs), *zip(inputs, outputs)]
            operations += [] if id(body) in seen else body.get_operations()
            seen.add(id(body))


def _called(operation):
    """Return the graphs of the functions that an operation calls."""
    attributes = operation.node_def.attr.values() if CALLS.search(operation.type) else ()
    names = [each.name for found in attributes for each in (found.func, *found.list.func)]
    functions = [operation.graph._get_function(name) for name in names if name]
    return [function.graph for function in functions if function is not None]


def _reached(starts, edges, through=lambda each: True):
    """Follow edges {id: [nodes]} through nodes that pass a test. Return {id: node}."""
    found, queue = {}, collections.deque(starts)
    while queue:
        each = queue.popleft()
        if id(each) not in found and through(each):
            found[id(each)] = each
            queue.extend(edges.get(id(each), ()))
    return found


def _holds_numbers(tensor):
    """Tell whether z's values can flow through a tensor: not if it holds integers or strings."""
    return not (tensor.dtype.is_integer or tensor.dtype.is_bool or tensor.dtype == tf.string)


def _assigns(operation):
    """Tell whether an operation writes to a variable, which is its first input."""
    if not ASSIGNS.search(operation.type) or not operation.inputs:
        return False
    dtype = operation.inputs[0].dtype
    return dtype == tf.resource or dtype != dtype.base_dtype  # a reference


def _name(operation):
    """Return an operation's type after the name of its layer or scope: dense/MatMul."""
    return "/".join([*operation.name.split("/")[:-1][-1:], operation.type])


# What G refers to: a walk through closures, globals, attributes and containers

PLAIN = (bool, str, bytes, type(None), tf.DType, np.dtype, enum.Enum, types.CodeType)
ARRAYS = (tf.Tensor, np.ndarray, np.generic)


def _handles(G):
    """Return the handles of the variables that are found behind G."""
    handles = {}
    for each in filter(_is_stateful, _reachable(G)):
        with contextlib.suppress(Exception):  # a model may not have been built
            variables = getattr(each, "variables", [each])
            handles.update((id(variable.handle), variable.handle) for variable in variables)
    return list(handles.values())


def _fingerprint(G, z):
    """Return what G is recognized by, and weak references to what has its id in that.

    A new lambda in each step is recognized, since the fingerprint holds code, flags, names and
    dtypes, models and variables by their id, and of other objects the types of arrays alone.
    """
    fingerprint, references = [tf.executing_eagerly(), z.dtype, *sorted(G.kwargs)], []
    for each in _reachable(G):
        if isinstance(each, PLAIN):
            fingerprint.append(each)
        elif isinstance(each, ARRAYS):
            fingerprint += [type(each), each.dtype]
        elif _is_stateful(each):
            with contextlib.suppress(TypeError):
                references.append(weakref.ref(each))
            policy = getattr(getattr(each, "dtype_policy", None), "name", None)
            fingerprint += [id(each), policy, bool(getattr(each, "trainable", True))]
            settings = getattr(each, "__dict__", {}).items()
            flags = [(name, flag) for name, flag in settings if isinstance(flag, (bool, str))]
            fingerprint += [(name, flag) for name, flag in flags if name[:1] != "_"]
        elif isinstance(each, type):
            fingerprint.append((each.__module__, each.__qualname__))
    return tuple(fingerprint), references


def _is_stateful(each):
    """Tell whether it is a model, layer or tf.Module, or a variable (Keras' too)."""
    return hasattr(type(each), "trainable_variables") or hasattr(type(each), "assign")


def _reachable(G):
    """Yield all that G and its arguments refer to, up to models."""
    queue, seen = collections.deque([G.G, G.kwargs]), {}
    while queue and len(seen) < MOST_OBJECTS:
        each = queue.popleft()
        if isinstance(each, PLAIN):
            yield each
        elif id(each) not in seen:
            seen[id(each)] = each
            yield each
            queue.extend(() if _is_stateful(each) or isinstance(each, ARRAYS) else _parts(each))


def _parts(each):
    """Return what an object refers to; one array of each kind, since lists of them may grow."""
    function = each if isinstance(each, types.FunctionType) else None
    module = function.__globals__.get("__name__") if function else type(each).__module__
    if isinstance(each, (type, types.ModuleType)):
        return []
    if _is_of_a_library(module):
        parts = [
            getattr(each, name, None) for name in ("__code__", "__wrapped__", "python_function")
        ]
        inside = vars(each).values() if hasattr(type(each), "_track_trackable") else ()
        return parts + [part for part in inside if not isinstance(part, PLAIN)]  # or variables
    if function:
        parts = [function.__code__, function.__defaults__, function.__kwdefaults__]
        parts += [function.__closure__, *_globals(function)]
    elif isinstance(each, list):
        parts = [part for part in each[:MOST_ITEMS] if not isinstance(part, PLAIN)]
    elif isinstance(each, dict):
        parts = list(itertools.islice(each.values(), MOST_ITEMS))
    else:
        parts = gc.get_referents(each) + ([type(each).__call__] if callable(each) else [])
    arrays = {(type(part), part.dtype): part for part in parts if isinstance(part, ARRAYS)}
    return [part for part in parts if not isinstance(part, ARRAYS)] + list(arrays.values())


def _globals(function):
    """Return the values of the global names in a function's code, and in modules among them."""
    names, codes = [], [function.__code__]
    for code in codes:
        names += code.co_names
        codes += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    values = [function.__globals__[name] for name in names if name in function.__globals__]
    for module in [value for value in values if isinstance(value, types.ModuleType)]:
        if not _is_of_a_library(module.__name__):
            values += [vars(module)[name] for name in names if name in vars(module)]
    return values


def _is_of_a_library(module):
    return str(module).split(".")[0] in LIBRARIES


def _warn(message):
    """Warn at the line of the caller, outside this file and TensorFlow."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and (
        frame.f_globals is globals()
        or _is_of_a_library(frame.f_globals.get("__name__"))
        or "__autograph_generated" in frame.f_code.co_filename
    ):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


# --------------------------------------------------------------------------------------------------
# AutoGraph, by which tf.function rewrites what it calls, must rewrite G and nothing in this file


def _not_by_autograph(function):
    """Return function(G, ...) for a tf.function, where of both only G is converted."""
    as_it_is = tf.autograph.experimental.do_not_convert(function)
    autograph = getattr(getattr(tf, "__internal__", None), "autograph", None)
    if autograph is None:
        return as_it_is

    @functools.wraps(function)
    def with_G_converted(G, *args, **kwargs):
        converted = autograph.tf_convert(
            G, autograph.control_status_ctx(), convert_by_default=False
        )
        if isinstance(converted, types.FunctionType) and converted is not G:
            converted.__wrapped__ = G  # what it is recognized by
        return as_it_is(converted, *args, **kwargs)

    with_G_converted.__signature__ = inspect.signature(function)
    del with_G_converted.__wrapped__  # AutoGraph would read the source of that
    return with_G_converted


if hasattr(tf.autograph.experimental, "do_not_convert"):  # not in TensorFlow 1.14
    for _public in (hessian_penalty, orojar_penalty, diagonalness, check_generator):
        globals()[_public.__name__] = _not_by_autograph(_public)

"""The Hessian Penalty (Peebles et al. 2020, arXiv 2008.10599) in TensorFlow 1.14 and 2.x.

One file to copy anywhere: it works in a graph with a Session, in eager mode, inside tf.function (XLA too) and on Keras
models.

A generator G is disentangled, in this paper's sense, when its Hessian with respect to the latent code z is diagonal:
then each component of z acts regardless of the others. For one element of G(z) with Hessian H, and v a vector of
independent random signs (Rademacher), the penalty is

    Var_v(vᵀHv) = 2 · Σ_{i≠j} H_ij²

estimated from k draws of v, each sample with its own, by central second differences

    vᵀHv ≈ s_i = (G(z + x_i) − 2 G(z) + G(z − x_i)) / ε²,   x_i = ε v_i            (Equation 5)

and their unbiased variance over i. G(z) cancels in a variance, so it is not computed; every s_i is taken relative to
s_0 instead, whose variance is the same:

    s_i − s_0 = ((G(z + x_i) − G(z + x_0)) + (G(z − x_i) − G(z − x_0))) / ε²

With neither G(z) nor this pivot, rounding errors of the size of G, not of its differences, would be left in float32.

    from hessian_penalty_tf import hessian_penalty
    loss = generator_loss + 0.05 * hessian_penalty(G, z)         # G: any function of z; z: [N, ...]

`orojar_penalty` regularises the Jacobian's columns instead; `diagonalness` tells a diagonal Hessian from a small one.

What to know
- Weight and ε: the rounding error grows as 1/ε⁴, and on piecewise linear (ReLU) networks the value itself changes
  with ε: tune λ for one ε and keep it. The published TensorFlow code used the biased variance: multiply a λ tuned
  with it by (k − 1)/k (at k = 2, λ = 0.1 becomes 0.05).
- Precision: half precision and TF32 ruin finite differences. A half-precision z is cast to float32, and a G that
  goes back to half precision (Keras' mixed_float16) is refused. TensorFlow 2 uses TF32 on GPUs that have it, forward
  and backward: call tf.config.experimental.enable_tensor_float_32_execution(False) when your program starts.
- Randomness: TensorFlow cannot replay the random operations of a pass, so dropout or noise inside G would be taken
  for curvature. Pass training=False; or draw the noise, or the seed of a tf.random.stateless_* operation, once, and
  pass it to G as a keyword argument.
- Batch normalisation in training mode mixes the samples of a batch: pass training=False there too.
- Too slow: select=True. Too much memory: select=True, memory="lean" or (mean and sum) chunk_size. None of them changes
  the value or the gradient; but of samples that tie for the maximum, select gives the first one the whole gradient.
- Recomputed passes (memory, chunk_size) give gradients to z, to variables and to G's keyword arguments. Of other
  tensors that G happens to hold, they do in graphs and tf.function; in eager mode pass those as keyword arguments.
- select in a graph cannot check that G treats samples one by one, as it does in eager mode: check there once.
"""

import collections
import concurrent.futures
import itertools
import warnings

import numpy as np
import tensorflow as tf

MAXIMA = (tf.reduce_max, tf.math.reduce_max, tf.compat.v1.reduce_max, tf.compat.v2.reduce_max)
MEANS = (tf.reduce_mean, tf.math.reduce_mean, tf.compat.v1.reduce_mean, tf.compat.v2.reduce_mean)
SUMS = (tf.reduce_sum, tf.math.reduce_sum, tf.compat.v1.reduce_sum, tf.compat.v2.reduce_sum)

Diagonalness = collections.namedtuple("Diagonalness", "ratio standard_error")


def hessian_penalty(
    G,
    z,
    k=2,
    epsilon=0.1,
    reduction=tf.reduce_max,
    return_separately=False,
    G_z=None,
    *,
    directions=None,
    select=False,
    batched=False,
    memory=None,
    chunk_size=None,
    exact=False,
    batch_kwargs=(),
    **G_kwargs,
):
    """The Hessian Penalty of G at z, differentiable with respect to G's variables and z.

    :param G: function of a tensor like z, and of G_kwargs; returns one tensor or a list or tuple of tensors
        (activations to regularise), of any shapes whose first axis is z's batch. It is called 2k times.
    :param z: floating-point tensor [N, ...] of latent codes; N may be unknown when a graph is built.
    :param k: number of directions, at least 2.
    :param epsilon: step of the finite differences.
    :param reduction: takes a tensor of penalties, one for each element of an activation, to a scalar.
    :param return_separately: return a list with a scalar for each activation instead of their sum.
    :param G_z: ignored: G(z) is not needed. It is there so that older calls keep working.
    :param directions: the directions v to use, a tensor [k, N, ...] of +1 and −1, instead of drawing them.
    :param select: with tf.reduce_max: passes without gradient find for each of the L activations the sample with its
        maximum, and only these L samples are differentiated.
    :param batched: make all passes as one, of 2kN samples: faster for small batches.
    :param memory: "lean": compute each pair of passes again for its gradient, so that memory does not grow with k.
    :param chunk_size: with tf.reduce_mean or tf.reduce_sum: take so many samples at a time, each chunk computed
        again for its gradient. N must be known when a graph is built.
    :param exact: refused; PyTorch and JAX have it.
    :param batch_kwargs: names of the G_kwargs whose first axis is the batch; select, batched and chunk_size take their
        samples along.
    :param G_kwargs: passed on to G (which therefore has no keyword of the names above).
    :raises ValueError: for arguments outside these bounds, and for outputs of G without the batch axis, in half
        precision, or changing in number from pass to pass. Shapes unknown until a graph runs are checked then, with
        tf.errors.InvalidArgumentError.
    """
    if exact:
        raise ValueError("exact=True: TensorFlow has no exact mode, use hessian_penalty_pytorch or hessian_penalty_jax")
    if select and reduction not in MAXIMA:
        name = getattr(reduction, "__name__", repr(reduction))
        raise ValueError(f"select=True needs the maximum reduction (tf.reduce_max), got {name}")
    z, directions = _check_latents(z, k, epsilon, directions)
    passes = _Passes(G, k, epsilon, _second_difference, 1 / epsilon**4, batched, memory, chunk_size, batch_kwargs)
    G_kwargs = _check_options(passes, reduction, z, G_kwargs)
    penalties = _selected(passes, z, directions, G_kwargs) if select else None
    penalties = penalties or _penalties(passes, reduction, z, directions, G_kwargs)
    return penalties if return_separately else tf.add_n(penalties)


def orojar_penalty(
    G,
    z,
    k=2,
    epsilon=0.1,
    reduction=tf.reduce_mean,
    return_separately=False,
    *,
    directions=None,
    batched=False,
    memory=None,
    chunk_size=None,
    batch_kwargs=(),
    **G_kwargs,
):
    """OroJaR's penalty of G at z (Wei et al. 2021, arXiv 2108.07668): columns J_i of G's Jacobian, made orthogonal.

    For each sample and activation the unbiased variance over v of ||J v||², the sum over the activation's elements; its
    expectation is 2 · Σ_{i≠j} (J_iᵀJ_j)². J v is the central difference (G(z + εv) − G(z − εv)) / (2ε).

    :param reduction: takes the penalties of an activation, a tensor [N], to a scalar.

    The other parameters are those of `hessian_penalty`.
    """
    z, directions = _check_latents(z, k, epsilon, directions)
    passes = _Passes(G, k, epsilon, _squared_slope, 1 / (2 * epsilon) ** 4, batched, memory, chunk_size, batch_kwargs)
    G_kwargs = _check_options(passes, reduction, z, G_kwargs)
    penalties = _penalties(passes, reduction, z, directions, G_kwargs)
    return penalties if return_separately else tf.add_n(penalties)


# ----------------------------------------------------------------------------------------------------------------------
# The estimator: k pairs of passes, what is measured of each, and its variance

_Passes = collections.namedtuple("_Passes", "G k epsilon measure scale batched memory chunk_size batch_kwargs")


def _second_difference(plus, minus, plus_0, minus_0):
    """(s_i − s_0) ε² of Equation 5."""
    return (plus - plus_0) + (minus - minus_0)


def _squared_slope(plus, minus, plus_0, minus_0):
    """(||J v_i||² − ||J v_0||²) (2ε)², for each sample."""
    slope, slope_0 = plus - minus, plus_0 - minus_0
    difference = tf.square(slope) - tf.square(slope_0)
    return tf.reduce_sum(tf.reshape(difference, [tf.shape(difference)[0], -1]), axis=1)


def _penalties(passes, reduction, z, directions, kwargs):
    if passes.chunk_size is not None:
        return _in_chunks(passes, reduction in MEANS, z, directions, kwargs)
    return [reduction(variance) for variance in _variances(passes, z, directions, kwargs)]


def _variances(passes, z, directions, kwargs):
    """Unbiased variance over i of what is measured, a tensor for each activation."""
    if passes.memory == "lean":
        totals, squares = _sums_of_recomputed_pairs(passes, z, directions, kwargs)
    else:
        totals, squares, _ = _sums(passes, _pairs(passes, z, directions, kwargs))
    return _variances_of_sums(passes, totals, squares)


def _sums(passes, pairs, pivot=None):
    """Σ m_i and Σ m_i² over pairs of passes, a tensor for each activation; and the pivot, which is the first pair.

    m_i is relative to a constant, the first pair without its gradient. The sums are running ones: k values need not be
    held at once.
    """
    totals, squares = None, None
    for plus, minus in pairs:
        pivot = pivot or [[tf.stop_gradient(output) for output in outputs] for outputs in (plus, minus)]
        counts = sorted({len(plus), len(minus), len(pivot[0])})
        if len(counts) > 1:
            raise ValueError(f"G must return as many activations in every pass, got {counts[0]} and {counts[-1]}")
        measures = [passes.measure(*outputs) for outputs in zip(plus, minus, *pivot)]
        totals = [a + b for a, b in zip(totals, measures)] if totals else measures
        new = [tf.square(measure) for measure in measures]
        squares = [a + b for a, b in zip(squares, new)] if squares else new
    return totals, squares, pivot


def _variances_of_sums(passes, totals, squares):
    factor = passes.scale / (passes.k - 1)
    return [(square - tf.square(total) / passes.k) * factor for total, square in zip(totals, squares)]


def _pairs(passes, z, directions, kwargs, call=None):
    """Generate G's activations at (z + x_i, z − x_i) for each i, by `call`(G, latents, kwargs) where it is given."""

    def activations(latents, kwargs):
        outputs = call(passes.G, latents, kwargs) if call else passes.G(latents, **kwargs)
        outputs = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
        return [_check_activation(tf.convert_to_tensor(output), latents) for output in outputs]

    steps = [passes.epsilon * directions[i] for i in range(passes.k)]
    if not passes.batched:
        for x_i in steps:
            yield activations(z + x_i, kwargs), activations(z - x_i, kwargs)
        return
    latents = tf.concat([at for x_i in steps for at in (z + x_i, z - x_i)], axis=0)
    repeated = {name: tf.concat([kwargs[name]] * (2 * passes.k), axis=0) for name in passes.batch_kwargs}
    outputs = [tf.split(output, 2 * passes.k) for output in activations(latents, dict(kwargs, **repeated))]
    for i in range(passes.k):
        yield [output[2 * i] for output in outputs], [output[2 * i + 1] for output in outputs]


# ----------------------------------------------------------------------------------------------------------------------
# select: differentiate the samples that hold the maxima


def _selected(passes, z, directions, kwargs):
    """The penalties of the maximum reduction, or None where all samples have to be differentiated."""
    pairs = _pairs(passes, z, directions, kwargs, call=_Unrecorded())
    first = next(pairs)
    size, count = tf.compat.dimension_value(z.shape[0]) if z.shape.ndims else None, len(first[0])
    if size is not None and size <= count:
        return None
    totals, squares, pivot = _sums(passes, itertools.chain([first], pairs))
    variances = _variances_of_sums(passes, totals, squares)
    rows = [tf.reduce_max(tf.reshape(variance, [tf.shape(z)[0], -1]), axis=1) for variance in variances]
    samples = tf.stack([tf.argmax(row) for row in rows])  # [L]
    try:
        few_passes = passes._replace(batched=passes.memory is None)
        few = _variances(few_passes, *_take(passes, samples, z, directions, kwargs))
    except Exception as problem:  # whatever a G raises that was made for another batch size
        reason = f"G fails on {count} samples ({type(problem).__name__})"
    else:
        penalties = [_maximum(variance[i]) for i, variance in enumerate(few)]
        if not tf.executing_eagerly() or _reproduced(passes, penalties, rows, pivot[0]):
            return penalties
        reason = f"G treats {count} samples otherwise than among {size} (batch statistics, randomness, other inputs?)"
    warnings.warn(f"select=True: {reason}; all samples are differentiated", stacklevel=3)
    return None


def _maximum(variance):
    """The maximum as an element: XLA may round the tensor anew in reduce_max's gradient, and not find it there."""
    elements = tf.reshape(variance, [-1])
    return tf.gather(elements, tf.argmax(tf.stop_gradient(elements)))


def _take(passes, samples, z, directions, kwargs):
    """The samples of these indices."""
    few = {name: tf.gather(kwargs[name], samples) for name in passes.batch_kwargs}
    return tf.gather(z, samples), tf.gather(directions, samples, axis=1), dict(kwargs, **few)


def _reproduced(passes, penalties, rows, outputs):
    """Whether the selected samples' penalties are the maxima, but for the rounding of G's outputs over ε²."""
    for penalty, row, output in zip(penalties, rows, outputs):
        maximum = tf.sqrt(tf.reduce_max(row))
        rounding = 100 * np.finfo(output.dtype.as_numpy_dtype).eps * tf.reduce_max(tf.abs(output)) / passes.epsilon**2
        if tf.abs(tf.sqrt(penalty) - maximum) > 0.01 * maximum + rounding:
            return False
    return True


# ----------------------------------------------------------------------------------------------------------------------
# memory and chunk_size: keep nothing of a part of the work, and compute it again when its gradient is asked for


def _sums_of_recomputed_pairs(passes, z, directions, kwargs):
    """Σ m_i and Σ m_i² as `_sums` has them, of which one pair of passes at a time is held."""
    call = _Unrecorded(in_turn=True)
    totals, squares, pivot = _sums(passes, _pairs(passes, z, directions, kwargs, call))

    def part(i):
        def sums(z):
            totals, squares, _ = _sums(passes, _pairs(passes._replace(k=1), z, directions[i : i + 1], kwargs), pivot)
            return totals + squares

        return sums

    sums = _recomputed(totals + squares, [part(i) for i in range(passes.k)], z, call.sources(kwargs))
    return sums[: len(totals)], sums[len(totals) :]


def _in_chunks(passes, is_mean, z, directions, kwargs):
    """The sums or means over samples and elements, some samples at a time."""
    size = tf.compat.dimension_value(z.shape[0]) if z.shape.ndims else None
    if size is None:
        raise ValueError("chunk_size needs a batch of known length when a graph is built, got z of unknown length")
    chunks = [list(range(begin, min(begin + passes.chunk_size, size))) for begin in range(0, size, passes.chunk_size)]

    def part(chunk):
        return lambda z: [tf.reduce_sum(v) for v in _variances(passes, *_take(passes, chunk, z, directions, kwargs))]

    call, totals, counts = _Unrecorded(in_turn=True), None, None
    for chunk in chunks:
        pairs = _pairs(passes, *_take(passes, chunk, z, directions, kwargs), call=call)
        variances = _variances_of_sums(passes, *_sums(passes, pairs)[:2])
        totals = [tf.reduce_sum(v) + (totals[i] if totals else 0) for i, v in enumerate(variances)]
        counts = [tf.size(v) + (counts[i] if counts else 0) for i, v in enumerate(variances)]
    sums = _recomputed(totals, [part(chunk) for chunk in chunks], z, call.sources(kwargs))
    return [total / tf.cast(count, total.dtype) for total, count in zip(sums, counts)] if is_mean else sums


def _recomputed(values, parts, z, sources):
    """`values`, whose gradient comes from computing the parts again, one at a time, when it is asked for.

    :param values: list of tensors without gradient: what the lists parts[0](z), parts[1](z), … sum up to.
    :param sources: what the parts depend on besides z: tensors and variables.
    """

    @tf.custom_gradient
    def recomputed(*_):
        def backward(*upstream):
            gradients = [None] * (len(sources) + 1)
            for part in parts:
                done = [gradient for gradient in gradients if gradient is not None]
                new = _gradients(part, sources, _after(z, done or upstream), upstream)
                gradients = [b if a is None else a if b is None else a + b for a, b in zip(gradients, new)]
            return gradients

        return [tf.identity(value) for value in values], backward

    return recomputed(*[tf.convert_to_tensor(source) for source in sources], z)


def _gradients(part, sources, z, upstream):
    """Gradients of the values of part(z), weighted by `upstream`, with respect to each source and z; some are None."""
    if tf.executing_eagerly():
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            for source in (*sources, z):
                tape.watch(source)
            values = part(z)
        gradients = tape.gradient(values, [*sources, z], output_gradients=list(upstream))
    else:
        tensors = [source for source in sources if not isinstance(source, tf.Variable)]
        gradients = tf.gradients(part(z), [*sources, z], list(upstream), stop_gradients=[*tensors, z])
    return [None if gradient is None else tf.convert_to_tensor(gradient) for gradient in gradients]


def _after(tensor, others):
    """The tensor, in a graph not before the others are there."""
    if tf.executing_eagerly():
        return tensor
    with tf.control_dependencies(others):
        tensor = tf.identity(tensor)
    one = tf.cast(tf.reduce_sum(tf.reshape(others[-1], [-1])[:1]), tensor.dtype)
    return tensor + tf.where(tf.math.is_nan(one), one, tf.zeros_like(one))  # XLA heeds the flow of data alone


class _Unrecorded:
    """Calls of G that keep nothing for a gradient: an eager tape, which would hold all activations, sees none of them.

    in_turn: in a graph, let each call wait for the one before, and note what `sources` needs.
    """

    def __init__(self, in_turn=False):
        self._in_turn, self._variables, self._outputs = in_turn, {}, []
        self._earlier = [] if tf.executing_eagerly() else tf.compat.v1.get_default_graph().get_operations()

    def __call__(self, G, latents, kwargs):
        def noting_variables(latents):
            with tf.GradientTape() as tape:
                outputs = G(latents, **kwargs)
                self._note(tape.watched_variables())
            return outputs

        if not tf.executing_eagerly():
            if self._in_turn:
                latents = _after(latents, self._outputs) if self._outputs else latents
            outputs = noting_variables(latents)
            self._outputs = tf.nest.flatten(outputs)
        elif hasattr(tf, "recompute_grad"):  # stops all tapes; one of our own around it is told of the variables
            with tf.GradientTape() as tape:
                outputs = tf.recompute_grad(lambda latents: G(latents, **kwargs))(latents)
                self._note(tape.watched_variables())
        else:  # TensorFlow 1: a tape sees its own thread only
            with concurrent.futures.ThreadPoolExecutor(1) as executor:
                outputs = executor.submit(noting_variables, latents).result()
        return tf.nest.map_structure(tf.stop_gradient, outputs)

    def _note(self, variables):
        self._variables.update((id(variable), variable) for variable in variables)

    def sources(self, kwargs):
        """The variables and tensors that G's outputs depend on, but for the latents.

        In a graph those that were there before the first call; in eager mode the variables used, and the keyword arguments.
        """
        variables = list(self._variables.values())
        if tf.executing_eagerly():
            given = tf.nest.flatten(kwargs)
            return variables + [value for value in given if tf.is_tensor(value) and value.dtype.is_floating]
        earlier, found, seen, queue = set(self._earlier), [], set(), list(self._outputs)
        while queue:
            tensor = queue.pop()
            if tensor.name in seen:
                continue
            seen.add(tensor.name)
            if tensor.op not in earlier:
                queue.extend(tensor.op.inputs)
            elif tensor.dtype.is_floating and tensor.op.type != "Const":
                found.append(tensor)
        return variables + found


# ----------------------------------------------------------------------------------------------------------------------
# Diagonal-ness


def diagonalness(G, z, epsilon=0.1, k=1, return_separately=False, *, axes=None, **G_kwargs):
    """How diagonal G's Hessian is, whatever its scale: mean |H_aa| / mean |H_ab|, a ≠ b, over elements and samples.

    About √2 where components are mixed at random, infinite for a diagonal Hessian. The penalty also falls when
    activations shrink; this does not change then. Both means are estimated without gradient from k random pairs (a, b)
    of components for each sample, in 1 + 6k passes, by central differences whose steps all have the length √2 ε: on
    piecewise linear networks a second difference grows as its step shrinks.

    :param return_separately: return a list with a Diagonalness for each activation instead of the mean of their ratios.
    :param axes: the pairs to use, an integer tensor [k, N, 2] of indices into z's flattened components.
    :return: Diagonalness(ratio, standard_error), scalars; the error is that from the choice of samples (delta method),
        nan for a single one.
    :raises ValueError: as `hessian_penalty` does, and for z of fewer than two components.
    """
    z, _ = _check_latents(z, 2, epsilon, directions=None)
    axes = _check_axes(axes, k, z)
    passes, call = _Passes(G, 1, epsilon, None, None, False, None, None, ()), _Unrecorded()

    def both_ways(step):
        ((plus, minus),) = _pairs(passes, z, step[None], G_kwargs, call)
        return [p + m for p, m in zip(plus, minus)]

    centre = tf.nest.flatten(call(G, z, G_kwargs))
    diagonal = off_diagonal = [0.0] * len(centre)  # Σ over pairs of the mean over elements, for each sample [N]
    for j in range(k):
        e_a, e_b = (tf.reshape(tf.one_hot(axes[j, :, i], _components(z), dtype=z.dtype), tf.shape(z)) for i in (0, 1))
        along, across, back = both_ways(2**0.5 * e_a), both_ways(e_a + e_b), both_ways(e_a - e_b)
        diagonal = [D + _mean_size(s - 2 * g) / 2 for D, s, g in zip(diagonal, along, centre)]
        off_diagonal = [R + _mean_size(s_u - s_w) / 4 for R, s_u, s_w in zip(off_diagonal, across, back)]
    count = tf.cast(tf.shape(z)[0], z.dtype)
    ratios, residuals = [], []
    for D, R in zip(diagonal, off_diagonal):
        mean = tf.reduce_mean(R)
        ratios.append(tf.reduce_mean(D) / mean)
        residuals.append((D - ratios[-1] * R) / mean)

    def estimate(ratio, residual):
        error = tf.sqrt(tf.reduce_sum(tf.square(residual)) / (count * (count - 1)))
        return Diagonalness(ratio, tf.where(count > 1, error, error * np.nan))

    if return_separately:
        return [estimate(ratio, residual) for ratio, residual in zip(ratios, residuals)]
    return estimate(tf.add_n(ratios) / len(ratios), tf.add_n(residuals) / len(ratios))


def _mean_size(differences):
    """Mean |element|, for each sample."""
    return tf.reduce_mean(tf.reshape(tf.abs(differences), [tf.shape(differences)[0], -1]), axis=1)


def _components(z):
    return tf.reduce_prod(tf.shape(z)[1:])


# ----------------------------------------------------------------------------------------------------------------------
# Checks


def _check_latents(z, k, epsilon, directions):
    """z in float32 or float64, and the directions, drawn where none are given."""
    if k < 2:
        raise ValueError(f"k must be at least 2 (it is the number of values in a variance), got {k}")
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive, got {epsilon}")
    z = tf.convert_to_tensor(z)
    if not z.dtype.is_floating or z.shape.ndims == 0:
        raise ValueError(f"z must be a floating-point tensor with a batch axis, got {z.dtype.name} of shape {z.shape}")
    z = tf.cast(z, tf.float32) if z.dtype.size < tf.float32.size else z
    return z, _draw_directions(k, z) if directions is None else _check_directions(directions, k, z)


def _check_options(passes, reduction, z, kwargs):
    """kwargs, those named in batch_kwargs as tensors."""
    name, batch_kwargs = getattr(reduction, "__name__", repr(reduction)), passes.batch_kwargs
    if passes.chunk_size is not None and reduction not in MEANS + SUMS:
        raise ValueError(f"chunk_size needs the mean or sum reduction (tf.reduce_mean or tf.reduce_sum), got {name}")
    if passes.chunk_size is not None and not (isinstance(passes.chunk_size, int) and passes.chunk_size > 0):
        raise ValueError(f"chunk_size must be a positive number of samples, got {passes.chunk_size}")
    if passes.memory not in (None, "lean"):
        raise ValueError(f'memory must be None or "lean", got {passes.memory!r}')
    if passes.batched and passes.memory:
        raise ValueError(
            'batched=True and memory="lean" exclude each other: one makes all passes at once, the other one at a time'
        )
    if isinstance(batch_kwargs, str):
        raise ValueError(f"batch_kwargs must be a list of names, got {batch_kwargs!r}")
    for name in batch_kwargs:
        if name not in kwargs:
            raise ValueError(f"batch_kwargs names {name!r}, which was not passed")
    kwargs = dict(kwargs, **{name: tf.convert_to_tensor(kwargs[name]) for name in batch_kwargs})
    for name in batch_kwargs:
        shape = kwargs[name].shape
        if shape.ndims == 0 or not shape[:1].is_compatible_with(z.shape[:1]):
            found = f"the batch's length {z.shape[0]} first, got shape {tuple(shape.as_list())}"
            raise ValueError(f"batch_kwargs: {name!r} must have {found}")
    return kwargs


def _check_axes(axes, k, z):
    """Pairs of components for each sample, int32 [k, N, 2]: those given, or k random ones."""
    if k < 1:
        raise ValueError(f"k must be at least 1 (it is the number of pairs of components), got {k}")
    n = z.shape[1:].num_elements() if z.shape.ndims else None
    if n is not None and n < 2:
        raise ValueError(f"z must have at least two components for a Hessian to be diagonal or not, got {n}")
    if axes is None:
        shape, n = [k, tf.shape(z)[0]], _components(z)
        first = tf.random.uniform(shape, maxval=n, dtype=tf.int32)
        second = tf.math.mod(first + 1 + tf.random.uniform(shape, maxval=n - 1, dtype=tf.int32), n)
        return tf.stack([first, second], axis=2)
    axes, expected = tf.convert_to_tensor(axes), tf.TensorShape([k]).concatenate(z.shape[:1]).concatenate([2])
    if not axes.dtype.is_integer or not axes.shape.is_compatible_with(expected):
        raise ValueError(f"axes must be integers of shape [k, N, 2] = {expected}, got {axes.dtype.name} {axes.shape}")
    if tf.executing_eagerly():
        inside = tf.reduce_all((axes >= 0) & (axes < n)) and tf.reduce_all(tf.not_equal(axes[..., 0], axes[..., 1]))
        if not inside:
            raise ValueError(f"axes must be pairs of different components from 0 to {n - 1}")
    return axes


def _draw_directions(k, z):
    """k independent Rademacher directions for every sample: [k, *z.shape], entries ±1."""
    shape = tf.concat([[k], tf.shape(z)], axis=0)
    directions = 2 * tf.cast(tf.random.uniform(shape, maxval=2, dtype=tf.int32), z.dtype) - 1
    directions.set_shape(tf.TensorShape([k]).concatenate(z.shape))
    return directions


def _check_directions(directions, k, z):
    directions = tf.cast(directions, z.dtype)
    expected = tf.TensorShape([k]).concatenate(z.shape)
    if not directions.shape.is_compatible_with(expected):
        raise ValueError(f"directions must have shape [k, *z.shape] = {expected}, got {directions.shape}")
    stray = tf.boolean_mask(directions, tf.not_equal(tf.abs(directions), 1)) if tf.executing_eagerly() else ()
    if len(stray):
        raise ValueError(f"directions must be +1 or -1 in every entry, got {float(stray[0])}")
    if directions.shape.is_fully_defined() and expected.is_fully_defined():
        return directions
    shape = tf.concat([[k], tf.shape(z)], axis=0)
    return _check_when_run(directions, tf.shape(directions), shape, "directions must have shape [k, *z.shape]")


def _check_activation(output, z):
    batch, expected = output.shape[:1], z.shape[:1]
    if not batch.is_compatible_with(expected):
        raise ValueError(f"G must return the batch axis of z first: z is {z.shape}, the output is {output.shape}")
    if output.dtype not in (tf.float32, tf.float64):
        raise ValueError(f"G must compute in float32 or float64 for its differences to count, got {output.dtype.name}")
    if batch.is_fully_defined() and expected.is_fully_defined():
        return output
    return _check_when_run(output, tf.shape(output)[:1], tf.shape(z)[:1], "G must return the batch axis of z first")


def _check_when_run(tensor, actual, expected, message):
    """tensor, with a check of what is not known while a graph is built but only when it runs."""
    with tf.control_dependencies([tf.compat.v1.debugging.assert_equal(actual, expected, message=message)]):
        return tf.identity(tensor)

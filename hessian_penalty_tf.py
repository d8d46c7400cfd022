"""The Hessian Penalty (Peebles et al. 2020, arXiv 2008.10599) in TensorFlow 1.14 and 2.x. One file to copy anywhere.

It works in a graph with a Session, in eager mode, inside tf.function (XLA too) and on Keras models.

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

`orojar_penalty` regularises the Jacobian's columns instead; `diagonalness` is a number to log, without a scale.

What to know
- Weight and ε: the rounding error grows as 1/ε⁴, and on piecewise linear (ReLU) networks the value itself changes
  with ε: tune λ for one ε and keep it. The published TensorFlow code used the biased variance: multiply a λ tuned
  with it by (k − 1)/k (at k = 2, λ = 0.1 becomes 0.05).
- Precision: half precision and TF32 ruin finite differences. A half-precision z is cast to float32, and a G that
  computes in half precision anywhere between z and its outputs (Keras' mixed_float16) is refused. TensorFlow 2 uses
  TF32 on GPUs that have it, forward and backward: call tf.config.experimental.enable_tensor_float_32_execution(False)
  when your program starts.
- State: all passes see G in the state in which the penalty finds it, and leaves it. Variables that a pass assigns are
  put back: statistics of batch normalisation, the kernel in Keras' SpectralNormalization, seeds (Keras 3's dropout,
  tf.random.Generator). In a graph for a Session they are not, and a warning says where outputs wait for an assignment.
- Randomness: other random operations cannot be replayed, and would be taken for curvature. Pass training=False; or draw
  the noise, or the seed of a tf.random.stateless_* operation, once, and pass it to G as a keyword argument.
- The first call with a G checks it, which warns of outputs that change from pass to pass, and names the likely cause
  (see check_generator). Inside tf.function, and in graphs, there are no values to compare: random operations of
  TensorFlow are found there, NumPy's generator and other state are not. Nothing is known of what happens inside
  tf.py_function; of a G that cannot be traced, only Keras' layers are checked for half precision.
- Batch normalisation in training mode mixes the samples of a batch: pass training=False.
- memory and chunk_size compute passes again for their gradient. It reaches z, variables, G's keyword arguments and, in
  graphs, whatever the graph holds; an eager tensor that G uses otherwise gets none: pass it as a keyword argument.
- select cannot look at values in a graph or tf.function: try it once in eager mode, where it checks itself. The eager
  mode of TensorFlow 1 gets no memory back from memory, chunk_size and select.
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

import numpy as np
import tensorflow as tf

MAXIMA = (tf.reduce_max, tf.math.reduce_max, tf.compat.v1.reduce_max, tf.compat.v2.reduce_max)
MEANS = (tf.reduce_mean, tf.math.reduce_mean, tf.compat.v1.reduce_mean, tf.compat.v2.reduce_mean)
SUMS = (tf.reduce_sum, tf.math.reduce_sum, tf.compat.v1.reduce_sum, tf.compat.v2.reduce_sum)
Diagonalness = collections.namedtuple("Diagonalness", "ratio standard_error")


def _not_by_autograph(function):
    """function(G, ...) for a tf.function, where AutoGraph is to convert nothing but G, in which it may be needed."""
    as_it_is = getattr(tf.autograph.experimental, "do_not_convert", lambda function: function)(function)
    autograph = getattr(getattr(tf, "__internal__", None), "autograph", None)
    if autograph is None:
        return as_it_is

    @functools.wraps(function)
    def with_G_converted(G, *args, **kwargs):
        converted = autograph.tf_convert(G, autograph.control_status_ctx(), convert_by_default=False)
        if isinstance(converted, types.FunctionType) and converted is not G:
            converted.__wrapped__ = G  # what it is recognised by
        return as_it_is(converted, *args, **kwargs)

    with_G_converted.__signature__ = inspect.signature(function)
    del with_G_converted.__wrapped__  # AutoGraph would read the source of that
    return with_G_converted


@_not_by_autograph
def hessian_penalty(
    G, z, k=2, epsilon=0.1, reduction=tf.reduce_max, return_separately=False, G_z=None, *, directions=None,
    select=False, batched=False, memory=None, chunk_size=None, exact=False, batch_kwargs=(), **G_kwargs
):  # fmt: skip
    """The Hessian Penalty of G at z, differentiable with respect to G's variables and z.

    :param G: function of a tensor like z, and of G_kwargs; returns one tensor or a list or tuple of tensors
        (activations to regularise), of any shapes whose first axis is z's batch. It is called 2k times, and a few times
        more when it is new (see `check_generator`).
    :param z: floating-point tensor [N, ...] of latent codes; N may be unknown when a graph is built.
    :param k: number of directions, at least 2.
    :param epsilon: step of the finite differences, a number or a scalar tensor; checked if its value is known.
    :param reduction: takes a tensor of penalties, one for each element of an activation, to a scalar. Of what ties for
        the maximum, in a graph or tf.function the first gets the whole gradient.
    :param return_separately: return a list with a scalar for each activation instead of their sum.
    :param G_z: ignored: G(z) is not needed. It is there so that older calls keep working.
    :param directions: the directions v to use, a tensor [k, N, ...] of +1 and −1, instead of drawing them.
    :param G_kwargs: passed on to G (which therefore has no keyword of the names above).

    Options, for the same value and gradient in less time or memory. The first two and chunk_size take G to treat the
    samples of a batch independently, and need to know which of G_kwargs go with them:

    :param select: (maximum reduction only) find, without gradient, the sample that holds each activation's maximum, and
        differentiate those samples alone. In eager mode, where G fails on them or they do not reproduce their maxima, a
        warning says so and all are differentiated. Of what ties, the first gets the whole gradient with respect to z.
    :param batched: make all 2k passes as one, of 2kN samples: for small batches, and G without random numbers.
    :param memory: "lean": compute every pair of passes again in the backward pass, so that one at a time is held.
    :param chunk_size: (mean and sum reductions only) take so many samples at a time, and again in the backward pass. N
        must be known when a graph is built.
    :param batch_kwargs: names of those G_kwargs whose first axis is the batch.
    :param exact: refused: for derivatives without differences use hessian_penalty_pytorch or hessian_penalty_jax.
    :raises ValueError: for arguments outside these bounds, for half precision in G, and for outputs of G without the
        batch axis or changing in number from pass to pass. Shapes unknown until a graph runs are checked then, with
        tf.errors.InvalidArgumentError.
    """
    if exact:
        raise ValueError("exact=True: TensorFlow has no exact mode, use hessian_penalty_pytorch or hessian_penalty_jax")
    batch = _check(z, G_kwargs, batch_kwargs, k, directions)
    epsilon = _check_epsilon(epsilon, batch.z)
    passes = _Passes(G, k, epsilon, _second_difference, epsilon**2, batched, memory)
    penalties = _penalties(passes, batch, reduction, chunk_size, select)
    return penalties if return_separately else tf.add_n(penalties)


# Of each pair of passes, G(z + x_i) and G(z − x_i), a measure m_i is taken, and of these the variance over i
_Passes = collections.namedtuple("_Passes", "G k epsilon measure unit batched memory")
_Batch = collections.namedtuple("_Batch", "z directions kwargs batch_kwargs")


def _second_difference(plus, minus, plus_0, minus_0):
    """(s_i − s_0) ε² of Equation 5."""
    return (plus - plus_0) + (minus - minus_0)


def _penalties(passes, batch, reduction, chunk_size=None, select=False):
    """The reduced variances of each activation."""
    _check_options(passes, reduction, chunk_size, select)
    G, look = _steady(passes.G, batch, apart=not (select or passes.batched or chunk_size))
    if look.draws and (select or passes.batched):
        _warn(f"{'select' if select else 'batched'}=True is left out, since {look.draws}")
        select, passes = False, passes._replace(batched=False)
    passes = passes._replace(G=G)
    if chunk_size is not None:
        return _of_chunks(passes, batch, reduction, chunk_size, not look.draws)
    penalties = _of_selected_samples(passes, batch, look.cause) if select else None
    if reduction in MAXIMA and not tf.executing_eagerly():
        reduction = _first_maximum
    return penalties or [reduction(variance) for variance in _variances(passes, batch)]


def _variances(passes, batch):
    """Unbiased variance over i of m_i / unit, for each element of each activation."""
    pivot = []  # the first pair of passes, a constant to which all m_i are relative

    def moments(plus, minus):
        """[m_i of each activation, m_i² of each activation]"""
        if not pivot:
            pivot.extend([tf.stop_gradient(output) for output in outputs] for outputs in (plus, minus))
        _check_counts(plus, minus, pivot[0])
        measures = [passes.measure(*outputs) for outputs in zip(plus, minus, *pivot)]
        return measures + [tf.square(measure) for measure in measures]

    if passes.memory == "lean":
        totals = _one_at_a_time(_pairs_at(passes, batch), moments, batch)
    else:
        totals = functools.reduce(_added, (moments(plus, minus) for plus, minus in _pairs(passes, batch)))
    count, factor = len(totals) // 2, 1 / (passes.k - 1) / passes.unit**2
    return [(square - tf.square(total) / passes.k) * factor for total, square in zip(totals, totals[count:])]


def _pairs(passes, batch):
    """Generate G's activations at (z + x_i, z − x_i), a list for each of the two."""
    if not passes.batched:
        for plus, minus in _pairs_at(passes, batch):
            yield plus(batch.z), minus(batch.z)
        return
    latents = [at for x in _steps(passes, batch) for at in (batch.z + x, batch.z - x)]
    kwargs = {name: tf.concat([batch.kwargs[name]] * len(latents), axis=0) for name in batch.batch_kwargs}
    outputs = _activations(passes.G, tf.concat(latents, axis=0), dict(batch.kwargs, **kwargs))
    outputs = list(zip(*[tf.split(output, len(latents)) for output in outputs]))
    for plus, minus in zip(outputs[::2], outputs[1::2]):
        yield list(plus), list(minus)


def _pairs_at(passes, batch):
    """The single passes of each pair, as functions of z."""

    def activations(z, step):
        return _activations(passes.G, z + step, batch.kwargs)

    return [[functools.partial(activations, step=step) for step in (x, -x)] for x in _steps(passes, batch)]


def _steps(passes, batch):
    return [passes.epsilon * batch.directions[i] for i in range(passes.k)]


@_not_by_autograph
def orojar_penalty(
    G, z, k=2, epsilon=0.1, reduction=tf.reduce_mean, return_separately=False, *, directions=None,
    batched=False, memory=None, chunk_size=None, batch_kwargs=(), **G_kwargs
):  # fmt: skip
    """The Orthogonal Jacobian Regularization (OroJaR, Wei et al. 2021, arXiv 2108.07668) of G at z.

    For one sample and the Jacobian J of one activation (its columns J_i, flattened), and v a Rademacher vector,

        Var_v(‖Jv‖²) = 2 · Σ_{i≠j} (J_iᵀJ_j)²,    Jv ≈ (G(z + εv) − G(z − εv)) / 2ε

    estimated as in `hessian_penalty`, from the same 2k passes. `reduction` takes the penalties of an activation, [N],
    to a scalar. They grow with the activation's number of elements. Everything else is as in `hessian_penalty`.
    """
    batch = _check(z, G_kwargs, batch_kwargs, k, directions)
    epsilon = _check_epsilon(epsilon, batch.z)
    passes = _Passes(G, k, epsilon, _difference_of_squared_slopes, (2 * epsilon) ** 2, batched, memory)
    penalties = _penalties(passes, batch, reduction, chunk_size)
    return penalties if return_separately else tf.add_n(penalties)


def _difference_of_squared_slopes(plus, minus, plus_0, minus_0):
    """(‖Jv_i‖² − ‖Jv_0‖²) (2ε)², a tensor [N]."""
    difference = tf.square(plus - minus) - tf.square(plus_0 - minus_0)
    return tf.reduce_sum(_flat(difference), axis=1)


@_not_by_autograph
def diagonalness(G, z, epsilon=0.1, k=1, return_separately=False, *, axes=None, **G_kwargs):
    """How diagonal G's Hessian is, whatever its scale: mean |H_aa| / mean |H_ab|, a ≠ b, over elements and samples.

    About √2 where components are mixed at random, infinite for a diagonal Hessian, meaningless where G is linear. To
    log beside the penalty, which also falls when activations shrink or bend less; this then stays as it is.

    Both means are estimated from k random pairs of components (a, b) for each sample by central differences, in
    1 + 6k passes. All steps have the length √2 ε: along e_a for H_aa, along e_a + e_b and e_a − e_b, whose second
    derivatives differ by 4 H_ab. (On piecewise linear networks a second difference grows as its step shrinks.)

    :param axes: the pairs to use, an integer tensor [k, N, 2] of indices into z's flattened components.
    :return: Diagonalness(ratio, standard_error), scalar tensors without gradient: the mean of the activations' ratios,
        or return_separately a list of one for each. The standard error is that from the choice of samples (delta
        method), nan for a single one.
    :raises ValueError: as `hessian_penalty`, of which the other parameters are, and for z of fewer than 2 components.
    """
    batch = _check(z, G_kwargs)
    epsilon = _check_epsilon(epsilon, batch.z)
    axes, shape = _check_axes(axes, k, batch.z), tf.shape(batch.z)
    G, _ = _steady(G, batch)

    def means(z):
        """Σ over pairs of the means over elements of |second differences| for H_aa and H_ab: [activations, N] each."""
        centre, diagonal, off_diagonal = _activations(G, z, G_kwargs), 0, 0
        for j in range(k):
            e_a, e_b = (tf.one_hot(axes[j, :, i], tf.reduce_prod(shape[1:]), dtype=z.dtype) for i in (0, 1))
            steps = tf.stack([tf.reshape(step, shape) for step in (2**0.5 * e_a, e_a + e_b, e_a - e_b)])
            pairs = _pairs(_Passes(G, 3, epsilon, *[None] * 4), batch._replace(z=z, directions=steps))
            bends = [[(p - c) + (m - c) for p, c, m in zip(plus, centre, minus)] for plus, minus in pairs]
            diagonal += tf.stack([_mean_size(bend) / 2 for bend in bends[0]])
            off_diagonal += tf.stack([_mean_size(p - m) / 4 for p, m in zip(*bends[1:])])
        return diagonal, off_diagonal

    diagonal, off_diagonal = _without_gradient(means, batch)[0]
    mean = tf.reduce_mean(off_diagonal, axis=1, keepdims=True)
    ratios = tf.reduce_mean(diagonal, axis=1, keepdims=True) / mean
    residuals = (diagonal - ratios * off_diagonal) / mean
    if return_separately:
        separate = zip(tf.unstack(ratios[:, 0]), tf.unstack(residuals))
        return [Diagonalness(ratio, _standard_error(residual)) for ratio, residual in separate]
    return Diagonalness(tf.reduce_mean(ratios), _standard_error(tf.reduce_mean(residuals, axis=0)))


def _mean_size(tensor):
    """Mean absolute value of each sample's elements: [N]."""
    return tf.reduce_mean(_flat(tf.abs(tensor)), axis=1)


def _standard_error(residuals):
    """Of the mean of one number a sample, [N], whose mean is 0: nan for a single one."""
    count = tf.cast(tf.size(residuals), residuals.dtype)
    error = tf.sqrt(tf.reduce_sum(tf.square(residuals)) / (count * (count - 1)))
    return tf.where(count > 1, error, error * np.nan)


def _flat(tensor):
    """[N, elements]."""
    return tf.reshape(tensor, [tf.shape(tensor)[0], -1])


# ----------------------------------------------------------------------------------------------------------------------
# Options: the same differences in less time or memory


def _rows(batch, rows):
    """Some samples of a batch. rows: their numbers, int64."""

    def take(tensor):
        return tf.gather(tf.reshape(tensor, tf.shape(tensor)), rows)  # reshape: so that no gradient is IndexedSlices

    kwargs = dict(batch.kwargs, **{name: take(batch.kwargs[name]) for name in batch.batch_kwargs})
    return _Batch(take(batch.z), tf.gather(batch.directions, rows, axis=1), kwargs, batch.batch_kwargs)


def _of_selected_samples(passes, batch, cause):
    """The maxima of the variances, from the samples that hold them; None where all have to be differentiated."""
    N, sizes = _length(batch.z), []

    def noting_sizes(z, **kwargs):
        outputs = _activations(passes.G, z, kwargs)
        sizes.extend(tf.reduce_max(tf.abs(output)) for output in ([] if sizes else outputs))
        return outputs

    def search(z):
        variances = _variances(passes._replace(G=noting_sizes, memory=None), batch._replace(z=z))
        maxima = [_maxima(variance) for variance in variances]
        return tf.stack([tf.argmax(each) for each in maxima]), tf.stack([tf.reduce_max(each) for each in maxima]), sizes

    (rows, maxima, sizes), _ = _without_gradient(search, batch)
    if N is not None and N <= len(sizes):
        return None
    try:
        variances = _variances(passes._replace(batched=passes.memory is None), _rows(batch, rows))
        penalties = [_first_maximum(variance[a]) for a, variance in enumerate(variances)]
    except Exception as error:  # whatever G raises on a batch of another size
        problem = f"G fails on fewer (see batch_kwargs): {type(error).__name__}"
    else:
        if not tf.executing_eagerly() or _reproduce(penalties, maxima, tf.stack(sizes) / passes.unit):
            return penalties
        problem = (
            f"fewer do not reproduce the maxima: {cause or 'G mixes samples, or holds a batch (see batch_kwargs)'}"
        )
    _warn(f"select=True: all samples were differentiated, since {problem}")
    return None


def _first_maximum(variances):
    """As an element: in reduce_max's gradient XLA may round a tensor anew, and then not find the maximum there."""
    if variances.shape.ndims is None:
        variances = tf.reshape(variances, [-1])
    while variances.shape.ndims:  # one axis after the other, since an argmax is slow on a GPU where it is long
        variances = variances[tf.argmax(_maxima(variances))]
    return variances


def _maxima(variances):
    """Of each sample, [N], without gradient: infinity where there is a nan, which is not to be overlooked."""
    variances = _flat(tf.stop_gradient(variances))
    infinity = tf.fill(tf.shape(variances), tf.constant(np.inf, variances.dtype))
    return tf.reduce_max(tf.where(tf.math.is_nan(variances), infinity, variances), axis=1)


def _reproduce(penalties, maxima, sizes):
    """Whether second differences, the roots of penalties, are those found before, to rounding of outputs of sizes."""
    roots, expected = tf.sqrt(tf.stack(penalties)), tf.sqrt(maxima)
    tolerance = 0.01 * expected + 100 * np.finfo(expected.dtype.as_numpy_dtype).eps * sizes
    return bool(tf.reduce_all((tf.abs(roots - expected) <= tolerance) | ~tf.math.is_finite(expected)))


def _of_chunks(passes, batch, reduction, chunk_size, batched):
    """The mean or sum of each activation's variances, a chunk of samples at a time."""
    N = _length(batch.z)
    if N is None:
        raise ValueError("chunk_size needs a batch of known length when a graph is built, got z of unknown length")

    # All passes of a chunk as one: they are alike small, and there is one set of gradients less to hold for each.
    few = passes._replace(batched=batched and passes.memory is None)

    def penalties(z, begin):
        rows = tf.range(begin, min(begin + chunk_size, N))
        weight = (min(begin + chunk_size, N) - begin) / N if reduction in MEANS else 1
        return [weight * reduction(variance) for variance in _variances(few, _rows(batch._replace(z=z), rows))]

    parts = [[functools.partial(penalties, begin=begin)] for begin in range(0, N, chunk_size)]
    return _one_at_a_time(parts, list, batch)


def _one_at_a_time(parts, combine, batch):
    """Σ combine(*[function(z) for function in part]) over parts: lists of tensors, computed without gradient.

    For the gradient each part is computed again, so that what that needs is held for one part at a time. Its functions
    return lists of tensors, and have a tape each: gradients of one are added up before there are those of the next.
    """
    values, sources, z = None, [], batch.z
    for part in parts:

        def value(z, part=part):
            return combine(*[function(z) for function in part])

        new, more = _without_gradient(value, batch._replace(z=_after(z, values)))
        values = _added(values, new)
        for source in more:
            sources += [] if any(source is each for each in sources) else [source]

    @tf.custom_gradient
    def recomputed(*_):
        def backward(*upstream):
            gradients = [None] * (len(sources) + 1)
            for part in parts:
                z_again = _after(z, _known(gradients) or list(upstream))
                tapes, outputs = zip(*[_recorded(function, z_again, [*sources, z_again]) for function in part])
                with tf.GradientTape() as tape:
                    tape.watch(outputs)
                    again = combine(*outputs)
                of_outputs = tape.gradient(again, outputs, upstream, unconnected_gradients="zero")
                for tape, output, of_output in zip(tapes, outputs, of_outputs):
                    of_output = [_after(each, _known(gradients)) for each in of_output]
                    _add_to(gradients, tape.gradient(output, [*sources, z_again], of_output))
            return gradients

        return [tf.identity(value) for value in values], backward

    return recomputed(*[tf.convert_to_tensor(source) for source in sources], z)


def _recorded(function, z, sources):
    """A tape for the gradients of function(z) with respect to the sources, and function(z)."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        for source in sources:
            tape.watch(source)
        return tape, function(z)


def _add_to(gradients, new):
    """Add a list of gradients, of which some may be None, to another in its place, and leave nothing of it."""
    for i in range(len(new)):
        pair = _known([gradients[i], new[i]])
        gradients[i] = tf.add_n(pair) if pair else None
        pair = new[i] = None


def _known(gradients):
    return [gradient for gradient in gradients if gradient is not None]


def _without_gradient(function, batch):
    """function(z), a nest of tensors of which nothing is held for a gradient, and what it depends on besides z.

    That is a list of variables and tensors: in a graph those that were there before; in eager mode the variables used
    and the keyword arguments.
    """
    graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
    before = set(graph.get_operations()) if graph else ()
    # Only within tf.recompute_grad do all tapes stop, and a variable's use is still told to this one.
    run = tf.recompute_grad(function) if not graph and hasattr(tf, "recompute_grad") else function
    z = tf.identity(batch.z)  # G may know z as something else too
    with tf.GradientTape() as tape:
        values = run(z)
        sources = list(tape.watched_variables())
    if not graph:
        tensors = [each for each in tf.nest.flatten(batch.kwargs) if isinstance(each, tf.Tensor)]  # no variables again
        sources += [each for each in tensors if each.dtype.is_floating and each is not batch.z]
        return tf.nest.map_structure(tf.stop_gradient, values), sources
    seen, queue = {z.name}, tf.nest.flatten(values)
    while queue:
        tensor = queue.pop()
        if tensor.name in seen or tensor.op.type == "StopGradient":
            continue
        seen.add(tensor.name)
        # By placeholders a tf.function takes what is outside
        is_new = tensor.op not in before and tensor.op.type != "Placeholder"
        queue.extend(tensor.op.inputs if is_new else [])
        sources.extend([tensor] if tensor.dtype.is_floating and not is_new else [])
    return tf.nest.map_structure(tf.stop_gradient, values), sources


def _after(tensor, others):
    """The tensor, in a graph not before the others (None for none) are there."""
    if not others or tf.executing_eagerly():
        return tensor
    with tf.control_dependencies(others):
        tensor = tf.identity(tensor)
    one = tf.cast(tf.reduce_sum(tf.reshape(others[-1], [-1])[:1]), tensor.dtype)
    return tensor + tf.where(tf.math.is_nan(one), one, tf.zeros_like(one))  # XLA heeds the flow of data alone


def _added(totals, values):
    """Both lists added, of which the first may be None."""
    return [total + value for total, value in zip(totals, values)] if totals else list(values)


# ----------------------------------------------------------------------------------------------------------------------
# The generator: all passes must see it in the same state, and it must compute in float32 or float64

_Look = collections.namedtuple("_Look", "moved draws cause references")  # moved (handles), references: weak
_looks = collections.OrderedDict()  # fingerprint: _Look, of the generators seen last
MOST_LOOKS, MOST_OBJECTS, MOST_ITEMS = 128, 500, 50
TOO_COARSE = "G must compute in float32 or float64 for its differences to count"
CHANGES = "G gives other outputs when it is called again with the same latents, which would be taken for curvature"

# Types of operations: those that assign to their first input, that draw random numbers, ...
ASSIGNS = re.compile("Assign|Scatter|Apply|CountUpTo|^Rng|^Stateful(?!Part)")
DRAWS = re.compile("^(Stateless)?(Random|Truncated|Parameterized|Multinomial|Shuffle)|^Stateful(?!Part)|^NonDeterm")
CALLS = dict(PartitionedCall=["f"], While=["cond", "body"], If=["then_branch", "else_branch"], Case=["branches"])
COPIES = ("Cast", "Identity", "IdentityN", "Placeholder")

PLAIN = (bool, str, bytes, type(None), tf.DType, np.dtype, enum.Enum, types.CodeType)
ARRAYS = (tf.Tensor, np.ndarray, np.generic)
LIBRARIES = ("tensorflow", "tensorflow_core", "keras", "tf_keras", "numpy")


@_not_by_autograph
def check_generator(G, z, batch_kwargs=(), **G_kwargs):
    """Check that the differences of G's outputs come from z alone and are precise, as far as can be seen.

    Warns (UserWarning) if G gives other outputs when it is called again, naming the likely cause. The penalties call
    this for every G that is new to them. It takes three passes with two samples, and one of which only the graph is
    built; inside a tf.function only the latter. In a graph for a Session, the first pass is examined.

    :param G, z, batch_kwargs, G_kwargs: those of `hessian_penalty`.
    :raises ValueError: if G computes in half precision between z and its outputs.
    """
    batch = _check(z, G_kwargs, batch_kwargs)
    if _in_session_graph():
        _looked_at_when_built(G)(batch.z, **batch.kwargs)
    else:
        _look(G, batch)


def _steady(G, batch, apart=True):
    """Return G with its present state held for all passes, and the _Look at it, taken now if G is new.

    :param apart: whether each pass has one direction and all samples, so that random numbers of one seed are the same.
    """
    nothing = _Look([], None, None, [])
    if _in_session_graph():
        return _looked_at_when_built(G, apart), nothing
    fingerprint, _ = _fingerprint(G, batch)
    look = _looks.get(fingerprint)
    if tf.distribute.get_strategy().num_replicas_in_sync > 1:
        look = None  # each replica has variables of its own
    if look is None or any(reference() is None for reference in look.references + look.moved):
        look = _look(G, batch)
        if look is None:
            return G, nothing
        built, references = _fingerprint(G, batch)  # G may have built itself in the meantime
        _looks[fingerprint] = _looks[built] = look = look._replace(references=references)
        while len(_looks) > MOST_LOOKS:
            _looks.popitem(last=False)
    handles = [reference() for reference in look.moved]
    return _held_still(G, [handle for handle in handles if handle is not None]), look


def _in_session_graph():
    """Tell a graph for a Session, which runs only what it is asked for, from that of a tf.function."""
    return not tf.executing_eagerly() and not hasattr(tf.compat.v1.get_default_graph(), "captures")


def _held_still(G, handles):
    """Wrap G so that in every call these variables start from their present values.

    After a call they are what they were before it. In the backward pass that may differ from the values held.
    """
    if not handles:
        return G
    state = _read(handles)

    def held(z, **kwargs):
        found = _read(handles)
        _assign(handles, state)
        try:
            return _activations(G, z, kwargs)
        finally:
            _assign(handles, found)

    return held


def _read(handles):
    dtypes = [tf.as_dtype(handle._handle_data.shape_and_type[0].dtype) for handle in handles]
    return [tf.raw_ops.ReadVariableOp(resource=handle, dtype=dtype) for handle, dtype in zip(handles, dtypes)]


def _assign(handles, values):
    for handle, value in zip(handles, values):
        tf.raw_ops.AssignVariableOp(resource=handle, value=value)


def _look(G, batch):
    """Examine the graph of one pass and, in eager mode, compare two passes. None if G fails, as it then will again."""
    eager, moved, draws, cause = tf.executing_eagerly(), None, None, None
    few = _first_pass(G, batch) if eager else None  # before tracing, for weights or tables that G creates when called
    if eager and few is None:
        return None
    try:
        specification = tf.TensorSpec(batch.z.shape, batch.z.dtype)
        traced = tf.compat.v1.wrap_function(lambda z: _activations(G, z, batch.kwargs), [specification])
    except Exception:  # whatever it is that G cannot do in a graph
        if not eager:
            return None
        _check_layers(G, batch)
    else:
        moved, draws, cause = _search(traced.graph.get_operations(), traced.inputs[0], traced.outputs, traced)
    if eager:
        moved, cause = _compare(G, few, moved, cause)
    if cause:
        _warn(f"{CHANGES}: {cause}")
    return _Look([weakref.ref(handle) for handle in moved], draws, cause, [])


def _first_pass(G, batch):
    """Call G with two samples, or with all if it fails on two. Return those samples, or None if it always fails."""
    handles = _handles(G, batch)
    state = _read(handles)
    for number in (2, None):
        few = _rows(batch._replace(directions=batch.z[None]), tf.range(_length(batch.z))[:number])
        try:
            _pass(G, few)
            return few
        except Exception:  # whatever G raises
            continue
        finally:
            _assign(handles, state)
    return None


def _pass(G, batch):
    return _without_gradient(lambda z: _activations(G, z, batch.kwargs), batch)[0]


def _compare(G, batch, moved, cause):
    """Call G twice. Return the handles of the variables that a pass assigns, and why the outputs differ, or None."""
    handles = _handles(G, batch) + (moved or [])
    state, generators = _read(handles), _generators()
    outputs = _pass(G, batch)
    if moved is None:
        pairs = zip(handles, state, _read(handles))
        moved = [handle for handle, old, new in pairs if not np.array_equal(old.numpy(), new.numpy())]
    _assign(handles, state)
    again = _pass(_held_still(G, moved), batch)
    _check_counts(outputs, again)
    rounding = [100 * np.finfo(each.dtype.as_numpy_dtype).eps * tf.reduce_max(tf.abs(each)) for each in outputs]
    if not any(tf.reduce_any(tf.abs(a - b) > small) for a, b, small in zip(outputs, again, rounding)):
        return moved, cause  # random numbers without effect now may have one later
    drawn = [name for name, old, new in zip(("NumPy", "Python"), generators, _generators()) if old != new]
    if drawn:
        cause = cause or f"{drawn[0]}'s generator draws new numbers (draw them once, and pass them to G)"
    if batch.kwargs.get("training") is True:
        cause = cause or "a layer is in training mode (pass training=False)"
    return moved, cause or "it keeps state of its own"


def _generators():
    """Return the states of NumPy's and Python's global random generators."""
    numpy_state = np.random.get_state()
    return (numpy_state[1].tobytes(), *numpy_state[2:]), random.getstate()


def _looked_at_when_built(G, apart=True):
    """Wrap G so that what its first call adds to the graph is examined."""
    looked = []

    def looked_at(z, **kwargs):
        before = None if looked else len(tf.compat.v1.get_default_graph().get_operations())
        outputs = _activations(G, z, kwargs)
        if not looked:
            looked.append(True)
            operations = tf.compat.v1.get_default_graph().get_operations()[before:]
            _, draws, cause = _search(operations, z, outputs)
            if draws and not apart:
                cause = cause or f"{draws} (leave out select, batched and chunk_size)"
            if cause:
                _warn(f"{CHANGES}: {cause}")
        return outputs

    return looked_at


def _search(operations, z, outputs, traced=None):
    """Search one pass for half precision between z and the outputs, for assignments and for random operations.

    :param traced: the function whose graph this is; None for a Session's graph, where assignments are not undone.
    :return: handles of the variables assigned; what draws random numbers for each sample from a seed, and what makes
        passes differ, as text (None if nothing does).
    :raises ValueError: for half precision.
    """
    operations, forward, backward = list(operations), collections.defaultdict(list), collections.defaultdict(list)
    for source, target in _flow(operations):
        forward[id(source)].append(target)
        backward[id(target)].append(source)
    upstream = _reached(outputs, backward)
    between = [tensor for key, tensor in _reached([z], forward, _holds_numbers).items() if key in upstream]
    halves = [tensor for tensor in between if tensor.dtype.is_floating and tensor.dtype.size < 4]
    for tensor in sorted(halves, key=lambda tensor: tensor.op.type in COPIES)[:1]:
        raise ValueError(f"{TOO_COARSE}, got {tensor.dtype.base_dtype.name} from {_name(tensor.op)}")

    behind = {id(tensor.op): tensor.op for tensor in upstream.values()}
    moved, draws, cause = [], None, None
    if traced:
        inside = {id(tensor): handle for tensor, handle in zip(traced.inputs[::-1], traced.captured_inputs[::-1])}
        assigned = [operation.inputs[0] for operation in operations if _assigns(operation)]
        origins = _reached(assigned, backward, lambda tensor: tensor.dtype == tf.resource)
        moved = [inside[key] for key in origins if getattr(inside.get(key), "_handle_data", None)]
    else:
        earlier = {id(each): [*each.control_inputs, *(tensor.op for tensor in each.inputs)] for each in operations}
        behind = _reached(behind.values(), earlier, lambda operation: id(operation) in earlier)
    for operation in behind.values():
        if _assigns(operation) and not traced:
            cause = cause or f"it assigns {operation.inputs[0].op.name}"
        elif DRAWS.search(operation.type) and not (operation.type.startswith("Stateless") or _assigns(operation)):
            cause = cause or f"{_name(operation)} draws new numbers (pass training=False, or draw them in advance)"
        elif DRAWS.search(operation.type) and operation.outputs[0].shape[:1].is_compatible_with(z.shape[:1]):
            draws = draws or f"{_name(operation)} draws numbers for each sample"
    return moved, draws, cause


def _flow(operations):
    """Generate the pairs of tensors (from, to) between which values flow, extending the list by called functions."""
    seen = set()
    for operation in operations:
        inputs, outputs, bodies = list(operation.inputs), list(operation.outputs), _called(operation)
        through = inputs if not bodies else inputs[: len(inputs) - len(bodies[0].inputs)]  # the condition of a call
        yield from itertools.product(through, outputs)
        if _assigns(operation):
            yield from [(value, inputs[0]) for value in inputs[1:]]
        for body in bodies:
            taken = inputs[len(through) :]
            yield from [*zip(taken, body.inputs), *zip(body.outputs, outputs)]
            yield from [(inner, outer) for inner, outer in zip(body.inputs, taken) if outer.dtype == tf.resource]
            if "While" in operation.type:
                yield from [*zip(body.outputs, body.inputs), *zip(inputs, outputs)]
            operations += [] if id(body) in seen else body.get_operations()
            seen.add(id(body))


def _called(operation):
    """Return the graphs of the functions that an operation calls."""
    names = []
    for attribute in CALLS.get(re.sub("^State(ful|less)", "", operation.type), ()):
        value = operation.get_attr(attribute)
        names += [each.name for each in (value if isinstance(value, list) else [value])]
    functions = [operation.graph._get_function(name) for name in names]
    return [function.graph for function in functions if function is not None]


def _reached(starts, edges, through=lambda each: True):
    """Follow edges {id: [nodes]} from the starts, through nodes that pass a test. Return {id: node}."""
    found, queue = {}, collections.deque(starts)
    while queue:
        each = queue.popleft()
        if id(each) not in found and through(each):
            found[id(each)] = each
            queue.extend(edges.get(id(each), ()))
    return found


def _holds_numbers(tensor):
    """Tell whether z's values can flow through a tensor: not if it holds integers, such as a shape, or strings."""
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


def _check_layers(G, batch):
    """Refuse Keras layers that compute in half precision, for want of a graph."""
    for each in _reachable(G, batch):
        for layer in each._flatten_layers() if hasattr(type(each), "_flatten_layers") else ():
            dtype = tf.as_dtype(getattr(layer, "compute_dtype", None) or tf.float32)
            if dtype.is_floating and dtype.size < 4:
                raise ValueError(f"{TOO_COARSE}, got {dtype.name} from {layer.name}")


def _handles(G, batch):
    """Return the handles of the variables that are found behind G."""
    handles = {}
    for each in filter(_is_stateful, _reachable(G, batch)):
        with contextlib.suppress(Exception):  # a model may not have been built
            handles.update((id(variable.handle), variable.handle) for variable in getattr(each, "variables", [each]))
    return list(handles.values())


def _fingerprint(G, batch):
    """Return what G is recognised by, even as a new lambda in each step, and weak references to what has its id in it.

    That is code, models and variables by id, flags, names and dtypes; of other objects the type of arrays alone.
    """
    fingerprint, references = [tf.executing_eagerly(), batch.z.dtype, *sorted(batch.kwargs)], []
    for each in _reachable(G, batch):
        if isinstance(each, PLAIN):
            fingerprint.append(each)
        elif isinstance(each, ARRAYS):
            fingerprint += [type(each), each.dtype]
        elif _is_stateful(each):
            with contextlib.suppress(TypeError):
                references.append(weakref.ref(each))
            policy, settings = getattr(each, "dtype_policy", None), getattr(each, "__dict__", {}).items()
            fingerprint += [id(each), str(getattr(policy, "name", None)), bool(getattr(each, "trainable", True))]
            fingerprint += [pair for pair in settings if isinstance(pair[1], (bool, str)) and pair[0][:1] != "_"]
        elif isinstance(each, type):
            fingerprint.append((each.__module__, each.__qualname__))
    return tuple(fingerprint), references


def _is_stateful(each):
    """Tell whether it is a model, layer or tf.Module, or a variable (Keras' too)."""
    return hasattr(type(each), "trainable_variables") or hasattr(type(each), "assign")


def _reachable(G, batch):
    """Generate what G and its arguments refer to, in closures, globals, attributes and containers, up to models."""
    queue, seen = collections.deque([G, batch.kwargs]), {}
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
        return ()
    if str(module).split(".")[0] in LIBRARIES:
        parts = [getattr(each, name, None) for name in ("__code__", "__wrapped__", "python_function")]
        inside = vars(each).values() if hasattr(type(each), "_track_trackable") else ()  # it may have variables
        return parts + [part for part in inside if not isinstance(part, PLAIN)]
    if function:
        parts = [function.__code__, function.__defaults__, function.__kwdefaults__, function.__closure__]
        parts += _globals(function)
    elif isinstance(each, list):
        parts = [part for part in each[:MOST_ITEMS] if not isinstance(part, PLAIN)]
    elif isinstance(each, dict):
        parts = list(itertools.islice(each.values(), MOST_ITEMS))
    else:
        parts = gc.get_referents(each) + ([type(each).__call__] if callable(each) else [])
    arrays = {(type(part), part.dtype): part for part in parts if isinstance(part, ARRAYS)}
    return [part for part in parts if not isinstance(part, ARRAYS)] + list(arrays.values())


def _globals(function):
    """Return the values of the global names in a function's code, also of those in modules among them."""
    names, codes = [], [function.__code__]
    for code in codes:
        names += code.co_names
        codes += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    values = [function.__globals__[name] for name in names if name in function.__globals__]
    for module in [value for value in values if isinstance(value, types.ModuleType)]:
        if module.__name__.split(".")[0] not in LIBRARIES:
            values += [vars(module)[name] for name in names if name in vars(module)]
    return values


def _warn(message):
    """Warn at the line of the caller, outside this file and TensorFlow."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and (
        frame.f_globals is globals()
        or str(frame.f_globals.get("__name__")).split(".")[0] in LIBRARIES
        or "__autograph_generated" in frame.f_code.co_filename
    ):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


# ----------------------------------------------------------------------------------------------------------------------
# Checks


def _check(z, kwargs, batch_kwargs=(), k=None, directions=None):
    """A _Batch in float32 or float64, with k directions, drawn where none are given."""
    z = tf.convert_to_tensor(z)
    if not z.dtype.is_floating or z.shape.ndims == 0:
        raise ValueError(f"z must be a floating-point tensor with a batch axis, got {z.dtype.name} of shape {z.shape}")
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
    return _Batch(z, None if k is None else _check_directions(directions, k, z), kwargs, batch_kwargs)


def _check_epsilon(epsilon, z):
    """epsilon as a number; where its value is not known before a graph runs, as a tensor like z, unchecked."""
    if tf.is_tensor(epsilon) or isinstance(epsilon, tf.Variable):
        epsilon = tf.convert_to_tensor(epsilon)
        if not hasattr(epsilon, "numpy"):
            return tf.stop_gradient(tf.cast(tf.reshape(epsilon, []), z.dtype))
        epsilon = float(epsilon.numpy())
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive, got {epsilon}")
    return epsilon


def _length(z):
    """N, or None where it is unknown until a graph runs."""
    return tf.compat.dimension_value(z.shape[0]) if z.shape.ndims else None


def _check_options(passes, reduction, chunk_size, select):
    name = getattr(reduction, "__name__", repr(reduction))
    if select and reduction not in MAXIMA:
        raise ValueError(f"select=True needs the maximum reduction (tf.reduce_max), got {name}")
    if chunk_size is not None and reduction not in MEANS + SUMS:
        raise ValueError(f"chunk_size needs the mean or sum reduction (tf.reduce_mean or tf.reduce_sum), got {name}")
    if chunk_size is not None and not (hasattr(chunk_size, "__index__") and chunk_size > 0):
        raise ValueError(f"chunk_size must be a positive number of samples, got {chunk_size}")
    if passes.memory not in (None, "lean"):
        raise ValueError(f'memory must be None or "lean", got {passes.memory!r}')
    if passes.batched and passes.memory:
        raise ValueError(
            'batched=True and memory="lean" exclude each other: one makes all passes at once, the other one at a time'
        )


def _check_directions(directions, k, z):
    """Rademacher directions for every sample, [k, *z.shape] of ±1: those given, or independent random ones."""
    if k < 2:
        raise ValueError(f"k must be at least 2 (it is the number of values in a variance), got {k}")
    shape, expected = tf.concat([[k], tf.shape(z)], axis=0), tf.TensorShape([k]).concatenate(z.shape)
    if directions is None:
        directions = 2 * tf.cast(tf.random.uniform(shape, maxval=2, dtype=tf.int32), z.dtype) - 1
        directions.set_shape(expected)
        return tf.stop_gradient(directions)
    directions = tf.cast(directions, z.dtype)
    if not directions.shape.is_compatible_with(expected):
        raise ValueError(f"directions must have shape [k, *z.shape] = {expected}, got {directions.shape}")
    stray = tf.boolean_mask(directions, tf.not_equal(tf.abs(directions), 1)) if tf.executing_eagerly() else ()
    if len(stray):
        raise ValueError(f"directions must be +1 or -1 in every entry, got {float(stray[0])}")
    if not (directions.shape.is_fully_defined() and expected.is_fully_defined()):
        message = "directions must have shape [k, *z.shape]"
        directions = _check_when_run(directions, tf.shape(directions), shape, message)
    return tf.stop_gradient(directions)


def _check_axes(axes, k, z):
    """Pairs of components for each sample, int32 [k, N, 2]: those given, or k random ones."""
    if k < 1:
        raise ValueError(f"k must be at least 1 (it is the number of pairs of components), got {k}")
    n = z.shape[1:].num_elements() if z.shape.ndims else None
    if n is not None and n < 2:
        raise ValueError(f"z must have at least two components for a Hessian to be diagonal or not, got {n}")
    if axes is None:
        shape, n = [k, tf.shape(z)[0]], tf.reduce_prod(tf.shape(z)[1:])
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


def _activations(G, z, kwargs):
    """The outputs of one pass as a list of tensors."""
    outputs = G(z, **kwargs)
    outputs = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
    return [_check_activation(tf.convert_to_tensor(output), z) for output in outputs]


def _check_counts(*passes):
    counts = sorted({len(outputs) for outputs in passes})
    if len(counts) > 1:
        raise ValueError(f"G must return as many activations in every pass, got {counts[0]} and {counts[-1]}")


def _check_activation(output, z):
    batch, expected = output.shape[:1], z.shape[:1]
    if not batch.is_compatible_with(expected):
        raise ValueError(f"G must return the batch axis of z first: z is {z.shape}, the output is {output.shape}")
    if output.dtype not in (tf.float32, tf.float64):
        raise ValueError(f"{TOO_COARSE}, got {output.dtype.name}")
    if batch.is_fully_defined() and expected.is_fully_defined():
        return output
    return _check_when_run(output, tf.shape(output)[:1], tf.shape(z)[:1], "G must return the batch axis of z first")


def _check_when_run(tensor, actual, expected, message):
    """tensor, with a check of what is not known while a graph is built but only when it runs."""
    with tf.control_dependencies([tf.compat.v1.debugging.assert_equal(actual, expected, message=message)]):
        return tf.identity(tensor)

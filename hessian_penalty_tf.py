"""The Hessian Penalty (Peebles et al. 2020, arXiv 2008.10599) in TensorFlow 1.14 and 2.x.

One file to copy anywhere: it works in a graph with a Session, in eager mode, inside tf.function and on Keras models.

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
"""

import tensorflow as tf


def hessian_penalty(
    G, z, k=2, epsilon=0.1, reduction=tf.reduce_max, return_separately=False, G_z=None, *, directions=None, **G_kwargs
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
    :param G_kwargs: passed on to G (which therefore has no keyword of the names above).
    :raises ValueError: for arguments outside these bounds, and for outputs of G without the batch axis, in half
        precision, or changing in number from pass to pass. Shapes unknown until a graph runs are checked then, with
        tf.errors.InvalidArgumentError.
    """
    if k < 2:
        raise ValueError(f"k must be at least 2 (it is the number of values in a variance), got {k}")
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive, got {epsilon}")
    z = tf.convert_to_tensor(z)
    if not z.dtype.is_floating or z.shape.ndims == 0:
        raise ValueError(f"z must be a floating-point tensor with a batch axis, got {z.dtype.name} of shape {z.shape}")
    z = tf.cast(z, tf.float32) if z.dtype.size < tf.float32.size else z
    directions = _draw_directions(k, z) if directions is None else _check_directions(directions, k, z)

    passes = []  # of G, at z + x_0, z − x_0, z + x_1, …
    for i in range(k):
        x_i = epsilon * directions[i]
        for latents in (z + x_i, z - x_i):
            passes.append(_check_activations(G(latents, **G_kwargs), z))
    counts = sorted({len(activations) for activations in passes})
    if len(counts) > 1:
        raise ValueError(f"G must return as many activations in every pass, got {counts[0]} and {counts[-1]}")
    penalties = [reduction(_variance(outputs[0::2], outputs[1::2], epsilon)) for outputs in zip(*passes)]
    return penalties if return_separately else tf.add_n(penalties)


def _variance(plus, minus, epsilon):
    """Unbiased variance over i of s_i (Equation 5, less s_0), for each element of one activation.

    plus[i], minus[i]: G(z + x_i) and G(z − x_i).
    """
    differences = [(plus_i - plus[0]) + (minus_i - minus[0]) for plus_i, minus_i in zip(plus[1:], minus[1:])]
    differences = tf.stack([tf.zeros_like(plus[0]), *differences])
    deviations = differences - tf.reduce_mean(differences, axis=0)
    return tf.reduce_sum(tf.square(deviations), axis=0) / ((len(plus) - 1) * epsilon**4)


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


def _check_activations(outputs, z):
    """G's outputs of one pass as a list of tensors."""
    outputs = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
    return [_check_activation(tf.convert_to_tensor(output), z) for output in outputs]


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

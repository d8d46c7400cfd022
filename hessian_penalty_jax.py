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
  a key of its own, drawn once, in a closure or under another name (rng=…). A G whose outputs change when it is called
  again is warned of.
- Precision: half precision and TF32 ruin finite differences. Products inside G are traced with matmul precision
  "highest", backward too, unless G asks for another one by name (precision=…, which is not looked at); z and floating
  G_kwargs in half precision are cast to float32, and a G that computes in half precision anywhere between z and its
  outputs is refused. float64 needs JAX's own switch (jax_enable_x64).
- Both are found in a first look (`check_generator`), when a G is new: while it is traced, and outside of jit on two
  samples. It cannot see into callbacks and Pallas kernels; nor, for half precision, into a G that JAX cannot trace or
  that, outside of jit, changes an object in each call.
- Batch normalisation in training mode mixes the samples of a batch: let G use its running statistics.
- Memory and speed are meant under jit. Run eagerly, memory="lean" and chunk_size compile their loops in every call.
"""

import collections
import contextlib
import functools
import gc
import random
import re
import sys
import types
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxprs_in_params


def hessian_penalty(
    G, z, k=2, epsilon=0.1, reduction=jnp.max, return_separately=False, G_z=None, *, key=None, directions=None,
    select=False, batched=False, memory=None, chunk_size=None, exact=False, batch_kwargs=(), **G_kwargs
):  # fmt: skip
    """The Hessian Penalty of G at z, differentiable with respect to z and to whatever G closes over or is passed.

    :param G: function of an array like z, and of G_kwargs; returns one array or a list or tuple of arrays (activations
        to regularise), of any shapes whose first axis is z's batch. It is evaluated at 2k points for each sample.
    :param z: floating-point array [N, ...] of latent codes.
    :param k: number of directions, at least 2.
    :param epsilon: step of the finite differences; under jit it may be traced, and is not checked then.
    :param reduction: takes an array of penalties, one for each element of an activation, to a scalar. Of elements that
        tie for the maximum, the first gets the whole gradient.
    :param return_separately: return a list with a scalar for each activation instead of their sum.
    :param G_z: ignored: G(z) is not needed. It is there so that calls look alike in all frameworks.
    :param key: a jax.random.key (or PRNGKey) to draw the directions from; needed unless they are given.
    :param directions: the directions v to use, an array [k, N, ...] of +1 and −1.
    :param G_kwargs: passed on to G (which therefore has no keyword of the names above).

    Options, for the same value and gradient in less time or memory. select and chunk_size take G to treat the samples
    of a batch independently, and need to know which of G_kwargs go with them:

    :param select: (maximum reduction only) find, without gradient, the sample that holds each activation's maximum, and
        differentiate those samples alone. Where G fails on them, or, outside of jit and vmap, they do not reproduce
        their maxima, a warning says so and all are differentiated.
    :param batched: make all 2k passes at once, by vmap: G still sees N samples. Faster on small batches.
    :param memory: "lean": compute each pair of passes again in the backward pass: peak memory independent of k.
    :param chunk_size: (mean and sum reductions only) take so many samples at a time, and again in the backward pass.
    :param batch_kwargs: names of those G_kwargs (arrays, or pytrees of them) whose first axis is the batch.
    :param exact: derivatives by forward-mode differentiation (k − 1 mixed products aᵀHb) instead of differences: free
        of their rounding errors, and epsilon is ignored. Not for piecewise linear networks (ReLU, leaky ReLU): their
        Hessian is zero almost everywhere, while the differences measure their kinks, which is what the method lives on.
        A warning says so, outside of jit and vmap, when every activation comes out as exactly zero.
    :raises ValueError: for arguments outside these bounds, for a G that computes in half precision, and for outputs
        without the batch axis or changing in number from pass to pass. Values (of directions) are checked where known.
    """
    z, epsilon, G_kwargs, batch_kwargs = _check_inputs(z, epsilon, G_kwargs, batch_kwargs)
    _check_options(reduction, batched, memory, chunk_size, select)
    directions = _get_directions(key, directions, k, z)
    _check_if_new(G, z, G_kwargs, batch_kwargs)

    def variances(z, directions, G_kwargs):
        return _variances(_activations_of(G, z, G_kwargs), z, directions, epsilon, exact, batched, memory)

    with jax.default_matmul_precision("highest"):
        if chunk_size is not None:
            penalties = _reduce_in_chunks(variances, reduction, z, directions, G_kwargs, batch_kwargs, chunk_size)
        elif select:
            unit = 1 if exact else epsilon**2
            penalties = _maxima(variances, G, z, directions, G_kwargs, batch_kwargs, reduction, unit)
        else:
            penalties = [_reduce(reduction, variance) for variance in variances(z, directions, G_kwargs)]
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


def _reduce(reduction, variance):
    """reduction(variance); the gradient of the maximum goes to the first element that holds it.

    JAX gives it to what equals the maximum. But XLA may compute both anew, with other rounding errors, so that nothing
    does (on CPUs as well as on GPUs, JAX issue 40564). For other reductions, it is asked not to.
    """
    if reduction not in (jnp.max, jnp.amax):
        return reduction(jax.lax.optimization_barrier(variance))
    elements = jnp.ravel(variance)
    return elements[jnp.argmax(jax.lax.stop_gradient(elements))]


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
        return [_reduce(reduction, variance) for variance in variances(z, directions, G_kwargs)]

    outputs = jax.eval_shape(_activations_of(G, z, G_kwargs), z)
    if len(z) <= len(outputs):
        return plain()
    held = jax.lax.stop_gradient(z)
    of_samples = [_by_sample(v).max(axis=1) for v in jax.lax.stop_gradient(variances(held, directions, G_kwargs))]
    index = jnp.stack([jnp.argmax(values) for values in of_samples])
    of_batch = {name: G_kwargs[name] for name in batch_kwargs}
    chosen = dict(G_kwargs, **_each_array(lambda array: jnp.asarray(array)[index], of_batch))
    try:
        selected = variances(z[index], directions[:, index], chosen)
    except Exception as error:  # whatever G raises where a batch of another size does not fit
        _warn(f"select=True: all samples were differentiated, since G fails on fewer (see batch_kwargs): {error!r}")
        return plain()
    penalties = [_reduce(reduction, variance[i]) for i, variance in enumerate(selected)]
    if not any(isinstance(value, jax.core.Tracer) for value in of_samples):
        found = jnp.stack([values[i] for values, i in zip(of_samples, index)])
        G_z = jax.lax.stop_gradient(_activations_of(G, z[index], chosen)(z[index]))
        if not _reproduces(found, jnp.stack(jax.lax.stop_gradient(penalties)), G_z, unit):
            change, _ = _look(G, z, G_kwargs, batch_kwargs)
            problem = change or "G mixes a batch's samples, or holds one (see batch_kwargs)"
            _warn(f"select=True: all samples were differentiated, since fewer do not reproduce the maxima: {problem}")
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
    z, epsilon, G_kwargs, _ = _check_inputs(z, epsilon, G_kwargs)
    axes = _get_axes(key, axes, k, z)
    _check_if_new(G, z, G_kwargs)
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
# The first look at a generator: does it repeat itself, and is it in full precision?

_SEEN = {}  # the generators looked at, by their traits, the oldest first: whether there were values to compare
_MOVES = ("convert_element_type", "reshape", "broadcast_in_dim", "squeeze", "transpose")  # they compute nothing


def check_generator(G, z, batch_kwargs=(), **G_kwargs):
    """Look at G as the penalty does when it is new: warn if it does not repeat itself, refuse half precision inside it.

    New is a G of other code, flags, types or dtypes than those before. Outside of jit, the outputs of two calls are
    compared, for the first two samples, or for all if G fails on two; under jit, two traces are. Where G fails in
    either, the look is left out, and the penalty's own passes will say why.

    :raises ValueError: for an operation in half precision between z and the outputs.
    """
    z, _, G_kwargs, batch_kwargs = _check_inputs(z, 1.0, G_kwargs, batch_kwargs)
    change, half = _look(G, z, G_kwargs, batch_kwargs)
    if half:
        dtype, operation = next((found for found in half if found[1] not in _MOVES), half[0])
        problem = f"got {dtype} from {operation}"
        raise ValueError(f"G must compute in float32 or float64 for its differences to count, {problem}")
    if change:
        _warn(change)


def _check_if_new(G, z, G_kwargs, batch_kwargs=()):
    traits, has_values = _survey(G, z, G_kwargs)[0], not isinstance(jax.lax.stop_gradient(z), jax.core.Tracer)
    if _SEEN.get(traits, -1) < has_values:
        check_generator(G, z, batch_kwargs, **G_kwargs)
        _SEEN[traits] = has_values
        if len(_SEEN) > 256:
            del _SEEN[next(iter(_SEEN))]


def _survey(*things):
    """The traits of things and of all that they refer to: code, flags, types, dtypes; and the latter, {id: thing}."""
    traits, reached, stack, package = set(), {}, [("", thing) for thing in things], None
    while stack and len(reached) < 10_000:
        name, thing = stack.pop()
        is_array = isinstance(thing, (jax.Array, np.ndarray, np.generic))
        is_trait = isinstance(thing, (bool, str, type(None), type, np.dtype, types.CodeType, types.ModuleType))
        if is_trait or not isinstance(thing, (int, float, complex)):  # numbers change too often
            traits.add((name, thing if is_trait else thing.dtype if is_array else type(thing)))
        known = id(thing) in reached
        reached[id(thing)] = thing  # kept, so that an id stands for one thing
        if known or is_array or is_trait:
            continue
        if isinstance(thing, types.FunctionType):
            stack += [(name, part) for part in (thing.__code__, thing.__defaults__, thing.__kwdefaults__)]
            stack += zip(thing.__code__.co_freevars, thing.__closure__ or ())
            package = package or thing.__module__
            if thing.__module__ == package:  # the globals it uses; those of other modules hardly change
                codes, used = [thing.__code__], thing.__globals__
                for code in codes:
                    codes += [inner for inner in code.co_consts if isinstance(inner, types.CodeType)]
                    stack += [(name, used[name]) for name in code.co_names if name in used]
                reached[id(used)] = used
        elif isinstance(thing, dict):
            stack += [(key if isinstance(key, str) else name, value) for key, value in list(thing.items())]
        else:
            stack += [(name, part) for part in (getattr(thing, "__dict__", None), *gc.get_referents(thing))]
    return frozenset(traits), reached


def _look(G, z, G_kwargs, batch_kwargs):
    """What to say of outputs that change, or None; and (dtype, name) of each operation in half precision."""
    reached, half, verb = _survey(G)[1], [], "gives"
    dicts = [(thing, dict(thing)) for thing in reached.values() if type(thing) is dict]
    cells = [(thing, *gc.get_referents(thing)) for thing in reached.values() if isinstance(thing, types.CellType)]
    drawn = _generator_states(reached)
    with jax.default_matmul_precision("highest"):
        equal = _equal_values(G, z, G_kwargs, batch_kwargs)
        if equal is None or reached.keys() == _survey(G)[1].keys():  # else G would keep what is traced
            try:
                z = jax.ShapeDtypeStruct(z.shape, z.dtype)
                traces = [jax.make_jaxpr(lambda z: G(z, **G_kwargs))(z) for _ in range(2)]
                _follow(getattr(traces[0], "jaxpr", traces[0]), [True], half)
                equal = _equal_traces(*traces) if equal is None else equal
            except Exception as error:  # whatever G raises; Flax NNX this one, where a call would change a module
                if equal is None and type(error).__name__ == "TraceContextError":
                    equal, verb = False, "may give"
    for thing, before in dicts:  # what was traced is put back
        tracers = [name for name, value in list(thing.items()) if isinstance(value, jax.core.Tracer)]
        thing.update((name, before[name]) for name in tracers if name in before)
    for cell, *content in cells:
        if content and isinstance(cell.cell_contents, jax.core.Tracer):
            cell.cell_contents = content[0]
    if equal is not False:
        return None, half
    cause = "it keeps state that a call changes, as a Flax NNX module in training mode does, or a Python object"
    for name, state in _generator_states(reached).items():
        if state != drawn[name]:
            cause = f"it draws from {name} random generator; draw once and pass the numbers as a keyword argument"
    outputs = "other outputs when it is called again with the same latents, which would be taken for curvature"
    return f"G {verb} {outputs}: {cause}", half


def _generator_states(reached):
    """The states of NumPy's and Python's random generators, as text: of the global ones, and of those in reached."""
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
    """Whether the outputs of two calls are equal to rounding; None where there are no values to compare."""
    few = _each_array(lambda array: array[:2], {name: G_kwargs[name] for name in batch_kwargs})
    z = jax.lax.stop_gradient(z)
    if isinstance(z, jax.core.Tracer):
        return None
    for latents, kwargs in ((z[:2], dict(G_kwargs, **few)), (z, G_kwargs)):
        with contextlib.suppress(Exception):  # whatever G raises
            calls = [jax.lax.stop_gradient(jax.tree_util.tree_leaves(G(latents, **kwargs))) for _ in range(2)]
            if any(isinstance(output, jax.core.Tracer) for output in calls[0]):
                return None
            return len(calls[0]) == len(calls[1]) and all(
                np.allclose(a, b, 0, 100 * jnp.finfo(b.dtype).eps * np.max(np.abs(b), initial=0), equal_nan=True)
                for a, b in zip(*calls)
            )
    return None


def _equal_traces(*traces):
    """Whether two traces are of the same operations on the same constants, as far as the outputs need these."""
    jaxprs = [getattr(trace, "jaxpr", trace) for trace in traces]
    for a, b, *variables in zip(*(trace.consts for trace in traces), *(jaxpr.constvars for jaxpr in jaxprs)):
        if a is not b and any(variable in _needed(jaxpr) for variable, jaxpr in zip(variables, jaxprs)):
            if isinstance(a, jax.core.Tracer) or not np.array_equal(a, b):
                return False
    return len({re.sub(r" at 0x\w+", "", str(trace)) for trace in traces}) == 1


def _needed(jaxpr, outputs=None):
    """The variables that outputs of a jaxpr, all of them or those that are true in a list, are computed from."""
    needed = {atom for atom, need in zip(jaxpr.outvars, outputs or [True] * len(jaxpr.outvars)) if need}
    for equation in reversed(jaxpr.eqns):
        if not needed.isdisjoint(equation.outvars):
            needed.update(atom for atom in equation.invars if not hasattr(atom, "val"))
    return needed


def _follow(jaxpr, marks, half, outputs=None):
    """Which outputs depend on the marked inputs; half gets (dtype, name) of what is in half precision on the way."""
    marked, needed = {variable for variable, mark in zip(jaxpr.invars, marks) if mark}, _needed(jaxpr, outputs)
    for equation in jaxpr.eqns:
        name, outputs = equation.primitive.name, equation.outvars
        marks = [not hasattr(atom, "val") and atom in marked for atom in equation.invars]
        if not any(marks) or needed.isdisjoint(outputs):
            continue
        results, inside = [True] * len(outputs), list(jaxprs_in_params(equation.params))
        if name in ("scan", "while"):  # of constants, what a step hands to the next, and what it slices, of other rank
            step, before = inside[-1], None
            last = len(marks) - sum(map(_differ_in_rank, equation.invars[::-1], step.invars[::-1]))
            first = last - len(outputs) + sum(map(_differ_in_rank, outputs, step.outvars))
            while marks != before:
                before, results = list(marks), _follow(step, marks[len(marks) - len(step.invars) :], half)
                marks[first:last] = map(max, marks[first:last], results)
            if name == "while":
                constants = marks[: len(inside[0].invars) - (last - first)]
                results = map(max, results, _follow(inside[0], constants + marks[first:], half) * len(outputs))
        elif inside:
            known = name == "cond" or {len(inner.invars) for inner in inside} == {len(marks)}
            results = [not known or (name == "cond" and marks[0])] * len(outputs)
            for inner in inside:
                given = marks[len(marks) - len(inner.invars) :] if known else [True] * len(inner.invars)
                needs = [output in needed for output in outputs] if known else None
                results = list(map(max, results, _follow(inner, given, half, needs)))
        else:
            half += [(out.aval.dtype, name) for out in outputs if out in needed and _is_half(out.aval.dtype)]
        marked.update(output for output, result in zip(outputs, results) if result)
    return [not hasattr(atom, "val") and atom in marked for atom in jaxpr.outvars]


def _differ_in_rank(a, b):
    return a.aval.ndim != b.aval.ndim


# ----------------------------------------------------------------------------------------------------------------------
# Checks, and arguments made ready


def _check_inputs(z, epsilon, G_kwargs, batch_kwargs=()):
    """z and G_kwargs in at least float32, epsilon such that it changes no dtype, and the names of batch_kwargs."""
    if np.shape(epsilon) != ():
        raise ValueError(f"epsilon must be a number, got an array of shape {np.shape(epsilon)}")
    if not isinstance(epsilon, jax.core.Tracer):
        if not float(epsilon) > 0:
            raise ValueError(f"epsilon must be positive, got {epsilon}")
        epsilon = float(epsilon)
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
    z, G_kwargs = _each_array(_at_least_float32, (z, G_kwargs))
    return z, epsilon if isinstance(epsilon, float) else epsilon.astype(z.dtype), G_kwargs, batch_kwargs


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
        _warn("exact=True: every penalty is exactly 0, as on piecewise linear networks; use exact=False for those")


def _warn(message):
    """Warn at the line that called this file."""
    frame, level = sys._getframe(), 1
    while frame and frame.f_globals is globals():
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


_each_array = jax.tree_util.tree_map


def _at_least_float32(value):
    """A half-precision array as float32, anything else as it is."""
    return jnp.asarray(value, jnp.float32) if _is_half(getattr(value, "dtype", None)) else value


def _is_half(dtype):
    return dtype is not None and jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32


def _by_sample(array):
    """[N, ...] as [N, elements]."""
    return array.reshape(len(array), -1)

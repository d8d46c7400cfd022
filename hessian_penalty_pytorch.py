"""The Hessian Penalty (Peebles et al. 2020, arXiv 2008.10599) in PyTorch 1.13 and later. One file to copy anywhere.

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

    from hessian_penalty_pytorch import hessian_penalty
    loss = generator_loss + 0.05 * hessian_penalty(G, z)         # G: any function of z; z: [N, ...]
    loss.backward()

`orojar_penalty` regularises the Jacobian's columns instead; `diagonalness` is a number to log, without a scale.

What to know
- Weight and ε: the rounding error grows as 1/ε⁴, and on piecewise linear (ReLU) networks the value itself changes
  with ε: tune λ for one ε and keep it. The published TensorFlow code used the biased variance: multiply a λ tuned
  with it by (k − 1)/k (at k = 2, λ = 0.1 becomes 0.05).
- Precision: half precision and TF32 ruin finite differences. Inside the call autocast and TF32 are off, and z and
  G_kwargs in half precision are cast to float32, as G's parameters must be. A G that computes in half precision
  anywhere between z and its outputs is refused. But backward() runs later, under your own settings: autocast, if you
  are still within it, and cuDNN's TF32, which is on by default and can cost a smooth network a fifth of the gradient.
  Call backward() within `with full_float32():`.
- State: in every pass G has the same random numbers from PyTorch's CPU and CUDA generators, and its modules have the
  buffers that they had at the call (spectral norm's vectors, batch norm's statistics); the call leaves them so. The
  modules are found behind methods, functools.partial, and whatever a function refers to. Nothing else is held still:
  pass NumPy's random numbers, or those of a torch.Generator of your own, to G as a keyword argument. Other threads must
  not use the modules meanwhile.
- The first look: the first call with a new G runs it twice more, without gradient, on two samples (on all where that
  fails). Half precision is then refused, and a warning says if the outputs of the two differ.
- Batch normalisation in training mode mixes samples: call eval() on such layers first.
- torch.compile and CUDA graphs record the call as one graph. What needs a look at values is then left out: random
  numbers are not held still (nor, by torch.compile, the buffers of a G that is not a module itself), `select` is not
  verified, there is no first look (call `check_generator` beforehand), and TF32 is yours to switch off, around the
  compiled function.
"""

import collections
import contextlib
import functools
import itertools
import operator
import random
import re
import sys
import types
import warnings
import weakref

import torch
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint


def hessian_penalty(
    G, z, k=2, epsilon=0.1, reduction=torch.max, return_separately=False, G_z=None, *, directions=None, select=False,
    batched=False, memory=None, chunk_size=None, exact=False, batch_kwargs=(), **G_kwargs
):  # fmt: skip
    """The Hessian Penalty of G at z, differentiable with respect to G's parameters and z.

    :param G: function of a tensor like z, and of G_kwargs; returns one tensor or a list or tuple of tensors
        (activations to regularise), of any shapes whose first axis is z's batch. It is called 2k times.
    :param z: floating-point tensor [N, ...] of latent codes.
    :param k: number of directions, at least 2.
    :param epsilon: step of the finite differences.
    :param reduction: takes a tensor of penalties, one for each element of an activation, to a scalar.
    :param return_separately: return a list with a scalar for each activation instead of their sum.
    :param G_z: ignored: G(z) is not needed. It is there so that older calls keep working.
    :param directions: the directions v to use, a tensor [k, N, ...] of +1 and −1, instead of drawing them.
    :param G_kwargs: passed on to G (which therefore has no keyword of the names above).

    Options, for the same value and gradient in less time or memory. The first two and chunk_size take G to treat the
    samples of a batch independently, and need to know which of G_kwargs go with them:

    :param select: (maximum reduction only) find, without gradient, the sample that holds each activation's maximum, and
        differentiate those samples alone. Where G fails on them or they do not reproduce their maxima, a warning says
        so and all are differentiated. Of samples that tie, the first gets the whole gradient with respect to z.
    :param batched: make all 2k passes as one, of 2kN samples: for small batches, and G without random numbers.
    :param memory: "lean": compute every pass again in the backward pass, so that one at a time is held.
    :param chunk_size: (mean and sum reductions only) take so many samples at a time, and again in the backward pass.
    :param batch_kwargs: names of those G_kwargs whose first axis is the batch.
    :param exact: true second derivatives, by differentiating in reverse, instead of differences: free of the error of
        the step, and epsilon is ignored. Not with memory or chunk_size, and not for piecewise linear networks (ReLU,
        leaky ReLU): their Hessian is zero almost everywhere, while the differences measure their kinks.
    :raises ValueError: for arguments outside these bounds, for outputs of G without the batch axis or changing in
        number from pass to pass, and for half precision between z and them.
    """
    if exact and torch.is_inference_mode_enabled():
        raise ValueError("exact=True needs derivatives: use torch.no_grad() instead of torch.inference_mode()")
    G = _Differentiable(G) if exact else G
    G, batch = _check(G, z, epsilon, G_kwargs, batch_kwargs, k, directions)
    differences = functools.partial(*((_exact_differences, G) if exact else (_second_differences, G, epsilon)))
    unit = 1 if exact else epsilon**2
    penalties = _penalties(differences, batch, reduction, batched, memory, chunk_size, select, unit, exact)
    if exact and not _is_recorded() and not any(penalty.detach().any() for penalty in penalties):
        message = "exact=True: every penalty is exactly 0, as on piecewise linear networks; use exact=False for those"
        warnings.warn(message, stacklevel=2)
    return penalties if return_separately else sum(penalties)


def _second_differences(G, epsilon, batch, passes):
    """Yield s_i − s_0 of Equation 5 for i = 1 … k − 1."""
    outputs = passes(G, _both_ways(batch.z, epsilon * batch.directions), batch)
    plus_0, minus_0 = next(outputs), next(outputs)
    for plus, minus in zip(outputs, outputs):
        yield [((p - p_0) + (m - m_0)) / epsilon**2 for p, p_0, m, m_0 in zip(plus, plus_0, minus, minus_0)]


def _both_ways(z, steps):
    """What G gets, one pass after the other: z + x_0, z − x_0, z + x_1, …"""
    return [(position,) for x in steps for position in (z + x, z - x)]


def _penalties(differences, batch, reduction, batched, memory, chunk_size, select=False, unit=1, exact=False):
    """The reduced variances of each activation. For differences see `_variances`, for unit `_of_selected_samples`."""
    passes = _check_options(reduction, batched, memory, chunk_size, select, exact)
    variances = functools.partial(_variances, differences)
    with _float32(batch.z):
        if select:
            return _of_selected_samples(variances, reduction, batch, passes, unit)
        if chunk_size and chunk_size < len(batch.z):
            return _of_chunks(variances, reduction, batch, passes, chunk_size)
        return [reduction(variance) for variance in variances(batch, passes)]


def _variances(differences, batch, passes):
    """The unbiased variance of k numbers s_i from the k − 1 differences s_i − s_0, for each element of each activation.

    differences(batch, passes) yields them, each a list with a tensor for each activation. Only sums are kept.
    """
    k, sums, squares = 1, [], []
    for of_one in differences(batch, passes):
        k += 1
        sums = [total + d for total, d in zip(sums, of_one)] or of_one
        squares = [total + d * d for total, d in zip(squares, of_one)] or [d * d for d in of_one]
    return [(square - total * total / k) / (k - 1) for square, total in zip(squares, sums)]


def orojar_penalty(
    G, z, k=2, epsilon=0.1, reduction=torch.mean, return_separately=False, *, directions=None,
    batched=False, memory=None, chunk_size=None, batch_kwargs=(), **G_kwargs
):  # fmt: skip
    """The Orthogonal Jacobian Regularization (OroJaR, Wei et al. 2021, arXiv 2108.07668) of G at z.

    For one sample and the Jacobian J of one activation (its columns J_i, flattened), and v a Rademacher vector,

        Var_v(‖Jv‖²) = 2 · Σ_{i≠j} (J_iᵀJ_j)²,    Jv ≈ (G(z + εv) − G(z − εv)) / 2ε

    estimated as in `hessian_penalty`, from the same 2k passes. `reduction` takes the penalties of an activation, [N],
    to a scalar. They grow with the activation's number of elements. Everything else is as in `hessian_penalty`.
    """
    G, batch = _check(G, z, epsilon, G_kwargs, batch_kwargs, k, directions)
    differences = functools.partial(_slope_differences, G, epsilon)
    penalties = _penalties(differences, batch, reduction, batched, memory, chunk_size)
    return penalties if return_separately else sum(penalties)


def _slope_differences(G, epsilon, batch, passes):
    """Yield ‖Jv_i‖² − ‖Jv_0‖² for i = 1 … k − 1: tensors [N]."""
    outputs = passes(G, _both_ways(batch.z, epsilon * batch.directions), batch)
    slopes = ([(p - m) / (2 * epsilon) for p, m in zip(plus, minus)] for plus, minus in zip(outputs, outputs))
    squares = ([Jv.square().reshape(len(Jv), -1).sum(dim=1) for Jv in of_one] for of_one in slopes)
    squares_0 = next(squares)
    for of_one in squares:
        yield [square - square_0 for square, square_0 in zip(of_one, squares_0)]


Diagonalness = collections.namedtuple("Diagonalness", "ratio standard_error")


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
    G, batch = _check(G, z, epsilon, G_kwargs)
    axes = _check_axes(axes, k, batch.z)
    e_a, e_b = (torch.nn.functional.one_hot(axis, batch.z[0].numel()).to(batch.z) for axis in axes.unbind(dim=2))
    steps = epsilon * torch.stack([2**0.5 * e_a, e_a + e_b, e_a - e_b], dim=1)
    diagonal, off_diagonal = 0, 0  # [activations, N]
    with _without_gradient(), _float32(batch.z):
        outputs = _in_turn(G, [(batch.z,), *_both_ways(batch.z, steps.reshape(3 * k, *batch.z.shape))], batch)
        centre = next(outputs)
        bends = ([(p - c) + (m - c) for p, c, m in zip(plus, centre, minus)] for plus, minus in zip(outputs, outputs))
        for along_a, along_sum, along_difference in zip(bends, bends, bends):
            diagonal += torch.stack([_mean_size(bend) / 2 for bend in along_a])
            off_diagonal += torch.stack([_mean_size(p - m) / 4 for p, m in zip(along_sum, along_difference)])
        means = off_diagonal.mean(dim=1, keepdim=True)
        ratios = diagonal.mean(dim=1, keepdim=True) / means
        residuals = (diagonal - ratios * off_diagonal) / means
    if return_separately:
        return [Diagonalness(ratio, _standard_error(residual)) for ratio, residual in zip(ratios[:, 0], residuals)]
    return Diagonalness(ratios.mean(), _standard_error(residuals.mean(dim=0)))


def _mean_size(tensor):
    """Mean absolute value of each sample's elements: [N]."""
    return tensor.abs().reshape(len(tensor), -1).mean(dim=1)


def _standard_error(residuals):
    """Of the mean of one number a sample, [N]."""
    return residuals.std() / len(residuals) ** 0.5 if len(residuals) > 1 else residuals.sum() * float("nan")


# ----------------------------------------------------------------------------------------------------------------------
# Options: the same differences in less time or memory, or exact

# problem: why G does not repeat itself, or None
_Batch = collections.namedtuple("_Batch", "z directions kwargs batch_kwargs problem")


def _rows(batch, rows):
    """Some samples of a batch. rows: int64 tensor of their numbers."""
    kwargs = dict(batch.kwargs, **{name: batch.kwargs[name].index_select(0, rows) for name in batch.batch_kwargs})
    directions = None if batch.directions is None else batch.directions.index_select(1, rows)
    return batch._replace(z=batch.z.index_select(0, rows), directions=directions, kwargs=kwargs)


def _in_turn(function, inputs, batch, lean=False, at_once=1):
    """Yield function's activations (a list) at each of the inputs (tuples of tensors), from the same random state.

    lean: compute every pass again in the backward pass, but the last, with which that begins.
    at_once: how many of them to make as one pass.
    """
    random_state, count = _get_random_state(), None
    for begin in range(0, len(inputs), at_once):
        _set_random_state(random_state)
        values, kwargs = inputs[begin], batch.kwargs
        if at_once > 1:
            group = inputs[begin : begin + at_once]
            values = [torch.cat(of_all) for of_all in zip(*group)]
            kwargs = dict(kwargs, **{name: torch.cat([kwargs[name]] * len(group)) for name in batch.batch_kwargs})
        run = functools.partial(_activations, function, kwargs)
        outputs = _recomputed(run, *values) if lean and begin < len(inputs) - 1 else run(*values)
        if count not in (None, len(outputs)):
            counts = sorted([count, len(outputs)])
            raise ValueError(f"G must return as many activations in every pass, got {counts[0]} and {counts[1]}")
        count = len(outputs)
        yield from zip(*(output.chunk(len(group)) for output in outputs)) if at_once > 1 else [outputs]


_lean = functools.partial(_in_turn, lean=True)


def _all_at_once(function, inputs, batch):
    """The same by one call for all inputs, unless random numbers would then differ between them."""
    random_state = _get_random_state()
    outputs = list(_in_turn(function, inputs, batch, at_once=len(inputs)))
    if not _has_changed(random_state):
        return iter(outputs)
    message = "batched=True: G draws random numbers, so its passes were made one by one; is it in evaluation mode?"
    warnings.warn(message, stacklevel=6)  # at the caller of the penalty
    _set_random_state(random_state)
    return _in_turn(function, inputs, batch)


def _of_selected_samples(variances, reduction, batch, passes, unit):
    """The maxima of each activation's variances, from a differentiated pass over the samples that hold them alone.

    unit: what rounding errors of G's outputs are divided by in s_i.
    """
    random_state, penalties, problem = _get_random_state(), None, None
    try:
        rows, maxima, rounding = _search(variances, batch, unit)
        if len(batch.z) > len(rows) and _has_changed(random_state):
            problem = "G draws random numbers"
        elif len(batch.z) > len(rows):
            few = _all_at_once if passes is _in_turn else passes
            penalties = [reduction(v[a]) for a, v in enumerate(variances(_rows(batch, rows), few))]
            if not (_is_recorded() or _reproduce(penalties, maxima, rounding)):
                problem = "fewer do not reproduce the maxima: "
                problem += batch.problem or "G mixes samples or holds a batch (see batch_kwargs)"
    except Exception as error:  # whatever G raises on a batch of another size
        if _is_recorded():
            raise
        problem = f"G fails on another number of samples (see batch_kwargs): {error!r}"
    if penalties and not problem:
        return penalties
    _set_random_state(random_state)
    penalties = [reduction(variance) for variance in variances(batch, passes)]
    if problem:
        warnings.warn(f"select=True: all samples were differentiated, since {problem}", stacklevel=4)
    return penalties


def _search(variances, batch, unit):
    """The numbers of the samples that hold the maxima, the maxima, and the size of rounding errors in their roots."""
    N, sizes = len(batch.z), []

    def passes(function, inputs, batch):
        """All, two as one, which is no slower; the first alone where the samples are no more than the activations."""
        outputs = _in_turn(function, inputs, batch, at_once=2)
        first = next(outputs)
        sizes.extend(output.abs().max() for output in first)
        return itertools.chain([first], outputs if N > len(first) else itertools.repeat(first, len(inputs) - 1))

    with _without_gradient():
        of_all = variances(batch, passes)
    rows = torch.stack([variance.reshape(N, -1).amax(dim=1).argmax() for variance in of_all])
    rounding = 100 * torch.finfo(batch.z.dtype).eps * torch.stack(sizes) / unit
    return rows, torch.stack([variance.max() for variance in of_all]), rounding


def _reproduce(penalties, maxima, rounding):
    """Whether second differences, the roots of penalties, are those found before, but for rounding."""
    roots, expected = torch.stack(penalties).detach().sqrt(), maxima.sqrt()
    tolerance = 0.01 * expected + rounding
    return bool((((roots - expected).abs() <= tolerance) | ~expected.isfinite()).all())


def _of_chunks(variances, reduction, batch, passes, chunk_size):
    """The mean or sum of each activation's variances, a chunk of samples at a time."""

    def penalties(_, chunk):
        weight = len(chunk.z) / len(batch.z) if reduction is torch.mean else 1
        return [weight * reduction(variance) for variance in variances(chunk, passes)]

    *chunks, last = torch.arange(len(batch.z), device=batch.z.device).split(int(chunk_size))
    run = penalties if passes is _lean else functools.partial(_recomputed, penalties)
    of_chunks = [run(chunk.z, chunk) for chunk in (_rows(batch, rows) for rows in chunks)]
    return [sum(parts) for parts in zip(*of_chunks, penalties(None, _rows(batch, last)))]


def _recomputed(function, z, *others):
    """function(z, *others), of which nothing is held for the backward pass: there it is computed again."""

    def precisely(z, *others):
        with _float32(z):
            return function(z, *others)

    try:
        return checkpoint(precisely, z, *others, use_reentrant=False, preserve_rng_state=not _is_recorded())
    except RuntimeError as error:
        if "saved tensor hooks" not in str(error):
            raise
        problem = 'memory="lean" and chunk_size do not work under torch.func: use select=True or a smaller batch there'
        raise ValueError(problem) from error


def _exact_differences(G, batch, passes):
    """Yield v_iᵀHv_i − v_0ᵀHv_0 = 4 aᵀHb for i = 1 … k − 1, with a = (v_i + v_0)/2 and b = (v_i − v_0)/2."""
    is_wanted = torch.is_grad_enabled()

    def mixed_products(z, v_i, v_0, **kwargs):
        with torch.enable_grad():
            z = z.view_as(z) if z.requires_grad else z.detach().requires_grad_()  # as G's argument alone
            try:
                slopes = _derivatives(_as_list(G(z, **kwargs)), z, (v_i - v_0) / 2)
                products = _derivatives(slopes, z, (v_i + v_0) / 2)
            except RuntimeError as problem:
                missing = re.search(r"derivative for (\S+) is not implemented", str(problem))
                if missing:
                    problem = f"{missing.group(1)}, which has no second derivative"
                elif "checkpoint" in f"{type(problem)}{problem}".lower():
                    problem = "torch.utils.checkpoint, which it cannot differentiate; switch that off"
                else:
                    raise
                raise ValueError(f"exact=True: G uses {problem}") from None
        return [4 * product if is_wanted else 4 * product.detach() for product in products]

    inputs = [(batch.z, v_i, batch.directions[0].expand_as(v_i)) for v_i in batch.directions[1:]]
    return passes(mixed_products, inputs, batch)


def _derivatives(outputs, z, v):
    """Differentiate outputs along v: a list of Jv, each of its output's shape.

    In reverse mode, twice: Jᵀu is linear in u, and its derivative with respect to u, times v, is Jv. Forward mode takes
    one pass, but twice in a row it is wrong for several operations (PyTorch 2.14: normalisation layers, det, solve, …).
    """
    differentiable = [output for output in outputs if output.requires_grad]
    us = [torch.ones_like(output).requires_grad_() for output in differentiable]
    derivatives = [None] * len(us)
    if us:
        (gradient,) = torch.autograd.grad(differentiable, z, us, create_graph=True, allow_unused=True)
        if gradient is not None and gradient.requires_grad:
            _check_graph(gradient.grad_fn)
            derivatives = torch.autograd.grad(gradient, us, v, create_graph=True, allow_unused=True)
    found = iter(derivatives)
    found = [next(found) if output.requires_grad else None for output in outputs]
    return [torch.zeros_like(output) if d is None else d for output, d in zip(outputs, found)]


def _check_graph(node):
    """Refuse operations in the graph of a gradient whose derivatives PyTorch would get wrong without a word."""
    seen, queue = set(), [node]
    while queue:
        node = queue.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        queue.extend(parent for parent, _ in node.next_functions)
        name = node.name()
        if name == "torch::autograd::Error":
            name = "a torch.autograd.Function that is once_differentiable"
            raise ValueError(f"exact=True: G uses {name}, which has no second derivative")
        if name == "NativeLayerNormBackward0" or ("BatchNorm" in name and getattr(node, "_saved_training", False)):
            problem = f"{name[:-9]} where it cannot be replaced, and PyTorch's higher derivatives of it are wrong"
            raise ValueError(f"exact=True: G uses {problem}; call torch.nn.functional in plain Python")


class _Differentiable(torch.overrides.TorchFunctionMode):
    """Run G with its normalisation layers written out in sums and products, so that all derivatives are right.

    From the third derivative on, PyTorch's own formulas for layer_norm, instance_norm, and batch_norm in training mode
    take the mean and the variance for constants (pytorch issues 175754, 186256). Fast attention has no second one.
    """

    def __init__(self, G):
        super().__init__()
        self.G = G

    def __call__(self, *args, **kwargs):
        attention = getattr(torch.nn, "attention", None)  # PyTorch 2.3 and later
        slow = attention.sdpa_kernel(attention.SDPBackend.MATH) if attention else contextlib.nullcontext()
        with self, slow:
            return self.G(*args, **kwargs)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return _WRITTEN_OUT.get(function, function)(*args, **(kwargs or {}))


def _layer_norm(input, normalized_shape, weight=None, bias=None, eps=1e-5, cudnn_enable=True):
    x = _standardized(input, tuple(range(-len(normalized_shape), 0)), eps)
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _instance_norm(
    input, running_mean=None, running_var=None, weight=None, bias=None, use_input_stats=True, momentum=0.1, eps=1e-5
):
    if not use_input_stats:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    return _of_channels(_standardized(input, tuple(range(2, input.dim())), eps), weight, bias)


def _batch_norm(input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    return _of_channels(_standardized(input, (0, *range(2, input.dim())), eps), weight, bias)


def _standardized(x, dims, eps):
    centered = x - x.mean(dims, keepdim=True)
    return centered * torch.rsqrt(centered.square().mean(dims, keepdim=True) + eps)


def _of_channels(x, weight, bias):
    shape = [1, -1] + [1] * (x.dim() - 2)
    x = x if weight is None else x * weight.view(shape)
    return x if bias is None else x + bias.view(shape)


_WRITTEN_OUT = {
    F.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    F.instance_norm: _instance_norm,
    F.batch_norm: _batch_norm,
}

# ----------------------------------------------------------------------------------------------------------------------
# The first look at a generator, and its state

# What a look finds out: which modules a pass changes (weak references; None: not known, any); whether two passes return
# the same memory; why two passes over the same latents differ, or None
_Traits = collections.namedtuple("_Traits", "changed shares_memory problem")
_UNKNOWN = _Traits(None, True, None)
_SEEN = {}  # the traits of each generator met, by the key of `_find_modules`


def check_generator(G, z, batch_kwargs=(), **G_kwargs):
    """Look at G as the penalty does at its first call with it, for example before torch.compile or a CUDA graph.

    Warns where G gives other outputs for the same latents. The parameters are those of `hessian_penalty`.

    :raises ValueError: where G computes in half precision between z and its outputs.
    """
    _check(G, z, 1, G_kwargs, batch_kwargs)


def _hold_still(G, batch):
    """Return a G that is in its present state in every pass and stays in it, and a batch with its problem.

    Each pass gets copies of the buffers, so that those of G, and what is saved for the backward pass, stay untouched.
    """
    if getattr(getattr(torch, "compiler", None), "is_compiling", bool)():
        return _hold_still_compiled(G), batch
    parts, key = _find_modules(G, batch.kwargs)
    key |= {batch.z.dtype, batch.z.device, ("wrapped", _storage(batch.z) is None)}
    if key not in _SEEN and not _is_recorded():
        if len(_SEEN) >= 1000:
            _SEEN.clear()
        _SEEN[key] = _look(G, batch, parts)
    traits = _SEEN.get(key, _UNKNOWN)
    state = _copy_state(parts if traits.changed is None else filter(None, (part() for part in traits.changed)))

    def held_still(z, **kwargs):
        with _replaced(state):
            outputs = G(z, **kwargs)
        listed = _as_list(outputs)
        if not traits.shares_memory and all(getattr(output, "requires_grad", False) for output in listed):
            return outputs
        if any("Graphed" in type(getattr(output, "grad_fn", None)).__name__ for output in listed):
            problem = "G is a recorded CUDA graph, whose backward pass knows its last forward pass alone"
            raise ValueError(f"{problem}: pass the module that it was made of, and record the penalty as a whole")
        return _copies(outputs)

    return held_still, batch._replace(problem=traits.problem)


def _hold_still_compiled(G):
    """Do the same under torch.compile, in operations that it can trace."""
    if not (isinstance(G, torch.nn.Module) and any(part.training for part in G.modules())):
        return lambda z, **kwargs: _copies(G(z, **kwargs))

    def held_still(z, **kwargs):
        buffers = {name: buffer.clone() for name, buffer in G.named_buffers()}
        return _copies(torch.func.functional_call(G, buffers, (z,), kwargs))

    return held_still


def _copies(outputs):
    return [output.clone() if torch.is_tensor(output) else output for output in _as_list(outputs)]


_VALUES = (torch.Tensor, str, int, float, complex)  # they come and go in objects without changing what G does


def _find_modules(G, kwargs):
    """Find the modules that G refers to, with all their parts, and a key for G: (list, frozenset).

    A lambda that is made anew in every step keeps its key while its code, and the kinds of things that it refers to,
    are the same; a flag, a dtype, or another module make another.
    """
    queue = collections.deque((name, item, 0) for name, item in [("", G), *kwargs.items()])
    parts, marks, seen = {}, set(), {}
    while queue and len(seen) < 1000:
        name, item, depth = queue.popleft()
        with contextlib.suppress(Exception):  # whatever an object of the user's own raises when it is looked at
            if isinstance(item, (bool, str, torch.dtype)):
                marks.add((name, item))
            elif torch.is_tensor(item):
                marks.add((name, item.dtype))
            elif id(item) not in seen and depth <= 6:
                seen[id(item)] = item
                queue.extend((*reference, depth + 1) for reference in _references(item, parts, marks))
    return list(parts), frozenset(marks)


def _references(item, parts, marks):
    """List what an object refers to, as (name, object); add it to the parts if it is a module, and what marks it."""
    if type(item) in weakref.ProxyTypes:
        return [("", item.__repr__.__self__)]
    if isinstance(item, torch.nn.Module):
        own = list(item.modules())
        flags = tuple(v for part in own for v in vars(part).values() if type(v) in (bool, str, torch.dtype))
        marks.update([weakref.ref(item), hash((flags, frozenset(parameter.dtype for parameter in item.parameters())))])
        parts.update(dict.fromkeys(own))
        attributes = [each for part in own for each in vars(part).items()]
        return [(n, v) for n, v in attributes if type(v) in (list, tuple, dict) and not n.startswith("_")]
    if isinstance(item, functools.partial):
        return [("", item.func), *(("", each) for each in item.args), *item.keywords.items()]
    if isinstance(item, types.MethodType):
        return [("", item.__self__), ("", item.__func__)]
    if isinstance(item, types.FunctionType):
        marks.add(item.__code__)
        names = set(_names(item.__code__))
        found = [(name, item.__globals__[name]) for name in names & set(item.__globals__)]
        modules = [vars(each) for _, each in found if isinstance(each, types.ModuleType)]
        own = [each for each in modules if each["__name__"].split(".")[0] not in ("torch", "numpy")]
        found += [(name, module[name]) for module in own for name in names & set(module)]
        found += [("", each) for each in (*(item.__defaults__ or ()), item.__kwdefaults__, item.__dict__)]
        return found + list(zip(item.__code__.co_freevars, map(_content, item.__closure__ or ())))
    if isinstance(item, types.BuiltinFunctionType):
        marks.add(item.__qualname__)
        return [("", item.__self__)]
    if isinstance(item, (type, types.ModuleType)):
        return []
    if isinstance(item, (list, tuple, set, frozenset)):
        return [("", each) for each in itertools.islice(item, 100) if not issubclass(type(each), _VALUES)]
    if not isinstance(item, dict):
        marks.add(weakref.ref(type(item)))
        item = getattr(item, "__dict__", None) or {}
    first = itertools.islice(item.items(), 100)
    return [(str(n), v) for n, v in first if type(v) is bool or not issubclass(type(v), _VALUES)]


def _names(code):
    """Yield the global names, and names of attributes, in a function's code and in the functions within it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _content(cell):
    try:
        return cell.cell_contents
    except ValueError:  # a variable without a value as yet
        return None


def _copy_state(parts):
    """Copy what a pass may change: [(part, its buffers or parameters, {name: copy})]. What is shared is copied once.

    That is buffers, and short vectors that take no gradient, which some spectral norms have as parameters.
    """
    copies, state = {}, []
    for part in parts:
        frozen = [(n, v) for n, v in part._parameters.items() if v is not None and not v.requires_grad]
        vectors = {n: v for n, v in frozen if v.dim() == 1 and len(v) <= 1 << 16}
        for store, tensors in ((part._buffers, dict(part._buffers.items())), (part._parameters, vectors)):
            tensors = {n: t for n, t in tensors.items() if t is not None and not torch.nn.parameter.is_lazy(t)}
            state.append((part, store, {n: copies.setdefault(id(t), t.clone()) for n, t in tensors.items()}))
    return state


@contextlib.contextmanager
def _replaced(state):
    """Give modules copies of this state, which a pass may change, and their own back afterwards.

    Yields all that they have then: [{name: tensor}].
    """
    own, copies = [(store, dict(store.items())) for _, store, _ in state], {}
    try:
        for _, store, kept in state:
            for name, value in kept.items():
                store[name] = copies.setdefault(id(value), value.clone())
        yield [dict(store.items()) for _, store, _ in state]
    finally:
        for store, before in own:
            for name in [name for name, _ in store.items() if name not in before]:
                del store[name]
            for name, tensor in before.items():
                store[name] = tensor


def _find_changed(state, given):
    """Return weak references to the modules whose state a pass has written to, be it with the same values."""
    changed = []
    for (part, store, kept), before in zip(state, given):
        now = dict(store.items())
        same = now.keys() == before.keys() and all(now[name] is before[name] for name in now)
        written = same and any(now[n]._version > 0 or not torch.equal(now[n], value) for n, value in kept.items())
        changed += [weakref.ref(part)] if written or not same else []
    return changed


@contextlib.contextmanager
def _without_gradient():
    """torch.no_grad(), in which no parametrized weight is cached: it would have no gradient afterwards either."""
    cache = None if _is_recorded() else parametrize._cache
    if cache is not None:
        parametrize._cache = {}
    try:
        with torch.no_grad():
            yield
    finally:
        if cache is not None:
            parametrize._cache = cache


def _look(G, batch, parts):
    """Find out the _Traits of G by two passes on two samples, or on all samples where that fails.

    On a GPU on all at once: there an index beyond the second sample would not be an error but the end of the program.
    """
    few = [] if len(batch.z) <= 2 or batch.z.is_cuda else [_rows(batch, torch.arange(2, device=batch.z.device))]
    for samples in [*few, batch]:
        try:
            traits, half = _compare_passes(G, samples, parts)
        except Exception:  # whatever G raises on so few samples or without gradient; the penalty's own passes will tell
            continue
        if half:
            raise ValueError(f"G must compute in float32 or float64 for its differences to count, got {half}")
        if traits.problem:
            problem = "G gives other outputs when it is called again with the same latents, which would be taken for"
            warnings.warn(f"{problem} curvature: {traits.problem}", stacklevel=5)  # at the caller of the penalty
        return traits
    return _UNKNOWN


def _compare_passes(G, batch, parts):
    """Return (_Traits, where half precision comes in or None) from two passes that leave nothing behind."""
    random_state, python, numpy = _get_random_state(), random.getstate(), sys.modules.get("numpy")
    numpy_state = numpy.random.get_state(legacy=False) if numpy else None
    state, attributes = _copy_state(parts), [(vars(part), dict(vars(part))) for part in parts]
    set_stance = contextlib.nullcontext
    if "torch._dynamo" in sys.modules:  # otherwise nothing is compiled, and its import takes seconds
        set_stance = getattr(torch.compiler, "set_stance", set_stance)  # PyTorch 2.6 and later
    try:
        with _without_gradient(), _float32(batch.z), set_stance("force_eager"):
            with _replaced(state) as given, _HalfPrecision() as seen:
                outputs = _as_list(G(seen.source(batch.z), **batch.kwargs))
                first, half = seen.copies(outputs)
                changed = _find_changed(state, given)
            drawn = "Python's" if random.getstate() != python else None
            if numpy and repr(numpy.random.get_state(legacy=False)) != repr(numpy_state):
                drawn = "NumPy's"
            _set_random_state(random_state)
            with _replaced(state):
                second = _as_list(G(batch.z, **batch.kwargs))
    finally:
        for now, before in attributes:
            now.clear()
            now.update(before)
        _set_random_state(random_state)
        random.setstate(python)
        if numpy:
            numpy.random.set_state(numpy_state)
    problem = "it keeps state that is no buffer of a module it refers to, or draws from a generator of its own"
    problem = f"it draws from {drawn} random generator" if drawn else problem
    problem = f"{problem}; pass what changes as a keyword argument, drawn once"
    same = len(first) == len(second) and not any(map(_differ, first, second))
    shares_memory = not {_storage(output) for output in outputs}.isdisjoint(map(_storage, second))
    return _Traits(changed, shares_memory, None if same else problem), half


def _differ(first, second):
    """Tell whether two outputs differ by more than rounding, and another order of sums on a GPU, can explain."""
    tolerance = 1000 * torch.finfo(first.dtype).eps * first.abs().max()
    return first.shape != second.shape or bool(((first - second).abs() > tolerance).any())


def _storage(tensor):
    """Return the address of a tensor's memory, or None where there is none, as under torch.func."""
    try:
        return (tensor.untyped_storage() if hasattr(tensor, "untyped_storage") else tensor.storage()).data_ptr()
    except (RuntimeError, NotImplementedError):
        return None


class _HalfPrecision(TorchDispatchMode):
    """Follow what depends on z through a pass, and find the operation that brings half precision into the outputs."""

    def __init__(self):
        super().__init__()
        self.origins = {}  # memory of a tensor that depends on z: (half-precision operation on its way, is it a cast)
        self.alive = []  # the tensors, so that no memory is used again
        self.lost = None  # the latest such operation, for outputs that could not be followed
        self.is_source, self.last = False, None

    @classmethod
    def _should_skip_dynamo(cls):
        """Keep PyTorch from importing its compiler, which takes seconds, for fear that this would be compiled."""
        return False

    def source(self, z):
        """Return a copy of z, from which to follow."""
        self.is_source = True
        z = z.clone()
        self.is_source = False
        return z

    def copies(self, outputs):
        """Return copies of the outputs, and the half-precision operation on the way to them or None."""
        copies, origins = [], []
        for output in outputs:
            copies.append(output.clone())
            origins.append(self.last)
        return copies, next((origin[0] for origin in origins if origin), None)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        results, name = function(*args, **(kwargs or {})), str(function).split(".")[1]
        if name.startswith("new_") or (name.endswith("_like") and name != "empty_like"):
            return results  # these take no more than a shape
        keys = map(_storage, _tensors([args, *(kwargs or {}).values()]))
        origins = [self.origins[key] for key in keys if key in self.origins]
        self.last = next(filter(None, origins), None) if origins else self.lost
        if origins or self.is_source:
            outputs = [each for each in _tensors([results]) if each.is_floating_point() or each.is_complex()]
            half = next((each for each in outputs if torch.finfo(each.dtype).bits < 32), None)
            is_cast = "copy" in name or "convert" in name
            if half is not None and (self.last is None or (self.last[1] and not is_cast)):
                self.last = self.lost = (f"{half.dtype} from {name}", is_cast)
            self.origins.update((_storage(output), self.last) for output in outputs)
            self.alive += outputs
        return results


def _tensors(nest):
    """List the tensors in nested lists and tuples."""
    flat = [_tensors(item) if isinstance(item, (list, tuple)) else [item] for item in nest]
    return [item for items in flat for item in items if torch.is_tensor(item)]


# ----------------------------------------------------------------------------------------------------------------------
# Checks


def _check(G, z, epsilon, G_kwargs, batch_kwargs=(), k=None, directions=None):
    """Return G held still, and a _Batch in float32 or float64, with k directions, drawn where none are given."""
    if not (torch.is_tensor(epsilon) and _is_recorded()) and not epsilon > 0:
        raise ValueError(f"epsilon must be positive, got {epsilon}")
    if not torch.is_tensor(z) or not z.is_floating_point() or z.dim() == 0:
        found = f"{z.dtype} of shape {tuple(z.shape)}" if torch.is_tensor(z) else type(z).__name__
        raise ValueError(f"z must be a floating-point tensor with a batch axis, got {found}")
    if isinstance(batch_kwargs, str):
        raise ValueError(f"batch_kwargs must be a list of names, got {batch_kwargs!r}")
    batch_kwargs = tuple(batch_kwargs)
    for name in batch_kwargs:
        if name not in G_kwargs:
            raise ValueError(f"batch_kwargs names {name!r}, which was not passed")
        shape = tuple(getattr(G_kwargs[name], "shape", ()))
        if not torch.is_tensor(G_kwargs[name]) or shape[:1] != z.shape[:1]:
            raise ValueError(f"batch_kwargs: {name!r} must have the batch's length {len(z)} first, got shape {shape}")
    z = _at_least_float32(z)
    directions = None if k is None else _check_directions(directions, k, z)
    kwargs = {name: _at_least_float32(value) for name, value in G_kwargs.items()}
    return _hold_still(G, _Batch(z, directions, kwargs, batch_kwargs, None))


def _check_directions(directions, k, z):
    """Rademacher directions for every sample, [k, *z.shape] of ±1: those given, or independent random ones."""
    if k < 2:
        raise ValueError(f"k must be at least 2 (it is the number of values in a variance), got {k}")
    expected = (k, *z.shape)
    if directions is None:
        return torch.randint(0, 2, expected, device=z.device).to(z.dtype) * 2 - 1
    directions = torch.as_tensor(directions).to(z)
    if tuple(directions.shape) != expected:
        raise ValueError(f"directions must have shape [k, *z.shape] = {expected}, got {tuple(directions.shape)}")
    stray = [] if _is_recorded() else directions[directions.abs() != 1]
    if len(stray):
        raise ValueError(f"directions must be +1 or -1 in every entry, got {stray[0].item()}")
    return directions


def _check_options(reduction, batched, memory, chunk_size, select=False, exact=False):
    """How to make passes, as a function like `_in_turn`."""
    if exact and (memory or chunk_size):
        raise ValueError("exact=True cannot compute passes again: leave memory and chunk_size out, take fewer samples")
    name = getattr(reduction, "__name__", repr(reduction))
    if select and reduction not in (torch.max, torch.amax):
        raise ValueError(f"select=True needs the maximum reduction (torch.max), got {name}")
    if chunk_size is not None and reduction not in (torch.mean, torch.sum):
        raise ValueError(f"chunk_size needs the mean or sum reduction (torch.mean or torch.sum), got {name}")
    if chunk_size is not None and not (hasattr(chunk_size, "__index__") and chunk_size > 0):
        raise ValueError(f"chunk_size must be a positive number of samples, got {chunk_size}")
    if memory not in (None, "lean"):
        raise ValueError(f'memory must be None or "lean", got {memory!r}')
    if batched and memory:
        raise ValueError(
            'batched=True and memory="lean" exclude each other: one makes all passes at once, the other one at a time'
        )
    return _lean if memory else _all_at_once if batched else _in_turn


def _check_axes(axes, k, z):
    """Pairs of components for each sample, int64 [k, N, 2]: those given, or k random ones."""
    if k < 1:
        raise ValueError(f"k must be at least 1 (it is the number of pairs of components), got {k}")
    N, n = len(z), z[0].numel()
    if n < 2:
        raise ValueError(f"z must have at least two components for a Hessian to be diagonal or not, got {n}")
    if axes is None:
        first = torch.randint(n, (k, N), device=z.device)
        return torch.stack([first, (first + torch.randint(1, n, (k, N), device=z.device)) % n], dim=2)
    axes = torch.as_tensor(axes, device=z.device)
    if tuple(axes.shape) != (k, N, 2) or axes.is_floating_point():
        raise ValueError(f"axes must be integers of shape [k, N, 2] = {(k, N, 2)}, got {tuple(axes.shape)}")
    if not ((axes >= 0) & (axes < n)).all() or (axes[..., 0] == axes[..., 1]).any():
        raise ValueError(f"axes must be pairs of different components from 0 to {n - 1}")
    return axes.long()


def _activations(function, kwargs, z, *others):
    """The outputs of one pass as a list of tensors."""
    outputs = _as_list(function(z, *others, **kwargs))
    for output in outputs:
        if not torch.is_tensor(output):
            raise ValueError(f"G must return a tensor, or a list or tuple of tensors, got {type(output).__name__}")
        if output.shape[:1] != z.shape[:1]:
            found = f"z is {tuple(z.shape)}, the output is {tuple(output.shape)}"
            raise ValueError(f"G must return the batch axis of z first: {found}")
        if output.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"G must compute in float32 or float64 for its differences to count, got {output.dtype}")
    return outputs


def _as_list(outputs):
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


def _at_least_float32(value):
    """A half-precision tensor as float32, anything else as it is."""
    is_half = torch.is_tensor(value) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if is_half else value


def _is_recorded():
    """Whether torch.compile or a CUDA graph is recording: nothing may then depend on values, or be done beside it."""
    compiling = getattr(getattr(torch, "compiler", None), "is_compiling", bool)
    return compiling() or (torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing())


def _get_random_state():
    """Of PyTorch's CPU generator and of every GPU's, as a list; empty while a graph is recorded."""
    if _is_recorded():
        return []
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [])]


def _set_random_state(state):
    if state:
        torch.set_rng_state(state[0])
        torch.cuda.set_rng_state_all(state[1:])


def _has_changed(state):
    return not all(torch.equal(now, then) for now, then in zip(_get_random_state(), state))


@contextlib.contextmanager
def _float32(z):
    """Within it nothing is computed in less than float32, but G's own doing: no TF32, no autocast on z's device."""
    has_autocast = getattr(torch.amp, "is_autocast_available", ["cpu", "cuda", "xpu"].__contains__)(z.device.type)
    with full_float32(), torch.autocast(z.device.type, enabled=False) if has_autocast else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def full_float32():
    """Within it float32 stays float32: no autocast, no TF32 on CUDA and CPU, no default dtype of 16 bits.

    The caller's settings are put back at the end, whatever happens. (In PyTorch 2.9 and later those of cuDNN and of
    products of matrices may afterwards no longer follow torch.backends.fp32_precision where that is changed again.)
    """
    if _is_recorded():  # the settings are then those of the caller
        yield
        return
    backends = torch.backends
    with contextlib.ExitStack() as undo:
        for device_type in ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]:
            undo.enter_context(torch.autocast(device_type, enabled=False))
        if torch.get_default_dtype() in (torch.float16, torch.bfloat16):
            undo.callback(torch.set_default_dtype, torch.get_default_dtype())
            torch.set_default_dtype(torch.float32)
        # Beside the older settings, PyTorch 2.9 and later have newer ones, in which the particular follows the general
        # while it has no value of its own. The older ones cannot be read while the newer ones contradict them, and they
        # write to the newer ones: so these are set last, both here and when all is put back.
        names = "cudnn cuda.matmul cudnn.conv cudnn.rnn mkldnn.matmul mkldnn.conv mkldnn.rnn"
        is_new = hasattr(backends, "fp32_precision")
        newer = [backends, *operator.attrgetter(*names.split())(backends)] if is_new else []
        for owner in reversed(newer):  # undone in the opposite order, the general first
            undo.callback(_set_precision, owner, owner.fp32_precision)
        matmul, cudnn = _read(torch.get_float32_matmul_precision), _read(lambda: backends.cudnn.allow_tf32)
        for owner in newer:
            _set_precision(owner, "ieee")
        if matmul is None:  # contradicted: if it still is, by what it says itself
            matmul = _read(torch.get_float32_matmul_precision) or "high"
        if cudnn is None:
            cudnn = _read(lambda: backends.cudnn.allow_tf32) is None
        undo.callback(torch.set_float32_matmul_precision, matmul)
        undo.callback(setattr, backends.cudnn, "allow_tf32", cudnn)
        torch.set_float32_matmul_precision("highest")
        backends.cudnn.allow_tf32 = False
        for owner in newer:
            _set_precision(owner, "ieee")
        yield


def _read(setting):
    try:
        return setting()
    except RuntimeError:
        return None


def _set_precision(owner, precision):
    if owner.fp32_precision != precision:  # what follows another setting stays without a value of its own
        owner.fp32_precision = precision

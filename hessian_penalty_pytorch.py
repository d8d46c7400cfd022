"""The Hessian Penalty (Peebles et al. 2020, arXiv 2008.10599) in PyTorch 1.13 and later.

Copy this file anywhere; it needs only PyTorch.

    from hessian_penalty_pytorch import full_float32, hessian_penalty
    loss = generator_loss + 0.05 * hessian_penalty(G, z)      # G: any function of z; z: [N, ...]
    with full_float32():
        loss.backward()

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
- Half precision and TF32 ruin second differences. They are off inside the call, but backward() runs
  under your settings: call it within `full_float32()`.
- All passes see G in one state: the same random numbers of PyTorch and the same buffers of its
  modules. Draw other random numbers once, and pass them to G as a keyword argument.
- Batch normalization in training mode mixes the samples: call eval() on such layers first.
- The first call with a new G runs it twice more, and warns if the two outputs differ.
- torch.compile and CUDA graphs cannot branch on tensor values: there random numbers are not held
  still, `select` is not verified, and TF32 is yours to switch off. Call `check_generator` before.
"""

import collections
import contextlib
import functools
import gc
import itertools
import operator
import random
import re
import sys
import types
import warnings
import weakref
from typing import Any, Callable, Iterable, List, Optional, Sequence, Union

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

Generator = Callable[..., Union[Tensor, Sequence[Tensor]]]

# --------------------------------------------------------------------------------------------------
# The penalty: its computation (helpers are in the sections below)


def hessian_penalty(
    G: Generator, z: Tensor, k: int = 2, epsilon: Union[float, Tensor] = 0.1,
    reduction: Callable = torch.max, return_separately: bool = False, G_z: Any = None, *,
    directions: Optional[Tensor] = None, select: bool = False, batched: bool = False,
    memory: Optional[str] = None, chunk_size: Optional[int] = None, exact: bool = False,
    batch_kwargs: Iterable[str] = (), **G_kwargs: Any
) -> Union[Tensor, List[Tensor]]:  # fmt: skip
    """Estimate the Hessian Penalty of G at z, differentiable with respect to G's parameters and z.

    Args:
        G: Function of z and G_kwargs, called 2k times. It returns a tensor or a list of tensors
            (the activations to regularize), of any shapes [N, ...].
        z: Latent codes, floating point, [N, ...].
        k: Number of directions, at least 2.
        epsilon: Step of the finite differences, in units of z.
        reduction: Takes an activation's penalties, one for each element, to a scalar.
        return_separately: Return a list with a scalar for each activation instead of their sum.
        G_z: Ignored, since G(z) cancels. It is there so that older calls keep working.
        directions: The directions v, [k, N, ...] of +1 and −1, instead of random ones.
        select: With the maximum reduction, find the samples that hold the maxima without gradient,
            and differentiate those alone. Where they do not reproduce their maxima, a warning says
            so and all are differentiated. If samples tie, the first one gets the whole gradient.
        batched: Make all 2k passes as one, of 2kN samples: faster for small batches.
        memory: "lean" holds one pass at a time, and computes the others again in backward().
        chunk_size: With the mean or sum reduction, number of samples to differentiate at a time.
        exact: Use true second derivatives instead of differences, and ignore epsilon. They are zero
            on piecewise linear (ReLU) networks, whose kinks only differences can see.
        batch_kwargs: Names of those G_kwargs whose first axis is the batch. `select`, `batched` and
            `chunk_size` need them; they require that G treats samples independently.

    Returns:
        A scalar, or a list of one scalar for each activation. `select`, `batched`, `memory` and
        `chunk_size` change time and memory only.

    Raises:
        ValueError: For an invalid argument, outputs without the batch axis or in a number that
            changes from pass to pass, or half precision between z and the outputs.
    """
    z = _check_latents(z, epsilon)
    v = _get_directions(directions, k, z)
    generator = _hold_still(G, z, G_kwargs, batch_kwargs)
    if select or batched or memory or exact or chunk_size is not None:
        penalties = _with_options(
            _second_differences, generator, z, v, epsilon, reduction,
            select=select, batched=batched, memory=memory, chunk_size=chunk_size, exact=exact,
        )  # fmt: skip
    else:
        with _float32(z):
            variances = _variances(_second_differences(generator, z, v, epsilon))
            penalties = [reduction(variance) for variance in variances]
    return penalties if return_separately else sum(penalties)


def _second_differences(generator, z, v, epsilon):
    """Yield s_i − s_0 for i = 1 … k − 1, each a list with one tensor per activation."""
    pairs = generator.pairs(z, epsilon * v)
    plus_0, minus_0 = next(pairs)
    for plus, minus in pairs:
        # Equation 5, less the same for i = 0: the terms −2 G(z) cancel
        yield [
            ((p - p_0) + (m - m_0)) / epsilon**2
            for p, p_0, m, m_0 in _zip(plus, plus_0, minus, minus_0)
        ]


def _variances(differences):
    """Return the unbiased variance of s_0 … s_k−1, given every s_i − s_0, for each activation."""
    k, sums, squares = 1, [], []  # of s_0 − s_0, which is 0
    for values in differences:
        k += 1
        sums = [total + d for total, d in zip(sums, values)] or values
        squares = [total + d * d for total, d in zip(squares, values)] or [d * d for d in values]
    return [(square - total * total / k) / (k - 1) for square, total in zip(squares, sums)]


class _Generator:
    """G as a function of z alone, which sees the same random numbers and buffers in every pass."""

    def __init__(self, G, kwargs, batch_kwargs, buffers, findings):
        self.G, self.kwargs, self.batch_kwargs = G, kwargs, batch_kwargs
        self.buffers, self.findings, self.random_state = buffers, findings, _get_random_state()

    def pairs(self, z, steps):
        """Yield the activations at z + x and those at z − x, for each step x."""
        for x in steps:
            yield self(z + x), self(z - x)

    def __call__(self, z, **kwargs):
        """Run G once, and return its activations as a list."""
        _set_random_state(self.random_state)
        with _replaced(self.buffers):
            outputs = self.G(z, **dict(self.kwargs, **kwargs))
        outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        for output in outputs:
            _check_activation(output, z)
        if not self.findings.shares_memory and all(output.requires_grad for output in outputs):
            return list(outputs)
        return [_copy(output) for output in outputs]  # the next pass may write to that memory


# --------------------------------------------------------------------------------------------------
# The same idea for the Jacobian, and a number to log beside the penalty


def orojar_penalty(
    G: Generator, z: Tensor, k: int = 2, epsilon: Union[float, Tensor] = 0.1,
    reduction: Callable = torch.mean, return_separately: bool = False, *,
    directions: Optional[Tensor] = None, batched: bool = False, memory: Optional[str] = None,
    chunk_size: Optional[int] = None, batch_kwargs: Iterable[str] = (), **G_kwargs: Any
) -> Union[Tensor, List[Tensor]]:  # fmt: skip
    """Estimate the Orthogonal Jacobian Regularization (OroJaR, Wei et al. 2021, arXiv 2108.07668).

    For one sample and the Jacobian J of one activation, with flattened columns J_i, it is

        Var_v(‖Jv‖²) = 2 · Σ_{i≠j} (J_iᵀJ_j)²,    Jv ≈ (G(z + εv) − G(z − εv)) / 2ε

    estimated from the same 2k passes as `hessian_penalty`. The penalty grows with the number of
    elements of an activation. `reduction` takes its penalties, [N], to a scalar. The other
    arguments, the value and the errors are those of `hessian_penalty`.
    """
    z = _check_latents(z, epsilon)
    v = _get_directions(directions, k, z)
    penalties = _with_options(
        _slope_differences, _hold_still(G, z, G_kwargs, batch_kwargs), z, v, epsilon, reduction,
        batched=batched, memory=memory, chunk_size=chunk_size,
    )  # fmt: skip
    return penalties if return_separately else sum(penalties)


def _slope_differences(generator, z, v, epsilon):
    """Yield ‖Jv_i‖² − ‖Jv_0‖² for i = 1 … k − 1, each a list with one tensor [N] per activation."""
    squares_0 = None
    for plus, minus in generator.pairs(z, epsilon * v):
        slopes = [(p - m) / (2 * epsilon) for p, m in _zip(plus, minus)]
        squares = [Jv.square().reshape(len(Jv), -1).sum(dim=1) for Jv in slopes]
        if squares_0 is not None:
            yield [square - square_0 for square, square_0 in _zip(squares, squares_0)]
        squares_0 = squares_0 or squares


Diagonalness = collections.namedtuple("Diagonalness", "ratio standard_error")


def diagonalness(
    G: Generator, z: Tensor, epsilon: Union[float, Tensor] = 0.1, k: int = 1,
    return_separately: bool = False, *, axes: Optional[Tensor] = None, **G_kwargs: Any
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
    z = _check_latents(z, epsilon)
    axes = _get_axes(axes, k, z)
    generator = _hold_still(G, z, G_kwargs)
    e_a, e_b = (F.one_hot(axis, z[0].numel()).to(z) for axis in axes.unbind(dim=2))
    # H_aa from a step along e_a; 4 H_ab = uᵀHu − wᵀHw with u = e_a + e_b and w = e_a − e_b
    steps = torch.stack([2**0.5 * e_a, e_a + e_b, e_a - e_b], dim=1).reshape(3 * k, *z.shape)
    diagonal, off_diagonal = 0, 0  # [activations, N]
    with _without_gradient(), _float32(z):
        center, pairs = generator(z), generator.pairs(z, epsilon * steps)
        bends = (
            [(p - c) + (m - c) for p, c, m in _zip(plus, center, minus)] for plus, minus in pairs
        )
        for along_a, along_u, along_w in zip(bends, bends, bends):
            diagonal += torch.stack([_mean_size(bend) / 2 for bend in along_a])
            off_diagonal += torch.stack([_mean_size(u - w) / 4 for u, w in zip(along_u, along_w)])
        mean = off_diagonal.mean(dim=1, keepdim=True)
        ratios = diagonal.mean(dim=1, keepdim=True) / mean
        residuals = (diagonal - ratios * off_diagonal) / mean
    if return_separately:
        return [Diagonalness(r, _standard_error(e)) for r, e in zip(ratios[:, 0], residuals)]
    return Diagonalness(ratios.mean(), _standard_error(residuals.mean(dim=0)))


def _mean_size(tensor):
    """Return the mean absolute value of each sample's elements, [N]."""
    return tensor.abs().reshape(len(tensor), -1).mean(dim=1)


def _standard_error(residuals):
    """Return the standard error of the mean of N residuals."""
    N = len(residuals)
    return residuals.std() / N**0.5 if N > 1 else residuals.sum() * float("nan")


# --------------------------------------------------------------------------------------------------
# Options: the same value and gradient in less time or memory, or exact derivatives
#
#   batched      the generator makes all passes as one                       _Stacked
#   memory       the generator makes passes that backward() makes again      _Recomputed
#   chunk_size   the estimator runs on one chunk of rows after the other     _in_chunks
#   select       the estimator runs on the rows that hold the maxima         _of_selected_rows
#   exact        another estimator, of second derivatives                    _mixed_products


def _with_options(
    estimator, generator, z, v, epsilon, reduction,
    select=False, batched=False, memory=None, chunk_size=None, exact=False,
):  # fmt: skip
    """Return the reduced variances of each activation."""
    _check_options(reduction, select, batched, memory, chunk_size, exact)
    estimator = _mixed_products if exact else estimator
    if memory or batched:
        generator = _rewrap(_Recomputed if memory else _Stacked, generator)

    def estimate(generator, z, v):
        return _variances(estimator(generator, z, v, epsilon))

    with _float32(z):
        if select:
            divisor = 1 if exact else epsilon**2  # of rounding errors in G's outputs
            penalties = _of_selected_rows(estimate, generator, z, v, reduction, divisor)
        elif chunk_size and chunk_size < len(z):
            penalties = _in_chunks(estimate, generator, z, v, reduction, int(chunk_size))
        else:
            penalties = [reduction(variance) for variance in estimate(generator, z, v)]
    if exact and not _is_recording() and not any(p.detach().any() for p in penalties):
        problem = "every penalty is exactly 0, as on piecewise linear networks"
        _warn(f"exact=True: {problem}; use exact=False for those")
    return penalties


def _rewrap(kind, generator, kwargs=None):
    """Return a generator as another kind of it, or with other keyword arguments."""
    g = generator
    return kind(g.G, kwargs or g.kwargs, g.batch_kwargs, g.buffers, g.findings)


def _rows(generator, z, v, rows):
    """Return the arguments of an estimator for some samples. rows: int64 [n]."""
    of_rows = {n: generator.kwargs[n].index_select(0, rows) for n in generator.batch_kwargs}
    generator = _rewrap(type(generator), generator, dict(generator.kwargs, **of_rows))
    return generator, z.index_select(0, rows), v.index_select(1, rows)


class _Stacked(_Generator):
    """Make passes as one, of as many times the samples."""

    def pairs(self, z, steps):
        outputs = self.stacked([latents for x in steps for latents in (z + x, z - x)])
        if not _has_changed(self.random_state):
            return zip(outputs[::2], outputs[1::2])
        problem = "G draws random numbers, so its passes were made one by one"
        _warn(f"batched=True: {problem}; is it in evaluation mode?")
        return super().pairs(z, steps)

    def stacked(self, latents):
        """Return the activations at each of the latents, from one run of G."""
        n = len(latents)
        kwargs = {name: torch.cat([self.kwargs[name]] * n) for name in self.batch_kwargs}
        return list(zip(*(output.chunk(n) for output in self(torch.cat(latents), **kwargs))))


class _Recomputed(_Generator):
    """Keep what the gradient of the last pass needs; make the others again in backward()."""

    def pairs(self, z, steps):
        inner = _rewrap(_Generator, self)
        inner.random_state = []  # checkpoint puts it back, on z's device alone

        def again(z):
            _set_random_state(self.random_state)
            return _checkpointed(inner, z)

        *others, last = steps
        for x in others:
            yield again(z + x), again(z - x)
        yield again(z + last), self(z - last)


def _checkpointed(function, z, *others):
    """Return function(z, *others); what its gradient needs is computed again in backward()."""

    def precisely(z, *others):
        with _float32(z):
            return function(z, *others)

    options = dict(use_reentrant=False, preserve_rng_state=not _is_recording())
    try:
        return checkpoint(precisely, z, *others, **options)
    except RuntimeError as error:
        if "saved tensor hooks" not in str(error):
            raise
        problem = 'memory="lean" and chunk_size do not work under torch.func'
        raise ValueError(f"{problem}: use select=True or a smaller batch there") from error


def _in_chunks(estimate, generator, z, v, reduction, chunk_size):
    """Return the mean or sum of each activation's variances, from chunks of samples."""

    def share(z, rows):
        weight = len(rows) / len(z) if reduction is torch.mean else 1
        variances = estimate(*_rows(generator, z, v, rows))
        return [weight * reduction(variance) for variance in variances]

    is_lean = isinstance(generator, _Recomputed)
    run = share if is_lean else functools.partial(_checkpointed, share)
    *chunks, last = torch.arange(len(z), device=z.device).split(chunk_size)
    shares = [run(z, rows) for rows in chunks]
    return [sum(parts) for parts in zip(*shares, share(z, last))]


def _of_selected_rows(estimate, generator, z, v, reduction, divisor):
    """Return each activation's maximum, differentiated on the samples that hold the maxima."""
    random_state, penalties, problem = _get_random_state(), None, None
    try:
        search = _rewrap(_Search, generator)
        with _without_gradient():
            variances = estimate(search, z, v)
        maxima = [variance.reshape(len(z), -1).amax(dim=1) for variance in variances]  # [N] each
        rows = torch.stack([values.argmax() for values in maxima])
        if len(z) > len(rows) and _has_changed(random_state):
            problem = "G draws random numbers"
        elif len(z) > len(rows):
            is_lean = isinstance(generator, _Recomputed)
            few = generator if is_lean else _rewrap(_Stacked, generator)
            variances = estimate(*_rows(few, z, v, rows))
            penalties = [reduction(variance[a]) for a, variance in enumerate(variances)]
            maxima = torch.stack([values.max() for values in maxima])
            if not (_is_recording() or _reproduce(penalties, maxima, search.sizes / divisor)):
                problem = "G mixes samples or holds a batch (see batch_kwargs)"
                problem = generator.findings.problem or problem
                problem = f"fewer do not reproduce the maxima: {problem}"
    except Exception as error:  # whatever G raises on a batch of another size
        if _is_recording():
            raise
        problem = f"G fails on another number of samples (see batch_kwargs): {error!r}"
    if penalties is None or problem:
        _set_random_state(random_state)
        penalties = [reduction(variance) for variance in estimate(generator, z, v)]
    if problem:
        _warn(f"select=True: all samples were differentiated, since {problem}")
    return penalties


class _Search(_Stacked):
    """Make each pair of passes as one, which is no slower, and note the size of the first outputs.

    If there are at least as many activations as samples, all of these are selected, and the values
    go unused: then run one pair.
    """

    sizes = None

    def __call__(self, z, **kwargs):
        outputs = super().__call__(z, **kwargs)
        if self.sizes is None:
            self.sizes = torch.stack([output.abs().max() for output in outputs])
        return outputs

    def pairs(self, z, steps):
        pair = None
        for x in steps:
            if pair is None or len(pair[0]) < len(z):
                pair = self.stacked([z + x, z - x])
            yield pair


def _reproduce(penalties, maxima, sizes):
    """Tell whether the penalties' roots, second differences, are those found before.

    sizes: those of G's outputs over ε², to which rounding errors are relative.
    """
    roots, expected = torch.stack(penalties).detach().sqrt(), maxima.sqrt()
    tolerance = 0.01 * expected + 100 * torch.finfo(roots.dtype).eps * sizes
    return bool((((roots - expected).abs() <= tolerance) | ~expected.isfinite()).all())


def _mixed_products(generator, z, v, epsilon):
    """Yield v_iᵀHv_i − v_0ᵀHv_0 = (v_i − v_0)ᵀH(v_i + v_0) for i = 1 … k − 1, without epsilon."""
    is_wanted = torch.is_grad_enabled()
    no_hooks = torch.autograd.graph.disable_saved_tensors_hooks("checkpoint")
    with _refusing_what_has_no_derivative():
        with torch.enable_grad(), _Differentiable(), _slow_attention(), no_hooks:
            leaf = z.view_as(z) if z.requires_grad else z.detach().requires_grad_()
            outputs = generator(leaf)
    for v_i in v[1:]:
        with _refusing_what_has_no_derivative(), torch.enable_grad():
            slopes = _derivatives(outputs, leaf, v_i - v[0])
            products = _derivatives(slopes, leaf, v_i + v[0])
        yield [product if is_wanted else product.detach() for product in products]


@contextlib.contextmanager
def _refusing_what_has_no_derivative():
    try:
        yield
    except RuntimeError as error:
        missing = re.search(r"derivative for (\S+) is not implemented", str(error))
        if missing:
            problem = f"{missing.group(1)}, which has no second derivative"
        elif "checkpoint" in f"{type(error)}{error}".lower():
            problem = "torch.utils.checkpoint, which it cannot differentiate; switch that off"
        else:
            raise
        raise ValueError(f"exact=True: G uses {problem}") from None


def _derivatives(outputs, z, v):
    """Differentiate outputs along v: return a list of Jv, each of its output's shape.

    In reverse mode, twice: Jᵀu is linear in u, and its derivative with respect to u, times v, is
    Jv. Forward mode would take one pass, but applied twice it is wrong for several operations
    (PyTorch 2.14: normalization layers, det, solve, …).
    """
    us = [torch.ones_like(output).requires_grad_() for output in outputs]
    used = [(output, u) for output, u in zip(outputs, us) if output.requires_grad]
    found, options = [None] * len(us), dict(create_graph=True, allow_unused=True)
    if used:
        differentiable, weights = zip(*used)
        (gradient,) = torch.autograd.grad(differentiable, z, weights, **options)
        if gradient is not None and gradient.requires_grad:
            _check_graph(gradient.grad_fn)
            found = torch.autograd.grad(gradient, us, v, **options)
    return [torch.zeros_like(output) if d is None else d for output, d in zip(outputs, found)]


def _check_graph(node):
    """Refuse operations of a gradient whose derivatives PyTorch would silently get wrong."""
    seen, queue = set(), [node]
    while queue:
        node = queue.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        queue.extend(parent for parent, _ in node.next_functions)
        name = node.name()
        if name == "torch::autograd::Error":
            problem = "a torch.autograd.Function that is once_differentiable"
            raise ValueError(f"exact=True: G uses {problem}, which has no second derivative")
        is_training = "BatchNorm" in name and getattr(node, "_saved_training", False)
        if name == "NativeLayerNormBackward0" or is_training:
            problem = (
                "where it cannot be replaced, and PyTorch's higher derivatives of it are wrong"
            )
            cure = "call torch.nn.functional in plain Python"
            raise ValueError(f"exact=True: G uses {name[:-9]} {problem}; {cure}")


def _slow_attention():
    """Return a context without fast attention, which has no second derivative."""
    attention = getattr(torch.nn, "attention", None)  # PyTorch 2.3 and later
    return (
        attention.sdpa_kernel(attention.SDPBackend.MATH) if attention else contextlib.nullcontext()
    )


class _Differentiable(torch.overrides.TorchFunctionMode):
    """Compute normalization layers by group_norm, whose higher derivatives PyTorch has right.

    From the third derivative on, its formulas for layer_norm, instance_norm, and batch_norm in
    training mode take mean and variance as constants (pytorch issues 175754, 186256).
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return _BY_GROUP_NORM.get(function, function)(*args, **(kwargs or {}))


def _layer_norm(input, normalized_shape, weight=None, bias=None, eps=1e-5, cudnn_enable=True):
    rows = input.reshape(-1, 1, *normalized_shape)
    x = F.group_norm(rows, 1, eps=eps).reshape(input.shape)
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _instance_norm(
    input, running_mean=None, running_var=None, weight=None, bias=None,
    use_input_stats=True, momentum=0.1, eps=1e-5,
):  # fmt: skip
    if not use_input_stats:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    return F.group_norm(input, input.shape[1], weight, bias, eps)


def _batch_norm(
    input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
):
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    channels = input.transpose(0, 1)
    x = channels.reshape(1, len(channels), -1)
    x = F.group_norm(x, len(channels), weight, bias, eps)
    return x.reshape(channels.shape).transpose(0, 1)


_BY_GROUP_NORM = {
    F.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    F.instance_norm: _instance_norm,
    F.batch_norm: _batch_norm,
}


# --------------------------------------------------------------------------------------------------
# Arguments, and the numbers' precision


def _check_latents(z, epsilon):
    """Return z in float32 or float64."""
    if not (torch.is_tensor(epsilon) and _is_recording()) and not epsilon > 0:
        raise ValueError(f"epsilon must be positive, got {epsilon}")
    if not torch.is_tensor(z) or not z.is_floating_point() or z.dim() == 0:
        found = f"{z.dtype} of shape {tuple(z.shape)}" if torch.is_tensor(z) else type(z).__name__
        raise ValueError(f"z must be a floating-point tensor with a batch axis, got {found}")
    return _at_least_float32(z)


def _check_batch_kwargs(names, kwargs, z):
    """Return the names of keyword arguments with a batch axis as a tuple."""
    if isinstance(names, str):
        raise ValueError(f"batch_kwargs must be a list of names, got {names!r}")
    names = tuple(names)
    for name in names:
        if name not in kwargs:
            raise ValueError(f"batch_kwargs names {name!r}, which was not passed")
        shape = tuple(getattr(kwargs[name], "shape", ()))
        if not torch.is_tensor(kwargs[name]) or shape[:1] != z.shape[:1]:
            problem = f"{name!r} must have the batch's length {len(z)} first, got shape {shape}"
            raise ValueError(f"batch_kwargs: {problem}")
    return names


def _get_directions(directions, k, z):
    """Return random signs for every sample, [k, N, ...], or check those given."""
    if k < 2:
        problem = "k must be at least 2 (it is the number of values in a variance)"
        raise ValueError(f"{problem}, got {k}")
    expected = (k, *z.shape)
    if directions is None:
        return torch.randint(0, 2, expected, device=z.device).to(z.dtype) * 2 - 1
    v = torch.as_tensor(directions).to(z)
    if tuple(v.shape) != expected:
        problem = f"[k, *z.shape] = {expected}, got {tuple(v.shape)}"
        raise ValueError(f"directions must have shape {problem}")
    stray = [] if _is_recording() else v[v.abs() != 1]
    if len(stray):
        raise ValueError(f"directions must be +1 or -1 in every entry, got {stray[0].item()}")
    return v


def _check_options(reduction, select, batched, memory, chunk_size, exact):
    name = getattr(reduction, "__name__", repr(reduction))
    if exact and (memory or chunk_size):
        cure = "leave memory and chunk_size out, take fewer samples"
        raise ValueError(f"exact=True cannot compute passes again: {cure}")
    if exact and torch.is_inference_mode_enabled():
        cure = "use torch.no_grad() instead of torch.inference_mode()"
        raise ValueError(f"exact=True needs derivatives: {cure}")
    if select and reduction not in (torch.max, torch.amax):
        raise ValueError(f"select=True needs the maximum reduction (torch.max), got {name}")
    if chunk_size is not None and reduction not in (torch.mean, torch.sum):
        needed = "the mean or sum reduction (torch.mean or torch.sum)"
        raise ValueError(f"chunk_size needs {needed}, got {name}")
    if chunk_size is not None and not (hasattr(chunk_size, "__index__") and chunk_size > 0):
        raise ValueError(f"chunk_size must be a positive number of samples, got {chunk_size}")
    if memory not in (None, "lean"):
        raise ValueError(f'memory must be None or "lean", got {memory!r}')
    if batched and memory:
        reason = "one makes all passes at once, the other one at a time"
        raise ValueError(f'batched=True and memory="lean" exclude each other: {reason}')


def _get_axes(axes, k, z):
    """Return k pairs of components for each sample, int64 [k, N, 2]: given or random ones."""
    if k < 1:
        raise ValueError(f"k must be at least 1 (it is the number of pairs of components), got {k}")
    N, n = len(z), z[0].numel()
    if n < 2:
        problem = f"at least two components for a Hessian to be diagonal or not, got {n}"
        raise ValueError(f"z must have {problem}")
    if axes is None:
        first = torch.randint(n, (k, N), device=z.device)
        second = (first + torch.randint(1, n, (k, N), device=z.device)) % n
        return torch.stack([first, second], dim=2)
    axes = torch.as_tensor(axes, device=z.device)
    if tuple(axes.shape) != (k, N, 2) or axes.is_floating_point():
        expected = f"[k, N, 2] = {(k, N, 2)}"
        raise ValueError(f"axes must be integers of shape {expected}, got {tuple(axes.shape)}")
    if not ((axes >= 0) & (axes < n)).all() or (axes[..., 0] == axes[..., 1]).any():
        raise ValueError(f"axes must be pairs of different components from 0 to {n - 1}")
    return axes.long()


_TOO_COARSE = "G must compute in float32 or float64 for its differences to count"


def _check_activation(output, z):
    if not torch.is_tensor(output):
        found = type(output).__name__
        raise ValueError(f"G must return a tensor, or a list or tuple of tensors, got {found}")
    if output.shape[:1] != z.shape[:1]:
        found = f"z is {tuple(z.shape)}, the output is {tuple(output.shape)}"
        raise ValueError(f"G must return the batch axis of z first: {found}")
    if output.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{_TOO_COARSE}, got {output.dtype}")


def _copy(output):
    """Copy an output, which may be memory that the next pass writes to."""
    if not _is_compiling() and "Graphed" in type(output.grad_fn).__name__:
        problem = "whose backward pass knows its last forward pass alone"
        cure = "pass the module that it was made of, and record the penalty as a whole"
        raise ValueError(f"G is a recorded CUDA graph, {problem}: {cure}")
    return output.clone()


def _zip(*passes):
    """Zip the activations of several passes, of which there must be as many in each."""
    counts = sorted({len(outputs) for outputs in passes})
    if len(counts) > 1:
        problem = f"got {counts[0]} and {counts[-1]}"
        raise ValueError(f"G must return as many activations in every pass, {problem}")
    return zip(*passes)


def _at_least_float32(value):
    """Return a half-precision tensor as float32, anything else as it is."""
    is_half = torch.is_tensor(value) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if is_half else value


def _warn(message):
    """Warn at the line that called this file."""
    frame, level = sys._getframe(), 1
    while frame.f_back and frame.f_globals is globals():
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def _is_compiling():
    """Tell whether torch.compile is tracing this."""
    return getattr(getattr(torch, "compiler", None), "is_compiling", bool)()


def _is_recording():
    """Tell whether torch.compile or a CUDA graph is recording, and values cannot be looked at."""
    cuda = torch.cuda
    return _is_compiling() or (cuda.is_initialized() and cuda.is_current_stream_capturing())


def _get_random_state():
    """Return the states of PyTorch's generators, the CPU's first; [] while a graph is recorded."""
    if _is_recording():
        return []
    of_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return [torch.get_rng_state(), *of_gpus]


def _set_random_state(state):
    if state:
        torch.set_rng_state(state[0])
        torch.cuda.set_rng_state_all(state[1:])


def _has_changed(random_state):
    return not all(map(torch.equal, _get_random_state(), random_state))


def _get_other_random_states():
    """Return the states of the generators of other libraries, by whose they are."""
    numpy = sys.modules.get("numpy")
    states = {"NumPy's": numpy.random.get_state()} if numpy else {}
    return dict(states, **{"Python's": random.getstate()})


def _set_other_random_states(states):
    random.setstate(states["Python's"])
    if "NumPy's" in states:
        sys.modules["numpy"].random.set_state(states["NumPy's"])


@contextlib.contextmanager
def _float32(z):
    """Compute nothing in less than float32, unless G says so itself: no TF32, no autocast."""
    device, no_autocast = z.device.type, contextlib.nullcontext()
    # PyTorch 2.11 cannot compile is_autocast_available, and older versions do not have it
    is_available = getattr(torch.amp, "is_autocast_available", ["xpu"].__contains__)
    if device in ("cpu", "cuda") or is_available(device):
        no_autocast = torch.autocast(device, enabled=False)
    with full_float32(), no_autocast:
        yield


@contextlib.contextmanager
def full_float32():
    """Keep float32 float32: no autocast, no TF32 on CUDA and CPU, no default dtype of 16 bits.

    The caller's settings are restored at the end, whatever happens. (In PyTorch 2.9 and later those
    of cuDNN and of matrix products may afterwards no longer follow torch.backends.fp32_precision
    where that is changed again.)
    """
    if _is_recording():  # the settings are then those of the caller
        yield
        return
    backends = torch.backends
    with contextlib.ExitStack() as undo:
        for device in ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]:
            undo.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_dtype() in (torch.float16, torch.bfloat16):
            undo.callback(torch.set_default_dtype, torch.get_default_dtype())
            torch.set_default_dtype(torch.float32)
        # PyTorch 2.9 and later have newer settings beside the older ones; in these the particular
        # follows the general while it has no value of its own. The older ones cannot be read while
        # the newer ones contradict them, and they write to the newer ones: so the newer ones are
        # set last, both here and when all is restored.
        names = "cudnn cuda.matmul cudnn.conv cudnn.rnn mkldnn.matmul mkldnn.conv mkldnn.rnn"
        is_new = hasattr(backends, "fp32_precision")
        newer = [backends, *operator.attrgetter(*names.split())(backends)] if is_new else []
        for owner in reversed(newer):  # undone in the opposite order, the general first
            undo.callback(_set_precision, owner, owner.fp32_precision)
        matmul = _read(torch.get_float32_matmul_precision)
        cudnn = _read(lambda: backends.cudnn.allow_tf32)
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
    if owner.fp32_precision != precision:  # a setting that follows another gets no value of its own
        owner.fp32_precision = precision


# --------------------------------------------------------------------------------------------------
# The first look at a generator, and its state
#
# Before the first call with a new G, two passes on two samples tell which modules a pass changes,
# whether the outputs share memory, whether G repeats itself, and where half precision comes in.

# changed: weak references to the modules that a pass changes; None: unknown
# shares_memory: whether two passes return the same memory
# problem: why two passes over the same latents differ, or None
_Findings = collections.namedtuple("_Findings", "changed shares_memory problem")
_UNKNOWN = _Findings(None, True, None)
_SEEN = {}  # the findings on the generators met, by the key of `_survey`


def check_generator(
    G: Generator, z: Tensor, batch_kwargs: Iterable[str] = (), **G_kwargs: Any
) -> None:
    """Look at G as the penalty does when it is new, for example before torch.compile.

    Warns where G gives other outputs for the same latents. Does nothing for a G that was looked at
    before. The arguments are those of `hessian_penalty`.

    Raises:
        ValueError: If G computes in half precision between z and its outputs.
    """
    _hold_still(G, _check_latents(z, 1), G_kwargs, batch_kwargs)


def _hold_still(G, z, kwargs, batch_kwargs=()):
    """Return a _Generator, with a copy of the buffers that every pass is to see."""
    batch_kwargs = _check_batch_kwargs(batch_kwargs, kwargs, z)
    kwargs = {name: _at_least_float32(value) for name, value in kwargs.items()}
    if _is_compiling():
        return _Generator(_with_copied_buffers(G), kwargs, batch_kwargs, (), _UNKNOWN)
    modules, key = _survey(G, kwargs)
    key |= {z.dtype, z.device, ("wrapped", _address(z) is None)}
    if key not in _SEEN and not _is_recording():
        if len(_SEEN) >= 1000:
            _SEEN.clear()
        _SEEN[key] = _first_look(_Generator(G, kwargs, batch_kwargs, (), _UNKNOWN), z, modules)
    findings = _SEEN.get(key, _UNKNOWN)
    if findings.changed is not None:
        alive = (reference() for reference in findings.changed)
        modules = [module for module in alive if module is not None]
    return _Generator(G, kwargs, batch_kwargs, _copied(_buffers(modules)), findings)


def _with_copied_buffers(G):
    """Return G with its buffers held still in a way that torch.compile can trace."""
    if not (isinstance(G, torch.nn.Module) and any(module.training for module in G.modules())):
        return G

    def held_still(z, **kwargs):
        buffers = {name: buffer.clone() for name, buffer in G.named_buffers()}
        return torch.func.functional_call(G, buffers, (z,), kwargs)

    return held_still


def _first_look(generator, z, modules):
    """Run G twice with two samples, or with all where that fails. Return the _Findings.

    On a GPU with all at once: there an index beyond the second sample would be a device-side
    assertion, which cannot be caught.
    """
    for n in [len(z)] if len(z) <= 2 or z.is_cuda else [2, len(z)]:
        few, samples, _ = _rows(generator, z, z[None], torch.arange(n, device=z.device))
        try:
            findings, half = _compare_passes(few.G, samples, few.kwargs, modules)
        except Exception:  # whatever G raises here; the penalty's own passes will show it
            continue
        if half:
            raise ValueError(f"{_TOO_COARSE}, got {half}")
        if findings.problem:
            problem = "G gives other outputs when it is called again with the same latents"
            _warn(f"{problem}, which would be taken for curvature: {findings.problem}")
        return findings
    return _UNKNOWN


def _compare_passes(G, z, kwargs, modules):
    """Return _Findings on two passes, which leave nothing behind, and where half precision is."""
    random_state, others = _get_random_state(), _get_other_random_states()
    buffers = _copied(_buffers(modules))
    attributes = [(vars(module), dict(vars(module))) for module in modules]
    eagerly = contextlib.nullcontext
    if "torch._dynamo" in sys.modules:  # else nothing is compiled, and its import takes seconds
        eagerly = getattr(getattr(torch, "compiler", None), "set_stance", eagerly)  # PyTorch 2.6
    try:
        with _without_gradient(), _float32(z), eagerly("force_eager"):
            with _replaced(buffers) as given, _HalfPrecision() as followed:
                outputs = G(z.clone(), **kwargs)
                first, half = followed.copies(outputs)
                changed = _find_changed(buffers, given)
            now = _get_other_random_states()
            drawn = [name for name in others if repr(now[name]) != repr(others[name])]
            _set_random_state(random_state)
            with _replaced(buffers):
                second = G(z, **kwargs)
    finally:
        for now, before in attributes:
            now.clear()
            now.update(before)
        _set_random_state(random_state)
        _set_other_random_states(others)
    outputs, second = _tensors([outputs]), _tensors([second])
    problem = None
    if len(first) != len(second) or any(map(_differ, first, second)):
        problem = "it keeps state that is no buffer of a module it refers to"
        problem = f"{problem}, or draws from a generator of its own; pass what changes"
        if drawn:
            problem = f"it draws from {drawn[0]} random generator; pass what changes"
        problem = f"{problem} as a keyword argument, drawn once"
    shares_memory = not {*map(_address, outputs)}.isdisjoint(map(_address, second))
    return _Findings(changed, shares_memory, problem), half


def _differ(first, second):
    """Tell whether two outputs differ by more than rounding (a GPU may add in another order)."""
    tolerance = 1000 * torch.finfo(first.dtype).eps * first.abs().max()
    return first.shape != second.shape or bool(((first - second).abs() > tolerance).any())


def _address(tensor):
    """Return the address of a tensor's memory, or None where it has none, as under torch.func."""
    try:
        return getattr(tensor, "untyped_storage", tensor.storage)().data_ptr()
    except (RuntimeError, NotImplementedError):
        return None


class _HalfPrecision(TorchDispatchMode):
    """Follow what depends on the first tensor made in a pass, and find half precision."""

    def __init__(self):
        super().__init__()
        self.origins = {}  # address of a tensor: (half-precision operation before it, is it a cast)
        self.last = None  # the origin of the latest result
        self.lost = None  # the latest origin of all, for outputs that could not be followed
        self.alive = []  # the tensors followed, so that no address is used again

    @classmethod
    def _should_skip_dynamo(cls):
        """Keep PyTorch from importing its compiler, which takes seconds."""
        return False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        results, name = function(*args, **(kwargs or {})), str(function).split(".")[1]
        if name.startswith("new_") or (name.endswith("_like") and name != "empty_like"):
            return results  # these take no more than a shape
        keys = map(_address, _tensors([args, *(kwargs or {}).values()]))
        origins = [self.origins[key] for key in keys if key in self.origins]
        self.last = next(filter(None, origins), None) if origins else self.lost
        if origins or not self.origins:
            outputs = [t for t in _tensors([results]) if t.is_floating_point() or t.is_complex()]
            half = next((t for t in outputs if torch.finfo(t.dtype).bits < 32), None)
            is_cast = "copy" in name or "convert" in name
            if half is not None and (self.last is None or (self.last[1] and not is_cast)):
                self.last = self.lost = (f"{half.dtype} from {name}", is_cast)
            self.origins.update((_address(output), self.last) for output in outputs)
            self.alive += outputs
        return results

    def copies(self, outputs):
        """Return copies of the outputs, and the half-precision operation before them or None."""
        pairs = [(output.clone(), self.last) for output in _tensors([outputs])]  # clone sets last
        return [copy for copy, _ in pairs], next((origin[0] for _, origin in pairs if origin), None)


def _tensors(nest):
    """List the tensors in nested lists and tuples."""
    flat = [_tensors(item) if isinstance(item, (list, tuple)) else [item] for item in nest]
    return [item for items in flat for item in items if torch.is_tensor(item)]


def _buffers(modules):
    """List what a pass may change: (module, its dict of them, name, tensor).

    That is buffers, and vectors that take no gradient: some spectral norms have them as parameters.
    """
    found = []
    for module in modules:
        stores, parameters = (module._buffers, module._parameters), module._parameters.items()
        found += [(module, stores[0], *each) for each in module._buffers.items()]
        frozen = [(n, p) for n, p in parameters if p is not None and not p.requires_grad]
        found += [(module, stores[1], n, p) for n, p in frozen if p.dim() == 1]
    return [entry for entry in found if not torch.nn.parameter.is_lazy(entry[3])]


def _copied(buffers):
    """Copy the tensors among buffers, each of them once where it is shared."""
    copies = {id(tensor): tensor.clone() for *_, tensor in buffers if tensor is not None}
    return [(*rest, copies.get(id(tensor))) for *rest, tensor in buffers]


@contextlib.contextmanager
def _replaced(buffers):
    """Give modules copies of these buffers, which a pass may change, and their own afterwards."""
    stores = {id(store): store for _, store, *_ in buffers}.values()
    own, given = [(store, dict(store.items())) for store in stores], _copied(buffers)
    try:
        for _, store, name, tensor in given:
            store[name] = tensor
        yield given
    finally:
        for store, before in own:
            for name in [name for name, _ in store.items() if name not in before]:
                del store[name]
            for name, tensor in before.items():
                store[name] = tensor


def _find_changed(buffers, given):
    """Return weak references to the modules whose buffers a pass has written to."""
    changed = {}
    for (module, store, name, now), (*_, before) in zip(given, buffers):
        is_same = dict(store.items()).get(name) is now
        if is_same and now is not None:  # in inference mode tensors have no version
            is_same = (now.is_inference() or not now._version) and torch.equal(now, before)
        if not is_same:
            changed[module] = weakref.ref(module)
    return list(changed.values())


@contextlib.contextmanager
def _without_gradient():
    """Keep gradients off, and cache no parametrized weight: it would have none later either."""
    cache = None if _is_recording() else parametrize._cache
    if cache is not None:
        parametrize._cache = {}
    try:
        with torch.no_grad():
            yield
    finally:
        if cache is not None:
            parametrize._cache = cache


def _survey(G, kwargs):
    """Find the modules that G refers to, with all their parts, and a key for G: (list, frozenset).

    A lambda that is made anew in every step keeps its key while its code, and the kinds of things
    that it refers to, are the same; a flag, a dtype, or another module make another.
    """
    queue, modules, marks = collections.deque([("", G), *kwargs.items()]), {}, set()
    seen = {}  # keeps what was met alive, so that an id stands for one object
    while queue and len(seen) < 1000:
        name, item = queue.popleft()
        if type(item) in weakref.ProxyTypes:
            continue
        if isinstance(item, (bool, str, torch.dtype)):
            marks.add((name, item))
        elif torch.is_tensor(item):
            marks.add((name, item.dtype))
        elif isinstance(item, type):
            marks.add(weakref.ref(item))
        elif id(item) not in seen and not isinstance(item, types.ModuleType):
            seen[id(item)] = item
            with contextlib.suppress(Exception):  # whatever an object raises when it is looked at
                queue.extend(_references(item, modules, marks))
    return list(modules), frozenset(marks)


def _references(item, modules, marks):
    """List what an object refers to, as (name, object). Add modules, and marks of what it is."""
    if isinstance(item, torch.nn.Module):
        parts = list(item.modules())
        attributes = [each for part in parts for each in vars(part).items()]
        flags = tuple(v for _, v in attributes if type(v) in (bool, str, torch.dtype))
        dtypes = frozenset(parameter.dtype for parameter in item.parameters())
        marks.update([weakref.ref(item), hash((flags, dtypes))])
        modules.update(dict.fromkeys(parts))
        return [(n, v) for n, v in attributes if type(v) in (list, tuple, dict) and n[0] != "_"]
    if isinstance(item, types.FunctionType):
        marks.add(item.__code__)
        variables = zip(item.__code__.co_freevars, item.__closure__ or ())
        found = [(name, content) for name, cell in variables for content in gc.get_referents(cell)]
        used = set(_names(item.__code__)) & set(item.__globals__)
        found += [(name, item.__globals__[name]) for name in used]
        defaults = (*(item.__defaults__ or ()), item.__kwdefaults__, vars(item))
        return found + [("", part) for part in defaults]
    bound = functools.partial, types.MethodType, types.BuiltinFunctionType
    if isinstance(item, (*bound, list, tuple, set, frozenset)):
        pairs = [("", part) for part in gc.get_referents(item)]
    elif isinstance(item, dict):
        pairs = item.items()
    else:
        marks.add(weakref.ref(type(item)))
        pairs = vars(item).items()
    plain = (Tensor, str, int, float, complex)  # they change from call to call
    pairs = itertools.islice(pairs, 100)
    return [
        (str(n), v) for n, v in pairs if not issubclass(type(v), plain) or (n and type(v) is bool)
    ]


def _names(code):
    """Yield the names of globals and attributes in a function's code, and in those within it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)

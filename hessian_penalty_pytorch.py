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

What to know
- Weight and ε: the rounding error grows as 1/ε⁴, and on piecewise linear (ReLU) networks the value itself changes
  with ε: tune λ for one ε and keep it. The published TensorFlow code used the biased variance: multiply a λ tuned
  with it by (k − 1)/k (at k = 2, λ = 0.1 becomes 0.05).
- Precision: half precision and TF32 ruin finite differences. Inside the call autocast and TF32 are off, and z and
  G_kwargs in half precision are cast to float32, as G's parameters must be (float64 stays float64). But backward()
  runs later, under your own settings, and by default cuDNN's convolutions then use TF32 on GPUs that have it, which
  can cost a smooth network a fifth of the gradient. Call backward() within `with full_float32():` there.
- Randomness: every pass sees the same state of PyTorch's CPU and CUDA generators, so dropout and noise are held
  still. Other sources (NumPy, a torch.Generator of your own) are not: pass their numbers to G as a keyword argument.
- Batch normalisation in training mode mixes the samples of a batch and counts every pass in its running statistics:
  call eval() on such layers first.
"""

import contextlib

import torch


def hessian_penalty(
    G, z, k=2, epsilon=0.1, reduction=torch.max, return_separately=False, G_z=None, *, directions=None, **G_kwargs
):
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
    :raises ValueError: for arguments outside these bounds, and for outputs of G without the batch axis, in half
        precision, or changing in number from pass to pass.
    """
    if k < 2:
        raise ValueError(f"k must be at least 2 (it is the number of values in a variance), got {k}")
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive, got {epsilon}")
    if not torch.is_tensor(z) or not z.is_floating_point() or z.dim() == 0:
        found = f"{z.dtype} of shape {tuple(z.shape)}" if torch.is_tensor(z) else type(z).__name__
        raise ValueError(f"z must be a floating-point tensor with a batch axis, got {found}")
    z = _at_least_float32(z)
    G_kwargs = {name: _at_least_float32(value) for name, value in G_kwargs.items()}
    x = epsilon * (_draw_directions(k, z) if directions is None else _check_directions(directions, k, z))

    random_state = _get_random_state()
    passes = []  # of G, at z + x_0, z − x_0, z + x_1, …
    with full_float32(), torch.autocast(device_type=z.device.type, enabled=False):
        for x_i in x:
            for latents in (z + x_i, z - x_i):
                _set_random_state(random_state)
                passes.append(_check_activations(G(latents, **G_kwargs), z))
        counts = sorted({len(activations) for activations in passes})
        if len(counts) > 1:
            raise ValueError(f"G must return as many activations in every pass, got {counts[0]} and {counts[-1]}")
        penalties = [reduction(_variance(outputs[0::2], outputs[1::2], epsilon)) for outputs in zip(*passes)]
    return penalties if return_separately else sum(penalties)


def _variance(plus, minus, epsilon):
    """Unbiased variance over i of s_i (Equation 5, less s_0), for each element of one activation.

    plus[i], minus[i]: G(z + x_i) and G(z − x_i).
    """
    differences = [(plus_i - plus[0]) + (minus_i - minus[0]) for plus_i, minus_i in zip(plus[1:], minus[1:])]
    values = torch.stack([torch.zeros_like(plus[0]), *differences])
    centred = values - values.mean(dim=0)  # tensor.var over the first axis would take several times as long on a CPU
    return centred.square().sum(dim=0) / ((len(values) - 1) * epsilon**4)


def _draw_directions(k, z):
    """k independent Rademacher directions for every sample: [k, *z.shape], entries ±1."""
    return torch.randint(0, 2, (k, *z.shape), device=z.device).to(z.dtype) * 2 - 1


def _check_directions(directions, k, z):
    directions = torch.as_tensor(directions).to(z)
    expected = (k, *z.shape)
    if tuple(directions.shape) != expected:
        raise ValueError(f"directions must have shape [k, *z.shape] = {expected}, got {tuple(directions.shape)}")
    stray = directions[directions.abs() != 1]
    if stray.numel():
        raise ValueError(f"directions must be +1 or -1 in every entry, got {stray[0].item()}")
    return directions


def _check_activations(outputs, z):
    """G's outputs of one pass as a list of tensors."""
    outputs = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
    for output in outputs:
        if not torch.is_tensor(output):
            raise ValueError(f"G must return a tensor, or a list or tuple of tensors, got {type(output).__name__}")
        if output.shape[:1] != z.shape[:1]:
            shapes = f"z is {tuple(z.shape)}, the output is {tuple(output.shape)}"
            raise ValueError(f"G must return the batch axis of z first: {shapes}")
        if output.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"G must compute in float32 or float64 for its differences to count, got {output.dtype}")
    return outputs


def _at_least_float32(value):
    """A half-precision tensor as float32, anything else as it is."""
    is_half = torch.is_tensor(value) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if is_half else value


def _get_random_state():
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []


def _set_random_state(state):
    cpu, cuda = state
    torch.set_rng_state(cpu)
    torch.cuda.set_rng_state_all(cuda)


@contextlib.contextmanager
def full_float32():
    """Within it float32 products and convolutions are computed in float32 (no TF32, no bfloat16), on CUDA and CPU.

    The caller's settings are put back at the end, whatever happens.
    """
    backends = torch.backends
    with contextlib.ExitStack() as undo:
        if hasattr(backends, "fp32_precision"):  # PyTorch 2.9 and later; mixed with these, the older switches can raise
            # From the general to the particular: whatever does not follow has a setting of its own, to be put back.
            mkldnn, cuda = (
                backends.mkldnn,
                [backends.cudnn, backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn],
            )
            for owner in [backends, *cuda, mkldnn.matmul, mkldnn.conv, mkldnn.rnn]:
                if owner.fp32_precision != "ieee":
                    undo.callback(setattr, owner, "fp32_precision", owner.fp32_precision)
                    owner.fp32_precision = "ieee"
        else:
            undo.callback(setattr, backends.cudnn, "allow_tf32", backends.cudnn.allow_tf32)
            undo.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
            backends.cudnn.allow_tf32 = False
            torch.set_float32_matmul_precision("highest")
        yield

"""Whether float32 is full float32 inside the penalty, and the caller's settings are untouched after it.

`python float32_worker.py` tries every setting in a process of its own, since not all of them can be taken back.
"""

import contextlib

import torch

from hessian_penalty_pytorch import full_float32, hessian_penalty

HAS_FP32_PRECISION = hasattr(torch.backends, "fp32_precision")  # PyTorch 2.9 and later
OWNERS = ["cudnn", "cuda.matmul", "cudnn.conv", "cudnn.rnn", "mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn"]

CALLERS = [
    "pass",
    "torch.backends.cuda.matmul.allow_tf32 = True",
    "torch.backends.cudnn.allow_tf32 = False",
    "torch.set_float32_matmul_precision('high')",
    "torch.set_float32_matmul_precision('medium')",
]
if HAS_FP32_PRECISION:
    CALLERS += [
        "torch.backends.fp32_precision = 'tf32'",
        "torch.backends.fp32_precision = 'ieee'",
        "torch.backends.cudnn.fp32_precision = 'tf32'",
        "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
        "torch.backends.cudnn.conv.fp32_precision = 'ieee'",
        "torch.backends.mkldnn.matmul.fp32_precision = 'bf16'",
        "torch.set_float32_matmul_precision('high'); torch.backends.fp32_precision = 'ieee'",
    ]


def fp32_precisions():
    owners = [torch.backends]
    for path in OWNERS:
        owner = torch.backends
        for name in path.split("."):
            owner = getattr(owner, name)
        owners.append(owner)
    return [owner.fp32_precision for owner in owners]


def readable(read):
    """The older switches cannot be read while the newer ones say something else."""
    try:
        return read()
    except RuntimeError:
        return "mixed"


def settings():
    """All that PyTorch says about the precision of float32 products."""
    older = [
        readable(lambda: torch.backends.cuda.matmul.allow_tf32),
        readable(lambda: torch.backends.cudnn.allow_tf32),
        readable(torch.get_float32_matmul_precision),
    ]
    return older, fp32_precisions() if HAS_FP32_PRECISION else []


def is_full_float32():
    """Whether every setting says so; each can be read, and cuDNN be switched off and on, which reads and sets them."""
    with torch.backends.cudnn.flags(enabled=False):
        pass
    older, newer = settings()
    return older == [False, False, "highest"] and set(newer) <= {"ieee"}


def check(_, statement):
    exec(statement)
    before, inside = settings(), []

    def G(z):
        inside.append(is_full_float32())
        return z @ torch.ones(6, 6)

    hessian_penalty(G, torch.randn(4, 6))
    assert inside == [True] * 6, f"TF32 inside, after {statement}"  # of 6 passes, 2 are the first look
    assert settings() == before, f"settings changed, after {statement}"

    with contextlib.suppress(ZeroDivisionError):
        hessian_penalty(lambda z: 1 / 0, torch.randn(4, 6))
    assert settings() == before, f"settings changed by an error, after {statement}"

    z = torch.randn(4, 6, requires_grad=True)
    with full_float32():
        z.register_hook(lambda gradient: inside.append(is_full_float32()))
        hessian_penalty(lambda z: z**2 * z[:, :1], z).backward()
    assert inside == [True] * 7, f"TF32 in the backward pass, after {statement}"
    assert settings() == before, f"settings changed by full_float32, after {statement}"

    if HAS_FP32_PRECISION and statement == "pass":
        torch.backends.fp32_precision = "ieee"
        followers = dict(zip(["", *OWNERS], fp32_precisions()))
        del followers["cudnn.conv"], followers["cudnn.rnn"]  # as the docstring of full_float32 says
        assert set(followers.values()) == {"ieee"}, "what followed the general setting no longer follows it"


if __name__ == "__main__":
    for caller in CALLERS:
        torch.multiprocessing.start_processes(check, (caller,), nprocs=1, start_method="fork")

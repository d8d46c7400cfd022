"""Whether float32 is full float32 inside the penalty, and callers' settings are untouched after it, on a device.

`python tf32_worker.py cuda|cpu` tries each caller of tests/penalty/float32_worker.py in a process of its own, since not
all settings can be taken back, and prints {caller: what went wrong, or null} as JSON.
"""

import contextlib
import json
import multiprocessing
import os
import sys
import traceback

import torch

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "penalty")]

from float32_worker import CALLERS, settings  # noqa: E402
from gpu_helpers import assert_close, distance, problem, value_and_gradients  # noqa: E402

from hessian_penalty_pytorch import full_float32, hessian_penalty  # noqa: E402

OPTIONS = [{}, dict(select=True)]
ROUNDING = 3e-5  # of products in float32, as a share of their size: less than that, and 3e-4 in TF32


def product_errors(device):
    """Return the errors of a product of matrices and of a convolution, which cuBLAS and cuDNN compute."""
    generator = torch.Generator().manual_seed(0)
    A, B = (torch.randn(512, 512, generator=generator) for _ in range(2))
    images, kernels = torch.randn(8, 64, 16, 16, generator=generator), torch.randn(64, 64, 3, 3, generator=generator)
    errors = []
    for function, arguments in ((torch.matmul, (A, B)), (torch.conv2d, (images, kernels))):
        truth = function(*(each.double() for each in arguments))
        errors.append(distance((0, [function(*(each.to(device) for each in arguments))]), (0, [truth])))
    return errors


def are_full(errors):
    return [error <= ROUNDING for error in errors]


def check(device, caller):
    exec(caller)
    G, z, kwargs = problem("cpu", torch.float64)
    truth = value_and_gradients(hessian_penalty, G, z, **kwargs)
    full, before = are_full(product_errors(device)), settings()

    with full_float32():
        assert all(are_full(product_errors(device))), "full_float32 computes in less"
    assert settings() == before, "full_float32 does not put the settings back"
    with contextlib.suppress(ZeroDivisionError), full_float32():
        raise ZeroDivisionError
    assert settings() == before, "full_float32 does not put the settings back after an error"
    assert are_full(product_errors(device)) == full, "products of the caller are computed differently afterwards"

    G, z, kwargs = problem(device)
    for options in OPTIONS:
        z = z.detach().requires_grad_()
        value = hessian_penalty(G, z, batch_kwargs=["y"], **kwargs, **options)
        assert settings() == before, f"settings are changed with {options}"
        with full_float32():
            gradients = torch.autograd.grad(value, [z, *G.parameters()])
        assert settings() == before, f"settings are changed by full_float32 after {options}"
        assert_close((value.item(), gradients), truth)
    assert are_full(product_errors(device)) == full, "products of the caller are computed differently afterwards"
    if device == "cuda" and "allow_tf32 = True" in caller and torch.cuda.get_device_capability() >= (8, 0):
        assert not full[0], "this caller does not compute in TF32 at all: the test shows nothing"


def problem_of(arguments):
    try:
        check(*arguments)
    except Exception:
        return traceback.format_exc()
    return None


def main():
    callers = [(sys.argv[1], caller) for caller in CALLERS]
    # CUDA may not be touched before processes are forked; four of them hide each other's start
    with multiprocessing.get_context("fork").Pool(4, maxtasksperchild=1) as pool:
        problems = pool.map(problem_of, callers, chunksize=1)
    print(json.dumps({caller: problem for (_, caller), problem in zip(callers, problems)}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

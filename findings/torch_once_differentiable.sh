#!/usr/bin/env bash
# PyTorch: a torch.autograd.Function whose backward is marked @once_differentiable is meant to raise when it is differentiated
# twice. It does not: torch.autograd.grad takes what it returned for a constant, and leaves its share of the second
# derivative out, in silence. (No guard is made where the incoming gradient needs no gradient itself, as that of a plain
# sum; where one is made, it hangs beside the path from the result to the inputs, and is never run.)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.2.6
"$folder/env/bin/python" - <<'PYTHON'
import torch


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * gradient


def second_derivative(function, incoming):
    x = torch.tensor(2.0, requires_grad=True)
    (first,) = torch.autograd.grad(function(x), x, incoming, create_graph=True)
    return torch.autograd.grad(first, x)[0].item()


print("torch", torch.__version__)
right = second_derivative(lambda x: x**2 + x**3, None)
for incoming in (None, torch.ones((), requires_grad=True)):
    found = second_derivative(lambda x: x**2 + Cube.apply(x), incoming)
    print(f"second derivative of x² + x³ at 2: {found}, right is {right}; incoming gradient {incoming}")
    assert right == 14 and found == 2, "this has changed"
PYTHON

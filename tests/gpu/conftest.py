"""The device of the tests in this folder: a GPU, or with GPU_TESTS_DEVICE=cpu the CPU, as far as that goes."""

import os

import pytest
import torch

NAME = os.environ.get("GPU_TESTS_DEVICE", "cuda")
if NAME not in ("cpu", "cuda"):
    raise pytest.UsageError(f"GPU_TESTS_DEVICE={NAME}: say cuda or cpu")
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def device():
    if NAME == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU (GPU_TESTS_DEVICE=cpu tries on the CPU what can be tried there)")
    return torch.device(NAME)


@pytest.fixture(scope="session")
def cuda(device):
    if device.type != "cuda":
        pytest.skip("CUDA graphs need CUDA")
    return device


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)

"""Small networks in place of Inception and VGG, as module:factory. PyTorch: imported in the worker process only."""

import os
import signal
import sys

import torch


class Colours(torch.nn.Module):
    """Mean and standard deviation of each channel, as fractions of 255: six features."""

    def forward(self, images):
        flat = images.double().flatten(2) / 255
        return torch.cat([flat.mean(2), flat.std(2)], 1)


class SquaredDistance(torch.nn.Module):
    """Mean over pixels of the squared difference, summed over channels."""

    def forward(self, images, others):
        return ((images - others).double() ** 2).mean((2, 3)).sum(1)


class WithoutTensorFlow(torch.nn.Module):
    """Two features: whether the worker has imported PyTorch, and whether TensorFlow."""

    def forward(self, images):
        return torch.tensor([["torch" in sys.modules, "tensorflow" in sys.modules]]).float().expand(len(images), 2)


class Killed(torch.nn.Module):
    def forward(self, images):
        os.kill(os.getpid(), signal.SIGKILL)


class Ends(torch.nn.Module):
    def forward(self, images):
        os._exit(3)


class Exhausted(torch.nn.Module):
    def forward(self, images, others):
        raise MemoryError("no more")


class Mistaken(torch.nn.Module):
    def forward(self, images):
        raise ZeroDivisionError("a mistake")


class OneNumber(torch.nn.Module):
    def forward(self, images):
        return images.float().mean()


def no_network():
    return "a string"


def broken():
    raise ValueError("no such thing")

"""Several processes that work as one, started by torchrun: one a GPU (NCCL), or any number on CPUs (gloo).

Every random draw is made jointly, by every process alike; each then takes its slice of the batch.
"""

import contextlib
import dataclasses
import os

import torch

from experiment_utils.errors import OptionError


@dataclasses.dataclass(frozen=True)
class Workers:
    """This process among those that work together."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self):
        """Whether this is the one process that writes files and speaks to the user."""
        return self.rank == 0

    def share(self, count):
        """Return this process's slice of `count` samples."""
        each = count // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def average_(self, tensor):
        """Replace the tensor by its mean over all processes, in place."""
        if self.size > 1:
            torch.distributed.all_reduce(tensor)
            tensor /= self.size
        return tensor

    def any(self, condition, device):
        """Whether the condition holds in any of the processes."""
        return self.average_(torch.tensor(float(condition), device=device)).item() > 0

    def gather(self, tensor):
        """Return the tensors of all processes, in the order of their samples, one below the other."""
        if self.size == 1:
            return tensor
        tensors = [torch.empty_like(tensor) for _ in range(self.size)]
        torch.distributed.all_gather(tensors, tensor)
        return torch.cat(tensors)


def world_size():
    """The number of processes that torchrun started: 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank():
    """The number of this process among all: 0 without torchrun."""
    return int(os.environ.get("RANK", 0))


def local_rank():
    """The number of this process on its machine, and so of its GPU: 0 without torchrun."""
    return int(os.environ.get("LOCAL_RANK", 0))


def check_batch_size(batch_size, flag="--batch_size"):
    """Raise OptionError where the batch cannot be shared out evenly."""
    if batch_size % world_size():
        raise OptionError(
            f"{flag} {batch_size}: not divisible by the {world_size()} processes of torchrun; every one takes as many"
        )


@contextlib.contextmanager
def join(device):
    """Within the block the processes that torchrun started are connected; gives this one's Workers."""
    if world_size() == 1:
        yield Workers()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Workers(torch.distributed.get_rank(), torch.distributed.get_world_size())
    finally:
        torch.distributed.destroy_process_group()

"""A DistributedDataParallel run on CPUs: `python ddp_worker.py WORLD FOLDER OPTIONS`.

Each of WORLD processes takes its share of FOLDER/problem.pt, and writes the gradients that backward() leaves it to
FOLDER/gradients-RANK.pt. OPTIONS are those of the penalty, as JSON.
"""

import contextlib
import json
import os
import sys

import torch
from torch.nn.parallel import DistributedDataParallel

from hessian_penalty_pytorch import hessian_penalty


def generator(nz):
    return torch.nn.Sequential(torch.nn.Linear(nz, 16), torch.nn.Tanh(), torch.nn.Linear(16, 5), torch.nn.Tanh())


def train(rank, world, folder, options):
    torch.set_num_threads(1)
    rendezvous = f"file://{os.path.join(folder, 'rendezvous')}"
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world)
    problem = torch.load(os.path.join(folder, "problem.pt"), weights_only=True)
    G = generator(problem["z"].shape[1]).double()
    G.load_state_dict(problem["weights"])
    replica = DistributedDataParallel(G)
    z = problem["z"].chunk(world)[rank]
    directions = problem["directions"].chunk(world, dim=1)[rank]
    hessian_penalty(replica, z, k=3, reduction=torch.mean, directions=directions, **options).backward()
    torch.save([parameter.grad for parameter in G.parameters()], os.path.join(folder, f"gradients-{rank}.pt"))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    with contextlib.suppress(ImportError):  # PyTorch 2's DDP imports this, slowly: once, before the processes part
        import torch._dynamo
    arguments = (int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]))
    torch.multiprocessing.start_processes(train, arguments, int(sys.argv[1]), start_method="fork")

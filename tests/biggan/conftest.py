"""One thread for every test of this tree: the same numbers on any machine, and no contention."""

import torch

torch.set_num_threads(1)

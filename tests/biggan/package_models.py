"""Models of the package pytorch-pretrained-biggan, small and random, as an independent truth."""

import torch
from pytorch_pretrained_biggan import BigGAN, BigGANConfig


def package_model(config=None, seed=0):
    """The package's model with random weights, statistics and attention, in evaluation mode."""
    torch.manual_seed(seed)
    settings = BigGANConfig()
    vars(settings).update(config or {})
    model = BigGAN(settings).eval()
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith(("running_means", "bn.bias")):
                tensor.normal_(std=0.3)
            elif name.endswith(("running_vars", "bn.weight")):
                tensor.uniform_(0.5, 2)
            elif name.endswith("gamma"):
                tensor.fill_(0.7)
        for module in model.modules():
            if hasattr(module, "weight_orig"):
                converge(module.weight_orig.flatten(1), module.weight_u, module.weight_v)
    return model


def converge(matrix, u, v):
    """Power iterations, as training would have made them: from random vectors sigma is nearly 0."""
    for _ in range(8):
        v.copy_(torch.nn.functional.normalize(matrix.t() @ u, dim=0))
        u.copy_(torch.nn.functional.normalize(matrix @ v, dim=0))

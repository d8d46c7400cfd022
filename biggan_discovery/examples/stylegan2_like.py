"""Discovery on a generator with a mapping network and noise inputs: --G_path examples.stylegan2_like:factory"""

import torch
from torch import nn

from examples.networks import StyleGAN2


class Generator(nn.Module):
    """What discovery needs: dim_z, and images of z alone. So: no fresh noise, and one style for all layers."""

    def __init__(self, network):
        super().__init__()
        self.network, self.dim_z = network, network.z_dim

    def forward(self, z):
        return self.network(z, noise_mode="const")

    def latent_weights(self):  # optional, for SeFa: z is normalised before this layer, so it cannot be found by itself
        return self.network.mapping[0].weight

    def early_activations(self, z, y=None):  # optional, for PCA: the intermediate latents w
        return self.network.mapping(z)


def factory():
    torch.manual_seed(0)  # in place of your own weights: network.load_state_dict(load_pth("stylegan2.pth"))
    return Generator(StyleGAN2())

"""Discovery on the decoder of a variational autoencoder: --G_path examples.vae_decoder:factory"""

import torch
from torch import nn

from examples.networks import VAE


class Decoder(nn.Module):
    """What discovery needs: dim_z, and images of z. The prior of a VAE is the N(0, I) that discovery draws z from."""

    def __init__(self, vae):
        super().__init__()
        self.decoder, self.dim_z = vae.decoder, vae.latent_dim

    def forward(self, z):
        return 2 * self.decoder(z) - 1  # from [0, 1] to [-1, 1], which the pictures expect


def factory():
    torch.manual_seed(0)  # in place of your own weights: vae.load_state_dict(load_pth("vae.pth"))
    return Decoder(VAE())

"""Stand-ins for networks from elsewhere: what someone's StyleGAN2 and someone's VAE look like from outside.

Small, with random weights; nothing in them knows of this project.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

# ----------------------------------------------------------------------------------------------------------------------
# A generator in the manner of StyleGAN2 (Karras et al. 2020): mapping network, modulated convolutions, noise inputs


class StyleGAN2(nn.Module):
    """synthesis(mapping(z)): images [N, 3, resolution, resolution].

    noise_mode   "random": fresh noise at every call, as in training; "const": the noise images that come with the
                 weights; "none"
    """

    def __init__(self, z_dim=32, w_dim=32, resolution=32, width=32):
        super().__init__()
        self.z_dim = z_dim
        layers = [nn.Linear(z_dim, w_dim), nn.LeakyReLU(0.2), nn.Linear(w_dim, w_dim), nn.LeakyReLU(0.2)]
        self.mapping = nn.Sequential(*layers)
        self.constant = nn.Parameter(torch.randn(1, width, 4, 4))
        sizes = [4 << level for level in range(int(math.log2(resolution)) - 1)]
        self.convolutions = nn.ModuleList(ModulatedConv(width, width, 3, w_dim, size) for size in sizes)
        self.to_rgb = nn.ModuleList(ModulatedConv(width, 3, 1, w_dim, size, demodulate=False) for size in sizes)

    def forward(self, z, noise_mode="random"):
        w = self.mapping(z * z.square().mean(1, keepdim=True).add(1e-8).rsqrt())
        x, image = self.constant.expand(len(z), -1, -1, -1), 0
        for convolution, to_rgb in zip(self.convolutions, self.to_rgb):
            if convolution.size > 4:
                x, image = (F.interpolate(each, scale_factor=2, mode="bilinear") for each in (x, image))
            x = F.leaky_relu(convolution(x, w, noise_mode), 0.2)
            image = image + to_rgb(x, w, "none")
        return image


class ModulatedConv(nn.Module):
    """A convolution whose weights are scaled by a style, input by input, and (demodulated) put back to unit length."""

    def __init__(self, inputs, outputs, kernel_size, w_dim, size, demodulate=True):
        super().__init__()
        self.size, self.demodulate = size, demodulate
        self.style = nn.Linear(w_dim, inputs)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel_size, kernel_size) / math.sqrt(inputs))
        self.noise_strength = nn.Parameter(torch.tensor(0.3))
        self.register_buffer("noise_const", torch.randn(size, size))

    def forward(self, x, w, noise_mode):
        batch, _, height, width = x.shape
        weight = self.weight * (1 + self.style(w))[:, None, :, None, None]
        if self.demodulate:
            weight = weight * weight.square().sum((2, 3, 4), keepdim=True).add(1e-8).rsqrt()
        grouped = F.conv2d(x.reshape(1, -1, height, width), weight.flatten(0, 1), padding="same", groups=batch)
        x = grouped.view(batch, -1, height, width)
        if noise_mode == "random":
            x = x + self.noise_strength * torch.randn(batch, 1, height, width, device=x.device)
        elif noise_mode == "const":
            x = x + self.noise_strength * self.noise_const
        return x


# ----------------------------------------------------------------------------------------------------------------------
# A variational autoencoder (Kingma & Welling 2014)


class VAE(nn.Module):
    """Images [N, 3, 32, 32] in [0, 1] to (their reconstructions, means, log-variances)."""

    def __init__(self, latent_dim=16):
        super().__init__()
        self.latent_dim = latent_dim
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 16, 4, 2, 1), nn.SiLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.SiLU(), nn.Flatten(),
            nn.Linear(32 * 8 * 8, 2 * latent_dim),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Linear(latent_dim, 32 * 8 * 8), nn.Unflatten(1, (32, 8, 8)), nn.Dropout(0.1), nn.SiLU(),
            nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.SiLU(), nn.ConvTranspose2d(16, 3, 4, 2, 1), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, images):
        mean, log_variance = self.encoder(images).chunk(2, dim=1)
        z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        return self.decoder(z), mean, log_variance

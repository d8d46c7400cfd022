"""BigGAN and direction discovery in PyTorch: generators, their weights, directions in their latent spaces, scores."""

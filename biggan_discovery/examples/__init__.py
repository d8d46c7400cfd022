"""Generators of your own for discovery, by way of --G_path module:factory."""

"""The generator: a text- and edge-conditioned 2D diffusion model, its training and its sampler."""

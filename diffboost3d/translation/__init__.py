"""Translation: a GAN that turns edges into images, the established way to synthesize that diffusion is compared with."""

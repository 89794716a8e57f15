"""Refinement: a small 3D denoiser of little noise, so that fine texture is of one piece along all axes."""

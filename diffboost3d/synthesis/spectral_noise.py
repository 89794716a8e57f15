"""Noise that goes along the slices as the real volume does: coarse waves in plane stay long, fine ones not.

One correlation for all of the noise is too much for fine texture and too little for coarse. Here each wave in plane has that of
the real volume at the same wave, by its power spectrum, while every slice alone remains white, as the denoiser was trained on.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

Float = NDArray[np.float32]

# of the frequencies of (slices, h, w), a standard deviation: single waves are the anatomy of the case
SMOOTHING = (0.07, 0.1, 0.1)
_LEAST_POWER = 1e-6


def noise_like(maps: torch.Tensor, seed: int) -> torch.Tensor:
    """Standard normal noise of the shape of maps (S, c, h, w), those of a volume's slices, with their correlation along S.

    With P the smoothed power of the maps' waves (orthonormal cosine transform; k along the slices, u in plane), a channel's
    noise is, at slice s and wave u, sum_k C_ks sqrt(W_ku) n_ku / sqrt(sum_k C_ks^2 W_ku), W_ku = P_ku / mean_k P_ku, with white
    n and the basis C. The divisor, the deviation of a wave at its slice, keeps every slice alone white. One slice: white noise.
    """
    random = torch.Generator().manual_seed(seed)
    noise = torch.randn(maps.shape, generator=random)
    if len(maps) > 1:
        for channel in range(maps.shape[1]):
            _correlate(noise[:, channel].numpy(), maps[:, channel].numpy())
    return noise


def _correlate(noise: Float, like: Float) -> None:
    """One channel (S, h, w), in place."""
    from scipy.fft import dct, dctn, idct, idctn

    weight = _weight(like)
    basis = dct(np.eye(len(noise), dtype=np.float32), axis=0, norm="ortho")
    deviation = np.sqrt(np.einsum("ks,kuv->suv", basis**2, weight))
    waves = dctn(noise, norm="ortho")
    waves *= np.sqrt(weight, out=weight)
    along = idct(waves, axis=0, norm="ortho", overwrite_x=True)
    along /= deviation
    noise[...] = idctn(along, axes=(1, 2), norm="ortho", overwrite_x=True)


def _weight(like: Float) -> Float:
    """Power of waves along the slices, by its mean at the same wave in plane."""
    from scipy.fft import dctn
    from scipy.ndimage import gaussian_filter

    power = np.square(dctn(like, norm="ortho"))
    bins = [share * side for share, side in zip(SMOOTHING, like.shape, strict=True)]
    power = gaussian_filter(power, bins, mode="nearest") + np.float32(_LEAST_POWER)
    power /= power.mean(axis=0, keepdims=True)
    made: Float = power
    return made

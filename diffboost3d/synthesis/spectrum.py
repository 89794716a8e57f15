"""The scanner's hand: noise and sharpness of a synthetic volume are brought to those of its real one.

A generator learns the mean texture of its training cases. A case's own (how far its k-space was filled, how it was interpolated,
how strong its noise is) shows in its power spectrum, along the slice axis too, where slices are sampled one by one. A filter
without phase takes the synthetic volume's spectrum there: every structure stays in its place.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]

SMOOTHING = (
    2.5  # bins (standard deviation); spectra are compared, not the single waves, which are the anatomy of the case
)
STRONGEST = 4.0  # amplitudes change by this factor at most
FREE_BELOW, FULL_FROM = 0.15, 0.3  # of the Nyquist frequency: what is slower is anatomy and shading, and is left alone
_LEAST_POWER = 1e-6
_EMPTY = 0.02  # of a range of 2


def with_spectrum_of(synthetic: Float, real: Float, share: float = 1.0) -> Float:
    """The synthetic volume (I, J, K) in [-1, 1] with the fine part of its power spectrum brought to that of the real one.

    Each wave of the cosine transform (mirrored at the borders, so that nothing wraps round) is scaled by (P_real / P_synthetic) ^
    (share / 2), with both powers smoothed over neighbouring frequencies. Where both volumes are empty
    (-1: air, a mask) nothing changes.

    Args:
        share: 0 leaves the volume as it is, 1 takes all of the real one's spectrum.

    Raises:
        ValueError: differing shapes.
    """
    from scipy.fft import dctn, idctn

    if synthetic.shape != real.shape:
        raise ValueError(f"differing shapes: synthetic {synthetic.shape}, real {real.shape}")
    if not share:
        return synthetic
    waves, wanted = (dctn(volume.astype(np.float64), norm="ortho") for volume in (synthetic, real))
    gain = np.sqrt(_smoothed_power(wanted) / _smoothed_power(waves)).clip(1 / STRONGEST, STRONGEST)
    matched = idctn(waves * gain ** (share * _freedom(synthetic.shape)), norm="ortho")
    floor = (real <= -1.0) & (synthetic <= -1.0 + _EMPTY)  # cut off or masked in both: a filter would ring there
    return np.clip(np.where(floor, synthetic, matched), -1.0, 1.0).astype(np.float32)


def _smoothed_power(waves: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.ndimage import gaussian_filter

    smoothed: NDArray[np.float64] = gaussian_filter(waves**2, SMOOTHING, mode="nearest") + _LEAST_POWER
    return smoothed


def _freedom(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """0 for slow waves, 1 for fine ones, with a ramp between; of the waves' frequencies in shares of the Nyquist frequency."""
    axes = [np.arange(size) / size for size in shape]
    frequency = np.sqrt(sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij")))
    ramp: NDArray[np.float64] = np.clip((frequency - FREE_BELOW) / (FULL_FROM - FREE_BELOW), 0.0, 1.0)
    return ramp

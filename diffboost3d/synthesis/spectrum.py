"""The scanner's hand: noise and sharpness of a synthetic volume are brought to those of its real one.

A generator learns the mean texture of its training cases. A case's own (how far its k-space was filled, how it was interpolated,
how strong its noise is) shows in its power spectrum, along the slice axis too, where slices are sampled one by one. A filter
without phase takes the synthetic volume's spectrum there: every structure stays in its place.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from diffboost3d.imaging.scratch import IN_MEMORY, Scratch

Float = NDArray[np.float32]

SMOOTHING = (
    2.5  # bins (standard deviation); spectra are compared, not the single waves, which are the anatomy of the case
)
STRONGEST = 4.0  # amplitudes change by this factor at most
FREE_BELOW, FULL_FROM = 0.15, 0.3  # of the Nyquist frequency: what is slower is anatomy and shading, and is left alone
_LEAST_POWER = 1e-6
_EMPTY = 0.02  # of a range of 2


def with_spectrum_of(
    synthetic: Float, real: Float, share: float = 1.0, in_place: bool = False, scratch: Scratch = IN_MEMORY
) -> Float:
    """The synthetic volume (I, J, K) in [-1, 1] with the fine part of its power spectrum brought to that of the real one.

    Each wave of the cosine transform (mirrored at the borders, so that nothing wraps round) is scaled by (P_real / P_synthetic) ^
    (share / 2), with both powers smoothed over neighbouring frequencies. Where both volumes are empty
    (-1: air, a mask) nothing changes. Two further arrays of that size are held meanwhile.

    Args:
        share: 0 leaves the volume as it is, 1 takes all of the real one's spectrum.
        in_place: the result may take the place of `synthetic`, which spares a third one.
        scratch: makes those arrays.

    Raises:
        ValueError: differing shapes.
    """
    if synthetic.shape != real.shape:
        raise ValueError(f"differing shapes: synthetic {synthetic.shape}, real {real.shape}")
    if not share:
        return synthetic
    floor = (real <= -1.0) & (synthetic <= -1.0 + _EMPTY)  # cut off or masked in both: a filter would ring there
    at_floor = synthetic[floor]
    gain = _smoothed_power(_transformed(scratch.copy(real)))
    waves = _transformed(synthetic if in_place else scratch.copy(synthetic))
    gain /= _smoothed_power(scratch.copy(waves))
    for plane, freedom in zip(gain, _freedom(gain.shape), strict=True):
        np.sqrt(plane, out=plane)
        np.clip(plane, 1 / STRONGEST, STRONGEST, out=plane)
        np.power(plane, share * freedom, out=plane)
    waves *= gain
    matched = _transformed(waves, back=True)
    matched[floor] = at_floor
    np.clip(matched, -1.0, 1.0, out=matched)
    return matched


def _transformed(volume: Float, back: bool = False) -> Float:
    """The orthonormal cosine transform, or its inverse; takes the place of `volume` where that is contiguous."""
    from scipy.fft import dctn, idctn

    transform = idctn if back else dctn
    made: Float = transform(volume, norm="ortho", overwrite_x=True)
    return made


def _smoothed_power(waves: Float) -> Float:
    """Takes the place of `waves`."""
    from scipy.ndimage import gaussian_filter1d

    np.square(waves, out=waves)
    for axis in range(waves.ndim):
        gaussian_filter1d(waves, SMOOTHING, axis, output=waves, mode="nearest")
    waves += np.float32(_LEAST_POWER)
    return waves


def _freedom(shape: tuple[int, ...]) -> Iterator[Float]:
    """0 for slow waves, 1 for fine ones, with a ramp between, plane by plane (J, K) along i.

    Of the waves' frequencies in shares of the Nyquist frequency.
    """
    i, j, k = ((np.arange(size) / size) ** 2 for size in shape)
    in_plane = j[:, None] + k
    for along in i:
        frequency = np.sqrt(along + in_plane)
        yield np.clip((frequency - FREE_BELOW) / (FULL_FROM - FREE_BELOW), 0.0, 1.0).astype(np.float32)

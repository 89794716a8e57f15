"""The scanner's hand: noise and sharpness of a synthetic volume are brought to those of its real one.

A generator learns the mean texture of its training cases. A case's own (how far its k-space was filled, how it was interpolated,
how strong its noise is) shows in its power spectrum, along the slice axis too, where slices are sampled one by one. A filter
without phase takes the synthetic volume's spectrum there: every structure stays in its place.

A generator that diffuses blocks of 2 x 2 voxels (the `haar` and `pixel` codecs) also leaves a grid: detail inside the blocks
does not quite fit to that between them. In the spectrum that shows as waves k and N - k that go together, which those of real
noise don't. The filter takes such bonds to those of the real volume too; power alone, raised by the same factor inside and
between blocks, would bring the grid out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffboost3d.imaging.scratch import IN_MEMORY, Scratch

Float = NDArray[np.float32]
Bonds = dict[tuple[int, int], Float]

SMOOTHING = (
    2.5  # bins (standard deviation); spectra are compared, not the single waves, which are the anatomy of the case
)
ROUNDS = 2  # powers that fall steeply are not yet right after one: smoothing spills them to their neighbours
STRONGEST = 4.0  # amplitudes change by this factor at most
FREE_BELOW, FULL_FROM = 0.15, 0.3  # of the Nyquist frequency: what is slower is anatomy and shading, and is left alone
SLOW_RAMP = 1.5  # waves shorter than slow_mm by this factor are the generator's own; between, both have a part
RIDGE = 0.02  # bonds are taken as weaker by this share, so that they are never perfect
_LEAST_POWER = 1e-6
_EMPTY = 0.02  # of a range of 2


def with_spectrum_of(
    synthetic: Float,
    real: Float,
    share: float = 1.0,
    in_place: bool = False,
    scratch: Scratch = IN_MEMORY,
    block_axes: Sequence[int] = (),
    slow_mm: float = 0.0,
    spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
) -> Float:
    """The synthetic volume (I, J, K) in [-1, 1] with the fine part of its power spectrum brought to that of the real one.

    Each wave of the cosine transform (mirrored at the borders, so that nothing wraps round) is scaled so that the power, smoothed
    over neighbouring frequencies, becomes P_synthetic (P_real / P_synthetic) ^ share. Where both volumes are empty (-1: air, a
    mask) nothing changes.

    Args:
        share: 0 leaves the volume as it is, 1 takes all of the real one's spectrum.
        in_place: the result may take the place of `synthetic`, which spares an array of that size.
        scratch: makes the arrays of that size.
        block_axes: along which the generator works in blocks of two voxels, counted from the first; see `_rebind`.
        slow_mm: waves of this length and more are the real volume's; 0: none are.
        spacing_mm: of the voxels (I, J, K).

    Raises:
        ValueError: differing shapes.
    """
    if synthetic.shape != real.shape:
        raise ValueError(f"differing shapes: synthetic {synthetic.shape}, real {real.shape}")
    if not share and not slow_mm:
        return synthetic
    floor = (real <= -1.0) & (synthetic <= -1.0 + _EMPTY)  # cut off or masked in both: a filter would ring there
    at_floor = synthetic[floor]
    axes = [axis for axis in block_axes if synthetic.shape[axis] > 2]
    wanted = _waves(scratch.copy(real), axes, scratch)
    waves = _waves(synthetic if in_place else scratch.copy(synthetic), axes, scratch)
    if slow_mm:
        _take_slow(waves, wanted, axes, slow_mm, spacing_mm)
    if share:
        _match(waves, wanted, axes, share, scratch)
    matched = _volume(waves, axes, synthetic.shape, scratch)
    matched[floor] = at_floor
    np.clip(matched, -1.0, 1.0, out=matched)
    return matched


def _take_slow(waves: Float, real: Float, axes: Sequence[int], slow_mm: float, spacing_mm: Sequence[float]) -> None:
    """Waves of the real volume take the place of those of `slow_mm` and more; in place."""
    for own, other, frequency in zip(waves, real, _frequencies(waves.shape, axes, spacing_mm), strict=True):
        # a wave of frequency 1 (Nyquist, of voxels of 1 mm) is 2 mm long
        kept = np.clip((frequency * (slow_mm / 2) - 1.0) / (SLOW_RAMP - 1.0), 0.0, 1.0).astype(np.float32)
        own -= other
        own *= kept
        own += other


def _match(waves: Float, wanted: Float, axes: Sequence[int], share: float, scratch: Scratch) -> None:
    """Bring the waves' bonds and power to those of the real volume, in place; the real volume's waves are used up."""
    bonds = _wanted_bonds(waves, wanted, axes, share, scratch)
    _want_power(_smoothed_power(wanted), _smoothed_power(scratch.copy(waves)), axes, share)
    for _ in range(ROUNDS):
        _rebind(_partners(waves, axes), bonds, scratch)
        gain = _smoothed_power(scratch.copy(waves))
        np.divide(wanted, gain, out=gain)
        waves *= np.sqrt(gain, out=gain)


def _waves(volume: Float, axes: Sequence[int], scratch: Scratch) -> Float:
    """The orthonormal cosine transform; takes the place of `volume` where it is contiguous and no axis works in blocks.

    Along `axes` the volume is first brought to whole blocks, and an empty wave N is added, the partner of wave 0.
    """
    if not axes:
        return _transformed(volume)
    blocks = scratch.empty([side + side % 2 if axis in axes else side for axis, side in enumerate(volume.shape)])
    blocks[tuple(slice(side) for side in volume.shape)] = volume
    for axis, side in enumerate(volume.shape):
        if blocks.shape[axis] > side:
            moved = np.moveaxis(blocks, axis, 0)
            moved[side] = moved[side - 1]
    waves = scratch.empty([side + (axis in axes) for axis, side in enumerate(blocks.shape)])
    waves[...] = 0.0
    waves[tuple(slice(side) for side in blocks.shape)] = _transformed(blocks)
    return waves


def _volume(waves: Float, axes: Sequence[int], shape: Sequence[int], scratch: Scratch) -> Float:
    """Inverse of `_waves`."""
    if not axes:
        return _transformed(waves, back=True)
    whole = tuple(slice(side - (axis in axes)) for axis, side in enumerate(waves.shape))
    volume = _transformed(scratch.copy(waves[whole]), back=True)
    return scratch.copy(volume[tuple(slice(side) for side in shape)])


def _transformed(volume: Float, back: bool = False) -> Float:
    """The orthonormal cosine transform, or its inverse; takes the place of `volume` where that is contiguous."""
    from scipy.fft import dctn, idctn

    transform = idctn if back else dctn
    made: Float = transform(volume, norm="ortho", overwrite_x=True)
    return made


# --- power and bonds -------------------------------------------------------------------------------------------------
def _partners(waves: Float, axes: Sequence[int]) -> list[Float]:
    """Views of the waves that a grid of two voxels binds: k and N - k along each of `axes`, k below N / 2; slowest first."""
    views = []
    for flipped in itertools.product((False, True), repeat=len(axes)):
        cut = [slice(None)] * waves.ndim
        for axis, flip in zip(axes, flipped, strict=True):
            count = waves.shape[axis] - 1
            cut[axis] = slice(count, count // 2, -1) if flip else slice(0, count // 2)
        views.append(waves[tuple(cut)])
    return views


def _smoothed_power(waves: Float) -> Float:
    """Takes the place of `waves`."""
    np.square(waves, out=waves)
    _smoothed(waves)
    waves += np.float32(_LEAST_POWER)
    return waves


def _smoothed(values: Float) -> Float:
    """In place."""
    from scipy.ndimage import gaussian_filter1d

    for axis in range(values.ndim):
        gaussian_filter1d(values, SMOOTHING, axis, output=values, mode="nearest")
    return values


def _want_power(real: Float, own: Float, axes: Sequence[int], share: float) -> None:
    """The power that is wanted takes the place of that of the real volume."""
    for wanted, plane, freedom in zip(real, own, _freedom(real.shape, axes), strict=True):
        wanted /= plane
        np.clip(wanted, STRONGEST**-2, STRONGEST**2, out=wanted)
        np.power(wanted, share * freedom, out=wanted)
        wanted *= plane


def _wanted_bonds(own: Float, real: Float, axes: Sequence[int], share: float, scratch: Scratch) -> Bonds:
    """Between those of two volumes' waves. None without axes."""
    if not axes:
        return {}
    bonds = _bonds(_partners(real, axes), scratch)[0]
    if share < 1.0:
        for pair, bond in _bonds(_partners(own, axes), scratch)[0].items():
            bonds[pair] += (1.0 - share) * (bond - bonds[pair])
    return bonds


def _bonds(partners: Sequence[Float], scratch: Scratch) -> tuple[Bonds, list[Float]]:
    """Correlations of each pair of partners, and the amplitude of each partner, over neighbouring frequencies."""
    amplitudes = [_smoothed_power(scratch.copy(partner)) for partner in partners]
    for amplitude in amplitudes:
        np.sqrt(amplitude, out=amplitude)
    bonds: Bonds = {}
    for one, other in itertools.combinations(range(len(partners)), 2):
        bond = scratch.copy(partners[one])
        bond *= partners[other]
        _smoothed(bond)
        bond *= 1.0 - RIDGE
        bond /= amplitudes[one]
        bond /= amplitudes[other]
        bonds[one, other] = bond
    return bonds, amplitudes


def _rebind(partners: Sequence[Float], wanted: Bonds, scratch: Scratch) -> None:
    """Give partners the bonds that are wanted, in place; the power of each stays.

    Divided by their amplitudes, partners x have the correlations C = L L' (Cholesky); wanted are C_r = L_r L_r'. They become
    L_r L^-1 x: the slowest stays as it is, and each faster one loses what it shares with slower ones and gets what it should.
    """
    if not wanted:
        return
    bonds, amplitudes = _bonds(partners, scratch)
    for at in range(partners[0].shape[0]):  # plane by plane: the factors of a whole volume would be large
        own, target = (
            _cholesky({pair: bond[at] for pair, bond in one.items()}, len(partners)) for one in (bonds, wanted)
        )
        free: list[Float] = []  # L^-1 x
        for row, partner in enumerate(partners):
            shared = sum((own[row, column] * free[column] for column in range(row)), np.float32(0))
            free.append((partner[at] / amplitudes[row][at] - shared) / own[row, row])
        for row, partner in enumerate(partners):
            bound = sum((target[row, column] * free[column] for column in range(row + 1)), np.float32(0))
            partner[at] = amplitudes[row][at] * bound


def _cholesky(correlations: Bonds, size: int) -> Bonds:
    """Lower factors of many correlation matrices at once, (row, column) -> values; the input has what is above the diagonal."""
    factor: Bonds = {}
    for column, row in itertools.combinations_with_replacement(range(size), 2):
        known: Any = sum((factor[row, at] * factor[column, at] for at in range(column)), np.float32(0))
        if row == column:
            factor[row, row] = np.sqrt(np.maximum(np.float32(1) - known, np.float32(RIDGE**2)))
        else:
            factor[row, column] = (correlations[column, row] - known) / factor[column, column]
    return factor


def _freedom(shape: Sequence[int], axes: Sequence[int]) -> Iterator[Float]:
    """0 for slow waves, 1 for fine ones, with a ramp between, plane by plane (J, K) along i."""
    for frequency in _frequencies(shape, axes):
        yield np.clip((frequency - FREE_BELOW) / (FULL_FROM - FREE_BELOW), 0.0, 1.0).astype(np.float32)


def _frequencies(
    shape: Sequence[int], axes: Sequence[int], spacing_mm: Sequence[float] = (1.0, 1.0, 1.0)
) -> Iterator[NDArray[np.float64]]:
    """Of waves, in shares of the Nyquist frequency of voxels of 1 mm, plane by plane (J, K) along i.

    Along `axes` there is a wave more.
    """
    i, j, k = ((np.arange(size) / ((size - (axis in axes)) * spacing_mm[axis])) ** 2 for axis, size in enumerate(shape))
    in_plane = j[:, None] + k
    for along in i:
        yield np.sqrt(along + in_plane)

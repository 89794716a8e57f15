"""What of a scan lies outside the body or the field of view: constant filling, a mask's nothing, and in CT the air around."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def background(array: NDArray[Any], axis: int, air_below: float | None = None) -> Mask:
    """Voxels (I, J, K) that no scanner measured, or that are air around the body.

    Decided in each plane across `axis`, and only for what reaches that plane's border, so that lungs, bowel gas and holes in
    a mask are never background:

    - filling: connected voxels of one and the same value, with a block of 3 x 3 among them, that value being the commonest
      of such blocks at the borders of all planes. Noise, however dark, is not constant: it is part of the scan.
    - air: voxels below `air_below`.

    Args:
        array: (I, J, K), finite. axis: of the planes; axial ones for CT.
        air_below: in the unit of `array`; None: there is no such limit (MR, pictures).
    """
    planes = np.moveaxis(array, axis, 0)
    filling = _filling(planes)
    found = np.zeros(array.shape, bool)
    for plane, target in zip(planes, np.moveaxis(found, axis, 0), strict=True):
        if filling is not None:
            same = plane == filling
            target |= _reaching_the_border(same, same & _flat(plane))
        if air_below is not None:
            air = plane < air_below
            target |= _reaching_the_border(air, air)
    return found


def _filling(planes: NDArray[Any]) -> float | None:
    """The commonest value of flat blocks that touch the border of a plane, over all planes."""
    counts: Counter[float] = Counter()
    for plane in planes:
        values, numbers = np.unique(plane[_flat(plane) & _border(plane.shape)], return_counts=True)
        counts.update(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
    return counts.most_common(1)[0][0] if counts else None


def _flat(plane: NDArray[Any]) -> Mask:
    """Where the 3 x 3 around have one value; beyond the border the plane goes on as it ends."""
    from scipy.ndimage import maximum_filter, minimum_filter

    flat: Mask = maximum_filter(plane, 3, mode="nearest") == minimum_filter(plane, 3, mode="nearest")
    return flat


def _reaching_the_border(mask: Mask, seeds: Mask) -> Mask:
    """The connected parts (by sides) of a mask that touch the border and hold a seed."""
    from scipy.ndimage import label

    if not seeds.any():
        return seeds
    parts, _ = label(mask)
    touching = np.intersect1d(parts[_border(mask.shape) & mask], parts[seeds])
    reached: Mask = np.isin(parts, touching)
    return reached


def _border(shape: tuple[int, ...]) -> Mask:
    border = np.ones(shape, bool)
    border[1:-1, 1:-1] = False
    return border

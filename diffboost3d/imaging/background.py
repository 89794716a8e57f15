"""What of a scan no scanner measured: constant filling around a field of view, a mask's nothing. For CT, see `body` too."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def background(array: NDArray[Any], axis: int) -> Mask:
    """Voxels (I, J, K) of the filling, that no scanner measured.

    Decided in each plane across `axis`, and only for what reaches that plane's border, so that dark organs and holes in
    a mask are never background: connected voxels of one and the same value, with a block of 3 x 3 among them, that value being
    the commonest of such blocks at the borders of all planes. Noise, however dark, is not constant: it is part of the scan.

    Args:
        array: (I, J, K), finite. axis: of the planes; axial ones for CT.
    """
    planes = np.moveaxis(array, axis, 0)
    filling = _filling(planes)
    found = np.zeros(array.shape, bool)
    if filling is None:
        return found
    for plane, target in zip(planes, np.moveaxis(found, axis, 0), strict=True):
        same = plane == filling
        target |= reaching_the_border(same, same & _flat(plane))
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


def reaching_the_border(mask: Mask, seeds: Mask) -> Mask:
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

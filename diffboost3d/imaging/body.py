"""Where the patient is in a CT: everything else, the air around and the table, is no anatomy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffboost3d.imaging.background import reaching_the_border

Mask = NDArray[np.bool_]
LUNG_ABOVE = -900.0  # HU; the air around a patient is below it on average, lungs are above
PART_OF_A_BODY = 0.25  # of the largest part; legs are two parts of one body
PART_OF_A_LUNG = 0.01  # of the body


def outside_body(
    array: NDArray[Any],
    axis: int,
    spacing_mm: Sequence[float],
    air_below: float,
    thin_mm: float,
    lung_above: float | None = LUNG_ABOVE,
) -> Mask:
    """Voxels (I, J, K) of a CT that are not the patient.

    The body is the largest part of what is denser than air, after whatever is thin in its axial plane (the table's shells, a
    cloth, a tube) is taken off; further parts of at least a quarter of its size belong to it. All that it encloses in an axial
    plane is inside: lungs, bowel gas. So are lungs that the scan's border cuts open, if they are dense enough to tell from air.

    Args:
        array: (I, J, K) in HU, finite. axis: across axial planes. spacing_mm: along i, j, k.
        air_below: HU. thin_mm: what is thinner is not the body; 0: nothing is taken off.
        lung_above: mean HU from which air that reaches the border is lung; None: it never is, for images that a window cut off.

    Returns:
        All False where nothing is denser than air: a crop inside a lung has no outside.
    """
    planes = np.moveaxis(array, axis, 0)
    in_plane = [spacing for index, spacing in enumerate(spacing_mm) if index != axis]
    dense = planes >= air_below
    outside = np.zeros(array.shape, bool)
    if not dense.any():
        return outside
    body = _body(dense, in_plane, thin_mm)
    for part, target in zip(body, np.moveaxis(outside, axis, 0), strict=True):
        target[:] = reaching_the_border(~part, ~part)
    if lung_above is not None:
        outside &= ~_lungs(array, outside, air_below, lung_above, int(body.sum()))
    return outside


def _body(dense: Mask, in_plane: Sequence[float], thin_mm: float) -> Mask:
    """The large parts of a mask (planes, A, B) without what is thin in a plane and hangs on them."""
    core = np.stack([_deeper(plane, in_plane, thin_mm / 2) for plane in dense]) if thin_mm else dense
    if not core.any():
        return _large_parts(dense)
    core = _large_parts(core)
    if not thin_mm:
        return core
    reach = thin_mm / 2 + max(in_plane)  # back to the surface, which is a voxel off at most
    return np.stack([plane & ~_deeper(~of_core, in_plane, reach) for plane, of_core in zip(dense, core, strict=True)])


def _deeper(plane: Mask, spacing_mm: Sequence[float], distance_mm: float) -> Mask:
    """Pixels of a mask farther than that from all that is not in it; beyond the border the plane goes on as it ends."""
    from scipy.ndimage import distance_transform_edt

    if plane.all():
        return plane
    return np.asarray(distance_transform_edt(plane, sampling=spacing_mm) > distance_mm + 1e-6)


def _large_parts(mask: Mask) -> Mask:
    from scipy.ndimage import label

    parts, count = label(mask)
    # plane by plane: bincount makes int64 of what it counts
    sizes = sum((np.bincount(plane.ravel(), minlength=count + 1) for plane in parts), np.zeros(count + 1, int))
    sizes[0] = 0
    return _of_parts(parts, sizes >= PART_OF_A_BODY * sizes.max()) & mask


def _lungs(array: NDArray[Any], outside: Mask, air_below: float, lung_above: float, body: int) -> Mask:
    """Parts of the outside whose air is too dense to be air."""
    from scipy.ndimage import label

    parts, count = label(outside)
    voxels, sums = np.zeros(count + 1, int), np.zeros(count + 1)
    for plane, of_part, of_outside in zip(array, parts, outside, strict=True):
        air = of_outside & (plane < air_below)
        voxels += np.bincount(of_part[air], minlength=count + 1)
        sums += np.bincount(of_part[air], weights=plane[air], minlength=count + 1)
    lung = (sums > lung_above * voxels) & (voxels >= max(1.0, PART_OF_A_LUNG * body))
    lung[0] = False
    return _of_parts(parts, lung)


def _of_parts(parts: NDArray[np.int32], chosen: Mask) -> Mask:
    """The voxels of the chosen parts; plane by plane, since numpy makes int64 of what it looks up."""
    found = np.empty(parts.shape, bool)
    for plane, target in zip(parts, found, strict=True):
        target[...] = chosen[plane]
    return found

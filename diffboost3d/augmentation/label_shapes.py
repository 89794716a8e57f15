"""Shapes of labels: signed distances, shapes between two, and what must not change when a label is warped."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffboost3d.augmentation.warping import Float

Label = NDArray[np.uint8]


def signed_distance(mask: NDArray[np.bool_], spacing_mm: Sequence[float]) -> Float:
    """Distance in mm to the border of a mask, negative inside; half a voxel at both sides of it.

    An empty mask is far (the volume's diagonal) everywhere, a full one as far inside.
    """
    from scipy.ndimage import distance_transform_edt

    far = float(np.linalg.norm(np.asarray(mask.shape) * np.asarray(spacing_mm)))
    if not mask.any() or mask.all():
        return np.full(mask.shape, -far if mask.any() else far, np.float32)
    half = 0.5 * min((space for space, size in zip(spacing_mm, mask.shape, strict=True) if size > 1), default=1.0)
    outside = distance_transform_edt(~mask, spacing_mm) - half
    inside = distance_transform_edt(mask, spacing_mm) - half
    return np.asarray(np.where(mask, -inside, outside), dtype=np.float32)


def label_between(first: Label, second: Label, share: float, spacing_mm: Sequence[float]) -> Label:
    """The label a share of the way from `first` (0) to `second` (1), by interpolating each value's signed distance.

    A voxel gets the value, background included, in which it lies deepest (Raya and Udupa 1990, for several labels). The
    result is `first` at 0 and `second` at 1.
    """
    values = np.union1d(np.unique(first), np.unique(second))
    best = np.full(first.shape, np.inf, np.float32)
    found = np.zeros_like(first)
    for value in values:
        near = signed_distance(first == value, spacing_mm)
        far = signed_distance(second == value, spacing_mm)
        distance = ((1 - share) * near + share * far).astype(np.float32)
        found = np.where(distance < best, value, found).astype(np.uint8)
        best = np.minimum(best, distance)
    return found


def region_diameter(label: Label, spacing_mm: Sequence[float]) -> float:
    """Diameter in mm of the ball (disc in 2D) that has the volume of all labels; a quarter of the volume's where none is."""
    dims = 2 if label.shape[2] == 1 else 3
    voxel = float(np.prod(spacing_mm[:dims]))
    volume = float((label > 0).sum()) * voxel or label.size * voxel / 4**dims
    return 2 * math.sqrt(volume / math.pi) if dims == 2 else 2 * math.cbrt(volume * 3 / (4 * math.pi))


def centroid_mm(mask: NDArray[np.bool_], spacing_mm: Sequence[float]) -> NDArray[np.float64]:
    """Mean position in mm from the first voxel; the middle of the volume where the mask is empty."""
    places = np.argwhere(mask)
    middle = places.mean(axis=0) if len(places) else (np.asarray(mask.shape) - 1) / 2
    return np.asarray(middle * np.asarray(spacing_mm), dtype=np.float64)


def change_of_shape(before: Label, after: Label, volume_factors: Sequence[float]) -> str:
    """What became of a label that must not, in words; empty where nothing did.

    Each value's volume must stay within `volume_factors` of what it was, and a value of one piece must stay in one piece
    (connected by faces, edges or corners).
    """
    from scipy.ndimage import label as pieces_of

    low, high = volume_factors
    touching = np.ones((3, 3, 3), int)
    for value in np.unique(before[before > 0]):
        was, now = before == value, after == value
        factor = now.sum() / was.sum()
        if not low <= factor <= high:
            return f"label {value} would have {factor:.2f} times its volume"
        pieces = pieces_of(now, touching)[1]
        if pieces != 1 and pieces_of(was, touching)[1] == 1:
            return f"label {value} would fall into {pieces} pieces"
    return ""

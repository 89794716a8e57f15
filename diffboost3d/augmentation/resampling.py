"""batchgeneratorsv2's spatial transform, with labels reckoned only where several of them meet: the same bytes, sooner."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from torch.nn.functional import grid_sample, pad

# of shares before they are rounded to half precision, which makes near ties ties; as in batchgeneratorsv2
SCALE = 1000.0


class Movement(SpatialTransform):  # type: ignore[misc]
    """Rotation, scaling and elastic deformation; beyond the arrays lies label 0.

    The label of a voxel is that of the largest linearly read share; of equal ones the nearest voxel's, else the lowest.
    batchgeneratorsv2 reads the whole patch once for every label. But where a voxel and all its neighbours have one label, that
    is the one that linear reading finds between them, so shares are read about the borders of labels alone.
    """

    def _apply_to_segmentation(self, segmentation: torch.Tensor, **params: Any) -> torch.Tensor:
        """Labels (C, I, J, K), or (C, I, J), of whole numbers, at the places of the grid that was drawn."""
        grid = params["grid"]
        if grid is None:
            cropped: torch.Tensor = super()._apply_to_segmentation(segmentation, **params)
            return cropped
        box = _box_of(segmentation)
        inside = segmentation[box]
        mixed = _borders(inside)
        # label and border in one number, so that they are read at once
        code = torch.zeros(segmentation.shape)
        code[box] = inside.float().mul_(2).add_(mixed)
        read = grid_sample(code[None], grid[None], mode="nearest", align_corners=False)[0].int()
        nearest, unsettled = (read >> 1).to(segmentation.dtype), (read & 1).bool()
        beyond = self._may_reach_outside(grid, segmentation.shape[1:])
        for channel, places in enumerate(unsettled):
            if places.any():
                values = torch.unique(inside[channel][mixed[channel]])
                points = grid[places].reshape(*[1] * places.ndim, -1, places.ndim)
                label = segmentation[channel], box[1:]
                nearest[channel][places] = _largest(*label, values, points, nearest[channel][places], beyond)
        return nearest


def _box_of(labels: torch.Tensor) -> tuple[slice, ...]:
    """The smallest box of labels (C, ...), with all channels, that holds what isn't 0, and a voxel more on each side."""
    box: list[slice] = [slice(None)]
    present: Any = labels.numpy().any(0)
    for axis, size in enumerate(present.shape):
        found = np.flatnonzero(present.any(tuple(other for other in range(present.ndim) if other != axis)))
        box.append(slice(max(0, int(found[0]) - 1), min(size, int(found[-1]) + 2)) if len(found) else slice(0, 0))
    return tuple(box)


def _borders(labels: torch.Tensor) -> torch.Tensor:
    """Bool, of the shape (C, ...) of the labels: whether any of the neighbours, corners included, has another label."""
    low = high = pad(labels, [1, 1] * (labels.ndim - 1))
    for axis, size in enumerate(labels.shape[1:], start=1):
        low, high = (
            of(of(one.narrow(axis, 0, size), one.narrow(axis, 1, size)), one.narrow(axis, 2, size))
            for of, one in ((torch.minimum, low), (torch.maximum, high))
        )
    return low != high


def _largest(
    label: torch.Tensor,
    box: tuple[slice, ...],
    values: torch.Tensor,
    points: torch.Tensor,
    nearest: torch.Tensor,
    beyond: bool,
) -> torch.Tensor:
    """Of N points of a grid the label with the largest share, of equal ones the nearest voxel's, else the lowest.

    Args:
        label: (I, J, K) or (I, J); 0 outside the box. values: that it has about the points, in order. nearest: (N,).
        points: (1, ..., N, axes), as `grid_sample` takes them. beyond: whether points may be read from beyond the label.
    """
    if beyond:
        values = torch.unique(torch.cat([values, values.new_zeros(1)]))
    shares = torch.stack([_share(label, box, int(value), points, beyond) for value in values])
    largest, winner = shares.max(0)
    own = shares.gather(0, torch.searchsorted(values, nearest)[None])[0]
    return torch.where(own == largest, nearest, values[winner])


def _share(label: torch.Tensor, box: tuple[slice, ...], value: int, points: torch.Tensor, beyond: bool) -> torch.Tensor:
    """(N,): the linearly read share of one label, from 0 to SCALE, as half precision has it; beyond the array all is label 0."""
    outside = SCALE if beyond and value == 0 else 0.0  # grid_sample has 0 there
    there = torch.full(label.shape, (SCALE if value == 0 else 0.0) - outside)
    there[box] = (label[box] == value).float().mul_(SCALE).sub_(outside)
    read = grid_sample(there[None, None], points, mode="bilinear", align_corners=False)
    return read.flatten().add_(outside).half().float()

"""The edge operators of `prepare`, by name."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from diffboost3d.imaging.canny import canny_edges
from diffboost3d.imaging.edges import Float, soft_edges

if TYPE_CHECKING:
    from diffboost3d.imaging.hed import HedNetwork


def edge_map(
    image: Float,
    spacing_mm: Sequence[float],
    operator: str = "soft",
    *,
    sigmas_mm: Sequence[float] = (1.0, 2.0),
    quantile: float = 0.98,
    thin: bool = True,
    canny_sigma_mm: float = 1.0,
    canny_thresholds: Sequence[float] = (0.25, 0.5),
    hed: HedNetwork | None = None,
    hed_size: int = 384,
    slice_axis: int = 2,
    channels: str = "maximum",
) -> Float:
    """Edge strength in [0, 1], (I, J, K).

    Args:
        image: (I, J, K) in [-1, 1], or (C, I, J, K): the edges of each channel are joined.
        spacing_mm: voxel size along i, j, k.
        operator: "soft" (`soft_edges`), "canny" (`canny_edges`) or "hed" (`hed_edges`).
        sigmas_mm, thin: of "soft".
        quantile: of "soft" and "canny".
        canny_sigma_mm, canny_thresholds: of "canny".
        hed, hed_size, slice_axis: of "hed", which can't do without a network.
        channels: "maximum" of the channels' edges at each voxel, their "mean", or those of the "first" channel alone.

    Raises:
        ValueError: another operator, or "hed" without a network.
    """
    one_channel = partial(
        _of_one_channel,
        spacing_mm=spacing_mm,
        operator=operator,
        soft=(sigmas_mm, quantile, thin),
        canny=(canny_sigma_mm, quantile, canny_thresholds),
        hed=(hed, slice_axis, hed_size),
    )
    if image.ndim == 3:
        return one_channel(image)
    every = [one_channel(channel) for channel in (image[:1] if channels == "first" else image)]
    joined: Float = (np.mean if channels == "mean" else np.max)(every, axis=0).astype(np.float32)
    return joined


def _of_one_channel(
    image: Float, *, spacing_mm: Sequence[float], operator: str, soft: Any, canny: Any, hed: Any
) -> Float:
    """Edges of (I, J, K). soft, canny, hed: what these operators take behind the image and its spacing."""
    match operator:
        case "soft":
            return soft_edges(image, spacing_mm, *soft)
        case "canny":
            return canny_edges(image, spacing_mm, *canny)
        case "hed" if hed[0] is not None:
            from diffboost3d.imaging.hed import hed_edges

            return hed_edges(image, spacing_mm, *hed)
        case "hed":
            raise ValueError("the operator hed needs a network; load_hed reads one")
    raise ValueError(f"the edge operator {operator!r} is unknown; allowed: soft, canny, hed")

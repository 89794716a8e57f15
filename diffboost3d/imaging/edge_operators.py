"""The edge operators of `prepare`, by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

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
    if image.ndim == 4:
        wanted = image[:1] if channels == "first" else image
        every = [
            edge_map(
                one,
                spacing_mm,
                operator,
                sigmas_mm=sigmas_mm,
                quantile=quantile,
                thin=thin,
                canny_sigma_mm=canny_sigma_mm,
                canny_thresholds=canny_thresholds,
                hed=hed,
                hed_size=hed_size,
                slice_axis=slice_axis,
            )
            for one in wanted
        ]
        joined: Float = (np.mean if channels == "mean" else np.max)(every, axis=0).astype(np.float32)
        return joined
    match operator:
        case "soft":
            return soft_edges(image, spacing_mm, sigmas_mm, quantile, thin)
        case "canny":
            return canny_edges(image, spacing_mm, canny_sigma_mm, quantile, canny_thresholds)
        case "hed" if hed is not None:
            from diffboost3d.imaging.hed import hed_edges

            return hed_edges(image, spacing_mm, hed, slice_axis, hed_size)
        case "hed":
            raise ValueError("the operator hed needs a network; load_hed reads one")
    raise ValueError(f"the edge operator {operator!r} is unknown; allowed: soft, canny, hed")

"""The edge operators of `prepare`, by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

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
) -> Float:
    """Edge strength in [0, 1], (I, J, K) as `image`.

    Args:
        image: (I, J, K) in [-1, 1].
        spacing_mm: voxel size along i, j, k.
        operator: "soft" (`soft_edges`), "canny" (`canny_edges`) or "hed" (`hed_edges`).
        sigmas_mm, thin: of "soft".
        quantile: of "soft" and "canny".
        canny_sigma_mm, canny_thresholds: of "canny".
        hed, hed_size, slice_axis: of "hed", which can't do without a network.

    Raises:
        ValueError: another operator, or "hed" without a network.
    """
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

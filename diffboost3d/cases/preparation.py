"""How a file becomes what a network sees: grid, intensity map and resampling, the same for training cases and new ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffboost3d.imaging.geometry import Grid, resample
from diffboost3d.imaging.intensity import IntensityMap, fit_intensity_map


@dataclass(frozen=True)
class Preparation:
    """What `prepare` decided for all images of a data set.

    Attributes:
        spacing_mm: of prepared volumes along R, A, S; pictures (2D) keep their grid.
        intensity_kind: ct_window or percentiles, with the bounds of either in `window_hu` and `percentiles`.
        image_interpolation: linear or bspline.
        colour: "grey": colour pictures are read as their luminance; "refuse".
    """

    spacing_mm: tuple[float, float, float]
    intensity_kind: str
    window_hu: tuple[float, float]
    percentiles: tuple[float, float]
    image_interpolation: str
    colour: str = "grey"

    def grid(self, source: Grid) -> Grid:
        """The prepared grid of a file's grid: canonical, at the target spacing."""
        canonical = source.canonical()
        return canonical if canonical.spatial_dims == 2 else canonical.with_spacing(self.spacing_mm)

    def intensity(self, array: NDArray[Any]) -> IntensityMap:
        """The intensity map of a volume in the file's units. Raises ValueError for a constant one."""
        return fit_intensity_map(array, self.intensity_kind, self.window_hu, self.percentiles)

    def image(self, array: NDArray[Any], source: Grid, target: Grid, intensity: IntensityMap) -> NDArray[np.float32]:
        """A volume (I, J, K) in the file's units on `target`, float32 in [-1, 1]."""
        moved = resample(intensity.forward(array), source, target, self.image_interpolation)
        image: NDArray[np.float32] = np.clip(moved, -1.0, 1.0).astype(np.float32)
        return image

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Preparation:
        """From what JSON holds of it."""
        plain: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in value.items()}
        return cls(**plain)

"""How a file becomes what a network sees: grid, intensity map and resampling, the same for training cases and new ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffboost3d.imaging.bias_field import BiasFieldPlan, bias_field
from diffboost3d.imaging.channels import channels_of
from diffboost3d.imaging.geometry import Grid, resample
from diffboost3d.imaging.intensity import IntensityMap, fit_intensity_map


@dataclass(frozen=True)
class Preparation:
    """What `prepare` decided for all images of a data set.

    Attributes:
        spacing_mm: of prepared volumes along R, A, S; pictures (2D) take the first two where they are resampled.
        intensity_kind: ct_window or percentiles, with the bounds of either in `window_hu` and `percentiles`.
        image_interpolation: linear or bspline.
        colour: "grey": colour pictures are read as their luminance; "refuse".
        channel_kinds: of each image channel where there are several, in the place of `intensity_kind`.
        bias_field: how the shading of MR images is corrected; None: it is left.
        resampled: channels that lie on another grid than the first are moved to it; else they are refused.
        pictures_resampled: pictures (2D) are brought to `spacing_mm` too; else they keep their grid.
    """

    spacing_mm: tuple[float, float, float]
    intensity_kind: str
    window_hu: tuple[float, float]
    percentiles: tuple[float, float]
    image_interpolation: str
    colour: str = "grey"
    channel_kinds: tuple[str, ...] = ()
    bias_field: BiasFieldPlan | None = None
    resampled: bool = False
    pictures_resampled: bool = False

    @property
    def kinds(self) -> tuple[str, ...]:
        """The intensity kind of each channel."""
        return self.channel_kinds or (self.intensity_kind,)

    def facts(self) -> dict[str, Any]:
        """All of it as plain values; what is not used is left out, so that digests are those of versions without it."""
        plain = dataclasses.asdict(self)
        unused: dict[str, Any] = {"colour": "grey", "channel_kinds": (), "bias_field": None}
        unused |= {"resampled": False, "pictures_resampled": False}
        return {name: one for name, one in plain.items() if name not in unused or one != unused[name]}

    def field(self, array: NDArray[Any], source: Grid) -> NDArray[np.float32] | None:
        """The shading of an image (I, J, K) or (C, I, J, K), as `array`; 1 in channels in HU. None: it is not corrected."""
        plan = self.bias_field
        if plan is None:
            return None
        fields = [
            np.ones(one.shape, np.float32) if kind == "ct_window" else bias_field(one, source, plan)
            for one, kind in zip(channels_of(array), self.kinds, strict=True)
        ]
        return fields[0] if array.ndim == 3 else np.stack(fields)

    def maps(self, array: NDArray[Any]) -> tuple[IntensityMap, ...]:
        """The intensity map of each channel of an image in the file's units. Raises ValueError for a constant one."""
        pairs = zip(channels_of(array), self.kinds, strict=True)
        return tuple(fit_intensity_map(one, kind, self.window_hu, self.percentiles) for one, kind in pairs)

    def grid(self, source: Grid) -> Grid:
        """The prepared grid of a file's grid: canonical, at the target spacing."""
        canonical = source.canonical()
        if canonical.spatial_dims == 3:
            return canonical.with_spacing(self.spacing_mm)
        if not self.pictures_resampled:
            return canonical
        return canonical.with_spacing((*self.spacing_mm[:2], canonical.spacing_mm[2]))

    def image(self, array: NDArray[Any], source: Grid, target: Grid, *maps: IntensityMap) -> NDArray[np.float32]:
        """An image (I, J, K) or (C, I, J, K) in the file's units on `target`, float32 in [-1, 1]; maps: of each channel."""
        channels = []
        for one, intensity in zip(channels_of(array), maps, strict=True):
            moved = resample(intensity.forward(one), source, target, self.image_interpolation)
            channels.append(np.clip(moved, -1.0, 1.0).astype(np.float32))
        return channels[0] if array.ndim == 3 else np.stack(channels)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Preparation:
        """From what JSON holds of it."""
        plain: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in value.items()}
        if told := plain.get("bias_field"):
            plain["bias_field"] = BiasFieldPlan(**{**told, "iterations": tuple(told["iterations"])})
        return cls(**plain)

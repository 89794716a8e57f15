"""Random smooth bodies as occupancy functions, so that their borders share voxels as in a scanner (partial volume)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Numbers = Sequence[float] | Float


def coordinates_mm(shape: Sequence[int], spacing_mm: Numbers) -> Float:
    """Voxel centres (3, I, J, K) in mm from the middle of the volume."""
    axes = [(np.arange(size) - (size - 1) / 2) * space for size, space in zip(shape, spacing_mm, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"))


@dataclass(frozen=True)
class Body:
    """A bumpy ellipsoid: centre and radii in mm, rotation (3, 3), waves of its surface."""

    centre_mm: tuple[float, float, float]
    radii_mm: tuple[float, float, float]
    rotation: tuple[tuple[float, ...], ...]
    waves: tuple[tuple[float, float, float, float], ...] = ()

    def occupancy(self, where_mm: Float, softness_mm: float = 0.8) -> Float:
        """Share of each voxel inside, in [0, 1], (I, J, K); 1/2 on the surface, falling over about `softness_mm`."""
        centred = where_mm - np.asarray(self.centre_mm)[:, None, None, None]
        radii = np.asarray(self.radii_mm)[:, None, None, None]
        local = np.einsum("ab,aijk->bijk", np.asarray(self.rotation), centred) / radii
        radius = np.sqrt((local**2).sum(axis=0))
        surface = np.ones_like(radius)
        for height, a, b, phase in self.waves:
            surface += height * np.sin(a * local[0] + b * local[1] + (a - b) * local[2] + phase)
        depth_mm = (surface - radius) * min(self.radii_mm)
        inside: Float = 1.0 / (1.0 + np.exp(np.clip(-4.0 * depth_mm / softness_mm, -60, 60)))
        return inside


def random_rotation(random: np.random.Generator, degrees: float) -> tuple[tuple[float, ...], ...]:
    """A rotation matrix of up to `degrees` about each axis."""
    from scipy.spatial.transform import Rotation

    matrix = Rotation.from_euler("xyz", random.uniform(-degrees, degrees, 3), degrees=True).as_matrix()
    return tuple(tuple(float(x) for x in row) for row in matrix)


def random_body(
    random: np.random.Generator,
    centre_mm: Numbers,
    shift_mm: float,
    radii_mm: Numbers,
    variation: float = 0.25,
    degrees: float = 25.0,
    bumps: float = 0.06,
) -> Body:
    """A body near `centre_mm` (moved by up to `shift_mm`), its radii varied by the share `variation`, turned and bumpy."""
    i, j, k = (float(x + random.uniform(-shift_mm, shift_mm)) for x in centre_mm)
    size = random.uniform(1 - variation / 2, 1 + variation / 2)
    a, b, c = (float(size * x * random.uniform(1 - variation, 1 + variation)) for x in radii_mm)
    waves = tuple(
        (float(random.uniform(0.3, 1) * bumps), float(random.uniform(1, 4)), float(random.uniform(1, 4)), float(phase))
        for phase in random.uniform(0, 2 * np.pi, 4)
    )
    return Body((i, j, k), (a, b, c), random_rotation(random, degrees), waves)


def smooth_field(
    random: np.random.Generator, shape: Sequence[int], scale_mm: float, spacing_mm: Sequence[float]
) -> Float:
    """A Gaussian random field (I, J, K) of zero mean and unit deviation with structures of about `scale_mm`."""
    from scipy.ndimage import gaussian_filter

    sigma = [scale_mm / space for space in spacing_mm]
    field: Float = gaussian_filter(random.standard_normal(tuple(shape)), sigma, mode="reflect")
    normal: Float = (field - field.mean()) / (field.std() + 1e-12)
    return normal

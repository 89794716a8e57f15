"""The slow shading of MR images by coils, found by N4 (Tustison et al. 2010, IEEE TMI 29(6):1310-1320) of SimpleITK."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffboost3d.imaging.geometry import Grid, to_sitk

STEPS = 4096  # a field is kept in this fraction, which packs well and is far below noise


@dataclass(frozen=True)
class BiasFieldPlan:
    """How N4 is run; see `prepare.n4` of the configuration.

    Attributes:
        mask: where it looks: otsu (brighter than Otsu's threshold) or positive (all voxels above 0).
        shrink: the image is made coarser by this factor along axes that are long enough.
        iterations: at each level, of which each has twice the control points of the one before.
        control_points: along each axis at the first level.
        threshold: of convergence. fwhm, noise: of the deconvolution of the histogram.
    """

    mask: str = "otsu"
    shrink: int = 4
    iterations: tuple[int, ...] = (50, 50, 50, 50)
    control_points: int = 4
    threshold: float = 0.001
    fwhm: float = 0.15
    noise: float = 0.01


def bias_field(array: NDArray[Any], grid: Grid, plan: BiasFieldPlan) -> NDArray[np.float32]:
    """The field (I, J, K) by which a scanner multiplied the true image; dividing by it corrects. About 1, above 0 everywhere.

    It is 1 where N4 has nothing to look at. One thread, so that the same image gives the same bytes.
    """
    import SimpleITK as sitk  # noqa: N813

    seen = array > (_otsu(array) if plan.mask == "otsu" else 0)
    seen &= array > 0  # N4 takes logarithms
    if seen.sum() < 2 or array[seen].min() == array[seen].max():
        return np.ones(array.shape, np.float32)
    flat = [axis for axis, side in enumerate(array.shape) if side == 1]
    image, mask = to_sitk(array.astype(np.float32), grid), to_sitk(seen.astype(np.uint8), grid)
    if flat == [2]:  # a picture
        image, mask = image[:, :, 0], mask[:, :, 0]
    factors = [max(1, min(plan.shrink, side // (2 * plan.control_points))) for side in image.GetSize()]
    corrector = sitk.N4BiasFieldCorrectionImageFilter()
    corrector.SetNumberOfThreads(1)
    corrector.SetMaximumNumberOfIterations(list(plan.iterations))
    corrector.SetNumberOfControlPoints([plan.control_points] * image.GetDimension())
    corrector.SetConvergenceThreshold(plan.threshold)
    corrector.SetBiasFieldFullWidthAtHalfMaximum(plan.fwhm)
    corrector.SetWienerFilterNoise(plan.noise)
    corrector.Execute(sitk.Shrink(image, factors), sitk.Shrink(mask, factors))
    log_field = sitk.GetArrayFromImage(corrector.GetLogBiasFieldAsImage(image)).T.reshape(array.shape)
    field = np.exp(log_field.astype(np.float64))
    kept: NDArray[np.float32] = (np.maximum(np.round(field * STEPS), 1) / STEPS).astype(np.float32)
    return kept


def _otsu(array: NDArray[Any]) -> float:
    """Otsu's threshold of the values."""
    import SimpleITK as sitk  # noqa: N813

    found = sitk.OtsuThresholdImageFilter()
    found.Execute(sitk.GetImageFromArray(array.astype(np.float32)))
    return float(found.GetThreshold())

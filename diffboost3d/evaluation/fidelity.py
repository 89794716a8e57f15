"""How synthetic images compare with real ones: intensities, spectra, edges, contrast, diversity, and feature distances.

All but the last need no weights. Arrays are slices (I, J) or volumes (I, J, K); a length of 1 along an axis (2D) is
fine. What each number says, and what it doesn't, stands in `docs/explanation/fidelity.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffboost3d.errors import ConfigError, DataError

Array = NDArray[Any]
Float = NDArray[np.float32]
Double = NDArray[np.float64]
FeatureNetwork = Callable[[Float], Double]

_LEAST_POWER = 1e-12  # so that a constant image has a logarithm
_IMAGES_AT_ONCE = 16
_LEAST_CONTRAST = 0.01  # of a range of 2
_LEAST_SPREAD = 0.01  # standard deviation, of a range of 2


@dataclass(frozen=True)
class Spectrum:
    """Radially averaged power: `frequencies` (F,) in cycles/mm, and `log_power` (F,), log10 of intensity squared."""

    frequencies: Double
    log_power: Double


@dataclass(frozen=True)
class EdgeAgreement:
    """Share of control edges found in the sample (`recall`) and of the sample's edges in the control (`precision`)."""

    recall: float
    precision: float

    @property
    def f1(self) -> float:
        """Harmonic mean of both; 0 where one is 0."""
        total = self.recall + self.precision
        return 2 * self.recall * self.precision / total if total else 0.0


def label_histogram_distance(
    real: Array, synthetic: Array, label: NDArray[Any], values: Sequence[int]
) -> dict[int, float]:
    """Wasserstein-1 distance between real and synthetic intensities inside each label: `{label value: distance}`.

    In units of intensity: a synthetic image that is brighter by 3 everywhere has the distance 3. Where the voxels lie
    doesn't matter. Labels without a voxel are left out. Raises ValueError for differing shapes.
    """
    from scipy.stats import wasserstein_distance

    _same_shape(real=real, synthetic=synthetic, label=label)
    inside = {value: label == value for value in values}
    return {
        value: float(wasserstein_distance(real[mask], synthetic[mask])) for value, mask in inside.items() if mask.any()
    }


def radial_power_spectrum(image: Array, spacing_mm: Sequence[float]) -> Spectrum:
    """Power of `image` by frequency, averaged over all directions; mean removed, Hann window along each axis.

    Bins are as wide as the frequency step of the shortest axis (in mm) and end at the lowest Nyquist frequency, so with
    anisotropic voxels the finest in-plane detail isn't in it; pass slices for that. Divided by the window's power,
    white noise of variance v has the power v at all frequencies. Raises ValueError for an image whose
    axes don't match the spacings, or without an axis of four voxels.
    """
    if len(spacing_mm) != image.ndim or min(spacing_mm) <= 0:
        raise ValueError(f"an image of shape {image.shape} needs as many positive spacings, got {tuple(spacing_mm)}")
    spacing = [space for space, size in zip(spacing_mm, image.shape, strict=True) if size > 1]
    pixels = image.astype(np.float64).squeeze()
    if not spacing or min(pixels.shape) < 4:
        raise ValueError(f"a spectrum needs four voxels or more along each axis, got {image.shape}")
    window = _hann(pixels.shape)
    weighted = (pixels - (pixels * window).sum() / window.sum()) * window
    power = np.abs(np.fft.fftn(weighted)) ** 2 / (window**2).sum()
    axes = [np.fft.fftfreq(size, space) for size, space in zip(pixels.shape, spacing, strict=True)]
    radius = np.sqrt(sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij")))
    step = max(1 / (size * space) for size, space in zip(pixels.shape, spacing, strict=True))
    bins = int(1 / (2 * max(spacing)) / step + 1e-9)
    number = np.rint(radius / step).astype(int).ravel()
    mean = np.bincount(number, power.ravel())[1 : bins + 1] / np.bincount(number)[1 : bins + 1]
    return Spectrum(step * np.arange(1, bins + 1), np.log10(mean + _LEAST_POWER))


def spectrum_distance(real: Array, synthetic: Array, spacing_mm: Sequence[float]) -> float:
    """Mean absolute difference of log10 power over the bins of `radial_power_spectrum`: 1 is a factor of ten.

    0 for images with the same spectrum, which needn't be the same image. Raises ValueError for differing shapes.
    """
    _same_shape(real=real, synthetic=synthetic)
    first, second = (radial_power_spectrum(image, spacing_mm).log_power for image in (real, synthetic))
    return float(np.abs(first - second).mean())


def slice_spectrum_distance(
    real: Array, synthetic: Array, spacing_mm: Sequence[float], axis: int, every: int = 4
) -> float:
    """Mean `spectrum_distance` of volumes (I, J, K) in [-1, 1] over every n-th slice across `axis`.

    Slices that are empty in one of them are left out: the logarithm of next to nothing would outweigh all others. NaN where none
    is left, or where slices have a side below four voxels.
    """
    in_plane = [space for index, space in enumerate(spacing_mm) if index != axis]
    slices = [np.moveaxis(volume, axis, 0)[::every] for volume in (real, synthetic)]
    if min(slices[0].shape[1:]) < 4:
        return float("nan")
    pairs = [pair for pair in zip(*slices, strict=True) if min(pair[0].std(), pair[1].std()) >= _LEAST_SPREAD]
    return float(np.mean([spectrum_distance(one, other, in_plane) for one, other in pairs])) if pairs else float("nan")


def edge_agreement(
    control_edges: Array, sample_edges: Array, threshold: float, tolerance_voxels: float = 1
) -> EdgeAgreement:
    """How well the edges of a sample follow the edges it was made from; a voxel is an edge from `threshold` on.

    An edge is found where the other image has one at most `tolerance_voxels` away (Euclidean distance: 1 is the voxel itself and
    its face neighbours). Without control edges nothing is missed and the recall is 1; without edges in the sample
    nothing is invented and the precision is 1.

    Raises ValueError for differing shapes or a negative tolerance.
    """
    _same_shape(control=control_edges, sample=sample_edges)
    if tolerance_voxels < 0:
        raise ValueError(f"the tolerance must be 0 voxels or more, got {tolerance_voxels}")
    control, sample = control_edges >= threshold, sample_edges >= threshold
    near_control, near_sample = _within(control, tolerance_voxels), _within(sample, tolerance_voxels)
    return EdgeAgreement(
        recall=float(near_sample[control].mean()) if control.any() else 1.0,
        precision=float(near_control[sample].mean()) if sample.any() else 1.0,
    )


def boundary_contrast(image: Array, label: NDArray[Any], values: Sequence[int], width: int = 1) -> dict[int, float]:
    """Mean intensity just inside minus just outside each label: `{label value: contrast}`, in units of intensity.

    Both sides are the voxels within `width` voxels of the border along every axis (Chebyshev). Signed, so that a dark
    organ turned bright shows; where a border is brighter on one part and darker on another, the parts cancel. Labels that
    are absent or fill the image are left out. Raises ValueError for differing shapes or a width below 1.
    """
    from scipy.ndimage import maximum_filter

    _same_shape(image=image, label=label)
    if width < 1:
        raise ValueError(f"the width must be 1 voxel or more, got {width}")
    contrast = {}
    for value in values:
        mask = label == value
        if mask.any() and not mask.all():
            near_mask, near_rest = (
                maximum_filter(part.astype(np.uint8), size=2 * width + 1, mode="constant") > 0 for part in (mask, ~mask)
            )
            inside, outside = image[mask & near_rest], image[~mask & near_mask]
            contrast[value] = float(inside.mean(dtype=np.float64) - outside.mean(dtype=np.float64))
    return contrast


def contrast_ratio(real: Array, synthetic: Array, label: NDArray[Any], values: Sequence[int]) -> dict[int, float]:
    """`boundary_contrast` of the synthetic image by that of the real one, in [-1, 1]; `{label value: ratio}`, 1 is best.

    A label that hardly stands out in the real image is left out: the ratio to next to nothing says nothing.
    """
    of_real, of_synthetic = (boundary_contrast(image, label, values) for image in (real, synthetic))
    return {value: of_synthetic[value] / one for value, one in of_real.items() if abs(one) >= _LEAST_CONTRAST}


def diversity(samples: Array) -> float:
    """Mean root mean square difference over all pairs of `samples` (K, ...) that were drawn for one edge map.

    In units of intensity; 0 for equal samples. Raises ValueError for fewer than two.
    """
    if len(samples) < 2:
        raise ValueError(f"diversity needs two samples or more, got {len(samples)}")
    pairs = combinations(np.asarray(samples, np.float64), 2)
    return float(np.mean([np.sqrt(((first - second) ** 2).mean()) for first, second in pairs]))


def frechet_distance(features_a: Array, features_b: Array) -> float:
    """Fréchet distance between Gaussians fitted to features (N, D) and (M, D): the FID of arXiv:1706.08500.

    |mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)), with A and B the covariances. Biased upwards for few images, so compare it
    at equal N only; with N not well above D it is mostly bias. Raises ValueError for unfit features.
    """
    first, second = _features(features_a, features_b)
    covariance_a, covariance_b = (np.atleast_2d(np.cov(features, rowvar=False)) for features in (first, second))
    root = _square_root(covariance_a)
    # (A B)^(1/2) and the symmetric (A^(1/2) B A^(1/2))^(1/2) have one trace; the latter has no complex rounding
    shared = np.sqrt(np.clip(np.linalg.eigvalsh(root @ covariance_b @ root), 0, None)).sum()
    shift = ((first.mean(axis=0) - second.mean(axis=0)) ** 2).sum()
    return float(max(0.0, shift + np.trace(covariance_a) + np.trace(covariance_b) - 2 * shared))


def kernel_distance(features_a: Array, features_b: Array) -> float:
    """Squared maximum mean discrepancy between features (N, D) and (M, D): the KID of arXiv:1801.01401.

    Unbiased, with the kernel (x y / D + 1)^3, so 0 is expected for equal distributions at any N and small negative values
    occur. Raises ValueError for unfit features.
    """
    first, second = _features(features_a, features_b)
    between = _cubic(first, second).mean()
    return float(_mean_off_diagonal(_cubic(first, first)) + _mean_off_diagonal(_cubic(second, second)) - 2 * between)


def load_feature_network(path: str | Path) -> FeatureNetwork:
    """Read a feature network from an ONNX file: a function of images (N, C, ...) that returns features (N, D).

    ONNX, since such a file holds a graph and numbers and no code that is run on reading. No network comes with this
    package: features of photographs (Inception) say little about medical images, so it is the user's choice. The
    images must have the channels and the scaling that the network was trained with; its batch axis must be free. The
    first output is used; axes after the second are averaged.

    Raises:
        ConfigError: onnxruntime isn't installed, or the file isn't an `.onnx` file with one input.
        DataError: the file can't be read.
    """
    path = Path(path)
    if path.suffix != ".onnx":
        raise ConfigError(f"{path}: a feature network must be an .onnx file; convert it by torch.onnx.export")
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    try:
        import onnxruntime
    except ImportError:
        raise ConfigError("feature networks need onnxruntime: pip install onnxruntime") from None
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has many classes of errors, without a common base of its own
        raise DataError(f"{path}: onnxruntime can't read it: {str(error).splitlines()[0]}") from error
    if len(session.get_inputs()) != 1:
        raise ConfigError(f"{path}: a feature network has one input, this one has {len(session.get_inputs())}")
    name, output = session.get_inputs()[0].name, session.get_outputs()[0].name

    def features(images: Float) -> Double:
        starts = range(0, len(images), _IMAGES_AT_ONCE)
        parts = [images[start : start + _IMAGES_AT_ONCE].astype(np.float32, copy=False) for start in starts]
        maps = np.concatenate([session.run([output], {name: part})[0] for part in parts]).astype(np.float64)
        return np.asarray(maps.reshape(*maps.shape[:2], -1).mean(axis=2))

    return features


def _within(mask: NDArray[np.bool_], distance: float) -> NDArray[np.bool_]:
    """Where the nearest voxel of `mask` is at most `distance` voxels away."""
    from scipy.ndimage import distance_transform_edt

    near: NDArray[np.bool_] = distance_transform_edt(~mask) <= distance if mask.any() else mask
    return near


def _hann(shape: Sequence[int]) -> Double:
    """A Hann window of `shape`, positive in all voxels."""
    window = np.ones(tuple(shape))
    for axis, size in enumerate(shape):
        along = np.hanning(size + 2)[1:-1]
        window *= along.reshape([-1 if index == axis else 1 for index in range(len(shape))])
    return window


def _square_root(covariance: Double) -> Double:
    eigenvalues, vectors = np.linalg.eigh(covariance)
    root: Double = (vectors * np.sqrt(np.clip(eigenvalues, 0, None))) @ vectors.T
    return root


def _cubic(first: Double, second: Double) -> Double:
    return np.asarray((first @ second.T / first.shape[1] + 1) ** 3)


def _mean_off_diagonal(kernel: Double) -> float:
    return float((kernel.sum() - np.trace(kernel)) / (len(kernel) * (len(kernel) - 1)))


def _features(*sets: Array) -> list[Double]:
    shapes = [features.shape for features in sets]
    if any(len(shape) != 2 or shape[0] < 2 for shape in shapes) or len({shape[1] for shape in shapes}) != 1:
        raise ValueError(f"features must be (N, D) with one D and two images or more, got {shapes}")
    if not all(np.isfinite(features).all() for features in sets):
        raise ValueError("features must be finite")
    return [features.astype(np.float64) for features in sets]


def _same_shape(**arrays: Array) -> None:
    if len({array.shape for array in arrays.values()}) != 1:
        raise ValueError("differing shapes: " + ", ".join(f"{name} {a.shape}" for name, a in arrays.items()))

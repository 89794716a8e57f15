"""One 2D plane of any image file, for pools of single pictures and volumes: grey PNG and JPEG, NIfTI, NRRD, MetaImage, DICOM.

Far more lenient than `files`, which guards the geometry of a task: colour becomes grey, a film or volume gives one of
its planes. Of a NIfTI volume only that plane is read (of a compressed one, what comes before it is unpacked too).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffboost3d.errors import DataError
from diffboost3d.imaging.files import ENDINGS, VOLUME_ENDINGS, ending_of
from diffboost3d.imaging.geometry import Grid
from diffboost3d.imaging.itk import ITK_ENDINGS, read_header, read_itk, reason_of

DICOM_ENDINGS = (".dcm", ".dicom", ".ima")
PLANE_ENDINGS = ENDINGS + DICOM_ENDINGS
DEEP_MODES = ("F", "I", "I;16", "I;16B", "I;16L", "I;16N")  # of Pillow: more than 8 bits, which "L" would cut off
SMALLEST_SIDE = 16
LONGEST_RATIO = 8
MOST_PIXELS = 1 << 26  # 64 million; more is a file for a pathologist, and would not be read in constant memory
KEPT_PIXELS = 1 << 22  # more are averaged in blocks


@dataclass(frozen=True)
class Plane:
    """A plane in memory.

    Attributes:
        array: float32 (A, B); of a picture that is (width, height). Finite, both sides at least `SMALLEST_SIDE`.
        measured: in scanner units (NIfTI, DICOM), not grey values of a picture.
    """

    array: NDArray[np.float32]
    measured: bool


def is_plane_file(name: str) -> bool:
    """Whether a file name has an ending that `read_plane` knows."""
    return name.lower().endswith(PLANE_ENDINGS)


def read_plane(path: Path, where: float = 0.5) -> Plane:
    """Read one plane of a file.

    Args:
        where: in [0, 1); which plane of a volume (across its coarsest axis) or film. The outer tenths, often empty, are
            left out.

    Raises:
        DataError: the file can't be read, or its plane is too small, too long, too large or not finite.
    """
    measured = True
    try:
        if path.name.lower().endswith(DICOM_ENDINGS):
            array = _read_dicom(path, where)
        elif ending_of(path) in ITK_ENDINGS:
            array = _read_itk(path, where)
        elif ending_of(path) in VOLUME_ENDINGS:
            array = _read_nifti(path, where)
        else:
            array, measured = _read_picture(path, where), False
    except DataError:
        raise
    except Exception as error:  # a damaged file fails in any way its decoder can
        raise DataError(f"{path}: can't be read ({reason_of(error)})") from error
    _check_sides(path, array.shape)
    array = _averaged(array)
    if not np.isfinite(array).all():
        raise DataError(f"{path}: holds values that are not finite")
    return Plane(array, measured)


def _plane_number(count: int, where: float) -> int:
    return min(count - 1, int(count * (0.1 + 0.8 * where)))


def _check_sides(path: Path, sides: tuple[int, ...]) -> None:
    """Raises DataError where a plane of these sides is of no use, or of a size that no picture has."""
    short, long = min(sides), max(sides)
    if short < SMALLEST_SIDE or long > LONGEST_RATIO * short or short * long > MOST_PIXELS:
        raise DataError(
            f"{path}: {sides[0]} x {sides[1]} pixels; a plane needs {SMALLEST_SIDE} or more a side, at most "
            f"{LONGEST_RATIO} times as many on the other, and at most {MOST_PIXELS} in all"
        )


def _averaged(array: NDArray[Any]) -> NDArray[np.float32]:
    """As float32, with blocks averaged where there are more than `KEPT_PIXELS`, so that later steps stay small."""
    factor = math.ceil(math.sqrt(array.size / KEPT_PIXELS))
    if factor == 1:
        return np.ascontiguousarray(array, dtype=np.float32)
    a, b = (side // factor for side in array.shape)
    blocks = array[: a * factor, : b * factor].reshape(a, factor, b, factor)
    return np.ascontiguousarray(blocks.mean(axis=(1, 3), dtype=np.float32))


def _read_picture(path: Path, where: float) -> NDArray[Any]:
    """Grey values (width, height)."""
    from PIL import Image

    with Image.open(path) as picture:
        _check_sides(path, picture.size)  # known before anything is unpacked
        frames = getattr(picture, "n_frames", 1)
        if frames > 1:
            picture.seek(_plane_number(frames, where))
        return np.asarray(picture if picture.mode in DEEP_MODES else picture.convert("L")).T


def _read_nifti(path: Path, where: float) -> NDArray[Any]:
    """Values (A, B) of the plane across the coarsest axis; of a series in time, of its first volume."""
    import nibabel as nib

    image = nib.load(path)
    shape = image.shape
    if image.get_data_dtype().kind not in "iuf" or len(shape) < 2:
        raise DataError(f"{path}: {len(shape)}D voxels of type {image.get_data_dtype()} are no grey image")
    if len(shape) == 2:
        return np.asanyarray(image.dataobj)
    axis = Grid.of(shape[:3], image.affine).slice_axis
    at: list[int | slice] = [slice(None)] * 3 + [0] * (len(shape) - 3)
    at[axis] = _plane_number(shape[axis], where)
    return np.asanyarray(image.dataobj[tuple(at)])


def _read_itk(path: Path, where: float) -> NDArray[Any]:
    """Values (A, B) of the plane across the coarsest axis of an NRRD or MetaImage volume, which is read whole."""
    axis = read_header(path).grid.slice_axis
    array = read_itk(path)[0]
    plane: NDArray[Any] = array.take(_plane_number(array.shape[axis], where), axis=axis)
    return plane


def _read_dicom(path: Path, where: float) -> NDArray[Any]:
    """Values (A, B), rescaled as the header says; of a film one frame, of colours their mean."""
    import SimpleITK as sitk  # noqa: N813

    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    size, start = list(reader.GetSize()), [0] * reader.GetDimension()
    for axis in range(2, len(size)):
        start[axis] = _plane_number(size[axis], where) if axis == 2 else 0
        size[axis] = 1
    reader.SetExtractIndex(start)
    reader.SetExtractSize(size)
    image = reader.Execute()
    array = sitk.GetArrayFromImage(image)
    if image.GetNumberOfComponentsPerPixel() > 1:
        array = array.mean(axis=-1, dtype=np.float32)
    plane: NDArray[Any] = array.reshape(array.shape[-2:]).T
    return plane

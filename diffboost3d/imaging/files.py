"""Reading and writing images: NIfTI, NRRD and MetaImage volumes and 2D pictures, with a template's header, type and units.

DICOM series are read; what is written in their form is NIfTI (`dicom_segments` writes DICOM-SEG).

Arrays are (I, J, K) in the file's voxel order; a picture is (width, height, 1) on an identity affine.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diffboost3d.cases.atomic import replacing
from diffboost3d.errors import DataError
from diffboost3d.imaging.dicom import is_dicom, is_segmentation, series_of
from diffboost3d.imaging.geometry import Grid, settled
from diffboost3d.imaging.itk import ITK_ENDINGS, parts_of, read_header, read_itk, write_itk_like
from diffboost3d.imaging.scratch import IN_MEMORY, Scratch
from diffboost3d.imaging.slabs import SLAB, fitting, slabs_of, stored

if TYPE_CHECKING:
    from diffboost3d.imaging.pictures import Pixels

NIFTI_ENDINGS = (".nii.gz", ".nii")
VOLUME_ENDINGS = NIFTI_ENDINGS + ITK_ENDINGS
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
ENDINGS = VOLUME_ENDINGS + PICTURE_ENDINGS


@dataclass(frozen=True)
class Volume:
    """An image in memory: array (I, J, K) in the file's units, its grid, the type it has on disk.

    coloured: share of the pixels of a picture that had a colour; notes: what was done to it in reading, a line each.
    """

    array: NDArray[Any]
    grid: Grid
    dtype: str
    coloured: float = 0.0
    notes: tuple[str, ...] = ()


def ending_of(path: Path | str) -> str:
    """The known ending of a file name, or "" where it is none of `ENDINGS`."""
    name = str(path).lower()
    return next((ending for ending in ENDINGS if name.endswith(ending)), "")


def stem_of(path: Path | str) -> str:
    """The file name without its known ending."""
    name = Path(path).name
    return name[: len(name) - len(ending_of(name))] if ending_of(name) else name


def read(path: Path, channels: int = 1) -> Volume:
    """Read an image: a file, a folder that holds a DICOM series, or the DICOM series that a file is of.

    Args:
        channels: with several, the file must be a NIfTI of just so many volumes; the array is (C, I, J, K) then.

    Raises:
        DataError: missing, cut off, not an image, or of another number of dimensions or channels; a DICOM series that is
            incomplete, uneven, sheared or mixed with others.
    """
    if is_dicom(path):
        return _read_dicom(path)
    if not path.is_file():
        raise _absent(path)
    if ending_of(path) in NIFTI_ENDINGS:
        return _read_nifti(path, channels)
    if channels > 1:
        raise DataError(f"{path}: one channel in the file, but {channels} channels are named (data.channels)")
    if ending_of(path) in ITK_ENDINGS:
        array, header = read_itk(path)
        return Volume(array, header.grid, header.dtype)
    return _read_picture(path)


def _absent(path: Path) -> DataError:
    if path.is_symlink():
        return DataError(f"{path}: a link to {path.readlink()}, which is not there; copy that file, or mend the link")
    return DataError(f"{path}: no such file")


def _read_dicom(path: Path) -> Volume:
    from diffboost3d.imaging.dicom_pixels import read_series

    array, series = read_series(path)
    assert series.grid is not None  # a readable series has one
    return Volume(array, series.grid, str(array.dtype))


def files_of(path: Path) -> list[Path]:
    """The files that hold an image: of a DICOM series in the order of its slices, header and voxels where these lie apart."""
    alone = not is_dicom(path) or (path.is_file() and is_segmentation(path))
    return parts_of(path) if alone else list(series_of(path).files)


def _read_nifti(path: Path, channels: int) -> Volume:
    import nibabel as nib
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    try:
        image = nib.load(path)
        shape = image.shape
        there = int(np.prod(shape[3:]))
        if (there > 1 and channels == 1) or len(shape) < 2 or 0 in shape:
            more = f", or name its {there} channels (data.channels) if it is no series in time" if there > 1 else ""
            raise DataError(
                f"{path}: {len(shape)}D image of shape {'x'.join(map(str, shape))}; give one 3D volume a file{more}"
            )
        if there != channels:
            raise DataError(
                f"{path}: {there} volume{'s' * (there > 1)} of shape {'x'.join(map(str, shape[:3]))} in the file, but "
                f"{channels} channels are named (data.channels, dataset.json); a series in time is not read as channels"
            )
        if image.get_data_dtype().kind not in "iuf":
            raise DataError(f"{path}: voxels of type {image.get_data_dtype()}; convert it to one grey value a voxel")
        array = np.asanyarray(image.dataobj)
    except (
        ImageFileError,
        HeaderDataError,
        EOFError,
        MemoryError,
        OSError,
        OverflowError,
        zlib.error,
        ValueError,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: can't be read ({reason}); the file is damaged or no NIfTI") from error
    array = _channels_first(array.reshape((*(*shape, 1, 1)[:3], *([channels] if channels > 1 else []))))
    return Volume(array, _grid_of(image), str(image.get_data_dtype()))


def _channels_first(array: NDArray[Any]) -> NDArray[Any]:
    """(I, J, K) as it is; (I, J, K, C), as files have it, as (C, I, J, K)."""
    return array if array.ndim == 3 else np.ascontiguousarray(np.moveaxis(array, 3, 0))


def _grid_of(image: Any) -> Grid:
    """The grid of an image of nibabel."""
    return Grid.of((*image.shape, 1, 1)[:3], settled(image.affine, image.header["pixdim"][1:4]))


def read_grid(path: Path) -> Grid:
    """The grid of an image; of a volume only the header is read. Raises DataError as `read` does."""
    if is_dicom(path):
        grid = series_of(path).grid
        assert grid is not None  # a readable series has one
        return grid
    if not path.is_file():
        raise _absent(path)
    if ending_of(path) not in VOLUME_ENDINGS:
        return read(path).grid
    return read_header(path).grid if ending_of(path) in ITK_ENDINGS else _grid_of(_template(path))


def read_prepared(path: Path, scratch: Scratch = IN_MEMORY) -> NDArray[Any]:
    """The array (I, J, K) or (C, I, J, K) that `write_prepared` wrote; too large for memory, slab by slab into a file.

    Raises:
        DataError: as `read`.
    """
    if not path.is_file():
        raise _absent(path)
    image = _template(path)
    count = image.shape[3] if len(image.shape) > 3 else 1
    if scratch is IN_MEMORY or scratch.in_memory(image.shape):
        return read(path, count).array
    array = scratch.empty(image.shape[:3] if count == 1 else (count, *image.shape[:3]), image.get_data_dtype())
    for number in range(count):
        target = array if count == 1 else array[number]
        for first in range(0, target.shape[2], SLAB):
            part = np.s_[:, :, first : first + SLAB]
            target[part] = image.dataobj[part if count == 1 else (*part, number)]
    return array


def _read_picture(path: Path) -> Volume:
    from diffboost3d.imaging.pictures import read_picture

    return _of_pixels(read_picture(path))


def read_label(path: Path) -> Volume:
    """Read a label file as `read` does, but of a picture the values as they are stored, and no luminance.

    Raises:
        DataError: as `read`.
    """
    if ending_of(path) not in PICTURE_ENDINGS or not path.is_file():
        return read(path)
    from diffboost3d.imaging.pictures import read_mask

    return _of_pixels(read_mask(path))


def _of_pixels(pixels: Pixels) -> Volume:
    array = pixels.array
    return Volume(array, Grid.of(array.shape, np.eye(4)), str(array.dtype), pixels.coloured, pixels.notes)


def bytes_of(path: Path) -> int:
    """Size of an image's files."""
    return sum(part.stat().st_size for part in parts_of(path) if part.is_file())


def ending_like(path: Path | str) -> str:
    """Ending of what is written in the form of an image: PNG, without loss, for pictures, NIfTI for DICOM."""
    ending = ending_of(path)
    return ".png" if ending in PICTURE_ENDINGS else ending or ".nii.gz"


def synthetic_note(case: str, seed: int) -> str:
    """What the header of a synthetic NIfTI file says, which holds 79 bytes."""
    return f"synthetic: diffboost3d, seed {seed}, of case {case}"


def write_like(
    path: Path,
    array: NDArray[Any] | Iterable[NDArray[Any]],
    template: Path,
    note: str = "",
    volumes: int | None = None,
) -> None:
    """Write an array (I, J, K) with the header, affine, type and scaling of `template`, in its format; atomic.

    A volume is written as NIfTI, too, where the name of `path` says so; then the geometry of another format is taken over and
    nothing else of its header. Volumes are written slab by slab, pictures whole. Of `.mhd` and `.nhdr` the voxels, in a file
    of their own, are written before the header. Integers are rounded and clipped to the type's range.

    Args:
        array: or slabs (I, J, n) of it, in order along k, so that it need not be held whole. Of a template of several channels
            (4D) the slabs of the first channel, then those of the second, and so on.
        note: takes the place of NIfTI's description (what goes beyond 79 bytes is cut off), NRRD's content, MetaImage's comment.
        volumes: of the file (its channels), of NIfTI; None: as many as the template has.

    Raises:
        ValueError: another shape than the template's.
    """
    slabs = slabs_of(array) if isinstance(array, np.ndarray) else array
    if _is_itk(path, template):
        write_itk_like(path, slabs, template, note)
    elif ending_of(template) not in PICTURE_ENDINGS:
        _write_nifti_like(path, slabs, template, note, volumes=volumes)
    else:
        _write_picture(path, np.concatenate(list(slabs), axis=2), read(template).array.dtype)


def _is_itk(path: Path, template: Path) -> bool:
    """Whether it is written as NRRD or MetaImage: as the template is, but where NIfTI is asked for."""
    return ending_of(template) in ITK_ENDINGS and ending_of(path) not in NIFTI_ENDINGS


def _template(path: Path) -> Any:
    """The NIfTI image whose header is taken over; of DICOM and other formats one without voxels. Raises DataError."""
    if is_dicom(path):
        from diffboost3d.imaging.dicom_pixels import nifti_header_of

        return nifti_header_of(path)
    import nibabel as nib
    from nibabel.filebasedimages import ImageFileError

    if ending_of(path) in ITK_ENDINGS:
        header = read_header(path)
        empty = np.broadcast_to(np.zeros((), header.dtype), header.grid.shape)
        image = nib.Nifti1Image(empty, header.grid.matrix, dtype=header.dtype)
        image.set_sform(image.affine, code=1)
        image.set_qform(image.affine, code=1)
        image.header.set_xyzt_units("mm")
        return image
    try:
        return nib.load(path, keep_file_open=True)  # a packed file is then unpacked once, not anew for each part
    except (ImageFileError, EOFError, OSError, zlib.error, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: can't be read ({reason}); the file is damaged or no NIfTI") from error


def write_probability_like(path: Path, slabs: Iterable[NDArray[Any]], template: Path) -> None:
    """Write a probability map, given in slabs (I, J, n) along k, in the geometry of the image `template`; atomic.

    A volume as float32 (no format has float16), a picture in 16 bits, of which 65535 is 1.
    """
    if ending_of(template) not in PICTURE_ENDINGS:
        write_float_like(path, slabs, template)
    else:
        _write_picture(path, np.concatenate(list(slabs), axis=2) * np.iinfo(np.uint16).max, np.uint16)


def write_float_like(
    path: Path, slabs: Iterable[NDArray[Any]], template: Path, note: str = "", volumes: int = 1
) -> None:
    """Write float32 in the geometry of a volume, given in slabs (I, J, n) along k, volume after volume; atomic."""
    if _is_itk(path, template):
        write_itk_like(path, slabs, template, note, own_type=np.dtype(np.float32))
        return
    _write_nifti_like(path, slabs, template, note, np.dtype(np.float32), volumes)


def _write_nifti_like(
    path: Path,
    slabs: Iterable[NDArray[Any]],
    template: Path,
    note: str,
    own_type: np.dtype[Any] | None = None,
    volumes: int | None = None,
) -> None:
    """Header and voxels as nibabel writes them, which can't do it piece by piece.

    Args:
        own_type: written without scaling; None: type and scaling of the template.
        volumes: see `write_like`.
    """
    from nibabel.openers import ImageOpener
    from nibabel.volumeutils import seek_tell

    source = _template(template)
    dtype, slope, intercept = source.get_data_dtype(), *_scaling(source)
    image = type(source)(np.broadcast_to(np.zeros((), dtype), source.shape), None, source.header.copy())
    header = image.header
    if own_type is not None:
        dtype, slope, intercept = own_type.newbyteorder(header.endianness), 1.0, 0.0
        header.set_data_dtype(own_type)
        header["cal_min"], header["cal_max"] = 0, 0
    header.set_slope_inter(slope, intercept)  # the constructor forgets them
    if note:
        header["descrip"] = note.encode()[:79].decode(errors="ignore").encode()
    there = int(np.prod(source.shape[3:]))
    i, j, k = (*source.shape, 1, 1)[:3]
    if volumes is not None and volumes != there:
        header.set_data_shape((i, j, k, volumes) if volumes > 1 else _one_volume(source.shape))
    k *= volumes or there  # channels lie one after the other
    with replacing(path) as temporary, ImageOpener(str(temporary), "wb") as file:
        header.write_to(file)
        seek_tell(file, header.get_data_offset(), write0=True)
        for slab in fitting(slabs, (i, j, k)):
            file.write(stored(slab, dtype, slope, intercept).tobytes(order="F"))


def _scaling(image: Any) -> tuple[float, float]:
    """Slope and intercept of the voxels on disk; 1 and 0 where they are not on disk as NIfTI."""
    return (image.dataobj.slope, image.dataobj.inter) if hasattr(image.dataobj, "slope") else (1.0, 0.0)


def _one_volume(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a label or a map of an image of that shape: without its channels."""
    return shape[:3] if int(np.prod(shape[3:])) > 1 else shape


def _write_picture(path: Path, array: NDArray[Any], dtype: Any) -> None:
    from PIL import Image

    pixels = np.clip(np.round(array[:, :, 0]), 0, np.iinfo(dtype).max).astype(dtype).T
    with replacing(path) as temporary:
        Image.fromarray(np.ascontiguousarray(pixels)).save(temporary)


def write_label_like(path: Path, label: NDArray[Any], template: Path) -> None:
    """Write a label (I, J, K) in the geometry of the image `template`, in the smallest unsigned type; atomic."""
    dtype = np.uint8 if label.max(initial=0) < 256 else np.uint16
    if ending_of(template) in PICTURE_ENDINGS:
        return _write_picture(path, label, dtype)
    if _is_itk(path, template):
        return write_itk_like(path, slabs_of(label), template, own_type=np.dtype(dtype))
    import nibabel as nib

    source = _template(template)
    header = source.header.copy()
    header.set_data_dtype(dtype)
    header.set_slope_inter(1, 0)
    header["cal_min"], header["cal_max"] = 0, 0
    with replacing(path) as temporary:
        shape = _one_volume(source.shape)
        header.set_data_shape(shape)
        nib.save(type(source)(label.astype(dtype).reshape(shape), None, header), temporary)
    return None


def write_prepared(path: Path, array: NDArray[Any], grid: Grid) -> None:
    """Write an array (I, J, K) as NIfTI on `grid` in its own type (float32 or uint8); equal arrays give equal bytes.

    One of several channels (C, I, J, K) becomes a 4D file (I, J, K, C).
    """
    import nibabel as nib

    image = nib.Nifti1Image(array if array.ndim == 3 else np.moveaxis(array, 0, 3), grid.matrix)
    image.header.set_xyzt_units("mm")
    with replacing(path) as temporary:
        nib.save(image, temporary)

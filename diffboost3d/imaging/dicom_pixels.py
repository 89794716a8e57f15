"""Voxels of a DICOM series in the units that its header tells (HU for CT), in the order of its slices."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffboost3d.errors import DataError
from diffboost3d.imaging.dicom import Series, read_header, series_of


def read_series(path: Path) -> tuple[NDArray[Any], Series]:
    """The voxels (I, J, K) of the series that `series_of` finds: i along rows, j along columns, k along the slice normal.

    Each slice has its own rescale slope and intercept applied. The type is an integer one where all slopes are 1 and all
    intercepts whole numbers, else float32.

    Raises:
        DataError: as `series_of`; a slice that is cut off, or compressed in a way that needs a plugin.
    """
    series = series_of(path)
    assert series.grid is not None  # `series_of` gives readable ones
    dtype = np.dtype(series.dtype)
    array = np.empty(series.grid.shape, dtype, order="F")  # slice after slice
    for k, (file, (slope, intercept)) in enumerate(zip(series.files, series.rescales, strict=True)):
        stored = _stored(file)
        values = stored.astype(np.float64) * slope + intercept if dtype.kind == "f" else stored + int(intercept)
        array[:, :, k] = values.T
    return array, series


def _stored(path: Path) -> NDArray[Any]:
    """The numbers (rows, columns) that a file holds, int64, without what lies in bits that are not theirs."""
    import pydicom

    try:
        dataset = pydicom.dcmread(path, force=True)
        if "TransferSyntaxUID" not in dataset.file_meta:  # no preamble; the standard's default
            dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
        stored = np.asarray(dataset.pixel_array).astype(np.int64)
    except Exception as error:  # a damaged file fails in any way its decoder can
        raise DataError(f"{path}: {_reason(path, error)}") from error
    bits, signed = int(dataset.BitsStored), bool(dataset.PixelRepresentation)
    stored &= (1 << bits) - 1
    return np.where(stored >> (bits - 1), stored - (1 << bits), stored) if signed else stored


def _reason(path: Path, error: Exception) -> str:
    """One line: the plugin to install where that is what is missing."""
    header = read_header(path)
    syntax = None if header is None else getattr(header, "file_meta", {}).get("TransferSyntaxUID")
    if syntax is not None and syntax.is_compressed:
        from pydicom.pixels import get_decoder

        try:
            decoder = get_decoder(syntax)
        except NotImplementedError:
            return f"compressed as {syntax.name}, which can't be unpacked; convert it to Explicit VR Little Endian"
        plugins = [line.split("requires ")[1] for line in decoder.missing_dependencies if "pylibjpeg>" in line]
        if isinstance(error, RuntimeError) and plugins:  # of all decoders at hand none could do it
            names = " ".join(re.sub(r"[<>=].*", "", name) for name in plugins[0].split(" and "))
            return f"compressed as {syntax.name}; to read it: pip install {names}"
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return f"its pixels can't be read ({reason}); the file is damaged"


def nifti_header_of(path: Path) -> Any:
    """A NIfTI image that has the geometry of a DICOM series and the type of its values, and no voxels."""
    import nibabel as nib

    series = series_of(path)
    assert series.grid is not None  # a readable series has one
    header = nib.Nifti1Header()
    header.set_data_dtype(series.dtype)
    header.set_data_shape(series.grid.shape)
    header.set_xyzt_units("mm")
    for setter in (header.set_sform, header.set_qform):
        setter(series.grid.matrix, code="scanner")
    header["magic"], header["vox_offset"] = b"n+1", 352
    return nib.Nifti1Image.from_bytes(header.binaryblock + bytes(4))

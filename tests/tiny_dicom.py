"""DICOM series so small that a test can write them: MR-like or CT-like slices of an oblique, anisotropic stack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MR, CT = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.2"
TURN = np.deg2rad(20)
ALONG_ROW = (np.cos(TURN), np.sin(TURN), 0.0)  # of the patient's left, back, head: an oblique slice
ALONG_COLUMN = (0.0, 0.0, -1.0)  # rows run towards the feet
SPACING = (0.8, 1.5, 3.0)  # mm along rows, along columns, from slice to slice
ORIGIN = (-12.5, 7.25, 31.0)


def uid(*parts: Any) -> str:
    """The same UID for the same parts."""
    from pydicom.uid import generate_uid

    return str(generate_uid(entropy_srcs=[str(part) for part in parts]))


def affine_of(step: Sequence[float] | None = None) -> NDArray[np.float64]:
    """The affine to R, A, S that the series of `write_series` has, worked out from the standard's formula."""
    normal = np.cross(ALONG_ROW, ALONG_COLUMN)
    lps = np.eye(4)
    lps[:3, 0] = np.array(ALONG_ROW) * SPACING[0]
    lps[:3, 1] = np.array(ALONG_COLUMN) * SPACING[1]
    lps[:3, 2] = normal * SPACING[2] if step is None else step
    lps[:3, 3] = ORIGIN
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps


def _of_pixels(stored: NDArray[Any]) -> dict[str, Any]:
    """Tags of how the integers (I, J, K) are stored."""
    bits = 8 * stored.dtype.itemsize
    return {
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": stored.shape[1],
        "Columns": stored.shape[0],
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(stored.dtype.kind == "i"),
    }


def _of_place(corner: NDArray[np.float64]) -> dict[str, Any]:
    """Tags of where a slice lies, its first voxel at a corner in mm (left, back, head)."""
    return {
        "PixelSpacing": [SPACING[1], SPACING[0]],
        "SliceThickness": 2.0,
        "ImageOrientationPatient": [round(x, 10) for x in (*ALONG_ROW, *ALONG_COLUMN)],
        "ImagePositionPatient": [round(float(x), 8) for x in corner],
    }


def write_series(
    folder: Path,
    stored: NDArray[Any],
    *,
    name: str = "series",
    patient: str = "P 1/a",
    study: str = "study",
    description: str = "T1",
    modality: str = "MR",
    step: Sequence[float] | None = None,
    skip: Sequence[int] = (),
    changes: Mapping[int, Mapping[str, Any]] | None = None,
    **tags: Any,
) -> Path:
    """Write the stored integers (I, J, K) as one file a slice, in names that run against their order in space.

    Args:
        step: from slice to slice in mm (left, back, head); None: along the normal. skip: slices that are not written.
        changes: tags of single slices. tags: of all slices.
    """
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    folder.mkdir(parents=True, exist_ok=True)
    matrix = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine_of(step)
    for k in range(stored.shape[2]):
        if k in skip:
            continue
        path = folder / f"{name}{stored.shape[2] - k:03d}.dcm"
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = CT if modality == "CT" else MR
        meta.MediaStorageSOPInstanceUID = uid(patient, study, name, k)
        slice_ = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
        told = {
            "SOPClassUID": meta.MediaStorageSOPClassUID,
            "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
            "PatientID": patient,
            "PatientName": "Doe^Jane",
            "PatientComments": "secret",
            "StudyInstanceUID": uid(patient, study),
            "SeriesInstanceUID": uid(patient, study, name),
            "FrameOfReferenceUID": uid(patient, study, "frame"),
            "StudyDate": "20200102",
            "SeriesDescription": description,
            "SeriesNumber": 3,
            "InstanceNumber": 1 + (k * 7) % stored.shape[2],
            "Modality": modality,
            **_of_pixels(stored),
            **_of_place(matrix[:3, 3] + k * matrix[:3, 2]),
            **tags,
            **(changes or {}).get(k, {}),
        }
        for tag, value in told.items():
            if value is not None:
                setattr(slice_, tag, value)
        slice_.PixelData = np.ascontiguousarray(stored[:, :, k].T).tobytes()
        slice_.save_as(path, enforce_file_format=True)
    return folder

"""DICOM-SEG: segments as a label map on the grid of the image they were drawn on, and a label map as segments of a series."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffboost3d.cases.atomic import replacing
from diffboost3d.errors import DataError
from diffboost3d.imaging.colours import Colour
from diffboost3d.imaging.dicom import Series, read_header, series_of
from diffboost3d.imaging.geometry import Grid

OFF_GRID = 0.02  # of a voxel that a segment's frame may lie beside the voxels of its image
LONGEST = 64  # characters of a segment's name
UTF_8 = "ISO_IR 192"
SERIES_NUMBER = 1000  # above those that scanners give
# what a segmentation has to share with its image to be filed beside it, and no more of the patient or the visit
SHARED_TAGS = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID",
    "PositionReferenceIndicator", "SpecificCharacterSet", "PatientID", "PatientName", "PatientBirthDate", "PatientSex",
    "AccessionNumber", "StudyID", "StudyDate", "StudyTime", "Modality", "Rows", "Columns", "PixelSpacing", "SliceThickness",
    "SpacingBetweenSlices", "ImageOrientationPatient", "ImagePositionPatient", "InstanceNumber",
)  # fmt: skip
MAY_BE_EMPTY = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
)
FIRST_DAY = "19000101"  # stands for a date that the image doesn't tell


@dataclass(frozen=True)
class Algorithm:
    """What a segmentation says of its maker: name and version, and the digest of the models and settings."""

    name: str
    version: str
    digest: str


# --- in --------------------------------------------------------------------------------------------------------------
def segments_of(path: Path) -> dict[int, str]:
    """Segment number -> label of a DICOM-SEG. Raises DataError where it is none."""
    header = read_header(path, ("SOPClassUID", "SegmentSequence"))
    if header is None or not header.get("SegmentSequence"):
        raise DataError(f"{path}: no DICOM-SEG, or one without segments")
    return {int(one.SegmentNumber): str(one.get("SegmentLabel") or "").strip() for one in header.SegmentSequence}


def read_segments(paths: Sequence[Path], grid: Grid, values: Mapping[str, int]) -> NDArray[np.int64]:
    """The label map (I, J, K) on `grid` of the segments of one or several DICOM-SEG files.

    A frame counts where it lies; where a file has none, there is background. Of fractional segments a voxel counts from half on.

    Args:
        grid: of the image. values: segment label -> value in the label map.

    Raises:
        DataError: a file can't be read, has a segment that `values` doesn't name, lies on other voxels than the image, or two
            segments of different value share a voxel.
    """
    label = np.zeros(grid.shape, np.int64)
    for path in paths:
        numbers = _values_of(path, values)
        for own, inside in _frames(path, grid):
            if own not in numbers:
                raise DataError(f"{path}: a frame is of segment {own}, which is not described")
            if ((label[inside] != 0) & (label[inside] != numbers[own])).any():
                raise DataError(f"{path}: two segments share a voxel; a label map holds one label a voxel")
            label[inside] = numbers[own]
    return label


def _values_of(path: Path, values: Mapping[str, int]) -> dict[int, int]:
    named = segments_of(path)
    kept = {_kept(name): value for name, value in values.items()}
    if unknown := sorted(set(named.values()) - set(kept)):
        known = ", ".join(map(repr, values))
        raise DataError(f"{path}: segment {unknown[0]!r} is no label; known: {known} (data.labels)")
    return {number: kept[name] for number, name in named.items()}


def _kept(name: str) -> str:
    """What a DICOM-SEG keeps of a label's name."""
    return name[:LONGEST].strip()


def _frames(path: Path, grid: Grid) -> Iterator[tuple[int, tuple[NDArray[np.intp], ...]]]:
    """Segment number and the voxels (i, j, k) of each frame, on the grid of the image."""
    import pydicom

    try:
        dataset = pydicom.dcmread(path)
        pixels = np.asarray(dataset.pixel_array)
        pixels = pixels.reshape(-1, *pixels.shape[-2:])
        kind = str(dataset.SegmentationType)
        least = float(dataset.get("MaximumFractionalValue") or 1) / 2 if kind == "FRACTIONAL" else 1
        shared = dataset.SharedFunctionalGroupsSequence[0]
        groups = list(dataset.PerFrameFunctionalGroupsSequence)
    except Exception as error:  # a damaged file fails in any way
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path}: can't be read as DICOM-SEG ({reason})") from error
    for frame, group in zip(pixels, groups, strict=True):
        if kind == "LABELMAP":
            inside = [(int(number), frame == number) for number in np.unique(frame) if number]
        else:
            told = _item(path, group, shared, "SegmentIdentificationSequence")
            inside = [(int(told.ReferencedSegmentNumber), frame >= least)]
        for number, mask in inside:
            if mask.any():
                yield number, _on_grid(path, mask, _frame_affine(path, group, shared), grid)


def _item(path: Path, group: Any, shared: Any, name: str) -> Any:
    for one in (group, shared):
        if one.get(name):
            return one.get(name)[0]
    raise DataError(f"{path}: its frames have no {name}")


def _frame_affine(path: Path, group: Any, shared: Any) -> NDArray[np.float64]:
    """(4, 3): column and row index and 1 -> R, A, S in mm and 1."""
    measures = _item(path, group, shared, "PixelMeasuresSequence")
    along_row, along_column = np.array(
        _item(path, group, shared, "PlaneOrientationSequence").ImageOrientationPatient, dtype=float
    ).reshape(2, 3)
    place = np.array(_item(path, group, shared, "PlanePositionSequence").ImagePositionPatient, dtype=float)
    between_rows, between_columns = (float(x) for x in measures.PixelSpacing)
    lps = np.column_stack([along_row * between_columns, along_column * between_rows, place])
    return np.vstack([np.diag([-1.0, -1.0, 1.0]) @ lps, [0.0, 0.0, 1.0]])


def _on_grid(
    path: Path, mask: NDArray[np.bool_], affine: NDArray[np.float64], grid: Grid
) -> tuple[NDArray[np.intp], ...]:
    """The voxels (i, j, k) of a frame's mask (rows, columns)."""
    rows, columns = np.nonzero(mask)
    places = np.linalg.inv(grid.matrix) @ affine @ np.stack([columns, rows, np.ones_like(rows)])
    whole = np.round(places[:3]).astype(np.intp)
    beside = float(np.abs(places[:3] - whole).max())
    size = np.asarray(grid.shape)[:, None]
    if beside > OFF_GRID or (whole < 0).any() or (whole >= size).any():
        what = f"{beside:.2g} of a voxel beside them" if beside > OFF_GRID else "outside them"
        raise DataError(f"{path}: its segments don't lie on the voxels of the image ({what})")
    return tuple(whole)


# --- out -------------------------------------------------------------------------------------------------------------
def segment_names(labels: Mapping[str, int]) -> dict[str, str]:
    """Name of each label but the background -> that of its segment. Raises DataError where DICOM can't hold or part them."""
    found: dict[str, str] = {}
    for name in (name for name, value in labels.items() if value != 0):
        kept = _kept(name)
        if not kept or "\\" in kept or any(ord(sign) < ord(" ") for sign in kept):
            raise DataError(
                f"data.labels: {name!r} can't be a name in DICOM-SEG, allowed: text without backslash, tab and line break"
            )
        if twin := next((other for other in found if found[other] == kept), None):
            raise DataError(
                f"data.labels: {twin!r} and {name!r} have one name in DICOM-SEG, which keeps {LONGEST} characters; rename one"
            )
        found[name] = kept
    return found


def write_segments(
    path: Path,
    label: NDArray[Any],
    image: Path,
    labels: Mapping[str, int],
    colours: Mapping[str, Colour],
    algorithm: Algorithm,
) -> None:
    """Write a label map (I, J, K) on the grid of the DICOM series `image` as DICOM-SEG; atomic.

    Segments are numbered 1, 2, ... in the order of `labels` and bear their names, so that `read_segments` gives the same label
    map. Every frame refers to the slice it lies on; slices without a label have none. UIDs come of the image, the label map and
    the algorithm, and dates are those of the study, so that the same input gives the same bytes. Text is in UTF-8.

    Raises:
        DataError: as `segment_names`; the series lacks what a segmentation has to refer to, or no DICOM-SEG can be made of it.
    """
    import highdicom as hd

    names = segment_names(labels)
    series = series_of(image)
    sources = [_shared_header(image, file, series) for file in series.files]
    numbers = np.zeros(label.shape, np.uint16 if len(names) > 255 else np.uint8)
    for number, name in enumerate(names, 1):
        numbers[label == labels[name]] = number
    frames = np.ascontiguousarray(numbers.transpose(2, 1, 0))  # slices, rows, columns
    identity = [series.uid, algorithm.digest, uuid.uuid5(uuid.NAMESPACE_OID, frames.tobytes().hex()).hex]
    try:
        made = hd.seg.Segmentation(
            source_images=sources,
            pixel_array=frames,
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[
                _description(number, kept, labels[name], colours[name], algorithm)
                for number, (name, kept) in enumerate(names.items(), 1)
            ],
            series_instance_uid=_uid("series", *identity),
            series_number=SERIES_NUMBER,
            sop_instance_uid=_uid("instance", *identity),
            instance_number=1,
            specific_character_set=UTF_8,  # the image's own may lack the letters of label names
            manufacturer=algorithm.name,
            manufacturer_model_name=algorithm.name,
            software_versions=algorithm.version,
            device_serial_number=algorithm.digest,
            content_label="SEGMENTATION",
            series_description=f"{algorithm.name} of {series.description or 'an image'}"[:64],
        )
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{image}: no DICOM-SEG can be made of it ({reason})") from error
    _settle(made, sources[0], _uid("dimensions", *identity))
    with replacing(path) as temporary:
        made.save_as(temporary)


def _shared_header(image: Path, file: Path, series: Series) -> Any:
    """What a segmentation shares with a slice; what may be empty is there, and nothing more of the patient."""
    header = read_header(file, SHARED_TAGS)
    for tag in ("FrameOfReferenceUID", "SOPInstanceUID", "StudyInstanceUID"):
        if not header.get(tag):
            raise DataError(f"{image}: {tag} is missing, which a DICOM-SEG has to refer to")
    for tag in MAY_BE_EMPTY:
        if tag not in header:
            setattr(header, tag, "")
    if not header.get("SliceThickness"):
        assert series.grid is not None  # a readable series has one
        header.SliceThickness = series.grid.spacing_mm[2]
    return header


def _description(number: int, name: str, value: int, colour: Colour, algorithm: Algorithm) -> Any:
    import highdicom as hd
    from pydicom.sr.coding import Code

    identification = hd.AlgorithmIdentificationSequence(
        name=algorithm.name,
        version=algorithm.version,
        family=Code("123109", "DCM", "Artificial Intelligence"),
        parameters={"digest": algorithm.digest},
    )
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=name,
        segmented_property_category=Code("123037004", "SCT", "Anatomical Structure"),
        segmented_property_type=Code(f"LABEL{value}", "99DIFFBOOST3D", name),  # no list of codes has the user's names
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=identification,
        display_color=hd.color.CIELabColor.from_rgb(*colour),
    )


def _uid(*parts: str) -> str:
    """A UID of the kind 2.25 that is the same whenever it is made of the same."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, '|'.join(parts)).int}"


def _settle(made: Any, first: Any, dimensions: str) -> None:
    """Replace the moment of writing by the date of the study, and what was drawn at random: made again, it is the same object."""
    date, time = str(first.StudyDate or FIRST_DAY), str(first.StudyTime or "000000")
    for name in ("InstanceCreation", "Content", "Series"):
        setattr(made, f"{name}Date", date)
        setattr(made, f"{name}Time", time)
    for equipment in made.get("ContributingEquipmentSequence") or []:
        if "ContributionDateTime" in equipment:
            equipment.ContributionDateTime = date + time
    for one in (*made.DimensionOrganizationSequence, *made.DimensionIndexSequence):
        one.DimensionOrganizationUID = dimensions

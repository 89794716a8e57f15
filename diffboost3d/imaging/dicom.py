"""DICOM series: which there are in a folder, in what order their slices lie, and why one can't be read as a volume.

Headers alone are read here; `dicom_pixels` reads voxels, `dicom_segments` label maps. Files are told by what they hold, not by
their names, and slices are put in order by their positions. A series is named by its folder or, where that has several, by any of
its files.
"""

from __future__ import annotations

import filecmp
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffboost3d.errors import DataError
from diffboost3d.imaging.geometry import Grid

DICOM_ENDINGS = (".dcm", ".dicom", ".ima")
MAGIC, PREAMBLE = b"DICM", 128
HEADER_TAGS = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PatientID",
    "Modality", "SeriesDescription", "SeriesNumber", "InstanceNumber", "Rows", "Columns", "NumberOfFrames",
    "SamplesPerPixel", "PhotometricInterpretation", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices",
    "ImageOrientationPatient", "ImagePositionPatient", "RescaleSlope", "RescaleIntercept", "BitsAllocated", "BitsStored",
    "PixelRepresentation", "ModalityLUTSequence", "ReferencedSeriesSequence",
)  # fmt: skip
REQUIRED_TAGS = ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation", "PhotometricInterpretation")
AGAIN = "export the series again"
SEGMENTATION_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")  # segmentation, label map
EVEN = 0.05  # of the slice distance that a slice may lie beside its even place
COSINE = 1e-3  # by which directions of slices may differ
SAME_PLACE_MM = 1e-2
SHEAR = 1e-2  # cosine between slice normal and the way from slice to slice, as `Grid.is_sheared` has it


@dataclass(frozen=True)
class Series:
    """What the headers of a series say.

    Attributes:
        uid, study: SeriesInstanceUID and StudyInstanceUID. patient: PatientID, "" where there is none.
        files: of an image in the order of their positions, else by name.
        problem: why an image can't be read as a volume, in words that follow "PATH: "; None where it can, and of no image.
        kind: image, segmentation (DICOM-SEG), or other (reports, structure sets, ...).
        grid: of an image without a problem. rescales: slope and intercept of each of its files.
        dtype: of its values: an integer type where all slopes are 1 and all intercepts whole numbers, else float32.
        references: of a segmentation, the SeriesInstanceUIDs that it was drawn on.
        copies: files that are left out, since one of `files` is the same byte by byte.
    """

    uid: str
    description: str
    modality: str
    patient: str
    files: tuple[Path, ...]
    problem: str | None = None
    study: str = ""
    number: int | None = None
    kind: str = "image"
    grid: Grid | None = None
    rescales: tuple[tuple[float, float], ...] = ()
    dtype: str = "float32"
    references: tuple[str, ...] = ()
    copies: tuple[Path, ...] = ()

    def __str__(self) -> str:
        """Description, number and size, for lines that name several series; nothing of the patient."""
        number = "" if self.number is None else f" (number {self.number})"
        files = f"{len(self.files)} file{'' if len(self.files) == 1 else 's'}"
        return f"{self.description or 'without description'!r}{number}, {self.modality or 'no modality'}, {files}"


# --- what there is ---------------------------------------------------------------------------------------------------
def series_in(folder: Path, deep: bool = True) -> list[Series]:
    """The DICOM series in a folder, by study, number and description; other files (README, DICOMDIR) are passed over.

    Args:
        deep: look into the folders in it, too.
    """
    headers: dict[str, list[tuple[Path, Any]]] = {}
    damaged: dict[Path, Path] = {}
    for path in _files(folder, deep):
        header = read_header(path)
        if header is not None and header.get("SeriesInstanceUID"):
            headers.setdefault(str(header.SeriesInstanceUID), []).append((path, header))
        elif _kind(header) == "image" if header is not None else path.name.lower().endswith(DICOM_ENDINGS):
            damaged.setdefault(path.parent, path)
    found = [_series(uid, files, damaged) for uid, files in headers.items()]
    images = {path.parent for one in found if one.kind == "image" for path in one.files}
    found += [_lost(path) for path in damaged.values() if path.parent not in images]
    return sorted(
        found, key=lambda one: (one.study, -1 if one.number is None else one.number, one.description, one.uid)
    )


def series_of(path: Path) -> Series:
    """The image series of a folder, or the one that a DICOM file belongs to, with the files in the same folder.

    Of several in a folder, the one that can be read as a volume.

    Raises:
        DataError: none or several, or one that can't be read as a volume.
    """
    if path.is_dir():
        images = [one for one in series_in(path) if one.kind == "image"]
    else:
        header = read_header(path)
        uid = None if header is None else header.get("SeriesInstanceUID")
        images = [one for one in series_in(path.parent, deep=False) if one.uid == uid and one.kind == "image"]
    if not images:
        raise DataError(f"{path}: no DICOM image in it")
    usable = [one for one in images if one.problem is None] if len(images) > 1 else images
    if len(usable) != 1:
        named = "; ".join(str(one) for one in (usable or images))
        raise DataError(
            f"{path}: {len(images)} DICOM series ({named}); give one series a folder, or choose by data.series"
        )
    if usable[0].problem:
        raise DataError(f"{path}: {usable[0].problem}")
    return usable[0]


def is_dicom(path: Path) -> bool:
    """Whether a path is a folder, which is taken for a DICOM series, or a DICOM file, whatever its name."""
    if path.is_dir() or path.name.lower().endswith(DICOM_ENDINGS):
        return True
    return path.is_file() and _has_magic(path)


def is_segmentation(path: Path) -> bool:
    """Whether a file is a DICOM-SEG."""
    header = read_header(path, ("SOPClassUID",))
    return header is not None and _kind(header) == "segmentation"


def _has_magic(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(PREAMBLE + len(MAGIC))[PREAMBLE:] == MAGIC
    except OSError:
        return False


def read_header(path: Path, tags: Sequence[str] = HEADER_TAGS) -> Any:
    """The DICOM header (a pydicom dataset without pixels) of a file, None of any other.

    A file without the DICOM preamble is tried if its name ends as DICOM's do.
    """
    import pydicom

    named = path.name.lower().endswith(DICOM_ENDINGS)
    if not (named or _has_magic(path)):
        return None
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(tags), force=named)
    except Exception:  # a damaged file fails in any way
        return None
    return header if header.get("SOPClassUID") or not named else None


def _files(folder: Path, deep: bool) -> Iterator[Path]:
    paths = folder.rglob("*") if deep else folder.iterdir()
    yield from sorted(path for path in paths if not path.name.startswith(".") and _is_file(path))


def _is_file(path: Path) -> bool:
    """A link to nothing is one, too: it can't be read, and is told of."""
    return path.is_file() or (path.is_symlink() and not path.exists())


def _lost(path: Path) -> Series:
    """What stands for a folder in which no DICOM file can be read, so that it isn't passed over in silence."""
    problem = f"{path.name} is damaged, no DICOM file or without SeriesInstanceUID, and there is no better one; {AGAIN}"
    return Series(f"damaged {path.parent}", "", "", "", (path,), problem, study=f"damaged {path.parent}")


def _series(uid: str, files: list[tuple[Path, Any]], damaged: dict[Path, Path]) -> Series:
    files, copies, differing = _each_once(files)
    first = files[0][1]
    kind = _kind(first)
    problem, grid = None, None
    if kind == "image":
        problem, files, grid = _stack(files)
        problem = differing if differing and problem else problem
        bad = next((damaged[path.parent] for path, _ in files if path.parent in damaged), None)
        problem = (
            f"{bad.name} beside its slices is damaged or no DICOM file; {AGAIN}" if bad and not problem else problem
        )
    return Series(
        uid=uid,
        description=str(first.get("SeriesDescription") or "").strip(),
        modality=str(first.get("Modality") or ""),
        patient=str(first.get("PatientID") or "").strip(),
        files=tuple(path for path, _ in files),
        problem=problem,
        study=str(first.get("StudyInstanceUID") or ""),
        number=_whole(_told(first, "SeriesNumber")),
        kind=kind,
        grid=None if problem else grid,
        rescales=() if problem else tuple(_rescale(header) for _, header in files),
        dtype="float32" if problem or kind != "image" else _dtype([header for _, header in files]),
        references=_references(first),
        copies=tuple(copies),
    )


def _each_once(files: list[tuple[Path, Any]]) -> tuple[list[tuple[Path, Any]], list[Path], str | None]:
    """(the files without copies, the copies, a line on two of one SOPInstanceUID that are not the same).

    Of copies the one in the folder with most files of the series stays, then the one that lies less deep.
    """
    there = Counter(path.parent for path, _ in files)
    first: dict[str, Path] = {}
    kept, copies, differing = [], [], None
    for path, header in sorted(files, key=lambda one: (-there[one[0].parent], len(one[0].parts), one[0])):
        other = first.setdefault(str(header.get("SOPInstanceUID") or path), path)
        if other is not path and filecmp.cmp(other, path, shallow=False):
            copies.append(path)
            continue
        kept.append((path, header))
        if other is not path and differing is None:
            differing = (
                f"{_near(other)} and {_near(path)} are of one slice (SOPInstanceUID) and differ; keep the right one"
            )
    return sorted(kept, key=lambda one: one[0]), copies, differing


def _near(path: Path) -> str:
    """A file and its folder."""
    return f"{path.parent.name}/{path.name}"


def _whole(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError):
        return None


def _told(header: Any, tag: str) -> Any:
    """The value of a tag; None where it has none, or one that can't be understood."""
    try:
        return header.get(tag)
    except (OverflowError, TypeError, ValueError):
        return None


def _rescale(header: Any) -> tuple[float, float]:
    slope, intercept = header.get("RescaleSlope"), header.get("RescaleIntercept")
    return float(1 if slope is None else slope), float(0 if intercept is None else intercept)


def _dtype(headers: list[Any]) -> str:
    """The smallest type that holds every value that the files could have."""
    low = high = 0
    for header in headers:
        slope, intercept = _rescale(header)
        if slope != 1 or not intercept.is_integer():
            return "float32"
        bits, signed = int(header.BitsStored), int(header.get("PixelRepresentation") or 0)
        least, most = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
        low, high = min(low, least + int(intercept)), max(high, most + int(intercept))
    fitting = (
        kind
        for kind in ("uint8", "int16", "uint16", "int32")
        if np.iinfo(kind).min <= low <= high <= np.iinfo(kind).max
    )
    return next(fitting, "float32")


def _kind(header: Any) -> str:
    if str(header.get("SOPClassUID") or "") in SEGMENTATION_CLASSES:
        return "segmentation"
    return "image" if any(_told(header, tag) for tag in ("Rows", "Columns", "BitsAllocated")) else "other"


def _references(header: Any) -> tuple[str, ...]:
    return tuple(str(one.SeriesInstanceUID) for one in header.get("ReferencedSeriesSequence") or [])


# --- why not, and in what order --------------------------------------------------------------------------------------
def _stack(files: list[tuple[Path, Any]]) -> tuple[str | None, list[tuple[Path, Any]], Grid | None]:
    """(what keeps these files from being one volume, the files in their order, their grid)."""
    try:
        problem = _unreadable(files)
        if problem:
            return problem, files, None
        headers = [header for _, header in files]
        _dtype(headers), *map(_rescale, headers)  # now, so that a number that is none is met here
        return _in_order(files)
    except (AttributeError, OverflowError, TypeError, ValueError) as error:  # a value that is none, in any tag
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return f"its header can't be understood ({reason}); {AGAIN}", files, None


def _unreadable(files: list[tuple[Path, Any]]) -> str | None:
    """What keeps these files from being slices of one grey volume; their positions are looked at later."""
    headers = [header for _, header in files]
    first = headers[0]
    if any(_whole(one.get("NumberOfFrames")) not in (None, 1) for one in headers):
        return "a multi-frame DICOM file; convert it to one file a slice (classic) or to NIfTI"
    if any(_whole(one.get("SamplesPerPixel")) not in (None, 1) for one in headers):
        return "a colour DICOM series; only grey ones are read"
    for path, one in files:
        if lacking := [tag for tag in REQUIRED_TAGS if one.get(tag) in (None, "")]:
            return f"{path.name} has no {lacking[0]} in its header; {AGAIN}"
    kinds = {str(one.get("PhotometricInterpretation")) for one in headers}
    if kinds != {"MONOCHROME2"}:
        other = sorted(kinds - {"MONOCHROME2"})[0]
        return f"PhotometricInterpretation is {other}, allowed: MONOCHROME2 (grey, high values bright); convert it"
    if any(one.get("ModalityLUTSequence") for one in headers):
        return "its values go through a Modality LUT, which is not supported; convert it"
    lacking = [
        tag
        for tag, count in (("ImageOrientationPatient", 6), ("ImagePositionPatient", 3), ("PixelSpacing", 2))
        if any(len(one.get(tag) or ()) != count for one in headers)
    ]
    if lacking:
        return f"no geometry: {lacking[0]} is missing"
    sizes = sorted({(int(one.Columns), int(one.Rows)) for one in headers})
    if len(sizes) > 1:
        return f"slices of {len(sizes)} sizes ({', '.join(f'{a}x{b}' for a, b in sizes[:3])}) in one series"
    for tag, tolerance, what in (
        ("ImageOrientationPatient", COSINE, "slices of different orientation (a localizer?)"),
        ("PixelSpacing", 1e-4, "slices of different PixelSpacing"),
    ):
        values = np.array([one.get(tag) for one in headers], dtype=float)
        if not np.isfinite(values).all() or np.abs(values - values[0]).max() > tolerance:
            return f"{what} in one series"
    return "PixelSpacing is not positive" if min(float(x) for x in first.PixelSpacing) <= 0 else None


def _in_order(
    files: list[tuple[Path, Any]],
) -> tuple[str | None, list[tuple[Path, Any]], Grid | None]:
    """(what is wrong with the positions, the files in their order along the slice normal, their grid)."""
    first = files[0][1]
    along_row, along_column = np.array(first.ImageOrientationPatient, dtype=float).reshape(2, 3)
    normal = np.cross(along_row, along_column)
    if abs(float(along_row @ along_column)) > SHEAR or np.linalg.norm(normal) < 0.9:
        return "ImageOrientationPatient has no right angle", files, None
    files = sorted(files, key=lambda one: float(normal @ np.array(one[1].ImagePositionPatient, dtype=float)))
    places = np.array([header.ImagePositionPatient for _, header in files], dtype=float)
    problem = _uneven(places, normal) if len(files) > 1 else None
    if problem:
        return problem, files, None
    step = (places[-1] - places[0]) / (len(files) - 1) if len(files) > 1 else normal * _thickness(first)
    between_rows, between_columns = (float(x) for x in first.PixelSpacing)
    matrix = np.eye(4)
    matrix[:3, :4] = np.column_stack([along_row * between_columns, along_column * between_rows, step, places[0]])
    grid = Grid.of((first.Columns, first.Rows, len(files)), np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix)  # from LPS
    return None, files, grid


def _thickness(header: Any) -> float:
    """How thick a slice that stands alone is, in mm."""
    for tag in ("SpacingBetweenSlices", "SliceThickness"):
        if float(header.get(tag) or 0) > 0:
            return float(header.get(tag))
    return 1.0


def _uneven(places: NDArray[np.float64], normal: NDArray[np.float64]) -> str | None:
    """What keeps slices at these places (n, 3), in order along `normal`, from being a straight and even stack."""
    gaps = np.diff(places @ normal)
    if gaps.min() < SAME_PLACE_MM:
        positions = 1 + int((gaps >= SAME_PLACE_MM).sum())
        return f"{len(places)} slices at {positions} positions (copies, times, echoes or b-values in one series?)"
    usual = float(np.median(gaps))
    multiples = gaps / usual
    if gaps.max() > 1.5 * usual:
        at, missing = int(gaps.argmax()), int(np.round(multiples).sum()) - len(gaps)
        if np.abs(multiples - np.round(multiples)).max() < 2 * EVEN:
            slices = f"{missing} slice{'' if missing == 1 else 's'}"
            return f"{slices} missing: slices {at + 1} and {at + 2} are {gaps[at]:.4g} mm apart, others {usual:.4g} mm; {AGAIN}"
        return f"slices are {gaps.min():.4g} to {gaps.max():.4g} mm apart; only even spacing is read"
    step = (places[-1] - places[0]) / len(gaps)
    beside = places - places[0] - np.arange(len(places))[:, None] * step
    if np.linalg.norm(beside, axis=1).max() > EVEN * usual:
        return (
            f"slices are {gaps.min():.4g} to {gaps.max():.4g} mm apart, up to {np.linalg.norm(beside, axis=1).max():.3g} mm "
            "beside an even, straight stack; only even spacing is read"
        )
    cosine = float(step @ normal / np.linalg.norm(step))
    if (sine := np.sqrt(max(0.0, 1 - cosine**2))) > SHEAR:
        return f"the stack is sheared by {np.degrees(np.arcsin(sine)):.3g} degrees (gantry tilt); resample it upright first"
    return None

"""Looking at one case without preparing it: what it holds, and what is wrong with it in a word that stays the same."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffboost3d.cases.checks import CheckedPair, check_image, check_pair, rounded_files
from diffboost3d.cases.layouts import Pair
from diffboost3d.cases.lookalikes import are_swapped, values_as_of_label
from diffboost3d.cases.observations import NOTE, Observation, observation
from diffboost3d.cases.records import Finding
from diffboost3d.errors import DataError
from diffboost3d.imaging.channels import channels_of, first_channel, read_channels
from diffboost3d.imaging.files import NIFTI_ENDINGS, PICTURE_ENDINGS, Volume, ending_of, read
from diffboost3d.imaging.geometry import Grid

PERCENTILES = (0.5, 25.0, 50.0, 75.0, 99.5)
SAMPLE = 2_000_000  # voxels that percentiles are taken of
THUMBNAIL = 16  # voxels a side
ROUNDED = "nothing: so little comes of a rounded header, and the voxels are taken for those of the image"
SWAPPED = "the label has the values of an image, its image those of a label"


@dataclass(frozen=True)
class ChannelFacts:
    """What was seen of a channel after the first: its file, and `intensity` and `content` as `CaseFacts` has them."""

    image: str
    intensity: Mapping[str, float]
    content: str


@dataclass(frozen=True)
class CaseFacts:
    """What was seen of a case; the image's part is None where it can't be read.

    Attributes:
        spacing_mm, shape: with axes turned to R, A, S; orientation: as stored, e.g. LPS, "" for a picture.
        intensity: min, max and percentiles ("p0.5", ...) of the first channel, in the file's units.
        label_voxels: value -> voxels; None: no usable label.
        content, thumbnail: digest of the grey values scaled to 8 bits; a unit vector of a smaller image; of the first channel.
        further: channels after it.
    """

    case: str
    image: str
    label: str | None
    patient: str
    usable: bool
    observations: tuple[Observation, ...] = ()
    grid: Grid | None = None
    physical: bool = True
    channels: int = 1
    dtype: str = ""
    intensity: Mapping[str, float] = field(default_factory=dict)
    label_voxels: Mapping[int, int] | None = None
    content: str = ""
    thumbnail: NDArray[np.float32] | None = None
    further: tuple[ChannelFacts, ...] = ()

    @property
    def spacing_mm(self) -> tuple[float, float, float] | None:
        """Along R, A, S."""
        return None if self.grid is None else self.grid.canonical().spacing_mm

    @property
    def orientation(self) -> str:
        """Where the stored axes point to, e.g. RAS; "" for a picture and where nothing is known."""
        if self.grid is None or not self.physical:
            return ""
        import nibabel as nib

        return "".join(nib.aff2axcodes(self.grid.matrix))


@dataclass(frozen=True)
class Reading:
    """How the images of a set are read: names of channels, whether these may lie on grids of their own, what of colours."""

    names: tuple[str, ...] = ("image",)
    resampled: bool = False
    colour: str = "grey"

    @property
    def channels(self) -> int:
        """How many."""
        return len(self.names)

    def pair(self, pair: Pair, known: Collection[int] | None) -> tuple[CheckedPair | None, Finding | None]:
        """As `check_pair`."""
        return check_pair(pair, known, self.colour, self.channels, self.resampled)

    def labelled(self, pair: Pair, known: Collection[int] | None) -> tuple[Volume, NDArray[np.int64]]:
        """Image and label of a pair that was found to have both."""
        checked, _ = self.pair(pair, known)
        assert checked is not None, pair.id  # it was read before
        assert checked.label is not None, pair.id
        return checked.image, checked.label

    def image(self, pair: Pair) -> Volume:
        """All channels. Raises DataError as `read`."""
        return read_channels((pair.image, *pair.channels), self.channels, self.resampled)


def look(pair: Pair, root: Path, known: Collection[int] | None, patient: str, reading: Reading) -> CaseFacts:
    """Read a case once, and say what it is and what is wrong with it by itself."""
    image_name = os.path.relpath(pair.image, root)
    label_name = None if pair.label is None else os.path.relpath(pair.label, root)
    checked, finding = reading.pair(pair, known)
    found: list[Observation] = []
    image = None if checked is None else checked.image
    if checked is None:
        assert finding is not None
        image, refused = _refusal(pair, root, reading, finding.problem)
        found.append(refused)
    elif label_name is not None and checked.label is not None and are_swapped(checked.image.array, checked.label):
        found.append(observation("swapped", pair.id, label_name, SWAPPED))
        checked = None
    if checked is not None:
        found += [_of_picture(pair.id, image_name, note) for note in checked.image.notes]
        found += [observation("read-as", pair.id, str(label_name), note) for note in checked.label_notes]
    for path, what in () if checked is None else rounded_files(pair, checked.image.grid):
        code = "channel-grid" if path in pair.channels else "label-grid"
        found.append(observation(code, pair.id, os.path.relpath(path, root), what, NOTE, ROUNDED))
    if pair.missing:
        found.append(observation("missing-label", pair.id, str(pair.missing), "there is no such label file"))
    if checked is not None and pair.label is not None and (kind := _stored_type(pair.label)).startswith("float"):
        found.append(observation("label-stored-as-float", pair.id, str(label_name), f"the label is stored as {kind}"))
    first = None if image is None else first_channel(image.array)
    if first is None or not np.isfinite(first).all():
        return CaseFacts(pair.id, image_name, label_name, patient, False, tuple(found))
    assert image is not None
    swapped = any(one.code == "swapped" for one in found)
    content, further = ("", ()) if swapped else (content_of(first), _further(pair, root, image.array))
    found += () if swapped else _label_like(pair, root, reading.names, image.array)
    found += _same_channels(pair.id, image_name, reading.names, (content, *(one.content for one in further)))
    return CaseFacts(
        pair.id,
        image_name,
        label_name,
        patient,
        checked is not None,
        tuple(found),
        image.grid,
        ending_of(pair.image) not in PICTURE_ENDINGS,
        len(channels_of(image.array)),
        image.dtype,
        {} if swapped else _intensity(first),
        None if checked is None or checked.label is None else _counts(checked.label),
        content,
        None if swapped else thumbnail(first),
        further,
    )


# --- what is wrong ---------------------------------------------------------------------------------------------------
def _of_picture(case: str, file: str, note: str) -> Observation:
    """What reading did to an image."""
    if "coloured" in note:
        return observation(
            "colour-picture", case, file, f"a colour picture: {note}", NOTE, "nothing: it is read as grey"
        )
    return observation("read-as", case, file, f"the picture {note}")


def _refusal(pair: Pair, root: Path, reading: Reading, said: str) -> tuple[Volume | None, Observation]:
    """The image of a case that was refused, if it can be read, and the reason in a code; `said` is the checks' own line."""
    what = said.replace(f"{root}{os.sep}", "")
    image_name = os.path.relpath(pair.image, root)
    try:
        image = reading.image(pair)
    except DataError:
        code, path = _code_of_channels(pair)
        return None, observation(code, pair.id, os.path.relpath(path, root), what)
    try:
        check_image(pair.image, image, reading.colour)
    except DataError:
        return image, observation(_code_of_image(image, reading), pair.id, image_name, what)
    if pair.label is None:
        return image, observation("unusable", pair.id, image_name, what)
    name = os.path.relpath(pair.label, root)
    try:
        label = read(pair.label)
    except DataError:
        return image, observation(_code_of_file(pair.label), pair.id, name, what)
    if are_swapped(image.array, label.array):
        return image, observation("swapped", pair.id, name, SWAPPED)
    return image, observation(_code_of_label(image, label), pair.id, name, what)


def _code_of_channels(pair: Pair) -> tuple[str, Path]:
    """Why the image of a case can't be read, and which of its files is to blame."""
    grids = []
    for path in (pair.image, *pair.channels) if pair.channels else ():
        try:
            grids.append(read(path).grid)
        except DataError:
            return _code_of_file(path), path
    for path, grid in zip(pair.channels, grids[1:], strict=True):
        if grids[0].apart_from(grid):
            return "channel-grid", path
    return _code_of_file(pair.image), pair.image


def _code_of_file(path: Path) -> str:
    if ending_of(path) in PICTURE_ENDINGS:
        return "colour-picture" if _is_colour(path) else "unreadable"
    return "4d-file" if _is_4d(path) else "unreadable"


def _is_4d(path: Path) -> bool:
    """Whether a NIfTI header tells of more than one volume, and the file holds them."""
    import nibabel as nib

    try:
        image = nib.load(path)
        if len(image.shape) < 4 or max(image.shape[3:]) < 2:
            return False
        np.asanyarray(image.dataobj[..., -1])
    except Exception:  # nibabel raises many types for what isn't one of its files
        return False
    return True


def _is_colour(path: Path) -> bool:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            if picture.mode in ("1", "L", "LA", "I", "F") or picture.mode.startswith("I;"):
                return False
            array = np.asarray(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError):
        return False
    return bool((array != array[..., :1]).any())


def _code_of_image(image: Volume, reading: Reading) -> str:
    if reading.colour == "refuse" and image.coloured:
        return "colour-picture"
    if not np.isfinite(image.array).all():
        return "nan-voxels"
    constant = any(one.min() == one.max() for one in channels_of(image.array))
    return "constant-image" if constant else "bad-geometry"


def _code_of_label(image: Volume, label: Volume) -> str:
    if image.grid.apart_from(label.grid):
        return "label-grid"
    if not np.isfinite(label.array).all():
        return "nan-voxels"
    return "label-not-whole" if np.abs(np.round(label.array) - label.array).max() > 1e-3 else "unknown-label-value"


def _label_like(pair: Pair, root: Path, names: Sequence[str], array: NDArray[Any]) -> Iterator[Observation]:
    """Channels that have the values of a label map, which was given for an image."""
    for number, channel in enumerate(channels_of(array)):
        if (count := values_as_of_label(channel)) is not None:
            which = f"the channel {names[number]}" if len(names) > 1 else "the image"
            what = f"{which} has only {count} values, whole numbers, as a label has"
            file = os.path.relpath(pair.channels[number - 1] if number and pair.channels else pair.image, root)
            yield observation("label-like-image", pair.id, file, what)


def _stored_type(path: Path) -> str:
    if ending_of(path) not in NIFTI_ENDINGS:
        return ""
    import nibabel as nib

    return str(nib.load(path).get_data_dtype())


def _same_channels(case: str, file: str, names: Sequence[str], contents: Sequence[str]) -> Iterator[Observation]:
    """Channels of a case that are the same image."""
    first: dict[str, str] = {}
    for name, content in zip(names, contents, strict=False):
        if content and (other := first.setdefault(content, name)) is not name:
            yield observation("same-channels", case, file, f"the channels {other} and {name} are the same image")


# --- what it holds ---------------------------------------------------------------------------------------------------
def _further(pair: Pair, root: Path, array: NDArray[Any]) -> tuple[ChannelFacts, ...]:
    """Facts of the channels after the first of a finite image."""
    channels = channels_of(array)[1:]
    files = pair.channels or (pair.image,) * len(channels)
    return tuple(
        ChannelFacts(os.path.relpath(file, root), _intensity(one), content_of(one))
        for file, one in zip(files, channels, strict=True)
        if np.isfinite(one).all()
    )


def _intensity(array: NDArray[Any]) -> dict[str, float]:
    """Minimum, maximum, and percentiles of evenly taken voxels."""
    flat = array.reshape(-1)
    sample = flat[:: max(1, flat.size // SAMPLE)]
    percentiles = {f"p{q:g}": float(x) for q, x in zip(PERCENTILES, np.percentile(sample, PERCENTILES), strict=True)}
    return {"min": float(array.min()), **percentiles, "max": float(array.max())}


def _counts(label: NDArray[np.int64]) -> dict[int, int]:
    values, counts = np.unique(label, return_counts=True)
    return {int(value): int(count) for value, count in zip(values, counts, strict=True)}


def content_of(array: NDArray[Any]) -> str:
    """Digest of an image scaled to 8 bits: the same in another type, slope or offset, but for rounding. "" if it is constant."""
    low, high = float(array.min()), float(array.max())
    if low == high:
        return ""
    digest = hashlib.sha256(str(array.shape).encode())
    for first in range(0, array.shape[2], 16):  # in slabs, so that no float copy of the whole is made
        slab = (array[:, :, first : first + 16].astype(np.float64) - low) * (255.0 / (high - low))
        digest.update(np.round(slab).astype(np.uint8).tobytes())
    return digest.hexdigest()


def thumbnail(array: NDArray[Any]) -> NDArray[np.float32] | None:
    """Means in 16 x 16 (x 16) boxes as a vector of mean 0 and length 1, whose products are correlations; None for no contrast."""
    sums = array.astype(np.float32)
    for axis in range(3):
        size = sums.shape[axis]
        count = 1 if array.shape[2] == 1 and axis == 2 else THUMBNAIL
        edges = np.floor(np.arange(count) * size / count).astype(int)
        stops = np.maximum(np.ceil(np.arange(1, count + 1) * size / count).astype(int), edges + 1)
        total = np.concatenate([np.zeros_like(sums.take([0], axis)), np.cumsum(sums, axis, dtype=np.float64)], axis)
        lengths = (stops - edges).reshape([-1 if a == axis else 1 for a in range(3)])
        sums = (total.take(stops, axis) - total.take(edges, axis)) / lengths
    vector = (sums - sums.mean()).reshape(-1)
    length = float(np.linalg.norm(vector))
    return None if length == 0 else np.asarray(vector / length, dtype=np.float32)

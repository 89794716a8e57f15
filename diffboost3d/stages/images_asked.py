"""Which images `predict` is asked for: files, or DICOM series, and which of them are channels of one case."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from diffboost3d.cases.layouts import Pair
from diffboost3d.cases.layouts.dicom import dicom_cases, has_dicom
from diffboost3d.errors import ConfigError, DataError
from diffboost3d.imaging.dicom import is_dicom
from diffboost3d.imaging.files import ENDINGS, PICTURE_ENDINGS, ending_of, stem_of
from diffboost3d.schema import Config


def images_of(
    config: Config, series: Sequence[str] = (), volumes: bool = False
) -> tuple[list[Pair], list[str], list[str]]:
    """The images, sorted; a line for each whose label map would have the name of another's, or that is left out; and notes.

    Args:
        series: patterns of DICOM series, a channel each, where `data.series` gives none.
        volumes: what the segmenter takes: pictures beside volumes or DICOM series are left aside then, such as previews.
    """
    section = config.predict
    if section.input is None or section.output is None:
        missing = "input" if section.input is None else "output"
        raise ConfigError(f"predict.{missing} is missing: predict.input=FOLDER predict.output=FOLDER")
    given = Path(section.input).expanduser()
    found, aside = _files_in(given, volumes)
    notes = [f"{given}: {len(aside)} pictures are left aside, e.g. {aside[0].name}"] if aside else []
    if not found and _holds_dicom(given):
        return *_series(given, config.data.series or series), notes
    if not found and not given.is_dir():
        what = "is no image" if given.is_file() else "no such file or folder"
        raise DataError(f"predict.input={given}: {what}; expected DICOM series or files {', '.join(ENDINGS)}")
    found = found or aside  # each is told why it can't be predicted
    if not found:
        raise DataError(f"predict.input={given}: no images found; expected DICOM series or files {', '.join(ENDINGS)}")
    first: dict[str, Path] = {}
    twins = [
        f"{path}: {first[stem_of(path)].name} has the same name, and only one can be predicted; rename one"
        for path in found
        if first.setdefault(stem_of(path), path) is not path
    ]
    return [Pair(stem, path, None) for stem, path in first.items()], twins, notes if found != aside else []


def _files_in(given: Path, volumes: bool) -> tuple[list[Path], list[Path]]:
    """The image files of a folder, or the one that is given; and the pictures that are left aside for volumes."""
    if not given.is_dir():
        return [given] if given.is_file() and ending_of(given) else [], []
    found = sorted(path for path in given.iterdir() if ending_of(path) and not path.name.startswith("."))
    aside = [path for path in found if volumes and ending_of(path) in PICTURE_ENDINGS]
    return [path for path in found if path not in aside], aside


def _holds_dicom(given: Path) -> bool:
    """Whether it is a DICOM file, or a folder that has DICOM somewhere in it."""
    return has_dicom(given) if given.is_dir() else given.is_file() and is_dicom(given)


def _series(given: Path, patterns: Sequence[str]) -> tuple[list[Pair], list[str]]:
    """The DICOM series of a folder, or that of a file; and a line for each study that is left out."""
    if given.is_file():
        return [Pair(stem_of(given.name.removesuffix(given.suffix)), given, None)], []
    cases, left_out = dicom_cases(given, patterns)
    pairs = [Pair(case.id, case.paths[0], None, channels=case.paths[1:]) for case in cases]
    return pairs, [f"{given}: {one}" for one in left_out]


def cases_of_images(images: list[Pair], channels: int) -> tuple[list[Pair], list[str]]:
    """The cases of images; and a line for each whose label map would have the name of another's.

    With several channels NAME_0000, NAME_0001, ... are one case, and a file without such a number is one by itself (4D).
    """
    if channels == 1:
        return images, []
    found: dict[str, list[Pair]] = {}
    for pair in images:  # sorted, so that channels are in order
        is_whole = pair.channels or is_dicom(pair.image)
        found.setdefault(pair.id if is_whole else re.sub(r"_\d{4}$", "", pair.id), []).append(pair)
    mixed = {stem: pairs for stem, pairs in found.items() if len(pairs) > 1 and pairs[0].id == stem}
    twins = [
        f"{pairs[0].image}: there is {pairs[1].image.name} too, and only one of them can be predicted; rename one"
        for pairs in mixed.values()
    ]
    return [_joined(stem, pairs) for stem, pairs in found.items() if stem not in mixed], twins


def _joined(stem: str, pairs: list[Pair]) -> Pair:
    """Files of channels as one case."""
    if len(pairs) == 1:
        return pairs[0]
    return Pair(stem, pairs[0].image, None, channels=tuple(pair.image for pair in pairs[1:]))

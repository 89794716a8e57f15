"""Folders without a standard: images/ beside labels/, files beside each other with a suffix, one folder a case.

Pictures of the last two have names of their own kind and are not met here. What could be meant in two ways is refused.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from diffboost3d.cases.layouts.folder import (
    Folder,
    Pair,
    described,
    folders_in,
    images_in,
    lost_labels,
    missing_channel,
    pair_of,
    read_json,
    with_missing_labels,
)
from diffboost3d.cases.layouts.names import (
    IMAGE_FOLDER,
    IMAGE_NAME,
    LABEL_FOLDERS,
    LABEL_NAME,
    could_be_label,
    folders_named,
    images_in_all,
    longer_name,
    sounds_like_label,
)
from diffboost3d.cases.records import Finding
from diffboost3d.errors import DataError
from diffboost3d.imaging.files import VOLUME_ENDINGS, stem_of


def read_plain(root: Path) -> Folder:
    """`images/` and `labels/` (or `masks/`) with files of the same name, whatever the ending; `dataset.json` optional.

    A label may have `_label`, `_seg`, `_mask` or the like behind the name, an image `_image`.

    Raises:
        DataError: a case has two labels.
    """
    images = images_in_all(folders_named(root, IMAGE_FOLDER))
    cases = {_without(IMAGE_NAME, stem_of(image)): stem_of(image) for image in images}
    cases |= {stem_of(image): stem_of(image) for image in images}
    labels: dict[str, Path] = {}
    lost = []
    label_folders = folders_named(root, *LABEL_FOLDERS) or [root / LABEL_FOLDERS[0]]
    for path in images_in_all(label_folders):
        stem = stem_of(path)
        case = cases.get(stem) or cases.get(_without(LABEL_NAME, stem))
        if case is None:
            lost.append(path)
        else:
            _put(root, labels, case, path)
    pairs = [
        pair_of(root, stem_of(image), image, labels.get(stem_of(image), label_folders[0] / image.name))
        for image in images
    ]
    folder = described(root, "plain", read_json(root / "dataset.json"), pairs)
    return dataclasses.replace(folder, notes=lost_labels(root, lost))


def _without(pattern: re.Pattern[str], stem: str) -> str:
    """A name without the word behind it that tells an image or a label."""
    match = pattern.fullmatch(stem)
    return (match and match[1]) or stem


# --- beside each other -----------------------------------------------------------------------------------------------
def read_flat(root: Path) -> Folder:
    """Volumes and labels in one folder: `CASE` or `CASE_image`, and `CASE_label`, `CASE_seg` or `CASE_mask`.

    `CASE_word` without a label is among the findings: a misspelt label must not become an image.

    Raises:
        DataError: a case has two labels or two images.
    """
    images: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    for path in images_in(root, VOLUME_ENDINGS):
        stem = stem_of(path)
        owner = _without(LABEL_NAME, stem)
        _put(root, *((labels, owner) if owner != stem else (images, _without(IMAGE_NAME, stem))), path)
    odd = {case: other for case in set(images) - set(labels) if (other := longer_name(case, images))}
    pairs = [Pair(case, image, labels.get(case)) for case, image in images.items() if case not in odd]
    pairs = with_missing_labels(pairs, _named_as_most(labels))
    alone = sorted(set(labels) - set(images))
    if alone and len(alone) == len(labels):
        raise DataError(f"{labels[alone[0]]}: named as a label, but there is no image {alone[0]} beside it")
    findings = [Finding(case, f"{labels[case].name} has no image beside it", "the label is left out") for case in alone]
    findings += [could_be_label(case, images[case], other) for case, other in sorted(odd.items())]
    return dataclasses.replace(
        described(root, "flat", read_json(root / "dataset.json"), pairs), findings=tuple(findings)
    )


def _put(root: Path, where: dict[str, Path], case: str, path: Path) -> None:
    if case in where:
        raise DataError(
            f"{root}: {where[case].name} and {path.name} could both be meant for {case}; move one elsewhere, or list the "
            "files in a CSV (data.layout=csv)"
        )
    where[case] = path


def _named_as_most(labels: Mapping[str, Path]) -> Callable[[Pair], str]:
    """How the label of a case would be called: as most are, with the case's name before it or without."""
    ends = Counter((path.name.startswith(case), path.name.removeprefix(case)) for case, path in labels.items())
    (has_name, end), _ = ends.most_common(1)[0] if ends else ((True, ""), 0)
    return lambda pair: f"{pair.id if has_name else ''}{end}"


def is_flat(root: Path) -> bool:
    """Whether a label lies beside its image."""
    stems = {stem_of(path) for path in images_in(root, VOLUME_ENDINGS)}
    images = {stem: _without(IMAGE_NAME, stem) for stem in stems if _without(LABEL_NAME, stem) == stem}
    labelled = {_without(LABEL_NAME, stem) for stem in stems - set(images)}
    return bool(labelled & set(images.values()))


# --- one folder a case -----------------------------------------------------------------------------------------------
def read_folder_per_case(root: Path) -> Folder:
    """`CASE/image` and `CASE/label`; names may begin with the case's, and several images of the same names are channels.

    Raises:
        DataError: a folder has two labels; or the folders have several images, but not of the same names.
    """
    images: dict[str, dict[str, Path]] = {}
    labels: dict[str, Path] = {}
    for folder in folders_in(root):
        for path in images_in(folder, VOLUME_ENDINGS):
            name = _own_name(stem_of(path), folder.name)
            if LABEL_NAME.fullmatch(name):
                _put(folder, labels, folder.name, path)
            else:
                _put(folder, images.setdefault(folder.name, {}), name, path)
    channels = _channels(root, images)
    pairs, findings = [], []
    for case, found in images.items():
        lost = [name for name in channels if name not in found]
        if lost:
            findings.append(missing_channel(case, f"{case}/{lost[0]}"))
            continue
        first, *others = (found[name] for name in channels) if channels else found.values()
        pairs.append(Pair(case, first, labels.get(case), channels=tuple(others)))
    named = _named_as_most(labels)
    pairs = with_missing_labels(pairs, lambda pair: f"{pair.id}/{named(pair)}")
    alone = [path for case, path in labels.items() if case not in images]
    folder_of_all = described(root, "folder_per_case", read_json(root / "dataset.json"), pairs)
    names = folder_of_all.channel_names or (channels if len(channels) > 1 else ())
    return dataclasses.replace(
        folder_of_all, channel_names=tuple(names), findings=tuple(findings), notes=lost_labels(root, alone)
    )


def _own_name(stem: str, case: str) -> str:
    """A file's name without its case's."""
    rest = stem.removeprefix(case).lstrip("_-.")
    return (rest or stem).lower()


def _channels(root: Path, images: dict[str, dict[str, Path]]) -> tuple[str, ...]:
    """Names of the channels in alphabetic order; () where every case has one image, however it is called."""
    if all(len(found) == 1 for found in images.values()):
        return ()
    counts = Counter(name for found in images.values() for name in found)
    if rare := sorted(name for name, count in counts.items() if 2 * count <= len(images)):
        case = next(case for case, found in images.items() if rare[0] in found)
        raise DataError(
            f"{root / case}: {len(images[case])} images ({', '.join(sorted(images[case]))}), and {rare[0]} is in few other "
            "folders; give all cases the same names, or list the files in a CSV (data.layout=csv)"
        )
    if drawn := sorted(filter(sounds_like_label, counts)):
        raise DataError(
            f"{root}: channels would be {', '.join(sorted(counts))}, but {drawn[0]} sounds like a label; move it elsewhere, or "
            "list the files in a CSV (data.layout=csv)"
        )
    return tuple(sorted(counts))


def is_folder_per_case(root: Path) -> bool:
    """Whether a folder in it holds an image and a label."""
    for folder in folders_in(root):
        names = [_own_name(stem_of(path), folder.name) for path in images_in(folder, VOLUME_ENDINGS)]
        marked = [name for name in names if LABEL_NAME.fullmatch(name)]
        if marked and len(marked) < len(names):
            return True
    return False

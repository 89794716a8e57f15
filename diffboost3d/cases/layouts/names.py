"""What names of files and columns tell: which is a label, and which only looks like one."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from diffboost3d.cases.layouts.folder import SKIPPED, folders_in, images_in
from diffboost3d.cases.records import Finding

IMAGE_FOLDER = "images"
LABEL_FOLDERS = ("labels", "masks")
LABEL_WORDS = ("label", "labels", "seg", "segmentation", "mask")
IMAGE_WORDS = ("image", "img")
LABEL_NAME = re.compile(rf"(?:(.+)[_\-.])?({'|'.join(LABEL_WORDS)})", re.IGNORECASE)
IMAGE_NAME = re.compile(rf"(?:(.+)[_\-.])?({'|'.join(IMAGE_WORDS)})", re.IGNORECASE)
_WORD = re.compile(r"[_\-. ](?=[^\W\d_])")  # what parts a name from a word behind it
_LABEL_SOUND = re.compile("label|seg|mask(?!ed)|roi", re.IGNORECASE)


def folders_named(root: Path, *names: str) -> list[Path]:
    """Folders of these names, in upper or lower case, in the names' order."""
    there = folders_in(root)
    return [folder for name in names for folder in there if folder.name.lower() == name]


def images_in_all(folders: Sequence[Path]) -> list[Path]:
    """Image files of several folders, folder by folder."""
    return [path for folder in folders for path in images_in(folder)]


def sounds_like_label(name: str) -> bool:
    """Whether the name of a column or channel is more likely a label's than an image's."""
    return _LABEL_SOUND.search(name) is not None


def longer_name(name: str, others: Collection[str]) -> str | None:
    """Which of the others this name is with a word behind it, as `c3_lable` is `c3`; the longest, or None."""
    shorter = (name[: match.start()] for match in _WORD.finditer(name))
    return max((one for one in shorter if one in others), key=len, default=None)


def could_be_label(case: str, path: Path, image: str) -> Finding:
    """On a file that is called as an image and a word behind it, and has no label: it may be one, misspelt."""
    what = (
        f"{path.name} could be a label of {image}, or an image; call labels NAME_label, _seg or _mask, and images otherwise, or "
        "list the files in a CSV (data.layout=csv)"
    )
    return Finding(case, what, SKIPPED)

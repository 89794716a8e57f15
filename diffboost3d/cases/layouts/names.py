"""What names of files and columns tell: which is a label, and which only looks like one."""

from __future__ import annotations

import re

LABEL_FOLDERS = ("labels", "masks")
LABEL_WORDS = ("label", "labels", "seg", "segmentation", "mask")
IMAGE_WORDS = ("image", "img")
LABEL_NAME = re.compile(rf"(?:(.+)[_\-.])?({'|'.join(LABEL_WORDS)})", re.IGNORECASE)
IMAGE_NAME = re.compile(rf"(?:(.+)[_\-.])?({'|'.join(IMAGE_WORDS)})", re.IGNORECASE)
_LABEL_SOUND = re.compile("label|seg|mask(?!ed)|roi", re.IGNORECASE)


def sounds_like_label(name: str) -> bool:
    """Whether the name of a column or channel is more likely a label's than an image's."""
    return _LABEL_SOUND.search(name) is not None

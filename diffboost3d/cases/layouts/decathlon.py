"""The layout of the Medical Segmentation Decathlon: `dataset.json` lists the pairs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from diffboost3d.cases.layouts.folder import Folder, described, images_in, lost_in_list, pair_of, read_json
from diffboost3d.errors import DataError
from diffboost3d.imaging.files import stem_of


def read_msd(root: Path) -> Folder:
    """`dataset.json` lists the pairs under "training"; several channels are one 4D file."""
    facts = read_json(root / "dataset.json")
    pairs = []
    for entry in facts.get("training") or []:
        if isinstance(entry, dict) and "image" not in entry:
            raise DataError(f"{root / 'dataset.json'}: a training entry names no image: {entry}")
        image = root / str(entry["image"] if isinstance(entry, dict) else entry)
        label = root / str(entry["label"]) if isinstance(entry, dict) and entry.get("label") else None
        pairs.append(pair_of(root, stem_of(image), image, label))
    listed = {pair.image.resolve() for pair in pairs}
    unlisted = sum(image.resolve() not in listed for image in images_in(root / "imagesTr"))
    return dataclasses.replace(described(root, "msd", facts, pairs), unlisted=unlisted, notes=lost_in_list(root, pairs))

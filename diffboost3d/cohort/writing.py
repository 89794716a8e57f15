"""Writing cohorts as the folders that users have: NIfTI in MSD layout, PNG in images/ and labels/."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from diffboost3d.cases.atomic import replacing, write_json
from diffboost3d.seeds import generator

LICENCE = "CC0-1.0 (made by a computer)"


def write_volumes(kind: str, folder: Path, cases: int, seed: int, shape: tuple[int, ...]) -> Path:
    """imagesTr/, labelsTr/ and dataset.json; returns the folder."""
    import nibabel as nib

    from diffboost3d.cohort.volumes import LABELS, MAKERS

    training = []
    for index in range(cases):
        name = f"{kind}_{index:03d}.nii.gz"
        phantom = MAKERS[kind](generator(seed, "cohort", kind, index), shape)
        for part, array in (("imagesTr", phantom.image), ("labelsTr", phantom.label)):
            image = nib.Nifti1Image(array, phantom.affine)
            image.header.set_xyzt_units("mm")
            with replacing(folder / part / name) as temporary:
                nib.save(image, temporary)
        training.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    labels = {"0": "background"} | {str(value): label for value, label in enumerate(LABELS[kind], start=1)}
    facts: dict[str, Any] = {
        "name": f"Built-in {kind.upper()} cohort",
        "description": "Volumes made by diffboost3d; no patient",
        "licence": LICENCE,
        "tensorImageSize": "3D",
        "modality": {"0": "MRI" if kind == "mr" else "CT"},
        "labels": labels,
        "numTraining": cases,
        "numTest": 0,
        "training": training,
    }
    write_json(folder / "dataset.json", facts)
    return folder


def write_pictures(folder: Path, cases: int, seed: int, size: tuple[int, ...]) -> Path:
    """images/, labels/ and dataset.json; returns the folder."""
    from PIL import Image

    from diffboost3d.cohort.ultrasound import make_ultrasound

    for index in range(cases):
        picture, mask, _ = make_ultrasound(generator(seed, "cohort", "ultrasound", index), size)
        for part, array in (("images", picture), ("labels", mask)):
            with replacing(folder / part / f"us_{index:03d}.png") as temporary:
                Image.fromarray(np.ascontiguousarray(array)).save(temporary)
    facts = {
        "name": "Built-in ultrasound cohort",
        "modality": {"0": "Ultrasound"},
        "labels": {"background": 0, "lesion": 255},
        "licence": LICENCE,
    }
    write_json(folder / "dataset.json", facts)
    return folder

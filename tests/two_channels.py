"""Small folders of two MR contrasts of the same made-up anatomy: one 4D file a case (MSD), or a file a channel (nnU-Net)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from tiny_folders import LABELS, SPACING, anatomy

NAMES = ("T2", "ADC")


def contrasts(number: int) -> tuple[NDArray[np.float32], NDArray[np.int16], NDArray[np.uint8]]:
    """T2 of about 0 to 900 as float32, ADC where dark is bright as int16 from 0 to 3000, and the label."""
    image, label = anatomy(number)
    noise = np.random.default_rng(1000 + number).normal(0, 40, image.shape)
    return image.astype(np.float32), np.clip(3000 - 3 * image + noise, 0, 3000).astype(np.int16), label


def write_msd(root: Path, count: int = 6) -> Path:
    """imagesTr/ with 4D float32 files, labelsTr/ and dataset.json."""
    training = []
    for number in range(count):
        first, second, label = contrasts(number)
        name = f"case_{number:02d}.nii.gz"
        _save(root / "imagesTr" / name, np.stack([first, second.astype(np.float32)], axis=3), number)
        _save(root / "labelsTr" / name, label, number)
        training.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    _describe(root, {"modality": dict(enumerate(NAMES)), "training": training})
    return root


def write_nnunet(root: Path, count: int = 6) -> Path:
    """imagesTr/CASE_0000 (float32) and _0001 (int16), labelsTr/ and dataset.json."""
    for number in range(count):
        first, second, label = contrasts(number)
        for channel, array in enumerate((first, second)):
            _save(root / "imagesTr" / f"case_{number:02d}_{channel:04d}.nii.gz", array, number)
        _save(root / "labelsTr" / f"case_{number:02d}.nii.gz", label, number)
    _describe(root, {"channel_names": dict(enumerate(NAMES)), "file_ending": ".nii.gz"})
    return root


def _save(path: Path, array: NDArray[Any], number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = (-10.5, 4.25 + number, 33.0)
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def _describe(root: Path, facts: dict[str, Any]) -> None:
    (root / "dataset.json").write_text(
        json.dumps({"name": "Two contrasts", "labels": LABELS, **facts}), encoding="utf-8"
    )

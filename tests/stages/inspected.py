"""Folders to inspect, and what `inspect` says of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from diffboost3d.config import compose
from diffboost3d.schema import Config
from diffboost3d.stages.inspect import inspect_folder

CASES, SHAPE = 8, (32, 32, 20)
Change = Callable[[Path, Path], None]


@functools.cache
def settings(*words: str) -> Config:
    return compose(["inspect.workers=1", *words])


def seen(folder: Path, *words: str) -> dict[str, Any]:
    return inspect_folder(settings(*words), folder)


def problems(found: dict[str, Any]) -> set[tuple[str, str]]:
    return {(one["code"], one["case"]) for one in found["findings"] if one["level"] == "problem"}


def save(path: Path, array: Any, affine: Any = None) -> None:
    """Replace a file; where no affine is given, that of the file is kept."""
    nib.save(nib.Nifti1Image(array, nib.load(path).affine if affine is None else affine), path)


def array_of(path: Path) -> Any:
    return np.asanyarray(nib.load(path).dataobj)

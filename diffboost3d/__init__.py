"""Diffusion-based augmentation for medical image segmentation in 3D and 2D (DiffBoost, IEEE TMI 2024, carried to 3D).

Public names are resolved on first use, so that `import diffboost3d` loads no heavy library.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Case": "diffboost3d.cases.records",
    "CuboidMerge": "diffboost3d.augmentation.merge",
    "DiffBoostError": "diffboost3d.errors",
    "Grid": "diffboost3d.imaging.geometry",
    "Manifest": "diffboost3d.cases.records",
    "MergeCuboids": "diffboost3d.augmentation.merge",
    "Workspace": "diffboost3d.cases.workspace",
    "synthetic_subjects": "diffboost3d.augmentation.subjects",
    "write_cohort": "diffboost3d.cohort",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'diffboost3d' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_PUBLIC[name]), name)

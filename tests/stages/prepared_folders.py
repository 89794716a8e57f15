"""A workspace that is prepared, and what stands in it."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np

from diffboost3d.cases.records import Manifest
from diffboost3d.cases.workspace import Workspace
from diffboost3d.config import compose
from diffboost3d.stages import prepare as stage

FIRST = "scan_00"


composed = lru_cache(lambda *words: compose(words))  # composing takes longer than preparing these folders


def prepare(root: Path, workspace: Path, *words: str) -> Manifest:
    """Run the stage in an opened workspace and read its manifest."""
    config = composed(*words)
    place = Workspace(workspace)
    with place.opened():
        stage.run(replace(config, data=replace(config.data, root=str(root))), place)
    return place.read_manifest()


def prepared(workspace: Path, case: str, kind: str) -> np.ndarray:
    return np.asarray(nib.load(Workspace(workspace).prepared(case, kind)).dataobj)

"""The shading of MR images in `prepare`: whether and how it is corrected, and where it is kept."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffboost3d.cases.atomic import write_json
from diffboost3d.cases.layouts import Pair
from diffboost3d.cases.preparation import Preparation
from diffboost3d.cases.workspace import Workspace
from diffboost3d.config import digest
from diffboost3d.imaging.bias_field import BiasFieldPlan
from diffboost3d.imaging.dicom import is_dicom
from diffboost3d.imaging.files import Volume, read_prepared, write_prepared
from diffboost3d.imaging.itk import parts_of
from diffboost3d.schema import Config
from diffboost3d.stages.inputs import files_digest


def bias_plan(config: Config) -> BiasFieldPlan | None:
    """How shading is corrected, if it is."""
    n4 = config.prepare.n4
    if config.prepare.bias_field == "none":
        return None
    return BiasFieldPlan(
        n4.mask, n4.shrink, tuple(n4.iterations), n4.control_points, n4.convergence, n4.fwhm, n4.wiener_noise
    )


def corrected(workspace: Workspace, pair: Pair, image: Volume, preparation: Preparation) -> NDArray[Any]:
    """The image of a case without its shading, where that is corrected; the shading is kept, since finding it takes long."""
    path, plan = workspace.prepared(pair.id, "bias"), preparation.bias_field
    record = path.with_name("bias.json")
    if plan is None:
        for old in (record, path):  # of an earlier run
            old.unlink(missing_ok=True)
        return image.array
    files = [one for path in (pair.image, *pair.channels) for one in image_digests(path)]
    own = digest(files, preparation.kinds, preparation.resampled, plan)
    if not (path.is_file() and record.is_file() and f'"{own}"' in record.read_text(encoding="utf-8")):
        record.unlink(missing_ok=True)
        field = preparation.field(image.array, image.grid)
        assert field is not None  # there is a plan
        write_prepared(path, field, image.grid)
        write_json(record, {"digest": own})
    return np.asarray(image.array / read_prepared(path))


def image_digests(path: Path) -> list[str]:
    """Of an image's files, or one of all slices of a DICOM series."""
    return [files_digest([path])] if is_dicom(path) else [file_digest(part) for part in parts_of(path)]


def file_digest(path: Path) -> str:
    """SHA-256 of what a file holds."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

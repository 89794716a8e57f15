"""Labels of DICOM images as label maps on the image's grid, for `prepare`: from DICOM-SEG, or from files with turned axes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping

from diffboost3d.cases.atomic import write_json
from diffboost3d.cases.layouts import SKIPPED, Folder, Pair
from diffboost3d.cases.records import Finding
from diffboost3d.cases.workspace import Workspace
from diffboost3d.config import digest
from diffboost3d.errors import DataError
from diffboost3d.imaging.dicom import is_dicom
from diffboost3d.imaging.dicom_segments import read_segments
from diffboost3d.imaging.files import read, read_grid, write_label_like
from diffboost3d.imaging.geometry import resample
from diffboost3d.stages.inputs import files_digest


def with_label_files(workspace: Workspace, folder: Folder, labels: Mapping[str, int]) -> Folder:
    """The folder with a NIfTI label on the image's own grid for every case of DICOM, so that it is read as any other label.

    What is to be written lies in `Workspace.label_file` and is kept while nothing it is made of changes.

    Args:
        labels: names and values, of the segments.

    Returns:
        The folder; cases whose DICOM-SEG can't be used are among its findings.
    """
    pairs, findings = [], [*folder.findings]
    for pair in folder.pairs:
        try:
            pairs.append(_with_label_file(workspace, pair, labels))
        except DataError as error:
            findings.append(Finding(pair.id, str(error), SKIPPED))
    if folder.pairs and not pairs:
        raise DataError(f"{folder.name}: none of {len(folder.pairs)} cases can be used; the first: {findings[0]}")
    return dataclasses.replace(folder, pairs=tuple(pairs), findings=tuple(findings))


def _with_label_file(workspace: Workspace, pair: Pair, labels: Mapping[str, int]) -> Pair:
    if pair.label is None or not is_dicom(pair.image):
        return pair
    own = workspace.label_file(pair.id)
    record = own.with_name(f"{pair.id}.json")
    segments = (pair.label, *pair.masks) if is_dicom(pair.label) else ()
    try:
        grid = read_grid(pair.image)
    except DataError:
        return pair  # the check of images says why
    if not segments:
        there = read_grid(pair.label)
        if not grid.apart_from(there) or grid.canonical().apart_from(there.canonical()):
            return pair  # right, or nothing that turning can make right
    facts = {"digest": digest(files_digest(segments or [pair.label]), dataclasses.asdict(grid), dict(labels))}
    if not (own.is_file() and record.is_file() and json.loads(record.read_text(encoding="utf-8")) == facts):
        label = (
            read_segments(segments, grid, labels)
            if segments
            else resample(read(pair.label).array, there, grid, "nearest")
        )
        record.unlink(missing_ok=True)
        write_label_like(own, label, pair.image)
        write_json(record, facts)
    return dataclasses.replace(pair, label=own, masks=())

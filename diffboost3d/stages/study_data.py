"""The workspaces of a study: prepared images that lie on the disk once, and splits whose sizes are nested."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from diffboost3d.cases.atomic import link_or_copy, write_json
from diffboost3d.cases.records import Manifest, Split
from diffboost3d.cases.study import Study
from diffboost3d.cases.workspace import Workspace
from diffboost3d.config import digest, to_plain, to_yaml
from diffboost3d.schema import Config
from diffboost3d.stages import prepare
from diffboost3d.stages.inputs import source_label
from diffboost3d.stages.study_splits import refuse_other_cases, splits_of_size

OF_THE_SPLIT = ("labelled", "unlabelled", "validation_fraction", "folds")


def sizes_of(config: Config) -> list[int | None]:
    """The training sizes of a study, ascending; None: all labelled cases."""
    return [*sorted(config.compare.sizes)] if config.compare.sizes else [config.data.labelled]


def prepare_study(configs: dict[str, Config], study: Study, log: Workspace) -> None:
    """Prepare the images once for all variants that prepare alike, and lay out a workspace for each variant and size.

    Args:
        configs: variant -> its configuration.

    Raises:
        DataError: fewer cases than the largest size needs, or whatever `prepare` refuses. StudyError: finished results are of
            other cases than these; no workspace of a size has been touched.
    """
    made: dict[str, Workspace] = {}
    drawn: dict[tuple[str, int | None], list[Split]] = {}
    for variant, config in configs.items():
        key = _preparation(config)
        if key not in made:
            made[key] = Workspace(study.data(len(made)))
            whole = dataclasses.replace(config.data, labelled=None)
            whole_config = dataclasses.replace(config, data=whole)
            with made[key].opened():
                made[key].write_config("prepare", to_yaml(whole_config))
                prepare.run(whole_config, made[key])
        manifest = made[key].read_manifest()
        by_size = {size: splits_of_size(config, made[key], manifest, size) for size in sizes_of(config)}
        refuse_other_cases(config, study, variant, manifest, by_size)
        drawn |= {(variant, size): splits for size, splits in by_size.items()}
    for (variant, size), splits in drawn.items():
        _lay_out(made[_preparation(configs[variant])], Workspace(study.workspace(variant, size)), splits)
    log.log(f"compare: images prepared {len(made)} time{'s' if len(made) > 1 else ''} for {len(configs)} variants")


def _preparation(config: Config) -> str:
    """Digest of what decides the prepared images."""
    data = {key: value for key, value in to_plain(config.data).items() if key not in OF_THE_SPLIT}
    return digest(data, config.prepare, config.prompt, config.diffusion.slice_axis)


def _lay_out(prepared: Workspace, workspace: Workspace, splits: list[Split]) -> None:
    """Link the prepared images, and write the splits and the manifest of a size; these last."""
    manifest = prepared.read_manifest()
    for case in manifest.cases:
        for source in (prepared.prepared_folder / case.id).iterdir():
            target = workspace.prepared_folder / case.id / source.name
            if not (target.is_file() and os.path.samefile(source, target)):
                link_or_copy(source, target)
    write_json(workspace.findings_path, json.loads(prepared.findings_path.read_text(encoding="utf-8")))
    workspace.write_splits(splits)
    source = (prepared.root.resolve() / manifest.source).resolve()
    workspace.write_manifest(dataclasses.replace(manifest, source=os.path.relpath(source, workspace.root.resolve())))


def label_volumes(study: Study, workspace: Workspace, manifest: Manifest, cases: list[str]) -> dict[str, Any]:
    """{case: {label: volume}} of test cases in their own files; measured once and kept in the study's folder."""
    import numpy as np

    path = study.volumes_path
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    by_id = {case.id: case for case in manifest.cases}
    missing = [by_id[case] for case in cases if by_id[case].digest not in known]
    for case in missing:
        label = source_label(workspace, manifest, case)
        axes = case.source_grid.spatial_dims
        voxel = float(np.prod(case.source_grid.spacing_mm[:axes])) if manifest.physical else 1.0
        known[case.digest] = {
            name: float((label == value).sum()) * voxel for name, value in manifest.labels.items() if value
        }
    if missing:
        write_json(path, known)
    return {case: known[by_id[case].digest] for case in cases}


def is_laid_out(root: Path) -> bool:
    """Whether a workspace of a study has its manifest, which comes last."""
    return Workspace(root).manifest_path.is_file() and Workspace(root).splits_path.is_file()

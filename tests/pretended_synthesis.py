"""A prepared workspace with synthetic volumes as `synthesize` leaves them, made in a moment and without a generator."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from diffboost3d.cases.records import SyntheticRecord
from diffboost3d.cases.workspace import Workspace
from diffboost3d.imaging.files import ending_like, read, synthetic_note, write_label_like, write_like

RECORD = SyntheticRecord(
    case="", fold=0, sample=0, seed=1, model="m0", digest="d", path="", prompt="Balls, MRI", look="",
    sampler="ddim", steps=2, guidance_scale=1.0, strength=0.5, unit="",
)  # fmt: skip


def pretend_to_synthesize(workspace: Workspace, fold: int, samples: int = 2, model: str = "m0") -> None:
    """Records of a generator that saw the fold's side, and for each training case volumes a little darker than it."""
    manifest, split = workspace.read_manifest(), workspace.read_split(fold)
    seen = {workspace.finetuned(fold): split.training, workspace.pretrained(fold): split.training + split.unlabelled}
    for folder, cases in seen.items():
        write_json(folder / "record.json", {"digest": model, "training": list(cases)})
    for case in split.training:
        found = manifest.case(case)
        source = workspace.source(manifest, found.image)
        for sample in range(samples):
            path = f"{sample:02d}{ending_like(found.image)}"
            array = read(source).array * 0.9 - sample
            write_like(workspace.synthetic(fold) / case / path, array, source, synthetic_note(case, 1))
            record(workspace, fold, case, sample, path=path, model=model)
    write_json(workspace.synthetic(fold) / "record.json", {"digest": "s"})
    (workspace.synthetic(fold) / "config.yaml").write_text(f"synthesize: {{samples: {samples}}}\n")


def record(workspace: Workspace, fold: int, case: str, sample: int, **changes: Any) -> None:
    """Write the record of a volume anew."""
    path = workspace.synthetic_record(fold, case, sample)
    before = json.loads(path.read_text()) if path.is_file() else dataclasses.asdict(RECORD)
    write_json(path, {**before, "case": case, "fold": fold, "sample": sample, **changes})


def give_label(workspace: Workspace, fold: int, case: str, sample: int) -> Path:
    """A label of its own to a volume: that of its case, mirrored along the first axis."""
    manifest = workspace.read_manifest()
    found = manifest.case(case)
    assert found.label is not None
    path = workspace.synthetic(fold) / case / f"{sample:02d}_label{ending_like(found.image)}"
    label = read(workspace.source(manifest, found.label)).array[::-1]
    write_label_like(path, label, workspace.source(manifest, found.image))
    record(workspace, fold, case, sample, label=path.name, anatomy="warped", digest="own-label")
    return path


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))

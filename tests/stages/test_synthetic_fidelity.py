"""The report's fidelity figures: right for copies, worse for noise, and kept beside the volumes."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from tiny_folders import TINY, write_volumes

from diffboost3d import Workspace
from diffboost3d.cli import main
from diffboost3d.config import compose
from diffboost3d.stages.synthetic_fidelity import measure_fidelity


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A prepared workspace, its configuration, and the source image of each case."""
    folder = tmp_path_factory.mktemp("fidelity")
    write_volumes(folder / "data")
    words = [*TINY, f"data.root={folder / 'data'}", f"workspace={folder / 'ws'}", "synthesize.samples=2"]
    assert main(["prepare", *words]) == 0
    workspace = Workspace(folder / "ws")
    return workspace, compose(words), workspace.read_manifest()


def put_samples(place, change):
    """As if synthesized: changed copies of the real files, with the least of a record."""
    workspace, _, manifest = place
    for identifier in workspace.read_split(0).training:
        case = manifest.case(identifier)
        source = nib.load(workspace.source(manifest, case.image))
        for sample in range(2):
            record = workspace.synthetic_record(0, case.id, sample)
            record.parent.mkdir(parents=True, exist_ok=True)
            array = change(np.asarray(source.dataobj, np.float64), sample)
            nib.save(nib.Nifti1Image(array, source.affine), record.with_suffix(".nii.gz"))
            record.write_text(json.dumps({"path": record.with_suffix(".nii.gz").name}))


def test_copies_are_faithful_and_not_diverse(place):
    put_samples(place, lambda array, _: array)
    workspace, config, manifest = place
    table = measure_fidelity(config, workspace, manifest, 0)
    means = {row[0]: float(row[2]) for row in table.rows}
    assert means["edge recall"] > 0.95
    assert means["contrast ratio"] == pytest.approx(1.0, abs=0.05)
    assert means["spectrum distance"] < 0.1
    assert means["histogram distance"] < 0.02
    assert means["diversity"] < 0.01
    kept = json.loads((workspace.synthetic(0) / "fidelity.json").read_text())
    assert set(kept) == set(workspace.read_split(0).training)


def test_noise_is_neither_faithful_nor_alike(place):
    put_samples(
        place, lambda array, sample: np.random.default_rng(sample).uniform(array.min(), array.max(), array.shape)
    )
    workspace, config, manifest = place
    means = {row[0]: float(row[2]) for row in measure_fidelity(config, workspace, manifest, 0).rows}
    assert abs(means["contrast ratio"]) < 0.3
    assert means["spectrum distance"] > 0.3
    assert means["diversity"] > 0.3


def test_without_samples_there_is_no_table(place):
    workspace, config, manifest = place
    for path in workspace.synthetic(0).rglob("*.json"):
        path.unlink()
    assert measure_fidelity(config, workspace, manifest, 0) is None

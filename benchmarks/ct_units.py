"""Do synthetic CT volumes keep their HU? Organs, air, table and padding, on the built-in cohort and on one real scan.

    python benchmarks/ct_units.py --workspace WORKSPACE --example PATH/ct_example

A tiny generator is trained for some minutes on the built-in CT cohort and, where `--example` names its folder, on one real torso
CT whose liver and kidneys get the cohort's labels. Volumes of all training cases are made with the gate off, so that nothing is
picked, and held against their scans by `diffboost3d.evaluation.hounsfield`; of the real scan with all of its own labels. The
same is done with samples from pure noise (`--strength 1`), which take nothing of the real intensities. A segmenter trained for a
moment then predicts the real scan, for its grid and header, not for accuracy. Writes `results/ct_units.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from held_out import RESULTS, commit

from diffboost3d.cases.atomic import write_json
from diffboost3d.cases.layouts import read_folder
from diffboost3d.cases.records import Case
from diffboost3d.cases.workspace import Workspace, versions
from diffboost3d.cohort import write_cohort
from diffboost3d.evaluation.hounsfield import AIR_HU, UnitsCheck, check_units
from diffboost3d.imaging.body import outside_body
from diffboost3d.imaging.files import read
from diffboost3d.schema import SynthesizeConfig

CASES, REAL = 24, "real"
SAME_ORGAN = {"liver": "liver", "kidney_right": "kidney", "kidney_left": "kidney"}
STAGES = ("prepare", "pretrain", "finetune", "synthesize")
TRAINING = (
    "preset=demo",
    "prompt=Abdomen, CT",
    "diffusion.max_size=64",
    "diffusion.pretrain.steps=3000",
    "diffusion.finetune.steps=800",
    "gate.enabled=false",
    "arms=[none]",
    "train.steps=40",
)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument(
        "--workspace", type=Path, required=True, help="where the generator is trained, or found trained"
    )
    arguments.add_argument("--example", type=Path, help="a folder in MSD layout with one CT; its first case is taken")
    arguments.add_argument(
        "--strength", type=float, action="append", help="of the samples; may be given again; default: 0.5 and 1"
    )
    arguments.add_argument("overrides", nargs="*", help="more overrides of the training")
    given = arguments.parse_args()
    data = given.workspace / "data"
    training = make_data(data, given.example)
    words = [*TRAINING, *given.overrides, f"data.root={data}", f"data.splits={data / 'splits.json'}"]
    found: dict[str, Any] = {}
    strengths = given.strength or [0.5, 1.0]
    for strength in strengths:
        workspace = given.workspace / "ws"  # volumes of another strength are made anew, the generator is kept
        run(STAGES, workspace, [*words, f"synthesize.strength={strength}"])
        found[f"strength {strength:g}"] = measured(Workspace(workspace), training, given.example)
        print(json.dumps(found[f"strength {strength:g}"]["all"], indent=1), flush=True)
    if given.example is not None:
        run(("train",), given.workspace / "ws", [*words, f"synthesize.strength={strengths[-1]}"])
        found["prediction"] = predicted(given.workspace)
    result = {
        **found,
        "command": "python benchmarks/ct_units.py --workspace WORKSPACE"
        + (" --example PATH/ct_example" if given.example else ""),
        "training": [*TRAINING, *given.overrides],
        "window_hu": [-160.0, 240.0],
        "air_hu": AIR_HU,
        "seeds": [0],
        "machine": {"cores": os.cpu_count(), "processor": platform.machine()},
        "commit": commit(),
        "versions": versions(),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "ct_units.json").write_text(json.dumps(result, indent=1) + "\n")


def run(stages: Sequence[str], workspace: Path, words: Sequence[str]) -> None:
    """Stages of the command line."""
    for stage in stages:
        subprocess.run([sys.executable, "-m", "diffboost3d", stage, *words, f"workspace={workspace}"], check=True)


def make_data(data: Path, example: Path | None) -> list[str]:
    """The cohort, half of it padded around a round field of view, and the real scan; returns the training cases."""
    write_cohort("ct", data, CASES)
    facts = json.loads((data / "dataset.json").read_text())
    ids = [f"ct_{number:03d}" for number in range(CASES)]
    for name in ids[::2]:
        pad(data / "imagesTr" / f"{name}.nii.gz")
    training = ids[:14]
    if example is not None:
        folder = read_folder(example)
        pair, labels = folder.pairs[0], folder.labels or {}
        assert pair.label is not None
        image, label = nib.load(pair.image), nib.load(pair.label)
        known, joined = np.asanyarray(label.dataobj), np.zeros(label.shape, np.uint8)
        for name, value in labels.items():
            if name in SAME_ORGAN:
                joined[known == value] = {"liver": 1, "kidney": 2}[SAME_ORGAN[name]]
        nib.save(image, data / "imagesTr" / f"{REAL}.nii.gz")
        nib.save(nib.Nifti1Image(joined, label.affine), data / "labelsTr" / f"{REAL}.nii.gz")
        facts["training"].append({"image": f"./imagesTr/{REAL}.nii.gz", "label": f"./labelsTr/{REAL}.nii.gz"})
        write_json(data / "dataset.json", facts)
        training.append(REAL)
    write_json(
        data / "splits.json", [{"training": training, "unlabelled": [], "validation": ids[14:19], "test": ids[19:]}]
    )
    return training


def pad(path: Path) -> None:
    """Fill what lies outside a circle with -2000 HU, as reconstructions do, in a file of a scanner's scaling."""
    image = nib.load(path)
    array = np.asanyarray(image.dataobj).astype(np.int16)
    i, j = (np.arange(size) - (size - 1) / 2 for size in array.shape[:2])
    array[np.hypot(i[:, None], j[None]) > 0.52 * array.shape[0]] = -2000
    stored = nib.Nifti1Image(array + 1024, image.affine)  # the numbers on disk; nibabel leaves them alone
    stored.header.set_slope_inter(1, -1024)
    nib.save(stored, path)


def measured(workspace: Workspace, training: Sequence[str], example: Path | None) -> dict[str, Any]:
    """Of every volume of the cohort together, and of the real scan with its own labels."""
    manifest, settings = workspace.read_manifest(), SynthesizeConfig()
    checks: dict[str, list[UnitsCheck]] = {"cohort": [], "real": []}
    made_anew: dict[str, list[float]] = {"cohort": [], "real": []}
    for case in (manifest.case(name) for name in training):
        kind = "real" if case.id == REAL else "cohort"
        scan = read(workspace.source(manifest, case.image))
        label, labels = label_of(workspace, manifest.labels, manifest.source, case, example)
        outside = outside_body(scan.array, scan.grid.axial, scan.grid.spacing_mm, settings.air_hu, settings.table_mm)
        for path in sorted((workspace.synthetic(0) / case.id).glob("[0-9][0-9].nii.gz")):
            volume = read(path)
            assert not scan.grid.difference(volume.grid)
            assert scan.dtype == volume.dtype
            checks[kind].append(check_units(scan.array, volume.array, label, labels, outside))
            made_anew[kind].append(float((scan.array != volume.array)[~outside].mean()))
    kinds = {kind: summed(checks[kind], made_anew[kind]) for kind in checks if checks[kind]}
    every = [check for of_kind in checks.values() for check in of_kind]
    return {"all": summed(every, [share for shares in made_anew.values() for share in shares]), **kinds}


def label_of(
    workspace: Workspace, labels: dict[str, int], source: str, case: Case, example: Path | None
) -> tuple[np.ndarray, dict[str, int]]:
    """A case's label and its names; of the real scan its own, with all organs."""
    if case.id == REAL and example is not None:
        folder = read_folder(example)
        assert folder.pairs[0].label is not None
        return read(folder.pairs[0].label).array, {k: v for k, v in (folder.labels or {}).items() if v}
    assert case.label is not None
    return read(workspace.root / source / case.label).array, {k: v for k, v in labels.items() if v}


def summed(checks: Sequence[UnitsCheck], made_anew: Sequence[float]) -> dict[str, Any]:
    """Figures of several volumes."""
    names = list(dict.fromkeys(name for check in checks for name in check.organs))
    organs = {}
    for name in names:
        of_organ = [check.organs[name] for check in checks if name in check.organs]
        shift = [one.median - one.real_median for one in of_organ]
        organs[name] = {
            "volumes": len(of_organ),
            "median_within_real_quartiles": sum(one.inside for one in of_organ),
            "median_minus_real_hu": [round(float(x), 1) for x in (np.min(shift), np.median(shift), np.max(shift))],
            "real_median_and_quartiles_hu_of_the_first": [
                round(x, 1) for x in (of_organ[0].real_median, of_organ[0].low, of_organ[0].high)
            ],
        }
    return {
        "volumes": len(checks),
        "without_any_problem": sum(not check.problems for check in checks),
        "organs": organs,
        "share_of_air_still_below_limit_at_least": min(check.air for check in checks),
        "voxels_outside_the_body": sum(check.outside for check in checks),
        "of_them_changed": sum(check.changed for check in checks),
        "volumes_below_the_lowest_real_value": sum(check.lowest < check.real_lowest for check in checks),
        "share_of_body_made_anew_mean": round(float(np.mean(made_anew)), 3),
    }


def predicted(folder: Path) -> dict[str, Any]:
    """The real scan through `predict`: whether its label map lies on its grid, with the user's values."""
    source, output = folder / "data" / "imagesTr" / f"{REAL}.nii.gz", folder / "labels"
    words = [f"predict.input={source}", f"predict.output={output}", "predict.arm=none", "gate.enabled=false"]
    run(("predict",), folder / "ws", words)
    scan, label = read(source), read(output / f"{REAL}.nii.gz")
    return {
        "same_grid": not scan.grid.difference(label.grid),
        "values": np.unique(label.array).tolist(),
        "note": "a segmenter of 40 steps on a scan it was trained with: of its accuracy this says nothing",
    }


if __name__ == "__main__":
    main()

"""Real DICOM series -> predict -> DICOM-SEG -> highdicom: are the right slices referred to, and are the voxels the same?

A tiny segmenter is trained for some steps on MSD Task04 hippocampus, so that its label maps hold something; how good they are
does not matter. The four contrasts of `brain` are read beside it, and compared with GDCM in SimpleITK.

    python benchmarks/dicom_round_trip.py --data PATH/dicom_example --training PATH/hippocampus --folder FOLDER
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from diffboost3d.cases.workspace import Workspace, versions
from diffboost3d.cli import main as diffboost3d
from diffboost3d.imaging.dicom_segments import read_segments
from diffboost3d.imaging.files import files_of, read, read_grid

RESULT = Path(__file__).parent / "results" / "dicom_round_trip.json"
STEPS = 60
CONTRASTS = ("t1_pre", "t1_post", "flair", "t2")
COLOURS = {"Anterior": [255, 0, 0], "Posterior": [0, 128, 255]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="dicom_example, with hippocampus_crop_* and brain/")
    parser.add_argument("--training", type=Path, help="MSD Task04 hippocampus; default: beside --data")
    parser.add_argument(
        "--folder", type=Path, default=Path("dicom_round_trip"), help="for the workspace and the outputs"
    )
    parser.add_argument("--steps", type=int, default=STEPS)
    given = parser.parse_args()
    workspace, output = given.folder / "ws", given.folder / "labels"
    train(given.training or given.data.parent / "hippocampus", workspace, given.steps)
    crops = sorted(given.data.glob("hippocampus_crop_*"))
    for crop in crops:
        words = [f"predict.input={crop / files_of(crop)[0].name}", f"predict.output={output / crop.name}"]
        run("predict", workspace, *words, "predict.arm=none", "predict.dicom=both")
    labels = Workspace(workspace).read_manifest().labels
    series = {crop.name: check(crop, output / crop.name, labels) for crop in crops}
    result = {
        "what": "hippocampus_crop_* of dicom_example: predict.dicom=both, the DICOM-SEG opened by highdicom",
        "instances_referenced": f"{sum(one['instances_referenced'] for one in series.values())} of "
        f"{sum(one['slices'] for one in series.values())}",
        "segments": sorted({name for one in series.values() for name in one["segments"]}),
        "voxels_different": sum(one["voxels_different"] for one in series.values()),
        "series": series,
        "brain": contrasts(given.data / "brain"),
        "training_steps": given.steps,
        "command": "python benchmarks/dicom_round_trip.py --data PATH/dicom_example",
        "versions": versions(),
    }
    print(json.dumps(result, indent=1))
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    if result["voxels_different"] or any(one["frames_misplaced"] for one in series.values()):
        raise SystemExit("the round trip lost something")


def run(stage: str, workspace: Path, *words: str) -> None:
    if diffboost3d([stage, f"workspace={workspace}", "runtime.device=cpu", "runtime.threads=1", *words]) != 0:
        raise SystemExit(f"{stage} failed")


def train(data: Path, workspace: Path, steps: int) -> None:
    """A tiny segmenter on a few labelled cases."""
    colours = json.dumps(COLOURS).replace('"', "")
    common = [
        "data=hippocampus",
        f"data.root={data}",
        "preset=demo",
        "arms=[none]",
        "data.labelled=8",
        "data.unlabelled=0",
    ]
    every = [f"train.{name}={steps}" for name in ("steps", "validate_every", "checkpoint_every", "images_every")]
    run(
        "prepare",
        workspace,
        *common,
        f"data.colours={colours}",
        "data.labels={background: 0, Anterior: 1, Posterior: 2}",
    )
    run("train", workspace, *common, *every, "network.arguments.channels=[8,16]", "network.arguments.strides=[2]")


def check(crop: Path, output: Path, labels: dict[str, int]) -> dict[str, Any]:
    """What highdicom finds in the DICOM-SEG of a series, beside the NIfTI and the source slices."""
    import highdicom as hd
    from pydicom import dcmread

    path = next(output.glob("*.dcm"))
    seg, nifti = hd.seg.segread(path), read(next(output.glob("*.nii.gz")))
    sources = {one.SOPInstanceUID: one for one in (dcmread(file, stop_before_pixels=True) for file in files_of(crop))}
    referenced = {uid for study, series, uid in seg.get_source_image_uids()}
    misplaced = 0
    for frame in seg.PerFrameFunctionalGroupsSequence:
        source = sources[frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID]
        misplaced += frame.PlanePositionSequence[0].ImagePositionPatient != source.ImagePositionPatient
    numbers = {seg.get_segment_description(n).segment_label: n for n in seg.segment_numbers}
    by_highdicom = seg.get_pixels_by_source_instance(list(sources), combine_segments=True).transpose(2, 1, 0)
    wanted = sum((nifti.array == value) * numbers[name] for name, value in labels.items() if value)
    own = read_segments([path], read_grid(crop), labels)
    return {
        "slices": len(sources),
        "instances_referenced": len(referenced & set(sources)),
        "instances_unknown": len(referenced - set(sources)),
        "frames": int(seg.NumberOfFrames),
        "frames_misplaced": int(misplaced),
        "segments": {
            name: {
                "voxels": int((by_highdicom == number).sum()),
                "colour": hd.color.CIELabColor.from_dicom_value(
                    seg.get_segment_description(number).RecommendedDisplayCIELabValue
                ).to_rgb(),
            }
            for name, number in numbers.items()
        },
        "voxels_different": int((by_highdicom != wanted).sum() + (own != nifti.array).sum()),
        "grid_difference": read_grid(crop).difference(nifti.grid),
    }


def contrasts(folder: Path) -> dict[str, Any]:
    """Whether the co-registered contrasts have one grid, and what GDCM in SimpleITK reads differently."""
    import SimpleITK as sitk  # noqa: N813

    first, found = read_grid(folder / CONTRASTS[0]), {}
    for name in CONTRASTS:
        volume, reader = read(folder / name), sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder / name)))
        image = reader.Execute()
        corner = np.array(image.TransformIndexToPhysicalPoint([size - 1 for size in image.GetSize()])) * (-1, -1, 1)
        own = volume.grid.matrix @ [*(size - 1 for size in volume.grid.shape), 1]
        found[name] = {
            "shape": volume.grid.shape,
            "spacing_mm": [round(x, 4) for x in volume.grid.spacing_mm],
            "grid_difference": first.difference(volume.grid),
            "voxels_unlike_gdcm": int((volume.array != sitk.GetArrayFromImage(image).T).sum()),
            "far_corner_from_gdcm_mm": float(np.abs(corner - own[:3]).max()),
        }
    return found


if __name__ == "__main__":
    main()

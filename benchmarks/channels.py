"""Do channels that are generated jointly agree, and channels that are generated apart not? On four co-registered MR contrasts.

    python benchmarks/channels.py --data PATH/dicom_example/brain --work FOLDER

One patient, 22 slices: T1 before and after contrast agent, FLAIR and T2, in DICOM. Slabs of four slices stand for cases; the
generator learns three of them, and makes volumes of just these, so this says nothing about accuracy or about new patients. It
tells whether contrasts of one synthetic volume show the same anatomy: by the mutual information of every pair of them inside the
head. Three kinds are compared: made jointly; apart, each contrast taken from another sample of the same generator, so that
nothing but the common noise is lost; and, with --separate, by four generators of one channel each, with the same settings and
noise of their own. All are made from pure noise and from half-noised real volumes. In the end a segmenter of the head (a
threshold, no anatomy) is trained on four channels and predicts the slab that nobody has seen.

The generator reads slabs as NIfTI. The same slabs are written as DICOM studies of four series too (the files of the patient,
with numbers of their own): `prepare` reads these by `data.series`, and its images are held against the others; the segmenter
predicts the unseen slab from its four series.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813
from pydicom import dcmread
from pydicom.uid import generate_uid
from scipy.ndimage import binary_fill_holes

from diffboost3d.cases.atomic import write_json
from diffboost3d.cases.workspace import Workspace, versions
from diffboost3d.cli import main as diffboost3d
from diffboost3d.evaluation.channels import BACKGROUND, channel_information
from diffboost3d.stages.inputs import cases_of, prepared, prepared_again

CONTRASTS = ("t1_pre", "t1_post", "flair", "t2")
SLAB, FIRST, SLABS = 4, 1, 5  # slices of a slab, the first one taken, slabs
SPLIT = {"training": ["slab_0", "slab_2", "slab_4"], "unlabelled": [], "validation": ["slab_1"], "test": ["slab_3"]}
STRENGTHS = (0.5, 1.0)
RESULT = Path(__file__).parent / "results" / "channels.json"


def main() -> None:
    """Write results/channels.json; what is finished in --work is kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--pretrain", type=int, default=2000)
    parser.add_argument("--finetune", type=int, default=700)
    parser.add_argument("--samples", type=int, default=4, help="at least 4, one for each contrast")
    parser.add_argument("--separate", action="store_true", help="train a generator for each contrast too")
    parser.add_argument("--spacing", type=float, default=2.5, help="mm in plane")
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("overrides", nargs="*", help="more overrides, e.g. diffusion.pretrain.jitter=0.3")
    given = parser.parse_args()
    volumes, affine = read_contrasts(given.data)
    folders = {"joint": CONTRASTS} | ({f"only_{name}": (name,) for name in CONTRASTS} if given.separate else {})
    for number, (name, contrasts) in enumerate(folders.items()):
        write_folder(given.work / name, {one: volumes[one] for one in contrasts}, volumes, affine)
        for stage in ("prepare", "pretrain", "finetune"):
            run(stage, given, name, number)
    found = {}
    for strength in STRENGTHS:
        for number, name in enumerate(folders):
            run("synthesize", given, name, number, f"synthesize.strength={strength}")
        found[f"strength {strength:g}"] = informations(given)
    facts = {"head_dice_of_the_unseen_slab": predicted(given), "dicom": as_dicom(given, affine)}
    write_json(given.result, summary(found, given) | facts)
    print(json.dumps({**found, **facts}, indent=2))


def read_contrasts(data: Path) -> tuple[dict[str, Any], Any]:
    """Each series as an array (I, J, K), and the affine (RAS) of all."""
    volumes, affine = {}, np.eye(4)
    for name in CONTRASTS:
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(data / name)))
        image = reader.Execute()
        volumes[name] = sitk.GetArrayFromImage(image).T
        turn = np.asarray(image.GetDirection()).reshape(3, 3) * np.asarray(image.GetSpacing())
        affine[:3, :3], affine[:3, 3] = turn, image.GetOrigin()
    return volumes, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def write_folder(root: Path, contrasts: dict[str, Any], every: dict[str, Any], affine: Any) -> None:
    """Slabs in nnU-Net's naming; their label is the head, where the mean of all contrasts is above Otsu's threshold."""
    if (root / "dataset.json").is_file():
        return
    head = sum(volume / np.percentile(volume, 99.5) for volume in every.values())
    threshold = sitk.OtsuThresholdImageFilter()
    threshold.Execute(sitk.GetImageFromArray(head.astype(np.float32)))
    filled = [binary_fill_holes(plane > 0.5 * threshold.GetThreshold()) for plane in np.moveaxis(head, 2, 0)]
    label = np.stack(filled, axis=2).astype(np.uint8)
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for slab in range(SLABS):
        part, place = slice(FIRST + slab * SLAB, FIRST + (slab + 1) * SLAB), place_of(slab, affine)
        for number, volume in enumerate(contrasts.values()):
            path = root / "imagesTr" / f"slab_{slab}_{number:04d}.nii.gz"
            nib.save(nib.Nifti1Image(volume[:, :, part].astype(np.int32).astype(np.int16), place), path)
        nib.save(nib.Nifti1Image(label[:, :, part], place), root / "labelsTr" / f"slab_{slab}.nii.gz")
    facts = {"channel_names": dict(enumerate(contrasts)), "labels": {"background": 0, "head": 1}}
    write_json(root / "splits.json", [SPLIT])
    write_json(root / "dataset.json", facts | {"name": "Brain", "file_ending": ".nii.gz"})


def place_of(slab: int, affine: Any) -> Any:
    """The affine of a slab of the volume with this affine."""
    return affine @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, FIRST + slab * SLAB], [0, 0, 0, 1]])


def settings(given: argparse.Namespace, name: str, number: int) -> list[str]:
    """Of a workspace; each has another seed, so that channels made apart have noise of their own."""
    return [
        f"data.root={given.work / name}",
        f"data.splits={given.work / name / 'splits.json'}",
        f"workspace={given.work / name / 'ws'}",
        f"seed={number}",
        "prompt=Brain, MRI",
        "preset=quick",
        f"prepare.spacing_mm=[{given.spacing},{given.spacing},6.5]",
        "prepare.workers=1",
        f"diffusion.pretrain.steps={given.pretrain}",
        f"diffusion.finetune.steps={given.finetune}",
        "diffusion.denoiser.channels=[64,96,128]",  # 32 are too narrow for the 16 maps of four contrasts
        "diffusion.denoiser.head_channels=32",
        "diffusion.pretrain.batch=8",
        "diffusion.finetune.batch=8",
        "diffusion.pretrain.jitter=0.0",
        "diffusion.finetune.jitter=0.0",
        "diffusion.finetune.learning_rate=3e-4",
        "diffusion.finetune.ema_decay=0.998",
        f"synthesize.samples={given.samples}",
        "synthesize.steps=20",
        "gate.enabled=false",
        "arms=[none]",
        "runtime.device=cpu",
        "runtime.threads=1",
        *given.overrides,
    ]


def run(stage: str, given: argparse.Namespace, name: str, number: int, *more: str) -> None:
    """A command in its workspace."""
    if diffboost3d([stage, *settings(given, name, number), *more]) != 0:
        raise SystemExit(f"{stage} of {name} failed")


def informations(given: argparse.Namespace) -> dict[str, Any]:
    """Mean information of pairs of contrasts over training slabs (and samples): real, made jointly, made apart."""
    space = Workspace(given.work / "joint" / "ws")
    values: dict[str, list[float]] = {"mi_real": [], "mi_joint": [], "mi_apart": []}
    values |= {"mi_separate": []} if given.separate else {}
    for slab in SPLIT["training"]:
        (case,) = cases_of(space.read_manifest(), [slab])
        real, joint = prepared(space, case, "image"), made(space, slab, given.samples)
        head = (real > BACKGROUND).any(axis=0)
        values["mi_real"].append(channel_information(real, head))
        for sample in range(given.samples):
            others = [joint[(sample + at) % given.samples][at] for at in range(len(CONTRASTS))]
            values["mi_joint"].append(channel_information(joint[sample], head))
            values["mi_apart"].append(channel_information(np.stack(others), head))
        if given.separate:
            single = [made(Workspace(given.work / f"only_{one}" / "ws"), slab, given.samples) for one in CONTRASTS]
            for sample in range(given.samples):
                values["mi_separate"].append(channel_information(np.stack([one[sample] for one in single]), head))
    means = {name: float(np.mean(of_name)) for name, of_name in values.items()}
    means |= {f"{name}_by_real": means[name] / means["mi_real"] for name in values if name != "mi_real"}
    rounded = {name: [round(value, 4) for value in of_name] for name, of_name in values.items()}
    return {**{name: round(value, 4) for name, value in means.items()}, "values": rounded}


def made(space: Workspace, slab: str, samples: int) -> list[Any]:
    """The synthetic volumes of a slab on the prepared grid."""
    (case,) = cases_of(space.read_manifest(), [slab])
    paths = [space.synthetic_record(0, slab, sample) for sample in range(samples)]
    return [prepared_again(space, path.parent, json.loads(path.read_text()), case) for path in paths]


def predicted(given: argparse.Namespace) -> float:
    """Train a segmenter of four channels, predict the unseen slab from its four files, and score the head."""
    run("train", given, "joint", 0)
    source, target = given.work / "unseen", given.work / "labels"
    source.mkdir(exist_ok=True)
    for path in (given.work / "joint" / "imagesTr").glob(f"{SPLIT['test'][0]}_*"):
        shutil.copy(path, source / path.name)
    run("predict", given, "joint", 0, f"predict.input={source}", f"predict.output={target}", "predict.arm=none")
    name = f"{SPLIT['test'][0]}.nii.gz"
    found, truth = (
        np.asarray(nib.load(folder / name).dataobj) for folder in (target, given.work / "joint" / "labelsTr")
    )
    return round(float(2 * (found * truth).sum() / (found.sum() + truth.sum())), 4)


def as_dicom(given: argparse.Namespace, affine: Any) -> dict[str, float]:
    """Largest difference of the images that `prepare` makes of DICOM studies, in [-1, 1]; Dice of the head predicted from one."""
    root, unseen = given.work / "dicom", SPLIT["test"][0]
    shutil.rmtree(root, ignore_errors=True)
    (root / "labels").mkdir(parents=True)
    for slab in range(SLABS):
        write_study(given.data, root / f"slab_{slab}", slab)
        label = nib.load(given.work / "joint" / "labelsTr" / f"slab_{slab}.nii.gz")
        nib.save(
            nib.Nifti1Image(np.asarray(label.dataobj), place_of(slab, affine)), root / "labels" / f"slab_{slab}.nii.gz"
        )
    series = f"data.series=[{','.join(CONTRASTS)}]"
    words = [*settings(given, "joint", 0), f"data.root={root}", f"workspace={given.work / 'dicom-ws'}", series]
    if diffboost3d(["prepare", *words]) != 0:
        raise SystemExit("prepare of DICOM studies failed")
    spaces = [Workspace(given.work / "dicom-ws"), Workspace(given.work / "joint" / "ws")]
    worst = 0.0
    for slab in range(SLABS):
        of_dicom, of_nifti = (
            prepared(space, cases_of(space.read_manifest(), [f"slab_{slab}"])[0], "image") for space in spaces
        )
        worst = max(worst, float(np.abs(of_dicom - of_nifti).max()))
    target = given.work / "labels-of-dicom"
    reads = [series, f"predict.input={root / unseen}", f"predict.output={target}", "predict.arm=none"]
    run("predict", given, "joint", 0, *reads)
    (path,) = target.glob("*.nii.gz")
    found, truth = (
        np.asarray(nib.as_closest_canonical(nib.load(one)).dataobj)
        for one in (path, given.work / "joint" / "labelsTr" / f"{unseen}.nii.gz")
    )
    dice = float(2 * (found * truth).sum() / (found.sum() + truth.sum()))
    return {"largest_difference_of_prepared_images": worst, "head_dice_of_the_unseen_slab": round(dice, 4)}


def write_study(data: Path, folder: Path, slab: int) -> None:
    """A slab of each series as files of a study, series, patient and instances of their own."""
    study = generate_uid(entropy_srcs=[f"study {slab}"])
    for name in CONTRASTS:
        files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(data / name))
        (folder / name).mkdir(parents=True)
        for file in files[FIRST + slab * SLAB : FIRST + (slab + 1) * SLAB]:
            image = dcmread(file)
            image.StudyInstanceUID, image.PatientID = study, folder.name
            image.SeriesInstanceUID = generate_uid(entropy_srcs=[f"{name} {slab}"])
            image.SOPInstanceUID = generate_uid(entropy_srcs=[f"{file} {slab}"])
            image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
            image.save_as(folder / name / Path(file).name)


def summary(found: dict[str, Any], given: argparse.Namespace) -> dict[str, Any]:
    """What is kept: the figures at the default strength on top, all strengths below, and how they came about."""
    about = {"pretrain": given.pretrain, "finetune": given.finetune, "samples": given.samples, "spacing": given.spacing}
    about |= {"overrides": given.overrides}
    top = {name: value for name, value in found["strength 0.5"].items() if name != "values"}
    command = "python benchmarks/channels.py --data PATH/dicom_example/brain --work FOLDER"
    command += "".join(f" --{name} {about[name]}" for name in ("pretrain", "finetune", "samples", "spacing"))
    command = " ".join([command, *(["--separate"] if given.separate else []), *given.overrides])
    return {**top, "command": command, "by_strength": found, "settings": about, "split": SPLIT, "versions": versions()}


if __name__ == "__main__":
    main()

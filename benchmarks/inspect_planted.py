"""Faults planted in copies of real and built-in sets, and whether `inspect` names them; and what it says of the sets as they are.

python benchmarks/inspect_planted.py --data FOLDER    FOLDER holds hippocampus, acdc, busi, ct_example, dicom_example

Each fault is planted in one case of an own copy (symbolic links but for what is changed). It counts as named where its code
stands on that case; problems of other cases that were not there before are listed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image

from diffboost3d.cases.atomic import write_json
from diffboost3d.cohort import write_cohort
from diffboost3d.config import compose
from diffboost3d.stages.inspect import inspect_folder

RESULT = Path(__file__).resolve().parent / "results" / "inspect_planted.json"
CASES = 24  # of a set, in which a fault is planted
KNOWN = {("acdc", "duplicate", "patient076_ES")}  # true: these voxels are those of patient074_ES, one by one


def read(path: Path) -> Any:
    return np.asanyarray(nib.load(path).dataobj)


def save(path: Path, array: Any, affine: Any = None) -> None:
    """Replace a file or link; by default with its affine."""
    affine = nib.load(path).affine if affine is None else affine
    path.unlink(missing_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)


def coarser(image: Path, label: Path) -> None:
    for path in (image, label):
        save(path, read(path), nib.load(path).affine @ np.diag([2.0, 2.0, 1.0, 1.0]))


def swapped(image: Path, label: Path) -> None:
    pixels, drawn = read(image), read(label)
    save(image, drawn)
    save(label, pixels)


def mirrored(image: Path, label: Path) -> None:
    save(label, np.ascontiguousarray(read(label)[::-1]))


def off_by_affine(image: Path, label: Path) -> None:
    affine = nib.load(label).affine.copy()
    affine[:3, 3] += (3.0, 0.0, -2.0)
    save(label, read(label), affine)


def shifted(image: Path, label: Path) -> None:
    save(label, np.roll(read(label), (6, -5), (0, 1)))


def valued(value: float) -> Callable[[Path, Path], None]:
    def change(image: Path, label: Path) -> None:
        array = read(label).astype(np.float32)
        array[tuple(size // 2 for size in array.shape)] = value
        save(label, array if value != int(value) else array.astype(np.uint8))

    return change


def with_nan(image: Path, label: Path) -> None:
    array = read(image).astype(np.float32)
    array[0, 0, 0] = np.nan
    save(image, array)


def truncated(image: Path, label: Path) -> None:
    content = image.read_bytes()
    image.unlink()
    image.write_bytes(content[: len(content) * 2 // 3])


def removed(image: Path, label: Path) -> None:
    label.unlink()


def turned(image: Path, label: Path) -> None:
    for path in (image, label):
        other = nib.load(path).as_reoriented(nib.orientations.axcodes2ornt("LSP"))
        path.unlink()
        nib.save(other, path)


def twin(image: Path, label: Path) -> None:
    for path in (image, label):
        other = sorted(path.parent.glob("*"))[0]
        path.unlink()
        shutil.copyfile(other, path)


def coloured(image: Path, label: Path) -> None:
    grey = np.asarray(Image.open(image))
    image.unlink()
    Image.fromarray(np.stack([grey, grey // 2, grey], axis=-1)).save(image)


FAULTS: list[tuple[str, str, Callable[[Path, Path], None]]] = [
    ("mixed-spacing", "hippocampus", coarser),
    ("swapped", "acdc", swapped),
    ("flipped-label", "hippocampus", mirrored),
    ("label-grid", "acdc", off_by_affine),
    ("shifted-label", "hippocampus", shifted),
    ("4d-file", "acdc", lambda image, label: save(image, np.stack([read(image)] * 4, axis=-1))),
    ("colour-picture", "busi", coloured),
    ("duplicate", "hippocampus", twin),
    ("missing-label", "acdc", removed),
    ("unknown-label-value", "hippocampus", valued(7)),
    ("label-not-whole", "acdc", valued(0.5)),
    ("nan-voxels", "hippocampus", with_nan),
    ("constant-image", "acdc", lambda image, label: save(image, np.full_like(read(image), 9))),
    ("unreadable", "hippocampus", truncated),
    ("other-orientation", "acdc", turned),
    ("mixed-intensity-scale", "ct cohort", lambda image, label: save(image, (read(image) + 1024).astype(np.uint16))),
    ("flipped-label", "acdc", mirrored),
    ("shifted-label", "acdc", shifted),
]


def copy_of(source: Path, target: Path, cases: int) -> Path:
    """The first cases of a set, as links."""
    for part in ("imagesTr", "labelsTr", "images", "masks", "labels"):
        files = sorted(path for path in (source / part).glob("*") if not path.name.startswith("."))[:cases]
        for path in files:
            (target / part).mkdir(parents=True, exist_ok=True)
            (target / part / path.name).symlink_to(path.resolve())
    if (source / "dataset.json").is_file():
        facts = json.loads((source / "dataset.json").read_text(encoding="utf-8"))
        facts["training"] = facts.get("training", [])[:cases]
        write_json(target / "dataset.json", facts)
    return target


def problems(folder: Path, words: list[str]) -> dict[str, Any]:
    config = compose([f"data.root={folder}", "inspect.workers=1", *words])
    return inspect_folder(config, folder)


def named(found: dict[str, Any], code: str, case: str, before: set[tuple[str, str]]) -> tuple[bool, list[str]]:
    """Whether the fault is named on its case, and what else is."""
    right = any(one["code"] == code and one["case"] == case for one in found["findings"])
    others = {(one["code"], one["case"]) for one in found["findings"] if one["level"] == "problem"} - before
    return right, [f"{what} {where}" for what, where in sorted(others - {(code, case)})]


def planted(sets: dict[str, Path], scratch: Path) -> Iterator[dict[str, Any]]:
    before: dict[str, set[tuple[str, str]]] = {}
    for number, (code, name, change) in enumerate(FAULTS):
        folder = copy_of(sets[name], scratch / f"{number}", CASES)
        images = sorted((folder / ("imagesTr" if (folder / "imagesTr").is_dir() else "images")).glob("*"))
        image = images[len(images) // 2]
        part = next(p for p in ("labelsTr", "masks", "labels") if (folder / p).is_dir())
        label = folder / part / image.name
        fits = code in ("flipped-label", "shifted-label")
        words = [] if fits else ["inspect.label_fit=false"]
        key = f"{name} {fits}"
        if key not in before:
            clean = problems(folder, words)["findings"]
            before[key] = {(one["code"], one["case"]) for one in clean if one["level"] == "problem"}
        change(image, label)
        case = image.name.split(".")[0]
        right, others = named(problems(folder, words), code, case, before[key])
        print(code, name, "named" if right else "MISSED", others, flush=True)
        yield {"planted": code, "set": name, "case": case, "named": right, "other_problems": others}


def two_series(data: Path, scratch: Path) -> dict[str, Any]:
    folder = scratch / "series" / "patient"
    folder.mkdir(parents=True)
    for number in (1, 2):
        for path in sorted((data / "dicom_example" / f"hippocampus_crop_{number}").glob("*.dcm")):
            shutil.copyfile(path, folder / f"{number}_{path.name}")
    right, others = named(problems(folder.parent, []), "two-series", "patient", set())
    return {
        "planted": "two-series",
        "set": "dicom_example",
        "case": "patient",
        "named": right,
        "other_problems": others,
    }


def clean(sets: dict[str, Path]) -> dict[str, Any]:
    """Problems and notes of the sets as they are; those in `KNOWN` are true, the others invented."""
    result = {}
    for name, folder in sets.items():
        started = time.perf_counter()
        found = problems(folder, [])
        told = [one for one in found["findings"] if one["level"] == "problem"]
        true = [one for one in told if (name, one["code"], one["case"]) in KNOWN]
        notes: dict[str, int] = {}
        for one in found["findings"]:
            if one["level"] == "note":
                notes[one["code"]] = notes.get(one["code"], 0) + 1
        result[name] = {
            "cases": found["cases"],
            "invented": len(told) - len(true),
            "true": [f"{one['code']} {one['case']}: {one['what']}" for one in true],
            "problems": [f"{one['code']} {one['case']}: {one['what']}" for one in told if one not in true],
            "notes": notes,
            "seconds": round(time.perf_counter() - started, 1),
        }
        print(name, result[name], flush=True)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--part", choices=("all", "planted", "clean"), default="all")
    arguments = parser.parse_args()
    result: dict[str, Any] = {"command": "python benchmarks/inspect_planted.py --data FOLDER"}
    result |= json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        sets = {one: arguments.data / one for one in ("hippocampus", "acdc", "busi", "ct_example")}
        for kind in ("mr", "ct", "ultrasound"):
            sets[f"{kind} cohort"] = write_cohort(kind, scratch / kind, 12)
        if arguments.part != "clean":
            rows = list(planted(sets, scratch))
            rows.append(two_series(arguments.data, scratch))
            result["planted"], result["named"] = rows, f"{sum(row['named'] for row in rows)} of {len(rows)}"
            write_json(RESULT, result)
        if arguments.part != "planted":
            result["clean"] = clean(sets)
            result["invented_on_clean"] = {one: facts["invented"] for one, facts in result["clean"].items()}
            write_json(RESULT, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())

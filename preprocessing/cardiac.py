"""ACDC (short-axis cine cardiac MRI): the official download becomes a checked folder that `diffboost3d run` takes as it is.

    python preprocessing/cardiac.py ACDC.zip data/acdc --dry-run
    python preprocessing/cardiac.py ACDC.zip data/acdc
    diffboost3d run data=cardiac data.root=data/acdc workspace=ws preset=quick

Get it at https://humanheart-project.creatis.insa-lyon.fr (registration; CC BY-NC-SA 4.0 as far as known). In it, patientXXX/
holds Info.cfg with the numbers of two frames, patientXXX_frameNN.nii.gz and patientXXX_frameNN_gt.nii.gz. Here they become
patientXXX_ED.nii.gz and patientXXX_ES.nii.gz, byte for byte, with the true spacing. `data=cardiac` keeps both of a patient on
one side of a split. The 50 patients of the official test set are left out unless `--testing` is given.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from recipe import Item, answered, counted, finish, opened, parser, usable

from diffboost3d.cases.layouts import Pair
from diffboost3d.errors import DataError
from diffboost3d.imaging.files import ending_of, read_grid

LABELS = {"background": 0, "right ventricle": 1, "myocardium": 2, "left ventricle": 3}
PHASES, ENDINGS = ("ED", "ES"), (".nii.gz", ".nii")
LAST_TRAINING, DOCUMENTED = 100, {False: 100, True: 150}  # numbers of patients; without and with the official test set
FACTS = {
    "name": "ACDC cine cardiac MRI",
    "description": "Short-axis cine cardiac MRI at end-diastole (ED) and end-systole (ES)",
    "reference": "ACDC challenge, MICCAI 2017; Bernard et al., IEEE TMI 37(11):2514-2525, 2018",
    "licence": "CC BY-NC-SA 4.0 as far as known",
    "tensorImageSize": "3D",
    "modality": {"0": "MRI"},
    "labels": {str(value): name for name, value in LABELS.items()},
}


def main(arguments: Sequence[str] | None = None) -> int:
    made = parser(__doc__)
    made.add_argument("--testing", action="store_true", help="take the 50 patients of the official test set, too")
    given = made.parse_args(arguments)

    def work() -> None:
        with opened(given.source, given.target) as folder:
            patients = _patients(folder, given.testing)
            pairs = [pair for patient in patients for pair in _pairs(patient)]
            if not pairs:
                raise DataError(f"{folder}: no frame of {len(patients)} patients was found; is the download complete?")
            kept = usable(pairs, set(LABELS.values()))
            counted(len({pair.id.split("_")[0] for pair in kept}), DOCUMENTED[given.testing], "patients")
            counted(len(kept), len(PHASES) * DOCUMENTED[given.testing], "volumes")
            _say_spacing(kept)
            finish(given, [Item(pair.image, pair.label, f"{pair.id}{ending_of(pair.image)}") for pair in kept], FACTS)

    return answered("cardiac", work)


def _patients(root: Path, testing: bool) -> list[Path]:
    """Folders patientXXX with an Info.cfg, wherever they lie in the download, in the order of their numbers."""
    found = {path.parent.name: path.parent for path in sorted(root.rglob("Info.cfg"))}
    numbered = {name: int(match[1]) for name in found if (match := re.fullmatch(r"patient(\d{3})", name))}
    if not numbered:
        raise DataError(f"{root}: no folder patientXXX with an Info.cfg in it; give the ACDC download")
    return [found[name] for name in sorted(numbered) if testing or numbered[name] <= LAST_TRAINING]


def _pairs(folder: Path) -> Iterator[Pair]:
    """The frames that Info.cfg names; says which are missing."""
    text = (folder / "Info.cfg").read_text(encoding="utf-8", errors="replace")
    frames = {name: int(number) for name, number in re.findall(r"^(ED|ES)\s*:\s*(\d+)", text, re.MULTILINE)}
    for phase in PHASES:
        name = f"{folder.name}_frame{frames.get(phase, 0):02d}"
        wanted = [(folder / f"{name}{end}", folder / f"{name}_gt{end}") for end in ENDINGS]
        there = [(image, label) for image, label in wanted if image.is_file() and label.is_file()]
        if there:
            yield Pair(f"{folder.name}_{phase}", *there[0])
        else:
            what = f"no {name}.nii.gz with its {name}_gt.nii.gz" if phase in frames else "no number in its Info.cfg"
            print(f"! {folder.name}_{phase}: {what}; the case is skipped")


def _say_spacing(pairs: Sequence[Pair]) -> None:
    spacing = np.array([read_grid(pair.image).spacing_mm for pair in pairs])
    least, most = spacing.min(axis=0), spacing.max(axis=0)
    print("voxels of " + " x ".join(f"{a:.2f} to {b:.2f}" for a, b in zip(least, most, strict=True)) + " mm")
    if len(np.unique(spacing.round(3), axis=0)) == 1 and len(pairs) > 2 * len(PHASES):
        print("! all cases have the same spacing; the official files don't, so this is a copy that has lost it")


if __name__ == "__main__":
    sys.exit(main())

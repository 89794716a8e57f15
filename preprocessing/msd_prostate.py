"""MSD Task05 (prostate, T2-weighted MRI with ADC): the downloaded folder or tar becomes a checked folder for `diffboost3d run`.

    python preprocessing/msd_prostate.py Task05_Prostate.tar data/prostate --dry-run
    python preprocessing/msd_prostate.py Task05_Prostate.tar data/prostate
    diffboost3d run data=prostate data.root=data/prostate workspace=ws

An image is one 4D file, T2 first and ADC second, and stays so, byte for byte. Labels: peripheral zone (PZ), transition zone (TZ).
Cases without both channels, or that the library's checks refuse, are left out. imagesTs/ has no labels and is left out.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from msd import Task, prepare

from diffboost3d.cases.checks import KEPT_UNLABELLED, SKIPPED, CheckedPair, check_image, check_pair
from diffboost3d.cases.layouts import Pair
from diffboost3d.cases.records import Finding
from diffboost3d.errors import DataError
from diffboost3d.imaging.files import Volume, read_grid
from diffboost3d.imaging.geometry import Grid

CHANNELS = ("T2", "ADC")


def check(pair: Pair, known: Collection[int] | None) -> tuple[CheckedPair | None, Finding | None]:
    """As the library's check, of each channel of a 4D image by itself, and of the label on their grid."""
    try:
        first = _checked_channels(pair)
    except DataError as error:
        return None, Finding(pair.id, str(error), SKIPPED)
    if pair.label is not None:
        return check_pair(Pair(pair.id, pair.label, pair.label), known)
    missing = Finding(pair.id, f"its label {pair.missing} is missing", KEPT_UNLABELLED) if pair.missing else None
    return CheckedPair(first, None), missing


def _checked_channels(pair: Pair) -> Volume:
    """The first channel."""
    if not pair.image.is_file():
        raise DataError(f"{pair.image}: no such file")
    try:
        image = nib.load(pair.image)
        array = np.asanyarray(image.dataobj)
    except Exception as error:  # nibabel and zlib raise many types for a damaged file
        raise DataError(f"{pair.image}: can't be read ({type(error).__name__}); the file is damaged") from error
    if array.ndim != 4 or array.shape[3] != len(CHANNELS):
        shape = "x".join(map(str, array.shape))
        raise DataError(f"{pair.image}: of shape {shape}; expected 4D with the channels {', '.join(CHANNELS)}")
    grid = Grid.of(array.shape[:3], image.affine)
    volumes = [Volume(array[..., number], grid, str(array.dtype)) for number in range(len(CHANNELS))]
    for channel, volume in zip(CHANNELS, volumes, strict=True):
        check_image(Path(f"{pair.image} ({channel})"), volume)
    if pair.label is not None and (difference := grid.difference(read_grid(pair.label))):
        raise DataError(f"{pair.label}: the label lies on another grid than its image ({difference})")
    return volumes[0]


TASK = Task(
    folder="Task05_Prostate",
    md5="35138f08b1efaef89d7424d2bcc928db",
    training=32,
    labels={"background": 0, "PZ": 1, "TZ": 2},
    check=check,
)


def main(arguments: Sequence[str] | None = None) -> int:
    return prepare(TASK, "msd_prostate", __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main())

"""MSD Task05 (prostate, T2-weighted MRI with ADC): the downloaded folder or tar becomes a checked folder for `diffboost3d run`.

    python preprocessing/msd_prostate.py Task05_Prostate.tar data/prostate --dry-run
    python preprocessing/msd_prostate.py Task05_Prostate.tar data/prostate
    diffboost3d run data=prostate data.root=data/prostate workspace=ws

An image is one 4D file, T2 first and ADC second, and stays so, byte for byte. Labels: peripheral zone (PZ), transition zone (TZ).
Cases without both channels, or that the library's checks refuse, are left out. imagesTs/ has no labels and is left out.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence

from msd import Task, prepare

from diffboost3d.cases.checks import check_pair

CHANNELS = ("T2", "ADC")
TASK = Task(
    folder="Task05_Prostate",
    md5="35138f08b1efaef89d7424d2bcc928db",
    training=32,
    labels={"background": 0, "PZ": 1, "TZ": 2},
    check=functools.partial(check_pair, channels=len(CHANNELS)),
)


def main(arguments: Sequence[str] | None = None) -> int:
    return prepare(TASK, "msd_prostate", __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main())

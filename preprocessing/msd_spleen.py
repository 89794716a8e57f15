"""MSD Task09 (spleen, portal-venous CT): the downloaded folder or tar becomes a checked folder that `diffboost3d run` takes.

    python preprocessing/msd_spleen.py Task09_Spleen.tar data/spleen --dry-run
    python preprocessing/msd_spleen.py Task09_Spleen.tar data/spleen
    diffboost3d run data=spleen data.root=data/spleen workspace=ws

Images and labels are copied byte for byte, so HU stay HU; cases that the library's checks refuse are left out. imagesTs/ has no
labels and is left out. One scan a patient.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from msd import Task, prepare

TASK = Task(
    folder="Task09_Spleen",
    md5="410d4a301da4e5b2f6f86ec3ddba524e",
    training=41,
    labels={"background": 0, "spleen": 1},
)


def main(arguments: Sequence[str] | None = None) -> int:
    return prepare(TASK, "msd_spleen", __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main())

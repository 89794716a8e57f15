"""MSD Task04 (hippocampus, MRI): the downloaded folder or tar becomes a checked folder that `diffboost3d run` takes as it is.

    python preprocessing/msd_hippocampus.py Task04_Hippocampus.tar data/hippocampus --dry-run
    python preprocessing/msd_hippocampus.py Task04_Hippocampus.tar data/hippocampus
    diffboost3d run data=hippocampus data.root=data/hippocampus workspace=ws preset=quick

Images and labels are copied byte for byte; cases that the library's checks refuse are left out, and dataset.json lists the rest.
imagesTs/ has no labels and is left out. MSD gives no subject ids: consecutive numbers are probably the two sides of one subject.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from msd import Task, prepare

TASK = Task(
    folder="Task04_Hippocampus",
    md5="9d24dba78a72977dbd1d2e110310f31b",
    training=260,
    labels={"background": 0, "Anterior": 1, "Posterior": 2},
    patients="consecutive_numbers",
)


def main(arguments: Sequence[str] | None = None) -> int:
    return prepare(TASK, "msd_hippocampus", __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main())

"""What the recipes of the Medical Segmentation Decathlon share: a task's archive or folder, its listing, its documented counts.

MD5 of the archives: as MONAI's DecathlonDataset publishes them. Counts: of each task's dataset.json and of Antonelli et al.,
Nature Communications 13:4128, 2022.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recipe import Check, Item, answered, check_archive, counted, finish, opened, parser, usable

from diffboost3d.cases.checks import check_pair
from diffboost3d.cases.layouts import Pair, read_folder
from diffboost3d.cases.splits import patients_of
from diffboost3d.errors import DataError
from diffboost3d.imaging.files import read


@dataclass(frozen=True)
class Task:
    """What is documented of a task.

    Attributes:
        folder: its name. md5: of its tar. training: labelled cases. labels: name -> value.
        patients: the rule of its `data=...`, see `data.patients`.
        check: of a pair; the library's, but for what it can't read.
    """

    folder: str
    md5: str
    training: int
    labels: dict[str, int]
    patients: str = "case"
    check: Check = check_pair


def prepare(task: Task, name: str, description: str | None, arguments: Sequence[str] | None) -> int:
    """The recipe of a task; returns its exit status."""
    given = parser(description).parse_args(arguments)

    def work() -> None:
        check_archive(given.source, task.md5)
        with opened(given.source, given.target) as folder:
            root = _root(folder, task)
            listed = read_folder(root, "msd")
            if listed.labels != task.labels:
                print(f"! {root / 'dataset.json'}: labels {listed.labels}, documented are {task.labels}")
            kept = usable(listed.pairs, set((listed.labels or task.labels).values()), task.check)
            _count(kept, len(listed.pairs), task)
            items = [Item(pair.image, pair.label, pair.image.name) for pair in kept]
            finish(given, items, json.loads((root / "dataset.json").read_text(encoding="utf-8")))

    return answered(name, work)


def _root(source: Path, task: Task) -> Path:
    """The folder with dataset.json: the source, or one in it."""
    listings = [path for path in (source / "dataset.json", *sorted(source.glob("*/dataset.json"))) if path.is_file()]
    if not listings:
        raise DataError(f"{source}: no dataset.json in it or one folder below; give the folder {task.folder}")
    return listings[0].parent


def _count(kept: Sequence[Pair], listed: int, task: Task) -> None:
    """Print how many cases, patients and labels there are, and labels of a type that surprises."""
    stored_as = Counter[str]()
    for pair in kept:
        if pair.label is not None:
            stored_as[kind := read(pair.label).dtype] += 1
            if kind.startswith("float"):
                print(f"! {pair.id}: its label is stored as {kind}; its values are whole, it is kept as it is")
    patients = len(set(patients_of([pair.id for pair in kept], task.patients).values()))
    grouped = f", in {patients} runs of consecutive numbers" if task.patients == "consecutive_numbers" else ""
    types = ", ".join(f"{count} as {kind}" for kind, count in sorted(stored_as.items()))
    print(f"{len(kept)} of {listed} listed cases are usable{grouped}")
    counted(stored_as.total(), task.training, "labelled cases")
    print(f"labels are stored {types}")

"""A study's folder: its workspaces, its jobs and its results; the only place that knows their names."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

from diffboost3d.cases.atomic import replacing, write_json
from diffboost3d.cases.records import Score

BASE = "base"  # the name of the only variant of a study that names none


@dataclass(frozen=True)
class StudyScore:
    """A score of a study: that of a case in a cell.

    Attributes:
        size: labelled training cases; None: as many as there are.
        volume: of the label in the case's file, in mm^3 (mm^2 in 2D; voxels or pixels where the data has no spacing).
    """

    variant: str
    size: int | None
    arm: str
    fold: int
    seed: int
    case: str
    patient: str
    label: str
    volume: float
    metric: str
    value: float
    unit: str

    def score(self) -> Score:
        """As a score of an ordinary workspace."""
        return Score(self.arm, self.fold, self.seed, self.case, self.label, self.metric, self.value, self.unit)


class Study:
    """A folder with one workspace a variant and size; `variants` lists their names, in order."""

    def __init__(self, root: Path | str, variants: Sequence[str] = (BASE,)) -> None:
        self.root = Path(root)
        self.variants = tuple(variants)

    def workspace(self, variant: str, size: int | None) -> Path:
        """The workspace of a size, such as n005 (all: every labelled case); below its variant's name where variants are named."""
        name = "all" if size is None else f"n{size:03d}"
        return self.root / name if self.variants == (BASE,) else self.root / variant / name

    def sizes(self, variant: str) -> list[int]:
        """The sizes that a variant has workspaces of."""
        names = [folder.name for folder in self.workspace(variant, None).parent.glob("n*/")]
        return sorted(int(name[1:]) for name in names if name[1:].isdecimal())

    def has_finished(self, prefix: str) -> bool:
        """Whether any job whose name begins with that and a dash has been done, in whatever configuration."""
        return any((self.root / "jobs").glob(f"{escape(prefix)}-*/{DONE}"))

    def prefix(self, variant: str, size: int | None, fold: int) -> str:
        """What the names of the jobs of a workspace's fold begin with, such as n005-f0."""
        return f"{self.workspace(variant, size).relative_to(self.root).as_posix().replace('/', '-')}-f{fold}"

    def data(self, number: int) -> Path:
        """A workspace that holds prepared images only; variants that prepare alike share one."""
        return self.root / "data" / str(number)

    def job(self, name: str) -> Path:
        return self.root / "jobs" / name

    @property
    def scores_path(self) -> Path:
        return self.root / "scores.csv"

    @property
    def summary_path(self) -> Path:
        return self.root / "study.json"

    @property
    def volumes_path(self) -> Path:
        """Volumes of the labels of test cases, kept so that they are measured once."""
        return self.root / "volumes.json"

    def report(self, ending: str) -> Path:
        """The tables in one file: md or tex."""
        return self.root / f"study.{ending}"

    def figure(self, name: str, ending: str) -> Path:
        return self.root / "figures" / f"{name}.{ending}"

    def write_scores(self, scores: Sequence[StudyScore]) -> None:
        """All scores as one tidy CSV; the size of a part that takes all cases is empty."""
        with replacing(self.scores_path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([field.name for field in dataclasses.fields(StudyScore)])
            for score in scores:
                writer.writerow([f"{x:.6g}" if isinstance(x, float) else x for x in dataclasses.astuple(score)])


def workspaces_in(root: Path) -> list[Path] | None:
    """The workspaces of the sizes and variants of a study in this folder; None where it is no study's."""
    if not (root / "jobs").is_dir() and not (root / "data" / "0").is_dir():
        return None
    sizes = [root, *(folder for folder in root.iterdir() if folder.is_dir() and folder.name != "data")]
    found = [path.parent for folder in sizes for path in folder.glob("*/manifest.json")]
    return sorted(found)


def read_study_scores(path: Path) -> list[StudyScore]:
    """The scores of a study's CSV."""
    kinds: dict[str, Any] = {"fold": int, "seed": int, "value": float, "volume": float}
    kinds["size"] = lambda text: int(text) if text else None
    with path.open(newline="", encoding="utf-8") as file:
        return [StudyScore(**{k: kinds.get(k, str)(v) for k, v in row.items()}) for row in csv.DictReader(file)]


# --- jobs ------------------------------------------------------------------------------------------------------------
DONE, FAILED, SETTINGS = "done.json", "failed.json", "job.json"


def job_is_done(folder: Path, digest: str, results: Sequence[Path] = ()) -> bool:
    """Whether a job has been done in just this configuration and on this input, and what it left is still there.

    Args:
        results: its records; one that another command has written since is not the job's.
    """
    path = folder / DONE
    if not path.is_file():
        return False
    done = json.loads(path.read_text(encoding="utf-8"))
    found = [digest_of_record(one) for one in results]
    return bool(done["digest"] == digest) and None not in found and done.get("results", found) == found


def digest_of_record(path: Path) -> str | None:
    """The digest in a stage's record; None: there is no such record."""
    return str(json.loads(path.read_text(encoding="utf-8"))["digest"]) if path.is_file() else None


def job_failure(folder: Path, digest: str) -> str | None:
    """What the last try at a job ended with, where it was of this configuration and failed."""
    path = folder / FAILED
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    return str(found["error"]) if found["digest"] == digest else None


def settle_job(folder: Path, digest: str, error: str | None = None, results: Sequence[Path] = ()) -> None:
    """Write that a job is done, and the digests of the records that it left; or what it failed with."""
    if error is None:
        write_json(folder / DONE, {"digest": digest, "results": [digest_of_record(one) for one in results]})
        (folder / FAILED).unlink(missing_ok=True)
    else:
        write_json(folder / FAILED, {"digest": digest, "error": error})


@contextmanager
def job_lock(folder: Path) -> Iterator[None]:
    """Hold a job, after waiting for another process that is still at it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            import fcntl
        except ImportError:  # Windows: two studies on one folder are then the user's care
            yield
            return
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

"""The workspace: the only place that knows file names, when a result is finished, and who may write.

Every stage writes its results first and its record last. A result without a record is unfinished; a record whose digest
differs from the one asked for is stale, which is said, and made anew. That is the whole of resume.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from diffboost3d.cases.atomic import link_folder, remove_partial, replacing, write_json, write_text
from diffboost3d.cases.records import Manifest, Score, Split
from diffboost3d.errors import ConfigError, WorkspaceError

RECORD, CONFIG, SEGMENTER = "record.json", "config.yaml", "model.safetensors"
LAST_SEGMENTER = "last.safetensors"
PACKAGES = (
    "diffboost3d",
    "torch",
    "monai",
    "torchio",
    "diffusers",
    "transformers",
    "SimpleITK",
    "nibabel",
    "pydicom",
    "numpy",
    "scipy",
)


class Workspace:
    """A folder of results; every path below it is named here.

    Args:
        lenders: other workspaces whose finished results may be had by hard links, where their digest is the one asked for.

    Attributes:
        synthetic_set: whose folders these are; "": those of the default set.
        main: whether this process writes what all processes share (log, configuration, stale records).
    """

    def __init__(self, root: Path | str, synthetic_set: str = "", lenders: Sequence[Path] = ()) -> None:
        self.root = Path(root)
        self.synthetic_set = synthetic_set
        self.main = True
        self._lenders = tuple(lenders)
        self._config = ""
        self._set_aside: dict[Path, str] = {}

    def of_set(self, name: str) -> Workspace:
        """The same workspace with the folders of another set of synthetic volumes, of its warps and of its gate's limits."""
        other = Workspace(self.root, "" if name == "default" else name, self._lenders)
        other.main, other._config, other._set_aside = self.main, self._config, self._set_aside
        return other

    # --- names -------------------------------------------------------------------------------------------------------
    @property
    def manifest_path(self) -> Path:
        return self.root / "manifest.json"

    @property
    def log_path(self) -> Path:
        return self.root / "log.txt"

    @property
    def splits_path(self) -> Path:
        return self.root / "splits.json"

    @property
    def findings_path(self) -> Path:
        return self.root / "findings.json"

    @property
    def duplicates_path(self) -> Path:
        """Groups of images that are nearly the same, where they were looked for."""
        return self.root / "duplicates.json"

    @property
    def plan_path(self) -> Path:
        return self.root / "plan.yaml"

    @property
    def prepared_folder(self) -> Path:
        return self.root / "prepared"

    @property
    def scores_path(self) -> Path:
        return self.root / "scores.csv"

    @property
    def summary_path(self) -> Path:
        return self.root / "summary.json"

    @property
    def report_path(self) -> Path:
        return self.root / "report" / "index.html"

    def prepared(self, case: str, kind: str = "image") -> Path:
        """`kind` is image, label, edge, or bias: the shading of the file's grid, where it is corrected."""
        return self.prepared_folder / case / f"{kind}.nii.gz"

    def label_file(self, case: str) -> Path:
        """The label of a case whose own is no label map on the image's grid, such as DICOM-SEG."""
        return self.root / "labels" / f"{case}.nii.gz"

    def pool_generator(self) -> Path:
        """Folder of the generator pre-trained on the pool, common to all folds."""
        return self.root / "diffusion" / "pool"

    def codec(self, fold: int | None) -> Path:
        """Folder of the codec trained on the fold's training-side images; None: on the pool, common to all folds."""
        codecs = self.root / "diffusion" / "codec"
        return codecs if fold is None else codecs / f"fold{fold}"

    def pretrained(self, fold: int) -> Path:
        """Folder of the generator pre-trained on the fold's training-side images (so that no test image is seen)."""
        return self.root / "diffusion" / "pretrained" / f"fold{fold}"

    def finetuned(self, fold: int) -> Path:
        return self.root / "diffusion" / f"fold{fold}"

    def pix2pix(self, fold: int) -> Path:
        """Folder of the GAN that translates edges of the fold into images."""
        return self.root / "pix2pix" / f"fold{fold}"

    def refiner(self, fold: int) -> Path:
        """Folder of the 3D network that goes over synthetic volumes of the fold."""
        return self.root / "diffusion" / "refiner" / f"fold{fold}"

    def synthetic(self, fold: int) -> Path:
        return self.root / "synthetic" / self.synthetic_set / f"fold{fold}"

    def synthetic_volume(self, fold: int, case: str, sample: int, ending: str) -> Path:
        return self.synthetic(fold) / case / f"{sample:02d}{ending}"

    def synthetic_record(self, fold: int, case: str, sample: int) -> Path:
        return self.synthetic(fold) / case / f"{sample:02d}.json"

    def exported(self, form: str) -> Path:
        """Folder for data sets made for other programs; `form` is nnunet or msd."""
        return self.root / "export" / form

    def synthetic_label(self, fold: int, case: str, sample: int, ending: str) -> Path:
        """Of a volume that has a label of its own, since its anatomy isn't that of its case."""
        return self.synthetic(fold) / case / f"{sample:02d}_label{ending}"

    def anatomy(self, fold: int, case: str, sample: int) -> Path:
        """The warp of one sample of a case, common to synthesis and the arms that use it without."""
        return self.root / "anatomy" / self.synthetic_set / f"fold{fold}" / case / f"{sample:02d}.safetensors"

    def registration(self, case: str, other: str) -> Path:
        """The velocity field that registers a case to another, common to all folds."""
        return self.root / "anatomy" / "registrations" / case / f"{other}.safetensors"

    def rejected_volume(self, fold: int, case: str, sample: int, attempt: int, ending: str) -> Path:
        """Of a draw that the gate has refused."""
        return self.synthetic(fold) / case / "rejected" / f"{sample:02d}-{attempt}{ending}"

    def rejected_record(self, fold: int, case: str, sample: int, attempt: int) -> Path:
        return self.rejected_volume(fold, case, sample, attempt, ".json")

    def gate(self, fold: int) -> Path:
        """Folder of what synthetic volumes of the fold are judged by."""
        return self.root / "gate" / self.synthetic_set / f"fold{fold}"

    def gate_part(self, fold: int, part: int) -> Path:
        """Folder of the segmenter that judges a part of the training patients; all sets have the same ones."""
        return self.root / "gate" / f"fold{fold}" / f"part{part}"

    def gate_reference(self, fold: int, case: str) -> Path:
        """How much samples of a validation case share with what they started from."""
        return self.gate(fold) / "references" / f"{case}.json"

    def segmenter(self, fold: int, arm: str, seed: int) -> Path:
        return self.root / "segmentation" / f"fold{fold}" / arm / f"seed{seed}"

    def prediction(self, fold: int, arm: str, seed: int, case: str, ending: str) -> Path:
        return self.segmenter(fold, arm, seed) / "predictions" / f"{case}{ending}"

    def postprocessing(self, fold: int, arm: str, seed: int) -> Path:
        """For which labels a segmenter's validation cases say that the largest component is to be kept."""
        return self.segmenter(fold, arm, seed) / "postprocessing.json"

    def config_path(self, stage: str) -> Path:
        return self.root / "config" / f"{stage}.yaml"

    def source(self, manifest: Manifest, relative: str) -> Path:
        """A file of the user's data folder; `relative` as in `Case.image`. The workspace may be reached by a link."""
        return self.root.resolve() / manifest.source / relative

    def relative(self, path: Path) -> str:
        """`path` as seen from the workspace, for records."""
        return os.path.relpath(path, self.root)

    # --- opening -----------------------------------------------------------------------------------------------------
    @contextmanager
    def opened(self, main_process: bool = True, clear: bool = True) -> Iterator[None]:
        """Make the folder, take its lock (main process), and clear what a killed run left half-written.

        Args:
            clear: false where others may be writing below this folder.

        Raises:
            WorkspaceError: the folder can't be written, or another run holds it.
        """
        self.main = main_process
        if not main_process:
            yield
            return
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock = (self.root / ".lock").open("w")
        except OSError as error:
            raise WorkspaceError(
                f"workspace {self.root} can't be written ({error.strerror}); choose another"
            ) from error
        with lock:
            _lock(lock, self.root)
            if clear:
                remove_partial(self.root)
            try:
                yield
            except ConfigError:
                self._restore_records()
                raise

    def log(self, line: str) -> None:
        """Print a line (above any progress bar) and keep it in log.txt."""
        if not self.main:
            return
        from tqdm import tqdm

        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()
        with self.log_path.open("a", encoding="utf-8") as file:
            file.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {line}\n")

    # --- records -----------------------------------------------------------------------------------------------------
    def read_manifest(self) -> Manifest:
        """Raises WorkspaceError where `prepare` has not run."""
        return Manifest.from_json(self._read(self.manifest_path, "prepare"))

    def write_manifest(self, manifest: Manifest) -> None:
        write_json(self.manifest_path, manifest.to_json())

    def read_splits(self) -> list[Split]:
        """One split a fold. Raises WorkspaceError where `prepare` has not run."""
        return [Split.from_json(value) for value in self._read(self.splits_path, "prepare")]

    def read_split(self, fold: int) -> Split:
        """The split of one fold. Raises WorkspaceError where there are fewer folds."""
        splits = self.read_splits()
        if fold >= len(splits):
            raise WorkspaceError(f"there is no fold {fold}: {self.splits_path} has folds 0 to {len(splits) - 1}")
        return splits[fold]

    def write_splits(self, splits: Sequence[Split]) -> None:
        write_json(self.splits_path, [dataclasses.asdict(split) for split in splits])

    def _read(self, path: Path, stage: str) -> Any:
        if not path.is_file():
            raise WorkspaceError(f"{path} is missing: run `diffboost3d {stage}` with this workspace first")
        return json.loads(path.read_text(encoding="utf-8"))

    def is_current(self, folder: Path, digest: str) -> bool:
        """Whether `folder` holds a finished result of just this configuration and input; a stale one is said so."""
        path = folder / RECORD
        try:
            if json.loads(path.read_text(encoding="utf-8"))["digest"] == digest:
                return True
        except FileNotFoundError:
            return self._borrow(folder, digest)
        if self._borrow(folder, digest):
            return True
        if self.main:
            self.log(f"{self.relative(folder)} is of another configuration or input: it is made anew")
            self._set_aside[path] = path.read_text(encoding="utf-8")
            path.unlink()
        return False

    def _restore_records(self) -> None:
        """Give stale results that nothing has taken the place of their records back: a refused command changes nothing."""
        for path, text in self._set_aside.items():
            if not path.exists():
                write_text(path, text)
                self.log(f"{self.relative(path.parent)} is left as it was")

    def _borrow(self, folder: Path, digest: str) -> bool:
        """Link the finished result that a lender has under the same name and with this digest, if any."""
        for lender in self._lenders:
            lent = lender / self.relative(folder)
            try:
                has = json.loads((lent / RECORD).read_text(encoding="utf-8"))["digest"]
            except FileNotFoundError:
                continue
            if has == digest:
                link_folder(lent, folder)
                self.log(f"{self.relative(folder)}: the same as in {self.relative(lender)}, linked")
                return True
        return False

    def require(self, folder: Path, stage: str) -> dict[str, Any]:
        """The record of a finished result. Raises WorkspaceError naming the stage to run where there is none."""
        record: dict[str, Any] = self._read(folder / RECORD, stage)
        return record

    def finish(self, folder: Path, stage: str, digest: str, started: str, **facts: Any) -> None:
        """Write the resolved configuration beside a result and, last, the record that makes it finished."""
        write_text(folder / CONFIG, self._config)
        write_json(
            folder / RECORD,
            {"stage": stage, "digest": digest, "started": started, "ended": now(), **facts, "versions": versions()},
        )

    # --- scores ------------------------------------------------------------------------------------------------------
    def write_scores(self, scores: Sequence[Score]) -> None:
        """All scores as one tidy CSV."""
        with replacing(self.scores_path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([field.name for field in dataclasses.fields(Score)])
            for score in scores:
                writer.writerow([f"{x:.6g}" if isinstance(x, float) else x for x in dataclasses.astuple(score)])

    def read_scores(self) -> list[Score]:
        """Raises WorkspaceError where `evaluate` has not run."""
        if not self.scores_path.is_file():
            raise WorkspaceError(f"{self.scores_path} is missing: run `diffboost3d evaluate` with this workspace first")
        kinds = {"fold": int, "seed": int, "value": float}
        with self.scores_path.open(newline="", encoding="utf-8") as file:
            return [Score(**{k: kinds.get(k, str)(v) for k, v in row.items()}) for row in csv.DictReader(file)]

    def write_config(self, stage: str | None, text: str) -> None:
        """Keep the resolved configuration of a stage; None: only beside the results."""
        self._config = text
        if self.main and stage is not None:
            write_text(self.config_path(stage), text)


def _lock(file: Any, root: Path) -> None:
    """Hold the workspace until the process ends, in whatever way."""
    try:
        import fcntl
    except ImportError:  # Windows: two runs on one workspace are then the user's care
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise WorkspaceError(f"workspace {root} is in use by another run; wait for it or choose another") from error


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Installed versions of the packages that shape results."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found

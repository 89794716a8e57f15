"""The recipes of sets of volumes, on tiny downloads of the same layout with the faults that downloads have."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from recipe_files import load

from diffboost3d.cases.layouts import read_folder
from diffboost3d.cases.splits import patients_of
from diffboost3d.config import compose


@dataclass(frozen=True)
class Download:
    """A tiny download of a data set with one fault of each kind, and what its recipe makes of it.

    Attributes:
        folder: inside the archive. ready: file names that come out. faults: word of the complaint by part of the case's name.
        counts: lines that the recipe prints.
    """

    recipe: str
    folder: str
    make: Callable[[Path], None]
    ready: tuple[str, ...]
    faults: dict[str, str]
    counts: tuple[str, ...]


def _msd(labels: dict[str, str], channels: int = 1) -> Callable[[Path], None]:
    """Six cases in MSD layout; 001 has no image, 002 no label, 003 a float label, 004 NaN, or one channel too few."""

    def make(root: Path) -> None:
        entries = []
        for number in range(6):
            random = np.random.default_rng(number)
            image = random.normal(100, 20, (6, 5, 4, channels)).astype(np.float32)
            label = random.integers(0, len(labels), image.shape[:3]).astype(np.float32 if number == 3 else np.uint8)
            if number == 4:
                image = np.full_like(image, np.nan) if channels == 1 else image[..., :1]
            image = image[..., 0] if image.shape[3] == 1 else image
            name = f"ct_{number:03d}.nii.gz"
            for part, array in (("images", image), ("labels", label)):
                (root / f"{part}Tr").mkdir(parents=True, exist_ok=True)
                nib.save(nib.Nifti1Image(array, np.diag([0.8, 0.8, 5.0, 1.0])), root / f"{part}Tr" / name)
            entries.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
        facts = {"name": root.name, "labels": labels, "licence": "CC-BY-SA 4.0", "training": entries, "test": ["x"]}
        (root / "dataset.json").write_text(json.dumps(facts))
        (root / "imagesTr" / "ct_001.nii.gz").unlink()
        (root / "labelsTr" / "ct_002.nii.gz").unlink()

    return make


def _acdc(root: Path) -> None:
    """Patients 001 to 004 and 101: 002 lacks a label, 003 a number, of 004 a label lies on another grid."""
    for number in (1, 2, 3, 4, 101):
        name = f"patient{number:03d}"
        folder = root / ("testing" if number > 100 else "training") / name
        folder.mkdir(parents=True)
        systole = "" if number == 3 else f"ES: {number % 9 + 4}\n"
        (folder / "Info.cfg").write_text(f"ED: 1\n{systole}Group: DCM\nHeight: 184.0\nNbFrame: 30\n")
        random = np.random.default_rng(number)
        for frame in (1, number % 9 + 4):
            spacing = np.diag([1.4, 1.4, 8.0 + number % 3, 1.0])
            image = random.integers(0, 300, (10, 12, 4)).astype(np.int16)
            nib.save(nib.Nifti1Image(image, spacing), folder / f"{name}_frame{frame:02d}.nii.gz")
            if (number, frame) == (4, 8):
                spacing[0, 3] = 5.0
            label = random.integers(0, 4, image.shape).astype(np.uint8)
            nib.save(nib.Nifti1Image(label, spacing), folder / f"{name}_frame{frame:02d}_gt.nii.gz")
    (root / "training" / "patient002" / "patient002_frame06_gt.nii.gz").unlink()


MSD_READY = tuple(f"ct_00{number}.nii.gz" for number in (0, 2, 3, 5))
MSD_FAULTS = {"001": "no such file", "002": "missing", "003": "float32"}
DOWNLOADS = [
    Download(
        "msd_hippocampus",
        "Task04_Hippocampus",
        _msd({"0": "background", "1": "Anterior", "2": "Posterior"}),
        MSD_READY,
        {**MSD_FAULTS, "004": "NaN"},
        (
            "4 of 6 listed cases are usable, in 3 runs of consecutive numbers",
            "3 labelled cases",
            "! documented are 260 labelled cases, 3 are here; is the download complete?",
            "labels are stored 1 as float32, 2 as uint8",
        ),
    ),
    Download(
        "msd_spleen",
        "Task09_Spleen",
        _msd({"0": "background", "1": "spleen"}),
        MSD_READY,
        {**MSD_FAULTS, "004": "NaN"},
        ("4 of 6 listed cases are usable", "! documented are 41 labelled cases, 3 are here; is the download complete?"),
    ),
    Download(
        "msd_prostate",
        "Task05_Prostate",
        _msd({"0": "background", "1": "PZ", "2": "TZ"}, channels=2),
        MSD_READY,
        {**MSD_FAULTS, "004": "6x5x4"},
        ("4 of 6 listed cases are usable", "! documented are 32 labelled cases, 3 are here; is the download complete?"),
    ),
    Download(
        "cardiac",
        "database",
        _acdc,
        tuple(f"patient{name}.nii.gz" for name in ("001_ED", "001_ES", "002_ED", "003_ED", "004_ED")),
        {"002_ES": "frame06_gt", "003_ES": "Info.cfg", "004_ES": "another grid"},
        (
            "4 patients",
            "! documented are 100 patients, 4 are here; is the download complete?",
            "voxels of 1.40 to 1.40 x 1.40 to 1.40 x 8.00 to 10.00 mm",
        ),
    ),
]


@pytest.fixture(scope="module", params=DOWNLOADS, ids=lambda one: one.recipe)
def download(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Download, Path]:
    """A download, and its unpacked folder, which no test may change."""
    root = tmp_path_factory.mktemp("download") / request.param.folder
    root.mkdir(parents=True)
    request.param.make(root)
    return request.param, root


def _files(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class TestRecipesOfVolumes:
    def test_make_a_ready_folder_of_the_usable_cases_byte_for_byte(
        self, download: tuple[Download, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        wanted, root = download
        target = tmp_path / "ready"
        assert load(wanted.recipe).main([str(root), str(target)]) == 0
        pairs = read_folder(target, "msd").pairs
        assert tuple(pair.image.name for pair in pairs) == wanted.ready
        made, given = _files(target), set(_files(root).values())
        volumes = {name: digest for name, digest in made.items() if name.endswith(".nii.gz")}
        assert set(volumes.values()) <= given
        listed = dict(reversed(line.split("  ")) for line in (target / "checksums.sha256").read_text().splitlines())
        assert listed == volumes
        facts = json.loads((target / "dataset.json").read_text())
        assert facts["numTraining"] == len(wanted.ready)
        said = capsys.readouterr().out.splitlines()
        for case, word in wanted.faults.items():
            assert sum(line.startswith("! ") and case in line and word in line for line in said) == 1
        assert set(wanted.counts) <= set(said)

    def test_a_dry_run_checks_and_writes_nothing(self, download: tuple[Download, Path], tmp_path: Path) -> None:
        wanted, root = download
        before = _files(root)
        assert load(wanted.recipe).main([str(root), str(tmp_path / "ready"), "--dry-run"]) == 0
        assert _files(root) == before
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("kind", ["tar", "gztar", "zip"])
    def test_an_archive_gives_what_its_folder_gives(
        self, download: tuple[Download, Path], kind: str, tmp_path: Path
    ) -> None:
        wanted, root = download
        if kind != {"cardiac": "zip", "msd_spleen": "gztar"}.get(wanted.recipe, "tar"):
            pytest.skip("one kind of archive a recipe")
        archive = shutil.make_archive(str(tmp_path / "packed"), kind, root.parent)
        main = load(wanted.recipe).main
        assert main([str(root), str(tmp_path / "one")]) == main([archive, str(tmp_path / "other")]) == 0
        assert _files(tmp_path / "one") == _files(tmp_path / "other")
        assert not list(tmp_path.glob(".unpacked-*"))

    def test_checksums_of_an_earlier_ready_folder_are_compared(
        self, download: tuple[Download, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        wanted, root = download[0], shutil.copytree(download[1], tmp_path / "download")
        main = load(wanted.recipe).main
        main([str(root), str(tmp_path / "ready")])
        again = [
            str(root),
            str(tmp_path / "again"),
            "--dry-run",
            "--checksums",
            str(tmp_path / "ready/checksums.sha256"),
        ]
        assert main(again) == 0
        assert "files have the checksums of" in capsys.readouterr().out
        pair = read_folder(tmp_path / "ready").pairs[0]
        digest = hashlib.sha256(pair.image.read_bytes()).hexdigest()
        changed = next(path for path in root.rglob("*.nii.gz") if _digest(path) == digest)
        image = nib.load(changed)
        nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj)[::-1], image.affine), changed)
        assert main(again) == 1
        assert f"imagesTr/{pair.image.name} has another content; 1 of" in capsys.readouterr().err

    @pytest.mark.parametrize("fault", ["cut off", "nothing in it", "target is source", "absent", "no checksums"])
    def test_refuse_in_one_line(
        self, fault: str, download: tuple[Download, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        wanted, root = download
        source, target, more = root, tmp_path / "ready", []
        if fault == "cut off":
            source = tmp_path / "packed.tar"
            source.write_bytes(b"half a tar")
        elif fault == "nothing in it":
            source = tmp_path / "empty"
            source.mkdir()
        elif fault == "target is source":
            target = root
        elif fault == "absent":
            source = tmp_path / "absent.tar"
        else:
            more = ["--checksums", str(tmp_path / "absent")]
        assert load(wanted.recipe).main([str(source), str(target), *more]) == 1
        assert len(capsys.readouterr().err.splitlines()) == 1
        assert not (tmp_path / "ready" / "dataset.json").exists()


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_dataset_json_keeps_what_the_download_says(tmp_path: Path) -> None:
    root, target = tmp_path / "Task09_Spleen", tmp_path / "ready"
    DOWNLOADS[1].make(root)
    load("msd_spleen").main([str(root), str(target)])
    before, after = (json.loads((folder / "dataset.json").read_text()) for folder in (root, target))
    assert [after[key] for key in ("name", "labels", "licence")] == [
        before[key] for key in ("name", "labels", "licence")
    ]
    assert {"image": "./imagesTr/ct_002.nii.gz"} in after["training"]  # unlabelled: its image still teaches


@pytest.mark.parametrize(("recipe", "channels"), [("msd_spleen", 1), ("msd_prostate", 2)])
def test_a_case_in_which_there_is_nothing_to_find_is_taken_as_prepare_takes_it(
    recipe: str, channels: int, tmp_path: Path
) -> None:
    labels = {"0": "background", "1": "PZ", "2": "TZ"} if channels == 2 else {"0": "background", "1": "spleen"}
    _msd(labels, channels)(tmp_path / "download")
    label = tmp_path / "download" / "labelsTr" / "ct_000.nii.gz"
    image = nib.load(label)
    nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), label)
    assert load(recipe).main([str(tmp_path / "download"), str(tmp_path / "ready")]) == 0
    assert (tmp_path / "ready" / "labelsTr" / label.name).is_file()


def test_the_official_test_patients_of_acdc_come_on_request(tmp_path: Path) -> None:
    _acdc(tmp_path / "acdc")
    load("cardiac").main([str(tmp_path / "acdc"), str(tmp_path / "ready"), "--testing"])
    ids = [pair.id for pair in read_folder(tmp_path / "ready").pairs]
    assert ids[-2:] == ["patient101_ED", "patient101_ES"]
    patients = patients_of(ids, compose(["data=cardiac"]).data.patients)
    assert patients["patient101_ED"] == patients["patient101_ES"] == "patient101"


@pytest.mark.parametrize("name", ["../out.txt", "/tmp/out.txt"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_that_writes_outside_its_folder_is_refused(
    name: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = tmp_path / "in" / f"bad.{kind}"
    archive.parent.mkdir()
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as packed:
            packed.writestr(name, "x")
    else:
        with tarfile.open(archive, "w") as packed_tar:
            packed_tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    assert load("cardiac").main([str(archive), str(tmp_path / "in" / "ready")]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "out.txt").exists()


def test_the_published_md5_is_told_from_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = load("recipe")
    (tmp_path / "a.tar").write_bytes(b"abc")
    recipe.check_archive(tmp_path / "a.tar", "900150983cd24fb0d6963f7d28e17f72")  # of RFC 1321
    recipe.check_archive(tmp_path / "a.tar", "0" * 32)
    first, second = capsys.readouterr().out.splitlines()
    assert "as published" in first
    assert second.startswith("! ")

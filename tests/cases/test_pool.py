"""The pool's index: each file once, its part by its path alone, looked up without memory; prompts from folder names."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from diffboost3d.cases.pool import PoolIndex, open_pool
from diffboost3d.cases.prompts import modality_of, prompt_of, read_abbreviations
from diffboost3d.config import configs_folder
from diffboost3d.errors import DataError

SHIPPED = configs_folder() / "pool" / "abbreviations.yaml"
LONG_AGO = 1_600_000_000


def grow(root: Path, paths: list[str]) -> Path:
    """Empty files at these paths, in folders that changed long ago (so that a later change shows on any clock)."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    for folder, _, _ in os.walk(root):
        os.utime(folder, (LONG_AGO, LONG_AGO))
    return root


def names(modality: str, count: int, finding: str = "brain/tumor") -> list[str]:
    return [f"{modality}/{finding}/{number:04d}.png" for number in range(count)]


def every_path(index: PoolIndex, modality: str) -> list[str]:
    return [
        index.path(modality, number, part)
        for part in ("training", "held_out")
        for number in range(index.count(modality, part))
    ]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return grow(tmp_path / "pool", [*names("MR", 300), *names("CT", 30, "abd/normal"), *names("US", 3, "gb")])


class TestListing:
    def test_every_file_is_found_once(self, root: Path, tmp_path: Path) -> None:
        index = open_pool(root, tmp_path / "index", held_out=0.2)
        assert index.modalities == ("CT", "MR", "US")
        found = [path for modality in index.modalities for path in every_path(index, modality)]
        assert sorted(found) == sorted(str(path.relative_to(root)) for path in root.rglob("*.png"))
        assert (tmp_path / "index" / "paths.txt").read_text().splitlines() == sorted(found)

    def test_counts_by_modality_and_anatomy(self, root: Path, tmp_path: Path) -> None:
        index = open_pool(root, tmp_path / "index")
        assert index.count() + index.count(part="held_out") == index.facts["files"] == 333
        assert {name: facts["anatomies"] for name, facts in index.facts["modalities"].items()} == {
            "CT": {"abd": 30},
            "MR": {"brain": 300},
            "US": {"gb": 3},
        }
        assert "333 images (30 CT, 300 MR, 3 US)" in index.summary()

    def test_other_kinds_and_hidden_files_are_counted_not_listed(self, root: Path, tmp_path: Path) -> None:
        grow(root, ["labels.csv", "MR/readme.txt", "MR/._0001.png", "MR/brain/notes", "MR/brain/two\nlines.png"])
        (root / "MR" / "gone.png").symlink_to(root / "nowhere.png")
        index = open_pool(root, tmp_path / "index")
        assert index.facts["files"] == 333
        assert index.facts["ignored"] == {
            ".csv": 1, ".txt": 1, "hidden": 1, "without ending": 1, "of unprintable name": 1, "broken links": 1,
        }  # fmt: skip

    def test_linked_files_and_folders_count_but_not_a_circle(self, root: Path, tmp_path: Path) -> None:
        (root / "XR").symlink_to(grow(tmp_path / "elsewhere", ["chest/0.jpg", "chest/1.JPEG"]))
        (root / "MR" / "again").symlink_to(root / "MR")
        index = open_pool(root, tmp_path / "index")
        assert sorted(every_path(index, "XR")) == ["XR/chest/0.jpg", "XR/chest/1.JPEG"]
        assert index.facts["modalities"]["MR"]["files"] == 300
        assert index.facts["ignored"] == {"circular links": 1}

    def test_folders_deeper_or_shallower_than_findings_are_taken(self, tmp_path: Path) -> None:
        paths = ["CT/a.dcm", "CT/lung/b.nii.gz", "CT/lung/x/y/z/c.nii"]
        index = open_pool(grow(tmp_path / "pool", paths), tmp_path / "index", held_out=0.0)
        assert sorted(every_path(index, "CT")) == paths

    def test_a_copy_elsewhere_has_the_same_digest_and_another_listing_another(self, root: Path, tmp_path: Path) -> None:
        copy = grow(tmp_path / "copy", [str(path.relative_to(root)) for path in root.rglob("*.png")])
        first, second = open_pool(root, tmp_path / "index"), open_pool(copy, tmp_path / "other")
        assert first.digest == second.digest
        (copy / "US" / "gb" / "0000.png").rename(copy / "US" / "gb" / "new.png")
        assert open_pool(copy, tmp_path / "other").digest != first.digest

    @pytest.mark.parametrize(
        ("paths", "said"),
        [
            ([], "no images found"),
            (["MR/brain/readme.txt"], "no images found among 1 files"),
            (["a.png", "b.png"], "its 2 images lie in no modality folder"),
        ],
    )
    def test_nothing_to_list_is_said_in_one_line(self, paths: list[str], said: str, tmp_path: Path) -> None:
        (tmp_path / "pool").mkdir()
        with pytest.raises(DataError, match=said) as raised:
            open_pool(grow(tmp_path / "pool", paths), tmp_path / "index")
        assert "\n" not in str(raised.value)
        assert not (tmp_path / "index").exists()

    def test_a_missing_folder_and_an_index_inside_the_pool_are_refused(self, root: Path, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no such folder"):
            open_pool(tmp_path / "nowhere", tmp_path / "index")
        with pytest.raises(DataError, match="inside the pool"):
            open_pool(root, root / "index")


class TestParts:
    def test_a_file_keeps_its_side_when_others_come(self, root: Path, tmp_path: Path) -> None:
        before = open_pool(root, tmp_path / "index", held_out=0.3)
        held_out = {before.path("MR", number, "held_out") for number in range(before.count("MR", "held_out"))}
        grow(root, names("MR", 300, "knee/tear"))
        after = open_pool(root, tmp_path / "index", held_out=0.3, refresh=True)
        kept = {after.path("MR", number, "held_out") for number in range(after.count("MR", "held_out"))}
        assert {path for path in kept if "tumor" in path} == held_out

    @pytest.mark.parametrize("share", [0.0, 0.05, 0.5])
    def test_the_share_is_held_out(self, share: float, tmp_path: Path) -> None:
        index = open_pool(grow(tmp_path / "pool", names("MR", 2000)), tmp_path / "index", share)
        assert index.count(part="held_out") / 2000 == pytest.approx(share, abs=0.03)
        training = {index.path("MR", number) for number in range(index.count("MR"))}
        assert not training & {index.path("MR", n, "held_out") for n in range(index.count("MR", "held_out"))}

    @pytest.mark.parametrize("number", [-1, 10**6])
    def test_a_number_beyond_the_end_is_refused(self, number: int, root: Path, tmp_path: Path) -> None:
        with pytest.raises(IndexError, match="no number"):
            open_pool(root, tmp_path / "index").path("MR", number)


class TestRefresh:
    def test_an_unchanged_pool_is_not_listed_again(self, root: Path, tmp_path: Path) -> None:
        open_pool(root, tmp_path / "index")
        before = (tmp_path / "index" / "index.json").stat().st_ino
        open_pool(root, tmp_path / "index")
        assert (tmp_path / "index" / "index.json").stat().st_ino == before

    @pytest.mark.parametrize("change", ["added", "removed", "new folder", "another share", "asked for", "cut off"])
    def test_a_changed_pool_is_listed_again(self, change: str, root: Path, tmp_path: Path) -> None:
        open_pool(root, tmp_path / "index")
        held_out, expected = 0.02, 333
        if change == "added":
            (root / "US" / "gb" / "new.png").touch()
            expected = 334
        elif change == "removed":
            (root / "MR" / "brain" / "tumor" / "0007.png").unlink()
            expected = 332
        elif change == "new folder":
            (root / "MR" / "hip").mkdir()
            (root / "MR" / "hip" / "new.png").touch()
            expected = 334
        elif change == "another share":
            held_out = 0.5
        elif change == "cut off":
            (tmp_path / "index" / "index.json").write_text('{"version": 1')
        else:
            (tmp_path / "index" / "paths.txt").write_text("spoilt")
        index = open_pool(root, tmp_path / "index", held_out, refresh=change == "asked for")
        assert index.facts["files"] == expected
        assert len((tmp_path / "index" / "paths.txt").read_text().splitlines()) == expected
        assert index.facts["held_out"] == held_out


class TestDrawing:
    def test_modalities_are_drawn_alike_or_by_their_files(self, root: Path, tmp_path: Path) -> None:
        index = open_pool(root, tmp_path / "index", held_out=0.0)
        for balance, expected in (("modality", [1 / 3, 1 / 3, 1 / 3]), ("file", [30 / 333, 300 / 333, 3 / 333])):
            random = np.random.default_rng(0)
            drawn = [index.draw(random, balance).partition("/")[0] for _ in range(1500)]
            shares = [drawn.count(modality) / 1500 for modality in index.modalities]
            assert shares == pytest.approx(expected, abs=0.05)

    def test_every_file_of_a_modality_can_be_drawn(self, root: Path, tmp_path: Path) -> None:
        index = open_pool(root, tmp_path / "index", held_out=0.0)
        random = np.random.default_rng(0)
        drawn = {index.draw(random) for _ in range(1500)}
        assert len([path for path in drawn if path.startswith("CT")]) == 30

    def test_a_modality_without_files_in_a_part_is_left_out(self, root: Path, tmp_path: Path) -> None:
        index = open_pool(root, tmp_path / "index", held_out=0.02)
        present = {name for name in index.modalities if index.count(name, "held_out")}
        random = np.random.default_rng(0)
        assert {index.draw(random, "modality", "held_out").partition("/")[0] for _ in range(300)} == present
        assert "US" not in present  # by the hashes of its three paths

    def test_equal_generators_draw_equal_paths(self, root: Path, tmp_path: Path) -> None:
        index = open_pool(root, tmp_path / "index")
        first, again = ([index.draw(np.random.default_rng(seed)) for seed in range(20)] for _ in range(2))
        assert first == again


def report_many(arguments: tuple[PoolIndex, int]) -> None:
    index, start = arguments
    for number in range(40):
        index.report_skipped(f"MR/brain/{(start + number) % 40:02d}.png", "damaged\nbeyond repair")


class TestSkipped:
    def test_several_processes_list_each_file_once_on_one_line(self, root: Path, tmp_path: Path) -> None:
        index = open_pool(root, tmp_path / "index")
        with ProcessPoolExecutor(4) as pool:
            list(pool.map(report_many, [(index, start) for start in (0, 10, 20, 30)]))
        lines = (tmp_path / "index" / "skipped.txt").read_text().splitlines()
        assert sorted(lines) == [f"MR/brain/{number:02d}.png\tdamaged beyond repair" for number in range(40)]

    def test_a_name_that_begins_as_another_is_listed_too(self, root: Path, tmp_path: Path) -> None:
        index = open_pool(root, tmp_path / "index")
        for path in ("MR/a.png.png", "MR/a.png", "MR/a.png"):
            index.report_skipped(path, "no")
        assert len((tmp_path / "index" / "skipped.txt").read_text().splitlines()) == 2

    def test_the_list_stays_short(self, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("diffboost3d.cases.pool.SKIPPED_AT_MOST", 3)
        index = open_pool(root, tmp_path / "index")
        for number in range(9):
            index.report_skipped(f"MR/{number}.png", "no")
        assert len((tmp_path / "index" / "skipped.txt").read_text().splitlines()) == 3


class TestMemory:
    def test_a_worker_is_sent_two_paths_not_the_listing(self, root: Path, tmp_path: Path) -> None:
        index = open_pool(root, tmp_path / "index")
        sent = pickle.dumps(index)
        assert len(sent) < 600
        assert pickle.loads(sent).path("MR", 17) == index.path("MR", 17)

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak memory as Linux counts it")
    def test_an_index_of_a_million_files_costs_no_memory(self, tmp_path: Path) -> None:
        folder, lines = tmp_path / "index", 1_000_000
        folder.mkdir()
        line = b"MR/brain/pituitary_tumor_of_a_long_name/%07d.png\n"
        (folder / "paths.txt").write_bytes(b"".join(line % number for number in range(lines)))
        np.save(folder / "offsets.npy", np.arange(lines, dtype=np.int64) * len(line % 0))
        facts = {"modalities": {"MR": {"files": lines, "training": [0, lines], "held_out": [lines, 0]}}, "digest": ""}
        (folder / "index.json").write_text(json.dumps(facts))
        code = (
            "import re, sys; from pathlib import Path; import numpy as np;"
            "from diffboost3d.cases.pool import PoolIndex;"
            "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1]);"
            "before, random = peak(), np.random.default_rng(0);"
            "index = PoolIndex(Path('.'), Path(sys.argv[1]));"
            "[index.draw(random) for _ in range(20000)];"
            "print(peak() - before)"
        )
        done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
        assert int(done.stdout) < 16 * 1024  # kB; the paths alone are 50 MB on disk, the offsets 8 MB


class TestPrompts:
    @pytest.mark.parametrize(
        ("path", "prompt"),
        [
            ("MR/brain/pituitary_tumor/x.png", "brain, pituitary tumor, MRI"),
            ("mr/af/achilles_pathology_/x.png", "ankle and foot, achilles pathology, MRI"),
            ("CT/abd/normal/x.png", "abdomen and pelvis, normal, CT"),
            ("US/gb/x.png", "gallbladder, Ultrasound"),
            ("XR/chest/left/old/x.png", "chest, left, old, X-ray"),
            ("OCT/x.png", "OCT"),
        ],
    )
    def test_reads_anatomy_finding_modality(self, path: str, prompt: str) -> None:
        assert prompt_of(path, read_abbreviations(SHIPPED)) == prompt

    def test_a_meaning_holds_for_its_level_only(self) -> None:
        table = {"anatomy": {"us": "upper spine"}, "modality": {"us": "Ultrasound"}}
        assert prompt_of("US/us/us/x.png", table) == "upper spine, us, Ultrasound"
        assert modality_of("US/us/us/x.png", table) == "Ultrasound"

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("colours: {a: b}", "modality, anatomy, finding"),
            ("anatomy: [af]", "NAME: MEANING"),
            ("anatomy: {a: 1}", "a"),
        ],
    )
    def test_a_table_of_another_form_is_refused(self, text: str, said: str, tmp_path: Path) -> None:
        (tmp_path / "table.yaml").write_text(text)
        with pytest.raises(DataError, match=said):
            read_abbreviations(tmp_path / "table.yaml")

    def test_a_missing_or_damaged_table_is_refused_in_one_line(self, tmp_path: Path) -> None:
        (tmp_path / "table.yaml").write_text("anatomy: [")
        for name in ("table.yaml", "none.yaml"):
            with pytest.raises(DataError) as raised:
                read_abbreviations(tmp_path / name)
            assert "\n" not in str(raised.value)

    def test_an_empty_table_changes_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "table.yaml").write_text("anatomy:\n")
        assert prompt_of("MR/hip/x.png", read_abbreviations(tmp_path / "table.yaml")) == "hip, MR"


@pytest.mark.real_data
def test_the_real_pool_is_listed_and_named(real_data: Path, tmp_path: Path) -> None:
    index = open_pool(real_data / "pretrain2d", tmp_path / "index")
    assert index.modalities == ("CT", "MR", "US")
    assert index.facts["files"] == 960
    random, table = np.random.default_rng(0), read_abbreviations(SHIPPED)
    prompts = {prompt_of(index.draw(random), table) for _ in range(400)}
    assert {"brain, pituitary tumor, MRI", "breast, malignant, Ultrasound", "abdomen, torso, CT"} <= prompts


class TestPatients:
    """Files of a patient are all held out or all trained on."""

    PATIENTS = tuple(f"MR/brain/tumor/P{patient:02d}_{number:02d}.png" for patient in range(60) for number in range(10))

    def parts(self, index: PoolIndex) -> list[set[str]]:
        return [
            {index.path("MR", at, part) for at in range(index.count("MR", part))} for part in ("training", "held_out")
        ]

    @pytest.mark.parametrize("pattern", [r"/(P\d+)_", r"P\d+"])
    def test_no_patient_is_in_both_parts(self, pattern: str, tmp_path: Path) -> None:
        index = open_pool(grow(tmp_path / "pool", list(self.PATIENTS)), tmp_path / "index", 0.3, pattern)
        training, held_out = ({path.split("_")[0] for path in part} for part in self.parts(index))
        assert held_out
        assert not training & held_out
        assert len(training | held_out) == 60

    def test_without_a_match_each_file_is_a_patient_of_its_own(self, tmp_path: Path) -> None:
        root = grow(tmp_path / "pool", list(self.PATIENTS))
        alone = self.parts(open_pool(root, tmp_path / "one", 0.3))
        assert self.parts(open_pool(root, tmp_path / "two", 0.3, r"subject-\d+")) == alone

    def test_an_empty_match_names_nobody(self, tmp_path: Path) -> None:
        root = grow(tmp_path / "pool", list(self.PATIENTS))
        alone = self.parts(open_pool(root, tmp_path / "one", 0.3))
        assert self.parts(open_pool(root, tmp_path / "two", 0.3, r"(X[0-9]+)?")) == alone

    def test_another_pattern_lists_the_pool_anew(self, tmp_path: Path) -> None:
        root = grow(tmp_path / "pool", list(self.PATIENTS))
        first = open_pool(root, tmp_path / "index", 0.3)
        assert open_pool(root, tmp_path / "index", 0.3, r"P\d+").digest != first.digest

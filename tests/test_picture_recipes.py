"""The recipes of sets of pictures, on tiny downloads of the same layout with the faults that downloads have."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from recipe_files import load

from diffboost3d.cases.layouts import read_folder


class TestRadImageNet:
    IMAGES = ("CT/abd/normal/a.png", "MR/af/coalition/b.png", "US/gb/c.png")

    @pytest.fixture
    def tar(self, tmp_path: Path) -> Path:
        """Three images with what else such a download holds."""
        root = tmp_path / "radiology_ai"
        for number, path in enumerate(self.IMAGES):
            (root / path).parent.mkdir(parents=True)
            grey = np.random.default_rng(number).integers(0, 255, (24, 24)).astype(np.uint8)
            Image.fromarray(grey).save(root / path)
        (root / "RadiologyAI_train.csv").write_text("filename,label\n")
        (root / "US" / "gb" / "._c.png").write_text("of another system")
        with tarfile.open(tmp_path / "radimagenet.tar.gz", "w:gz") as archive:
            archive.add(root, root.name)
        return tmp_path / "radimagenet.tar.gz"

    def test_unpacks_the_images_byte_for_byte(self, tar: Path, capsys: pytest.CaptureFixture[str]) -> None:
        pool = tar.parent / "pool"
        for _ in range(2):  # the second run finds all there
            assert load("radimagenet").main([str(tar), str(pool)]) == 0
        found = [path for path in pool.rglob("*") if path.is_file()]
        assert sorted(path.relative_to(pool).as_posix() for path in found) == list(self.IMAGES)
        for path in found:
            assert path.read_bytes() == (tar.parent / "radiology_ai" / path.relative_to(pool)).read_bytes()
        said = capsys.readouterr().out
        assert "3 images (1 CT, 1 MR, 1 US)" in said
        assert "'ankle and foot, coalition, MRI'" in said

    def test_dry_run_counts_and_writes_nothing(self, tar: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert load("radimagenet").main([str(tar), str(tar.parent / "pool"), "--dry-run"]) == 0
        assert "1  US/gb" in capsys.readouterr().out
        assert not (tar.parent / "pool").exists()

    def test_an_unpacked_folder_is_a_pool_as_it_is(self, tar: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert load("radimagenet").main([str(tar.parent)]) == 0
        assert f"diffusion.pool.root={tar.parent / 'radiology_ai'}" in capsys.readouterr().out

    @pytest.mark.parametrize(
        "fault", ["cut off", "no tar", "absent", "no modalities", "folder and target", "tar alone"]
    )
    def test_refuses_in_one_line(self, fault: str, tar: Path, capsys: pytest.CaptureFixture[str]) -> None:
        words = [str(tar), str(tar.parent / "pool")]
        if fault == "cut off":
            tar.write_bytes(tar.read_bytes()[:1000])
        elif fault == "no tar":
            tar.write_bytes(b"half a tar")
        elif fault == "absent":
            tar.unlink()
        elif fault == "no modalities":
            words = [str(tar.parent / "radiology_ai" / "MR")]
        elif fault == "folder and target":
            words = [str(tar.parent / "radiology_ai"), words[1]]
        else:
            words = words[:1]
        assert load("radimagenet").main(words) == 1
        assert len(capsys.readouterr().err.splitlines()) == 1


class TestBusi:
    @pytest.fixture
    def busi(self, tmp_path: Path) -> Path:
        """Two benign pictures, one saved as colour with two masks, a copy of it called malignant, and a normal one."""
        root = tmp_path / "download" / "Dataset_BUSI_with_GT"
        random = np.random.default_rng(0)
        for name, number, masks, seed in (
            ("benign", 1, 2, 5),
            ("benign", 2, 1, 6),
            ("malignant", 1, 1, 5),
            ("normal", 1, 1, 7),
        ):
            grey = np.random.default_rng(seed).integers(0, 256, (40, 52)).astype(np.uint8)
            (root / name).mkdir(parents=True, exist_ok=True)
            stem = root / name / f"{name} ({number})"
            Image.fromarray(np.stack([grey] * 3, -1) if number == 1 else grey).save(f"{stem}.png")
            for one in range(masks):
                mask = np.zeros((40, 52), np.uint8)
                mask[4 + 10 * one : 9 + 10 * one, 3:9] = 255 * (name != "normal")
                Image.fromarray(mask).save(f"{stem}_mask{f'_{one}' if one else ''}.png")
        Image.fromarray(random.integers(0, 256, (10, 12)).astype(np.uint8)).save(root / "benign" / "benign (3).png")
        Image.new("L", (12, 11)).save(root / "benign" / "benign (3)_mask.png")
        return root

    def test_masks_are_joined_at_the_original_size_and_everything_is_counted(
        self, busi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        target = tmp_path / "ready"
        assert load("busi").main([str(busi.parent), str(target)]) == 0
        assert sorted(path.name for path in (target / "images").iterdir()) == [
            "benign_001.png",
            "benign_002.png",
            "malignant_001.png",
            "normal_001.png",
        ]
        mask = np.asarray(Image.open(target / "masks" / "benign_001.png"))
        assert mask.shape == (40, 52)
        assert int((mask == 255).sum()) == 2 * 5 * 6
        folder = read_folder(target)
        assert [pair.stratum for pair in folder.pairs] == ["benign", "benign", "malignant", "normal"]
        first, *_ = (target / "index.csv").read_text().splitlines()[1:]
        digest = hashlib.sha256((busi / "benign" / "benign (1).png").read_bytes()).hexdigest()
        assert first.startswith(f"benign_001.png,benign,52,40,2,60,benign/benign (1).png,{digest},")
        said = capsys.readouterr().out
        assert "benign: 2 of 3 pictures are usable (published: 437)" in said
        assert "another grid than its image (shape 12x10x1 against 12x11x1)" in said
        assert "1 pictures had several masks, which are joined; 1 have an empty one" in said
        assert "  benign_001, malignant_001  (several classes!)" in said

    def test_dry_run_writes_nothing_and_another_folder_is_refused(
        self, busi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert load("busi").main([str(busi), str(tmp_path / "ready"), "--dry-run"]) == 0
        assert not (tmp_path / "ready").exists()
        assert load("busi").main([str(tmp_path / "nothing"), str(tmp_path / "ready")]) == 1
        assert "holds none of benign, malignant, normal" in capsys.readouterr().err

    def test_checksums_of_an_earlier_index_are_compared(
        self, busi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        main = load("busi").main
        main([str(busi), str(tmp_path / "ready")])
        again = [str(busi), str(tmp_path / "again"), "--dry-run", "--checksums"]
        index = tmp_path / "ready" / "index.csv"
        assert main([*again, str(index)]) == 0
        assert "all 4 pictures and their masks have the checksums" in capsys.readouterr().out
        mask = busi / "benign" / "benign (1)_mask_1.png"
        Image.fromarray(255 - np.asarray(Image.open(mask))).save(mask)
        assert main([*again, str(index)]) == 1
        assert "benign/benign (1).png has another content; 1 of 4 files differ" in capsys.readouterr().err
        assert main([*again, str(mask)]) == 1
        assert "can't be read" in capsys.readouterr().err

"""Pictures of a pool: whatever the file, a sample of the asked shapes; the number decides all; bad files are passed over."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from PIL import Image
from torch.utils.data import DataLoader

from diffboost3d.cases.pool import open_pool
from diffboost3d.diffusion.batches import SlicePlan
from diffboost3d.diffusion.codecs import PackingCodec
from diffboost3d.diffusion.pool import PoolDataset, PoolPlan, covering
from diffboost3d.diffusion.text import ByteTokenizer
from diffboost3d.errors import DataError
from diffboost3d.imaging.planes import is_plane_file, read_plane

PLAN = SlicePlan((32, 48), 2, 10.0, (0.9, 1.1), 0.1, 0.1, 1000, 0, "pool")
STILL = replace(PLAN, rotation_degrees=0.0, scale=(1.0, 1.0), drop_text=0.0, drop_control=0.0)
TABLE = {"modality": {"MR": "MRI"}}
TOKENIZER = ByteTokenizer(40)


def grey(width: int, height: int, seed: int = 0) -> np.ndarray:
    """A bright disc on a noisy ramp, uint8 (height, width)."""
    y, x = np.mgrid[:height, :width]
    disc = (x - width / 2) ** 2 + (y - height / 2) ** 2 < (min(width, height) / 4) ** 2
    noise = np.random.default_rng(seed).normal(0, 5, (height, width))
    return np.clip(60 + 60 * x / width + 100 * disc + noise, 0, 255).astype(np.uint8)


def save_picture(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def save_nifti(path: Path, array: np.ndarray, spacing: tuple[float, ...] = (1.0, 1.0, 3.0)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([*spacing, 1.0])), path)
    return path


def save_dicom(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "pool"
    for number in range(6):
        save_picture(root / f"MR/brain/tumor/{number}.png", grey(60 + number, 80, number))
    for number in range(3):
        save_picture(root / f"US/breast/normal/{number}.jpg", grey(90, 50, number))
    return root


def dataset(root: Path, plan: SlicePlan = STILL, held_out: float = 0.0, **pool) -> PoolDataset:
    index = open_pool(root, root.parent / "index", held_out)
    return PoolDataset(index, TABLE, TOKENIZER, PackingCodec("haar", 2), plan, PoolPlan(**{"edge_channels": 3} | pool))


def words(tokens: torch.Tensor) -> str:
    return bytes(token for token in tokens.tolist() if token < 256).decode()


class TestSamples:
    def test_a_sample_is_a_picture_with_its_control_prompt_noise_and_time(self, root: Path) -> None:
        sample = dataset(root, label_channels=2)[5]
        assert {name: tuple(tensor.shape) for name, tensor in sample.items()} == {
            "image": (1, 32, 48),
            "control": (5, 32, 48),
            "tokens": (40,),
            "noise": (4, 16, 24),
            "timestep": (),
        }
        assert sample["image"].abs().max() <= 1
        assert sample["control"].min() >= 0
        assert sample["control"].max() <= 1

    def test_edges_fill_the_neighbours_and_labels_stay_empty(self, root: Path) -> None:
        control = dataset(root, label_channels=2)[0]["control"]
        assert control[0].any()
        assert torch.equal(control[0], control[1])
        assert torch.equal(control[0], control[2])
        assert not control[3:].any()

    @pytest.mark.parametrize("plan", [PLAN, replace(PLAN, looks=0.5)])
    def test_the_number_decides_all(self, root: Path, plan: SlicePlan) -> None:
        items = dataset(root, plan)
        for number in (0, 7, 10**9):
            torch.manual_seed(number % 5)
            first, again = items[number], dataset(root, plan)[number]
            assert all(torch.equal(first[name], again[name]) for name in first)

    def test_loader_workers_give_what_the_process_itself_gives(self, root: Path) -> None:
        items, numbers = dataset(root, PLAN), [[0, 1], [2, 3]]
        for mine, theirs in zip(
            DataLoader(items, batch_sampler=numbers),
            DataLoader(items, batch_sampler=numbers, num_workers=2),
            strict=True,
        ):
            assert all(torch.equal(mine[name], theirs[name]) for name in mine)

    def test_it_can_be_sent_to_a_worker_that_starts_anew(self, root: Path) -> None:
        items = dataset(root, PLAN)
        sent = pickle.loads(pickle.dumps(items))
        assert all(torch.equal(items[3][name], sent[3][name]) for name in items[3])

    def test_seed_and_purpose_make_other_samples(self, root: Path) -> None:
        plans = (PLAN, replace(PLAN, seed=1), replace(PLAN, purpose="other"))
        assert len({str(dataset(root, plan).draw(0)) for plan in plans}) == 3
        assert len({"".join(dataset(root, plan).picture(n)[0] for n in range(9)) for plan in plans}) == 3

    def test_prompts_are_of_the_file_drawn_and_dropped_as_often_as_asked(self, root: Path) -> None:
        items = dataset(root, replace(STILL, drop_text=0.3, drop_control=0.2))
        for number in range(20):
            sample, draw = items[number], items.draw(number)
            modality = items.picture(number)[0].partition("/")[0]
            prompt = {"MR": "brain, tumor, MRI", "US": "breast, normal, US"}[modality]
            assert words(sample["tokens"]) == ("" if draw.drop_text else prompt)
            assert bool(sample["control"].any()) is not draw.drop_control
        draws = [items.draw(number) for number in range(2000)]
        assert np.mean([draw.drop_text for draw in draws]) == pytest.approx(0.3, abs=0.05)
        assert np.mean([draw.drop_control for draw in draws]) == pytest.approx(0.2, abs=0.05)

    def test_a_look_alters_the_picture_and_joins_its_prompt_but_not_the_control(self, root: Path) -> None:
        plain, altered = dataset(root), dataset(root, replace(STILL, looks=1.0))
        for number in range(5):
            look = altered.draw(number).look
            assert words(altered[number]["tokens"]).endswith(f", {look}"[:20])
            assert torch.equal(plain[number]["control"], altered[number]["control"])
            assert not torch.equal(plain[number]["image"], altered[number]["image"])

    def test_modalities_are_drawn_alike_or_files_are(self, root: Path) -> None:
        for balance, expected in (("modality", 1 / 2), ("file", 6 / 9)):
            items = dataset(root, balance=balance)
            share = np.mean([items.picture(number)[0].startswith("MR") for number in range(300)])
            assert share == pytest.approx(expected, abs=0.09)

    def test_training_never_sees_what_is_held_out(self, root: Path) -> None:
        training, held_out = dataset(root, held_out=0.4), dataset(root, held_out=0.4, part="held_out")
        seen, kept = ({items.picture(number)[0] for number in range(80)} for items in (training, held_out))
        assert not seen & kept
        assert len(seen | kept) == 9

    def test_a_part_without_files_is_refused(self, root: Path) -> None:
        with pytest.raises(DataError, match="no held_out files among 9"):
            dataset(root, part="held_out")


class TestCovering:
    @pytest.mark.parametrize("sides", [(20, 30), (100, 40), (40, 100), (32, 48), (33, 500)])
    def test_one_side_fits_and_none_falls_short(self, sides: tuple[int, int]) -> None:
        scaled = covering(np.random.default_rng(0).random(sides, np.float32), (32, 48)).shape
        assert scaled[0] == 32 or scaled[1] == 48
        assert scaled[0] >= 32
        assert scaled[1] >= 48
        assert scaled[0] / scaled[1] == pytest.approx(sides[0] / sides[1], rel=0.05)

    def test_shrinking_does_not_alias(self) -> None:
        stripes = np.indices((256, 256))[0].astype(np.float32) % 2
        assert covering(stripes, (32, 32))[4:-4].std() < 0.05

    def test_the_window_moves_along_the_longer_side(self, tmp_path: Path) -> None:
        ramp = np.repeat(np.linspace(0, 255, 96).astype(np.uint8)[None], 48, axis=0)  # 96 wide, 48 high
        save_picture(tmp_path / "pool/MR/brain/a.png", ramp)
        items = dataset(tmp_path / "pool", replace(STILL, size=(32, 32)))
        means = [float(items[number]["image"].mean()) for number in range(40)]
        assert min(means) < -0.35  # at the far left: -0.5 of the ramp's -1 to 1
        assert max(means) > 0.35


class TestUselessFiles:
    @pytest.fixture
    def spoilt(self, root: Path) -> Path:
        """The pool, and one file of each fault."""
        folder = root / "US" / "breast" / "normal"
        (folder / "cut.png").write_bytes((root / "MR/brain/tumor/0.png").read_bytes()[:300])
        (folder / "text.jpg").write_text("no picture")
        (folder / "half.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"x" * 50)
        (folder / "no.nii.gz").write_bytes(b"\x1f\x8bno")
        save_picture(folder / "flat.png", np.full((40, 40), 7, np.uint8))
        save_picture(folder / "tiny.png", grey(8, 8))
        save_picture(folder / "strip.png", grey(400, 20))
        save_nifti(folder / "nan.nii", np.full((30, 30, 4), np.nan, np.float32))
        return root

    def test_the_sample_goes_to_another_file_and_they_are_listed_once(self, spoilt: Path) -> None:
        items = dataset(spoilt)
        used = {items.picture(number)[0] for number in range(150)}
        assert used == {str(path.relative_to(spoilt)) for path in spoilt.rglob("[0-9].*")}
        listed = dict(line.split("\t") for line in (items.index.folder / "skipped.txt").read_text().splitlines())
        faults = {Path(path).name: reason for path, reason in listed.items()}
        assert set(faults) == {
            "cut.png", "text.jpg", "half.dcm", "no.nii.gz", "flat.png", "tiny.png", "strip.png", "nan.nii",
        }  # fmt: skip
        assert faults["flat.png"] == "every voxel is 7"
        assert "8 x 8 pixels" in faults["tiny.png"]
        assert "not finite" in faults["nan.nii"]

    def test_it_is_the_same_other_file_every_time(self, spoilt: Path) -> None:
        first = [dataset(spoilt).picture(number)[0] for number in range(30)]
        (spoilt.parent / "index" / "skipped.txt").unlink()
        assert [dataset(spoilt).picture(number)[0] for number in reversed(range(30))] == first[::-1]

    def test_good_files_are_drawn_as_without_the_bad_ones_of_other_modalities(self, root: Path, tmp_path: Path) -> None:
        (root / "US" / "breast" / "normal" / "0.jpg").write_text("no picture")
        items = dataset(root)
        assert {items.picture(number)[0] for number in range(100)} >= {f"MR/brain/tumor/{n}.png" for n in range(6)}

    def test_a_pool_of_nothing_else_is_refused_in_one_line(self, tmp_path: Path) -> None:
        (tmp_path / "pool/MR/brain").mkdir(parents=True)
        (tmp_path / "pool/MR/brain/a.png").write_text("no picture")
        with pytest.raises(DataError, match=r"50 files in a row .*skipped\.txt") as raised:
            dataset(tmp_path / "pool")[0]
        assert "\n" not in str(raised.value)


class TestPlanes:
    def test_pictures_are_width_by_height_whatever_their_mode(self, tmp_path: Path) -> None:
        array = grey(40, 24)
        for name, picture in {
            "l.png": array,
            "rgb.png": np.repeat(array[:, :, None], 3, axis=2),
            "deep.png": array.astype(np.uint16) * 256,
        }.items():
            plane = read_plane(save_picture(tmp_path / name, picture))
            assert plane.array.shape == (40, 24)
            assert not plane.measured
            np.testing.assert_allclose(plane.array.T / plane.array.max(), array / array.max(), atol=0.01)

    @pytest.mark.parametrize("ending", ["nii", "nii.gz"])
    def test_a_volume_gives_planes_across_its_coarsest_axis(self, ending: str, tmp_path: Path) -> None:
        volume = np.indices((20, 30, 24))[1].astype(np.int16)  # the value is the position along the second axis
        path = save_nifti(tmp_path / f"v.{ending}", volume, (1.0, 4.0, 1.0))
        found = []
        for where in np.linspace(0, 0.999, 50):
            plane = read_plane(path, where)
            assert plane.array.shape == (20, 24)
            assert plane.measured
            assert plane.array.min() == plane.array.max()
            found.append(int(plane.array[0, 0]))
        assert sorted(set(found)) == list(range(3, 27))  # the outer tenths of 30 are left out

    def test_scaling_in_the_header_is_applied(self, tmp_path: Path) -> None:
        image = nib.Nifti1Image(np.arange(400, dtype=np.int16).reshape(20, 20, 1), np.eye(4))
        image.header.set_slope_inter(2.0, -1000.0)
        nib.save(image, tmp_path / "v.nii")
        raw = nib.load(tmp_path / "v.nii").get_fdata()[:, :, 0]
        np.testing.assert_allclose(read_plane(tmp_path / "v.nii").array, raw)

    def test_a_series_in_time_gives_its_first_volume_and_a_flat_one_itself(self, tmp_path: Path) -> None:
        series = np.stack([np.full((20, 20, 8), t, np.float32) for t in range(3)], axis=3)
        assert read_plane(save_nifti(tmp_path / "t.nii.gz", series)).array.max() == 0
        flat = np.arange(600, dtype=np.float32).reshape(20, 30)
        np.testing.assert_array_equal(read_plane(save_nifti(tmp_path / "f.nii", flat)).array, flat)

    def test_dicom_of_one_plane_and_of_a_film(self, tmp_path: Path) -> None:
        array = grey(40, 24).astype(np.int16) - 100
        plane = read_plane(save_dicom(tmp_path / "one.dcm", array))
        assert plane.measured
        np.testing.assert_array_equal(plane.array, array.T)
        film = np.stack([grey(40, 24, seed) for seed in range(10)])
        np.testing.assert_array_equal(read_plane(save_dicom(tmp_path / "film.DCM", film), 0.5).array, film[5].T)

    def test_large_planes_are_averaged_in_blocks(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("diffboost3d.imaging.planes.KEPT_PIXELS", 500)
        array = grey(60, 41)
        plane = read_plane(save_picture(tmp_path / "large.png", array)).array
        assert plane.shape == (20, 13)
        assert plane[0, 0] == pytest.approx(array[:3, :3].mean())

    def test_ct_in_hounsfield_units_is_windowed_and_nothing_else_is(self, tmp_path: Path) -> None:
        hounsfield = np.linspace(-1000, 1000, 32 * 48).reshape(32, 48, 1).astype(np.float32)
        for modality in ("CT", "MR"):
            save_nifti(tmp_path / modality / f"pool/{modality}/abd/a.nii", hounsfield)
            image = dataset(tmp_path / modality / "pool")[0]["image"]
            beyond = float((image.abs() > 0.995).float().mean())
            assert beyond == pytest.approx(0.8 if modality == "CT" else 0.01, abs=0.01)

    def test_endings_are_known_in_any_case(self) -> None:
        assert all(is_plane_file(name) for name in ("a.PNG", "b.nii.gz", "c.Nii", "d.dcm", "e.IMA", "f.jpeg"))
        assert not any(is_plane_file(name) for name in ("a.txt", "b.gz", "png", "c.csv"))


@pytest.mark.real_data
def test_real_pictures_volumes_and_dicom_make_samples(real_data: Path, tmp_path: Path) -> None:
    root = tmp_path / "pool"
    for modality in ("CT", "MR", "US"):
        (root / modality).mkdir(parents=True)
        (root / modality / "pictures").symlink_to(real_data / "pretrain2d" / modality)
    (root / "CT" / "torso").symlink_to(real_data / "ct_example")
    (root / "MR" / "hippocampus").symlink_to(real_data / "hippocampus" / "imagesTr")
    (root / "MR" / "dicom").symlink_to(real_data / "dicom_example" / "brain")
    items = dataset(root, PLAN, held_out=0.02)
    kinds = set()
    for number in range(60):
        path = items.picture(number)[0]
        kinds.add(path.rpartition(".")[2])
        sample = items[number]
        assert sample["image"].std() > 0.01
        assert torch.isfinite(sample["image"]).all()
    assert kinds == {"png", "gz", "dcm"}
    assert not (items.index.folder / "skipped.txt").exists()

"""The built-in cohorts: determinism, plausible units, labels where they should be, and a look-alike that is none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from diffboost3d.cohort import COHORTS, write_cohort
from diffboost3d.cohort.ultrasound import make_ultrasound
from diffboost3d.cohort.volumes import MAKERS
from diffboost3d.errors import ConfigError
from diffboost3d.seeds import generator

SHAPE = (32, 30, 20)


def shape_of(kind: str) -> tuple[int, ...]:
    return SHAPE[:2] if kind == "ultrasound" else SHAPE


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("kind", COHORTS)
def test_same_seed_gives_the_same_bytes_and_another_seed_other_ones(kind: str, tmp_path: Path) -> None:
    first = files_of(write_cohort(kind, tmp_path / "a", 2, shape=shape_of(kind)))
    assert first == files_of(write_cohort(kind, tmp_path / "b", 2, shape=shape_of(kind)))
    other = files_of(write_cohort(kind, tmp_path / "c", 2, seed=1, shape=shape_of(kind)))
    image = next(name for name in first if name.startswith("images"))
    assert first[image] != other[image]


@pytest.mark.parametrize("kind", COHORTS)
def test_a_case_does_not_depend_on_how_many_there_are(kind: str, tmp_path: Path) -> None:
    few = files_of(write_cohort(kind, tmp_path / "few", 1, shape=shape_of(kind)))
    many = files_of(write_cohort(kind, tmp_path / "many", 3, shape=shape_of(kind)))
    assert all(many[name] == content for name, content in few.items() if name != "dataset.json")


@pytest.mark.parametrize("kind", ["mr", "ct"])
def test_image_and_label_share_a_grid_and_every_label_is_in_every_case(kind: str, tmp_path: Path) -> None:
    folder = write_cohort(kind, tmp_path, 4)
    for pair in json.loads((folder / "dataset.json").read_text())["training"]:
        image, label = nib.load(folder / pair["image"]), nib.load(folder / pair["label"])
        assert image.shape == label.shape == (48, 48, 32)
        assert np.array_equal(image.affine, label.affine)
        assert set(np.unique(label.dataobj)) == {0, 1, 2}
        assert np.isfinite(image.dataobj).all()


def test_ct_is_in_hounsfield_units() -> None:
    phantom = MAKERS["ct"](generator(0, "test"), (48, 48, 32))
    assert phantom.image.dtype == np.int16
    assert np.median(phantom.image[0, 0]) == pytest.approx(-1000, abs=15)
    assert 60 < np.median(phantom.image[phantom.label == 1]) < 150
    assert phantom.image.max() > 250  # bone


def test_ct_is_stored_as_lps_with_the_liver_on_the_right_of_the_patient_and_the_spine_at_the_back() -> None:
    for index in range(4):
        phantom = MAKERS["ct"](generator(index, "test"), (48, 48, 32))
        assert nib.aff2axcodes(phantom.affine) == ("L", "P", "S")
        liver, spleen, spine = (
            (np.argwhere(where).mean(axis=0) @ phantom.affine[:3, :3].T)
            for where in (phantom.label == 1, phantom.distractor, phantom.image > 250)
        )
        assert liver[0] > spine[0] > spleen[0]  # mm, the axes run to the right, front and head
        assert liver[1] > spine[1]


def test_ct_organs_stay_inside_the_body_and_out_of_the_bone() -> None:
    for index in range(6):
        phantom = MAKERS["ct"](generator(index, "test"), (48, 48, 32))
        inside = phantom.image[phantom.label > 0]
        assert inside.min() > -120
        assert np.percentile(inside, 99.5) < 250


@pytest.mark.parametrize("kind", ["mr", "ct"])
def test_the_look_alike_is_as_bright_as_the_organ_but_unlabelled(kind: str) -> None:
    phantom = MAKERS[kind](generator(3, "test"), (48, 48, 32))
    organ = phantom.image[phantom.label == 1].astype(float)
    twin = phantom.image[phantom.distractor].astype(float)
    assert len(twin) > 50
    assert not phantom.label[phantom.distractor].any()
    low, high = np.percentile(organ, [2, 98])
    assert low < np.median(twin) < high


def test_shape_pose_and_contrast_vary_between_cases() -> None:
    phantoms = [MAKERS["mr"](generator(index, "test"), SHAPE) for index in range(8)]
    volumes = np.array([(phantom.label == 1).sum() for phantom in phantoms])
    centres = np.array([np.argwhere(phantom.label == 1).mean(axis=0) for phantom in phantoms])
    assert volumes.std() > 0.1 * volumes.mean()
    assert (centres.std(axis=0) > 0.5).all()


def test_ultrasound_masks_are_black_and_white_and_lesions_darker_than_their_surroundings() -> None:
    for index in range(4):
        picture, mask, lobule = make_ultrasound(generator(index, "test"), (112, 96))
        assert picture.shape == mask.shape == (96, 112)
        assert set(np.unique(mask)) == {0, 255}
        assert lobule.any()
        level = np.nonzero(mask.any(axis=1))[0]
        beside = picture[level.min() : level.max()][:, :15]
        assert np.median(picture[mask > 0]) < np.median(beside)


def test_speckle_is_smoother_across_the_beams_than_along_them() -> None:
    picture, _, _ = make_ultrasound(generator(0, "test"), (112, 96))
    values = picture.astype(float)
    assert np.abs(np.diff(values, axis=1)).mean() < 0.8 * np.abs(np.diff(values, axis=0)).mean()


def test_an_unknown_kind_and_an_empty_cohort_are_refused_with_the_allowed_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mr, ct, ultrasound"):
        write_cohort("pet", tmp_path, 2)
    with pytest.raises(ConfigError, match="at least 1"):
        write_cohort("mr", tmp_path, 0)
    with pytest.raises(ConfigError, match="takes 2"):
        write_cohort("ultrasound", tmp_path, 1, shape=(8, 8, 8))


@pytest.mark.parametrize("kind", COHORTS)
def test_nothing_but_the_cohort_is_left_in_the_folder(kind: str, tmp_path: Path) -> None:
    names = set(files_of(write_cohort(kind, tmp_path, 1, shape=shape_of(kind))))
    parts, name = (("images", "labels"), "us_000.png") if kind == "ultrasound" else (("imagesTr", "labelsTr"), "")
    name = name or f"{kind}_000.nii.gz"
    assert names == {"dataset.json", *(str(Path(part) / name) for part in parts)}


def test_importing_the_package_loads_no_array_library() -> None:
    code = "import sys, diffboost3d.cohort; print(sorted({'numpy', 'scipy', 'nibabel', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""NRRD and MetaImage: the same volume in any format is the same, and what is written like a file is readable by others."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from scipy.spatial.transform import Rotation

from diffboost3d.errors import DataError
from diffboost3d.imaging.files import (
    Volume,
    read,
    read_grid,
    write_label_like,
    write_like,
    write_probability_like,
)
from diffboost3d.imaging.itk import parts_of
from diffboost3d.imaging.planes import read_plane

ENDINGS = (".nrrd", ".nhdr", ".mha", ".mhd")
SHAPE = (6, 5, 4)


def nifti(path: Path, dtype: type = np.int16, seed: int = 0) -> Path:
    """An oblique, anisotropic, left-handed volume of values -1000 to 2999."""
    random = np.random.default_rng(seed)
    affine = np.eye(4)
    turn = Rotation.from_euler("zyx", random.uniform(-30, 30, 3), degrees=True).as_matrix()
    affine[:3, :3] = turn @ np.diag([-0.6875, 0.7421875, 3.1])
    affine[:3, 3] = random.uniform(-200, 200, 3)
    values = random.integers(-1000, 3000, SHAPE).astype(dtype) / (1 if np.issubdtype(dtype, np.integer) else 7)
    image = nib.Nifti1Image(values.astype(dtype), affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return path


def converted(source: Path, target: Path, packed: bool = False) -> Path:
    """As another program would save it."""
    image = sitk.ReadImage(str(source))
    for key in image.GetMetaDataKeys():
        image.EraseMetaData(key)
    sitk.WriteImage(image, str(target), useCompression=packed)
    return target


def same(one: Volume, other: Volume) -> bool:
    return one.grid == other.grid and one.dtype == other.dtype and np.array_equal(one.array, other.array)


# --- reading ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_volume_is_the_same_in_every_format_to_the_last_bit(ending: str, tmp_path: Path) -> None:
    for seed, dtype in enumerate((np.int16, np.float32, np.uint8, np.float64, np.uint16, np.int16, np.int32)):
        source = nifti(tmp_path / f"{seed}.nii.gz", dtype, seed)
        path = converted(source, tmp_path / f"{seed}{ending}", packed=seed % 2 == 1)
        assert same(read(source), read(path))
        assert read_grid(path) == read(path).grid


def test_a_corner_lies_where_the_header_says(tmp_path: Path) -> None:
    """i runs to the left in steps of 0.5 mm, j to the feet, k to the back, from the point L 10, P 20, S 30."""
    path = tmp_path / "by_hand.nhdr"
    (tmp_path / "voxels.raw").write_bytes(np.arange(24, dtype="<i2").tobytes())
    path.write_text(
        "NRRD0005\ntype: int16\ndimension: 3\nspace: LPS\nsizes: 4 3 2\nspace directions: (0.5,0,0) (0,0,-2) (0,3,0)\n"
        "endian: little\nencoding: raw\nspace origin: (10,20,30)\ndata file: voxels.raw\n"
    )
    volume = read(path)
    assert volume.array[1, 2, 1] == 1 + 2 * 4 + 1 * 12
    assert (volume.grid.matrix @ [1, 2, 1, 1]).tolist() == [-10.5, -23.0, 26.0, 1.0]
    assert parts_of(path) == [path, tmp_path / "voxels.raw"]


def test_a_flat_image_has_one_slice(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.arange(12, dtype=np.uint8).reshape(3, 4))
    image.SetSpacing((0.2, 0.3))
    image.SetOrigin((5.0, 7.0))
    sitk.WriteImage(image, str(tmp_path / "flat.mha"))
    volume = read(tmp_path / "flat.mha")
    assert volume.array.shape == (4, 3, 1)
    assert np.allclose(volume.grid.matrix, [[-0.2, 0, 0, -5], [0, -0.3, 0, -7], [0, 0, 1, 0], [0, 0, 0, 1]])
    write_like(tmp_path / "new.mha", volume.array, tmp_path / "flat.mha")
    assert same(read(tmp_path / "new.mha"), volume)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_that_is_cut_off_is_refused(ending: str, packed: bool, tmp_path: Path) -> None:
    path = converted(nifti(tmp_path / "a.nii.gz"), tmp_path / f"a{ending}", packed)
    data = parts_of(path)[-1]
    data.write_bytes(data.read_bytes()[:-40])
    with pytest.raises(DataError, match=rf"a\{ending}: can't be read") as refusal:
        read(path)
    assert "\n" not in str(refusal.value)
    if data != path:
        data.unlink()
        with pytest.raises(DataError, match=rf"a\{ending}: "):
            read(path)


@pytest.mark.parametrize("ending", ENDINGS)
def test_colours_series_in_time_and_nonsense_are_refused_by_name(ending: str, tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((3, 4, 5, 2)), isVector=True), str(tmp_path / f"colour{ending}"))
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((3, 4, 5, 2)), isVector=False), str(tmp_path / f"time{ending}"))
    (tmp_path / f"text{ending}").write_text("no image")
    for name, said in (("colour", "2 values a voxel"), ("time", "4D image"), ("text", "can't be read")):
        with pytest.raises(DataError, match=f"{name}.*{said}"):
            read(tmp_path / f"{name}{ending}")


DAMAGES = {
    "cut off": lambda content: content[: len(content) * 2 // 3],
    "cut in its header": lambda content: content[:60],
    "changed in its voxels": lambda content: (
        content[:-60] + bytes(byte ^ 0xFF for byte in content[-60:-20]) + content[-20:]
    ),
    "text": lambda content: b"hello",
    "empty": lambda content: b"",
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
def test_a_damaged_packed_file_is_one_line_of_ours_and_decoders_print_nothing(
    damage: str, ending: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = converted(nifti(tmp_path / "a.nii.gz"), tmp_path / f"a{ending}", packed=True)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(DataError) as refusal:
        read(path)
    said = str(refusal.value)
    assert said.startswith(f"{path}: ")
    assert "Success" not in said
    assert "\n" not in said
    assert "".join(capfd.readouterr()) == ""


def test_a_pool_takes_a_plane_across_the_coarsest_axis(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.arange(20 * 18 * 4, dtype=np.int16).reshape(4, 18, 20))
    image.SetSpacing((1, 1, 5))
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    assert np.array_equal(read_plane(tmp_path / "a.nrrd").array, read(tmp_path / "a.nrrd").array[:, :, 2])


# --- writing ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("packed", [False, True])
def test_what_is_written_like_a_file_is_the_same_image_to_other_programs(
    ending: str, packed: bool, tmp_path: Path
) -> None:
    source = converted(nifti(tmp_path / "a.nii.gz"), tmp_path / f"a{ending}", packed)
    before = [part.read_bytes() for part in parts_of(source)]
    array, new = read(source).array, tmp_path / "made" / f"new{ending}"
    write_like(new, (array[:, :, k : k + 3] for k in (0, 3)), source)
    old, made = (sitk.ReadImage(str(path)) for path in (source, new))
    assert (old.GetSpacing(), old.GetOrigin(), old.GetDirection()) == (
        *(made.GetSpacing(), made.GetOrigin()),
        made.GetDirection(),
    )
    assert old.GetPixelID() == made.GetPixelID()
    assert np.array_equal(sitk.GetArrayFromImage(old), sitk.GetArrayFromImage(made))
    assert [part.read_bytes() for part in parts_of(source)] == before
    assert len(list(new.parent.iterdir())) == len(parts_of(new)) == (2 if ending in (".nhdr", ".mhd") else 1)
    first = [part.read_bytes() for part in parts_of(new)]
    write_like(new, array, source)
    assert [part.read_bytes() for part in parts_of(new)] == first


@pytest.mark.parametrize("ending", ENDINGS)
def test_labels_probabilities_and_rounded_values_are_kept(ending: str, tmp_path: Path) -> None:
    source = converted(nifti(tmp_path / "a.nii.gz"), tmp_path / f"a{ending}")
    grid, label = read(source).grid, np.arange(120).reshape(SHAPE)
    for name, values, dtype in (("small", label, "uint8"), ("large", label * 30, "uint16")):
        write_label_like(tmp_path / f"{name}{ending}", values, source)
        written = read(tmp_path / f"{name}{ending}")
        assert (written.dtype, written.grid) == (dtype, grid)
        assert np.array_equal(written.array, values)
    write_probability_like(tmp_path / f"p{ending}", iter([label / 119]), source)
    assert np.array_equal(read(tmp_path / f"p{ending}").array, (label / 119).astype(np.float32))
    write_like(tmp_path / f"r{ending}", label * 1000.4, source)
    assert np.array_equal(read(tmp_path / f"r{ending}").array, np.clip(np.round(label * 1000.4), None, 32767))


def test_keys_of_other_programs_survive_and_the_note_is_there(tmp_path: Path) -> None:
    values = np.arange(24, dtype="<i2")
    nrrd, meta = tmp_path / "a.nrrd", tmp_path / "a.mha"
    nrrd.write_bytes(
        b"NRRD0005\r\n# by hand\r\ntype: int16\r\ndimension: 3\r\nspace: right-anterior-superior\r\nsizes: 4 3 2\r\n"
        b"space directions: (0.5,0,0) (0,2,0) (0,0,3)\r\nkinds: domain domain domain\r\nendian: little\r\nencoding: raw\r\n"
        b'space origin: (10,20,30)\r\nspace units: "mm" "mm" "mm"\r\ncontent: a scan\r\nscanner:=the old one\r\n\r\n'
        + values.tobytes()
    )
    meta.write_bytes(
        b"ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nAnatomicalOrientation = RAI\n"
        b"Offset = 10 20 30\nElementSpacing = 0.5 2 3\nDimSize = 4 3 2\nModality = MET_MOD_CT\nscanner = the old one\n"
        b"ElementType = MET_SHORT\nElementDataFile = LOCAL\n" + values.tobytes()
    )
    assert read(nrrd).grid.affine[0] == (0.5, 0, 0, 10)
    for path, kept in ((nrrd, ("# by hand", "space units: \"mm\" \"mm\" \"mm\"", "scanner:=the old one")),
                       (meta, ("AnatomicalOrientation = RAI", "Modality = MET_MOD_CT", "scanner = the old one"))):  # fmt: skip
        new = path.with_name(f"new{path.suffix}")
        write_like(new, read(path).array + 1, path, "synthetic: of a")
        text = new.read_bytes().decode("latin-1")
        assert all(line in text for line in kept)
        assert ("content: synthetic: of a" if path is nrrd else "Comment = synthetic: of a") in text
        assert "a scan" not in text
        assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(new))).ravel(), values + 1)
        assert read(new).grid == read(path).grid


def test_voxels_in_several_files_or_big_endian_become_one_file(tmp_path: Path) -> None:
    for k in (1, 2):
        (tmp_path / f"s{k}.raw").write_bytes((np.arange(12) + 100 * k).astype(">i2").tobytes())
    head = "NRRD0005\ntype: int16\ndimension: 3\nsizes: 4 3 2\nendian: big\nencoding: raw\n"
    (tmp_path / "list.nhdr").write_text(head + "data file: LIST\ns1.raw\ns2.raw\n")
    (tmp_path / "count.nhdr").write_text(head + "data file: s%d.raw 1 2 1\n")
    for name in ("list", "count"):
        source, new = tmp_path / f"{name}.nhdr", tmp_path / f"{name}_new.nhdr"
        assert [part.name for part in parts_of(source)] == [source.name, "s1.raw", "s2.raw"]
        assert read(source).array[1, 0, 1] == 201
        write_like(new, read(source).array, source)
        assert np.array_equal(read(new).array, read(source).array)
        assert [part.name for part in parts_of(new)] == [new.name, f"{name}_new.raw"]


def test_a_nifti_file_is_made_where_its_name_asks_for_one(tmp_path: Path) -> None:
    source = converted(nifti(tmp_path / "a.nii.gz"), tmp_path / "a.nrrd")
    write_like(tmp_path / "b.nii.gz", read(source).array, source)
    write_label_like(tmp_path / "l.nii.gz", read(source).array > 0, source)
    before, after = read(source), read(tmp_path / "b.nii.gz")
    assert after.dtype == before.dtype
    assert np.array_equal(after.array, before.array)
    assert not before.grid.difference(after.grid)
    assert not before.grid.difference(read(tmp_path / "l.nii.gz").grid)


@pytest.mark.parametrize("ending", ENDINGS)
def test_nothing_is_left_of_a_volume_that_came_to_an_end_too_early(ending: str, tmp_path: Path) -> None:
    source = converted(nifti(tmp_path / "a.nii.gz"), tmp_path / f"a{ending}")
    with pytest.raises(ValueError, match="3 slices; the template has 4"):
        write_like(tmp_path / "made" / f"b{ending}", iter([read(source).array[:, :, :3]]), source)
    assert list((tmp_path / "made").iterdir()) == []


# --- real files ------------------------------------------------------------------------------------------------------
@pytest.mark.real_data
@pytest.mark.parametrize("ending", ENDINGS)
def test_real_volumes_are_the_same_in_every_format(ending: str, real_data: Path, tmp_path: Path) -> None:
    sources = [
        *sorted((real_data / "hippocampus" / "imagesTr").glob("*.nii.gz"))[:4],
        *sorted((real_data / "acdc" / "imagesTr").glob("*.nii.gz"))[:1],
        *(real_data / "ct_example" / "imagesTr").glob("*.nii.gz"),
    ]
    for source in sources:
        path = converted(source, tmp_path / source.name.replace(".nii.gz", ending), packed=True)
        before, after = read(source), read(path)
        assert before.grid == after.grid
        assert np.array_equal(before.array, after.array)

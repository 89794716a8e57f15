"""DICOM series become volumes on the right grid and in the right units, or are refused in one line; DICOM-SEG goes both ways."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_dicom import affine_of, write_series

from diffboost3d.errors import DataError
from diffboost3d.imaging.colours import label_colours
from diffboost3d.imaging.dicom import series_in
from diffboost3d.imaging.dicom_segments import Algorithm, read_segments, segments_of, write_segments
from diffboost3d.imaging.files import files_of, read, read_grid, write_label_like, write_like

LABELS = {"background": 0, "Shell": 2, "Core, left": 7}
ALGORITHM = Algorithm("diffboost3d", "0.1.0", "0123456789abcdef")


def stack(dtype=np.int16, shape=(5, 4, 6)):
    """Another number in every voxel, some of them negative where the type has such."""
    count = int(np.prod(shape))
    return (np.arange(count) - (count // 3 if np.dtype(dtype).kind == "i" else 0)).reshape(shape).astype(dtype)


def some_label(shape=(5, 4, 6)):
    label = np.zeros(shape, np.uint8)
    label[1:4, 0:2, 1:3] = 2
    label[2, 3, 4] = 7
    return label


def by_simpleitk(folder):
    """Array (I, J, K) and affine to R, A, S as GDCM in SimpleITK reads a folder."""
    import SimpleITK as sitk  # noqa: N813

    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) @ np.diag(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).T, np.diag([-1, -1, 1, 1]) @ affine


# --- reading -----------------------------------------------------------------------------------------------------------
def test_an_oblique_anisotropic_series_lies_where_the_standard_s_formula_puts_it(tmp_path):
    volume = read(write_series(tmp_path / "a", stack()))
    assert np.array_equal(volume.array, stack())
    assert np.allclose(volume.grid.matrix, affine_of(), atol=1e-6)
    assert volume.grid.spacing_mm == pytest.approx((0.8, 1.5, 3.0))
    assert volume.dtype == "int16"
    assert not read_grid(tmp_path / "a").difference(volume.grid)


def test_pydicom_s_geometry_and_voxels_agree_with_those_of_gdcm(tmp_path):
    folder = write_series(tmp_path / "a", stack(), modality="CT", RescaleSlope=1, RescaleIntercept=-1024)
    array, affine = by_simpleitk(folder)
    volume = read(folder)
    assert np.array_equal(volume.array, array)
    assert np.allclose(volume.grid.matrix, affine, atol=1e-5)


def test_slices_are_in_order_of_their_places_whatever_their_names_and_numbers(tmp_path):
    files = files_of(write_series(tmp_path / "a", stack()))
    assert [path.name for path in files] == [f"series{k:03d}.dcm" for k in (6, 5, 4, 3, 2, 1)]


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.uint8])
def test_stored_types_are_kept_without_a_rescale(dtype, tmp_path):
    volume = read(write_series(tmp_path / "a", stack(dtype)))
    assert volume.array.dtype == dtype
    assert np.array_equal(volume.array, stack(dtype))


def test_ct_values_are_hounsfield_units(tmp_path):
    stored = stack(np.uint16)
    folder = write_series(
        tmp_path / "a", stored, modality="CT", BitsStored=12, HighBit=11, RescaleSlope=1, RescaleIntercept=-1024
    )
    volume = read(folder)
    assert volume.dtype == "int16"
    assert volume.array.min() == -1024
    assert np.array_equal(volume.array, stored.astype(int) - 1024)


def test_every_slice_has_its_own_slope_and_intercept(tmp_path):
    changes = {k: {"RescaleSlope": 0.5 * (k + 1), "RescaleIntercept": 10 * k} for k in range(6)}
    volume = read(write_series(tmp_path / "a", stack(), changes=changes))
    k = np.arange(6)
    assert volume.dtype == "float32"
    assert np.array_equal(volume.array, stack() * (0.5 * (k + 1)) + 10 * k)


def test_bits_that_are_not_the_value_s_are_left_out_and_the_sign_is_that_of_the_stored_bits(tmp_path):
    stored = stack()
    dirty = ((stored.astype(np.int64) & 0x0FFF) | 0x5000).astype(np.int16)  # an overlay in the four upper bits
    assert np.array_equal(read(write_series(tmp_path / "a", dirty, BitsStored=12, HighBit=11)).array, stored)


def test_a_single_slice_is_an_image_of_two_dimensions(tmp_path):
    grid = read(write_series(tmp_path / "a", stack(shape=(5, 4, 1)))).grid
    assert grid.spatial_dims == 2
    assert grid.spacing_mm == pytest.approx((0.8, 1.5, 2.0))


def test_a_file_stands_for_its_series_where_a_folder_holds_two(tmp_path):
    write_series(tmp_path, stack(), name="first")
    write_series(tmp_path, -stack(), name="second", description="T2")
    assert np.array_equal(read(tmp_path / "second003.dcm").array, -stack())
    with pytest.raises(DataError, match=r"2 DICOM series \('T1' \(number 3\), MR, 6 files; 'T2'.*data\.series"):
        read(tmp_path)


def test_other_files_are_passed_over_and_a_localizer_beside_the_volume_too(tmp_path):
    write_series(tmp_path, stack())
    write_series(
        tmp_path, stack()[..., :2], name="scout", changes={1: {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}}
    )
    (tmp_path / "README").write_text("not DICOM")
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + bytes(20))
    assert np.array_equal(read(tmp_path).array, stack())
    assert [one.problem is None for one in series_in(tmp_path)].count(True) == 1


def test_files_without_an_ending_are_known_by_what_they_hold(tmp_path):
    for path in sorted(write_series(tmp_path, stack()).iterdir()):
        path.rename(path.with_suffix(""))
    assert np.array_equal(read(tmp_path).array, stack())


# --- refusing ----------------------------------------------------------------------------------------------------------
SHEARED = (0.3, -2.9, 0.6)
PROBLEMS = {
    "a slice is missing": ({"skip": [2]}, r"1 slice missing: slices 2 and 3 are 6 mm apart, others 3 mm"),
    "two are missing": ({"skip": [2, 3]}, r"2 slices missing: .* 9 mm apart"),
    "uneven": ({"changes": {2: {"ImagePositionPatient": [-11.0, 3.2, 31]}}}, "only even spacing is read"),
    "a copy": (
        {"changes": {2: {"ImagePositionPatient": [-12.5, 7.25, 31]}}},
        r"6 slices at 5 positions \(copies, times, echoes",
    ),
    "orientation": ({"changes": {1: {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}}}, "different orientation"),
    "spacing": ({"changes": {1: {"PixelSpacing": [1, 1]}}}, "different PixelSpacing"),
    "frames": ({"NumberOfFrames": 3}, "multi-frame"),
    "colour": ({"changes": {0: {"SamplesPerPixel": 3}}}, "colour"),
    "inverted": ({"PhotometricInterpretation": "MONOCHROME1"}, "PhotometricInterpretation is MONOCHROME1, allowed"),
    "no geometry": ({"ImagePositionPatient": None}, "no geometry: ImagePositionPatient is missing"),
    "gantry tilt": ({"step": SHEARED}, r"sheared by 1\d.* degrees \(gantry tilt\); resample"),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_what_is_no_even_grey_stack_is_refused_in_one_line_that_names_it(problem, tmp_path):
    settings, said = PROBLEMS[problem]
    folder = write_series(tmp_path / "a", stack(), **settings)
    with pytest.raises(DataError, match=said) as refusal:
        read(folder)
    assert str(refusal.value).startswith(str(folder))
    assert "\n" not in str(refusal.value)
    (series,) = series_in(tmp_path)
    assert series.grid is None
    assert series.problem in str(refusal.value)


def test_slices_of_two_sizes_are_refused(tmp_path):
    write_series(tmp_path, stack(), skip=[5])
    write_series(tmp_path, stack(shape=(7, 4, 6)), skip=range(5))
    with pytest.raises(DataError, match=r"slices of 2 sizes \(5x4, 7x4\)"):
        read(tmp_path)


def test_positions_that_were_rounded_are_even_enough(tmp_path):
    normal = np.array([-np.sin(np.deg2rad(20)), np.cos(np.deg2rad(20)), 0])
    changes = {k: {"ImagePositionPatient": [round(float(x), 1) for x in k * 3.0 * normal]} for k in range(6)}
    assert read(write_series(tmp_path, stack(), changes=changes)).grid.spacing_mm[2] == pytest.approx(3, abs=0.02)


def test_a_slice_that_is_cut_off_is_named(tmp_path):
    write_series(tmp_path, stack())
    path = tmp_path / "series002.dcm"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match=r"series002\.dcm: its pixels can't be read"):
        read(tmp_path)


def test_a_file_that_is_no_dicom_any_more_is_named(tmp_path):
    write_series(tmp_path, stack())
    (tmp_path / "series001.dcm").write_bytes(b"")
    with pytest.raises(DataError, match=r"series001\.dcm beside its slices is damaged"):
        read(tmp_path)


def test_a_compressed_series_names_the_plugin_to_install(tmp_path, monkeypatch):
    from pydicom import Dataset, dcmread
    from pydicom.encaps import encapsulate
    from pydicom.pixels import get_decoder
    from pydicom.uid import JPEGLosslessSV1

    if get_decoder(JPEGLosslessSV1).is_available:
        pytest.skip("a decoder of JPEG Lossless is installed here")
    for path in write_series(tmp_path, stack()).iterdir():
        dataset: Dataset = dcmread(path)
        dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1
        dataset.PixelData = encapsulate([b"\xff\xd8\xff\xd9"])
        dataset["PixelData"].VR = "OB"
        dataset.save_as(path)
    with pytest.raises(DataError, match=r"compressed as JPEG Lossless.*pip install pylibjpeg pylibjpeg-libjpeg"):
        read(tmp_path)


# --- writing -----------------------------------------------------------------------------------------------------------
def test_what_is_written_like_a_series_is_nifti_on_its_grid_and_in_its_type(tmp_path):
    folder = write_series(tmp_path / "a", stack())
    write_like(tmp_path / "image.nii.gz", stack() + 0.4, folder)
    write_label_like(tmp_path / "label.nii.gz", some_label(), folder)
    image, label = read(tmp_path / "image.nii.gz"), read(tmp_path / "label.nii.gz")
    assert np.array_equal(image.array, stack())
    assert (image.dtype, label.dtype) == ("int16", "uint8")
    assert not image.grid.difference(read_grid(folder))
    assert np.array_equal(label.array, some_label())
    assert not label.grid.difference(read_grid(folder))


def segments(tmp_path, label=None, colours=None):
    folder = write_series(tmp_path / "a", stack())
    path = tmp_path / "seg.dcm"
    label = some_label() if label is None else label
    write_segments(path, label, folder, LABELS, label_colours(LABELS, colours), ALGORITHM)
    return folder, path


def test_segments_read_back_to_the_same_label_map(tmp_path):
    folder, path = segments(tmp_path)
    assert np.array_equal(read_segments([path], read_grid(folder), LABELS), some_label())


@pytest.mark.parametrize("charset", [None, "ISO_IR 100", "ISO_IR 192", ["", "ISO 2022 IR 87"]])
def test_names_of_any_script_go_there_and_back_and_the_patient_s_stays_right(charset, tmp_path):
    from pydicom import dcmread

    person = {None: "Doe^Jane", "ISO_IR 100": "Müller^Jürgen", "ISO_IR 192": "Нгуен^Bảo"}.get(
        charset if isinstance(charset, str | None) else "", "Yamada^Tarou=山田^太郎=やまだ^たろう"
    )
    names = {"background": 0, "肝臓": 1, "Почка, левая": 3, "Lésion " + "é" * 80: 4}
    label = np.select([some_label() == 2, some_label() == 7], [1, 4]).astype(np.uint8)
    folder, path = (
        write_series(tmp_path / "a", stack(), PatientName=person, SpecificCharacterSet=charset),
        tmp_path / "s",
    )
    write_segments(path, label, folder, names, label_colours(names, None), ALGORITHM)
    assert np.array_equal(read_segments([path], read_grid(folder), names), label)
    assert list(segments_of(path).values()) == ["肝臓", "Почка, левая", "Lésion " + "é" * 57]
    assert str(dcmread(path).PatientName) == person


@pytest.mark.parametrize("name", ["a" * 64 + "left", "kidney\\left", "kidney\nleft"])
def test_names_that_dicom_can_t_tell_apart_or_hold_are_refused(name, tmp_path):
    labels = {"background": 0, "a" * 64 + "right": 2, name: 7}
    folder = write_series(tmp_path / "a", stack())
    with pytest.raises(DataError, match=r"data\.labels"):
        write_segments(tmp_path / "s.dcm", some_label(), folder, labels, label_colours(labels, None), ALGORITHM)
    assert not (tmp_path / "s.dcm").exists()


def test_an_empty_label_map_goes_there_and_back(tmp_path):
    folder, path = segments(tmp_path, np.zeros((5, 4, 6), np.uint8))
    assert not read_segments([path], read_grid(folder), LABELS).any()


def test_highdicom_finds_names_colours_and_algorithm_and_the_slice_of_each_frame(tmp_path):
    import highdicom as hd
    from pydicom import dcmread

    folder, path = segments(tmp_path, colours={"Shell": [255, 0, 0]})
    seg = hd.seg.segread(path)
    shell, core = seg.get_segment_description(1), seg.get_segment_description(2)
    assert (shell.segment_label, core.segment_label) == ("Shell", "Core, left")
    red = hd.color.CIELabColor.from_dicom_value(shell.RecommendedDisplayCIELabValue).to_rgb()
    assert np.abs(np.subtract(red, (255, 0, 0))).max() <= 1
    assert core.algorithm_identification.name == "diffboost3d"
    sources = [dcmread(file, stop_before_pixels=True) for file in files_of(folder)]
    uids = [source.SOPInstanceUID for source in sources]
    assert {one[2] for one in seg.get_source_image_uids()} == set(uids)
    frames = seg.get_pixels_by_source_instance(uids, combine_segments=True)
    wanted = np.where(some_label() == 2, 1, np.where(some_label() == 7, 2, 0)).transpose(2, 1, 0)
    assert np.array_equal(frames, wanted)
    for frame in seg.PerFrameFunctionalGroupsSequence:
        uid = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert frame.PlanePositionSequence[0].ImagePositionPatient == sources[uids.index(uid)].ImagePositionPatient


def test_a_segmentation_holds_no_more_of_the_patient_than_it_has_to(tmp_path):
    from pydicom import dcmread

    _, path = segments(tmp_path)
    made = dcmread(path)
    assert (made.PatientID, made.StudyDate) == ("P 1/a", "20200102")
    assert made.PatientBirthDate == ""
    assert "PatientComments" not in made


def test_the_same_input_gives_the_same_bytes_and_another_label_map_another_uid(tmp_path):
    from pydicom import dcmread

    _, path = segments(tmp_path)
    before, uid = path.read_bytes(), dcmread(path).SOPInstanceUID
    segments(tmp_path)
    assert path.read_bytes() == before
    segments(tmp_path, np.roll(some_label(), 1, axis=0))
    assert dcmread(path).SOPInstanceUID != uid


def test_segments_that_lie_off_the_image_s_voxels_are_refused(tmp_path):
    _, path = segments(tmp_path)
    other = write_series(tmp_path / "b", stack(), step=(0.0, 0.0, 0.0), changes={
        k: {"ImagePositionPatient": [1.0 - k * np.sin(np.deg2rad(20)), k * np.cos(np.deg2rad(20)), 0.2]} for k in range(6)
    })  # fmt: skip
    with pytest.raises(DataError, match="don't lie on the voxels of the image"):
        read_segments([path], read_grid(other), LABELS)


def test_a_segment_of_unknown_name_is_refused_with_the_known_ones(tmp_path):
    folder, path = segments(tmp_path)
    with pytest.raises(DataError, match=r"segment 'Core, left' is no label; known: 'background', 'Shell'"):
        read_segments([path], read_grid(folder), {"background": 0, "Shell": 1})


def test_segments_of_several_files_are_joined_unless_two_share_a_voxel(tmp_path):
    folder, path = segments(tmp_path)
    other = np.where(np.roll(some_label(), 2, axis=2) == 7, 7, 0).astype(np.uint8)
    write_segments(
        tmp_path / "two.dcm", other, folder, {"background": 0, "Core, left": 7}, label_colours(LABELS), ALGORITHM
    )
    joined = read_segments([path, tmp_path / "two.dcm"], read_grid(folder), LABELS)
    assert np.array_equal(joined, np.maximum(some_label(), other))
    write_segments(
        tmp_path / "two.dcm",
        some_label() // 2 * 7,
        folder,
        {"background": 0, "Core, left": 7},
        label_colours(LABELS),
        ALGORITHM,
    )
    with pytest.raises(DataError, match="two segments share a voxel"):
        read_segments([path, tmp_path / "two.dcm"], read_grid(folder), LABELS)


# --- real --------------------------------------------------------------------------------------------------------------
@pytest.mark.real_data
def test_four_real_contrasts_lie_on_one_grid_and_agree_with_gdcm(real_data):
    folder = real_data / "dicom_example" / "brain"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    first = read_grid(folder / "t1_pre")
    assert first.spacing_mm == pytest.approx((0.6875, 0.6875, 6.5), abs=1e-4)
    for name in ("t1_post", "flair", "t2"):
        assert not first.difference(read_grid(folder / name))
    array, affine = by_simpleitk(folder / "t1_post")
    volume = read(folder / "t1_post")
    assert np.array_equal(volume.array, array)
    assert np.allclose(volume.grid.matrix, affine, atol=1e-5)

"""Pictures in every way they are stored: turned, clear, by palette, with marks; as images and as masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffboost3d.errors import DataError
from diffboost3d.imaging.files import read, read_label, write_like
from diffboost3d.imaging.pictures import read_mask, read_picture

GREY = np.random.default_rng(3).integers(0, 256, (6, 9)).astype(np.uint8)


def test_a_picture_is_turned_as_its_exif_tag_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise by a quarter
    Image.fromarray(GREY).save(tmp_path / "turned.png", exif=exif)
    pixels = read_picture(tmp_path / "turned.png")
    assert np.array_equal(pixels.array[:, :, 0].T, np.rot90(GREY, -1))
    assert pixels.notes == ("is turned as its EXIF tag says",)
    write_like(tmp_path / "out.png", pixels.array, tmp_path / "turned.png")
    assert np.array_equal(read(tmp_path / "out.png").array, pixels.array)  # once, not twice


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_clear_pixels_are_black_and_opaque_ones_as_they_are(mode: str, tmp_path: Path) -> None:
    alpha = np.full(GREY.shape, 255, np.uint8)
    channels = [GREY] * (1 if mode == "LA" else 3)
    Image.fromarray(np.stack([*channels, alpha], axis=-1)).save(tmp_path / "opaque.png")
    assert np.array_equal(read_picture(tmp_path / "opaque.png").array[:, :, 0].T, GREY)
    assert read_picture(tmp_path / "opaque.png").notes == ()
    alpha[:, :3] = 0
    Image.fromarray(np.stack([*channels, alpha], axis=-1)).save(tmp_path / "clear.png")
    pixels = read_picture(tmp_path / "clear.png")
    assert not pixels.array[:3].any()
    assert np.array_equal(pixels.array[3:, :, 0].T, GREY[:, 3:])
    assert pixels.notes == ("has clear pixels; they are taken as black",)


def test_grey_that_went_through_a_colour_jpeg_is_no_colour(tmp_path: Path) -> None:
    smooth = np.linspace(0, 255, 32 * 24).reshape(24, 32).astype(np.uint8)
    Image.fromarray(np.stack([smooth] * 3, axis=-1)).save(tmp_path / "grey.jpg", quality=60)
    assert read_picture(tmp_path / "grey.jpg").coloured == 0


def test_a_red_mask_is_as_white_as_a_white_one(tmp_path: Path) -> None:
    pixels = np.zeros((6, 9, 3), np.uint8)
    pixels[2:4, 3:6] = (255, 0, 0)
    Image.fromarray(pixels).save(tmp_path / "red.png")
    label = read_label(tmp_path / "red.png")
    assert np.unique(label.array).tolist() == [0, 255]
    assert label.notes == ("has a colour (#ff0000); its brightest channel is taken",)
    assert read(tmp_path / "red.png").array.max() == 76  # as an image: luminance


@pytest.mark.parametrize(("entries", "values"), [(2, [0, 1]), (3, [0, 1, 2])])
def test_a_palette_of_colours_numbers_labels(entries: int, values: list[int], tmp_path: Path) -> None:
    picture = Image.new("P", (9, 6))
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    picture.putdata([number % entries for number in range(54)])
    picture.save(tmp_path / "palette.png")
    assert np.unique(read_mask(tmp_path / "palette.png").array).tolist() == values


def test_a_palette_whose_first_entry_is_the_bright_one_is_looked_up(tmp_path: Path) -> None:
    picture = Image.new("P", (9, 6))
    picture.putpalette([255, 0, 0, 0, 0, 0])
    picture.putdata([1, *[0] * 52, 1])
    picture.save(tmp_path / "palette.png")
    assert read_mask(tmp_path / "palette.png").array[0, 0] == 0
    assert read_mask(tmp_path / "palette.png").array[1, 0] == 255


@pytest.mark.parametrize(
    "colours",
    [
        ((255, 0, 0), (0, 255, 0)),
        ((255, 255, 255), (255, 0, 0)),
        ((255, 165, 0), (255, 255, 0)),
        ((255, 0, 0), (255, 100, 0)),
    ],
)
def test_a_small_structure_of_another_colour_is_seen(colours, tmp_path: Path) -> None:
    array = np.zeros((200, 200, 3), np.uint8)
    array[20:180, 20:180] = colours[0]
    array[60:66, 60:66] = colours[1]
    Image.fromarray(array).save(tmp_path / "both.png")
    with pytest.raises(DataError, match=r"several colours \(#[0-9a-f]{6}, #[0-9a-f]{6}\)"):
        read_mask(tmp_path / "both.png")


def test_shades_of_one_colour_are_one(tmp_path: Path) -> None:
    array = np.zeros((20, 20, 3), np.uint8)
    array[2:18, 2:18] = (64, 41, 0)
    array[4:16, 4:16] = (128, 82, 0)
    array[6:14, 6:14] = (255, 165, 0)
    Image.fromarray(array).save(tmp_path / "orange.png")
    assert read_mask(tmp_path / "orange.png").notes == ("has a colour (#ffa500); its brightest channel is taken",)


def test_a_mask_of_several_colours_is_refused_and_blurred_borders_of_one_are_not(tmp_path: Path) -> None:
    array = np.zeros((32, 32, 3), np.uint8)
    array[4:14, 4:28] = (255, 0, 0)
    Image.fromarray(array).resize((50, 50), Image.Resampling.BICUBIC).save(tmp_path / "red.jpg")
    assert read_mask(tmp_path / "red.jpg").array.max() > 200
    array[16:28, 4:28] = (0, 255, 0)
    for ending in ("png", "jpg"):
        Image.fromarray(array).save(tmp_path / f"both.{ending}")
        with pytest.raises(DataError, match=r"both\..*several colours \(.*\); store the numbers"):
            read_mask(tmp_path / f"both.{ending}")


def test_a_mask_of_one_bit_has_ones_and_an_image_white(tmp_path: Path) -> None:
    Image.fromarray(GREY > 100).save(tmp_path / "bits.png")
    assert np.unique(read_mask(tmp_path / "bits.png").array).tolist() == [0, 1]
    assert np.array_equal(read_picture(tmp_path / "bits.png").array[:, :, 0].T > 0, GREY > 100)


@pytest.mark.parametrize("ending", [".png", ".tif"])
@pytest.mark.parametrize("samples", [2, 3, 4])
def test_a_picture_of_16_bits_and_several_samples_is_refused_since_half_of_its_bits_would_be_lost(
    samples: int, ending: str, tmp_path: Path
) -> None:
    import SimpleITK as sitk  # noqa: N813

    path = tmp_path / f"deep{ending}"
    deep = np.repeat(np.array([[0, 1, 2], [300, 40000, 65535]], np.uint16)[..., None], samples, axis=-1)
    sitk.WriteImage(sitk.GetImageFromArray(deep, isVector=True), str(path))
    for reader in (read_picture, read_mask):
        with pytest.raises(DataError, match=r"deep\.") as refused:
            reader(path)
        assert "\n" not in str(refused.value)

"""Reading 2D pictures (PNG, JPEG, TIFF, BMP) as grey values, whatever way they are stored in; what was done to them is told."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffboost3d.errors import DataError

DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")  # of Pillow: more than 8 bits
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "YCbCr", "CMYK", *DEEP_MODES)
MOST_FLAT = 32  # colours of a mask that was never compressed or blurred
LEAST_PIXELS = 4  # of a colour that is meant
SHADES = 0.15  # channels by the brightest one: colours that differ by more are no shades of each other
COLOURED = 16  # channels of a pixel differ by more than this: a colour, and no grey that went through JPEG
ORIENTATION = 0x0112  # EXIF
COLOUR_TOLD = "has a colour ("


@dataclass(frozen=True)
class Pixels:
    """A picture in memory.

    Attributes:
        array: (width, height, 1), uint8 or uint16.
        coloured: share of the pixels that had a colour.
        notes: what was done that its owner may want to know, a line each.
    """

    array: NDArray[Any]
    coloured: float = 0.0
    notes: tuple[str, ...] = ()


def read_picture(path: Path) -> Pixels:
    """Read a picture as grey values: colours become their luminance (ITU-R BT.601), and clear pixels black.

    Raises:
        DataError: damaged, no picture, of several frames, or with values that 16 bits don't hold.
    """
    picture, notes = _upright(path)
    if picture.mode in DEEP_MODES:
        return Pixels(_standing(_deep(path, np.asarray(picture))), 0.0, notes)
    rgb, more = _opaque(picture)
    share = float((_spread(rgb) > COLOURED).mean())
    if share > 0:
        more += (f"{100 * share:.3g} % of its pixels are coloured; it is read as luminance",)
    return Pixels(_standing(_luminance(rgb)), share, notes + more)


def read_mask(path: Path) -> Pixels:
    """Read a picture as a mask: values as they are stored, of coloured pixels the brightest channel, so that red is no shade.

    A coloured palette is a numbering of labels, its numbers are taken; but not of two entries in use of which 0 is the brighter.

    Raises:
        DataError: as `read_picture`; masks of several colours in one picture, which could not be told apart by brightness.
    """
    picture, notes = _upright(path)
    if picture.mode in DEEP_MODES:
        return Pixels(_standing(_deep(path, np.asarray(picture))), 0.0, notes)
    if picture.mode == "1":
        return Pixels(_standing(np.asarray(picture).astype(np.uint8)), 0.0, notes)
    rgb, more = _opaque(picture)
    share = float((_spread(rgb) > COLOURED).mean())
    if share == 0:
        return Pixels(_standing(_luminance(rgb)), 0.0, notes + more)
    numbers = np.asarray(picture) if picture.mode == "P" else np.zeros(1, np.uint8)
    if _numbers_labels(numbers, rgb):
        told = "has a palette of colours; the numbers of its entries are taken as labels"
        return Pixels(_standing(numbers), share, (*notes, told))
    if len(colours := _colours(rgb)) > 1:
        raise DataError(
            f"{path}: a mask of several colours ({', '.join(colours)}); store the numbers of its labels, grey or with a palette"
        )
    told = f"{COLOUR_TOLD}{', '.join(colours) or 'mixed'}); its brightest channel is taken"
    return Pixels(_standing(rgb.max(axis=2)), share, (*notes, *more, told))


def colours_told(notes: Iterable[str]) -> set[str]:
    """The colours of masks that notes of reading tell."""
    return {note.split(COLOUR_TOLD)[1].split(")")[0] for note in notes if COLOUR_TOLD in note}


def _numbers_labels(numbers: NDArray[np.uint8], rgb: NDArray[np.uint8]) -> bool:
    """Whether entries of a coloured palette are labels: of more than two, and of two where the darker one is 0."""
    used = np.unique(numbers)
    if len(used) != 2:
        return len(used) > 2
    dark, bright = (int(rgb[numbers == entry].max()) for entry in used)
    return bool(used[0] == 0 and dark < bright)


def _colours(rgb: NDArray[np.uint8]) -> list[str]:
    """The colours of a mask, white among them; shades of one and blurred borders don't count.

    Where few colours are in use, as in what was never compressed, a few pixels of one make it count; else a twentieth of the
    coloured pixels do, and only red, green, blue and their sums are told apart.
    """
    used, counts = np.unique(rgb.reshape(-1, 3), axis=0, return_counts=True)
    if len(used) > MOST_FLAT:
        return _main_colours(rgb)
    bright = (used.max(axis=1) >= used.max() / 4) & (counts >= LEAST_PIXELS)
    kinds = used[bright] / used[bright].max(axis=1, keepdims=True)
    apart: list[tuple[NDArray[Any], str]] = []
    for at in np.argsort(-used[bright].max(axis=1).astype(int), kind="stable"):
        if all(np.abs(kinds[at] - other).max() > SHADES for other, _ in apart):
            apart.append((kinds[at], "#" + bytes(used[bright][at].tolist()).hex()))
    return sorted(name for _, name in apart)


def _main_colours(rgb: NDArray[np.uint8]) -> list[str]:
    coloured = rgb[_spread(rgb) > COLOURED]
    strong = coloured > 0.5 * coloured.max(axis=1, keepdims=True)
    kinds, counts = np.unique(strong @ np.array([4, 2, 1]), return_counts=True)
    names = {4: "red", 2: "green", 1: "blue", 6: "yellow", 5: "magenta", 3: "cyan"}
    return [
        names[int(k)] for k, count in zip(kinds, counts, strict=True) if k in names and count >= 0.05 * len(coloured)
    ]


def _upright(path: Path) -> tuple[Any, tuple[str, ...]]:
    """The decoded picture, turned as its EXIF tag says. Raises DataError."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            halved = _would_lose_bits(picture)
            picture.load()
            mode, frames = picture.mode, getattr(picture, "n_frames", 1)
            turned = picture.getexif().get(ORIENTATION, 1) not in (0, 1)
            upright = ImageOps.exif_transpose(picture) if turned else picture.copy()
    except (Image.DecompressionBombError, UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{path}: can't be read ({error}); the file is damaged or no picture") from error
    if mode not in MODES or frames > 1:
        what = f"{frames} frames" if frames > 1 else f"mode {mode}"
        raise DataError(f"{path}: a picture of {what}; give one 8- or 16-bit picture a file")
    if halved:
        raise DataError(
            f"{path}: 16 bits in several samples a pixel (colour or alpha); store it as 16-bit grey, or in 8 bits"
        )
    return upright, ("is turned as its EXIF tag says",) if turned else ()


def _would_lose_bits(picture: Any) -> bool:
    """Whether a picture, opened but not yet decoded, has 16 bits a sample in the file of which Pillow keeps the upper 8."""
    return picture.mode not in DEEP_MODES and any(";16" in str(tile) for tile in picture.tile)


def _deep(path: Path, array: NDArray[Any]) -> NDArray[np.uint16]:
    if array.min() < 0 or array.max() > np.iinfo(np.uint16).max:  # mode "I": 32 bits, older Pillow's name for 16 too
        raise DataError(f"{path}: grey values outside 0 to 65535; give one 8- or 16-bit picture a file")
    return array.astype(np.uint16)


def _opaque(picture: Any) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """(height, width, 3), on black where it is clear."""
    if picture.mode not in ("LA", "PA", "RGBA") and "transparency" not in picture.info:
        return np.asarray(picture.convert("RGB")), ()
    rgba = np.asarray(picture.convert("RGBA"))
    alpha = rgba[..., 3:].astype(np.uint16)
    if alpha.min() == np.iinfo(np.uint8).max:
        return np.ascontiguousarray(rgba[..., :3]), ()
    return ((rgba[..., :3] * alpha + 127) // 255).astype(np.uint8), ("has clear pixels; they are taken as black",)


def _spread(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """How far the channels of each pixel are apart; 0: grey."""
    spread: NDArray[np.uint8] = rgb.max(axis=2) - rgb.min(axis=2)
    return spread


def _luminance(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """ITU-R BT.601, rounded as Pillow does; of equal channels their value."""
    weights = np.array([19595, 38470, 7471], np.uint32)  # sum 65536
    return ((rgb.astype(np.uint32) @ weights + 32768) >> 16).astype(np.uint8)


def _standing(array: NDArray[Any]) -> NDArray[Any]:
    """(height, width) as (width, height, 1)."""
    return np.ascontiguousarray(array.T)[:, :, None]

"""Several image channels, such as T2 and ADC: one 4D file, or one file each; in memory (C, I, J, K), of one channel (I, J, K)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffboost3d.errors import DataError
from diffboost3d.imaging.files import Volume, read, read_grid, write_float_like, write_like
from diffboost3d.imaging.geometry import resample


def channels_of(image: NDArray[Any]) -> NDArray[Any]:
    """(C, I, J, K) of an image of one channel (I, J, K) or of several."""
    return image[None] if image.ndim == 3 else image


def first_channel(image: NDArray[Any]) -> NDArray[Any]:
    """(I, J, K): what pictures show, and what registration and measures of a single channel look at."""
    return image if image.ndim == 3 else image[0]


def for_each_channel(change: Callable[[NDArray[Any]], NDArray[Any]], image: NDArray[Any]) -> NDArray[Any]:
    """`change` of an image (I, J, K), or of each channel of one (C, I, J, K)."""
    return change(image) if image.ndim == 3 else np.stack([change(one) for one in image])


def read_channels(paths: Sequence[Path], count: int, resampled: bool = False) -> Volume:
    """Read the image of a case: array (I, J, K), or with several channels (C, I, J, K), on the grid of the first file.

    Args:
        paths: one file, which is 4D where there are several channels, or a file for each channel.
        count: of channels.
        resampled: move channels that lie on another grid to the first one's, linearly; else they are refused.

    Raises:
        DataError: as `read`; another number of channels; another grid.
    """
    if len(paths) == 1:
        return read(paths[0], count)
    if len(paths) != count:
        raise DataError(f"{paths[0]}: {len(paths)} files of channels, but {count} channels are named (data.channels)")
    first, *others = (read(path) for path in paths)
    arrays = [first.array]
    for path, other in zip(paths[1:], others, strict=True):
        if (difference := first.grid.apart_from(other.grid)) and not resampled:
            raise DataError(
                f"{path}: the channel lies on another grid than {paths[0].name} ({difference}); "
                "prepare.channel_grids=resample moves it there"
            )
        arrays.append(resample(other.array, other.grid, first.grid) if difference else other.array)
    kind = np.result_type(*arrays)
    return Volume(np.stack([array.astype(kind, copy=False) for array in arrays]), first.grid, first.dtype)


def write_channels_like(
    targets: Sequence[Path], channels: Sequence[Iterable[NDArray[Any]]], templates: Sequence[Path], note: str = ""
) -> None:
    """Write channels, each in slabs (I, J, n) along k, in the form of the image files they stand for: one 4D file, or one each.

    A channel whose own file lies on another grid than the first is written on the first's, as float32.
    """
    if len(targets) == 1:
        write_like(targets[0], itertools.chain(*channels), templates[0], note)
        return
    first = read_grid(templates[0])
    for target, slabs, template in zip(targets, channels, templates, strict=True):
        if first.apart_from(read_grid(template)):
            write_float_like(target, slabs, templates[0], note)
        else:
            write_like(target, slabs, template, note)

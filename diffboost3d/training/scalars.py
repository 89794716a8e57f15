"""What a training writes for TensorBoard, and how long it waits for data."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Board:
    """The TensorBoard folder of a training.

    Args:
        start: step that the training goes on from; what an earlier run wrote of later ones is hidden.
        hparams: settings by name; numbers, words and truth values are shown, other kinds as text.
    """

    def __init__(self, folder: Path, start: int, hparams: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams as summaries

        self._writer = SummaryWriter(str(folder), purge_step=start + 1)
        plain = {name: value if isinstance(value, int | float | str) else str(value) for name, value in hparams.items()}
        # the metric is the scalar that validation writes; SummaryWriter.add_hparams would open a folder of its own
        for summary in summaries(plain, {"validation/score": None}):
            self._writer._get_file_writer().add_summary(summary)

    def scalars(self, scalars: Mapping[str, float], group: str, step: int) -> None:
        """Numbers after a step, as `<group>/<name>`."""
        for name, value in scalars.items():
            self._writer.add_scalar(f"{group}/{name}", value, step)

    def images(self, images: Mapping[str, NDArray[np.uint8]], step: int) -> None:
        """Pictures (height, width, 3)."""
        for name, image in images.items():
            self._writer.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """Write what is still in memory."""
        self._writer.close()


class Waiting:
    """The share of its steps' time that a training spends waiting for data.

    With a device that works on while the program waits it is an upper bound of what is lost.
    """

    def __init__(self) -> None:
        self._waited = self._spent = 0.0

    @property
    def share(self) -> float | None:
        """From 0 to 1 since the training (or the part after a resume) began; None before its first step."""
        return self._waited / self._spent if self._spent else None

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around a whole step."""
        started = time.perf_counter()
        yield
        self._spent += time.perf_counter() - started

    @contextmanager
    def data(self) -> Iterator[None]:
        """Around the wait, inside a step."""
        started = time.perf_counter()
        yield
        self._waited += time.perf_counter() - started

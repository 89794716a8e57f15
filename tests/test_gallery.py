"""The picture of docs/reference/cuboid-merge.md can be drawn anew."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SCRIPT = Path(__file__).resolve().parent.parent / "docs" / "generate_gallery.py"


@pytest.mark.slow
def test_the_gallery_shows_real_and_other_voxels(tmp_path: Path) -> None:
    path = tmp_path / "gallery.png"
    subprocess.run([sys.executable, str(SCRIPT), str(path)], check=True)
    with Image.open(path) as picture:
        red, _, blue = np.moveaxis(np.asarray(picture.convert("RGB"), dtype=int), -1, 0)
    assert 0.2 < (red - blue > 60).mean() < 0.6  # orange: not real

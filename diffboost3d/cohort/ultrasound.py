"""Breast-ultrasound-like pictures: layered tissue, speckle, a dark lesion with a shadow, and a dark lobule that is none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffboost3d.cohort.shapes import Float, smooth_field


def make_ultrasound(
    random: np.random.Generator, size: Sequence[int]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]:
    """A picture, its mask (0, 255) and where the look-alike is; all (height, width), the probe at the top."""
    width, height = size
    y, x = np.mgrid[0:height, 0:width] / np.array([height, width])[:, None, None]
    echo = _layers(random, x, y) * np.exp(0.25 * smooth_field(random, (height, width), 0.04 * width, (1.6, 1.0)))
    lobule = _blob(random, x, y, _away(random), (random.uniform(0.07, 0.12), random.uniform(0.04, 0.07)), 0.15)
    centre = (random.uniform(0.3, 0.7), random.uniform(0.38, 0.62))
    lesion = _blob(random, x, y, centre, (random.uniform(0.1, 0.2), random.uniform(0.07, 0.15)), 0.3)
    dark = random.uniform(0.12, 0.25)
    echo = np.where(lobule > 0, dark * random.uniform(0.9, 1.3), echo)
    echo = np.where(lesion > 0, dark, echo)
    echo *= _behind(random, x, y, lesion)
    echo *= np.exp(-random.uniform(0.3, 0.9) * y)
    picture = _compressed(_envelope(random, echo))
    mask = np.where(lesion > 0, 255, 0).astype(np.uint8)
    return picture, mask, (lobule > 0) & (mask == 0)


def _away(random: np.random.Generator) -> tuple[float, float]:
    """Somewhere a lesion rarely is: shallow or deep, to a side."""
    return float(random.choice([0.15, 0.85])) + random.uniform(-0.05, 0.05), random.uniform(0.2, 0.8)


def _layers(random: np.random.Generator, x: Float, y: Float) -> Float:
    """Skin, fat, gland and muscle: echo strength by depth, their borders waving."""
    echo = np.full(x.shape, 0.75)
    depth = 0.0
    for strength, thickness in ((0.9, 0.06), (0.35, 0.2), (0.7, 0.45), (0.45, 0.2)):
        wave = 0.03 * np.sin(2 * np.pi * (x * random.uniform(0.5, 2) + random.uniform()))
        echo = np.where(y > depth + wave * (depth > 0), strength * random.uniform(0.85, 1.15), echo)
        depth += thickness * random.uniform(0.8, 1.2)
    return echo


def _blob(
    random: np.random.Generator, x: Float, y: Float, centre: Sequence[float], radii: Sequence[float], rough: float
) -> Float:
    """Positive inside an ellipse with an irregular border."""
    turn = random.uniform(-0.5, 0.5)
    dx, dy = x - centre[0], y - centre[1]
    a, b = np.cos(turn) * dx + np.sin(turn) * dy, -np.sin(turn) * dx + np.cos(turn) * dy
    angle = np.arctan2(b / radii[1], a / radii[0])
    border = np.ones_like(x)
    for order in range(2, 7):
        border += rough * random.normal() / order * np.cos(order * angle + random.uniform(0, 2 * np.pi))
    inside: Float = border - np.hypot(a / radii[0], b / radii[1])
    return inside


def _behind(random: np.random.Generator, x: Float, y: Float, lesion: Float) -> Float:
    """Shadow or enhancement below the lesion, fading with depth."""
    from scipy.ndimage import gaussian_filter

    covered = np.cumsum(lesion > 0, axis=0) * (lesion <= 0)
    strength = float(random.choice([random.uniform(-0.75, -0.4), random.uniform(0.2, 0.5)]))
    return np.asarray(1 + strength * np.clip(gaussian_filter(covered / 12.0, 2.0), 0, 1), dtype=np.float64)


def _envelope(random: np.random.Generator, echo: Float) -> Float:
    """Fully developed speckle (Rayleigh) of mean `echo`: complex echoes seen by a beam that is wider than its pulse is long.

    The beam acts on the echoes, not on their envelope, so that borders are as blurred as the grain is large.
    """
    from scipy.ndimage import gaussian_filter

    along, across = 0.7, 1.5  # pixels
    real, imaginary = (gaussian_filter(echo * random.standard_normal(echo.shape), (along, across)) for _ in range(2))
    deviation = 1 / np.sqrt(4 * np.pi * along * across)  # of unit noise behind this filter
    envelope = np.hypot(real, imaginary) / (deviation * np.sqrt(np.pi / 2))
    return np.asarray(gaussian_filter(envelope, 0.45), dtype=np.float64)  # a pixel is an average


def _compressed(echo: Float) -> NDArray[np.uint8]:
    """Log compression of a 45 dB range to 0-255, as scanners show it."""
    decibel = 20 * np.log10(np.maximum(echo, 1e-4) / 1.5)
    return np.clip(np.round(255 * (1 + decibel / 45)), 0, 255).astype(np.uint8)

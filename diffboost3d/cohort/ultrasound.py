"""Breast-ultrasound-like pictures: layered tissue, speckle, a dark lesion with a shadow, and a dark lobule that is none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffboost3d.cohort.shapes import Float


def make_ultrasound(
    random: np.random.Generator, size: Sequence[int]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]:
    """A picture, its mask (0, 255) and where the look-alike is; all (height, width), the probe at the top."""
    width, height = size
    y, x = np.mgrid[0:height, 0:width] / np.array([height, width])[:, None, None]
    echo = _layers(random, x, y)
    lobule = _blob(random, x, y, _away(random), (0.09, 0.05), 0.1)
    centre = (random.uniform(0.3, 0.7), random.uniform(0.38, 0.62))
    lesion = _blob(random, x, y, centre, (random.uniform(0.1, 0.2), random.uniform(0.07, 0.15)), 0.18)
    dark = random.uniform(0.12, 0.22)
    echo = np.where(lobule > 0, dark * random.uniform(0.9, 1.3), echo)
    echo = np.where(lesion > 0, dark, echo)
    echo *= _behind(random, x, y, lesion)
    echo *= np.exp(-random.uniform(0.3, 0.9) * y)
    picture = _compressed(echo * _speckle(random, (height, width)))
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


def _speckle(random: np.random.Generator, shape: tuple[int, int]) -> Float:
    """Fully developed speckle: the Rayleigh envelope of complex noise, smoother across the beams than along them."""
    from scipy.ndimage import gaussian_filter

    real, imaginary = (gaussian_filter(random.standard_normal(shape), (0.6, 1.3)) for _ in range(2))
    envelope = np.hypot(real, imaginary)
    return np.asarray(envelope / envelope.mean(), dtype=np.float64)


def _compressed(echo: Float) -> NDArray[np.uint8]:
    """Log compression of a 45 dB range to 0-255, as scanners show it."""
    decibel = 20 * np.log10(np.maximum(echo, 1e-4) / 1.5)
    return np.clip(np.round(255 * (1 + decibel / 45)), 0, 255).astype(np.uint8)

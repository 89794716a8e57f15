"""MR-like and CT-like volumes: organs of varying shape and pose, partial volume, noise, and a look-alike that is no label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffboost3d.cohort.shapes import Body, Float, coordinates_mm, random_body, smooth_field

SPACING_MM = {"mr": (1.5, 1.5, 2.5), "ct": (2.0, 2.0, 4.0)}
LABELS = {"mr": ("body", "head"), "ct": ("liver", "kidney")}


@dataclass(frozen=True)
class Phantom:
    """image (I, J, K) float32 (MR) or int16 HU (CT); label (I, J, K) uint8; affine (4, 4) in mm; where the look-alike is."""

    image: NDArray[np.float32] | NDArray[np.int16]
    label: NDArray[np.uint8]
    affine: Float
    distractor: NDArray[np.bool_]


def make_mr(random: np.random.Generator, shape: Sequence[int]) -> Phantom:
    """T1-like: a curved two-part structure (labels 1, 2) in textured tissue, a dark ventricle, bias field, Rician noise."""
    i, j, k = SPACING_MM["mr"]
    spacing = (i, j, round(k * random.uniform(0.9, 1.1), 2))
    where = coordinates_mm(shape, spacing)
    half = np.asarray(shape) * SPACING_MM["mr"] / 2
    main = random_body(random, half * (-0.05, -0.12, 0.0), 5.0, half * (0.24, 0.34, 0.24))
    head = _attached(random, main, half * 0.2)
    twin = random_body(random, half * (0.05, 0.62, 0.1), 4.0, half * (0.22, 0.18, 0.22))
    ventricle = random_body(random, half * (0.5, 0.05, 0.0), 4.0, half * (0.14, 0.3, 0.3))
    skull = random_body(random, (0, 0, 0), 2.0, half * (0.98, 0.98, 1.2), variation=0.05, degrees=8)
    inside = skull.occupancy(where, 2.0)
    white, grey = random.uniform(0.75, 0.95), random.uniform(0.5, 0.62)
    tissue = grey + 0.5 * (white - grey) * (1 + np.tanh(1.5 * smooth_field(random, shape, 6.0, spacing)))
    image = tissue * inside
    parts = [(ventricle, 0.15), (twin, 0.36), (main, 0.36), (head, 0.46)]
    tone = random.uniform(0.94, 1.06)
    for body, value in parts:
        share = body.occupancy(where)
        texture = 0.02 * smooth_field(random, shape, 2.5, spacing)
        image = (1 - share) * image + share * (value * tone + texture)
    bias = np.exp(0.12 * smooth_field(random, shape, 40.0, spacing))
    noise = random.uniform(0.02, 0.045)
    real = image * bias + noise * random.standard_normal(tuple(shape))
    rician = np.hypot(real, noise * random.standard_normal(tuple(shape)))
    scale = 10 ** random.uniform(1.5, 4.0)  # MR has no common unit
    label = _label(main.occupancy(where), head.occupancy(where))
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = random.uniform(-40, 40, 3)
    return Phantom((rician * scale).astype(np.float32), label, affine, (twin.occupancy(where) > 0.5) & (label == 0))


def make_ct(random: np.random.Generator, shape: Sequence[int]) -> Phantom:
    """Abdomen-like, HU: liver and kidney (labels 1, 2), spine, fat, air, a table, and a spleen as bright as the liver."""
    spacing = SPACING_MM["ct"]
    where = coordinates_mm(shape, spacing)
    half = np.asarray(shape) * spacing / 2
    bodies = _abdomen(random, half)
    share = {name: body.occupancy(where, 1.5) for name, body in bodies.items()}
    share["spine"] *= share["muscle"]
    for name in ("spleen", "liver", "kidney"):  # nothing sticks out of the body or into the bone
        share[name] *= share["muscle"] * (1 - share["spine"])
    liver_hu = random.uniform(80, 120)
    tissues = {  # HU and the deviation of their texture, in the order of painting
        "skin": (-100.0, 8.0),
        "muscle": (random.uniform(35, 55), 10.0),
        "spine": (random.uniform(300, 450), 60.0),
        "spleen": (liver_hu + random.uniform(-6, 6), 5.0),
        "liver": (liver_hu, 5.0),
        "kidney": (random.uniform(125, 170), 8.0),
    }
    image = np.full(tuple(shape), -1000.0)
    table = (np.abs(where[1] - 0.88 * half[1]) < 3.0) & (np.abs(where[0]) < 0.8 * half[0])
    image[table] = -350.0
    for name, (value, texture) in tissues.items():
        painted = value + texture * smooth_field(random, shape, 4.0, spacing)
        image = (1 - share[name]) * image + share[name] * painted
    grain = smooth_field(random, shape, 1.2, spacing) + 0.5 * random.standard_normal(tuple(shape))
    image += random.uniform(10, 18) * grain * np.where(image > -500, 1.0, 0.4)
    label = _label(share["liver"], share["kidney"])
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])  # stored as L, P, S, as scanners do
    affine[:3, 3] = random.uniform(-100, 100, 3)
    hounsfield = np.clip(np.round(image), -1024, 3071).astype(np.int16)
    return Phantom(hounsfield, label, affine, (share["spleen"] > 0.5) & (label == 0))


def _abdomen(random: np.random.Generator, half: Float) -> dict[str, Body]:
    """Bodies of an abdomen whose axes run to the patient's left, back and head; `half` (3,) is half the volume in mm."""
    skin = random_body(
        random, (0, -0.06 * half[1], 0), 2.0, half * (0.92, 0.74, 6.0), variation=0.08, degrees=4, bumps=0.02
    )
    x, y, z = skin.centre_mm
    back = (x, y + 0.66 * skin.radii_mm[1], z)
    return {
        "skin": skin,
        "muscle": Body(skin.centre_mm, _scaled(skin.radii_mm, random.uniform(0.82, 0.92)), skin.rotation, skin.waves),
        "spine": random_body(random, back, 2.0, half * (0.14, 0.14, 6.0), variation=0.1, degrees=4),
        "spleen": random_body(random, half * (0.5, 0.18, 0.1), 4.0, half * (0.22, 0.24, 0.4)),
        "liver": random_body(random, half * (-0.34, 0.02, 0.15), 4.0, half * (0.36, 0.4, 0.42)),
        "kidney": random_body(random, half * (0.22, 0.24, -0.25), 5.0, half * (0.18, 0.2, 0.42)),
    }


MAKERS = {"mr": make_mr, "ct": make_ct}


def _attached(random: np.random.Generator, main: Body, radii_mm: Float) -> Body:
    """A smaller body that overlaps one end of `main`."""
    end = np.asarray(main.rotation) @ np.array([0.0, -main.radii_mm[1] * 0.95, 0.0])
    return random_body(random, np.asarray(main.centre_mm) + end, 1.5, radii_mm, variation=0.2, degrees=20)


def _label(first: Float, second: Float) -> NDArray[np.uint8]:
    """1 and 2 where a voxel is at least half inside, of two occupancies (I, J, K); the second goes before the first."""
    label = (first >= 0.5).astype(np.uint8)
    label[second >= 0.5] = 2
    return label


def _scaled(radii_mm: tuple[float, float, float], factor: float) -> tuple[float, float, float]:
    i, j, k = (radius * factor for radius in radii_mm)
    return (i, j, k)

"""The report tells median intensities of synthetic CT in HU, and of nothing else."""

from __future__ import annotations

from diffboost3d.cases.records import Case, Manifest, SyntheticRecord
from diffboost3d.imaging.geometry import Grid
from diffboost3d.imaging.intensity import IntensityMap
from diffboost3d.stages.audit_section import intensities_in_hu
from diffboost3d.synthesis.gate import FIDELITY, INTENSITY, Limit

LIMITS = [
    Limit("dice", FIDELITY, 0.5, None, 4, 0.8, ""),
    Limit("median liver", INTENSITY, 0.1, 0.5, 4, 0.3, ""),
    Limit("median kidney", INTENSITY, 0.1, 0.9, 4, 0.5, ""),
]


def manifest(intensity: IntensityMap) -> Manifest:
    grid = Grid.of((2, 2, 2), [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    case = Case("a", "a", "a.nii.gz", None, grid, grid, intensity, "")
    return Manifest("CT", "CT", "CT", {"background": 0, "liver": 1, "kidney": 2}, ".", 3, True, "", (case,))


def record(liver: float) -> SyntheticRecord:
    checks = {"dice": 0.7, "median liver": liver}
    return SyntheticRecord("a", 0, 0, 1, "", "", "", "", "", "", 1, 1.0, 1.0, "HU", checks=checks)


def test_medians_are_told_in_hu_beside_the_real_ones() -> None:
    text = intensities_in_hu(
        manifest(IntensityMap("ct_window", -160.0, 240.0, "HU")), LIMITS, [record(0.2), record(0.4)]
    )
    lines = [line for line in text.splitlines() if line.startswith("- ")]
    assert lines == ["- median liver: 100 HU in accepted volumes (80 to 120), 100 in 4 real cases"]
    assert "-160 to 240 HU" in text


def test_images_without_a_unit_and_runs_without_volumes_have_none() -> None:
    assert intensities_in_hu(manifest(IntensityMap("percentiles", 0.0, 9.0)), LIMITS, [record(0.2)]) == ""
    assert intensities_in_hu(manifest(IntensityMap("ct_window", -160.0, 240.0, "HU")), LIMITS, []) == ""

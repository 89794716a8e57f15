"""The house: modules import downwards only, the command line stays light, and no drawer for everything appears."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "diffboost3d"
LAYERS = {
    "errors": 0, "schema": 0, "synthetic_sets": 0, "validation": 0, "composition": 0, "config": 0, "seeds": 0,
    "cases": 1, "imaging": 1, "cohort": 1,
    "augmentation": 2, "training": 2,
    "diffusion": 3, "refinement": 3, "translation": 3, "segmentation": 3, "evaluation": 3,
    "synthesis": 4, "report": 4, "planning": 4,
    "stages": 5,
    "cli": 6, "__init__": 6, "__main__": 6,
}  # fmt: skip
COMMANDS = {
    "inspect",
    "prepare",
    "plan",
    "train_codec",
    "pretrain",
    "train_refiner",
    "finetune",
    "train_pix2pix",
    "synthesize",
    "train",
    "evaluate",
    "predict",
    "report",
    "export",
}
HEAVY = (
    "torch",
    "monai",
    "torchio",
    "diffusers",
    "transformers",
    "SimpleITK",
    "scipy",
    "matplotlib",
    "nibabel",
    "pydicom",
    "highdicom",
)
MODULES = sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """The project's modules that a file imports, anywhere in it, without the leading package name."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("diffboost3d"):
            inner = (node.module or "").removeprefix("diffboost3d").lstrip(".")
            names |= {inner} if inner else {alias.name for alias in node.names if alias.name in LAYERS}
        if isinstance(node, ast.Import):
            names |= {a.name.removeprefix("diffboost3d.") for a in node.names if a.name.startswith("diffboost3d.")}
    return names


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_from_its_own_layer_or_below(path: Path) -> None:
    for name in imported(path):
        other = name.split(".")[0]
        assert LAYERS[other] <= LAYERS[room(path)], f"{path.name} imports {name}"


def test_generator_and_segmenter_know_nothing_of_each_other() -> None:
    for path in MODULES:
        rooms = {name.split(".")[0] for name in imported(path)}
        assert not (room(path) == "diffusion" and "segmentation" in rooms)
        assert not (room(path) == "segmentation" and "diffusion" in rooms)


def test_methods_know_no_configuration() -> None:
    for path in MODULES:
        if 1 <= LAYERS[room(path)] <= 4:
            assert not imported(path) & {"config", "schema", "synthetic_sets", "validation"}, path


def test_stages_do_not_import_each_other() -> None:
    for name in COMMANDS:
        siblings = {module.removeprefix("stages.") for module in imported(PACKAGE / "stages" / f"{name}.py")}
        assert not siblings & COMMANDS, name


def test_no_module_is_a_drawer() -> None:
    assert not {path.stem for path in MODULES} & {"utils", "util", "helpers", "helper", "common", "misc"}


def test_every_module_opens_with_one_sentence() -> None:
    for path in MODULES:
        assert ast.get_docstring(ast.parse(path.read_text())), path


@pytest.mark.parametrize(
    "words",
    [["--help"], ["run", "--help"], ["run", "merge.alpha=1.5"], ["nonsense"]],
    ids=lambda words: " ".join(words),
)
def test_help_and_a_refusal_load_no_heavy_library(words: list[str]) -> None:
    code = (
        "import sys; from diffboost3d.cli import main; main(sys.argv[1:]);"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"

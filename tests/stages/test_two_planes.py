"""A second plane and slabs through the commands: training of both planes, whole volumes, and what is refused in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from small_stable_diffusion import write_base, write_control
from tiny_folders import SHAPE, TINY, write_pictures, write_volumes

from diffboost3d.cases.workspace import Workspace
from diffboost3d.cli import main
from diffboost3d.config import compose
from diffboost3d.diffusion.weights import load_generator
from diffboost3d.errors import ConfigError
from diffboost3d.imaging.edges import control_image
from diffboost3d.stages.generator_training import require_generator, shape_of, slice_datasets
from diffboost3d.stages.inputs import prepared

SHORT = ("diffusion.pretrain.steps=1", "diffusion.finetune.steps=1", "diffusion.denoiser.stack=2", "folds=[0]")
LEARNED = ("diffusion.second_axis=0",)
ASKED = ("synthesize.slab_blend=step", "synthesize.second_plane_every=1")


def words(root: Path, *more: str) -> list[str]:
    return [f"data.root={root / 'data'}", f"workspace={root / 'ws'}", *TINY, *SHORT, *more]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/, and ws/ with a generator that has learned two planes."""
    root = tmp_path_factory.mktemp("planes")
    write_volumes(root / "data", count=6)
    for stage in ("prepare", "pretrain", "finetune"):
        assert main([stage, *words(root, *LEARNED)]) == 0
    return root


def volumes(folder: Path) -> dict[str, bytes]:
    made = sorted((folder / "ws" / "synthetic" / "fold0").rglob("*.nii.gz"))
    return {str(path): path.read_bytes() for path in made}


def test_volumes_are_made_by_both_planes_and_again_byte_for_byte(folder: Path) -> None:
    assert main(["synthesize", *words(folder, *LEARNED, *ASKED)]) == 0
    both = volumes(folder)
    assert both
    for path in both:
        array = np.asarray(nib.load(path).dataobj)
        assert sorted(array.shape) == sorted(SHAPE)
        assert np.isfinite(array).all()
    shutil.rmtree(folder / "ws" / "synthetic")
    assert main(["synthesize", *words(folder, *LEARNED, *ASKED)]) == 0
    assert volumes(folder) == both
    assert main(["synthesize", *words(folder, *LEARNED, ASKED[0])]) == 0
    assert all(volumes(folder)[path] != body for path, body in both.items())


@pytest.mark.parametrize("neighbours", [0, 1])
def test_training_slices_of_a_second_plane_have_the_control_of_their_own_neighbours(folder: Path, neighbours) -> None:
    config = compose(words(folder, *LEARNED, f"diffusion.denoiser.neighbours={neighbours}"))
    workspace = Workspace(folder / "ws")
    manifest, generator = workspace.read_manifest(), load_generator(workspace.finetuned(0))
    given = (
        config,
        workspace,
        manifest,
        generator,
        config.diffusion.finetune,
        manifest.cases[:1],
        [],
        True,
        "finetune",
    )
    training, still = slice_datasets(*given)
    assert training.plan.size == (20, 20)  # of planes 16 x 18 and 18 x 8, for a divisor of 4
    assert (training.plan.axis, training.plan.second_axis, still.plan.second_axis) == (2, 0, 0)
    edge, label = (prepared(workspace, manifest.cases[0], kind) for kind in ("edge", "label"))
    for axis, control in ((2, training.sources[0].control), (0, training.sources[0].second_control)):
        expected = control_image(edge, label, list(manifest.foreground.values()), axis, neighbours, "separate")
        assert np.array_equal(control, expected)


def test_a_generator_of_one_plane_is_what_it_was_before_there_were_two() -> None:
    assert "second_axis" not in shape_of(compose())
    assert shape_of(compose(LEARNED)) == {**shape_of(compose()), "second_axis": 0}


def test_a_generator_that_has_not_learned_the_plane_is_refused_in_one_line(folder: Path, capsys) -> None:
    assert main(["synthesize", *words(folder, "diffusion.second_axis=1", *ASKED)]) == 2
    assert "was trained with diffusion second_axis=0, not 1;" in capsys.readouterr().err
    workspace = Workspace(folder / "ws")
    record = workspace.finetuned(0) / "record.json"
    before = record.read_text(encoding="utf-8")
    plain = json.loads(before)
    del plain["shape"]["second_axis"]
    record.write_text(json.dumps(plain), encoding="utf-8")
    try:
        with pytest.raises(ConfigError, match="second_axis=None, not 0; give both commands the same overrides"):
            require_generator(compose(words(folder, *LEARNED)), workspace, workspace.finetuned(0), "finetune")
    finally:
        record.write_text(before, encoding="utf-8")


def test_a_second_axis_that_is_the_first_is_refused(folder: Path, capsys) -> None:
    assert main(["pretrain", *words(folder, "diffusion.second_axis=2")]) == 2
    assert "slices are across axis 2 already (diffusion.slice_axis); allowed: null, 0, 1" in capsys.readouterr().err


def test_pictures_have_no_second_plane(tmp_path: Path, capsys) -> None:
    write_pictures(tmp_path / "data", count=6)
    given = [f"data.root={tmp_path / 'data'}", f"workspace={tmp_path / 'ws'}", *TINY, *LEARNED]
    assert main(["prepare", *given]) == 0
    assert main(["pretrain", *given]) == 2
    assert "diffusion.second_axis=0 is refused with 2D pictures; allowed: null" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("synthesize.second_plane_every=2", "synthesize.slab_blend=step"), "diffusion.second_axis=AXIS"),
        (("synthesize.second_plane_every=2", *LEARNED), "it needs whole volumes: synthesize.slab_blend=step"),
        ((*LEARNED, "diffusion.slice_axis=0"), "diffusion.second_axis=0 is refused with diffusion.slice_axis=0"),
        (("synthesize.slab_overlap=2",), "without synthesize.slab; give one of more than 2 slices"),
        (("synthesize.slab_overlap=3", "diffusion.denoiser.stack=2"), "an even number below slab"),
        (("synthesize.slab=2", "synthesize.slab_overlap=2"), "an even number below slab"),
        (("synthesize.slab_blend=never",), "allowed: end, step"),
    ],
)
def test_what_does_not_go_together_is_refused(given: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        compose(given)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_what_goes_together_composes() -> None:
    assert compose(["synthesize.slab_overlap=2", "diffusion.denoiser.stack=2"]).synthesize.slab is None
    assert compose([*LEARNED, *ASKED]).synthesize.second_plane_every == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_stable_diffusion_has_two_planes_too(tmp_path: Path) -> None:
    write_volumes(tmp_path / "data", count=6)
    write_control(tmp_path / "control", write_base(tmp_path / "base"))
    weights = [f"diffusion.weights.{name}={tmp_path / name}" for name in ("base", "control")]
    given = words(
        tmp_path,
        "diffusion=sd15",
        "diffusion.max_size=64",
        "synthesize.steps=1",
        *weights,
        *LEARNED,
        *ASKED,
        "diffusion.denoiser.stack=1",
    )
    for stage in ("prepare", "pretrain", "finetune", "synthesize"):
        assert main([stage, *given]) == 0
    assert volumes(tmp_path)
    record = json.loads((tmp_path / "ws" / "diffusion" / "fold0" / "record.json").read_text(encoding="utf-8"))
    assert (record["shape"]["family"], record["shape"]["second_axis"]) == ("stable_diffusion", 0)

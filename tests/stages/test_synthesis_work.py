"""What `synthesize` says before it starts, refuses, and gives to each process."""

from __future__ import annotations

import json
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_folders import TINY, write_volumes

from diffboost3d.cases.records import Case
from diffboost3d.cli import main
from diffboost3d.errors import WorkspaceError
from diffboost3d.imaging.files import read
from diffboost3d.imaging.geometry import Grid
from diffboost3d.imaging.intensity import IntensityMap
from diffboost3d.imaging.scratch import Scratch
from diffboost3d.stages import synthesis_work
from diffboost3d.stages.synthesis_work import Group, files_in_use, forecast, require_disk, shares


def group(size: int, samples: int = 1, name: str = "c") -> Group:
    grid = Grid.of((size, 1, 1), np.eye(4))
    case = Case(name, name, "c.nii.gz", None, grid, grid, IntensityMap("percentiles", 0, 1), "d")
    return Group(case, ["record"] * samples, ["record"] * samples)


# --- shares ----------------------------------------------------------------------------------------------------------
@given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 4)), max_size=30), st.integers(1, 5))
def test_every_group_has_one_owner_and_no_process_has_much_more_than_another(sizes, processes) -> None:
    groups = [group(size, samples, str(at)) for at, (size, samples) in enumerate(sizes)]
    parts = shares(groups, processes)
    assert len(parts) == processes
    assert sorted(one.case.id for part in parts for one in part) == sorted(one.case.id for one in groups)
    loads = [sum(one.voxels for one in part) for part in parts]
    assert max(loads) - min(loads) <= max((one.voxels for one in groups), default=0)
    for part in parts:  # the order of the cases is kept
        assert [int(one.case.id) for one in part] == sorted(int(one.case.id) for one in part)


def test_a_large_case_is_set_against_several_small_ones() -> None:
    parts = shares([group(1), group(1), group(1), group(3)], 2)
    assert sorted(sum(one.voxels for one in part) for part in parts) == [3, 3]


# --- what is said ----------------------------------------------------------------------------------------------------
def test_the_forecast_says_how_many_how_long_and_how_much_disk() -> None:
    parts = [[group(100, 2), group(50)], [group(100)]]
    said = forecast(parts, 2.0, 12_345_678, 75 * 10**9, 3)
    assert said == "4 volumes to make (3 are there), about 8 min with 2 processes, 12.3 MB of disk (75 GB free)"
    assert forecast([[group(10)]], 1.0, 4000, 10**6, 0) == "1 volume to make, about 10 s, 4 kB of disk (1 MB free)"
    assert "about 2 h 5 min" in forecast([[group(7500)]], 1.0, 4000, 10**6, 0)


def test_a_disk_that_is_too_small_is_refused_in_one_line(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(synthesis_work.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**9))
    workspace = SimpleNamespace(root=tmp_path)
    assert require_disk(workspace, 10**9) == 10**9
    with pytest.raises(
        WorkspaceError, match=r"needs about 1\.5 GB and the disk of .* has 1 GB free; free some"
    ) as error:
        require_disk(workspace, 1_500_000_000)
    assert "\n" not in str(error.value)


def test_temporary_files_of_large_volumes_count_for_the_disk_too(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(synthesis_work.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**9))
    cases = {
        name: SimpleNamespace(grid=SimpleNamespace(shape=shape)) for name, shape in (("a", (9, 9, 9)), ("b", (99,) * 3))
    }
    manifest = SimpleNamespace(case=cases.get, channel_count=2)
    records = [SimpleNamespace(case=name) for name in "aab"]
    assert files_in_use(Scratch(), manifest, records, 3) == 0
    files = files_in_use(Scratch(1e6, tmp_path), manifest, records, 3)
    assert 3 * 2 * 99**3 * 4 < files == 3 * files_in_use(Scratch(1e6, tmp_path), manifest, records, 1)
    assert files_in_use(Scratch(1e6, tmp_path), manifest, records[:2], 3) == 0  # those of a are small
    workspace = SimpleNamespace(root=tmp_path)
    assert require_disk(workspace, 9 * 10**8, 10**8) == 10**9
    with pytest.raises(
        WorkspaceError, match=r"about 1\.4 GB \(500 MB of it for temporary files\) .* raise synthesize\.memory_gb"
    ):
        require_disk(workspace, 9 * 10**8, 5 * 10**8)


# --- the stage -------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A workspace with a fine-tuned generator; the cases have an empty field of view around."""
    folder = tmp_path_factory.mktemp("work")
    write_volumes(folder / "data")
    for path in sorted((folder / "data" / "images").iterdir()):
        image = nib.load(path)
        array = np.asarray(image.dataobj).copy()
        array[:2] = array[-3:] = 0
        nib.save(type(image)(array, None, image.header), path)
    for stage in ("prepare", "pretrain", "finetune"):
        assert call(folder, stage) == 0
    return folder


def call(folder, stage, *words) -> int:
    return main([stage, f"data.root={folder / 'data'}", f"workspace={folder / 'ws'}", *TINY, *words])


def made(folder) -> dict[str, bytes]:
    place = folder / "ws" / "synthetic" / "fold0"
    return {path.relative_to(place).as_posix(): path.read_bytes() for path in sorted(place.glob("*/*.*"))}


def test_synthetic_files_keep_header_range_and_background_and_say_what_they_are(folder) -> None:
    assert call(folder, "synthesize") == 0
    said = (folder / "ws" / "log.txt").read_text(encoding="utf-8")
    assert "synthesize fold 0: 5 volumes to make, about " in said
    records = [json.loads(body) for name, body in made(folder).items() if name.endswith(".json")]
    assert len(records) == 5
    for record in records:
        assert {"case", "model", "seed", "sampler", "steps", "strength", "prompt", "noise", "checks"} <= record.keys()
        assert record["noise"] == "shared"
        source = folder / "data" / "images" / f"{record['case']}.nii.gz"
        real, synthetic = nib.load(source), nib.load(folder / "ws/synthetic/fold0" / record["case"] / record["path"])
        for field in ("dim", "pixdim", "sform_code", "qform_code", "datatype", "scl_slope", "scl_inter", "xyzt_units"):
            assert np.array_equal(real.header[field], synthetic.header[field], equal_nan=True), field
        assert np.array_equal(real.affine, synthetic.affine)
        assert synthetic.header["descrip"].item().decode() == (
            f"synthetic: diffboost3d, seed {record['seed']}, of case {record['case']}"
        )
        before, after = read(source).array, np.asarray(synthetic.dataobj)
        assert (before == 0).mean() > 0.25
        assert (after[before == 0] == 0).all()
        assert before.min() <= after.min()
        assert after.max() <= before.max()
        assert (after[before != 0] != before[before != 0]).mean() > 0.9


@pytest.mark.parametrize("words", [["synthesize.memory_gb=0"], ["synthesize.slab=3"]])
def test_memory_and_slabs_change_nothing_about_slices_that_see_no_neighbours(folder, words) -> None:
    assert call(folder, "synthesize") == 0
    volumes = {name: read(folder / "ws/synthetic/fold0" / name).array for name in made(folder) if ".nii" in name}
    digests = {name: json.loads(body)["digest"] for name, body in made(folder).items() if ".json" in name}
    for path in (folder / "ws" / "synthetic" / "fold0").glob("*/00.json"):
        path.unlink()
    assert call(folder, "synthesize", *words) == 0
    for name, array in volumes.items():
        np.testing.assert_allclose(read(folder / "ws/synthetic/fold0" / name).array, array, atol=1.01)
    for name, body in made(folder).items():
        if ".json" in name:
            assert (json.loads(body)["digest"] == digests[name]) == ("synthesize.memory_gb=0" in words)
    assert not [path for path in (folder / "ws").iterdir() if path.name.startswith("tmp")]


@pytest.mark.parametrize(("slab", "overlap"), [(1, 2), (4, 4), (4, 1)])
def test_an_overlap_that_slabs_cannot_have_is_refused(folder, capsys, slab, overlap) -> None:
    assert call(folder, "synthesize", f"synthesize.slab={slab}", f"synthesize.slab_overlap={overlap}") == 2
    assert "it takes an even number below slab" in capsys.readouterr().err


def test_a_process_that_has_nothing_to_do_is_possible(folder) -> None:
    parts = shares([group(5)], 3)
    assert [len(part) for part in parts] == [1, 0, 0]
    assert forecast(parts, 1.0, 10, 10**9, 0).startswith("1 volume ")

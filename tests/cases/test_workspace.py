"""Writing: a failure leaves the old file and no scraps; a finished result is current only for its own digest."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_folders import write_volumes

from diffboost3d.cases.atomic import remove_partial, replacing, replacing_folder, write_json
from diffboost3d.cases.records import Manifest, Score
from diffboost3d.cases.workspace import Workspace
from diffboost3d.cli import main
from diffboost3d.errors import ConfigError


def _fail_inside(path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError


def _fail_inside_folder(path: Path) -> None:
    with replacing_folder(path) as temporary:
        (temporary / "new").write_text("")
        raise RuntimeError


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(RuntimeError):
        _fail_inside(tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").write_text("")
    with pytest.raises(RuntimeError):
        _fail_inside_folder(tmp_path / "model")
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["old"]
    with replacing_folder(tmp_path / "model") as temporary:
        (temporary / "new").write_text("")
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["new"]


def test_scraps_of_a_killed_run_are_removed_on_opening(tmp_path: Path) -> None:
    (tmp_path / "prepared").mkdir()
    scrap = tmp_path / "prepared" / ".partial-1-image.nii.gz"
    scrap.write_text("")
    with Workspace(tmp_path).opened():
        assert not scrap.exists()
    remove_partial(tmp_path)


def test_a_result_is_current_for_its_own_digest_and_stale_for_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = Workspace(tmp_path)
    folder = tmp_path / "diffusion" / "fold0"
    with workspace.opened():
        assert not workspace.is_current(folder, "a")
        workspace.finish(folder, "finetune", "a", "now")
        assert workspace.is_current(folder, "a")
        assert not workspace.is_current(folder, "b")
        assert "diffusion/fold0 is of another configuration" in capsys.readouterr().out
        assert not workspace.is_current(folder, "a")


def test_scores_are_read_as_they_were_written(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    scores = [
        Score("none", 0, 1, 'c, "x"', "liver", "dice", 0.123457, ""),
        Score("a", 1, 2, "c", "l", "hd95", 3.0, "mm"),
    ]
    workspace.write_scores(scores)
    assert workspace.read_scores() == scores
    assert workspace.scores_path.read_text().splitlines()[0] == "arm,fold,seed,case,label,metric,value,unit"


def test_json_refuses_what_other_readers_could_not_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", float("nan"))


def test_a_manifest_comes_back_as_it_went(tmp_path: Path) -> None:
    root = write_volumes(tmp_path / "data", 4)
    assert main(["prepare", f"data.root={root}", f"workspace={tmp_path / 'ws'}"]) == 0
    manifest = Workspace(tmp_path / "ws").read_manifest()
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert manifest.source == "../data"
    assert manifest.foreground == {"shell": 1, "core": 2}


def _refuse_after(workspace: Workspace, made: bool) -> None:
    with workspace.opened():
        assert not workspace.is_current(workspace.root / "result", "new")
        if made:
            write_json(workspace.root / "result" / "record.json", {"digest": "new"})
        raise ConfigError("refused")


@pytest.mark.parametrize(("made", "kept"), [(False, "old"), (True, "new")])
def test_a_refused_command_leaves_a_finished_result_finished(tmp_path: Path, made: bool, kept: str) -> None:
    write_json(tmp_path / "result" / "record.json", {"digest": "old"})
    with pytest.raises(ConfigError):
        _refuse_after(Workspace(tmp_path), made)
    assert Workspace(tmp_path).is_current(tmp_path / "result", kept)
    assert ("result is left as it was" in (tmp_path / "log.txt").read_text()) is not made

"""Locks and scraps: one writer at a time, also across processes, and no trace of those that died."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from diffboost3d.cases.atomic import remove_partial, replacing, replacing_folder, write_text
from diffboost3d.cases.workspace import Workspace
from diffboost3d.errors import WorkspaceError

HOLD = """
import sys
from diffboost3d.cases.workspace import Workspace
with Workspace(sys.argv[1]).opened():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no flock")
def test_a_workspace_held_by_another_process_is_refused_until_that_one_is_gone(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(WorkspaceError, match="is in use by another run"), Workspace(tmp_path).opened():
            pass
        holder.kill()
        holder.wait()
    with Workspace(tmp_path).opened():
        assert (tmp_path / ".lock").is_file()


def test_a_workspace_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ws").write_text("")
    with pytest.raises(WorkspaceError, match="can't be written"), Workspace(tmp_path / "ws").opened():
        pass


def test_the_temporary_file_has_the_ending_that_writers_go_by_and_lies_beside_the_target(tmp_path: Path) -> None:
    with replacing(tmp_path / "new" / "image.nii.gz") as temporary:
        assert temporary.name.endswith("image.nii.gz")
        assert temporary.parent == tmp_path / "new"
        temporary.write_text("whole")
        assert not (tmp_path / "new" / "image.nii.gz").exists()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["image.nii.gz"]


def test_an_older_file_is_replaced(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    write_text(tmp_path / "a.txt", "grün")
    assert (tmp_path / "a.txt").read_bytes() == "grün".encode()


def test_scraps_are_removed_at_any_depth_and_nothing_else(tmp_path: Path) -> None:
    def dies(folder: Path) -> None:
        with replacing_folder(folder) as temporary, replacing(temporary / "weights.bin") as inner:
            inner.write_text("half")
            for path in (folder.with_name(".partial-9-model"), folder.parent / "deep" / ".partial-9-other"):
                (path / "sub").mkdir(parents=True)
            raise KeyboardInterrupt

    (tmp_path / "kept.partial-1").write_text("")
    with pytest.raises(KeyboardInterrupt):
        dies(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    (tmp_path / ".partial-9-file.json").write_text("")
    remove_partial(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["deep", "kept.partial-1"]


def test_a_finished_result_tells_when_and_with_what_it_was_made(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.finish(tmp_path / "result", "train", "abc", "then", steps=7)
    record = workspace.require(tmp_path / "result", "train")
    assert (record["stage"], record["digest"], record["started"], record["steps"]) == ("train", "abc", "then", 7)
    assert record["versions"]["diffboost3d"]


def test_what_is_missing_names_the_stage_to_run(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with pytest.raises(WorkspaceError, match="run `diffboost3d finetune` with this workspace first"):
        workspace.require(workspace.finetuned(0), "finetune")
    with pytest.raises(WorkspaceError, match="run `diffboost3d evaluate`"):
        workspace.read_scores()
    with pytest.raises(WorkspaceError, match="run `diffboost3d prepare`"):
        workspace.read_splits()


def test_a_folder_is_whole_at_every_moment_of_its_replacement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader between any two file operations sees the old folder, the new one, or none."""
    target, seen = tmp_path / "model", []

    def put(text: str) -> None:
        with replacing_folder(target) as temporary:
            for name in ("a", "b"):
                (temporary / name).write_text(text)

    def watching(operation):
        def watched(*given, **more):
            operation(*given, **more)
            seen.append([(target / name).read_text() if (target / name).exists() else None for name in ("a", "b")])

        return watched

    put("old")
    for module, name in ((shutil, "rmtree"), (os, "replace"), (os, "unlink"), (os, "rmdir")):
        monkeypatch.setattr(module, name, watching(getattr(module, name)))
    put("new")
    assert seen[-1] == ["new", "new"]
    assert all(one == other for one, other in seen)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]

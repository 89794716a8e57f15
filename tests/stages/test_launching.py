"""Launching: what needs another waits for it, what fails takes only what needs it along, and a dying process only its task."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from working_jobs import work

from diffboost3d.errors import ConfigError
from diffboost3d.stages import launching
from diffboost3d.stages.launching import LOG, Schedule, Task, run_by_hydra, run_here, run_in_processes


def schedule(tmp_path, *tasks):
    """Tasks given as (name, needs, after); and the list of what happens."""
    happened = []
    made = []
    for name, needs, after in tasks:
        (tmp_path / name).mkdir()
        made.append(Task(name, tmp_path / name, needs, after))

    def settled(task):
        return None if (task.folder / "result.txt").is_file() else "it left no result"

    return Schedule(made, settled, lambda event, task, error: happened.append((task.name, event, error))), happened


def test_tasks_run_in_order_after_what_they_need(tmp_path):
    plan, happened = schedule(tmp_path, ("c", ("b",), ()), ("b", ("a",), ()), ("a", (), ()), ("d", (), ()))
    run_here(plan, work)
    assert [name for name, event, _ in happened if event == "done"] == ["a", "b", "c", "d"]
    assert plan.errors == dict.fromkeys("abcd")


def test_what_needs_a_failed_task_is_not_tried_and_the_rest_is_done(tmp_path):
    plan, happened = schedule(
        tmp_path, ("fails", (), ()), ("next", ("fails",), ()), ("last", ("next",), ()), ("other", (), ("fails",))
    )
    run_here(plan, work)
    assert plan.errors == {
        "fails": "it left no result",
        "next": "needs fails, which has failed",
        "last": "needs next, which has failed",
        "other": None,
    }
    assert ("next", "starts", None) not in happened


def test_needs_outside_the_schedule_are_done_already(tmp_path):
    plan, _ = schedule(tmp_path, ("a", ("done before",), ()))
    run_here(plan, work)
    assert plan.errors == {"a": None}


def test_a_process_that_dies_fails_its_task_only(tmp_path):
    plan, _ = schedule(tmp_path, ("dies", (), ()), ("a", (), ("dies",)), ("b", (), ("dies",)))
    run_in_processes(plan, work, 1)
    assert "was killed by signal 9" in plan.errors.pop("dies")
    assert plan.errors == {"a": None, "b": None}
    workers = {(tmp_path / name / "result.txt").read_text() for name in "ab"}
    assert len(workers) == 1  # a new process, which stays
    assert "works in a" in (tmp_path / "a" / LOG).read_text()


def test_tasks_may_have_processes_of_their_own(tmp_path):
    plan, _ = schedule(tmp_path, ("loads", (), ()))
    run_in_processes(plan, work, 1)
    assert plan.errors == {"loads": None}
    assert "loaded" in (tmp_path / "loads" / LOG).read_text()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_task_of_which_nothing_can_be_reported_is_not_lost(tmp_path):
    plan, _ = schedule(tmp_path, ("a", (), ()), ("b", ("a",), ()))
    quiet = plan.report

    def report(event, task, error):
        if event == "done" and task.name == "a":
            raise OSError("disk full")
        quiet(event, task, error)

    plan.report = report
    run_in_processes(plan, work, 2)
    assert "a" in plan.errors
    assert set(plan.errors) <= {"a", "b"}


def test_nothing_to_do_starts_nothing(tmp_path):
    plan, happened = schedule(tmp_path)
    run_here(plan, work)
    run_in_processes(plan, work, 2)
    assert happened == []


def test_a_launcher_that_is_not_installed_is_refused_with_what_to_install(tmp_path, monkeypatch):
    from hydra.core.plugins import Plugins

    plan, _ = schedule(tmp_path, ("a", (), ()))
    monkeypatch.setattr(Plugins, "discover", lambda self, kind: [])
    with pytest.raises(ConfigError, match=r"submitit_slurm is not installed: pip install hydra-submitit-launcher"):
        run_by_hydra(plan, "submitit_slurm", {}, tmp_path)


def test_a_job_that_dies_in_a_launcher_fails_alone_and_what_needs_the_others_runs(tmp_path, monkeypatch):
    def launcher(words, check):
        """Does what it is told but for jobs that die, and ends with status 1 where one did."""
        (jobs,) = (word.removeprefix("job=") for word in words if word.startswith("job="))
        folders = [Path(name.strip("'")) for name in jobs.split(",")]
        for folder in folders:
            if not folder.name.startswith("dies"):
                work(folder)
        return subprocess.CompletedProcess(words, int(any(folder.name.startswith("dies") for folder in folders)))

    monkeypatch.setattr(launching, "require_launcher", lambda name: None)
    monkeypatch.setattr(launching.subprocess, "run", launcher)
    plan, happened = schedule(tmp_path, ("a", (), ()), ("dies", (), ()), ("c", ("a",), ()), ("d", ("dies",), ()))
    run_by_hydra(plan, "rocket", {}, tmp_path)
    assert plan.errors == {
        "a": None,
        "dies": "it left no result (launcher rocket ended with status 1)",
        "c": None,
        "d": "needs dies, which has failed",
    }
    assert ("d", "starts", None) not in happened

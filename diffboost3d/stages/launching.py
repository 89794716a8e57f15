"""Running jobs that depend on each other: in this process, in some of this machine, or by a launcher plugin of Hydra."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffboost3d.errors import ConfigError, DiffBoostError

LOG = "log.txt"


@dataclass(frozen=True)
class Task:
    """A job's name and folder, and the names of those that must be done (`needs`) or at least be over (`after`) before."""

    name: str
    folder: Path
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


@dataclass
class Schedule:
    """What is to do, in the order of preference, and what has become of it.

    Args:
        settled: asked once a task has been run; None: it is done, else what went wrong.
        report: told of every task that starts or is over.
    """

    tasks: Sequence[Task]
    settled: Callable[[Task], str | None]
    report: Callable[[str, Task, str | None], None]
    errors: dict[str, str | None] = field(default_factory=dict)
    _started: set[str] = field(default_factory=set)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def ready(self) -> list[Task]:
        """Tasks that can start now; those that never can, as what they need has failed, are settled on the way."""
        with self._changed:
            names = {task.name for task in self.tasks}
            for task in self.tasks:
                failed = [name for name in task.needs if self.errors.get(name)]
                if failed and task.name not in self.errors:
                    self._settle(task, f"needs {failed[0]}, which has failed")
            over = self.errors.keys()
            return [
                task
                for task in self.tasks
                if task.name not in self._started
                and all(name in over or name not in names for name in (*task.needs, *task.after))
            ]

    def next(self) -> Task | None:
        """Take a task, after waiting for one; None: there will be no more."""
        with self._changed:
            while True:
                ready = self.ready()
                if ready:
                    self.start(ready[0])
                    return ready[0]
                if len(self._started) == len(self.tasks):
                    return None
                self._changed.wait()

    def start(self, task: Task) -> None:
        """Take this task."""
        with self._changed:
            self._started.add(task.name)
            self.report("starts", task, None)

    def over(self, task: Task, crash: str | None = None) -> None:
        """Ask what became of a task that was run; `crash`: how its process ended, where that wasn't well."""
        with self._changed:
            self._settle(task, crash or self.settled(task))

    def lose(self, task: Task | None, error: Exception) -> None:
        """Settle a task, if there is one, of which nothing can be asked or reported any more."""
        with self._changed:
            if task is not None:
                self.errors.setdefault(task.name, f"{type(error).__name__}: {error}")
            self._changed.notify_all()

    def _settle(self, task: Task, error: str | None) -> None:
        self._started.add(task.name)
        self.errors[task.name] = error
        self.report("failed" if error else "done", task, error)
        self._changed.notify_all()


def run_here(schedule: Schedule, run: Callable[[Path], None]) -> None:
    """Run all tasks one after the other in this process."""
    while (task := schedule.next()) is not None:
        run(task.folder)
        schedule.over(task)


def run_in_processes(schedule: Schedule, run: Callable[[Path], None], processes: int) -> None:
    """Run tasks in `processes` processes; one that dies fails its task only. What they print is in the task's log.txt."""
    workers: list[_Worker] = []
    threads = [
        threading.Thread(target=_keep_busy, args=(schedule, run, workers), daemon=True) for _ in range(processes)
    ]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException:  # such as Ctrl-C: nothing may go on without this process
        for worker in list(workers):
            worker.process.terminate()
        raise


def _keep_busy(schedule: Schedule, run: Callable[[Path], None], workers: list[_Worker]) -> None:
    """Give one process after the other what is ready, and start another where one has died; `workers` gets all of them."""
    worker: _Worker | None = None
    task: Task | None = None
    try:
        while (task := schedule.next()) is not None:
            if worker is None or not worker.process.is_alive():
                worker = _Worker(run)
                workers.append(worker)
            schedule.over(task, worker.do(task.folder))
    except Exception as error:  # e.g. a disk that is full: no other thread may wait for this task
        schedule.lose(task, error)
        raise
    finally:
        if worker is not None:
            worker.end()


class _Worker:
    """A process that runs tasks until it is told to end, or dies, or the process that started it does."""

    def __init__(self, run: Callable[[Path], None]) -> None:
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        self._line, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, run))  # no daemon: those can't have loader processes
        self.process.start()
        other.close()

    def do(self, folder: Path) -> str | None:
        """Run a task; None, or how the process ended."""
        try:
            self._line.send(folder)
            self._line.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode
            how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with status {code}"
            return f"its process {how}; see {folder / LOG}"
        return None

    def end(self) -> None:
        self._line.close()
        self.process.join()


def _serve(line: Any, run: Callable[[Path], None]) -> None:
    threading.Thread(target=_die_with_parent, daemon=True).start()
    while True:
        try:
            folder: Path = line.recv()
        except EOFError:
            return
        with (folder / LOG).open("a", encoding="utf-8") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            run(folder)
        line.send(True)


def _die_with_parent() -> None:
    """So that nothing goes on behind the back of the next run of the same study."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def run_by_hydra(schedule: Schedule, launcher: str, options: dict[str, Any], folder: Path) -> None:
    """Run tasks by a launcher plugin of Hydra: one multirun of all that can start, then one of what can start after that.

    Args:
        folder: gets the plugin's own files.

    Raises:
        ConfigError: there is no such plugin here. DiffBoostError: it came to nothing.
    """
    require_launcher(launcher)
    while ready := schedule.ready():
        for task in ready:
            schedule.start(task)
        jobs = ",".join(_quoted(str(task.folder)) for task in ready)
        words = [sys.executable, "-m", "diffboost3d.stages.hydra_job", "--multirun"]
        words += [f"hydra/launcher={launcher}", f"hydra.sweep.dir={_quoted(str(folder))}", f"job={jobs}"]
        words += [f"++hydra.launcher.{name}={_written(value)}" for name, value in options.items()]
        status = subprocess.run(words, check=False).returncode
        for task in ready:
            error = schedule.settled(task)  # the status is of the whole multirun: most of its jobs may be well
            how = f"{error} (launcher {launcher} ended with status {status})"
            schedule.over(task, how if error and status else None)


def require_launcher(launcher: str) -> None:
    """Raise ConfigError where there is no such plugin of Hydra here."""
    from hydra.core.plugins import Plugins
    from hydra.plugins.launcher import Launcher

    found = {plugin.__module__ for plugin in Plugins.instance().discover(Launcher)}
    family = launcher.split("_")[0]
    if not any(family in module for module in found):
        hint = "pip install hydra-submitit-launcher" if family == "submitit" else "install the plugin that has it"
        raise ConfigError(f"compare.launcher={launcher} is not installed: {hint}; or compare.launcher=local")


def _written(value: Any) -> str:
    """A value as Hydra's command line takes it."""
    if value is None:
        return "null"
    return _quoted(value) if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def refuse_torchrun() -> None:
    """A study starts processes of its own."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise DiffBoostError(
            "compare runs in one process and starts others itself (compare.processes=N); leave out torchrun"
        )

"""Runs tasks in processes that kill themselves, by SIGKILL, just before their n-th change to the disk.

The processes are forked as those of runs are (`warm_runs`): by a parent that has loaded the pipeline once.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from multiprocessing.context import SpawnContext
from pathlib import Path
from typing import Any

import dagster as dg

from wrm_pipeline.clients.breaker import Breakers
from wrm_pipeline.clients.errors import TransientError
from wrm_pipeline.settings import load_settings
from wrm_pipeline_tests.faults.harness import _BUILDS, ANALYTICS, JOB, REPLAY, Harness, local_day
from wrm_pipeline_tests.fixtures.forked import ForkedTask, parents_of


class CrashingTask(ForkedTask):
    """A process of this module's tasks."""

    parents = parents_of(__name__)


class _Context(SpawnContext):
    Process = CrashingTask


PROCESSES = _Context()

Task = Callable[[Harness], None]


def fetch(world: Harness) -> None:
    world.fetch()


def fetch_without_store(world: Harness) -> None:
    """The store is down, so the body goes to the spool."""

    def away() -> None:
        raise TransientError("away", "s3", "put")

    world.connect = away
    world.fetch()


def fetch_with_breaker(world: Harness) -> None:
    """With a circuit breaker, whose state is on the disk."""
    world.fetch(world.feed(breaker=Breakers(world.settings.breaker_dir).of("feed")))


def process(world: Harness) -> None:
    world.run(JOB, local_day(world.now))


def build(world: Harness) -> None:
    """Processed and enhanced, without the views."""
    world.run(JOB, local_day(world.now), only=_BUILDS)


def replay(world: Harness) -> None:
    world.run(REPLAY)


def analyze(world: Harness) -> None:
    world.run(ANALYTICS)


def analyze_on_instance(world: Harness) -> None:
    """On the instance in DAGSTER_HOME, which records the run and enforces its pools."""
    with dg.DagsterInstance.get() as instance:
        world.instance = instance
        world.run(ANALYTICS)


TASKS: dict[str, Task] = {
    task.__name__: task
    for task in (
        fetch,
        fetch_without_store,
        fetch_with_breaker,
        process,
        build,
        replay,
        analyze,
        analyze_on_instance,
    )
}


class CrashTrigger:
    """Counts renames, links and removals below a folder, and kills the process between two of them.

    It dies when everything is ready for the next change (temporary files are written), or right after the last one.
    Removing files of `.tmp/` changes nothing that anyone sees, so it does not count.
    """

    def __init__(self, folder: Path, log: Path, survive: int | None, *, after: bool) -> None:
        self._folder = folder
        self._log = log
        self._left = survive
        self._after = after

    def watch(self) -> None:
        for name, of_target in (("replace", True), ("hardlink_to", False), ("unlink", False)):
            setattr(Path, name, self._counted(getattr(Path, name), name, of_target=of_target))

    def _counted(self, method: Callable[..., Any], name: str, *, of_target: bool) -> Callable[..., Any]:
        @functools.wraps(method)
        def counted(path: Path, *args: Any, **kwargs: Any) -> Any:
            changed = Path(args[0]) if of_target else path
            if self._is_change(changed) and (name != "unlink" or path.exists()):
                self._die_if_due(after=False)
                result = method(path, *args, **kwargs)
                self._record(name, changed)
                self._die_if_due(after=True)
                return result
            return method(path, *args, **kwargs)

        return counted

    def _is_change(self, path: Path) -> bool:
        return self._folder in path.parents and ".tmp" not in path.parts and ".tmp-" not in path.name

    def _record(self, name: str, path: Path) -> None:
        verb = {"replace": "rename", "hardlink_to": "link", "unlink": "remove"}[name]
        with self._log.open("a") as log:
            log.write(f"{verb} {label_of(path.relative_to(self._folder))}\n")
        if self._left is not None:
            self._left -= 1

    def _die_if_due(self, *, after: bool) -> None:
        if self._left == 0 and after == self._after:
            os.kill(os.getpid(), signal.SIGKILL)


def label_of(path: Path) -> str:
    """Describe a file without its date, time or id."""
    parts = [part for part in path.parts if part not in {"lake", "bike-data", "gen_info", "all"} and "dt=" not in part]
    folder = "metadata of " if ".metadata" in parts else ""
    kinds = ("raw", "quarantine", "processed", "enhanced", "dlq", "duckdb", "site", "spool", "breakers", "cache")
    kind = "reports" if "reports" in parts and "site" not in parts else ""
    kind = kind or next((part for part in parts if part in kinds), path.name.partition(".new-")[0])
    stray = "stray " if kind in {"processed", "enhanced"} and "000000" not in path.name else ""
    return f"{folder}{stray}{kind}"


@dataclass(frozen=True)
class Kill:
    """When to die: after this many changes, just before the next one or right after the last one."""

    changes: int
    after: bool = False


def _main(environ: Mapping[str, str], task: str, feed_url: str, at: str, log: str, kill: Kill | None) -> None:
    os.environ.update(environ)
    sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115 - for this process's short life
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    settings = load_settings()
    world = Harness(settings, feed_url=feed_url, at=datetime.fromisoformat(at))
    CrashTrigger(settings.data_dir, Path(log), kill.changes if kill else None, after=bool(kill and kill.after)).watch()
    TASKS[task](world)
    Path(log).with_suffix(".failures").write_text("\n".join(world.failures))


def start(world: Harness, task: str, log: Path, kill: Kill | None = None) -> Any:
    """Start a task on a harness's data in a separate process."""
    environ = {name: value for name, value in os.environ.items() if name.startswith(("WRM_", "S3_", "BUCKET", "DAGS"))}
    at = world.now + timedelta(milliseconds=500)  # not the moment of a run of the parent's
    process = PROCESSES.Process(target=_main, args=(environ, task, world.feed_url, at.isoformat(), str(log), kill))
    process.start()
    return process


def run(world: Harness, task: str, log: Path, kill: Kill | None = None) -> list[str]:
    """Run a task to its end or its crash; returns the changes that it made."""
    with contextlib.suppress(FileNotFoundError):
        log.unlink()
    process = start(world, task, log, kill)
    process.join(60)
    expected = 0 if kill is None else -signal.SIGKILL
    assert process.exitcode == expected, process.exitcode
    return log.read_text().splitlines() if log.exists() else []


def kills(changes: list[str]) -> list[Kill]:
    """A crash before each change, and one after the last; in a series of similar files, at its beginning and end."""
    alike = [n for n in range(2, len(changes) - 1) if changes[n - 2 : n] == changes[n : n + 2]]
    return [*(Kill(n) for n in range(len(changes)) if n not in alike), Kill(len(changes), after=True)]


def place_of(kill: Kill, changes: list[str]) -> str:
    """A readable description of where a process died."""
    place = f"after {changes[-1]}" if kill.after else f"before {changes[kill.changes]}"
    return f"SIGKILL {place} ({kill.changes}/{len(changes)})"

"""Runs in processes of their own that kill themselves, by SIGKILL, just before their n-th change to the disk.

The processes are forked from a clean server that has loaded the pipeline once, so a kill costs tenths of a second.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg

from wrm_pipeline.clients.breaker import Breakers
from wrm_pipeline.clients.errors import TransientError
from wrm_pipeline.settings import load_settings
from wrm_pipeline_tests.faults.world import _BUILDS, ANALYTICS, JOB, REPLAY, World, local_day

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["pytest", "requests", f"{__package__}.warm"])

Task = Callable[[World], None]


def fetch(world: World) -> None:
    world.fetch()


def fetch_without_store(world: World) -> None:
    """The store is away, so the body goes to the spool."""

    def away() -> None:
        raise TransientError("away", "s3", "put")

    world.connect = away
    world.fetch()


def fetch_with_breaker(world: World) -> None:
    """With a circuit breaker, whose state is on the disk."""
    world.fetch(world.feed(breaker=Breakers(world.settings.breaker_dir).of("feed")))


def process(world: World) -> None:
    world.run(JOB, local_day(world.now))


def build(world: World) -> None:
    """Processed and enhanced, without the views."""
    world.run(JOB, local_day(world.now), only=_BUILDS)


def replay(world: World) -> None:
    world.run(REPLAY)


def analyze(world: World) -> None:
    world.run(ANALYTICS)


def analyze_on_instance(world: World) -> None:
    """On the instance in DAGSTER_HOME, which remembers the run and holds it to its pools."""
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


class Doom:
    """Counts changes to the disk below a folder, by renames, links and removals, and ends the process between two.

    It dies when all is ready for the next change (temporary files are written), or right after the last. Files of
    `.tmp/` are removed without changing what anybody sees; that does not count.
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
    """What a file is, without date, time or id."""
    parts = [part for part in path.parts if part not in {"lake", "bike-data", "gen_info", "all"} and "dt=" not in part]
    folder = "metadata of " if ".metadata" in parts else ""
    kinds = ("raw", "quarantine", "processed", "enhanced", "dlq", "duckdb", "site", "spool", "breakers", "cache")
    kind = "reports" if "reports" in parts and "site" not in parts else ""
    kind = kind or next((part for part in parts if part in kinds), path.name.partition(".new-")[0])
    stray = "stray " if kind in {"processed", "enhanced"} and "000000" not in path.name else ""
    return f"{folder}{stray}{kind}"


@dataclass(frozen=True)
class Kill:
    """When to die: with this many changes made, before the next one or right after the last of them."""

    changes: int
    after: bool = False


def _main(environ: Mapping[str, str], task: str, feed_url: str, at: str, log: str, kill: Kill | None) -> None:
    os.environ.update(environ)
    sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115 - for this process's short life
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    settings = load_settings()
    world = World(settings, feed_url=feed_url, at=datetime.fromisoformat(at))
    Doom(settings.data_dir, Path(log), kill.changes if kill else None, after=bool(kill and kill.after)).watch()
    TASKS[task](world)
    Path(log).with_suffix(".failures").write_text("\n".join(world.failures))


def start(world: World, task: str, log: Path, kill: Kill | None = None) -> Any:
    """Start a task on a world's data in a process of its own."""
    environ = {name: value for name, value in os.environ.items() if name.startswith(("WRM_", "S3_", "BUCKET", "DAGS"))}
    at = world.now + timedelta(milliseconds=500)  # not the moment of a run of the parent's
    process = PROCESSES.Process(target=_main, args=(environ, task, world.feed_url, at.isoformat(), str(log), kill))
    process.start()
    return process


def run(world: World, task: str, log: Path, kill: Kill | None = None) -> list[str]:
    """Run a task to its end or its death; gives the changes that were made."""
    with contextlib.suppress(FileNotFoundError):
        log.unlink()
    process = start(world, task, log, kill)
    process.join(60)
    expected = 0 if kill is None else -signal.SIGKILL
    assert process.exitcode == expected, process.exitcode
    return log.read_text().splitlines() if log.exists() else []


def kills(changes: list[str]) -> list[Kill]:
    """A death before each change, and one after the last; within a row of like files, at its begin and its end."""
    alike = [n for n in range(2, len(changes) - 1) if changes[n - 2 : n] == changes[n : n + 2]]
    return [*(Kill(n) for n in range(len(changes)) if n not in alike), Kill(len(changes), after=True)]


def place_of(kill: Kill, changes: list[str]) -> str:
    """For people: where a process died."""
    place = f"after {changes[-1]}" if kill.after else f"before {changes[kill.changes]}"
    return f"SIGKILL {place} ({kill.changes}/{len(changes)})"

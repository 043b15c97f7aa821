"""Many forked runs from one parent: what it keeps of them, and what each costs.

    python -m wrm_pipeline_tests.integration.warm_endurance --runs 500

The runs go through a code server, Dagster's launcher and a SQLite history, as with `make dev`. Every tenth does what a
run must be able to do to itself: abort, or change a global, leak 1 GB and fork. At the end four run at once.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

import psutil
from dagster._core.workspace.load_target import ModuleTarget
from tabulate import tabulate

from wrm_pipeline_tests.integration import warm_jobs
from wrm_pipeline_tests.integration.code_location import CodeLocation, code_location
from wrm_pipeline_tests.integration.conftest import wait_until

TARGET = ModuleTarget(warm_jobs.__name__, attribute="defs", working_directory=None, location_name="warm")
AT_ONCE = 4
_BAD = {10: "abort_job", 0: "misbehave_job"}  # by the number of a run modulo 20


@dataclass(frozen=True)
class Look:
    """The parent while no run is there: MB in memory, descriptors, threads."""

    memory_mb: float
    descriptors: int
    threads: int

    @classmethod
    def at(cls, parent: psutil.Process) -> Look:
        wait_until(lambda: not parent.children(), timeout_s=30, what="the processes of runs must end")
        return cls(parent.memory_info().rss / 1e6, parent.num_fds(), parent.num_threads())


@dataclass
class Figures:
    """What was measured.

    Attributes:
        seconds: From the request of a run that does nothing until its last event.
        cpu_s: Processor time of all runs by the parent's account.
        parents: Process ids of the parents that runs came from.
        untouched: Whether no run found what another one had done to itself.
        shares_mb: The parent's and each of the `AT_ONCE` runs' proportional share of their memory.
    """

    before: Look
    runs: int = 0
    after: Look | None = None
    seconds: list[float] = field(default_factory=list)
    cpu_s: float = 0.0
    parents: set[int] = field(default_factory=set)
    untouched: bool = True
    at_once_s: float = 0.0
    shares_mb: list[float] = field(default_factory=list)


class Endurance:
    """Runs in a code location, and what is found about their parent."""

    def __init__(self, location: CodeLocation) -> None:
        self.location = location
        found = self._ended(self.location.launch("write_job"))
        self.parent = psutil.Process(found["parent"])
        self._ended(self.location.launch("write_job"))
        self.figures = Figures(Look.at(self.parent))

    def run(self, count: int) -> Figures:
        """So many runs in a row, then `AT_ONCE` beside each other."""
        figures, used = self.figures, self._cpu_s()
        for number in range(1, count + 1):
            job = _BAD.get(number % 20, "write_job")
            began = time.time()
            run_id = self.location.launch(job)
            found = self._ended(run_id)
            if job == "write_job":
                record = self.location.instance.get_run_record_by_id(run_id)
                assert record is not None
                assert record.end_time is not None
                figures.seconds.append(record.end_time - began)
                figures.untouched &= (found["changed"], found["variable"]) == ([], None)
            if "parent" in found:
                figures.parents.add(found["parent"])
            figures.runs += 1
        figures.cpu_s = self._cpu_s() - used
        self._at_once()
        figures.after = Look.at(self.parent)
        return figures

    def _at_once(self) -> None:
        began = time.time()
        run_ids = [self.location.launch("wait_job") for _ in range(AT_ONCE)]
        for run_id in run_ids:
            wait_until(lambda run_id=run_id: self._found(run_id) is not None, timeout_s=60, what="the run must begin")
        self.figures.at_once_s = time.time() - began
        runs = [self.location.process(run_id) for run_id in run_ids]
        self.figures.shares_mb = [process.memory_full_info().pss / 1e6 for process in (self.parent, *runs)]
        for run_id in run_ids:
            self.location.cancel(run_id)
        for run in runs:
            run.wait(60)
            self.figures.runs += 1

    def _found(self, run_id: str) -> dict[str, object] | None:
        return warm_jobs.found_by(self.location.instance.root_directory, run_id)

    def _ended(self, run_id: str) -> dict[str, object]:
        wait_until(lambda: self.location.run(run_id).is_finished, timeout_s=120, what="the run must end")
        return self._found(run_id) or {}

    def _cpu_s(self) -> float:
        times = self.parent.cpu_times()
        return times.children_user + times.children_system


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0 if the parent is as it was, and no run found what another had left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=500)
    arguments = parser.parse_args(argv)
    # The server's last writes may come while the folder is removed.
    with tempfile.TemporaryDirectory(prefix="wrm-warm-", ignore_cleanup_errors=True) as folder, _quiet():
        os.environ |= {"DAGSTER_HOME": folder, "WRM_DATA_DIR": f"{folder}/data", "WRM_DOTENV": os.devnull}
        with code_location(TARGET) as location:
            figures = Endurance(location).run(arguments.runs)
    before, after = figures.before, figures.after
    assert after is not None
    rows = {
        "runs": figures.runs,
        "parents": len(figures.parents),
        "memory of the parent, MB": f"{before.memory_mb:.1f} -> {after.memory_mb:.1f}",
        "its descriptors": f"{before.descriptors} -> {after.descriptors}",
        "its threads": f"{before.threads} -> {after.threads}",
        "runs found nothing of others": figures.untouched,
        "run that does nothing, median s": f"{median(figures.seconds):.3f}",
        "processor time of a run, s": f"{figures.cpu_s / arguments.runs:.3f}",
        f"{AT_ONCE} runs at once: all begun after, s": f"{figures.at_once_s:.2f}",
        f"PSS of the parent and {AT_ONCE} runs, MB": " + ".join(f"{share:.0f}" for share in figures.shares_mb),
    }
    sys.stdout.write(tabulate(rows.items(), tablefmt="plain") + "\n")
    return 0 if is_as_before(figures) else 1


@contextmanager
def _quiet() -> Iterator[None]:
    """What the server and its runs print goes nowhere."""
    kept = [(fd, os.dup(fd)) for fd in (1, 2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for fd, _ in kept:
        os.dup2(nowhere, fd)
    try:
        yield
    finally:
        for fd, copy in kept:
            os.dup2(copy, fd)


def is_as_before(figures: Figures) -> bool:
    """One parent throughout, with its memory (± 5 %), descriptors and one thread; no run met another's doing."""
    before, after = figures.before, figures.after
    assert after is not None
    return (
        figures.untouched
        and len(figures.parents) == 1
        and abs(after.memory_mb / before.memory_mb - 1) <= 0.05
        and (after.descriptors, after.threads) == (before.descriptors, 1)
    )


if __name__ == "__main__":
    sys.exit(main())

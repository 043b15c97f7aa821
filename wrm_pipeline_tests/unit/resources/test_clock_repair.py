"""A clock that was ahead: the repair in SQLite, the watch in the daemon, the commands."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
import yaml

from wrm_pipeline.cli.main import main
from wrm_pipeline.resources import scheduler as module
from wrm_pipeline.resources.clock_repair import is_believable
from wrm_pipeline.resources.scheduler import ClockWatch, ClockWatchedScheduler
from wrm_pipeline_tests.clock_contract import DAY, NOW, ClockContract, Clocked

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def clocked(environment: Path) -> Iterator[Clocked]:
    with dg.DagsterInstance.get() as instance:
        yield Clocked(instance)


class TestSqlite(ClockContract):
    """Dagster's storage in files."""


def test_a_clock_from_before_the_installation_is_not_believed() -> None:
    assert is_believable(datetime.now(UTC))
    assert not is_believable(datetime(2000, 1, 1, tzinfo=UTC))


# --- the watch ---


class Watched:
    """A watch on a clock that the test sets."""

    def __init__(self, connect=dg.DagsterInstance.get) -> None:
        self.now = NOW.timestamp()
        self.restarts = 0
        self.watch = ClockWatch(connect, clock=lambda: self.now, restart=self.restart)

    def restart(self) -> None:
        self.restarts += 1

    def look(self, later_s: float) -> int:
        self.now += later_s
        before = self.restarts
        self.watch.look()
        return self.restarts - before


@pytest.fixture(autouse=True)
def believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wrm_pipeline.resources.clock_repair.is_believable", lambda _now: True)


def test_the_daemon_starts_again_when_the_clock_has_gone_back(clocked: Clocked) -> None:
    watched = Watched()
    assert [watched.look(step) for step in (1, 1, 86_400, 1, 180, -86_400, 1, 1)] == [0, 0, 0, 0, 0, 1, 0, 0]


@pytest.mark.parametrize(("step", "restarts"), [(-1, 0), (-59, 0), (-61, 1), (-3600, 1), (3600, 0)])
def test_it_takes_more_than_a_minute(clocked: Clocked, step: float, restarts: int) -> None:
    assert Watched().look(step) == restarts


def test_it_repairs_at_its_start_and_each_minute_after(clocked: Clocked, monkeypatch: pytest.MonkeyPatch) -> None:
    at = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: at[0])
    watched = Watched()
    clocked.ahead()
    watched.watch.repair()
    assert max(tick.timestamp for tick in clocked.ticks(clocked.sensor)) <= NOW.timestamp()
    clocked.ahead()
    at[0] = 59.0
    watched.look(1)
    assert max(tick.timestamp for tick in clocked.ticks(clocked.sensor)) > NOW.timestamp()
    at[0] = 60.0
    watched.look(1)
    assert max(tick.timestamp for tick in clocked.ticks(clocked.sensor)) <= watched.now


def test_a_storage_that_is_away_stops_nothing_and_is_tried_again(
    clocked: Clocked, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: at[0])
    away = [True]

    def connect() -> dg.DagsterInstance:
        if away[0]:
            raise ConnectionError("no answer")
        return dg.DagsterInstance.get()

    watched = Watched(connect)
    clocked.ahead()
    watched.watch.repair()
    assert "checking again in a minute" in caplog.text
    away[0], at[0] = False, 61.0
    watched.look(1)
    assert max(tick.timestamp for tick in clocked.ticks(clocked.sensor)) <= watched.now


def test_nothing_is_repaired_by_a_clock_that_cannot_be_right(
    clocked: Clocked, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("wrm_pipeline.resources.clock_repair.is_believable", is_believable)
    watched = Watched()
    watched.now = datetime(2000, 1, 1, tzinfo=UTC).timestamp()
    before = clocked.ticks(clocked.sensor)
    watched.watch.repair()
    assert clocked.ticks(clocked.sensor) == before
    assert "before this program was installed" in caplog.text


@pytest.mark.parametrize("name", ["dagster.yaml", "deploy/dagster/dagster.yaml"])
def test_dagster_is_configured_to_use_it(name: str) -> None:
    scheduler = yaml.safe_load((REPOSITORY / name).read_text())["scheduler"]
    assert scheduler == {"module": ClockWatchedScheduler.__module__, "class": ClockWatchedScheduler.__name__}


def test_only_the_daemons_own_thread_begins_a_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []
    monkeypatch.setattr(module, "_begin_once", lambda: begun.append(threading.current_thread().name))
    scheduler = ClockWatchedScheduler(max_catchup_runs=3)
    assert (scheduler.max_catchup_runs, begun) == (3, [])
    thread = threading.Thread(target=lambda: scheduler.max_catchup_runs, name="dagster-daemon-SCHEDULER")
    thread.start()
    thread.join()
    assert begun == ["dagster-daemon-SCHEDULER"]


def test_a_process_that_starts_again_keeps_its_number_and_its_arguments() -> None:
    program = (
        "import sys, threading\n"
        "from wrm_pipeline.resources.scheduler import start_again\n"
        "import os\n"
        "print(os.getpid(), sys.argv[1:], flush=True)\n"
        "if sys.stdin.readline().strip() == 'again':\n"
        "    threading.Thread(target=start_again).start()\n"
        "    threading.Event().wait(60)\n"
    )
    done = subprocess.Popen(
        [sys.executable, "-c", program, "run", "--port", "1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert done.stdin is not None
    assert done.stdout is not None
    seen = []
    for word in ("again", "again", "enough"):
        seen.append(done.stdout.readline())
        done.stdin.write(f"{word}\n")
        done.stdin.flush()
    assert done.wait(20) == 0
    assert seen == [f"{done.pid} ['run', '--port', '1']\n"] * 3


# --- commands ---


def test_the_command_says_what_it_would_do_and_then_does_it(
    clocked: Clocked, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["repair-clock"]) == 0
    assert "Nothing blocks sensors" in capsys.readouterr().out
    clocked.ahead(datetime.now(UTC) - NOW + DAY)
    before = clocked.ticks(clocked.sensor)
    assert main(["repair-clock"]) == 0
    said = capsys.readouterr().out
    assert re.search("a_schedule waits\n.*a_sensor waits\nNothing was changed. Add --apply", said)
    assert clocked.ticks(clocked.sensor) == before
    assert main(["repair-clock", "--apply"]) == 0
    assert "Repaired." in capsys.readouterr().out
    assert max(tick.timestamp for tick in clocked.ticks(clocked.sensor)) <= datetime.now(UTC).timestamp()


def test_it_is_not_known_whose_sensors_are_meant_without_a_home(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DAGSTER_HOME")
    assert main(["repair-clock"]) == 2
    assert "DAGSTER_HOME is not set" in capsys.readouterr().out

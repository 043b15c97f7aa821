"""A real daemon whose clock is a day ahead, and right again: ticks go on, in the same process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import dagster as dg
import pytest

from wrm_pipeline_tests.fixtures.shifted_clock import DAY_S, NoCompilerError, ShiftedClock
from wrm_pipeline_tests.integration.conftest import wait_until

pytestmark = pytest.mark.integration

CODE = """
import dagster as dg

@dg.op
def nothing(): ...

@dg.job
def a_job(): nothing()

@dg.sensor(job=a_job, minimum_interval_seconds=1, default_status=dg.DefaultSensorStatus.RUNNING)
def a_sensor(): return dg.SkipReason("nothing new")

@dg.schedule(job=a_job, cron_schedule="* * * * *", default_status=dg.DefaultScheduleStatus.RUNNING)
def a_schedule(): return dg.SkipReason("nothing to do")

defs = dg.Definitions(jobs=[a_job], sensors=[a_sensor], schedules=[a_schedule])
"""
CONFIGURATION = """
telemetry: {enabled: false}
scheduler: {module: wrm_pipeline.resources.scheduler, class: ClockWatchedScheduler}
"""


@pytest.fixture
def clock(tmp_path: Path) -> ShiftedClock:
    try:
        return ShiftedClock(tmp_path)
    except NoCompilerError as error:
        pytest.skip(str(error))


@pytest.fixture
def daemon(clock: ShiftedClock, environment: Path, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    (Path(os.environ["DAGSTER_HOME"]) / "dagster.yaml").write_text(CONFIGURATION)
    (tmp_path / "code.py").write_text(CODE)
    with dg.DagsterInstance.get() as instance:  # two processes that create Dagster's tables at once fail both
        instance.all_instigator_state()
    clock.set_ahead(days=1, second=48)
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "dagster._daemon", "run", "-f", str(tmp_path / "code.py")],
            env={**os.environ, **clock.environment},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    yield process
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # its own group: the code servers are in it
    process.wait(10)
    print((tmp_path / "log").read_text(errors="replace")[-8000:])  # noqa: T201 - pytest shows it with a failure


def test_ticks_go_on_when_the_clock_is_right_again(
    clock: ShiftedClock, daemon: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    def newest(instance: dg.DagsterInstance) -> dict[str, float]:
        ticks = {
            state.instigator_name: instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1)
            for state in instance.all_instigator_state()
        }
        return {name: found[0].timestamp for name, found in ticks.items() if found}

    def log() -> str:
        return (tmp_path / "log").read_text(errors="replace")

    def all_later_than(instance: dg.DagsterInstance, at: float) -> bool:
        assert daemon.poll() is None, log()[-2000:]
        found = newest(instance)
        return set(found) == {"a_sensor", "a_schedule"} and min(found.values()) > at

    with dg.DagsterInstance.get() as instance:
        ahead = time.time() + DAY_S / 2
        # On a busy machine the daemon may take longer to start than the 12 seconds to its first minute, and then some.
        wait_until(lambda: all_later_than(instance, ahead), timeout_s=240, what="ticks while the clock was ahead")
        right = time.time()
        clock.set_ahead(days=0, second=48)
        wait_until(lambda: "The clock was ahead. Repaired" in log(), timeout_s=60, what="the repair")
        repaired = max(newest(instance).values())
        assert repaired < right + 120, "nothing is dated tomorrow any more"
        wait_until(lambda: all_later_than(instance, repaired), timeout_s=120, what="ticks after that")
    assert time.time() - right < 120, "within two minutes of the clock being right"
    assert "The clock went back by 86" in log()
    assert daemon.poll() is None

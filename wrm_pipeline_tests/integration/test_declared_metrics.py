"""The metrics that the example declares, on the exporter's page, after runs of which some were killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from examples.weather_asset import stub
from wrm_pipeline_tests.integration.conftest import free_ports
from wrm_pipeline_tests.integration.exporter_process import Exporter, running
from wrm_pipeline_tests.integration.metrics_child import millimetres_of
from wrm_pipeline_tests.integration.test_exporter_runs import dagster_home

pytestmark = pytest.mark.integration

__all__ = ["dagster_home"]

RUNS, KILLED = 50, 5


@pytest.fixture
def exporter(tmp_path: Path) -> Iterator[Exporter]:
    (port,) = free_ports(1)
    with running(port, tmp_path / "exporter.log") as exporter:
        yield exporter


@pytest.mark.timeout(400)
def test_counter_and_histogram_are_right_after_fifty_runs_of_which_five_were_killed(
    dagster_home: Path, exporter: Exporter, environment: Path
) -> None:
    numbers = [-n if n % (RUNS // KILLED) == 0 else n for n in range(1, RUNS + 1)]
    with stub.serving() as url:
        child = subprocess.Popen(
            [sys.executable, "-m", "wrm_pipeline_tests.integration.metrics_child", url, *map(str, numbers)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert child.stdout is not None
        for done, line in enumerate(child.stdout, start=1):
            _, *pid = line.split()
            if pid:
                os.kill(int(pid[0]), signal.SIGKILL)
            if done == RUNS // 2:
                exporter.kill()
                exporter.start()
        assert child.wait() == 0
    with dg.DagsterInstance.get() as instance:
        lost = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
        assert len(lost) == KILLED
        assert len(list((environment / "metrics").iterdir())) == KILLED
        for run in lost:
            instance.report_run_failed(run, "Its process is gone.")  # as wrm_dead_runs_sensor does
    rain = [mm for n in numbers for mm in millimetres_of(n)]
    expected = {
        ("rain_hours_total", "yes"): float(len(rain)),
        ("rain_hours_total", "no"): float(RUNS),
        **{("rain_millimetres_bucket", str(top)): float(sum(mm <= top for mm in rain)) for top in (0.1, 1.0, 5.0)},
        ("rain_millimetres_bucket", "+Inf"): float(len(rain)),
        ("rain_millimetres_count",): float(len(rain)),
        ("rain_millimetres_sum",): pytest.approx(sum(rain)),
    }
    letters = {("wrm_dlq_entries", "pending_reprocessing"): float(RUNS)}
    found = exporter.wait_for(
        lambda found: all(found.get(key) == value for key, value in (expected | letters).items()),
        timeout_s=60,
        what="all runs must be counted",
    )
    exporter.kill()
    exporter.start()
    again = exporter.scrape()
    assert {key: again.get(key) for key in expected} == {key: found[key] for key in expected}
    assert list((environment / "metrics").iterdir()) == []

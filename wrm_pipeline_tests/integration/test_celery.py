"""Runs on other machines by way of Celery: Redis as the broker, PostgreSQL, two workers with names of machines."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
from dagster._core.workspace.load_target import ModuleTarget
from dagster._daemon.auto_run_reexecution.auto_run_reexecution import consume_new_runs_for_automatic_reexecution
from dagster._daemon.backfill import execute_backfill_iteration
from dagster._daemon.monitoring.run_monitoring import execute_run_monitoring_iteration

from wrm_pipeline.domain import asset_names
from wrm_pipeline.resources import celery_runs
from wrm_pipeline.settings import load_settings
from wrm_pipeline_tests.fixtures.lake import DAY, Lake
from wrm_pipeline_tests.integration.code_location import CodeLocation, code_location
from wrm_pipeline_tests.integration.conftest import wait_until
from wrm_pipeline_tests.integration.postgres_server import running_postgres
from wrm_pipeline_tests.integration.redis_server import redis_server
from wrm_pipeline_tests.integration.warm_jobs import found_by

pytestmark = pytest.mark.integration

REPOSITORY = Path(__file__).parents[2]
TARGET = ModuleTarget(f"{__package__}.celery_location", "defs", working_directory=None, location_name="wrm")
STORAGE = {"custom": {"module": "wrm_pipeline.resources.dagster_storage", "class": "PostgresStorage", "config": {}}}
LAUNCHER = {"module": "wrm_pipeline.resources.celery_runs", "class": "HomeOrCeleryRunLauncher"}
DAYS = [DAY + timedelta(days=n) for n in range(4)]
WORKERS = {"one": "wrm", "two": "wrm", "elsewhere": "wrong"}
LOG = logging.getLogger("daemon")
BACKFILL = """
mutation ($assets: [AssetKeyInput!], $partitions: [String!]) {
  launchPartitionBackfill(backfillParams: {assetSelection: $assets, partitionNames: $partitions}) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message stack }
  }
}
"""


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[CodeLocation, dict[str, str]]]:
    """The code location at home, its environment, and workers; `elsewhere` is set up with a storage of its own."""
    folder = tmp_path_factory.mktemp("celery")
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        postgres = stack.enter_context(running_postgres("secret"))
        redis = stack.enter_context(redis_server(folder))
        config = {"broker": f"{redis[:-1]}1", "backend": f"{redis[:-1]}2", "default_queue": "wrm"}
        variables = {
            **postgres.environment("postgres"),
            "DAGSTER_HOME": str(folder),
            "WRM_DATA_DIR": str(folder / "data"),
            "PYTHONPATH": str(REPOSITORY),
        }
        for name, value in variables.items():
            patch.setenv(name, value)
        location = stack.enter_context(
            code_location(TARGET, storage=STORAGE, run_launcher={**LAUNCHER, "config": config})
        )
        (folder / "elsewhere").mkdir()
        for machine, queue in WORKERS.items():
            home = {"DAGSTER_HOME": str(folder / "elsewhere")} if machine == "elsewhere" else {}
            process = worker(folder, config, f"wrm@{machine}", queue, home)
            stack.callback(process.wait)
            stack.callback(stop, process)
        yield location, variables


@pytest.fixture
def location(
    machines: tuple[CodeLocation, dict[str, str]], environment: Path, monkeypatch: pytest.MonkeyPatch
) -> CodeLocation:
    location, variables = machines
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return location


def worker(
    folder: Path, config: Mapping[str, str], name: str, queue: str, more: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """As docs/scaling.md says."""
    application = ["-A", "dagster_celery.app", "-b", config["broker"], "--result-backend", config["backend"]]
    options = ["--queues", queue, "--hostname", name, "--concurrency", "1", "--max-tasks-per-child", "1"]
    options += ["--disable-prefetch"]
    with (folder / f"{name}.log").open("w") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "celery", *application, "worker", *options],
            env=os.environ | more,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            start_new_session=True,
        )


def stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def taken(location: CodeLocation) -> dict[str, int]:
    """How many runs each worker that answers has taken."""
    answers = location.instance.run_launcher._celery.celery.control.inspect(timeout=1).stats() or {}
    return {name: answer["total"].get("execute_job", 0) for name, answer in answers.items()}


def ended(location: CodeLocation, run_id: str) -> dg.DagsterRunStatus:
    wait_until(lambda: location.run(run_id).is_finished, timeout_s=60, what="the run must end")
    return location.run(run_id).status


def begun(location: CodeLocation, run_id: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = []

    def began() -> bool:
        assert not location.run(run_id).is_finished, location.messages(run_id)
        found.extend(filter(None, [found_by(os.environ["DAGSTER_HOME"], run_id)]))
        return bool(found)

    wait_until(began, timeout_s=60, what="the run must begin")
    return found[-1]


def monitor(location: CodeLocation) -> None:
    assert list(execute_run_monitoring_iteration(location.context, LOG)) == [None]


def test_backfills_of_processing_go_out_and_other_runs_stay_home(location: CodeLocation) -> None:
    lake = Lake(load_settings())
    for number, dt in enumerate(DAYS):
        lake.put_day(3, dt=dt, stations=5 + number)
    backfill = location.graphql(
        BACKFILL,
        {
            "assets": [{"path": [name]} for name in (asset_names.PROCESSED, asset_names.ENHANCED)],
            "partitions": [dt.isoformat() for dt in DAYS],
        },
    )["backfillId"]
    runs: list[dg.DagsterRun] = []

    def all_launched() -> bool:
        assert not any(execute_backfill_iteration(location.context, LOG))
        runs[:] = location.instance.get_runs(dg.RunsFilter(tags={"dagster/backfill": backfill}))
        return len(runs) == len(DAYS)

    wait_until(all_launched, timeout_s=30, what="the backfill must launch its runs")
    at_home = location.launch("write_job")
    for run in runs:
        assert ended(location, run.run_id) is dg.DagsterRunStatus.SUCCESS, "\n".join(location.messages(run.run_id))
    assert len(lake.keys("processed/")) == len(lake.keys("enhanced/")) == len(DAYS)
    by_worker = taken(location)
    assert by_worker["wrm@one"] + by_worker["wrm@two"] == len(DAYS)
    assert min(by_worker["wrm@one"], by_worker["wrm@two"]) > 0
    assert ended(location, at_home) is dg.DagsterRunStatus.SUCCESS
    found = found_by(os.environ["DAGSTER_HOME"], at_home)
    assert found is not None
    assert "warm_parent" in " ".join(found["command_of_parent"])


def test_a_run_whose_worker_is_killed_is_marked_and_repeated_by_another_and_can_be_cancelled(
    location: CodeLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(celery_runs, "ANSWER_S", 1.0)
    first = location.launch("wait_job", {celery_runs.DAGSTER_CELERY_QUEUE_TAG: "wrm"})
    lost = psutil.Process(begun(location, first)["parent"])
    monitor(location)
    assert location.run(first).status is dg.DagsterRunStatus.STARTED
    os.killpg(lost.pid, signal.SIGKILL)
    monitor(location)
    assert location.run(first).status is dg.DagsterRunStatus.FAILURE
    assert "is gone" in location.messages(first)[-1]

    records = location.instance.get_run_records(dg.RunsFilter(run_ids=[first]))
    list(consume_new_runs_for_automatic_reexecution(location.context, records, LOG))
    (again,) = location.instance.get_runs(dg.RunsFilter(tags={"dagster/parent_run_id": first}))
    found = begun(location, again.run_id)
    assert found["parent"] != lost.pid
    location.cancel(again.run_id)
    assert ended(location, again.run_id) is dg.DagsterRunStatus.CANCELED
    wait_until(lambda: not psutil.pid_exists(found["pid"]), timeout_s=10, what="its process must end")


def test_what_a_worker_with_another_storage_says_reaches_the_run(location: CodeLocation) -> None:
    """It knows no such run, so it writes nothing; the run would end its time to start without a reason."""
    run_id = location.launch("write_job", {celery_runs.DAGSTER_CELERY_QUEUE_TAG: "wrong"})
    launcher = location.instance.run_launcher
    wait_until(
        lambda: f"Run with id '{run_id}' not found" in str(launcher.get_run_worker_debug_info(location.run(run_id))),
        timeout_s=30,
        what="the failure of the task must be known",
    )
    assert location.run(run_id).status is dg.DagsterRunStatus.STARTING
    location.instance.delete_run(run_id)

"""Runs whose process is gone are ended, all others are left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator

import dagster as dg
import psutil
import pytest
from dagster._core.events import DagsterEvent, DagsterEventType, EngineEventData
from dagster._core.test_utils import create_run_for_test

from wrm_pipeline.sensors.dead_runs import end_dead_runs, wrm_dead_runs_sensor

STARTING, STARTED = DagsterEventType.PIPELINE_STARTING, DagsterEventType.PIPELINE_START
SOCKET = {"host": "localhost", "socket": "/run/wrm-code-blue/grpc.sock"}


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def gone() -> int:
    """The number of a process that was killed."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process.kill()
    process.wait()
    return process.pid


def run_of(
    instance: dg.DagsterInstance,
    pid: int | None,
    *events: DagsterEventType,
    address: dict[str, str] | None = SOCKET,
) -> str:
    tags = {".dagster/grpc_info": json.dumps(address)} if address else {}
    run = create_run_for_test(instance, job_name="wrm_stations_ingest_job", run_id=str(uuid.uuid4()), tags=tags)
    for kind in events or (STARTING, STARTED):
        instance.report_dagster_event(DagsterEvent(kind.value, "wrm_stations_ingest_job"), run_id=run.run_id)
    if pid is not None:
        say_pid(instance, run, pid)
    return run.run_id


def say_pid(instance: dg.DagsterInstance, run: dg.DagsterRun, pid: int) -> None:
    instance.report_engine_event(f"Started process for run (pid: {pid}).", run, EngineEventData.in_process(pid))


def status(instance: dg.DagsterInstance, run_id: str) -> str:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run.status.value


def test_a_run_without_its_process_is_failed_and_its_place_in_the_pool_free(
    instance: dg.DagsterInstance, gone: int
) -> None:
    run_id = run_of(instance, gone)
    instance.event_log_storage.set_concurrency_slots("ingest", 1)
    assert instance.event_log_storage.claim_concurrency_slot("ingest", run_id, "fetch").is_claimed
    (ended,) = end_dead_runs(instance)
    assert ended.run_id == run_id
    assert status(instance, run_id) == "FAILURE"
    assert instance.event_log_storage.claim_concurrency_slot("ingest", "another", "fetch").is_claimed
    assert end_dead_runs(instance) == []


def test_a_run_whose_process_lives_goes_on(instance: dg.DagsterInstance) -> None:
    run_id = run_of(instance, os.getpid())
    assert end_dead_runs(instance) == []
    assert status(instance, run_id) == "STARTED"


@pytest.mark.parametrize("order", ["ended first", "ended last"])
def test_a_run_that_was_launched_twice_goes_on_in_one_of_its_processes(
    instance: dg.DagsterInstance, gone: int, order: str
) -> None:
    # Its code server was killed while it launched it.
    processes = [gone, os.getpid()] if order == "ended first" else [os.getpid(), gone]
    run_id = run_of(instance, processes[0], STARTING, STARTING)
    run = instance.get_run_by_id(run_id)
    assert run is not None
    # The first one has ended as a duplicate; the other one has not said its number yet.
    assert end_dead_runs(instance) == []
    instance.report_dagster_event(DagsterEvent(STARTED.value, run.job_name), run_id=run_id)
    say_pid(instance, run, processes[1])
    assert end_dead_runs(instance) == []
    assert status(instance, run_id) == "STARTED"


def test_a_run_that_was_launched_twice_ends_with_the_last_of_its_processes(
    instance: dg.DagsterInstance, gone: int
) -> None:
    run_id = run_of(instance, gone, STARTING, STARTING, STARTED)
    assert [run.run_id for run in end_dead_runs(instance)] == [run_id]


def test_a_number_that_was_given_again_is_another_process(instance: dg.DagsterInstance) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        run_id = run_of(instance, process.pid)
        born = psutil.Process(process.pid).create_time()
        with pytest.MonkeyPatch.context() as patch:
            # As after a restart of the machine: the process of that number is younger than the event.
            patch.setattr(psutil.Process, "create_time", lambda _: born + 60)
            (ended,) = end_dead_runs(instance)
        assert ended.run_id == run_id
    finally:
        process.kill()
        process.wait()


def test_a_zombie_does_no_work(instance: dg.DagsterInstance) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it ended, and nobody has asked how
    run_id = run_of(instance, process.pid)
    assert [run.run_id for run in end_dead_runs(instance)] == [run_id]
    process.wait()


def test_runs_of_other_launchers_and_machines_are_left_alone(instance: dg.DagsterInstance, gone: int) -> None:
    celery = run_of(instance, gone, address=None)
    elsewhere = run_of(instance, gone, address={"host": "10.0.0.5", "port": "4000"})
    assert end_dead_runs(instance) == []
    assert (status(instance, celery), status(instance, elsewhere)) == ("STARTED", "STARTED")


def test_a_container_looks_after_the_runs_of_its_own_code_server_only(
    instance: dg.DagsterInstance, gone: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "code-green")
    its = run_of(instance, gone, address={"host": "code-green", "port": "4000"})
    of_the_release_before = run_of(instance, gone, address={"host": "code-blue", "port": "4000"})
    assert [run.run_id for run in end_dead_runs(instance)] == [its]
    assert status(instance, of_the_release_before) == "STARTED"


def test_a_run_that_is_just_being_handed_over_is_the_daemons_business(instance: dg.DagsterInstance) -> None:
    run_id = run_of(instance, None, STARTING)
    assert end_dead_runs(instance) == []
    assert status(instance, run_id) == "STARTING"


def test_a_run_that_was_being_canceled_is_canceled(instance: dg.DagsterInstance, gone: int) -> None:
    run_id = run_of(instance, gone, STARTING, STARTED, DagsterEventType.PIPELINE_CANCELING)
    end_dead_runs(instance)
    assert status(instance, run_id) == "CANCELED"


def test_the_sensor_names_what_it_ended(instance: dg.DagsterInstance, gone: int) -> None:
    run_id = run_of(instance, gone)
    result = wrm_dead_runs_sensor(dg.build_sensor_context(instance=instance))
    assert isinstance(result, dg.SkipReason)
    assert f"wrm_stations_ingest_job {run_id[:8]}" in (result.skip_message or "")
    result = wrm_dead_runs_sensor(dg.build_sensor_context(instance=instance))
    assert isinstance(result, dg.SkipReason)
    assert result.skip_message == "Each run in progress has its process."

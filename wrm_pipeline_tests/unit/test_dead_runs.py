"""What a code server's predecessor left in progress is dead; what lives is left alone."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.events import DagsterEvent, DagsterEventType
from dagster._core.test_utils import create_run_for_test

from wrm_pipeline import dead_runs
from wrm_pipeline.dead_runs import end_dead_runs

STARTING, STARTED = DagsterEventType.PIPELINE_STARTING, DagsterEventType.PIPELINE_START


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def server(folder: Path, *, runs: bool = True) -> Path:
    """The socket of a code server; its folder is there while its unit is."""
    if runs:
        folder.mkdir()
    return folder / "grpc.sock"


def run_at(instance: dg.DagsterInstance, socket: Path | None, *events: DagsterEventType) -> str:
    tags = {".dagster/grpc_info": json.dumps({"host": "localhost", "socket": str(socket)})} if socket else {}
    run_id = str(uuid.uuid4())
    create_run_for_test(instance, job_name="wrm_stations_ingest_job", run_id=run_id, tags=tags)
    for kind in events:
        event = DagsterEvent(event_type_value=kind.value, job_name="wrm_stations_ingest_job")
        instance.report_dagster_event(event, run_id=run_id)
    return run_id


def status(instance: dg.DagsterInstance, run_id: str) -> str:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run.status.value


def test_a_run_of_the_server_before_is_failed_and_its_place_in_the_pool_free(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    blue = server(tmp_path / "blue")
    run_id = run_at(instance, blue, STARTING, STARTED)
    instance.event_log_storage.set_concurrency_slots("ingest", 1)
    assert instance.event_log_storage.claim_concurrency_slot("ingest", run_id, "fetch").is_claimed
    (ended,) = end_dead_runs(instance, blue, time.time() + 1)
    assert ended.run_id == run_id
    assert status(instance, run_id) == "FAILURE"
    assert instance.event_log_storage.claim_concurrency_slot("ingest", "another", "fetch").is_claimed


def test_runs_that_the_new_server_started_meanwhile_go_on(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    blue = server(tmp_path / "blue")
    run_id = run_at(instance, blue, STARTING, STARTED)
    assert end_dead_runs(instance, blue, time.time() - 60) == []
    assert status(instance, run_id) == "STARTED"


def test_runs_of_a_server_that_waits_for_them_go_on_and_those_of_one_that_is_gone_do_not(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    waits = run_at(instance, server(tmp_path / "green"), STARTING, STARTED)
    gone = run_at(instance, server(tmp_path / "grey", runs=False), STARTING, STARTED)
    elsewhere = run_at(instance, None, STARTING, STARTED)
    ended = end_dead_runs(instance, server(tmp_path / "blue"), time.time() + 1)
    assert [run.run_id for run in ended] == [gone]
    assert (status(instance, waits), status(instance, elsewhere)) == ("STARTED", "STARTED")


def test_a_run_that_is_just_being_handed_over_is_the_daemons_business(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blue = server(tmp_path / "blue")
    run_id = run_at(instance, blue, STARTING)
    assert end_dead_runs(instance, blue, time.time() + 1) == []
    monkeypatch.setattr(dead_runs, "HANDOVER_S", -1.0)
    assert [run.run_id for run in end_dead_runs(instance, blue, time.time() + 1)] == [run_id]


def test_a_run_that_was_being_canceled_is_canceled(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    blue = server(tmp_path / "blue")
    run_id = run_at(instance, blue, STARTING, STARTED, DagsterEventType.PIPELINE_CANCELING)
    end_dead_runs(instance, blue, time.time() + 1)
    assert status(instance, run_id) == "CANCELED"

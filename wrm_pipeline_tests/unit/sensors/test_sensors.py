"""The sensors as the daemon evaluates them: requests, cursors, and ticks that fail when they should."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import boto3
import dagster as dg
import pytest
import requests
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.definitions.sensor_definition import SensorExecutionData
from dagster._core.events import DagsterEvent, DagsterEventType, StepMaterializationData
from dagster._core.events.log import EventLogEntry
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.storage.dagster_run import DagsterRun
from moto.server import ThreadedMotoServer

from wrm_pipeline.clients.errors import ExternalError
from wrm_pipeline.domain.layout import local_date
from wrm_pipeline.sensors.raw_data import ANALYTICS_INTERVAL_S
from wrm_pipeline_tests.fixtures.lake import DAY, ENHANCED, Lake, definitions, run_job, tick

ARRIVALS = "wrm_stations_raw_data_sensor"
COMPARISON = "wrm_stations_reconciliation_sensor"
ANALYTICS = "wrm_analytics_sensor"
UNDER_WAY = ["QUEUED", "STARTING", "STARTED", "CANCELING"]


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


def keys(result: SensorExecutionData) -> list[str | None]:
    return [request.partition_key for request in result.run_requests]


def today() -> date:
    return local_date(datetime.now(UTC))


def put(lake: Lake, dt: date | str, name: str = "a.txt") -> None:
    lake.store.put(f"bike-data/gen_info/raw/dt={dt}/{name}", b"")


def add_run(
    instance: dg.DagsterInstance, status: str, job: str = "wrm_stations_processing_job", **tags: str
) -> DagsterRun:
    repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("wrm_pipeline"), "__repository__")
    run = DagsterRun(
        job_name=job,
        status=dg.DagsterRunStatus[status],
        tags=tags,
        remote_job_origin=RemoteJobOrigin(repository, job),
        job_code_origin=JobPythonOrigin(
            job, RepositoryPythonOrigin(sys.executable, ModuleCodePointer("wrm_pipeline.definitions", "defs"))
        ),
    )
    return instance.add_run(run)


def test_sensors_run_from_the_first_start_on_at_their_pace():
    sensors = {sensor.name: sensor for sensor in definitions().sensors}
    assert {name: sensors[name].minimum_interval_seconds for name in (ARRIVALS, COMPARISON, ANALYTICS)} == {
        ARRIVALS: 30,
        COMPARISON: 300,
        ANALYTICS: 60,
    }
    assert {sensor.default_status for sensor in sensors.values()} == {dg.DefaultSensorStatus.RUNNING}


# --- arrivals ---


def test_a_first_tick_then_nothing_then_something_new(lake, instance):
    put(lake, DAY)
    put(lake, today())
    first = tick(ARRIVALS, instance)
    assert keys(first) == [today().isoformat(), "2025-08-21"]

    second = tick(ARRIVALS, instance, first.cursor)
    assert keys(second) == []
    assert second.skip_message == "Nothing new."
    assert second.cursor == first.cursor

    put(lake, today(), "b.txt")
    assert keys(tick(ARRIVALS, instance, second.cursor)) == [today().isoformat()]


def test_a_request_is_for_a_run_of_the_processing_job_and_its_run_is_of_that_day(lake, instance):
    lake.put_day(2)
    (request,) = tick(ARRIVALS, instance).run_requests
    assert request.tags["dagster/partition"] == "2025-08-21"
    assert request.job_name in {None, "wrm_stations_processing_job"}
    assert request.run_key.startswith("2025-08-21:")
    run_job("wrm_stations_processing_job", dt=date.fromisoformat(request.partition_key), instance=instance)
    assert len(lake.rows("enhanced")) == 22


def test_the_same_tick_twice_has_the_same_run_keys(lake, instance):
    put(lake, DAY)
    cursor = tick(ARRIVALS, instance).cursor
    put(lake, DAY, "b.txt")
    put(lake, "2025-08-22")
    once, again = (tick(ARRIVALS, instance, cursor) for _ in range(2))
    assert [request.run_key for request in once.run_requests] == [request.run_key for request in again.run_requests]
    assert len(once.run_requests) == 2
    assert once.cursor == again.cursor


@pytest.mark.parametrize("cursor", [None, "with a cursor"])
def test_keys_of_unknown_dates_are_reported_and_the_tick_succeeds(lake, instance, cursor):
    if cursor:
        put(lake, "2025-08-01")
        cursor = tick(ARRIVALS, instance).cursor
    tomorrow = today() + timedelta(days=1)
    for dt in ("1999-01-01", tomorrow, "garbage"):
        put(lake, dt)
    put(lake, today())

    result = tick(ARRIVALS, instance, cursor)

    assert today().isoformat() in keys(result)
    assert set(keys(result)) <= {today().isoformat(), "2025-08-01"}
    # Neither the key of tomorrow nor the garbage has moved the cursor past what is still to come today.
    put(lake, today(), "z.txt")
    assert keys(tick(ARRIVALS, instance, result.cursor)) == [today().isoformat()]


def test_unknown_keys_alone_are_a_skip_that_says_so(lake, instance):
    put(lake, DAY)
    cursor = tick(ARRIVALS, instance).cursor
    put(lake, "garbage")
    result = tick(ARRIVALS, instance, cursor)
    assert keys(result) == []
    assert "1 key(s) of unknown dates were left alone" in result.skip_message


@pytest.mark.parametrize("status", UNDER_WAY)
def test_a_run_under_way_holds_its_day_back_and_what_comes_meanwhile_is_one_run(lake, instance, status):
    put(lake, DAY)
    cursor = tick(ARRIVALS, instance).cursor
    run = add_run(instance, status, **{"dagster/partition": "2025-08-21"})
    for name in ("b.txt", "c.txt"):
        put(lake, DAY, name)
        held = tick(ARRIVALS, instance, cursor)
        assert keys(held) == []
        cursor = held.cursor
    put(lake, "2025-08-22")
    other = tick(ARRIVALS, instance, cursor)
    assert keys(other) == ["2025-08-22"]

    instance.report_run_failed(run)
    released = tick(ARRIVALS, instance, other.cursor)
    assert keys(released) == ["2025-08-21"]
    assert keys(tick(ARRIVALS, instance, released.cursor)) == []


def test_a_run_of_a_range_holds_each_of_its_days_back(lake, instance):
    put(lake, DAY)
    put(lake, "2025-08-23")
    put(lake, "2025-08-24")
    bounds = {"start": "2025-08-20", "end": "2025-08-23"}
    add_run(instance, "STARTED", **{f"dagster/asset_partition_range_{end}": day for end, day in bounds.items()})
    assert keys(tick(ARRIVALS, instance)) == ["2025-08-24"]


def test_runs_that_are_over_or_of_another_kind_hold_nothing_back(lake, instance):
    put(lake, DAY)
    for status in ("SUCCESS", "FAILURE", "CANCELED"):
        add_run(instance, status, **{"dagster/partition": "2025-08-21"})
    add_run(instance, "STARTED")
    add_run(instance, "STARTED", **{"dagster/partition": "some-other-partition"})
    add_run(instance, "STARTED", **{"dagster/partition": "2025-08-21|north"})
    assert keys(tick(ARRIVALS, instance)) == ["2025-08-21"]
    assert keys(tick(COMPARISON, instance)) == ["2025-08-21"]


def test_no_more_than_twenty_runs_a_tick_and_none_is_lost(lake, instance):
    days = [date(2025, 6, 1) + timedelta(days=n) for n in range(45)]
    for dt in days:
        put(lake, dt)
    cursor, asked = None, []
    for _ in range(4):
        result = tick(ARRIVALS, instance, cursor)
        asked.append(len(result.run_requests))
        cursor = result.cursor
    assert asked == [20, 20, 5, 0]


@pytest.mark.parametrize("cursor", ["", "2025-08-21", '{"version": 0}', '{"latest": {"2025-08-21": "x"}}'])
def test_a_cursor_of_an_older_version_starts_again(lake, instance, cursor):
    put(lake, DAY)
    result = tick(ARRIVALS, instance, cursor)
    assert keys(result) == ["2025-08-21"]
    assert keys(tick(ARRIVALS, instance, result.cursor)) == []


@pytest.mark.parametrize("name", [ARRIVALS, COMPARISON])
def test_a_store_that_cannot_be_reached_fails_the_tick(instance, monkeypatch, name):
    monkeypatch.setenv("BUCKET_NAME", "bikes")
    monkeypatch.setenv("S3_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("S3_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("S3_SECRET_ACCESS_KEY", "CANARY")
    cursor = '{"version": 1, "after": "x", "waiting": {}, "tries": {}}'
    started = time.monotonic()
    with pytest.raises(ExternalError, match="s3://bikes") as caught:
        tick(name, instance, cursor)
    assert time.monotonic() - started < 25
    assert "CANARY" not in str(caught.value)


@pytest.fixture
def moto(monkeypatch):
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("BUCKET_NAME", "bikes")
    monkeypatch.setenv("S3_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("S3_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("S3_SECRET_ACCESS_KEY", "secret")
    client = boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        region_name="us-east-1",
    )
    client.create_bucket(Bucket="bikes")
    yield client
    requests.post(f"http://{host}:{port}/moto-api/reset", timeout=10)
    server.stop()


def test_over_s3_more_than_a_page_of_equal_times_is_seen_to_its_end(moto, instance):
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    # Straight into the simulated server: 1,101 requests would take most of this test's time.
    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    folder = f"bike-data/gen_info/raw/dt={today()}"
    backend.put_object("bikes", f"{folder}/0000.txt", b"")
    first = tick(ARRIVALS, instance)
    for n in range(1, 1_102):
        backend.put_object("bikes", f"{folder}/{n:04}.txt", b"")
    second = tick(ARRIVALS, instance, first.cursor)
    assert keys(second) == [today().isoformat()]
    assert json.loads(second.cursor)["after"] == f"{folder}/1101.txt"
    assert keys(tick(ARRIVALS, instance, second.cursor)) == []


def test_a_bucket_that_is_gone_fails_the_tick(moto, instance):
    moto.delete_bucket(Bucket="bikes")
    for name in (ARRIVALS, COMPARISON):
        with pytest.raises(ExternalError, match="Create bucket bikes"):
            tick(name, instance)


# --- reconciliation ---


def test_what_is_missing_is_asked_for_and_a_run_makes_it_good(lake, instance):
    lake.put_day(2)
    first = tick(COMPARISON, instance)
    assert keys(first) == ["2025-08-21"]
    run_job("wrm_stations_processing_job", dt=DAY, instance=instance)
    second = tick(COMPARISON, instance, first.cursor)
    assert keys(second) == []

    lake.put_day(1, first=-30)
    late = tick(COMPARISON, instance, second.cursor)
    assert keys(late) == ["2025-08-21"]
    assert late.run_requests[0].run_key != first.run_requests[0].run_key


def test_a_day_that_was_just_asked_for_is_not_asked_for_again(lake, instance):
    lake.put_day(1)
    first = tick(COMPARISON, instance)
    assert keys(tick(COMPARISON, instance, first.cursor)) == []


@pytest.mark.parametrize("status", ["NOT_STARTED", *UNDER_WAY])
def test_a_day_with_a_run_to_come_is_left_alone(lake, instance, status):
    lake.put_day(1)
    add_run(instance, status, **{"dagster/partition": "2025-08-21"})
    assert keys(tick(COMPARISON, instance)) == []


def test_another_service_area_is_asked_for(lake, instance, monkeypatch):
    lake.put_day(1)
    run_job("wrm_stations_processing_job", dt=DAY)
    cursor = tick(COMPARISON, instance).cursor
    monkeypatch.setenv("WRM_SERVICE_AREA", "50,52,16,18")
    result = tick(COMPARISON, instance, cursor)
    assert keys(result) == ["2025-08-21"]
    run_job("wrm_stations_processing_job", dt=DAY)
    assert keys(tick(COMPARISON, instance, result.cursor)) == []


# --- analytics ---


def report(
    instance: dg.DagsterInstance, asset: str, age_s: float = 0, partition: str | None = None, *, unchanged: bool = False
) -> None:
    """A materialization of that age, as a run would have recorded it."""
    made = dg.AssetMaterialization(asset_key=asset, partition=partition, metadata={"unchanged": unchanged})
    data = StepMaterializationData(made)
    event = DagsterEvent(DagsterEventType.ASSET_MATERIALIZATION.value, "a_job", event_specific_data=data)
    instance.store_event(
        EventLogEntry(
            error_info=None,
            level="debug",
            user_message="",
            run_id="00000000-0000-0000-0000-000000000000",
            timestamp=time.time() - age_s,
            dagster_event=event,
        )
    )


TABLES = "create_materialized_views"


def test_analytics_wait_for_enhanced_data(instance):
    result = tick(ANALYTICS, instance)
    assert (keys(result), result.skip_message) == ([], "Nothing is enhanced yet.")


def test_analytics_follow_new_enhanced_data_once(instance, lake):
    lake.store.put(lake.partition_key("enhanced"), b"")
    report(instance, ENHANCED, partition="2025-08-21")
    first = tick(ANALYTICS, instance)
    assert keys(first) == ["2025-08-21"]
    second = tick(ANALYTICS, instance, first.cursor)
    assert (keys(second), second.skip_message) == ([], "No enhanced data since the last run.")
    report(instance, ENHANCED, partition="2025-08-21")
    (request,) = tick(ANALYTICS, instance, first.cursor).run_requests
    assert request.run_key != first.run_requests[0].run_key


def test_days_that_changed_and_are_not_the_newest_get_runs_of_their_own(instance, lake):
    for day in ("2025-08-15", "2025-08-20", "2025-08-21"):
        lake.store.put(lake.partition_key("enhanced", date.fromisoformat(day)), b"")
    report(instance, ENHANCED, age_s=1_000, partition="2025-08-10")
    cursor = tick(ANALYTICS, instance).cursor
    for day in ("2025-08-15", "2025-08-19", "2025-08-20", "2025-08-21", "2025-08-20"):
        report(instance, ENHANCED, partition=day)
    report(instance, ENHANCED, partition="2025-08-17", unchanged=True)
    newest, single, span = tick(ANALYTICS, instance, cursor).run_requests
    assert (newest.job_name, newest.partition_key) == ("wrm_analytics_job", "2025-08-21")
    assert (single.job_name, single.partition_key) == ("wrm_daily_analytics_job", "2025-08-15")
    assert (span.job_name, span.partition_key) == ("wrm_daily_analytics_job", None)
    ends = [span.tags[f"dagster/asset_partition_range_{end}"] for end in ("start", "end")]
    assert ends == ["2025-08-19", "2025-08-20"]


def test_the_newest_day_that_can_be_read_is_chosen_and_none_that_is_not_a_partition(instance, lake):
    report(instance, ENHANCED)
    assert keys(tick(ANALYTICS, instance)) == [None]
    lake.store.put(lake.partition_key("enhanced", date(2025, 5, 31)), b"")  # before WRM_FIRST_DATE
    assert keys(tick(ANALYTICS, instance)) == [None]
    lake.store.put(lake.partition_key("enhanced"), b"")
    assert keys(tick(ANALYTICS, instance)) == [str(DAY)]


def test_a_run_of_tables_does_not_hold_up_the_day_that_it_reads(instance, lake):
    put(lake, DAY)
    add_run(instance, "STARTED", "wrm_analytics_job", **{"dagster/partition": str(DAY)})
    add_run(instance, "QUEUED", "wrm_daily_analytics_job", **{"dagster/partition": str(DAY)})
    assert str(DAY) in keys(tick(ARRIVALS, instance))


def test_analytics_keep_their_pace(instance):
    report(instance, ENHANCED, age_s=1_000)
    cursor = tick(ANALYTICS, instance).cursor
    report(instance, TABLES, age_s=ANALYTICS_INTERVAL_S - 60)
    report(instance, ENHANCED)
    waiting = tick(ANALYTICS, instance, cursor)
    assert keys(waiting) == []
    assert "younger" in waiting.skip_message
    assert waiting.cursor in {None, cursor}


def test_analytics_run_once_the_tables_are_old_enough(instance):
    report(instance, ENHANCED, age_s=1_000)
    cursor = tick(ANALYTICS, instance).cursor
    report(instance, TABLES, age_s=ANALYTICS_INTERVAL_S + 1)
    report(instance, ENHANCED)
    assert keys(tick(ANALYTICS, instance, cursor)) == [None]


@pytest.mark.parametrize("status", ["NOT_STARTED", *UNDER_WAY])
def test_analytics_run_one_at_a_time(instance, status):
    report(instance, ENHANCED)
    run = add_run(instance, status, "wrm_analytics_job")
    waiting = tick(ANALYTICS, instance)
    assert (keys(waiting), waiting.skip_message) == ([], "A run is in progress.")
    instance.report_run_failed(run)
    assert keys(tick(ANALYTICS, instance)) == [None]

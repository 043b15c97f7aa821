"""The lineage sensor on a real instance with real runs: what is recorded, what is posted, what it costs to fail."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg
import jsonschema
import pytest

from wrm_pipeline.analytics.lineage import assets_with_lineage, column_lineage
from wrm_pipeline.assets.stations import processed_all
from wrm_pipeline.clients.openlineage import Receiver
from wrm_pipeline.definitions import build_defs
from wrm_pipeline.domain.asset_names import (
    BIKE_POSITIONS,
    FORECAST,
    FORECAST_SKILL,
    MATERIALIZED_VIEWS,
    QUALITY,
    STATIONS_HISTORY,
)
from wrm_pipeline.domain.layout import local_date
from wrm_pipeline.resources.lake import LakeResource
from wrm_pipeline.sensors import lineage
from wrm_pipeline.sensors.lineage import MOST_UNSENT, LineageCursor
from wrm_pipeline.settings import load_settings
from wrm_pipeline.simulator.city import City
from wrm_pipeline.simulator.misbehaviour import Misbehaviour
from wrm_pipeline.simulator.server import serve
from wrm_pipeline_tests.fixtures.fault_server import HANG, Answer, FaultServer
from wrm_pipeline_tests.fixtures.lake import ENHANCED, PROCESSED, Lake, WatchedStore, definitions, materialize, run_job
from wrm_pipeline_tests.fixtures.lake import tick as evaluate
from wrm_pipeline_tests.fixtures.openlineage import check_event

RAW = "wrm_stations_raw_data"
CREATED = Answer(201)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def tick(instance: dg.DagsterInstance, cursor: str | None = None) -> tuple[str, str]:
    """One tick; gives the new cursor and what it said."""
    result = evaluate("wrm_lineage_sensor", instance, cursor)
    return result.cursor or "", result.skip_message or ""


def events_of(lake: Lake, run_id: str) -> list[dict[str, Any]]:
    (key,) = [key for key in lake.keys("lineage/") if run_id in key]
    return json.loads(lake.store.get(key))


def ends(lake: Lake) -> list[dict[str, Any]]:
    """The last event of each step, of all runs."""
    found = [event for key in lake.keys("lineage/") for event in json.loads(lake.store.get(key))]
    return [event for event in found if event["eventType"] != "START"]


def fetch_once(monkeypatch: pytest.MonkeyPatch, instance: dg.DagsterInstance, *mishaps: Misbehaviour) -> str:
    """One run of the ingest on a simulated city; gives its id."""
    with serve(City(7, station_count=12, bike_count=4)) as feed:
        monkeypatch.setenv("WRM_STATIONS_DATA_URL", feed.url.replace("http://", "http://user:CANARY-feed@"))
        if mishaps:
            feed.plan(*mishaps)
        result = run_job("wrm_stations_ingest_job", instance=instance, raise_on_error=not mishaps)
    return result.run_id


# --- a whole pipeline ---


def fetched_day(lake: Lake) -> date:
    (key,) = lake.keys("raw/")
    return lake.layout.parse_raw_key(key).dt


# Dagster names their columns with their tables.
OF_MANY_TABLES = {MATERIALIZED_VIEWS, QUALITY, FORECAST}
# Bike positions, from which rides are made, need the operator's feed; forecasts are scored, and
# stations followed, at night.
NOT_RUN = {BIKE_POSITIONS, FORECAST_SKILL, STATIONS_HISTORY}


def run_everything(lake: Lake, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Everything once: the job's name, or what went wrong -> run id. Recorded by one tick."""
    monkeypatch.setenv("OPENLINEAGE_API_KEY", "CANARY-key")
    runs = {"ingest": fetch_once(monkeypatch, instance)}
    today = fetched_day(lake)
    runs |= {
        "rejected": fetch_once(monkeypatch, instance, Misbehaviour.HTML),
        "processing": run_job("wrm_stations_processing_job", dt=today, instance=instance).run_id,
        "unchanged": run_job("wrm_stations_processing_job", dt=today, instance=instance).run_id,
        "analytics": run_job("wrm_analytics_job", instance=instance).run_id,
    }

    def fail(*_: object) -> None:
        raise ValueError("the day is damaged")

    with monkeypatch.context() as patch:
        patch.setattr(processed_all, "process_day", fail)
        failed = run_job("wrm_stations_processing_job", dt=date(2025, 7, 1), instance=instance, raise_on_error=False)
    runs["damaged"] = failed.run_id
    _, said = tick(instance)
    assert said.startswith("6 runs recorded")
    return runs


def test_the_events_of_a_whole_pipeline(
    lake: Lake, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = run_everything(lake, instance, monkeypatch)
    check_that_every_materialization_has_valid_events(lake, instance, pipeline)
    check_that_failures_are_reported_with_their_message(lake, pipeline)
    check_that_dagster_and_the_events_say_the_same_about_columns(lake)
    check_that_the_check_refuses_what_is_not_as_published(lake)


def check_that_every_materialization_has_valid_events(
    lake: Lake, instance: dg.DagsterInstance, pipeline: dict[str, str]
) -> None:
    facets = set[str]()
    for key in lake.keys("lineage/"):
        for event in json.loads(lake.store.get(key)):
            facets |= check_event(event)
    assert facets == {
        "parent",
        "processing_engine",
        "nominalTime",
        "errorMessage",
        "jobType",
        "documentation",
        "schema",
        "columnLineage",
        "outputStatistics",
    }
    made = [
        (record.dagster_run.run_id, entry.dagster_event.asset_key.path[-1])
        for record in instance.get_run_records()
        for entry in instance.all_logs(record.dagster_run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    ]
    complete = [
        (event["run"]["facets"]["parent"]["run"]["runId"], event["job"]["name"])
        for event in ends(lake)
        if event["eventType"] == "COMPLETE"
    ]
    assert sorted(complete) == sorted(made)
    assert len({event["run"]["runId"] for event in ends(lake)}) == len(ends(lake))

    # Rows and sizes are those of the objects themselves.
    by_job = {(event["run"]["facets"]["parent"]["run"]["runId"], event["job"]["name"]): event for event in ends(lake)}
    today = fetched_day(lake)
    for layer, asset in (("processed", PROCESSED), ("enhanced", ENHANCED)):
        (output,) = by_job[pipeline["processing"], asset]["outputs"]
        statistics = output["outputFacets"]["outputStatistics"]
        assert statistics["rowCount"] == len(lake.rows(layer, today)) > 0
        assert statistics["size"] == lake.store.stat(lake.partition_key(layer, today)).size_bytes
        (again,) = by_job[pipeline["unchanged"], asset]["outputs"]
        assert (again["outputFacets"]["outputStatistics"]["rowCount"], again["facets"]) == (0, {})
        assert (output["namespace"], output["name"]) == (
            "file",
            lake.store.url(lake.layout.layer_prefix(layer).rstrip("/")),
        )

    # One connected graph: what a job reads, another one writes, up to the feed.
    written = {(d["namespace"], d["name"]) for event in ends(lake) for d in event["outputs"]}
    read = {(d["namespace"], d["name"]) for event in ends(lake) for d in event["inputs"]}
    rows = {o["name"]: o["outputFacets"] for e in ends(lake) for o in e["outputs"] if "mv_city" in o["name"]}
    assert [facet["outputStatistics"]["rowCount"] for facet in rows.values()] == [1]
    (source,) = {dataset for dataset in read - written if BIKE_POSITIONS not in dataset[1]}
    assert source[0].startswith("http://127.0.0.1:")

    # Nobody's password is in them.
    text = b"".join(lake.store.get(key) for key in lake.keys("lineage/"))
    assert b"CANARY" not in text


def check_that_failures_are_reported_with_their_message(lake: Lake, pipeline: dict[str, str]) -> None:
    start, fail = events_of(lake, pipeline["rejected"])
    assert (start["eventType"], fail["eventType"]) == ("START", "FAIL")
    assert "not a snapshot" in fail["run"]["facets"]["errorMessage"]["message"]
    (_, fail) = events_of(lake, pipeline["damaged"])
    assert fail["job"]["name"] == PROCESSED, "what was never begun has no event"
    assert "the day is damaged" in fail["run"]["facets"]["errorMessage"]["message"]
    assert fail["run"]["facets"]["nominalTime"]["nominalStartTime"] == "2025-06-30T22:00:00+00:00"


def check_that_dagster_and_the_events_say_the_same_about_columns(lake: Lake) -> None:
    graph = definitions().resolve_asset_graph()
    # What a run left as it was is recorded without its schema.
    outputs = {
        (event["job"]["name"], output["name"].rpartition(".")[2]): output
        for event in ends(lake)
        for output in event["outputs"]
        if output["facets"]
    }
    assets = {
        (output["namespace"], output["name"]): (asset, f"{table}." if asset in OF_MANY_TABLES else "")
        for (asset, table), output in outputs.items()
    }
    columns: dict[str, list[str]] = {}
    recorded: dict[str, dict[str, set[tuple[str, str]]]] = {}
    for output in outputs.values():
        asset, prefix = assets[output["namespace"], output["name"]]
        columns.setdefault(asset, []).extend(prefix + one["name"] for one in output["facets"]["schema"]["fields"])
        for column, made in output["facets"].get("columnLineage", {"fields": {}})["fields"].items():
            recorded.setdefault(asset, {})[prefix + column] = {
                (assets[place][0], one["field"])
                for one in made["inputFields"]
                if (place := (one["namespace"], one["name"])) in assets or BIKE_POSITIONS not in place[1]
            }
    for asset in set(assets_with_lineage()) - NOT_RUN:
        shown = {
            column: {(dep.asset_key.path[-1], dep.column_name) for dep in deps}
            for column, deps in graph.get(dg.AssetKey(asset)).metadata["dagster/column_lineage"].deps_by_column.items()
        }
        wanted = {
            column: {(origin.asset, name) for origin in origins for name in origin.columns}
            for column, origins in column_lineage(asset).items()
        }
        assert shown == wanted
        ran = {column: {dep for dep in deps if dep[0] not in NOT_RUN} for column, deps in wanted.items()}
        assert {column: deps for column, deps in recorded[asset].items() if deps} == {
            column: deps for column, deps in ran.items() if deps
        }
        # Each column that there is has a line, and each line is about columns that there are.
        assert sorted(columns[asset]) == sorted(wanted)
        for upstream, column in set().union(*ran.values()):
            assert column in columns[upstream]


def check_that_the_check_refuses_what_is_not_as_published(lake: Lake) -> None:
    event = next(event for event in ends(lake) if event["job"]["name"] == ENHANCED and event["outputs"][0]["facets"])
    check_event(event)

    def broken(change) -> dict[str, Any]:
        copy = json.loads(json.dumps(event))
        change(copy)
        return copy

    for change in (
        lambda e: e.pop("job"),
        lambda e: e.update(eventType="DONE"),
        lambda e: e.update(eventTime="yesterday"),
        lambda e: e["run"].update(runId="1"),
        lambda e: e["run"]["facets"]["parent"].pop("_schemaURL"),
        lambda e: e["run"]["facets"]["parent"].pop("job"),
        lambda e: e["outputs"][0]["outputFacets"]["outputStatistics"].update(rowCount="16"),
        lambda e: e["outputs"][0]["facets"]["schema"]["fields"].append({"type": "string"}),
        lambda e: e["outputs"][0]["facets"]["columnLineage"]["fields"]["name"]["inputFields"][0].pop("field"),
    ):
        with pytest.raises((jsonschema.ValidationError, KeyError)):
            check_event(broken(change))


# --- what ended in other ways ---


def begun_run(instance: dg.DagsterInstance, asset: str, status: dg.DagsterRunStatus) -> str:
    """A run whose process began a step and was gone."""
    job = definitions().resolve_job_def("wrm_stations_ingest_job")
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    for kind in ("ASSET_MATERIALIZATION_PLANNED", "STEP_START"):
        data = (
            dg._core.events.AssetMaterializationPlannedData(dg.AssetKey(asset))
            if kind == "ASSET_MATERIALIZATION_PLANNED"
            else None
        )
        event = dg.DagsterEvent(kind, job.name, step_key=asset, event_specific_data=data)
        instance.report_dagster_event(event, run.run_id)
    if status is dg.DagsterRunStatus.CANCELED:
        instance.report_run_canceled(run)
    else:
        instance.report_run_failed(run, message="Run timed out: no heartbeat from https://me:CANARY-pw@store")
    return run.run_id


@pytest.mark.parametrize(
    ("status", "ending"), [(dg.DagsterRunStatus.FAILURE, "FAIL"), (dg.DagsterRunStatus.CANCELED, "ABORT")]
)
def test_a_run_whose_process_was_killed_or_canceled_has_its_end(
    lake: Lake, instance: dg.DagsterInstance, status: dg.DagsterRunStatus, ending: str
) -> None:
    run_id = begun_run(instance, RAW, status)
    tick(instance)
    start, end = events_of(lake, run_id)
    assert (start["eventType"], end["eventType"]) == ("START", ending)
    for event in (start, end):
        check_event(event)
    assert "CANARY" not in json.dumps(end)
    assert ("errorMessage" in end["run"]["facets"]) == (ending == "FAIL")


def test_a_run_is_recorded_once_and_a_tick_without_new_runs_writes_nothing(
    lake: Lake, instance: dg.DagsterInstance
) -> None:
    lake.put_day(1)
    materialize(PROCESSED, ENHANCED, dt=date(2025, 8, 21), instance=instance)
    cursor, said = tick(instance)
    assert said == "1 runs recorded."
    before = lake.etags("lineage/")
    cursor, said = tick(instance, cursor)
    assert said == "0 runs recorded."
    assert lake.etags("lineage/") == before
    # A cursor that was lost costs nothing but the work: the same events under the same keys.
    content = {key: lake.store.get(key) for key in before}
    tick(instance, None)
    assert {key: lake.store.get(key) for key in lake.keys("lineage/")} == content


def test_while_the_store_is_away_nothing_is_lost(
    lake: Lake, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.put_day(1)
    materialize(PROCESSED, dt=date(2025, 8, 21), instance=instance)
    down = WatchedStore(lake.store, fails=lambda operation, _: operation == "put")
    with monkeypatch.context() as patched:
        patched.setattr(LakeResource, "connect", lambda *_: down)
        cursor, said = tick(instance)
    assert "the object store failed" in said
    _, said = tick(instance, cursor)
    assert said == "1 runs recorded."


def test_old_events_are_removed_once_a_day(
    lake: Lake, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WRM_LINEAGE_DAYS", "10")
    today = local_date(datetime.now(UTC))
    for days in (0, 10, 11, 400):
        lake.store.put(lake.layout.lineage_key(today - timedelta(days=days), f"run-{days}"), b"[]")
    cursor, said = tick(instance)
    assert "2 objects older than 10 days removed" in said
    assert [key.rpartition("/")[2] for key in lake.keys("lineage/")] == ["run-10.json", "run-0.json"]
    lake.store.put(lake.layout.lineage_key(today - timedelta(days=12), "late"), b"[]")
    assert "removed" not in tick(instance, cursor)[1]


# --- the receiver ---


@pytest.fixture
def two_runs(lake: Lake, instance: dg.DagsterInstance) -> list[str]:
    lake.put_day(1)
    return [materialize(name, dt=date(2025, 8, 21), instance=instance).run_id for name in (PROCESSED, ENHANCED)]


def test_a_receiver_gets_each_event_once_in_order_with_the_key(
    two_runs: list[str], instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENLINEAGE_API_KEY", "CANARY-key")
    with FaultServer(then=CREATED) as server:
        monkeypatch.setenv("OPENLINEAGE_URL", f"{server.url}/")
        cursor, said = tick(instance)
        tick(instance, cursor)
    assert said == "2 runs recorded; 2 sent, 0 wait, 0 were dropped so far."
    assert [(request.method, request.path) for request in server.requests] == [("POST", "/api/v1/lineage")] * 4
    assert {request.headers["authorization"] for request in server.requests} == {"Bearer CANARY-key"}
    events = [json.loads(request.body) for request in server.requests]
    for event in events:
        check_event(event)
    assert [event["run"]["facets"]["parent"]["run"]["runId"] for event in events] == [
        run_id for run_id in two_runs for _ in range(2)
    ]
    assert [event["eventType"] for event in events] == ["START", "COMPLETE"] * 2
    assert "CANARY" not in cursor + said


@pytest.mark.parametrize("trouble", ["refuses", "hangs", "503"])
def test_a_receiver_that_is_down_costs_a_warning_and_gets_the_events_later(
    lake: Lake,
    two_runs: list[str],
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    trouble: str,
) -> None:
    with FaultServer(then=HANG if trouble == "hangs" else Answer(503)) as server:
        url = "http://127.0.0.1:9" if trouble == "refuses" else server.url
        monkeypatch.setenv("OPENLINEAGE_URL", url)
        cursor, said = tick(instance)
        # Two attempts, of 2.4 s at most, for however many events that wait.
        assert len(server.requests) == (0 if trouble == "refuses" else 2)
        assert said == "2 runs recorded; 0 sent, 2 wait, 0 were dropped so far."
        assert len(lake.keys("lineage/")) == 2
    with FaultServer(then=CREATED) as server:
        monkeypatch.setenv("OPENLINEAGE_URL", server.url)
        _, said = tick(instance, cursor)
    assert said == "0 runs recorded; 2 sent, 0 wait, 0 were dropped so far."
    assert len(server.requests) == 4


def test_after_some_failures_a_black_hole_is_not_even_asked(
    two_runs: list[str], instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENLINEAGE_URL", "http://127.0.0.1:9")
    cursor = None
    for _ in range(5):
        cursor, _ = tick(instance, cursor)
    with FaultServer(then=CREATED) as server:
        monkeypatch.setenv("OPENLINEAGE_URL", server.url)
        _, said = tick(instance, cursor)
    assert "2 wait" in said
    assert server.requests == []


@pytest.mark.parametrize(("status", "waits", "dropped"), [(422, 0, 2), (401, 2, 0), (302, 2, 0)])
def test_an_event_that_is_refused_is_dropped_and_a_wrong_configuration_waits(
    two_runs: list[str], instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, status, waits, dropped
) -> None:
    with FaultServer(then=Answer(status, headers={"Location": "http://127.0.0.1:9/"})) as server:
        monkeypatch.setenv("OPENLINEAGE_URL", server.url)
        _, said = tick(instance)
    assert f"{waits} wait, {dropped} were dropped" in said


def test_with_too_many_waiting_the_oldest_are_dropped_and_counted(lake: Lake) -> None:
    state = LineageCursor(0.0, unsent=[f"key-{n}" for n in range(MOST_UNSENT + 3)])
    sent, trouble = lineage.send(state, lake.store, lambda _: None)
    # None of these is in the store: what was removed meanwhile holds up nothing.
    assert (sent, state.unsent, state.dropped) == (0, [], MOST_UNSENT + 3)
    assert "no such object" in trouble


def test_a_receiver_shows_its_key_to_nobody() -> None:
    assert "CANARY" not in repr(Receiver("http://127.0.0.1:5000", "CANARY-key"))


def test_without_lineage_there_is_no_sensor_for_it() -> None:
    for days, there in ((30, True), (0, False)):
        sensors = build_defs(load_settings({"lineage_days": days})).sensors or ()
        assert ("wrm_lineage_sensor" in {sensor.name for sensor in sensors}) is there

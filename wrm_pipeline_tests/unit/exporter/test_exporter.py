"""The exporter: each ended run counted once, whatever happens; and an answer to every scrape."""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._daemon.types import DaemonHeartbeat
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from wrm_pipeline.clients.errors import ExternalError, TransientError
from wrm_pipeline.clients.feed import Feed
from wrm_pipeline.clients.retry import REQUESTS
from wrm_pipeline.clients.server_clock import seconds_apart
from wrm_pipeline.definitions import defs
from wrm_pipeline.domain.dead_letters import DeadLetter
from wrm_pipeline.domain.declared_metrics import RESERVED_PREFIXES
from wrm_pipeline.domain.layout import local_date
from wrm_pipeline.exporter import server as exporter_module
from wrm_pipeline.exporter.backups import BackupSource
from wrm_pipeline.exporter.connection import Connection
from wrm_pipeline.exporter.dagster_health import HealthSource, TickSource
from wrm_pipeline.exporter.families import Source, single
from wrm_pipeline.exporter.host import CertificateSource, ClockSource
from wrm_pipeline.exporter.lake import DeadLetterSource, SnapshotSource
from wrm_pipeline.exporter.machine import BreakerSource, DiskSource, MemorySource, SpoolSource
from wrm_pipeline.exporter.runs import LAG_S, PAGE, REMEMBERED_S, RunSource, facts_of
from wrm_pipeline.exporter.server import (
    AlreadyRunningError,
    Server,
    SourcesCollector,
    Watcher,
    main,
    only_one,
    vocabulary,
)
from wrm_pipeline.exporter.state_file import StateFile
from wrm_pipeline.exporter.totals import BUCKETS_S, RunFacts, Totals
from wrm_pipeline.exporter.vocabulary import Vocabulary
from wrm_pipeline.flows.restore_record import last_tried, note_tried
from wrm_pipeline.lake.spool import Spool
from wrm_pipeline.resources.breakers import connect_breakers
from wrm_pipeline.simulator.city import City
from wrm_pipeline.simulator.misbehaviour import Misbehaviour
from wrm_pipeline.simulator.server import serve
from wrm_pipeline_tests.fixtures.lake import Lake, WatchedStore, run_job, snapshot
from wrm_pipeline_tests.fixtures.tls import tls_context

RAW = "wrm_stations_raw_data"
PROCESSED = "wrm_stations_processed_data_all"
NOW = 1_755_800_000.0
WORDS = Vocabulary(assets=("a", "b"), jobs=("j",), instigators=("s",))

Samples = dict[tuple[Any, ...], float]


def samples(text: str) -> Samples:
    """Every sample by name and label values, as Prometheus' own parser reads them."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scrape(*sources: Source, now: float = NOW) -> Samples:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(SourcesCollector([Watcher(source, 15) for source in sources], clock=lambda: now))
    return samples(generate_latest(registry).decode())


def state(folder: Path, name: str = "runs") -> StateFile:
    return StateFile(folder / f"{name}.json")


# --- what is added up -----------------------------------------------------------------------------------------------


def test_names_and_labels_are_those_of_the_contract(tmp_path: Path, lake: Any) -> None:
    settings = lake.settings
    spool = Spool(settings.spool_dir, settings.spool_max_bytes)
    sources: list[Source] = [
        RunSource(dg.DagsterInstance.ephemeral, WORDS, state(tmp_path)),
        SnapshotSource(lambda: lake.store, lake.layout, spool, settings.area, state(tmp_path, "s")),
        DeadLetterSource(lambda: lake.store, lake.layout),
        SpoolSource(spool),
        BreakerSource(lambda: connect_breakers(settings)),
    ]
    for source in sources:
        source.collect()
    registry = CollectorRegistry(auto_describe=False)
    registry.register(SourcesCollector([Watcher(source, 15) for source in sources]))
    families = {
        family.name: (family.type, {name for sample in family.samples for name in sample.labels})
        for family in text_string_to_metric_families(generate_latest(registry).decode())
    }
    expected = {
        "dagster_asset_runs": ("counter", {"asset_name", "status"}),
        "dagster_asset_run_duration_seconds": ("histogram", {"asset_name", "le"}),
        "wrm_rows": ("counter", {"asset_name", "outcome"}),
        "wrm_dlq_entries": ("gauge", {"status"}),
        "wrm_last_snapshot_timestamp_seconds": ("gauge", set()),
        "wrm_spooled_snapshots": ("gauge", set()),
        "wrm_external_requests": ("counter", {"target", "operation", "outcome"}),
        "wrm_retries": ("counter", {"target"}),
        "wrm_circuit_open": ("gauge", {"target"}),
        "wrm_cache_requests": ("counter", {"result"}),
    }
    assert expected.items() <= families.items()
    assert all(name.startswith(RESERVED_PREFIXES) for name in families), "an asset's metric might have the same name"


def test_unknown_names_are_other_and_operations_are_bounded() -> None:
    totals = Totals()
    for n in range(1000):
        requests = {("s3", f"operation_{n}", "ok"): 1, (f"host{n}", "get", "teapot"): 1, ("s3", f"raw/{n}", "ok"): 1}
        rows = {(f"asset{n}", "out"): 1, ("a", f"outcome{n}"): 1}
        totals.add(
            RunFacts(f"job{n}", "success", {f"asset{n}": "success"}, [(f"asset{n}", 1)], rows, requests, {f"r{n}": 1}),
            WORDS,
        )
    assert totals.assets == {("other", "success"): 1000}
    assert totals.jobs == {("other", "success"): 1000}
    assert totals.rows == {("other", "out"): 1000, ("a", "other"): 1000}
    assert totals.cache == {("other",): 1000}
    assert totals.requests["other", "get", "other"] == 1000
    assert len(totals.requests) < 40
    assert sum(totals.requests.values()) == 3000


def test_totals_come_back_from_json_as_they_were() -> None:
    totals = Totals()
    totals.add(
        RunFacts("j", "failure", {"a": "failure", "b": "skipped"}, [("a", 0.3), ("a", 5000)], {("a", "out"): 3},
                 {("feed", "get", "retried"): 2}, {"hit": 4}),
        WORDS,
    )  # fmt: skip
    assert Totals.from_json(json.loads(json.dumps(totals.to_json()))) == totals


def test_a_histogram_is_cumulative_and_ends_in_inf() -> None:
    totals = Totals()
    totals.add(RunFacts("j", "success", durations=[("a", 0.1), ("a", 0.3), ("a", 901)]), WORDS)
    (family,) = [f for f in totals.families(WORDS) if f.name == "dagster_asset_run_duration_seconds"]
    buckets = [s.value for s in family.samples if s.labels["asset_name"] == "a" and s.name.endswith("_bucket")]
    assert buckets == [1, 1, *([2] * (len(BUCKETS_S) - 2)), 3]


# --- what a run's events mean ---------------------------------------------------------------------------------------


def event(kind: str, step: str, at: float = 0.0) -> tuple[Any, float]:
    planned = kind == "planned"
    found = SimpleNamespace(
        event_type=dg.DagsterEventType("ASSET_MATERIALIZATION_PLANNED" if planned else f"STEP_{kind.upper()}"),
        step_key=step,
        asset_key=dg.AssetKey(step) if planned else None,
        step_failure_data=SimpleNamespace(user_failure_data=None),
    )
    return found, at


PLANNED = [event("planned", "a"), event("planned", "b")]


@pytest.mark.parametrize(
    ("steps", "status", "expected"),
    [
        ([("start", "a"), ("success", "a"), ("start", "b"), ("success", "b")], "success", ("success", "success")),
        ([("start", "a"), ("failure", "a")], "failure", ("failure", "skipped")),
        ([("start", "a"), ("success", "a"), ("start", "b"), ("failure", "b")], "failure", ("success", "failure")),
        # Killed: in a step, between two, before the first.
        ([("start", "a")], "failure", ("failure", "skipped")),
        ([("start", "a"), ("success", "a")], "failure", ("success", "failure")),
        ([], "failure", ("failure", "failure")),
        ([("start", "a"), ("success", "a"), ("start", "b")], "canceled", ("success", "canceled")),
        ([], "canceled", ("canceled", "canceled")),
        # A branch that was not taken.
        ([("start", "a"), ("success", "a")], "success", ("success", "skipped")),
    ],
)
def test_what_became_of_each_asset(steps: list[tuple[str, str]], status: str, expected: tuple[str, str]) -> None:
    events = [*PLANNED, *(event(kind, step, at=n) for n, (kind, step) in enumerate(steps))]
    facts = facts_of(events, job="j", status=status)
    assert (facts.assets["a"], facts.assets["b"]) == expected
    assert all(seconds == 1 for _, seconds in facts.durations)
    assert len(facts.durations) == sum(kind in ("success", "failure") for kind, _ in steps)


def test_real_runs_in_dagsters_own_event_log(tmp_path: Path) -> None:
    @dg.asset
    def a(context):
        if context.run.tags.get("fail"):
            raise dg.Failure(
                "no", metadata={"handled_rows": {"dead_lettered": 5}, "external_requests": {"s3 put failed": 1}}
            )
        metadata = {
            "handled_rows": {"out": 3, "duplicate": 1, "dead_lettered": 0},
            "external_requests": {"s3 get ok": 2, "s3 get retried": 1},
            "write_requests": {"s3 put ok": 1},
            "cache_requests": {"hit": 2, "miss": 1},
            "rows_out": 999,
        }
        return dg.MaterializeResult(metadata=metadata)

    @dg.asset(deps=[a])
    def b() -> None: ...

    job = dg.Definitions(assets=[a, b], jobs=[dg.define_asset_job("j", [a, b])]).resolve_job_def("j")
    instance = dg.DagsterInstance.ephemeral()
    source = RunSource(lambda: instance, WORDS, state(tmp_path))
    for tags in ({}, {"fail": "1"}, {}):
        job.execute_in_process(instance=instance, tags=tags, raise_on_error=False)
        source.collect()
    lost = instance.create_run_for_job(job)
    instance.report_run_failed(lost, "its process is gone")
    gone = instance.create_run_for_job(job)
    instance.report_run_canceled(gone)
    source.collect()
    found = scrape(source)
    assert [found["dagster_asset_runs_total", "a", s] for s in ("success", "failure", "canceled")] == [2, 2, 1]
    assert [found["dagster_asset_runs_total", "b", s] for s in ("success", "failure", "skipped")] == [2, 1, 1]
    assert [found["dagster_runs_total", "j", s] for s in ("success", "failure", "canceled")] == [2, 2, 1]
    assert found["dagster_asset_run_duration_seconds_count", "a"] == 3
    assert [found["wrm_rows_total", "a", o] for o in ("out", "duplicate", "dead_lettered")] == [6, 2, 5]
    assert found["wrm_external_requests_total", "get", "ok", "s3"] == 4
    assert found["wrm_external_requests_total", "put", "ok", "s3"] == 2
    assert found["wrm_external_requests_total", "put", "failed", "s3"] == 1
    assert found["wrm_retries_total", "s3"] == 2
    assert [found["wrm_cache_requests_total", r] for r in ("hit", "miss", "error")] == [4, 2, 0]


def test_the_pipelines_own_runs_are_counted(tmp_path: Path, lake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A good snapshot, the same again, a body that is none, and a feed that is away: rows and requests of each."""
    REQUESTS.reset()
    instance = dg.DagsterInstance.ephemeral()
    words = vocabulary(defs)
    source = RunSource(lambda: instance, words, state(tmp_path))
    with serve(City(1)) as feed:
        monkeypatch.setenv("WRM_STATIONS_DATA_URL", feed.url)
        first = run_job("wrm_stations_ingest_job", instance=instance)
        rows = first.asset_materializations_for_node(RAW)[0].metadata["rows_out"].value
        for misbehaviour in (Misbehaviour.FROZEN, Misbehaviour.HTML, Misbehaviour.NOT_FOUND):
            feed.plan(misbehaviour)
            run_job("wrm_stations_ingest_job", instance=instance, raise_on_error=False)
    today = local_date(datetime.now(UTC))
    run_job("wrm_stations_processing_job", dt=today, instance=instance)
    run_job("wrm_stations_processing_job", dt=today, instance=instance)
    source.collect()
    found = scrape(source)
    assert [found["dagster_asset_runs_total", RAW, s] for s in ("success", "failure")] == [2, 2]
    assert found["wrm_rows_total", RAW, "out"] == found["wrm_rows_total", RAW, "duplicate"] == rows
    assert found["wrm_rows_total", RAW, "dead_lettered"] > 0
    assert found["wrm_external_requests_total", "get", "ok", "feed"] == 3
    assert found["wrm_external_requests_total", "get", "rejected", "feed"] == 1
    # The second run finds nothing new: its partition's rows are not counted again.
    assert found["dagster_asset_runs_total", PROCESSED, "success"] == 2
    assert found["wrm_rows_total", PROCESSED, "out"] == rows
    assert found["wrm_rows_total", "wrm_stations_enhanced_data_all", "out"] == rows
    assert found["dagster_runs_total", "wrm_stations_ingest_job", "success"] == 2


# --- the cursor -----------------------------------------------------------------------------------------------------


@dataclass
class FakeLog:
    """Dagster's event log with endings only: (storage id, run id, time), in any order."""

    endings: list[tuple[int, str, float]] = field(default_factory=list)
    read: list[str] = field(default_factory=list)
    down: bool = False

    def add(self, run_id: str, at: float = NOW, storage_id: int | None = None) -> None:
        top = max((ending[0] for ending in self.endings), default=0)
        self.endings.append((top + 1 if storage_id is None else storage_id, run_id, at))

    def fetch_run_status_changes(
        self, kind: dg.DagsterEventType, *, limit: int, cursor: str | None = None, ascending: bool = False
    ) -> Any:
        if self.down:
            raise ConnectionError("the database is away")
        after = int(cursor or -1)
        found = sorted(self.endings, reverse=not ascending) if kind == dg.DagsterEventType.RUN_SUCCESS else []
        rows = [row for row in found if not ascending or row[0] > after][:limit]
        records = [
            SimpleNamespace(storage_id=i, run_id=run, timestamp=at, event_log_entry=SimpleNamespace(job_name="j"))
            for i, run, at in rows
        ]
        last = str(rows[-1][0]) if rows else (cursor or "-1")
        return SimpleNamespace(records=records, cursor=last, has_more=len(rows) == limit)

    def get_records_for_run(self, run_id: str, **_: Any) -> Any:
        self.read.append(run_id)
        return SimpleNamespace(records=[], has_more=False, cursor=None)


class Exporter:
    """A RunSource on a FakeLog, that can be restarted."""

    def __init__(self, folder: Path, log: FakeLog) -> None:
        self.folder = folder
        self.log = log
        self.now = NOW
        self.restart()

    def restart(self) -> None:
        self.source = RunSource(lambda: self.log, WORDS, state(self.folder), clock=lambda: self.now)  # type: ignore[arg-type,return-value]

    def count(self) -> float:
        self.source.collect()
        return self.served

    @property
    def served(self) -> float:
        return scrape(self.source)["dagster_runs_total", "j", "success"]


@pytest.fixture
def exporter(tmp_path: Path) -> Exporter:
    return Exporter(tmp_path, FakeLog())


def test_a_restart_neither_loses_nor_doubles(exporter: Exporter) -> None:
    for n in range(250):
        exporter.log.add(f"run{n}", NOW - 250 + n)
    assert exporter.count() == 250
    exporter.restart()
    assert exporter.served == 250  # served before the first look
    assert exporter.count() == 250
    exporter.log.add("while it was down")
    exporter.restart()
    assert exporter.count() == 251
    assert len(exporter.log.read) == len(set(exporter.log.read)) == 251


def test_ten_thousand_runs_leave_state_and_answer_as_small_as_one(exporter: Exporter) -> None:
    exporter.log.add("first", NOW - 1e6)
    exporter.count()
    small = len(generate(exporter.source)), exporter.folder.joinpath("runs.json").stat().st_size
    for n in range(10_000):
        exporter.log.add(f"run{n}", NOW - 1e6 + n)
    assert exporter.count() == 10_001
    size = len(generate(exporter.source)), exporter.folder.joinpath("runs.json").stat().st_size
    assert size[0] - small[0] < 500
    assert size[1] - small[1] < 100


def generate(source: Source) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(SourcesCollector([Watcher(source, 15)], clock=lambda: NOW))
    return generate_latest(registry)


def test_a_steady_stream_is_forgotten_after_a_while(exporter: Exporter) -> None:
    """A run each 9 minutes, looked at each 3, for days: no page is ever quiet, and nothing piles up."""
    for n in range(400):
        exporter.log.add(f"run{n}", exporter.now)
        for _ in range(3):
            exporter.now += 180
            exporter.source.collect()
    assert exporter.served == 400
    assert len(exporter.source._ledger.counted) <= REMEMBERED_S / 540 + 1
    assert len(exporter.log.read) == 400


def test_purging_history_changes_nothing_even_where_ids_start_over(exporter: Exporter) -> None:
    for n in range(30):
        exporter.log.add(f"run{n}", NOW - 3600 + n)
    assert exporter.count() == 30
    del exporter.log.endings[:20]
    assert exporter.count() == 30
    exporter.log.endings.clear()
    assert exporter.count() == 30
    exporter.log.add("again", NOW)
    assert exporter.log.endings[0][0] == 1
    assert exporter.count() == 31
    # All gone again, and more new ones than the old cursor was high before anyone looked.
    exporter.now += 2 * LAG_S
    exporter.count()
    exporter.log.endings.clear()
    for n in range(100):
        exporter.log.add(f"after{n}", exporter.now + n)
    exporter.now += 100
    assert exporter.count() == 131
    exporter.restart()
    assert exporter.count() == 131


def test_an_id_that_becomes_visible_after_a_larger_one_is_counted(exporter: Exporter) -> None:
    exporter.log.add("fast", NOW, storage_id=8)
    assert exporter.count() == 1
    exporter.log.add("slow", NOW - 5, storage_id=7)
    exporter.now += 30
    assert exporter.count() == 2
    exporter.now += REMEMBERED_S
    assert exporter.count() == 2


def test_a_clock_that_is_ahead_elsewhere_doubles_nothing(exporter: Exporter) -> None:
    exporter.log.add("from the future", NOW + 7200)
    for n in range(20):
        exporter.log.add(f"run{n}", exporter.now)
        exporter.now += LAG_S
        assert exporter.count() == n + 2


def test_a_burst_of_more_than_a_page_is_read_once(exporter: Exporter) -> None:
    for n in range(5 * PAGE + 7):
        exporter.log.add(f"run{n}")
    assert exporter.count() == exporter.count() == 5 * PAGE + 7
    assert len(exporter.log.read) == 5 * PAGE + 7


def test_a_database_that_is_away_changes_nothing_that_is_served(exporter: Exporter) -> None:
    exporter.log.add("one")
    assert exporter.count() == 1
    exporter.log.down = True
    with pytest.raises(ConnectionError):
        exporter.source.collect()
    assert exporter.served == 1
    exporter.log.down = False
    exporter.log.add("two")
    assert exporter.count() == 2


def test_what_cannot_be_kept_is_not_served_either(exporter: Exporter, monkeypatch: pytest.MonkeyPatch) -> None:
    exporter.log.add("one")
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("no space left on device")))
        with pytest.raises(OSError, match="no space"):
            exporter.source.collect()
    assert exporter.served == 0
    assert [path.name for path in exporter.folder.iterdir()] == []
    assert exporter.count() == 1


def test_a_damaged_state_file_is_kept_aside(exporter: Exporter) -> None:
    exporter.log.add("one")
    exporter.count()
    (exporter.folder / "runs.json").write_text("{")
    exporter.restart()
    assert exporter.count() == 1
    assert (exporter.folder / "runs.unreadable").read_text() == "{"


def test_a_real_sqlite_instance_whose_runs_are_all_deleted(tmp_path: Path, environment: Path) -> None:
    @dg.op
    def nothing() -> None: ...

    @dg.job(name="j", executor_def=dg.in_process_executor)
    def job() -> None:
        nothing()

    def run() -> None:
        with dg.DagsterInstance.get() as instance:
            job.execute_in_process(instance=instance)

    now = time.time()
    source = RunSource(dg.DagsterInstance.get, WORDS, state(tmp_path), clock=lambda: now)
    run()
    source.collect()
    now += 2 * LAG_S
    source.collect()  # the cursor is past it for good
    with dg.DagsterInstance.get() as instance:
        for found in instance.get_runs():
            instance.delete_run(found.run_id)
    source.collect()
    run()
    source.collect()
    assert scrape(source)["dagster_runs_total", "j", "success"] == 2


# --- Dagster's own health -------------------------------------------------------------------------------------------


def test_queue_oldest_runs_and_daemons(monkeypatch: pytest.MonkeyPatch) -> None:
    @dg.op
    def nothing() -> None: ...

    @dg.job
    def job() -> None:
        nothing()

    instance = dg.DagsterInstance.ephemeral()
    repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("here"), "__repository__")
    for _ in range(2):
        instance.create_run_for_job(
            job, status=dg.DagsterRunStatus.QUEUED, remote_job_origin=RemoteJobOrigin(repository, job.name)
        )
    instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    # Those of an instance in memory are none.
    monkeypatch.setattr(instance, "get_required_daemon_types", lambda: ["SENSOR", "SCHEDULER"])
    began = time.time()
    instance.add_daemon_heartbeat(DaemonHeartbeat(began, "SENSOR", None))
    source = HealthSource(lambda: instance)
    assert source.families(began) == []
    source.collect()
    found = scrape(source, now=began + 100)
    assert [found["dagster_runs_in_state", s] for s in ("queued", "starting", "started", "canceling")] == [2, 0, 1, 0]
    assert found["dagster_run_oldest_age_seconds", "queued"] == pytest.approx(100, abs=30)
    assert found["dagster_run_oldest_age_seconds", "running"] == pytest.approx(100, abs=30)
    assert found["dagster_daemon_heartbeat_age_seconds", "SENSOR"] == pytest.approx(100)
    assert found["dagster_daemon_heartbeat_age_seconds", "SCHEDULER"] == float("inf")
    ahead = scrape(source, now=began - 3600)
    assert ahead["dagster_daemon_heartbeat_age_seconds", "SENSOR"] == float("inf"), "a clock was ahead then"


class FakeTicks:
    """Ticks of two sensors, one of which nobody defines any more."""

    def __init__(self) -> None:
        self.ticks: list[tuple[int, float, str]] = []

    def all_instigator_state(self) -> list[Any]:
        return [
            SimpleNamespace(instigator_name=name, instigator_origin_id=name, selector_id=name) for name in ("s", "old")
        ]

    def get_ticks(self, origin: str, _selector: str, *, after: float) -> list[Any]:
        ticks = self.ticks if origin == "s" else [(99, NOW, "FAILURE")]
        return [
            SimpleNamespace(tick_id=number, timestamp=at, status=SimpleNamespace(value=status))
            for number, at, status in ticks
            if at > after
        ]


def test_ticks_are_counted_once_they_have_a_result(tmp_path: Path) -> None:
    log, now = FakeTicks(), NOW
    log.ticks = [(1, NOW - 60, "SUCCESS"), (2, NOW - 30, "FAILURE"), (3, NOW - 1, "STARTED")]

    def source() -> TickSource:
        return TickSource(lambda: log, WORDS, state(tmp_path, "ticks"), clock=lambda: now)  # type: ignore[arg-type,return-value]

    first = source()
    first.collect()
    first.collect()
    log.ticks[2] = (3, NOW - 1, "FAILURE")
    log.ticks.append((4, NOW, "SKIPPED"))
    first.collect()
    again = source()
    log.ticks.clear()  # Dagster purges its ticks
    again.collect()
    now += 7200
    log.ticks.append((5, now, "FAILURE"))
    again.collect()
    found = scrape(again)
    assert [found["dagster_ticks_total", "s", status] for status in ("success", "failure", "skipped")] == [1, 3, 1]
    assert found["dagster_ticks_total", "other", "failure"] == 1


# --- the lake and the machine ---------------------------------------------------------------------------------------


def snapshots(lake: Any, folder: Path, at: datetime, store: Any = None) -> SnapshotSource:
    settings = lake.settings
    return SnapshotSource(
        lambda: store or lake.store,
        lake.layout,
        Spool(settings.spool_dir, settings.spool_max_bytes),
        settings.area,
        state(folder, "snapshots"),
        clock=at.timestamp,
    )


NOON = datetime(2025, 8, 21, 12, 0, tzinfo=UTC)


def test_the_newest_snapshot_and_the_city_in_it(lake: Any, tmp_path: Path) -> None:
    empty = snapshots(lake, tmp_path / "empty", NOON)
    empty.collect()
    assert scrape(empty)["wrm_last_snapshot_timestamp_seconds",] == 0

    lake.put_raw(NOON - timedelta(days=1))
    lake.put_raw(NOON - timedelta(minutes=7))
    lake.put_raw(NOON + timedelta(days=700))  # a name that is wrong must not hide a silent feed
    lake.put_raw(NOON + timedelta(minutes=20))
    store = WatchedStore(lake.store)
    source = snapshots(lake, tmp_path, NOON, store)
    source.collect()
    found = scrape(source)
    assert found["wrm_last_snapshot_timestamp_seconds",] == (NOON - timedelta(minutes=7)).timestamp()
    # Ten stations with 0 to 9 bikes and a bike that stands free.
    assert found["wrm_city_bikes", "station"] == 45
    assert found["wrm_city_bikes", "free_standing"] == 1
    assert found["wrm_city_stations", "empty"] == 1
    assert sum(value for key, value in found.items() if key[0] == "wrm_city_stations") == 10

    source.collect()
    assert store.counts["get"] == 1  # the same snapshot is not fetched again


def test_a_clock_that_was_ahead_hides_nothing(lake: Any, tmp_path: Path) -> None:
    clock = [NOON]
    source = snapshots(lake, tmp_path, NOON)

    def now() -> float:
        return clock[0].timestamp()

    source._clock = now
    for at in (NOON, NOON + timedelta(hours=3), NOON + timedelta(days=93)):
        clock[0] = at
        lake.put_raw(at)
        source.collect()
        assert source._newest == at.timestamp()
    clock[0] = NOON + timedelta(minutes=5)
    source.collect()
    assert source._newest == NOON.timestamp()
    clock[0] = NOON + timedelta(days=93)
    source.collect()
    clock[0] = NOON + timedelta(minutes=40)
    away = WatchedStore(lake.store, lambda _operation, _key: True)
    source._connection = Connection(lambda: away)
    with pytest.raises(ExternalError):
        source.collect()
    assert (source._newest or 0) <= clock[0].timestamp()


def test_a_snapshot_in_the_spool_counts_while_the_store_is_away(lake: Any, tmp_path: Path) -> None:
    lake.put_raw(NOON - timedelta(minutes=7))
    snapshots(lake, tmp_path, NOON).collect()
    Spool(lake.settings.spool_dir, 10**6).add("raw", NOON - timedelta(minutes=1), snapshot(NOON))
    store = WatchedStore(lake.store, fails=lambda *_: True)
    source = snapshots(lake, tmp_path, NOON, store)  # restarted while the store is away
    assert scrape(source)["wrm_last_snapshot_timestamp_seconds",] == (NOON - timedelta(minutes=7)).timestamp()
    with pytest.raises(TransientError):
        source.collect()
    assert scrape(source)["wrm_last_snapshot_timestamp_seconds",] == (NOON - timedelta(minutes=1)).timestamp()


def test_dead_letters_by_status_each_read_once(lake: Any) -> None:
    for number, status in enumerate(("pending_reprocessing", "pending_reprocessing", "parked", "discarded")):
        at = NOON - timedelta(hours=number)
        letter = DeadLetter(str(number), at, NOON, "a", NOON.date(), "raw/x.txt", "bad", "no", status=status)
        key = lake.layout.dead_letter_key(NOON.date(), letter.entry_id)
        lake.store.put(key, letter.to_json())
    lake.store.put(f"{lake.layout.dead_letter_folder(NOON.date())}odd.json", b"{}")
    store = WatchedStore(lake.store)
    source = DeadLetterSource(lambda: store, lake.layout)
    source.collect()
    source.collect()
    assert store.counts["get"] == 5
    found = scrape(source, now=NOON.timestamp())
    statuses = ("pending_reprocessing", "reprocessed", "parked", "discarded", "unreadable")
    assert [found["wrm_dlq_entries", s] for s in statuses] == [2, 0, 1, 1, 1]
    assert found["wrm_dlq_oldest_age_seconds", "pending_reprocessing"] == 3600
    assert found["wrm_dlq_oldest_age_seconds", "parked"] == 7200

    lake.store.delete(key)
    source.collect()
    assert scrape(source)["wrm_dlq_entries", "discarded"] == 0


def test_spool_breakers_and_disk(lake: Any) -> None:
    settings = lake.settings
    spool = Spool(settings.spool_dir, 1000)
    spool.add("raw", NOON, b"12345")
    spool.add("quarantine", NOON, b"123")
    breaker = connect_breakers(settings).of("feed")
    for _ in range(5):
        breaker.failed()
    sources = [
        SpoolSource(spool),
        BreakerSource(lambda: connect_breakers(settings)),
        DiskSource({"data": settings.data_dir / "not" / "there" / "yet"}),
    ]
    for source in sources:
        source.collect()
    found = scrape(*sources)
    assert [found[f"wrm_{name}",] for name in ("spooled_snapshots", "spool_bytes", "spool_max_bytes")] == [2, 8, 1000]
    assert (found["wrm_circuit_open", "feed"], found["wrm_circuit_open", "s3"]) == (1, 0)
    assert 0 < found["wrm_disk_free_bytes", "data"] < found["wrm_disk_size_bytes", "data"]
    assert 0 < found["wrm_disk_free_inodes", "data"] < found["wrm_disk_inodes", "data"]


def test_memory_is_what_the_kernel_counts(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:        4000 kB\nMemAvailable:    1000 kB\nHugePages_Total: 0\n")
    (tmp_path / "vmstat").write_text("nr_free_pages 3\noom_kill 2\n")
    source = MemorySource(tmp_path)
    assert source.families(NOW) == []
    source.collect()
    found = scrape(source)
    assert found["wrm_memory_available_bytes",] == 1000 * 1024
    assert found["wrm_memory_size_bytes",] == 4000 * 1024
    assert found["wrm_oom_kills_total",] == 2
    MemorySource().collect()  # this machine's own


def test_the_clock_is_compared_every_five_minutes_and_no_answer_is_no_value() -> None:
    answers: list[float | Exception | None] = [-7.0, TransientError("away", "feed", "head", "x"), None, 3.0]
    now = [0.0]

    def compare() -> float | None:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    source = ClockSource(compare, clock=lambda: now[0])
    seen = []
    for at in (0.0, 299.0, 300.0, 600.0, 900.0):
        now[0] = at
        source.collect()
        seen.append(scrape(source).get(("wrm_clock_ahead_seconds",)))
    assert seen == [-7.0, -7.0, None, None, 3.0]


def test_the_clock_is_compared_with_the_date_of_the_server() -> None:
    with serve(City(1)) as feed:
        client = Feed(feed.url)
        in_an_hour = datetime.now(UTC) + timedelta(hours=1)
        ahead = seconds_apart(client.outgoing, client.url, now=lambda: in_an_hour)
    assert ahead is not None
    assert 3598 < ahead < 3620


def test_the_certificate_is_the_one_that_is_served_here(tmp_path: Path) -> None:
    context = tls_context(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def answer() -> None:
            connection, _ = server.accept()
            with context.wrap_socket(connection, server_side=True):
                pass

        thread = threading.Thread(target=answer)
        thread.start()
        source = CertificateSource(f"https://wrm.example.org:{port}")
        source.collect()
        thread.join()
    ends = scrape(source)["wrm_certificate_end_timestamp_seconds",]
    assert abs(ends - time.time() - 86400) < 60
    away = CertificateSource(f"https://wrm.example.org:{port}")
    away.collect()
    assert away.families(NOW) == []


def test_a_page_without_https_has_no_certificate() -> None:
    def fetch(host: str, port: int) -> bytes:
        raise AssertionError(f"{host}:{port} was asked")

    source = CertificateSource("http://127.0.0.1:3000", fetch)
    source.collect()
    assert source.families(NOW) == []


# --- the process ----------------------------------------------------------------------------------------------------


@dataclass
class Thing:
    """A source that fails or hangs on demand."""

    name: str = "thing"
    fails: bool = False
    hold: threading.Event | None = None
    looks: int = 0

    def collect(self) -> None:
        if self.hold is not None:
            self.hold.wait(30)
        if self.fails:
            raise ConnectionError("away")
        self.looks += 1

    def families(self, now: float) -> list[Any]:
        return [single("things", "Looks that came to an end", self.looks)]


@contextmanager
def served(*watchers: Watcher) -> Iterator[str]:
    with Server(("127.0.0.1", 0), watchers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def get(url: str) -> tuple[int, str, Mapping[str, str]]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), error.headers


def test_a_source_that_is_away_is_named_and_its_last_values_served() -> None:
    good, bad = Watcher(Thing("good"), 15), Watcher(Thing("bad"), 15)
    for watcher in (good, bad):
        watcher.look()
    bad.source.fails = True  # type: ignore[attr-defined]
    bad.look()
    with served(good, bad) as url:
        status, text, headers = get(f"{url}/metrics")
    found = samples(text)
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=")
    assert (found["exporter_up", "good"], found["exporter_up", "bad"]) == (1, 0)
    assert found["exporter_last_success_timestamp_seconds", "bad"] > 0
    assert found["things",] == 1
    assert "process_resident_memory_bytes" in text


def test_a_source_that_hangs_delays_no_scrape_and_is_stale_after_a_while() -> None:
    now = NOW
    thing = Thing()
    watcher = Watcher(thing, 15, clock=lambda: now)
    watcher.look()
    thing.hold = threading.Event()
    watcher.start()
    with served(watcher) as url:
        started = time.monotonic()
        assert samples(get(f"{url}/metrics")[1])["things",] == 1
        assert time.monotonic() - started < 1
    assert watcher.is_up(NOW + 59)
    assert not watcher.is_up(NOW + 61)
    watcher.stop()
    thing.hold.set()
    watcher.join(5)


def test_a_source_is_looked_at_again_after_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    thing = Thing(fails=True)
    watcher = Watcher(thing, 0.01)
    watcher.start()
    while not watcher.error:
        time.sleep(0.01)
    thing.fails = False
    while not thing.looks:
        time.sleep(0.01)
    watcher.stop()
    watcher.join(5)
    assert watcher.is_up(time.time())
    messages = [record.message for record in caplog.records]
    assert sum("cannot be read" in message for message in messages) == 1  # once, not each time


def test_healthz_says_what_is_stale_and_fails_only_if_a_thread_ended() -> None:
    thing = Thing(fails=True)
    watcher = Watcher(thing, 0.01)
    watcher.start()
    with served(watcher) as url:
        while not watcher.error:
            time.sleep(0.01)
        status, text, _ = get(f"{url}/healthz")
        assert (status, json.loads(text)["sources"]["thing"]["error"]) == (200, "ConnectionError")
        watcher.stop()
        watcher.join(5)
        assert get(f"{url}/healthz")[0] == 503
        assert get(f"{url}/")[0] == 200
        assert get(f"{url}/nothing")[0] == 404


def test_systemd_hears_a_sign_of_life_until_a_thread_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter_module, "SIGN_OF_LIFE_S", 0.02)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    watcher = Watcher(Thing(), 0.01)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(20)
        watcher.start()
        with served(watcher):
            assert systemd.recv(64) == b"WATCHDOG=1"
            watcher.stop()
            watcher.join(5)
            systemd.settimeout(0.5)
            with suppress(TimeoutError):  # what was under way
                while systemd.recv(64):
                    pass
            with pytest.raises(TimeoutError):
                systemd.recv(64)


def test_openmetrics_on_request() -> None:
    with served(Watcher(Thing(), 15)) as url:
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        request = urllib.request.Request(f"{url}/metrics", headers=accept)
        with urllib.request.urlopen(request, timeout=5) as answer:
            assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
            assert answer.read().endswith(b"# EOF\n")


def test_a_second_exporter_on_the_same_folder_says_so(environment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with only_one(environment / "exporter"):
        with pytest.raises(AlreadyRunningError, match="Another exporter"), only_one(environment / "exporter"):
            pass
        assert main(["--port", "0"]) == 2
    assert "Another exporter uses" in capsys.readouterr().err


def test_wrong_settings_end_the_exporter_with_a_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WRM_SPOOL_MAX_BYTES", "much")
    assert main(["--port", "0"]) == 2
    assert "WRM_SPOOL_MAX_BYTES" in capsys.readouterr().err


def test_the_vocabulary_is_that_of_the_code_location() -> None:
    words = vocabulary(defs)
    assert {RAW, PROCESSED, "wrm_stations_dlq", "bike_density_map"} <= set(words.assets)
    assert {"wrm_stations_ingest_job", "reprocess_dlq", "__ASSET_JOB"} <= set(words.jobs)
    assert {"wrm_stations_raw_data_sensor", "wrm_stations_ingest_schedule"} <= set(words.instigators)


# --- backups --------------------------------------------------------------------------------------------------------


def backup_samples(source: BackupSource) -> dict[str, float]:
    source.collect()
    return {family.name: family.samples[0].value for family in source.families(NOW)}


def test_the_newest_backup_is_reported_and_looked_for_every_five_minutes(lake: Lake) -> None:
    store, clock = WatchedStore(lake.store), [0.0]
    source = BackupSource(
        lambda: store, lake.layout, data_dir=lake.settings.data_dir, expected=True, clock=lambda: clock[0]
    )
    assert backup_samples(source)["wrm_last_backup_timestamp_seconds"] == 0
    for days in (3, 1, 2):
        lake.store.put(lake.layout.backup_key(datetime.fromtimestamp(NOW, UTC) - timedelta(days=days)), b"x" * days)
    lake.store.put(f"{lake.layout.backup_prefix}zzz.txt", b"a stranger")
    clock[0] = 200.0
    assert backup_samples(source)["wrm_backups"] == 0
    clock[0] = 301.0
    newest = {
        "wrm_last_backup_timestamp_seconds": NOW - 86400,
        "wrm_last_backup_bytes": 1.0,
        "wrm_backups": 3.0,
        "wrm_last_restore_test_timestamp_seconds": 0.0,
    }
    assert backup_samples(source) == newest
    assert store.counts["list"] == 2
    note_tried(lake.settings.data_dir, "the newest", datetime.fromtimestamp(NOW - 60, UTC))
    clock[0] = 602.0
    assert backup_samples(source) == newest | {"wrm_last_restore_test_timestamp_seconds": NOW - 60}


def test_a_damaged_note_of_a_tried_restore_is_none(tmp_path: Path) -> None:
    for text in ("", "[]", '{"at": 7}', '{"at": "2026-01-01T00:00:00"}', "{}"):
        (tmp_path / "restore-tried.json").write_text(text)
        assert last_tried(tmp_path) is None


def test_where_nobody_expects_backups_their_absence_is_no_alarm(lake: Lake) -> None:
    assert (
        backup_samples(BackupSource(lambda: lake.store, lake.layout, data_dir=lake.settings.data_dir, expected=False))
        == {}
    )
    lake.store.put(lake.layout.backup_key(datetime.fromtimestamp(NOW, UTC)), b"x")
    assert "wrm_last_backup_timestamp_seconds" in backup_samples(
        BackupSource(lambda: lake.store, lake.layout, data_dir=lake.settings.data_dir, expected=False)
    )

"""The pipeline on a store of its own, with settable clock and faults, and the verifier that ends each scenario."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary
from zoneinfo import ZoneInfo

import dagster as dg
import pyarrow.parquet as pq

from wrm_pipeline.clients.breaker import Breakers
from wrm_pipeline.clients.errors import ExternalError
from wrm_pipeline.clients.feed import Feed, FetchedBody
from wrm_pipeline.clients.feed_memory import FeedMemory
from wrm_pipeline.clients.retry import STORAGE_POLICY, RetryPolicy
from wrm_pipeline.definitions import build_defs
from wrm_pipeline.domain.feeds import UCL, FeedKind
from wrm_pipeline.domain.layout import Layout
from wrm_pipeline.domain.manifest import Manifest
from wrm_pipeline.domain.parquet_parts import ParquetParts
from wrm_pipeline.flows.ingest import IngestResult, take_snapshot
from wrm_pipeline.flows.watch import plan_reconciliation_runs
from wrm_pipeline.lake.object_store import ObjectStore
from wrm_pipeline.lake.s3_object_store import S3ObjectStore
from wrm_pipeline.lake.s3_stores import s3_object_store
from wrm_pipeline.lake.spool import Spool, SpoolFullError
from wrm_pipeline.resources.feed import ClockResource
from wrm_pipeline.resources.lake import LakeResource, connect_store
from wrm_pipeline.settings import Settings, load_settings
from wrm_pipeline_tests.faults.oracle import Expected, expected_of
from wrm_pipeline_tests.faults.s3_proxy import S3Proxy, proxy_of
from wrm_pipeline_tests.fixtures.lake import WatchedStore

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

WARSAW = ZoneInfo("Europe/Warsaw")
NOON = datetime(2025, 8, 21, 12, 0, 2, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
# Equal bytes in a row are stored once, and once more after an hour.
FROZEN_FOR = timedelta(hours=1)

# As in production, but with waits of milliseconds.
FEED_POLICY = RetryPolicy(attempts=4, deadline_s=5, base_wait_s=0.01, max_wait_s=0.02, attempt_s=1)
STORE_POLICY = RetryPolicy(attempts=4, deadline_s=20, base_wait_s=0.01, max_wait_s=0.02, attempt_s=1.5)

PUBLISHED, SPOOLED, QUARANTINED = "published", "spooled", "quarantined"
DEAD_LETTERED, REPAIRED = "dead-lettered", "failed-and-repaired"

JOB = "wrm_stations_processing_job"
ANALYTICS = "wrm_analytics_job"
REPLAY = "reprocess_dlq"


class Harness:
    """One lake, one feed and one clock.

    Attributes:
        store: What the pipeline uses; its `fails` says which requests fail.
        truth: The same objects without faults, for the verifier.
        served: Every body that a fetch returned, with its time.
        failures: Messages of runs and fetches that failed.
        spooled: How many bodies were spooled.
        meant: What bodies in another spelling than the oracle's must give.
        corrections: Lines by number, by raw key, that an operator has put in the place of others.
        instance: Dagster's memory of runs; None for one that is thrown away.
    """

    def __init__(
        self, settings: Settings, *, feed_url: str = "", at: datetime = NOON, store: ObjectStore | None = None
    ) -> None:
        self.settings = settings
        self.truth = connect_store(settings)
        self.store = WatchedStore(store or self.truth)
        self.feed_url = feed_url
        self.now = at
        self.served: list[tuple[datetime, bytes]] = []
        self.failures: list[str] = []
        self.spooled = 0
        self.runs = itertools.count(1)
        self.meant: dict[bytes, Expected] = {}
        self.corrections: dict[str, dict[int, bytes]] = {}
        self.instance: dg.DagsterInstance | None = None
        self.connect: Callable[[], ObjectStore] = lambda: self.store
        self.name = str(id(self))
        _HARNESSES[self.name] = self

    @property
    def layout(self) -> Layout:
        return self.settings.layout

    @property
    def spool(self) -> Spool:
        return Spool(self.settings.spool_dir, self.settings.spool_max_bytes)

    # What happens

    def fetch(self, feed: Any = None) -> IngestResult | Exception:
        """One ingest run, and a minute passes."""
        recorder = Recorder(feed or self.feed(), self.served)
        try:
            result = take_snapshot(recorder, self.connect, self.layout, self.spool)
        except (ExternalError, OSError, SpoolFullError) as error:
            self.failures.append(f"ingest: {error}")
            return error
        finally:
            self.now += MINUTE
        self.spooled += result.spooled
        return result

    def feed(self, **changes: Any) -> Feed:
        options: dict[str, Any] = {"policy": FEED_POLICY, "now": lambda: self.now}
        return Feed(self.feed_url, **options | changes)

    def put_raw(self, at: datetime, body: bytes, *, served: bool = True) -> str:
        """Store a snapshot as if it had been fetched; `served` expects it under its own key."""
        key = self.key("raw", at)
        self.truth.put(key, body)
        if served:
            self.served.append((at, body))
        return key

    def process(self, dt: date | None = None, **config: bool) -> bool:
        """Processed and enhanced of a day, without the views; says whether the run succeeded."""
        return self.run(JOB, dt or local_day(self.now), only=_BUILDS, **config)

    def run(self, job: str, dt: date | None = None, *, only: Sequence[str] = (), **config: bool) -> bool:
        """One run of a job, or of some of its assets."""
        result = (
            definitions_of(self)
            .resolve_job_def(job)
            .execute_in_process(
                instance=self.instance or _instance(),
                partition_key=dt.isoformat() if dt else None,
                asset_selection=[dg.AssetKey(name) for name in only] or None,
                raise_on_error=False,
                run_config={
                    "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
                    "ops": {name: {"config": config} for name in _BUILDS} if config else {},
                },
            )
        )
        if not result.success:
            self.failures.append(f"{job} {dt or ''}: {_reason(result)}")
        return result.success

    def settle(self) -> list[date]:
        """Later runs, as the reconciliation asks for them, until it asks for none; gives the days it asked for."""
        asked: list[date] = []
        for _ in range(6):
            self.now += timedelta(hours=7)  # beyond any back-off
            plan = plan_reconciliation_runs(
                self.store,
                self.layout,
                None,
                area=self.settings.area,
                now=self.now,
                today=max(local_day(at) for at, _ in self.served) if self.served else local_day(self.now),
                started=frozenset(),
            )
            if not plan.runs:
                return asked
            for wanted in plan.runs:
                asked.append(wanted.dt)
                assert self.process(wanted.dt), self.failures[-1]
        raise AssertionError(f"the reconciliation asks again and again for {asked}")

    def key(self, kind: str, at: datetime) -> str:
        """The key that the data contract gives to a body: `kind` is raw or quarantine."""
        name = f"wrm_stations_{at.astimezone(UTC):%Y-%m-%d_%H-%M-%S}.txt"
        return f"{self.settings.prefix}{kind}/dt={local_day(at)}/{name}"

    def keys(self, folder: str) -> list[str]:
        return [info.key for info in self.truth.list(self.settings.prefix + folder)]

    def contents(self, folder: str) -> dict[str, bytes]:
        return dict(self.truth.get_many(self.keys(folder)))

    @property
    def outcome(self) -> str:
        """What became of the scenario's data, in one word."""
        if self.failures:
            return REPAIRED
        if self.keys("quarantine/"):
            return QUARANTINED
        if self.spooled:
            return SPOOLED
        return DEAD_LETTERED if self.keys("dlq/") else PUBLISHED

    # What must hold afterwards

    def verify(self, outcome: str, *, extra_raw: Mapping[str, bytes] | None = None) -> None:
        """Check what became of the scenario's data, and all of `check`."""
        assert self.outcome == outcome, (self.outcome, self.failures)
        self.check(extra_raw)

    def check(self, extra_raw: Mapping[str, bytes] | None = None) -> None:
        """Compare bytes and rows with what was served; `extra_raw` are raw objects that count as served."""
        raw = self._verify_bodies(extra_raw or {})
        self._verify_rows(raw)
        self._verify_no_leftovers()

    def _verify_bodies(self, extra_raw: Mapping[str, bytes]) -> dict[str, bytes]:
        """Each served body is in one place, once, byte for byte; gives what is under raw/."""
        snapshots, others = {}, {}
        last, last_at = b"", datetime.min.replace(tzinfo=UTC)
        for at, body in self.served:
            if body not in self.meant and not is_snapshot(body, at):
                others[self.key("quarantine", at)] = body
            elif body != last or at - last_at >= FROZEN_FOR:
                snapshots[self.key("raw", at)] = last = body
                last_at = at
        waiting = {self.key(body.kind, body.fetched_at): body.read() for body in self.spool.waiting()}
        assert len(waiting) == len(list(self.spool.waiting()))
        raw, quarantine = self.contents("raw/"), self.contents("quarantine/")
        assert not waiting.keys() & (raw.keys() | quarantine.keys()), "a delivered body is still in the spool"
        assert_same(raw | {k: b for k, b in waiting.items() if "/raw/" in k}, snapshots | dict(extra_raw))
        assert_same(quarantine | {k: b for k, b in waiting.items() if "/quarantine/" in k}, others)
        return raw

    def _verify_rows(self, raw: Mapping[str, bytes]) -> None:
        expected = {key: (time_of(key), self._expected_of(key, body)) for key, body in raw.items()}
        pairs = {(station, at) for at, e in expected.values() for station in e.stations}
        for layer in ("processed", "enhanced"):
            found = Counter(_pairs(self.truth, self.settings, layer))
            assert not [pair for pair, count in found.items() if count > 1], f"{layer}: rows counted twice"
            assert found.keys() == pairs, f"{layer}: {len(found.keys() ^ pairs)} rows differ"
        by_day: dict[str, list[Expected]] = {}
        for key, (_, e) in expected.items():
            by_day.setdefault(day_of(key), []).append(e)
        published = self.contents("processed/")
        assert sorted(map(day_of, published)) == sorted(by_day), "a partition is missing, or one too many"
        for key, data in published.items():
            manifest = Manifest.from_footer(ParquetParts.open(data).footer_metadata)
            assert manifest is not None
            c, day = manifest.counts, by_day[day_of(key)]
            assert c.lines_in == c.rows_out + c.dead_lettered + c.duplicate_rows + c.remark_lines
            assert (c.lines_in, c.rows_out, c.dead_lettered, c.duplicate_rows, c.remark_lines) == tuple(
                sum(column)
                for column in zip(
                    *((e.lines_in, len(e.stations), e.dead, e.duplicates, e.remarks) for e in day), strict=True
                )
            ), key
        letters = [json.loads(body) for body in self.contents("dlq/").values()]
        by_source: Counter[str] = Counter()
        for letter in letters:
            if letter["status"] == "reprocessed":
                continue
            by_source[letter["source_key"]] += letter["records_total"]
        assert {k: n for k, n in by_source.items() if n and "/raw/" in k} == {
            k: e.dead for k, (_, e) in expected.items() if e.dead
        }

    def _expected_of(self, key: str, body: bytes) -> Expected:
        return self.meant[body] if body in self.meant else expected_of(self._corrected(key, body), time_of(key))

    def _corrected(self, key: str, body: bytes) -> bytes:
        lines = body.split(b"\n")
        for number, line in self.corrections.get(key, {}).items():
            lines[number - 1] = line
        return b"\n".join(lines)

    def _verify_no_leftovers(self) -> None:
        """No half objects in the store (each was read, and its SHA-256 checked), no temporary files beside it."""
        leftovers = [
            path
            for path in self.settings.data_dir.rglob("*")
            if re.search(r"/\.tmp/(?!lock$)|\.tmp-|\.new-|/breakers/\.", str(path))
        ]
        assert leftovers == []


def assert_same(found: Mapping[str, bytes], expected: Mapping[str, bytes]) -> None:
    """Equal keys and equal bytes, with a message that does not print the bytes."""
    assert found.keys() == expected.keys(), (
        f"too many {found.keys() - expected.keys()}, none of {expected.keys() - found.keys()}"
    )
    assert {k: hashlib.sha256(b).digest() for k, b in found.items()} == {
        k: hashlib.sha256(b).digest() for k, b in expected.items()
    }


def is_snapshot(body: bytes, at: datetime) -> bool:
    """Whether a body belongs under raw/: it gives a row, and does not end in mid-row."""
    if not expected_of(body, at).stations:
        return False
    whole = body[: body.rindex(b"\n") + 1]
    return body.endswith(b"\n") or expected_of(whole, at).dead == expected_of(body, at).dead


def local_day(at: datetime) -> date:
    return at.astimezone(WARSAW).date()


def time_of(key: str) -> datetime:
    return datetime.strptime(key[-23:], "%Y-%m-%d_%H-%M-%S.txt").replace(tzinfo=UTC)


def day_of(key: str) -> str:
    return key.rpartition("/dt=")[2][:10]


def _pairs(store: ObjectStore, settings: Settings, layer: str) -> Iterator[tuple[str, datetime]]:
    """(station, snapshot) of each row that a reader of `**/*.parquet` meets."""
    prefix = f"{settings.prefix}{layer}/"
    bodies = [store.get(info.key) for info in store.list(prefix) if info.key.endswith(".parquet")]
    if settings.bucket_name is None:
        files = list((settings.lake_dir / prefix).rglob("*.parquet"))
        assert len(files) == len(bodies)
    for body in bodies:
        table = pq.read_table(io.BytesIO(body), columns=["station_id", "file_timestamp"])
        yield from zip(table["station_id"].to_pylist(), table["file_timestamp"].to_pylist(), strict=True)


@dataclass
class Recorder:
    """A feed that remembers what its successful fetches gave."""

    feed: Feed
    served: list[tuple[datetime, bytes]]

    @property
    def kind(self) -> FeedKind:
        return self.feed.kind

    @property
    def memory(self) -> FeedMemory | None:
        return self.feed.memory

    def fetch(self, *, correlation_id: str = "") -> FetchedBody:
        fetched = self.feed.fetch(correlation_id=correlation_id)
        self.served.append((fetched.fetched_at, fetched.body))
        return fetched


@dataclass
class Says:
    """A feed without a network, with prepared answers."""

    now: Callable[[], datetime]
    bodies: list[bytes] = field(default_factory=list)
    kind: FeedKind = UCL
    memory: FeedMemory | None = None

    def fetch(self, *, correlation_id: str = "") -> FetchedBody:
        return FetchedBody(self.bodies.pop(0), self.now(), 200, "text/csv")


# --- wiring into Dagster ---

_HARNESSES: WeakValueDictionary[str, Harness] = WeakValueDictionary()
_BUILDS = ("wrm_stations_processed_data_all", "wrm_stations_enhanced_data_all")


class WorldLake(LakeResource, extra="forbid"):
    """The lake of a world, in this process."""

    world: str

    def connect(self, policy: RetryPolicy = STORAGE_POLICY) -> ObjectStore:
        return _HARNESSES[self.world].connect()

    @property
    def store(self) -> ObjectStore:
        return self.connect()  # each time: the world may change it


def overrides_of(world: Harness, now: datetime) -> dict[str, Any]:
    """The lake and the clock of a world."""
    lake = WorldLake.of(world.settings, world=world.name)
    return {"lake": lake, "clock": ClockResource(fixed_at=now.isoformat())}


@cache
def _instance() -> dg.DagsterInstance:
    return dg.DagsterInstance.ephemeral()


def definitions_of(world: Harness) -> dg.Definitions:
    # Each run has a moment of its own, as in real life, while the scenario's clock stands still.
    now = world.now + timedelta(milliseconds=next(world.runs))
    return build_defs(world.settings, overrides_of(world, now))


def _reason(result: dg.ExecuteInProcessResult) -> str:
    for event in result.filter_events(lambda e: e.event_type_value == "STEP_FAILURE"):
        error, messages = event.step_failure_data.error, []
        while error is not None:
            messages.append(error.message.strip())
            error = error.cause
        return " <- ".join(messages)
    return "no step failed"


@dataclass(frozen=True)
class S3Link:
    """A bucket, the proxy before it, and a client of each; clients are dear (0.2 s, 10 MB), so tests share them."""

    bucket: str
    proxy: S3Proxy
    url: str
    through_proxy: S3Client
    direct: S3Client


@contextmanager
def s3_link(server: Any, bucket: str) -> Iterator[S3Link]:
    """Stand between a server's bucket and who asks it."""

    def client(endpoint_url: str) -> S3Client:
        store = s3_object_store(
            bucket=bucket,
            endpoint_url=endpoint_url,
            access_key_id=server.access_key_id,
            secret_access_key=server.secret_access_key,
            connect_timeout_s=0.5,
            read_timeout_s=0.7 if endpoint_url != server.endpoint_url else 15,
        )
        return store._connected()

    with proxy_of(server.endpoint_url) as (proxy, url):
        yield S3Link(bucket, proxy, url, client(url), client(server.endpoint_url))


def s3_world(monkeypatch: Any, server: Any, link: S3Link) -> Harness:
    """A world whose store is a bucket behind a proxy; the verifier goes to the server itself."""
    for name, value in server.variables(link.bucket).items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    world = Harness(settings)
    world.truth = S3ObjectStore(link.bucket, lambda: link.direct)
    world.store.inner = S3ObjectStore(
        link.bucket,
        lambda: link.through_proxy,
        breaker=Breakers(settings.breaker_dir, now=lambda: world.now).of("s3"),
        policy=STORE_POLICY,
    )
    return world


@contextmanager
def failing(world: Harness, fails: Callable[[str, str], bool]) -> Iterator[None]:
    """While the block runs, requests that `fails` says are answered with 503."""
    world.store.fails = fails
    try:
        yield
    finally:
        world.store.fails = lambda _operation, _key: False


def lake_path(world: Harness, key: str) -> Path:
    return world.settings.lake_dir / key

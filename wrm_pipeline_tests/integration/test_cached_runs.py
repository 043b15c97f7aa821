"""Runs on a real S3 server with the cache in every state: what it saves, and that nothing else depends on it."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest
import redis

from wrm_pipeline.clients.redis_client import connect_redis
from wrm_pipeline.domain.layout import local_date
from wrm_pipeline.flows.delivery import DUPLICATE_LOOK_BACK
from wrm_pipeline.resources.feed import ClockResource
from wrm_pipeline.settings import load_settings
from wrm_pipeline.simulator.city import City
from wrm_pipeline.simulator.server import SimulatedFeed, serve
from wrm_pipeline_tests.cache_contract import PICKLE
from wrm_pipeline_tests.fixtures.lake import DAY, ENHANCED, NOON, PROCESSED, Lake, materialize, run_job, snapshot
from wrm_pipeline_tests.fixtures.snapshots import line
from wrm_pipeline_tests.integration.conftest import SeaweedFS, free_ports, wait_until
from wrm_pipeline_tests.integration.redis_server import Silent, redis_server

pytestmark = pytest.mark.integration

SNAPSHOTS, SPOILED = 12, 6
CLOCK = {"clock": ClockResource(fixed_at=(NOON + timedelta(hours=2)).isoformat())}
VIEWS, SUMMARY, DLQ = "create_duckdb_enhanced_views", "query_station_summary", "wrm_stations_dlq"


@dataclass
class Asked:
    """What runs said that they asked of S3 and of the cache."""

    s3: Counter[str]
    cache: Counter[str]

    @classmethod
    def of(cls, result: dg.ExecuteInProcessResult) -> Asked:
        asked = cls(Counter(), Counter())
        for event in result.get_asset_materialization_events():
            metadata = event.step_materialization_data.materialization.metadata
            for name in ("external_requests", "write_requests"):
                for words, count in metadata[name].value.items() if name in metadata else ():
                    target, operation, _ = words.split()
                    asked.s3.update({operation: count} if target == "s3" else {})
            if "cache_requests" in metadata:
                asked.cache.update(metadata["cache_requests"].value)
        return asked


class Place:
    """A bucket with nothing but the same day of raw snapshots, some of them with rows that cannot be typed."""

    def __init__(self, server: SeaweedFS, bucket: str, monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> None:
        for name, value in {
            **server.variables(bucket),
            "WRM_DATA_DIR": str(data_dir),
        }.items():
            monkeypatch.setenv(name, value)
        self.lake = Lake(load_settings())
        for key in self.lake.keys():  # noqa: SIM118 - a lake is not a dict
            self.lake.store.delete(key)
        for n in range(SNAPSHOTS):
            at = NOON + timedelta(minutes=n)
            spoiled = [line(lat="north")] if n < SPOILED else []
            self.lake.put_raw(at, snapshot(at, 5, *spoiled, bikes=n))

    def fetch(self) -> tuple[Asked, bool]:
        result = run_job("wrm_stations_ingest_job")
        (event,) = result.asset_materializations_for_node("wrm_stations_raw_data")
        return Asked.of(result), bool(event.metadata["duplicate"].value)

    def process(self, *, full_rebuild: bool = False) -> Asked:
        config = {PROCESSED: {"full_rebuild": full_rebuild}}
        return Asked.of(materialize(PROCESSED, ENHANCED, dt=DAY, config=config, overrides=CLOCK))

    def summarize(self) -> Asked:
        config = {SUMMARY: {"date": DAY.isoformat()}}
        return Asked.of(materialize(VIEWS, SUMMARY, DLQ, config=config, overrides=CLOCK))

    def result(self) -> dict[str, Any]:
        """All that a person gets out of it, without names of buckets."""
        lake = self.lake
        with duckdb.connect(str(lake.settings.database_path), read_only=True) as connection:
            summary = connection.execute("FROM wrm_analytics.query_station_summary").fetchall()
        return {
            "processed": lake.rows("processed"),
            "enhanced": lake.rows("enhanced"),
            "letters": {key: lake.store.get(key) for key in lake.letters()},
            "summary": summary,
            "raw": len(lake.keys("raw/")),
            "keys": sorted(set(lake.keys()) - set(lake.keys("raw/"))),
        }


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is not what is tested."""
    monkeypatch.setattr("wrm_pipeline.clients.cache.MAX_SLOW_S", 600)
    monkeypatch.setattr("wrm_pipeline.clients.redis_client.TIMEOUT_S", 30)


@pytest.fixture
def feed(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedFeed]:
    with serve(City(7)) as server:
        at = datetime.now(UTC) - timedelta(minutes=5)
        server.clock = lambda: at
        monkeypatch.setenv("WRM_STATIONS_DATA_URL", server.url)
        yield server


@pytest.fixture(scope="module")
def bucket(seaweedfs: SeaweedFS) -> str:
    return seaweedfs.create_bucket()


@pytest.fixture
def new_place(
    seaweedfs: SeaweedFS, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Place]:
    def new(**environment: str) -> Place:
        for name in ("REDIS_URL", "WRM_CACHE_MAX_BYTES"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return Place(seaweedfs, bucket, monkeypatch, tmp_path_factory.mktemp("data"))

    return new


def days_looked_at() -> int:
    """The days in which a fetch looks for the newest snapshot: two for a while after midnight."""
    now = datetime.now(UTC)
    return len({local_date(now - DUPLICATE_LOOK_BACK), local_date(now)})


def test_what_a_second_run_on_the_same_input_asks_of_s3(new_place, feed):
    """The figures of docs/operations.md; with other numbers of dead letters and snapshots they differ by these."""
    found = {}
    for name, environment in {"without": {"WRM_CACHE_MAX_BYTES": "0"}, "with": {}}.items():
        place = new_place(**environment)
        place.fetch()
        place.process()
        place.summarize()
        found[name] = {
            "a fetch": place.fetch()[0],
            "processing, nothing new": place.process(),
            "a full rebuild": place.process(full_rebuild=True),
            "tables": place.summarize(),
        }
    for what, before in found["without"].items():
        after = found["with"][what]
        print(f"{what}: {before.s3.total()} -> {after.s3.total()}  {dict(before.s3)} -> {dict(after.s3)}")  # noqa: T201
        assert not before.cache
        assert after.cache["hit"]
        assert after.cache["error"] == 0

    def saved(what: str) -> Counter[str]:
        return found["without"][what].s3 - found["with"][what].s3

    # The feed stands still: listing, and the hash of the newest snapshot.
    assert found["with"]["a fetch"].s3 == {"list": days_looked_at()}
    assert saved("a fetch") == {"stat": 1}
    assert saved("processing, nothing new") == {"get": SPOILED}
    assert saved("a full rebuild") == {"get": SPOILED + SNAPSHOTS}
    assert saved("tables")["get"] == SPOILED


def test_a_stored_snapshot_costs_two_requests_and_is_not_fetched_to_be_processed(new_place, feed):
    place = new_place()
    place.fetch()
    second = int(time.time())
    wait_until(lambda: int(time.time()) > second, timeout_s=10, what="two fetches of one second want one name")
    at = datetime.now(UTC)
    feed.clock = lambda: at
    asked, duplicate = place.fetch()
    assert not duplicate
    assert asked.s3 == {"list": days_looked_at(), "put_if_absent": 1}
    today = local_date(datetime.now(UTC))
    processed = Asked.of(materialize(PROCESSED, dt=today))
    assert processed.cache["hit"] == len(place.lake.keys("raw/")) - SNAPSHOTS
    assert processed.s3["get"] == 2, "neither processed nor enhanced of the day is there"


def run_all(place: Place, *, between: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """All of it twice, the second time with what the first has left in the cache."""
    assert place.fetch()[1] is False
    place.process()
    place.summarize()
    between()
    assert place.fetch()[1] is True
    place.process(full_rebuild=True)
    place.summarize()
    return place.result()


def poison(url: str, executed: Path) -> None:
    """Put something else in place of each value, its kind of end kept."""
    dice = random.Random(7)
    with redis.Redis.from_url(url) as client:
        keys = sorted(client.scan_iter())
        strings = [key for key in keys if client.type(key) == b"string"]
        values = {key: client.get(key) for key in strings}
        assert any(b":object:" in key for key in keys)
        assert any(b":station_summary:" in key for key in keys)
        for key in strings:
            kind = dice.choice(["pickle", "garbage", "cut", "other", "type"])
            ends = max(client.pttl(key), 0)
            client.delete(key)
            if kind == "type":
                client.lpush(key, b"a list")
            else:
                value = {
                    "pickle": PICKLE % str(executed).encode(),
                    "garbage": dice.randbytes(200),
                    "cut": values[key][: len(values[key]) // 2],
                    "other": values[dice.choice(strings)],
                }[kind]
                client.set(key, value)
            if ends:
                client.pexpire(key, ends)


@pytest.mark.timeout(900)  # three dozen runs, one after the other
def test_the_same_result_whatever_state_redis_is_in(new_place, feed, tmp_path):
    expected = run_all(new_place(WRM_CACHE_MAX_BYTES="0"))
    assert len(expected["processed"]) == SNAPSHOTS * 6
    assert len(expected["letters"]) == SPOILED
    with ExitStack() as stack:

        def server(name: str, *options: str) -> str:
            folder = tmp_path / name
            folder.mkdir()
            return stack.enter_context(redis_server(folder, *options))

        (nobody,) = free_ports(1)
        assert run_all(new_place(REDIS_URL=f"redis://127.0.0.1:{nobody}/0")) == expected
        full = server("full", "--maxmemory", "1mb", "--maxmemory-policy", "noeviction")
        assert run_all(new_place(REDIS_URL=full)) == expected

        read_only = server("read-only")

        def make_read_only() -> None:
            with redis.Redis.from_url(read_only) as client:
                client.replicaof("127.0.0.1", nobody)

        assert run_all(new_place(REDIS_URL=read_only), between=make_read_only) == expected
        poisoned, executed = server("poisoned"), tmp_path / "executed"
        place = new_place(REDIS_URL=poisoned)
        results = []

        def look_and_poison() -> None:
            results.append(place.result())
            poison(poisoned, executed)

        results.append(run_all(place, between=look_and_poison))
        assert results == [expected, expected]
        assert not executed.exists()


def test_a_black_hole_costs_each_run_one_time_out(new_place, feed, monkeypatch):
    monkeypatch.setattr("wrm_pipeline.clients.redis_client.TIMEOUT_S", 0.3)
    expected = run_all(new_place(WRM_CACHE_MAX_BYTES="0"))
    with Silent() as hole:
        place = new_place(REDIS_URL=hole.url)
        for run in (place.fetch, place.process, place.summarize):
            connect_redis.cache_clear()  # a run is a process of its own
            before = len(hole.connections)
            run()
            assert len(hole.connections) - before == 1, "cache and breakers together ask once, for 0.3 s"
        assert place.result() == expected

"""GBFS over a day: files that have not changed are not repeated, and each day can be read without any other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from urllib.parse import urlsplit

import pytest

from wrm_pipeline.clients.feed import Feed
from wrm_pipeline.clients.feed_memory import FeedMemory, NotDueError
from wrm_pipeline.clients.retry import RetryPolicy
from wrm_pipeline.domain.feeds import KINDS, gbfs_zip
from wrm_pipeline.domain.layout import local_date
from wrm_pipeline.domain.manifest import Manifest
from wrm_pipeline.domain.parquet_parts import ParquetParts
from wrm_pipeline.flows.compaction import compact_day
from wrm_pipeline.flows.drift import look_for_drift
from wrm_pipeline.flows.future_raw import move_future
from wrm_pipeline.flows.ingest import IngestResult, take_snapshot
from wrm_pipeline.flows.trace import trace
from wrm_pipeline.lake.spool import Spool
from wrm_pipeline.settings import load_settings
from wrm_pipeline_tests.fixtures.fault_server import Answer, FaultServer, Received
from wrm_pipeline_tests.fixtures.gbfs_files import served, station_files
from wrm_pipeline_tests.fixtures.lake import DAY, NOON, Lake, WatchedStore, build_day

MINUTE = timedelta(minutes=1)
ONE_TRY = RetryPolicy(attempts=1, deadline_s=10, base_wait_s=0, max_wait_s=0, attempt_s=10)
STATIC = {"gbfs", "station_information", "vehicle_types"}
MOVING = {"station_status", "free_bike_status"}
KEY = "canary-a1b2c3d4"  # pragma: allowlist secret


@pytest.fixture(scope="module")
def running() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


class System:
    """A small system over HTTP, with ETags, and the lake that archives it."""

    def __init__(self, lake: Lake, server: FaultServer) -> None:
        self.lake = lake
        self.server = server.play(then=self.answer)
        self.files = station_files("2.3")
        self.conditional = True
        self.bikes = 0
        self.asked: list[str] = []
        self.spool = Spool(lake.settings.spool_dir, 10_000_000)
        self.memory = FeedMemory(lake.settings.feed_dir, "gbfs")
        url = f"{server.url}/gbfs.json?key={KEY}"
        self.feed = Feed(url, policy=ONE_TRY, kind=KINDS["gbfs"], memory=self.memory)

    def answer(self, request: Received) -> Answer:
        path = urlsplit(request.path).path
        self.asked.append(path[1:].removesuffix(".json"))
        body = served("2.3", self.files).get(path)
        if body is None:
            return Answer(404)
        body = body.replace(b"https://gbfs.example.org", self.server.url.encode())
        tag = f'"{hash(body)}"'
        if self.conditional and request.headers.get("if-none-match") == tag:
            return Answer(304, b"", {"ETag": tag})
        return Answer(200, body, {"ETag": tag} if self.conditional else {})

    def ride(self) -> None:
        self.bikes += 1
        for name in MOVING:
            self.files[name]["last_updated"] += 60
        self.files["station_status"]["data"]["stations"][0]["num_bikes_available"] = self.bikes

    def take(self, minute: float = 0, *, store=None, at: datetime = NOON) -> IngestResult:
        feed = replace(self.feed, now=lambda: at + minute * MINUTE)
        self.asked.clear()
        return take_snapshot(feed, lambda: store or self.lake.store, self.lake.layout, self.spool)

    def day(self, minutes: int) -> list[str]:
        """Keys of so many minutes, in each of which a bike moves."""
        keys = []
        for minute in range(minutes):
            self.ride()
            keys.append(self.take(minute).key)
        return keys

    def inside(self, key: str) -> set[str]:
        return set(gbfs_zip.files_of(self.lake.store.get(key))) - {"fetch"}

    def about(self, key: str) -> dict:
        return json.loads(gbfs_zip.files_of(self.lake.store.get(key))["fetch"])

    @property
    def published(self) -> list[tuple[str, str, int]]:
        rows = self.lake.rows("enhanced")
        return [(row["file_timestamp"].strftime("%H:%M"), row["station_id"], row["bikes"]) for row in rows]


def expected(minutes: range) -> list[tuple[str, str, int]]:
    return [
        row
        for minute in minutes
        for row in (
            (f"12:{minute:02}", "2", 0),
            (f"12:{minute:02}", "a-1", minute + 1),
            (f"12:{minute:02}", "fbx7", 1),
        )
    ]


@pytest.fixture
def system(lake: Lake, running: FaultServer, monkeypatch) -> System:
    monkeypatch.setenv("WRM_FEEDS", "gbfs")
    return System(Lake(load_settings()), running)


@pytest.mark.parametrize("conditional", [True, False])
def test_what_has_not_changed_is_in_the_first_zip_of_the_day(system: System, conditional):
    system.conditional = conditional
    first, second, third = system.day(3)
    assert system.inside(first) == STATIC | MOVING
    assert system.inside(second) == system.inside(third) == MOVING
    about = system.about(third)
    assert set(about) == {f"{name}.json" for name in STATIC | MOVING}
    assert {about[f"{name}.json"]["in"] for name in STATIC} == {PurePosixPath(first).name}
    assert not [name for name in MOVING if "in" in about[f"{name}.json"]]
    assert about["gbfs.json"]["status"] == (304 if conditional else 200)
    build_day()
    assert system.published == expected(range(3))


def test_a_file_that_changes_during_the_day_is_in_the_zip_of_that_minute(system: System):
    (first,) = system.day(1)
    system.files["station_information"]["data"]["stations"][0]["name"] = "Rynek II"
    keys = []
    for minute in (20, 40):
        system.ride()
        keys.append(system.take(minute).key)
    second, third = keys
    assert "station_information" in system.inside(second)
    homes = {name: about.get("in") for name, about in system.about(third).items()}
    assert homes["station_information.json"] == PurePosixPath(second).name
    assert homes["vehicle_types.json"] == PurePosixPath(first).name
    build_day()
    names = {(r["file_timestamp"].minute, r["name"]) for r in system.lake.rows("enhanced") if r["station_id"] == "a-1"}
    assert names == {(0, "Rynek"), (20, "Rynek II"), (40, "Rynek II")}


def test_the_first_zip_of_each_day_is_whole(system: System):
    midnight = datetime(2025, 8, 21, 22, tzinfo=UTC)
    keys = []
    for minute in (-2, -1, 0, 1):
        system.ride()
        keys.append(system.take(minute, at=midnight).key)
    assert [len(system.inside(key)) for key in keys] == [5, 2, 5, 2]
    assert len({key.split("/dt=")[1][:10] for key in keys}) == 2


def test_a_frozen_system_is_a_duplicate_and_is_stored_again_after_an_hour(system: System):
    results = [system.take(minute) for minute in (0, 1, 59, 60, 61)]
    assert [result.duplicate for result in results] == [False, True, True, False, True]
    assert len(system.lake.keys("raw/")) == 2
    system.conditional = False
    assert system.take(62).duplicate


def test_what_seldom_changes_is_not_asked_for_before_its_time(system: System):
    system.files["station_information"]["ttl"] = 300
    system.files["vehicle_types"]["ttl"] = 86400
    asked: list[list[str]] = []
    for minute in (0, 1, 5, 16):
        system.ride()
        system.take(minute)
        asked.append(sorted(STATIC & set(system.asked)))
    everything = sorted(STATIC)
    assert asked == [everything, ["gbfs"], ["gbfs", "station_information"], everything]


def test_a_system_that_changes_every_five_minutes_is_asked_every_five(system: System):
    for name in MOVING:
        system.files[name]["ttl"] = 300
    asked = []
    for minute in range(11):
        system.ride()
        if minute % 5:
            with pytest.raises(NotDueError, match="`ttl`"):
                system.take(minute)
        else:
            system.take(minute)
        asked += [minute] if system.asked else []
    assert asked == [0, 5, 10]


def test_while_the_first_zip_is_missing_the_others_wait_for_it_and_nothing_else_does(system: System):
    first, *others = system.day(3)
    whole = system.lake.store.get(first)
    system.lake.store.delete(first)
    system.memory.update(homes={})
    system.ride()
    system.take(3)
    result = build_day()
    assert result.success
    assert {time for time, _, _ in system.published} == {"12:03"}
    parts = ParquetParts.open(system.lake.store.get(system.lake.partition_key("processed")))
    unreadable = Manifest.from_footer(parts.footer_metadata).unreadable
    assert set(unreadable) == set(others)
    assert f"it needs files of {PurePosixPath(first).name} of the same day" in unreadable[others[0]]
    system.lake.store.put(first, whole)
    build_day()
    assert system.published == expected(range(4))


def test_a_zip_that_holds_another_file_than_it_did_is_not_used(system: System):
    first, _ = system.day(2)
    other = station_files("2.3")
    other["station_information"]["data"]["stations"][0]["name"] = "Elsewhere"
    files, about = gbfs_zip.split(system.lake.store.get(first))
    files["station_information"] = json.dumps(other["station_information"]).encode()
    system.lake.store.put(first, gbfs_zip.zipped(files, about))
    build_day()
    assert {r["s3_source_key"] for r in system.lake.rows("enhanced")} == {first}


@pytest.mark.parametrize("name", ["../secret.json", "wrm_stations_2025-08-21_12-00-00.txt", "", "operator.json"])
def test_a_description_cannot_lead_to_objects_that_are_no_zips_of_the_day(system: System, name):
    (first,) = system.day(1)
    files, about = gbfs_zip.split(system.lake.store.get(first))
    del files["station_information"]
    about["station_information"]["in"] = name
    key = first.replace("12-00-00", "12-01-00")
    system.lake.store.put(key, gbfs_zip.zipped(files, about))
    store = WatchedStore(system.lake.store)
    build_day()
    assert {r["s3_source_key"] for r in system.lake.rows("enhanced")} == {first}
    look_for_drift(store, system.lake.layout, now=NOON + 2 * MINUTE)
    assert {key for operation, key in store.calls if operation == "get"} <= {first, key}


def test_what_waits_in_the_spool_is_whole_and_is_not_repeated_when_it_is_stored(system: System):
    away = WatchedStore(system.lake.store, fails=lambda _operation, _key: True)
    for minute in range(2):
        system.ride()
        assert system.take(minute, store=away).spooled
    assert all(len(gbfs_zip.files_of(body.read())) == 6 for body in system.spool.waiting())
    system.ride()
    system.take(2)
    assert [len(system.inside(key)) for key in system.lake.keys("raw/")] == [5, 2, 2]
    build_day()
    assert system.published == expected(range(3))


def test_a_frozen_system_does_not_fill_the_spool(system: System):
    away = WatchedStore(system.lake.store, fails=lambda _operation, _key: True)
    assert [system.take(minute, store=away).duplicate for minute in range(3)] == [False, True, True]
    assert len(list(system.spool.waiting())) == 1


@pytest.mark.parametrize("remembered", [True, False])
def test_one_that_was_stored_before_its_process_died_is_not_stored_twice(system: System, remembered):
    system.day(1)
    system.ride()
    before = system.memory.read()
    system.spool.add("raw", NOON + MINUTE, system_body(system, 1), feed=KINDS["gbfs"])
    (waiting,) = list(system.spool.waiting())
    body = waiting.read()
    system.ride()
    system.take(2)
    stored = system.lake.keys("raw/")
    assert len(stored) == 3
    if not remembered:
        system.memory.update(homes=before.homes, content=before.content, kept_at=before.kept_at)
    system.spool.add("raw", NOON + MINUTE, body, feed=KINDS["gbfs"])
    system.ride()
    system.take(3)
    assert len(system.lake.keys("raw/")) == 4


def system_body(system: System, minute: int) -> bytes:
    feed = replace(system.feed, now=lambda: NOON + minute * MINUTE)
    return feed.fetch().body


def test_without_its_memory_the_next_zip_is_whole(system: System):
    system.day(2)
    for path in system.lake.settings.feed_dir.iterdir():
        path.write_bytes(b"damaged")
    system.ride()
    key = system.take(2).key
    assert len(system.inside(key)) == 5
    build_day()
    assert system.published == expected(range(3))


def test_packed_rebuilt_and_traced_it_gives_the_same(system: System):
    system.day(3)
    build_day()
    rows = system.published
    lake = system.lake
    found = trace(lake.store, lake.layout, "a-1", NOON + 2 * MINUTE)
    assert found.warnings == ()
    assert json.loads(found.line.text)["station_information"]["capacity"] == 10
    area = lake.settings.area
    later = NOON + timedelta(days=3)
    packed = compact_day(lake.store, lake.layout, DAY, area=area, today=local_date(later), dry_run=False)
    assert packed.refused == ""
    assert len(lake.keys("raw/")) == 2
    for layer in ("processed", "enhanced"):
        lake.store.delete(lake.partition_key(layer))
    build_day()
    assert system.published == rows == expected(range(3))
    again = trace(lake.store, lake.layout, "a-1", NOON + 2 * MINUTE)
    assert (again.warnings, again.line.text) == ((), found.line.text)


def test_moved_out_of_the_future_each_is_whole(system: System):
    system.day(2)
    moves = list(move_future(system.lake.store, system.lake.layout, NOON - timedelta(days=1), write=True))
    assert len(moves) == 2
    done = [move.target for move in moves if move.done]
    assert all(len(system.inside(key)) == 5 for key in done)


def test_no_key_is_in_a_zip_the_memory_or_the_spool(system: System):
    away = WatchedStore(system.lake.store, fails=lambda _operation, _key: True)
    keys = system.day(2)
    system.ride()
    system.take(2, store=away)
    contents = [content for key in keys for content in gbfs_zip.files_of(system.lake.store.get(key)).values()]
    contents += [content for body in system.spool.waiting() for content in gbfs_zip.files_of(body.read()).values()]
    contents += [path.read_bytes() for path in system.lake.settings.feed_dir.iterdir()]
    assert len(contents) > 10
    assert not [content for content in contents if KEY.encode() in content]

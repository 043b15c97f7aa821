"""Other people's files in the lake, raw objects that go, and files of ours that are damaged."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wrm_pipeline.clients.errors import ObjectArchivedError, StorageDeniedError, UnexpectedAnswerError
from wrm_pipeline.domain.lake_findings import DayFindings
from wrm_pipeline.domain.layout import Layout
from wrm_pipeline.domain.rules import DEFAULT_SERVICE_AREA
from wrm_pipeline.flows.lake_files import look_at_files
from wrm_pipeline.flows.rebuild import days_of, rebuild_partition
from wrm_pipeline.flows.watch import plan_reconciliation_runs
from wrm_pipeline.lake.findings import LakeFindings
from wrm_pipeline.lake.local_object_store import LocalObjectStore
from wrm_pipeline.lake.published_partitions import PublishedPartitions
from wrm_pipeline_tests.faults.harness import DEAD_LETTERED, MINUTE, NOON, PUBLISHED, REPAIRED, Harness, local_day
from wrm_pipeline_tests.fixtures.lake import Lake
from wrm_pipeline_tests.fixtures.older_lake import OlderLake, published_rows

DAY = local_day(NOON)


def fill(world: Harness, city, snapshots: int = 6) -> list[str]:
    keys = []
    for n in range(snapshots):
        at = NOON + n * MINUTE
        keys.append(world.put_raw(at, city.snapshot(at)))
    assert world.process(DAY), world.failures
    return keys


def findings(world: Harness, looks: int = 3) -> dict[str, int]:
    """What the reconciliation says is wrong after some looks, by kind; its runs are made."""
    cursor = None
    for _ in range(looks):
        world.now += timedelta(hours=7)
        plan = plan_reconciliation_runs(
            world.store,
            world.layout,
            cursor,
            area=world.settings.area,
            now=world.now,
            today=DAY,
            started=frozenset(),
        )
        cursor = plan.cursor
        for run in plan.runs:
            world.process(run.dt)
        LakeFindings(world.truth, world.layout).update(plan.compared, plan.days)
    found = LakeFindings(world.truth, world.layout).read()
    return {kind: one.count for day in found.values() for kind, one in day.found.items()}


def parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


# --- a day does not drain ---


@pytest.mark.parametrize("build", ["incremental", "full", "nothing"])
@pytest.mark.parametrize("gone", ["one by one", "all at once"])
def test_a_day_does_not_drain(world, city, report, build, gone):
    report(f"all raw objects of a day deleted {gone}, {build} builds", PUBLISHED)
    keys = fill(world, city)
    before = {key: pq.read_table(io.BytesIO(body)) for key, body in world.contents("processed/").items()}
    bodies = {key: world.truth.get(key) for key in keys}
    for number, key in enumerate(keys, start=1):
        world.truth.delete(key)
        if build != "nothing" and (gone == "one by one" or number == len(keys)):
            assert world.process(DAY, full_rebuild=build == "full"), world.failures
    assert {key: pq.read_table(io.BytesIO(body)) for key, body in world.contents("processed/").items()} == before
    assert findings(world) == {"vanished": len(keys)}
    for key, body in bodies.items():
        world.truth.put(key, body)
    assert findings(world) == {}
    world.verify(PUBLISHED)


@pytest.mark.parametrize("content", [b"", b"<html>busy</html>", b"half"], ids=["empty", "html", "cut off"])
def test_a_raw_object_that_is_rewritten_with_less_waits_for_consent(world, city, report, content):
    report(f"a raw object rewritten: {content!r}", PUBLISHED)
    keys = fill(world, city)
    body = world.truth.get(keys[2])
    world.truth.put(keys[2], body[: len(body) // 2] if content == b"half" else content)
    assert world.process(DAY), world.failures
    assert findings(world) == {"refused": 1}
    world.truth.put(keys[2], body)
    assert findings(world) == {}
    for letter in world.keys("dlq/"):
        world.truth.delete(letter)
    world.verify(PUBLISHED)


ERRORS = {
    "403 on one key": StorageDeniedError("HTTP 403 AccessDenied", "s3", "get", "key", "Check its rights", 403),
    "archive storage class": ObjectArchivedError("HTTP 403 InvalidObjectState", "s3", "get", "key", "Restore it", 403),
    "damaged": UnexpectedAnswerError("the content does not match its stored SHA-256", "s3", "get", "key"),
}


@pytest.mark.parametrize("known", [True, False], ids=["published before", "new"])
@pytest.mark.parametrize("error", ERRORS)
def test_a_raw_object_that_cannot_be_read_costs_itself(world, city, report, monkeypatch, error, known):
    report(f"a raw object, {'published' if known else 'new'}: {error}", PUBLISHED)
    keys = fill(world, city, 4)
    if known:
        world.truth.put(keys[1], world.truth.get(keys[1]))
        unreadable = keys[1]
    else:
        at = NOON + 10 * MINUTE
        unreadable = world.put_raw(at, city.snapshot(at))
    later = NOON + 11 * MINUTE
    world.put_raw(later, city.snapshot(later))
    get = type(world.truth).get

    def refused(self, key: str) -> bytes:
        if key == unreadable:
            raise ERRORS[error]
        return get(self, key)

    with monkeypatch.context() as patch:
        patch.setattr(type(world.truth), "get", refused)
        assert world.process(DAY), world.failures
        assert world.process(DAY), world.failures
        assert findings(world) == {"unreadable": 1}
        rows = published_rows(Lake(world.settings), "enhanced")
        assert len({at for _, at in rows}) == 5
    world.settle()
    assert findings(world) == {}
    world.verify(PUBLISHED)


def test_a_store_that_denies_every_raw_object_fails_the_run(world, city, report, monkeypatch):
    report("403 on each raw object", REPAIRED)
    fill(world, city, 3)
    at = NOON + 10 * MINUTE
    world.put_raw(at, city.snapshot(at))
    get = type(world.truth).get

    def refused(self, key: str) -> bytes:
        if "/raw/" in key:
            raise ERRORS["403 on one key"]
        return get(self, key)

    with monkeypatch.context() as patch:
        patch.setattr(type(world.truth), "get", refused)
        assert not world.process(DAY)
    world.settle()
    world.verify(REPAIRED)


# --- what others leave in the lake ---


NOISE = {
    "folder marker": "raw/dt=2025-08-21/",
    "_SUCCESS": "raw/dt=2025-08-21/_SUCCESS",
    "marker of a folder alone": "raw/dt=2025-08-20/_marker",
    "hadoop's marker": "raw/dt=2025-08-20_$folder$",
    "another ending": "raw/dt=2025-08-20/notes.csv",
    "year 9999": "raw/dt=9999-99-99/wrm_stations_9999-12-31_00-00-00.txt",
    "year 1": "raw/dt=0001-01-01/wrm_stations_0001-01-01_00-00-00.txt",
    "year 2099": "raw/dt=2099-01-01/wrm_stations_2099-01-01_00-00-00.txt",
    "no date": "raw/readme.md",
    "marker of a partition": "processed/all/dt=2025-08-21/_SUCCESS",
    "partition of no date": "processed/all/dt=garbage/part-0.parquet",
}


@pytest.mark.parametrize("what", NOISE)
def test_noise_is_ignored_and_counted(world, city, report, what):
    report(f"{NOISE[what]} in the lake", PUBLISHED)
    at = NOON
    world.put_raw(at, city.snapshot(at))
    key = world.settings.prefix + NOISE[what]
    if key.endswith("/"):
        key += "_placeholder"  # a folder has no object of that name
    world.truth.put(key, b"")
    assert world.settle() == [DAY]
    if "raw/" in key:
        files = look_at_files(world.truth, world.layout, DAY)
        assert sum(files.ignored.values()) >= 1
        assert key.removeprefix(world.settings.prefix) in files.examples.values() or "(" in files.text
        assert not any(files.wrong.values())
    world.truth.delete(key)
    world.verify(PUBLISHED)


@pytest.mark.parametrize("prefix", ["bike-data/gen_info/", "env=prod/dt=2020-01-01/", "[ab]*?/"])
@pytest.mark.parametrize("folder", ["disk[1]", "env=prod", "dt=2020-01-01", "a*b?c"])
def test_the_lakes_own_path_is_no_pattern(tmp_path, city, report, folder, prefix):
    report(f"the lake in {folder}/{prefix}", PUBLISHED)
    store, layout = LocalObjectStore(tmp_path / folder / "lake"), Layout(prefix)
    store.put(layout.raw_key(NOON), city.snapshot(NOON))
    stray = f"{layout.partition_folder('processed', DAY)}hour=14/old.parquet"
    store.put(stray, b"PAR1 of old")
    partitions = PublishedPartitions(store, layout)
    assert list(partitions.strays_by_day()) == days_of(store, layout) == [DAY]
    for _ in range(2):
        rebuild_partition(store, layout, DAY, area=DEFAULT_SERVICE_AREA, now=NOON)
    assert partitions.strays_by_day() == {}
    plan = plan_reconciliation_runs(
        store, layout, None, area=DEFAULT_SERVICE_AREA, now=NOON, today=DAY, started=frozenset()
    )
    assert (plan.runs, plan.compared) == ((), {DAY: DayFindings()})
    assert partitions.read("enhanced", DAY).row_count > 30


@pytest.mark.parametrize("sources", [True, False], ids=["with raw keys", "without"])
@pytest.mark.parametrize("times", ["local", "utc", "aware", "text"])
@pytest.mark.parametrize("slices", [True, False], ids=["slices", "whole days"])
def test_an_older_writers_files_are_taken_over(world, report, slices, times, sources):
    if times == "text" and not sources:
        pytest.skip("text in local time says no zone, and nothing else does")
    report(f"Parquet of an older writer: {'slices' if slices else 'whole days'}, times {times}", PUBLISHED)
    layout = Layout(world.settings.prefix)
    older = OlderLake(Lake(world.settings), times=times, sources=sources, slices=slices)
    older.raw_key = layout.raw_key  # type: ignore[method-assign]
    dt = DAY - timedelta(days=1)
    older.day(dt, gone=[0, 3])
    assert world.process(dt), world.failures
    for layer in ("processed", "enhanced"):
        rows = published_rows(older.lake, layer)
        assert len(rows) == len(set(rows))
        assert set(rows) == older.rows, layer
        assert len(world.keys(f"superseded/{layer}/")) == 3
    assert findings(world) == {}


REFUSED = {
    "stations and nothing else": pa.table({"station_id": [str(n) for n in range(400)]}),
    "text that is not a time": pa.table({"station_id": ["1"] * 40, "file_timestamp": ["yesterday"] * 40}),
    "no coordinates": pa.table(
        {
            "station_id": [str(n) for n in range(40)],
            "file_timestamp": [datetime(2025, 8, 20, 9, tzinfo=UTC)] * 40,
            "bikes": [1] * 40,
        }
    ),
}


@pytest.mark.parametrize("layer", ["processed", "enhanced"])
@pytest.mark.parametrize("what", REFUSED)
def test_files_whose_rows_cannot_be_ours_are_refused_and_named(world, city, report, what, layer):
    report(f"Parquet of another writer, {what}, in {layer}/", REPAIRED)
    dt = DAY - timedelta(days=1)
    at = NOON - timedelta(days=1)
    world.put_raw(at, city.snapshot(at))
    key = f"{world.layout.partition_folder(layer, dt)}part-0.parquet"
    world.truth.put(key, parquet(REFUSED[what]))
    assert not world.process(dt)
    assert key in world.failures[-1]
    assert "allow_shrink" in world.failures[-1]
    assert world.truth.stat(key) is not None
    assert world.process(dt, allow_shrink=True), world.failures
    assert [k.rpartition("/")[2] for k in world.keys(f"superseded/{layer}/")] == ["part-0.parquet"]
    world.verify(REPAIRED)


FOREIGN = {
    "another schema": parquet(pa.table({"n": list(range(1000))})),
    "a cut-off file": parquet(pa.table({"station_id": ["1"] * 99}))[:-20],
    "no Parquet": b"PAR1 of old",
}


@pytest.mark.parametrize("layer", ["processed", "enhanced"])
@pytest.mark.parametrize("place", ["beside", "below", "in our place"])
@pytest.mark.parametrize("what", FOREIGN)
def test_files_that_hold_nothing_of_ours_are_in_nobodys_way(world, city, report, what, place, layer):
    report(f"{what} {place} of {layer}/'s partition", PUBLISHED)
    fill(world, city, 2)
    folder = world.layout.partition_folder(layer, DAY)
    own = world.layout.partition_key(layer, DAY)
    key = {"beside": f"{folder}a.parquet", "below": f"{folder}hour=1/a.parquet", "in our place": own}[place]
    world.truth.put(key, FOREIGN[what])
    later = NOON + 10 * MINUTE
    world.put_raw(later, city.snapshot(later))
    found = findings(world, looks=6)
    kept = [world.truth.get(k) for k in world.keys("superseded/")]
    if what == "another schema" and place != "in our place":
        assert found == {"foreign": 1}
        assert world.truth.get(key) == FOREIGN[what]
        world.truth.delete(key)
    else:
        assert found == {}
        assert kept == [FOREIGN[what]]
    world.verify(PUBLISHED)


def test_a_rebuild_of_processed_takes_its_rows_from_enhanced_where_raw_is_gone(world, city, report):
    report("processed lost, and some raw objects with it", PUBLISHED)
    keys = fill(world, city)
    before = set(published_rows(Lake(world.settings), "enhanced"))
    bodies = {key: world.truth.get(key) for key in keys[:3]}
    for key in (*bodies, world.layout.partition_key("processed", DAY)):
        world.truth.delete(key)
    world.settle()
    assert set(published_rows(Lake(world.settings), "processed")) == before
    for key, body in bodies.items():
        world.truth.put(key, body)
    world.settle()
    world.verify(PUBLISHED)


def test_files_with_times_of_a_wrong_zone_are_not_taken_for_new_rows(world, report):
    report("Parquet of an older writer whose times are 2 h off", REPAIRED)
    older = OlderLake(Lake(world.settings), times="aware", sources=False)
    dt = DAY - timedelta(days=1)
    older.day(dt)  # names in local time, read as UTC
    assert not world.process(dt)
    assert "WRM_RAW_NAME_TIMEZONE" in world.failures[-1]
    assert world.keys("superseded/") == []


def test_dead_letters_of_raw_objects_that_are_there_are_not_rows_that_are_lost(world, city, report):
    report("Parquet of an older writer with rows that are dead letters", DEAD_LETTERED)
    older = OlderLake(Lake(world.settings))
    older.raw_key = world.layout.raw_key  # type: ignore[method-assign]
    dt = DAY - timedelta(days=1)
    (at, *_) = older.day(dt, snapshots=1, files=1)
    body = world.truth.get(world.layout.raw_key(at)).replace(b"51.1", b"99951.1", 2)
    world.truth.put(world.layout.raw_key(at), body)
    assert world.process(dt), world.failures
    rebuild_partition(world.truth, world.layout, dt, area=world.settings.area, now=world.now)
    assert len(published_rows(older.lake, "processed")) < len(older.rows)
    assert len(world.keys("superseded/")) == 2

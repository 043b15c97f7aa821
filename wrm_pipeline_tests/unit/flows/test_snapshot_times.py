"""Snapshots whose names leave their time open: read once, stored, the same in every build."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from wrm_pipeline.domain.layout import Layout
from wrm_pipeline.domain.snapshot_time import OUTSIDE_DAY
from wrm_pipeline.flows import raw_inputs
from wrm_pipeline.flows.rebuild import rebuild_partition
from wrm_pipeline.flows.watch import plan_reconciliation_runs
from wrm_pipeline.lake.dead_letter_queue import DeadLetterQueue
from wrm_pipeline_tests.fixtures.lake import DAY, WatchedStore, snapshot

MORNING = datetime(2025, 8, 21, 6, tzinfo=UTC)
NOW = datetime(2025, 11, 27, 9, tzinfo=UTC)


def put_copies(lake, count: int = 12, first: int = 0) -> list[datetime]:
    """Snapshots of `count` hours in objects without a time in their names, all written now."""
    times = [MORNING + timedelta(hours=n) for n in range(first, first + count)]
    for n, at in enumerate(times, start=first):
        lake.store.put(f"{lake.layout.raw_folder(DAY)}content_{n:04d}.txt", snapshot(at, 20))
    return times


def build(lake, store=None, **options):
    return rebuild_partition(store or lake.store, lake.layout, DAY, area=lake.settings.area, now=NOW, **options)


def times_of(lake, dt: date = DAY) -> list[datetime]:
    return sorted({row["file_timestamp"] for row in lake.rows("processed", dt)})


def wanted(lake) -> list[date]:
    look = plan_reconciliation_runs(
        lake.store, lake.layout, None, area=lake.settings.area, now=NOW, today=NOW.date(), started=frozenset()
    )
    return [run.dt for run in look.runs]


def test_copies_of_one_second_are_snapshots_of_their_own_times(lake):
    times = put_copies(lake)
    built = build(lake)
    assert (built.counts.rows_out, built.counts.duplicate_rows) == (12 * 21, 0)
    assert times_of(lake) == times


@pytest.mark.parametrize("held", [raw_inputs.HELD_BYTES, 0], ids=["held", "read again"])
def test_each_body_is_read_once_and_what_is_known_is_not_read_again(lake, monkeypatch, held):
    monkeypatch.setattr(raw_inputs, "HELD_BYTES", held)
    put_copies(lake)
    watched = WatchedStore(lake.store)
    build(lake, watched)
    assert sum("/raw/" in key for op, key in watched.calls if op == "get") == (12 if held else 24)
    put_copies(lake, 1, first=12)
    watched.calls.clear()
    build(lake, watched)
    assert sum("/raw/" in key for op, key in watched.calls if op == "get") == (1 if held else 2)
    assert len(times_of(lake)) == 13
    assert build(lake).written == ()
    assert wanted(lake) == []


def test_a_batch_that_is_parsed_in_parts_gives_the_same(lake, monkeypatch):
    monkeypatch.setattr(raw_inputs, "BATCH_BYTES", 3000)
    times = put_copies(lake)
    assert build(lake).counts.rows_out == 12 * 21
    assert times_of(lake) == times


def test_a_full_rebuild_gives_the_same_rows(lake):
    put_copies(lake)
    build(lake)
    before = lake.rows("processed")
    build(lake, full=True)
    assert lake.rows("processed") == before


def test_an_object_that_was_replaced_has_the_time_of_what_is_in_it_now(lake):
    put_copies(lake, 2)
    build(lake)
    lake.store.put(f"{lake.layout.raw_folder(DAY)}content_0001.txt", snapshot(MORNING + timedelta(minutes=7), 20))
    assert wanted(lake) == [DAY]
    build(lake)
    assert times_of(lake) == [MORNING, MORNING + timedelta(minutes=7)]


def test_the_hour_that_comes_twice_is_two_hours(lake, monkeypatch):
    """Names in Warsaw time; `…_02-30-00` and its copy are an hour apart, and only the reports know."""
    monkeypatch.setenv("WRM_RAW_NAME_TIMEZONE", "Europe/Warsaw")
    lake = type(lake)(type(lake.settings)())
    dt = date(2026, 10, 25)
    first = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    times = [first, first + timedelta(hours=1)]
    for n, at in enumerate(times):
        lake.store.put(f"{lake.layout.raw_folder(dt)}wrm_stations_2026-10-25_02-30-0{n}.txt", snapshot(at, 5))
    rebuild_partition(lake.store, lake.layout, dt, area=lake.settings.area, now=NOW)
    assert times_of(lake, dt) == [first, first + timedelta(hours=1, seconds=1)]


@pytest.mark.parametrize("name", ["wrm_stations_2099-01-01_00-00-00.txt", "wrm_stations_0001-01-01_00-00-00.txt"])
def test_a_name_of_another_day_costs_only_itself_until_it_is_moved(lake, name):
    at = MORNING + timedelta(minutes=1)
    lake.put_raw(MORNING)
    wrong = lake.layout.raw_folder(DAY) + name
    lake.store.put(wrong, snapshot(at))
    built = build(lake)
    assert (built.counts.lines_in, built.counts.rows_out, built.counts.dead_lettered) == (22, 11, 11)
    assert times_of(lake) == [MORNING]
    (letter,) = DeadLetterQueue(lake.store, lake.layout).of_date(DAY)
    assert (letter.error_type, letter.source_key, letter.records_total) == (OUTSIDE_DAY, wrong, 11)
    assert wanted(lake) == [], "it is settled until someone moves it"
    lake.put_raw(at, lake.store.get(wrong))
    lake.store.delete(wrong)
    assert build(lake).counts.dead_lettered == 0
    assert times_of(lake) == [MORNING, at]


def test_the_clean_day_makes_no_request_for_times(lake):
    lake.put_day(3)
    build(lake)
    lake.put_day(1, first=3)
    watched = WatchedStore(lake.store)
    build(lake, watched)
    assert sum("/raw/" in key for op, key in watched.calls if op == "get") == 1


def test_the_zone_of_the_names_may_be_corrected_later(lake):
    name = "wrm_stations_2025-08-21_15-05-02.txt"
    lake.store.put(lake.layout.raw_folder(DAY) + name, snapshot(MORNING))
    build(lake)
    assert [at.hour for at in times_of(lake)] == [15]
    from zoneinfo import ZoneInfo

    warsaw = Layout(lake.settings.prefix, ZoneInfo("Europe/Warsaw"))
    rebuild_partition(lake.store, warsaw, DAY, area=lake.settings.area, now=NOW)
    assert [at.hour for at in times_of(lake)] == [13]

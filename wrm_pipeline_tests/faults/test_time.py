"""Days of 23 and 25 hours, clocks that go back, data for yesterday, dates that are no partition."""

from __future__ import annotations

import contextlib
import io
from datetime import UTC, date, datetime, timedelta

import pyarrow.parquet as pq
import pytest

from wrm_pipeline.cli.main import main
from wrm_pipeline.clients.errors import ExternalError
from wrm_pipeline.domain.layout import Layout
from wrm_pipeline.domain.snapshot_time import OUTSIDE_DAY
from wrm_pipeline.flows.future_raw import days_to_rebuild, future_raw, move_future, remove_emptied
from wrm_pipeline.flows.ingest import IngestResult
from wrm_pipeline.flows.rebuild import rebuild_partition
from wrm_pipeline.flows.watch import plan_new_data_runs, plan_reconciliation_runs
from wrm_pipeline.lake.dead_letter_queue import DeadLetterQueue
from wrm_pipeline.lake.published_partitions import PublishedPartitions
from wrm_pipeline.settings import load_settings
from wrm_pipeline_tests.faults.harness import (
    DEAD_LETTERED,
    MINUTE,
    NOON,
    PUBLISHED,
    REPAIRED,
    SPOOLED,
    WARSAW,
    Harness,
    Says,
    failing,
    local_day,
)
from wrm_pipeline_tests.fixtures.lake import snapshot


@pytest.fixture
def clocked(world: Harness, city) -> Harness:
    """A world whose feed serves the city of each minute."""
    world.feed = lambda: Says(lambda: world.now, [city.snapshot(world.now)])
    return world


@pytest.mark.parametrize(
    ("day", "hours"),
    [(date(2026, 3, 29), 23), (date(2026, 10, 25), 25), (date(2026, 5, 1), 24)],
    ids=["23", "25", "24"],
)
def test_each_snapshot_of_a_day_is_in_its_partition(clocked, report, day, hours):
    report(f"a day of {hours} hours, a snapshot each 10 minutes, and an hour around it", PUBLISHED)
    world = clocked
    start = datetime(day.year, day.month, day.day, tzinfo=WARSAW).astimezone(UTC)
    world.now = start - timedelta(hours=1)
    while world.now < start + timedelta(hours=hours + 1):
        assert isinstance(world.fetch(), IngestResult)
        world.now += timedelta(minutes=9)
    days = [day - timedelta(days=1), day, day + timedelta(days=1)]
    for each in days:
        assert world.process(each), world.failures
    assert [len(world.keys(f"raw/dt={each}/")) for each in days] == [6, hours * 6, 6]
    world.verify(PUBLISHED)


def test_the_hour_that_comes_twice_collides_with_nothing(clocked, report):
    report("02:30 twice, on the day of 25 hours", PUBLISHED)
    world = clocked
    for hour in (0, 1):  # 00:30 and 01:30 UTC are both 02:30 in Warsaw
        world.now = datetime(2026, 10, 25, hour, 30, tzinfo=UTC)
        world.fetch()
    assert [at.astimezone(WARSAW).hour for at, _ in world.served] == [2, 2]
    assert world.process(date(2026, 10, 25))
    assert len(world.keys("raw/")) == 2
    world.verify(PUBLISHED)


def test_a_clock_set_back_by_an_hour_overwrites_nothing(clocked, city, report):
    report("clock set back by 1 h after 5 minutes; the same seconds come again", PUBLISHED)
    world = clocked
    for _ in range(5):
        world.fetch()
    first = world.contents("raw/")
    assert world.process(local_day(NOON))
    world.now -= timedelta(minutes=5)  # five minutes that were there before, with other bytes
    for n in range(5):
        result = world.fetch(Says(lambda: world.now, [city.snapshot(world.now + timedelta(hours=1))]))
        assert isinstance(result, IngestResult)
        assert not result.duplicate
        at, body = world.served.pop()
        world.served.append((at + timedelta(seconds=1), body))
        assert len(world.keys("raw/")) == 6 + n
    assert {key: body for key, body in world.contents("raw/").items() if key in first} == first
    assert world.process(local_day(NOON))
    world.verify(PUBLISHED)


def test_a_spool_filled_before_the_clock_was_set_back_is_delivered(clocked, report):
    report("store away, clock set back by 1 h meanwhile", SPOOLED)
    world = clocked
    with failing(world, lambda _operation, _key: True):
        for _ in range(3):
            world.fetch()
        world.now -= timedelta(hours=1)
        for _ in range(3):
            world.fetch()
    world.now += MINUTE
    world.fetch()
    assert world.process(local_day(NOON))
    assert len(world.keys("raw/")) == 7
    world.verify(SPOOLED)


def test_a_run_whose_clock_is_behind_the_last_one_publishes_all(clocked, report):
    report("second build an hour before the first, by its clock", PUBLISHED)
    world = clocked
    world.fetch()
    assert world.process(local_day(NOON))
    world.fetch()
    world.now -= timedelta(hours=1)
    assert world.process(local_day(NOON))
    world.verify(PUBLISHED)


def test_snapshots_for_yesterday_that_come_after_midnight(clocked, report):
    report("outage over midnight; yesterday's snapshots arrive today", SPOOLED)
    world = clocked
    yesterday, today = date(2025, 8, 21), date(2025, 8, 22)
    world.now = datetime(2025, 8, 21, 21, 50, 2, tzinfo=UTC)  # 23:50 in Warsaw
    world.fetch()
    plan = plan_new_data_runs(world.store, world.layout, None, today=yesterday, started=frozenset())
    assert world.process(yesterday)
    with failing(world, lambda _operation, _key: True):
        for _ in range(12):
            world.fetch()
    world.fetch()
    plan = plan_new_data_runs(world.store, world.layout, plan.cursor, today=today, started=frozenset())
    asked = {run.dt for run in plan.runs}
    assert asked == {yesterday, today}
    for day in asked:
        assert world.process(day)
    world.verify(SPOOLED)


def test_a_late_snapshot_below_the_cursor_is_found_by_the_reconciliation(clocked, city, report):
    report("a snapshot of yesterday arrives when today has been seen", PUBLISHED)
    world = clocked
    late_at = datetime(2025, 8, 21, 20, 0, 2, tzinfo=UTC)
    for now in (late_at - MINUTE, late_at + timedelta(hours=3)):
        world.now = now
        world.fetch()
        assert world.process(local_day(now))
    today = local_day(world.now)
    cursor = plan_new_data_runs(world.store, world.layout, None, today=today, started=frozenset()).cursor
    world.put_raw(late_at, city.snapshot(late_at))
    world.served.sort()
    seen = plan_new_data_runs(world.store, world.layout, cursor, today=today, started=frozenset())
    assert seen.runs == (), "it is below the cursor"
    assert world.settle() == [date(2025, 8, 21)]
    world.verify(PUBLISHED)


@pytest.mark.parametrize("folder", ["dt=2025-05-31", "dt=1999-01-01", "dt=garbage", "dt=2025-08-23", "dt=2025-02-30"])
def test_a_folder_that_is_no_partition_is_left_alone_and_stops_nobody(clocked, city, report, folder):
    report(f"raw/{folder}/ (today is 2025-08-21)", PUBLISHED)
    world = clocked
    world.fetch()
    foreign = f"{world.settings.prefix}raw/{folder}/wrm_stations_2025-08-21_12-00-02.txt"
    world.truth.put(foreign, city.snapshot(NOON))
    today = local_day(NOON)
    plans = [
        plan_new_data_runs(world.store, world.layout, None, today=today, started=frozenset()),
        plan_reconciliation_runs(
            world.store, world.layout, None, area=world.settings.area, now=NOON, today=today, started=frozenset()
        ),
    ]
    for plan in plans:
        assert [run.dt for run in plan.runs] == [today]
        assert any(folder in key for key in plan.unknown_keys), "it is reported"
    assert world.process(today)
    assert world.truth.get(foreign) == city.snapshot(NOON)
    world.truth.delete(foreign)
    world.verify(PUBLISHED)


# --- what time a raw object has ---


def build(world: Harness, dt: date, layout: Layout | None = None):
    """A day, without Dagster around it."""
    return rebuild_partition(world.store, layout or world.layout, dt, area=world.settings.area, now=world.now)


def times_of(world: Harness, dt: date) -> list[datetime]:
    data = world.truth.get(world.layout.partition_key("processed", dt))
    return sorted(set(pq.read_table(io.BytesIO(data), columns=["file_timestamp"])["file_timestamp"].to_pylist()))


@pytest.mark.parametrize(
    "name",
    [
        "content_{n:04d}.txt",
        "old/copy of {n}.txt",
        "wrm_stations_2025-08-21_24-00-{n:02d}.txt",
        "wrm_stations_2025-02-30_12-00-{n:02d}.txt",
        "wrm_stations_2025-08-21_12-{n:02d}-60.txt",
        "20250821{n:06d}.txt",
    ],
)
def test_copies_whose_names_say_no_time_keep_the_times_of_their_reports(world, report, name):
    report(f"12 snapshots, copied in one second as {name.format(n=1)}", PUBLISHED)
    dt = local_day(NOON)
    times = [NOON.replace(microsecond=0) + timedelta(minutes=7 * n) for n in range(12)]
    for n, at in enumerate(times):
        world.truth.put(world.layout.raw_folder(dt) + name.format(n=n), snapshot(at, 5))
    built = build(world, dt)
    assert (built.counts.rows_out, built.counts.duplicate_rows, built.counts.dead_lettered) == (12 * 6, 0, 0)
    assert times_of(world, dt) == times
    assert build(world, dt).written == ()


@pytest.mark.parametrize(
    "name",
    ["2099-01-01_00-00-00", "0001-01-01_00-00-00", "9999-12-31_23-59-59", "2025-08-19_12-00-00", "2024-08-21_12-00-00"],
)
def test_a_name_of_another_day_is_a_dead_letter_and_costs_only_itself(world, report, name):
    report(f"raw/dt=2025-08-21/…{name}.txt", DEAD_LETTERED)
    dt = local_day(NOON)
    world.put_raw(NOON, snapshot(NOON, 5))
    wrong = f"{world.layout.raw_folder(dt)}wrm_stations_{name}.txt"
    world.truth.put(wrong, snapshot(NOON + MINUTE, 5))
    built = build(world, dt)
    assert (built.counts.lines_in, built.counts.rows_out, built.counts.dead_lettered) == (12, 6, 6)
    assert times_of(world, dt) == [NOON]
    (letter,) = DeadLetterQueue(world.truth, world.layout).of_date(dt)
    assert (letter.source_key, letter.error_type) == (wrong, OUTSIDE_DAY)
    # The remedy that the message names.
    world.put_raw(NOON + MINUTE, world.truth.get(wrong))
    world.truth.delete(wrong)
    assert build(world, dt).counts.rows_out == 12


@pytest.mark.parametrize(
    ("day", "hours"), [(date(2026, 10, 25), (0, 1)), (date(2026, 3, 29), (0, 1))], ids=["twice", "never"]
)
def test_local_names_of_an_odd_hour_are_distinguished(world, report, day, hours):
    report(f"names in Warsaw's time, 02:30 on {day}, in both of its readings", PUBLISHED)
    layout = Layout(world.settings.prefix, WARSAW)
    times = [datetime(day.year, day.month, day.day, hour, 30, hour, tzinfo=UTC) for hour in hours]
    for at in times:
        name = f"wrm_stations_{day}_02-30-{at:%S}.txt"
        world.truth.put(layout.raw_folder(day) + name, snapshot(at, 5))
    build(world, day, layout)
    assert times_of(world, day) == times


# --- a clock that was ahead ---


def ahead_and_right_again(world: Harness, by: timedelta) -> list[date]:
    """Three fetches, three with the clock ahead, one with the clock right: days that the fast look asked for then."""
    cursor = None
    for step in (timedelta(0), by, -by):
        world.now += step
        for _ in range(3 if step >= timedelta(0) else 1):
            at = world.now
            world.truth.put(world.layout.raw_key(at), snapshot(at - (by if step > timedelta(0) else timedelta(0)), 5))
            world.now += MINUTE
        plan = plan_new_data_runs(
            world.store, world.layout, cursor, today=local_day(world.now), started=frozenset(), now=world.now
        )
        cursor = plan.cursor
        for run in plan.runs:
            build(world, run.dt)
    return [run.dt for run in plan.runs]


@pytest.mark.parametrize("by", [timedelta(hours=2), timedelta(days=1), timedelta(days=93)], ids=["2h", "1d", "93d"])
def test_snapshots_of_a_clock_that_was_ahead_blind_nobody_and_come_back(world, report, by):
    report(f"clock ahead by {by} for 3 minutes; then `wrm raw move-future`", PUBLISHED)
    asked = ahead_and_right_again(world, by)
    dt = local_day(NOON)
    assert asked == [dt]
    partitions = PublishedPartitions(world.truth, world.layout)
    assert partitions.newest("enhanced", dt) == dt
    future = [info.key for info in future_raw(world.truth, world.layout, world.now)]
    assert len(future) == 3
    moves = list(move_future(world.truth, world.layout, world.now, write=True))
    assert [move.source for move in moves] == future
    assert all(move.done for move in moves)
    for day, lost in days_to_rebuild(moves, world.now).items():
        rebuild_partition(world.store, world.layout, day, area=world.settings.area, now=world.now, moved=lost)
    remove_emptied(world.truth, world.layout, moves, world.now)
    assert build(world, dt).written == ()
    assert times_of(world, dt) == [NOON + n * MINUTE for n in range(7)], "no minute is missing"
    assert list(future_raw(world.truth, world.layout, world.now)) == []
    assert partitions.dates("processed") == [dt] or by < timedelta(days=1)


@pytest.mark.parametrize("operation", ["put_if_absent", "get", "delete", "stat"])
def test_a_move_that_is_cut_short_loses_nothing_and_goes_on(world, report, operation):
    report(f"store fails at {operation} of `wrm raw move-future`", REPAIRED)
    ahead_and_right_again(world, timedelta(days=1))
    bodies = sorted(world.contents("raw/").values())
    for count in range(1, 4):
        calls = [0]

        def fails(found: str, _key: str, calls: list[int] = calls, count: int = count) -> bool:
            calls[0] += found == operation
            return found == operation and calls[0] == count

        with failing(world, fails), contextlib.suppress(ExternalError):
            list(move_future(world.store, world.layout, world.now, write=True))
        assert set(world.contents("raw/").values()) == set(bodies), "each is in at least one place"
    list(move_future(world.store, world.layout, world.now, write=True))
    assert sorted(world.contents("raw/").values()) == bodies
    assert list(future_raw(world.truth, world.layout, world.now)) == []


def test_a_move_overwrites_nothing(world, report):
    report("the second that a moved snapshot belongs to is taken, by another body and by its own", PUBLISHED)
    world.now = NOON + timedelta(hours=1)
    other, same = snapshot(NOON, 3, bikes=7), snapshot(NOON, 5)
    world.truth.put(world.layout.raw_key(NOON), other)
    for n in range(2):
        world.truth.put(world.layout.raw_key(NOON + timedelta(days=1, seconds=n)), same)
    assert [move.done for move in move_future(world.truth, world.layout, world.now, write=False)] == [False, False]
    assert len(world.keys("raw/")) == 3, "without consent nothing is changed"
    moves = list(move_future(world.truth, world.layout, world.now, write=True))
    next_second = world.layout.raw_key(NOON + timedelta(seconds=1))
    assert [move.target for move in moves] == [next_second, next_second]
    assert world.contents("raw/") == {world.layout.raw_key(NOON): other, next_second: same}


@pytest.mark.parametrize("content", [b"<html>", b"", snapshot(NOON + timedelta(days=3), 2)], ids=["html", "", "ahead"])
def test_a_snapshot_of_the_future_whose_reports_do_not_help_goes_to_when_it_was_stored(world, report, content):
    report("move-future, and the reports inside say nothing, or the future", PUBLISHED)
    world.now = datetime.now(UTC) + MINUTE  # the store has a clock of its own
    key = world.layout.raw_key(world.now + timedelta(days=2))
    world.truth.put(key, content if content[:1] in {b"<", b""} else snapshot(world.now + timedelta(days=2), 2))
    stored = world.truth.stat(key).last_modified.replace(microsecond=0)
    (move,) = move_future(world.truth, world.layout, world.now, write=True)
    assert (move.at, move.done, move.target) == (stored, True, world.layout.raw_key(stored))


# --- the first day ---


@pytest.mark.parametrize(("first", "processed"), [("2025-06-01", False), ("2025-05-20", True), ("2024-01-01", True)])
def test_days_before_the_first_date_are_one_thing_to_all(world, report, monkeypatch, capsys, first, processed):
    report(f"raw of 2025-05-20 with WRM_FIRST_DATE={first}", PUBLISHED)
    monkeypatch.setenv("WRM_FIRST_DATE", first)
    layout, dt = load_settings().layout, date(2025, 5, 20)
    at = datetime(2025, 5, 20, 12, tzinfo=UTC)
    world.truth.put(layout.raw_key(at), snapshot(at, 5))
    looks = [
        plan_new_data_runs(world.store, layout, None, today=local_day(NOON), started=frozenset()),
        plan_reconciliation_runs(
            world.store, layout, None, area=world.settings.area, now=NOON, today=local_day(NOON), started=frozenset()
        ),
    ]
    assert all([run.dt for run in look.runs] == ([dt] if processed else []) for look in looks)
    assert main(["rebuild", "--layer", "processed", "--apply"]) == (0 if processed else 1)
    said = "".join(capsys.readouterr())
    assert ("set WRM_FIRST_DATE=2025-05-20" in said) is not processed
    assert bool(world.keys("processed/")) is processed

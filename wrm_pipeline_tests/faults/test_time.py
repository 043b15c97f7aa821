"""Days of 23 and 25 hours, clocks that go back, data for yesterday, dates that are no partition."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from wrm_pipeline.flows.ingest import IngestResult
from wrm_pipeline.flows.watch import look_for_arrivals, look_for_unpublished
from wrm_pipeline_tests.faults.world import (
    MINUTE,
    NOON,
    PUBLISHED,
    SPOOLED,
    WARSAW,
    Says,
    World,
    failing,
    local_day,
)


@pytest.fixture
def clocked(world: World, city) -> World:
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
    tick = look_for_arrivals(world.store, world.layout, None, today=yesterday, started=frozenset())
    assert world.process(yesterday)
    with failing(world, lambda _operation, _key: True):
        for _ in range(12):
            world.fetch()
    world.fetch()
    tick = look_for_arrivals(world.store, world.layout, tick.cursor, today=today, started=frozenset())
    asked = {run.dt for run in tick.runs}
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
    cursor = look_for_arrivals(world.store, world.layout, None, today=today, started=frozenset()).cursor
    world.put_raw(late_at, city.snapshot(late_at))
    world.served.sort()
    seen = look_for_arrivals(world.store, world.layout, cursor, today=today, started=frozenset())
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
    ticks = [
        look_for_arrivals(world.store, world.layout, None, today=today, started=frozenset()),
        look_for_unpublished(
            world.store, world.layout, None, area=world.settings.area, now=NOON, today=today, started=frozenset()
        ),
    ]
    for tick in ticks:
        assert [run.dt for run in tick.runs] == [today]
        assert any(folder in key for key in tick.unknown_keys), "somebody is told"
    assert world.process(today)
    assert world.truth.get(foreign) == city.snapshot(NOON)
    world.truth.delete(foreign)
    world.verify(PUBLISHED)

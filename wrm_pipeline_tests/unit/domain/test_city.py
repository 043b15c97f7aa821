"""Days and hours of cities in any zone."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import duckdb
import numpy as np
import pytest

from wrm_pipeline.analytics.registry.local_time import hour_of, in_local_time
from wrm_pipeline.domain.anomalies import local_hours
from wrm_pipeline.domain.city import known_zone, this_city, use_city
from wrm_pipeline.domain.layout import Layout, local_date, partition_bounds
from wrm_pipeline.flows.trace import parse_time
from wrm_pipeline.partitions import daily_partitions_from
from wrm_pipeline.settings import load_settings

# A zone, a day on which its clocks change, and when it begins and ends (UTC).
CHANGES = [
    ("America/New_York", date(2026, 3, 8), "2026-03-08T05:00", "2026-03-09T04:00"),
    ("America/New_York", date(2026, 11, 1), "2026-11-01T04:00", "2026-11-02T05:00"),
    ("America/St_Johns", date(2026, 3, 8), "2026-03-08T03:30", "2026-03-09T02:30"),
    ("Pacific/Auckland", date(2025, 9, 28), "2025-09-27T12:00", "2025-09-28T11:00"),
    ("Pacific/Auckland", date(2026, 4, 5), "2026-04-04T11:00", "2026-04-05T12:00"),
    ("Asia/Kolkata", date(2026, 3, 29), "2026-03-28T18:30", "2026-03-29T18:30"),
    # Clocks skip midnight, and come back to it from 24:00: then it is the day before that has 25 hours.
    ("America/Santiago", date(2025, 9, 7), "2025-09-07T04:00", "2025-09-08T03:00"),
    ("America/Santiago", date(2026, 4, 4), "2026-04-04T03:00", "2026-04-05T04:00"),
    ("Africa/Cairo", date(2026, 4, 24), "2026-04-23T22:00", "2026-04-24T21:00"),
    # Midnight occurs twice: the day begins with the first.
    ("America/Havana", date(2025, 11, 2), "2025-11-02T04:00", "2025-11-03T05:00"),
    ("Australia/Lord_Howe", date(2026, 4, 5), "2026-04-04T13:00", "2026-04-05T13:30"),
]


@pytest.mark.parametrize(("zone", "day", "start", "end"), CHANGES)
def test_a_day_begins_at_the_citys_midnight_when_clocks_change_too(zone, day, start, end):
    use_city("Elsewhere", ZoneInfo(zone))
    bounds = tuple(datetime.fromisoformat(text).replace(tzinfo=UTC) for text in (start, end))
    assert partition_bounds(day) == bounds
    moment = timedelta(microseconds=1)
    instants = (bounds[0] - moment, bounds[0], bounds[1] - moment, bounds[1])
    days = [day - timedelta(days=1), day, day, day + timedelta(days=1)]
    assert [local_date(at) for at in instants] == days
    assert [Layout("p/").parse_raw_key(Layout("p/").raw_key(at)).dt for at in instants] == days
    # Dagster's partitions are the same days, and none is missing.
    known = daily_partitions_from(day - timedelta(days=2), zone)
    assert known.get_partition_keys(bounds[0] - moment)[-1] == str(day - timedelta(days=1))
    assert known.get_partition_keys(bounds[0])[-1] == str(day)
    assert len(known.get_partition_keys(bounds[1])) == 4


@pytest.mark.parametrize("zone", sorted({zone for zone, *_ in CHANGES}))
def test_hours_are_the_citys(zone):
    """In SQL and in numpy: each begins at a full hour on the city's clocks, also half an hour off UTC."""
    use_city("Elsewhere", ZoneInfo(zone))
    # Lord Howe's clocks change by half an hour, so one of its hours is not whole that night.
    start = datetime(2026, 4, 6 if zone == "Australia/Lord_Howe" else 4, 0, 7, tzinfo=UTC)
    instants = [start + n * timedelta(minutes=13) for n in range(250)]
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("CREATE TABLE seen AS SELECT unnest(?::TIMESTAMPTZ[]) AS seen_at", [instants])
        found = connection.execute(f"SELECT {in_local_time(hour_of('seen_at'))} FROM seen ORDER BY seen_at").fetchall()
    micros = np.array([round(at.timestamp() * 1e6) for at in instants])
    for at, (begun,), in_numpy in zip(instants, found, local_hours(micros).tolist(), strict=True):
        assert begun.timestamp() * 1e6 == in_numpy
        clock = begun.astimezone(this_city().zone)
        assert (clock.minute, clock.second) == (0, 0), at
        assert timedelta() <= at - begun < timedelta(hours=1), at


def test_a_traced_time_without_zone_is_the_citys(monkeypatch):
    monkeypatch.setenv("WRM_TIMEZONE", "America/St_Johns")
    load_settings()
    at, assumed = parse_time("2026-11-01T01:30")
    assert at == datetime(2026, 11, 1, 4, 0, tzinfo=UTC)
    assert "taken as a time in America/St_Johns" in assumed
    assert "add -03:30 for the second" in assumed


@pytest.mark.parametrize("name", ["", "Nowhere", "../UTC", "localtime", "right/UTC", "Factory"])
def test_what_is_not_a_zone_everywhere_is_none_here(name):
    with pytest.raises(ValueError, match="is not a time zone; give a name like UTC or Europe/Warsaw"):
        known_zone(name)

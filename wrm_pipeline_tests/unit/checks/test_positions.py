"""Bike positions against the feed's own counts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from wrm_pipeline.checks.positions import DIFFERING_SHARE_WARN, bikes_at_stations_are_as_counted, check_counts
from wrm_pipeline.domain.feeds import KINDS
from wrm_pipeline.domain.quality import CountComparison, Violations
from wrm_pipeline.resources.lake import LakeResource
from wrm_pipeline.settings import load_settings
from wrm_pipeline_tests.fixtures.lake import DAY, Lake, build_day, materialize
from wrm_pipeline_tests.fixtures.operator_answers import answer, bike, free, station
from wrm_pipeline_tests.unit.checks.files import number, samples, verdict

MINUTE = timedelta(minutes=1)


@pytest.fixture
def operator_lake(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> Lake:
    monkeypatch.setenv("WRM_FEEDS", "operator")
    return Lake(load_settings())


def put(lake: Lake, minute: int, listed: dict[int, list[int]], **counts: int) -> None:
    """A snapshot: bikes by station; `s15001=3` counts another number than are listed."""
    places = [
        station(
            number,
            name=f"Station {number}",
            availabilityStatus={"bikes": counts.get(f"s{number}", len(bikes)), "bikeRacks": 10, "freeRacks": 5},
        )
        | {"bikes": [bike(one) for one in bikes]}
        for number, bikes in listed.items()
    ]
    at = datetime(DAY.year, DAY.month, DAY.day, 12, tzinfo=UTC) + minute * MINUTE
    loose = free(bike(99), geoCoords={"lat": 51.1, "lng": 17.03})
    lake.store.put(lake.layout.raw_key(at, KINDS["operator"]), answer([*places, loose]))


def build(lake: Lake) -> None:
    build_day()
    materialize("bike_positions", dt=DAY)


def found(lake: Lake):
    return bikes_at_stations_are_as_counted(lake=LakeResource.of(lake.settings))


def test_bikes_that_come_go_and_vanish_for_a_minute_agree_with_the_counts(operator_lake: Lake) -> None:
    put(operator_lake, 0, {15001: [1, 2, 3], 15002: []})
    put(operator_lake, 1, {15001: [1, 3], 15002: [2]})
    put(operator_lake, 2, {15001: [1], 15002: [2]})
    put(operator_lake, 3, {15001: [1, 3], 15002: [2, 4]})
    build(operator_lake)
    # Positions may be ahead of the published rows, and behind.
    put(operator_lake, 4, {15001: [1, 3, 5], 15002: [2, 4]})
    materialize("bike_positions", dt=DAY)
    result = found(operator_lake)
    assert verdict(result) == "good"
    assert (number(result, "compared"), number(result, "differing")) == (8, 0)
    build_day()
    put(operator_lake, 5, {15001: [1, 3], 15002: [2, 4]})
    build_day()
    result = found(operator_lake)
    assert (number(result, "compared"), number(result, "differing")) == (10, 0)


def test_a_count_of_bikes_that_are_not_listed_warns_and_is_shown(operator_lake: Lake) -> None:
    put(operator_lake, 0, {15001: [1, 2], 15002: [3]})
    put(operator_lake, 1, {15001: [1, 2], 15002: [3]}, s15001=5)
    build(operator_lake)
    result = found(operator_lake)
    assert verdict(result) == "WARN"
    names = ("compared", "differing", "stations_differing", "snapshots_differing")
    assert [number(result, name) for name in names] == [4, 1, 1, 1]
    assert samples(result) == [
        {
            "station_id": "15001",
            "name": "Station 15001",
            "file_timestamp": "2025-08-21 12:01:00+00:00",
            "bikes": 5,
            "bikes_listed": 2,
        }
    ]


@pytest.mark.parametrize(
    ("differing", "expected"),
    [(0, "good"), (int(1000 * DIFFERING_SHARE_WARN), "good"), (int(1000 * DIFFERING_SHARE_WARN) + 1, "WARN")],
)
def test_one_in_a_hundred_may_differ(differing: int, expected: str) -> None:
    assert verdict(check_counts("d", CountComparison(1000, Violations(differing)))) == expected


def test_without_the_operators_feed_there_is_nothing_to_compare(lake: Lake) -> None:
    lake.put_day(1)
    build_day()
    result = found(lake)
    assert verdict(result) == "good"
    assert number(result, "compared") == 0

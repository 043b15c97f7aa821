"""One city, three kinds of feeds: what is read of each is the same stations, bikes and counts."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator

import pytest

from wrm_pipeline.clients.feed import Feed
from wrm_pipeline.domain.feeds import KINDS
from wrm_pipeline.domain.snapshot import RawSnapshot, parse_snapshots
from wrm_pipeline.simulator.city import City
from wrm_pipeline.simulator.misbehaviour import Misbehaviour
from wrm_pipeline.simulator.server import SimulatedFeed, serve
from wrm_pipeline_tests.fixtures.snapshots import AT

SAME = ("station_id", "name", "lat", "lon", "bikes", "spaces", "total_docks", "pedelecs", "battery_pct")
FLAGS = ("timestamp", "installed", "locked")


@pytest.fixture(scope="module")
def feed() -> Iterator[SimulatedFeed]:
    with serve(City(4, station_count=40, bike_count=20), clock=lambda: AT) as running:
        yield running


def rows(kind: str, url: str) -> list[dict]:
    fetched = Feed(url, kind=KINDS[kind], now=lambda: AT).fetch()
    batch = parse_snapshots([RawSnapshot("x", AT, fetched.body, feed=kind)])
    assert batch.reports[0].counts.dead_lettered == 0
    return batch.rows.to_pylist()


def test_all_kinds_serve_the_same_city(feed):
    expected = [[row[name] for name in SAME] for row in rows("ucl", feed.url)]
    assert len(expected) > 50
    for kind, url in (
        ("operator", feed.operator_url),
        ("gbfs", feed.gbfs_url),
        ("gbfs", feed.gbfs_url.replace("v2.3", "v3.0")),
    ):
        assert [[row[name] for name in SAME] for row in rows(kind, url)] == expected


def test_gbfs_has_the_report_times_and_the_flags_of_stations(feed):
    expected = [[row[name] for name in FLAGS] for row in rows("ucl", feed.url) if row["station_id"].isdigit()]
    for url in (feed.gbfs_url, feed.gbfs_url.replace("v2.3", "v3.0")):
        found = [[row[name] for name in FLAGS] for row in rows("gbfs", url) if row["station_id"].isdigit()]
        assert found == expected


def test_each_bike_of_the_operator_has_a_number_and_but_for_stations_with_a_bad_radio_one_place(feed):
    with urllib.request.urlopen(feed.operator_url) as answer:
        (city,) = json.load(answer)["data"][0]["cities"]
    numbers = Counter(bike["number"] for place in city["places"] for bike in place["bikes"])
    assert all(place["availabilityStatus"]["bikes"] == len(place["bikes"]) for place in city["places"])
    assert sum(count > 1 for count in numbers.values()) < 0.1 * len(numbers)


def test_another_instant_is_that_of_all_files(feed):
    at = "?at=2025-08-21T20:00:00Z"
    later = rows("gbfs", feed.gbfs_url + at)
    assert [row["bikes"] for row in later] == [row["bikes"] for row in rows("operator", feed.operator_url + at)]
    assert [row["bikes"] for row in later] != [row["bikes"] for row in rows("gbfs", feed.gbfs_url)]


def test_a_fault_that_the_url_asks_for_and_a_path_of_nothing(feed):
    for url, status in (
        (f"{feed.operator_url}?misbehave={Misbehaviour.SERVER_ERROR}", 500),
        (feed.gbfs_url.replace("gbfs.json", "geofencing_zones.json"), 404),
        (feed.gbfs_url.replace("v2.3", "v9.9"), 404),
    ):
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(url)
        assert error.value.code == status

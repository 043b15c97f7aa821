"""Each feed behaves, lies and lets clients keep answers by itself; all kinds tell the same lie."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import requests

from wrm_pipeline.domain.feeds import KINDS, gbfs
from wrm_pipeline.domain.feeds.fetching import NOTHING_EARLIER, Got
from wrm_pipeline.domain.snapshot import RawSnapshot, parse_snapshots
from wrm_pipeline.simulator.behaviour import FEEDS, Behaviour
from wrm_pipeline.simulator.city import City
from wrm_pipeline.simulator.lies import Lie
from wrm_pipeline.simulator.misbehaviour import OF_ANY_BODY, Misbehaviour, Tuning
from wrm_pipeline.simulator.server import SimulatedFeed, serve

AT = datetime(2025, 8, 21, 15, 20, 2, tzinfo=UTC)
BEGAN = AT - timedelta(minutes=30)
CITY = City(4, station_count=40, bike_count=20)
Rows = dict[str, dict]


class _Clients:
    """What `gbfs.fetch` asks."""

    def now(self) -> datetime:
        return AT

    def get(self, url: str, **_conditions: str) -> Got:
        answer = requests.get(url, timeout=5)
        assert answer.status_code == 200
        return Got(answer.content, answer.content, url, 200, "", AT)

    try_get = get


@pytest.fixture(scope="module")
def server() -> Iterator[SimulatedFeed]:
    tuning = Tuning(drip_bytes=1_000_000, drip_pause_s=0.01, hang_s=0.01, oversize_bytes=100_000)
    with serve(CITY, clock=lambda: AT, tuning=tuning) as running:
        yield running


@pytest.fixture
def feed(server: SimulatedFeed) -> Iterator[SimulatedFeed]:
    yield server
    server.clock = lambda: AT
    for name in FEEDS:
        server.behave(name)
        server.unplan(name)


def url_of(feed: SimulatedFeed, name: str) -> str:
    return {"ucl": feed.url, "operator": feed.operator_url, "gbfs": feed.gbfs_url}[name]


def get(feed: SimulatedFeed, name: str, **headers: str) -> requests.Response:
    return requests.get(url_of(feed, name), headers=headers, timeout=5)


def rows(feed: SimulatedFeed, name: str) -> Rows:
    """Rows by station, as the pipeline reads them."""
    url = url_of(feed, name)
    body = gbfs.fetch(_Clients(), url, NOTHING_EARLIER).body if name == "gbfs" else requests.get(url, timeout=5).content
    batch = parse_snapshots([RawSnapshot("x", feed.clock(), body, feed=name)])
    assert batch.reports[0].counts.dead_lettered == 0
    return {row["station_id"]: row for row in batch.rows.to_pylist()}


def stations(found: Rows) -> Rows:
    return {key: row for key, row in found.items() if not key.startswith("fb")}


def counts(found: Rows) -> dict[str, int]:
    return {key: row["bikes"] for key, row in stations(found).items()}


@pytest.fixture(scope="module")
def true(server: SimulatedFeed) -> Rows:
    return rows(server, "ucl")


@pytest.mark.parametrize("lie", Lie)
def test_all_kinds_tell_the_same_lie(feed: SimulatedFeed, lie: Lie, true: Rows):
    same = ("name", "lat", "lon", "bikes", "spaces", "total_docks", "pedelecs")
    said = []
    for name in FEEDS:
        assert rows(feed, name).keys() == true.keys()
        feed.behave(name, Behaviour(lie=lie, since=BEGAN))
        said.append({key: [row[part] for part in same] for key, row in rows(feed, name).items()})
    assert said[0] == said[1] == said[2]
    assert said[0] != {key: [row[part] for part in same] for key, row in true.items()}


@pytest.mark.parametrize("name", FEEDS)
def test_frozen_counts_stand_still_while_report_times_move(feed: SimulatedFeed, name: str):
    feed.behave(name, Behaviour(lie=Lie.FROZEN_COUNTS))
    first = rows(feed, name)
    feed.clock = lambda: AT + timedelta(minutes=40)
    second = rows(feed, name)
    assert counts(second) == counts(first)
    assert {row["timestamp"] for row in second.values()}.isdisjoint(row["timestamp"] for row in first.values())
    feed.behave(name)
    assert counts(rows(feed, name)) != counts(first)


def test_what_each_lie_says(feed: SimulatedFeed, true: Rows):
    def told(lie: Lie) -> Rows:
        feed.behave("ucl", Behaviour(lie=lie))
        return rows(feed, "ucl")

    other = stations(told(Lie.ANOTHER_CITY))
    assert other.keys().isdisjoint(true)
    assert min(row["lat"] for row in other.values()) > 51.8
    assert len(stations(told(Lie.FEWER_STATIONS))) == 24
    assert sum(counts(told(Lie.FEWER_BIKES)).values()) < 0.4 * sum(counts(true).values())
    zero = told(Lie.ALL_ZERO)
    assert zero.keys() == stations(true).keys()
    assert set(counts(zero).values()) == {0}
    capped = told(Lie.CAPPED)
    assert max(counts(capped).values()) == 5
    assert {row["count_capped"] for row in capped.values() if row["bikes"] < 5} == {False}
    assert any(row["count_capped"] for row in capped.values())
    renamed = told(Lie.RENAMED_STATION)
    assert [row["name"] for key, row in renamed.items() if row["name"] != true[key]["name"]] == ["Plac Nowy"]


def test_ids_change_at_midnight(feed: SimulatedFeed):
    feed.behave("ucl", Behaviour(lie=Lie.CHANGING_IDS))
    found = []
    for hours in (0, 6, 7):  # 17:20, 23:20 and 00:20 in Warsaw
        feed.clock = lambda hours=hours: AT + timedelta(hours=hours)
        found.append(stations(rows(feed, "ucl")).keys())
    assert found[0] == found[1]
    assert found[1].isdisjoint(found[2])


@pytest.mark.parametrize("name", FEEDS)
def test_a_fault_is_that_of_one_feed_until_it_behaves_again(feed: SimulatedFeed, name: str):
    feed.behave(name, Behaviour(Misbehaviour.SERVER_ERROR))
    for _ in range(2):
        assert {other: get(feed, other).status_code for other in FEEDS} == dict.fromkeys(FEEDS, 200) | {name: 500}
    feed.behave(name)
    feed.plan(Misbehaviour.UNAVAILABLE, feed=name)
    assert [get(feed, name).status_code for _ in range(2)] == [503, 200]


@pytest.mark.parametrize("kind", sorted(OF_ANY_BODY - {"hang", "hang_in_body"}))
@pytest.mark.parametrize("name", ["operator", "gbfs"])
def test_feeds_of_json_have_the_faults_of_any_body(feed: SimulatedFeed, name: str, kind: str):
    good = get(feed, name).content
    feed.plan(kind, feed=name)
    try:
        answer = requests.get(url_of(feed, name), timeout=5)
    except requests.RequestException:
        return
    assert answer.status_code != 200 or answer.content != good or kind in {"slow", "frozen"}


def test_a_fault_of_csv_is_refused_for_json(feed: SimulatedFeed):
    with pytest.raises(ValueError, match="crlf is a fault of CSV; operator can have"):
        feed.plan(Misbehaviour.CRLF, feed="operator")
    answer = requests.get(feed.gbfs_url, params={"misbehave": "no_header"}, timeout=5)
    assert (answer.status_code, "fault of CSV" in answer.text) == (400, True)


@pytest.mark.parametrize("name", FEEDS)
def test_etags(feed: SimulatedFeed, name: str):
    assert "ETag" not in get(feed, name).headers
    feed.behave(name, Behaviour(etags=True))
    first = get(feed, name)
    again = get(feed, name, **{"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    feed.behave(name, Behaviour(etags=True, lie=Lie.RENAMED_STATION))
    feed.clock = lambda: AT + timedelta(minutes=1)
    assert get(feed, name, **{"If-None-Match": first.headers["ETag"]}).status_code == 200


def test_a_ttl_is_said_and_who_asks_too_early_is_told_when_to_come_back(feed: SimulatedFeed):
    assert get(feed, "gbfs").json()["ttl"] == 60
    for name in FEEDS:
        feed.behave(name, Behaviour(ttl_s=300, strict=True))
        first = get(feed, name)
        assert (first.status_code, first.headers["Cache-Control"]) == (200, "max-age=300")
        feed.clock = lambda: AT + timedelta(seconds=100)
        early = get(feed, name)
        assert (early.status_code, early.headers["Retry-After"]) == (429, "200")
        feed.clock = lambda: AT + timedelta(seconds=300)
        assert get(feed, name).status_code == 200
        feed.clock = lambda: AT
    feed.behave("gbfs", Behaviour(ttl_s=300))
    assert get(feed, "gbfs").json()["ttl"] == 300


def test_behaviour_is_set_over_http(feed: SimulatedFeed):
    control = feed.operator_url.replace("/operator/locations", "/control")
    answer = requests.get(control, params={"feed": "operator", "misbehave": "503", "ttl": "300"}, timeout=5)
    assert answer.status_code == 200
    assert "operator: " in answer.text
    assert [get(feed, name).status_code for name in FEEDS] == [200, 503, 200]
    requests.get(control, params={"lie": "all_zero"}, timeout=5)
    assert set(counts(rows(feed, "operator")).values()) == {0}
    requests.get(control, timeout=5)
    assert max(counts(rows(feed, "operator")).values()) > 0
    for wrong in ({"feed": "x"}, {"lie": "x"}, {"misbehave": "x"}, {"feed": "gbfs", "misbehave": "crlf"}, {"ttl": "x"}):
        assert requests.get(control, params=wrong, timeout=5).status_code == 400


def test_the_url_may_ask_for_a_lie_and_all_files_of_gbfs_tell_it(feed: SimulatedFeed):
    found = json.loads(requests.get(f"{feed.gbfs_url}?lie=all_zero", timeout=5).content)
    addresses = {one["name"]: one["url"] for one in found["data"]["pl"]["feeds"]}
    status = requests.get(addresses["station_status"], timeout=5).json()["data"]["stations"]
    assert {station["num_bikes_available"] for station in status} == {0}


def test_requests_are_counted_by_feed(feed: SimulatedFeed):
    before = {name: feed.requests_of(name) for name in FEEDS}
    get(feed, "ucl")
    rows(feed, "gbfs")
    assert {name: feed.requests_of(name) - before[name] for name in FEEDS} == {"ucl": 1, "operator": 0, "gbfs": 5}


def test_each_kind_of_feed_is_simulated():
    assert tuple(KINDS) == FEEDS

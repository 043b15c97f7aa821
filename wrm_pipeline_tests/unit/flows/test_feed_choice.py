"""A day of several feeds: one feed's snapshot a minute is published, the first in order that tells the truth."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from wrm_pipeline.checks.feeds import check_feeds
from wrm_pipeline.domain.dead_letters import PARKED, PENDING, REPROCESSED
from wrm_pipeline.domain.feeds import KINDS
from wrm_pipeline.domain.feeds.agreement import Agreement
from wrm_pipeline.domain.feeds.health import health_of
from wrm_pipeline.domain.feeds.record import FeedRecord, feed_of
from wrm_pipeline.domain.feeds.soundness import judged
from wrm_pipeline.domain.incidents import Incidents
from wrm_pipeline.domain.manifest import Manifest
from wrm_pipeline.flows.feed_health import look_at_feeds
from wrm_pipeline.flows.rebuild import rebuild_partition
from wrm_pipeline.flows.replay import PASSED_OVER, Selection, replay
from wrm_pipeline.flows.watch import plan_reconciliation_runs
from wrm_pipeline.lake.dead_letter_queue import DeadLetterQueue
from wrm_pipeline.lake.published_partitions import PublishedPartitions
from wrm_pipeline.sensors.alerts import feed_outcomes
from wrm_pipeline.settings import load_settings
from wrm_pipeline_tests.fixtures.lake import DAY, Lake, WatchedStore, run_job
from wrm_pipeline_tests.fixtures.operator_answers import answer, station
from wrm_pipeline_tests.fixtures.snapshots import body, line

ZONE = ZoneInfo("Europe/Warsaw")
MINUTE = timedelta(minutes=1)
STATIONS = 12
YESTERDAY = DAY - timedelta(days=1)


def local(hour: int, minute: int = 0, dt: date = DAY) -> datetime:
    return datetime(dt.year, dt.month, dt.day, hour, minute, 2, tzinfo=ZONE).astimezone(ZoneInfo("UTC"))


def counts(at: datetime) -> list[int]:
    """Bikes of each station: one of them changes each minute."""
    step = int(at.timestamp()) // 60
    return [4 + n + (step + n) // STATIONS % 3 for n in range(STATIONS)]


def ucl(at: datetime, *, state: datetime | None = None, north: float = 0.0) -> bytes:
    """The first feed's body; `state` is when its counts are from."""
    combined = f"{int(at.timestamp())}|7200|-1"
    return body(
        *(
            line(id=f"{15001 + n}", combined=combined, lat=f"{51.1 + n * 0.003 + north:.5f}", bikes=f"{bikes}")
            for n, bikes in enumerate(counts(state or at))
        )
    )


def operator(at: datetime) -> bytes:
    """The second feed's body."""
    return answer(stations(at))


def stations(at: datetime) -> list[dict[str, Any]]:
    return [
        station(15001 + n, bikes=bikes, geoCoords={"lat": round(51.1 + n * 0.003, 5), "lng": 17.0326})
        for n, bikes in enumerate(counts(at))
    ]


@pytest.fixture
def two_feeds(lake: Lake, monkeypatch) -> Lake:
    return with_feeds("ucl,operator", monkeypatch)


def with_feeds(feeds: str, monkeypatch) -> Lake:
    monkeypatch.setenv("WRM_FEEDS", feeds)
    return Lake(load_settings())


def put(lake: Lake, feed: str, at: datetime, content: bytes) -> str:
    key = lake.layout.raw_key(at, KINDS[feed])
    # Without the store's fsync: a day has thousands.
    path = lake.settings.data_dir / "lake" / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return key


def put_both(lake: Lake, *times: datetime) -> None:
    for at in times:
        put(lake, "ucl", at, ucl(at))
        put(lake, "operator", at, operator(at))


def build(lake: Lake, dt: date = DAY, *, store=None, **options) -> list[str]:
    """Build and publish the day; the layers that changed."""
    now = datetime.now(ZONE)
    done = rebuild_partition(store or lake.store, lake.layout, dt, area=lake.settings.area, now=now, **options)
    return list(done.written)


def published(lake: Lake, dt: date = DAY) -> dict[str, str]:
    """The feed of each published minute (local HH:MM)."""
    rows = lake.rows("processed", dt)
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(f"{row['file_timestamp'].astimezone(ZONE):%H:%M}", set()).add(row["feed"])
    assert all(len(feeds) == 1 for feeds in found.values())
    per_snapshot = Counter((row["file_timestamp"], row["feed"]) for row in rows)
    assert set(per_snapshot.values()) == {STATIONS}
    return {minute: next(iter(feeds)) for minute, feeds in found.items()}


def manifest_of(lake: Lake, dt: date = DAY) -> Manifest:
    parts = PublishedPartitions(lake.store, lake.layout).read("processed", dt)
    assert parts is not None
    manifest = Manifest.from_footer(parts.footer_metadata)
    assert manifest is not None
    return manifest


def rows(lake: Lake) -> list:
    return [{**row} for row in lake.rows("processed")]


def feed_day(lake: Lake, *, every: int) -> None:
    """The first feed dies at 8:00, comes back frozen at 10:00, is well at 12:00, and is another city from 14 to 15."""
    for minute in range(7 * 60, 16 * 60):
        hour, at = minute // 60, local(0) + minute * MINUTE
        if hour in (10, 11):
            put(lake, "ucl", at, ucl(at, state=local(7, 59)))
        elif hour == 14:
            put(lake, "ucl", at, ucl(at, north=1.0))
        elif hour not in (8, 9):
            put(lake, "ucl", at, ucl(at))
        # One minute without any feed, and two without the second.
        if minute not in (9 * 60 + 10, 14 * 60 + 20, 15 * 60 + 5):
            put(lake, "operator", at, operator(at))
        if minute % every == 0:
            build(lake, layers=["processed"])
    build(lake)


def wanted(lake: Lake) -> list[date]:
    """The days of which the reconciliation requests a run."""
    none: frozenset[date] = frozenset()
    plan = plan_reconciliation_runs(
        lake.store, lake.layout, None, area=lake.settings.area, now=local(17), today=DAY, started=none
    )
    return [run.dt for run in plan.runs]


def told(record: FeedRecord) -> list[tuple[str, str, str]]:
    """All messages, if the feeds are checked every five minutes: local time, first line, text."""
    snapshots = [snapshot for _, snapshot in record.snapshots()]
    verdicts = judged(snapshots, record.baselines, ZONE)
    incidents, messages = Incidents(), []
    for minute in range(7 * 60, 16 * 60, 5):
        at = local(0) + minute * MINUTE
        count = sum(snapshot.at <= at for snapshot in snapshots)
        health = health_of(("ucl", "operator"), snapshots[:count], verdicts[:count], {})
        for outcome in feed_outcomes(check_feeds(health), at.timestamp(), f"run {minute}"):
            incidents.observe(outcome)
        # The sensor comes half a minute later.
        for message in incidents.to_report(at.timestamp() + 30, "http://ui", "webhook"):
            incidents.reported(message, at.timestamp() + 30, "webhook", ["webhook"])
            first, *_ = message.text.splitlines()
            messages.append((f"{minute // 60:02}:{minute % 60:02}", first, message.text))
    return messages


def test_a_day_on_which_the_first_feed_dies_freezes_and_serves_another_city(two_feeds: Lake):
    lake = two_feeds
    evening = [local(23, 0, YESTERDAY) + minute * MINUTE for minute in range(10)]
    for at in evening:
        put(lake, "ucl", at, ucl(at))
    build(lake, YESTERDAY)
    feed_day(lake, every=45)

    found = published(lake)
    expected = [f"{hour:02}:{minute:02}" for hour in range(7, 16) for minute in range(60)]
    missing = [minute for minute in expected if minute not in found]
    assert missing == ["09:10", "14:20"]  # nothing but another city was served at 14:20
    assert {minute for minute, feed in found.items() if feed == "operator"} == {
        minute for minute in expected if minute[:2] in ("08", "09", "10", "11", "14") and minute not in missing
    }
    assert all(row["lat"] < 51.5 for row in lake.rows("processed"))

    manifest = manifest_of(lake)
    record = FeedRecord.from_json(manifest.feeds)
    verdicts = Counter((feed_of(key), one.verdict) for key, one in record.objects.items())
    assert verdicts == {
        ("ucl", "sound"): 4 * 60,
        ("ucl", "frozen"): 120,
        ("ucl", "elsewhere"): 60,
        ("operator", "sound"): 9 * 60 - 3,
    }
    assert manifest.counts.balanced
    assert manifest.counts.rows_out == len(found) * STATIONS == manifest.counts.lines_in
    assert not lake.letters()

    messages = told(record)
    assert [message[:2] for message in messages] == [
        ("08:15", "🟡 *Feed ucl: silent* has begun (a warning)"),
        ("10:00", "🟡 *Feed ucl: frozen* has begun (a warning)"),
        ("10:05", "🟢 *Feed ucl: silent* is over"),
        ("12:05", "🟢 *Feed ucl: frozen* is over"),
        ("14:00", "🟡 *Feed ucl: elsewhere* has begun (a warning)"),
        ("15:05", "🟢 *Feed ucl: elsewhere* is over"),
    ]
    seen = [text for _, _, text in messages]
    assert "no new snapshot for 16 minutes, while another feed gives some" in seen[0]
    assert "counts of all 12 stations unchanged for 121 minutes while report times move" in seen[1]
    assert "0 of 12 stations are where one of the 12 stations of the day before was: another city" in seen[4]

    before = lake.rows("processed")
    assert build(lake) == []
    assert wanted(lake) == []
    build(lake, full=True)
    assert lake.rows("processed") == before


def test_bike_positions_that_lag_behind_are_requested_where_their_feed_is_fetched(two_feeds: Lake, monkeypatch):
    lake = two_feeds
    put_both(lake, local(12))
    build(lake, layers=["processed", "enhanced"])
    assert wanted(lake) == [DAY]
    build(lake)
    assert wanted(lake) == []
    put_both(lake, local(12, 1))
    build(lake, layers=["processed", "enhanced"])
    assert wanted(lake) == [DAY]
    assert wanted(with_feeds("ucl", monkeypatch)) == []


def test_a_dead_letter_of_a_feed_is_replayed_while_its_minute_is_that_feeds(two_feeds: Lake):
    lake = two_feeds
    bad = [station(15100, bikes=4, geoCoords={"lat": 95.0, "lng": 17.0})]
    for minute in (0, 1):
        at = local(12, minute)
        good = [
            station(15001 + n, bikes=n, geoCoords={"lat": 51.1 + n * 0.003, "lng": 17.0326}) for n in range(STATIONS)
        ]
        put(lake, "operator", at, answer(good + bad))
    build(lake)
    queue = DeadLetterQueue(lake.store, lake.layout)
    assert [(letter.status, feed_of(letter.source_key)) for letter in queue.of_date(DAY)] == [(PENDING, "operator")] * 2
    for letter in queue.of_date(DAY):
        right = json.dumps(station(15100, bikes=4, geoCoords={"lat": 51.2, "lng": 17.0}))
        queue.put(replace(letter, records=tuple(replace(one, corrected_data=right) for one in letter.records)))
    # The better feed has its first minute after all.
    put(lake, "ucl", local(12), ucl(local(12)))

    later = datetime.now(ZONE) + timedelta(hours=1)
    result = replay(lake.store, lake.layout, Selection(), area=lake.settings.area, now=later)

    found = Counter((row["file_timestamp"], row["feed"]) for row in lake.rows("processed"))
    assert found == {(local(12), "ucl"): STATIONS, (local(12, 1), "operator"): STATIONS + 1}
    assert {letter.source_key[-13:-5]: letter.note for letter in result.letters} == {
        "10-00-02": PASSED_OVER,
        "10-01-02": "",
    }
    assert {letter.status for letter in queue.of_date(DAY)} == {REPROCESSED}
    before = lake.etags()
    assert replay(lake.store, lake.layout, Selection(), area=lake.settings.area, now=later).letters == ()
    assert lake.etags() == before


def test_the_job_settles_letters_of_two_feeds_one_of_which_is_passed_over_in_its_minute(two_feeds: Lake):
    lake, first, second = two_feeds, local(12), local(12, 1)
    wrong, right = ({"lat": lat, "lng": 17.0} for lat in (95.0, 51.2))
    put(lake, "operator", first, answer([*stations(first), station(15100, bikes=4, geoCoords=wrong)]))
    combined = f"{int(second.timestamp())}|7200|-1"
    put(lake, "ucl", second, ucl(second) + line(id="15200", combined=combined, bikes="x").encode() + b"\n")
    put(lake, "operator", second, operator(second))
    build(lake)
    queue = DeadLetterQueue(lake.store, lake.layout)
    corrections = {
        "operator": json.dumps(station(15100, bikes=4, geoCoords=right)),
        "ucl": line(id="15200", combined=combined, bikes="4"),
    }
    letters = queue.of_date(DAY)
    assert sorted(feed_of(letter.source_key) for letter in letters) == ["operator", "ucl"]
    for letter in letters:
        data = corrections[feed_of(letter.source_key)]
        queue.put(replace(letter, records=tuple(replace(one, corrected_data=data) for one in letter.records)))
    # The better feed has the first minute after all.
    put(lake, "ucl", first, ucl(first))

    done = run_job("reprocess_dlq", config={"replay_dead_letters": {}})

    assert done.output_for_node("replay_dead_letters") == {REPROCESSED: 2, PENDING: 0, PARKED: 0}
    for layer in ("processed", "enhanced"):
        rows = lake.rows(layer)
        assert Counter((row["file_timestamp"], row["feed"]) for row in rows) == {
            (first, "ucl"): STATIONS,
            (second, "ucl"): STATIONS + 1,
        }
        assert [row["bikes"] for row in rows if row["station_id"] in ("15100", "15200")] == [4]
    assert {letter.status for letter in queue.of_date(DAY)} == {REPROCESSED}
    before = lake.etags()
    again = run_job("reprocess_dlq", config={"replay_dead_letters": {}})
    assert again.output_for_node("replay_dead_letters") == {REPROCESSED: 0, PENDING: 0, PARKED: 0}
    assert lake.etags() == before


def test_the_body_of_a_better_feed_that_arrives_late_takes_its_minute_back(two_feeds: Lake):
    lake = two_feeds
    put_both(lake, local(12), local(12, 2))
    put(lake, "operator", local(12, 1), operator(local(12, 1)))
    build(lake)
    assert published(lake) == {"12:00": "ucl", "12:01": "operator", "12:02": "ucl"}
    late = put(lake, "ucl", local(12, 1), ucl(local(12, 1)))
    store = WatchedStore(lake.store)
    assert build(lake, store=store) == ["processed", "enhanced"]
    assert published(lake) == {"12:00": "ucl", "12:01": "ucl", "12:02": "ucl"}
    assert len(lake.rows("enhanced")) == 3 * STATIONS
    assert [key for operation, key in store.calls if operation == "get" and "/raw/" in key] == [late]


def test_taking_over_and_handing_back_are_events_in_the_log(two_feeds: Lake, caplog):
    lake, events = two_feeds, []
    for minute, feed in enumerate(["ucl", "ucl", "operator", "operator", "ucl"]):
        caplog.clear()
        put(lake, feed, at := local(12, minute), ucl(at) if feed == "ucl" else operator(at))
        build(lake)
        events.append("another feed is published" in caplog.text)
    assert events == [False, False, True, False, True]


def test_a_body_that_is_set_aside_changes_no_row_and_is_read_once(two_feeds: Lake):
    lake = two_feeds
    put(lake, "ucl", local(12), ucl(local(12)))
    build(lake)
    before = lake.rows("processed")
    put(lake, "operator", local(12), operator(local(12)))
    assert "processed" in build(lake)
    assert lake.rows("processed") == before
    store = WatchedStore(lake.store)
    assert build(lake, store=store) == []
    assert not [key for operation, key in store.calls if operation == "get" and "/raw/" in key]
    assert len(FeedRecord.from_json(manifest_of(lake).feeds).objects) == 2
    assert list(manifest_of(lake).sources) == [lake.layout.raw_key(local(12))]


def test_a_new_order_of_trust_counts_for_new_minutes_only_until_the_day_is_rebuilt(two_feeds: Lake, monkeypatch):
    put_both(two_feeds, local(12), local(12, 1))
    build(two_feeds)
    lake = with_feeds("operator,ucl", monkeypatch)
    assert build(lake) == []
    put_both(lake, local(12, 2))
    build(lake)
    assert published(lake) == {"12:00": "ucl", "12:01": "ucl", "12:02": "operator"}
    build(lake, full=True)
    assert set(published(lake).values()) == {"operator"}


def test_a_day_of_one_feed_is_published_as_ever(lake: Lake, monkeypatch):
    for minute in range(30):
        put(lake, "ucl", at := local(12, minute), ucl(at, state=local(12)))
    build(lake)
    first = lake.digest(lake.partition_key("processed"))
    assert manifest_of(lake).feeds == {}
    assert len(published(lake)) == 30
    # Neither does it change when a second feed is added later.
    both = with_feeds("ucl,operator", monkeypatch)
    assert build(both) == []
    assert lake.digest(lake.partition_key("processed")) == first


def test_minutes_that_were_published_before_the_second_feed_was_added_keep_their_rows(lake: Lake, monkeypatch):
    for minute in range(3):
        put(lake, "ucl", at := local(12, minute), ucl(at))
    build(lake)
    both = with_feeds("operator,ucl", monkeypatch)
    put(both, "operator", local(12, 2), operator(local(12, 2)))
    put_both(both, local(12, 3))
    build(both)
    assert published(both) == {"12:00": "ucl", "12:01": "ucl", "12:02": "ucl", "12:03": "operator"}


def test_rows_of_a_raw_object_that_is_gone_stay_even_if_a_better_feed_arrives(two_feeds: Lake):
    lake = two_feeds
    lost = put(lake, "operator", local(12), operator(local(12)))
    put_both(lake, local(12, 1))
    build(lake)
    lake.store.delete(lost)
    put(lake, "ucl", local(12), ucl(local(12)))
    build(lake)
    assert published(lake) == {"12:00": "operator", "12:01": "ucl"}
    build(lake, allow_shrink=True)
    assert published(lake) == {"12:00": "ucl", "12:01": "ucl"}


def test_where_no_feed_is_sound_the_first_of_the_right_city_is_published(two_feeds: Lake):
    lake = two_feeds
    for minute in range(40):
        put(lake, "ucl", at := local(12, minute), ucl(at, state=local(12)))
    build(lake)
    assert len(published(lake)) == 40
    assert Counter(one.verdict for one in FeedRecord.from_json(manifest_of(lake).feeds).objects.values()) == {
        "sound": 20,
        "frozen": 20,
    }


def test_lines_of_a_body_without_rows_are_dead_letters_and_another_feed_has_the_minute(two_feeds: Lake):
    lake = two_feeds
    put(lake, "ucl", local(12), body(line(lat="north"), line(id="15002", lat="south")))
    put(lake, "operator", local(12), operator(local(12)))
    build(lake)
    assert published(lake) == {"12:00": "operator"}
    assert manifest_of(lake).counts.dead_lettered == 2
    assert len(lake.letters()) == 1
    assert build(lake) == []


def test_the_state_of_the_feeds_compares_them_and_one_feed_alone_is_judged_too(two_feeds: Lake, monkeypatch):
    lake = two_feeds
    times = [local(12, minute) for minute in range(10)]
    for at in times:
        put(lake, "ucl", at, ucl(at))
        # It lacks nothing, and is two minutes late.
        put(lake, "operator", at, operator(at - 2 * MINUTE))
    build(lake)
    partitions = PublishedPartitions(lake.store, lake.layout)
    first, second = look_at_feeds(partitions, now=times[-1])
    assert (first.feed, first.published, first.kind, first.agreement) == ("ucl", True, "sound", None)
    assert (second.feed, second.published, second.kind) == ("operator", False, "sound")
    assert second.agreement == Agreement(1.0, 0, 0, 2)
    one = with_feeds("ucl", monkeypatch)
    for minute in range(30):
        at = local(15, minute, YESTERDAY)
        put(one, "ucl", at, ucl(at, state=local(15, 0, YESTERDAY)))
    build(one, YESTERDAY)
    assert manifest_of(one, YESTERDAY).feeds == {}
    (frozen,) = look_at_feeds(PublishedPartitions(one.store, one.layout), now=local(15, 30, YESTERDAY))
    assert (frozen.kind, frozen.published) == ("frozen", True)
    assert frozen.reason.startswith("counts of all 12 stations unchanged for 29 minutes while report times move")
    assert look_at_feeds(PublishedPartitions(one.store, one.layout), now=local(12, 0, DAY + timedelta(days=1))) == []

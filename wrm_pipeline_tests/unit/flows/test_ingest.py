"""Feed -> raw/: stored once, or kept on the disk until it can be; never lost, never twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import pytest

from wrm_pipeline.clients.errors import PermanentError, TransientError
from wrm_pipeline.clients.feed import FetchedBody
from wrm_pipeline.domain.feeds import UCL
from wrm_pipeline.domain.layout import local_date
from wrm_pipeline.flows import ingest
from wrm_pipeline.flows.ingest import take_snapshot
from wrm_pipeline.lake.dead_letter_queue import DeadLetterQueue
from wrm_pipeline.lake.spool import Spool, SpoolFullError
from wrm_pipeline_tests.fixtures.lake import NOON, Lake, WatchedStore, snapshot
from wrm_pipeline_tests.fixtures.snapshots import line

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HTML = b"<!DOCTYPE html>\n<html><body>503 Service Unavailable</body></html>\n"


class Fetches:
    """A feed with prepared bodies, one per fetch; an exception in place of a body is raised."""

    def __init__(self) -> None:
        self.answers: Iterator[tuple[datetime, bytes | Exception]] = iter(())
        self.correlation_ids: list[str] = []

    def will_say(self, *answers: tuple[datetime, bytes | Exception]) -> None:
        self.answers = iter(answers)

    kind = UCL
    memory = None

    def fetch(self, *, correlation_id: str = "") -> FetchedBody:
        self.correlation_ids.append(correlation_id)
        at, body = next(self.answers)
        if isinstance(body, Exception):
            raise body
        return FetchedBody(body, at, 200, "text/csv")


class Ingest:
    """The flow with a lake, a spool, and a store that can be made to fail."""

    def __init__(self, lake: Lake) -> None:
        self.lake = lake
        self.feed = Fetches()
        self.spool = Spool(lake.settings.spool_dir, 10_000_000)
        self.store = WatchedStore(lake.store)
        self.cannot_connect: Exception | None = None

    def connect(self) -> WatchedStore:
        if self.cannot_connect is not None:
            raise self.cannot_connect
        return self.store

    def down(self) -> None:
        self.store.fails = lambda _operation, _key: True

    def up(self) -> None:
        self.store.fails = lambda _operation, _key: False

    def take(self, at: datetime, body: bytes | Exception | None = None, **kwargs) -> ingest.IngestResult:
        self.feed.will_say((at, snapshot(at) if body is None else body))
        self.store.calls.clear()
        self.store.listed = 0
        return take_snapshot(self.feed, self.connect, self.lake.layout, self.spool, **kwargs)

    @property
    def raw(self) -> list[str]:
        return [key.rpartition("/raw/")[2] for key in self.lake.keys("raw/")]

    @property
    def waiting(self) -> list[datetime]:
        return [body.fetched_at for body in self.spool.waiting()]


@pytest.fixture
def flow(lake: Lake) -> Ingest:
    return Ingest(lake)


# --- stored ---


def test_a_snapshot_is_stored_byte_for_byte_with_its_hash(flow):
    content = snapshot(NOON).replace(b"\n", b"\r\n") + b"\xff\xfe broken,line\n"
    result = flow.take(NOON, content, correlation_id="run-1")

    key = "bike-data/gen_info/raw/dt=2025-08-21/wrm_stations_2025-08-21_12-00-00.txt"
    assert (result.key, result.duplicate, result.spooled, result.fault) == (key, False, False, None)
    assert flow.lake.store.get(key) == content
    sha256 = hashlib.sha256(content).hexdigest()
    assert flow.lake.store.stat(key).metadata["sha256"] == result.sha256 == sha256
    assert result.size_bytes == len(content)
    assert result.counts.balanced
    assert (result.counts.rows_out, result.counts.dead_lettered) == (11, 1)
    assert flow.feed.correlation_ids == ["run-1"]
    assert flow.waiting == []


def test_each_object_names_the_run_that_fetched_it_however_late_it_was_stored(flow):
    runs = [f"{n}1111111-2222-3333-4444-555555555555" for n in range(3)]
    flow.down()
    for n in (0, 1):
        assert flow.take(NOON + timedelta(minutes=n), snapshot(NOON, bikes=n), correlation_id=runs[n]).spooled
    flow.up()
    flow.take(NOON + timedelta(minutes=2), snapshot(NOON, bikes=2), correlation_id=runs[2])
    assert [flow.lake.store.stat(key).metadata["run-id"] for key in flow.lake.keys("raw/")] == runs


def test_the_folder_is_the_date_in_warsaw_and_the_name_is_in_utc(flow):
    flow.take(datetime(2025, 8, 21, 21, 59, 59, 999_999, tzinfo=UTC))
    flow.take(datetime(2025, 8, 21, 22, 0, 0, tzinfo=UTC))
    flow.take(datetime(2025, 12, 31, 23, 0, 0, tzinfo=UTC))
    assert flow.raw == [
        "dt=2025-08-21/wrm_stations_2025-08-21_21-59-59.txt",
        "dt=2025-08-22/wrm_stations_2025-08-21_22-00-00.txt",
        "dt=2026-01-01/wrm_stations_2025-12-31_23-00-00.txt",
    ]


# --- duplicates ---


def test_the_bytes_of_the_snapshot_before_are_not_stored_again(flow):
    content = snapshot(NOON)
    first = flow.take(NOON, content)
    again = flow.take(NOON + MINUTE, content)
    changed = flow.take(NOON + 2 * MINUTE)

    assert (first.duplicate, again.duplicate, changed.duplicate) == (False, True, False)
    assert again.sha256 == first.sha256
    assert again.counts.rows_out == 11
    assert flow.raw == [
        "dt=2025-08-21/wrm_stations_2025-08-21_12-00-00.txt",
        "dt=2025-08-21/wrm_stations_2025-08-21_12-02-00.txt",
    ]


def test_only_the_snapshot_before_counts(flow):
    a, b = snapshot(NOON), snapshot(NOON + MINUTE)
    results = [flow.take(NOON + n * MINUTE, content) for n, content in enumerate([a, b, a])]
    assert [result.duplicate for result in results] == [False, False, False]
    assert len(flow.raw) == 3


def test_a_duplicate_across_midnight_in_warsaw_is_one(flow):
    midnight = datetime(2025, 8, 21, 22, 0, 0, tzinfo=UTC)
    content = snapshot(midnight)
    assert not flow.take(midnight - SECOND, content).duplicate
    assert flow.take(midnight + 59 * SECOND, content).duplicate
    assert len(flow.raw) == 1


def test_a_feed_that_is_frozen_is_stored_once_an_hour(flow):
    frozen = snapshot(NOON)
    results = [flow.take(NOON + n * MINUTE, frozen) for n in range(0, 150, 2)]
    stored = [result.fetched_at for result in results if not result.duplicate]
    assert stored == [NOON, NOON + 60 * MINUTE, NOON + 120 * MINUTE]


def test_an_older_snapshot_without_a_hash_in_its_metadata_is_compared_by_its_bytes(flow):
    content = snapshot(NOON)
    path = flow.lake.settings.lake_dir / flow.lake.layout.raw_key(NOON)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert flow.take(NOON + MINUTE, content).duplicate


@pytest.mark.parametrize("old", [10, 2_000])
def test_a_fetch_costs_the_same_however_much_history_there_is(flow, old):
    for n in range(old):
        at = NOON - (old - n) * MINUTE
        path = flow.lake.settings.lake_dir / flow.lake.layout.raw_key(at)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"old")
    flow.lake.store.put(flow.lake.layout.raw_key(NOON - 10 * SECOND), b"the one before")

    result = flow.take(NOON)

    assert result.key == flow.lake.layout.raw_key(NOON)
    assert flow.store.counts == {"list": 1, "stat": 1, "put_if_absent": 1}
    assert flow.store.listed <= 61

    flow.take(NOON + SECOND, snapshot(NOON))
    assert flow.store.counts == {"list": 1, "stat": 1}


def test_around_midnight_it_is_one_listing_more(flow):
    midnight = datetime(2025, 8, 21, 22, 0, 0, tzinfo=UTC)
    flow.take(midnight - MINUTE)
    flow.take(midnight + MINUTE)
    assert flow.store.counts == {"list": 2, "stat": 1, "put_if_absent": 1}


# --- one second ---


def test_two_bodies_of_one_second_get_two_keys(flow):
    a, b, c = (snapshot(NOON, stations) for stations in (3, 4, 5))
    keys = [flow.take(NOON.replace(microsecond=n), content).key for n, content in enumerate([a, b, c])]
    assert [key[-23:] for key in keys] == [
        "2025-08-21_12-00-00.txt",
        "2025-08-21_12-00-01.txt",
        "2025-08-21_12-00-02.txt",
    ]
    assert [flow.lake.store.get(key) for key in keys] == [a, b, c]


def test_the_last_second_of_a_day_gives_way_to_the_first_of_the_next(flow):
    last = datetime(2025, 8, 21, 21, 59, 59, tzinfo=UTC)
    flow.take(last, snapshot(last, 3))
    flow.take(last, snapshot(last, 4))
    assert flow.raw == [
        "dt=2025-08-21/wrm_stations_2025-08-21_21-59-59.txt",
        "dt=2025-08-22/wrm_stations_2025-08-21_22-00-00.txt",
    ]


def test_seconds_that_are_all_taken_lead_to_the_spool(flow):
    for n in range(60):
        flow.lake.put_raw(NOON + n * SECOND, b"someone else's")
    result = flow.take(NOON)
    assert result.spooled
    assert "more than one fetcher" in result.spool_reason
    assert flow.waiting == [NOON]


# --- the store is away ---


def _permanent() -> PermanentError:
    return PermanentError("HTTP 403", "s3", "put", "s3://b/k", "Check the S3 keys", 403)


@pytest.mark.parametrize(
    "away",
    ["cannot connect", "refuses", "disk", "listing", "hash of the last", "put"],
)
def test_while_the_store_is_away_a_snapshot_waits_with_its_intended_time(flow, away):
    flow.take(NOON - MINUTE)
    match away:
        case "cannot connect":
            flow.cannot_connect = TransientError("connection refused", "vault", "get")
        case "refuses":
            flow.cannot_connect = _permanent()
        case "disk":
            flow.cannot_connect = OSError(30, "Read-only file system")
        case "listing":
            flow.store.fails = lambda operation, _key: operation == "list"
        case "hash of the last":
            flow.store.fails = lambda operation, _key: operation == "stat"
        case "put":
            flow.store.fails = lambda operation, _key: operation == "put_if_absent"
    raw = flow.raw

    result = flow.take(NOON)

    assert (result.spooled, result.duplicate, result.fault) == (True, False, None)
    assert result.key == flow.lake.layout.raw_key(NOON)
    assert result.spool_reason
    assert flow.raw == raw
    (body,) = flow.spool.waiting()
    assert (body.kind, body.fetched_at, body.read()) == ("raw", NOON, snapshot(NOON))


def test_what_waits_is_delivered_oldest_first_just_once_into_its_own_partition(flow):
    midnight = datetime(2025, 8, 21, 22, 0, 0, tzinfo=UTC)
    times = [midnight + n * MINUTE for n in (-2, -1, 0, 1)]
    flow.down()
    for at in times:
        assert flow.take(at).spooled
    flow.up()

    result = flow.take(midnight + 2 * MINUTE)

    keys = [flow.lake.layout.raw_key(at) for at in times]
    assert list(result.delivered.keys) == keys
    assert (result.spooled, result.delivered.still_waiting) == (False, 0)
    assert flow.store.written == [*keys, flow.lake.layout.raw_key(midnight + 2 * MINUTE)]
    assert [name[:13] for name in flow.raw] == ["dt=2025-08-21"] * 2 + ["dt=2025-08-22"] * 3
    assert [flow.lake.store.get(key) for key in keys] == [snapshot(at) for at in times]
    assert flow.waiting == []

    assert flow.take(midnight + 3 * MINUTE).delivered.keys == ()


def test_a_crash_between_delivery_and_removal_delivers_once(flow):
    flow.down()
    flow.take(NOON)
    (waiting,) = flow.spool.waiting()
    flow.up()
    flow.take(NOON + MINUTE)
    # As if the process had died after the PUT: the body is still in the spool.
    flow.spool.add("raw", waiting.fetched_at, snapshot(NOON))

    result = flow.take(NOON + 2 * MINUTE)

    assert result.delivered.keys == ()
    assert len(flow.raw) == 3
    assert flow.waiting == []


def test_a_store_that_fails_in_the_midst_of_a_delivery_loses_and_repeats_nothing(flow):
    flow.down()
    for n in range(5):
        flow.take(NOON + n * MINUTE)
    third = flow.lake.layout.raw_key(NOON + 2 * MINUTE)
    flow.store.fails = lambda operation, key: operation == "put_if_absent" and key >= third

    assert flow.take(NOON + 5 * MINUTE).spooled
    assert flow.waiting == [NOON + n * MINUTE for n in (2, 3, 4, 5)]

    flow.up()
    flow.take(NOON + 6 * MINUTE)
    assert flow.waiting == []
    assert [name[-12:-7] for name in flow.raw] == [f"12-0{n}" for n in range(7)]


def test_a_frozen_feed_waits_once_while_the_store_is_away(flow):
    flow.down()
    content = snapshot(NOON)
    assert flow.take(NOON, content).spooled
    again = flow.take(NOON + MINUTE, content)
    assert (again.duplicate, again.spooled) == (True, False)
    assert "503" in again.spool_reason
    assert flow.waiting == [NOON]


def test_a_long_queue_is_delivered_in_turns_and_the_newest_waits_behind_it(flow):
    start = NOON - 502 * MINUTE
    flow.spool.folder.mkdir(parents=True)
    for n in range(502):
        at = start + n * MINUTE
        (flow.spool.folder / f"{at:%Y%m%dT%H%M%S.%f}Z.raw.body").write_bytes(b"snapshot %d" % n)

    first = flow.take(NOON)
    assert (len(first.delivered.keys), first.delivered.still_waiting, first.spooled) == (500, 3, True)
    assert flow.waiting == [NOON - 2 * MINUTE, NOON - MINUTE, NOON]
    second = flow.take(NOON + MINUTE)
    assert (len(second.delivered.keys), second.spooled) == (3, False)
    assert len(flow.raw) == 504
    assert flow.waiting == []


def test_what_waits_does_not_wait_for_a_feed_that_is_away(flow):
    flow.down()
    flow.take(NOON)
    flow.up()
    with pytest.raises(TransientError, match="feed is away"):
        flow.take(NOON + MINUTE, TransientError("feed is away", "feed", "get"))
    assert flow.raw == ["dt=2025-08-21/wrm_stations_2025-08-21_12-00-00.txt"]
    assert flow.waiting == []


def test_a_feed_that_is_away_is_the_error_whatever_the_store_says(flow):
    flow.down()
    flow.take(NOON)
    with pytest.raises(PermanentError, match="HTTP 404"):
        flow.take(NOON + MINUTE, PermanentError("HTTP 404", "feed", "get"))
    assert flow.waiting == [NOON]


def test_with_nothing_waiting_a_feed_that_is_away_costs_the_store_nothing(flow):
    flow.cannot_connect = AssertionError("nobody asked")
    with pytest.raises(TransientError):
        flow.take(NOON, TransientError("feed is away", "feed", "get"))


def test_a_full_spool_is_an_error_and_overwrites_nothing(flow):
    flow.down()
    flow.take(NOON)
    flow.spool = Spool(flow.spool.folder, flow.spool.size_bytes + 100)
    with pytest.raises(SpoolFullError, match="WRM_SPOOL_MAX_BYTES"):
        flow.take(NOON + MINUTE)
    (body,) = flow.spool.waiting()
    assert (body.fetched_at, body.read()) == (NOON, snapshot(NOON))
    flow.up()
    flow.take(NOON + 2 * MINUTE)
    assert [name[-12:-7] for name in flow.raw] == ["12-00", "12-02"]


def test_a_fault_of_our_own_fails_the_run_but_keeps_the_body(flow):
    flow.cannot_connect = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError):
        flow.take(NOON)
    assert flow.waiting == [NOON]


# --- bodies that are not snapshots ---

BAD_BODIES = {
    "empty": (b"", "file_empty"),
    "html": (HTML, "file_no_header"),
    "json": (b'{"error": {"code": 1}}\n', "file_no_header"),
    "bytes": (bytes(range(256)), "file_not_text"),
    "no header": (snapshot(NOON).partition(b"\n")[2], "file_no_header"),
    "header only": (snapshot(NOON).partition(b"\n")[0] + b"\n", "file_no_valid_row"),
    "all rows dead": (snapshot(NOON, 3).replace(b"51.1097", b"north"), "file_no_valid_row"),
    "cut": (snapshot(NOON)[:-40], "file_truncated"),
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_body_that_is_no_snapshot_goes_to_quarantine_with_a_dead_letter(flow, name):
    content, error_type = BAD_BODIES[name]
    result = flow.take(NOON, content)

    key = "bike-data/gen_info/quarantine/dt=2025-08-21/wrm_stations_2025-08-21_12-00-00.txt"
    assert result.fault is not None
    assert result.fault.error_type == error_type
    assert (result.key, result.duplicate, result.spooled) == (key, False, False)
    assert flow.lake.store.get(key) == content
    assert flow.lake.store.stat(key).metadata["sha256"] == hashlib.sha256(content).hexdigest()
    assert flow.raw == []
    (letter,) = flow.lake.letters()
    entry = json.loads(flow.lake.store.get(letter))
    assert (entry["source_key"], entry["error_type"]) == (key, error_type)
    assert entry["asset_name"] == "wrm_stations_raw_data"
    assert entry["error_message"] == result.fault.error_message


def test_one_bad_row_is_no_reason_to_refuse_a_snapshot(flow):
    result = flow.take(NOON, snapshot(NOON, 3, line(id="7", bikes="many")))
    assert result.fault is None
    assert (result.counts.rows_out, result.counts.dead_lettered) == (4, 1)
    assert len(flow.raw) == 1
    assert flow.lake.letters() == []


def test_each_bad_body_is_kept(flow):
    flow.take(NOON, HTML)
    flow.take(NOON, HTML + b"another\n")
    flow.take(NOON + MINUTE, HTML)
    assert len(flow.lake.keys("quarantine/")) == 3
    assert len(flow.lake.letters()) == 3


def test_a_bad_body_waits_like_a_good_one_and_gets_its_letter_on_arrival(flow):
    at = datetime(2025, 8, 21, 22, 0, 0, tzinfo=UTC)
    flow.down()
    result = flow.take(at, HTML)
    assert result.spooled
    assert result.fault is not None
    assert [body.kind for body in flow.spool.waiting()] == ["quarantine"]
    flow.up()
    flow.take(at + MINUTE)

    key = "bike-data/gen_info/quarantine/dt=2025-08-22/wrm_stations_2025-08-21_22-00-00.txt"
    assert flow.lake.keys("quarantine/") == [key]
    assert flow.lake.store.get(key) == HTML
    (letter,) = flow.lake.letters(date(2025, 8, 22))
    assert json.loads(flow.lake.store.get(letter))["source_key"] == key
    assert len(flow.raw) == 1


def test_a_letter_that_cannot_be_written_is_written_later(flow):
    flow.store.fails = lambda _operation, key: "/dlq/" in key
    assert flow.take(NOON, HTML).spooled
    flow.up()
    flow.take(NOON + MINUTE)
    assert len(flow.lake.keys("quarantine/")) == 1
    assert len(flow.lake.letters()) == 1
    assert flow.waiting == []


def test_a_dead_letter_that_someone_spoiled_costs_no_snapshot(flow):
    flow.down()
    flow.take(NOON, HTML)
    flow.up()
    flow.take(NOON + MINUTE)
    (letter,) = flow.lake.letters()
    flow.lake.store.put(letter, b"{")
    flow.spool.add("quarantine", NOON, HTML)

    for n in (2, 3):
        flow.take(NOON + n * MINUTE)

    assert flow.waiting == []
    assert [name[-12:-7] for name in flow.raw] == ["12-01", "12-02", "12-03"]
    assert flow.lake.store.get(letter) == b"{", "what someone wrote is never written over"
    entries = DeadLetterQueue(flow.lake.store, flow.lake.layout).entries(local_date(NOON))
    assert [problem.key for problem in entries.unreadable] == [letter]
    assert [entry.error_type for entry in entries.letters] == ["file_no_header"], (
        "and the failure has an entry all the same"
    )


def test_a_bad_body_is_not_what_the_next_snapshot_is_compared_with(flow):
    content = snapshot(NOON)
    flow.take(NOON, content)
    flow.take(NOON + MINUTE, HTML)
    assert flow.take(NOON + 2 * MINUTE, content).duplicate


# --- clocks ---


@pytest.mark.parametrize("day", [date(2026, 3, 29), date(2026, 10, 25)])
def test_on_the_days_when_clocks_change_every_snapshot_has_its_own_key_and_day(flow, day):
    start = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(hours=2)
    times = [start + n * timedelta(minutes=30) for n in range(26 * 2)]
    keys = [flow.take(at).key for at in times]
    assert len(set(keys)) == len(times)
    of_day = [key for key in keys if f"/dt={day}/" in key]
    assert len(of_day) == (46 if day.month == 3 else 50)
    assert all(f"/dt={local_date(at)}/" in key for at, key in zip(times, keys, strict=True))


def test_a_clock_that_was_set_back_stores_and_overwrites_nothing(flow):
    flow.take(NOON + MINUTE)
    flow.take(NOON)
    result = flow.take(NOON + MINUTE, snapshot(NOON, 3))
    assert result.key.endswith("12-01-01.txt")
    assert len(flow.raw) == 3

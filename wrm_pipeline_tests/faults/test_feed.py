"""The feed fails, lies or stutters: the run says so, and the next minute's snapshot is not touched by it."""

from __future__ import annotations

import gzip
import io
import time

import pyarrow.parquet as pq
import pytest

from wrm_pipeline.clients.breaker import Breakers
from wrm_pipeline.clients.errors import CircuitOpenError, PermanentError, TransientError
from wrm_pipeline.clients.retry import RetryPolicy
from wrm_pipeline.flows.ingest import IngestResult
from wrm_pipeline.simulator.misbehaviour import BODY_EDITS, DEAD_ROWS, Misbehaviour, Tuning
from wrm_pipeline_tests.faults.harness import (
    DEAD_LETTERED,
    MINUTE,
    PUBLISHED,
    QUARANTINED,
    REPAIRED,
    Harness,
)
from wrm_pipeline_tests.fixtures.fault_server import RESET, Answer, FaultServer
from wrm_pipeline_tests.integration.conftest import free_ports

HASTY = RetryPolicy(attempts=2, deadline_s=1, base_wait_s=0.01, max_wait_s=0.02, attempt_s=0.4)


HANGING = (Misbehaviour.HANG, Misbehaviour.HANG_IN_BODY)


@pytest.fixture
def impatient(monkeypatch):
    """Sockets of the feed time out after 1 s instead of 15: long enough for a good answer of a busy machine."""
    monkeypatch.setattr("wrm_pipeline.clients.feed.READ_TIMEOUT_S", 1.0)


def good_minute(world: Harness) -> None:
    """A snapshot that is stored and processed, whatever was before."""
    result = world.fetch()
    assert isinstance(result, IngestResult), result
    assert result.key in world.keys("raw/")
    assert world.process(), world.failures


# A fault that a retry survives: (requests that fail, fault)
@pytest.mark.parametrize(
    ("times", "kind"),
    [
        (1, Misbehaviour.SERVER_ERROR),
        (3, Misbehaviour.SERVER_ERROR),
        (1, Misbehaviour.UNAVAILABLE),
        (3, Misbehaviour.UNAVAILABLE),
        (2, Misbehaviour.REQUEST_TIMEOUT),
        (3, Misbehaviour.RESET),
        (2, Misbehaviour.TRUNCATED),
        (2, Misbehaviour.HANG),
        (2, Misbehaviour.HANG_IN_BODY),
    ],
)
def test_a_short_fault_is_survived_within_one_run(feed_world, city, request, report, times, kind):
    if kind in HANGING:
        request.getfixturevalue("impatient")
    report(f"{times} x {kind}, then good", PUBLISHED)
    world, feed = feed_world
    feed.tuning = Tuning(retry_after="", hang_s=5)
    feed.plan(kind, times=times)
    good_minute(world)
    assert feed.requests == times + 1
    assert [body for _, body in world.served] == [city.snapshot(world.now - MINUTE)]
    world.verify(PUBLISHED)


@pytest.mark.parametrize(
    ("kind", "requests"),
    [
        (Misbehaviour.FORBIDDEN, 1),
        (Misbehaviour.NOT_FOUND, 1),
        (Misbehaviour.REDIRECT_LOOP, 6),
        (Misbehaviour.SERVER_ERROR, 4),
        (Misbehaviour.TOO_MANY_REQUESTS, 4),
        (Misbehaviour.RESET, 4),
        (Misbehaviour.TRUNCATED, 4),
        (Misbehaviour.HANG, 4),
        (Misbehaviour.HANG_IN_BODY, 4),
    ],
)
def test_a_minute_without_an_answer_costs_only_itself(feed_world, impatient, report, kind, requests):
    report(f"{kind} for a whole run", REPAIRED)
    world, feed = feed_world
    feed.tuning = Tuning(retry_after="", hang_s=5)
    good_minute(world)
    before, asked = world.contents(""), feed.requests
    feed.plan(kind, times=30)
    error = world.fetch()
    assert isinstance(error, PermanentError if requests in {1, 6} else TransientError)
    assert feed.requests - asked == requests
    assert world.contents("") == before
    feed.unplan()
    good_minute(world)
    assert len(world.served) == 2
    world.verify(REPAIRED)


def test_a_refused_connection_costs_only_its_minute(feed_world, report):
    report("nobody listens", REPAIRED)
    world, _ = feed_world
    url, world.feed_url = world.feed_url, f"http://127.0.0.1:{free_ports(1)[0]}/"
    error = world.fetch()
    assert isinstance(error, TransientError)
    assert error.attempts == 4
    world.feed_url = url
    good_minute(world)
    assert len(world.served) == 1
    world.verify(REPAIRED)


def test_a_reset_before_any_byte_is_tried_again(world, city, report):
    report("TCP reset instead of an answer, 3 x", PUBLISHED)
    body = city.snapshot(world.now)
    with FaultServer([RESET, RESET, RESET], then=Answer(200, body)) as server:
        world.feed_url = server.url
        good_minute(world)
        assert len(server.requests) == 4
    assert [served for _, served in world.served] == [body]
    world.verify(PUBLISHED)


def test_retry_after_is_honoured(feed_world, report):
    report("429 with Retry-After: 1", PUBLISHED)
    world, feed = feed_world
    feed.tuning = Tuning(retry_after="1")
    feed.plan(Misbehaviour.TOO_MANY_REQUESTS)
    started = time.monotonic()
    good_minute(world)
    assert time.monotonic() - started >= 1
    assert feed.requests == 2
    world.verify(PUBLISHED)


def test_a_retry_after_beyond_the_deadline_ends_the_run_at_once(feed_world, report):
    report("429 with Retry-After: 3600", REPAIRED)
    world, feed = feed_world
    feed.tuning = Tuning(retry_after="3600")
    feed.plan(Misbehaviour.TOO_MANY_REQUESTS)
    started = time.monotonic()
    error = world.fetch()
    assert isinstance(error, TransientError)
    assert error.retry_after_s == 3600
    assert time.monotonic() - started < 1
    assert feed.requests == 1
    good_minute(world)
    world.verify(REPAIRED)


@pytest.mark.parametrize("status", [Misbehaviour.SERVER_ERROR, Misbehaviour.UNAVAILABLE])
def test_a_burst_of_thirty_opens_the_circuit_and_it_closes_again(feed_world, report, status):
    report(f"30 x {status}", REPAIRED)
    world, feed = feed_world
    feed.tuning = Tuning(retry_after="")
    feed.plan(status, times=30)

    def next_run():
        # Each run is a process of its own, so it reads the breaker's state from its file.
        breaker = Breakers(world.settings.breaker_dir, now=lambda: world.now).of("feed")
        return world.fetch(world.feed(breaker=breaker))

    results = [next_run() for _ in range(16)]
    while not isinstance(results[-1], IngestResult):
        results.append(next_run())
    assert len(results) == 16, "5 runs of 4 requests, 10 probes of 1, then the good answer"
    assert feed.requests == 31
    assert world.process()
    assert len(world.served) == 1
    world.verify(REPAIRED)


def test_an_open_circuit_asks_nobody_for_its_cooldown(feed_world, report):
    report("5 failed runs, then two within one minute", REPAIRED)
    world, feed = feed_world
    feed.plan(Misbehaviour.SERVER_ERROR, times=20)
    breaker = Breakers(world.settings.breaker_dir, now=lambda: world.now).of("feed")
    for _ in range(5):
        world.fetch(world.feed(breaker=breaker))
    world.now -= MINUTE
    again = Breakers(world.settings.breaker_dir, now=lambda: world.now).of("feed")
    error = world.fetch(world.feed(breaker=again))
    assert isinstance(error, CircuitOpenError)
    assert feed.requests == 20
    result = world.fetch(world.feed(breaker=again))
    assert isinstance(result, IngestResult)
    assert world.process()
    world.verify(REPAIRED)


@pytest.mark.parametrize(
    ("kind", "error_type"),
    [
        (Misbehaviour.HTML, "file_no_header"),
        (Misbehaviour.EMPTY, "file_empty"),
        (Misbehaviour.JSON, "file_no_header"),
        (Misbehaviour.GZIP, "file_not_text"),
        (Misbehaviour.NO_HEADER, "file_no_header"),
        (Misbehaviour.HEADER_ONLY, "file_no_valid_row"),
        (Misbehaviour.TRUNCATED_SILENTLY, "file_truncated"),
    ],
)
def test_a_body_that_is_no_snapshot_is_quarantined(feed_world, report, kind, error_type):
    report(f"HTTP 200 with {kind}", QUARANTINED)
    world, feed = feed_world
    good_minute(world)
    before = world.contents("processed/")
    feed.plan(kind)
    result = world.fetch()
    assert isinstance(result, IngestResult)
    assert result.fault is not None
    assert result.fault.error_type == error_type
    assert world.contents("quarantine/") == {result.key: world.served[-1][1]}
    assert world.process()
    assert world.contents("processed/") == before, "a body in quarantine is not raw data"
    good_minute(world)
    world.verify(QUARANTINED)


def test_an_oversized_body_is_cut_off_at_the_cap(feed_world, report):
    report("64 MiB without a Content-Length, cap 1 MiB", REPAIRED)
    world, feed = feed_world
    feed.plan(Misbehaviour.OVERSIZED)
    error = world.fetch(world.feed(max_bytes=2**20))
    assert isinstance(error, PermanentError)
    assert "WRM_FEED_MAX_BYTES" in str(error)
    assert feed.requests == 1
    assert world.keys("") == []
    good_minute(world)
    world.verify(REPAIRED)


def test_a_feed_that_drips_is_given_up(feed_world, impatient, report):
    report("one byte each 0.2 s", REPAIRED)
    world, feed = feed_world
    feed.tuning = Tuning(drip_bytes=1, drip_pause_s=0.2)
    feed.plan(Misbehaviour.SLOW, times=2)
    started = time.monotonic()
    error = world.fetch(world.feed(policy=HASTY))
    assert isinstance(error, TransientError)
    assert time.monotonic() - started < 3
    good_minute(world)
    world.verify(REPAIRED)


@pytest.mark.parametrize(
    "kind",
    [
        Misbehaviour.CP1250,
        Misbehaviour.MOJIBAKE,
        Misbehaviour.WRONG_CHARSET,
        Misbehaviour.HTML_ENTITIES,
        Misbehaviour.BOM,
        Misbehaviour.CRLF,
        Misbehaviour.REORDERED_COLUMNS,
        Misbehaviour.MISSING_OPTIONAL_COLUMNS,
        Misbehaviour.EXTRA_COLUMN,
        Misbehaviour.REMARKS,
        Misbehaviour.REMARK_BEFORE_HEADER,
        Misbehaviour.REPEATED_HEADER,
        Misbehaviour.DUPLICATE_STATION,
    ],
)
def test_odd_but_good_snapshots_are_published_as_they_are_meant(feed_world, city, report, kind):
    report(f"a body with {kind}", PUBLISHED)
    world, feed = feed_world
    good_minute(world)
    names = names_of(world)
    at = world.now
    feed.plan(kind)
    good_minute(world)
    spoiled = BODY_EDITS.get(kind, lambda body: body)(city.snapshot(at))
    assert world.served[-1] == (at, spoiled), "the very bytes that the feed served"
    if kind not in {Misbehaviour.HTML_ENTITIES, Misbehaviour.REORDERED_COLUMNS}:
        assert names_of(world) >= names
        assert {name for name in names_of(world) if not name.startswith("BIKE")} == {
            name for name in names if not name.startswith("BIKE")
        }, "repaired names are those of the good snapshot"
    world.verify(PUBLISHED)


def names_of(world: Harness) -> set[str]:
    return {
        name
        for body in world.contents("enhanced/").values()
        for name in pq.read_table(io.BytesIO(body), columns=["name"])["name"].to_pylist()
    }


@pytest.mark.parametrize("kind", [Misbehaviour.UNCLOSED_QUOTE, Misbehaviour.DEAD_LETTER_ROWS])
def test_bad_rows_of_the_feed_leave_and_their_neighbours_stay(feed_world, report, kind):
    report(f"a body with {kind}", DEAD_LETTERED)
    world, feed = feed_world
    feed.plan(kind)
    good_minute(world)
    bad = 1 if kind is Misbehaviour.UNCLOSED_QUOTE else len(DEAD_ROWS)
    assert sum(letter.count(b'"line_number"') for letter in world.contents("dlq/").values()) == bad
    world.verify(DEAD_LETTERED)


def test_a_frozen_feed_is_stored_once_and_again_after_an_hour(feed_world, report):
    report("the same bytes for 70 minutes", PUBLISHED)
    world, feed = feed_world
    good_minute(world)
    feed.plan(Misbehaviour.FROZEN, times=70)
    results = [world.fetch() for _ in range(70)]
    kept = [index for index, result in enumerate(results) if not result.duplicate]
    assert len(kept) == 1, "at a frozen feed one body an hour is enough, and tells that somebody looked"
    assert kept[0] == 59
    assert world.served[0][1] == world.served[-1][1]
    assert world.process()
    assert len(world.keys("raw/")) == 2
    world.verify(PUBLISHED)


def test_a_transport_compression_is_undone(world, city, report):
    report("Content-Encoding: gzip", PUBLISHED)
    body = city.snapshot(world.now)
    with FaultServer(then=Answer(200, gzip.compress(body), {"Content-Encoding": "gzip"})) as server:
        world.feed_url = server.url
        good_minute(world)
    assert [served for _, served in world.served] == [body]
    world.verify(PUBLISHED)

"""A feed that was asked before: what is unchanged is not sent again, and no feed is asked more often than it wants."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from wrm_pipeline.clients.errors import AskedToWaitError, PermanentError, TransientError
from wrm_pipeline.clients.feed import Feed
from wrm_pipeline.clients.feed_memory import FeedMemory, NotDueError
from wrm_pipeline.clients.retry import RetryPolicy
from wrm_pipeline.domain.feeds import KINDS
from wrm_pipeline.flows.ingest import IngestResult, take_snapshot
from wrm_pipeline.lake.spool import Spool
from wrm_pipeline_tests.fixtures.fault_server import Answer, FaultServer, Received
from wrm_pipeline_tests.fixtures.lake import NOON, Lake, snapshot
from wrm_pipeline_tests.fixtures.operator_answers import answer, station

MINUTE = timedelta(minutes=1)
ONE_TRY = RetryPolicy(attempts=1, deadline_s=10, base_wait_s=0, max_wait_s=0, attempt_s=10)
KEY = "canary-a1b2c3d4"  # pragma: allowlist secret
MODIFIED = "Thu, 21 Aug 2025 12:00:00 GMT"


@pytest.fixture(scope="module")
def running() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


class World:
    """A feed that is asked each minute."""

    def __init__(self, lake: Lake, server: FaultServer) -> None:
        self.lake = lake
        self.server = server.play()
        self.memory = FeedMemory(lake.settings.feed_dir, "ucl")
        self.feed = Feed(f"{server.url}/?key={KEY}", policy=ONE_TRY, memory=self.memory)
        self.spool = Spool(lake.settings.spool_dir, 10_000_000)

    def take(self, minute: float = 0) -> IngestResult:
        feed = replace(self.feed, now=lambda: NOON + minute * MINUTE)
        return take_snapshot(feed, lambda: self.lake.store, self.lake.layout, self.spool)

    def asked_at(self, minutes: range) -> list[int]:
        """The minutes in which a request was made."""
        asked = []
        for minute in minutes:
            before = len(self.server.requests)
            with contextlib.suppress(NotDueError, TransientError):
                self.take(minute)
            if len(self.server.requests) > before:
                asked.append(minute)
        return asked

    @property
    def conditions(self) -> list[tuple[str | None, str | None]]:
        return [(r.headers.get("if-none-match"), r.headers.get("if-modified-since")) for r in self.server.requests]


@pytest.fixture
def world(lake: Lake, running: FaultServer) -> World:
    return World(lake, running)


def with_conditions(**validators: str) -> Callable[[Received], Answer]:
    """A server that answers 304 to whom sends its validators."""

    def behave(request: Received) -> Answer:
        sent = (request.headers.get("if-none-match"), request.headers.get("if-modified-since"))
        if sent == (validators.get("ETag"), validators.get("Last-Modified")) and any(sent):
            return Answer(304, b"", validators)
        return Answer(200, snapshot(NOON), validators)

    return behave


@pytest.mark.parametrize("validators", [{"ETag": '"v1"'}, {"Last-Modified": MODIFIED}, {"ETag": 'W/"v1"'}])
def test_an_unchanged_feed_is_a_duplicate_and_is_stored_again_after_an_hour(world: World, validators):
    world.server.play(then=with_conditions(**validators))
    results = [world.take(minute) for minute in (0, 1, 59, 60, 61)]
    assert [result.not_modified for result in results] == [False, True, True, False, True]
    assert [result.duplicate for result in results] == [False, True, True, False, True]
    assert [any(sent) for sent in world.conditions] == [False, True, True, False, True]
    assert len(world.lake.keys("raw/")) == 2


def test_without_its_memory_a_feed_is_asked_in_full_once(world: World):
    world.server.play(then=with_conditions(ETag='"v1"'))
    world.take(0)
    (world.lake.settings.feed_dir / "ucl.json").write_bytes(b"{ damaged")
    again = world.take(1)
    assert (again.duplicate, again.not_modified) == (True, False)
    assert len(world.lake.keys("raw/")) == 1


def test_another_address_is_asked_without_the_conditions_of_the_first(world: World):
    world.server.play(then=with_conditions(ETag='"v1"'))
    world.take(0)
    world.feed = replace(world.feed, url=f"{world.server.url}/other")
    world.take(1)
    assert world.conditions[-1] == (None, None)


def test_a_body_that_is_no_snapshot_is_not_remembered(world: World):
    world.server.play(then=Answer(200, b"<html>Maintenance</html>", {"ETag": '"v1"', "Cache-Control": "max-age=300"}))
    assert [world.take(minute).fault is not None for minute in (0, 1)] == [True, True]
    assert world.conditions == [(None, None)] * 2


def test_what_nobody_asked_for_is_an_error(world: World):
    world.server.play(then=Answer(304))
    with pytest.raises(PermanentError, match="304 instead of 200"):
        world.take()


def test_a_key_that_the_server_repeats_in_a_header_is_neither_kept_nor_sent(world: World):
    world.server.play(then=Answer(200, snapshot(NOON), {"ETag": f'"{KEY}"', "Last-Modified": f"{KEY} {MODIFIED}"}))
    world.take(0)
    world.take(1)
    assert world.conditions[-1] == (None, None)
    kept = [path.read_bytes() for path in world.lake.settings.feed_dir.iterdir()]
    assert kept
    assert not [content for content in kept if KEY.encode() in content]


def test_the_operators_answer_is_stored_each_minute_even_if_it_is_the_same(lake: Lake, running: FaultServer):
    world = World(lake, running)
    world.feed = replace(world.feed, kind=KINDS["operator"], memory=FeedMemory(lake.settings.feed_dir, "operator"))
    world.server.play(then=Answer(200, answer([station()]), {"ETag": '"v1"', "Last-Modified": MODIFIED}))
    assert [world.take(minute).duplicate for minute in range(3)] == [False] * 3
    assert world.conditions == [(None, None)] * 3
    assert len(lake.keys("raw/")) == 3


@pytest.mark.parametrize(
    ("control", "asked"),
    [
        ("max-age=300", [0, 5, 10]),
        ("public, max-age=120, must-revalidate", [0, 2, 4, 6, 8, 10]),
        ("max-age=60", list(range(11))),
        ("max-age=80", list(range(11))),
        ("max-age=0", list(range(11))),
        ("no-cache, max-age=300", list(range(11))),
        ("s-maxage=300", list(range(11))),
        ("max-age=soon", list(range(11))),
    ],
)
def test_a_feed_is_asked_as_often_as_it_allows(world: World, control, asked):
    count = itertools.count()
    world.server.play(then=lambda _: Answer(200, snapshot(NOON, bikes=next(count)), {"Cache-Control": control}))
    assert world.asked_at(range(11)) == asked
    assert len(world.lake.keys("raw/")) == len(asked)


def test_the_age_of_an_answer_counts(world: World):
    world.server.play(then=Answer(200, snapshot(NOON), {"Cache-Control": "max-age=300", "Age": "200"}))
    assert world.asked_at(range(5)) == [0, 2, 4]


def test_a_life_of_a_day_is_not_believed(world: World):
    world.server.play(then=Answer(200, snapshot(NOON), {"Cache-Control": "max-age=86400"}))
    assert world.asked_at(range(31)) == [0, 15, 30]


def test_a_run_some_seconds_early_still_fetches(world: World):
    world.server.play(then=Answer(200, snapshot(NOON), {"Cache-Control": "max-age=300"}))
    world.take(0)
    with pytest.raises(NotDueError, match="12:05:00"):
        world.take(4)
    world.take(4.9)
    assert len(world.server.requests) == 2


@pytest.mark.parametrize(("status", "wait", "asked"), [(429, "600", [0, 10]), (503, "120", [0, 2, 4, 6, 8, 10])])
def test_a_pause_that_the_feed_asks_for_is_kept(world: World, status, wait, asked):
    world.server.play(then=Answer(status, b"", {"Retry-After": wait}))
    assert world.asked_at(range(11)) == asked
    with pytest.raises(AskedToWaitError, match="Retry-After: the pause ends at 12:"):
        world.take(10.5)


def test_a_pause_of_a_day_ends_after_an_hour(world: World):
    world.server.play(then=Answer(429, b"", {"Retry-After": "86400"}))
    assert world.asked_at(range(0, 122, 20)) == [0, 60, 120]


@pytest.mark.parametrize("field", ["fresh_until", "retry_at", "kept_at"])
def test_times_of_a_clock_that_was_ahead_hold_nothing_up(world: World, field):
    world.server.play(then=with_conditions(ETag='"v1"'))
    world.take(0)
    world.memory.update(**{field: NOON + timedelta(days=1)})
    result = world.take(1)
    assert result.duplicate
    assert len(world.server.requests) == 2


def test_a_memory_that_cannot_be_written_costs_no_snapshot(world: World):
    world.lake.settings.feed_dir.parent.mkdir(parents=True, exist_ok=True)
    world.lake.settings.feed_dir.write_bytes(b"")
    world.server.play(then=with_conditions(ETag='"v1"'))
    assert world.take(0).key in world.lake.keys("raw/")


def test_what_waits_is_delivered_while_the_feed_does_not_change(world: World):
    world.server.play(then=with_conditions(ETag='"v1"'))
    world.take(0)
    older = world.spool.add("raw", datetime(2025, 8, 21, 11, 59, tzinfo=NOON.tzinfo), snapshot(NOON, bikes=9))
    result = world.take(1)
    assert result.not_modified
    assert len(result.delivered.keys) == 1
    assert not older.path.exists()


def test_the_memory_is_a_small_readable_file(world: World):
    world.server.play(then=with_conditions(ETag='"v1"'))
    world.take(0)
    state = json.loads((world.lake.settings.feed_dir / "ucl.json").read_bytes())
    assert (state["etag"], state["kept_at"]) == ('"v1"', NOON.isoformat())

"""Several feeds in one ingest run: side by side, and none waits for another."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from wrm_pipeline.clients.errors import TransientError
from wrm_pipeline.clients.feed import FetchedBody
from wrm_pipeline.domain.feeds import KINDS, UCL, FeedKind
from wrm_pipeline.flows.ingest import Minute, take_snapshots
from wrm_pipeline.lake.spool import Spool
from wrm_pipeline.settings import load_settings
from wrm_pipeline_tests.fixtures.lake import NOON, Lake, WatchedStore, snapshot
from wrm_pipeline_tests.fixtures.operator_answers import answer, station

OPERATOR = KINDS["operator"]
MINUTE = timedelta(minutes=1)
# What is waited for happens within milliseconds; a busy machine gets this long.
PATIENCE_S = 20
HTML = b"<html><body>503</body></html>"


class Answers:
    """A feed that answers with a body, or raises an error, once `ready` allows it."""

    memory = None

    def __init__(
        self, kind: FeedKind, body: bytes | Exception, at: datetime = NOON, ready: Callable[[], bool] = lambda: True
    ) -> None:
        self.kind = kind
        self._body = body
        self._at = at
        self._ready = ready

    def fetch(self, *, correlation_id: str = "") -> FetchedBody:
        assert self._ready(), "what it waits for did not happen"
        if isinstance(self._body, Exception):
            raise self._body
        return FetchedBody(self._body, self._at, 200, "", self.kind)


class World:
    def __init__(self, lake: Lake) -> None:
        self.lake = lake
        self.store = WatchedStore(lake.store)
        self.spool = Spool(lake.settings.spool_dir, 10_000_000)
        self.opened = 0

    def connect(self) -> WatchedStore:
        self.opened += 1
        return self.store

    def take(self, *feeds: Answers) -> Minute:
        return take_snapshots(feeds, self.connect, self.lake.layout, self.spool)

    @property
    def raw(self) -> list[str]:
        return [key.rpartition("/")[2] for key in self.lake.keys("raw/")]


@pytest.fixture
def world(lake: Lake, monkeypatch) -> World:
    monkeypatch.setenv("WRM_FEEDS", "ucl,operator")
    return World(Lake(load_settings()))


def ucl(body: bytes | Exception | None = None, at: datetime = NOON, **when) -> Answers:
    return Answers(UCL, snapshot(at) if body is None else body, at, **when)


def operator(body: bytes | Exception | None = None, at: datetime = NOON, **when) -> Answers:
    return Answers(OPERATOR, answer([station(15001)]) if body is None else body, at, **when)


def away(kind: FeedKind) -> TransientError:
    return TransientError(f"{kind.name} is away", kind.target, "get")


def test_each_feed_has_its_own_raw_object_of_the_minute(world: World):
    minute = world.take(operator(), ucl())
    assert [result.kind.name for result in minute.results] == ["operator", "ucl"]
    assert world.raw == ["operator_2025-08-21_12-00-00.json", "wrm_stations_2025-08-21_12-00-00.txt"]
    assert {result.key for result in minute.results} == set(world.lake.keys("raw/"))
    assert minute.failures == {}
    assert not list(world.spool.waiting())
    assert world.opened == 1
    assert world.store.counts == {"list": 1, "put_if_absent": 2}


@pytest.mark.parametrize(("slow", "fast"), [(ucl, operator), (operator, ucl)])
def test_a_snapshot_is_stored_before_a_slower_feed_has_answered(world: World, slow, fast):
    stored = threading.Event()
    put = world.store.put_if_absent

    def put_and_tell(key: str, *rest, **more) -> bool:
        done = put(key, *rest, **more)
        stored.set()
        return done

    world.store.put_if_absent = put_and_tell  # type: ignore[method-assign]
    minute = world.take(slow(ready=lambda: stored.wait(PATIENCE_S)), fast())
    assert len(minute.snapshots) == 2
    assert len(world.raw) == 2


def test_a_body_that_arrives_while_the_store_hangs_is_on_the_disk_before_it_is_delivered(world: World):
    hangs = threading.Event()

    def hang(_operation: str, _key: str) -> bool:
        hangs.set()
        world.store.fails = lambda _operation, _key: False
        for _ in range(int(PATIENCE_S / 0.01)):
            if len(list(world.spool.waiting())) == 2:
                return False
            threading.Event().wait(0.01)
        raise AssertionError("the second body is not in the spool")

    world.store.fails = hang
    minute = world.take(ucl(), operator(ready=lambda: hangs.wait(PATIENCE_S)))
    assert len(minute.snapshots) == 2
    assert len(world.raw) == 2


@pytest.mark.parametrize("error", [away(OPERATOR), ZeroDivisionError("a bug in its fetcher")])
def test_a_dead_feed_costs_the_others_nothing_and_is_named(world: World, error):
    minute = world.take(operator(error), ucl())
    assert [result.kind for result in minute.snapshots] == [UCL]
    assert minute.failures == {"operator": error}
    assert world.raw == ["wrm_stations_2025-08-21_12-00-00.txt"]


def test_garbage_of_one_feed_is_quarantined_beside_the_snapshot_of_the_other(world: World):
    minute = world.take(operator(HTML), ucl())
    assert [result.kind for result in minute.snapshots] == [UCL]
    (key,) = world.lake.keys("quarantine/")
    assert key.endswith("operator_2025-08-21_12-00-00.json")
    assert world.lake.store.get(key) == HTML


def test_while_the_store_is_down_all_wait_and_a_later_run_delivers_each_once(world: World):
    world.store.fails = lambda _operation, _key: True
    for n in range(2):
        minute = world.take(ucl(at=NOON + n * MINUTE), operator(at=NOON + n * MINUTE))
        assert [result.spooled for result in minute.results] == [True, True]
    assert world.store.counts.total() == 2, "a store that failed is not asked again in the same run"
    assert [body.kind for body in world.spool.waiting()] == ["raw"] * 4
    world.store.fails = lambda _operation, _key: False
    minute = world.take(ucl(at=NOON + 2 * MINUTE), operator(at=NOON + 2 * MINUTE))
    assert sorted(len(result.delivered.keys) for result in minute.results) == [0, 4]
    assert len(world.raw) == 6
    assert not list(world.spool.waiting())


def test_no_feed_at_all_still_delivers_what_waits(world: World):
    world.store.fails = lambda _operation, _key: True
    world.take(ucl(), operator())
    world.store.fails = lambda _operation, _key: False
    minute = world.take(ucl(away(UCL)), operator(away(OPERATOR)))
    assert minute.results == ()
    assert list(minute.failures) == ["ucl", "operator"]
    assert len(world.raw) == 2


def test_a_frozen_feed_is_a_duplicate_beside_one_that_moves(world: World):
    world.take(ucl(), operator())
    minute = world.take(ucl(snapshot(NOON), at=NOON + MINUTE), operator(at=NOON + MINUTE))
    assert [result.duplicate for result in minute.results] == [True, False]
    assert len(world.raw) == 3


def test_what_does_not_fit_on_the_disk_goes_straight_to_the_store(world: World):
    world.spool = Spool(world.spool.folder, 10)
    minute = world.take(ucl(), operator())
    assert [result.spooled for result in minute.results] == [False, False]
    assert len(world.raw) == 2

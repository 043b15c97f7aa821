"""The object store fails, lies or is away: a real S3 server behind a proxy that injects faults."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from wrm_pipeline.clients.errors import ExternalError, StorageDeniedError, TransientError
from wrm_pipeline.domain.feeds import UCL
from wrm_pipeline.flows.ingest import IngestResult
from wrm_pipeline.flows.watch import plan_new_data_runs
from wrm_pipeline_tests.faults.harness import (
    MINUTE,
    NOON,
    PUBLISHED,
    REPAIRED,
    SPOOLED,
    Harness,
    S3Link,
    Says,
    _pairs,
    local_day,
    s3_link,
    s3_world,
)
from wrm_pipeline_tests.faults.s3_proxy import (
    DENIED,
    GONE,
    SLOW_DOWN,
    TOO_MANY,
    S3Proxy,
    cut_short,
    damaged,
    ignoring_if_none_match,
    lost_answer,
    reject_if_none_match,
)
from wrm_pipeline_tests.fixtures.fault_server import HANG, HTML_200, RESET, Answer

pytestmark = pytest.mark.integration

FAULTS = {
    "reset": RESET,
    "hang": HANG,
    "503 SlowDown": SLOW_DOWN,
    "429 HTML": TOO_MANY,
    "403": DENIED,
    "HTML 200": HTML_200,
}
_prefixes = itertools.count()


@pytest.fixture(scope="module")
def link(seaweedfs) -> Iterator[S3Link]:
    with s3_link(seaweedfs, seaweedfs.create_bucket()) as link:
        yield link


@pytest.fixture
def s3(monkeypatch, seaweedfs, link, city) -> Iterator[tuple[Harness, S3Proxy]]:
    """A world on S3 behind a proxy, under a prefix of its own; its feed serves the city of each minute."""
    monkeypatch.setenv("WRM_STATIONS_S3_PREFIX", f"t{next(_prefixes)}/")
    world = s3_world(monkeypatch, seaweedfs, link)
    world.feed = lambda: Says(lambda: world.now, [city.snapshot(world.now)])
    yield world, link.proxy
    link.proxy.heal()
    link.proxy.seen.clear()


def ingest(world: Harness) -> IngestResult:
    result = world.fetch()
    assert isinstance(result, IngestResult), result
    return result


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("operation", ["put", "head", "list"])
def test_a_fetch_while_the_store_fails_is_spooled_and_delivered(s3, report, operation, fault):
    report(f"{operation}: {fault}, for a whole run", SPOOLED)
    world, proxy = s3
    ingest(world)
    before = world.contents("")
    proxy.fail(operation, FAULTS[fault], times=20)
    spooled = ingest(world)
    assert spooled.spooled
    assert spooled.spool_reason
    assert [body.read() for body in world.spool.waiting()] == [world.served[-1][1]]
    assert world.contents("") == before
    proxy.heal()
    delivering = ingest(world)
    assert delivering.delivered.keys == (world.key("raw", world.served[1][0]),)
    assert world.process()
    world.verify(SPOOLED)


@pytest.mark.parametrize("fault", ["reset", "503 SlowDown", "429 HTML", "HTML 200"])
@pytest.mark.parametrize("operation", ["put", "head", "list", "get"])
def test_a_short_fault_of_the_store_is_survived_within_one_run(s3, report, operation, fault):
    report(f"{operation}: {fault}, 2 x", PUBLISHED)
    world, proxy = s3
    proxy.fail(operation, FAULTS[fault], times=2)
    assert not ingest(world).spooled
    assert world.process(), world.failures
    assert proxy._rules[0][3] == [0, 0], "the fault was met"
    world.verify(PUBLISHED)


@pytest.mark.parametrize("layer", ["raw", "processed", "enhanced"])
@pytest.mark.parametrize("fault", ["reset", "hang", "503 SlowDown", "429 HTML", "403", "HTML 200"])
def test_a_build_that_cannot_write_or_read_leaves_the_partition(s3, report, layer, fault):
    operation = "get" if layer == "raw" else "put"
    report(f"{operation} of {layer}: {fault}, for a whole run", REPAIRED)
    world, proxy = s3
    ingest(world)
    assert world.process()
    ingest(world)
    before = world.contents(f"{layer}/")
    proxy.fail(operation, FAULTS[fault], key=f"/{layer}/")
    assert not world.process()
    assert world.contents(f"{layer}/") == before
    proxy.heal()
    assert world.settle() == [local_day(NOON)]
    world.verify(REPAIRED)


@pytest.mark.parametrize("operation", ["list", "head", "get"])
def test_an_answer_cut_short_is_not_taken_for_the_whole(s3, report, operation):
    report(f"{operation}: cut in mid-body, 2 x", PUBLISHED)
    world, proxy = s3
    ingest(world)
    ingest(world)
    proxy.fail("" if operation == "head" else operation, cut_short if operation != "head" else RESET, times=2)
    assert world.process(), world.failures
    world.verify(PUBLISHED)


def test_a_damaged_download_is_noticed_and_asked_for_again(s3, report):
    report("get of raw: other bytes of equal length, 1 x", PUBLISHED)
    world, proxy = s3
    ingest(world)
    proxy.fail("get", damaged, key="/raw/", times=1)
    assert world.process(), world.failures
    world.verify(PUBLISHED)


def test_a_raw_object_that_stays_damaged_fails_the_run_and_not_the_day(s3, report):
    report("get of raw: other bytes of equal length, for a whole run", REPAIRED)
    world, proxy = s3
    ingest(world)
    assert world.process()
    before = world.contents("processed/") | world.contents("enhanced/")
    ingest(world)
    proxy.fail("get", damaged, key="/raw/")
    assert not world.process()
    assert "SHA-256" in world.failures[-1]
    assert world.contents("processed/") | world.contents("enhanced/") == before
    proxy.heal()
    world.settle()
    world.verify(REPAIRED)


def test_an_object_that_goes_between_list_and_get_costs_itself(s3, report):
    report("404 between list and get", PUBLISHED)
    world, proxy = s3
    ingest(world)
    assert world.process()
    ingest(world)
    ingest(world)
    proxy.fail("get", GONE, key=world.key("raw", world.served[1][0]))
    assert world.process(), world.failures
    assert len({at for _, at in _pairs(world.truth, world.settings, "enhanced")}) == 2
    proxy.heal()
    assert world.settle() == [local_day(NOON)]
    world.verify(PUBLISHED)


@pytest.mark.parametrize("layer", ["raw", "processed", "enhanced"])
def test_a_write_whose_answer_gets_lost_is_counted_once(s3, report, layer):
    report(f"put of {layer}: carried out, answer lost, 2 x", PUBLISHED)
    world, proxy = s3
    ingest(world)
    proxy.fail("put", lost_answer, key=f"/{layer}/", times=2)
    second = ingest(world)
    assert not second.spooled
    assert second.key == world.key("raw", world.served[1][0])
    assert world.process(), world.failures
    world.verify(PUBLISHED)


@pytest.mark.parametrize("fault", ["reset", "cut short", "HTML 200"])
def test_a_fault_on_the_second_page_of_a_listing_loses_no_key(s3, report, monkeypatch, fault):
    report(f"second page of raw/: {fault}, 2 x", PUBLISHED)
    monkeypatch.setattr("wrm_pipeline.lake.s3_object_store._PAGE_KEYS", 5)
    world, proxy = s3
    for _ in range(12):
        ingest(world)
    proxy.fail("list", {**FAULTS, "cut short": cut_short}[fault], key="start-after", after=1, times=2)
    assert world.process(), world.failures
    world.verify(PUBLISHED)


def test_a_listing_that_stays_broken_shrinks_nothing(s3, report, monkeypatch):
    report("second page of raw/: 503 for a whole run", REPAIRED)
    monkeypatch.setattr("wrm_pipeline.lake.s3_object_store._PAGE_KEYS", 5)
    world, proxy = s3
    for _ in range(12):
        ingest(world)
    assert world.process()
    before = world.contents("processed/")
    ingest(world)
    proxy.fail("list", SLOW_DOWN, after=2)
    assert not world.process()
    assert world.contents("processed/") == before
    proxy.heal()
    world.settle()
    world.verify(REPAIRED)


@pytest.mark.parametrize("store", ["enforces", "ignores", "rejects"])
def test_if_none_match(s3, report, city, store):
    report(f"a store that {store} If-None-Match", PUBLISHED)
    world, proxy = s3
    faults = {"ignores": ignoring_if_none_match(world.truth._connected()), "rejects": reject_if_none_match}
    if store in faults:
        proxy.fail("put", faults[store])
    first = ingest(world)
    assert not first.spooled
    # Another fetcher in the same second, with other bytes: both stay.
    world.now -= MINUTE
    other = city.snapshot(world.now + timedelta(hours=1))
    clashing = world.fetch(Says(lambda: world.now, [other]))
    assert isinstance(clashing, IngestResult)
    assert clashing.key != first.key
    at, body = world.served.pop()
    world.served.append((at + timedelta(seconds=1), body))
    # The same bytes once more: nothing new.
    again = world.fetch(Says(lambda: world.now, [other]))
    assert isinstance(again, IngestResult)
    assert again.duplicate
    ingest(world)
    assert world.process(), world.failures
    world.verify(PUBLISHED)


# Half an hour before midnight in Warsaw.
MIDNIGHT = datetime(2025, 8, 21, 21, 30, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("fault", "start"), [("reset", NOON), ("reset", MIDNIGHT), ("503 SlowDown", MIDNIGHT), ("403", NOON)]
)
def test_an_outage_of_an_hour_loses_no_snapshot(s3, report, start, fault):
    report(f"{fault} for 60 minutes{' around midnight' if start == MIDNIGHT else ''}", SPOOLED)
    world, proxy = s3
    world.now = start - 2 * MINUTE
    ingest(world)
    ingest(world)
    proxy.fail("", FAULTS[fault])
    asked = len(proxy.seen)
    results = [ingest(world) for _ in range(60)]
    assert all(result.spooled for result in results)
    assert len(list(world.spool.waiting())) == 60
    if fault != "403":
        assert len(proxy.seen) - asked < 60 * 3, "an open circuit asks once a minute"
    proxy.heal()
    world.now += MINUTE  # beyond the circuit's cooldown
    delivered = ingest(world).delivered
    assert delivered.keys == tuple(world.key("raw", at) for at, _ in world.served[2:62]), "oldest first"
    assert delivered.still_waiting == 0
    days = sorted({local_day(at) for at, _ in world.served})
    assert len(days) == (1 if start == NOON else 2)
    for day in days:
        assert world.process(day)
    assert len(world.keys("raw/")) == 63
    world.verify(SPOOLED)


def test_a_delivery_that_breaks_off_goes_on_where_it_was(s3, report):
    report("503 at the 4th put of a delivery of 10", SPOOLED)
    world, proxy = s3
    proxy.fail("", SLOW_DOWN)
    for _ in range(10):
        ingest(world)
    proxy.heal()
    world.now += MINUTE
    proxy.fail("put", SLOW_DOWN, after=4)  # the first one is sent twice: the store is tried for If-None-Match
    broken = ingest(world)
    assert broken.spooled
    assert len(list(world.spool.waiting())) == 10 - 3 + 1
    proxy.heal()
    world.now += MINUTE
    ingest(world)
    assert world.process()
    world.verify(SPOOLED)


def test_the_feed_is_down_when_the_store_comes_back(s3, report):
    report("store away for 3 minutes, then the feed", REPAIRED)
    world, proxy = s3
    proxy.fail("", SLOW_DOWN)
    for _ in range(3):
        ingest(world)
    proxy.heal()
    world.now += MINUTE

    class Down:
        kind = UCL
        memory = None

        def fetch(self, *, correlation_id: str = ""):
            raise TransientError("nobody is there", "feed", "get")

    assert isinstance(world.fetch(Down()), TransientError)
    assert list(world.spool.waiting()) == [], "what waits need not wait for the feed, too"
    assert world.process()
    world.verify(REPAIRED)


def test_credentials_that_cannot_be_had_spool(s3, report):
    report("no credentials for 3 minutes", SPOOLED)
    world, _ = s3
    connect = world.connect

    def denied():
        raise StorageDeniedError("sealed", "vault", "get")

    world.connect = denied
    results = [ingest(world) for _ in range(3)]
    assert all("sealed" in result.spool_reason for result in results)
    world.connect = connect
    ingest(world)
    assert world.process()
    world.verify(SPOOLED)


def test_an_outage_between_processed_and_enhanced_is_repaired(s3, report):
    report("outage after the put of processed", REPAIRED)
    world, proxy = s3
    ingest(world)
    assert world.process()
    ingest(world)
    old_enhanced = world.contents("enhanced/")

    def then_away(proxy: S3Proxy, request) -> Answer:
        answer = proxy.forward(request)
        proxy.fail("", RESET)
        return answer

    proxy.fail("put", then_away, key="/processed/", times=1)
    assert not world.process()
    assert world.contents("enhanced/") == old_enhanced
    proxy.heal()
    world.now += timedelta(minutes=2)
    assert world.settle() == [local_day(NOON)], "no new raw object, but enhanced lags behind"
    world.verify(REPAIRED)


def test_the_analytics_database_stays_published_while_it_cannot_be_written(s3, report):
    report("put of duckdb/: 503 SlowDown", REPAIRED)
    world, proxy = s3
    ingest(world)
    assert world.process()
    assert world.run("wrm_analytics_job"), world.failures
    before = world.contents("duckdb/")
    assert len(before) == 1
    ingest(world)
    assert world.process()
    proxy.fail("put", SLOW_DOWN, key="/duckdb/")
    assert not world.run("wrm_analytics_job")
    assert world.contents("duckdb/") == before
    proxy.heal()
    assert world.run("wrm_analytics_job"), world.failures
    assert world.contents("duckdb/") != before
    world.verify(REPAIRED)


@pytest.mark.parametrize("fault", ["HTML 200", "403", "reset"])
def test_a_sensor_that_cannot_list_fails_and_forgets_nothing(s3, report, fault):
    report(f"list by the sensor: {fault}", REPAIRED)
    world, proxy = s3
    ingest(world)
    day = local_day(NOON)

    def look(cursor):
        return plan_new_data_runs(world.store, world.layout, cursor, today=day, started=frozenset())

    plan = look(None)
    assert [run.dt for run in plan.runs] == [day]
    ingest(world)
    proxy.fail("list", FAULTS[fault])
    with pytest.raises(ExternalError) as caught:
        look(plan.cursor)
    world.failures.append(str(caught.value))
    proxy.heal()
    world.now += 2 * MINUTE
    assert [run.dt for run in look(plan.cursor).runs] == [day]
    assert world.process()
    world.verify(REPAIRED)


def test_dead_letters_that_cannot_be_written_fail_the_run(s3, report, city):
    report("put of dlq/: 503", REPAIRED)
    world, proxy = s3
    ingest(world)
    assert world.process()
    before = world.contents("processed/") | world.contents("enhanced/")
    header, _, rows = city.snapshot(world.now).partition(b"\n")
    bad = header + b"\n" + b"1,x|y|z,Rynek,51.1,17.0,1,1,true,false,false,2,,0\n" + rows
    world.fetch(Says(lambda: world.now, [bad]))
    proxy.fail("put", SLOW_DOWN, key="/dlq/")
    assert not world.process()
    assert world.contents("processed/") | world.contents("enhanced/") == before
    proxy.heal()
    world.now += 2 * MINUTE
    world.settle()
    assert len(world.keys("dlq/")) == 1
    world.verify(REPAIRED)

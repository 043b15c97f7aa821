"""feed -> raw/ as an asset: a real HTTP feed, and what a person sees in the UI."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from wrm_pipeline.clients.retry import RetryPolicy
from wrm_pipeline.lake.spool import Spool
from wrm_pipeline.simulator.city import City
from wrm_pipeline.simulator.misbehaviour import Misbehaviour
from wrm_pipeline.simulator.server import serve
from wrm_pipeline_tests.fixtures.lake import failure_of, metadata_of, run_job

RAW = "wrm_stations_raw_data"
ONE_TRY = RetryPolicy(attempts=1, deadline_s=5, base_wait_s=0, max_wait_s=0, attempt_s=5)


@pytest.fixture
def feed(monkeypatch):
    with serve(City(1)) as server:
        monkeypatch.setenv("WRM_STATIONS_DATA_URL", server.url)
        yield server


@pytest.fixture
def blocked(lake):
    """A file where the lake's folder should be: the store takes nothing until it is removed."""
    path = lake.settings.lake_dir
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    return path


def ingest(**kwargs):
    return run_job("wrm_stations_ingest_job", **kwargs)


def test_a_snapshot_is_stored_and_described(feed, lake):
    before = datetime.now(UTC)
    result = ingest()

    metadata = metadata_of(result, RAW)
    (key,) = lake.keys("raw/")
    assert metadata["key"] == key
    assert len(lake.store.get(key)) == metadata["size_bytes"]
    assert lake.store.stat(key).metadata["sha256"] == metadata["sha256"]
    assert before.timestamp() <= metadata["fetched_at"] <= datetime.now(UTC).timestamp()
    assert (metadata["duplicate"], metadata["spooled"], metadata["spool_waiting"]) == (False, False, 0)
    assert metadata["lines_in"] == metadata["rows_out"] > 300
    assert metadata["external_requests"] == {"feed get ok": 1}
    assert feed.last_headers["X-Correlation-ID"] == result.run_id


def test_the_same_bytes_again_are_a_green_run_that_stores_nothing(feed, lake):
    ingest()
    feed.plan(Misbehaviour.FROZEN)
    metadata = metadata_of(ingest(), RAW)
    assert (metadata["duplicate"], metadata["spooled"]) == (True, False)
    assert len(lake.keys("raw/")) == 1


def test_while_the_store_is_away_the_run_succeeds_and_says_spooled(feed, lake, blocked):
    feed.clock = lambda: datetime.now(UTC) - timedelta(minutes=5)
    result = ingest()

    metadata = metadata_of(result, RAW)
    assert result.success
    assert (metadata["spooled"], metadata["duplicate"], metadata["spool_waiting"]) == (True, False, 1)
    assert str(blocked) in metadata["spool_reason"]
    assert "/raw/dt=" in metadata["key"]

    blocked.unlink()
    feed.clock = lambda: datetime.now(UTC)
    later = metadata_of(ingest(), RAW)
    assert (later["spooled"], later["delivered_from_spool"], later["spool_waiting"]) == (False, 1, 0)
    assert metadata["key"] in lake.keys("raw/")
    assert len(lake.keys("raw/")) == 2


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Misbehaviour.HTML, "looks like an HTML page"),
        (Misbehaviour.EMPTY, "empty"),
        (Misbehaviour.TRUNCATED_SILENTLY, "mid-row"),
        (Misbehaviour.GZIP, "text"),
    ],
)
def test_what_is_no_snapshot_fails_the_run_in_plain_words(feed, lake, kind, words):
    feed.plan(kind)
    result = ingest(raise_on_error=False)

    (key,) = lake.keys("quarantine/")
    message = failure_of(result)
    assert message.startswith("dagster._core.definitions.events.Failure: The feed answered with something that is no")
    assert words in message
    assert f"The body is in {key}." in message
    assert lake.keys("raw/") == []
    (letter,) = lake.keys("dlq/")
    assert json.loads(lake.store.get(letter))["source_key"] == key


def test_a_bad_body_while_the_store_is_away_is_said_to_wait(feed, lake, blocked):
    feed.plan(Misbehaviour.HTML, times=2)
    for _ in range(2):
        message = failure_of(ingest(raise_on_error=False))
        assert "waits in the spool for bike-data/gen_info/quarantine/dt=" in message
    waiting = list(Spool(lake.settings.spool_dir, 1).waiting())
    assert [body.kind for body in waiting] == ["quarantine"]


def test_a_feed_that_refuses_fails_the_run_with_its_url(feed, lake):
    feed.plan(Misbehaviour.NOT_FOUND)
    message = failure_of(ingest(raise_on_error=False))
    assert "HTTP 404" in message
    assert feed.url in message
    assert lake.keys() == []


def test_a_full_spool_fails_the_run(feed, lake, blocked, monkeypatch):
    monkeypatch.setenv("WRM_SPOOL_MAX_BYTES", "1000")
    message = failure_of(ingest(raise_on_error=False))
    assert "WRM_SPOOL_MAX_BYTES" in message
    assert list(Spool(lake.settings.spool_dir, 1).waiting()) == []


def test_a_spool_that_fills_is_an_error_in_the_log(feed, lake, blocked, monkeypatch):
    monkeypatch.setenv("WRM_SPOOL_MAX_BYTES", "45000")
    with dg.DagsterInstance.ephemeral() as instance:
        result = ingest(instance=instance)
        errors = [log.user_message for log in instance.all_logs(result.run_id) if log.level == logging.ERROR]
    assert result.success
    assert len(errors) == 1
    assert "bring the object store back before it is full" in errors[0]


def test_a_body_above_the_limit_is_refused(feed, lake, monkeypatch):
    monkeypatch.setenv("WRM_FEED_MAX_BYTES", "1000")
    assert "WRM_FEED_MAX_BYTES" in failure_of(ingest(raise_on_error=False))
    assert lake.keys() == []


def test_of_several_feeds_one_is_enough_and_the_dead_one_is_named(feed, lake, monkeypatch):
    monkeypatch.setenv("WRM_FEEDS", "operator,ucl")
    monkeypatch.setenv("WRM_OPERATOR_URL", "http://user:canary-4711@127.0.0.1:9/")  # pragma: allowlist secret
    monkeypatch.setattr("wrm_pipeline.resources.feed.SEVERAL_FEEDS_POLICY", ONE_TRY)
    metadata = metadata_of(ingest(), RAW)
    (key,) = lake.keys("raw/")
    assert metadata["key"] == metadata["feeds"]["ucl"]["key"] == key
    assert metadata["handled_rows"]["out"] == metadata["feeds"]["ucl"]["rows_out"] > 300
    assert list(metadata["feeds_failed"]) == ["operator"]
    assert "127.0.0.1" in metadata["feeds_failed"]["operator"]
    assert metadata["external_requests"] == {"feed get ok": 1, "feed_operator get failed": 1}
    assert "canary" not in json.dumps(metadata)


def test_without_any_snapshot_the_run_fails_and_says_what_each_feed_did(feed, lake, monkeypatch):
    monkeypatch.setenv("WRM_FEEDS", "operator,ucl")
    monkeypatch.setenv("WRM_OPERATOR_URL", "http://127.0.0.1:9/")
    monkeypatch.setattr("wrm_pipeline.resources.feed.SEVERAL_FEEDS_POLICY", ONE_TRY)
    feed.plan(Misbehaviour.HTML)
    message = failure_of(ingest(raise_on_error=False))
    (key,) = lake.keys("quarantine/")
    assert "No feed gave a snapshot. operator: feed_operator get" in message
    assert "looks like an HTML page" in message.partition("ucl: ")[2]
    assert f"The body is in {key}." in message

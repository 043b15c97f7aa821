"""A lake that is fed by the operator's API alone: fetched, kept, published, traced, corrected."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from wrm_pipeline.cli.main import main
from wrm_pipeline.clients.feed import FetchedBody
from wrm_pipeline.domain.feeds import KINDS
from wrm_pipeline.domain.manifest import Manifest
from wrm_pipeline.flows.drift import look_for_drift
from wrm_pipeline.flows.ingest import IngestResult, take_snapshot
from wrm_pipeline.flows.trace import to_text, trace
from wrm_pipeline.lake.published_partitions import PublishedPartitions
from wrm_pipeline.lake.spool import Spool
from wrm_pipeline.settings import load_settings
from wrm_pipeline_tests.fixtures.lake import DAY, NOON, Lake, WatchedStore, build_day
from wrm_pipeline_tests.fixtures.operator_answers import answer, bike, free, station

OPERATOR = KINDS["operator"]
MINUTE = timedelta(minutes=1)


class Fetched:
    """A feed that answers once."""

    kind = OPERATOR
    memory = None

    def __init__(self, body: bytes, at) -> None:
        self.answered = FetchedBody(body, at, 200, "application/json", OPERATOR)

    def fetch(self, *, correlation_id: str = "") -> FetchedBody:
        return self.answered


@pytest.fixture
def operator_lake(lake: Lake, monkeypatch) -> Lake:
    monkeypatch.setenv("WRM_FEEDS", "operator")
    return Lake(load_settings())


def take(lake: Lake, body: bytes, minute: int = 0, *, store=None) -> IngestResult:
    spool = Spool(lake.settings.spool_dir, 10_000_000)
    return take_snapshot(Fetched(body, NOON + minute * MINUTE), lambda: store or lake.store, lake.layout, spool)


def places(bikes: int = 3) -> list:
    return [station(15001, bikes=bikes), station(15002, geoCoords=None), free(bike(591106, electric=True, battery=40))]


def test_from_the_fetch_to_published_rows_a_trace_and_a_correction(operator_lake: Lake, capsys):
    lake = operator_lake
    body = answer(places(1), [])
    first = take(lake, body)
    assert first.key.endswith("raw/dt=2025-08-21/operator_2025-08-21_12-00-00.json")
    assert lake.store.get(first.key) == body
    take(lake, answer(places(2)), 2)
    build_day()
    take(lake, answer(places(3)), 3)
    build_day()

    rows = lake.rows("enhanced")
    assert [(row["station_id"], row["bikes"]) for row in rows] == [
        (station_id, count) for bikes in (1, 2, 3) for station_id, count in (("15001", bikes), ("fb591106", 1))
    ]
    assert {row["feed"] for row in rows} == {"operator"}
    assert {row["record_type"] for row in rows} == {"station", "bike"}
    parts = PublishedPartitions(lake.store, lake.layout).read("processed", DAY)
    manifest = Manifest.from_footer(parts.footer_metadata)
    counts = manifest.counts
    assert (counts.lines_in, counts.rows_out, counts.dead_lettered) == (9, 6, 3)
    assert len(lake.letters()) == 3

    found = trace(lake.store, lake.layout, "fb591106", NOON + 3 * MINUTE)
    assert found.warnings == ()
    assert json.loads(found.line.text) == places()[2]
    assert "\nobject 3" in "\n".join(to_text(found, "http://ui"))

    letter = json.loads(lake.store.get(lake.letters()[0]))
    (record,) = letter["records"]
    assert json.loads(record["raw_data"]) == places()[1]
    good = json.dumps(station(15002, bikes=9))
    line = str(record["line_number"])
    assert main(["dlq", "correct", letter["entry_id"], "--line", line, "--data", good, "--apply"]) == 0
    build_day()
    corrected = [row for row in lake.rows("processed") if row["station_id"] == "15002"]
    assert [(row["bikes"], row["s3_source_key"]) for row in corrected] == [(9, letter["source_key"])]
    capsys.readouterr()


def test_an_answer_that_is_not_one_goes_to_quarantine_and_comes_back_by_replay(operator_lake: Lake, capsys):
    lake = operator_lake
    result = take(lake, b"<html>503</html>")
    assert result.fault.error_type == "file_not_json"
    assert result.key.endswith("quarantine/dt=2025-08-21/operator_2025-08-21_12-00-00.json")
    assert len(lake.letters()) == 1
    # What a release that reads it would find.
    lake.store.put(result.key, answer(places()))
    take(lake, answer(places(2)), 1)
    assert main(["dlq", "replay", "--apply"]) == 0
    assert {row["s3_source_key"].rpartition("/")[2] for row in lake.rows("processed")} == {
        "operator_2025-08-21_12-00-00.json",
        "operator_2025-08-21_12-01-00.json",
    }
    capsys.readouterr()


def test_while_the_store_is_away_it_waits_in_the_spool_as_what_it_is(operator_lake: Lake):
    lake = operator_lake
    away = WatchedStore(lake.store, fails=lambda _operation, _key: True)
    assert take(lake, answer(places(1)), store=away).spooled
    (waiting,) = Spool(lake.settings.spool_dir, 10_000_000).waiting()
    assert waiting.feed is OPERATOR
    result = take(lake, answer(places(2)), 1)
    assert [key.rpartition("/")[2] for key in result.delivered.keys] == ["operator_2025-08-21_12-00-00.json"]


def test_the_same_bytes_a_minute_later_are_another_snapshot(operator_lake: Lake):
    """The answer has no time of its own, and in a quiet night nothing in it changes."""
    lake = operator_lake
    body = answer(places(1))
    away = WatchedStore(lake.store, fails=lambda _operation, _key: True)
    assert not take(lake, body).duplicate
    assert [take(lake, body, minute, store=away).spooled for minute in (1, 2)] == [True, True]
    last = take(lake, body, 3)
    assert (last.duplicate, len(last.delivered.keys)) == (False, 2)
    assert len(list(lake.store.list(lake.layout.raw_folder(DAY)))) == 4


def test_a_changed_format_is_found_with_examples(operator_lake: Lake):
    lake = operator_lake
    take(lake, answer([station(n) for n in range(1, 6)]))
    take(lake, answer([station(n, geoCoords={"lat": "51°6", "lng": 17.0}) for n in range(1, 6)]), 1)
    found, looked_at = look_for_drift(lake.store, lake.layout, now=NOON + 2 * MINUTE)
    assert looked_at == 2
    assert (found.old, found.new, found.drift.field) == ("'51.1097'", "'51°6'", "lat")

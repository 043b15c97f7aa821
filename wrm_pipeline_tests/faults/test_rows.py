"""Each rule of the contract for a bad row or file, alone and among good ones; a file of nothing but bad rows."""

from __future__ import annotations

import json
import re
import time
from datetime import timedelta
from pathlib import Path

import pytest

from wrm_pipeline.lake.dead_letter_queue import DeadLetterQueue
from wrm_pipeline.simulator.misbehaviour import BODY_EDITS, DEAD_ROWS, Misbehaviour, dead_row
from wrm_pipeline_tests.faults.harness import (
    DEAD_LETTERED,
    MINUTE,
    NOON,
    PUBLISHED,
    REPAIRED,
    failing,
    local_day,
)
from wrm_pipeline_tests.faults.oracle import expected_of

DAY = local_day(NOON)

# What each kind of row is called in the queue.
ERROR_TYPES = {
    "too_few_fields": "wrong_field_count",
    "too_many_fields": "wrong_field_count",
    "empty_id": "empty_id",
    "report_of_four_numbers": "bad_timestamp",
    "report_not_a_number": "bad_timestamp",
    "report_before_2010": "timestamp_out_of_range",
    "report_in_the_future": "timestamp_out_of_range",
    "lat_not_a_number": "bad_coordinates",
    "lat_not_finite": "bad_coordinates",
    "lat_out_of_range": "bad_coordinates",
    "lon_not_finite": "bad_coordinates",
    "lon_out_of_range": "bad_coordinates",
    "no_position": "bad_coordinates",
    "bikes_negative": "bad_count",
    "bikes_not_whole": "bad_count",
    "bikes_not_a_number": "bad_count",
    "spaces_negative": "bad_count",
    "docks_too_many": "bad_count",
    "bikes_missing": "bad_count",
    "pedelecs_not_a_number": "bad_count",
    "flag_unknown": "bad_flag",
}


def letters_of(world) -> list[dict]:
    return [json.loads(body) for body in world.contents("dlq/").values()]


def test_every_rule_has_a_scenario(report):
    report("the simulator's kinds of dead rows", "all covered")
    assert ERROR_TYPES.keys() == DEAD_ROWS.keys()


@pytest.mark.parametrize("kind", DEAD_ROWS)
def test_a_bad_row_among_good_ones(world, city, report, kind):
    report(f"{kind}, among {len(city.snapshot(NOON).splitlines()) - 1} good rows", DEAD_LETTERED)
    good = city.snapshot(NOON)
    bad = dead_row(kind, good)
    lines = good.splitlines(keepends=True)
    key = world.put_raw(NOON, b"".join([*lines[:5], bad, *lines[5:]]))
    world.put_raw(NOON + MINUTE, city.snapshot(NOON + MINUTE))
    assert world.process(DAY), world.failures
    (letter,) = letters_of(world)
    assert (letter["error_type"], letter["source_key"], letter["status"]) == (
        ERROR_TYPES[kind],
        key,
        "pending_reprocessing",
    )
    assert [(r["line_number"], r["raw_data"]) for r in letter["records"]] == [(6, bad.decode().rstrip("\n"))]
    world.verify(DEAD_LETTERED)


@pytest.mark.parametrize("kind", DEAD_ROWS)
def test_a_file_of_one_bad_row_costs_only_itself(world, city, report, kind):
    report(f"{kind}, alone in its file", DEAD_LETTERED)
    good = city.snapshot(NOON)
    key = world.put_raw(NOON, good.splitlines(keepends=True)[0] + dead_row(kind, good), served=False)
    world.put_raw(NOON + MINUTE, city.snapshot(NOON + MINUTE))
    assert world.process(DAY), world.failures
    (letter,) = letters_of(world)
    assert (letter["error_type"], letter["source_key"], letter["records_total"]) == ("file_no_valid_row", key, 1)
    world.verify(DEAD_LETTERED, extra_raw={key: world.truth.get(key)})


def test_all_bad_rows_at_once(world, city, report):
    report(f"{len(DEAD_ROWS)} kinds of bad rows in one file, twice", DEAD_LETTERED)
    for at in (NOON, NOON + MINUTE):
        world.put_raw(at, BODY_EDITS[Misbehaviour.DEAD_LETTER_ROWS](city.snapshot(at)))
    assert world.process(DAY), world.failures
    letters = letters_of(world)
    assert len(letters) == 2 * len(set(ERROR_TYPES.values())), "one entry per raw object and error type"
    before = world.contents("")
    assert world.process(DAY, full_rebuild=True)
    again = letters_of(world)
    assert {letter["entry_id"] for letter in again} == {letter["entry_id"] for letter in letters}
    assert world.contents("dlq/").keys() == {key for key in before if "/dlq/" in key}
    world.verify(DEAD_LETTERED)


@pytest.mark.parametrize(
    ("body", "error_type"),
    [
        (b"", "file_empty"),
        (b"\n\n  \n", "file_empty"),
        (b"<html><body>503</body></html>\n", "file_no_header"),
        (b'{"error": 1}\n', "file_no_header"),
        (bytes(range(256)) * 8, "file_not_text"),
        (b"#id,name\n1,Rynek\n", "file_no_header"),
        (b"src,nextbike\n# nothing\n", "file_no_header"),
    ],
    ids=["empty", "blank lines", "html", "json", "binary", "header without columns", "remarks only"],
)
def test_a_bad_file_under_raw_costs_only_itself(world, city, report, body, error_type):
    report(f"{error_type} under raw/, from elsewhere", DEAD_LETTERED)
    key = world.put_raw(NOON, body, served=False)
    world.put_raw(NOON + MINUTE, city.snapshot(NOON + MINUTE))
    assert world.process(DAY), world.failures
    (letter,) = letters_of(world)
    assert (letter["error_type"], letter["source_key"]) == (error_type, key)
    assert world.truth.get(key) == body
    assert len(world.keys("processed/")) == 1
    world.verify(DEAD_LETTERED, extra_raw={key: body})


def test_repeats_in_one_file_leave_the_latest_report(world, city, report):
    report("a station twice in one file", PUBLISHED)
    world.put_raw(NOON, BODY_EDITS[Misbehaviour.DUPLICATE_STATION](city.snapshot(NOON)))
    assert world.process(DAY)
    assert expected_of(world.served[0][1], NOON).duplicates == 1
    world.verify(PUBLISHED)


def test_a_hundred_thousand_bad_rows(world, city, report):
    report("100,000 bad rows in one file", DEAD_LETTERED)
    good = city.snapshot(NOON)
    header, *rows = good.splitlines(keepends=True)
    bad = dead_row("lat_out_of_range", good)
    world.put_raw(NOON, b"".join([header, *rows, bad * 100_000]))
    # The kernel's own figure of this process's peak, from here on.
    Path("/proc/self/clear_refs").write_text("5")
    before = _status_mb("VmRSS")
    started = time.process_time()
    assert world.process(DAY), world.failures
    assert time.process_time() - started < 10
    assert _status_mb("VmHWM") - before < 400
    (letter,) = letters_of(world)
    assert letter["records_total"] == 100_000
    assert len(letter["records"]) == 1_000, "the raw object has the others"
    world.verify(DEAD_LETTERED)


def _status_mb(name: str) -> float:
    return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


@pytest.mark.parametrize("operation", ["put", "get"])
def test_dead_letters_that_cannot_be_kept_fail_the_run(world, city, report, operation):
    report(f"{operation} of dlq/: 503", REPAIRED)
    world.put_raw(NOON, city.snapshot(NOON))
    assert world.process(DAY)
    before = world.contents("processed/") | world.contents("enhanced/")
    world.put_raw(NOON + MINUTE, BODY_EDITS[Misbehaviour.DEAD_LETTER_ROWS](city.snapshot(NOON + MINUTE)))
    with failing(world, lambda asked, key: asked == operation and "/dlq/" in key):
        assert not world.process(DAY)
    assert world.contents("processed/") | world.contents("enhanced/") == before
    assert letters_of(world) == []
    assert world.settle() == [DAY]
    world.verify(REPAIRED)


def test_some_dead_letters_that_were_written_before_the_store_failed(world, city, report):
    report("put of the 4th dead letter: 503", REPAIRED)
    world.put_raw(NOON, BODY_EDITS[Misbehaviour.DEAD_LETTER_ROWS](city.snapshot(NOON)))
    asked: list[str] = []

    def fourth(operation: str, key: str) -> bool:
        if operation == "put" and "/dlq/" in key:
            asked.append(key)
        return len(asked) == 4

    with failing(world, fourth):
        assert not world.process(DAY)
    assert len(letters_of(world)) == 3
    assert world.keys("processed/") == []
    world.settle()
    assert len(letters_of(world)) == len(set(ERROR_TYPES.values()))
    world.verify(REPAIRED)


def test_a_partition_is_not_published_smaller(world, city, report):
    report("8 of 10 raw objects gone", PUBLISHED)
    keys = []
    for n in range(10):
        at = NOON + n * MINUTE
        keys.append(world.put_raw(at, city.snapshot(at)))
    assert world.process(DAY)
    before = world.contents("processed/") | world.contents("enhanced/")
    kept = {key: world.truth.get(key) for key in keys[2:]}
    for key in kept:
        world.truth.delete(key)
    assert world.process(DAY), world.failures
    assert world.contents("processed/") | world.contents("enhanced/") == before
    for key, body in kept.items():
        world.truth.put(key, body)
    world.settle()
    world.verify(PUBLISHED)


def test_a_loss_that_is_meant_is_published(world, city, report):
    report("8 of 10 raw objects gone, allow_shrink", PUBLISHED)
    keys = []
    for n in range(10):
        at = NOON + timedelta(minutes=n)
        keys.append(world.put_raw(at, city.snapshot(at)))
    assert world.process(DAY)
    for key in keys[2:]:
        world.truth.delete(key)
    del world.served[2:]
    assert world.process(DAY, allow_shrink=True), world.failures
    world.verify(PUBLISHED)


def test_an_entry_that_was_edited_into_nonsense_stops_nothing(world, city, report):
    report("a dead letter that is not JSON any more", DEAD_LETTERED)
    other = NOON + timedelta(days=1)
    world.put_raw(NOON, BODY_EDITS[Misbehaviour.UNCLOSED_QUOTE](city.snapshot(NOON)))
    assert world.process(DAY)
    (key,) = world.keys("dlq/")
    letter = world.truth.get(key)
    world.truth.put(key, letter[:-20])
    world.put_raw(NOON + MINUTE, city.snapshot(NOON + MINUTE))
    world.put_raw(other, city.snapshot(other))
    assert world.process(DAY), world.failures
    assert world.process(local_day(other))
    assert len(DeadLetterQueue(world.truth, world.layout).of_date(local_day(other))) == 0
    world.truth.put(key, letter)
    world.settle()
    world.verify(DEAD_LETTERED)

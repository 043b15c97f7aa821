"""Dead letters that are tried again: each row is published once, whatever is killed when."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from wrm_pipeline.clients.errors import TransientError
from wrm_pipeline.domain import partition_build
from wrm_pipeline.domain.dead_letters import DISCARDED, PARKED, PENDING, REPROCESSED, DeadLetter
from wrm_pipeline.flows.replay import ReplayResult, Selection, replay, select
from wrm_pipeline.lake.dead_letter_queue import DeadLetterQueue
from wrm_pipeline_tests.fixtures.lake import DAY, NOON, Lake, WatchedStore, build_day, run_job, snapshot
from wrm_pipeline_tests.fixtures.snapshots import line, refuse_battery_levels

LATER = NOON + timedelta(days=500)


def queue_of(lake: Lake) -> DeadLetterQueue:
    return DeadLetterQueue(lake.store, lake.layout)


def letters(lake: Lake) -> dict[str, DeadLetter]:
    return {letter.error_type: letter for letter in queue_of(lake).of_date(DAY)}


def again(lake: Lake, now: datetime = LATER, *, store: object = None, **selection: object) -> ReplayResult:
    return replay(store or lake.store, lake.layout, Selection(**selection), area=lake.settings.area, now=now)  # type: ignore[arg-type]


def bad_line(station: str, at: datetime = NOON, **values: str) -> str:
    return line(id=station, combined=f"{int(at.timestamp())}|7200|-1", **values)


def pairs(lake: Lake, layer: str) -> list[tuple[str, datetime]]:
    return [(row["station_id"], row["file_timestamp"]) for row in lake.rows(layer)]


def test_rows_that_an_older_parser_refused_are_published_once_after_the_fix(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies = [
        snapshot(
            NOON + timedelta(minutes=n), 5, bad_line("fb1", NOON + timedelta(minutes=n), name="BIKE 1", battery="83")
        )
        for n in range(3)
    ]
    for n, content in enumerate(bodies):
        lake.put_raw(NOON + timedelta(minutes=n), content)
    with monkeypatch.context() as old:
        refuse_battery_levels(old)
        old.setattr(partition_build, "PARSER_VERSION", "0")
        build_day()
    assert len(queue_of(lake).of_date(DAY)) == 3
    assert len(lake.rows("processed")) == 3 * 6

    result = again(lake)

    assert {letter.status for letter in queue_of(lake).of_date(DAY)} == {REPROCESSED}
    assert result.count(REPROCESSED) == 3
    for layer in ("processed", "enhanced"):
        assert len(pairs(lake, layer)) == 3 * 7
        assert len(set(pairs(lake, layer))) == 3 * 7
        assert sum(row["battery_pct"] == 83 for row in lake.rows(layer)) == 3
    before = lake.etags()
    assert again(lake, LATER + timedelta(hours=1)).letters == ()
    assert lake.etags() == before


def test_a_poison_entry_is_parked_after_five_replays_and_costs_nothing_more(lake: Lake) -> None:
    lake.put_raw(NOON, snapshot(NOON, 5, bad_line("15999", bikes="many")))
    build_day()
    for n in range(10):
        again(lake, LATER + timedelta(hours=n))
    letter = letters(lake)["bad_count"]
    assert (letter.status, letter.retry_count) == (PARKED, 5)
    watched = WatchedStore(lake.store)
    assert again(lake, LATER + timedelta(days=1), store=watched).letters == ()
    assert watched.written == []
    assert watched.counts["get"] <= 1


def test_a_correction_is_published_and_survives_rebuilds_from_scratch(lake: Lake) -> None:
    key = lake.put_raw(NOON, snapshot(NOON, 5, bad_line("15998", bikes="x"), bad_line("15999", bikes="y")))
    build_day()
    letter = letters(lake)["bad_count"]
    corrected = tuple(
        replace(record, corrected_data=bad_line("15998", bikes="4")) if "15998" in record.raw_data else record
        for record in letter.records
    )
    queue_of(lake).put(replace(letter, records=corrected))

    again(lake)

    rows = {row["station_id"]: row for row in lake.rows("enhanced")}
    assert rows["15998"]["bikes"] == 4
    assert rows["15998"]["s3_source_key"] == key
    assert "15999" not in rows
    first = pairs(lake, "enhanced")
    for config in ({"full_rebuild": True}, {}):
        build_day(config=config)
        assert pairs(lake, "enhanced") == first
    records = {record.line_number: record for record in letters(lake)["bad_count"].records}
    assert [bool(record.corrected_data) for _, record in sorted(records.items())] == [True, False]


def test_a_correction_that_is_wrong_itself_keeps_the_feeds_own_line(lake: Lake) -> None:
    lake.put_raw(NOON, snapshot(NOON, 5, bad_line("15998", bikes="x")))
    build_day()
    letter = letters(lake)["bad_count"]
    wrong = bad_line("15998", bikes="also wrong")
    queue_of(lake).put(replace(letter, records=(replace(letter.records[0], corrected_data=wrong),)))
    again(lake)
    record = letters(lake)["bad_count"].records[0]
    assert (record.raw_data, record.corrected_data) == (bad_line("15998", bikes="x"), wrong)
    assert "also wrong" in record.error_message
    assert letters(lake)["bad_count"].retry_count == 1


def test_a_discarded_entry_is_left_alone(lake: Lake) -> None:
    lake.put_raw(NOON, snapshot(NOON, 5, bad_line("15998", bikes="x")))
    build_day()
    queue_of(lake).put(replace(letters(lake)["bad_count"], status=DISCARDED, note="not worth it"))
    assert again(lake).letters == ()
    build_day(config={"full_rebuild": True})
    letter = letters(lake)["bad_count"]
    assert (letter.status, letter.note) == (DISCARDED, "not worth it")


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ({}, {"bad_count", "bad_flag"}),
        ({"error_types": ["bad_flag"]}, {"bad_flag"}),
        ({"dates": [DAY]}, {"bad_count", "bad_flag"}),
        ({"dates": [DAY + timedelta(days=1)]}, set()),
        ({"entry_ids": ["no such"]}, set()),
    ],
)
def test_a_selection_says_which_entries_are_tried(lake: Lake, selection: dict[str, object], expected: set[str]) -> None:
    lake.put_raw(NOON, snapshot(NOON, 5, bad_line("15998", bikes="x"), bad_line("15999", locked="maybe")))
    build_day()
    found = select(queue_of(lake), Selection(**selection))  # type: ignore[arg-type]
    assert {letter.error_type for letter in found.letters} == expected


def test_each_write_of_a_replay_may_fail_and_the_next_one_ends_the_same(lake: Lake) -> None:
    lake.put_raw(NOON, snapshot(NOON, 5, bad_line("15998", bikes="x")))
    build_day()
    letter = letters(lake)["bad_count"]
    fixed = replace(letter.records[0], corrected_data=bad_line("15998", bikes="4"))
    start = {key: lake.store.get(key) for key in lake.etags()}
    queue_of(lake).put(replace(letter, records=(fixed,)))
    corrected = lake.store.get(lake.letters()[0])
    counting = WatchedStore(lake.store)
    again(lake, store=counting)
    writes = len(counting.written)
    expected = pairs(lake, "enhanced")
    assert writes >= 3
    for failing in range(writes):
        for key, content in start.items():
            lake.store.put(key, content)
        lake.store.put(lake.letters()[0], corrected)
        store = WatchedStore(lake.store)
        store.fails = lambda operation, _key, s=store, n=failing: operation in {"put", "delete"} and len(s.written) > n
        with pytest.raises(TransientError):
            again(lake, store=store)
        again(lake, LATER + timedelta(minutes=5))
        build_day()
        assert pairs(lake, "enhanced") == expected
        assert len(set(expected)) == len(expected)
        assert letters(lake)["bad_count"].status == REPROCESSED


def test_a_quarantined_body_that_is_a_snapshot_after_all_goes_to_raw(lake: Lake) -> None:
    at = NOON + timedelta(seconds=2)
    key = lake.layout.quarantine_key(at)
    lake.store.put(key, snapshot(at))
    letter = DeadLetter("id-1", at, at, "wrm_stations_raw_data", DAY, key, "file_no_header", "No header.")
    queue_of(lake).put(letter)
    result = again(lake)
    assert result.count(REPROCESSED) == 1
    assert lake.store.get(lake.layout.raw_key(at)) == snapshot(at)
    assert len(lake.rows("enhanced")) == 11


def test_a_quarantined_body_that_is_still_none_is_counted(lake: Lake) -> None:
    key = lake.layout.quarantine_key(NOON)
    lake.store.put(key, b"<html>")
    queue_of(lake).put(
        DeadLetter("id-1", NOON, NOON, "wrm_stations_raw_data", DAY, key, "file_no_header", "No header.")
    )
    (letter,) = again(lake).letters
    assert (letter.status, letter.retry_count) == (PENDING, 1)
    assert lake.keys("raw/") == []


def test_the_job_replays_with_its_config_and_a_dry_run_writes_nothing(lake: Lake) -> None:
    lake.put_raw(NOON, snapshot(NOON, 5, bad_line("15998", bikes="x")))
    build_day()
    before = lake.etags()
    config = {"replay_dead_letters": {"dates": [DAY.isoformat()], "dry_run": True}}
    assert run_job("reprocess_dlq", config=config).output_for_node("replay_dead_letters")[PENDING] == 1
    assert lake.etags() == before
    config = {"replay_dead_letters": {"error_types": ["bad_count"], "max_retries": 1}}
    assert run_job("reprocess_dlq", config=config).output_for_node("replay_dead_letters")[PARKED] == 1
    assert json.loads(lake.store.get(lake.letters()[0]))["status"] == PARKED


def test_an_entry_whose_rows_were_published_by_an_ordinary_rebuild_is_settled(lake: Lake) -> None:
    lake.put_raw(NOON, snapshot(NOON, 5, bad_line("15998", bikes="x")))
    build_day()
    letter = letters(lake)["bad_count"]
    fixed = replace(letter.records[0], corrected_data=bad_line("15998", bikes="4"))
    queue_of(lake).put(replace(letter, records=(fixed,)))
    build_day()
    build_day()
    assert letters(lake)["bad_count"].status == REPROCESSED

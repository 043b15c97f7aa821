"""What others put below `dlq/` and into an archive's index: read or named, and in the way of nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import PurePosixPath

import pytest

from wrm_pipeline.cli.main import main
from wrm_pipeline.exporter.lake import DeadLetterSource
from wrm_pipeline.flows.watch import plan_reconciliation_runs
from wrm_pipeline.lake.dead_letter_queue import DeadLetterQueue
from wrm_pipeline.simulator.misbehaviour import dead_row
from wrm_pipeline_tests.faults.harness import (
    ANALYTICS,
    DEAD_LETTERED,
    MINUTE,
    NOON,
    REPLAY,
    Harness,
    lake_path,
    local_day,
)

DAY = local_day(NOON)
DAY_LATER = NOON + timedelta(days=1)
READ, NAMED = "read", "counted and listed as unreadable"

ORIGINAL = {
    "timestamp": "2025-08-21T13:05:02.123456",
    "asset_name": "wrm_stations_processed_data_all",
    "partition_date": "2025-08-21",
    "error_type": "ValidationError",
    "error_message": "bikes: not a number",
    "raw_data": "15001,1755781502|7200|-1,Rynek,51.1,17.0,x,3,true,false,false,12,,0",
    "stack_trace": "Traceback (most recent call last): …",
    "retry_count": 0,
    "status": "pending_reprocessing",
}

# By what they are: the content, and what must become of it.
LETTERS: dict[str, tuple[bytes | dict[str, object], str]] = {
    "original design": (ORIGINAL, READ),
    "original design, rows as JSON": (ORIGINAL | {"raw_data": [{"bikes": "x"}, {"bikes": None}]}, READ),
    "nothing but what is wrong": ({"error_message": "?"}, READ),
    "an empty object": ({}, NAMED),
    "all null": (dict.fromkeys(ORIGINAL), NAMED),
    "somebody's settings": ({"name": "x", "status": "parked", "version": 3}, NAMED),
    "an id that leaves the folder": (ORIGINAL | {"entry_id": "../../x"}, READ),
    "a source that leaves the folder": (ORIGINAL | {"source_key": "bike-data/gen_info/quarantine/../../x.txt"}, READ),
    "a source in quarantine that is not there": (
        ORIGINAL | {"source_key": "bike-data/gen_info/quarantine/dt=2025-08-21/wrm_stations_x.txt"},
        READ,
    ),
    "another asset's": (ORIGINAL | {"asset_name": "rain", "source_key": "rain/2025-08-21"}, READ),
    "records_total Infinity": (b'{"error_type": "x", "records_total": Infinity, "retry_count": NaN}', READ),
    "a partition_date of another day": (ORIGINAL | {"partition_date": "1999-01-01"}, READ),
    "keys that nobody knows": (ORIGINAL | {"ticket": "WRM-12", "key": "x", "extra": {"a": [1]}}, READ),
    "control characters and a lone surrogate": (ORIGINAL | {"error_message": "\x1b[2J\u0000\ud800"}, READ),
    "empty": (b"", NAMED),
    "not JSON": (b"{not json", NAMED),
    "nested 200,000 deep": (b"[" * 200_000, NAMED),
    "NUL bytes": (b"\0" * 4096, NAMED),
    "a number of 10,000 digits": (b'{"retry_count": ' + b"9" * 10_000 + b"}", NAMED),
    "the same key twice": (b'{"status": "parked", "status": "discarded"}', NAMED),
    "wrong types everywhere": ({key: [[]] for key in ORIGINAL}, NAMED),
    "a status that does not exist": (ORIGINAL | {"status": "lost"}, NAMED),
    "a time before all times": (ORIGINAL | {"timestamp": "0001-01-01T00:00:00+14:00"}, NAMED),
    "a source of another day": (ORIGINAL | {"source_key": "bike-data/gen_info/raw/dt=2025-08-19/x.txt"}, NAMED),
    "a picture": (bytes(range(256)) * 100, NAMED),
}


def content_of(what: str) -> bytes:
    content, _ = LETTERS[what]
    return content if isinstance(content, bytes) else json.dumps(content).encode()


def queue_of(world: Harness) -> DeadLetterQueue:
    return DeadLetterQueue(world.truth, world.layout)


def corrected_day(world: Harness, city) -> str:
    """A published day with a row that a person corrected; gives the letter's key."""
    good = city.snapshot(NOON)
    lines = good.splitlines(keepends=True)
    key = world.put_raw(NOON, b"".join([*lines[:3], dead_row("bikes_not_a_number", good), *lines[3:]]))
    assert world.process(DAY), world.failures
    (letter,) = queue_of(world).all()
    right = letter.records[0].raw_data.replace("many", "3")
    queue_of(world).put(replace(letter, records=(replace(letter.records[0], corrected_data=right),)))
    world.corrections[key] = {letter.records[0].line_number: right.encode()}
    world.now += timedelta(hours=1)
    assert world.run(REPLAY), world.failures
    return letter.key


def asked_for(world: Harness) -> list[str]:
    plan = plan_reconciliation_runs(
        world.store,
        world.layout,
        None,
        area=world.settings.area,
        now=world.now,
        today=local_day(DAY_LATER),
        started=frozenset(),
    )
    return [run.dt.isoformat() for run in plan.runs]


@pytest.mark.parametrize("what", LETTERS)
def test_a_foreign_letter_is_in_the_way_of_nothing(world, city, report, what, capsys):
    report(f"{what}, beside a corrected row", LETTERS[what][1])
    corrected_day(world, city)
    key = f"{world.layout.dead_letter_folder(DAY)}foreign.json"
    world.truth.put(key, content_of(what))
    read = LETTERS[what][1] == READ

    # The queue's own accounting.
    entries = queue_of(world).entries()
    assert [letter.entry_id for letter in entries.letters if letter.key == key] == (["foreign"] if read else [])
    assert [letter.key for letter in entries.unreadable] == ([] if read else [key])

    # The day, another day, the reconciliation, the asset, the job.
    world.put_raw(NOON + MINUTE, city.snapshot(NOON + MINUTE))
    world.put_raw(DAY_LATER, city.snapshot(DAY_LATER))
    assert sorted(asked_for(world)) == ["2025-08-21", "2025-08-22"]
    for dt in (DAY, local_day(DAY_LATER)):
        assert world.process(dt), world.failures
    assert world.process(DAY, full_rebuild=True), world.failures
    assert asked_for(world) == []
    assert world.run(ANALYTICS, only=["wrm_stations_dlq"]), world.failures
    assert world.run(REPLAY), world.failures

    # The operator's commands.
    capsys.readouterr()
    for command in (
        ["list"],
        ["list", "--json"],
        ["show", "foreign"],
        ["show", "foreign", "--json"],
        ["replay", "--apply"],
    ):
        assert main(["dlq", *command]) == 0, command
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert ("unreadable" in printed) != read

    source = DeadLetterSource(lambda: world.truth, world.layout)
    source.collect()
    (metric, _) = source.families(world.now.timestamp())
    assert {s.labels["status"]: s.value for s in metric.samples}["unreadable"] == (not read)

    # What others wrote is still there, and taken away by a person who says so.
    assert main(["dlq", "discard", "foreign", "--reason", "not ours", "--apply"]) == 0
    assert world.keys("dlq_set_aside/") == ([] if read else [world.layout.set_aside_key(key)])
    if read:
        kept = json.loads(world.truth.get(key))
        theirs = json.loads(content_of(what))
        assert kept["status"] == "discarded"
        assert theirs.keys() <= kept.keys()
    else:
        assert world.truth.get(world.layout.set_aside_key(key)) == content_of(what)
    world.truth.delete(key)
    world.verify(DEAD_LETTERED)


@pytest.mark.parametrize("what", ["empty", "nested 200,000 deep", "a status that does not exist", "a picture"])
def test_a_published_correction_outlives_its_letter(world, city, report, what):
    report(f"{what} in place of the letter that holds a correction; a new minute, then a full rebuild", "the row stays")
    key = corrected_day(world, city)
    right = world.truth.get(key)
    world.truth.put(key, content_of(what))
    world.put_raw(NOON + MINUTE, city.snapshot(NOON + MINUTE))
    for config in ({}, {"full_rebuild": True}):
        assert world.process(DAY, **config), world.failures
        assert asked_for(world) == []
        assert world.truth.get(key) == content_of(what)
        world.truth.put(key, right)
        world.verify(DEAD_LETTERED)
        world.truth.put(key, content_of(what))
    assert main(["dlq", "discard", PurePosixPath(key).stem, "--reason", "beyond repair", "--apply"]) == 0
    world.corrections.clear()
    assert asked_for(world) == ["2025-08-21"], "now the correction is gone, and its line is dead again"
    assert world.process(DAY), world.failures
    world.verify(DEAD_LETTERED)


def test_a_failure_whose_letter_cannot_be_read_gets_another_beside_it(world, city, report):
    report("an unreadable object has the name of the letter that is due, and of the one beside it", "a third")
    good = city.snapshot(NOON)
    world.put_raw(NOON, good + dead_row("bikes_not_a_number", good))
    for count in (1, 2, 3):
        assert world.process(DAY, full_rebuild=True), world.failures
        entries = queue_of(world).entries()
        assert (len(entries.letters), len(entries.unreadable)) == (1, count - 1)
        if count < 3:
            world.truth.put(entries.letters[0].key, b"{")
    for letter in entries.unreadable:
        assert world.truth.get(letter.key) == b"{"
        world.truth.delete(letter.key)
    world.verify(DEAD_LETTERED)


def test_large_letters_are_not_even_fetched(world, city, report):
    report("20 letters of 32 MB", "no request for them, each named with its size")
    corrected_day(world, city)
    folder = lake_path(world, world.layout.dead_letter_folder(DAY))
    for n in range(20):
        with (folder / f"large-{n}.json").open("wb") as file:
            file.truncate(32 * 2**20)
    world.put_raw(NOON + MINUTE, city.snapshot(NOON + MINUTE))
    world.store.calls.clear()
    assert world.process(DAY), world.failures
    assert world.run(ANALYTICS, only=["wrm_stations_dlq"]), world.failures
    assert world.run(REPLAY), world.failures
    assert not [key for _, key in world.store.calls if "large-" in key]
    unreadable = queue_of(world).entries(DAY).unreadable
    assert {letter.reason for letter in unreadable} == {
        "it has 33554432 bytes, and letters of more than 2097152 are not read"
    }
    assert len(unreadable) == 20
    for letter in unreadable:
        world.truth.delete(letter.key)
    world.verify(DEAD_LETTERED)


def test_a_letter_of_a_day_without_raw_stops_no_other_replay(world, city, report):
    report("letters of the original design on days that have no raw object at all, in four replays", DEAD_LETTERED)
    corrected_day(world, city)
    for day in ("2024-02-29", "2025-08-20", "9999-12-31"):
        world.truth.put(f"{world.layout.dead_letter_prefix}dt={day}/old.json", json.dumps(ORIGINAL).encode())
    for n in range(1, 5):
        assert world.run(REPLAY), world.failures
        tries = {letter.retry_count for letter in queue_of(world).all() if letter.entry_id == "old"}
        assert tries == {n}
    assert asked_for(world) == []


@pytest.mark.parametrize("max_retries", [0, -5])
def test_max_retries_below_one_parks_nothing(world, city, report, max_retries, capsys):
    report(f"max_retries {max_retries}, by command", "refused, nothing written")
    good = city.snapshot(NOON)
    world.put_raw(NOON, good + dead_row("bikes_not_a_number", good))
    assert world.process(DAY), world.failures
    before = world.contents("")
    assert main(["dlq", "replay", "--max-retries", str(max_retries), "--apply"]) == 2
    assert f"{max_retries} is not in the range x>=1" in capsys.readouterr().err
    assert world.contents("") == before


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[" * 200_000,
        b'{"version": 1, "members": Infinity}',
        b'{"version": 1, "dt": "2025-08-21", "name": "../../x", "sha256": "", "size_bytes": 1, "members": []}',
        b'{"version": 1, "dt": "2025-08-20", "name": "x.zip", "sha256": "", "size_bytes": 1, "members": []}',
        b'{"version": 1, "dt": "2025-08-21", "name": "x.zip", "sha256": "", "size_bytes": 1e999, "members": []}',
        (
            b'{"version": 1, "dt": "2025-08-21", "name": "x.zip", "sha256": "", "size_bytes": 1, "members": '
            b'[["../x.txt", 1, "e", "2025-08-21T12:00:00+00:00", "s"]]}'
        ),
        (
            b'{"version": 1, "dt": "2025-08-21", "name": "x.zip", "sha256": "", "size_bytes": 1, "members": '
            b'[["x.txt", 1, "e", "2025-08-21T12:00:00", "s"]]}'
        ),
    ],
    ids=[
        "empty",
        "cut",
        "nested",
        "infinite",
        "name elsewhere",
        "another day",
        "endless",
        "member elsewhere",
        "no zone",
    ],
)
def test_a_damaged_archive_index_costs_its_own_day(world, city, report, content, capsys):
    report("archive/index.json damaged", "its day's run fails and names it, the other day is built")
    for at in (NOON, DAY_LATER):
        world.put_raw(at, city.snapshot(at))
        assert world.process(local_day(at)), world.failures
    index = world.layout.archive_index_key(DAY)
    world.truth.put(index, content)
    world.put_raw(DAY_LATER + MINUTE, city.snapshot(DAY_LATER + MINUTE))
    assert sorted(asked_for(world)) == ["2025-08-21", "2025-08-22"]
    assert not world.process(DAY)
    assert index in world.failures.pop()
    assert world.process(local_day(DAY_LATER)), world.failures
    assert main(["compact", "--older-than-days", "2"]) == 1
    said = capsys.readouterr().out
    assert index in said
    assert "2025-08-22: 2 raw objects" in said
    world.truth.delete(index)
    world.verify("published")

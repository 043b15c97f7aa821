"""The dead-letter queue: the same failure is the same entry, and an operator's words survive."""

import json
import uuid
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from wrm_pipeline.clients.errors import ExternalError
from wrm_pipeline.domain.dead_letters import DISCARDED, PARKED, PENDING, REPROCESSED
from wrm_pipeline.domain.snapshot import FileReport, RawSnapshot, parse_snapshots
from wrm_pipeline.lake.dead_letter_queue import DeadLetterQueue
from wrm_pipeline_tests.fixtures.lake import DAY, NOON, Lake, WatchedStore, snapshot
from wrm_pipeline_tests.fixtures.snapshots import line

SOURCE = "bike-data/gen_info/raw/dt=2025-08-21/wrm_stations_2025-08-21_12-00-00.txt"
SEEN = datetime(2025, 8, 21, 13, tzinfo=UTC)


@pytest.fixture
def queue(lake: Lake) -> DeadLetterQueue:
    return DeadLetterQueue(lake.store, lake.layout)


def report(*lines: str) -> FileReport:
    batch = parse_snapshots([RawSnapshot(SOURCE, NOON, snapshot(NOON, 2, *lines))])
    return batch.reports[0]


BAD_COUNT = line(id="7", bikes="many")
BAD_PLACE = line(id="8", lat="north")


def record(queue, *lines, seen=SEEN):
    return queue.record([report(*lines)], asset_name="an_asset", partition_date=DAY, seen_at=seen)


def test_one_entry_for_each_error_type_of_a_file(queue, lake):
    record(queue, BAD_COUNT, BAD_PLACE, line(id="9", bikes="-1"))

    letters = queue.of_date(DAY)

    assert len(letters) == 2
    assert {letter.source_key for letter in letters} == {SOURCE}
    assert sorted(record.raw_data for letter in letters for record in letter.records) == sorted(
        [BAD_COUNT, BAD_PLACE, line(id="9", bikes="-1")]
    )
    for key in lake.letters():
        entry = json.loads(lake.store.get(key))
        assert key == f"bike-data/gen_info/dlq/dt=2025-08-21/{entry['entry_id']}.json"
        assert uuid.UUID(entry["entry_id"]).version == 5
        assert {
            "entry_id",
            "timestamp",
            "last_seen",
            "asset_name",
            "partition_date",
            "source_key",
            "error_type",
            "error_message",
            "records",
            "stack_trace",
            "retry_count",
            "status",
        } <= entry.keys()
        assert {"line_number", "raw_data", "field", "error_message"} == entry["records"][0].keys()
        assert (entry["status"], entry["retry_count"], entry["partition_date"]) == (PENDING, 0, "2025-08-21")


def test_the_same_failure_found_again_is_the_same_entry(queue, lake):
    record(queue, BAD_COUNT)
    keys = lake.letters()
    record(queue, BAD_COUNT, seen=SEEN + timedelta(hours=1))

    assert lake.letters() == keys
    (letter,) = queue.of_date(DAY)
    assert (letter.timestamp, letter.last_seen) == (SEEN, SEEN + timedelta(hours=1))


@pytest.mark.parametrize("status", [PENDING, PARKED, DISCARDED, REPROCESSED])
def test_what_a_person_set_survives_a_new_finding(queue, status):
    (letter,) = record(queue, BAD_COUNT)
    corrected = replace(letter.records[0], corrected_data=line(id="7", bikes="3"))
    queue.put(replace(letter, status=status, retry_count=3, note="asked the operator", records=(corrected,)))

    record(queue, BAD_COUNT)

    (kept,) = queue.of_date(DAY)
    assert kept.status == (PENDING if status == REPROCESSED else status)
    assert (kept.retry_count, kept.note) == (3, "asked the operator")
    assert kept.records[0].corrected_data == line(id="7", bikes="3")
    assert bool(kept.corrections) == (status != DISCARDED)


def test_a_clean_file_leaves_no_entry(queue, lake):
    assert record(queue) == []
    assert lake.letters() == []


def test_partitions_are_apart(queue):
    record(queue, BAD_COUNT)
    other = report(BAD_PLACE)
    other = replace(other, source_key=SOURCE.replace("08-21", "08-22"))
    queue.record([other], asset_name="a", partition_date=date(2025, 8, 22), seen_at=SEEN)
    assert queue.dates() == [DAY, date(2025, 8, 22)]
    assert [len(queue.of_date(dt)) for dt in queue.dates()] == [1, 1]
    assert len(queue.all()) == 2


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"status": 5}', b"\xff\xfe"],
    ids=["empty", "cut", "list", "wrong type", "bytes"],
)
def test_an_object_that_is_not_an_entry_is_named_and_in_nobodys_way(queue, lake, content):
    record(queue, BAD_COUNT)
    key = f"{lake.layout.dead_letter_folder(DAY)}x.json"
    lake.store.put(key, content)
    for entries in (queue.entries(DAY), queue.entries()):
        assert [(problem.key, problem.size_bytes) for problem in entries.unreadable] == [(key, len(content))]
        assert entries.unreadable[0].reason
        assert len(entries.letters) == 1
    assert len(queue.of_date(DAY)) == len(queue.all()) == 1


def test_a_status_that_does_not_exist_is_reported_with_those_that_do(queue, lake):
    (letter,) = record(queue, BAD_COUNT)
    key = lake.layout.dead_letter_key(DAY, letter.entry_id)
    lake.store.put(key, lake.store.get(key).replace(b"pending_reprocessing", b"done"))
    (problem,) = queue.entries(DAY).unreadable
    assert problem.reason == "status is 'done'; it must be one of pending_reprocessing, reprocessed, parked, discarded"


def test_other_files_beside_the_entries_are_left_alone(queue, lake):
    record(queue, BAD_COUNT)
    lake.store.put(f"{lake.layout.dead_letter_folder(DAY)}notes.txt", b"looked at on Monday")
    assert len(queue.of_date(DAY)) == 1


def test_a_queue_that_cannot_be_written_is_an_error(lake):
    failing = WatchedStore(lake.store, fails=lambda operation, _key: operation == "put")
    with pytest.raises(ExternalError):
        record(DeadLetterQueue(failing, lake.layout), BAD_COUNT)
    assert lake.letters() == []

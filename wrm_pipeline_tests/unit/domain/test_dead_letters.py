"""Entries of the dead-letter queue: stable ids, what an operator may edit, what a rebuild must not lose."""

import json
import uuid
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from wrm_pipeline.domain.dead_letters import (
    DISCARDED,
    PARKED,
    PENDING,
    REPROCESSED,
    STATUSES,
    DeadLetter,
    DeadRecord,
    entry_id,
    letters_of,
    merge,
)
from wrm_pipeline.domain.snapshot import MAX_DEAD_ROWS_KEPT, FileReport, parse_snapshots
from wrm_pipeline_tests.fixtures.snapshots import body, line, raw

SEEN = datetime(2025, 8, 21, 13, 6, tzinfo=UTC)
DT = date(2025, 8, 21)
KEY = "raw/dt=2025-08-21/a.txt"
# Lines 2 to 5: a good row, two bad counts, a bad flag.
CONTENT = body(line(), line(id="2", bikes="many"), line(id="3", spaces="few"), line(id="4", locked="?"))


def report_of(content: bytes, corrections=None) -> FileReport:
    return parse_snapshots([raw(content, key=KEY, corrections=corrections)]).reports[0]


def letters(content: bytes, corrections=None, seen_at: datetime = SEEN) -> dict[str, DeadLetter]:
    found = letters_of(report_of(content, corrections), asset_name="processed", partition_date=DT, seen_at=seen_at)
    return {letter.error_type: letter for letter in found}


def bad_count(**changes) -> DeadLetter:
    return replace(letters(CONTENT)["bad_count"], **changes)


def correct(letter: DeadLetter, line_number: int, text: str) -> DeadLetter:
    records = [replace(r, corrected_data=text) if r.line_number == line_number else r for r in letter.records]
    return replace(letter, records=tuple(records))


# --- ids ---


def test_the_id_is_a_uuid5_that_never_changes():
    assert entry_id(KEY, "bad_count") == "4d08c931-d024-5f74-abb7-313ec3aad253"
    assert uuid.UUID(entry_id(KEY, "bad_count")).version == 5


def test_the_id_tells_objects_and_error_types_apart():
    ids = {entry_id(key, kind) for key in ("a", "b") for kind in ("x", "y")}
    assert len(ids) == 4


def test_the_same_failure_found_again_has_the_same_id():
    again = letters(CONTENT, seen_at=SEEN + timedelta(days=3))
    assert {kind: letter.entry_id for kind, letter in again.items()} == {
        kind: letter.entry_id for kind, letter in letters(CONTENT).items()
    }


# --- from a report ---


def test_there_is_one_entry_per_error_type_with_its_lines():
    found = letters(CONTENT)
    assert {kind: [r.line_number for r in letter.records] for kind, letter in found.items()} == {
        "bad_count": [3, 4],
        "bad_flag": [5],
    }
    letter = found["bad_count"]
    assert letter == DeadLetter(
        entry_id=entry_id(KEY, "bad_count"),
        timestamp=SEEN,
        last_seen=SEEN,
        asset_name="processed",
        partition_date=DT,
        source_key=KEY,
        error_type="bad_count",
        error_message=letter.records[0].error_message,
        records=letter.records,
        records_total=2,
        status=PENDING,
    )
    assert letter.records[0] == DeadRecord(
        3, line(id="2", bikes="many"), "bikes", "bikes 'many' is not a whole number from 0 to 100000."
    )


def test_a_clean_file_has_no_entry():
    assert letters(body(line())) == {}


def test_a_file_without_valid_row_is_one_entry_with_all_its_rows():
    (letter,) = letters(body(line(bikes="x"), line(locked="?"), "1,2")).values()
    assert (letter.error_type, letter.records_total) == ("file_no_valid_row", 3)
    assert [record.line_number for record in letter.records] == [2, 3, 4]


def test_a_body_that_is_no_snapshot_is_one_entry_that_points_to_the_object():
    (letter,) = letters(b"<html>\n</html>\n").values()
    assert (letter.error_type, letter.records, letter.records_total) == ("file_no_header", (), 2)


def test_an_empty_file_is_one_entry():
    (letter,) = letters(b"").values()
    assert (letter.error_type, letter.records_total) == ("file_empty", 0)


def test_rows_that_are_not_kept_are_counted():
    (letter,) = letters(body(line(), *["x"] * (MAX_DEAD_ROWS_KEPT + 7))).values()
    assert (len(letter.records), letter.records_total) == (MAX_DEAD_ROWS_KEPT, MAX_DEAD_ROWS_KEPT + 7)


# --- JSON ---


@pytest.mark.parametrize("status", STATUSES)
def test_json_gives_back_the_same_entry(status):
    letter = correct(bad_count(status=status, retry_count=3, note="Łódź", stack_trace="a\nb"), 3, line(id="2"))
    assert DeadLetter.from_json(letter.to_json()) == letter


def test_json_is_readable_and_has_the_fields_of_the_contract():
    letter = replace(bad_count(), error_message="Zły „rząd”")
    text = letter.to_json().decode()
    assert "Zły „rząd”" in text
    entry = json.loads(text)
    assert entry.keys() >= {
        *("entry_id", "timestamp", "last_seen", "asset_name", "partition_date", "source_key", "error_type"),
        *("error_message", "records", "stack_trace", "retry_count", "status"),
    }
    assert entry["timestamp"] == "2025-08-21T13:06:00+00:00"
    assert entry["partition_date"] == "2025-08-21"
    assert entry["records"][0].keys() == {"line_number", "raw_data", "field", "error_message"}


def test_an_entry_with_a_lone_surrogate_can_be_written():
    letter = correct(bad_count(), 3, "a\ud800")
    assert DeadLetter.from_json(letter.to_json()).corrections == {3: "a?"}


def test_an_entry_of_the_contracts_fields_alone_can_be_read():
    entry = json.loads(bad_count().to_json())
    for name in ("records_total", "note", "retry_count", "stack_trace", "status"):
        del entry[name]
    assert DeadLetter.from_json(json.dumps(entry).encode()) == bad_count()


def test_fields_that_nobody_knows_are_ignored():
    entry = json.loads(bad_count().to_json()) | {"ticket": "WRM-12"}
    assert DeadLetter.from_json(json.dumps(entry).encode()) == bad_count()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"status": "done"}, "status"),
        ({"timestamp": "yesterday"}, "timestamp"),
        ({"timestamp": 5}, "timestamp"),
        ({"last_seen": ""}, "last_seen"),
        ({"partition_date": "2025-13-01"}, "partition_date"),
        ({"retry_count": "many"}, "retry_count"),
        ({"records_total": "many"}, "records_total"),
        ({"records": [{"line_number": 3, "raw_data": 5}]}, "raw_data"),
        ({"records": [{"line_number": "3", "raw_data": "", "field": "", "error_message": ""}]}, "line_number"),
        (
            {"records": [{"line_number": 3, "raw_data": "", "field": "", "error_message": "", "corrected_data": 5}]},
            "corrected_data",
        ),
        ({"records": [{"corrected_data": "1,2"}]}, "line_number"),
        ({"records": [5]}, "not a dead letter"),
        ({"records": 5}, "not a dead letter"),
        ({"error_type": ["x"]}, "error_type"),
        ({"timestamp": "0001-01-01T00:00:00+14:00"}, "timestamp"),
    ],
)
def test_an_edit_that_is_not_allowed_names_its_field(changes, named):
    entry = json.loads(bad_count().to_json()) | changes
    with pytest.raises(ValueError, match=named):
        DeadLetter.from_json(json.dumps(entry).encode())


@pytest.mark.parametrize("name", ["entry_id", "timestamp", "partition_date"])
def test_an_entry_without_a_needed_field_names_it(name):
    entry = json.loads(bad_count().to_json())
    del entry[name]
    with pytest.raises(ValueError, match=name):
        DeadLetter.from_json(json.dumps(entry).encode())


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"5", b'"x"', b"\xff\xfe", b"{}"])
def test_what_is_no_entry_is_a_value_error(content):
    with pytest.raises(ValueError, match=r"."):
        DeadLetter.from_json(content)


# --- corrections ---


@pytest.mark.parametrize("status", [PENDING, REPROCESSED, PARKED])
def test_corrections_hold_whatever_the_status(status):
    assert correct(bad_count(status=status), 4, "x").corrections == {4: "x"}


def test_a_discarded_entry_corrects_nothing():
    assert correct(bad_count(status=DISCARDED), 4, "x").corrections == {}


def test_an_empty_correction_is_a_correction():
    assert correct(bad_count(), 4, "").corrections == {4: ""}


# --- found again ---


def test_a_failure_found_for_the_first_time_is_kept_as_it_is():
    assert merge(bad_count(), None) == bad_count()


def test_a_failure_found_again_keeps_its_history():
    known = bad_count(retry_count=4, note="asked the operator")
    later = SEEN + timedelta(days=1)
    merged = merge(letters(CONTENT, seen_at=later)["bad_count"], known)
    assert merged == replace(known, last_seen=later)


def test_merging_twice_changes_nothing_more():
    known = correct(bad_count(status=PARKED, retry_count=5), 3, "still bad")
    once = merge(bad_count(), known)
    assert merge(bad_count(), once) == once == known


@pytest.mark.parametrize(
    ("known", "merged"), [(PENDING, PENDING), (REPROCESSED, PENDING), (PARKED, PARKED), (DISCARDED, DISCARDED)]
)
def test_only_what_was_settled_and_came_back_is_open_again(known, merged):
    assert merge(bad_count(), bad_count(status=known)).status == merged


def test_new_messages_and_lines_of_the_parser_replace_the_old_ones():
    known = replace(bad_count(), error_message="old", records=bad_count().records[:1], records_total=1)
    assert merge(bad_count(), known) == bad_count()


def test_a_correction_that_did_not_help_stays_for_the_operator_to_see():
    known = correct(bad_count(), 3, line(id="2", bikes="-5"))
    found = letters(CONTENT, known.corrections)["bad_count"]
    merged = merge(found, known)
    assert merged.corrections == known.corrections
    assert merged.records[0].raw_data == line(id="2", bikes="many")
    assert "-5" in merged.records[0].error_message


def test_a_correction_of_one_line_survives_that_another_line_is_still_bad():
    known = correct(bad_count(), 3, line(id="2"))
    found = letters(CONTENT, known.corrections)["bad_count"]
    assert [record.line_number for record in found.records] == [4]
    merged = merge(found, known)
    assert merged.corrections == {3: line(id="2")}
    assert [record.line_number for record in merged.records] == [3, 4]
    assert merged.records_total == 2
    # So the next build is of the same rows, again and again.
    assert merge(letters(CONTENT, merged.corrections)["bad_count"], merged) == merged


def test_a_correction_does_not_move_to_another_text_of_its_line():
    known = correct(bad_count(), 3, line(id="2"))
    changed = CONTENT.replace(b"many", b"lots")
    assert merge(letters(changed)["bad_count"], known).corrections == {}


def test_correcting_every_line_leaves_no_entry_to_find():
    fixed = {3: line(id="2"), 4: line(id="3"), 5: line(id="4")}
    assert letters(CONTENT, fixed) == {}
    assert report_of(CONTENT, fixed).counts.rows_out == 4

"""Dead letters that others wrote: read, or refused with a reason; never anything else."""

import json
from datetime import UTC, date, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wrm_pipeline.domain.dead_letters import (
    MAX_LETTER_BYTES,
    MAX_RAW_DATA_BYTES,
    MAX_READ_BYTES,
    PENDING,
    STATUSES,
    DeadLetter,
    DeadRecord,
    NotALetterError,
    letters_of,
)
from wrm_pipeline.domain.snapshot import parse_snapshots
from wrm_pipeline_tests.fixtures.snapshots import body, line, raw

DT = date(2025, 8, 21)
KEY = "bike-data/gen_info/dlq/dt=2025-08-21/an-old-one.json"
MODIFIED = datetime(2025, 8, 21, 20, tzinfo=UTC)

# The shape of the original design.
ORIGINAL = {
    "timestamp": "2025-08-21T13:05:02.123456",
    "asset_name": "wrm_stations_processed_data_all",
    "partition_date": "2025-08-21",
    "error_type": "ValidationError",
    "error_message": "bikes: not a number",
    "raw_data": "15001,1755781502|7200|-1,Rynek,51.1,17.0,x,3,true,false,false,12,,0",
    "stack_trace": "Traceback …",
    "retry_count": 2,
    "status": "pending_reprocessing",
}


def read(content: object, key: str = KEY) -> DeadLetter:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return DeadLetter.from_json(text, key=key, folder=DT, modified=MODIFIED)


def test_a_letter_of_the_original_design_is_read():
    letter = read(ORIGINAL)
    at = datetime(2025, 8, 21, 13, 5, 2, 123456, tzinfo=UTC)
    assert (letter.entry_id, letter.partition_date, letter.status) == ("an-old-one", DT, PENDING)
    assert (letter.timestamp, letter.last_seen) == (at, at)
    assert letter.records == (DeadRecord(0, ORIGINAL["raw_data"], "", "bikes: not a number"),)
    assert (letter.records_total, letter.retry_count, letter.source_key) == (1, 2, "")


@pytest.mark.parametrize("missing", ORIGINAL)
def test_each_missing_key_of_it_is_derived(missing):
    letter = read({name: value for name, value in ORIGINAL.items() if name != missing})
    assert (letter.partition_date, letter.status) == (DT, PENDING)
    assert letter.timestamp == (MODIFIED if missing == "timestamp" else read(ORIGINAL).timestamp)
    assert letter.error_type == ("unknown" if missing == "error_type" else "ValidationError")


@pytest.mark.parametrize("nothing", ORIGINAL)
def test_null_is_as_good_as_missing(nothing):
    without = {name: value for name, value in ORIGINAL.items() if name != nothing}
    assert read(ORIGINAL | {nothing: None}) == read(without)


@pytest.mark.parametrize("rows", [{"bikes": "x"}, ["a", 1], 5, False])
def test_a_plain_raw_data_of_another_type_is_one_record_of_its_json(rows):
    assert [record.raw_data for record in read(ORIGINAL | {"raw_data": rows}).records] == [json.dumps(rows)]


def test_records_may_be_plain_lines():
    letter = read(ORIGINAL | {"records": ["a,b", {"raw_data": "c,d"}]})
    assert [(record.line_number, record.raw_data) for record in letter.records] == [(0, "a,b"), (0, "c,d")]


def test_where_it_lies_decides_what_it_is_called_and_of_which_day_it_is():
    letter = read(ORIGINAL | {"entry_id": "../../x", "partition_date": "2024-01-01"})
    assert (letter.entry_id, letter.partition_date) == ("an-old-one", DT)
    again = json.loads(letter.to_json())
    assert (again["original_entry_id"], again["original_partition_date"]) == ("../../x", "2024-01-01")


def test_keys_of_others_survive_being_written_back():
    theirs = {"ticket": "WRM-12", "history": [{"at": 1, "by": "ą"}], "weight": 1.5}
    records = [{"line_number": 3, "raw_data": "x", "field": "bikes", "error_message": "", "seen_by": ["Ola"]}]
    letter = read(ORIGINAL | theirs | {"records": records})
    for _ in range(2):
        again = json.loads(letter.to_json())
        assert {name: again[name] for name in theirs} == theirs
        assert again["raw_data"] == ORIGINAL["raw_data"]
        assert again["records"] == records
        letter = read(letter.to_json())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"{not json", "not JSON"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"\xff\xfe\x00", "not JSON"),
        (b'{"status": "parked\x00"}', "not JSON"),
        (b'{"retry_count": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"status": "parked", "status": "discarded"}', "it has the key 'status' more than once"),
        (b'{"records": [{"raw_data": "a", "raw_data": "b"}]}', "it has the key 'raw_data' more than once"),
        (b" " * (MAX_READ_BYTES + 1), "bytes"),
        ({}, "it has none of"),
        ({"status": "lost", "raw_data": "x"}, "status"),
        ({"timestamp": "a while ago", "raw_data": "x"}, "timestamp"),
        ({"timestamp": ["2025-08-21"], "raw_data": "x"}, "timestamp"),
        ({"source_key": {"a": 1}}, "source_key"),
        ({"retry_count": {}, "raw_data": "x"}, "retry_count"),
        ({"records": {"0": "x"}}, "records"),
        ({"records": [None]}, "record"),
        ({"records": [{"line_number": True}]}, "line_number"),
        ({"records": ["x"] * 20_001}, "20001 records"),
        ({"raw_data": "y" * (MAX_READ_BYTES - 30)}, "written back"),
    ],
)
def test_what_cannot_be_read_says_why(content, reason):
    with pytest.raises(NotALetterError, match=reason):
        read(content)


@pytest.mark.parametrize("number", ["Infinity", "-Infinity", "NaN", "1e400", "-5", "1e300", "3.0", "1000000001"])
def test_numbers_that_count_nothing_are_not_believed(number):
    letter = read(b'{"records": ["a", "b"], "records_total": ' + number.encode() + b"}")
    assert letter.records_total == (3 if number == "3.0" else 2)


def test_a_letter_is_at_most_a_megabyte_and_counts_what_it_leaves_out():
    bad = [line(id=str(n), bikes="x" * 9_000) for n in range(300)]
    report = parse_snapshots([raw(body(line(), *bad), key="raw/dt=2025-08-21/a.txt")]).reports[0]
    (letter,) = letters_of(report, asset_name="a", partition_date=DT, seen_at=MODIFIED)
    records = list(letter.records)
    records[-1] = DeadRecord(records[-1].line_number, "x", "bikes", "", corrected_data=line(id="299"))
    stored = DeadLetter(**{f: getattr(letter, f) for f in letter.__slots__} | {"records": tuple(records)}).to_json()
    assert len(stored) <= MAX_LETTER_BYTES
    again = read(stored)
    assert again.records_total == 300
    assert 50 < len(again.records) < 300
    assert again.corrections == {302: line(id="299")}, "what a person wrote is never left out"


def test_a_record_keeps_64_kb_of_its_line():
    report = parse_snapshots([raw(body(line(), line(id="2", bikes="ą" * 50_000)), key="k")]).reports[0]
    (letter,) = letters_of(report, asset_name="a", partition_date=DT, seen_at=MODIFIED)
    assert MAX_RAW_DATA_BYTES - 2 <= len(letter.records[0].raw_data.encode()) <= MAX_RAW_DATA_BYTES


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_KEYS = st.sampled_from(
    [
        *ORIGINAL,
        "entry_id",
        "last_seen",
        "source_key",
        "records",
        "records_total",
        "note",
        "line_number",
        "extra",
        "key",
    ]
)
_VALUES = st.one_of(
    _JSON,
    st.sampled_from([*STATUSES, "2025-08-21", "2025-08-21T10:00:00", "9999-12-31T23:59:59-14:00", "../../x", "\ud800"]),
    st.lists(
        st.dictionaries(st.sampled_from(["line_number", "raw_data", "corrected_data", "field"]), _JSON), max_size=3
    ),
)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.dictionaries(_KEYS, _VALUES, max_size=8).map(json.dumps).map(str.encode)))
def test_any_bytes_are_a_letter_or_a_reason(content):
    try:
        letter = read(content)
    except NotALetterError as error:
        reason = str(error)
    else:
        reason = ""
        check(letter)
    assert len(reason) < 1000


def check(letter: DeadLetter) -> None:
    assert (letter.entry_id, letter.partition_date) == ("an-old-one", DT)
    assert letter.status in STATUSES
    assert letter.timestamp.tzinfo is letter.last_seen.tzinfo is UTC
    again = read(letter.to_json())
    assert again.to_json() == letter.to_json()

"""`wrm trace`: from published rows back to the feed's own bytes, on a lake that was built by the real code."""

from __future__ import annotations

import csv
import hashlib
import json
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from wrm_pipeline.cli.main import main
from wrm_pipeline.domain.layout import partition_bounds
from wrm_pipeline.flows.compaction import compact_day, restore_day
from wrm_pipeline.flows.trace import NothingToTraceError, Trace, parse_time, trace
from wrm_pipeline.lake.dead_letter_queue import DeadLetterQueue
from wrm_pipeline.simulator.city import City
from wrm_pipeline_tests.fixtures.lake import DAY, NOON, Lake, build_day, snapshot
from wrm_pipeline_tests.fixtures.snapshots import HEADER, body, line

RUN = "11111111-2222-3333-4444-555555555555"


def combined(at: datetime, ago_s: int = 0) -> str:
    return f"{int(at.timestamp()) - ago_s}|7200|-1"


def find(lake: Lake, station_id: str, at: datetime) -> Trace:
    return trace(lake.store, lake.layout, station_id, at)


@pytest.fixture
def odd_lake(lake: Lake) -> Lake:
    """A day whose snapshots are odd in all the ways that the real feed is."""
    times = [NOON + timedelta(minutes=minute) for minute in range(6)]
    city = City(5, station_count=30, bike_count=10)
    for at in times:
        lake.put_raw(at, city.snapshot(at))
    polish = [line(id=f"1600{n}", combined=combined(NOON), name=f"Świętej Łucji {n}") for n in range(5)]
    late = NOON + timedelta(minutes=10)
    lake.put_raw(late, body(*polish))
    lake.put_raw(late + timedelta(minutes=1), "\r\n".join([HEADER, "# remark", "", *polish]).encode("cp1250"))
    lake.put_raw(late + timedelta(minutes=2), b"\xef\xbb\xbf" + "\r\n".join([HEADER, "src,x", *polish, ""]).encode())
    repeated = [
        line(id="16000", combined=combined(late, 60), bikes="1"),
        line(id="16000", combined=combined(late), bikes="2"),
        line(id="16000", combined=combined(late), bikes="3"),
        line(id="16000", combined=combined(late, 30), bikes="4"),
    ]
    lake.put_raw(late + timedelta(minutes=3), body(*repeated, line(id="16001", bikes="x", combined=combined(late))))
    build_day()
    (key,) = lake.letters()
    entry = key.rpartition("/")[2].removesuffix(".json")
    good = line(id="16001", bikes="9", combined=combined(late), name="Łącznik")
    assert main(["dlq", "correct", entry, "--line", "6", "--data", good, "--apply"]) == 0
    build_day()
    return lake


def test_random_rows_lead_to_the_very_bytes_of_their_lines(odd_lake: Lake) -> None:
    published = odd_lake.rows("enhanced")
    chosen = random.Random(4).sample(published, 60)
    chosen += [row for row in published if row["station_id"].startswith("16")]
    for row in chosen:
        found = find(odd_lake, row["station_id"], row["file_timestamp"] + timedelta(seconds=20))
        assert found.enhanced.values == row
        assert found.processed is not None
        assert found.raw is not None
        assert found.line is not None, found.warnings
        content = odd_lake.store.get(row["s3_source_key"])
        assert (found.raw.key, found.raw.sha256) == (row["s3_source_key"], hashlib.sha256(content).hexdigest())
        bytes_of_line = content[found.line.offset : found.line.offset + found.line.length]
        numbered = content.split(b"\n")[found.line.line_number - 1]
        assert bytes_of_line == numbered.rstrip(b"\r").removeprefix(b"\xef\xbb\xbf")
        # Read by the csv module: no parser of ours judges itself.
        text = found.line.correction or bytes_of_line.decode(found.line.encoding)
        (fields,) = csv.reader([text])
        assert (fields[0], int(fields[5]), int(fields[6])) == (row["station_id"], row["bikes"], row["spaces"])


def test_of_duplicates_the_winner_is_shown_and_the_others_are_named(odd_lake: Lake) -> None:
    found = find(odd_lake, "16000", NOON + timedelta(minutes=13))
    assert found.line is not None
    assert (found.line.line_number, found.enhanced.values["bikes"]) == (4, 3)
    assert sorted(other.line_number for other in found.duplicates) == [2, 3, 5]


def test_a_corrected_row_shows_the_dead_line_and_what_stands_in_its_place(odd_lake: Lake) -> None:
    found = find(odd_lake, "16001", NOON + timedelta(minutes=13))
    assert found.line is not None
    assert ",x," in found.line.text
    assert "Łącznik" in (found.line.correction or "")
    (letter,) = found.letters
    assert letter.error_type == "bad_count"


def test_the_newest_snapshot_at_or_before_the_time_counts(lake: Lake) -> None:
    lake.put_day(3)
    build_day()
    for seconds, minute in ((0, 0), (59, 0), (60, 1), (119, 1), (9_999, 2)):
        found = find(lake, "15001", NOON + timedelta(seconds=seconds))
        assert found.enhanced.values["file_timestamp"] == NOON + timedelta(minutes=minute)


def test_before_the_first_snapshot_of_a_day_the_day_before_counts(lake: Lake) -> None:
    yesterday, today = DAY - timedelta(days=1), DAY
    midnight = partition_bounds(today)[0]
    for at in (midnight - timedelta(minutes=1), midnight + timedelta(minutes=1)):
        lake.put_raw(at)
    for dt in (yesterday, today):
        build_day(dt)
    assert find(lake, "15001", midnight + timedelta(seconds=30)).dt == yesterday
    assert find(lake, "15001", midnight + timedelta(seconds=60)).dt == today


@pytest.mark.parametrize(
    ("station_id", "at", "said"),
    [
        ("15001", NOON - timedelta(days=9), "The day 2025-08-12 is not published"),
        ("15001", NOON - timedelta(days=9), "1 days are published, 2025-08-21 to 2025-08-21"),
        ("1500", NOON, "Did you mean 15000, 15001"),
        ("999", NOON, "No row of 2025-08-21 is about '999'"),
        ("15001", NOON - timedelta(hours=1), "first seen on 2025-08-21 at 2025-08-21 12:00:00 UTC"),
    ],
)
def test_where_there_is_no_row_the_message_says_what_there_is(lake: Lake, station_id: str, at: datetime, said: str):
    lake.put_raw(NOON, snapshot(NOON, 3, line(id="15000", combined=combined(NOON))))
    build_day()
    with pytest.raises(NothingToTraceError, match=said.replace("'", ".")):
        find(lake, station_id, at)


def test_links_that_are_gone_are_said_and_hide_nothing_else(lake: Lake) -> None:
    (key,) = lake.put_day(1)
    build_day()
    content = lake.store.get(key)
    lake.store.put(key, content.replace(b"Stacja 1", b"Stacja I"))
    assert find(lake, "15001", NOON).line is not None
    replaced = find(lake, "15002", NOON)
    assert (replaced.line, replaced.raw and replaced.raw.key) == (None, key)
    assert "the object was replaced" in replaced.warnings[0]
    lake.store.delete(key)
    lake.store.delete(lake.partition_key("processed"))
    found = find(lake, "15001", NOON)
    assert found.raw is None
    assert found.processed is None
    assert [text.partition(":")[0][:20] for text in found.warnings] == ["The processed partit", "The raw object is go"]


def test_a_packed_day_is_traced_like_a_loose_one_and_so_is_one_that_was_unpacked(lake: Lake) -> None:
    keys = [lake.layout.raw_key(NOON + timedelta(minutes=minute)) for minute in range(2)]
    for minute, key in enumerate(keys):
        lake.store.put(key, snapshot(NOON + timedelta(minutes=minute)), metadata={"run-id": RUN})
    build_day()
    loose = find(lake, "15002", NOON)
    today = DAY + timedelta(days=9)
    done = compact_day(lake.store, lake.layout, DAY, area=lake.settings.area, today=today, dry_run=False)
    assert done.packed == 2
    packed = find(lake, "15002", NOON)
    assert lake.store.stat(keys[0]) is None
    assert (packed.line, packed.warnings) == (loose.line, ())
    assert packed.raw is not None
    assert loose.raw is not None
    assert packed.raw.archive.endswith(".zip")
    assert replace(packed.raw, archive="") == loose.raw
    assert packed.raw.fetched_by == RUN
    restore_day(lake.store, lake.layout, DAY)
    again = find(lake, "15002", NOON)
    assert again.raw is not None
    assert (again.raw.fetched_by, again.raw.archive, again.line) == (RUN, "", loose.line)


def test_a_damaged_dead_letter_does_not_hide_the_chain(lake: Lake) -> None:
    lake.put_raw(NOON, snapshot(NOON, 3, line(id="1", bikes="x", combined=combined(NOON))))
    build_day()
    queue = DeadLetterQueue(lake.store, lake.layout)
    (letter,) = queue.of_date(DAY)
    lake.store.put(lake.layout.dead_letter_key(DAY, letter.entry_id), b"{")
    found = find(lake, "15001", NOON)
    assert found.line is not None
    assert "cannot be read" in found.warnings[0]


@pytest.mark.parametrize(
    ("text", "utc", "said"),
    [
        ("2025-08-21T12:00Z", datetime(2025, 8, 21, 12, tzinfo=UTC), ""),
        ("2025-08-21T14:00+02:00", datetime(2025, 8, 21, 12, tzinfo=UTC), ""),
        ("2025-08-21T14:00", datetime(2025, 8, 21, 12, tzinfo=UTC), "taken as a time in Europe/Warsaw"),
        ("2025-10-26 02:30", datetime(2025, 10, 26, 0, 30, tzinfo=UTC), "occurs twice"),
        ("2026-03-29T02:30", datetime(2026, 3, 29, 1, 30, tzinfo=UTC), "skipped this hour"),
    ],
)
def test_times_are_read_with_a_zone_or_as_warsaw_time(text: str, utc: datetime, said: str) -> None:
    at, assumed = parse_time(text)
    assert at == utc
    assert said in assumed
    assert bool(said) == bool(assumed)


# --- the command ---


def test_the_command_prints_the_chain_as_text_and_as_json(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    key = lake.layout.raw_key(NOON)
    lake.store.put(key, snapshot(NOON, 3), metadata={"run-id": RUN})
    result = build_day()
    lake.store.put(lake.layout.lineage_key(DAY, RUN), b"[]")
    assert main(["trace", "15001", "2025-08-21T14:30"]) == 0
    text = capsys.readouterr().out
    raw_line = snapshot(NOON, 3).decode().splitlines()[1]
    for part in (
        key,
        hashlib.sha256(snapshot(NOON, 3)).hexdigest(),
        f"line 2     {raw_line}",
        "taken as a time in Europe/Warsaw",
    ):
        assert part in text
    assert f"fetched by run {RUN} (http://127.0.0.1:3000/runs/{RUN})" in text
    assert f"by run {result.run_id} " in text
    assert lake.layout.lineage_key(DAY, RUN) in text
    assert main(["trace", "15001", "2025-08-21T14:30", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["line"]["text"] == raw_line
    assert content["enhanced"]["values"]["station_id"] == "15001"
    assert content["raw"]["fetched_by"] == RUN


def test_the_command_sends_no_control_characters_to_the_terminal(lake: Lake, capsys: pytest.CaptureFixture[str]):
    lake.put_raw(NOON, snapshot(NOON, 1, line(id="7", name="a\x1b[31mb", combined=combined(NOON))))
    build_day()
    assert main(["trace", "7", "2025-08-21T12:00Z"]) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert "a\\x1b[31mb" in text


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["trace", "15001", "noon"], 2, "'noon' is not an ISO 8601 time"),
        (["trace", "15001", "2025-08-21T12:00"], 1, "Nothing is published yet"),
    ],
)
def test_what_cannot_be_traced_is_said(
    environment, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, said: str
) -> None:
    assert main(arguments) == status
    assert said in capsys.readouterr().err

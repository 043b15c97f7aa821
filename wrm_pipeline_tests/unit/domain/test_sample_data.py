"""One body of each shape that the feed is known to serve, as files: what a newcomer can look at."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from wrm_pipeline.domain.snapshot import FileReport, RawSnapshot, parse_snapshots, reject_reason

SAMPLES = Path(__file__).parents[2] / "fixtures" / "sample_data"
AT = datetime(2025, 8, 21, 10, 6, 2, tzinfo=UTC)
# Stations and free-standing bikes in each file.
ROWS = 35


def parsed(name: str) -> tuple[FileReport, list[str]]:
    batch = parse_snapshots([RawSnapshot(name, AT, (SAMPLES / name).read_bytes())])
    return batch.reports[0], batch.rows["name"].to_pylist()


WHOLE = [
    "wrm_stations_2025-08-21_10-05-02.txt",
    "cp1250.txt",
    "double_encoded.txt",
    "crlf_with_bom.txt",
    "reordered_columns.txt",
]


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_snapshot_gives_every_row(name: str) -> None:
    counts = parsed(name)[0].counts
    assert (counts.lines_in, counts.rows_out) == (ROWS, ROWS)
    assert reject_reason((SAMPLES / name).read_bytes(), AT) is None


@pytest.mark.parametrize("name", WHOLE[1:])
def test_names_are_the_same_however_they_were_encoded(name: str) -> None:
    _, names = parsed(name)
    _, right = parsed(WHOLE[0])
    assert {n for n in names if not n.startswith("BIKE")} == {n for n in right if not n.startswith("BIKE")}


def test_remarks_are_counted_and_are_no_rows() -> None:
    report, _ = parsed("remarks.txt")
    assert report.counts.remark_lines > 0
    assert report.counts.dead_lettered == 0


@pytest.mark.parametrize("name", ["unclosed_quote.txt", "dead_letter_rows.txt"])
def test_bad_rows_cost_themselves_only(name: str) -> None:
    report, _ = parsed(name)
    assert report.counts.dead_lettered > 0
    assert report.counts.rows_out >= ROWS - report.counts.dead_lettered
    assert report.counts.balanced


@pytest.mark.parametrize(
    ("name", "error_type"),
    [("error_page.html", "file_no_header"), ("empty.txt", "file_empty"), ("truncated.txt", "file_truncated")],
)
def test_what_is_no_snapshot_is_refused_at_the_fetch(name: str, error_type: str) -> None:
    fault = reject_reason((SAMPLES / name).read_bytes(), AT)
    assert fault is not None
    assert fault.error_type == error_type

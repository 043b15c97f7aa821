"""Measures of whole tables."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrm_pipeline.domain import parquet_parts
from wrm_pipeline.domain.parquet_parts import ParquetParts, PartsWriter
from wrm_pipeline.domain.quality import (
    MAX_SAMPLES,
    Expectation,
    column_differences,
    expected_rows,
    newest_rows_with,
    rows_out_of_order,
)
from wrm_pipeline.domain.schemas import PROCESSED, TableSchema, arrow_schema
from wrm_pipeline_tests.fixtures.snapshots import property_settings

NOON = datetime(2025, 8, 21, 12, tzinfo=UTC)
KEYS = pa.schema([("file_timestamp", pa.timestamp("us", "UTC")), ("station_id", pa.string()), ("name", pa.string())])


def file_of(rows: list[tuple[int, str]], frozen_rows: int = 3) -> ParquetParts:
    """A file with these keys (minute, station_id), in groups of a few rows; no dictionary is shared by two groups."""
    writer = PartsWriter(KEYS, "test")
    for start in range(0, len(rows), frozen_rows):
        part = rows[start : start + frozen_rows]
        columns = {
            "file_timestamp": [NOON + timedelta(minutes=minute) for minute, _ in part],
            "station_id": [name for _, name in part],
            "name": [f"Stacja {name}" for _, name in part],
        }
        writer.write(pa.table(columns, KEYS))
    return ParquetParts.open(writer.finish({}))


@pytest.fixture
def small_groups(monkeypatch):
    monkeypatch.setattr(parquet_parts, "FROZEN_ROWS", 3)


@pytest.mark.parametrize(
    ("rows", "wrong"),
    [
        ([], []),
        ([(0, "1")], []),
        ([(0, "1"), (0, "2"), (1, "1"), (1, "2")], []),
        ([(0, "10"), (0, "9")], []),  # as text, like the sort
        ([(0, "1"), (0, "1")], [1]),
        ([(0, "2"), (0, "1")], [1]),
        ([(1, "1"), (0, "2")], [1]),
        ([(0, "1"), (0, "2"), (0, "3"), (0, "3"), (0, "4")], [3]),  # across row groups
        ([(0, "3"), (0, "4"), (0, "5"), (0, "1"), (0, "2")], [3]),
        ([(1, "1"), (1, "2"), (1, "3"), (0, "9"), (2, "1")], [3]),
        ([(0, "1")] * 5, [1, 2, 3, 4]),
        ([(0, "ó"), (0, "z")], [1]),
        ([(0, ""), (0, "a")], []),
    ],
)
def test_rows_out_of_order(small_groups, rows, wrong):
    found = rows_out_of_order(file_of(rows))
    assert found.count == len(wrong)
    assert [sample["row"] for sample in found.samples] == wrong
    assert [sample["station_id"] for sample in found.samples] == [rows[at][1] for at in wrong]


@given(rows=st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["1", "2", "10", "fb1", "ż"])), max_size=25))
@property_settings(200)
def test_no_row_is_out_of_order_only_if_all_are_sorted_and_unique(rows):
    before = parquet_parts.FROZEN_ROWS
    parquet_parts.FROZEN_ROWS = 3
    try:
        found = rows_out_of_order(file_of(rows))
    finally:
        parquet_parts.FROZEN_ROWS = before
    assert (found.count == 0) == (rows == sorted(set(rows)))
    assert found.count == sum(later <= earlier for earlier, later in pairwise(rows))


def test_samples_are_few_however_many_are_wrong():
    found = rows_out_of_order(file_of([(0, "1")] * 500))
    assert (found.count, len(found.samples)) == (499, MAX_SAMPLES)


def test_the_newest_rows_with_a_value():
    rows = file_of([(minute, "1" if minute % 2 else "2") for minute in range(100)])
    samples = newest_rows_with(rows, "station_id", "1")
    assert len(samples) == MAX_SAMPLES
    assert samples[-1] == {
        "station_id": "1",
        "name": "Stacja 1",
        "file_timestamp": "2025-08-21 13:39:00+00:00",
    }
    assert newest_rows_with(rows, "station_id", "3") == ()
    assert newest_rows_with(file_of([]), "station_id", "1") == ()


FIELDS = list(arrow_schema(PROCESSED))


def of_schema(fields: list[pa.Field]) -> ParquetParts:
    return ParquetParts.open(PartsWriter(pa.schema(fields), "test").finish({}))


@pytest.mark.parametrize(
    ("fields", "first"),
    [
        (FIELDS, None),
        (FIELDS[1:], ("pyarrow.Field<station_id: string not null>", "pyarrow.Field<name: string not null>")),
        (FIELDS[:-1], ("pyarrow.Field<count_capped: bool not null>", "nothing")),
        ([*FIELDS, pa.field("dt", pa.date32())], ("nothing", "pyarrow.Field<dt: date32[day]>")),
        (
            [FIELDS[0].with_type(pa.int64()), *FIELDS[1:]],
            ("pyarrow.Field<station_id: string not null>", "pyarrow.Field<station_id: int64 not null>"),
        ),
        (
            [FIELDS[0].with_nullable(True), *FIELDS[1:]],
            ("pyarrow.Field<station_id: string not null>", "pyarrow.Field<station_id: string>"),
        ),
        (
            [FIELDS[1], FIELDS[0], *FIELDS[2:]],
            ("pyarrow.Field<station_id: string not null>", "pyarrow.Field<name: string not null>"),
        ),
    ],
)
def test_columns_that_differ_from_the_schema(fields, first):
    found = column_differences(of_schema(fields), PROCESSED)
    assert (found.count == 0) == (first is None)
    if first is not None:
        assert (found.samples[0]["expected"], found.samples[0]["found"]) == first


def test_many_columns_are_a_few_samples():
    many = [pa.field(f"column_{n}", pa.int8()) for n in range(100)]
    found = column_differences(of_schema(many), TableSchema("none", "", {}))
    assert (found.count, len(found.samples)) == (100, MAX_SAMPLES)


@pytest.mark.parametrize(
    ("rows", "share", "expected"),
    [
        ([], 1.0, None),
        ([100], 0.5, Expectation(50, 1)),
        ([90, 100, 500], 1.0, Expectation(100, 3)),
        ([90, 100, 110, 500], 0.1, Expectation(10.5, 4)),
    ],
)
def test_how_many_rows_are_to_be_expected(rows, share, expected):
    assert expected_rows(rows, share) == expected

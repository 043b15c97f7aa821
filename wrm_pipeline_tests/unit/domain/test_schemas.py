"""The table schemas: what the data contract promises, and what validation lets through."""

from datetime import date

import pandera.errors
import pyarrow as pa
import pytest

from wrm_pipeline.domain.schemas import (
    ENHANCED,
    FLAGS,
    PROCESSED,
    SORT_KEY,
    arrow_schema,
    describe,
    validate,
    value_range,
)
from wrm_pipeline.domain.snapshot import dictionary_encoded
from wrm_pipeline_tests.fixtures.snapshots import AT, BATTERY

TIME = pa.timestamp("us", "UTC")

# Data contract, section 3.
PROCESSED_COLUMNS = [
    ("station_id", pa.string(), False),
    ("name", pa.string(), False),
    ("timestamp", TIME, False),
    ("gmt_local_diff_sec", pa.int32(), True),
    ("gmt_servertime_diff_sec", pa.int32(), True),
    ("lat", pa.float64(), False),
    ("lon", pa.float64(), False),
    ("bikes", pa.int32(), False),
    ("spaces", pa.int32(), True),
    ("total_docks", pa.int32(), True),
    ("installed", pa.bool_(), True),
    ("locked", pa.bool_(), True),
    ("temporary", pa.bool_(), True),
    (BATTERY, pa.bool_(), True),
    ("battery_pct", pa.int16(), True),
    ("pedelecs", pa.int32(), True),
    ("s3_source_key", pa.string(), False),
    ("file_timestamp", TIME, False),
    ("feed", pa.string(), False),
    ("count_capped", pa.bool_(), False),
]
ENHANCED_COLUMNS = [
    *PROCESSED_COLUMNS[:-1],
    ("record_type", pa.string(), False),
    ("date", pa.date32(), False),
    ("processed_at", TIME, False),
    *((flag, pa.bool_(), False) for flag in FLAGS),
]
VALUES = {
    pa.string(): "x",
    TIME: AT,
    pa.int32(): 7,
    pa.int16(): 7,
    pa.float64(): 50.0,
    pa.bool_(): True,
    pa.date32(): date(2025, 8, 21),
}
SCHEMAS = pytest.mark.parametrize(
    ("schema", "columns"), [(PROCESSED, PROCESSED_COLUMNS), (ENHANCED, ENHANCED_COLUMNS)], ids=["processed", "enhanced"]
)


def good(schema, **changes) -> pa.Table:
    """Two rows; `changes` are the values of the second."""
    types = arrow_schema(schema)
    row = {field.name: VALUES[field.type] for field in types} | {"feed": "ucl"}
    if "record_type" in row:
        row["record_type"] = "station"
    loose = pa.schema([field.with_nullable(True) for field in types])
    return pa.Table.from_pylist([row, row | changes], schema=loose)


@SCHEMAS
def test_columns_types_and_nulls_are_those_of_the_contract(schema, columns):
    assert arrow_schema(schema).equals(pa.schema([pa.field(*column) for column in columns]))


def test_keys_and_flags_are_columns():
    assert set(SORT_KEY) <= set(PROCESSED.columns)
    assert set(FLAGS) <= set(ENHANCED.columns)


@SCHEMAS
def test_good_rows_pass(schema, columns):
    validate(good(schema), schema)
    validate(dictionary_encoded(good(schema)), schema)
    validate(good(schema).slice(0, 0), schema)


@SCHEMAS
def test_a_null_passes_only_where_the_contract_has_one(schema, columns):
    for name, _, nullable in columns:
        table = good(schema, **{name: None})
        if nullable:
            validate(table, schema)
        else:
            with pytest.raises((pandera.errors.SchemaErrors, ValueError), match=name):
                validate(table, schema)


RANGES = {
    "lat": (-90.0, 90.0),
    "lon": (-180.0, 180.0),
    "bikes": (0, 100_000),
    "spaces": (0, 100_000),
    "total_docks": (0, 100_000),
    "pedelecs": (0, 100_000),
    "battery_pct": (0, 100),
}


@pytest.mark.parametrize("name", RANGES)
def test_a_value_may_be_at_the_end_of_its_range_and_not_beyond(name):
    lowest, highest = RANGES[name]
    assert value_range(PROCESSED, name) == (lowest, highest)
    step = 1e-9 if isinstance(lowest, float) else 1
    for value in (lowest, highest):
        validate(good(PROCESSED, **{name: value}), PROCESSED)
    for value in (lowest - step, highest + step):
        with pytest.raises(pandera.errors.SchemaErrors, match=name):
            validate(good(PROCESSED, **{name: value}), PROCESSED)


def test_not_a_number_is_no_latitude():
    with pytest.raises(pandera.errors.SchemaErrors, match="lat"):
        validate(good(PROCESSED, lat=float("nan")), PROCESSED)


def test_all_violations_are_reported_at_once():
    with pytest.raises(pandera.errors.SchemaErrors) as caught:
        validate(good(PROCESSED, lat=91.0, bikes=-1), PROCESSED)
    assert set(caught.value.failure_cases["column"]) == {"lat", "bikes"}
    assert list(caught.value.failure_cases["index"]) == [1, 1]


def test_a_record_type_that_nobody_knows_does_not_pass():
    with pytest.raises(pandera.errors.SchemaErrors, match="record_type"):
        validate(good(ENHANCED, record_type="tram"), ENHANCED)


def test_a_missing_column_and_another_order_do_not_pass():
    with pytest.raises((pandera.errors.SchemaErrors, ValueError)):
        validate(good(PROCESSED).drop_columns(["lat"]), PROCESSED)
    with pytest.raises((pandera.errors.SchemaErrors, ValueError)):
        validate(good(PROCESSED).select(PROCESSED_COLUMNS[i][0] for i in reversed(range(18))), PROCESSED)


def test_a_column_without_range_has_none():
    with pytest.raises(LookupError, match="name"):
        value_range(PROCESSED, "name")


@SCHEMAS
def test_the_description_has_every_column_with_words(schema, columns):
    described = describe(schema)
    assert [(entry["name"], entry["type"], entry["nullable"]) for entry in described] == [
        (name, str(arrow_type), nullable) for name, arrow_type, nullable in columns
    ]
    assert all(entry["description"] for entry in described)
    assert {entry["name"]: entry["unit"] for entry in described}["lat"] == "deg"


def test_validation_does_not_depend_on_how_a_table_is_cut_in_chunks():
    bad = good(PROCESSED, bikes=-1)
    with pytest.raises(pandera.errors.SchemaErrors) as caught:
        validate(pa.concat_tables([good(PROCESSED), bad, good(PROCESSED)]), PROCESSED)
    assert list(caught.value.failure_cases["index"]) == [3]

"""`validate` asks Arrow first; it must say what pandera says."""

import math
from datetime import UTC, date, datetime

import pandas as pd
import pyarrow as pa
import pytest
from pandera.errors import SchemaErrors

from wrm_pipeline.domain.schemas import ENHANCED, _holds, arrow_schema, validate

_AT = datetime(2025, 8, 21, 13, 5, 2, tzinfo=UTC)
_ROW = {
    "station_id": "15001",
    "name": "Rynek",
    "timestamp": _AT,
    "gmt_local_diff_sec": 7200,
    "gmt_servertime_diff_sec": -1,
    "lat": 51.1,
    "lon": 17.0,
    "bikes": 3,
    "spaces": 7,
    "total_docks": 10,
    "installed": True,
    "locked": None,
    "temporary": False,
    "givesbonus_acceptspedelecs_fbbattlevel": None,
    "battery_pct": None,
    "pedelecs": 0,
    "s3_source_key": "raw/a.txt",
    "file_timestamp": _AT,
    "feed": "ucl",
    "record_type": "station",
    "date": date(2025, 8, 21),
    "processed_at": _AT,
    "over_capacity": False,
    "no_docks": False,
    "outside_service_area": False,
    "stale": False,
    "count_capped": False,
}


def _table(*, encoded: bool = True, **values: object) -> pa.Table:
    """A good row and one with `values`, typed as the schema says but not checked for nulls."""
    fields = [field.with_nullable(True) for field in arrow_schema(ENHANCED)]
    table = pa.Table.from_pylist([_ROW, _ROW | values], pa.schema(fields))
    if encoded:
        for name in ("station_id", "name", "s3_source_key", "feed", "record_type"):
            table = table.set_column(table.column_names.index(name), name, table[name].dictionary_encode())
    return table


GOOD = {
    "as it is": {},
    "lowest": {"lat": -90.0, "lon": -180.0, "bikes": 0, "battery_pct": 0},
    "highest": {"lat": 90.0, "lon": 180.0, "bikes": 100_000, "battery_pct": 100, "pedelecs": 100_000},
    "nulls where they may be": {"installed": None, "pedelecs": None, "spaces": None, "gmt_local_diff_sec": None},
    "another type of record": {"record_type": "unknown"},
}
BAD = {
    "below": {"bikes": -1},
    "above": {"total_docks": 100_001},
    "above, nullable": {"battery_pct": 101},
    "not a number": {"lat": math.nan},
    "infinite": {"lon": math.inf},
    "null": {"bikes": None},
    "null text": {"station_id": None},
    "null flag": {"stale": None},
    "null time": {"timestamp": None},
    "unknown value": {"record_type": "tram"},
    "unknown feed": {"feed": "tram"},
}


@pytest.mark.parametrize("encoded", [True, False])
@pytest.mark.parametrize("values", GOOD.values(), ids=GOOD)
def test_good_rows_pass(values, encoded):
    validate(_table(encoded=encoded, **values), ENHANCED)


@pytest.mark.parametrize("encoded", [True, False])
@pytest.mark.parametrize("values", BAD.values(), ids=BAD)
def test_bad_rows_are_refused_by_name_of_the_column(values, encoded):
    with pytest.raises((SchemaErrors, ValueError), match=next(iter(values))):
        validate(_table(encoded=encoded, **values), ENHANCED)


def test_a_value_of_the_dictionary_that_no_row_has_does_no_harm():
    validate(_table(record_type="tram").slice(0, 1), ENHANCED)


def test_no_rows_pass():
    validate(_table().slice(0, 0), ENHANCED)


def test_columns_are_those_of_the_schema():
    for table in (_table().drop_columns(["lat"]), _table().append_column("more", [[1, 2]])):
        with pytest.raises((SchemaErrors, ValueError)):
            validate(table, ENHANCED)


@pytest.mark.parametrize("values", [*GOOD.values(), *BAD.values()], ids=[*GOOD, *BAD])
def test_arrow_and_pandera_are_of_one_mind(values):
    table = _table(**values)
    frame = table.cast(pa.schema([f.with_nullable(True) for f in arrow_schema(ENHANCED)]))
    try:
        ENHANCED.pandera().validate(frame.to_pandas(types_mapper=pd.ArrowDtype), lazy=True)
        good = True
    except SchemaErrors:
        good = False
    assert good == all(_holds(table[name], column) for name, column in ENHANCED.columns.items())

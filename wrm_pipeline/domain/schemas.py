"""One pandera schema per table: parser, writer, checks and documentation all derive from it.

The columns are those of the data contract, section 3. Types are Arrow's, so a validated frame shares the
memory of the Arrow table it came from.
"""

from typing import Any

import pandas as pd
import pandera.pandas as pandera
import pyarrow as pa
import pyarrow.compute as pc

UTC_TIMESTAMP = pa.timestamp("us", "UTC")

# Data contract, section 4: a row outside these is a dead letter.
_COUNT = pandera.Check.in_range(0, 100_000)
_LATITUDE = pandera.Check.in_range(-90.0, 90.0)
_LONGITUDE = pandera.Check.in_range(-180.0, 180.0)
_PERCENT = pandera.Check.in_range(0, 100)


def _column(
    arrow_type: pa.DataType,
    description: str,
    *checks: pandera.Check,
    nullable: bool = False,
    unit: str | None = None,
) -> pandera.Column:
    metadata = {"unit": unit} if unit else None
    return pandera.Column(
        pd.ArrowDtype(arrow_type),
        list(checks),
        nullable=nullable,
        description=description,
        metadata=metadata,
    )


PROCESSED = pandera.DataFrameSchema(
    {
        "station_id": _column(pa.string(), "Station number, or fb and bike number for a free-standing bike"),
        "name": _column(pa.string(), "Name with encoding, entities and surrounding spaces repaired"),
        "timestamp": _column(UTC_TIMESTAMP, "Time of the report itself"),
        "gmt_local_diff_sec": _column(pa.int32(), "Local time minus UTC, as reported", unit="s"),
        "gmt_servertime_diff_sec": _column(pa.int32(), "Server time minus UTC, as reported", unit="s"),
        "lat": _column(pa.float64(), "Latitude, WGS84", _LATITUDE, unit="deg"),
        "lon": _column(pa.float64(), "Longitude, WGS84", _LONGITUDE, unit="deg"),
        "bikes": _column(pa.int32(), "Bikes there now", _COUNT, unit="bikes"),
        "spaces": _column(pa.int32(), "Free docks now", _COUNT, unit="docks"),
        "total_docks": _column(pa.int32(), "Docks in all; may be 0", _COUNT, unit="docks"),
        "installed": _column(pa.bool_(), "Null where the feed lacks the column", nullable=True),
        "locked": _column(pa.bool_(), "Null where the feed lacks the column", nullable=True),
        "temporary": _column(pa.bool_(), "Null where the feed lacks the column", nullable=True),
        "givesbonus_acceptspedelecs_fbbattlevel": _column(
            pa.bool_(), "The field's value where it was a flag", nullable=True
        ),
        "battery_pct": _column(
            pa.int16(), "Battery level where that field held a number", _PERCENT, nullable=True, unit="%"
        ),
        "pedelecs": _column(
            pa.int32(),
            "E-bikes among bikes; null where the feed lacks the column",
            _COUNT,
            nullable=True,
            unit="bikes",
        ),
        "s3_source_key": _column(pa.string(), "Key of the raw object that the row came from"),
        "file_timestamp": _column(UTC_TIMESTAMP, "Time of the snapshot, from the raw object's name"),
    },
    strict=True,
    ordered=True,
    name="processed",
    description="All good rows of a day, sorted by file_timestamp and station_id, unique on both.",
)

RECORD_TYPES = ("station", "bike", "unknown")

ENHANCED = PROCESSED.add_columns(
    {
        "record_type": _column(
            pa.string(), "What the row is about: station, bike or unknown", pandera.Check.isin(RECORD_TYPES)
        ),
        "date": _column(pa.date32(), "The partition: calendar date in Europe/Warsaw of the fetch"),
        "processed_at": _column(UTC_TIMESTAMP, "When this row was processed"),
        "over_capacity": _column(pa.bool_(), "bikes + spaces > total_docks > 0"),
        "no_docks": _column(pa.bool_(), "A station with total_docks = 0"),
        "outside_service_area": _column(pa.bool_(), "Outside the configured box"),
        "stale": _column(pa.bool_(), "timestamp more than 1 h before file_timestamp"),
    }
)
ENHANCED.name = "enhanced"
ENHANCED.description = "The processed rows, classified and flagged."

SORT_KEY = ("file_timestamp", "station_id")
FLAGS = ("over_capacity", "no_docks", "outside_service_area", "stale")


def arrow_schema(schema: pandera.DataFrameSchema) -> pa.Schema:
    """The Arrow schema of a table: names, types and nullability, in order."""
    return pa.schema(
        [pa.field(name, column.dtype.type.pyarrow_dtype, column.nullable) for name, column in schema.columns.items()]
    )


def value_range(schema: pandera.DataFrameSchema, column: str) -> tuple[float, float]:
    """The closed range that a column's values must be in.

    Raises:
        LookupError: the column has no range check.
    """
    for check in schema.columns[column].checks:
        if "min_value" in check.statistics:
            return check.statistics["min_value"], check.statistics["max_value"]
    raise LookupError(f"column {column!r} of table {schema.name!r} has no range")


def validate(table: pa.Table, schema: pandera.DataFrameSchema) -> None:
    """Check columns, types, nulls and ranges of `table` against `schema`.

    Dictionary-encoded string columns count as strings.

    Raises:
        pandera.errors.SchemaErrors: all violations, with a sample of each.
    """
    checks_of_columns_only = not schema.checks and not schema.unique
    if (
        checks_of_columns_only
        and table.schema.names == list(schema.columns)
        and all(_holds(table[name], column) for name, column in schema.columns.items())
    ):
        return
    frame = table.cast(arrow_schema(schema)).to_pandas(types_mapper=pd.ArrowDtype, split_blocks=True)
    schema.validate(frame, lazy=True)


def _holds(values: pa.ChunkedArray, column: pandera.Column) -> bool:
    """Whether Arrow alone can tell that a column is as its schema says; if not, pandera has the word.

    The checks are the schema's own, read from it: a range holds if the lowest and the highest value are in it, a set
    of values if the dictionary has no others. No frame is built, which costs more than the checks.
    """
    expected = column.dtype.type.pyarrow_dtype
    dictionaries: list[pa.Array] = []
    if pa.types.is_dictionary(values.type) and values.type.value_type == expected:
        dictionaries = [chunk.dictionary for chunk in values.chunks]
    elif values.type != expected:
        return False
    nulls = values.null_count + sum(dictionary.null_count for dictionary in dictionaries)
    if column.unique or (nulls and not column.nullable):
        return False
    return all(_check_holds(check, values, dictionaries) for check in column.checks)


def _check_holds(check: pandera.Check, values: pa.ChunkedArray, dictionaries: list[pa.Array]) -> bool:
    known = check.statistics or {}
    if known.keys() == {"min_value", "max_value", "include_min", "include_max"}:
        closed = known["include_min"] and known["include_max"]
        # The lowest and the highest value leave NaN out.
        if not closed or (pa.types.is_floating(values.type) and pc.any(pc.is_nan(values)).as_py()):
            return False
        found = pc.min_max(values).as_py()
        return found["min"] is None or known["min_value"] <= found["min"] <= found["max"] <= known["max_value"]
    if known.keys() == {"allowed_values"} and dictionaries:
        allowed = set(known["allowed_values"])
        return all(allowed.issuperset(dictionary.to_pylist()) for dictionary in dictionaries)
    return False


def describe(schema: pandera.DataFrameSchema) -> list[dict[str, Any]]:
    """One record per column (name, type, nullable, unit, description), for metadata and documentation."""
    return [
        {
            "name": name,
            "type": str(column.dtype.type.pyarrow_dtype),
            "nullable": column.nullable,
            "unit": (column.metadata or {}).get("unit", ""),
            "description": column.description or "",
        }
        for name, column in schema.columns.items()
    ]

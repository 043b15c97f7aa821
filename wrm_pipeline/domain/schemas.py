"""One schema per table: parser, writer, checks and documentation all derive from it.

The columns are those of the data contract, section 3. Arrow checks whether a table matches its schema; only if not,
pandera runs with the same schema and reports what is wrong. pandera and pandas take a second to load, and most runs do
not need them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from wrm_pipeline.domain.feeds import KINDS, UCL

if TYPE_CHECKING:
    import pandera.pandas as pandera

UTC_TIMESTAMP = pa.timestamp("us", "UTC")


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its permitted values and its meaning.

    Attributes:
        type: Arrow's.
        description: For people.
        bounds: The lowest and the highest value; None: any.
        values: The permitted values; None: any.
        nullable: Whether it may be null.
        unit: For people; empty if there is none.
    """

    type: pa.DataType
    description: str
    bounds: tuple[float, float] | None = None
    values: tuple[str, ...] | None = None
    nullable: bool = False
    unit: str = ""


@dataclass(frozen=True)
class TableSchema:
    """A table's columns, all of them and in order."""

    name: str
    description: str
    columns: Mapping[str, Column]

    def pandera(self) -> "pandera.DataFrameSchema":
        """The same as a pandera schema, over Arrow-typed pandas frames."""
        import pandas as pd
        import pandera.pandas as pandera

        def checks(column: Column) -> list[pandera.Check]:
            found = [pandera.Check.in_range(*column.bounds)] if column.bounds else []
            return [*found, pandera.Check.isin(column.values)] if column.values else found

        columns = {
            name: pandera.Column(
                pd.ArrowDtype(column.type),
                checks(column),
                nullable=column.nullable,
                description=column.description,
                metadata={"unit": column.unit} if column.unit else None,
            )
            for name, column in self.columns.items()
        }
        return pandera.DataFrameSchema(columns, strict=True, ordered=True, name=self.name, description=self.description)


# Data contract, section 4: a row outside these is a dead letter.
_COUNT = (0, 100_000)
_LATITUDE = (-90.0, 90.0)
_LONGITUDE = (-180.0, 180.0)
_PERCENT = (0, 100)

FEEDS = tuple(KINDS)

PROCESSED = TableSchema(
    "processed",
    "All good rows of a day, sorted by file_timestamp and station_id, unique on both.",
    {
        "station_id": Column(pa.string(), "Station number, or fb and bike number for a free-standing bike"),
        "name": Column(pa.string(), "Name with encoding, entities and surrounding spaces repaired"),
        "timestamp": Column(UTC_TIMESTAMP, "Time of the report itself"),
        "gmt_local_diff_sec": Column(
            pa.int32(), "Local time minus UTC, as reported; null where unknown", nullable=True, unit="s"
        ),
        "gmt_servertime_diff_sec": Column(
            pa.int32(), "Server time minus UTC, as reported; null where unknown", nullable=True, unit="s"
        ),
        "lat": Column(pa.float64(), "Latitude, WGS84", _LATITUDE, unit="deg"),
        "lon": Column(pa.float64(), "Longitude, WGS84", _LONGITUDE, unit="deg"),
        "bikes": Column(pa.int32(), "Bikes at the station now", _COUNT, unit="bikes"),
        "spaces": Column(pa.int32(), "Free docks now; null where unknown", _COUNT, nullable=True, unit="docks"),
        "total_docks": Column(
            pa.int32(), "Total docks; may be 0; null where unknown", _COUNT, nullable=True, unit="docks"
        ),
        "installed": Column(pa.bool_(), "Null where unknown, or where the feed lacks the column", nullable=True),
        "locked": Column(pa.bool_(), "Null where unknown, or where the feed lacks the column", nullable=True),
        "temporary": Column(pa.bool_(), "Null where unknown, or where the feed lacks the column", nullable=True),
        "givesbonus_acceptspedelecs_fbbattlevel": Column(
            pa.bool_(), "The field's value where it was a flag", nullable=True
        ),
        "battery_pct": Column(
            pa.int16(), "Battery level where that field held a number", _PERCENT, nullable=True, unit="%"
        ),
        "pedelecs": Column(
            pa.int32(),
            "E-bikes among bikes; null where unknown, or where the feed lacks the column",
            _COUNT,
            nullable=True,
            unit="bikes",
        ),
        "s3_source_key": Column(pa.string(), "Key of the raw object that the row came from"),
        "file_timestamp": Column(UTC_TIMESTAMP, "Time of the snapshot, from the raw object's name"),
        # After the columns of parser version 1, so that their positions do not change.
        "feed": Column(pa.string(), "The feed that the snapshot is from", values=FEEDS),
        "count_capped": Column(pa.bool_(), "One of the counts was capped by the feed: 5+ is 5 and this flag"),
    },
)

RECORD_TYPES = ("station", "bike", "unknown")

ENHANCED = TableSchema(
    "enhanced",
    "The processed rows, classified and flagged.",
    {
        **{name: column for name, column in PROCESSED.columns.items() if name != "count_capped"},
        "record_type": Column(pa.string(), "What the row is about: station, bike or unknown", values=RECORD_TYPES),
        "date": Column(pa.date32(), "The partition: the city's calendar date of the fetch"),
        "processed_at": Column(UTC_TIMESTAMP, "When this row was processed"),
        "over_capacity": Column(pa.bool_(), "bikes + spaces > total_docks > 0; false where one is unknown"),
        "no_docks": Column(pa.bool_(), "A station with total_docks = 0; false where they are unknown"),
        "outside_service_area": Column(pa.bool_(), "Outside the configured box"),
        "stale": Column(pa.bool_(), "timestamp more than 1 h before file_timestamp"),
        # A flag like the others, but one that only the parser can set: it is processed that carries it here.
        "count_capped": PROCESSED.columns["count_capped"],
    },
)

BIKE_POSITIONS = TableSchema(
    "bike_positions",
    "One row for each stay of a bike at one place, as the operator's feed shows it, sorted by bike and arrival.",
    {
        "bike_id": Column(pa.string(), "Bike number"),
        "station_id": Column(pa.string(), "Station number; null where the bike stands outside stations", nullable=True),
        "lat": Column(pa.float64(), "Latitude when the bike was first seen there, WGS84", _LATITUDE, unit="deg"),
        "lon": Column(pa.float64(), "Longitude when the bike was first seen there, WGS84", _LONGITUDE, unit="deg"),
        "arrived_at": Column(UTC_TIMESTAMP, "Time of the day's first snapshot in which the bike is there"),
        "left_at": Column(
            UTC_TIMESTAMP,
            "Time of the last snapshot in which the bike is there; null: it is in the day's last one",
            nullable=True,
        ),
        "bike_type": Column(pa.string(), "Type as the feed names it; empty where it names none"),
        "battery_pct": Column(
            pa.int16(), "Battery level when the bike was last seen there", _PERCENT, nullable=True, unit="%"
        ),
        "feed": Column(pa.string(), "The feed that shows the bike", values=FEEDS),
    },
)

_PLACES = ("station", "outside", "van", "unmatched")


def _ride_end(side: str, verb: str) -> dict[str, Column]:
    return {
        f"{side}_at": Column(UTC_TIMESTAMP, f"When it {verb}"),
        f"{side}_name": Column(pa.string(), f"Where it {verb}, as the list names it, without odd blanks"),
        f"{side}_what": Column(pa.string(), "What this name is", values=_PLACES),
        f"{side}_station_id": Column(pa.string(), "Number of the station then; null if it is none", nullable=True),
        f"{side}_station_key": Column(pa.string(), "Identity of the station (stations_history)", nullable=True),
        f"{side}_matched_by": Column(
            pa.string(), "How it was found: name, former_name, spelling, word_order or bikes", nullable=True
        ),
    }


CITY_RIDES = TableSchema(
    "city_rides",
    "One row for each ride of the city's own list of the rides that ended on a day, sorted by its end.",
    {
        "rental_id": Column(pa.string(), "Number of the rental"),
        "bike_id": Column(pa.string(), "Bike number"),
        **_ride_end("left", "began"),
        **_ride_end("arrived", "ended"),
        "duration_min": Column(pa.int32(), "Its length in the list, a whole number", unit="min"),
        "time_note": Column(
            pa.string(),
            "How its instants were found where clocks were changed: repeated_hour_by_duration, repeated_hour_by_order, "
            "repeated_hour_unsure, skipped_hour; else empty",
        ),
        "line_number": Column(pa.int32(), "Its line in the list, from 1"),
    },
)

SORT_KEY = ("file_timestamp", "station_id")
FLAGS = ("over_capacity", "no_docks", "outside_service_area", "stale", "count_capped")


def arrow_schema(schema: TableSchema) -> pa.Schema:
    """The Arrow schema of a table: names, types and nullability, in order."""
    return pa.schema([pa.field(name, column.type, column.nullable) for name, column in schema.columns.items()])


def value_range(schema: TableSchema, column: str) -> tuple[float, float]:
    """The closed range of a column's permitted values.

    Raises:
        LookupError: the column has no range check.
    """
    bounds = schema.columns[column].bounds
    if bounds is None:
        raise LookupError(f"column {column!r} of table {schema.name!r} has no range")
    return bounds


def with_later_columns(rows: pa.Table) -> pa.Table:
    """Published rows with the columns that parser version 1 did not write, filled as it would have done."""
    if "feed" not in rows.column_names:
        feed = pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), rows.num_rows), [UCL.name])
        rows = rows.append_column("feed", feed)
    if "count_capped" not in rows.column_names:
        rows = rows.append_column("count_capped", pa.repeat(False, rows.num_rows))
    return rows


def validate(table: pa.Table, schema: TableSchema) -> None:
    """Check columns, types, nulls and ranges of `table` against `schema`.

    Dictionary-encoded string columns count as strings.

    Raises:
        pandera.errors.SchemaErrors: all violations, with a sample of each.
    """
    if table.schema.names == list(schema.columns) and all(
        _holds(table[name], column) for name, column in schema.columns.items()
    ):
        return
    import pandas as pd

    frame = table.cast(arrow_schema(schema)).to_pandas(types_mapper=pd.ArrowDtype, split_blocks=True)
    schema.pandera().validate(frame, lazy=True)


def _holds(values: pa.ChunkedArray, column: Column) -> bool:
    """Whether Arrow alone can tell that a column matches its schema; if not, pandera decides.

    A range is checked by the lowest and the highest value, a set of values by the dictionary. No frame is built, which
    would cost more than the checks.
    """
    dictionaries: list[pa.Array] = []
    if pa.types.is_dictionary(values.type) and values.type.value_type == column.type:
        dictionaries = [chunk.dictionary for chunk in values.chunks]
    elif values.type != column.type:
        return False
    nulls = values.null_count + sum(dictionary.null_count for dictionary in dictionaries)
    if nulls and not column.nullable:
        return False
    if column.values is not None and not (
        dictionaries and all(set(column.values).issuperset(dictionary.to_pylist()) for dictionary in dictionaries)
    ):
        return False
    return column.bounds is None or _within(values, column.bounds)


def _within(values: pa.ChunkedArray, bounds: tuple[float, float]) -> bool:
    # The lowest and the highest value ignore NaN.
    if pa.types.is_floating(values.type) and pc.any(pc.is_nan(values)).as_py():
        return False
    found = pc.min_max(values).as_py()
    return found["min"] is None or bool(bounds[0] <= found["min"] <= found["max"] <= bounds[1])


def describe(schema: TableSchema) -> list[dict[str, Any]]:
    """One record per column (name, type, nullable, unit, description), for metadata and documentation."""
    return [
        {
            "name": name,
            "type": str(column.type),
            "nullable": column.nullable,
            "unit": column.unit,
            "description": column.description,
        }
        for name, column in schema.columns.items()
    ]

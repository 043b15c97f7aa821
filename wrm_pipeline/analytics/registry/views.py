"""The views over the enhanced Parquet, and the record of their definitions.

Their columns are those of the enhanced schema (domain/schemas.py) and the partition.
"""

from datetime import timedelta

from wrm_pipeline.analytics.registry.model import SCHEMA, Column, Refreshed, Table
from wrm_pipeline.analytics.registry.types import short_type, sql_type
from wrm_pipeline.domain import asset_names
from wrm_pipeline.domain.schemas import BIKE_POSITIONS, ENHANCED
from wrm_pipeline.domain.snapshot_time import MAX_AHEAD

# Placeholder in `sql` for the newest published date.
NEWEST = "{newest}"

_COLUMNS = (
    *(
        Column(name, short_type(sql_type(column.type)), column.description, column.unit, (name,))
        for name, column in ENHANCED.columns.items()
    ),
    Column(
        "dt",
        "DATE",
        "The partition, from the path: the city's calendar date of the fetch",
        sources=("date",),
    ),
)
_PASSED_ON = tuple(
    Column(column.name, column.type, column.description, column.unit, (column.name,)) for column in _COLUMNS
)
_ALL = "wrm_stations_enhanced_data"
# A literal date: DuckDB reads every file for max(dt) or current_date, and one file for this.
_OF_DAY = f"dt = DATE '{NEWEST}' AND record_type = 'station'"


def _view(name: str, description: str, sql: str) -> Table:
    return Table(
        name, asset_names.VIEWS, description, columns=_PASSED_ON, refreshed=Refreshed.AT_QUERY, sql=sql, sources=(_ALL,)
    )


# Its SQL contains the files, which are known when it is created (analytics/enhanced_views.py).
ENHANCED_DATA = Table(
    _ALL,
    asset_names.VIEWS,
    "Every good row of every published day, classified and flagged. Filter by a literal dt to read only that day.",
    columns=_COLUMNS,
    refreshed=Refreshed.AT_QUERY,
    sources=(asset_names.ENHANCED,),
    columns_from=asset_names.ENHANCED,
)

STATIONS_ONLY = _view(
    "wrm_stations_only", "The rows of stations.", f"SELECT * FROM {SCHEMA}.{_ALL} WHERE record_type = 'station'"
)

BIKES_ONLY = _view(
    "wrm_bikes_only",
    "The rows of free-standing bikes.",
    f"SELECT * FROM {SCHEMA}.{_ALL} WHERE record_type = 'bike'",
)

STATIONS_LATEST = _view(
    "wrm_stations_latest",
    "Each station's newest row of the newest day.",
    # A join, and half the time of QUALIFY row_number() … = 1, which an ORDER BY … LIMIT around it turns into an
    # internal error (DuckDB 1.5.5, top_n_window_elimination). A station has one row in a snapshot. Snapshots dated in
    # the future stem from a clock that was ahead, and are not the latest yet.
    f"SELECT found.* FROM {SCHEMA}.{_ALL} AS found JOIN "
    f"(SELECT station_id, max(file_timestamp) AS file_timestamp FROM {SCHEMA}.{_ALL} WHERE {_OF_DAY} "
    f"AND file_timestamp <= now() + INTERVAL {MAX_AHEAD // timedelta(minutes=1)} MINUTE GROUP BY ALL) "
    "AS newest ON found.station_id = newest.station_id AND found.file_timestamp = newest.file_timestamp "
    f"WHERE found.{_OF_DAY} "
    "ORDER BY found.station_id",  # otherwise unordered, so the catalog's samples would differ each time
)

# SQL that was written for bike-data-flow runs as it is (docs/from-bike-data-flow.md).
OLD_NAME = _view(
    "wrm_stations_enhanced",
    f"{_ALL} by the name that bike-data-flow's queries use.",
    f"SELECT * FROM {SCHEMA}.{_ALL}",
)

# As with ENHANCED_DATA, its SQL contains the files.
POSITIONS = Table(
    "bike_positions",
    asset_names.VIEWS,
    "Where each bike stood: one row for each stay of a bike at one place on a day. Empty without the operator's feed.",
    columns=(
        *(
            Column(name, short_type(sql_type(column.type)), column.description, column.unit, (name,))
            for name, column in BIKE_POSITIONS.columns.items()
        ),
        Column("dt", "DATE", "The partition, from the path: the city's calendar date of the fetch"),
    ),
    refreshed=Refreshed.AT_QUERY,
    sources=(asset_names.BIKE_POSITIONS,),
    columns_from=asset_names.BIKE_POSITIONS,
)

VIEW_DEFINITIONS = Table(
    "view_definitions",
    asset_names.VIEWS,
    "The views' definitions, to find out whether they must be created again.",
    columns=(
        Column("view_name", "VARCHAR", "Name of the view"),
        Column("definition", "VARCHAR", "Its SQL"),
        Column("refreshed_at", "TIMESTAMPTZ", "When the view was created"),
    ),
    refreshed=Refreshed.LEDGER,
    sources=(asset_names.ENHANCED,),
    columns_from="",
)

VIEWS_OF_PARQUET = (ENHANCED_DATA, STATIONS_ONLY, BIKES_ONLY, STATIONS_LATEST, OLD_NAME, POSITIONS, VIEW_DEFINITIONS)

"""Where each asset's data lies, and which columns each column is made from: the one place that says so.

Dagster's `dagster/column_lineage`, the OpenLineage events and the report all show what stands here. A column that is
made from no column (the key of the raw object, say) has an empty list.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wrm_pipeline.domain.layout import Layout
from wrm_pipeline.domain.schemas import ENHANCED, PROCESSED
from wrm_pipeline.domain.snapshot import BATTERY_COLUMN, COMBINED_COLUMN

RAW = "wrm_stations_raw_data"
PROCESSED_ROWS = "wrm_stations_processed_data_all"
ENHANCED_ROWS = "wrm_stations_enhanced_data_all"
VIEWS = "create_duckdb_enhanced_views"
SUMMARY = "query_station_summary"
DENSITY = "bike_density_spatial_analysis"
MAP = "bike_density_map"
DEAD_LETTERS = "wrm_stations_dlq"
MATERIALIZED = "create_materialized_views"
QUALITY = "data_quality"
CATALOG = "data_catalog"


@dataclass(frozen=True, slots=True)
class Origin:
    """Columns of one asset."""

    asset: str
    columns: tuple[str, ...]


# The feed's columns (data contract, section 1): name -> what it is. They are text in the raw object.
RAW_COLUMNS: Mapping[str, str] = {
    "#id": "Station number, or fb and bike number for a free-standing bike",
    COMBINED_COLUMN: "Unix seconds of the report, local offset and server offset in seconds, joined by |",
    "name": "Name as the feed spells it, perhaps encoded twice or with HTML entities",
    "lat": "Latitude, WGS84 [deg]",
    "lon": "Longitude, WGS84 [deg]",
    "bikes": "Bikes there now",
    "spaces": "Free docks now",
    "installed": "true or false; may be absent",
    "locked": "true or false; may be absent",
    "temporary": "true or false; may be absent",
    "total_docks": "Docks in all; may be 0",
    BATTERY_COLUMN: "A flag for stations, the battery level in percent for free-standing e-bikes; may be absent",
    "pedelecs": "E-bikes among bikes; may be absent",
}


def _from(asset: str, sources: Mapping[str, Sequence[str]]) -> dict[str, tuple[Origin, ...]]:
    return {column: (Origin(asset, tuple(names)),) if names else () for column, names in sources.items()}


_MADE_OTHERWISE = {
    "station_id": ["#id"],
    "timestamp": [COMBINED_COLUMN],
    "gmt_local_diff_sec": [COMBINED_COLUMN],
    "gmt_servertime_diff_sec": [COMBINED_COLUMN],
    "battery_pct": [BATTERY_COLUMN],
    # From the raw object's name.
    "s3_source_key": [],
    "file_timestamp": [],
    "feed": [],
    "count_capped": ["bikes", "spaces", "total_docks", "pedelecs"],
}

_STATION_FLAGS = ("over_capacity", "no_docks", "outside_service_area", "stale", "count_capped")
_PLACE = ["lat", "lon", "file_timestamp"]
_EMPTY, _FULL = ["bikes"], ["spaces", "total_docks"]
_BY_HOUR = {"dt": ["dt"], "hour_start": ["file_timestamp"], "local_hour": ["file_timestamp"]}
_EXPECTED = ["bikes", "file_timestamp"]

# Of an asset that writes several tables: table -> column -> columns of the views.
_MATERIALIZED: Mapping[str, Mapping[str, Sequence[str]]] = {
    "mv_station_latest": {
        **{name: [name] for name in ("station_id", "name", "lat", "lon", "bikes", "spaces", "total_docks", "pedelecs")},
        "fill": ["bikes", "total_docks"],
        **{name: [name] for name in (*_STATION_FLAGS, "timestamp", "file_timestamp", "dt")},
    },
    "mv_bike_latest": {
        **{name: [name] for name in ("station_id", "name", "lat", "lon", "battery_pct", "outside_service_area")},
        **{name: [name] for name in ("file_timestamp", "dt")},
        "standing_since": _PLACE,
        "idle_h": _PLACE,
    },
    "mv_rebalancing": {
        **{name: [name] for name in ("station_id", "name", "bikes", "total_docks")},
        "expected_bikes": _EXPECTED,
        "empty_at": _EXPECTED,
        "full_at": [*_EXPECTED, "spaces", "total_docks"],
        "profile_days": ["dt"],
        "file_timestamp": ["file_timestamp"],
        "dt": ["dt"],
    },
    "mv_daily_aggregates": {
        "dt": ["dt"],
        "snapshots": ["file_timestamp"],
        "active_stations": ["station_id", "record_type", "stale"],
        **{name: ["bikes", "record_type"] for name in ("bikes_mean", "bikes_max", "bikes_min")},
        "free_bikes_mean": ["record_type", "outside_service_area"],
        "empty_share": _EMPTY,
        "full_share": _FULL,
        "rows": ["station_id"],
    },
    "mv_station_hourly": {
        **_BY_HOUR,
        "station_id": ["station_id"],
        "name": ["name"],
        "snapshots": ["file_timestamp"],
        "bikes_mean": ["bikes"],
        "bikes_min": ["bikes"],
        "share_empty": _EMPTY,
        "share_full": _FULL,
    },
    "mv_city_hourly": {
        **_BY_HOUR,
        "bikes_at_stations_mean": ["bikes", "record_type"],
        "free_bikes_mean": ["record_type", "outside_service_area"],
        "stations_empty_mean": _EMPTY,
        "stations_full_mean": _FULL,
    },
    "mv_flows": {
        **_BY_HOUR,
        "station_id": ["station_id"],
        **{name: ["bikes", "file_timestamp"] for name in ("departures", "arrivals", "gap_change")},
    },
    "mv_bike_trips": {
        "dt": ["dt"],
        "bike_id": ["station_id"],
        "left_at": _PLACE,
        "left_lat": ["lat"],
        "left_lon": ["lon"],
        "arrived_at": _PLACE,
        "arrived_lat": ["lat"],
        "arrived_lon": ["lon"],
        "distance_m": ["lat", "lon"],
        "idle_h_before": _PLACE,
        "kind": _PLACE,
    },
    # What the tables hold, told by the refresh itself.
    "mv_refreshes": {name: [] for name in ("table_name", "dt", "refreshed_at", "rows", "source")},
}

_JUDGED = ["station_id", "bikes", "file_timestamp"]
# The rules are asked of these.
_RULED = [
    *("station_id", "name", "record_type", "timestamp", "file_timestamp", "lat", "lon"),
    *("bikes", "spaces", "total_docks", *_STATION_FLAGS),
]
_QUALITY: Mapping[str, Mapping[str, Sequence[str]]] = {
    "quality_rules": {name: [] for name in ("rule", "severity", "reason")},
    "quality_rule_hits": {
        "dt": ["dt"],
        "rule": [],
        **dict.fromkeys(("hits", "rows_checked", "samples"), _RULED),
    },
    # One row for each column: made from that one, so from all of them, which is said once.
    "quality_profile": {
        **{name: ["dt"] for name in ("dt", "compared_days")},
        **{name: [] for name in ("column_name", "rows", "nulls", "distinct_values", "minimum", "maximum", "mean")},
        "drift": [],
        "distribution": list(ENHANCED.columns),
    },
    "quality_anomalies": {
        **_BY_HOUR,
        "station_id": ["station_id"],
        "name": ["name"],
        "method": [],
        "score": _JUDGED,
        "reason": _JUDGED,
    },
    # Lines are counted by the parser; the processed partition keeps the counts.
    "quality_accounting": {
        "dt": ["dt"],
        **{name: [] for name in ("lines_in", "rows_out", "dead_lettered", "duplicate_rows", "remark_lines")},
        **{name: ["file_timestamp"] for name in ("snapshots", "first_snapshot", "last_snapshot")},
    },
    "quality_station_hours": {
        **_BY_HOUR,
        "station_id": ["station_id"],
        "name": ["name"],
        "snapshots": ["file_timestamp"],
        "bikes_mean": ["bikes"],
        **{name: ["bikes", "file_timestamp"] for name in ("bikes_last", "moves", "largest_step", "emptied")},
    },
    "quality_refreshes": {name: [] for name in ("dt", "etag", "version", "rows", "refreshed_at")},
}


def _from_views(tables: Mapping[str, Mapping[str, Sequence[str]]]) -> dict[str, tuple[Origin, ...]]:
    named = {f"{table}.{column}": names for table, columns in tables.items() for column, names in columns.items()}
    return _from(VIEWS, named)


# Asset -> column -> where it comes from. An asset that writes several tables names its columns `table.column`.
COLUMN_LINEAGE: Mapping[str, Mapping[str, tuple[Origin, ...]]] = {
    PROCESSED_ROWS: _from(RAW, {name: _MADE_OTHERWISE.get(name, [name]) for name in PROCESSED.columns}),
    ENHANCED_ROWS: _from(
        PROCESSED_ROWS,
        {
            **{name: [name] for name in PROCESSED.columns},
            "record_type": ["station_id", "name"],
            "date": ["file_timestamp"],
            "processed_at": ["s3_source_key"],
            "over_capacity": ["bikes", "spaces", "total_docks"],
            "no_docks": ["station_id", "name", "total_docks"],
            "outside_service_area": ["lat", "lon"],
            "stale": ["timestamp", "file_timestamp"],
        },
    ),
    VIEWS: _from(ENHANCED_ROWS, {**{name: [name] for name in ENHANCED.columns}, "dt": ["date"]}),
    SUMMARY: _from(
        VIEWS,
        {
            "station_id": ["station_id"],
            "name": ["name", "file_timestamp"],
            "lat": ["lat", "file_timestamp"],
            "lon": ["lon", "file_timestamp"],
            "total_docks": ["total_docks", "file_timestamp"],
            "bikes_latest": ["bikes", "file_timestamp"],
            "spaces_latest": ["spaces", "file_timestamp"],
            **{name: ["bikes"] for name in ("bikes_mean", "bikes_min", "bikes_max", "share_empty")},
            "share_full": ["spaces", "total_docks"],
            "snapshots": ["file_timestamp"],
            "snapshots_stale": ["stale"],
            "first_snapshot": ["file_timestamp"],
            "last_snapshot": ["file_timestamp"],
            "dt": ["dt"],
        },
    ),
    DENSITY: _from(
        VIEWS,
        {
            **{name: ["lat", "lon"] for name in ("cell_x", "cell_y", "south", "west", "north", "east")},
            **{
                name: ["lat", "lon", "bikes", "file_timestamp"]
                for name in ("bikes_mean", "bikes_max", "density_per_km2")
            },
            "stations": ["record_type", "lat", "lon"],
            "dt": ["dt"],
        },
    ),
    MATERIALIZED: _from_views(_MATERIALIZED),
    QUALITY: _from_views(_QUALITY),
}


def object_folder(asset: str, layout: Layout) -> str | None:
    """The folder (or the one object) in the store that an asset writes; None for a table of the database."""
    folders = {
        RAW: layout.raw_prefix,
        PROCESSED_ROWS: layout.layer_prefix("processed"),
        ENHANCED_ROWS: layout.layer_prefix("enhanced"),
        DEAD_LETTERS: layout.dead_letter_prefix,
        MAP: layout.report_key("bike_density_map.html"),
        "city_report": layout.report_key("site"),
        "published_database": layout.database_key,
    }
    folder = folders.get(asset)
    return folder.rstrip("/") if folder else None


def table_name(asset: str) -> str:
    """The table or view in the analytics database, for assets that are one."""
    return {VIEWS: "wrm_stations_enhanced_data", CATALOG: "catalog_columns"}.get(asset, asset)

"""The place of each asset's data, and the columns that each column is made from.

Dagster's `dagster/column_lineage`, the OpenLineage events and the report all show this information: for the Parquet
layers from this module, for tables and views from the registry. A column that is not made from columns (e.g. the key of
the raw object) has an empty list.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wrm_pipeline.analytics.registry import TABLES, Column, Table, tables_of
from wrm_pipeline.analytics.registry.answers import DENSITY_CELLS, STATION_SUMMARY
from wrm_pipeline.domain import asset_names
from wrm_pipeline.domain.layout import Layout
from wrm_pipeline.domain.schemas import BIKE_POSITIONS, PROCESSED
from wrm_pipeline.domain.snapshot import BATTERY_COLUMN, COMBINED_COLUMN


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
    "bikes": "Bikes at the station now",
    "spaces": "Free docks now",
    "installed": "true or false; may be absent",
    "locked": "true or false; may be absent",
    "temporary": "true or false; may be absent",
    "total_docks": "Total docks; may be 0",
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

_PARQUET: Mapping[str, Mapping[str, tuple[Origin, ...]]] = {
    asset_names.PROCESSED: _from(
        asset_names.RAW, {name: _MADE_OTHERWISE.get(name, [name]) for name in PROCESSED.columns}
    ),
    asset_names.ENHANCED: _from(
        asset_names.PROCESSED,
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
    # The operator's JSON, which has none of the columns above.
    asset_names.BIKE_POSITIONS: _from(asset_names.RAW, {name: [] for name in BIKE_POSITIONS.columns}),
}

# Of these assets' tables and views only the main one is shown.
_SHOWN = {
    asset_names.VIEWS: "wrm_stations_enhanced_data",
    asset_names.CATALOG: "catalog_columns",
    asset_names.STATION_SUMMARY: STATION_SUMMARY.name,
    asset_names.DENSITY: DENSITY_CELLS.name,
}


def shown_tables(asset: str) -> tuple[Table, ...]:
    """The tables that represent an asset in lineage and UI; empty for an asset without tables."""
    shown = _SHOWN.get(asset)
    return (TABLES[shown],) if shown else tables_of(asset)


def shown_columns(asset: str) -> dict[str, tuple[Table, Column]]:
    """Their columns, by the name under which they are shown: `table.column` where the asset has several tables."""
    tables = shown_tables(asset)
    return {
        column.name if len(tables) == 1 else f"{table.name}.{column.name}": (table, column)
        for table in tables
        for column in table.columns
    }


def column_lineage(asset: str) -> Mapping[str, tuple[Origin, ...]]:
    """Column, as shown -> its sources; empty for an asset whose columns have none."""
    if asset in _PARQUET:
        return _PARQUET[asset]
    return {
        name: (Origin(table.columns_from, column.sources),) if column.sources else ()
        for name, (table, column) in shown_columns(asset).items()
        if table.columns_from
    }


def assets_with_lineage() -> tuple[str, ...]:
    """The assets whose columns are made from columns of another."""
    made = dict.fromkeys(table.asset for table in TABLES.values())
    return (*_PARQUET, *(asset for asset in made if column_lineage(asset)))


def object_folder(asset: str, layout: Layout) -> str | None:
    """The folder (or the one object) in the store that an asset writes; None for a table of the database."""
    folders = {
        asset_names.RAW: layout.raw_prefix,
        asset_names.PROCESSED: layout.layer_prefix("processed"),
        asset_names.ENHANCED: layout.layer_prefix("enhanced"),
        asset_names.BIKE_POSITIONS: layout.layer_prefix(asset_names.BIKE_POSITIONS),
        asset_names.CITY_RIDES: layout.layer_prefix(asset_names.CITY_RIDES),
        asset_names.DEAD_LETTERS: layout.dead_letter_prefix,
        asset_names.DENSITY_MAP: layout.report_key("bike_density_map.html"),
        asset_names.REPORT: layout.report_key("site"),
        asset_names.PUBLISHED_DATABASE: layout.database_key,
    }
    folder = folders.get(asset)
    return folder.rstrip("/") if folder else None

"""The catalog: what every table, view, column and asset is, from their definitions and from the database itself.

What the database holds decides what is listed; the definitions say what it means. A column without a description has an
empty one, and a test fails.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Protocol

import pyarrow as pa

from wrm_pipeline.analytics.materialized_views import MATERIALIZED_VIEWS
from wrm_pipeline.analytics.quality_tables import QUALITY_TABLES
from wrm_pipeline.domain.schemas import ENHANCED, UTC_TIMESTAMP, describe

SAMPLES = 3
SAMPLE_LENGTH = 60


@dataclass(frozen=True, slots=True)
class ColumnMeaning:
    """What a column says; its type is the database's business."""

    description: str
    unit: str = ""


@dataclass(frozen=True, slots=True)
class TableMeaning:
    """What a table or view is, and which asset makes it from which tables."""

    description: str
    asset: str
    columns: Mapping[str, ColumnMeaning]
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FoundColumn:
    """A column as the database has it; `samples` are some of its values as text."""

    name: str
    type: str
    nullable: bool
    samples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FoundTable:
    """A table or view as the database has it.

    Attributes:
        kind: `table` or `view`.
        row_count: Of the whole table, or of the newest day where `of_newest_day`.
        newest_dt: The newest `dt` in it, where it has one.
    """

    name: str
    kind: str
    columns: tuple[FoundColumn, ...]
    row_count: int
    of_newest_day: bool = False
    newest_dt: date | None = None
    refreshed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class AssetFacts:
    """An asset as Dagster has it; `column_sources` names the columns that each of its columns is made from."""

    name: str
    description: str
    layer: str
    owner: str
    sources: tuple[str, ...] = ()
    column_sources: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    place: str = ""
    refreshed_at: datetime | None = None
    newest_dt: date | None = None


_TABLE_COLUMNS = (
    ("kind", pa.string(), "table, view or asset"),
    ("name", pa.string(), "Name in the schema wrm_analytics, or of the asset"),
    ("description", pa.string(), "What it holds and what it is good for"),
    ("layer", pa.string(), "Layer that it belongs to, from raw to report"),
    ("owner", pa.string(), "Who answers for it"),
    ("asset", pa.string(), "Asset that makes it"),
    ("sources", pa.string(), "Tables, views or assets that it is made from, separated by commas"),
    ("refreshed_at", UTC_TIMESTAMP, "When it was last made; null if it was never made here"),
    ("newest_dt", pa.date32(), "Newest partition that it holds; null if it has no partitions"),
    ("row_count", pa.int64(), "Rows, as rows_counted says; null for an asset"),
    ("rows_counted", pa.string(), "Which rows row_count counts: whole table, or newest day"),
    ("place", pa.string(), "Where it lies"),
)
_COLUMN_COLUMNS = (
    ("table_name", pa.string(), "Table or view in the schema wrm_analytics"),
    ("position", pa.int32(), "Place among the table's columns, from 1"),
    ("column_name", pa.string(), "Name of the column"),
    ("type", pa.string(), "DuckDB's type"),
    ("unit", pa.string(), "Unit of its numbers; empty if they have none"),
    ("nullable", pa.bool_(), "Whether it may be null; a view's columns always may, for DuckDB"),
    ("description", pa.string(), "What it means"),
    ("sources", pa.string(), "Columns that it is made from, as table.column, separated by commas"),
    ("samples", pa.string(), "Some of its values, separated by |"),
)
TABLES_SCHEMA = pa.schema([(name, kind) for name, kind, _ in _TABLE_COLUMNS])
COLUMNS_SCHEMA = pa.schema([(name, kind) for name, kind, _ in _COLUMN_COLUMNS])

_ENHANCED_COLUMNS = {
    column["name"]: ColumnMeaning(column["description"], column["unit"]) for column in describe(ENHANCED)
} | {"dt": ColumnMeaning("The partition, from the path: calendar date in Europe/Warsaw of the fetch")}
_VIEWS_ASSET = "create_duckdb_enhanced_views"
_ENHANCED_ASSET = "wrm_stations_enhanced_data_all"


def _view(description: str, source: str) -> TableMeaning:
    return TableMeaning(description, _VIEWS_ASSET, _ENHANCED_COLUMNS, (source,))


def _plain(columns: Sequence[tuple[str, pa.DataType, str]]) -> dict[str, ColumnMeaning]:
    return {name: ColumnMeaning(description) for name, _, description in columns}


class _Column(Protocol):
    """A column as the parts of the pipeline that make tables define theirs."""

    @property
    def name(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def description(self) -> str: ...


def _meaning(asset: str, description: str, columns: Iterable[_Column]) -> TableMeaning:
    return TableMeaning(
        description, asset, {column.name: ColumnMeaning(column.description, column.unit) for column in columns}
    )


# The tables and views that have no definition of their own elsewhere, and those that have.
MEANINGS: Mapping[str, TableMeaning] = {
    "wrm_stations_enhanced_data": _view(
        "Every good row of every published day, classified and flagged. Filter by a literal dt to read only that day.",
        _ENHANCED_ASSET,
    ),
    "wrm_stations_only": _view("The rows of stations.", "wrm_stations_enhanced_data"),
    "wrm_bikes_only": _view("The rows of free-standing bikes.", "wrm_stations_enhanced_data"),
    "wrm_stations_latest": _view("Each station's newest row of the newest day.", "wrm_stations_enhanced_data"),
    "view_definitions": TableMeaning(
        "The views' definitions, to tell whether they must be created anew.",
        _VIEWS_ASSET,
        {
            "view_name": ColumnMeaning("Name of the view"),
            "definition": ColumnMeaning("Its SQL"),
            "refreshed_at": ColumnMeaning("When the view was created"),
        },
        (_ENHANCED_ASSET,),
    ),
    "query_station_summary": TableMeaning(
        "One row per station for one day: bikes now, mean, fewest and most, and how often it was empty or full.",
        "query_station_summary",
        {
            "station_id": ColumnMeaning("Station number"),
            "name": ColumnMeaning("Its name in the day's newest snapshot"),
            "lat": ColumnMeaning("Latitude, WGS84", "deg"),
            "lon": ColumnMeaning("Longitude, WGS84", "deg"),
            "total_docks": ColumnMeaning("Docks in all in the newest snapshot; may be 0; null where unknown", "docks"),
            "bikes_latest": ColumnMeaning("Bikes in the newest snapshot", "bikes"),
            "spaces_latest": ColumnMeaning("Free docks in the newest snapshot; null where unknown", "docks"),
            "bikes_mean": ColumnMeaning("Mean bikes over the day's snapshots", "bikes"),
            "bikes_min": ColumnMeaning("Fewest bikes in a snapshot", "bikes"),
            "bikes_max": ColumnMeaning("Most bikes in a snapshot", "bikes"),
            "share_empty": ColumnMeaning("Share of the snapshots without a bike", "share"),
            "share_full": ColumnMeaning(
                "Share of the snapshots without a free dock; 0 where there are no docks or they are unknown", "share"
            ),
            "snapshots": ColumnMeaning("Snapshots that report the station", "snapshots"),
            "snapshots_stale": ColumnMeaning("Of these, with a report more than 1 h old", "snapshots"),
            "first_snapshot": ColumnMeaning("Time of the first of them"),
            "last_snapshot": ColumnMeaning("Time of the last of them"),
            "dt": ColumnMeaning("The day: calendar date in Europe/Warsaw"),
        },
        ("wrm_stations_only",),
    ),
    "bike_density_spatial_analysis": TableMeaning(
        "Bikes per cell of 1000 m² inside the service area, for one day. Only cells that held a bike.",
        "bike_density_spatial_analysis",
        {
            "cell_x": ColumnMeaning("Cells east of the area's south-west corner", "cells"),
            "cell_y": ColumnMeaning("Cells north of the area's south-west corner", "cells"),
            "south": ColumnMeaning("Latitude of the southern edge, WGS84", "deg"),
            "west": ColumnMeaning("Longitude of the western edge, WGS84", "deg"),
            "north": ColumnMeaning("Latitude of the northern edge, WGS84", "deg"),
            "east": ColumnMeaning("Longitude of the eastern edge, WGS84", "deg"),
            "bikes_mean": ColumnMeaning("Mean bikes over the day's snapshots", "bikes"),
            "bikes_max": ColumnMeaning("Most bikes in one snapshot", "bikes"),
            "stations": ColumnMeaning("Stations in the newest snapshot", "stations"),
            "density_per_km2": ColumnMeaning("Mean bikes per square kilometre", "bikes/km²"),
            "dt": ColumnMeaning("The day: calendar date in Europe/Warsaw"),
        },
        ("wrm_stations_enhanced_data",),
    ),
    "catalog_tables": TableMeaning(
        "This catalog: every asset, and every table and view of this schema.",
        "data_catalog",
        _plain(_TABLE_COLUMNS),
    ),
    "catalog_columns": TableMeaning(
        "This catalog: every column of every table and view of this schema.",
        "data_catalog",
        _plain(_COLUMN_COLUMNS),
    ),
    **{
        view.name: _meaning(
            "create_materialized_views", f"{view.description} {view.formula} {view.limits}", view.columns
        )
        for view in MATERIALIZED_VIEWS
    },
    **{table.name: _meaning("data_quality", table.description, table.columns) for table in QUALITY_TABLES},
}


@dataclass(frozen=True, slots=True)
class Catalog:
    """Both tables, and the comments for the database.

    Attributes:
        tables: `TABLES_SCHEMA`.
        columns: `COLUMNS_SCHEMA`.
        undescribed: Tables and columns that no definition describes, as `table` or `table.column`.
    """

    tables: pa.Table
    columns: pa.Table
    undescribed: tuple[str, ...]


def build_catalog(
    found: Sequence[FoundTable], assets: Sequence[AssetFacts], meanings: Mapping[str, TableMeaning]
) -> Catalog:
    """Put together what the database holds and what the definitions say."""
    by_asset = {asset.name: asset for asset in assets}
    tables, columns, undescribed = [], [], []
    for table in sorted(found, key=lambda one: one.name):
        meaning = meanings.get(table.name)
        maker = by_asset.get(meaning.asset) if meaning else None
        if meaning is None or not meaning.description:
            undescribed.append(table.name)
        tables.append(
            {
                "kind": table.kind,
                "name": table.name,
                "description": meaning.description if meaning else "",
                "layer": maker.layer if maker else "",
                "owner": maker.owner if maker else "",
                "asset": meaning.asset if meaning else "",
                "sources": ", ".join(meaning.sources or (maker.sources if maker else ())) if meaning else "",
                "refreshed_at": table.refreshed_at or (maker.refreshed_at if maker else None),
                "newest_dt": table.newest_dt,
                "row_count": table.row_count,
                "rows_counted": "newest day" if table.of_newest_day else "whole table",
                "place": f"wrm_analytics.{table.name}",
            }
        )
        for position, column in enumerate(table.columns, start=1):
            said = meaning.columns.get(column.name) if meaning else None
            if said is None or not said.description:
                undescribed.append(f"{table.name}.{column.name}")
            sources = maker.column_sources.get(column.name, ()) if maker and maker.name == table.name else ()
            columns.append(
                {
                    "table_name": table.name,
                    "position": position,
                    "column_name": column.name,
                    "type": column.type,
                    "unit": said.unit if said else "",
                    "nullable": column.nullable,
                    "description": said.description if said else "",
                    "sources": ", ".join(sources),
                    "samples": " | ".join(column.samples),
                }
            )
    tables += [
        {
            "kind": "asset",
            "name": asset.name,
            "description": asset.description,
            "layer": asset.layer,
            "owner": asset.owner,
            "asset": asset.name,
            "sources": ", ".join(asset.sources),
            "refreshed_at": asset.refreshed_at,
            "newest_dt": asset.newest_dt,
            "row_count": None,
            "rows_counted": "",
            "place": asset.place,
        }
        for asset in sorted(assets, key=lambda one: one.name)
    ]
    undescribed += [asset.name for asset in assets if not asset.description]
    # The catalog's own tables were counted before they were filled.
    lengths = {"catalog_tables": len(tables), "catalog_columns": len(columns)}
    for row in tables:
        row["row_count"] = lengths.get(str(row["name"]), row["row_count"])
    return Catalog(
        pa.Table.from_pylist(tables, schema=TABLES_SCHEMA),
        pa.Table.from_pylist(columns, schema=COLUMNS_SCHEMA),
        tuple(undescribed),
    )


def samples(values: Sequence[object]) -> tuple[str, ...]:
    """The first few different values as text, cut to a length that a page can show."""
    texts: dict[str, None] = {}
    for value in values:
        if value is not None and value != "":
            text = f"{value:%Y-%m-%d %H:%M:%S}" if isinstance(value, datetime) else str(value)
            texts[text if len(text) <= SAMPLE_LENGTH else f"{text[: SAMPLE_LENGTH - 1]}…"] = None
        if len(texts) == SAMPLES:
            break
    return tuple(texts)

"""The catalog: a description of every table, view, column and asset, from the registry and the database itself.

The database determines what is listed, the registry what it means. An undescribed column gets an empty description, and
a test fails.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

import pyarrow as pa

from wrm_pipeline.analytics.registry import Table
from wrm_pipeline.analytics.registry.catalog import CATALOG_COLUMNS, CATALOG_TABLES
from wrm_pipeline.analytics.registry.types import table_schema

SAMPLES = 3
SAMPLE_LENGTH = 60


@dataclass(frozen=True, slots=True)
class FoundColumn:
    """A column in the database; `samples` are some of its values as text."""

    name: str
    type: str
    nullable: bool
    samples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FoundTable:
    """A table or view in the database.

    Attributes:
        kind: `table` or `view`.
        row_count: Of the whole table, or of the newest day where `of_newest_day`.
        newest_dt: The newest `dt` in it, if it has that column.
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
    """An asset in Dagster."""

    name: str
    description: str
    layer: str
    owner: str
    sources: tuple[str, ...] = ()
    place: str = ""
    refreshed_at: datetime | None = None
    newest_dt: date | None = None


TABLES_SCHEMA, COLUMNS_SCHEMA = table_schema(CATALOG_TABLES), table_schema(CATALOG_COLUMNS)


@dataclass(frozen=True, slots=True)
class Catalog:
    """Both tables, and the comments for the database.

    Attributes:
        tables: `TABLES_SCHEMA`.
        columns: `COLUMNS_SCHEMA`.
        undescribed: Tables and columns without a description, as `table` or `table.column`.
    """

    tables: pa.Table
    columns: pa.Table
    undescribed: tuple[str, ...]


def build_catalog(
    found: Sequence[FoundTable], assets: Sequence[AssetFacts], registered: Mapping[str, Table]
) -> Catalog:
    """Combine the database's content with the registry's descriptions."""
    by_asset = {asset.name: asset for asset in assets}
    tables, columns, undescribed = [], [], []
    for table in sorted(found, key=lambda one: one.name):
        known = registered.get(table.name)
        maker = by_asset.get(known.asset) if known else None
        if known is None:
            undescribed.append(table.name)
        tables.append(
            {
                "kind": table.kind,
                "name": table.name,
                "description": known.explained if known else "",
                "layer": maker.layer if maker else "",
                "owner": maker.owner if maker else "",
                "asset": known.asset if known else "",
                "sources": ", ".join(known.sources or (maker.sources if maker else ())) if known else "",
                "refreshed_at": table.refreshed_at or (maker.refreshed_at if maker else None),
                "newest_dt": table.newest_dt,
                "row_count": table.row_count,
                "rows_counted": "newest day" if table.of_newest_day else "whole table",
                "place": f"wrm_analytics.{table.name}",
            }
        )
        meanings = {column.name: column for column in known.columns} if known else {}
        for position, column in enumerate(table.columns, start=1):
            meaning = meanings.get(column.name)
            if meaning is None:
                undescribed.append(f"{table.name}.{column.name}")
            columns.append(
                {
                    "table_name": table.name,
                    "position": position,
                    "column_name": column.name,
                    "type": column.type,
                    "unit": meaning.unit if meaning else "",
                    "nullable": column.nullable,
                    "description": meaning.description if meaning else "",
                    "sources": ", ".join(f"{known.columns_from}.{name}" for name in sorted(meaning.sources))
                    if known and meaning
                    else "",
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
    """The first few different values as text, truncated for display."""
    texts: dict[str, None] = {}
    for value in values:
        if value is not None and value != "":
            text = f"{value:%Y-%m-%d %H:%M:%S}" if isinstance(value, datetime) else str(value)
            texts[text if len(text) <= SAMPLE_LENGTH else f"{text[: SAMPLE_LENGTH - 1]}…"] = None
        if len(texts) == SAMPLES:
            break
    return tuple(texts)

"""The catalog's own two tables."""

from wrm_pipeline.analytics.registry.model import Column, Refreshed, Table
from wrm_pipeline.domain import asset_names

CATALOG_TABLES = Table(
    "catalog_tables",
    asset_names.CATALOG,
    "This catalog: every asset, and every table and view of this schema.",
    columns=(
        Column("kind", "VARCHAR", "table, view or asset"),
        Column("name", "VARCHAR", "Name in the schema wrm_analytics, or of the asset"),
        Column("description", "VARCHAR", "Its content and purpose"),
        Column("layer", "VARCHAR", "Its layer, from raw to report"),
        Column("owner", "VARCHAR", "Who is responsible for it"),
        Column("asset", "VARCHAR", "Asset that makes it"),
        Column("sources", "VARCHAR", "Tables, views or assets that it is made from, separated by commas"),
        Column("refreshed_at", "TIMESTAMPTZ", "When it was last made; null if it was never made here"),
        Column("newest_dt", "DATE", "Newest partition in it; null if it has no partitions"),
        Column("row_count", "BIGINT", "Rows, as rows_counted says; null for an asset"),
        Column("rows_counted", "VARCHAR", "Which rows row_count counts: whole table, or newest day"),
        Column("place", "VARCHAR", "Its place in the store or database"),
    ),
    refreshed=Refreshed.EVERY_RUN,
    columns_from="",
)

CATALOG_COLUMNS = Table(
    "catalog_columns",
    asset_names.CATALOG,
    "This catalog: every column of every table and view of this schema.",
    columns=(
        Column("table_name", "VARCHAR", "Table or view in the schema wrm_analytics"),
        Column("position", "INTEGER", "Position among the table's columns, from 1"),
        Column("column_name", "VARCHAR", "Name of the column"),
        Column("type", "VARCHAR", "DuckDB's type"),
        Column("unit", "VARCHAR", "Unit of its numbers; empty if they have none"),
        Column("nullable", "BOOLEAN", "Whether it may be null; a view's columns always may, for DuckDB"),
        Column("description", "VARCHAR", "What it means"),
        Column("sources", "VARCHAR", "Columns that it is made from, as table.column, separated by commas"),
        Column("samples", "VARCHAR", "Some of its values, separated by |"),
    ),
    refreshed=Refreshed.EVERY_RUN,
    columns_from="",
)


CATALOG_OF_ALL = (CATALOG_TABLES, CATALOG_COLUMNS)

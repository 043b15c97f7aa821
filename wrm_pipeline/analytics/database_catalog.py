"""Reads the database's content for the catalog, and writes the catalog's descriptions as comments in the database."""

from collections import defaultdict
from datetime import date, datetime
from typing import TYPE_CHECKING

from wrm_pipeline.analytics.catalog import COLUMNS_SCHEMA, TABLES_SCHEMA, Catalog, FoundColumn, FoundTable, samples
from wrm_pipeline.analytics.database import SCHEMA, query_arrow, write_table
from wrm_pipeline.analytics.sql_text import identifier, literal

if TYPE_CHECKING:
    import duckdb

# Number of rows to take samples from.
_LOOKED_AT = 200

_COLUMNS_SQL = """
SELECT columns.table_name, tables.table_type, columns.column_name, columns.data_type, columns.is_nullable = 'YES'
FROM information_schema.columns AS columns
JOIN information_schema.tables AS tables USING (table_schema, table_name)
WHERE columns.table_schema = ?
ORDER BY columns.table_name, columns.ordinal_position
"""


def existing_tables(connection: "duckdb.DuckDBPyConnection") -> set[str]:
    """Names of the tables and views of the analytics schema."""
    rows = connection.execute(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = ?", [SCHEMA]
    ).fetchall()
    return {name for (name,) in rows}


def existing_columns(connection: "duckdb.DuckDBPyConnection") -> set[str]:
    """Names of the columns of the analytics schema, as `table.column`."""
    sql = "SELECT table_name || '.' || column_name FROM duckdb_columns() WHERE schema_name = ?"
    return {name for (name,) in connection.execute(sql, [SCHEMA]).fetchall()}


def describe_database(connection: "duckdb.DuckDBPyConnection", newest: date | None) -> list[FoundTable]:
    """Every table and view with its columns, size, and sample values.

    Of a view over the Parquet only the day `newest` is read: all of it would be every file of every year. The catalog's
    own two tables are emptied, so that they are in the list from the beginning.
    """
    for name, schema in (("catalog_tables", TABLES_SCHEMA), ("catalog_columns", COLUMNS_SCHEMA)):
        write_table(connection, name, schema.empty_table())
    columns: dict[tuple[str, str], list[tuple[str, str, bool]]] = defaultdict(list)
    for table, kind, column, data_type, nullable in connection.execute(_COLUMNS_SQL, [SCHEMA]).fetchall():
        columns[table, "view" if kind == "VIEW" else "table"].append((column, data_type, nullable))
    refreshed = _refreshed(connection, {table for table, _ in columns})
    return [
        _found_table(connection, table, kind, found, newest if kind == "view" else None, refreshed.get(table))
        for (table, kind), found in columns.items()
    ]


def _found_table(
    connection: "duckdb.DuckDBPyConnection",
    table: str,
    kind: str,
    columns: list[tuple[str, str, bool]],
    newest: date | None,
    refreshed_at: datetime | None,
) -> FoundTable:
    has_dt = any(name == "dt" and data_type == "DATE" for name, data_type, _ in columns)
    only = f" WHERE dt = DATE '{newest}'" if newest and has_dt else ""
    rows = query_arrow(connection, f'FROM {SCHEMA}."{table}"{only} LIMIT {_LOOKED_AT}')
    newest_dt = ", max(dt)" if has_dt and not only else ", NULL"
    counted = query_arrow(
        connection, f'SELECT count(*) AS n{newest_dt} AS dt FROM {SCHEMA}."{table}"{only}'
    ).to_pylist()
    return FoundTable(
        name=table,
        kind=kind,
        columns=tuple(
            FoundColumn(name, data_type, nullable, samples(rows[name].to_pylist()))
            for name, data_type, nullable in columns
        ),
        row_count=counted[0]["n"],
        of_newest_day=bool(only),
        newest_dt=newest if only else counted[0]["dt"],
        refreshed_at=refreshed_at,
    )


def _refreshed(connection: "duckdb.DuckDBPyConnection", tables: set[str]) -> dict[str, datetime]:
    """When each table or view was last refreshed, according to the database itself."""
    found: dict[str, datetime] = {}
    for table, name in (("mv_refreshes", "table_name"), ("view_definitions", "view_name")):
        if table in tables:
            rows = connection.execute(f"SELECT {name}, max(refreshed_at) FROM {SCHEMA}.{table} GROUP BY ALL").fetchall()
            found |= dict(rows)
    return found


def write_catalog(connection: "duckdb.DuckDBPyConnection", catalog: Catalog) -> None:
    """Write both tables, and each description that the database does not have yet as a comment, in one transaction."""
    connection.begin()
    write_table(connection, "catalog_tables", catalog.tables)
    write_table(connection, "catalog_columns", catalog.columns)
    wanted = {
        (row["kind"], identifier(row["name"])): row["description"]
        for row in catalog.tables.to_pylist()
        if row["kind"] != "asset"
    }
    for row in catalog.columns.to_pylist():
        column = f"{identifier(row['table_name'])}.{identifier(row['column_name'])}"
        unit = f" [{row['unit']}]" if row["unit"] else ""
        wanted["column", column] = row["description"] + unit
    # 450 statements take 0.12 s in each run of the analytics; after the first one few are left.
    present = _comments(connection)
    for (kind, name), comment in wanted.items():
        if (present.get((kind, name)) or "") != comment:
            connection.execute(f"COMMENT ON {kind} {SCHEMA}.{name} IS {literal(comment)}")
    connection.commit()


def _comments(connection: "duckdb.DuckDBPyConnection") -> dict[tuple[str, str], str | None]:
    """The comments of the analytics schema, by kind and quoted name."""
    found: dict[tuple[str, str], str | None] = {}
    for kind, name in (("table", "table_name"), ("view", "view_name")):
        sql = f"SELECT {name}, comment FROM duckdb_{kind}s() WHERE schema_name = ?"
        found |= {(kind, identifier(name)): comment for name, comment in connection.execute(sql, [SCHEMA]).fetchall()}
    sql = "SELECT table_name, column_name, comment FROM duckdb_columns() WHERE schema_name = ?"
    for table, column, comment in connection.execute(sql, [SCHEMA]).fetchall():
        found["column", f"{identifier(table)}.{identifier(column)}"] = comment
    return found

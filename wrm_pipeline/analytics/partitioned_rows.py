"""Replaces the rows of one partition in a table, without changing the others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from wrm_pipeline.analytics.database import SCHEMA, AnalyticsDatabaseError, make_way, set_table_aside, write_table
from wrm_pipeline.analytics.registry import TABLES
from wrm_pipeline.analytics.sql_text import identifier, literal

if TYPE_CHECKING:
    import duckdb

PARTITION_KEY = "partition_key"
"""The column with the partition's key in a table whose rows do not contain it themselves."""

_INCOMING = "incoming_rows"


class PartitionRowsError(AnalyticsDatabaseError):
    """The rows do not fit the table, or do not belong to the partition."""


@dataclass(frozen=True, slots=True)
class TableName:
    """A table of the database."""

    schema: str
    name: str

    def __str__(self) -> str:
        return f"{identifier(self.schema)}.{identifier(self.name)}"


@dataclass(frozen=True, slots=True)
class Dimension:
    """The condition for rows of a partition: `expression`, SQL over the columns of a row, is one of `keys`.

    Or it is a time from the first instant of `window` to before the second. Dates, and times without a zone, are in
    the window's zone.
    """

    expression: str
    keys: tuple[str, ...] = ()
    window: tuple[datetime, datetime] | None = None


def check_name(table: TableName, asset: str) -> None:
    """Reject the name of a table or view that another asset of the pipeline makes.

    Raises:
        PartitionRowsError: it is one.
    """
    known = TABLES.get(table.name.lower())
    if table.schema == SCHEMA and known is not None and known.asset != asset:
        raise PartitionRowsError(
            f"{SCHEMA}.{table.name} is made by {known.asset}. Give the asset {asset} another name, or another schema "
            "by its metadata `schema`."
        )


def replace_table(connection: "duckdb.DuckDBPyConnection", table: TableName, rows: pa.Table) -> None:
    """Replace the whole table by these rows."""
    _create_schema(connection, table)
    write_table(connection, table.name, rows, schema=table.schema)


def replace_partition(
    connection: "duckdb.DuckDBPyConnection", table: TableName, rows: pa.Table, dimensions: Sequence[Dimension]
) -> None:
    """Replace the table's rows of a partition by these rows.

    Columns are matched by name. One that the table lacks is added, null in the other partitions; one that the rows lack
    is null in them; if the types of a column differ, it gets one that fits both. A table without the columns of the
    condition is renamed.

    Raises:
        PartitionRowsError: some rows do not belong to the partition, so that the next run would duplicate them.
    """
    connection.register(_INCOMING, rows)
    try:
        _check_rows(connection, table, rows, dimensions)
        _create_schema(connection, table)
        make_way(connection, table.name, "BASE TABLE", schema=table.schema)
        if not _exists(connection, table):
            connection.execute(f"CREATE TABLE {table} AS FROM {_INCOMING}")
            return
        condition = _condition_or_none(connection, str(table), dimensions)
        if condition is None:
            set_table_aside(connection, table.schema, table.name, "it had no rows by partition")
            connection.execute(f"CREATE TABLE {table} AS FROM {_INCOMING}")
            return
        if _columns(connection, f"FROM {table} UNION ALL BY NAME FROM {_INCOMING}") == _columns(
            connection, f"FROM {table}"
        ):
            connection.execute(f"DELETE FROM {table} WHERE {condition}")
            connection.execute(f"INSERT INTO {table} BY NAME FROM {_INCOMING}")
            return
        connection.execute(
            f"CREATE OR REPLACE TABLE {table} AS FROM {table} WHERE ({condition}) IS NOT TRUE "
            f"UNION ALL BY NAME FROM {_INCOMING}"
        )
    finally:
        connection.unregister(_INCOMING)


def select_rows(
    connection: "duckdb.DuckDBPyConnection",
    table: TableName,
    dimensions: Sequence[Dimension],
    columns: Sequence[str] | None = None,
) -> str:
    """The query for the rows of partitions (no dimensions: all), without the added column."""
    chosen = ", ".join(map(identifier, columns)) if columns else "*"
    if not columns and any(each.expression == PARTITION_KEY for each in dimensions):
        chosen = f"* EXCLUDE ({PARTITION_KEY})"
    condition = _condition(connection, str(table), dimensions) if dimensions else "true"
    return f"SELECT {chosen} FROM {table} WHERE {condition}"


def count_rows(connection: "duckdb.DuckDBPyConnection", table: TableName) -> int:
    """The number of rows of a table."""
    row = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    return int(row[0]) if row else 0


def configure(connection: "duckdb.DuckDBPyConnection", options: Mapping[str, Any], field: str) -> None:
    """Set DuckDB's options by name; `field` is their origin, for the message.

    Raises:
        AnalyticsDatabaseError: DuckDB does not accept an option or its value.
    """
    import duckdb

    for name, value in options.items():
        try:
            connection.execute(f"SET {identifier(name)} = {literal(str(value))}")
        except duckdb.Error as error:
            first_line = str(error).splitlines()[0]
            raise AnalyticsDatabaseError(f"{field}: DuckDB does not take {name!r}: {first_line}") from error


def check_options(options: Mapping[str, Any], field: str) -> None:
    """As `configure`, on an empty database.

    Raises:
        AnalyticsDatabaseError: DuckDB does not accept an option or its value.
    """
    import duckdb

    if options:
        with duckdb.connect() as connection:
            configure(connection, options, field)


def _check_rows(
    connection: "duckdb.DuckDBPyConnection", table: TableName, rows: pa.Table, dimensions: Sequence[Dimension]
) -> None:
    import duckdb

    try:
        condition = _condition(connection, _INCOMING, dimensions)
        found = connection.execute(f"SELECT count(*) FROM {_INCOMING} WHERE ({condition}) IS NOT TRUE").fetchone()
    except duckdb.Error as error:
        expressions = ", ".join(each.expression for each in dimensions)
        raise PartitionRowsError(
            f"partition_expr of {table.name} ({expressions}) does not fit what the asset returned, with the columns "
            f"{', '.join(rows.column_names) or 'none'}: {str(error).splitlines()[0]}"
        ) from error
    if found and found[0]:
        raise PartitionRowsError(
            f"{found[0]} of {rows.num_rows} rows for {table.name} are not of the partition that is built: {condition}. "
            "They would be there twice after the next run. Leave them out, or correct the metadata `partition_expr`."
        )


def _condition_or_none(
    connection: "duckdb.DuckDBPyConnection", relation: str, dimensions: Sequence[Dimension]
) -> str | None:
    """The condition; None if the relation lacks its columns."""
    import duckdb

    try:
        return _condition(connection, relation, dimensions)
    except duckdb.BinderException:
        return None


def _condition(connection: "duckdb.DuckDBPyConnection", relation: str, dimensions: Sequence[Dimension]) -> str:
    return " AND ".join(_one_condition(connection, relation, each) for each in dimensions)


def _one_condition(connection: "duckdb.DuckDBPyConnection", relation: str, dimension: Dimension) -> str:
    # A bare name is a column, and may be an SQL keyword ("at", "order").
    alone = dimension.expression.isidentifier()
    expression = identifier(dimension.expression) if alone else f"({dimension.expression})"
    ((_, kind),) = _columns(connection, f"SELECT {expression} AS value FROM {relation}")
    if dimension.window is None:
        keys = ", ".join(literal(key) for key in dimension.keys)
        return f"{expression}::VARCHAR IN ({keys})" if keys else "false"
    if kind == "TIMESTAMP WITH TIME ZONE":
        first, after = (f"TIMESTAMPTZ '{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}+00'" for at in dimension.window)
    else:
        first, after = (f"TIMESTAMP '{at:%Y-%m-%d %H:%M:%S}'" for at in dimension.window)
        if kind == "VARCHAR":
            expression = f"{expression}::TIMESTAMP"
    return f"{expression} >= {first} AND {expression} < {after}"


def _columns(connection: "duckdb.DuckDBPyConnection", query: str) -> list[tuple[str, str]]:
    return [(name, kind) for name, kind, *_ in connection.execute(f"DESCRIBE {query}").fetchall()]


def _exists(connection: "duckdb.DuckDBPyConnection", table: TableName) -> bool:
    sql = (
        "SELECT 1 FROM information_schema.tables WHERE lower(table_schema) = lower(?) AND lower(table_name) = lower(?)"
    )
    return connection.execute(sql, [table.schema, table.name]).fetchone() is not None


def _create_schema(connection: "duckdb.DuckDBPyConnection", table: TableName) -> None:
    connection.execute(f"CREATE SCHEMA IF NOT EXISTS {identifier(table.schema)}")

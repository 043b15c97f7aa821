"""Writes the tables of answers by day: a day's rows replace those that are there, whoever built them."""

from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING

import pyarrow as pa

from wrm_pipeline.analytics.database import SCHEMA, AnalyticsDatabase, make_way
from wrm_pipeline.analytics.refresh import delete_rows
from wrm_pipeline.analytics.registry import Table
from wrm_pipeline.analytics.registry.answers import latest_of
from wrm_pipeline.analytics.registry.types import short_type

if TYPE_CHECKING:
    import duckdb

_PROBE = "wanted_view"


def replace_days(database: AnalyticsDatabase, table: Table, rows: Mapping[date, pa.Table]) -> int:
    """Put these days' rows, with `dt`, in the place of those in the table; the other days stay.

    One refresh of the database, in which the table and the view of its newest day are made where they are missing. A
    table with other columns, of an older release, starts again without rows: its other days can be built again.

    Returns:
        How many rows the table has now, of all days.

    Raises:
        DatabaseLockedError: another refresh did not end in time.
    """
    with database.refresh() as connection:
        connection.begin()
        _create(connection, table)
        for day, found in rows.items():
            delete_rows(connection, [table], day)
            connection.register("incoming_rows", found)
            connection.execute(f"INSERT INTO {SCHEMA}.{table.name} BY NAME FROM incoming_rows")
            connection.unregister("incoming_rows")
        connection.commit()
        ((count,),) = connection.execute(f"SELECT count(*) FROM {SCHEMA}.{table.name}").fetchall()
    return int(count)


def _create(connection: "duckdb.DuckDBPyConnection", table: Table) -> None:
    """The table and its view, unless they are as the registry has them: a new view has lost its comments."""
    make_way(connection, table.name, "BASE TABLE")
    sql = "SELECT column_name, data_type FROM duckdb_columns() WHERE schema_name = ? AND table_name = ?"
    existing = connection.execute(f"{sql} ORDER BY column_index", [SCHEMA, table.name]).fetchall()
    if [(name, short_type(kind)) for name, kind in existing] != [(one.name, one.type) for one in table.columns]:
        connection.execute(f"CREATE OR REPLACE TABLE {SCHEMA}.{table.name} ({table.columns_sql})")
    view = latest_of(table)
    make_way(connection, view.name, "VIEW")
    connection.execute(f"CREATE OR REPLACE TEMP VIEW {_PROBE} AS {view.sql}")
    definitions = dict(
        connection.execute(
            "SELECT view_name, regexp_replace(sql, '^.*? AS ', '') FROM duckdb_views() WHERE view_name IN (?, ?)",
            [_PROBE, view.name],
        ).fetchall()
    )
    connection.execute(f"DROP VIEW {_PROBE}")
    if definitions.get(view.name) != definitions[_PROBE]:
        connection.execute(f"CREATE OR REPLACE VIEW {SCHEMA}.{view.name} AS {view.sql}")

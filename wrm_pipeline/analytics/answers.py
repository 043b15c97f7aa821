"""Writes tables of answers: a day's rows, or all rows, replace the existing ones, whichever run built them."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING

import pyarrow as pa

from wrm_pipeline.analytics.database import SCHEMA, AnalyticsDatabase, make_way
from wrm_pipeline.analytics.refresh import delete_rows, insert_rows, with_other_columns
from wrm_pipeline.analytics.registry import Table
from wrm_pipeline.analytics.registry.answers import latest_of

if TYPE_CHECKING:
    import duckdb

_PROBE = "wanted_view"


def replace_days(database: AnalyticsDatabase, table: Table, rows: Mapping[date, pa.Table]) -> int:
    """Replace the rows of these days, which have `dt`; the other days stay.

    One refresh of the database, which also creates the table and the view of its newest day if they are missing. A
    table with other columns, from an older release, starts again without rows: its other days can be built again.

    Returns:
        The number of rows in the table, of all days.

    Raises:
        DatabaseLockedError: another refresh did not end in time.
    """
    with database.refresh() as connection:
        connection.begin()
        _create(connection, table)
        for day, found in rows.items():
            delete_rows(connection, [table], day)
            insert_rows(connection, table, found)
        connection.commit()
        ((count,),) = connection.execute(f"SELECT count(*) FROM {SCHEMA}.{table.name}").fetchall()
    return int(count)


def replace_whole(
    database: AnalyticsDatabase,
    table: Table,
    rows: pa.Table,
    *,
    beside: Sequence[Table] = (),
    derived: Sequence[tuple[Table, str, pa.Table]] = (),
) -> None:
    """Replace all rows of a table, in one refresh of the database.

    The table is created if it is missing, and so are daily tables `beside` it that get their rows from other runs: a
    query of them finds no rows, instead of no table.

    Raises:
        DatabaseLockedError: another refresh did not end in time.
    """
    with database.refresh() as connection:
        connection.begin()
        for other in beside:
            _create(connection, other)
        _create_table(connection, table)
        delete_rows(connection, [table], None)
        insert_rows(connection, table, rows)
        for other, name, given in derived:
            _create_table(connection, other)
            delete_rows(connection, [other], None)
            connection.register(name, given)
            connection.execute(f"INSERT INTO {SCHEMA}.{other.name} {other.local_sql}")
            connection.unregister(name)
        connection.commit()


def _create_table(connection: "duckdb.DuckDBPyConnection", table: Table) -> None:
    make_way(connection, table.name, "BASE TABLE")
    if with_other_columns(connection, [table]):
        connection.execute(f"CREATE OR REPLACE TABLE {SCHEMA}.{table.name} ({table.columns_sql})")


def _create(connection: "duckdb.DuckDBPyConnection", table: Table) -> None:
    """Create table and view unless they match the registry: a new view would lose its comments."""
    _create_table(connection, table)
    view = latest_of(table)
    make_way(connection, view.name, "VIEW")
    connection.execute(f"CREATE OR REPLACE TEMP VIEW {_PROBE} AS {view.local_sql}")
    definitions = dict(
        connection.execute(
            "SELECT view_name, regexp_replace(sql, '^.*? AS ', '') FROM duckdb_views() WHERE view_name IN (?, ?)",
            [_PROBE, view.name],
        ).fetchall()
    )
    connection.execute(f"DROP VIEW {_PROBE}")
    if definitions.get(view.name) != definitions[_PROBE]:
        connection.execute(f"CREATE OR REPLACE VIEW {SCHEMA}.{view.name} AS {view.local_sql}")

"""Tables and views in an open database: whose they are, how they are replaced, and how they are read."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from wrm_pipeline.analytics.database_files import DamagedDatabaseError, reported
from wrm_pipeline.analytics.enhanced_views import ViewSet
from wrm_pipeline.analytics.registry.model import SCHEMA
from wrm_pipeline.analytics.registry.views import VIEW_DEFINITIONS
from wrm_pipeline.analytics.sql_text import identifier

if TYPE_CHECKING:
    import duckdb

# A macro that identifies a database of this pipeline.
_SIGNATURE = "written_by"
# The table of the views' SQL.
_DEFINITIONS = VIEW_DEFINITIONS.name


def sign(connection: "duckdb.DuckDBPyConnection") -> None:
    """Mark an empty database as one of this pipeline; others are not changed."""
    if not _holds_tables(connection):
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
        connection.execute(f"CREATE MACRO IF NOT EXISTS {SCHEMA}.{_SIGNATURE}() AS 'wrm_pipeline'")


def is_ours(connection: "duckdb.DuckDBPyConnection") -> bool:
    """Whether a database was created by this pipeline, or is empty.

    Databases from before the signature are recognized by the pipeline's bookkeeping tables.
    """
    signed = connection.execute(
        "SELECT 1 FROM duckdb_functions() WHERE schema_name = ? AND function_name = ?", [SCHEMA, _SIGNATURE]
    ).fetchone()
    return signed is not None or not _holds_tables(connection) or stored_views(connection) != {}


def _holds_tables(connection: "duckdb.DuckDBPyConnection") -> bool:
    return connection.execute("SELECT 1 FROM information_schema.tables LIMIT 1").fetchone() is not None


def stored_views(connection: "duckdb.DuckDBPyConnection") -> dict[str, str]:
    """The definitions that `create_views` has stored, by name; empty for a database without ours."""
    columns = connection.execute(
        "SELECT column_name FROM information_schema.columns WHERE table_schema = ? AND table_name = ?",
        [SCHEMA, _DEFINITIONS],
    ).fetchall()
    if not {("view_name",), ("definition",)} <= set(columns):
        return {}
    rows: Sequence[tuple[str, str]] = connection.execute(
        f"SELECT view_name, definition FROM {SCHEMA}.{_DEFINITIONS}"
    ).fetchall()
    return dict(rows)


def make_way(
    connection: "duckdb.DuckDBPyConnection",
    name: str,
    kind: Literal["VIEW", "BASE TABLE"],
    columns: Sequence[str] | None = None,
    schema: str = SCHEMA,
) -> None:
    """Rename an object with the name of one of ours but of another kind, or without these columns (None: any).

    Raises:
        DamagedDatabaseError: it cannot be renamed, as other objects depend on it.
    """
    rows = connection.execute(
        "SELECT table_type, column_name FROM information_schema.tables JOIN information_schema.columns "
        "USING (table_catalog, table_schema, table_name) WHERE table_schema = ? AND lower(table_name) = lower(?)",
        [schema, name],
    ).fetchall()
    if not rows or (rows[0][0] == kind and columns is None):
        return
    if rows[0][0] == kind and {column for _, column in rows} == set(columns or ()):
        return
    reason = f"it was not the pipeline's {kind.lower()} of that name"
    set_table_aside(connection, schema, name, reason, is_view=rows[0][0] == "VIEW")


def set_table_aside(
    connection: "duckdb.DuckDBPyConnection", schema: str, name: str, reason: str, *, is_view: bool = False
) -> None:
    """Rename a table or view to `…_before_<time>`.

    Raises:
        DamagedDatabaseError: other objects depend on it.
    """
    import duckdb

    other = "VIEW" if is_view else "TABLE"
    aside = f"{name}_before_{datetime.now(UTC):%Y%m%d_%H%M%S_%f}"
    try:
        old = f"{identifier(schema)}.{identifier(name)}"
        connection.execute(f"ALTER {other} {old} RENAME TO {identifier(aside)}")
    except duckdb.Error as error:
        raise DamagedDatabaseError(
            f"{schema}.{name} is another {other.lower()} than this pipeline makes and cannot be renamed: "
            f"{str(error).splitlines()[0]}"
        ) from error
    reported(f"{schema}.{name} is now {schema}.{aside}: {reason}")


def create_views(connection: "duckdb.DuckDBPyConnection", views: ViewSet, *, refreshed_at: datetime) -> None:
    """Create or replace the views and store their definitions, in one transaction."""
    connection.begin()
    ours = stored_views(connection)
    for name, definition in views.definitions.items():
        make_way(connection, name, "VIEW", None if name in ours else ())
        connection.execute(f"CREATE OR REPLACE VIEW {SCHEMA}.{name} AS {definition}")
    make_way(connection, _DEFINITIONS, "BASE TABLE")
    connection.execute(f"CREATE OR REPLACE TABLE {SCHEMA}.{_DEFINITIONS} ({VIEW_DEFINITIONS.columns_sql})")
    connection.executemany(
        f"INSERT INTO {SCHEMA}.{_DEFINITIONS} VALUES (?, ?, ?)",
        [[name, definition, refreshed_at] for name, definition in views.definitions.items()],
    )
    connection.commit()


def write_table(connection: "duckdb.DuckDBPyConnection", name: str, rows: pa.Table, *, schema: str = SCHEMA) -> None:
    """Create or replace a table of a schema from Arrow data."""
    make_way(connection, name, "BASE TABLE", schema=schema)
    connection.register("incoming_rows", rows)
    connection.execute(f"CREATE OR REPLACE TABLE {identifier(schema)}.{identifier(name)} AS FROM incoming_rows")
    connection.unregister("incoming_rows")


def query_arrow(connection: "duckdb.DuckDBPyConnection", sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
    """Run a query, and again if a Parquet object was replaced while it was read.

    httpfs notices a changed ETag and fails rather than mix two versions. For a local file DuckDB reads the footer, and
    opens the file again for the rows: what it then finds at the old offsets is garbage.
    """
    import duckdb

    for wait_s in _READ_AGAIN_AFTER_S:
        try:
            return connection.execute(sql, list(parameters)).to_arrow_table()
        except duckdb.Error as error:
            if not _was_replaced(error):
                raise
        time.sleep(wait_s)
    return connection.execute(sql, list(parameters)).to_arrow_table()


# A build replaces a day's file once a minute, or one file after another while old days are built again.
_READ_AGAIN_AFTER_S = (0.0, 0.02, 0.1, 0.5)


def _was_replaced(error: "duckdb.Error") -> bool:
    """Whether an error may come from a Parquet object that was replaced, or removed, while it was read.

    Locally it shows in many ways (a read outside the file, an unknown page type, a checksum), so this is any error that
    is neither the query's own fault nor an answer of the store.
    """
    import duckdb

    text = str(error)
    if isinstance(error, duckdb.HTTPException):
        return "ETag" in text
    if isinstance(error, duckdb.IOException):
        return not any(known in text for known in ("No files found", "Could not set lock", "Corrupt database file"))
    # ProgrammingError: parser, binder, catalog; the others are about values, memory, permissions, and cancellation.
    others = (duckdb.ProgrammingError, duckdb.DataError, duckdb.OutOfMemoryException, duckdb.PermissionException)
    return not isinstance(error, (*others, duckdb.InterruptException, duckdb.NotSupportedError, duckdb.IntegrityError))

"""Archive and analysis of a city's bike-share system as a Dagster code location; made for Wrocław's (WRM)."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import duckdb


def open_database(path: "str | Path | None" = None) -> "duckdb.DuckDBPyConnection":
    """Open the analytics database read-only, as it is now: an ordinary DuckDB connection, for the caller to close.

    Unlike a second `duckdb.connect()` in a process that has an older file open, this gives the newest one. Tables are
    in the schema `wrm_analytics`, and found without naming it; temporary ones of your own are possible.

    Args:
        path: The database; without it `analytics.duckdb` in WRM_DATA_DIR, and the environment's keys for the bucket, so
            that the views work on S3, too.

    Raises:
        AnalyticsDatabaseError: there is no database yet, or it cannot be read; the message says what to do.
    """
    from pathlib import Path

    from wrm_pipeline.analytics.database import AnalyticsDatabase

    if path is not None:
        return _found_by_name(AnalyticsDatabase(Path(path)).open())

    from wrm_pipeline.settings import load_settings

    settings = load_settings()
    if settings.bucket_name is None and settings.vault_addr is None:
        return _found_by_name(AnalyticsDatabase(settings.database_path).open())

    from wrm_pipeline.resources.lake import s3_access  # a second of Dagster

    return _found_by_name(AnalyticsDatabase(settings.database_path, s3_access(settings)).open())


def _found_by_name(connection: "duckdb.DuckDBPyConnection") -> "duckdb.DuckDBPyConnection":
    """The connection, on which tables and views need no schema before their names."""
    from wrm_pipeline.analytics.sql_text import identifier, literal

    sql = "SELECT catalog_name FROM information_schema.schemata WHERE schema_name = 'wrm_analytics'"
    for (name,) in connection.execute(sql).fetchall():
        catalog = identifier(name)
        connection.execute(f"SET search_path = {literal(f'{catalog}.wrm_analytics,{catalog}.main')}")
    return connection

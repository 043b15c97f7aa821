"""Finds what the next refresh of the database would move aside; read-only."""

import os
from pathlib import Path

from wrm_pipeline.analytics.database import AnalyticsDatabase, DamagedDatabaseError, is_ours
from wrm_pipeline.analytics.database_files import logs_beside, no_place


def obstacle_to(database: AnalyticsDatabase) -> str:
    """What would be moved aside and why, as a sentence without a full stop; empty if nothing would be.

    A database that another process has open for writing is not opened.
    """
    import duckdb

    path = database.path
    reason = no_place(path)
    home = path if reason else Path(os.path.realpath(path))
    for log in (*logs_beside(path), *logs_beside(home)):
        return f"{log} would be moved aside: someone opened the database for writing and did not close it"
    if reason or not home.exists():
        return f"{path} would be moved aside: {reason}" if reason else ""
    try:
        with database.reading(heal=False) as connection:
            reason = "" if is_ours(connection) else "it contains tables and was not created by this pipeline"
    except DamagedDatabaseError:
        reason = "it is not a database that can be read"
    except duckdb.IOException:
        return ""
    return f"{path} would be moved aside: {reason}" if reason else ""

"""What the next refresh of the database would find in its place and move aside; looks, and changes nothing."""

import os
from pathlib import Path

from wrm_pipeline.analytics.database import AnalyticsDatabase, DamagedDatabaseError, is_ours
from wrm_pipeline.analytics.database_files import logs_beside, no_place


def obstacle_to(database: AnalyticsDatabase) -> str:
    """What would be moved aside and why, as a sentence without its end; empty if nothing would.

    A database that another process has open for writing is not looked into.
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
            reason = "" if is_ours(connection) else "it holds tables and was not made by this pipeline"
    except DamagedDatabaseError:
        reason = "it is not a database that can be read"
    except duckdb.IOException:
        return ""
    return f"{path} would be moved aside: {reason}" if reason else ""

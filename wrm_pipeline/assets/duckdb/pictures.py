"""Charts of the tables for Dagster's UI: the day, and its quality."""

from datetime import date, timedelta
from typing import TYPE_CHECKING

import dagster as dg

from wrm_pipeline.analytics.database import SCHEMA
from wrm_pipeline.assets.presentation import picture
from wrm_pipeline.report.plots import bar_chart, line_chart

if TYPE_CHECKING:
    import duckdb

QUALITY_DAYS = 28

_DAY_SQL = f"""
SELECT local_hour, (bikes_at_stations_mean + free_bikes_mean)::DOUBLE, stations_empty_mean::DOUBLE,
       stations_full_mean::DOUBLE
FROM {SCHEMA}.mv_city_hourly WHERE dt = ? ORDER BY hour_start
"""

_QUALITY_SQL = f"""
SELECT dt, 100.0::DOUBLE * dead_lettered / nullif(lines_in, 0)
FROM {SCHEMA}.quality_accounting WHERE dt BETWEEN ? AND ? ORDER BY dt
"""


def day_picture(connection: "duckdb.DuckDBPyConnection", day: date) -> dg.MarkdownMetadataValue:
    """Bikes out, empty and full stations by hour.

    The feed does not contain the number of bikes in use: `out` is the highest number parked in any hour of the day
    minus those parked in this one, so bikes that the operator removes count as out, too.
    """
    rows = connection.execute(_DAY_SQL, [day]).fetchall()
    most = max((parked for _, parked, *_ in rows if parked is not None), default=0)
    svg = line_chart(
        f"{day}: bikes out, empty and full stations by local hour",
        [f"{hour:02}" for hour, *_ in rows],
        {
            "bikes out (estimate)": [None if parked is None else round(most - parked, 1) for _, parked, *_ in rows],
            "stations empty": [row[2] for row in rows],
            "stations full": [row[3] for row in rows],
        },
    )
    return picture(svg, f"Bikes out, empty and full stations by hour on {day}")


def quality_picture(connection: "duckdb.DuckDBPyConnection", newest: date) -> dg.MarkdownMetadataValue:
    """Share of lines that are dead letters, for the last four weeks; a day without data has no bar."""
    first = newest - timedelta(days=QUALITY_DAYS - 1)
    shares = dict(connection.execute(_QUALITY_SQL, [first, newest]).fetchall())
    days = [first + timedelta(days=n) for n in range(QUALITY_DAYS)]
    title = f"Lines that are dead letters, % by day, to {newest}"
    return picture(bar_chart(title, [f"{day:%m-%d}" for day in days], [shares.get(day) for day in days]), title)

"""The daily tables: a summary of each station, and where the bikes were.

A table contains the days that runs of its asset have built; its view, the newest of them.
"""

from dataclasses import replace

from wrm_pipeline.analytics.registry.columns import EMPTY, FULL
from wrm_pipeline.analytics.registry.local_time import ZONE
from wrm_pipeline.analytics.registry.model import SCHEMA, Column, Refreshed, Table
from wrm_pipeline.domain import asset_names
from wrm_pipeline.domain.full_and_empty import EMPTY_SQL, FULL_SQL, IN_WORDS

STATION_SUMMARY = Table(
    "query_station_summary",
    asset_names.STATION_SUMMARY,
    "One row per station and day: bikes at its end (today: now), mean, fewest and most, and how often it was empty or "
    "full.",
    columns=(
        Column("station_id", "VARCHAR", "Station number", sources=("station_id",)),
        Column("name", "VARCHAR", "Its name in the day's newest snapshot", sources=("name", "file_timestamp")),
        Column("lat", "DOUBLE", "Latitude, WGS84", "deg", ("lat", "file_timestamp")),
        Column("lon", "DOUBLE", "Longitude, WGS84", "deg", ("lon", "file_timestamp")),
        Column(
            "total_docks",
            "INTEGER",
            "Total docks in the newest snapshot; may be 0; null where unknown",
            "docks",
            ("total_docks", "file_timestamp"),
        ),
        Column("bikes_latest", "INTEGER", "Bikes in the newest snapshot", "bikes", ("bikes", "file_timestamp")),
        Column(
            "spaces_latest",
            "INTEGER",
            "Free docks in the newest snapshot; null where unknown",
            "docks",
            ("spaces", "file_timestamp"),
        ),
        Column("bikes_mean", "DOUBLE", "Mean bikes over the day's snapshots", "bikes", ("bikes",)),
        Column("bikes_min", "INTEGER", "Fewest bikes in a snapshot", "bikes", ("bikes",)),
        Column("bikes_max", "INTEGER", "Most bikes in a snapshot", "bikes", ("bikes",)),
        Column("share_empty", "DOUBLE", "Share of the snapshots in which it was empty", "share", EMPTY),
        Column("share_full", "DOUBLE", "Share of the snapshots in which it was full", "share", FULL),
        Column("snapshots", "BIGINT", "Snapshots that report the station", "snapshots", ("file_timestamp",)),
        Column("snapshots_stale", "BIGINT", "Of these, with a report more than 1 h old", "snapshots", ("stale",)),
        Column("first_snapshot", "TIMESTAMPTZ", "Time of the first of them", sources=("file_timestamp",)),
        Column("last_snapshot", "TIMESTAMPTZ", "Time of the last of them", sources=("file_timestamp",)),
        Column("dt", "DATE", "The day: the city's calendar date", sources=("dt",)),
    ),
    refreshed=Refreshed.BY_PARTITION,
    formula=IN_WORDS,
    # Shares are of the day's snapshots that report the station; the parameter is the day.
    sql=f"""
SELECT
    station_id,
    arg_max(name, file_timestamp) AS name,
    arg_max(lat, file_timestamp) AS lat,
    arg_max(lon, file_timestamp) AS lon,
    arg_max(total_docks, file_timestamp) AS total_docks,
    arg_max(bikes, file_timestamp) AS bikes_latest,
    arg_max(spaces, file_timestamp) AS spaces_latest,
    round(avg(bikes), 2) AS bikes_mean,
    min(bikes) AS bikes_min,
    max(bikes) AS bikes_max,
    round(avg({EMPTY_SQL}::INT), 4) AS share_empty,
    round(avg({FULL_SQL}::INT), 4) AS share_full,
    count(*) AS snapshots,
    count(*) FILTER (stale) AS snapshots_stale,
    min(file_timestamp) AS first_snapshot,
    max(file_timestamp) AS last_snapshot,
    any_value(dt) AS dt
FROM {SCHEMA}.wrm_stations_only
WHERE dt = CAST(? AS DATE)
GROUP BY station_id
ORDER BY station_id
""",
    sources=("wrm_stations_only",),
)

DENSITY_CELLS = Table(
    "bike_density_spatial_analysis",
    asset_names.DENSITY,
    "Bikes per cell of 1000 m² inside the service area, by day. Only cells that held a bike.",
    columns=(
        Column("cell_x", "INTEGER", "Cells east of the area's south-west corner", "cells", ("lat", "lon")),
        Column("cell_y", "INTEGER", "Cells north of the area's south-west corner", "cells", ("lat", "lon")),
        Column("south", "DOUBLE", "Latitude of the southern edge, WGS84", "deg", ("lat", "lon")),
        Column("west", "DOUBLE", "Longitude of the western edge, WGS84", "deg", ("lat", "lon")),
        Column("north", "DOUBLE", "Latitude of the northern edge, WGS84", "deg", ("lat", "lon")),
        Column("east", "DOUBLE", "Longitude of the eastern edge, WGS84", "deg", ("lat", "lon")),
        Column(
            "bikes_mean",
            "DOUBLE",
            "Mean bikes over the day's snapshots",
            "bikes",
            ("lat", "lon", "bikes", "file_timestamp"),
        ),
        Column("bikes_max", "BIGINT", "Most bikes in one snapshot", "bikes", ("lat", "lon", "bikes", "file_timestamp")),
        Column("stations", "BIGINT", "Stations in the newest snapshot", "stations", ("record_type", "lat", "lon")),
        Column(
            "density_per_km2",
            "DOUBLE",
            "Mean bikes per square kilometre",
            "bikes/km²",
            ("lat", "lon", "bikes", "file_timestamp"),
        ),
        Column("dt", "DATE", "The day: the city's calendar date", sources=("dt",)),
    ),
    refreshed=Refreshed.BY_PARTITION,
    sources=("wrm_stations_enhanced_data",),
)


def latest_of(table: Table) -> Table:
    """The view of the newest day in a table of answers: `<table>_latest`."""
    name = f"{SCHEMA}.{table.name}"
    return replace(
        table,
        name=f"{table.name}_latest",
        description=f"The rows of the newest day in {table.name}.",
        refreshed=Refreshed.OF_TABLE,
        # A future day was published while a clock was ahead.
        sql=f"SELECT * FROM {name} WHERE dt = (SELECT max(dt) FROM {name} "
        f"WHERE dt <= CAST(timezone('{ZONE}', now()) AS DATE))",
        sources=(table.name,),
    )


ANSWERS = tuple(each for table in (STATION_SUMMARY, DENSITY_CELLS) for each in (table, latest_of(table)))

"""The inputs of a day's tables: the columns that are read, and temporary tables in between.

The SQL of a day reads `day_rows` (the day's enhanced rows with `dt`) and the tables of STAGING_SQL. Means are rounded
to two decimals and shares to four, which DuckDB stores in 2 bytes each instead of 8.
"""

from collections.abc import Mapping
from types import MappingProxyType

from wrm_pipeline.analytics.registry.local_time import hour_of
from wrm_pipeline.domain.full_and_empty import EMPTY_SQL, FULL_SQL

# After a longer gap, a change in a station's bikes cannot be assigned to the hour in which it is seen.
MAX_STEP_MINUTES = 15
# A parked bike's position drifts by tens of metres; within this distance it has not moved.
SAME_PLACE_M = 100
# A bike that is missing for no longer than this has not been ridden: the feed occasionally omits bikes.
FLICKER_MINUTES = 5
# From one free-standing place to another; a longer gap means two journeys with an unseen stop.
MAX_RIDE_HOURS = 2
# The columns that a day's tables are made from.
SOURCE_COLUMNS = (
    "station_id",
    "name",
    "timestamp",
    "lat",
    "lon",
    "bikes",
    "spaces",
    "total_docks",
    "battery_pct",
    "pedelecs",
    "file_timestamp",
    "record_type",
    "over_capacity",
    "no_docks",
    "outside_service_area",
    "stale",
    "count_capped",
)


def metres(lat: str, lon: str, other_lat: str, other_lon: str) -> str:
    """Great-circle distance as SQL (haversine, radius 6,371 km)."""
    return (
        f"(2 * 6371000 * asin(sqrt(least(1, sin(radians({other_lat} - {lat}) / 2) ** 2 + cos(radians({lat})) "
        f"* cos(radians({other_lat})) * sin(radians({other_lon} - {lon}) / 2) ** 2))))"
    )


# Temporary tables that a day's SQL reads, in the order in which they are made.
STAGING_SQL: Mapping[str, str] = MappingProxyType(
    {
        # The day's snapshots, numbered, with totals of each.
        "day_snapshots": f"""
SELECT
    dt,
    file_timestamp,
    {hour_of("file_timestamp")} AS hour_start,
    row_number() OVER (ORDER BY file_timestamp) AS number,
    count(*) AS rows,
    sum(bikes) FILTER (record_type = 'station') AS bikes,
    count(*) FILTER (record_type = 'bike' AND NOT outside_service_area) AS free_bikes,
    count(*) FILTER (record_type = 'station') AS stations,
    count(*) FILTER (record_type = 'station' AND {EMPTY_SQL}) AS stations_empty,
    count(*) FILTER (record_type = 'station' AND {FULL_SQL}) AS stations_full
FROM day_rows GROUP BY dt, file_timestamp
""",
        # Where and when each free-standing bike stood. A stay ends when the bike is next seen elsewhere, or is missing
        # from a snapshot and for longer than a flicker of the feed.
        "day_stays": f"""
WITH seen AS (
    SELECT dt, station_id AS bike_id, lat, lon, file_timestamp, number
    FROM day_rows JOIN day_snapshots USING (dt, file_timestamp) WHERE record_type = 'bike'
), steps AS (
    SELECT *, coalesce(
        (lat, lon) IS DISTINCT FROM (lag(lat) OVER one, lag(lon) OVER one)
            AND {metres("lat", "lon", "lag(lat) OVER one", "lag(lon) OVER one")} > {SAME_PLACE_M}
        OR number - lag(number) OVER one > 1
            AND file_timestamp - lag(file_timestamp) OVER one > INTERVAL {FLICKER_MINUTES} MINUTES,
        true) AS begins
    FROM seen WINDOW one AS (PARTITION BY bike_id ORDER BY file_timestamp)
), numbered AS (
    SELECT *, sum(begins::INTEGER) OVER (PARTITION BY bike_id ORDER BY file_timestamp) AS stay FROM steps
)
SELECT
    dt, bike_id, stay,
    min(file_timestamp) AS first_seen,
    arg_min(lat, file_timestamp) AS first_lat, arg_min(lon, file_timestamp) AS first_lon,
    max(file_timestamp) AS last_seen,
    arg_max(lat, file_timestamp) AS last_lat, arg_max(lon, file_timestamp) AS last_lon
FROM numbered GROUP BY dt, bike_id, stay
""",
    }
)

OF_SNAPSHOTS = (
    "Means and shares are over the snapshots that were taken, not over time: missing snapshots are ignored. A station "
    "that no longer reports is counted with its last report (flag `stale`)."
)

STAYS = (
    f"A stay lasts while the bike is seen within {SAME_PLACE_M} m of where it was seen before, and is missing from "
    f"snapshots for {FLICKER_MINUTES} minutes at most"
)

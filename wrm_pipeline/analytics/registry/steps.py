"""A station's day in steps of five minutes: what the report replays."""

from wrm_pipeline.analytics.registry.columns import DT, LAT, LON, STATION_ID
from wrm_pipeline.analytics.registry.local_time import ZONE
from wrm_pipeline.analytics.registry.model import Column, Refreshed, Table
from wrm_pipeline.domain import asset_names

STEP_MINUTES = 5
# A week, and the day that goes on: 258 stations are 75,000 counts a day, and every refresh copies the database.
KEPT_DAYS = 8

MV_STATION_STEPS = Table(
    "mv_station_steps",
    asset_names.MATERIALIZED_VIEWS,
    f"A station's day in steps of {STEP_MINUTES} minutes; one row per station, for the newest {KEPT_DAYS} days.",
    columns=(
        DT,
        STATION_ID,
        Column("name", "VARCHAR", "Name of the station at the end of the day", sources=("name",)),
        LAT,
        LON,
        Column("total_docks", "INTEGER", "Most docks on that day; may be 0; null where unknown", "docks"),
        Column(
            "bikes",
            "INTEGER[]",
            f"Bikes by step of {STEP_MINUTES} minutes, from the beginning of the day; null if unknown",
            "bikes",
            ("bikes", "file_timestamp"),
        ),
    ),
    key=("dt", "station_id"),
    refreshed=Refreshed.BY_DAY,
    formula=(
        f"bikes[1] is the count in the last snapshot of the day's first {STEP_MINUTES} minutes, bikes[2] of the next, "
        "up to the day's last snapshot: 288 of them, 276 or 300 when clocks change. A step without a snapshot of the "
        "station has the count of the step before, or of the one before that."
    ),
    limits="What happens within a step is not seen. lat and lon are those at the end of the day.",
    sql=f"""
WITH reports AS (
    SELECT
        *, ((epoch_ms(file_timestamp) - epoch_ms((SELECT timezone('{ZONE}', any_value(dt)::TIMESTAMP) FROM day_rows)))
            // {STEP_MINUTES * 60_000})::INTEGER AS step
    FROM day_rows WHERE record_type = 'station'
), seen AS (
    SELECT station_id, step, arg_max(bikes, file_timestamp) AS bikes FROM reports GROUP BY station_id, step
), places AS (
    SELECT
        dt, station_id, arg_max(name, file_timestamp) AS name, arg_max(lat, file_timestamp) AS lat,
        arg_max(lon, file_timestamp) AS lon, max(total_docks) AS total_docks
    FROM reports GROUP BY dt, station_id
), filled AS (
    SELECT station_id, step, coalesce(bikes, lag(bikes) OVER one, lag(bikes, 2) OVER one) AS bikes
    FROM places CROSS JOIN (SELECT unnest(range(max(step) + 1))::INTEGER AS step FROM seen)
    LEFT JOIN seen USING (station_id, step)
    WINDOW one AS (PARTITION BY station_id ORDER BY step)
)
SELECT dt, station_id, name, lat, lon, total_docks, counts.bikes
FROM places JOIN (SELECT station_id, list(bikes ORDER BY step) AS bikes FROM filled GROUP BY station_id) AS counts
    USING (station_id)
ORDER BY station_id
""",
    kept_days=KEPT_DAYS,
)

"""The materialized views of the latest state: replaced as a whole from the newest day."""

from wrm_pipeline.analytics.registry.columns import DT, FILE_TIMESTAMP, LAT, LON, NAME, OUTSIDE, PLACE, STATION_ID
from wrm_pipeline.analytics.registry.model import Column, Refreshed, Table
from wrm_pipeline.analytics.registry.staging import FLICKER_MINUTES, STAYS
from wrm_pipeline.domain import asset_names

# Days before the newest that make the usual profile.
PROFILE_DAYS = 28

MV_STATION_LATEST = Table(
    "mv_station_latest",
    asset_names.MATERIALIZED_VIEWS,
    "Each station as it was last seen on the newest day; one row per station.",
    columns=(
        STATION_ID,
        NAME,
        LAT,
        LON,
        Column("bikes", "INTEGER", "Bikes there", "bikes", ("bikes",)),
        Column("spaces", "INTEGER", "Free docks; null where unknown", "docks", ("spaces",)),
        Column("total_docks", "INTEGER", "Total docks; may be 0; null where unknown", "docks", ("total_docks",)),
        Column(
            "pedelecs", "INTEGER", "E-bikes among bikes; null where the feed lacks the column", "bikes", ("pedelecs",)
        ),
        Column(
            "fill",
            "DOUBLE",
            "bikes / total_docks, above 1 where it is over capacity; null without docks",
            "share",
            ("bikes", "total_docks"),
        ),
        Column("over_capacity", "BOOLEAN", "bikes + spaces > total_docks > 0", sources=("over_capacity",)),
        Column("no_docks", "BOOLEAN", "A station with total_docks = 0", sources=("no_docks",)),
        OUTSIDE,
        Column("stale", "BOOLEAN", "timestamp more than 1 h before file_timestamp", sources=("stale",)),
        Column(
            "count_capped",
            "BOOLEAN",
            "One of the counts was capped by the feed: 5+ is 5 and this flag",
            sources=("count_capped",),
        ),
        Column("timestamp", "TIMESTAMPTZ", "Time of the report itself", sources=("timestamp",)),
        FILE_TIMESTAMP,
        DT,
    ),
    key=("station_id",),
    refreshed=Refreshed.LATEST,
    formula=(
        "The row with the highest file_timestamp of each station among the newest day's rows; fill = bikes / "
        "total_docks."
    ),
    limits="A station that left the feed today is still included, as it was last seen: compare file_timestamp.",
    sql="""
SELECT
    station_id, name, lat, lon, bikes, spaces, total_docks, pedelecs,
    CASE WHEN total_docks > 0 THEN round(bikes / total_docks, 4) END AS fill,
    over_capacity, no_docks, outside_service_area, stale, count_capped, timestamp, file_timestamp, dt
FROM day_rows JOIN (
    SELECT station_id, max(file_timestamp) AS file_timestamp FROM day_rows WHERE record_type = 'station' GROUP BY ALL
) USING (station_id, file_timestamp)
WHERE record_type = 'station'
ORDER BY station_id
""",
)

MV_BIKE_LATEST = Table(
    "mv_bike_latest",
    asset_names.MATERIALIZED_VIEWS,
    "The free-standing bikes in the newest snapshot; one row per bike.",
    columns=(
        Column("station_id", "VARCHAR", "The bike's id in the feed, fb and bike number", sources=("station_id",)),
        Column("name", "VARCHAR", "BIKE and bike number", sources=("name",)),
        LAT,
        LON,
        Column("battery_pct", "SMALLINT", "Battery level of an e-bike; null for others", "%", ("battery_pct",)),
        OUTSIDE,
        FILE_TIMESTAMP,
        DT,
        Column("standing_since", "TIMESTAMPTZ", "When it was first seen at this place on this day", sources=PLACE),
        Column("idle_h", "DOUBLE", "Hours from standing_since to file_timestamp", "h", PLACE),
    ),
    key=("station_id",),
    refreshed=Refreshed.LATEST,
    formula=(
        "The rows of record_type `bike` in the newest day's newest snapshot, with the beginning of the bike's stay "
        f"there. {STAYS}."
    ),
    limits=(
        "Stays are computed within one day: a bike that has been there since yesterday counts from the day's first "
        "snapshot. A bike that was taken and returned between two snapshots, or to the same spot within "
        f"{FLICKER_MINUTES} minutes, seems not to have moved."
    ),
    sql="""
SELECT
    station_id, name, lat, lon, battery_pct, outside_service_area, file_timestamp, dt, first_seen AS standing_since,
    round(epoch(file_timestamp - first_seen) / 3600, 2) AS idle_h
FROM day_rows JOIN day_stays USING (dt)
WHERE record_type = 'bike' AND bike_id = station_id AND last_seen = file_timestamp
    AND file_timestamp = (SELECT max(file_timestamp) FROM day_snapshots)
ORDER BY station_id
""",
)


LATEST_VIEWS = (MV_STATION_LATEST, MV_BIKE_LATEST)

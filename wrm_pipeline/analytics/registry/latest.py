"""The materialized views of the latest state: replaced as a whole from the newest day and the days before it."""

from wrm_pipeline.analytics.registry.columns import DT, FILE_TIMESTAMP, LAT, LON, NAME, OUTSIDE, PLACE, STATION_ID
from wrm_pipeline.analytics.registry.local_time import LOCAL_HOUR_SQL, hour_of
from wrm_pipeline.analytics.registry.model import Column, Refreshed, Table
from wrm_pipeline.analytics.registry.staging import STAYS
from wrm_pipeline.domain import asset_names
from wrm_pipeline.domain.full_and_empty import EMPTY_SQL, FULL_SQL

# Days before the newest that make the usual profile, and how many of one kind are needed to distinguish the kinds.
PROFILE_DAYS = 28
MIN_DAYS_OF_KIND = 3
# Hours ahead that the profile predicts.
COMING_HOURS = 6

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
        "{FLICKER_MINUTES} minutes, seems not to have moved."
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

MV_REBALANCING = Table(
    "mv_rebalancing",
    asset_names.MATERIALIZED_VIEWS,
    f"What to expect of each station in the next {COMING_HOURS} hours; one row per station.",
    columns=(
        STATION_ID,
        NAME,
        Column("bikes", "INTEGER", "Bikes at the station now", "bikes", ("bikes",)),
        Column("total_docks", "INTEGER", "Total docks; may be 0; null where unknown", "docks", ("total_docks",)),
        Column(
            "expected_bikes",
            "DOUBLE[]",
            f"Bikes expected in each of the {COMING_HOURS} hours after this one, in order; null if unknown",
            "bikes",
            ("bikes", "file_timestamp"),
        ),
        Column(
            "empty_at",
            "TIMESTAMPTZ",
            "Expected time of being empty; null: not in these hours",
            sources=("bikes", "file_timestamp", "spaces", "total_docks"),
        ),
        Column(
            "full_at",
            "TIMESTAMPTZ",
            "Expected time of being full; null: not in these hours",
            sources=("bikes", "file_timestamp", "spaces", "total_docks"),
        ),
        Column("profile_days", "INTEGER", "Days in the station's profile", "days", ("dt",)),
        Column("file_timestamp", "TIMESTAMPTZ", "Time of the newest snapshot", sources=("file_timestamp",)),
        DT,
    ),
    key=("station_id",),
    refreshed=Refreshed.LATEST,
    formula=(
        "usual(h) is the mean of bikes_mean in mv_station_hourly at local hour h, over the days of the last "
        f"{PROFILE_DAYS} before the newest that are of its kind (working day or weekend), or over all of them while "
        f"fewer than {MIN_DAYS_OF_KIND} are. Expected in a coming hour: bikes now + usual(that hour) - usual(this "
        "hour), not below 0. empty_at is now if the station is empty, else the start of the first coming hour with "
        "less than half a bike expected; full_at is now if it is full, else the start of the first with less than half "
        "a dock free."
    ),
    limits=(
        "A profile, not a forecast: it ignores weather, events, holidays (they count as working days) and vans. "
        "Without an earlier day, or for an hour that none of them has, nothing is expected. A station without docks is "
        "never empty or full. A station whose bikes always exceed its docks counts as full, even if it accepts more. "
        "Hours after midnight use the profile of today's kind of day."
    ),
    sql=f"""
WITH newest AS (
    SELECT any_value(dt) AS dt, max(file_timestamp) AS now, {hour_of("max(file_timestamp)")} AS this_hour
    FROM day_snapshots
), history AS (
    SELECT hours.station_id, hours.dt, hours.local_hour, hours.bikes_mean,
        (isodow(hours.dt) > 5) = (isodow(newest.dt) > 5) AS same_kind
    FROM wrm_analytics.mv_station_hourly AS hours, newest
    WHERE hours.dt < newest.dt AND hours.dt >= newest.dt - {PROFILE_DAYS}
), used AS (
    SELECT * FROM history
    WHERE same_kind OR (SELECT count(DISTINCT dt) FILTER (same_kind) FROM history) < {MIN_DAYS_OF_KIND}
), usual AS (
    SELECT station_id, local_hour, avg(bikes_mean) AS bikes FROM used GROUP BY station_id, local_hour
), profile_days AS (
    SELECT station_id, count(DISTINCT dt)::INTEGER AS profile_days FROM used GROUP BY station_id
), hours AS (
    SELECT ahead, this_hour + to_hours(ahead) AS hour_start FROM newest, range({COMING_HOURS + 1}) AS steps (ahead)
), levels AS (
    SELECT usual.station_id, ahead, hour_start, usual.bikes
    FROM (SELECT ahead, hour_start, {LOCAL_HOUR_SQL} AS local_hour FROM hours) JOIN usual USING (local_hour)
), coming AS (
    SELECT
        station_id, ahead, hour_start, round(stations.bikes + later.bikes - this.bikes, 2) AS bikes, total_docks
    FROM wrm_analytics.mv_station_latest AS stations CROSS JOIN hours
    LEFT JOIN levels AS later USING (station_id, ahead, hour_start)
    LEFT JOIN (SELECT station_id, bikes FROM levels WHERE ahead = 0) AS this USING (station_id)
    WHERE ahead > 0
), expected AS (
    SELECT
        -- greatest() passes a null over.
        station_id, list(CASE WHEN bikes < 0 THEN 0 ELSE bikes END ORDER BY ahead) AS expected_bikes,
        count(bikes) AS known,
        min(hour_start) FILTER (total_docks > 0 AND bikes < 0.5) AS empty_at,
        min(hour_start) FILTER (total_docks > 0 AND bikes > total_docks - 0.5) AS full_at
    FROM coming GROUP BY station_id
)
SELECT
    station_id, name, bikes, total_docks, CASE WHEN known > 0 THEN expected_bikes END AS expected_bikes,
    CASE WHEN {EMPTY_SQL} THEN now ELSE empty_at END AS empty_at,
    CASE WHEN {FULL_SQL} THEN now ELSE full_at END AS full_at,
    coalesce(profile_days, 0) AS profile_days, now AS file_timestamp, newest.dt
FROM wrm_analytics.mv_station_latest JOIN expected USING (station_id) LEFT JOIN profile_days USING (station_id), newest
ORDER BY station_id
""",
)


LATEST_VIEWS = (MV_STATION_LATEST, MV_BIKE_LATEST, MV_REBALANCING)

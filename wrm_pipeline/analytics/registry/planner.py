"""The planner's figures: what was lost, where and when stations are empty, full or unbalanced, and how bikes are used.

The SQL of a day reads `day_rows` and other tables; its parameter `$dt` is the day. That of a whole table reads the days
from `$since` to `$until`.
"""

from dataclasses import replace

from wrm_pipeline.analytics.registry.columns import DT, EMPTY, FULL, HOUR_START, LOCAL_HOUR, OUTSIDE, STATION_ID
from wrm_pipeline.analytics.registry.daily import DETAIL_DAYS
from wrm_pipeline.analytics.registry.latest import PROFILE_DAYS
from wrm_pipeline.analytics.registry.model import Column, Refreshed, Table
from wrm_pipeline.domain import asset_names
from wrm_pipeline.domain.full_and_empty import IN_WORDS

# Of 28,218 rentals on four real working days, 10.6 % failed and 4.6 % ended where they began.
RIDES_SHARE = 0.85

_DEMAND = ("bikes", "spaces", "total_docks", "file_timestamp")
_STAY = ("station_id", "arrived_at", "left_at")
_FREE_DAY = Column("free_day", "BOOLEAN", "Saturday or Sunday", sources=("dt",))
_DAYS = Column("days", "INTEGER", "Days that have this hour of the station", "days", ("dt",))
_OF_PROFILE = (
    f"Over the last {PROFILE_DAYS} days that are over, working days and weekends apart; an hour that comes twice on a "
    "day of 25 h counts twice."
)

MV_LOST_DEMAND = Table(
    "mv_lost_demand",
    asset_names.MATERIALIZED_VIEWS,
    "Departures that would have taken place while a station was empty; one row per station and hour in which it was.",
    columns=(
        DT,
        HOUR_START,
        LOCAL_HOUR,
        STATION_ID,
        Column("minutes_empty", "DOUBLE", "Minutes of the hour for which it was empty", "min", EMPTY),
        Column("departures_lost", "DOUBLE", "Expected number of departures in these minutes", "bikes", _DEMAND),
        Column("departures_lost_lo", "INTEGER", "With probability 95 %, at least as many", "bikes", _DEMAND),
        Column("departures_lost_hi", "INTEGER", "With probability 95 %, at most as many", "bikes", _DEMAND),
    ),
    key=("dt", "hour_start", "station_id"),
    refreshed=Refreshed.BY_DAY_HOURLY,
    formula=(
        "Minutes empty times the rate of rides at which bikes leave the station at that hour while it has some: the "
        "city's rate in that hour of that day, times how many times the mean station's rate this station has, from the "
        f"day and up to {PROFILE_DAYS} days before it. Sparse hours lean on the station's whole day, a station with "
        "little time with bikes on its arrivals. docs/answers.md has the formula and its error. Rides are those of "
        f"mv_rides where bikes are known, else {RIDES_SHARE} times the rentals that mv_flows estimates. {IN_WORDS}"
    ),
    limits=(
        "Riders who went on to another station are counted, too. A station whose only bikes are broken is not empty. "
        "A day before that changes later does not change it. "
        "departures_lost adds up; the bounds do not: those of a sum are closer together (docs/queries.md)."
    ),
    kept_days=DETAIL_DAYS,
)

MV_STATION_HOURS = Table(
    "mv_station_hours",
    asset_names.MATERIALIZED_VIEWS,
    "How long a station usually is empty and full, by local hour and kind of day.",
    columns=(
        STATION_ID,
        LOCAL_HOUR,
        _FREE_DAY,
        _DAYS,
        Column("minutes_empty", "DOUBLE", "Minutes of the hour for which it is empty, mean of the days", "min", EMPTY),
        Column("minutes_full", "DOUBLE", "Minutes of the hour for which it is full, mean of the days", "min", FULL),
    ),
    key=("station_id", "local_hour", "free_day"),
    refreshed=Refreshed.EACH_DAY,
    formula=f"60 times the mean of share_empty and of share_full in mv_station_hourly. {_OF_PROFILE}",
    limits="Holidays on working days count as working days. Single days are in mv_station_hourly.",
    sql="""
SELECT
    station_id, local_hour, isodow(dt) > 5 AS free_day, count(DISTINCT dt)::INTEGER AS days,
    round(60 * avg(share_empty), 2) AS minutes_empty, round(60 * avg(share_full), 2) AS minutes_full
FROM wrm_analytics.mv_station_hourly WHERE dt BETWEEN $since AND $until
GROUP BY station_id, local_hour, free_day ORDER BY station_id, local_hour, free_day
""",
)

MV_IMBALANCE = Table(
    "mv_imbalance",
    asset_names.MATERIALIZED_VIEWS,
    "How many more bikes come to a station than leave it, by local hour and kind of day.",
    columns=(
        STATION_ID,
        LOCAL_HOUR,
        _FREE_DAY,
        _DAYS,
        Column("arrivals", "DOUBLE", "Bikes that arrive in the hour, mean over the days", "bikes", _DEMAND),
        Column("departures", "DOUBLE", "Bikes that leave in the hour, mean over the days", "bikes", _DEMAND),
        Column("imbalance", "DOUBLE", "arrivals - departures; below 0 the station loses bikes", "bikes", _DEMAND),
    ),
    key=("station_id", "local_hour", "free_day"),
    refreshed=Refreshed.EACH_DAY,
    formula=f"Means of arrivals and departures in mv_flows. {_OF_PROFILE}",
    limits=(
        "The difference is exact, its two parts are as good as mv_flows. Bikes that a van brings or takes count like "
        "those of riders."
    ),
    sql="""
SELECT
    station_id, local_hour, isodow(dt) > 5 AS free_day, count(DISTINCT dt)::INTEGER AS days,
    round(avg(arrivals), 2) AS arrivals, round(avg(departures), 2) AS departures,
    round(avg(arrivals - departures), 2) AS imbalance
FROM wrm_analytics.mv_flows WHERE dt BETWEEN $since AND $until
GROUP BY station_id, local_hour, free_day ORDER BY station_id, local_hour, free_day
""",
)

MV_TURNOVER = Table(
    "mv_turnover",
    asset_names.MATERIALIZED_VIEWS,
    "How much the bikes were ridden; one row per day.",
    columns=(
        DT,
        Column("bikes", "INTEGER", "Bikes seen on the day", "bikes", ("bikes", "record_type")),
        Column("rides", "INTEGER", "Rides that ended on the day; null where the counts do not say", "rides", _DEMAND),
        Column("rides_per_bike", "DOUBLE", "rides / bikes", "rides", (*_DEMAND, "record_type")),
        Column("method", "VARCHAR", "bikes: each is known all day; counts: both are estimates from counts"),
    ),
    key=("dt",),
    refreshed=Refreshed.BY_DAY_HOURLY,
    formula=(
        "bikes: the different bikes in bike_positions, and the rows of kind ride in mv_rides. counts: the most bikes "
        "in one snapshot, at stations and free-standing within the service area, and the departures in "
        f"mv_departures times {RIDES_SHARE}: the others fail or end where they began."
    ),
    limits="From counts, bikes in use at that moment and those in the workshop are not seen.",
    sql=f"""
WITH known AS (SELECT $bikes::INTEGER AS bikes WHERE $bikes > 0), found AS (
    SELECT bikes, (SELECT count(*) FROM wrm_analytics.mv_rides WHERE dt = $dt AND kind = 'ride') AS rides,
        'bikes' AS method
    FROM known
    UNION ALL
    SELECT (SELECT max(coalesce(bikes, 0) + free_bikes) FROM day_snapshots),
        (SELECT sum(departures) * {RIDES_SHARE} FROM wrm_analytics.mv_departures WHERE dt = $dt),
        'counts'
    WHERE NOT EXISTS (FROM known)
)
SELECT
    $dt::DATE AS dt, bikes::INTEGER AS bikes, rides::INTEGER AS rides, round(rides / nullif(bikes, 0), 2)
    AS rides_per_bike, method
FROM found WHERE bikes IS NOT NULL
""",
)

MV_IDLE_BIKES = Table(
    "mv_idle_bikes",
    asset_names.MATERIALIZED_VIEWS,
    "Where each bike stands, and since when, in the newest snapshot that numbers bikes; one row per bike.",
    columns=(
        Column("bike_id", "VARCHAR", "Bike number", sources=("bike_id",)),
        Column("station_id", "VARCHAR", "Station at which it stands; null outside stations", sources=("station_id",)),
        Column("lat", "DOUBLE", "Latitude, WGS84", "deg", ("lat",)),
        Column("lon", "DOUBLE", "Longitude, WGS84", "deg", ("lon",)),
        Column("since", "TIMESTAMPTZ", "When it last arrived from a ride or by van", sources=_STAY),
        Column("idle_h", "DOUBLE", "Hours from since to seen_at", "h", _STAY),
        Column("battery_pct", "SMALLINT", "Battery level of an e-bike; null for others", "%", ("battery_pct",)),
        Column("seen_at", "TIMESTAMPTZ", "Time of the newest snapshot that numbers bikes", sources=_STAY),
        replace(OUTSIDE, sources=("lat", "lon")),
    ),
    key=("bike_id",),
    refreshed=Refreshed.LATEST_OF_BIKES,
    formula=(
        "The stays in bike_positions that go on at the end of the newest day. since is the last arrival of a ride or "
        f"relocation in mv_rides within {PROFILE_DAYS} days, or else the beginning of the stay or, for one that has "
        "lasted since the day began, of the first of those days."
    ),
    limits=(
        f"Empty without the operator's feed. No idle time is longer than {PROFILE_DAYS} days. A bike in a depot is "
        "idle, too. One that came back after more than a day away, and has not moved since, seems never to have left."
    ),
    sql="""
WITH moved AS (
    SELECT bike_id, max(arrived_at) AS arrived_at FROM wrm_analytics.mv_rides
    WHERE dt BETWEEN $since AND $until AND kind IN ('ride', 'relocation') GROUP BY bike_id
), first_day AS (SELECT min(left_at) AS left_at FROM wrm_analytics.mv_rides WHERE dt BETWEEN $since AND $until)
SELECT
    bike_id, station_id, lat, lon, began AS since, round(epoch($seen_at::TIMESTAMPTZ - began) / 3600, 2) AS idle_h,
    battery_pct, $seen_at::TIMESTAMPTZ AS seen_at,
    NOT (lat BETWEEN $lat_min AND $lat_max AND lon BETWEEN $lon_min AND $lon_max) AS outside_service_area
FROM (
    SELECT stays.*, coalesce(
        moved.arrived_at, CASE WHEN stays.arrived_at = $first::TIMESTAMPTZ THEN least(left_at, $first::TIMESTAMPTZ) END,
        stays.arrived_at) AS began
    FROM standing_bikes AS stays LEFT JOIN moved USING (bike_id), first_day
)
ORDER BY bike_id
""",
    sources=(asset_names.BIKE_POSITIONS, "mv_rides"),
    columns_from=asset_names.BIKE_POSITIONS,
)

MV_ORIGIN_DESTINATION = Table(
    "mv_origin_destination",
    asset_names.MATERIALIZED_VIEWS,
    "Rides from one station to another; one row per day and pair that has any.",
    columns=(
        DT,
        Column("left_station_id", "VARCHAR", "Where they began; '' outside stations", sources=("station_id",)),
        Column("arrived_station_id", "VARCHAR", "Where they ended; '' outside stations", sources=("station_id",)),
        Column("rides", "INTEGER", "Number of rides", "rides", ("bike_id",)),
        Column("duration_s_median", "DOUBLE", "Median of their durations", "s", ("arrived_at", "left_at")),
    ),
    key=("dt", "left_station_id", "arrived_station_id"),
    refreshed=Refreshed.BY_DAY_HOURLY,
    formula="The rows of mv_rides of kind ride, by the day of arrival.",
    limits="Empty without the operator's feed. Round trips are not in it.",
    sql="""
SELECT
    dt, coalesce(left_station_id, '') AS left_station_id, coalesce(arrived_station_id, '') AS arrived_station_id,
    count(*)::INTEGER AS rides, median(duration_s) AS duration_s_median
FROM wrm_analytics.mv_rides WHERE dt = $dt AND kind = 'ride'
GROUP BY ALL ORDER BY 2, 3
""",
    kept_days=DETAIL_DAYS,
    sources=("mv_rides",),
    columns_from=asset_names.BIKE_POSITIONS,
)

PLANNER_TABLES = (
    MV_LOST_DEMAND,
    MV_STATION_HOURS,
    MV_IMBALANCE,
    MV_TURNOVER,
    MV_IDLE_BIKES,
    MV_ORIGIN_DESTINATION,
)

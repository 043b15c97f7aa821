"""The materialized views: what each holds, how it is computed, what it cannot tell, and its SQL.

DuckDB has no MATERIALIZED VIEW, so these are tables of `wrm_analytics`. Those that are `by_day` hold a partition for
each published day, and a partition is a function of that day's enhanced rows alone: a changed day is computed anew
without a look at its neighbours, and what spans midnight is cut there. The others are about now: they are made anew
from the newest day.

The SQL of a day reads the temporary tables `day_rows` (the day's enhanced rows with `dt`) and those of PREPARED.
Means are rounded to two decimals and shares to four, which DuckDB stores in 2 bytes each instead of 8.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from wrm_pipeline.analytics.tables import Column
from wrm_pipeline.domain.layout import LOCAL_ZONE_NAME

# Longer ago than this, a change in a station's bikes cannot be told to be of the hour in which it is seen.
MAX_STEP_MINUTES = 15
# A parked bike's position drifts by tens of metres; within this distance it has not moved.
SAME_PLACE_M = 100
# A bike that is missing for no longer than this has not been ridden: the feed leaves bikes out now and then.
FLICKER_MINUTES = 5
# From one free-standing place to another; what takes longer is two journeys with a stop that was not seen.
MAX_RIDE_HOURS = 2
# Days before the newest that make the usual profile, and how many of one kind it takes to tell the kinds apart.
PROFILE_DAYS = 28
MIN_DAYS_OF_KIND = 3
# Hours ahead that the profile is asked for.
COMING_HOURS = 6
# Days that the tables by hour and by journey keep; those by day and of the city keep all. Every refresh copies the
# database, and a year of them is 50 MB; what is older is in the Parquet, behind the views.
DETAIL_DAYS = 400

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


@dataclass(frozen=True, slots=True)
class MaterializedView:
    """One table of `wrm_analytics`.

    Attributes:
        name: Without the schema.
        description: What a row is.
        formula: How it is computed, in words.
        limits: What it cannot tell.
        by_day: Whether it holds a partition for each day, or is about now.
        columns: In order.
        sql: Gives the rows of one day, or those of now; columns in order.
        kept_days: How many of the newest days it holds; None: all.
    """

    name: str
    description: str
    formula: str
    limits: str
    by_day: bool
    columns: tuple[Column, ...]
    sql: str
    kept_days: int | None = None

    @property
    def create_sql(self) -> str:
        """The columns as CREATE TABLE wants them."""
        return ", ".join(f'"{column.name}" {column.type}' for column in self.columns)

    @property
    def version(self) -> str:
        """Changes with the SQL and the columns: rows of another version were made by another rule."""
        return hashlib.sha256(repr((self.create_sql, self.sql, sorted(PREPARED.items()))).encode()).hexdigest()[:12]


def _c(name: str, sql_type: str, description: str, unit: str = "") -> Column:
    return Column(name, sql_type, unit, description)


_DT = _c("dt", "DATE", "The partition: calendar date in Europe/Warsaw of the fetch")
_HOUR_START = _c("hour_start", "TIMESTAMPTZ", "The instant at which the hour begins; 23 or 25 a day when clocks change")
_LOCAL_HOUR = _c("local_hour", "TINYINT", "The hour on the clock in Wrocław, 0-23; 2 comes twice on a 25 h day", "h")
_STATION_ID = _c("station_id", "VARCHAR", "Station number")
_NAME = _c("name", "VARCHAR", "Name of the station, as reported last")
_LAT = _c("lat", "DOUBLE", "Latitude, WGS84", "deg")
_LON = _c("lon", "DOUBLE", "Longitude, WGS84", "deg")
_FILE_TIMESTAMP = _c("file_timestamp", "TIMESTAMPTZ", "Time of the snapshot")
_OUTSIDE = _c("outside_service_area", "BOOLEAN", "Outside the configured box")

_EMPTY_AND_FULL = (
    "Empty: bikes = 0. Full: spaces = 0 and total_docks > 0; without docks, or where either is unknown, it is neither."
)
_OF_SNAPSHOTS = (
    "Means and shares are of the snapshots that were taken, not of time: where snapshots are missing, the others count "
    "for them. A station that no longer reports is counted as it last reported (flag `stale`)."
)

_LOCAL_HOUR_SQL = f"hour(timezone('{LOCAL_ZONE_NAME}', hour_start))::TINYINT"
_EMPTY_SQL = "(bikes = 0)"
# Unknown docks or spaces are not full.
_FULL_SQL = "coalesce(spaces = 0 AND total_docks > 0, false)"


def _metres(lat: str, lon: str, other_lat: str, other_lon: str) -> str:
    """Great-circle distance as SQL (haversine, radius 6,371 km)."""
    return (
        f"(2 * 6371000 * asin(sqrt(least(1, sin(radians({other_lat} - {lat}) / 2) ** 2 + cos(radians({lat})) "
        f"* cos(radians({other_lat})) * sin(radians({other_lon} - {lon}) / 2) ** 2))))"
    )


# Temporary tables that a day's SQL reads, in the order in which they are made.
PREPARED: Mapping[str, str] = MappingProxyType(
    {
        # The day's snapshots, numbered, with what was seen in each.
        "day_snapshots": f"""
SELECT
    dt,
    file_timestamp,
    date_trunc('hour', file_timestamp) AS hour_start,
    row_number() OVER (ORDER BY file_timestamp) AS number,
    count(*) AS rows,
    sum(bikes) FILTER (record_type = 'station') AS bikes,
    count(*) FILTER (record_type = 'bike' AND NOT outside_service_area) AS free_bikes,
    count(*) FILTER (record_type = 'station') AS stations,
    count(*) FILTER (record_type = 'station' AND {_EMPTY_SQL}) AS stations_empty,
    count(*) FILTER (record_type = 'station' AND {_FULL_SQL}) AS stations_full
FROM day_rows GROUP BY dt, file_timestamp
""",
        # Where each free-standing bike stood from when to when. A stay ends when the bike is next seen elsewhere, or
        # is missing from a snapshot and for longer than a flicker of the feed.
        "day_stays": f"""
WITH seen AS (
    SELECT dt, station_id AS bike_id, lat, lon, file_timestamp, number
    FROM day_rows JOIN day_snapshots USING (dt, file_timestamp) WHERE record_type = 'bike'
), steps AS (
    SELECT *, coalesce(
        (lat, lon) IS DISTINCT FROM (lag(lat) OVER one, lag(lon) OVER one)
            AND {_metres("lat", "lon", "lag(lat) OVER one", "lag(lon) OVER one")} > {SAME_PLACE_M}
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

MV_STATION_LATEST = MaterializedView(
    "mv_station_latest",
    "Each station as it was last seen on the newest day; one row a station.",
    "The row with the highest file_timestamp of each station among the newest day's rows; fill = bikes / total_docks.",
    "A station that left the feed today is still there, as it was last seen: compare file_timestamp.",
    by_day=False,
    columns=(
        _STATION_ID,
        _NAME,
        _LAT,
        _LON,
        _c("bikes", "INTEGER", "Bikes there", "bikes"),
        _c("spaces", "INTEGER", "Free docks; null where unknown", "docks"),
        _c("total_docks", "INTEGER", "Docks in all; may be 0; null where unknown", "docks"),
        _c("pedelecs", "INTEGER", "E-bikes among bikes; null where the feed lacks the column", "bikes"),
        _c("fill", "DOUBLE", "bikes / total_docks, above 1 where it is over capacity; null without docks", "share"),
        _c("over_capacity", "BOOLEAN", "bikes + spaces > total_docks > 0"),
        _c("no_docks", "BOOLEAN", "A station with total_docks = 0"),
        _OUTSIDE,
        _c("stale", "BOOLEAN", "timestamp more than 1 h before file_timestamp"),
        _c("count_capped", "BOOLEAN", "One of the counts was capped by the feed: 5+ is 5 and this flag"),
        _c("timestamp", "TIMESTAMPTZ", "Time of the report itself"),
        _FILE_TIMESTAMP,
        _DT,
    ),
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

_STAYS = (
    f"A stay goes on while the bike is seen within {SAME_PLACE_M} m of where it was seen before, and is missing from "
    f"snapshots for {FLICKER_MINUTES} minutes at most"
)

MV_BIKE_LATEST = MaterializedView(
    "mv_bike_latest",
    "The free-standing bikes in the newest snapshot; one row a bike.",
    f"The rows of record_type `bike` in the newest day's newest snapshot, with the beginning of the bike's stay there. "
    f"{_STAYS}.",
    "A stay is looked at within one day: a bike that stands there since yesterday has been standing since the day's "
    "first snapshot. A bike that was taken and brought back between two snapshots, or to the same spot within "
    f"{FLICKER_MINUTES} minutes, seems to have stood still.",
    by_day=False,
    columns=(
        _c("station_id", "VARCHAR", "The bike's id in the feed, fb and bike number"),
        _c("name", "VARCHAR", "BIKE and bike number"),
        _LAT,
        _LON,
        _c("battery_pct", "SMALLINT", "Battery level of an e-bike; null for others", "%"),
        _OUTSIDE,
        _FILE_TIMESTAMP,
        _DT,
        _c("standing_since", "TIMESTAMPTZ", "When it was first seen at this place on this day"),
        _c("idle_h", "DOUBLE", "Hours from standing_since to file_timestamp", "h"),
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

MV_DAILY_AGGREGATES = MaterializedView(
    "mv_daily_aggregates",
    "The city's day in one row.",
    "Bikes of all stations are added up for each snapshot, and the mean, highest and lowest of these sums are the "
    f"day's. Shares are of all station rows. {_EMPTY_AND_FULL}",
    f"{_OF_SNAPSHOTS} bikes_min is low where a snapshot lacks stations.",
    by_day=True,
    columns=(
        _DT,
        _c("snapshots", "INTEGER", "Snapshots with at least one good row", "snapshots"),
        _c("active_stations", "INTEGER", "Stations with at least one report that was not stale", "stations"),
        _c("bikes_mean", "DOUBLE", "Bikes at all stations, mean over the snapshots", "bikes"),
        _c("bikes_max", "INTEGER", "Bikes at all stations, in the snapshot that had most", "bikes"),
        _c("bikes_min", "INTEGER", "Bikes at all stations, in the snapshot that had least", "bikes"),
        _c("free_bikes_mean", "DOUBLE", "Free-standing bikes in the service area, mean over the snapshots", "bikes"),
        _c("empty_share", "DOUBLE", "Share of station rows without a bike", "share"),
        _c(
            "full_share",
            "DOUBLE",
            "Share of station rows without a free dock, stations without docks left out",
            "share",
        ),
        _c("rows", "INTEGER", "Enhanced rows of the day, of every record_type", "rows"),
    ),
    sql="""
SELECT
    dt, count(*)::INTEGER AS snapshots,
    (SELECT count(DISTINCT station_id) FROM day_rows WHERE record_type = 'station' AND NOT stale)::INTEGER
        AS active_stations,
    round(avg(bikes), 2) AS bikes_mean, max(bikes)::INTEGER AS bikes_max, min(bikes)::INTEGER AS bikes_min,
    round(avg(free_bikes), 2) AS free_bikes_mean,
    round(sum(stations_empty) / nullif(sum(stations), 0), 4) AS empty_share,
    round(sum(stations_full) / nullif(sum(stations), 0), 4) AS full_share,
    sum(rows)::INTEGER AS rows
FROM day_snapshots GROUP BY dt
""",
)

MV_STATION_HOURLY = MaterializedView(
    "mv_station_hourly",
    "A station's hour in one row.",
    f"Over the snapshots of the hour in which the station is reported. {_EMPTY_AND_FULL}",
    f"{_OF_SNAPSHOTS} An hour without any snapshot has no row.",
    by_day=True,
    columns=(
        _DT,
        _HOUR_START,
        _LOCAL_HOUR,
        _STATION_ID,
        _c("name", "VARCHAR", "Name of the station at the end of the hour"),
        _c("snapshots", "SMALLINT", "Snapshots of the hour that report the station", "snapshots"),
        _c("bikes_mean", "DOUBLE", "Bikes, mean over the snapshots", "bikes"),
        _c("bikes_min", "INTEGER", "Bikes, least", "bikes"),
        _c("share_empty", "DOUBLE", "Share of the snapshots without a bike", "share"),
        _c(
            "share_full", "DOUBLE", "Share of the snapshots without a free dock; 0 for a station without docks", "share"
        ),
    ),
    sql=f"""
SELECT
    dt, date_trunc('hour', file_timestamp) AS hour_start, {_LOCAL_HOUR_SQL} AS local_hour, station_id,
    arg_max(name, file_timestamp) AS name, count(*)::SMALLINT AS snapshots, round(avg(bikes), 2) AS bikes_mean,
    min(bikes) AS bikes_min, round(avg({_EMPTY_SQL}::INTEGER), 4) AS share_empty,
    round(avg({_FULL_SQL}::INTEGER), 4) AS share_full
FROM day_rows WHERE record_type = 'station'
GROUP BY dt, hour_start, station_id ORDER BY station_id, hour_start
""",
    kept_days=DETAIL_DAYS,
)

MV_CITY_HOURLY = MaterializedView(
    "mv_city_hourly",
    "The city's hour in one row.",
    f"Each snapshot is added up over the stations, and the sums are averaged over the hour. {_EMPTY_AND_FULL}",
    f"{_OF_SNAPSHOTS} An hour without any snapshot has no row.",
    by_day=True,
    columns=(
        _DT,
        _HOUR_START,
        _LOCAL_HOUR,
        _c("bikes_at_stations_mean", "DOUBLE", "Bikes at all stations, mean over the snapshots", "bikes"),
        _c("free_bikes_mean", "DOUBLE", "Free-standing bikes in the service area, mean over the snapshots", "bikes"),
        _c("stations_empty_mean", "DOUBLE", "Stations without a bike, mean over the snapshots", "stations"),
        _c("stations_full_mean", "DOUBLE", "Stations with docks and no free one, mean over the snapshots", "stations"),
    ),
    sql=f"""
SELECT
    dt, hour_start, {_LOCAL_HOUR_SQL} AS local_hour, round(avg(bikes), 2) AS bikes_at_stations_mean,
    round(avg(free_bikes), 2) AS free_bikes_mean, round(avg(stations_empty), 2) AS stations_empty_mean,
    round(avg(stations_full), 2) AS stations_full_mean
FROM day_snapshots GROUP BY dt, hour_start ORDER BY hour_start
""",
)

MV_FLOWS = MaterializedView(
    "mv_flows",
    "Bikes that left and reached a station in an hour; one row for each station and hour, with zeros.",
    "The station's bikes in one snapshot minus those in the snapshot of it before: what is below 0 is departures, what "
    "is above 0 arrivals, of the hour of the later snapshot. A difference over more than "
    f"{MAX_STEP_MINUTES} minutes counts as neither and goes into gap_change, so over a day bikes at the end - bikes at "
    "the start = arrivals - departures + gap_change.",
    "A lower bound: a difference of 0 hides a departure and an arrival within one interval, a difference of -1 hides "
    "two departures and an arrival. Bikes that a van brings or takes count like those of riders. A station that "
    "reports late moves its rides into the hour of the report. The step from the day before is of no day.",
    by_day=True,
    columns=(
        _DT,
        _HOUR_START,
        _LOCAL_HOUR,
        _STATION_ID,
        _c("departures", "INTEGER", "Bikes that left, at least", "bikes"),
        _c("arrivals", "INTEGER", "Bikes that came, at least", "bikes"),
        _c(
            "gap_change",
            "INTEGER",
            f"Bikes more (or, below 0, less) after gaps of over {MAX_STEP_MINUTES} minutes",
            "bikes",
        ),
    ),
    sql=f"""
WITH steps AS (
    SELECT
        dt, date_trunc('hour', file_timestamp) AS hour_start, station_id, bikes - lag(bikes) OVER one AS change,
        file_timestamp - lag(file_timestamp) OVER one > INTERVAL {MAX_STEP_MINUTES} MINUTES AS after_gap
    FROM day_rows WHERE record_type = 'station'
    WINDOW one AS (PARTITION BY station_id ORDER BY file_timestamp)
)
SELECT
    dt, hour_start, {_LOCAL_HOUR_SQL} AS local_hour, station_id,
    coalesce(sum(-change) FILTER (change < 0 AND NOT after_gap), 0)::INTEGER AS departures,
    coalesce(sum(change) FILTER (change > 0 AND NOT after_gap), 0)::INTEGER AS arrivals,
    coalesce(sum(change) FILTER (after_gap), 0)::INTEGER AS gap_change
FROM steps WHERE change IS NOT NULL
GROUP BY dt, hour_start, station_id ORDER BY station_id, hour_start
""",
    kept_days=DETAIL_DAYS,
)

MV_BIKE_TRIPS = MaterializedView(
    "mv_bike_trips",
    "Journeys of bikes, followed by their id, that began or ended outside a station; one row a journey.",
    f"{_STAYS}. Between two stays of a bike no more than {MAX_RIDE_HOURS} h apart lies one journey, `free_to_free`. A "
    "stay that ends otherwise, before the day's last snapshot, is `free_to_station`; one that begins otherwise, after "
    "the day's first, is `station_to_free`. distance_m is the great circle between the two places.",
    "Only free-standing bikes have an id in the feed: a journey from station to station is not seen here (see "
    "mv_flows). The unseen end need not be a station: a bike that is under way, in repair or out of the feed looks the "
    "same. A journey over midnight is two halves. Over a gap in the snapshots, left_at and arrived_at are when it was "
    "last and first seen, so the ride was shorter. The way ridden is longer than distance_m.",
    by_day=True,
    columns=(
        _DT,
        _c("bike_id", "VARCHAR", "The bike's id in the feed, fb and bike number"),
        _c("left_at", "TIMESTAMPTZ", "Last seen where it stood; null for station_to_free"),
        _c("left_lat", "DOUBLE", "Where it stood before: latitude, WGS84", "deg"),
        _c("left_lon", "DOUBLE", "Where it stood before: longitude, WGS84", "deg"),
        _c("arrived_at", "TIMESTAMPTZ", "First seen where it was left; null for free_to_station"),
        _c("arrived_lat", "DOUBLE", "Where it was left: latitude, WGS84", "deg"),
        _c("arrived_lon", "DOUBLE", "Where it was left: longitude, WGS84", "deg"),
        _c("distance_m", "INTEGER", "From the one place to the other; null where one is not known", "m"),
        _c("idle_h_before", "DOUBLE", "Hours that it had stood there on this day before it left", "h"),
        _c("kind", "VARCHAR", "free_to_free, free_to_station or station_to_free"),
    ),
    sql=f"""
WITH stays AS (
    SELECT
        *, lead(first_seen) OVER one AS next_seen, lead(first_lat) OVER one AS next_lat,
        lead(first_lon) OVER one AS next_lon,
        coalesce(lead(first_seen) OVER one <= last_seen + INTERVAL {MAX_RIDE_HOURS} HOURS, false) AS rides_on,
        coalesce(first_seen <= lag(last_seen) OVER one + INTERVAL {MAX_RIDE_HOURS} HOURS, false) AS was_ridden_here,
        (SELECT min(file_timestamp) FROM day_snapshots) AS day_first,
        (SELECT max(file_timestamp) FROM day_snapshots) AS day_last
    FROM day_stays WINDOW one AS (PARTITION BY bike_id ORDER BY stay)
), departures AS (
    SELECT
        dt, bike_id, last_seen AS left_at, last_lat AS left_lat, last_lon AS left_lon,
        CASE WHEN rides_on THEN next_seen END AS arrived_at, CASE WHEN rides_on THEN next_lat END AS arrived_lat,
        CASE WHEN rides_on THEN next_lon END AS arrived_lon,
        CASE WHEN rides_on THEN round({_metres("last_lat", "last_lon", "next_lat", "next_lon")})::INTEGER END
            AS distance_m,
        round(epoch(last_seen - first_seen) / 3600, 2) AS idle_h_before,
        CASE WHEN rides_on THEN 'free_to_free' ELSE 'free_to_station' END AS kind
    FROM stays WHERE last_seen < day_last
), arrivals AS (
    SELECT
        dt, bike_id, NULL, NULL, NULL, first_seen, first_lat, first_lon, NULL, NULL, 'station_to_free'
    FROM stays WHERE first_seen > day_first AND NOT was_ridden_here
)
FROM (FROM departures UNION ALL FROM arrivals) ORDER BY bike_id, coalesce(left_at, arrived_at)
""",
    kept_days=DETAIL_DAYS,
)

MV_REBALANCING = MaterializedView(
    "mv_rebalancing",
    f"What to expect of each station in the next {COMING_HOURS} hours; one row a station.",
    "usual(h) is the mean of bikes_mean in mv_station_hourly at local hour h, over the days of the last "
    f"{PROFILE_DAYS} before the newest that are of its kind (working day or weekend), or over all of them while fewer "
    f"than {MIN_DAYS_OF_KIND} are. Expected in a coming hour: bikes now + usual(that hour) - usual(this hour), not "
    "below 0. empty_at is now if the station is empty, else the start of the first coming hour with less than half a "
    "bike expected; full_at is now if it is full, else the start of the first with less than half a dock free.",
    "A profile, no forecast: weather, events, holidays (they count as working days) and vans are not in it. Without an "
    "earlier day, or for an hour that none of them has, nothing is expected. A station without docks is never full. A "
    "station whose bikes exceed its docks all the time is full now, whatever it takes in beside them. Hours after "
    "midnight are looked up in the profile of today's kind of day.",
    by_day=False,
    columns=(
        _STATION_ID,
        _NAME,
        _c("bikes", "INTEGER", "Bikes there now", "bikes"),
        _c("total_docks", "INTEGER", "Docks in all; may be 0; null where unknown", "docks"),
        _c(
            "expected_bikes",
            "DOUBLE[]",
            f"Bikes expected in each of the {COMING_HOURS} hours after this one, in order; null where none is known",
            "bikes",
        ),
        _c("empty_at", "TIMESTAMPTZ", "When it is empty by this; null: not in these hours"),
        _c("full_at", "TIMESTAMPTZ", "When it is full by this; null: not in these hours"),
        _c("profile_days", "INTEGER", "Days that make the station's profile", "days"),
        _c("file_timestamp", "TIMESTAMPTZ", "Time of the snapshot that is now"),
        _DT,
    ),
    sql=f"""
WITH newest AS (
    SELECT any_value(dt) AS dt, max(file_timestamp) AS now, date_trunc('hour', max(file_timestamp)) AS this_hour
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
    FROM (SELECT ahead, hour_start, {_LOCAL_HOUR_SQL} AS local_hour FROM hours) JOIN usual USING (local_hour)
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
        min(hour_start) FILTER (bikes < 0.5) AS empty_at,
        min(hour_start) FILTER (total_docks > 0 AND bikes > total_docks - 0.5) AS full_at
    FROM coming GROUP BY station_id
)
SELECT
    station_id, name, bikes, total_docks, CASE WHEN known > 0 THEN expected_bikes END AS expected_bikes,
    CASE WHEN bikes = 0 THEN now ELSE empty_at END AS empty_at,
    CASE WHEN {_FULL_SQL} THEN now ELSE full_at END AS full_at,
    coalesce(profile_days, 0) AS profile_days, now AS file_timestamp, newest.dt
FROM wrm_analytics.mv_station_latest JOIN expected USING (station_id) LEFT JOIN profile_days USING (station_id), newest
ORDER BY station_id
""",
)

MV_REFRESHES = MaterializedView(
    "mv_refreshes",
    "What the mv_ tables hold: one row for each table and partition, or for a whole table.",
    "Written in the transaction that writes the rows. source names the enhanced object (its ETag) and the definition "
    "that the rows were made from; what has another source now is made anew.",
    "refreshed_at is when the rows were written, not when they were last found to be right.",
    by_day=False,
    columns=(
        _c("table_name", "VARCHAR", "The table, without the schema"),
        _c("dt", "DATE", "The partition; null for a table that is made anew as a whole"),
        _c("refreshed_at", "TIMESTAMPTZ", "When the rows were written"),
        _c("rows", "INTEGER", "How many there are", "rows"),
        _c("source", "VARCHAR", "Identity of what they were made from"),
    ),
    sql="",
)

BY_DAY = (MV_DAILY_AGGREGATES, MV_STATION_HOURLY, MV_CITY_HOURLY, MV_FLOWS, MV_BIKE_TRIPS)
OF_NOW = (MV_STATION_LATEST, MV_BIKE_LATEST, MV_REBALANCING)
MATERIALIZED_VIEWS = (*OF_NOW, *BY_DAY, MV_REFRESHES)

"""The materialized views by day: a partition for each published day, and the record of their content.

A partition is a function of that day's enhanced rows alone: a changed day is computed again independently of its
neighbours, and anything that spans midnight is cut there.
"""

from wrm_pipeline.analytics.registry.columns import DT, EMPTY, FULL, HOUR_START, LOCAL_HOUR, PLACE, STATION_ID
from wrm_pipeline.analytics.registry.departures import MV_DEPARTURES, MV_DEPARTURES_FIT, high, low
from wrm_pipeline.analytics.registry.local_time import LOCAL_HOUR_SQL, hour_of
from wrm_pipeline.analytics.registry.model import Column, Refreshed, Table
from wrm_pipeline.analytics.registry.staging import (
    MAX_RIDE_HOURS,
    MAX_STEP_MINUTES,
    OF_SNAPSHOTS,
    STAYS,
    metres,
)
from wrm_pipeline.analytics.registry.steps import MV_STATION_STEPS
from wrm_pipeline.domain import asset_names
from wrm_pipeline.domain.full_and_empty import EMPTY_SQL, FULL_SQL, IN_WORDS

# Days kept in the tables by hour and by journey; those by day and of the city keep all. Every refresh copies the
# database, and a year of them is 50 MB; older data is in the Parquet, behind the views.
DETAIL_DAYS = 400

FREE_BIKES_MEAN = Column(
    "free_bikes_mean",
    "DOUBLE",
    "Free-standing bikes in the service area, mean over the snapshots",
    "bikes",
    ("record_type", "outside_service_area"),
)


MV_DAILY_AGGREGATES = Table(
    "mv_daily_aggregates",
    asset_names.MATERIALIZED_VIEWS,
    "The city's day in one row.",
    columns=(
        DT,
        Column("snapshots", "INTEGER", "Snapshots with at least one good row", "snapshots", ("file_timestamp",)),
        Column(
            "active_stations",
            "INTEGER",
            "Stations with at least one report that was not stale",
            "stations",
            ("station_id", "record_type", "stale"),
        ),
        Column(
            "bikes_mean", "DOUBLE", "Bikes at all stations, mean over the snapshots", "bikes", ("bikes", "record_type")
        ),
        Column(
            "bikes_max",
            "INTEGER",
            "Bikes at all stations, in the snapshot that had most",
            "bikes",
            ("bikes", "record_type"),
        ),
        Column(
            "bikes_min",
            "INTEGER",
            "Bikes at all stations, in the snapshot that had least",
            "bikes",
            ("bikes", "record_type"),
        ),
        FREE_BIKES_MEAN,
        Column("share_empty", "DOUBLE", "Share of station rows that are empty", "share", EMPTY),
        Column("share_full", "DOUBLE", "Share of station rows that are full", "share", FULL),
        Column("rows", "INTEGER", "Enhanced rows of the day, of every record_type", "rows", ("station_id",)),
        # The columns of bike-data-flow, with its meaning: of single reports, where ours are of the city's sum.
        Column("avg_bikes", "DOUBLE", "Bikes at a station, mean over all reports", "bikes", ("bikes", "record_type")),
        Column("max_bikes", "INTEGER", "Bikes at a station, most in a report", "bikes", ("bikes", "record_type")),
        Column("min_bikes", "INTEGER", "Bikes at a station, fewest in a report", "bikes", ("bikes", "record_type")),
        Column("date", "DATE", "dt by its name in bike-data-flow", sources=("dt",), computed="dt"),
        # The names of 0.1.0, for readers who have them in their queries; they go in 0.3.0.
        Column("empty_share", "DOUBLE", "Old name of share_empty", "share", EMPTY, "share_empty"),
        Column("full_share", "DOUBLE", "Old name of share_full", "share", FULL, "share_full"),
    ),
    key=("dt",),
    refreshed=Refreshed.BY_DAY,
    formula=(
        "Bikes of all stations are summed for each snapshot; the day's values are the mean, highest and lowest of "
        f"these sums. Shares are of all station rows. {IN_WORDS}"
    ),
    limits=f"{OF_SNAPSHOTS} bikes_min is low if a snapshot lacks stations.",
    sql="""
SELECT
    dt, count(*)::INTEGER AS snapshots,
    (SELECT count(DISTINCT station_id) FROM day_rows WHERE record_type = 'station' AND NOT stale)::INTEGER
        AS active_stations,
    round(avg(bikes), 2) AS bikes_mean, max(bikes)::INTEGER AS bikes_max, min(bikes)::INTEGER AS bikes_min,
    round(avg(free_bikes), 2) AS free_bikes_mean,
    round(sum(stations_empty) / nullif(sum(stations), 0), 4) AS share_empty,
    round(sum(stations_full) / nullif(sum(stations), 0), 4) AS share_full,
    sum(rows)::INTEGER AS rows,
    (SELECT avg(bikes) FROM day_rows WHERE record_type = 'station') AS avg_bikes,
    (SELECT max(bikes) FROM day_rows WHERE record_type = 'station')::INTEGER AS max_bikes,
    (SELECT min(bikes) FROM day_rows WHERE record_type = 'station')::INTEGER AS min_bikes
FROM day_snapshots GROUP BY dt
""",
)

MV_STATION_HOURLY = Table(
    "mv_station_hourly",
    asset_names.MATERIALIZED_VIEWS,
    "A station's hour in one row.",
    columns=(
        DT,
        HOUR_START,
        LOCAL_HOUR,
        STATION_ID,
        Column("name", "VARCHAR", "Name of the station at the end of the hour", sources=("name",)),
        Column(
            "snapshots", "SMALLINT", "Snapshots of the hour that report the station", "snapshots", ("file_timestamp",)
        ),
        Column("bikes_mean", "DOUBLE", "Bikes, mean over the snapshots", "bikes", ("bikes",)),
        Column("bikes_min", "INTEGER", "Bikes, least", "bikes", ("bikes",)),
        Column("share_empty", "DOUBLE", "Share of the snapshots in which it is empty", "share", EMPTY),
        Column("share_full", "DOUBLE", "Share of the snapshots in which it is full", "share", FULL),
    ),
    key=("dt", "hour_start", "station_id"),
    refreshed=Refreshed.BY_DAY,
    formula=f"Over the snapshots of the hour in which the station is reported. {IN_WORDS}",
    limits=f"{OF_SNAPSHOTS} An hour without any snapshot has no row.",
    sql=f"""
SELECT
    dt, {hour_of("file_timestamp")} AS hour_start, {LOCAL_HOUR_SQL} AS local_hour, station_id,
    arg_max(name, file_timestamp) AS name, count(*)::SMALLINT AS snapshots, round(avg(bikes), 2) AS bikes_mean,
    min(bikes) AS bikes_min, round(avg({EMPTY_SQL}::INTEGER), 4) AS share_empty,
    round(avg({FULL_SQL}::INTEGER), 4) AS share_full
FROM day_rows WHERE record_type = 'station'
GROUP BY dt, hour_start, station_id ORDER BY station_id, hour_start
""",
    kept_days=DETAIL_DAYS,
)

MV_CITY_HOURLY = Table(
    "mv_city_hourly",
    asset_names.MATERIALIZED_VIEWS,
    "The city's hour in one row.",
    columns=(
        DT,
        HOUR_START,
        LOCAL_HOUR,
        Column(
            "bikes_at_stations_mean",
            "DOUBLE",
            "Bikes at all stations, mean over the snapshots",
            "bikes",
            ("bikes", "record_type"),
        ),
        FREE_BIKES_MEAN,
        Column("stations_empty_mean", "DOUBLE", "Empty stations, mean over the snapshots", "stations", EMPTY),
        Column("stations_full_mean", "DOUBLE", "Full stations, mean over the snapshots", "stations", FULL),
    ),
    key=("dt", "hour_start"),
    refreshed=Refreshed.BY_DAY,
    formula=f"Each snapshot is summed over the stations, and the sums are averaged over the hour. {IN_WORDS}",
    limits=f"{OF_SNAPSHOTS} An hour without any snapshot has no row.",
    sql=f"""
SELECT
    dt, hour_start, {LOCAL_HOUR_SQL} AS local_hour, round(avg(bikes), 2) AS bikes_at_stations_mean,
    round(avg(free_bikes), 2) AS free_bikes_mean, round(avg(stations_empty), 2) AS stations_empty_mean,
    round(avg(stations_full), 2) AS stations_full_mean
FROM day_snapshots GROUP BY dt, hour_start ORDER BY hour_start
""",
)

MV_FLOWS = Table(
    "mv_flows",
    asset_names.MATERIALIZED_VIEWS,
    "Bikes that left and reached a station in an hour; one row per station and hour, with zeros.",
    columns=(
        DT,
        HOUR_START,
        LOCAL_HOUR,
        STATION_ID,
        Column("departures", "INTEGER", "Minimum number of bikes that left", "bikes", ("bikes", "file_timestamp")),
        Column("arrivals", "INTEGER", "Minimum number of bikes that arrived", "bikes", ("bikes", "file_timestamp")),
        Column(
            "gap_change",
            "INTEGER",
            f"Change in bikes over gaps of more than {MAX_STEP_MINUTES} minutes",
            "bikes",
            ("bikes", "file_timestamp"),
        ),
        *(
            Column(f"{flow}_{column}", type_name, text, "bikes", ("bikes", "file_timestamp"))
            for flow, what in (("departures", "Rentals that began"), ("arrivals", "Rentals that ended"))
            for column, type_name, text in (
                ("estimate", "DOUBLE", f"{what}: known, or estimated from the counts; null where these do not say"),
                ("lo", "INTEGER", "Lower end of its 90 % interval"),
                ("hi", "INTEGER", "Upper end; the same where bikes are known"),
            )
        ),
    ),
    key=("dt", "hour_start", "station_id"),
    refreshed=Refreshed.BY_DAY,
    formula=(
        "The station's bikes in one snapshot minus those in its previous snapshot: negative differences are "
        "departures, positive ones arrivals, in the hour of the later snapshot. A difference over more than "
        f"{MAX_STEP_MINUTES} "
        "minutes counts as neither and goes into gap_change, so over a day bikes at the end - bikes at the start = "
        "arrivals - departures + gap_change. The estimates are those of mv_departures, by hour: what is known of the "
        "bikes, or what counts show without flickers, with what they hide."
    ),
    limits=(
        "departures and arrivals are a lower bound: a difference of 0 hides a departure and an arrival within one "
        "interval, a difference of -1 hides two departures and an arrival. Bikes that a van brings or takes count like "
        "those of riders. A station that reports late moves its rides into the hour of the report. The change since "
        "the day before belongs to no day."
    ),
    sql=f"""
SELECT
    dt, hour_start, {LOCAL_HOUR_SQL} AS local_hour, station_id, departures_min::INTEGER AS departures,
    arrivals_min::INTEGER AS arrivals, gap_change::INTEGER AS gap_change,
    round(departures, 2) AS departures_estimate, {low("departures", "departures_unseen")} AS departures_lo,
    {high("departures", "departures_unseen")} AS departures_hi,
    round(arrivals, 2) AS arrivals_estimate, {low("arrivals", "arrivals_unseen")} AS arrivals_lo,
    {high("arrivals", "arrivals_unseen")} AS arrivals_hi
FROM day_flows WHERE steps > 0 ORDER BY station_id, hour_start
""",
    kept_days=DETAIL_DAYS,
)

MV_BIKE_TRIPS = Table(
    "mv_bike_trips",
    asset_names.MATERIALIZED_VIEWS,
    "Journeys of bikes, tracked by their id, that began or ended outside a station; one row per journey.",
    columns=(
        DT,
        Column("bike_id", "VARCHAR", "The bike's id in the feed, fb and bike number", sources=("station_id",)),
        Column("left_at", "TIMESTAMPTZ", "Last seen where it stood; null for station_to_free", sources=PLACE),
        Column("left_lat", "DOUBLE", "Where it stood before: latitude, WGS84", "deg", ("lat",)),
        Column("left_lon", "DOUBLE", "Where it stood before: longitude, WGS84", "deg", ("lon",)),
        Column("arrived_at", "TIMESTAMPTZ", "First seen where it was left; null for free_to_station", sources=PLACE),
        Column("arrived_lat", "DOUBLE", "Where it was left: latitude, WGS84", "deg", ("lat",)),
        Column("arrived_lon", "DOUBLE", "Where it was left: longitude, WGS84", "deg", ("lon",)),
        Column("distance_m", "INTEGER", "Between the two places; null if one is unknown", "m", ("lat", "lon")),
        Column("idle_h_before", "DOUBLE", "Hours that it had stood there on this day before it left", "h", PLACE),
        Column("kind", "VARCHAR", "free_to_free, free_to_station or station_to_free", sources=PLACE),
    ),
    refreshed=Refreshed.BY_DAY,
    formula=(
        f"{STAYS}. Between two stays of a bike no more than {MAX_RIDE_HOURS} h apart there is one journey, "
        f"`free_to_free`. A stay that ends otherwise, before the day's last snapshot, is followed by a "
        f"`free_to_station`; one that begins otherwise, after the day's first, is preceded by a `station_to_free`. "
        f"distance_m is the great circle between the two places."
    ),
    limits=(
        "Only free-standing bikes have an id in the feed: journeys from station to station do not appear here (see "
        "mv_flows). The unseen end need not be a station: a bike that is in use, in repair or missing from the feed "
        "looks the same. A journey over midnight becomes two halves. Over a gap in the snapshots, left_at and "
        "arrived_at are when "
        "it was last and first seen, so the ride was shorter. The distance ridden is longer than distance_m."
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
        CASE WHEN rides_on THEN round({metres("last_lat", "last_lon", "next_lat", "next_lon")})::INTEGER END
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

MV_REFRESHES = Table(
    "mv_refreshes",
    asset_names.MATERIALIZED_VIEWS,
    "The content of the mv_ tables: one row per table and partition, or for a whole table.",
    columns=(
        Column("table_name", "VARCHAR", "The table, without the schema"),
        Column("dt", "DATE", "The partition; null for a table that is replaced as a whole"),
        Column("refreshed_at", "TIMESTAMPTZ", "When the rows were written"),
        Column("rows", "INTEGER", "Number of rows", "rows"),
        Column("source", "VARCHAR", "Identity of their source"),
    ),
    refreshed=Refreshed.LEDGER,
    formula=(
        "Written in the same transaction as the rows. source identifies the enhanced object (its ETag) and the "
        "definition that the rows were made from; if the source changes, they are made again."
    ),
    limits="refreshed_at is when the rows were written, not when they were last found to be up to date.",
)


DAILY_VIEWS = (
    MV_DAILY_AGGREGATES,
    MV_STATION_HOURLY,
    MV_STATION_STEPS,
    MV_CITY_HOURLY,
    MV_FLOWS,
    MV_DEPARTURES,
    MV_DEPARTURES_FIT,
    MV_BIKE_TRIPS,
)

"""The datasets of the report's pages: one query each, which the page shows below its result."""

from collections.abc import Mapping

from wrm_pipeline.domain.full_and_empty import EMPTY_SQL, FULL_SQL
from wrm_pipeline.report.answers import Dataset
from wrm_pipeline.report.planning import GOOD, PLAN, RIDES

# "A day" can show 29 days; the usual value of a weekday is the mean of up to eight earlier ones, 56 days. By file,
# `data/<file>.js`, and name in it.
DATASETS: Mapping[str, Mapping[str, Dataset]] = {
    "city": {
        "stations": Dataset(
            ("mv_station_latest",),
            """
SELECT station_id, name, round(lat, 6) AS lat, round(lon, 6) AS lon, bikes, spaces, total_docks, pedelecs,
       outside_service_area, file_timestamp
FROM wrm_analytics.mv_station_latest
ORDER BY station_id""",
        ),
        "bikes": Dataset(
            ("mv_bike_latest",),
            """
SELECT station_id, name, round(lat, 6) AS lat, round(lon, 6) AS lon, battery_pct, round(idle_h, 1) AS idle_h,
       outside_service_area, file_timestamp
FROM wrm_analytics.mv_bike_latest
ORDER BY station_id""",
        ),
        "snapshots": Dataset(
            ("mv_daily_aggregates",),
            """
SELECT dt, snapshots
FROM wrm_analytics.mv_daily_aggregates
ORDER BY dt DESC
LIMIT 1""",
        ),
    },
    "day": {
        "hours": Dataset(
            ("mv_city_hourly",),
            """
WITH parked AS (
    SELECT *, bikes_at_stations_mean + coalesce(free_bikes_mean, 0) AS parked
    FROM wrm_analytics.mv_city_hourly
), fleet AS (
    -- Bikes out: the most that were parked in an hour of this day, less those parked in this hour.
    SELECT *, max(parked) OVER (PARTITION BY dt) - parked AS bikes_out
    FROM parked
)
SELECT dt, hour_start, local_hour,
       round(bikes_out, 1) AS bikes_out, round(avg(bikes_out) OVER usual, 1) AS bikes_out_usual,
       round(stations_empty_mean, 1) AS empty, round(avg(stations_empty_mean) OVER usual, 1) AS empty_usual,
       round(stations_full_mean, 1) AS "full", round(avg(stations_full_mean) OVER usual, 1) AS full_usual
FROM fleet
WINDOW usual AS (
    PARTITION BY isodow(dt), local_hour ORDER BY dt
    RANGE BETWEEN INTERVAL 56 DAYS PRECEDING AND INTERVAL 1 DAY PRECEDING
)
QUALIFY dt > max(dt) OVER () - 29
ORDER BY hour_start""",
        ),
        "rides": Dataset(
            ("mv_flows",),
            """
WITH hourly AS (
    SELECT dt, hour_start, local_hour, sum(departures) AS departures, sum(arrivals) AS arrivals
    FROM wrm_analytics.mv_flows
    GROUP BY ALL
)
SELECT dt, hour_start, local_hour, departures::BIGINT AS departures, arrivals::BIGINT AS arrivals,
       round(avg(departures) OVER usual, 1) AS departures_usual
FROM hourly
WINDOW usual AS (
    PARTITION BY isodow(dt), local_hour ORDER BY dt
    RANGE BETWEEN INTERVAL 56 DAYS PRECEDING AND INTERVAL 1 DAY PRECEDING
)
QUALIFY dt > max(dt) OVER () - 29
ORDER BY hour_start""",
        ),
        "days": Dataset(
            ("mv_daily_aggregates",),
            """
SELECT dt, snapshots, active_stations, round(bikes_mean, 1) AS bikes_mean, bikes_min, bikes_max,
       round(free_bikes_mean, 1) AS free_bikes_mean, round(share_empty, 4) AS share_empty,
       round(share_full, 4) AS share_full
FROM wrm_analytics.mv_daily_aggregates
ORDER BY dt DESC
LIMIT 60""",
        ),
    },
    "stations": {
        "stations": Dataset(
            ("mv_station_latest",),
            f"""
SELECT station_id, name, bikes, pedelecs, spaces, total_docks, round(fill, 4) AS fill, {EMPTY_SQL} AS empty,
       {FULL_SQL} AS "full", over_capacity, no_docks,
       outside_service_area, stale, round(lat, 6) AS lat, round(lon, 6) AS lon, "timestamp", file_timestamp
FROM wrm_analytics.mv_station_latest
ORDER BY name, station_id""",
        ),
        # Names that a station had before, whatever its number was then.
        "former": Dataset(
            ("stations_history",),
            """
SELECT station_id, list(DISTINCT before.name ORDER BY before.name) AS names
FROM wrm_analytics.stations_history AS now
JOIN (SELECT station_key, name FROM wrm_analytics.stations_history) AS before USING (station_key)
WHERE now.valid_to IS NULL AND before.name <> now.name
GROUP BY station_id
ORDER BY station_id""",
        ),
        "week": Dataset(
            ("mv_station_hourly",),
            """
SELECT station_id, round(sum(bikes_mean * snapshots) / sum(snapshots), 1) AS bikes_mean,
       round(sum(share_empty * snapshots) / sum(snapshots), 4) AS share_empty,
       round(sum(share_full * snapshots) / sum(snapshots), 4) AS share_full
FROM wrm_analytics.mv_station_hourly
WHERE dt > (SELECT max(dt) FROM wrm_analytics.mv_station_hourly) - 7
GROUP BY station_id
ORDER BY station_id""",
        ),
        "coming": Dataset(
            ("mv_rebalancing",),
            """
SELECT station_id, empty_at, full_at, profile_days
FROM wrm_analytics.mv_rebalancing
ORDER BY station_id""",
        ),
        "forecast": Dataset(
            ("mv_forecast",),
            """
SELECT station_id, min(made_at) AS made_at, list(target_at ORDER BY horizon_min) AS target_at,
       list(bikes_expected ORDER BY horizon_min) AS bikes_expected,
       list(horizon_min ORDER BY horizon_min) AS horizon_min,
       list(round(bikes_p10, 1) ORDER BY horizon_min) AS bikes_p10,
       list(round(bikes_p90, 1) ORDER BY horizon_min) AS bikes_p90,
       list(round(p_no_bike, 2) ORDER BY horizon_min) AS p_no_bike,
       list(round(p_no_dock, 2) ORDER BY horizon_min) AS p_no_dock
FROM wrm_analytics.mv_forecast
GROUP BY station_id
ORDER BY station_id""",
        ),
        "skill": Dataset(
            ("forecast_skill",),
            """
WITH scored AS (
    SELECT station_id, horizon_min, sum(share_in_band * forecasts) / sum(forecasts) AS share_in_band,
           sum(error_mean * forecasts) / sum(forecasts) AS error_mean
    FROM wrm_analytics.forecast_skill
    WHERE dt > (SELECT max(dt) FROM wrm_analytics.forecast_skill) - 7
    GROUP BY station_id, horizon_min
)
SELECT station_id, list(round(share_in_band, 2) ORDER BY horizon_min) AS share_in_band,
       list(round(error_mean, 1) ORDER BY horizon_min) AS error_mean,
       list(horizon_min ORDER BY horizon_min) AS horizon_min
FROM scored
GROUP BY station_id
ORDER BY station_id""",
        ),
    },
    "weeks": {
        "hours": Dataset(
            ("mv_station_hourly",),
            """
WITH hourly AS (
    -- The hour that comes twice on the day when summer time ends is one here.
    SELECT station_id, dt, local_hour, sum(bikes_mean * snapshots) / sum(snapshots) AS bikes,
           sum(share_empty * snapshots) / sum(snapshots) AS share_empty,
           sum(share_full * snapshots) / sum(snapshots) AS share_full
    FROM wrm_analytics.mv_station_hourly
    WHERE dt > (SELECT max(dt) FROM wrm_analytics.mv_station_hourly) - 7
    GROUP BY ALL
)
SELECT station_id, dt, list(local_hour ORDER BY local_hour) AS local_hours,
       list(round(bikes, 1) ORDER BY local_hour) AS bikes,
       list(round(100 * share_empty)::INTEGER ORDER BY local_hour) AS empty_percent,
       list(round(100 * share_full)::INTEGER ORDER BY local_hour) AS full_percent
FROM hourly
GROUP BY station_id, dt
ORDER BY station_id, dt""",
        ),
        "flows": Dataset(
            ("mv_flows",),
            """
SELECT station_id, round(sum(departures) / count(DISTINCT dt), 1) AS departures_per_day,
       round(sum(arrivals) / count(DISTINCT dt), 1) AS arrivals_per_day
FROM wrm_analytics.mv_flows
WHERE dt > (SELECT max(dt) FROM wrm_analytics.mv_flows) - 7
GROUP BY station_id
ORDER BY station_id""",
        ),
    },
    "quality": {
        "accounting": Dataset(
            ("quality_accounting",),
            """
SELECT dt, snapshots, lines_in, rows_out, dead_lettered, duplicate_rows, remark_lines, first_snapshot, last_snapshot
FROM wrm_analytics.quality_accounting
ORDER BY dt DESC
LIMIT 60""",
        ),
        "rules": Dataset(
            ("quality_rules", "quality_rule_hits"),
            """
SELECT rules.rule, any_value(rules.severity) AS severity, any_value(rules.reason) AS reason,
       arg_max(hits.hits, hits.dt) AS newest_hits, arg_max(hits.rows_checked, hits.dt) AS newest_rows,
       max(hits.dt) AS newest_dt, coalesce(sum(hits.hits), 0)::BIGINT AS hits_28_days,
       list(hits.hits ORDER BY hits.dt) FILTER (hits.dt IS NOT NULL) AS hits_by_day
FROM wrm_analytics.quality_rules AS rules
LEFT JOIN (
    FROM wrm_analytics.quality_rule_hits
    WHERE dt > (SELECT max(dt) FROM wrm_analytics.quality_rule_hits) - 28
) AS hits USING (rule)
GROUP BY rules.rule
ORDER BY hits_28_days DESC, rules.rule""",
        ),
        "anomalies": Dataset(
            ("quality_anomalies",),
            """
SELECT dt, hour_start, station_id, name, "method", round(score, 2) AS score, reason
FROM wrm_analytics.quality_anomalies
WHERE dt > (SELECT max(dt) FROM wrm_analytics.quality_anomalies) - 7
ORDER BY score DESC
LIMIT 500""",
        ),
        "profile": Dataset(
            ("quality_profile",),
            """
SELECT dt, column_name, "rows", "nulls", distinct_values, minimum::VARCHAR AS minimum, maximum::VARCHAR AS maximum,
       round(mean, 3) AS mean, round(drift, 4) AS drift
FROM wrm_analytics.quality_profile
WHERE dt = (SELECT max(dt) FROM wrm_analytics.quality_profile)
ORDER BY column_name""",
        ),
        "freshness": Dataset(
            ("catalog_tables",),
            """
SELECT kind, name, asset, refreshed_at, newest_dt
FROM wrm_analytics.catalog_tables
ORDER BY refreshed_at NULLS FIRST, kind, name""",
        ),
    },
    "rides": RIDES,
    "plan": PLAN,
    "good": GOOD,
    "catalog": {
        "tables": Dataset(
            ("catalog_tables",),
            """
SELECT kind, name, description, layer, owner, asset, sources, refreshed_at, newest_dt, row_count, rows_counted, place
FROM wrm_analytics.catalog_tables
ORDER BY kind DESC, name""",
        ),
        "columns": Dataset(
            ("catalog_columns",),
            """
SELECT table_name, "position", column_name, "type", unit, nullable, description, sources, samples
FROM wrm_analytics.catalog_columns
ORDER BY table_name, "position\"""",
        ),
    },
    "lineage": {
        "assets": Dataset(
            ("catalog_tables",),
            """
SELECT assets.name, assets.layer, assets.description, assets.sources, assets.refreshed_at,
       list(tables.name ORDER BY tables.name) FILTER (tables.name IS NOT NULL) AS tables
FROM wrm_analytics.catalog_tables AS assets
LEFT JOIN wrm_analytics.catalog_tables AS tables ON tables.asset = assets.name AND tables.kind <> 'asset'
WHERE assets.kind = 'asset'
GROUP BY ALL
ORDER BY assets.name""",
        ),
    },
}

# The cells are joined into larger squares before they go into `data/city.js`.
CELLS = Dataset(
    ("bike_density_spatial_analysis_latest",),
    """
SELECT cell_x, cell_y, south, west, north, east, bikes_mean, bikes_max, stations, density_per_km2
FROM wrm_analytics.bike_density_spatial_analysis_latest""",
)

"""The datasets of the report's pages: one query each, which the page shows below its result.

A dataset whose tables do not exist yet is omitted, and its page says which asset makes them.
"""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa

from wrm_pipeline.domain.full_and_empty import EMPTY_SQL, FULL_SQL
from wrm_pipeline.domain.shown import shortened


@dataclass(frozen=True, slots=True)
class Dataset:
    """One query over tables of `wrm_analytics`, all of whose names are in `tables`."""

    tables: tuple[str, ...]
    sql: str


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
       list(round(bikes_p10, 1) ORDER BY horizon_min) AS bikes_p10,
       list(round(bikes_p90, 1) ORDER BY horizon_min) AS bikes_p90,
       list(round(p_no_bike, 2) ORDER BY horizon_min) AS p_no_bike,
       list(round(p_no_dock, 2) ORDER BY horizon_min) AS p_no_dock
FROM wrm_analytics.mv_forecast
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
        "feeds": Dataset(
            ("quality_feeds",),
            """
SELECT dt, feed, sum(snapshots)::BIGINT AS snapshots, sum(sound)::BIGINT AS sound, sum(published)::BIGINT AS published,
       min(hour_start) FILTER (published > 0) AS published_from, max(hour_start) FILTER (published > 0) AS published_to,
       max(longest_silence_s) AS longest_silence_s, arg_max(reason, hour_start) FILTER (reason IS NOT NULL) AS reason
FROM wrm_analytics.quality_feeds
WHERE dt > (SELECT max(dt) FROM wrm_analytics.quality_feeds) - 28
GROUP BY dt, feed
ORDER BY dt DESC, published DESC, feed""",
        ),
        "skill": Dataset(
            ("forecast_skill",),
            """
SELECT horizon_min, count(DISTINCT dt) AS days, max(dt) AS newest_dt,
       round(sum(error_mean * forecasts) / sum(forecasts), 3) AS error_mean,
       round(sum(error_mean_persistence * forecasts) / sum(forecasts), 3) AS error_mean_persistence,
       round(sum(brier_no_bike * forecasts) / sum(forecasts), 4) AS brier_no_bike,
       round(sum(brier_no_bike_persistence * forecasts) / sum(forecasts), 4) AS brier_no_bike_persistence,
       round(sum(share_in_band * forecasts) / sum(forecasts), 3) AS share_in_band
FROM wrm_analytics.forecast_skill
WHERE dt > (SELECT max(dt) FROM wrm_analytics.forecast_skill) - 7
GROUP BY horizon_min
ORDER BY horizon_min""",
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

# When each table was last made, for the line below each figure.
REFRESHED = Dataset(
    ("catalog_tables",),
    "SELECT name, refreshed_at FROM wrm_analytics.catalog_tables WHERE kind <> 'asset' AND refreshed_at IS NOT NULL",
)


# Of a value in a page: the SQL of a view is our longest.
MAX_VALUE_LENGTH = 20_000


@dataclass(frozen=True, slots=True)
class Answers:
    """The database's answers; `missing` contains the tables that were requested but do not exist."""

    existing: Collection[str] = ()
    query: Callable[[str], pa.Table] | None = None
    missing: set[str] = field(default_factory=set)

    def rows(self, dataset: Dataset) -> pa.Table | None:
        """The result, or None if a table is missing."""
        absent = set(dataset.tables) - set(self.existing)
        self.missing.update(absent)
        return None if absent or self.query is None else self.query(dataset.sql.strip())

    def refreshed(self) -> dict[str, datetime]:
        """When each table was last made; empty without a catalog."""
        found = self.rows(REFRESHED)
        return {} if found is None else {row["name"]: row["refreshed_at"] for row in found.to_pylist()}

    def page_value(self, dataset: Dataset, refreshed: Mapping[str, datetime]) -> dict[str, Any]:
        """A dataset as the page needs it, with its source."""
        found, about = self.rows(dataset), self.about(dataset, refreshed)
        if found is None:
            return about | {"columns": [], "rows": []}
        columns = [[plain(value) for value in column.to_pylist()] for column in found.columns]
        return about | {"columns": found.schema.names, "rows": list(zip(*columns, strict=True))}

    def about(self, dataset: Dataset, refreshed: Mapping[str, datetime]) -> dict[str, Any]:
        """The source of a dataset, without its rows."""
        return {
            "tables": [f"wrm_analytics.{table}" for table in dataset.tables],
            "missing": sorted(set(dataset.tables) - set(self.existing)),
            "refreshed": plain(min((refreshed[table] for table in dataset.tables if table in refreshed), default=None)),
            "sql": dataset.sql.strip(),
        }


def plain(value: Any) -> Any:
    """A value for JSON: instants in UTC, dates as YYYY-MM-DD, no NaN."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, float):
        return None if not math.isfinite(value) else int(value) if value.is_integer() else value
    if isinstance(value, Decimal):
        return plain(float(value))
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return shortened(value, MAX_VALUE_LENGTH) if isinstance(value, str) else value

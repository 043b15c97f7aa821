"""The datasets of the pages Rides, Plan and How good are we.

The half-width of a range of a sum is the root of the sum of the squares of the half-widths: stations and hours err
independently of each other.
"""

from collections.abc import Mapping

from wrm_pipeline.report.answers import Dataset

_FLOWS = ("mv_flows.departures_estimate", "mv_flows.departures_lo", "mv_flows.departures_hi")


def _half_width(column: str) -> str:
    return f"sqrt(sum((({column}_hi - {column}_lo) / 2) ** 2))"


def _summed(column: str, name: str = "") -> str:
    """SQL of a sum with its range: three columns `name`, `name_lo`, `name_hi`."""
    total, name = f"sum({column})", name or column
    half_width = _half_width(column.removesuffix("_estimate"))
    return (
        f"round({total}, 1) AS {name},\n"
        f"       CASE WHEN {total} IS NOT NULL THEN round(greatest(0, {total} - {half_width}), 1) END AS {name}_lo,\n"
        f"       round({total} + {half_width}, 1) AS {name}_hi"
    )


_PLACES = Dataset(
    ("mv_station_latest",),
    """
SELECT station_id, name, round(lat, 6) AS lat, round(lon, 6) AS lon
FROM wrm_analytics.mv_station_latest
ORDER BY name, station_id""",
)

RIDES: Mapping[str, Dataset] = {
    "stations": _PLACES,
    "hours": Dataset(
        ("mv_flows",),
        f"""
SELECT dt, hour_start, local_hour, {_summed("departures_estimate", "estimate")},
       sum(departures)::BIGINT AS seen
FROM wrm_analytics.mv_flows
WHERE dt > (SELECT max(dt) FROM wrm_analytics.mv_flows) - 29
GROUP BY dt, hour_start, local_hour
ORDER BY hour_start""",
        _FLOWS,
    ),
    "days": Dataset(
        ("mv_departures",),
        f"""
SELECT dt, {_summed("departures")}
FROM wrm_analytics.mv_departures
GROUP BY dt
ORDER BY dt DESC
LIMIT 60""",
    ),
    "turnover": Dataset(
        ("mv_turnover",),
        """
SELECT dt, bikes, rides, rides_per_bike, "method"
FROM wrm_analytics.mv_turnover
ORDER BY dt DESC
LIMIT 60""",
    ),
    "known": Dataset(
        ("mv_rides",),
        """
SELECT dt, count(*) FILTER (kind = 'ride') AS rides, count(*) FILTER (kind = 'same_place') AS round_trips,
       count(*) FILTER (kind = 'relocation') AS relocations,
       round(median(duration_s) FILTER (kind = 'ride') / 60, 1) AS minutes_median,
       round(median(distance_m) FILTER (kind = 'ride') / 1000, 2) AS km_median
FROM wrm_analytics.mv_rides
WHERE dt > (SELECT max(dt) FROM wrm_analytics.mv_rides) - 29
GROUP BY dt
ORDER BY dt DESC""",
    ),
    "pairs": Dataset(
        ("mv_origin_destination",),
        """
SELECT left_station_id, arrived_station_id, sum(rides)::INTEGER AS rides,
       round(sum(duration_s_median * rides) / sum(rides) / 60, 1) AS minutes, min(dt) AS first_dt, max(dt) AS last_dt,
       count(*) OVER () AS pairs
FROM wrm_analytics.mv_origin_destination
WHERE dt > (SELECT max(dt) FROM wrm_analytics.mv_origin_destination) - 7
      AND left_station_id <> '' AND arrived_station_id <> ''
GROUP BY left_station_id, arrived_station_id
ORDER BY rides DESC, left_station_id, arrived_station_id
LIMIT 4000""",
    ),
    "idle": Dataset(
        ("mv_idle_bikes",),
        """
SELECT bike_id, station_id, round(lat, 5) AS lat, round(lon, 5) AS lon, since, round(idle_h, 1) AS idle_h, battery_pct,
       seen_at
FROM wrm_analytics.mv_idle_bikes
WHERE NOT outside_service_area
ORDER BY idle_h DESC, bike_id
LIMIT 300""",
    ),
    "free": Dataset(
        ("mv_bike_latest",),
        """
SELECT station_id AS bike_id, round(lat, 5) AS lat, round(lon, 5) AS lon, standing_since AS since,
       round(idle_h, 1) AS idle_h, battery_pct, file_timestamp AS seen_at
FROM wrm_analytics.mv_bike_latest
WHERE NOT outside_service_area
ORDER BY idle_h DESC, bike_id
LIMIT 300""",
    ),
}

PLAN: Mapping[str, Dataset] = {
    "stations": _PLACES,
    "vans": Dataset(
        ("mv_rebalancing",),
        """
SELECT station_id, name, bikes, total_docks, van, bikes_to_move, needed_by, round(p_no_bike, 2) AS p_no_bike,
       round(p_no_dock, 2) AS p_no_dock, round(hit_rate, 2) AS hit_rate, file_timestamp
FROM wrm_analytics.mv_rebalancing
WHERE van IS NOT NULL
ORDER BY needed_by, station_id""",
        tuple(
            f"mv_rebalancing.{name}"
            for name in ("van", "bikes_to_move", "needed_by", "p_no_bike", "p_no_dock", "hit_rate")
        ),
    ),
    "lost": Dataset(
        ("mv_lost_demand",),
        f"""
SELECT station_id, round(sum(minutes_empty) / 60, 1) AS hours_empty, {_summed("departures_lost")},
       count(DISTINCT dt) AS days, min(dt) AS first_dt, max(dt) AS last_dt
FROM wrm_analytics.mv_lost_demand
WHERE dt > (SELECT max(dt) FROM wrm_analytics.mv_lost_demand) - 7
GROUP BY station_id
ORDER BY departures_lost DESC, station_id""",
    ),
    "lost_hours": Dataset(
        ("mv_lost_demand",),
        f"""
SELECT local_hour, {_summed("departures_lost")}, min(dt) AS first_dt, max(dt) AS last_dt
FROM wrm_analytics.mv_lost_demand
WHERE dt > (SELECT max(dt) FROM wrm_analytics.mv_lost_demand) - 7
GROUP BY local_hour
ORDER BY local_hour""",
    ),
    "ranking": Dataset(
        ("mv_station_hours",),
        """
SELECT station_id, max(days) AS days,
       round(sum(minutes_empty) FILTER (NOT free_day) / 60, 1) AS empty_h,
       round(sum(minutes_full) FILTER (NOT free_day) / 60, 1) AS full_h,
       round(sum(minutes_empty) FILTER (free_day) / 60, 1) AS empty_h_weekend,
       round(sum(minutes_full) FILTER (free_day) / 60, 1) AS full_h_weekend
FROM wrm_analytics.mv_station_hours
GROUP BY station_id
ORDER BY empty_h DESC, station_id""",
    ),
    "imbalance": Dataset(
        ("mv_imbalance",),
        """
SELECT station_id, free_day, max(days) AS days, list(local_hour ORDER BY local_hour) AS local_hours,
       list(round(imbalance, 1) ORDER BY local_hour) AS imbalance,
       list(round(arrivals, 1) ORDER BY local_hour) AS arrivals,
       list(round(departures, 1) ORDER BY local_hour) AS departures
FROM wrm_analytics.mv_imbalance
GROUP BY station_id, free_day
ORDER BY station_id, free_day""",
    ),
}

GOOD: Mapping[str, Dataset] = {
    # Consecutive hours with snapshots of a feed other than the usual one, which is that with the most.
    "takeovers": Dataset(
        ("quality_feeds",),
        """
WITH hours AS (
    SELECT feed, hour_start, published FROM wrm_analytics.quality_feeds
    WHERE published > 0 AND dt > (SELECT max(dt) FROM wrm_analytics.quality_feeds) - 28
), usual AS (
    SELECT feed FROM hours GROUP BY feed ORDER BY sum(published) DESC, feed LIMIT 1
), others AS (
    SELECT hours.*, usual.feed AS usual_feed,
           hour_start - row_number() OVER (PARTITION BY hours.feed ORDER BY hour_start) * INTERVAL 1 HOUR AS stretch
    FROM hours JOIN usual ON hours.feed <> usual.feed
)
SELECT feed, usual_feed, min(hour_start) AS begins_at, max(hour_start) + INTERVAL 1 HOUR AS ends_at,
       sum(published)::BIGINT AS snapshots
FROM others
GROUP BY feed, usual_feed, stretch
ORDER BY ends_at DESC, feed
LIMIT 1""",
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
    "skill_days": Dataset(
        ("forecast_skill",),
        """
SELECT dt, round(sum(error_mean * forecasts) / sum(forecasts), 3) AS error_mean,
       round(sum(error_mean_persistence * forecasts) / sum(forecasts), 3) AS error_mean_persistence
FROM wrm_analytics.forecast_skill
WHERE horizon_min = 60
GROUP BY dt
ORDER BY dt DESC
LIMIT 60""",
    ),
    "ledger": Dataset(
        ("ride_comparison",),
        """
SELECT dt, ledger_rides, found, missed, seen_rides, invented, round(share_found, 4) AS share_found,
       round(share_missed, 4) AS share_missed, round(share_invented, 4) AS share_invented, failed_rentals, van_rides,
       unmatched_ends
FROM wrm_analytics.ride_comparison
ORDER BY dt DESC
LIMIT 60""",
    ),
    "flows": Dataset(
        ("mv_departures", "ride_comparison"),
        f"""
WITH estimated AS (
    SELECT dt, {_summed("departures")}
    FROM wrm_analytics.mv_departures
    GROUP BY dt
)
SELECT dt, station_rentals AS rentals, departures, departures_lo, departures_hi,
       round(departures / nullif(station_rentals, 0) - 1, 4) AS off_by
FROM estimated
JOIN wrm_analytics.ride_comparison USING (dt)
ORDER BY dt DESC
LIMIT 60""",
    ),
}

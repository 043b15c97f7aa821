"""The tables of the forecast: the newest one, what it means for vans, and how good those of each day were."""

from wrm_pipeline.analytics.registry.answers import latest_of
from wrm_pipeline.analytics.registry.columns import DT, NAME, STATION_ID
from wrm_pipeline.analytics.registry.model import SCHEMA, Column, Refreshed, Table
from wrm_pipeline.domain import asset_names
from wrm_pipeline.domain.forecast import CALLED_FROM
from wrm_pipeline.domain.full_and_empty import EMPTY_SQL, FULL_SQL

_COUNTS = ("bikes", "spaces", "total_docks", "file_timestamp")

MV_FORECAST = Table(
    "mv_forecast",
    asset_names.FORECAST,
    "The newest forecast: each station's bikes in 15 minutes to 6 hours; one row per station and horizon.",
    columns=(
        STATION_ID,
        Column("made_at", "TIMESTAMPTZ", "Time of the newest snapshot that it knows", sources=("file_timestamp",)),
        Column("target_at", "TIMESTAMPTZ", "The instant that is forecast", sources=("file_timestamp",)),
        Column("horizon_min", "INTEGER", "From made_at to target_at: 15, 30, 60, 120, 180 or 360", "min"),
        Column("bikes_expected", "DOUBLE", "The median, a whole number", "bikes", _COUNTS),
        Column("bikes_p10", "DOUBLE", "10 % quantile; null where there is nothing to learn from", "bikes", _COUNTS),
        Column("bikes_p90", "DOUBLE", "90 % quantile; null where there is nothing to learn from", "bikes", _COUNTS),
        Column("p_no_bike", "DOUBLE", "Probability that the station is empty", "share", _COUNTS),
        Column("p_no_dock", "DOUBLE", "Probability that it is full; 0 for one without docks", "share", _COUNTS),
        Column("method", "VARCHAR", "lightgbm, or persistence where no prediction beats the count of now"),
    ),
    key=("station_id", "horizon_min"),
    refreshed=Refreshed.EVERY_RUN,
    formula="docs/answers.md says what is learnt from which days, and how sure it is.",
    limits="Weather, events and vans are not known to it. A station missing from the newest snapshots has none.",
    sources=("wrm_stations_only",),
)

# Stations as they are now: the rows of STATIONS_NOW_SQL, whose parameter is the number of days learnt from.
STATIONS_NOW = "stations_now"
STATIONS_NOW_SQL = f"""
SELECT station_id, name, bikes, spaces, total_docks, file_timestamp, dt, ?::INTEGER AS profile_days
FROM {SCHEMA}.wrm_stations_latest
"""
# Hours ahead, of the horizons in order: those between 3 and 6 are interpolated.
_BY_HOUR_SQL = "[h[3], h[4], h[5], h[5] + (h[6] - h[5]) / 3, h[5] + 2 * (h[6] - h[5]) / 3, h[6]]"
# Calls of a station below this number say less than those of the city.
MIN_CALLS = 20
# Days of forecast_skill that the hit rate is of.
HIT_DAYS = 28

MV_REBALANCING = Table(
    "mv_rebalancing",
    asset_names.FORECAST,
    "Where a van will be needed in the next 6 hours, for how many bikes, and how sure that is; one row per station.",
    columns=(
        STATION_ID,
        NAME,
        Column("bikes", "INTEGER", "Bikes at the station now", "bikes", ("bikes",)),
        Column("total_docks", "INTEGER", "Total docks; may be 0; null where unknown", "docks", ("total_docks",)),
        Column(
            "expected_bikes",
            "DOUBLE[]",
            "Bikes expected in 1, 2, 3, 4, 5 and 6 hours, 4 and 5 interpolated; null without a forecast",
            "bikes",
            _COUNTS,
        ),
        Column("empty_at", "TIMESTAMPTZ", "When it is expected to be empty; null: not in these hours", sources=_COUNTS),
        Column("full_at", "TIMESTAMPTZ", "When it is expected to be full; null: not in these hours", sources=_COUNTS),
        Column("profile_days", "INTEGER", "Days that the forecast has learnt from; 0 without a model", "days"),
        Column("file_timestamp", "TIMESTAMPTZ", "Time of the newest snapshot", sources=("file_timestamp",)),
        DT,
        Column("van", "VARCHAR", "bring, take, or null where no van is needed", sources=_COUNTS),
        Column("bikes_to_move", "INTEGER", "Bikes to bring or to take", "bikes", _COUNTS),
        Column("needed_by", "TIMESTAMPTZ", "When: empty_at or full_at", sources=_COUNTS),
        Column("p_no_bike", "DOUBLE", "Probability of no bike, the largest of the coming hours", "share", _COUNTS),
        Column("p_no_dock", "DOUBLE", "Probability of no free dock, the largest of the coming hours", "share", _COUNTS),
        Column("hit_rate", "DOUBLE", "Share of earlier calls of that kind that came true; null before any", "share"),
        Column("method", "VARCHAR", "lightgbm, or persistence where the forecast is that nothing changes"),
    ),
    key=("station_id",),
    refreshed=Refreshed.EVERY_RUN,
    formula=(
        f"Empty is called where mv_forecast gives it a probability of {CALLED_FROM} or more; empty_at is now if the "
        "station is empty, else the first such target_at; full likewise. van is for what is more probable. Brought is "
        "what makes a third of the docks at the hour with fewest bikes expected, taken what leaves two thirds at the "
        f"hour with most; at least one bike. hit_rate is of the last {HIT_DAYS} days in forecast_skill, all horizons: "
        f"the station's own with {MIN_CALLS} calls or more, else the city's."
    ),
    limits=(
        "Weather, events and vans under way are not known to it. A station without docks is never empty or full. "
        "The expected bikes ignore people who find none, so what is brought may not be enough."
    ),
    sql=f"""
WITH hits AS (
    SELECT station_id, sum(told_empty) AS told_empty, sum(told_empty_right) AS empty_right, sum(told_full) AS told_full,
        sum(told_full_right) AS full_right
    FROM {SCHEMA}.forecast_skill
    WHERE dt > (SELECT max(dt) FROM {SCHEMA}.forecast_skill) - {HIT_DAYS}
    GROUP BY station_id
), city AS (
    SELECT sum(empty_right) / nullif(sum(told_empty), 0) AS empty_hits, sum(full_right) / nullif(sum(told_full), 0)
        AS full_hits
    FROM hits
), coming AS (
    SELECT
        station_id, made_at, max(p_no_bike) AS p_no_bike, max(p_no_dock) AS p_no_dock,
        min(target_at) FILTER (p_no_bike >= {CALLED_FROM}) AS empty_at,
        min(target_at) FILTER (p_no_dock >= {CALLED_FROM}) AS full_at,
        min(bikes_expected) AS least_bikes, max(bikes_expected) AS most_bikes,
        list(bikes_expected ORDER BY horizon_min) AS h, min(method) AS method
    FROM {SCHEMA}.mv_forecast GROUP BY station_id, made_at
), stations AS (
    SELECT
        latest.*, coming.* EXCLUDE (station_id, empty_at, full_at),
        now,
        CASE WHEN {EMPTY_SQL} THEN now WHEN total_docks > 0 THEN empty_at END AS empty_at,
        CASE WHEN {FULL_SQL} THEN now WHEN total_docks > 0 THEN full_at END AS full_at,
        CASE
            WHEN coming.empty_at IS NOT NULL AND total_docks > 0 AND p_no_bike >= p_no_dock THEN 'bring'
            WHEN coming.full_at IS NOT NULL AND total_docks > 0 THEN 'take'
        END AS van
    FROM {STATIONS_NOW} AS latest LEFT JOIN coming USING (station_id),
        (SELECT max(made_at) AS now FROM coming)
)
SELECT
    station_id, name, bikes, total_docks, CASE WHEN h IS NOT NULL THEN {_BY_HOUR_SQL} END AS expected_bikes,
    empty_at, full_at, profile_days, now AS file_timestamp, dt, van,
    CASE van
        WHEN 'bring' THEN greatest(1, ceil(total_docks / 3) - least_bikes)
        WHEN 'take' THEN greatest(1, most_bikes - floor(total_docks * 2 / 3))
    END::INTEGER AS bikes_to_move,
    CASE van WHEN 'bring' THEN empty_at WHEN 'take' THEN full_at END AS needed_by,
    p_no_bike, p_no_dock,
    round(CASE van
        WHEN 'bring' THEN CASE WHEN told_empty >= {MIN_CALLS} THEN empty_right / told_empty ELSE empty_hits END
        WHEN 'take' THEN CASE WHEN told_full >= {MIN_CALLS} THEN full_right / told_full ELSE full_hits END
    END, 3) AS hit_rate,
    method
FROM stations LEFT JOIN hits USING (station_id), city
ORDER BY station_id
""",
    sources=("mv_forecast", "forecast_skill", "wrm_stations_latest"),
)

FORECAST_SKILL = Table(
    "forecast_skill",
    asset_names.FORECAST_SKILL,
    "How good a day's forecasts were, beside persistence (nothing changes); one row per day, station and horizon.",
    columns=(
        Column("dt", "DATE", "The day on which they were made", sources=("dt",)),
        STATION_ID,
        Column("horizon_min", "INTEGER", "Minutes ahead", "min"),
        Column("forecasts", "INTEGER", "Forecasts whose outcome is known: one each 15 minutes", "forecasts"),
        Column("error_mean", "DOUBLE", "Mean of |bikes - bikes_expected|", "bikes", _COUNTS),
        Column("error_mean_persistence", "DOUBLE", "The same if nothing changes", "bikes", _COUNTS),
        Column("brier_no_bike", "DOUBLE", "Brier score of p_no_bike: 0 is perfect", "", _COUNTS),
        Column("brier_no_bike_persistence", "DOUBLE", "The same of 1 if it is empty now, else 0", "", _COUNTS),
        Column("share_in_band", "DOUBLE", "Share of outcomes within the band; 0.8 is meant", "share", _COUNTS),
        *(
            Column(f"{name}{kind}{right}", "INTEGER", text.format(kind=kind), "forecasts", _COUNTS)
            for kind in ("empty", "full")
            for name, right, text in (
                ("told_", "", f"Forecasts that called it {{kind}}: with a probability of {CALLED_FROM} or more"),
                ("told_", "_right", "Of these, those that came true: it was {kind}"),
                ("was_", "", "Forecasts after which it was {kind}, called or not"),
            )
        ),
    ),
    key=("dt", "station_id", "horizon_min"),
    refreshed=Refreshed.BY_PARTITION,
    formula=(
        "The forecasts of each quarter of an hour are made again by the model of that day, which has seen only the "
        "days before it, and compared with the counts that came true on the day."
    ),
    sources=("wrm_stations_only",),
)

FORECAST_TABLES = (MV_FORECAST, MV_REBALANCING, FORECAST_SKILL, latest_of(FORECAST_SKILL))

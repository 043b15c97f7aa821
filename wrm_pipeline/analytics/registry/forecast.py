"""The tables of the forecast: the newest one, and how good those of each day were."""

from wrm_pipeline.analytics.registry.answers import latest_of
from wrm_pipeline.analytics.registry.columns import STATION_ID
from wrm_pipeline.analytics.registry.model import Column, Refreshed, Table
from wrm_pipeline.domain import asset_names

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
    ),
    key=("dt", "station_id", "horizon_min"),
    refreshed=Refreshed.BY_PARTITION,
    formula=(
        "The forecasts of each quarter of an hour are made again by the model of that day, which has seen only the "
        "days before it, and compared with the counts that came true on the day."
    ),
    sources=("wrm_stations_only",),
)

FORECAST_TABLES = (MV_FORECAST, FORECAST_SKILL, latest_of(FORECAST_SKILL))

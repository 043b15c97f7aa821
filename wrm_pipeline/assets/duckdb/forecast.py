"""The forecast: what is learnt each night, what is expected now, and how good it was."""

import time
from datetime import date, timedelta
from typing import Any

import dagster as dg
import pyarrow as pa

from wrm_pipeline.analytics.answers import replace_days, replace_whole
from wrm_pipeline.analytics.database import SCHEMA, query_arrow
from wrm_pipeline.analytics.registry.forecast import (
    FORECAST_SKILL,
    MV_FORECAST,
    MV_REBALANCING,
    STATIONS_NOW,
    STATIONS_NOW_SQL,
)
from wrm_pipeline.assets.duckdb.views import create_duckdb_enhanced_views
from wrm_pipeline.assets.presentation import markdown_table, picture, table_metadata
from wrm_pipeline.assets.stations.fan_out import NOTHING
from wrm_pipeline.domain import asset_names
from wrm_pipeline.domain.forecast.holidays import holidays_of
from wrm_pipeline.domain.forecast.model import HORIZONS_MIN, ForecastModel
from wrm_pipeline.domain.layout import local_date
from wrm_pipeline.flows.forecast import Forecasts, score
from wrm_pipeline.report.plots import line_chart
from wrm_pipeline.resources.feed import ClockResource
from wrm_pipeline.resources.lake import LakeResource

_NEWEST_SQL = f"SELECT max(file_timestamp) AS newest FROM {SCHEMA}.wrm_stations_latest"
_EMPTY_SOON_SQL = f"""
SELECT station_id, bikes_expected, bikes_p10, bikes_p90, p_no_bike FROM {SCHEMA}.mv_forecast
WHERE horizon_min = 60 ORDER BY p_no_bike DESC, station_id LIMIT 10
"""
_VANS_SQL = f"""
SELECT name, bikes, total_docks, van, bikes_to_move, needed_by, greatest(p_no_bike, p_no_dock) AS probability, hit_rate
FROM {SCHEMA}.{MV_REBALANCING.name} WHERE van IS NOT NULL ORDER BY needed_by, probability DESC, station_id LIMIT 10
"""
_SKILL_SQL = f"""
SELECT horizon_min, sum(forecasts)::BIGINT AS forecasts,
    round(sum(error_mean * forecasts) / sum(forecasts), 3) AS error_mean,
    round(sum(error_mean_persistence * forecasts) / sum(forecasts), 3) AS error_mean_persistence,
    round(sum(error_mean * forecasts) / nullif(sum(error_mean_persistence * forecasts), 0), 3) AS ratio,
    round(sum(brier_no_bike * forecasts) / sum(forecasts), 4) AS brier_no_bike,
    round(sum(brier_no_bike_persistence * forecasts) / sum(forecasts), 4) AS brier_no_bike_persistence,
    round(sum(share_in_band * forecasts) / sum(forecasts), 3) AS share_in_band
FROM {SCHEMA}.forecast_skill WHERE dt = ? GROUP BY horizon_min ORDER BY horizon_min
"""


def forecasts_of(lake: LakeResource) -> Forecasts:
    """The forecasts from a lake, with the holidays of the configured country."""
    return Forecasts(lake.partitions, holidays_of(lake.settings.country))


class ForecastDay(dg.Config):
    """Which day, in a run by hand."""

    date: str = ""
    """YYYY-MM-DD; empty: today for the model, yesterday for its score."""


def _day(config: ForecastDay, default: date) -> date:
    try:
        return date.fromisoformat(config.date) if config.date else default
    except ValueError as error:
        raise dg.Failure(f"date={config.date!r} is not a date (YYYY-MM-DD).", allow_retries=False) from error


@dg.asset(
    name=asset_names.FORECAST_MODEL,
    deps=[create_duckdb_enhanced_views],
    group_name="analytics",
    kinds={"lightgbm"},
    owners=["team:wrm"],
    tags={"layer": "analytics"},
    description=(
        "What the last 28 days teach about the hours to come: one object in the lake for today's forecasts, learnt "
        "each night in about 30 s. Days of history are also predicted by trees that have not seen them; these errors "
        "decide at which horizons and stations the model is believed. docs/answers.md explains it."
    ),
)
def forecast_model(
    context: dg.AssetExecutionContext, config: ForecastDay, lake: LakeResource, clock: ClockResource
) -> dg.MaterializeResult[None]:
    """Learn from the days before the day."""
    day = _day(config, local_date(clock.now()))
    started = time.monotonic()
    model = forecasts_of(lake).learn_and_store(day)
    if model is None:
        nothing = f"Before {day} there are fewer than two whole days. Until then the forecast is: nothing changes."
        context.log.info("Nothing to do: %s", nothing)
        return dg.MaterializeResult(metadata={NOTHING: nothing})
    calibration = model.calibration
    rows = [
        {
            "minutes ahead": minutes,
            "a change counts from (bikes)": "never: persistence" if zone == float("inf") else zone,
            "band widened by (bikes)": widen,
            "p_no_bike is the model's": trusted,
        }
        for minutes, zone, widen, trusted in zip(
            HORIZONS_MIN, calibration.dead_zone, calibration.widen, calibration.trust_no_bike, strict=True
        )
    ]
    return dg.MaterializeResult(
        metadata={
            "for_day": str(day),
            "learnt_from": f"{model.first} to {model.last}",
            "days": len(model.history.days),
            "stations": len(model.history.stations.ids),
            "stations_left_to_persistence": ", ".join(calibration.persistent_stations) or "none",
            "calibration": dg.MetadataValue.md(markdown_table(rows)),
            "object": lake.store.url(lake.layout.forecast_model_key(day)),
            "seconds": round(time.monotonic() - started, 1),
        }
    )


@dg.asset(
    name=asset_names.FORECAST,
    deps=[create_duckdb_enhanced_views],
    metadata=table_metadata(asset_names.FORECAST),
    group_name="analytics",
    kinds={"duckdb", "table"},
    owners=["team:wrm"],
    tags={"layer": "analytics"},
    pool="duckdb",
    description=(
        "How many bikes each station will have in 15 minutes to 6 hours, with a band that 80 % of the counts fall into "
        "and the probabilities of no bike and no free dock: table `wrm_analytics.mv_forecast`, made from the newest "
        "snapshot; and where a van will be needed, `wrm_analytics.mv_rebalancing`. Without a model (asset "
        "`forecast_model`, each night) nothing changes. docs/answers.md explains it."
    ),
)
def station_forecast(lake: LakeResource) -> dg.MaterializeResult[None]:
    """Forecast from the newest published snapshot."""
    with lake.database.reading() as connection:
        (newest,) = query_arrow(connection, _NEWEST_SQL).to_pylist()
    made_at = newest["newest"]
    if made_at is None:
        return dg.MaterializeResult(metadata={NOTHING: "No snapshot is published."})
    forecasts = forecasts_of(lake)
    model = forecasts.newest_model(local_date(made_at))
    rows = forecasts.at(made_at, model)
    with lake.database.reading() as connection:
        stations = query_arrow(connection, STATIONS_NOW_SQL, [len(model.history.days) if model is not None else 0])
    replace_whole(
        lake.database, MV_FORECAST, rows, beside=[FORECAST_SKILL], derived=[(MV_REBALANCING, STATIONS_NOW, stations)]
    )
    with lake.database.reading() as connection:
        soon = query_arrow(connection, _EMPTY_SOON_SQL)
        vans = query_arrow(connection, _VANS_SQL)
    return dg.MaterializeResult(
        metadata={
            "table": f"{SCHEMA}.{MV_FORECAST.name}",
            "made_at": dg.MetadataValue.timestamp(made_at),
            "dagster/row_count": rows.num_rows,
            "stations": rows.num_rows // len(HORIZONS_MIN),
            "model": _named(model),
            "vans": dg.MetadataValue.md(markdown_table(vans.to_pylist())),
            "empty_in_an_hour": dg.MetadataValue.md(markdown_table(soon.to_pylist())),
        }
    )


def _named(model: ForecastModel | None) -> str:
    if model is None:
        return "none of the last week: nothing changes. Materialize forecast_model"
    return f"learnt from {model.first} to {model.last}"


@dg.asset(
    name=asset_names.FORECAST_SKILL,
    deps=[forecast_model, create_duckdb_enhanced_views],
    metadata=table_metadata(asset_names.FORECAST_SKILL),
    group_name="quality",
    kinds={"duckdb", "table"},
    owners=["team:wrm"],
    tags={"layer": "analytics"},
    pool="duckdb",
    description=(
        "How good yesterday's forecasts were, beside `nothing changes`: error, Brier score and band, by station and "
        "horizon; table `wrm_analytics.forecast_skill`. The forecasts of each quarter of an hour are made again by the "
        "model of that day, which has seen only the days before it."
    ),
)
def forecast_skill(config: ForecastDay, lake: LakeResource, clock: ClockResource) -> dg.MaterializeResult[None]:
    """Score the day before."""
    day = _day(config, local_date(clock.now()) - timedelta(days=1))
    forecasts = forecasts_of(lake)
    model = forecasts.stored_model(day) or forecasts.learn(day)
    if model is None:
        return dg.MaterializeResult(metadata={NOTHING: f"Before {day} there are too few days to learn from."})
    rows = score(forecasts.day(day), model, day)
    row_count = replace_days(lake.database, FORECAST_SKILL, {day: rows})
    with lake.database.reading() as connection:
        by_horizon = query_arrow(connection, _SKILL_SQL, [day])
    return dg.MaterializeResult(
        metadata={
            "table": f"{SCHEMA}.{FORECAST_SKILL.name}",
            "day": str(day),
            "dagster/row_count": row_count,
            "skill": dg.MetadataValue.md(markdown_table(by_horizon.to_pylist())),
            **({"picture": _picture(day, by_horizon)} if by_horizon.num_rows else {}),
        }
    )


def _picture(day: date, by_horizon: pa.Table) -> Any:
    title = f"{day}: mean error by minutes ahead, bikes"
    lines = {
        "forecast": by_horizon["error_mean"].to_pylist(),
        "nothing changes": by_horizon["error_mean_persistence"].to_pylist(),
    }
    return picture(line_chart(title, [str(minutes) for minutes in by_horizon["horizon_min"].to_pylist()], lines), title)

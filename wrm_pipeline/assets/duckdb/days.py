"""Assets of the daily tables: which days a run builds, and how it publishes them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import dagster as dg
import pyarrow as pa

from wrm_pipeline.analytics.answers import replace_days
from wrm_pipeline.analytics.database import SCHEMA
from wrm_pipeline.analytics.registry import Table
from wrm_pipeline.assets.duckdb.views import create_duckdb_enhanced_views
from wrm_pipeline.assets.presentation import table_metadata
from wrm_pipeline.assets.stations.fan_out import NOTHING, allow_time_for
from wrm_pipeline.partitions import daily_partitions
from wrm_pipeline.resources.lake import LakeResource
from wrm_pipeline.resources.requests import requests_made, write_requests

if TYPE_CHECKING:
    import duckdb


class NothingPublishedError(RuntimeError):
    """There is no enhanced partition yet."""


class DayConfig(dg.Config):
    """The day to build, in a run without a partition."""

    date: str = ""
    """YYYY-MM-DD; empty: the run's partition, or else the newest published day."""


@dataclass(frozen=True, slots=True)
class DayRows:
    """A day's rows for the table, with `dt`, and metadata for the UI."""

    rows: pa.Table
    metadata: dict[str, Any]


def answers_by_day(asset: str, description: str) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Declare an asset that builds a table of answers by day; `description` is what the UI shows."""
    return dg.asset(
        deps=[create_duckdb_enhanced_views],
        io_manager_key="duckdb_io_manager",
        partitions_def=daily_partitions,
        metadata={**table_metadata(asset), "partition_expr": "dt"},
        group_name="analytics",
        kinds={"duckdb", "table"},
        owners=["team:wrm"],
        tags={"layer": "analytics"},
        pool="duckdb",
        description=description,
    )


def days_of_run(context: dg.AssetExecutionContext, config: DayConfig, lake: LakeResource) -> list[date]:
    """The partitions of the run; without any, the day in its config, or else the newest that can be read.

    Raises:
        NothingPublishedError: there is no partition, and nothing is published.
        dagster.Failure: the config has a day other than the run's, or an invalid date.
    """
    keys = list(context.partition_keys) if context.has_partition_key or context.has_partition_key_range else []
    if config.date and keys and keys != [config.date]:
        raise dg.Failure(
            f"The run is about {keys[0]} and its config says date={config.date!r}. Leave `date` out: the partition "
            "says which day is built.",
            allow_retries=False,
        )
    try:
        days = [date.fromisoformat(key) for key in keys or [config.date] if key]
    except ValueError as error:
        raise dg.Failure(f"date={config.date!r} is not a date (YYYY-MM-DD).", allow_retries=False) from error
    newest = None if days else lake.newest_shown()
    if not days and newest is None:
        raise NothingPublishedError(
            f"No enhanced partition is published in {lake.store.name}. Materialize "
            "wrm_stations_processed_data_all and wrm_stations_enhanced_data_all for a day that has raw data."
        )
    return days or [newest] if newest else days


def publish_days(
    context: dg.AssetExecutionContext,
    config: DayConfig,
    lake: LakeResource,
    table: Table,
    build: Callable[["duckdb.DuckDBPyConnection", date], DayRows],
) -> dg.MaterializeResult[None]:
    """Build the run's days and replace their rows in one refresh; each gets its own metadata.

    A day without rows has none afterwards, and says so. One whose file cannot be read keeps its present rows.
    """
    days, left_out = days_of_run(context, config, lake), lake.days_left_out
    if len(days) > 1:
        allow_time_for(context, len(days))
    with lake.database.reading() as connection:
        built = {day: build(connection, day) for day in days if day not in left_out}
    row_count = replace_days(lake.database, table, {day: found.rows for day, found in built.items()})
    shared = {"table": f"{SCHEMA}.{table.name}", "dagster/row_count": row_count}
    shared |= {"database": dg.MetadataValue.path(str(lake.database.path)), **requests_made(), **write_requests()}
    return result_of_days(context, {day: {"day": str(day), **shared, **_metadata(day, built.get(day))} for day in days})


def result_of_days(
    context: dg.AssetExecutionContext, by_day: Mapping[date, Mapping[str, Any]]
) -> dg.MaterializeResult[None]:
    """A run's result, from the metadata of its days; those that had nothing to do say so in the log, too."""
    for metadata in by_day.values():
        if NOTHING in metadata:
            context.log.info("Nothing to do: %s", metadata[NOTHING])
    if len(by_day) == 1:
        (metadata,) = by_day.values()
        return dg.MaterializeResult(metadata=metadata)
    for day, metadata in by_day.items():
        context.add_asset_metadata(metadata, partition_key=day.isoformat())
    return dg.MaterializeResult()


def _metadata(day: date, found: DayRows | None) -> dict[str, Any]:
    if found is None:
        return {NOTHING: f"The enhanced file of {day} cannot be read; the rows that the table has of it stay."}
    empty = {} if found.rows.num_rows else {NOTHING: f"There are no enhanced rows of {day} for this table."}
    return {**empty, "dagster/partition_row_count": found.rows.num_rows, **found.metadata}

"""How each station fared on the newest day."""

from datetime import date
from importlib.metadata import version
from typing import TYPE_CHECKING

import dagster as dg
import pyarrow as pa

from wrm_pipeline.analytics.database import query_arrow, stored_views
from wrm_pipeline.analytics.registry.answers import STATION_SUMMARY
from wrm_pipeline.assets.duckdb.views import create_duckdb_enhanced_views
from wrm_pipeline.assets.presentation import markdown_table, table_metadata
from wrm_pipeline.clients.cache import ARROW, digest_of
from wrm_pipeline.domain import asset_names
from wrm_pipeline.lake.cached_objects import DAY_S
from wrm_pipeline.resources.cache import RedisCacheResource
from wrm_pipeline.resources.lake import LakeResource
from wrm_pipeline.resources.requests import requests_made

if TYPE_CHECKING:
    import duckdb


def _identity(day: str, lake: LakeResource, connection: "duckdb.DuckDBPyConnection") -> str:
    """What the answer depends on: the day's files, the views, the question, and who answers it."""
    folder = lake.layout.partition_folder("enhanced", date.fromisoformat(day))
    return digest_of(
        [
            *(f"{info.key} {info.etag} {info.size_bytes}" for info in lake.store.list(folder)),
            *(f"{name} {sql}" for name, sql in sorted(stored_views(connection).items())),
            STATION_SUMMARY.sql,
            version("duckdb"),
        ]
    )


class NothingPublishedError(RuntimeError):
    """There is no enhanced partition yet to answer from."""


class DayConfig(dg.Config):
    """Which day to look at."""

    date: str = ""
    """YYYY-MM-DD; empty: the newest published day."""


def chosen_day(config: DayConfig, lake: LakeResource) -> str:
    """The day asked for, or the newest that is published and can be read.

    Raises:
        NothingPublishedError: nothing is published.
    """
    newest = config.date or lake.newest_shown()
    if not newest:
        raise NothingPublishedError(
            f"No enhanced partition is published in {lake.store.name}. Materialize "
            "wrm_stations_processed_data_all and wrm_stations_enhanced_data_all for a day that has raw data."
        )
    return str(newest)


@dg.asset(
    deps=[create_duckdb_enhanced_views],
    io_manager_key="duckdb_io_manager",
    metadata=table_metadata(asset_names.STATION_SUMMARY),
    group_name="analytics",
    kinds={"duckdb", "table"},
    owners=["team:wrm"],
    tags={"layer": "analytics"},
    pool="duckdb",
    description=(
        "One row per station for the newest day (or the day in the run config): bikes now, mean, least and most, and "
        "the share of snapshots in which it was empty or full. Table `wrm_analytics.query_station_summary`."
    ),
)
def query_station_summary(
    config: DayConfig, lake: LakeResource, redis_cache: RedisCacheResource
) -> dg.Output[pa.Table]:
    """One query, one table."""
    day = chosen_day(config, lake)
    with lake.database.reading() as connection:
        rows = redis_cache.client.get_or_compute(
            f"station_summary:{lake.store.name}:{day}:{_identity(day, lake, connection)}",
            ARROW,
            lambda: query_arrow(connection, STATION_SUMMARY.sql, [day]),
            ttl_s=DAY_S,
            worth_keeping=lambda table: table.num_rows > 0,
        )
    emptiest = rows.sort_by([("share_empty", "descending"), ("station_id", "ascending")]).slice(0, 10)
    columns = ["station_id", "name", "share_empty", "bikes_mean", "bikes_latest", "snapshots"]
    return dg.Output(
        rows,
        metadata={
            "day": day,
            "stations": rows.num_rows,
            **requests_made(),
            "emptiest_stations": dg.MetadataValue.md(markdown_table(emptiest.select(columns).to_pylist())),
        },
    )

"""How each station fared, by day."""

from datetime import date
from importlib.metadata import version
from typing import TYPE_CHECKING

import dagster as dg

from wrm_pipeline.analytics.database import query_arrow, stored_views
from wrm_pipeline.analytics.registry.answers import STATION_SUMMARY
from wrm_pipeline.assets.duckdb.days import DayConfig, DayRows, answers_by_day, publish_days
from wrm_pipeline.assets.presentation import markdown_table
from wrm_pipeline.clients.cache import digest_of
from wrm_pipeline.clients.cache_values import ARROW
from wrm_pipeline.domain import asset_names
from wrm_pipeline.lake.cached_objects import DAY_S
from wrm_pipeline.resources.cache import RedisCacheResource
from wrm_pipeline.resources.lake import LakeResource

if TYPE_CHECKING:
    import duckdb


def _identity(day: date, lake: LakeResource, connection: "duckdb.DuckDBPyConnection") -> str:
    """What the answer depends on: the day's files, the views, the question, and who answers it."""
    folder = lake.layout.partition_folder("enhanced", day)
    return digest_of(
        [
            *(f"{info.key} {info.etag} {info.size_bytes}" for info in lake.store.list(folder)),
            *(f"{name} {sql}" for name, sql in sorted(stored_views(connection).items())),
            STATION_SUMMARY.sql,
            version("duckdb"),
        ]
    )


@answers_by_day(
    asset_names.STATION_SUMMARY,
    description=(
        "One row per station and day: bikes at its end (today: now), mean, least and most, and the share of snapshots "
        "in which it was empty or full. Table `wrm_analytics.query_station_summary` holds the days that were built; "
        "the view `query_station_summary_latest`, the newest of them. A run that names no day builds the newest."
    ),
)
def query_station_summary(
    context: dg.AssetExecutionContext, config: DayConfig, lake: LakeResource, redis_cache: RedisCacheResource
) -> dg.MaterializeResult[None]:
    """One query for each day."""

    def summary(connection: "duckdb.DuckDBPyConnection", day: date) -> DayRows:
        rows = redis_cache.client.get_or_compute(
            f"station_summary:{lake.store.name}:{day}:{_identity(day, lake, connection)}",
            ARROW,
            lambda: query_arrow(connection, STATION_SUMMARY.sql, [str(day)]),
            ttl_s=DAY_S,
            worth_keeping=lambda table: table.num_rows > 0,
        )
        emptiest = rows.sort_by([("share_empty", "descending"), ("station_id", "ascending")]).slice(0, 10)
        columns = ["station_id", "name", "share_empty", "bikes_mean", "bikes_latest", "snapshots"]
        shown = dg.MetadataValue.md(markdown_table(emptiest.select(columns).to_pylist()))
        return DayRows(rows, {"stations": rows.num_rows, "emptiest_stations": shown})

    return publish_days(context, config, lake, STATION_SUMMARY, summary)

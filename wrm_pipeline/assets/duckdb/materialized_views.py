"""The tables mv_*: precomputed answers."""

from typing import TYPE_CHECKING, Any

import dagster as dg

from wrm_pipeline.analytics.database import SCHEMA, query_arrow
from wrm_pipeline.analytics.materialized_views import refresh_materialized_views
from wrm_pipeline.analytics.registry import tables_of
from wrm_pipeline.analytics.registry.daily import MV_DAILY_AGGREGATES
from wrm_pipeline.analytics.registry.rides import MV_RIDES
from wrm_pipeline.assets.duckdb.pictures import day_picture
from wrm_pipeline.assets.duckdb.views import create_duckdb_enhanced_views
from wrm_pipeline.assets.presentation import markdown_table, page, preview, table_metadata
from wrm_pipeline.assets.stations.bike_positions import bike_positions
from wrm_pipeline.domain import asset_names
from wrm_pipeline.resources.feed import ClockResource
from wrm_pipeline.resources.lake import LakeResource
from wrm_pipeline.resources.requests import record_requests_on_failure, requests_made

if TYPE_CHECKING:
    import duckdb


class RefreshConfig(dg.Config):
    """How much is refreshed."""

    up_to_now: bool = False
    """Make today's rows now in the tables of which they are made once an hour, too."""


@dg.asset(
    deps=[create_duckdb_enhanced_views, bike_positions],
    metadata=table_metadata(asset_names.MATERIALIZED_VIEWS),
    group_name="analytics",
    kinds={"duckdb", "table"},
    owners=["team:wrm"],
    tags={"layer": "analytics"},
    pool="duckdb",
    description=(
        "Tables in `wrm_analytics` with precomputed answers to queries that would otherwise read the Parquet. Only "
        "days that are new or changed since the last refresh are read; all tables change in one transaction, and "
        "`mv_refreshes` says what they contain, and since when.\n\n"
        + "\n".join(f"- `{view.name}`: {view.description}" for view in tables_of(asset_names.MATERIALIZED_VIEWS))
    ),
)
def create_materialized_views(
    context: dg.AssetExecutionContext, config: RefreshConfig, lake: LakeResource, clock: ClockResource
) -> dg.MaterializeResult[None]:
    """Refresh what is out of date."""
    with record_requests_on_failure(context):
        done = refresh_materialized_views(
            lake.database, lake.partitions, refreshed_at=clock.now(), area=lake.area, up_to_now=config.up_to_now
        )
    with lake.database.reading() as connection:
        newest = query_arrow(connection, f"FROM {SCHEMA}.{MV_DAILY_AGGREGATES.name} ORDER BY dt DESC LIMIT 5")
        day = {"day": day_picture(connection, done.newest)} if done.newest else {}
        rides = _rides(connection) if done.rows.get(MV_RIDES.name) else {}
    refreshed = ", ".join(map(str, done.days_refreshed[-20:]))
    return dg.MaterializeResult(
        metadata={
            "newest_partition": str(done.newest),
            "partitions_refreshed": len(done.days_refreshed),
            "refreshed": refreshed if len(done.days_refreshed) <= 20 else f"…, {refreshed}",
            "partitions_dropped": len(done.days_dropped),
            **({"unreadable": ", ".join(map(str, done.days_unreadable))} if done.days_unreadable else {}),
            "seconds": round(done.seconds, 3),
            "dagster/row_count": sum(done.rows.values()),
            "rows": dg.MetadataValue.md(
                markdown_table([{"table": f"{SCHEMA}.{name}", "rows": rows} for name, rows in done.rows.items()])
            ),
            "rows_by_table": dict(done.rows),
            **day,
            **rides,
            "page": page(lake, "site/day.html"),
            **requests_made(),
            "preview": preview(newest),
        }
    )


def _rides(connection: "duckdb.DuckDBPyConnection") -> dict[str, Any]:
    """The newest day's moves of bikes by kind."""
    sql = (
        f"SELECT dt::VARCHAR, kind, count(*)::INTEGER FROM {SCHEMA}.{MV_RIDES.name} "
        f"WHERE dt = (SELECT max(dt) FROM {SCHEMA}.{MV_RIDES.name}) GROUP BY ALL ORDER BY kind"
    )
    rows = connection.execute(sql).fetchall()
    return {"rides_day": rows[0][0], **{f"bikes_{kind}": count for _, kind, count in rows}} if rows else {}

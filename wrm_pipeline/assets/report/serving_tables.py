"""Publishes the tables where Grafana, Metabase and psql can read them."""

import time

import dagster as dg

from wrm_pipeline.analytics.serving import publish
from wrm_pipeline.assets.duckdb.data_quality import data_quality
from wrm_pipeline.assets.duckdb.forecast import station_forecast
from wrm_pipeline.assets.duckdb.materialized_views import create_materialized_views
from wrm_pipeline.assets.presentation import markdown_table
from wrm_pipeline.clients import retry
from wrm_pipeline.clients.postgres import TARGET
from wrm_pipeline.domain import asset_names
from wrm_pipeline.resources.feed import ClockResource
from wrm_pipeline.resources.lake import LakeResource
from wrm_pipeline.resources.postgres import PostgresResource
from wrm_pipeline.resources.requests import record_requests_on_failure, requests_made


@dg.asset(
    name=asset_names.SERVING,
    deps=[create_materialized_views, station_forecast, data_quality],
    group_name="reports",
    kinds={"postgres", "table"},
    owners=["team:wrm"],
    tags={"layer": "analytics"},
    pool="serving",
    description=(
        "The tables `mv_…` and `quality_…` in a schema of a PostgreSQL database, for Grafana, Metabase or psql; "
        "exists if POSTGRES_SERVING_HOST is set. All of them change in one transaction, with comments and primary "
        "keys: readers see either the previous tables or these, and wait for milliseconds. A failed run keeps the "
        "previous ones. "
        "docs/serving.md explains it."
    ),
)
def serving_tables(
    context: dg.AssetExecutionContext,
    lake: LakeResource,
    clock: ClockResource,
    postgres_resource: PostgresResource,
) -> dg.MaterializeResult[None]:
    """Publish the database's current tables."""
    started = time.monotonic()
    login, serving = postgres_resource.login, postgres_resource.serving

    def attempt() -> dict[str, int]:
        with login.connect() as target, lake.database.reading() as source:
            return dict(publish(source, target, serving, published_at=clock.now()))

    with record_requests_on_failure(context):
        rows = retry.call(attempt, target=TARGET, operation="publish", policy=retry.SERVING_POLICY, name=login.place)
    listed = [{"table": f"{serving.schema}.{name}", "rows": count} for name, count in rows.items()]
    return dg.MaterializeResult(
        metadata={
            "database": login.place,
            "schema": serving.schema,
            "seconds": round(time.monotonic() - started, 3),
            "dagster/row_count": sum(rows.values()),
            "rows": dg.MetadataValue.md(markdown_table(listed)),
            "rows_by_table": rows,
            **requests_made(),
        }
    )

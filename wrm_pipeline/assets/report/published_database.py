"""Publishes the analytics database where others can fetch it."""

import dagster as dg
import pyarrow as pa

from wrm_pipeline.assets.report.data_catalog import data_catalog


@dg.asset(
    deps=[data_catalog],
    io_manager_key="duckdb_s3_io_manager",
    group_name="reports",
    kinds={"duckdb", "s3"},
    owners=["team:wrm"],
    tags={"layer": "analytics"},
    pool="duckdb",
    description=(
        "`duckdb/analytics.duckdb` in the object store: the whole database, published after the last table is written "
        "and described, so that every copy is complete."
    ),
)
def published_database() -> dg.Output[pa.Table | None]:
    """Returns no table: the I/O manager copies the file."""
    return dg.Output(None)

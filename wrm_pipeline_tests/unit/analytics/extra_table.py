"""A program: it adds one table to the registry, runs the pipeline, and prints as JSON where the table is then.

A program of its own, since assets take their metadata from the registry when they are imported.
"""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from typing import Any

from wrm_pipeline.analytics import registry
from wrm_pipeline.analytics.registry import Column, Refreshed, Table
from wrm_pipeline.analytics.registry.columns import DT
from wrm_pipeline.domain import asset_names

EXTRA = Table(
    "mv_extra",
    asset_names.MATERIALIZED_VIEWS,
    "The rows of a day, counted for a test.",
    (DT, Column("rows_seen", "INTEGER", "How many there are", "rows", ("station_id", "bikes"))),
    Refreshed.BY_DAY,
    formula="Rows are counted.",
    sql="SELECT dt, count(*)::INTEGER AS rows_seen FROM day_rows GROUP BY dt",
)


def main() -> None:
    """Run, look, print."""
    registry.TABLES[EXTRA.name] = EXTRA

    import dagster as dg

    from wrm_pipeline.analytics.tables_page import tables_page
    from wrm_pipeline.settings import load_settings
    from wrm_pipeline_tests.fixtures.lake import DAY, Lake, build_day, definitions, run_job, tick

    lake = Lake(load_settings())
    rows = []
    with dg.DagsterInstance.ephemeral() as instance:
        for day, count in ((DAY - timedelta(days=1), 1), (DAY, 1), (DAY, 2)):
            lake.put_day(count, dt=day, stations=3)
            build_day(day)
            run_job("wrm_analytics_job", instance=instance)
            rows.append(ask(lake, "SELECT dt::VARCHAR, rows_seen FROM wrm_analytics.mv_extra ORDER BY dt"))
        tick("wrm_lineage_sensor", instance)
    ledger = "SELECT dt::VARCHAR, rows FROM wrm_analytics.mv_refreshes WHERE table_name = 'mv_extra' ORDER BY dt"
    metadata = definitions().resolve_asset_graph().get(dg.AssetKey(EXTRA.asset)).metadata
    found = {
        "rows": rows,
        "ledger": ask(lake, ledger),
        "comments": [
            *ask(lake, "SELECT comment FROM duckdb_tables() WHERE table_name = 'mv_extra'"),
            *ask(lake, "SELECT comment FROM duckdb_columns() WHERE table_name = 'mv_extra' ORDER BY column_index"),
        ],
        "catalog_table": ask(
            lake, "SELECT description, asset, row_count FROM wrm_analytics.catalog_tables WHERE name = 'mv_extra'"
        ),
        "catalog_columns": ask(
            lake,
            "SELECT column_name, type, unit, description, sources FROM wrm_analytics.catalog_columns "
            "WHERE table_name = 'mv_extra' ORDER BY position",
        ),
        "column_schema": [
            [column.name, column.type, column.description]
            for column in metadata["dagster/column_schema"].columns
            if column.name.startswith("mv_extra.")
        ],
        "column_lineage": {
            column: [f"{dep.asset_key.path[-1]}.{dep.column_name}" for dep in deps]
            for column, deps in metadata["dagster/column_lineage"].deps_by_column.items()
            if column.startswith("mv_extra.")
        },
        "lineage_event": lineage_event(lake),
        "page": tables_page().partition("## mv_extra")[2],
    }
    sys.stdout.write(json.dumps(found))


def ask(lake: Any, sql: str) -> list[list[Any]]:
    """Ask the published database."""
    import duckdb

    with duckdb.connect(str(lake.settings.database_path), read_only=True) as connection:
        return [list(row) for row in connection.execute(sql).fetchall()]


def lineage_event(lake: Any) -> dict[str, Any]:
    """The newest event's content about the table."""
    events = [event for key in lake.keys("lineage/") for event in json.loads(lake.store.get(key))]
    outputs = [
        output
        for event in sorted(events, key=lambda event: event["eventTime"])
        for output in event["outputs"]
        if output["name"].endswith(".mv_extra") and output["facets"]
    ]
    facets = outputs[-1]["facets"]
    return {
        "fields": [[field["name"], field["type"]] for field in facets["schema"]["fields"]],
        "made_from": {
            column: sorted(origin["field"] for origin in made["inputFields"])
            for column, made in facets["columnLineage"]["fields"].items()
        },
        "rows": outputs[-1]["outputFacets"]["outputStatistics"]["rowCount"],
    }


if __name__ == "__main__":
    main()

"""Views over the enhanced Parquet."""

from datetime import UTC, datetime
from typing import Any

import dagster as dg

from wrm_pipeline.analytics.database import SCHEMA, ViewSet, enhanced_views, stored_views
from wrm_pipeline.analytics.enhanced_files import EnhancedFiles, describe_by, look_at_enhanced
from wrm_pipeline.assets.presentation import markdown_table, table_metadata
from wrm_pipeline.assets.stations.bike_positions import bike_positions
from wrm_pipeline.assets.stations.enhanced_all import wrm_stations_enhanced_data_all
from wrm_pipeline.domain import asset_names
from wrm_pipeline.domain.bike_positions import FEED
from wrm_pipeline.domain.layout import BIKE_POSITIONS, local_date
from wrm_pipeline.resources.lake import LakeResource
from wrm_pipeline.resources.requests import requests_made


@dg.asset(
    deps=[wrm_stations_enhanced_data_all, bike_positions],
    io_manager_key="duckdb_hybrid_io_manager",
    metadata=table_metadata(asset_names.VIEWS),
    group_name="analytics",
    kinds={"duckdb"},
    owners=["team:wrm"],
    tags={"layer": "analytics"},
    pool="duckdb",
    description=(
        "Views in `wrm_analytics` that read the enhanced Parquet in place: `wrm_stations_enhanced_data` "
        "(everything, with `dt` from the path), `wrm_stations_only`, `wrm_bikes_only`, and `wrm_stations_latest` "
        "(each station's newest row of the newest day); `wrm_stations_enhanced` is everything by its older name, and "
        "`bike_positions` the stays of bikes.\n\n"
        "They show what is published at the moment of the query. They are created again when the newest day or a "
        "definition changes, else left alone. Filter by a literal `dt` to read only the days you need."
    ),
)
def create_duckdb_enhanced_views(lake: LakeResource) -> dg.Output[ViewSet | None]:
    """Compare definitions, write them if they differ."""
    database, layout, store = lake.database, lake.layout, lake.store
    found = look_at_enhanced(store, layout, lake.settings.enhanced_index_path, describe_by(database))
    sources = found.sources(store.url, layout.partition_glob("enhanced"))
    views = enhanced_views(sources, found.newest(local_date(datetime.now(UTC))), _positions(lake))
    with database.reading_if_any() as connection:
        current = stored_views(connection) if connection is not None else None
    unchanged = current == dict(views.definitions)
    return dg.Output(
        None if unchanged else views,
        metadata={
            "newest_partition": str(views.newest),
            "unchanged": unchanged,
            "days": len(found.files) - len(found.problems),
            **_left_out(found),
            **requests_made(),
            "views": dg.MetadataValue.md(
                markdown_table(
                    [
                        # The list of files is long, and this is logged each minute.
                        {"view": f"{SCHEMA}.{name}", "definition": sql if len(sql) < 2000 else f"{sql[:2000]} …"}
                        for name, sql in views.definitions.items()
                    ]
                )
            ),
        },
    )


def _positions(lake: LakeResource) -> str:
    """The pattern of the bike positions; empty if there are none, or if the feed that has them is not fetched."""
    if FEED not in lake.layout.feeds or next(lake.partitions.objects(BIKE_POSITIONS), None) is None:
        return ""
    return lake.store.url(lake.layout.partition_glob(BIKE_POSITIONS))


def _left_out(found: EnhancedFiles) -> dict[str, Any]:
    if not found.problems:
        return {}
    rows = [{"object": file.key, "left out because": file.problem} for file in found.problems]
    return {"left_out": dg.MetadataValue.md(markdown_table(rows))}

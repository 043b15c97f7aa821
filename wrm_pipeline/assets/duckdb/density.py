"""Where the bikes are: density cells and a map."""

from datetime import date
from typing import TYPE_CHECKING

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from wrm_pipeline.analytics.database import SCHEMA, query_arrow
from wrm_pipeline.analytics.registry.answers import DENSITY_CELLS
from wrm_pipeline.assets.duckdb.days import DayConfig, DayRows, answers_by_day, days_of_run, publish_days
from wrm_pipeline.assets.presentation import page, picture, preview
from wrm_pipeline.domain import asset_names
from wrm_pipeline.domain.density import DensityGrid, bike_density
from wrm_pipeline.report.density_map import density_svg, render_density_map
from wrm_pipeline.resources.lake import LakeResource
from wrm_pipeline.resources.requests import requests_made

if TYPE_CHECKING:
    import duckdb

MAP_PAGE = "bike_density_map.html"

_ROWS_SQL = f"""
SELECT file_timestamp, lat, lon, bikes, record_type, outside_service_area
FROM {SCHEMA}.wrm_stations_enhanced_data WHERE dt = CAST(? AS DATE)
"""

_NOW_SQL = f"""
SELECT station_id, name, lat, lon, bikes, spaces, total_docks, pedelecs, record_type, outside_service_area,
       file_timestamp
FROM {SCHEMA}.wrm_stations_enhanced_data
WHERE dt = CAST($1 AS DATE) AND file_timestamp = (
    SELECT max(file_timestamp) FROM {SCHEMA}.wrm_stations_enhanced_data WHERE dt = CAST($1 AS DATE)
)
"""


@answers_by_day(
    asset_names.DENSITY,
    description=(
        "Bikes per cell of 1000 m² (31.6 m square) inside the service area, by day: mean over the day's snapshots, "
        "highest, and density per km². Only cells that hold something. Rows outside the area are left out and counted. "
        "Table `wrm_analytics.bike_density_spatial_analysis` holds the days that were built; the view "
        "`bike_density_spatial_analysis_latest`, the newest of them. A run that names no day builds the newest."
    ),
)
def bike_density_spatial_analysis(
    context: dg.AssetExecutionContext, config: DayConfig, lake: LakeResource
) -> dg.MaterializeResult[None]:
    """Group by cell, for each day."""

    def density(connection: "duckdb.DuckDBPyConnection", day: date) -> DayRows:
        grid = _grid(connection, lake, day)
        metadata = {
            "cells": grid.cells.num_rows,
            "snapshots": grid.snapshot_count,
            "rows_in": grid.rows_in,
            "rows_outside_area": grid.rows_outside_area,
            "bikes_outside_area_now": grid.bikes_outside_area,
            "adds_up": grid.adds_up,
            "picture": picture(density_svg(grid, lake.area), f"Bikes per square kilometre on {day}"),
            "map": page(lake, MAP_PAGE),
            "preview": preview(grid.cells),
        }
        return DayRows(grid.cells.append_column("dt", pa.repeat(pa.scalar(day), grid.cells.num_rows)), metadata)

    return publish_days(context, config, lake, DENSITY_CELLS, density)


@dg.asset(
    deps=[bike_density_spatial_analysis],
    group_name="reports",
    kinds={"html"},
    owners=["team:wrm"],
    tags={"layer": "report"},
    description=(
        "An interactive map of the run's day (of the newest, if it names none): density squares, stations coloured by "
        "how full they are, free-standing bikes. One HTML page that needs no network; written to "
        "`reports/bike_density_map.html` in the object store."
    ),
)
def bike_density_map(
    context: dg.AssetExecutionContext, config: DayConfig, lake: LakeResource
) -> dg.MaterializeResult[None]:
    """Draw the page; where the day has no rows, that of before stays."""
    day = days_of_run(context, config, lake)[-1]
    with lake.database.reading() as connection:
        grid = _grid(connection, lake, day)
        now = query_arrow(connection, _NOW_SQL, [str(day)])
    if not now.num_rows:
        return dg.MaterializeResult(metadata={"day": str(day), "rows_drawn": 0, **requests_made()})
    as_of = pc.max(now["file_timestamp"]).as_py()
    html = render_density_map(grid, now, as_of=as_of, area=lake.area)
    key = lake.layout.report_key(MAP_PAGE)
    info = lake.store.put(key, html.encode(), content_type="text/html; charset=utf-8")
    inside = pc.sum(pc.invert(now["outside_service_area"])).as_py()
    return dg.MaterializeResult(
        metadata={
            "map": page(lake, MAP_PAGE),
            "as_of": dg.MetadataValue.timestamp(as_of),
            "day": str(day),
            "size_bytes": info.size_bytes,
            "rows_drawn": inside,
            **requests_made(),
            "rows_outside_area": now.num_rows - inside,
            "picture": picture(density_svg(grid, lake.area), f"Bikes per square kilometre on {day}"),
        }
    )


def _grid(connection: "duckdb.DuckDBPyConnection", lake: LakeResource, day: date) -> DensityGrid:
    return bike_density(query_arrow(connection, _ROWS_SQL, [str(day)]), lake.area)

"""The registry of tables: the only place that defines each table and view of the analytics database.

It defines columns with their meaning, asset, SQL, and refresh. The database, its comments, the catalog, lineage, the
metadata in the Dagster UI and docs/tables.md are made from it. The schemas of the Parquet are in domain/schemas.py; how
rows are computed in Python is in the modules that compute them.
"""

from wrm_pipeline.analytics.registry.answers import ANSWERS
from wrm_pipeline.analytics.registry.catalog import CATALOG_OF_ALL
from wrm_pipeline.analytics.registry.daily import DAILY_VIEWS, MV_REFRESHES
from wrm_pipeline.analytics.registry.forecast import FORECAST_TABLES
from wrm_pipeline.analytics.registry.latest import LATEST_VIEWS
from wrm_pipeline.analytics.registry.model import SCHEMA, Column, Refreshed, Table
from wrm_pipeline.analytics.registry.planner import PLANNER_TABLES
from wrm_pipeline.analytics.registry.quality import QUALITY_TABLES
from wrm_pipeline.analytics.registry.ride_comparison import RIDE_COMPARISON_TABLES
from wrm_pipeline.analytics.registry.rides import MV_RIDES
from wrm_pipeline.analytics.registry.stations import STATION_TABLES
from wrm_pipeline.analytics.registry.views import VIEWS_OF_PARQUET

__all__ = ["SCHEMA", "TABLES", "Column", "Refreshed", "Table", "tables_of"]

# By name, in the order of display; each asset's tables in the order of creation.
TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        *VIEWS_OF_PARQUET,
        *ANSWERS,
        *LATEST_VIEWS,
        *DAILY_VIEWS,
        MV_RIDES,
        *PLANNER_TABLES,
        MV_REFRESHES,
        *FORECAST_TABLES,
        *STATION_TABLES,
        *RIDE_COMPARISON_TABLES,
        *QUALITY_TABLES,
        *CATALOG_OF_ALL,
    )
}


def tables_of(asset: str) -> tuple[Table, ...]:
    """The tables and views that an asset makes, in order."""
    return tuple(table for table in TABLES.values() if table.asset == asset)

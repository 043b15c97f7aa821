"""Asset values as tables and views of the analytics database.

- `duckdb_io_manager`: a table in the local `analytics.duckdb`;
- `duckdb_s3_io_manager`: the same, if there is a table at all, and then the whole database is published to the
  object store, from which inputs are read;
- `duckdb_hybrid_io_manager`: views over the Parquet in the store, beside the local tables.
"""

import tempfile
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa

from wrm_pipeline.analytics.database import (
    SCHEMA,
    AnalyticsDatabase,
    ViewSet,
    create_views,
    query_arrow,
    write_table,
)
from wrm_pipeline.resources.base import BaseIOManager
from wrm_pipeline.resources.feed import ClockResource
from wrm_pipeline.resources.lake import LakeResource
from wrm_pipeline.resources.requests import record_requests_on_failure, write_requests


class DuckDBTableIOManager(BaseIOManager):
    """An Arrow table or pandas frame <-> the table `wrm_analytics.<asset name>`."""

    lake: LakeResource

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Replace the table; readers see the old one until the new one is complete."""
        table = obj if isinstance(obj, pa.Table) else pa.Table.from_pandas(obj, preserve_index=False)
        name = context.asset_key.path[-1]
        with self.lake.database.refresh() as connection:
            write_table(connection, name, table)
        context.add_output_metadata(
            {
                "table": f"{SCHEMA}.{name}",
                "database": dg.MetadataValue.path(str(self.lake.database.path)),
                "dagster/row_count": table.num_rows,
                **write_requests(),
            }
        )

    def load_input(self, context: dg.InputContext) -> Any:
        """Read the table, as an Arrow table where the input is annotated so, else as a pandas frame."""
        return self._load(context, self.lake.database)

    def _load(self, context: dg.InputContext, database: AnalyticsDatabase) -> Any:
        with database.reading() as connection:
            table = query_arrow(connection, f'FROM {SCHEMA}."{context.asset_key.path[-1]}"')
        if context.dagster_type.typing_type is pa.Table:
            return table
        import pandas as pd

        return table.to_pandas(types_mapper=pd.ArrowDtype)


class DuckDBPublishingIOManager(DuckDBTableIOManager):
    """As DuckDBTableIOManager, and the database goes to `duckdb/analytics.duckdb` in the object store."""

    lake: LakeResource

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Replace the table (None: there is none) and publish the database."""
        if obj is not None:
            super().handle_output(context, obj)
        key = self.lake.layout.database_key
        with record_requests_on_failure(context):
            info = self.lake.store.put(key, self.lake.database.path, content_type="application/vnd.duckdb")
        context.add_output_metadata(
            {"published": self.lake.store.url(key), "published_bytes": info.size_bytes, **write_requests()}
        )

    def load_input(self, context: dg.InputContext) -> Any:
        """Read the table from the published database."""
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "analytics.duckdb"
            copy.write_bytes(self.lake.store.get(self.lake.layout.database_key))
            return self._load(context, AnalyticsDatabase(copy, self.lake.database.s3))


class DuckDBHybridIOManager(DuckDBTableIOManager):
    """Views over the Parquet in the store, in the database that has the local tables."""

    lake: LakeResource
    clock: ClockResource

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Create the views of a ViewSet; None leaves them as they are; any other value becomes a table."""
        if obj is None:
            return
        if not isinstance(obj, ViewSet):
            super().handle_output(context, obj)
            return
        with self.lake.database.refresh() as connection:
            create_views(connection, obj, refreshed_at=self.clock.now())
        context.add_output_metadata(
            {"database": dg.MetadataValue.path(str(self.lake.database.path)), **write_requests()}
        )

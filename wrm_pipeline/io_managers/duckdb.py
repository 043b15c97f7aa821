"""Frames as tables of the analytics database, and views in it.

- `duckdb_io_manager`: a table in the local `analytics.duckdb`;
- `duckdb_s3_io_manager`: the same, if there is a table at all, and then the whole database is published to the
  object store, from which inputs are read;
- `duckdb_hybrid_io_manager`: views over the Parquet in the store, next to the local tables.

Each becomes dagster-duckdb's `DuckDBIOManager` (`duckdb_tables.py`) once a run needs it, which loads DuckDB.
"""

import tempfile
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from wrm_pipeline.analytics.database import (
    SCHEMA,
    AnalyticsDatabase,
    AnalyticsDatabaseError,
    ViewSet,
    create_views,
)
from wrm_pipeline.clients.errors import ObjectNotFoundError
from wrm_pipeline.io_managers.frames import Wanted
from wrm_pipeline.resources.base import BaseIOManagerFactory
from wrm_pipeline.resources.feed import ClockResource
from wrm_pipeline.resources.lake import LakeResource
from wrm_pipeline.resources.requests import record_requests_on_failure, write_requests

if TYPE_CHECKING:
    from wrm_pipeline.io_managers.duckdb_tables import SwappingDuckDBIOManager


# A bucket that takes longer for an upload than the next refresh is away would be sent the file without end.
_UPLOADS = 3


class DuckDBTableIOManager(BaseIOManagerFactory):
    """Frames (Arrow, pandas, polars) as tables of the analytics database: `wrm_analytics.<asset's name>`.

    A new file with the rows replaces the old one, so readers meet no lock and see either all rows or none. For a
    partitioned asset only the partition's rows are replaced. Its metadata `partition_expr` names the column; without it
    the rows get a column `partition_key`. Inputs have their annotated type, by default pandas frames.
    """

    lake: LakeResource
    database: str | None = Field(
        default=None, description="A DuckDB file other than the lake's analytics database; created if missing"
    )
    connection_config: dict[str, Any] = Field(
        default={}, description="DuckDB's options by name, such as memory_limit or threads"
    )
    schema_: str | None = Field(
        default=SCHEMA,
        alias="schema",
        min_length=1,
        description="For assets without metadata `schema`; null: the asset key's prefix, else public",
    )

    def as_dagster_duckdb(self) -> "SwappingDuckDBIOManager":
        """The same as an instance of dagster-duckdb's `DuckDBIOManager`."""
        from wrm_pipeline.io_managers.duckdb_tables import SwappingDuckDBIOManager

        fields = {name: getattr(self, name) for name in DuckDBTableIOManager.model_fields if name != "schema_"}
        return SwappingDuckDBIOManager(**{**fields, "database": str(self.analytics.path), "schema": self.schema_})

    @property
    def analytics(self) -> AnalyticsDatabase:
        """The database that the tables are in."""
        return self.lake.database_at(self.database)

    def create_io_manager(self, context: dg.InitResourceContext) -> dg.IOManager:
        """The object that a run uses."""
        return self.as_dagster_duckdb().create_io_manager(context)


class DuckDBPublishingIOManager(DuckDBTableIOManager):
    """As `duckdb_io_manager`, and the database is then published as `duckdb/analytics.duckdb` in the object store.

    Inputs are read from there, so this works on any machine. None means no table: only the database is published.
    """

    lake: LakeResource

    def create_io_manager(self, context: dg.InitResourceContext) -> dg.IOManager:
        """The object that a run uses."""
        return _Publishing(self, super().create_io_manager(context))


class _Publishing(dg.IOManager):
    def __init__(self, fields: DuckDBPublishingIOManager, local: dg.IOManager) -> None:
        self._fields = fields
        self._local = local

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Replace the rows (None: there are none) and publish the database."""
        if obj is not None:
            self._local.handle_output(context, obj)
        lake = self._fields.lake
        with record_requests_on_failure(context):
            size_bytes = self._publish()
        url = lake.store.url(lake.layout.database_key)
        context.add_output_metadata({"published": url, "published_bytes": size_bytes, **write_requests()})

    def _publish(self) -> int:
        """Upload the file; again if another run has replaced it meanwhile, whose upload may have been overtaken."""
        lake, path = self._fields.lake, self._fields.analytics.path
        if not path.exists():
            raise AnalyticsDatabaseError(
                f"There is no database at {path} to publish. Materialize create_duckdb_enhanced_views first."
            )
        size_bytes = 0
        for _ in range(_UPLOADS):
            before = path.stat()
            info = lake.store.put(lake.layout.database_key, path, content_type="application/vnd.duckdb")
            size_bytes = info.size_bytes
            if (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns):
                break
        return size_bytes

    def load_input(self, context: dg.InputContext) -> Any:
        """Read the table from the published database."""
        lake = self._fields.lake
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "analytics.duckdb"
            with suppress(ObjectNotFoundError) if Wanted.of(context).optional else nullcontext():
                copy.write_bytes(lake.store.get(lake.layout.database_key))
            database = AnalyticsDatabase(copy, lake.s3_access)
            return self._fields.as_dagster_duckdb().tables(database).load_input(context)


class DuckDBHybridIOManager(DuckDBTableIOManager):
    """As `duckdb_io_manager`, but also for the pipeline's set of views over the Parquet in the object store.

    None changes nothing.
    """

    lake: LakeResource
    clock: ClockResource

    def create_io_manager(self, context: dg.InitResourceContext) -> dg.IOManager:
        """The object that a run uses."""
        return _Hybrid(self, super().create_io_manager(context))


class _Hybrid(dg.IOManager):
    def __init__(self, fields: DuckDBHybridIOManager, local: dg.IOManager) -> None:
        self._fields = fields
        self._local = local

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Create the views of a ViewSet; None changes nothing; any other value becomes a table."""
        if obj is None:
            return
        if not isinstance(obj, ViewSet):
            self._local.handle_output(context, obj)
            return
        database = self._fields.analytics
        with database.refresh() as connection:
            create_views(connection, obj, refreshed_at=self._fields.clock.now())
        context.add_output_metadata({"database": dg.MetadataValue.path(str(database.path)), **write_requests()})

    def load_input(self, context: dg.InputContext) -> Any:
        """Read the table or view."""
        return self._local.load_input(context)

"""`duckdb`: the analytics database for queries, as dagster-duckdb's resource, whose import loads DuckDB."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from wrm_pipeline.analytics.partitioned_rows import check_options, configure
from wrm_pipeline.resources.base import BaseResource
from wrm_pipeline.resources.lake import LakeResource

if TYPE_CHECKING:
    import duckdb

    from wrm_pipeline.resources.dagster_duckdb_resource import ReadOnlyDuckDBResource


class DuckDBResource(BaseResource):
    """The analytics database, read-only: `get_connection()` opens the newest file, each time.

    It is never locked while the pipeline writes, and keeps the state of the moment when it was opened. Temporary tables
    are possible; permanent ones are written by `duckdb_io_manager`. Views over a bucket work.
    """

    lake: LakeResource
    database: str | None = Field(default=None, description="A DuckDB file other than the lake's analytics database")
    connection_config: dict[str, Any] = Field(
        default={}, description="DuckDB's options by name, such as memory_limit or threads"
    )

    def create_resource(self, context: dg.InitResourceContext) -> "ReadOnlyDuckDBResource":  # noqa: ARG002 - Dagster's
        """The object passed to an asset: an instance of dagster-duckdb's class."""
        check_options(self.connection_config, "connection_config")
        return self.as_dagster_duckdb()

    def as_dagster_duckdb(self) -> "ReadOnlyDuckDBResource":
        """The same as an instance of dagster-duckdb's `DuckDBResource`."""
        from wrm_pipeline.resources.dagster_duckdb_resource import ReadOnlyDuckDBResource

        fields = {name: getattr(self, name) for name in DuckDBResource.model_fields}
        return self if isinstance(self, ReadOnlyDuckDBResource) else ReadOnlyDuckDBResource(**fields)

    def get_connection(self) -> "AbstractContextManager[duckdb.DuckDBPyConnection]":
        """A connection, closed at the end of the block.

        Raises:
            AnalyticsDatabaseError: there is no database yet, it cannot be read, or an option is wrong.
        """
        return self._connection()

    @contextmanager
    def _connection(self) -> "Iterator[duckdb.DuckDBPyConnection]":
        with self.lake.database_at(self.database).reading() as connection:
            configure(connection, self.connection_config, "connection_config of the resource `duckdb`")
            yield connection

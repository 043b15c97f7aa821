"""dagster-duckdb's DuckDBResource, read-only. Importing this loads DuckDB. See `resources/duckdb.py`."""

from contextlib import AbstractContextManager

import duckdb
from dagster_duckdb import DuckDBResource as DagsterDuckDBResource

from wrm_pipeline.resources.duckdb import DuckDBResource


class ReadOnlyDuckDBResource(DuckDBResource, DagsterDuckDBResource):
    """dagster-duckdb's resource, whose connections never block a writer."""

    @classmethod
    def _is_dagster_maintained(cls) -> bool:
        return False

    def get_connection(self) -> AbstractContextManager[duckdb.DuckDBPyConnection]:  # type: ignore[override]
        """See `resources.duckdb.DuckDBResource.get_connection`."""
        return self._connection()

"""dagster-duckdb's I/O manager over our swap of the database file. Importing this loads DuckDB. See `duckdb.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import dagster as dg
import duckdb
import pyarrow as pa
from dagster._core.storage.db_io_manager import DbIOManager, DbTypeHandler, TablePartitionDimension, TableSlice
from dagster_duckdb import DuckDBIOManager
from dagster_duckdb.io_manager import DuckDbClient

from wrm_pipeline.analytics.database import AnalyticsDatabase, AnalyticsDatabaseError, query_arrow
from wrm_pipeline.analytics.partitioned_rows import (
    PARTITION_KEY,
    Dimension,
    PartitionRowsError,
    TableName,
    check_name,
    check_options,
    configure,
    count_rows,
    replace_partition,
    replace_table,
    select_rows,
)
from wrm_pipeline.io_managers.duckdb import DuckDBTableIOManager
from wrm_pipeline.io_managers.frames import FRAMES, Wanted, as_arrow, from_arrow
from wrm_pipeline.resources.requests import record_requests_on_failure, write_requests

if TYPE_CHECKING:
    from dagster._core.definitions.partitions.utils import TimeWindow

_Connection = duckdb.DuckDBPyConnection


class SwappingDuckDBIOManager(DuckDBTableIOManager, DuckDBIOManager):
    """dagster-duckdb's I/O manager, which never writes to a file that somebody may have open."""

    @staticmethod
    def type_handlers() -> Sequence[DbTypeHandler[Any]]:
        """A single handler for all frames: their type is recognized without importing pandas or polars."""
        return [FrameHandler()]

    def tables(self, database: AnalyticsDatabase) -> TablesIOManager:
        """Writes and reads the tables of a database."""
        return TablesIOManager(
            db_client=SwappingClient(database, self.connection_config),
            database=str(database.path),
            schema=self.schema_,
            type_handlers=self.type_handlers(),
            default_load_type=self.default_load_type(),
            io_manager_name="duckdb_io_manager",
        )

    def create_io_manager(self, context: dg.InitResourceContext) -> TablesIOManager:  # noqa: ARG002 - Dagster's signature
        """The object that a run uses."""
        check_options(self.connection_config, "connection_config")
        return self.tables(self.analytics)


class FrameHandler(DbTypeHandler[Any]):
    """Frames as rows of a table."""

    @property
    def supported_types(self) -> Sequence[type[object]]:
        """Arrow's; other frames are found by name."""
        return [pa.Table]

    def handle_output(
        self, context: dg.OutputContext, table_slice: TableSlice, obj: Any, connection: _Connection
    ) -> Mapping[str, Any]:
        """Replace the table, or the rows of the partition."""
        rows, table, dimensions = _rows(context, obj), _name(table_slice), _dimensions(table_slice)
        if context.has_asset_key:
            check_name(table, context.asset_key.path[-1])
        if table_slice.partition_dimensions is None:
            replace_table(connection, table, rows)
            return {"dagster/row_count": rows.num_rows}
        if dimensions and dimensions[0].expression == PARTITION_KEY:
            rows = _with_key(context, rows)
        replace_partition(connection, table, rows, dimensions)
        return {"dagster/partition_row_count": rows.num_rows, "dagster/row_count": count_rows(connection, table)}

    def load_input(self, context: dg.InputContext, table_slice: TableSlice, connection: _Connection) -> Any:
        """The rows of the table or of the partitions, in the type that the input is annotated with."""
        wanted, table = Wanted.of(context), _name(table_slice)
        try:
            sql = select_rows(connection, table, _dimensions(table_slice), table_slice.columns)
            rows = query_arrow(connection, sql)
        except duckdb.CatalogException as error:
            if wanted.optional:
                return None
            raise AnalyticsDatabaseError(
                f"There is no table {table} yet in {table_slice.database}. Materialize "
                f"{context.asset_key.to_user_string() if context.has_asset_key else table.name} first."
            ) from error
        return from_arrow(rows, wanted.frame)


class SwappingClient(DuckDbClient):
    """Connections to the database: a copy that replaces it for an output, the newest file for an input."""

    def __init__(self, database: AnalyticsDatabase, options: Mapping[str, Any]) -> None:
        self._database = database
        self._options = options

    @contextmanager
    def connect(self, context: dg.OutputContext | dg.InputContext, _: TableSlice) -> Iterator[_Connection]:  # type: ignore[override]
        """See `AnalyticsDatabase`."""
        way = self._database.refresh() if isinstance(context, dg.OutputContext) else self._database.reading()
        with way as connection:
            configure(connection, self._options, "connection_config")
            yield connection

    @staticmethod
    def ensure_schema_exists(context: dg.OutputContext, table_slice: TableSlice, connection: _Connection) -> None:
        """Done when the table is written."""

    @staticmethod
    def delete_table_slice(context: dg.OutputContext, table_slice: TableSlice, connection: _Connection) -> None:
        """Done when the table is written: the rows to delete depend on the columns of both."""

    @staticmethod
    def get_table_name(table_slice: TableSlice) -> str:
        """Its name in SQL."""
        return f"{table_slice.schema}.{table_slice.table}"


class TablesIOManager(DbIOManager):
    """dagster-duckdb's mapping from an asset to its table, extended to partitions without a `partition_expr`."""

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Replace the rows; readers see the old ones until the new ones are complete."""
        with record_requests_on_failure(context) if context.has_asset_key else nullcontext():
            super().handle_output(context, obj)
        table_slice = self._get_table_slice(context, context)
        context.add_output_metadata(
            {
                "table": SwappingClient.get_table_name(table_slice),
                "database": dg.MetadataValue.path(self._database),
                **write_requests(),
            }
        )

    def load_input(self, context: dg.InputContext) -> Any:
        """The rows; None where there is no database yet and the input may be None."""
        if Wanted.of(context).optional and not Path(self._database).exists():
            return None
        return super().load_input(context)

    def _check_supported_type(self, obj_type: Any) -> None:
        """Left to the handler: a check by class would import pandas and polars."""

    def _resolve_handler(self, obj_type: type) -> DbTypeHandler[Any]:  # noqa: ARG002 - Dagster's signature
        return next(iter(self._handlers_by_type.values()))

    def _get_table_slice(
        self, context: dg.OutputContext | dg.InputContext, output_context: dg.OutputContext
    ) -> TableSlice:
        by_partition = context.has_asset_key and context.has_asset_partitions
        if by_partition and (output_context.definition_metadata or {}).get("partition_expr") is not None:
            return super()._get_table_slice(context, output_context)
        whole: Any = SimpleNamespace(
            has_asset_key=context.has_asset_key,
            asset_key=context.asset_key if context.has_asset_key else None,
            has_asset_partitions=False,
            definition_metadata=context.definition_metadata,
        )
        found = super()._get_table_slice(whole, output_context)
        by_key = [TablePartitionDimension(PARTITION_KEY, list(context.asset_partition_keys))] if by_partition else None
        return found._replace(partition_dimensions=by_key)


def _name(table_slice: TableSlice) -> TableName:
    return TableName(table_slice.schema, table_slice.table)


def _dimensions(table_slice: TableSlice) -> list[Dimension]:
    return [
        Dimension(each.partition_expr, window=_window(each.partitions))
        if hasattr(each.partitions, "start")
        else Dimension(each.partition_expr, keys=tuple(each.partitions))
        for each in table_slice.partition_dimensions or ()
    ]


def _window(partitions: Any) -> tuple[Any, Any]:
    window = cast("TimeWindow", partitions)
    return window.start, window.end


def _rows(context: dg.OutputContext, obj: Any) -> pa.Table:
    rows = as_arrow(obj)
    if rows is None:
        raise PartitionRowsError(
            f"{context.name} is a {type(obj).__module__}.{type(obj).__qualname__}, which does not fit a table. Return "
            f"{FRAMES}, or use `s3_io_manager` for small values."
        )
    return rows


def _with_key(context: dg.OutputContext, rows: pa.Table) -> pa.Table:
    """The rows with the key of their partition, which they do not contain themselves."""
    keys = context.asset_partition_keys
    if len(keys) != 1:
        raise PartitionRowsError(
            f"This run builds {len(keys)} partitions of {context.asset_key.to_user_string()} at once: say by the "
            "metadata `partition_expr` which column tells them apart, or have a run for each partition."
        )
    if PARTITION_KEY in rows.column_names:
        raise PartitionRowsError(
            f"{context.asset_key.to_user_string()} has a column {PARTITION_KEY}, which is the name of the one that is "
            f"added to tables by partition. Give it another name, or set the metadata `partition_expr`."
        )
    return rows.append_column(PARTITION_KEY, pa.array([keys[0]] * rows.num_rows, pa.string()))

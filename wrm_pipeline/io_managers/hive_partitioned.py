"""`hive_partitioned_s3_io_manager`: a partition <-> one Parquet object in the object store, local or S3."""

import contextlib
from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING, Any

import dagster as dg
import pyarrow as pa
from pydantic import PrivateAttr

from wrm_pipeline.clients.errors import ObjectNotFoundError
from wrm_pipeline.domain.parquet_parts import ParquetParts, PartsWriter
from wrm_pipeline.lake.published_partitions import PartitionFile
from wrm_pipeline.resources.base import BaseIOManager
from wrm_pipeline.resources.lake import LakeResource
from wrm_pipeline.resources.requests import record_requests_on_failure, write_requests

if TYPE_CHECKING:
    import pandas as pd


class HivePartitionedParquetIOManager(BaseIOManager):
    """Partitions of a Parquet layer; the asset's metadata `layer` says which one.

    Takes a PartitionFile, an Arrow table or a pandas frame, or None for "leave it as it is". Gives what the input
    is annotated with: ParquetParts, an Arrow table, or a pandas frame (the default). No pickles. An input that is
    `ParquetParts | None` is None for several partitions, which are read where they are used, side by side; and for one
    that is not published.
    """

    lake: LakeResource
    # What this process has just published: the next step of the same run need not fetch it again.
    _written: dict[str, bytes] = PrivateAttr(default_factory=dict)

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Publish a partition by one atomic write."""
        with record_requests_on_failure(context):
            if obj is not None:
                self._publish(context, obj)
        context.add_output_metadata(write_requests())

    def _publish(self, context: dg.OutputContext, obj: Any) -> None:
        layer, dt = _layer(context), date.fromisoformat(context.partition_key)
        partitions = replace(self.lake.partitions, run_id=context.run_id)
        if not isinstance(obj, PartitionFile):
            previous = partitions.read(layer, dt)
            obj = _as_file(obj, previous.row_count if previous else 0, context.run_id)
        info = partitions.publish(layer, dt, obj)
        self._written[info.key] = obj.data
        context.add_output_metadata(
            {"path": dg.MetadataValue.path(self.lake.store.url(info.key)), "size_bytes": info.size_bytes}
        )

    def load_input(self, context: dg.InputContext) -> Any:
        """Read one partition, or several one after the other."""
        upstream = context.upstream_output
        if upstream is None:
            raise dg.DagsterInvariantViolationError("this input has no upstream asset to load from")
        layer = _layer(upstream)
        keys = context.asset_partition_keys if context.has_asset_partitions else []
        wanted = context.dagster_type.typing_type
        if wanted == ParquetParts | None:
            if len(keys) != 1:
                return None
            with contextlib.suppress(ObjectNotFoundError):
                return self._read(layer, date.fromisoformat(keys[0]))
            return None
        parts = [self._read(layer, date.fromisoformat(key)) for key in keys]
        if wanted is ParquetParts:
            if len(parts) != 1:
                raise dg.DagsterInvariantViolationError(f"ParquetParts is one partition, not {len(parts)}")
            return parts[0]
        schema = parts[0].metadata.schema.to_arrow_schema().remove_metadata() if parts else pa.schema([])
        groups = [group.cast(schema) for part in parts for group in part.read_groups()]
        table = pa.concat_tables([schema.empty_table(), *groups])
        if wanted is pa.Table:
            return table
        import pandas as pd

        return table.to_pandas(types_mapper=pd.ArrowDtype)

    def _read(self, layer: str, dt: date) -> ParquetParts:
        key = self.lake.layout.partition_key(layer, dt)
        if key in self._written:
            return ParquetParts.open(self._written[key])
        return read_published(self.lake, layer, dt)


def read_published(lake: LakeResource, layer: str, dt: date) -> ParquetParts:
    """A partition that must be there.

    Raises:
        ObjectNotFoundError: it has not been published.
    """
    parts = lake.partitions.read(layer, dt)
    if parts is None:
        raise ObjectNotFoundError(
            "the partition has not been published",
            lake.store.name,
            "get",
            lake.layout.partition_key(layer, dt),
            f"Materialize the {layer} layer for {dt} first",
        )
    return parts


def _layer(context: dg.OutputContext) -> str:
    metadata = context.definition_metadata or {}
    return str(metadata["layer"])


def _as_file(obj: "pa.Table | pd.DataFrame", rows_before: int, build_id: str) -> PartitionFile:
    table = obj if isinstance(obj, pa.Table) else pa.Table.from_pandas(obj, preserve_index=False)
    writer = PartsWriter(table.schema, build_id)
    writer.write(table)
    return PartitionFile(writer.finish({}), table.num_rows, rows_before)

"""`hive_partitioned_s3_io_manager`: a partition <-> one Parquet object in the object store, local or S3."""

import io
from dataclasses import replace
from datetime import date
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, PrivateAttr

from wrm_pipeline.clients.errors import ObjectNotFoundError
from wrm_pipeline.domain.layout import BIKE_POSITIONS, CITY_RIDES, OWN_FOLDERS, is_plain_key
from wrm_pipeline.domain.parquet_parts import ParquetParts
from wrm_pipeline.domain.partition_build import check_shrink
from wrm_pipeline.io_managers.frames import FRAMES, Wanted, as_arrow, concat, from_arrow
from wrm_pipeline.io_managers.partition_folders import day_of, hive_folders
from wrm_pipeline.lake.published_partitions import LAYERS, PartitionFile, UnreadablePartitionError
from wrm_pipeline.resources.base import BaseIOManager
from wrm_pipeline.resources.lake import LakeResource
from wrm_pipeline.resources.requests import record_requests_on_failure, write_requests

_CONSENT = (
    "If the loss is intended, set `allow_shrink` of the resource `hive_partitioned_s3_io_manager` in the launchpad, "
    "or in "
    "the asset's metadata."
)

_Context = dg.OutputContext | dg.InputContext


class HivePartitionedParquetIOManager(BaseIOManager):
    """Frames (Arrow, pandas, polars) as one Parquet object for each partition, in folders by Hive's convention.

    `<layer>/all/dt=2025-08-21/all_<layer>_20250821_000000.parquet`, where the layer is the asset's metadata `layer`, or
    else its name. Partitions other than days have folders `hour=…`, `week=…`, `month=…`, `partition=…`, or one for each
    dimension; an asset without partitions is one object. Objects are replaced as a whole, so rows never occur twice.

    Inputs have their annotated type, by default pandas frames; for several partitions they contain all rows.
    """

    # Also accepts a PartitionFile, or None for "unchanged", and returns ParquetParts. An input that is `ParquetParts |
    # None` is None for several partitions, which are read where they are used, in parallel.

    lake: LakeResource
    allow_shrink: bool = Field(
        default=False, description="Whether a partition may be replaced by one with less than 95 % of its rows"
    )
    # The partition that this process has just published: the next step of the same run need not fetch it again.
    _written: dict[str, bytes] = PrivateAttr(default_factory=dict)

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Publish a partition by one atomic write."""
        with record_requests_on_failure(context):
            if obj is not None:
                self._publish(context, obj)
        context.add_output_metadata(write_requests())

    def _publish(self, context: dg.OutputContext, obj: Any) -> None:
        layer, partitions = _layer(context), replace(self.lake.partitions, run_id=context.run_id)
        if isinstance(obj, PartitionFile):
            info = partitions.publish(layer, date.fromisoformat(context.asset_partition_key), obj)
            data = obj.data
        else:
            rows = as_arrow(obj)
            if rows is None:
                raise TypeError(
                    f"{context.asset_key.to_user_string()} is a {type(obj).__module__}.{type(obj).__qualname__}, which "
                    f"is not a table. Return {FRAMES}, or use `s3_io_manager` for small values."
                )
            key = self._key(context, _one_partition(context))
            try:
                previous = partitions.read_key(key)
            except UnreadablePartitionError:
                previous = None
            may_shrink = self.allow_shrink or bool((context.definition_metadata or {}).get("allow_shrink"))
            rows_before = previous.row_count if previous else 0
            check_shrink(key, rows.num_rows, rows_before, allow_shrink=may_shrink, consent=_CONSENT)
            data = _parquet(rows)
            info = partitions.put_key(key, data)
            counted = "partition_row_count" if context.has_asset_partitions else "row_count"
            context.add_output_metadata({f"dagster/{counted}": rows.num_rows})
        self._written[info.key] = data
        context.add_output_metadata(
            {"path": dg.MetadataValue.path(self.lake.store.url(info.key)), "size_bytes": info.size_bytes}
        )

    def load_input(self, context: dg.InputContext) -> Any:
        """Read one partition, or several one after the other."""
        upstream = context.upstream_output
        if upstream is None:
            raise dg.DagsterInvariantViolationError("this input has no upstream asset to load from")
        wanted, parts_wanted = Wanted.of(context), Wanted.of(context).annotation is ParquetParts
        keys: list[str | None] = [*context.asset_partition_keys] if context.has_asset_partitions else [None]
        if parts_wanted and len(keys) != 1:
            if wanted.optional:
                return None
            raise dg.DagsterInvariantViolationError(f"ParquetParts is one partition, not {len(keys)}")
        kind = "" if parts_wanted else wanted.frame
        may_lack = wanted.optional or bool((context.definition_metadata or {}).get("allow_missing_partitions"))
        found = [self._read(context, key, may_lack=may_lack) for key in keys]
        parts = [part for part in found if part is not None]
        if not parts and wanted.optional:
            return None
        if parts_wanted:
            return parts[0]
        tables = [pq.read_table(pa.BufferReader(part.data)).replace_schema_metadata() for part in parts]
        return from_arrow(concat(tables), kind)

    def _read(self, context: dg.InputContext, partition: str | None, *, may_lack: bool) -> ParquetParts | None:
        key = self._key(context, partition)
        if key in self._written:
            return ParquetParts.open(self._written[key])
        parts = self.lake.partitions.read_key(key)
        if parts is None and not may_lack:
            raise _not_published(self.lake, key, f"{_layer(context)} layer", partition)
        return parts

    def _key(self, context: _Context, partition: str | None) -> str:
        layer = _layer(context)
        if partition is None:
            return self.lake.layout.layer_key(layer)
        definition = context.asset_partitions_def
        day = day_of(definition, partition)
        if day is not None:
            return self.lake.layout.partition_key(layer, day)
        return self.lake.layout.layer_key(layer, hive_folders(definition, partition))


def read_published(lake: LakeResource, layer: str, dt: date) -> ParquetParts:
    """A partition that must exist.

    Raises:
        ObjectNotFoundError: it has not been published.
    """
    parts = lake.partitions.read(layer, dt)
    if parts is None:
        raise _not_published(lake, lake.layout.partition_key(layer, dt), f"{layer} layer", str(dt))
    return parts


def _not_published(lake: LakeResource, key: str, what: str, partition: str | None) -> ObjectNotFoundError:
    remedy = f"Materialize the {what}{f' for {partition}' if partition else ''} first"
    return ObjectNotFoundError("the partition has not been published", lake.store.name, "get", key, remedy)


def _one_partition(context: dg.OutputContext) -> str | None:
    """The partition that a run builds; None if the asset is not partitioned."""
    if not context.has_asset_partitions:
        return None
    keys = context.asset_partition_keys
    if len(keys) != 1:
        raise dg.DagsterInvariantViolationError(
            f"This run builds {len(keys)} partitions of {context.asset_key.to_user_string()} at once, and a frame does "
            "not say which rows belong to which. Give the asset backfill_policy=dg.BackfillPolicy.multi_run(1)."
        )
    return keys[0]


def _layer(context: _Context) -> str:
    """The folder of an asset below the lake's prefix: its metadata `layer`, else its name with its prefixes.

    Raises:
        ValueError: it is one of the pipeline's own, or not the name of a folder.
    """
    output = context.upstream_output if isinstance(context, dg.InputContext) else context
    chosen = ((output.definition_metadata if output else None) or {}).get("layer")
    layer = str(chosen or "/".join(context.asset_key.path))
    own = OWN_FOLDERS if chosen else OWN_FOLDERS.union(LAYERS, (BIKE_POSITIONS, CITY_RIDES))
    if layer.partition("/")[0] in own or not is_plain_key(layer) or "=" in layer:
        raise ValueError(
            f"{layer!r} cannot be the folder of {context.asset_key.to_user_string()} in the lake: the pipeline keeps "
            "its own there, or it is not the name of a folder. Set the metadata `layer` to another name."
        )
    return layer


def _parquet(rows: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(rows, sink, compression="zstd")
    return sink.getvalue()

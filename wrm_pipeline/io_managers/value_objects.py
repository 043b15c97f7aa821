"""Values as objects at the same paths as with dagster-aws's I/O manager. See `s3_values.py`."""

import io
import json
from collections.abc import Iterator
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from wrm_pipeline.io_managers.frames import FRAMES, Wanted, as_arrow, concat, from_arrow, kind_of
from wrm_pipeline.io_managers.partition_folders import dimensions, segment
from wrm_pipeline.lake.object_store import RUN_ID, ObjectInfo, ObjectStore
from wrm_pipeline.resources.requests import record_requests_on_failure, write_requests

_Context = dg.OutputContext | dg.InputContext

_JSON, _TEXT, _PARQUET, _BYTES = ".json", ".txt", ".parquet", ".bin"
_CONTENT_TYPES = {
    _JSON: "application/json; charset=utf-8",
    _TEXT: "text/plain; charset=utf-8",
    _PARQUET: "application/vnd.apache.parquet",
    _BYTES: "application/octet-stream",
}
_KEPT = (
    f"Return a dict, list, str, int, float, bool or None (kept as JSON), {FRAMES} (as Parquet), or bytes; for larger "
    "tables there are `hive_partitioned_s3_io_manager` and `duckdb_io_manager`"
)


class PickleRefusedError(TypeError):
    """A value is of a type that only a pickle could keep."""


class ValuesIOManager(dg.UPathIOManager):
    """Dagster's own mapping from assets, partitions and ops to paths, over our object store."""

    def __init__(self, store: ObjectStore, folder: str) -> None:
        super().__init__(base_path=UPath(folder))
        self._store = store

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Replace the object by one atomic write."""
        if not context.has_asset_key:
            super().handle_output(context, obj)
            return
        with record_requests_on_failure(context):
            super().handle_output(context, obj)
        context.add_output_metadata(write_requests())

    def dump_to_path(self, context: dg.OutputContext, obj: Any, path: UPath) -> None:
        """Encode and store; an object in another format at this path is removed."""
        ending, data = _encode(context, obj)
        info = self._store.put(
            f"{path.as_posix()}{ending}",
            data,
            metadata={RUN_ID: context.run_id},
            content_type=_CONTENT_TYPES[ending],
        )
        for other in self._found(path):
            if other.key != info.key:
                self._store.delete(other.key)
        context.add_output_metadata({"url": self._store.url(info.key), "size_bytes": info.size_bytes})

    def load_from_path(self, context: dg.InputContext, path: UPath) -> Any:
        """Fetch and decode, according to the extension of the object's key.

        Raises:
            FileNotFoundError: nothing is stored there.
        """
        found = max(self._found(path), key=lambda info: info.last_modified, default=None)
        wanted = Wanted.of(context)
        if found is None:
            if wanted.optional:
                return None
            raise FileNotFoundError(
                f"Nothing is stored at {self._store.url(path.as_posix())}. Materialize {_name(context)} first."
            )
        ending, data = found.key.removeprefix(path.as_posix()), self._store.get(found.key)
        if ending == _PARQUET:
            return from_arrow(pq.read_table(pa.BufferReader(data)).replace_schema_metadata(), wanted.frame)
        if ending == _BYTES:
            return data
        return json.loads(data) if ending == _JSON else data.decode()

    def load_partitions(self, context: dg.InputContext) -> Any:
        """The value of a partition; for several a dict by key, or all rows if the input is annotated as a frame."""
        found, wanted = super().load_partitions(context), Wanted.of(context)
        if len(context.asset_partition_keys) == 1 or wanted.by_key or not kind_of(wanted.annotation):
            return found
        tables = [table for table in map(as_arrow, found.values()) if table is not None]
        return from_arrow(concat(tables), wanted.frame)

    def _found(self, path: UPath) -> Iterator[ObjectInfo]:
        key = path.as_posix()
        return (info for info in self._store.list(f"{key}.") if info.key.removeprefix(key) in _CONTENT_TYPES)

    def path_exists(self, path: UPath) -> bool:
        """Whether a value is stored there."""
        return any(self._found(path))

    def unlink(self, path: UPath) -> None:
        """Remove the value."""
        for info in self._found(path):
            self._store.delete(info.key)

    def make_directory(self, path: UPath) -> None:
        """Does nothing: the store needs no folders."""

    def _handle_transition_to_partitioned_asset(self, context: dg.OutputContext, path: UPath) -> None:
        """Objects and folders with the same name do not collide: objects have an extension."""

    def get_asset_relative_path(self, context: _Context) -> UPath:
        """The asset's key."""
        return UPath(*map(segment, context.asset_key.path))

    def get_op_output_relative_path(self, context: _Context) -> UPath:
        """As in dagster-aws: `storage/<run>/<step>/<output>`."""
        return UPath("storage", *map(segment, context.get_identifier()))

    def _get_paths_for_partitions(self, context: _Context) -> dict[str, UPath]:
        definition, path = context.asset_partitions_def, self._get_path_without_extension(context)
        return {
            key: path.joinpath(*(segment(part) for _, _, part in dimensions(definition, key)))
            for key in context.asset_partition_keys
        }

    def _get_multipartition_backcompat_paths(self, context: _Context) -> dict[str, UPath]:  # noqa: ARG002 - Dagster's
        return {}


def _encode(context: dg.OutputContext, value: Any) -> tuple[str, bytes]:
    """The extension of the key, and the content."""
    chosen = (context.definition_metadata or {}).get("format")
    if chosen not in (None, "text", "json"):
        raise ValueError(f"metadata `format` of {_name(context)} is {chosen!r}: it may be text or json, or be left out")
    if chosen == "text":
        if not isinstance(value, str):
            raise PickleRefusedError(
                f"{_name(context)} has the metadata `format` text and is {_type_of(value)}, not a str"
            )
        return _TEXT, value.encode()
    if isinstance(value, bytes):
        return _BYTES, value
    rows = as_arrow(value)
    if rows is not None:
        sink = io.BytesIO()
        pq.write_table(rows, sink, compression="zstd")
        return _PARQUET, sink.getvalue()
    _check_json(value, _name(context))
    return _JSON, json.dumps(value, ensure_ascii=False, indent=1).encode()


def _check_json(value: Any, where: str) -> None:
    """Reject anything that would not survive JSON unchanged."""
    if isinstance(value, dict):
        for key, each in value.items():
            if not isinstance(key, str):
                raise PickleRefusedError(f"a key of {where} is {_type_of(key)}, and JSON has text only. {_KEPT}.")
            _check_json(each, f"{where}[{key!r}]")
    elif isinstance(value, list):
        for index, each in enumerate(value):
            _check_json(each, f"{where}[{index}]")
    elif value is not None and not isinstance(value, str | int | float):
        raise PickleRefusedError(f"{where} is {_type_of(value)}, which only a pickle could keep. {_KEPT}.")
    elif isinstance(value, float) and value - value != 0:
        raise PickleRefusedError(f"{where} is {value}, which JSON does not have. Return None in its place.")


def _type_of(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _name(context: _Context) -> str:
    return context.asset_key.to_user_string() if context.has_asset_key else str(context.name)

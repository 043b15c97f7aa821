"""A day's Parquet file that grows without encoding its old rows again.

A day gets one more snapshot each minute, so nearly every write repeats what is already there. Full row groups
(FROZEN_ROWS) are *frozen*: later writes copy their bytes unchanged and encode only what follows them. The result is an
ordinary Parquet file: offsets in its footer are absolute, and readers ignore the bytes between row groups that no
footer mentions (the footer of each earlier write, a few kB a day).

The footer's key-value metadata holds the caller's own metadata and, to mark the frozen part, a copy of the frozen
row groups' metadata.
"""

import base64
import io
import json
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

# 9 groups in a day of 1,440 x 410 rows. Larger groups make each minute's write encode more (at twice the size, a
# quarter more in all); smaller ones make the file larger, as dictionaries repeat (at twice the size, 3 to 8 % less).
FROZEN_ROWS = 65_536

# Row groups that wait to be encoded beside the caller's work: those of a batch of the parser, 10 MB each.
_WAITING_GROUPS = 3

_MAGIC = b"PAR1"
# The keys that existing files use.
_FOOTER_KEY = b"wrm.notes"
_FROZEN_KEY = b"wrm.sealed"


@dataclass(frozen=True, slots=True)
class ParquetParts:
    """A Parquet file in memory, its footer metadata, and which of its leading row groups are frozen.

    `group_ids` identify the content of each frozen row group: equal ids, equal bytes.
    """

    data: bytes
    metadata: pq.FileMetaData
    footer_metadata: Mapping[str, Any]
    frozen: pq.FileMetaData | None
    group_ids: tuple[str, ...]

    @classmethod
    def open(cls, data: bytes) -> "ParquetParts":
        """Read the footer of a Parquet file.

        A file written by another program has no footer metadata and no frozen row groups.

        Raises:
            pyarrow.ArrowInvalid: `data` is not a Parquet file.
        """
        metadata = pq.read_metadata(pa.BufferReader(data))
        pairs = metadata.metadata or {}
        footer_metadata = _unpack(pairs[_FOOTER_KEY]) if _FOOTER_KEY in pairs else {}
        frozen, group_ids = None, ()
        if _FROZEN_KEY in pairs:
            packed = _unpack(pairs[_FROZEN_KEY])
            frozen = pq.read_metadata(io.BytesIO(base64.b64decode(packed["footer"])))
            group_ids = tuple(packed["group_ids"])
        return cls(data, metadata, footer_metadata, frozen, group_ids)

    @property
    def row_count(self) -> int:
        """Rows in the file."""
        return int(self.metadata.num_rows)

    @property
    def frozen_count(self) -> int:
        """Leading row groups that are frozen."""
        return len(self.group_ids)

    @property
    def group_count(self) -> int:
        """Row groups in the file."""
        return int(self.metadata.num_row_groups)

    def read_groups(
        self, start: int = 0, stop: int | None = None, columns: Sequence[str] | None = None
    ) -> Iterator[pa.Table]:
        """Row groups `start` to `stop` one by one, strings dictionary-encoded."""
        schema = self.metadata.schema.to_arrow_schema()
        strings = [field.name for field in schema if field.type == pa.string()]
        file = pq.ParquetFile(pa.BufferReader(self.data), read_dictionary=strings)
        for group in range(start, self.group_count if stop is None else stop):
            yield file.read_row_group(group, columns=columns).unify_dictionaries().combine_chunks()

    def highest(self, column: str, group: int) -> Any:
        """The largest value of a column in one row group, from its statistics."""
        position = self.metadata.schema.names.index(column)
        return self.metadata.row_group(group).column(position).statistics.max


class PartsWriter:
    """Appends rows to the frozen row groups of `previous`, which are copied unchanged.

    `build_id` must be unique to each build: it identifies the row groups that this build freezes.
    """

    def __init__(self, schema: pa.Schema, build_id: str, previous: ParquetParts | None = None) -> None:
        self._schema = schema
        self._build_id = build_id
        self._frozen = _empty_metadata(schema, {})
        self._group_ids: list[str] = []
        prefix: bytes | memoryview = _MAGIC
        if previous is not None and previous.frozen is not None and previous.frozen_count:
            prefix = memoryview(previous.data)[: _end_of_groups(previous.frozen)]
            self._frozen.append_row_groups(previous.frozen)
            self._group_ids.extend(previous.group_ids)
        self._file = _GroupsFile(prefix)
        self._encoder: ThreadPoolExecutor | None = None
        self._encoding: deque[Future[None]] = deque()
        self._pending: list[pa.Table] = []
        self._pending_rows = 0
        self.row_count = int(self._frozen.num_rows)

    def write(self, rows: pa.Table) -> None:
        """Add rows; full row groups are written at once."""
        self._pending.append(_typed_as(rows, self._schema))
        self._pending_rows += rows.num_rows
        self.row_count += rows.num_rows
        if self._pending_rows < FROZEN_ROWS:
            return
        table = pa.concat_tables(self._pending)
        full = table.num_rows // FROZEN_ROWS * FROZEN_ROWS
        for start in range(0, full, FROZEN_ROWS):
            self._encode(table.slice(start, FROZEN_ROWS))
            self._group_ids.append(f"{self._build_id}/{len(self._group_ids)}")
        self._pending_rows = table.num_rows - full
        # An empty slice would keep all rows in memory.
        self._pending = [table.slice(full)] if self._pending_rows else []

    def _encode(self, rows: pa.Table) -> None:
        """Write a row group: in a thread beside the caller, who parses what follows, if Arrow may use a second core."""
        if pa.cpu_count() == 1:
            self._file.write_group(_one_chunk(rows))
            return
        if self._encoder is None:
            self._encoder = ThreadPoolExecutor(1, "parquet")
        while len(self._encoding) >= _WAITING_GROUPS:
            self._encoding.popleft().result()
        self._encoding.append(self._encoder.submit(lambda: self._file.write_group(_one_chunk(rows))))

    def finish(self, footer_metadata: Mapping[str, Any]) -> bytes:
        """Return the whole file. `footer_metadata` is any JSON value."""
        while self._encoding:
            self._encoding.popleft().result()
        if self._encoder is not None:
            self._encoder.shutdown()
        written = self._file.close()
        if written is not None:
            self._frozen.append_row_groups(written)
        footer = io.BytesIO()
        self._frozen.write_metadata_file(footer)
        packed = {"footer": base64.b64encode(footer.getvalue()).decode(), "group_ids": self._group_ids}
        final = _empty_metadata(self._schema, {_FOOTER_KEY: _pack(footer_metadata), _FROZEN_KEY: _pack(packed)})
        final.append_row_groups(self._frozen)
        data = memoryview(self._file.data)[: _end_of_groups(self._frozen)]
        if self._pending_rows:
            tail_file = _GroupsFile(data)
            tail_file.write_group(_one_chunk(pa.concat_tables(self._pending)))
            final.append_row_groups(tail_file.close())
            data = memoryview(tail_file.data)[: _end_of_groups(final)]
        footer = io.BytesIO()
        final.write_metadata_file(footer)
        return b"".join([data, footer.getbuffer()[len(_MAGIC) :]])


class _GroupsFile:
    """Row groups written after existing bytes, with offsets that count from the start of the file.

    Arrow's writer insists on starting at offset 0, but asks the sink for its position before each row group. So the
    existing bytes are written to the sink right after the writer's magic number.
    """

    def __init__(self, prefix: bytes | memoryview) -> None:
        self._prefix = prefix
        self._sink = pa.BufferOutputStream()
        self._writer: pq.ParquetWriter | None = None
        self._collected: list[pq.FileMetaData] = []
        self.data: bytes | memoryview = prefix

    def write_group(self, table: pa.Table) -> None:
        if self._writer is None:
            strings = {field.name for field in table.schema if _holds_text(field.type)}
            times = {field.name for field in table.schema if pa.types.is_timestamp(field.type)}
            self._writer = pq.ParquetWriter(
                self._sink,
                table.schema,
                compression="zstd",
                compression_level=1,
                # Numbers are as small without a dictionary. Every row group has all the stations, so the minimum and
                # maximum of text columns are useless to a reader; finding them took a third of the time.
                use_dictionary=sorted(strings | times),
                write_statistics=sorted(set(table.column_names) - strings),
                store_schema=False,
                metadata_collector=self._collected,
            )
            self._sink.write(self._prefix[len(_MAGIC) :])
        self._writer.write_table(table, row_group_size=FROZEN_ROWS)

    def close(self) -> pq.FileMetaData | None:
        """Metadata of the row groups written here, or None if there are none; `data` then holds all bytes."""
        if self._writer is None:
            return None
        self._writer.close()
        self.data = memoryview(self._sink.getvalue())
        return self._collected[0]


def _holds_text(arrow_type: pa.DataType) -> bool:
    return bool(pa.types.is_string(arrow_type) or pa.types.is_dictionary(arrow_type))


def _typed_as(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """`rows` in the types to write: dictionaries are kept, to avoid hashing strings again."""
    return rows.cast(pa.schema([field.with_type(rows.schema.field(field.name).type) for field in schema]))


def _one_chunk(rows: pa.Table) -> pa.Table:
    return rows.unify_dictionaries().combine_chunks()


def _empty_metadata(schema: pa.Schema, pairs: Mapping[bytes, bytes]) -> pq.FileMetaData:
    sink = pa.BufferOutputStream()
    writer = pq.ParquetWriter(sink, schema, store_schema=False)
    if pairs:
        writer.add_key_value_metadata(dict(pairs))
    writer.close()
    return pq.read_metadata(pa.BufferReader(sink.getvalue()))


def _end_of_groups(metadata: pq.FileMetaData) -> int:
    """Offset of the first byte after the last row group, which is also the last one in the file."""
    if not metadata.num_row_groups:
        return len(_MAGIC)
    last = metadata.row_group(metadata.num_row_groups - 1)
    chunk = last.column(last.num_columns - 1)
    start = chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset
    return int(start + chunk.total_compressed_size)


def _pack(value: Any) -> bytes:
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return base64.b64encode(zlib.compress(text.encode(), 4))


def _unpack(packed: bytes) -> Any:
    return json.loads(zlib.decompress(base64.b64decode(packed)))

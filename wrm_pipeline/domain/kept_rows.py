"""Published rows whose raw object no longer exists, when they meet rows of other raw objects.

Rows of a raw object that has vanished stay published. Usually that needs no work: they are in the published file and
stay where they are. Only if another raw object of exactly the same time is parsed must the two be merged as the parser
merges all raw objects of one time: a station's latest report is kept, and the others count as duplicates.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from wrm_pipeline.domain.parquet_parts import ParquetParts
from wrm_pipeline.domain.schemas import SORT_KEY, TableSchema
from wrm_pipeline.domain.snapshot import LineCounts, ParsedBatch

_RANK = "rank"


class KeptRows:
    """Rows of `keys` in a published file, taken out of it to be merged with parsed rows of the same times."""

    def __init__(self, rows: pa.Table) -> None:
        self._rows = rows
        # Rows that were dropped as duplicates, by raw object.
        self._lost: Counter[str] = Counter()

    @classmethod
    def of(cls, previous: ParquetParts | None, keys: Collection[str], schema: TableSchema) -> "KeptRows | None":
        """Read them; None if there are none."""
        if previous is None or not keys:
            return None
        found = [only_sources(conformed(rows, schema), keys) for rows in previous.read_groups()]
        return cls(pa.concat_tables(found).unify_dictionaries().combine_chunks())

    def settled_with(self, batch: ParsedBatch, times: Iterable[datetime]) -> ParsedBatch:
        """The batch and the kept rows of these times: each station once per time, with matching counts.

        Of equal reports the parsed one is kept: a raw object that was only renamed is then entirely in the other one.
        """
        wanted = pa.array(set(times), self._rows.schema.field("file_timestamp").type)
        kept = self._rows.filter(pc.is_in(self._rows["file_timestamp"], value_set=wanted))
        if not kept.num_rows:
            return batch
        ranked = [rows.append_column(_RANK, _ranks(rows, rank)) for rank, rows in enumerate((kept, batch.rows))]
        both = joined(ranked)
        order = pa.table({name: _plain(both[name]) for name in (*SORT_KEY, "timestamp", _RANK)})
        both = both.take(pc.sort_indices(order, sort_keys=[(name, "ascending") for name in order.column_names]))
        repeated = _same_as_next(both)
        lost = Counter(_plain(both["s3_source_key"].filter(repeated)).to_pylist())
        self._lost.update(lost)
        reports = tuple(
            replace(report, counts=_less(report.counts, lost.pop(report.source_key, 0))) for report in batch.reports
        )
        rows = both.filter(pc.invert(repeated)).drop_columns([_RANK]).combine_chunks()
        return ParsedBatch(rows, reports)

    def counts_of(self, key: str, counts: LineCounts) -> LineCounts | None:
        """The line counts of a kept raw object; None once all of its rows come from another raw object."""
        left = _less(counts, self._lost[key])
        return left if left.rows_out or not counts.rows_out else None


def _less(counts: LineCounts, lost: int) -> LineCounts:
    return replace(counts, rows_out=counts.rows_out - lost, duplicate_rows=counts.duplicate_rows + lost)


def _ranks(rows: pa.Table, rank: int) -> pa.Array:
    return pa.repeat(pa.scalar(rank, pa.int8()), rows.num_rows)


def _same_as_next(rows: pa.Table) -> pa.ChunkedArray:
    """For rows in order: whether the next one has the same key."""
    same = None
    for name in SORT_KEY:
        values = _plain(rows[name]).combine_chunks()
        equal = pc.equal(values.slice(0, len(values) - 1), values.slice(1))
        same = equal if same is None else pc.and_(same, equal)
    return pa.chunked_array([pa.concat_arrays([pa.array(same), pa.array([False])])])


def _plain(values: pa.ChunkedArray) -> pa.ChunkedArray:
    return values.cast(pa.string()) if pa.types.is_dictionary(values.type) else values


def joined(tables: Iterable[pa.Table]) -> pa.Table:
    """Concatenate tables with the same columns, in the types of the last."""
    parts = list(tables)
    return pa.concat_tables([part.cast(parts[-1].schema) for part in parts]).unify_dictionaries().combine_chunks()


def only_sources(rows: pa.Table, keys: Collection[str]) -> pa.Table:
    """The rows that come from these raw objects."""
    return _by_source(rows, lambda key: key in keys)


def without_sources(rows: pa.Table, keys: Collection[str]) -> pa.Table:
    """The rows that come from other raw objects than these."""
    return _by_source(rows, lambda key: key not in keys) if keys else rows


def _by_source(rows: pa.Table, wanted: Callable[[str], bool]) -> pa.Table:
    if not rows.num_rows:
        return rows
    source = rows["s3_source_key"].chunk(0)
    kept = pa.array([wanted(key) for key in source.dictionary.to_pylist()])
    return rows.filter(kept.take(source.indices)).combine_chunks()


def conformed(rows: pa.Table, schema: TableSchema, defaults: Mapping[str, object] | None = None) -> pa.Table:
    """Rows that an earlier version wrote, with the columns of the current schema, in order.

    A column that they lack is null, or has its value from `defaults`.

    Raises:
        KeyError: they lack a column that must not be null.
    """
    names = list(schema.columns)
    if rows.column_names == names:
        return rows
    for name, column in schema.columns.items():
        if name in rows.column_names:
            continue
        value = (defaults or _DEFAULTS).get(name)
        if value is None and not column.nullable:
            raise KeyError(name)
        values = pa.repeat(pa.scalar(value, column.type), rows.num_rows)
        rows = rows.append_column(name, values.dictionary_encode() if column.type == pa.string() else values)
    return rows.select(names)


# Earlier versions knew only this feed, and a capped count was a dead letter.
_DEFAULTS: Mapping[str, object] = {"feed": "ucl", "count_capped": False}

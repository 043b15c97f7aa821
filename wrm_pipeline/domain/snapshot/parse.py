"""Parses several snapshots: files with one header by the typed path, refused ones by the exact path; then assembly."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wrm_pipeline.domain.feeds import UCL
from wrm_pipeline.domain.schemas import PROCESSED, UTC_TIMESTAMP, arrow_schema
from wrm_pipeline.domain.snapshot.columns import only_chunk
from wrm_pipeline.domain.snapshot.exact import parse_exactly, refused
from wrm_pipeline.domain.snapshot.lines import SEPARATORS
from wrm_pipeline.domain.snapshot.objects import as_lines, of_objects, without_objects
from wrm_pipeline.domain.snapshot.records import (
    FileFault,
    FileReport,
    FileResult,
    LineCounts,
    ParsedBatch,
    Part,
    RawSnapshot,
    RefusedError,
    micros_of,
)
from wrm_pipeline.domain.snapshot.text import pieces
from wrm_pipeline.domain.snapshot.typed import Prepared, prepare, typed_rows


def parse_snapshots(files: Sequence[RawSnapshot]) -> ParsedBatch:
    """Parse raw snapshots together; any bytes at all are accepted.

    If a station occurs twice under one `file_timestamp`, in one file or in two, its latest report is kept (of equal
    ones the last) and the others count as `duplicate_rows`. Pass all files of one `file_timestamp` to the same call.
    """
    files = sorted(files, key=lambda f: (f.file_timestamp, f.source_key))
    parts: list[Part] = []
    run: list[Prepared] = []
    translations = [as_lines(original) for original in files]
    for original, translation in zip(files, translations, strict=True):
        file = original if translation is None else translation.lines
        if translation is not None and translation.fault is not None:
            parts.extend(_parse_run(run) if run else [])
            run = []
            parts.append(without_objects(original, translation.fault))
            continue
        prepared = prepare(file)
        if run and (prepared is None or prepared.header != run[0].header):
            parts.extend(_parse_run(run))
            run = []
        if prepared is None:
            parts.append(refused(file, file.fault) if file.fault is not None else parse_exactly(file))
        else:
            run.append(prepared)
    if run:
        parts.extend(_parse_run(run))
    results = [result for part in parts for result in part.results]
    results = [
        result if translation is None or translation.fault else of_objects(result, translation)
        for result, translation in zip(results, translations, strict=True)
    ]
    return _assemble(files, [part.rows for part in parts if part.rows is not None], results)


def reject_reason(body: bytes, fetched_at: datetime) -> FileFault | None:
    """Why a fetched body is not a snapshot, or None if it is one."""
    return inspect_fetched(body, fetched_at).fault


def inspect_fetched(body: bytes, fetched_at: datetime, feed: str = UCL.name) -> FileReport:
    """The content of a body fetched from a kind of feed, and in `fault` why it is not a snapshot.

    Besides the faults of a file, `file_truncated`: the body ends in mid-row, before its last field or within quotes.
    """
    snapshot = RawSnapshot("fetched body", fetched_at, body, feed=feed)
    report = parse_snapshots([snapshot]).reports[0]
    return report if report.fault or snapshot.kind.translate else replace(report, fault=_cut_off(body, report))


def _cut_off(body: bytes, report: FileReport) -> FileFault | None:
    if body.endswith((b"\n", b"\r", b"\n\x00")):
        return None
    number, before, last = _last_lines(body)
    message = f"The body ends in mid-row: line {number} is {last[:80].decode('utf-8', 'replace')!r}."
    separators = tuple(separator.encode() for separator in SEPARATORS)
    for row in report.dead_rows:
        cut_off = row.error_type in ("wrong_field_count", "unclosed_quote") or last.endswith(separators)
        if row.line_number == number and cut_off:
            return FileFault("file_truncated", message)
    # An empty last field may be an unknown value, if the previous row ends the same way.
    if last.endswith(separators) and not before.endswith(separators):
        return FileFault("file_truncated", message)
    return None


def _last_lines(body: bytes) -> tuple[int, bytes, bytes]:
    """(number of the last line that is not empty, the one before it, that line)."""
    number, before, last = 0, b"", b""
    for piece in pieces(body):
        data = piece.data.rstrip(b"\n")
        if piece.overlong:
            # It is dead in any case.
            number, before, last = piece.first_line, last, b""
        elif data:
            lines = data[-200_000:].split(b"\n")[-2:]
            number = piece.first_line + data.count(b"\n")
            before, last = (lines[0] if len(lines) > 1 else last), lines[-1]
    return number, before, last


def _parse_run(run: list[Prepared]) -> list[Part]:
    try:
        rows = typed_rows(run)
    except RefusedError:
        if len(run) == 1:
            return [parse_exactly(run[0].file)]
        middle = len(run) // 2
        return _parse_run(run[:middle]) + _parse_run(run[middle:])
    return [Part(rows, [FileResult(p.line_count, p.remark_lines) for p in run])]


def _assemble(files: Sequence[RawSnapshot], typed: Sequence[pa.Table], results: Sequence[FileResult]) -> ParsedBatch:
    schema = arrow_schema(PROCESSED)
    if typed:
        rows, duplicates = _sorted_unique(files, pa.concat_tables(typed), [result.row_count for result in results])
    else:
        rows, duplicates = dictionary_encoded(schema.empty_table()), [0] * len(files)
    reports = []
    for file, result, duplicate_rows in zip(files, results, duplicates, strict=True):
        dead = sum(result.dead_counts.values())
        counts = LineCounts(
            lines_in=result.row_count + dead + result.remark_lines,
            rows_out=result.row_count - duplicate_rows,
            dead_lettered=dead,
            duplicate_rows=duplicate_rows,
            remark_lines=result.remark_lines,
        )
        reports.append(FileReport(file.source_key, counts, result.dead_rows, result.dead_counts, result.fault))
    return ParsedBatch(rows.select(schema.names), tuple(reports))


def _sorted_unique(
    files: Sequence[RawSnapshot], typed: pa.Table, row_counts: Sequence[int]
) -> tuple[pa.Table, list[int]]:
    """Rows in SORT_KEY order, each key once, and the number of duplicates per file."""
    table = typed.unify_dictionaries().combine_chunks()
    ids = only_chunk(table["station_id"])
    file_index = np.repeat(np.arange(len(files), dtype=np.int32), row_counts)
    micros = np.array([micros_of(f.file_timestamp) for f in files], dtype=np.int64)
    snapshot_rank = np.unique(micros, return_inverse=True)[1]
    id_rank = np.empty(len(ids.dictionary), dtype=np.int64)
    id_rank[pc.sort_indices(ids.dictionary).to_numpy()] = np.arange(len(ids.dictionary))
    key = snapshot_rank[file_index] * len(ids.dictionary) + id_rank[ids.indices.to_numpy()]
    duplicates = [0] * len(files)
    steps = np.diff(key)
    if not (steps > 0).all():
        order = np.argsort(key, kind="stable")
        if (np.diff(key[order]) == 0).any():
            reported = table["timestamp"].cast(pa.int64()).to_numpy()
            order = np.lexsort((reported, key))
            last_of_key = np.append(np.diff(key[order]) != 0, True)
            duplicates = np.bincount(file_index[order[~last_of_key]], minlength=len(files)).tolist()
            order = order[last_of_key]
        table = table.take(pa.array(order))
        file_index = file_index[order]
    source_keys = pa.DictionaryArray.from_arrays(pa.array(file_index), [f.source_key for f in files])
    file_times = pa.array(micros[file_index]).cast(UTC_TIMESTAMP)
    table = table.append_column("s3_source_key", source_keys).append_column("file_timestamp", file_times)
    names = [file.kind.name for file in files]
    feeds = sorted(set(names))
    codes = np.array([feeds.index(name) for name in names], np.int32)
    feed = pa.DictionaryArray.from_arrays(pa.array(codes[file_index]), feeds)
    return table.append_column("feed", feed), duplicates


def dictionary_encoded(table: pa.Table) -> pa.Table:
    """`table` with dictionary-encoded string columns, as returned by the parser."""
    for i, column in enumerate(table.schema):
        if column.type == pa.string():
            table = table.set_column(i, column.name, table[i].dictionary_encode())
    return table

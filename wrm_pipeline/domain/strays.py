"""Parquet files of other writers in a partition's folder: which of their rows ours lacks, converted to our schema.

The columns of another writer have to be interpreted: a raw object's name, the time of the snapshot (with or without a
zone, or as text), the time of the report, or just a station. The most specific one present decides.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wrm_pipeline.domain.city import this_city
from wrm_pipeline.domain.kept_rows import conformed
from wrm_pipeline.domain.layout import Layout
from wrm_pipeline.domain.manifest import ADOPTED, AccountingError, Manifest, Source
from wrm_pipeline.domain.parquet_parts import ParquetParts, PartsWriter
from wrm_pipeline.domain.partition_build import SHRINK_TOLERANCE, PartitionWouldShrinkError, ProcessedBuild
from wrm_pipeline.domain.schemas import PROCESSED, UTC_TIMESTAMP, arrow_schema, validate
from wrm_pipeline.domain.snapshot import PARSER_VERSION, LineCounts, dictionary_encoded

_KEY = ("id", "at")

# If this share of the rows equals ours at another hour, a zone is wrong, and the rows are not new.
_SHIFTED_SHARE = 0.5
_SHIFTS_H = (-2, -1, 1, 2)


@dataclass(frozen=True, slots=True)
class StrayFile:
    """A file that may contain rows of a day.

    `moves_to` is its new key once they are in ours; empty if it stays. `problem` says why there is no `data`.
    """

    key: str
    data: bytes
    moves_to: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Judged:
    """The findings about a stray file.

    Attributes:
        file: The file.
        row_count: Its rows; 0 if it cannot be read.
        lost: Rows that ours lacks.
        rows: Those rows in our schema; None if that is impossible.
        problem: Why it is impossible, or why the file cannot be read.
        foreign: Whether it cannot contain such rows at all: not Parquet, or no station ids.
        broken: Whether it is unusable, and breaks anything that reads all files of the folder.
    """

    file: StrayFile
    row_count: int
    lost: int = 0
    rows: pa.Table | None = None
    problem: str = ""
    foreign: bool = False
    broken: bool = False

    def __str__(self) -> str:
        return f"{self.file.key} ({self.problem or f'{self.row_count} rows, {self.lost} of them not in ours'})"


class OurRows:
    """One of our partitions, as far as foreign rows are compared with it."""

    def __init__(self, file: ParquetParts | None, manifest: Manifest) -> None:
        columns = ["station_id", "file_timestamp", "timestamp"]
        found = [] if file is None else [pa.table(g.columns, columns) for g in file.read_groups(columns=columns)]
        table = pa.concat_tables(
            [pa.table({name: _text(t[name]) if name == "station_id" else t[name] for name in columns}) for t in found]
            or [pa.schema([("station_id", pa.string()), *((n, UTC_TIMESTAMP) for n in columns[1:])]).empty_table()]
        )
        self.row_count = table.num_rows
        self.keys = _keys(table["station_id"], table["file_timestamp"])
        self.reports = _keys(table["station_id"], table["timestamp"])
        lines = {key: s.counts.lines_in - s.counts.remark_lines for key, s in manifest.sources.items()}
        self.lines = {key.rpartition("/")[2]: count for key, count in lines.items()}


def judge(file: StrayFile, ours: OurRows, layout: Layout, dt: date) -> Judged:
    """Compare a stray file with our rows."""
    if file.problem:
        return Judged(file, 0, problem=file.problem, foreign=True)
    try:
        table = pq.read_table(pa.BufferReader(file.data)).replace_schema_metadata()
    except (ValueError, OSError, LookupError) as error:  # including Arrow's own
        why = f"it is not a Parquet file that can be read ({error})"
        return Judged(file, 0, problem=why, foreign=True, broken=True)
    if "station_id" not in table.column_names:
        return Judged(file, table.num_rows, problem="it has no column station_id", foreign=True)
    try:
        table = table.set_column(table.column_names.index("station_id"), "station_id", _text(table["station_id"]))
        return _judge(file, table, ours, layout, dt)
    except (pa.ArrowException, ValueError, KeyError) as error:
        return Judged(file, table.num_rows, table.num_rows, problem=f"its columns cannot be read as ours: {error}")


def _judge(file: StrayFile, table: pa.Table, ours: OurRows, layout: Layout, dt: date) -> Judged:
    count = table.num_rows
    named = "s3_source_key" in table.column_names
    if named:
        table, sources = _with_source_names(table, layout, dt)
        table = table.filter(pc.invert(pc.is_in(sources, value_set=_accounted(sources, ours.lines))))
    if not table.num_rows:
        return Judged(file, count)
    times = _snapshot_times(table, layout, ours)
    if times is None:
        lost = _lost_by_count(table, ours)
        return Judged(file, count, lost, problem="it does not say which snapshot its rows are from" if lost else "")
    keys = _keys(table["station_id"], times)
    missing = _missing(keys, ours.keys)
    if not missing.num_rows:
        return Judged(file, count)
    if (hours := _shifted(missing, ours.keys)) != 0:
        why = f"its rows are ours {hours:+d} h: WRM_RAW_NAME_TIMEZONE may be wrong"
        return Judged(file, count, missing.num_rows, problem=why)
    rows, problem = _as_ours(_replaced(table, "file_timestamp", times).take(missing["row"]), file)
    return Judged(file, count, missing.num_rows, rows, problem)


# --- which snapshot a row is from ---


def _keys(ids: pa.ChunkedArray, times: pa.ChunkedArray) -> pa.Table:
    return pa.table({"id": ids, "at": times.cast(UTC_TIMESTAMP).cast(pa.int64())})


def _missing(keys: pa.Table, ours: pa.Table) -> pa.Table:
    """Rows whose key is not among ours, each key once; `row` is the last one with it."""
    rows = keys.append_column("row", pa.array(range(keys.num_rows), pa.int64()))
    left = rows.join(ours.select(list(_KEY)).group_by(list(_KEY)).aggregate([]), list(_KEY), join_type="left anti")
    return left.group_by(list(_KEY)).aggregate([("row", "max")]).rename_columns([*_KEY, "row"]).sort_by("row")


def _shifted(missing: pa.Table, ours: pa.Table) -> int:
    """The shift in whole hours that makes most of these rows ours; 0 if there is none."""
    for hours in _SHIFTS_H:
        moved = pa.table({"id": missing["id"], "at": pc.add(missing["at"], hours * 3_600_000_000)})
        if _missing(moved, ours).num_rows <= (1 - _SHIFTED_SHARE) * moved.num_rows:
            return hours
    return 0


def _with_source_names(table: pa.Table, layout: Layout, dt: date) -> tuple[pa.Table, pa.ChunkedArray]:
    """`s3_source_key` as our keys (others write URLs, or names alone), and the names."""
    texts = _text(table["s3_source_key"]).combine_chunks()
    names = pc.replace_substring_regex(pc.fill_null(texts, ""), r"^.*/", "")
    keys = pc.if_else(pc.ends_with(names, ".txt"), pc.binary_join_element_wise(layout.raw_folder(dt), names, ""), texts)
    return _replaced(table, "s3_source_key", pa.chunked_array([keys])), pa.chunked_array([names])


def _accounted(sources: pa.ChunkedArray, lines: Mapping[str, int]) -> pa.Array:
    """Raw objects that we have read ourselves, with at least as many lines as the stray has rows from them.

    Their rows are in ours, or are dead letters or duplicates.
    """
    counts = zip(*(column.to_pylist() for column in sources.value_counts().flatten()), strict=True)
    return pa.array([name for name, count in counts if lines.get(name, -1) >= count], pa.string())


def _snapshot_times(table: pa.Table, layout: Layout, ours: OurRows) -> pa.ChunkedArray | None:
    """The time of each row's snapshot: from the raw object's name as we read it, else from the column, else None."""
    column = None
    if "file_timestamp" in table.column_names:
        column = _utc(table["file_timestamp"], table["station_id"], layout, ours)
    if "s3_source_key" not in table.column_names:
        return column
    keys = table["s3_source_key"].combine_chunks().dictionary_encode()
    read = [_time_of(key, layout) for key in keys.dictionary.to_pylist()]
    by_name = pa.array(read, UTC_TIMESTAMP).take(keys.indices)
    times = by_name if column is None else pc.coalesce(by_name, column.combine_chunks())
    return None if times.null_count else pa.chunked_array([times])


def _time_of(key: str | None, layout: Layout) -> datetime | None:
    parsed = layout.parse_raw_key(key) if key else None
    return parsed.file_timestamp if parsed is not None else None


def _utc(values: pa.ChunkedArray, ids: pa.ChunkedArray, layout: Layout, ours: OurRows) -> pa.ChunkedArray:
    """As UTC. Without a zone, the zone that makes most rows ours: UTC, that of raw names, or the city's."""
    if not pa.types.is_timestamp(values.type):
        values = _text(values).cast(pa.timestamp("us"))
    if values.type.tz is not None:
        return values.cast(UTC_TIMESTAMP)
    naive = values.cast(pa.timestamp("us"))
    readings = [
        pc.assume_timezone(naive, zone, ambiguous="earliest", nonexistent="earliest") for zone in _zones(layout)
    ]
    return min((r.cast(UTC_TIMESTAMP) for r in readings), key=lambda r: _missing(_keys(ids, r), ours.keys).num_rows)


def _zones(layout: Layout) -> list[str]:
    zone: tzinfo = layout.raw_name_zone
    names = [zone.key if isinstance(zone, ZoneInfo) else "UTC", "UTC", this_city().zone.key]
    return list(dict.fromkeys(names))


def _lost_by_count(table: pa.Table, ours: OurRows) -> int:
    """For rows without a snapshot: how much more often each station (at each report) occurs here than in ours."""
    theirs, known, key = pa.table({"id": table["station_id"]}), ours.keys, ["id"]
    if "timestamp" in table.column_names and pa.types.is_timestamp(table["timestamp"].type):
        zone = table["timestamp"].type.tz
        reports = table["timestamp"] if zone else pc.assume_timezone(table["timestamp"], "UTC")
        theirs, known, key = _keys(table["station_id"], reports), ours.reports, ["id", "at"]
    here, there = (rows.group_by(key).aggregate([([], "count_all")]) for rows in (theirs, known))
    both = here.join(there, key, join_type="left outer", right_suffix="_ours")
    more = pc.subtract(both["count_all"], pc.fill_null(both["count_all_ours"], 0))
    return int(pc.sum(pc.max_element_wise(more, 0)).as_py() or 0)


# --- rows as ours ---


def _as_ours(rows: pa.Table, file: StrayFile) -> tuple[pa.Table | None, str]:
    """Rows of another writer with our columns and types; or None and the reason."""
    try:
        columns = {}
        for name, column in PROCESSED.columns.items():
            if name in rows.column_names:
                columns[name] = _cast(rows[name], column.type)
        if "s3_source_key" not in columns:
            columns["s3_source_key"] = pa.repeat(file.moves_to or file.key, rows.num_rows)
        else:
            columns["s3_source_key"] = pc.fill_null(columns["s3_source_key"], file.moves_to or file.key)
        found = conformed(pa.table(columns), PROCESSED)
        found = dictionary_encoded(found.cast(pa.schema([found.schema.field(n) for n in PROCESSED.columns])))
        validate(found, PROCESSED)
    except KeyError as error:
        return None, f"it has no column {error.args[0]}"
    except Exception as error:  # noqa: BLE001 - pandera is loaded only where Arrow says no
        return None, f"its rows cannot be converted: {str(error).splitlines()[0][:200]}"
    return found, ""


def _cast(values: pa.ChunkedArray, arrow_type: pa.DataType) -> pa.ChunkedArray:
    if arrow_type == pa.string():
        return _text(values)
    if pa.types.is_timestamp(arrow_type) and pa.types.is_timestamp(values.type) and values.type.tz is None:
        values = pc.assume_timezone(values, "UTC")
    return values.cast(arrow_type)


def _text(values: pa.ChunkedArray) -> pa.ChunkedArray:
    return values if values.type == pa.string() else values.cast(pa.string())


def _replaced(table: pa.Table, name: str, values: pa.ChunkedArray) -> pa.Table:
    if name not in table.column_names:
        return table.append_column(name, values)
    return table.set_column(table.column_names.index(name), name, values)


def adopted(
    base: ParquetParts, manifest: Manifest, judged: Iterable[Judged], *, parsed_at: datetime
) -> ProcessedBuild | None:
    """`base` and the rows of strays that it lacks; None if there are none.

    They count as rows of raw objects that have vanished: later builds keep them until their raw object comes back and
    is read.
    """
    donors = [stray for stray in judged if stray.rows is not None and stray.rows.num_rows]
    if not donors:
        return None
    plain = arrow_schema(PROCESSED)
    rows = pa.concat_tables([stray.rows.cast(plain) for stray in donors if stray.rows is not None])
    rows = _last_of_each(rows)
    taken = {name for name in _text(rows["s3_source_key"]).unique().to_pylist() if name in manifest.sources}
    if taken:  # a raw object with fewer lines than the stray has rows from it keeps its own
        keys = rows["s3_source_key"].to_pylist()
        moved = pa.array([f"{key}#" if key in taken else key for key in keys], pa.string())
        rows = _replaced(rows, "s3_source_key", pa.chunked_array([moved]))
    old = [conformed(group, PROCESSED).cast(plain) for group in base.read_groups()]
    everything = dictionary_encoded(pa.concat_tables([*old, rows]))
    order = pa.table({"at": everything["file_timestamp"], "id": _text(everything["station_id"])})
    everything = everything.take(pc.sort_indices(order, sort_keys=[("at", "ascending"), ("id", "ascending")]))
    writer = PartsWriter(plain, parsed_at.isoformat())
    writer.write(everything)
    sources = {**manifest.sources, **_sources(rows, donors, parsed_at)}
    whole = replace(manifest, parser_version=PARSER_VERSION, sources=sources)
    if whole.counts.rows_out != writer.row_count:
        raise AccountingError(f"{writer.row_count} rows were written, but {whole.counts.rows_out} are accounted for.")
    footer = whole.to_footer() | {"built_at": parsed_at.isoformat()}
    return ProcessedBuild(writer.finish(footer), writer.row_count, whole, ())


def _last_of_each(rows: pa.Table) -> pa.Table:
    """Each station once per time: the stray files overlap, and the last one wins."""
    keys = _keys(rows["station_id"], rows["file_timestamp"]).append_column("row", pa.array(range(rows.num_rows)))
    return rows.take(keys.group_by(list(_KEY)).aggregate([("row", "max")])["row_max"].combine_chunks().sort())


def _sources(rows: pa.Table, donors: list[Judged], parsed_at: datetime) -> dict[str, Source]:
    etag = f"{ADOPTED}{' '.join(stray.file.key.rpartition('/')[2] for stray in donors)}"[:500]
    found = rows.group_by("s3_source_key").aggregate([("file_timestamp", "min"), ([], "count_all")])
    return {
        row["s3_source_key"]: Source(
            etag,
            row["file_timestamp_min"].astimezone(UTC),
            "",
            parsed_at,
            LineCounts(lines_in=row["count_all"], rows_out=row["count_all"]),
        )
        for row in found.to_pylist()
    }


def check_strays(name: str, rows_now: int, judged: Iterable[Judged], *, allow_shrink: bool) -> None:
    """Refuse to publish a partition next to files with rows that it lacks.

    Raises:
        PartitionWouldShrinkError: more than SHRINK_TOLERANCE of all rows are only in them.
    """
    holding = [stray for stray in judged if stray.lost and not stray.foreign]
    lost = sum(stray.lost for stray in holding)
    if allow_shrink or lost <= SHRINK_TOLERANCE * (rows_now + lost):
        return
    raise PartitionWouldShrinkError(
        f"{name} would have {rows_now} rows, and lack {lost} that exist only in files of another writer: "
        f"{'; '.join(map(str, holding[:3]))}. Nothing was written, and the files were left as they are. Bring back the "
        "raw objects of these rows; if they are not wanted, run it again with `allow_shrink: true` in the run config, "
        "which moves the files to superseded/, where they stay for 30 days."
    )


MAX_AGE = timedelta(days=30)
"""How long a superseded file is kept."""

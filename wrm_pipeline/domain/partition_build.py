"""A day's raw objects -> its processed partition -> its enhanced partition.

The processed file is its own memory: its notes hold, per raw object, name, ETag and line counts, and the
parser's version. A build parses only what is new or changed and gives the rows that a build from scratch gives.
"""

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from wrm_pipeline.domain.kept_rows import KeptRows, conformed, without_sources
from wrm_pipeline.domain.parquet_parts import ParquetParts, PartsWriter
from wrm_pipeline.domain.rules import STALE_AFTER, ServiceArea
from wrm_pipeline.domain.schemas import (
    ENHANCED,
    FLAGS,
    PROCESSED,
    RECORD_TYPES,
    arrow_schema,
    validate,
    with_later_columns,
)
from wrm_pipeline.domain.snapshot import (
    PARSER_VERSION,
    FileFault,
    FileReport,
    LineCounts,
    ParsedBatch,
    RawSnapshot,
    parse_snapshots,
)

# Raw text that is parsed in one go: about 170,000 rows, 100 MB at the peak.
BATCH_BYTES = 16 * 2**20

# Part of what the enhanced partition remembers: another version means that its rows are built anew.
RULES_VERSION = "2"

# In place of a raw object's ETag: its rows were taken over from a file of another writer, which follows.
ADOPTED = "adopted "

# Data contract, section 2: a partition that would lose more than this share of its rows is not replaced.
SHRINK_TOLERANCE = 0.05

ReadBodies = Callable[[Iterable[str]], Iterator[tuple[str, bytes]]]


class AccountingError(RuntimeError):
    """Rows went missing or came from nowhere: a fault of this program, and nothing is published."""


class PartitionWouldShrinkError(RuntimeError):
    """A partition would lose more than SHRINK_TOLERANCE of the rows that it has now."""


def check_shrink(name: str, rows_now: int, rows_before: int, *, allow_shrink: bool) -> None:
    """Refuse to publish a partition that lost rows by accident.

    Raises:
        PartitionWouldShrinkError: more than SHRINK_TOLERANCE would be lost and `allow_shrink` is not set.
    """
    if allow_shrink or rows_now >= rows_before * (1 - SHRINK_TOLERANCE):
        return
    raise PartitionWouldShrinkError(
        f"{name} has {rows_before} rows and would be replaced by {rows_now}. It was left as it is. "
        "Look for raw objects that are gone or unreadable; if the loss is meant, run it again with "
        "`allow_shrink: true` in the run config."
    )


@dataclass(frozen=True, slots=True)
class RawObject:
    """One raw object as the store lists it, with the time of its snapshot.

    Attributes:
        key: Its name.
        etag: What changes when its content does.
        size_bytes: Length of its content.
        file_timestamp: Aware. Where `readings` is not None it only stands in until the time is settled
            (`domain/snapshot_time.py`).
        corrections: An operator's accepted replacements of lines, by line number.
        readings: None where the name says the time. Else the instants that the name may mean; none if it has no time.
        fault: Why all of its rows are dead letters, whatever they are.
    """

    key: str
    etag: str
    size_bytes: int
    file_timestamp: datetime
    corrections: Mapping[int, str] = field(default_factory=dict)
    readings: tuple[datetime, ...] | None = None
    fault: FileFault | None = None

    @property
    def corrections_id(self) -> str:
        """What tells one set of corrections from another; empty without any."""
        return json.dumps(sorted(self.corrections.items())) if self.corrections else ""


@dataclass(frozen=True, slots=True)
class Source:
    """What the partition remembers of one raw object."""

    etag: str
    file_timestamp: datetime
    corrections_id: str
    parsed_at: datetime
    counts: LineCounts

    @property
    def adopted(self) -> bool:
        """Whether its rows come from another writer's file: there was no raw object by then."""
        return self.etag.startswith(ADOPTED)


@dataclass(frozen=True, slots=True)
class Manifest:
    """The raw objects that a processed partition holds, by key, and the version of the parser that read them.

    Attributes:
        parser_version: Of the rows.
        sources: What is remembered of each raw object.
        refused: ETags of contents that gave fewer rows than the content before, by key: without consent the rows of the
            earlier content stay.
        unreadable: Raw objects that could not be read, and why, by key: their published rows stay.
    """

    parser_version: str
    sources: Mapping[str, Source]
    refused: Mapping[str, str] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)

    @property
    def counts(self) -> LineCounts:
        """The sum over all raw objects."""
        return LineCounts.total(source.counts for source in self.sources.values())

    def to_notes(self) -> dict[str, Any]:
        """As JSON: about 30 bytes a raw object once compressed."""
        keys = sorted(self.sources)
        folder = keys[0].rpartition("/")[0] + "/" if keys else ""
        parsed_at = sorted({source.parsed_at for source in self.sources.values()})
        run_index = {at: index for index, at in enumerate(parsed_at)}
        rows = []
        for key in keys:
            source = self.sources[key]
            counts = source.counts
            name = key.removeprefix(folder)
            rows.append(
                [
                    name if name != key and not name.startswith("/") else f"/{key}",
                    source.etag,
                    (source.file_timestamp - _EPOCH) // timedelta(microseconds=1),
                    source.corrections_id,
                    run_index[source.parsed_at],
                    counts.lines_in,
                    counts.rows_out,
                    counts.dead_lettered,
                    counts.duplicate_rows,
                    counts.remark_lines,
                ]
            )
        notes = {
            "parser": self.parser_version,
            "folder": folder,
            "parsed_at": [at.isoformat() for at in parsed_at],
            "sources": rows,
        }
        seldom = {"refused": dict(self.refused), "unreadable": dict(self.unreadable)}
        return notes | {name: value for name, value in seldom.items() if value}

    @classmethod
    def from_notes(cls, notes: Mapping[str, Any]) -> "Manifest | None":
        """Read back; None for a file that has no such notes."""
        if "parser" not in notes:
            return None
        parsed_at, folder = _runs(notes), notes["folder"]
        sources = {
            _key(folder, name): Source(etag, _from_micros(micros), corrections_id, parsed_at[run], LineCounts(*counts))
            for name, etag, micros, corrections_id, run, *counts in notes["sources"]
        }
        return cls(notes["parser"], sources, notes.get("refused", {}), notes.get("unreadable", {}))


def parse_times(notes: Mapping[str, Any]) -> dict[str, datetime] | None:
    """When each raw object was parsed, by key: of the manifest in `notes` no more than this, in a third of the time.

    None for a file that has no such notes.
    """
    if "parser" not in notes:
        return None
    parsed_at, folder = _runs(notes), notes["folder"]
    return {_key(folder, name): parsed_at[run] for name, _, _, _, run, *_ in notes["sources"]}


def _runs(notes: Mapping[str, Any]) -> list[datetime]:
    return [datetime.fromisoformat(text) for text in notes["parsed_at"]]


def _key(folder: str, name: str) -> str:
    return name[1:] if name.startswith("/") else folder + name


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _from_micros(micros: int) -> datetime:
    return _EPOCH + timedelta(microseconds=micros)


# --- processed -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """What a build has to do.

    Attributes:
        parse: Raw objects to parse.
        drop: Raw objects whose rows leave the published file; those of `parse` come back as they are now.
        previous: The published file, where any of its rows stay.
        manifest: What the published partition remembers.
        keep_sealed: Whether its sealed row groups stay as they are.
        kept: Raw objects that are gone, refused or unreadable, and whose rows stay.
        contested: Those of `kept` that share their time with one that is parsed.
        refused, unreadable: See Manifest.
    """

    parse: tuple[RawObject, ...]
    drop: frozenset[str]
    previous: ParquetParts | None
    manifest: Manifest
    keep_sealed: bool
    kept: frozenset[str] = frozenset()
    contested: frozenset[str] = frozenset()
    refused: Mapping[str, str] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)

    @property
    def nothing_to_do(self) -> bool:
        """The published partition holds just what it should."""
        return (
            self.previous is not None
            and not self.parse
            and not self.drop
            and self.manifest.parser_version == PARSER_VERSION
        )


def plan_build(
    objects: Sequence[RawObject],
    previous: ParquetParts | None,
    *,
    full_rebuild: bool = False,
    reparse: Collection[str] = (),
    allow_shrink: bool = False,
    refused: Mapping[str, str] = MappingProxyType({}),
    unreadable: Mapping[str, str] = MappingProxyType({}),
    moved: Collection[str] = (),
) -> BuildPlan:
    """Compare the raw objects that are there with those that the published partition holds.

    Rows of a raw object that is gone stay, and so do those of one whose content of now was `refused` (ETags by key),
    unless `allow_shrink` says that they may leave; those of one that is `unreadable` (reasons by key) stay in any case.
    `reparse` names keys that are parsed again even if they are as they were. A raw object that is gone and has no
    published row takes nothing with it, and those that were `moved` are elsewhere: they leave.
    """
    manifest = Manifest.from_notes(previous.notes) if previous is not None else None
    by_key = {obj.key: obj for obj in objects if obj.key not in unreadable}
    if previous is None or manifest is None:
        none: frozenset[str] = frozenset()
        empty = Manifest(PARSER_VERSION, {})
        return BuildPlan(_in_order(by_key.values()), none, None, empty, keep_sealed=False, unreadable=unreadable)
    known = manifest.sources
    stay = known.keys() & unreadable.keys()
    held: dict[str, str] = {}
    if not allow_shrink:
        stay |= {key for key in known.keys() - by_key.keys() if known[key].counts.rows_out and key not in moved}
        waiting = {**manifest.refused, **refused}
        held = {key: by_key[key].etag for key in known.keys() & waiting if key in by_key}
        held = {key: etag for key, etag in held.items() if etag == waiting[key]}
        stay |= held.keys()
    others = {key: obj for key, obj in by_key.items() if key not in stay}
    anew = full_rebuild or manifest.parser_version != PARSER_VERSION
    parse, drop, keep_sealed = set(others), known.keys() - stay, False
    if not anew:
        gone = known.keys() - by_key.keys() - stay
        changed = {key for key, obj in others.items() if key in reparse or _changed(obj, known.get(key))}
        touched_times = {by_key[key].file_timestamp for key in changed}
        touched_times |= {known[key].file_timestamp for key in (gone | changed) & known.keys()}
        # Duplicates are settled among all files of one time, so these are read again together.
        parse = changed | {key for key, obj in others.items() if obj.file_timestamp in touched_times}
        drop = (gone | parse) & known.keys()
        if previous.sealed_count and touched_times:
            keep_sealed = previous.highest("file_timestamp", previous.sealed_count - 1) < min(touched_times)
    times = {by_key[key].file_timestamp for key in parse}
    return BuildPlan(
        _in_order(by_key[key] for key in parse),
        frozenset(drop),
        None if anew and not stay else previous,
        manifest,
        keep_sealed,
        kept=frozenset(stay),
        contested=frozenset(key for key in stay if known[key].file_timestamp in times),
        refused=held,
        unreadable=unreadable,
    )


def _changed(obj: RawObject, known: Source | None) -> bool:
    return known is None or (obj.etag, obj.file_timestamp, obj.corrections_id) != (
        known.etag,
        known.file_timestamp,
        known.corrections_id,
    )


def _in_order(objects: Iterable[RawObject]) -> tuple[RawObject, ...]:
    return tuple(sorted(objects, key=lambda obj: (obj.file_timestamp, obj.key)))


@dataclass(frozen=True, slots=True)
class ProcessedBuild:
    """A processed partition, ready to be published.

    `reports` are those of the files parsed in this build. `shrunken` are raw objects with another content than the
    published one, of fewer good rows: their new ETags by key.
    """

    data: bytes
    row_count: int
    manifest: Manifest
    reports: tuple[FileReport, ...]
    shrunken: Mapping[str, str] = field(default_factory=dict)


def build_processed(plan: BuildPlan, read: ReadBodies, *, parsed_at: datetime) -> ProcessedBuild:
    """Build a processed partition; `read` gives bodies in the order of the keys asked for.

    Raises:
        AccountingError: lines do not add up.
        pandera.errors.SchemaErrors: a row is not as PROCESSED says, though the parser let it pass.
    """
    previous = plan.previous
    old_groups: list[int] = []
    if previous is not None:
        old_groups = list(range(previous.sealed_count if plan.keep_sealed else 0, previous.group_count))
    cuts = [previous.highest("file_timestamp", group) for group in old_groups] if previous else []
    writer = PartsWriter(arrow_schema(PROCESSED), parsed_at.isoformat(), previous if plan.keep_sealed else None)
    reports: list[FileReport] = []
    kept, drop = KeptRows.of(previous, plan.contested, PROCESSED), plan.drop | plan.contested
    batches = groupby(_parsed_batches(plan.parse, read, cuts, kept), key=lambda item: item[0])
    following = next(batches, None)
    for index, group in enumerate(old_groups):
        if previous is None:
            raise AssertionError("there are no old groups without a previous file")
        rows = without_sources(conformed(next(previous.read_groups(group, group + 1)), PROCESSED), drop)
        new = []
        if following is not None and following[0] == index:
            new = [_checked(batch, reports) for _, batch in following[1]]
            following = next(batches, None)
        writer.write(_merged([rows, *new]) if new else rows)
    while following is not None:
        for _, batch in following[1]:
            writer.write(_checked(batch, reports))
        following = next(batches, None)
    sources = {key: source for key, source in plan.manifest.sources.items() if key not in plan.drop}
    for key in plan.contested:
        left = kept.counts_of(key, sources[key].counts) if kept is not None else None
        if left is None:
            del sources[key]
        else:
            sources[key] = replace(sources[key], counts=left)
    objects = {obj.key: obj for obj in plan.parse}
    for report in reports:
        obj = objects[report.source_key]
        sources[obj.key] = Source(obj.etag, obj.file_timestamp, obj.corrections_id, parsed_at, report.counts)
    manifest = Manifest(PARSER_VERSION, sources, plan.refused, plan.unreadable)
    counts = manifest.counts
    if counts.rows_out != writer.row_count or not counts.balanced:
        raise AccountingError(f"{writer.row_count} rows were written, but the raw objects gave {counts}.")
    notes = manifest.to_notes() | {"built_at": parsed_at.isoformat()}
    shrunken = {key: objects[key].etag for key in _shrunken(plan, objects, reports)}
    return ProcessedBuild(writer.finish(notes), writer.row_count, manifest, tuple(reports), shrunken)


def _shrunken(plan: BuildPlan, objects: Mapping[str, RawObject], reports: Iterable[FileReport]) -> Iterator[str]:
    for report in reports:
        known, obj = plan.manifest.sources.get(report.source_key), objects[report.source_key]
        # The same content may give fewer rows by another parser, by corrections, or beside a raw object of its time.
        if known is None or obj.etag == known.etag or obj.corrections_id != known.corrections_id:
            continue
        if _good_lines(report.counts) < _good_lines(known.counts):
            yield obj.key


def _good_lines(counts: LineCounts) -> int:
    return counts.rows_out + counts.duplicate_rows


def _parsed_batches(
    objects: Sequence[RawObject], read: ReadBodies, cuts: Sequence[datetime], kept: KeptRows | None
) -> Iterator[tuple[int, ParsedBatch]]:
    """Parsed batches in time order, each with the index of the old row group that it belongs into.

    A batch ends at BATCH_BYTES or where the next row group begins, but never between files of one time.
    """
    batch: list[RawSnapshot] = []
    batch_bytes = 0
    by_key = {obj.key: obj for obj in objects}
    for key, body in read([obj.key for obj in objects]):
        obj = by_key[key]
        if batch and obj.file_timestamp != batch[-1].file_timestamp:
            segment = bisect_left(cuts, batch[-1].file_timestamp)
            if batch_bytes >= BATCH_BYTES or segment != bisect_left(cuts, obj.file_timestamp):
                yield segment, _parsed(batch, kept)
                batch, batch_bytes = [], 0
        batch.append(RawSnapshot(key, obj.file_timestamp, body, obj.corrections, obj.fault))
        batch_bytes += len(body)
    if batch:
        yield bisect_left(cuts, batch[-1].file_timestamp), _parsed(batch, kept)


def _parsed(batch: Sequence[RawSnapshot], kept: KeptRows | None) -> ParsedBatch:
    parsed = parse_snapshots(batch)
    return parsed if kept is None else kept.settled_with(parsed, {raw.file_timestamp for raw in batch})


def _checked(batch: ParsedBatch, reports: list[FileReport]) -> pa.Table:
    for report in batch.reports:
        if not report.counts.balanced:
            raise AccountingError(f"{report.source_key}: lines do not add up: {report.counts}.")
    validate(batch.rows, PROCESSED)
    reports.extend(batch.reports)
    return batch.rows


def _merged(tables: Sequence[pa.Table]) -> pa.Table:
    schema = tables[-1].schema
    table = pa.concat_tables([part.cast(schema) for part in tables]).unify_dictionaries()
    keys = pa.table({"at": table["file_timestamp"], "id": table["station_id"].cast(pa.string())})
    return table.take(pc.sort_indices(keys, sort_keys=[("at", "ascending"), ("id", "ascending")]))


# --- enhanced --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EnhancedBuild:
    """An enhanced partition, ready to be published.

    `counts` has rows by record type and by flag, for the whole partition.
    """

    data: bytes
    row_count: int
    counts: Mapping[str, int]


def build_enhanced(
    processed: ParquetParts, previous: ParquetParts | None, *, area: ServiceArea, dt: date, build_id: str
) -> EnhancedBuild:
    """Classify and flag the rows of a processed partition.

    A pure function of the processed file, the area and RULES_VERSION: rows of sealed row groups that `previous`
    was built from are taken over as they are.
    """
    rules = rules_id(area)
    parsed_at = parse_times(processed.notes)
    if parsed_at is None:
        raise AccountingError("The processed partition has no notes on its raw objects; rebuild it (full_rebuild).")
    keep = previous is not None and previous.notes.get("rules") == rules and _starts_like(previous, processed)
    writer = PartsWriter(arrow_schema(ENHANCED), build_id, previous if keep else None)
    kept_groups = previous.sealed_count if previous is not None and keep else 0
    sealed_counts: Counter[str] = Counter(previous.notes["sealed_counts"] if previous is not None and keep else {})
    tail_counts: Counter[str] = Counter()
    for group, rows in enumerate(processed.read_groups(kept_groups), start=kept_groups):
        enhanced = enhance_rows(rows, area=area, dt=dt, processed_at=parsed_at)
        validate(enhanced, ENHANCED)
        writer.write(enhanced)
        (sealed_counts if group < processed.sealed_count else tail_counts).update(_count_rows(enhanced))
    if writer.row_count != processed.row_count:
        raise AccountingError(f"{processed.row_count} processed rows became {writer.row_count} enhanced rows.")
    notes = {
        "rules": rules,
        "source_built_at": processed.notes["built_at"],
        "source_groups": list(processed.group_ids),
        "sealed_counts": dict(sealed_counts),
    }
    counts = {name: sealed_counts[name] + tail_counts[name] for name in (*RECORD_TYPES, *FLAGS)}
    return EnhancedBuild(writer.finish(notes), writer.row_count, counts)


def rules_id(area: ServiceArea) -> str:
    """What tells one set of flag rules from another."""
    return f"{RULES_VERSION} {area}"


def has_todays_rules(enhanced: ParquetParts) -> bool:
    """Whether an enhanced partition was made by this version's rules, for whatever area."""
    return str(enhanced.notes.get("rules", "")).partition(" ")[0] == RULES_VERSION


def is_derived_from(enhanced: ParquetParts, processed: ParquetParts) -> bool:
    """Whether an enhanced partition was made from just this processed one."""
    return "built_at" in processed.notes and enhanced.notes.get("source_built_at") == processed.notes["built_at"]


def _starts_like(enhanced: ParquetParts, processed: ParquetParts) -> bool:
    groups = tuple(enhanced.notes.get("source_groups", ()))
    if len(groups) != enhanced.sealed_count or groups != processed.group_ids[: len(groups)]:
        return False
    # Groups were sealed at other rows if SEALED_ROWS was another one when the processed file was begun.
    return all(
        enhanced.metadata.row_group(i).num_rows == processed.metadata.row_group(i).num_rows for i in range(len(groups))
    )


def enhance_rows(rows: pa.Table, *, area: ServiceArea, dt: date, processed_at: Mapping[str, datetime]) -> pa.Table:
    """Add class, partition date, time of processing (by raw object) and flags to processed rows.

    Rows of an older parser are taken, too. A flag is off where what it asks about is unknown.
    """
    rows = with_later_columns(rows)
    ids, names, sources = (rows[name].chunk(0) for name in ("station_id", "name", "s3_source_key"))
    id_values, name_values = ids.dictionary.to_pylist(), names.dictionary.to_pylist()
    id_codes, name_codes = ids.indices.to_numpy(), names.indices.to_numpy()
    digits = np.array([value.isascii() and value.isdigit() for value in id_values], dtype=bool)[id_codes]
    floating = np.array([value.startswith("fb") for value in id_values], dtype=bool)[id_codes]
    bike_name = np.array([value.startswith("BIKE") for value in name_values], dtype=bool)[name_codes]
    is_station = digits & ~bike_name
    is_bike = floating & bike_name
    type_codes = np.where(is_station, 0, np.where(is_bike, 1, 2)).astype(np.int8)
    lat, lon, bikes = (rows[name].to_numpy() for name in ("lat", "lon", "bikes"))
    # Unknown docks are below 0, and unknown spaces too far below for any bikes to make up for.
    spaces, docks = (_filled(rows[name], unknown) for name, unknown in (("spaces", -1_000_000), ("total_docks", -1)))
    inside = (lat >= area.lat_min) & (lat <= area.lat_max) & (lon >= area.lon_min) & (lon <= area.lon_max)
    age = pc.subtract(rows["file_timestamp"], rows["timestamp"])
    # Dictionaries may hold keys that no row has any more; a row without a time does not pass validation.
    times = pa.array([processed_at.get(key) for key in sources.dictionary.to_pylist()], pa.timestamp("us", "UTC"))
    added = {
        "record_type": pa.DictionaryArray.from_arrays(pa.array(type_codes).cast(pa.int32()), list(RECORD_TYPES)),
        "date": pa.repeat(pa.scalar(dt, pa.date32()), rows.num_rows),
        "processed_at": times.take(sources.indices),
        "over_capacity": pa.array((docks > 0) & (bikes + spaces > docks)),
        "no_docks": pa.array(is_station & (docks == 0)),
        "outside_service_area": pa.array(~inside),
        "stale": pc.greater(age, pa.scalar(STALE_AFTER, pa.duration("us"))),
    }
    for name, column in added.items():
        rows = rows.append_column(name, column)
    return rows.select(list(ENHANCED.columns))


def _filled(values: pa.ChunkedArray, unknown: int) -> NDArray[np.int32]:
    known = pc.fill_null(values, unknown) if values.null_count else values
    return np.asarray(known.to_numpy(), dtype=np.int32)


def _count_rows(rows: pa.Table) -> dict[str, int]:
    codes = rows["record_type"].chunk(0).indices.to_numpy()
    counts = dict(zip(RECORD_TYPES, np.bincount(codes, minlength=len(RECORD_TYPES)).tolist(), strict=True))
    return counts | {flag: int(pc.sum(rows[flag]).as_py() or 0) for flag in FLAGS}

"""A day's raw objects -> its processed partition.

The processed file keeps its own state: its footer contains, per raw object, name, ETag and line counts, and the
parser's version. A build parses only what is new or changed, with the same rows as a build from scratch.
"""

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import groupby
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from wrm_pipeline.domain.kept_rows import KeptRows, conformed, without_sources
from wrm_pipeline.domain.manifest import AccountingError, Manifest, RawObject, Source
from wrm_pipeline.domain.parquet_parts import ParquetParts, PartsWriter
from wrm_pipeline.domain.rules import NO_STRICT_RULES, StrictRules
from wrm_pipeline.domain.schemas import (
    PROCESSED,
    arrow_schema,
    validate,
)
from wrm_pipeline.domain.snapshot import (
    PARSER_VERSION,
    FileReport,
    LineCounts,
    ParsedBatch,
    RawSnapshot,
    parse_snapshots,
)
from wrm_pipeline.domain.strict_rules import strict_count, with_strict_rules

# Raw text parsed in one go: about 170,000 rows, 100 MB at the peak.
BATCH_BYTES = 16 * 2**20

# Data contract, section 2: a partition that would lose more than this share of its rows is not replaced.
SHRINK_TOLERANCE = 0.05

ReadBodies = Callable[[Iterable[str]], Iterator[tuple[str, bytes]]]


class PartitionWouldShrinkError(RuntimeError):
    """A partition would lose more than SHRINK_TOLERANCE of its current rows."""


_CONSENT = (
    "Look for raw objects that are gone or unreadable; if the loss is meant, run it again with `allow_shrink: true` in "
    "the run config."
)


def check_shrink(name: str, rows_now: int, rows_before: int, *, allow_shrink: bool, consent: str = _CONSENT) -> None:
    """Refuse to publish a partition that lost rows by accident; `consent` says what to do about it.

    Raises:
        PartitionWouldShrinkError: more than SHRINK_TOLERANCE would be lost and `allow_shrink` is not set.
    """
    if allow_shrink or rows_now >= rows_before * (1 - SHRINK_TOLERANCE):
        return
    raise PartitionWouldShrinkError(
        f"{name} has {rows_before} rows and would be replaced by {rows_now}. It was left as it is. {consent}"
    )


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """What a build has to do.

    Attributes:
        parse: Raw objects to parse.
        drop: Raw objects whose rows are removed from the published file; those of `parse` are added again as they are
            now.
        previous: The published file, if any of its rows are kept.
        manifest: The manifest of the published partition.
        keep_frozen: Whether its frozen row groups are kept unchanged.
        kept: Raw objects that are gone, refused or unreadable, and whose rows are kept.
        contested: Those of `kept` that have the same time as a parsed one. refused, unreadable, feeds: See Manifest.
    """

    parse: tuple[RawObject, ...]
    drop: frozenset[str]
    previous: ParquetParts | None
    manifest: Manifest
    keep_frozen: bool
    kept: frozenset[str] = frozenset()
    contested: frozenset[str] = frozenset()
    refused: Mapping[str, str] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)
    feeds: Mapping[str, Any] = field(default_factory=dict)

    @property
    def nothing_to_do(self) -> bool:
        """Whether the published partition is up to date."""
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
    strict: StrictRules | None = None,
    feeds: Mapping[str, Any] = MappingProxyType({}),
) -> BuildPlan:
    """Compare the existing raw objects with those in the published partition.

    Rows of a raw object that is gone are kept, and so are those of one whose current content was `refused` (ETags by
    key), unless `allow_shrink` permits removing them; those of an `unreadable` one (reasons by key) are always kept.
    `reparse` lists keys to parse again even if unchanged. Raw objects that are gone without published rows, or were
    `moved` elsewhere, are dropped.
    """
    manifest = Manifest.from_footer(previous.footer_metadata) if previous is not None else None
    by_key = {obj.key: obj for obj in objects if obj.key not in unreadable}
    if previous is None or manifest is None:
        none: frozenset[str] = frozenset()
        empty = Manifest(PARSER_VERSION, {})
        first = _in_order(by_key.values())
        return BuildPlan(first, none, None, empty, keep_frozen=False, unreadable=unreadable, feeds=feeds)
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
    parse_all = full_rebuild or manifest.parser_version != PARSER_VERSION
    parse_all = parse_all or (strict is not None and manifest.strict != str(strict))
    parse, drop, keep_frozen = set(others), known.keys() - stay, False
    if not parse_all:
        gone = known.keys() - by_key.keys() - stay
        changed = {key for key, obj in others.items() if key in reparse or _changed(obj, known.get(key))}
        touched_times = {by_key[key].file_timestamp for key in changed}
        touched_times |= {known[key].file_timestamp for key in (gone | changed) & known.keys()}
        # Duplicates are resolved among all files of one time, so these are read again together.
        parse = changed | {key for key, obj in others.items() if obj.file_timestamp in touched_times}
        drop = (gone | parse) & known.keys()
        if previous.frozen_count:
            # Without any, only the footer changes.
            last_frozen = previous.highest("file_timestamp", previous.frozen_count - 1)
            keep_frozen = not touched_times or last_frozen < min(touched_times)
    times = {by_key[key].file_timestamp for key in parse}
    return BuildPlan(
        _in_order(by_key[key] for key in parse),
        frozenset(drop),
        None if parse_all and not stay else previous,
        manifest,
        keep_frozen,
        kept=frozenset(stay),
        contested=frozenset(key for key in stay if known[key].file_timestamp in times),
        refused=held,
        unreadable=unreadable,
        feeds=feeds,
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

    `reports` are those of the files parsed in this build. `shrunken` are raw objects whose content has changed to fewer
    good rows than published: their new ETags by key.
    """

    data: bytes
    row_count: int
    manifest: Manifest
    reports: tuple[FileReport, ...]
    shrunken: Mapping[str, str] = field(default_factory=dict)

    def dropped_by_new_rules(self, previous: Manifest | None) -> int:
        """Rows that left for strict rules which the published rows were not yet judged by: no accident."""
        known = previous is None or previous.strict == self.manifest.strict
        return 0 if known else strict_count(self.reports)


def build_processed(
    plan: BuildPlan, read: ReadBodies, *, parsed_at: datetime, strict: StrictRules = NO_STRICT_RULES
) -> ProcessedBuild:
    """Build a processed partition; `read` gives bodies in the order of the keys asked for.

    Raises:
        AccountingError: lines do not add up.
        pandera.errors.SchemaErrors: a row does not match PROCESSED, although the parser accepted it.
    """
    previous = plan.previous
    old_groups: list[int] = []
    if previous is not None:
        old_groups = list(range(previous.frozen_count if plan.keep_frozen else 0, previous.group_count))
    cuts = [previous.highest("file_timestamp", group) for group in old_groups] if previous else []
    writer = PartsWriter(arrow_schema(PROCESSED), parsed_at.isoformat(), previous if plan.keep_frozen else None)
    reports: list[FileReport] = []
    kept, drop = KeptRows.of(previous, plan.contested, PROCESSED), plan.drop | plan.contested
    batches = groupby(_parsed_batches(plan.parse, read, cuts, kept, strict), key=lambda item: item[0])
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
    manifest = Manifest(PARSER_VERSION, sources, plan.refused, plan.unreadable, str(strict), plan.feeds)
    counts = manifest.counts
    if counts.rows_out != writer.row_count or not counts.balanced:
        raise AccountingError(f"{writer.row_count} rows were written, but the raw objects gave {counts}.")
    footer = manifest.to_footer() | {"built_at": parsed_at.isoformat()}
    shrunken = {key: objects[key].etag for key in _shrunken(plan, objects, reports)}
    return ProcessedBuild(writer.finish(footer), writer.row_count, manifest, tuple(reports), shrunken)


def _shrunken(plan: BuildPlan, objects: Mapping[str, RawObject], reports: Iterable[FileReport]) -> Iterator[str]:
    for report in reports:
        known, obj = plan.manifest.sources.get(report.source_key), objects[report.source_key]
        # The same content may give fewer rows with another parser, with corrections, or next to a raw object of the
        # same time.
        if known is None or obj.etag == known.etag or obj.corrections_id != known.corrections_id:
            continue
        if _good_lines(report.counts) < _good_lines(known.counts):
            yield obj.key


def _good_lines(counts: LineCounts) -> int:
    return counts.rows_out + counts.duplicate_rows


def _parsed_batches(
    objects: Sequence[RawObject], read: ReadBodies, cuts: Sequence[datetime], kept: KeptRows | None, strict: StrictRules
) -> Iterator[tuple[int, ParsedBatch]]:
    """Parsed batches in time order, each with the index of the old row group that it belongs to.

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
                yield segment, _parsed(batch, kept, strict)
                batch, batch_bytes = [], 0
        batch.append(RawSnapshot(key, obj.file_timestamp, body, obj.corrections, obj.fault))
        batch_bytes += len(body)
    if batch:
        yield bisect_left(cuts, batch[-1].file_timestamp), _parsed(batch, kept, strict)


def _parsed(batch: Sequence[RawSnapshot], kept: KeptRows | None, strict: StrictRules) -> ParsedBatch:
    parsed = with_strict_rules(parse_snapshots(batch), batch, strict)
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

"""raw/ -> processed/ -> enhanced/ of one day."""

import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import date, datetime

from wrm_pipeline.clients.cache import NO_CACHE, Cache
from wrm_pipeline.clients.cached_objects import CachedObjects
from wrm_pipeline.clients.dead_letter_queue import DeadLetterQueue
from wrm_pipeline.clients.object_store import ObjectStore
from wrm_pipeline.clients.published_partitions import PublishedPartitions
from wrm_pipeline.clients.raw_objects import RawDay
from wrm_pipeline.domain.dead_letters import PARKED, PENDING, REPROCESSED, DeadLetter
from wrm_pipeline.domain.layout import Layout
from wrm_pipeline.domain.parquet_parts import ParquetParts
from wrm_pipeline.domain.partition_build import (
    EnhancedBuild,
    Manifest,
    ProcessedBuild,
    RawObject,
    build_enhanced,
    build_processed,
    is_derived_from,
    plan_build,
    rules_id,
)
from wrm_pipeline.domain.rules import ServiceArea
from wrm_pipeline.logs import get_logger

_log = get_logger(__name__)

# Who a dead letter of a row is from.
PROCESSED_ASSET = "wrm_stations_processed_data_all"


class NoRawDataError(RuntimeError):
    """A partition was asked for that has no raw object at all."""


@dataclass(frozen=True, slots=True)
class ProcessedPartition:
    """A processed partition that is built and not yet published; `build` is None where nothing had changed."""

    build: ProcessedBuild | None
    manifest: Manifest
    previous: ParquetParts | None
    dead_letters: tuple[DeadLetter, ...]

    @property
    def rows_before(self) -> int:
        """Rows that are published now."""
        return self.previous.row_count if self.previous else 0

    @property
    def file(self) -> ParquetParts:
        """The partition as it is to be: what was built, or else what is published."""
        if self.build is not None:
            return ParquetParts.open(self.build.data)
        if self.previous is None:
            raise AssertionError("without a build there is a published partition")
        return self.previous


def list_raw_objects(store: ObjectStore, layout: Layout, dt: date, letters: Iterable[DeadLetter]) -> list[RawObject]:
    """The raw objects of a day, with the corrections that an operator put into its dead letters."""
    return raw_objects_of(RawDay.of(store, layout, dt), letters)


def raw_objects_of(raw: RawDay, letters: Iterable[DeadLetter]) -> list[RawObject]:
    """See `list_raw_objects`."""
    corrections: dict[str, dict[int, str]] = {}
    for letter in letters:
        if letter.corrections:
            corrections.setdefault(letter.source_key, {}).update(letter.corrections)
    objects = []
    for info in raw.objects():
        parsed = raw.layout.parse_raw_key(info.key)
        if parsed is not None:
            at = parsed.file_timestamp or info.last_modified
            objects.append(RawObject(info.key, info.etag, info.size_bytes, at, corrections.get(info.key, {})))
    return objects


def process_partition(
    store: ObjectStore,
    layout: Layout,
    dt: date,
    *,
    parsed_at: datetime,
    full_rebuild: bool,
    reparse: Collection[str] = (),
    cache: Cache = NO_CACHE,
) -> ProcessedPartition:
    """Build a day's processed partition from what is new or changed, and write its dead letters.

    Dead letters are written before anyone can publish the partition without their rows: if they cannot be
    written, this raises and the partition stays as it is.

    Raises:
        NoRawDataError: the day has no raw object and no published partition.
        ExternalError: the store failed.
    """
    queue = DeadLetterQueue(store, layout, cache)
    known = queue.of_date(dt)
    raw = RawDay.of(store, layout, dt)
    objects = raw_objects_of(raw, known)
    previous = PublishedPartitions(store, layout).read("processed", dt)
    if not objects and previous is None:
        raise NoRawDataError(
            f"There is no raw snapshot in {layout.raw_folder(dt)} of {store.name}. Nothing was written; choose a day "
            "that has raw data, or materialize wrm_stations_raw_data to fetch a snapshot of now."
        )
    # Reading it back costs 5 ms on a full day, and most days have no dead letters.
    manifest = published_manifest(previous) if known else None
    for letter in known:
        if is_settled(letter, manifest):
            queue.put(replace(letter, status=REPROCESSED))
    plan = plan_build(objects, previous, full_rebuild=full_rebuild, reparse=reparse)
    if plan.nothing_to_do:
        return ProcessedPartition(None, plan.manifest, previous, ())
    started = time.monotonic()
    bodies = CachedObjects(store, cache).bodies
    build = build_processed(plan, lambda keys: raw.read(keys, bodies), parsed_at=parsed_at)
    _log.info(
        "built processed partition",
        dt=str(dt),
        rows=build.row_count,
        rows_before=previous.row_count if previous else 0,
        snapshots_parsed=len(build.reports),
        seconds=round(time.monotonic() - started, 3),
    )
    letters = queue.record(build.reports, asset_name=PROCESSED_ASSET, partition_date=dt, seen_at=parsed_at)
    return ProcessedPartition(build, build.manifest, previous, tuple(letters))


def published_manifest(processed: ParquetParts | None) -> Manifest | None:
    """What a published partition remembers of its raw objects."""
    return Manifest.from_notes(processed.notes) if processed is not None else None


def is_settled(letter: DeadLetter, manifest: Manifest | None) -> bool:
    """Whether an open entry's rows are published by now.

    They are when its raw object was parsed after the failure was last seen: a parse that fails again writes the
    entry anew, with the time of the parse.
    """
    source = manifest.sources.get(letter.source_key) if manifest is not None else None
    return letter.status in (PENDING, PARKED) and source is not None and source.parsed_at > letter.last_seen


@dataclass(frozen=True, slots=True)
class EnhancedPartition:
    """An enhanced partition that is built and not yet published; `changed` is False where it is published already."""

    build: EnhancedBuild
    rows_before: int
    changed: bool


def enhance_partition(
    processed: ParquetParts, partitions: PublishedPartitions, dt: date, *, area: ServiceArea, built_at: datetime
) -> EnhancedPartition:
    """Classify and flag a day's processed rows."""
    previous = partitions.read("enhanced", dt)
    started = time.monotonic()
    build = build_enhanced(processed, previous, area=area, dt=dt, build_id=built_at.isoformat())
    _log.info(
        "built enhanced partition", dt=str(dt), rows=build.row_count, seconds=round(time.monotonic() - started, 3)
    )
    changed = not is_current(previous, processed, area)
    return EnhancedPartition(build, previous.row_count if previous else 0, changed)


def is_current(enhanced: ParquetParts | None, processed: ParquetParts, area: ServiceArea) -> bool:
    """Whether the published enhanced partition was made from just these processed rows, by today's rules."""
    return (
        enhanced is not None and is_derived_from(enhanced, processed) and enhanced.notes.get("rules") == rules_id(area)
    )

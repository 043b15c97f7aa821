"""raw/ -> processed/ -> enhanced/ of one day."""

import json
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime

import pyarrow as pa

from wrm_pipeline.clients.cache import NO_CACHE, Cache
from wrm_pipeline.domain import asset_names
from wrm_pipeline.domain.dead_letters import PARKED, PENDING, REPROCESSED, DeadLetter
from wrm_pipeline.domain.drift import Drift, drift_of
from wrm_pipeline.domain.enhanced_build import EnhancedBuild, build_enhanced, is_derived_from, rules_id
from wrm_pipeline.domain.layout import Layout
from wrm_pipeline.domain.manifest import Manifest, RawObject
from wrm_pipeline.domain.parquet_parts import ParquetParts
from wrm_pipeline.domain.partition_build import (
    BATCH_BYTES,
    BuildPlan,
    ProcessedBuild,
    ReadBodies,
    build_processed,
    plan_build,
)
from wrm_pipeline.domain.rules import ServiceArea
from wrm_pipeline.domain.snapshot import PARSER_VERSION
from wrm_pipeline.domain.snapshot_time import named, remembered, reported_times, settled, span_of
from wrm_pipeline.domain.strays import OurRows
from wrm_pipeline.flows.readable import ReadableBodies
from wrm_pipeline.flows.take_over import NOTHING, TakeOver, donors, must_fit, settle, strays_of, with_rows_of
from wrm_pipeline.lake.cached_objects import CachedObjects
from wrm_pipeline.lake.dead_letter_queue import DeadLetterQueue, Entries
from wrm_pipeline.lake.object_store import ObjectStore
from wrm_pipeline.lake.published_partitions import PartitionFile, Published, PublishedPartitions
from wrm_pipeline.lake.raw_objects import RawDay
from wrm_pipeline.logs import get_logger

_log = get_logger(__name__)

# Bodies read for their time, held in memory until their rows are needed; a day of raw is 58 MB.
HELD_BYTES = 64 * 2**20


class NoRawDataError(RuntimeError):
    """The requested partition has no raw object at all."""


@dataclass(frozen=True, slots=True)
class ProcessedPartition:
    """A processed partition, built but not yet published; `build` is None if nothing had changed.

    Attributes:
        build: The new file.
        manifest: Of the new partition.
        previous: The published partition.
        dead_letters: Those that were written.
        vanished: Raw objects that no longer exist, and whose rows are kept.
        take_over: What happens to other writers' files.
        set_aside: Another writer's object under our key; saved before it is replaced.
    """

    build: ProcessedBuild | None
    manifest: Manifest
    previous: ParquetParts | None
    dead_letters: tuple[DeadLetter, ...]
    vanished: tuple[str, ...] = ()
    take_over: TakeOver = NOTHING
    set_aside: bytes | None = None

    @property
    def drifts(self) -> list[Drift]:
        """Of the bodies that this build parsed: the causes of at least a fifth of dead rows in one body."""
        reports = self.build.reports if self.build is not None else ()
        return [drift for report in reports if report.dead_rows and (drift := drift_of(report))]

    @property
    def rows_before(self) -> int:
        """Rows that are published now."""
        return self.previous.row_count if self.previous else 0

    @property
    def file(self) -> ParquetParts:
        """The new partition: the one built, or else the published one."""
        if self.build is not None:
            return ParquetParts.open(self.build.data)
        if self.previous is None:
            raise AssertionError("without a build there must be a published partition")
        return self.previous

    def to_publish(self, *, allow_shrink: bool) -> PartitionFile | None:
        """What to publish; None if nothing changed."""
        if self.build is None:
            return None
        data, rows = self.build.data, self.build.row_count
        return PartitionFile(data, rows, self.rows_before, allow_shrink, self.take_over.superseded, self.set_aside)


def raw_objects_of(raw: RawDay, entries: Entries, published: ParquetParts | None) -> list[RawObject]:
    """The raw objects of a day, with the corrections that an operator made in its dead letters.

    While a letter of the day is unreadable, the corrections that the `published` partition was built with remain in
    force for lines that no other letter covers; otherwise the next build would drop their rows.
    """
    corrections = _published_corrections(entries, published) if entries.unreadable else {}
    for letter in entries.letters:
        if letter.corrections:
            corrections.setdefault(letter.source_key, {}).update(letter.corrections)
    earliest, latest = span_of(raw.dt)
    objects = []
    for info in raw.objects():
        key = raw.layout.parse_raw_key(info.key)
        if key is None:
            continue
        at = key.file_timestamp
        obj = RawObject(info.key, info.etag, info.size_bytes, at or info.last_modified, corrections.get(info.key, {}))
        if at is None or key.second_reading is not None or not earliest <= at < latest:
            obj = named(obj, key)
        objects.append(obj)
    return objects


def _published_corrections(entries: Entries, published: ParquetParts | None) -> dict[str, dict[int, str]]:
    manifest = published_manifest(published)
    known = {(letter.source_key, record.line_number) for letter in entries.letters for record in letter.records}
    found: dict[str, dict[int, str]] = {}
    for key, source in manifest.sources.items() if manifest else ():
        lines = json.loads(source.corrections_id) if source.corrections_id else ()
        kept = {line: text for line, text in lines if (key, line) not in known}
        if kept:
            found[key] = kept
    return found


def with_remembered_times(
    objects: Sequence[RawObject], dt: date, previous: ParquetParts | None, *, full_rebuild: bool = False
) -> list[RawObject]:
    """The objects, with times from the published partition for those whose names leave the time open.

    Objects that it does not know keep their `readings`: they are new or changed, and their time is in the content.
    """
    if full_rebuild or all(obj.readings is None for obj in objects):
        return list(objects)
    manifest = published_manifest(previous)
    if manifest is None or manifest.parser_version != PARSER_VERSION:
        return list(objects)

    def known(obj: RawObject) -> RawObject:
        source = manifest.sources.get(obj.key) if obj.readings is not None else None
        if source is None or (source.etag, source.corrections_id) != (obj.etag, obj.corrections_id):
            return obj
        return remembered(obj, dt, source.file_timestamp) or obj

    return [known(obj) for obj in objects]


def _with_reported_times(
    objects: Sequence[RawObject], dt: date, read: ReadBodies
) -> tuple[list[RawObject], dict[str, bytes]]:
    """The objects, each with its time, and the bodies read for that, as far as they are worth keeping in memory."""
    open_ones = {obj.key: obj for obj in objects if obj.readings is not None}
    if not open_ones:
        return list(objects), {}
    times: dict[str, RawObject] = {}
    held: dict[str, bytes] = {}
    held_bytes = 0
    batch: list[tuple[str, bytes, RawObject]] = []
    batch_bytes = 0

    def settle_batch() -> None:
        for (key, _, obj), reported_at in zip(batch, reported_times(batch, dt), strict=True):
            times[key] = settled(obj, dt, reported_at)

    for key, body in read(open_ones):
        if batch and batch_bytes + len(body) > BATCH_BYTES:
            settle_batch()
            batch, batch_bytes = [], 0
        batch.append((key, body, open_ones[key]))
        batch_bytes += len(body)
        if held_bytes + len(body) <= HELD_BYTES:
            held[key] = body
            held_bytes += len(body)
    settle_batch()
    return [times.get(obj.key, obj) for obj in objects], held


def _held_first(read: ReadBodies, held: dict[str, bytes]) -> ReadBodies:
    """`read`, except for held bodies: an object is read only once, though its time is needed before its rows."""

    def bodies(keys: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        wanted = list(keys)
        others = read([key for key in wanted if key not in held])
        following = next(others, None)
        for key in wanted:
            if key in held:
                yield key, held.pop(key)
            elif following is not None and following[0] == key:  # otherwise it could not be read
                yield following
                following = next(others, None)

    return bodies if held else read


def process_partition(
    store: ObjectStore,
    layout: Layout,
    dt: date,
    *,
    parsed_at: datetime,
    full_rebuild: bool,
    reparse: Collection[str] = (),
    allow_shrink: bool = False,
    moved: Collection[str] = (),
    look_for_strays: bool = True,
    cache: Cache = NO_CACHE,
) -> ProcessedPartition:
    """Build a day's processed partition from what is new or changed, and write its dead letters.

    Rows are kept if their raw object has vanished, was rewritten with fewer rows, or cannot be read. `allow_shrink`
    drops those of the first two kinds, and `moved` names raw objects that were moved and whose rows are dropped. Rows
    that only other writers' files have are taken over; such files are looked for on the first build, if nothing else
    changes, and if `look_for_strays` is set: one listing per layer.

    Dead letters are written before the partition can be published without their rows: if they cannot be written,
    this raises, and the partition is not changed.

    Raises:
        NoRawDataError: the day has no raw object, no published partition, and no rows of others to take over.
        PartitionWouldShrinkError: other writers' files hold rows that cannot be taken over.
        ExternalError: the store failed.
    """
    queue = DeadLetterQueue(store, layout, cache)
    entries = queue.entries(dt)
    known = entries.letters
    for problem in entries.unreadable:
        _log.warning("a dead letter cannot be read", key=problem.key, reason=problem.reason)
    raw = RawDay.of(store, layout, dt)
    partitions = PublishedPartitions(store, layout)
    published = partitions.find("processed", dt)
    objects = raw_objects_of(raw, entries, published.parts)
    # Reading it back costs 5 ms on a full day, and most days have no dead letters.
    manifest = published_manifest(published.parts) if known else None
    for letter in known:
        if is_settled(letter, manifest):
            queue.put(replace(letter, status=REPROCESSED))
    started = time.monotonic()
    reader = ReadableBodies(raw, CachedObjects(store, cache).bodies)

    def build_on(previous: ParquetParts | None) -> tuple[BuildPlan, ProcessedBuild | None]:
        timed = with_remembered_times(objects, dt, previous, full_rebuild=full_rebuild)
        timed, held = _with_reported_times(timed, dt, reader.read)
        return _build(
            timed,
            previous,
            reader,
            _held_first(reader.read, held),
            parsed_at=parsed_at,
            full_rebuild=full_rebuild,
            reparse=reparse,
            allow_shrink=allow_shrink,
            moved=moved,
        )

    published, (plan, build) = _on_what_can_be_read(published, build_on)
    previous = published.parts
    build, over = _take_over(
        partitions,
        dt,
        published,
        plan,
        build,
        look=look_for_strays or previous is None or build is None,
        parsed_at=parsed_at,
        allow_shrink=allow_shrink,
    )
    vanished = tuple(sorted(plan.kept - {obj.key for obj in objects}))
    if build is None:
        if previous is None:
            raise _no_raw_data(store, layout, dt, over)
        return ProcessedPartition(None, plan.manifest, previous, (), vanished, over)
    _log.info(
        "built processed partition",
        dt=str(dt),
        rows=build.row_count,
        rows_before=previous.row_count if previous else 0,
        snapshots_parsed=len(build.reports),
        seconds=round(time.monotonic() - started, 3),
    )
    partition = ProcessedPartition(build, build.manifest, previous, (), vanished, over, published.set_aside)
    if drifts := partition.drifts:
        _log.warning("the feed has changed its format", dt=str(dt), bodies=len(drifts), drift=str(drifts[-1]))
    letters = queue.record(
        build.reports,
        asset_name=asset_names.PROCESSED,
        partition_date=dt,
        seen_at=parsed_at,
        unreadable=entries.unreadable,
    )
    return replace(partition, dead_letters=tuple(letters))


def _no_raw_data(store: ObjectStore, layout: Layout, dt: date, over: TakeOver) -> NoRawDataError:
    beside = f" Existing files cannot be taken over: {'; '.join(map(str, over.left))}." if over.left else ""
    return NoRawDataError(
        f"There is no raw snapshot in {layout.raw_folder(dt)} of {store.name}. Nothing was written; choose a day that "
        f"has raw data, or materialize {asset_names.RAW} to fetch a snapshot now.{beside}"
    )


Built = tuple[BuildPlan, ProcessedBuild | None]


def _on_what_can_be_read(
    published: Published, build: Callable[[ParquetParts | None], Built]
) -> tuple[Published, Built]:
    """Build on the published partition, or from scratch if its rows cannot be read, which its footer does not show."""
    previous = published.parts
    try:
        done = build(previous)
        if done[1] is not None or previous is None or _can_be_read(previous):
            return published, done
    except (pa.ArrowException, OSError, zlib.error):
        if previous is None or _can_be_read(previous):
            raise
    _log.warning("the published partition is damaged, so it is built from scratch")
    published = Published(None, published.data, "its rows cannot be read")
    return published, build(None)


def _can_be_read(parts: ParquetParts) -> bool:
    try:
        return all(rows.num_rows >= 0 for rows in parts.read_groups())
    except (pa.ArrowException, OSError, zlib.error):
        return False


def _take_over(
    partitions: PublishedPartitions,
    dt: date,
    published: Published,
    plan: BuildPlan,
    build: ProcessedBuild | None,
    *,
    look: bool,
    parsed_at: datetime,
    allow_shrink: bool,
) -> tuple[ProcessedBuild | None, TakeOver]:
    """The build, plus rows that only other writers' files have; if nothing changes, those files move aside at once."""
    files = donors(partitions, dt, published) if look else []
    if not files:
        return build, NOTHING
    layout, manifest = partitions.layout, build.manifest if build is not None else plan.manifest
    if build is not None:
        base = ParquetParts.open(build.data)
    elif published.parts is not None:
        base = published.parts
    else:
        base = ParquetParts.open(build_processed(plan, lambda _: iter(()), parsed_at=parsed_at).data)
    more, judged = with_rows_of(files, base, manifest, layout, dt, parsed_at=parsed_at)
    if more is not None:
        taken = more.row_count - base.row_count
        _log.info("took over rows of other writers' files", dt=str(dt), rows=taken, files=len(files))
        build = replace(more, reports=build.reports if build is not None else ())
        base, manifest = ParquetParts.open(build.data), build.manifest
    elif build is None and published.parts is None:
        return None, TakeOver(left=tuple(stray for stray in judged if stray.file.moves_to))
    over = settle(
        f"processed dt={dt}",
        [file for file in files if file.key.startswith(layout.partition_folder("processed", dt))],
        OurRows(base, manifest),
        layout,
        dt,
        allow_shrink=allow_shrink,
        must_fit=must_fit(dt, published.parts, parsed_at),
    )
    if build is None:
        for key in over.superseded:
            partitions.supersede("processed", dt, key)
    return build, replace(over, rows_taken=taken if more is not None else 0)


def _build(
    objects: Sequence[RawObject],
    previous: ParquetParts | None,
    reader: ReadableBodies,
    read: ReadBodies,
    *,
    parsed_at: datetime,
    full_rebuild: bool,
    reparse: Collection[str],
    allow_shrink: bool,
    moved: Collection[str],
) -> tuple[BuildPlan, ProcessedBuild | None]:
    """Plan and build, and again if published rows turn out to have to stay; None if nothing changes.

    Only reading shows which objects are unreadable or have fewer rows than before.
    """
    refused: dict[str, str] = {}
    while True:
        failed = len(reader.failed)
        plan = plan_build(
            [obj for obj in objects if obj.key not in reader.failed or obj.key in reader.unreadable],
            previous,
            full_rebuild=full_rebuild,
            reparse=reparse,
            allow_shrink=allow_shrink,
            refused=refused,
            unreadable=reader.unreadable,
            moved=moved,
        )
        remembers = {**plan.manifest.refused, **plan.manifest.unreadable} == {**plan.refused, **plan.unreadable}
        if previous is None and not plan.parse:  # everything vanished after the listing, or cannot be read
            reader.check_the_store(())
            return plan, None
        if plan.nothing_to_do and remembers:
            reader.check_the_store(plan.manifest.sources)
            return plan, None
        build = build_processed(plan, read, parsed_at=parsed_at)
        news = {} if allow_shrink else {k: etag for k, etag in build.shrunken.items() if refused.get(k) != etag}
        if not news and len(reader.failed) == failed:
            reader.check_the_store(plan.manifest.sources)
            return plan, build
        refused |= news


def published_manifest(processed: ParquetParts | None) -> Manifest | None:
    """What a published partition remembers of its raw objects."""
    return Manifest.from_footer(processed.footer_metadata) if processed is not None else None


def is_settled(letter: DeadLetter, manifest: Manifest | None) -> bool:
    """Whether an open entry's rows have been published since.

    They have if its raw object was parsed after the failure was last seen: a parse that fails again rewrites the entry
    with the time of that parse.
    """
    source = manifest.sources.get(letter.source_key) if manifest is not None else None
    return letter.status in (PENDING, PARKED) and source is not None and source.parsed_at > letter.last_seen


@dataclass(frozen=True, slots=True)
class EnhancedPartition:
    """An enhanced partition, built but not yet published; `changed` is False if it is already published.

    `take_over` and `set_aside` are as in ProcessedPartition.
    """

    build: EnhancedBuild
    rows_before: int
    changed: bool
    take_over: TakeOver = NOTHING
    set_aside: bytes | None = None

    def to_publish(self, *, allow_shrink: bool) -> PartitionFile | None:
        """What to publish; None if nothing changed."""
        if not self.changed:
            return None
        data, rows = self.build.data, self.build.row_count
        return PartitionFile(data, rows, self.rows_before, allow_shrink, self.take_over.superseded, self.set_aside)


def enhance_partition(
    processed: ParquetParts,
    partitions: PublishedPartitions,
    dt: date,
    *,
    area: ServiceArea,
    built_at: datetime,
    allow_shrink: bool = False,
    look_for_strays: bool = True,
) -> EnhancedPartition:
    """Classify and flag a day's processed rows.

    Raises:
        PartitionWouldShrinkError: other writers' files hold rows that are not among them.
    """
    published = partitions.find("enhanced", dt)
    started = time.monotonic()

    def build_on(previous: ParquetParts | None) -> EnhancedBuild:
        return build_enhanced(processed, previous, area=area, dt=dt, build_id=built_at.isoformat())

    try:
        build = build_on(published.parts)
    except (pa.ArrowException, OSError, zlib.error):
        if published.parts is None or _can_be_read(published.parts):
            raise
        published = Published(None, published.data, "its rows cannot be read")
        build = build_on(None)
    _log.info(
        "built enhanced partition", dt=str(dt), rows=build.row_count, seconds=round(time.monotonic() - started, 3)
    )
    previous = published.parts
    changed = not is_current(previous, processed, area)
    if not changed and previous is not None and not _can_be_read(previous):
        published, previous, changed = Published(None, published.data, "its rows cannot be read"), None, True
    files = []
    if look_for_strays or previous is None or not changed:
        files = strays_of(partitions, "enhanced", dt)
    over = NOTHING
    if files:
        over = settle(
            f"enhanced dt={dt}",
            files,
            OurRows(ParquetParts.open(build.data), published_manifest(processed) or Manifest(PARSER_VERSION, {})),
            partitions.layout,
            dt,
            allow_shrink=allow_shrink,
            must_fit=must_fit(dt, previous, built_at),
        )
    if not changed:
        for key in over.superseded:
            partitions.supersede("enhanced", dt, key)
    return EnhancedPartition(build, previous.row_count if previous else 0, changed, over, published.set_aside)


def is_current(enhanced: ParquetParts | None, processed: ParquetParts, area: ServiceArea) -> bool:
    """Whether the published enhanced partition was made from exactly these processed rows, by the current rules."""
    return (
        enhanced is not None
        and is_derived_from(enhanced, processed)
        and enhanced.footer_metadata.get("rules") == rules_id(area)
    )

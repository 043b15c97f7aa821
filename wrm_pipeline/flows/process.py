"""raw/ -> processed/ of one day: what is new or changed, rows of other writers, and dead letters."""

import time
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import date, datetime

import pyarrow as pa

from wrm_pipeline.clients.cache import NO_CACHE, Cache
from wrm_pipeline.domain import asset_names
from wrm_pipeline.domain.dead_letters import PARKED, PENDING, REPROCESSED, DeadLetter
from wrm_pipeline.domain.drift import Drift, drift_of
from wrm_pipeline.domain.layout import Layout
from wrm_pipeline.domain.manifest import Manifest
from wrm_pipeline.domain.parquet_parts import ParquetParts
from wrm_pipeline.domain.partition_build import (
    BuildPlan,
    ProcessedBuild,
    ReadBodies,
    build_processed,
    plan_build,
)
from wrm_pipeline.domain.rules import NO_STRICT_RULES, StrictRules
from wrm_pipeline.domain.strays import OurRows
from wrm_pipeline.flows.feed_choice import FeedChoice, choose_feeds, newest_feed
from wrm_pipeline.flows.raw_inputs import (
    held_first,
    published_manifest,
    raw_objects_of,
    with_remembered_times,
    with_reported_times,
)
from wrm_pipeline.flows.readable import ReadableBodies, can_be_read
from wrm_pipeline.flows.take_over import NOTHING, TakeOver, donors, must_fit, settle, with_rows_of
from wrm_pipeline.lake.cached_objects import CachedObjects
from wrm_pipeline.lake.dead_letter_queue import DeadLetterQueue
from wrm_pipeline.lake.object_store import ObjectStore
from wrm_pipeline.lake.published_partitions import PartitionFile, Published, PublishedPartitions
from wrm_pipeline.lake.raw_objects import RawDay
from wrm_pipeline.logs import get_logger

_log = get_logger(__name__)


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
        expected = self.rows_before - self.build.dropped_by_new_rules(published_manifest(self.previous))
        return PartitionFile(data, rows, expected, allow_shrink, self.take_over.superseded, self.set_aside)


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
    strict: StrictRules = NO_STRICT_RULES,
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
        timed, held = with_reported_times(timed, dt, reader.read)
        read = held_first(reader.read, held)
        choice = choose_feeds(
            timed, dt, previous, partitions, read, full_rebuild=full_rebuild, allow_shrink=allow_shrink
        )
        return _build(
            choice,
            previous,
            reader,
            held_first(read, choice.held),
            parsed_at=parsed_at,
            full_rebuild=full_rebuild,
            reparse=reparse,
            allow_shrink=allow_shrink,
            moved=moved,
            strict=strict,
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
    was, now = newest_feed(plan.manifest), newest_feed(build.manifest)
    if build.manifest.feeds and was and was != now:
        _log.warning("another feed is published", dt=str(dt), was=was, now=now)
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
        if done[1] is not None or previous is None or can_be_read(previous):
            return published, done
    except (pa.ArrowException, OSError, zlib.error):
        if previous is None or can_be_read(previous):
            raise
    _log.warning("the published partition is damaged, so it is built from scratch")
    published = Published(None, published.data, "its rows cannot be read")
    return published, build(None)


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
    choice: FeedChoice,
    previous: ParquetParts | None,
    reader: ReadableBodies,
    read: ReadBodies,
    *,
    parsed_at: datetime,
    full_rebuild: bool,
    reparse: Collection[str],
    allow_shrink: bool,
    moved: Collection[str],
    strict: StrictRules,
) -> tuple[BuildPlan, ProcessedBuild | None]:
    """Plan and build, and again if published rows turn out to have to stay; None if nothing changes.

    Only reading shows which objects are unreadable or have fewer rows than before.
    """
    refused: dict[str, str] = {}
    feeds = choice.record.to_json() if choice.record is not None else {}
    while True:
        failed = len(reader.failed)
        plan = plan_build(
            [obj for obj in choice.objects if obj.key not in reader.failed or obj.key in reader.unreadable],
            previous,
            full_rebuild=full_rebuild,
            reparse=reparse,
            allow_shrink=allow_shrink,
            refused=refused,
            unreadable=reader.unreadable,
            moved={*moved, *choice.set_aside},
            strict=strict,
            feeds=feeds,
        )
        remembers = {**plan.manifest.refused, **plan.manifest.unreadable} == {**plan.refused, **plan.unreadable}
        if previous is None and not plan.parse:  # everything vanished after the listing, or cannot be read
            reader.check_the_store(())
            return plan, None
        if plan.nothing_to_do and remembers and not choice.changed:
            reader.check_the_store(plan.manifest.sources)
            return plan, None
        build = build_processed(plan, read, parsed_at=parsed_at, strict=strict)
        news = {} if allow_shrink else {k: etag for k, etag in build.shrunken.items() if refused.get(k) != etag}
        if not news and len(reader.failed) == failed:
            reader.check_the_store(plan.manifest.sources)
            return plan, build
        refused |= news


def is_settled(letter: DeadLetter, manifest: Manifest | None) -> bool:
    """Whether an open entry's rows have been published since.

    They have if its raw object was parsed after the failure was last seen: a parse that fails again rewrites the entry
    with the time of that parse.
    """
    source = manifest.sources.get(letter.source_key) if manifest is not None else None
    return letter.status in (PENDING, PARKED) and source is not None and source.parsed_at > letter.last_seen

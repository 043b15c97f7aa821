"""Which raw objects of a day are published, if it has several feeds: one feed's snapshot a minute (data contract, 2).

The others stay in `raw/`: their figures and verdicts are in the partition's manifest, and their rows nowhere. A day of
one feed is published as it is, and nothing here reads a body of it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from wrm_pipeline.domain.city import this_city
from wrm_pipeline.domain.feeds.figures import NO_PLACES, Places, figures_of
from wrm_pipeline.domain.feeds.record import Candidate, FeedRecord, JudgedObject, feed_of, select
from wrm_pipeline.domain.feeds.soundness import SOUND, judged
from wrm_pipeline.domain.manifest import Manifest, RawObject
from wrm_pipeline.domain.parquet_parts import ParquetParts
from wrm_pipeline.domain.partition_build import BATCH_BYTES, ReadBodies
from wrm_pipeline.domain.snapshot import PARSER_VERSION, RawSnapshot, parse_snapshots
from wrm_pipeline.flows.feed_baselines import baselines_after
from wrm_pipeline.flows.raw_inputs import HELD_BYTES, published_manifest
from wrm_pipeline.lake.published_partitions import PublishedPartitions


@dataclass(frozen=True, slots=True)
class FeedChoice:
    """The objects to publish.

    Attributes:
        objects: Those, and those without rows, whose lines are dead letters.
        set_aside: Keys of the others.
        record: For the manifest; None for a day of one feed.
        changed: Whether it differs from the published one.
        held: Bodies of `objects` that were read for their figures, as far as they are worth keeping in memory.
    """

    objects: Sequence[RawObject]
    set_aside: frozenset[str] = frozenset()
    record: FeedRecord | None = None
    changed: bool = False
    held: dict[str, bytes] = field(default_factory=dict)


def choose_feeds(
    objects: Sequence[RawObject],
    dt: date,
    previous: ParquetParts | None,
    partitions: PublishedPartitions,
    read: ReadBodies,
    *,
    full_rebuild: bool = False,
    allow_shrink: bool = False,
) -> FeedChoice:
    """Judge the snapshots of a day of several feeds, and choose one feed for each minute.

    Only new and changed bodies are read. Minutes that are published keep their feed if the order of trust has changed
    since, unless `full_rebuild`. Rows of a raw object that is gone stay, unless `allow_shrink`.
    """
    if not _has_several_feeds(objects, previous, partitions.layout.feeds):
        return FeedChoice(objects)
    manifest = published_manifest(previous) or Manifest(PARSER_VERSION, {})
    before = FeedRecord.from_json(manifest.feeds) if manifest.feeds and not full_rebuild else None
    record = before or FeedRecord(baselines=baselines_after(dt - timedelta(days=1), partitions))
    day = _Day({obj.key: obj for obj in objects}, record, manifest, full_rebuild=full_rebuild)
    if not allow_shrink:
        day.keep_vanished()
    latest = day.look_at_new(read)
    snapshots = replace(record, objects=day.judged).snapshots()
    verdicts = judged([snapshot for _, snapshot in snapshots], record.baselines, this_city().zone)
    found = {
        key: replace(day.judged[key], verdict=verdict.kind)
        for (key, _), verdict in zip(snapshots, verdicts, strict=True)
    }
    record = replace(
        # The order is compared with the minutes that were published, not with those of this build.
        record.with_order(partitions.layout.feeds)
        if before is None or found.keys() - before.objects.keys()
        else record,
        objects=found,
        latest=_latest(record, latest, found),
    )
    candidates = [
        Candidate(key, snapshot.at, verdict.sound, verdict.right_place)
        for (key, snapshot), verdict in zip(snapshots, verdicts, strict=True)
        if key not in day.stays
    ]
    candidates += [Candidate(key, at, sound=True, right_place=True, stays=True) for key, at in day.stays.items()]
    chosen = select(candidates, record)
    set_aside = frozenset(candidate.key for candidate in candidates if candidate.key not in chosen)
    kept = [obj for obj in objects if obj.key not in set_aside]
    held = {key: body for key, body in day.held.items() if key not in set_aside}
    return FeedChoice(kept, set_aside, record, changed=record != before, held=held)


def newest_feed(manifest: Manifest) -> str:
    """The feed of the newest published snapshot; empty without one, or on a day of one feed."""
    if not manifest.feeds:
        return ""
    newest = max(manifest.sources, key=lambda key: manifest.sources[key].file_timestamp, default="")
    return feed_of(newest) if newest else ""


def _has_several_feeds(objects: Sequence[RawObject], previous: ParquetParts | None, order: tuple[str, ...]) -> bool:
    if previous is not None and "feeds" in previous.footer_metadata:
        return True
    if previous is None and len(order) > 1:
        return True
    # Each kind has its own suffix, and this is asked each minute.
    return len({obj.key.rpartition(".")[2] for obj in objects}) > 1


def _latest(
    record: FeedRecord, places: Mapping[str, Places], found: Mapping[str, JudgedObject]
) -> dict[str, tuple[datetime, Places]]:
    latest = dict(record.latest)
    for key in sorted(places, key=lambda key: found[key].at):
        one = found[key]
        if one.verdict == SOUND and (feed_of(key) not in latest or latest[feed_of(key)][0] <= one.at):
            latest[feed_of(key)] = (one.at, places[key])
    return latest


class _Day:
    """The raw objects of a day, sorted by what is known of them.

    Attributes:
        judged: Those with rows; a new one counts as sound until it is judged.
        stays: Times of those whose rows stay published, whatever the others are.
        held: Bodies that were read.
    """

    def __init__(
        self, listed: Mapping[str, RawObject], record: FeedRecord, manifest: Manifest, *, full_rebuild: bool
    ) -> None:
        self._listed = listed
        self._record = record
        self._manifest = manifest
        self.judged: dict[str, JudgedObject] = {}
        self.stays: dict[str, datetime] = {}
        self.held: dict[str, bytes] = {}
        self._held_bytes = 0
        self._new: list[RawObject] = []
        same_parser = manifest.parser_version == PARSER_VERSION
        for key, obj in listed.items():
            known, source = record.objects.get(key), manifest.sources.get(key)
            identity = (obj.etag, obj.file_timestamp, obj.corrections_id)
            if known is not None and identity == (known.etag, known.at, known.corrections_id):
                self.judged[key] = known
            elif (
                full_rebuild
                or source is None
                or identity != (source.etag, source.file_timestamp, source.corrections_id)
            ):
                self._new.append(obj)
            elif source.counts.rows_out:
                # Published before the day had a second feed.
                self.stays[key] = obj.file_timestamp
            elif not same_parser:
                self._new.append(obj)

    def keep_vanished(self) -> None:
        """Published rows whose raw object is gone stay."""
        for key, source in self._manifest.sources.items():
            if key not in self._listed and source.counts.rows_out:
                self.stays[key] = source.file_timestamp
                if key in self._record.objects:
                    self.judged[key] = self._record.objects[key]

    def look_at_new(self, read: ReadBodies) -> dict[str, Places]:
        """Read and parse new bodies; returns the stations of a feed's last one in each batch, by key."""
        by_key = {obj.key: obj for obj in self._new}
        latest: dict[str, Places] = {}
        # Feeds have the same ids, so of two feeds at one time the parser would drop one.
        for feed in sorted({feed_of(key) for key in by_key}):
            before = self._record.baselines[feed].places if feed in self._record.baselines else NO_PLACES
            keys = [
                obj.key for obj in sorted(self._new, key=lambda obj: obj.file_timestamp) if feed_of(obj.key) == feed
            ]
            for batch in self._batches(read(keys), by_key):
                rows = parse_snapshots(batch).rows
                figures = figures_of(rows, before)
                for key, found in figures.items():
                    obj = by_key[key]
                    self.judged[key] = JudgedObject(obj.etag, obj.file_timestamp, obj.corrections_id, found, SOUND)
                if figures:
                    newest = max(figures, key=lambda key: by_key[key].file_timestamp)
                    latest[newest] = Places.of(_rows_of(rows, newest))
        return latest

    def _batches(
        self, bodies: Iterator[tuple[str, bytes]], by_key: Mapping[str, RawObject]
    ) -> Iterator[list[RawSnapshot]]:
        batch: list[RawSnapshot] = []
        batch_bytes = 0
        for key, body in bodies:
            obj = by_key[key]
            if batch and batch_bytes + len(body) > BATCH_BYTES and obj.file_timestamp != batch[-1].file_timestamp:
                yield batch
                batch, batch_bytes = [], 0
            batch.append(RawSnapshot(key, obj.file_timestamp, body, obj.corrections, obj.fault))
            batch_bytes += len(body)
            if self._held_bytes + len(body) <= HELD_BYTES:
                self.held[key] = body
                self._held_bytes += len(body)
        if batch:
            yield batch


def _rows_of(rows: pa.Table, key: str) -> pa.Table:
    return rows.filter(pc.equal(rows["s3_source_key"].cast(pa.string()), key))

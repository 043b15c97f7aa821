"""The state of the feeds now, from the newest published day: are they telling the truth, and do they agree?"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from wrm_pipeline.clients.errors import ObjectNotFoundError
from wrm_pipeline.domain.city import this_city
from wrm_pipeline.domain.feeds.agreement import FeedCounts, agreement
from wrm_pipeline.domain.feeds.figures import FREE_BIKE, Places
from wrm_pipeline.domain.feeds.health import FeedHealth, health_of
from wrm_pipeline.domain.feeds.record import FeedRecord, feed_of, minute_of
from wrm_pipeline.domain.feeds.soundness import judged
from wrm_pipeline.domain.layout import local_date
from wrm_pipeline.domain.parquet_parts import ParquetParts
from wrm_pipeline.domain.snapshot import RawSnapshot, parse_snapshots
from wrm_pipeline.flows.feed_baselines import baselines_after, snapshots_in
from wrm_pipeline.flows.raw_inputs import published_manifest
from wrm_pipeline.lake.object_store import ObjectStore
from wrm_pipeline.lake.published_partitions import PublishedPartitions, UnreadablePartitionError

# Snapshots of each feed that are compared: as many as the longest lag that is looked for, and a few more.
COMPARED = timedelta(minutes=8)
# A row group has 160 snapshots, so two have more than any silence that counts.
_GROUPS = 2


def look_at_feeds(partitions: PublishedPartitions, *, now: datetime) -> list[FeedHealth]:
    """The state of each configured feed; empty without a snapshot of today.

    A day of one feed costs its object and that of the day before, 0.1 s; with several feeds the newest bodies are
    parsed once more, 0.3 s.
    """
    dt = local_date(now)
    try:
        parts = partitions.read("processed", dt)
    except UnreadablePartitionError:
        return []  # the next run rebuilds it, and says so
    manifest = published_manifest(parts)
    if parts is None or manifest is None:
        return []
    feeds = partitions.layout.feeds
    published: dict[str, datetime] = {}
    for key, source in manifest.sources.items():
        feed = feed_of(key)
        published[feed] = max(source.file_timestamp, published.get(feed, source.file_timestamp))
    if not manifest.feeds:
        return _of_one_feed(parts, partitions, dt - timedelta(days=1), feeds, published)
    record = FeedRecord.from_json(manifest.feeds)
    keyed = record.snapshots()
    snapshots = [snapshot for _, snapshot in keyed]
    found = health_of(feeds, snapshots, judged(snapshots, record.baselines, this_city().zone), published)
    reference = next((health.feed for health in found if health.published), "")
    since = minute_of(snapshots[-1].at) - COMPARED
    newest = [(key, snapshot.at) for key, snapshot in keyed if snapshot.at >= since]
    counts = _counts(partitions.store, newest)
    return [
        replace(health, agreement=agreement(counts[reference], counts[health.feed]))
        if health.feed != reference and {health.feed, reference} <= counts.keys()
        else health
        for health in found
    ]


def _of_one_feed(
    parts: ParquetParts,
    partitions: PublishedPartitions,
    yesterday: date,
    feeds: tuple[str, ...],
    published: Mapping[str, datetime],
) -> list[FeedHealth]:
    baselines = baselines_after(yesterday, partitions, groups=_GROUPS)
    own = {feed: baseline.places for feed, baseline in baselines.items()}
    snapshots = sorted(snapshots_in(parts, own, groups=_GROUPS)[0], key=lambda snapshot: snapshot.at)
    return health_of(feeds, snapshots, judged(snapshots, baselines, this_city().zone), published)


def _counts(store: ObjectStore, newest: Iterable[tuple[str, datetime]]) -> dict[str, FeedCounts]:
    """Bikes at the stations by feed and minute."""
    by_feed: dict[str, list[tuple[str, datetime]]] = defaultdict(list)
    for key, at in newest:
        by_feed[feed_of(key)].append((key, at))
    found = {}
    for feed, wanted in by_feed.items():
        bodies = []
        for key, at in wanted:
            try:
                bodies.append(RawSnapshot(key, at, store.get(key)))
            except ObjectNotFoundError:
                continue
        rows = parse_snapshots(bodies).rows
        if rows.num_rows:
            last = rows.filter(pc.equal(rows["file_timestamp"], pc.max(rows["file_timestamp"])))
            found[feed] = FeedCounts(Places.of(last), _by_minute(rows))
    return found


def _by_minute(rows: pa.Table) -> dict[datetime, dict[str, int]]:
    found: dict[datetime, dict[str, int]] = defaultdict(dict)
    for row in rows.select(["file_timestamp", "station_id", "bikes"]).to_pylist():
        if not row["station_id"].startswith(FREE_BIKE):
            found[minute_of(row["file_timestamp"].astimezone(UTC))][row["station_id"]] = row["bikes"]
    return found

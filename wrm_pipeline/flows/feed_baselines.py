"""What is known of each feed from a day: the baselines by which the next day's snapshots are judged."""

from collections.abc import Mapping
from datetime import UTC, date

import pyarrow as pa
import pyarrow.compute as pc

from wrm_pipeline.domain.city import this_city
from wrm_pipeline.domain.feeds import KINDS
from wrm_pipeline.domain.feeds.figures import NO_PLACES, Places, figures_of
from wrm_pipeline.domain.feeds.record import FeedRecord, feed_of
from wrm_pipeline.domain.feeds.soundness import NO_BASELINE, Baseline, Snapshot, judged, next_baseline
from wrm_pipeline.domain.parquet_parts import ParquetParts
from wrm_pipeline.lake.published_partitions import PublishedPartitions, UnreadablePartitionError
from wrm_pipeline.logs import get_logger

_log = get_logger(__name__)

_COLUMNS = (
    *("station_id", "name", "lat", "lon", "bikes", "spaces", "total_docks", "pedelecs"),
    *("s3_source_key", "file_timestamp"),
)


def baselines_after(dt: date, partitions: PublishedPartitions, *, groups: int | None = None) -> dict[str, Baseline]:
    """The baselines by feed after a published day; none if it is not published.

    A feed that had no snapshot on it is judged by where the stations of the other feed were. Costs one object; a day of
    one feed has no record, so its 0.6 million rows are read as well, in 0.5 s, or those of its last row groups.
    """
    try:
        parts = partitions.read("processed", dt)
    except UnreadablePartitionError as error:
        _log.warning("the feeds are judged without the day before", dt=str(dt), reason=str(error))
        return {}
    if parts is None:
        return {}
    found = parts.footer_metadata.get("feeds")
    baselines = _of_record(FeedRecord.from_json(found)) if found else _of_rows(parts, groups)
    known = max(baselines.values(), key=lambda baseline: len(baseline.places), default=NO_BASELINE)
    for name in KINDS:
        if name not in baselines and known.places:
            baselines[name] = Baseline(known.places.without_ids(), known.bikes, known.peak)
    return baselines


def _of_record(record: FeedRecord) -> dict[str, Baseline]:
    snapshots = [snapshot for _, snapshot in record.snapshots()]
    verdicts = judged(snapshots, record.baselines, this_city().zone)
    after = {}
    for feed in sorted({snapshot.feed for snapshot in snapshots}):
        own = [pair for pair in zip(snapshots, verdicts, strict=True) if pair[0].feed == feed]
        before = record.baselines.get(feed, NO_BASELINE)
        places = record.latest[feed][1] if feed in record.latest else before.places
        after[feed] = next_baseline(
            [one for one, _ in own], [verdict for _, verdict in own], places, before, this_city().zone
        )
    return after


def _of_rows(parts: ParquetParts, groups: int | None) -> dict[str, Baseline]:
    """Of a day of one feed, all of whose raw objects are published."""
    snapshots, places = snapshots_in(parts, {}, groups=groups)
    ordered = sorted(snapshots, key=lambda snapshot: snapshot.at)
    after = {}
    for feed in sorted({snapshot.feed for snapshot in ordered}):
        own = [snapshot for snapshot in ordered if snapshot.feed == feed]
        zone = this_city().zone
        after[feed] = next_baseline(own, judged(own, {}, zone), places, NO_BASELINE, zone)
    return after


def snapshots_in(
    parts: ParquetParts, before: Mapping[str, Places], *, groups: int | None = None
) -> tuple[list[Snapshot], Places]:
    """The snapshots in a processed file (in its last row groups), and the stations of the newest.

    `before` are the stations of the day before, by feed.
    """
    start = 0 if groups is None else max(parts.group_count - groups, 0)
    tables = list(parts.read_groups(start, columns=list(_COLUMNS)))
    if not any(table.num_rows for table in tables):
        return [], NO_PLACES
    # In one piece, since a snapshot may go on in the next row group.
    rows = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
    times = rows.group_by("s3_source_key").aggregate([("file_timestamp", "max")])
    at = dict(zip(times["s3_source_key"].to_pylist(), times["file_timestamp_max"].to_pylist(), strict=True))
    newest = max(at, key=lambda key: at[key])
    figures = figures_of(rows, before.get(feed_of(newest), NO_PLACES))
    if start:
        # Its first snapshot may have begun in the row group before.
        figures = {key: found for key, found in figures.items() if at[key] != min(at.values())}
    snapshots = [Snapshot(feed_of(key), at[key].astimezone(UTC), found) for key, found in figures.items()]
    return snapshots, Places.of(rows.filter(pc.equal(rows["file_timestamp"], at[newest])))

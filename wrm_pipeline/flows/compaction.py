"""Compaction of old days: the thousands of raw objects of a day become one archive and its index.

A day is packed only once it is completely published, and an original is removed only after the archive has been read
back and every member compared. The order leaves the whole day readable after a crash at any point:

1. the archive is written, under a name derived from its content;
2. it is read back, and each member is compared with its SHA-256;
3. the index is written: from here on the archive counts, beside the loose objects;
4. the loose objects that the index lists (same key, same ETag) are removed, one by one;
5. the archive of an older index is removed.

Run again after a crash, it continues where it stopped. Late objects lie loose beside the archive and are read as
usual; the next compaction packs them with the others.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta

from wrm_pipeline.clients.daemon_threads import DaemonThreads
from wrm_pipeline.domain.layout import Layout, folder_dates
from wrm_pipeline.domain.partition_build import plan_build
from wrm_pipeline.domain.quality import column_differences, unbalanced_sources
from wrm_pipeline.domain.raw_archive import ArchiveIndex, Member, pack
from wrm_pipeline.domain.rules import ServiceArea
from wrm_pipeline.domain.schemas import ENHANCED, PROCESSED
from wrm_pipeline.flows.enhance import is_current
from wrm_pipeline.flows.progress import Begin, unobserved
from wrm_pipeline.flows.raw_inputs import (
    published_manifest,
    raw_objects_of,
    with_remembered_times,
    without_set_aside,
)
from wrm_pipeline.lake.dead_letter_queue import DeadLetterQueue
from wrm_pipeline.lake.object_store import RUN_ID, ObjectStore
from wrm_pipeline.lake.published_partitions import PublishedPartitions, UnreadablePartitionError
from wrm_pipeline.lake.raw_objects import RawDay, UnreadableArchiveError
from wrm_pipeline.logs import get_logger

_log = get_logger(__name__)

# Yesterday's last snapshots may still be waiting in a spool.
MIN_AGE_DAYS = 2

# Days per run; with 1,440 objects each on S3, about five minutes.
DAYS_PER_RUN = 20

_DELETE_THREADS = 8


@dataclass(frozen=True, slots=True)
class Compaction:
    """What was done with a day, or would be in a dry run.

    Attributes:
        dt: The day.
        packed: Loose objects that go into the archive.
        bytes_before: Their total size.
        bytes_after: Size of the archive; 0 in a dry run.
        refused: Why the day is left alone; empty if it is packed.
    """

    dt: date
    packed: int
    bytes_before: int
    bytes_after: int = 0
    refused: str = ""


def days_to_pack(
    store: ObjectStore, layout: Layout, *, today: date, older_than_days: int, begin: Begin = unobserved
) -> Iterator[date]:
    """Days that are old enough and have loose raw objects, oldest first; one listing per 1,000 objects.

    `begin` is called for each day that is old enough, so that a step includes what the caller does with the day.
    """
    last = today - timedelta(days=max(older_than_days, MIN_AGE_DAYS))
    days = [dt for dt in folder_dates(store.list_folders(layout.raw_prefix)) if dt <= last]
    for dt in days:
        begin(dt.isoformat(), len(days))
        if _has_loose(store, layout, dt):
            yield dt


def _has_loose(store: ObjectStore, layout: Layout, dt: date) -> bool:
    after = f"{layout.archive_folder(dt)}~"
    return any(layout.is_raw_key(info.key) for info in store.list(layout.raw_folder(dt), start_after=after))


def compact_day(
    store: ObjectStore, layout: Layout, dt: date, *, area: ServiceArea, today: date, dry_run: bool
) -> Compaction:
    """Pack the loose raw objects of a day, if it is completely published.

    Raises:
        ExternalError: the store failed; the day is readable, and another call continues.
        DamagedArchiveError: an object changed while it was packed; nothing was removed.
    """
    try:
        raw = RawDay.of(store, layout, dt)
        refused = _reason_against(store, raw, area=area, today=today)
    except (UnreadableArchiveError, UnreadablePartitionError) as error:
        # Only this day fails; the others are packed.
        return Compaction(dt, 0, 0, refused=str(error))
    size = sum(info.size_bytes for info in raw.loose.values())
    if refused or dry_run or not raw.loose:
        return Compaction(dt, len(raw.loose), size, refused=refused)
    index = raw.index
    if index is None or any(not _holds(index, raw, key) for key in raw.loose):
        index = _write_archive(raw)
    # Also one that an earlier run wrote before it died, with the originals still there.
    RawDay(store, layout, dt, {}, index).open_archive().verify()
    if index is not raw.index:
        key = layout.archive_index_key(dt)
        store.put(key, index.to_json(), content_type="application/json")
        if ArchiveIndex.from_json(store.get(key)) != index:
            raise AssertionError(f"{key} was written by another compaction at the same time")
    doomed = [key for key, info in RawDay.of(store, layout, dt).loose.items() if raw.loose.get(key) == info]
    with DaemonThreads(_DELETE_THREADS, "compaction") as threads:
        threads.map_all(store.delete, doomed)
    if raw.index is not None and raw.index.name != index.name:
        store.delete(raw.archive_key)
    _log.info("packed a day's raw objects", dt=str(dt), objects=len(doomed), bytes=size, archive_bytes=index.size_bytes)
    return Compaction(dt, len(doomed), size, index.size_bytes)


def restore_day(store: ObjectStore, layout: Layout, dt: date) -> int:
    """Put the packed raw objects of a day back in place; returns their number.

    They get new ETags, so the reconciliation has the day parsed again, with the same rows.

    Raises:
        UnreadableArchiveError: the archive is damaged; it was left alone.
    """
    raw = RawDay.of(store, layout, dt)
    if raw.index is None:
        return 0
    raw.open_archive().verify()
    keys = [layout.raw_folder(dt) + member.name for member in raw.index.members]
    metadata = {info.key: info.metadata for info in raw.objects()}
    for key, body in raw.read(key for key in keys if key not in raw.loose):
        store.put_if_absent(key, body, metadata=metadata[key])
    missing = set(keys) - RawDay.of(store, layout, dt).loose.keys()
    if missing:
        raise AssertionError(f"{len(missing)} objects were put back but are missing: {sorted(missing)[:3]}")
    store.delete(layout.archive_index_key(dt))
    store.delete(raw.archive_key)
    return len(keys)


def _reason_against(store: ObjectStore, raw: RawDay, *, area: ServiceArea, today: date) -> str:
    """Why a day cannot be packed now; empty if it can."""
    layout, dt = raw.layout, raw.dt
    if dt > today - timedelta(days=MIN_AGE_DAYS):
        return f"it is younger than {MIN_AGE_DAYS} days, and late snapshots may arrive"
    partitions = PublishedPartitions(store, layout)
    processed, enhanced = partitions.read("processed", dt), partitions.read("enhanced", dt)
    if processed is None or enhanced is None:
        return "it is not published"
    objects = raw_objects_of(raw, DeadLetterQueue(store, layout).entries(dt), processed)
    plan = plan_build(without_set_aside(with_remembered_times(objects, dt, processed), processed), processed)
    if not plan.nothing_to_do:
        return f"{len(plan.parse) + len(plan.drop)} raw objects differ from the published day; process it first"
    if any(not plan.manifest.sources[key].adopted for key in plan.kept):
        return f"{len(plan.kept)} raw objects of the published day are gone or were refused; bring them back first"
    if not is_current(enhanced, processed, area):
        return "its enhanced rows are not made from its processed ones; process it first"
    manifest = published_manifest(processed)
    sound = (
        manifest is not None
        and manifest.counts.rows_out == processed.row_count == enhanced.row_count
        and not unbalanced_sources(manifest).count
        and not column_differences(processed, PROCESSED).count
        and not column_differences(enhanced, ENHANCED).count
    )
    return "" if sound else "its published rows do not add up; rebuild it (full_rebuild)"


def _holds(index: ArchiveIndex, raw: RawDay, key: str) -> bool:
    info, member = raw.loose[key], index.by_name.get(key.removeprefix(raw.layout.raw_folder(raw.dt)))
    return member is not None and (member.etag, member.size_bytes) == (info.etag, info.size_bytes)


def _write_archive(raw: RawDay) -> ArchiveIndex:
    infos = {info.key: info for info in raw.objects()}
    folder = raw.layout.raw_folder(raw.dt)
    # A listing does not include the run that fetched them.
    with DaemonThreads(_DELETE_THREADS, "compaction") as threads:
        described = [info for info in threads.map_all(raw.store.stat, raw.loose) if info is not None]
    runs = {info.key: info.metadata.get(RUN_ID, "") for info in (*infos.values(), *described)}

    def members() -> Iterator[tuple[Member, bytes]]:
        for key, body in raw.read(infos):
            info = infos[key]
            sha256 = hashlib.sha256(body).hexdigest()
            name = key.removeprefix(folder)
            yield Member(name, info.size_bytes, info.etag, info.last_modified, sha256, runs[key]), body

    index, data = pack(raw.dt, members())
    raw.store.put(f"{raw.layout.archive_folder(raw.dt)}{index.name}", data, content_type="application/zip")
    return index

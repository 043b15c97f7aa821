"""Feed -> raw/: fetch one snapshot, look at it, and store it once, or keep it on the disk until that can be done."""

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from wrm_pipeline.clients.cache import NO_CACHE, Cache
from wrm_pipeline.clients.cached_objects import CachedObjects
from wrm_pipeline.clients.dead_letter_queue import DeadLetterQueue
from wrm_pipeline.clients.errors import ExternalError, TransientError
from wrm_pipeline.clients.feed import Feed
from wrm_pipeline.clients.object_store import RUN_ID, ObjectInfo, ObjectStore
from wrm_pipeline.clients.spool import Kind, Spool, SpooledBody, SpoolFullError
from wrm_pipeline.domain.drift import Drift, drift_of
from wrm_pipeline.domain.layout import Layout, folder_date, local_date
from wrm_pipeline.domain.snapshot import (
    FileFault,
    FileReport,
    LineCounts,
    inspect_fetched,
)
from wrm_pipeline.logs import get_logger

_log = get_logger(__name__)

# How far back the last stored snapshot is looked for; a feed that is frozen for longer is stored once an hour.
DUPLICATE_LOOK_BACK = timedelta(hours=1)

# Rows that the letter of a quarantined body keeps where the feed has another format: such a body comes each minute.
DRIFT_ROWS_KEPT = 20

# Bodies delivered from the spool by one run: 500 x 50 ms, so that a run stays within its minute.
MAX_DELIVERIES_PER_RUN = 500


@dataclass(frozen=True, slots=True)
class Delivered:
    """Bodies that left the spool.

    `keys` were written, `duplicates` were the same as the snapshot before them, `still_waiting` is how many stay.
    """

    keys: tuple[str, ...] = ()
    duplicates: tuple[datetime, ...] = ()
    still_waiting: int = 0


@dataclass(frozen=True, slots=True)
class IngestResult:
    """What became of one fetch.

    Stored under `key`, unless it is a `duplicate` (the bytes are those of the snapshot before; nothing stored) or
    `spooled` (waiting on the disk, for `spool_reason`). With a `fault` it is no snapshot: in quarantine or, if
    `spooled`, on the way there. `drift` is what at least a fifth of its rows die of. `delivered` is about older bodies,
    `run_id` says who fetched.
    """

    fetched_at: datetime
    size_bytes: int
    sha256: str
    key: str
    duplicate: bool = False
    spooled: bool = False
    spool_reason: str = ""
    fault: FileFault | None = None
    drift: Drift | None = None
    counts: LineCounts = field(default_factory=LineCounts)
    delivered: Delivered = field(default_factory=Delivered)
    run_id: str = ""


def take_snapshot(
    feed: Feed,
    connect: Callable[[], ObjectStore],
    layout: Layout,
    spool: Spool,
    *,
    correlation_id: str = "",
    cache: Cache = NO_CACHE,
) -> IngestResult:
    """Fetch the feed once and keep what it said, whatever else fails.

    The body is on the local disk before anything else is asked: a process that is killed from then on loses
    nothing. Then the store is asked for (`connect`) and takes all that waits, oldest first. If it, its credentials
    or its disk cannot be had, the body stays in the spool for a later call.

    `correlation_id` is the run's: it goes to the feed with the request, and into the object's metadata.

    Raises:
        ExternalError: the feed gave nothing, or neither the disk nor the store took the body.
        SpoolFullError, OSError: likewise.
    """
    try:
        fetched = feed.fetch(correlation_id=correlation_id)
    except ExternalError:
        # What waits need not wait for the feed, too.
        with contextlib.suppress(ExternalError, OSError):
            if any(spool.waiting()):
                deliver_spool(connect(), layout, spool, cache)
        raise
    report = inspect_fetched(fetched.body, fetched.fetched_at)
    fault = report.fault
    kind: Kind = "quarantine" if fault else "raw"
    result = IngestResult(
        fetched.fetched_at,
        len(fetched.body),
        hashlib.sha256(fetched.body).hexdigest(),
        layout.quarantine_key(fetched.fetched_at) if fault else layout.raw_key(fetched.fetched_at),
        fault=fault,
        drift=drift_of(report),
        counts=report.counts,
        run_id=correlation_id,
    )
    try:
        # While the store is away a frozen feed must not fill the disk.
        known = [body for body in list(spool.waiting())[-1:] if body.kind == kind and body.read() == fetched.body]
        waiting = known[0] if known else spool.add(kind, fetched.fetched_at, fetched.body, run_id=correlation_id)
        result = replace(result, duplicate=bool(known))
    except (SpoolFullError, OSError) as error:
        result = _store_without_spool(connect, layout, spool, kind, fetched.body, result, error, cache)
    else:
        result = _deliver_new(connect, layout, spool, waiting, result, cache)
    _log.info(
        "took snapshot",
        key=result.key,
        size_bytes=result.size_bytes,
        duplicate=result.duplicate,
        spooled=result.spooled,
        fault=fault.error_type if fault else None,
        drift=str(result.drift) if result.drift else None,
        delivered_from_spool=len(result.delivered.keys),
    )
    return result


def _deliver_new(
    connect: Callable[[], ObjectStore],
    layout: Layout,
    spool: Spool,
    new: SpooledBody,
    result: IngestResult,
    cache: Cache,
) -> IngestResult:
    try:
        delivered = deliver_spool(connect(), layout, spool, cache)
    except (ExternalError, OSError) as error:
        return replace(result, spooled=not result.duplicate, spool_reason=str(error))
    if delivered.still_waiting:
        reason = f"{delivered.still_waiting} snapshots are still on their way from the spool"
        return replace(result, spooled=not result.duplicate, spool_reason=reason, delivered=delivered)
    if result.duplicate or new.fetched_at in delivered.duplicates:
        return replace(result, duplicate=True, delivered=delivered)
    older = replace(delivered, keys=delivered.keys[:-1])
    return replace(result, key=delivered.keys[-1], delivered=older)


def _store_without_spool(
    connect: Callable[[], ObjectStore],
    layout: Layout,
    spool: Spool,
    kind: Kind,
    body: bytes,
    result: IngestResult,
    spool_error: Exception,
    cache: Cache,
) -> IngestResult:
    """The disk takes no more: what waits is delivered as far as it goes, and the body goes straight to the store."""
    _log.warning("the spool takes nothing, so the snapshot goes straight to the store", problem=str(spool_error))
    try:
        objects = CachedObjects(connect(), cache)
        result = replace(result, delivered=deliver_spool(objects.store, layout, spool, cache))
        if kind == "raw" and last_sha256(objects, layout, result.fetched_at) == result.sha256:
            return replace(result, duplicate=True)
        return replace(result, key=_store(objects, layout, kind, result.fetched_at, body, result.sha256, result.run_id))
    except (ExternalError, OSError) as error:
        raise spool_error from error


def deliver_spool(store: ObjectStore, layout: Layout, spool: Spool, cache: Cache = NO_CACHE) -> Delivered:
    """Store what waits, oldest first, each body once; stops at the first failure.

    A snapshot that equals the one before it is not stored. One that was stored before the process died is found by
    its SHA-256 and only leaves the spool.

    Raises:
        ExternalError: the store failed; what it did not take is still in the spool.
    """
    objects = CachedObjects(store, cache)
    keys: list[str] = []
    duplicates: list[datetime] = []
    previous: str | None = None
    waiting = list(spool.waiting())
    for body in waiting[:MAX_DELIVERIES_PER_RUN]:
        data = body.read()
        sha256 = hashlib.sha256(data).hexdigest()
        if body.kind == "raw":
            previous = previous or last_sha256(objects, layout, body.fetched_at)
        if body.kind == "raw" and sha256 == previous:
            duplicates.append(body.fetched_at)
        else:
            keys.append(_store(objects, layout, body.kind, body.fetched_at, data, sha256, body.run_id))
        if body.kind == "raw":
            previous = sha256
        spool.remove(body)
    return Delivered(tuple(keys), tuple(duplicates), len(waiting) - len(keys) - len(duplicates))


def _store(
    objects: CachedObjects, layout: Layout, kind: Kind, fetched_at: datetime, body: bytes, sha256: str, run_id: str
) -> str:
    """Put a body under its second, or the next free one if another body has it; returns the key."""
    store = objects.store
    metadata = {"sha256": sha256} | ({RUN_ID: run_id} if run_id else {})
    for seconds in range(60):
        at = fetched_at + timedelta(seconds=seconds)
        key = layout.raw_key(at) if kind == "raw" else layout.quarantine_key(at)
        if objects.put_if_absent(key, body, metadata=metadata) or _sha256_of(store, key) == sha256:
            if kind == "quarantine":
                _record_quarantined(store, layout, key, fetched_at, body)
            else:
                objects.stored(key, body, sha256)
            return key
    raise TransientError(
        "60 other bodies have the seconds from this one on",
        store.name,
        "put",
        layout.raw_key(fetched_at),
        "Is more than one fetcher at work? Stop all but one",
    )


def _record_quarantined(store: ObjectStore, layout: Layout, key: str, fetched_at: datetime, body: bytes) -> None:
    found = inspect_fetched(body, fetched_at)
    if found.fault is None:
        return
    drift = drift_of(found)
    if drift is None:
        lines = sum(1 for line in body.split(b"\n") if line.strip())
        counts = LineCounts(lines_in=lines, dead_lettered=lines)
        report = FileReport(key, counts, dead_counts={found.fault.error_type: lines}, fault=found.fault)
    else:
        # The body is kept whole, so a few of its rows are enough to see what is wrong.
        kept = [row for row in found.dead_rows if (row.field, row.error_type) == (drift.field, drift.error_type)]
        report = replace(found, source_key=key, dead_rows=tuple(kept[:DRIFT_ROWS_KEPT]))
    DeadLetterQueue(store, layout).record(
        [report],
        asset_name="wrm_stations_raw_data",
        # Not the date of the fetch: the next free second may be tomorrow's.
        partition_date=folder_date(key.rpartition("/")[0]) or local_date(fetched_at),
        seen_at=fetched_at,
    )


def last_sha256(objects: CachedObjects, layout: Layout, now: datetime) -> str | None:
    """Hash of the newest snapshot before `now`, at the cost of one listing (around midnight two) and at most a HEAD."""
    start = now - DUPLICATE_LOOK_BACK
    newest: ObjectInfo | None = None
    for dt in sorted({local_date(start), local_date(now)}):
        after = layout.raw_key(start) if dt == local_date(start) else ""
        for info in objects.store.list(layout.raw_folder(dt), start_after=after):
            parsed = layout.parse_raw_key(info.key)
            if parsed is not None and parsed.file_timestamp is not None and parsed.file_timestamp <= now:
                newest = info
    return objects.sha256(newest) if newest else None


def _sha256_of(store: ObjectStore, key: str) -> str | None:
    info = store.stat(key)
    if info is None:
        return None
    return info.metadata.get("sha256") or hashlib.sha256(store.get(key)).hexdigest()

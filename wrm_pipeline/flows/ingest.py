"""Feed -> raw/: fetch a snapshot, inspect it, and store it once, or keep it on the local disk until then."""

import contextlib
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

from wrm_pipeline.clients.cache import NO_CACHE, Cache
from wrm_pipeline.clients.errors import ExternalError, TransientError
from wrm_pipeline.clients.feed import Feed
from wrm_pipeline.domain import asset_names
from wrm_pipeline.domain.drift import Drift, drift_of
from wrm_pipeline.domain.feeds import UCL, FeedKind
from wrm_pipeline.domain.layout import Layout, folder_date, local_date
from wrm_pipeline.domain.snapshot import (
    FileFault,
    FileReport,
    LineCounts,
)
from wrm_pipeline.flows.inspection import APART_FROM_BYTES, UNINSPECTED, inspect_apart, inspect_here, line_count
from wrm_pipeline.lake.cached_objects import CachedObjects
from wrm_pipeline.lake.dead_letter_queue import DeadLetterQueue
from wrm_pipeline.lake.object_store import RUN_ID, ObjectInfo, ObjectStore
from wrm_pipeline.lake.raw_objects import fetched_since
from wrm_pipeline.lake.spool import Kind, Spool, SpooledBody, SpoolFullError, UnreadableBodyError
from wrm_pipeline.logs import get_logger

_log = get_logger(__name__)

# How far back to look for the last stored snapshot; a feed frozen for longer is stored once an hour.
DUPLICATE_LOOK_BACK = timedelta(hours=1)

# Rows kept in the dead letter of a quarantined body after a change of format: such a body arrives each minute.
DRIFT_ROWS_KEPT = 20

# Bodies that one run delivers from the spool: 500 x 50 ms, so that a run stays within its minute.
MAX_DELIVERIES_PER_RUN = 500
# Of these, inspections in a separate process: half a second each, and APART_SECONDS at worst.
MAX_APART_PER_RUN = 10


@dataclass(frozen=True, slots=True)
class Delivered:
    """The result of delivering the bodies in the spool.

    `keys` were written, `duplicates` equalled the snapshot before them, `still_waiting` is the number that remain.
    `problems` lists files that are not bodies or could not be read or inspected; they block nothing.
    """

    keys: tuple[str, ...] = ()
    duplicates: tuple[datetime, ...] = ()
    still_waiting: int = 0
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class IngestResult:
    """The result of one fetch.

    Stored under `key`, unless it is a `duplicate` (same bytes as the snapshot before; nothing stored) or `spooled`
    (waiting on the disk, because of `spool_reason`). With a `fault` it is not a snapshot: it is in quarantine or, if
    `spooled`, on its way there. `drift` is the cause of at least a fifth of its dead rows, if there is one. `delivered`
    covers older bodies; `run_id` is the run that fetched.
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


@dataclass(frozen=True, slots=True)
class _New:
    """The body of this fetch, its file (None: the disk accepts nothing), and what it is.

    `known`: it equals the newest waiting body, and has no file of its own.
    """

    fetched_at: datetime
    body: bytes
    spooled: SpooledBody | None
    known: bool
    report: FileReport
    kind: FeedKind


def take_snapshot(
    feed: Feed,
    connect: Callable[[], ObjectStore],
    layout: Layout,
    spool: Spool,
    *,
    correlation_id: str = "",
    cache: Cache = NO_CACHE,
) -> IngestResult:
    """Fetch the feed once and keep its answer, whatever else fails.

    The body is on the local disk before anything inspects it, so a process killed from then on, even by the inspection
    itself, loses nothing. Then `connect` opens the store, and everything that waits is delivered, oldest first. If the
    store, its credentials or its disk are unavailable, the body stays in the spool for a later call.

    `correlation_id` identifies the run: it is sent to the feed with the request, and kept in the object's metadata.

    Raises:
        ExternalError: the feed gave nothing, or neither the disk nor the store accepted the body. SpoolFullError,
        OSError: see above.
    """
    try:
        fetched = feed.fetch(correlation_id=correlation_id)
    except ExternalError:
        # Bodies that wait need not wait for the feed as well.
        with contextlib.suppress(ExternalError, OSError):
            if any(spool.waiting()):
                deliver_spool(connect(), layout, spool, cache)
        raise
    spool_error: Exception | None = None
    waiting = known = None
    suspects = False
    try:
        suspects = any(body.kind == "fetched" for body in spool.waiting())
        known = _waits_already(spool, fetched.body, fetched.kind)
        waiting = known or spool.add(
            "fetched", fetched.fetched_at, fetched.body, run_id=correlation_id, feed=fetched.kind
        )
    except (SpoolFullError, OSError) as error:
        spool_error = error
    if waiting is not None and (suspects or len(fetched.body) > APART_FROM_BYTES):
        # Suspects: a process died after an earlier fetch, perhaps while inspecting it; this body may be of that kind.
        report = inspect_apart(waiting.path, fetched.body, fetched.fetched_at, fetched.kind)
    else:
        report = inspect_here(fetched.body, fetched.fetched_at, fetched.kind)
    new = _New(fetched.fetched_at, fetched.body, waiting, known is not None, report, fetched.kind)
    result = _result_of(new, layout, correlation_id)
    if spool_error is not None:
        result = _store_without_spool(connect, layout, spool, new, result, spool_error, cache)
    else:
        result = _deliver_new(connect, layout, spool, new, result, cache)
    _log.info(
        "took snapshot",
        key=result.key,
        size_bytes=result.size_bytes,
        duplicate=result.duplicate,
        spooled=result.spooled,
        fault=result.fault.error_type if result.fault else None,
        drift=str(result.drift) if result.drift else None,
        delivered_from_spool=len(result.delivered.keys),
    )
    return result


def _waits_already(spool: Spool, body: bytes, kind: FeedKind) -> SpooledBody | None:
    """The newest waiting body, if it has these bytes: a frozen feed must not fill the disk while the store is down."""
    if not kind.reports_times:
        return None
    for last in [waiting for waiting in spool.waiting() if waiting.feed is kind][-1:]:
        with contextlib.suppress(FileNotFoundError, UnreadableBodyError):
            if last.path.lstat().st_size == len(body) and last.read() == body:
                return last
    return None


def _result_of(new: _New, layout: Layout, run_id: str) -> IngestResult:
    fault = new.report.fault
    return IngestResult(
        new.fetched_at,
        len(new.body),
        hashlib.sha256(new.body).hexdigest(),
        layout.quarantine_key(new.fetched_at, new.kind) if fault else layout.raw_key(new.fetched_at, new.kind),
        duplicate=new.known,
        fault=fault,
        drift=drift_of(new.report),
        counts=new.report.counts,
        run_id=run_id,
    )


def _deliver_new(
    connect: Callable[[], ObjectStore],
    layout: Layout,
    spool: Spool,
    new: _New,
    result: IngestResult,
    cache: Cache,
) -> IngestResult:
    assert new.spooled is not None  # noqa: S101 - the caller has seen to it
    delivery = _Delivery(layout, spool, new)
    try:
        delivery.deliver(CachedObjects(connect(), cache))
    except (ExternalError, OSError) as error:
        _remember_kind(spool, new)
        return replace(result, spooled=not result.duplicate, spool_reason=str(error), delivered=delivery.done)
    key, done = delivery.outcomes.get(new.spooled.fetched_at), delivery.done
    if key is None and os.path.lexists(new.spooled.path):
        _remember_kind(spool, new)
        reason = f"{done.still_waiting} snapshots are still waiting in the spool"
        return replace(result, spooled=not result.duplicate, spool_reason=reason, delivered=done)
    if result.duplicate or key == "":
        return replace(result, duplicate=True, delivered=done)
    # If another process delivered it, it has the intended key.
    older = replace(done, keys=tuple(other for other in done.keys if other != key))
    return replace(result, key=key or result.key, delivered=older)


def _remember_kind(spool: Spool, new: _New) -> None:
    if new.spooled is not None:
        with contextlib.suppress(OSError):  # it is inspected again on delivery
            _renamed(spool, new.spooled, new.report)


def _renamed(spool: Spool, body: SpooledBody, report: FileReport) -> SpooledBody:
    """The body, renamed to its kind; one that could not be inspected stays `fetched`."""
    if report.fault is not None and report.fault.error_type == UNINSPECTED:
        return body
    return spool.rename(body, "quarantine" if report.fault else "raw")


def _store_without_spool(
    connect: Callable[[], ObjectStore],
    layout: Layout,
    spool: Spool,
    new: _New,
    result: IngestResult,
    spool_error: Exception,
    cache: Cache,
) -> IngestResult:
    """The disk is full: deliver as many waiting bodies as possible, and store this one directly."""
    _log.warning("the spool accepts nothing, so the snapshot goes straight to the store", problem=str(spool_error))
    try:
        objects = CachedObjects(connect(), cache)
        delivery = _Delivery(layout, spool, None)
        delivery.deliver(objects)
        result = replace(result, delivered=delivery.done)
        fault = result.fault
        is_new = fault is not None or not new.kind.reports_times
        if not is_new and last_sha256(objects, layout, result.fetched_at, new.kind) == result.sha256:
            return replace(result, duplicate=True)
        kind: Kind = "quarantine" if fault else "raw"
        body = SpooledBody(Path(), kind, result.fetched_at, result.run_id, new.kind)
        key = _store(objects, layout, body, new.body, result.sha256)
        if fault is not None:
            _record_quarantined(objects.store, layout, key, body, new.body, new.report)
        return replace(result, key=key)
    except (ExternalError, OSError) as error:
        raise spool_error from error


def deliver_spool(store: ObjectStore, layout: Layout, spool: Spool, cache: Cache = NO_CACHE) -> Delivered:
    """Store waiting bodies, oldest first, each once; stops at the first failure of the store.

    A snapshot equal to the one before it is not stored. One that was stored before its process died is recognised by
    its SHA-256 and only removed from the spool. Files that are not bodies, or cannot be read, are set aside and
    reported.

    Raises:
        ExternalError: the store failed; what it did not accept is still in the spool.
    """
    delivery = _Delivery(layout, spool, None)
    delivery.deliver(CachedObjects(store, cache))
    return delivery.done


class _Delivery:
    """One delivery from the spool. `outcomes` holds the key of each body by its time; "" for a duplicate."""

    def __init__(self, layout: Layout, spool: Spool, new: _New | None) -> None:
        self.outcomes: dict[datetime, str] = {}
        self._layout = layout
        self._spool = spool
        self._new = new
        self._last_sha256: dict[str, str | None] = {}
        self._keys: list[str] = []
        self._duplicates: list[datetime] = []
        self._problems: list[str] = []
        self._waiting = 0
        self._apart = 0

    @property
    def done(self) -> Delivered:
        return Delivered(tuple(self._keys), tuple(self._duplicates), self._waiting, tuple(self._problems))

    def deliver(self, objects: CachedObjects) -> None:
        try:
            self._problems += [str(stranger) for stranger in self._spool.sort_out()]
            waiting = list(self._spool.waiting())
        except OSError as error:
            self._problems.append(f"{self._spool.folder} (it cannot be listed: {error.strerror})")
            waiting = []
        self._waiting = len(waiting)
        for body in waiting[:MAX_DELIVERIES_PER_RUN]:
            try:
                gone = self._deliver_one(objects, body)
            except FileNotFoundError:
                gone = True  # delivered by another process
            except UnreadableBodyError as error:
                aside = self._spool.set_aside(body.path, str(error))
                self._problems.append(str(aside))
                gone = aside.path != body.path
            self._waiting -= gone
        if self._problems:
            _log.warning("the spool holds files that cannot be delivered", problems=self._problems[:10])

    def _deliver_one(self, objects: CachedObjects, body: SpooledBody) -> bool:
        """Whether the body has left the spool."""
        new = self._new if self._new and self._new.spooled and body.path == self._new.spooled.path else None
        data = new.body if new else body.read()
        report: FileReport | None = None
        if new:
            report = new.report
        elif body.kind != "raw":
            body, report = self._inspect(body, data)
            if report is None:
                return False
            body = _renamed(self._spool, body, report)
        sha256 = hashlib.sha256(data).hexdigest()
        fault = report.fault if report else None
        kind: Kind = "quarantine" if fault else "raw"
        feed, last = body.feed, None
        if kind == "raw" and feed.reports_times:
            last = self._last_sha256.get(feed.name) or last_sha256(objects, self._layout, body.fetched_at, feed)
        if kind == "raw" and sha256 == last:
            self._duplicates.append(body.fetched_at)
            self.outcomes[body.fetched_at] = ""
        else:
            key = _store(objects, self._layout, replace(body, kind=kind), data, sha256)
            if report is not None and fault is not None:
                _record_quarantined(objects.store, self._layout, key, body, data, report)
                if fault.error_type == UNINSPECTED:
                    self._problems.append(f"{body.path.name} (now {key}: {fault.error_message})")
            self._keys.append(key)
            self.outcomes[body.fetched_at] = key
        if kind == "raw":
            self._last_sha256[feed.name] = sha256
        try:
            self._spool.remove(body)
        except OSError as error:
            self._problems.append(f"{body.path.name} (delivered, but it cannot be removed: {error.strerror})")
            return False
        return True

    def _inspect(self, body: SpooledBody, data: bytes) -> tuple[SpooledBody, FileReport | None]:
        """The report on a waiting body; None if its turn comes later."""
        if body.kind == "quarantine":
            # It was inspected before; until done, its name tells what killed a process that dies now.
            marked = self._spool.rename(body, "fetched")
            if len(data) > APART_FROM_BYTES:
                return marked, inspect_apart(marked.path, data, body.fetched_at, body.feed)
            return marked, inspect_here(data, body.fetched_at, body.feed)
        if self._apart >= MAX_APART_PER_RUN:
            return body, None
        self._apart += 1
        try:
            return body, inspect_apart(body.path, data, body.fetched_at, body.feed)
        except OSError as error:
            self._problems.append(f"{body.path.name} (no process could be started to inspect it: {error.strerror})")
            return body, None


def _store(objects: CachedObjects, layout: Layout, waiting: SpooledBody, body: bytes, sha256: str) -> str:
    """Store a body under its second, or the next free one if another body has it; returns the key."""
    store = objects.store
    metadata = {"sha256": sha256} | ({RUN_ID: waiting.run_id} if waiting.run_id else {})
    for seconds in range(60):
        at = waiting.fetched_at + timedelta(seconds=seconds)
        is_raw = waiting.kind == "raw"
        key = layout.raw_key(at, waiting.feed) if is_raw else layout.quarantine_key(at, waiting.feed)
        if objects.put_if_absent(key, body, metadata=metadata) or _sha256_of(store, key) == sha256:
            if is_raw:
                objects.stored(key, body, sha256)
            return key
    raise TransientError(
        "other bodies have all 60 seconds from this one on",
        store.name,
        "put",
        layout.raw_key(waiting.fetched_at, waiting.feed),
        "Is more than one fetcher running? Stop all but one",
    )


def _record_quarantined(
    store: ObjectStore, layout: Layout, key: str, waiting: SpooledBody, body: bytes, found: FileReport
) -> None:
    drift = drift_of(found)
    if drift is None:
        lines = line_count(body) if waiting.feed.translate is None else found.counts.lines_in
        counts = LineCounts(lines_in=lines, dead_lettered=lines)
        dead_counts = {found.fault.error_type: lines} if found.fault else {}
        report = FileReport(key, counts, dead_counts=dead_counts, fault=found.fault)
    else:
        # The whole body is kept, so a few of its rows are enough to see what is wrong.
        kept = [row for row in found.dead_rows if (row.field, row.error_type) == (drift.field, drift.error_type)]
        report = replace(found, source_key=key, dead_rows=tuple(kept[:DRIFT_ROWS_KEPT]))
    DeadLetterQueue(store, layout).record(
        [report],
        asset_name=asset_names.RAW,
        # Not the date of the fetch: the next free second may be tomorrow's.
        partition_date=folder_date(key.rpartition("/")[0]) or local_date(waiting.fetched_at),
        seen_at=waiting.fetched_at,
    )


def last_sha256(objects: CachedObjects, layout: Layout, now: datetime, kind: FeedKind = UCL) -> str | None:
    """Hash of the newest snapshot of a feed before `now`, for one listing (around midnight two) and at most a HEAD."""
    start = now - DUPLICATE_LOOK_BACK
    newest: ObjectInfo | None = None
    for dt in sorted({local_date(start), local_date(now)}):
        for info in fetched_since(objects.store, layout, layout.raw_folder(dt), start, [kind]):
            parsed = layout.parse_raw_key(info.key)
            if parsed is not None and parsed.file_timestamp is not None and parsed.file_timestamp <= now:
                newest = info
    return objects.sha256(newest) if newest else None


def _sha256_of(store: ObjectStore, key: str) -> str | None:
    info = store.stat(key)
    if info is None:
        return None
    return info.metadata.get("sha256") or hashlib.sha256(store.get(key)).hexdigest()

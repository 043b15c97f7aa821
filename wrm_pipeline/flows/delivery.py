"""Spool -> raw/ or quarantine/: waiting bodies are stored once each, oldest first."""

import hashlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from wrm_pipeline.clients.cache import Cache
from wrm_pipeline.clients.errors import TransientError
from wrm_pipeline.clients.feed_memory import FeedMemory
from wrm_pipeline.domain import asset_names
from wrm_pipeline.domain.drift import drift_of
from wrm_pipeline.domain.feeds import UCL, FeedKind
from wrm_pipeline.domain.feeds.fetching import STORED_AGAIN_AFTER
from wrm_pipeline.domain.feeds.gbfs_zip import content_of, without_repeats
from wrm_pipeline.domain.layout import Layout, folder_date, local_date
from wrm_pipeline.domain.snapshot import FileReport, LineCounts
from wrm_pipeline.flows.inspection import APART_FROM_BYTES, UNINSPECTED, inspect_apart, inspect_here, line_count
from wrm_pipeline.lake.cached_objects import CachedObjects
from wrm_pipeline.lake.dead_letter_queue import DeadLetterQueue
from wrm_pipeline.lake.object_store import RUN_ID, ObjectInfo, ObjectStore
from wrm_pipeline.lake.raw_objects import fetched_since
from wrm_pipeline.lake.spool import Kind, Spool, SpooledBody, UnreadableBodyError
from wrm_pipeline.logs import get_logger

_log = get_logger(__name__)

# How far back to look for the last stored snapshot.
DUPLICATE_LOOK_BACK = STORED_AGAIN_AFTER

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
class NewBody:
    """A body that this run fetched, its file (None: the disk accepts nothing), and what it is.

    `known`: it equals the newest waiting body, and has no file of its own.
    """

    fetched_at: datetime
    body: bytes
    spooled: SpooledBody | None
    known: bool
    report: FileReport
    kind: FeedKind


class Connection:
    """A run's object store: opened when it is first needed, and not tried again after a failure."""

    def __init__(self, connect: Callable[[], ObjectStore], cache: Cache) -> None:
        self._connect = connect
        self._cache = cache
        self._objects: CachedObjects | None = None
        self._failure: Exception | None = None

    def objects(self) -> CachedObjects:
        """The opened store.

        Raises:
            ExternalError, OSError: it cannot be opened, or has failed before.
        """
        if self._failure is not None:
            raise self._failure
        if self._objects is None:
            self._objects = CachedObjects(self._connect(), self._cache)
        return self._objects

    def failed(self, error: Exception) -> None:
        """Spare the other bodies of this run the retries of a store that is down."""
        self._failure = error


class Delivery:
    """Delivers the bodies in the spool, for one run; `deliver` may be called several times.

    Attributes:
        connection: The object store.
        memories: What is remembered of the feeds, by the names of their kinds; may lack some.
        spool: The spool.
        lock: To be held while bodies are added to the spool in other threads.
        fresh: Bodies that this run has added, and that are inspected by it before anything else is done with them.
        outcomes: The key of each delivered body by its time; "" for a duplicate.
        done: The result of the latest call, even one that raised.
    """

    def __init__(
        self, connection: Connection, layout: Layout, spool: Spool, memories: Mapping[str, FeedMemory]
    ) -> None:
        self.connection = connection
        self.memories = memories
        self.spool = spool
        self.lock = threading.Lock()
        self.fresh: set[Path] = set()
        self.outcomes: dict[datetime, str] = {}
        self._layout = layout
        self._last_sha256: dict[str, str | None] = {}
        self._left = MAX_DELIVERIES_PER_RUN
        self._apart = 0
        self._begin(None)

    def _begin(self, new: NewBody | None) -> None:
        self._new = new
        self._keys: list[str] = []
        self._duplicates: list[datetime] = []
        self._problems: list[str] = []
        self._waiting = 0

    @property
    def done(self) -> Delivered:
        """See above."""
        return Delivered(tuple(self._keys), tuple(self._duplicates), self._waiting, tuple(self._problems))

    def deliver(self, new: NewBody | None = None) -> None:
        """Store waiting bodies, oldest first, each once, and with them `new`; stops at the first failure of the store.

        A snapshot equal to the one before it is not stored. One that was stored before its process died is recognised
        by its SHA-256 and only removed from the spool. Files that are not bodies, or cannot be read, are set aside and
        reported.

        Raises:
            ExternalError, OSError: the store failed; what it did not accept is still in the spool.
        """
        self._begin(new)
        if new and new.spooled:
            self.fresh.discard(new.spooled.path)
        objects = self.connection.objects()
        try:
            with self.lock:
                self._problems += [str(stranger) for stranger in self.spool.sort_out()]
                waiting = [body for body in self.spool.waiting() if body.path not in self.fresh]
        except OSError as error:
            self._problems.append(f"{self.spool.folder} (it cannot be listed: {error.strerror})")
            waiting = []
        self._waiting = len(waiting)
        for body in waiting[: self._left]:
            self._left -= 1
            try:
                gone = self._deliver_one(objects, body)
            except FileNotFoundError:
                gone = True  # delivered by another process
            except UnreadableBodyError as error:
                aside = self.spool.set_aside(body.path, str(error))
                self._problems.append(str(aside))
                gone = aside.path != body.path
            self._waiting -= gone
        if self._problems:
            _log.warning("the spool holds files that cannot be delivered", problems=self._problems[:10])

    def _deliver_one(self, objects: CachedObjects, body: SpooledBody) -> bool:
        """Whether the body has left the spool."""
        new = self._new if self._new and self._new.spooled and body.path == self._new.spooled.path else None
        data = new.body if new and not new.known else body.read()
        report: FileReport | None = None
        if new:
            report = new.report
        elif body.kind != "raw":
            body, report = self._inspect(body, data)
            if report is None:
                return False
            body = renamed(self.spool, body, report)
        sha256 = hashlib.sha256(data).hexdigest()
        fault = report.fault if report else None
        kind: Kind = "quarantine" if fault else "raw"
        feed, last = body.feed, None
        memory = self.memories.get(feed.name) if kind == "raw" and feed.of_files else None
        if memory is not None:
            # Its zips differ even if the files do not: they contain the times of the fetches.
            state = memory.read()
            sha256 = content_of(data)
            last = state.content if state.is_recent(body.fetched_at) else None
        elif kind == "raw" and feed.reports_times and not feed.of_files:
            last = self._last_sha256.get(feed.name) or last_sha256(objects, self._layout, body.fetched_at, feed)
        if kind == "raw" and sha256 == last:
            self._duplicates.append(body.fetched_at)
            self.outcomes[body.fetched_at] = ""
        else:
            key = store_body(objects, self._layout, replace(body, kind=kind), data, memory)
            if report is not None and fault is not None:
                record_quarantined(objects.store, self._layout, key, body, data, report)
                if fault.error_type == UNINSPECTED:
                    self._problems.append(f"{body.path.name} (now {key}: {fault.error_message})")
            self._keys.append(key)
            self.outcomes[body.fetched_at] = key
        if kind == "raw":
            self._last_sha256[feed.name] = sha256
        try:
            self.spool.remove(body)
        except OSError as error:
            self._problems.append(f"{body.path.name} (delivered, but it cannot be removed: {error.strerror})")
            return False
        return True

    def _inspect(self, body: SpooledBody, data: bytes) -> tuple[SpooledBody, FileReport | None]:
        """The report on a waiting body; None if its turn comes later."""
        if body.kind == "quarantine":
            # It was inspected before; until done, its name tells what killed a process that dies now.
            marked = self.spool.rename(body, "fetched")
            if len(data) > APART_FROM_BYTES:
                return marked, inspect_apart(data, body.fetched_at, body.feed)
            return marked, inspect_here(data, body.fetched_at, body.feed)
        if self._apart >= MAX_APART_PER_RUN:
            return body, None
        self._apart += 1
        try:
            return body, inspect_apart(data, body.fetched_at, body.feed)
        except OSError as error:
            self._problems.append(f"{body.path.name} (no process could be started to inspect it: {error.strerror})")
            return body, None


def renamed(spool: Spool, body: SpooledBody, report: FileReport) -> SpooledBody:
    """The body, renamed to its kind; one that could not be inspected stays `fetched`."""
    if report.fault is not None and report.fault.error_type == UNINSPECTED:
        return body
    return spool.rename(body, "quarantine" if report.fault else "raw")


def store_body(
    objects: CachedObjects, layout: Layout, waiting: SpooledBody, body: bytes, memory: FeedMemory | None = None
) -> str:
    """Store a body under its second, or the next free one if another body has it; returns the key.

    With the `memory` of a feed of several files, those that are in an earlier object of the day are not repeated.
    """
    store, whole = objects.store, body
    homes = memory.read().homes if memory else {}
    for seconds in range(60):
        at = waiting.fetched_at + timedelta(seconds=seconds)
        is_raw = waiting.kind == "raw"
        key = layout.raw_key(at, waiting.feed) if is_raw else layout.quarantine_key(at, waiting.feed)
        found: dict[str, tuple[str, str]] = {}
        if memory is not None:
            body, found = without_repeats(whole, homes, key)
        sha256 = hashlib.sha256(body).hexdigest()
        metadata = {"sha256": sha256} | ({RUN_ID: waiting.run_id} if waiting.run_id else {})
        if objects.put_if_absent(key, body, metadata=metadata) or _sha256_of(store, key) == sha256:
            if is_raw:
                objects.stored(key, body, sha256)
            if memory is not None:
                memory.update(kept_at=waiting.fetched_at, content=content_of(whole), homes=found)
            return key
    raise TransientError(
        "other bodies have all 60 seconds from this one on",
        store.name,
        "put",
        layout.raw_key(waiting.fetched_at, waiting.feed),
        "Is more than one fetcher running? Stop all but one",
    )


def record_quarantined(
    store: ObjectStore, layout: Layout, key: str, waiting: SpooledBody, body: bytes, found: FileReport
) -> None:
    """Write the dead letter of a body in quarantine."""
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

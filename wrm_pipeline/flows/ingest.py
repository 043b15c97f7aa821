"""Feeds -> raw/: fetch their snapshots, inspect them, and store each once, or keep it on the local disk until then."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Protocol

from wrm_pipeline.clients.cache import NO_CACHE, Cache
from wrm_pipeline.clients.daemon_threads import LOOK_S, DaemonThreads
from wrm_pipeline.clients.errors import ExternalError
from wrm_pipeline.clients.feed import FetchedBody
from wrm_pipeline.clients.feed_memory import FeedMemory, NotDueError
from wrm_pipeline.domain.drift import Drift, drift_of
from wrm_pipeline.domain.feeds import UCL, FeedKind
from wrm_pipeline.domain.feeds.gbfs_zip import content_of
from wrm_pipeline.domain.layout import Layout
from wrm_pipeline.domain.snapshot import FileFault, LineCounts
from wrm_pipeline.flows.delivery import (
    Connection,
    Delivered,
    Delivery,
    NewBody,
    last_sha256,
    record_quarantined,
    renamed,
    store_body,
)
from wrm_pipeline.flows.inspection import APART_FROM_BYTES, inspect_apart, inspect_here
from wrm_pipeline.lake.object_store import ObjectStore
from wrm_pipeline.lake.spool import Kind, Spool, SpooledBody, SpoolFullError, UnreadableBodyError
from wrm_pipeline.logs import get_logger

_log = get_logger(__name__)


class AnyFeed(Protocol):
    """What is fetched from: `clients.feed.Feed`."""

    @property
    def kind(self) -> FeedKind:
        """What its answers are."""

    @property
    def memory(self) -> FeedMemory | None:
        """What is remembered of it between runs."""

    def fetch(self, *, correlation_id: str = "") -> FetchedBody:
        """Its current state."""


@dataclass(frozen=True, slots=True)
class IngestResult:
    """The result of one fetch.

    Stored under `key`, unless it is a `duplicate` (same bytes as the snapshot before; nothing stored; with
    `not_modified` the server said so, and the body is not known) or `spooled`
    (waiting on the disk, because of `spool_reason`). With a `fault` it is not a snapshot: it is in quarantine or, if
    `spooled`, on its way there. `drift` is the cause of at least a fifth of its dead rows, if there is one. `delivered`
    covers older bodies; `size_bytes` and `sha256` are those of the body as fetched; `run_id` is the run that fetched,
    `kind` the feed.
    """

    fetched_at: datetime
    size_bytes: int
    sha256: str
    key: str
    duplicate: bool = False
    not_modified: bool = False
    spooled: bool = False
    spool_reason: str = ""
    fault: FileFault | None = None
    drift: Drift | None = None
    counts: LineCounts = field(default_factory=LineCounts)
    delivered: Delivered = field(default_factory=Delivered)
    run_id: str = ""
    kind: FeedKind = UCL


@dataclass(frozen=True, slots=True)
class Minute:
    """The result of fetching all feeds at once.

    Attributes:
        results: Of the feeds whose answers are kept, in the order of trust.
        failures: Why there is none of others, by the name of their kind.
        not_due: Those that were not asked, as their last answer is up to date by their own account.
    """

    results: tuple[IngestResult, ...]
    failures: Mapping[str, Exception]
    not_due: Mapping[str, NotDueError] = field(default_factory=dict)

    @property
    def snapshots(self) -> tuple[IngestResult, ...]:
        """The results that are snapshots."""
        return tuple(result for result in self.results if result.fault is None)


def take_snapshot(
    feed: AnyFeed,
    connect: Callable[[], ObjectStore],
    layout: Layout,
    spool: Spool,
    *,
    correlation_id: str = "",
    cache: Cache = NO_CACHE,
) -> IngestResult:
    """Like `take_snapshots`, of one feed.

    Raises:
        ExternalError: the feed gave nothing, or neither the disk nor the store accepted the body. SpoolFullError,
        OSError: see above.
    """
    minute = take_snapshots([feed], connect, layout, spool, correlation_id=correlation_id, cache=cache)
    for error in (*minute.failures.values(), *minute.not_due.values()):
        raise error
    return minute.results[0]


def take_snapshots(
    feeds: Sequence[AnyFeed],
    connect: Callable[[], ObjectStore],
    layout: Layout,
    spool: Spool,
    *,
    correlation_id: str = "",
    cache: Cache = NO_CACHE,
) -> Minute:
    """Fetch each feed once, side by side, and keep the answers, whatever else fails.

    A body is on the local disk before anything inspects it, so a process killed from then on, even by the inspection
    itself, loses nothing. Then `connect` opens the store, and everything that waits is delivered, oldest first. If the
    store, its credentials or its disk are unavailable, the body stays in the spool for a later call. A body is
    delivered as soon as it is there: a slow feed holds up no other.

    `correlation_id` identifies the run: it is sent to the feeds with the requests, and kept in the objects' metadata.
    """
    memories = {feed.kind.name: feed.memory for feed in feeds if feed.memory is not None}
    run = _Run(Delivery(Connection(connect, cache), layout, spool, memories), layout, correlation_id)
    results: dict[str, IngestResult] = {}
    failures: dict[str, Exception] = {}
    not_due: dict[str, NotDueError] = {}
    for kind, arrived in run.arrivals(feeds):
        if isinstance(arrived, NotDueError):
            not_due[kind.name] = arrived
            continue
        if isinstance(arrived, Exception):
            failures[kind.name] = arrived
            continue
        try:
            results[kind.name] = run.keep(arrived)
        except (ExternalError, OSError, SpoolFullError) as error:
            failures[kind.name] = error
    if not results:
        # Bodies that wait need not wait for the feeds as well.
        with contextlib.suppress(ExternalError, OSError):
            if any(spool.waiting()):
                run.delivery.deliver()
    names = [feed.kind.name for feed in feeds]
    return Minute(
        tuple(results[name] for name in names if name in results),
        {name: failures[name] for name in names if name in failures},
        {name: not_due[name] for name in names if name in not_due},
    )


@dataclass(frozen=True, slots=True)
class _Arrived:
    """A fetched body; `spooled` is its file, or that of the newest waiting body, which it equals (`known`)."""

    fetched: FetchedBody
    spooled: SpooledBody | None = None
    known: bool = False
    spool_error: Exception | None = None


class _Run:
    """One call of `take_snapshots`."""

    def __init__(self, delivery: Delivery, layout: Layout, run_id: str) -> None:
        self.delivery = delivery
        self._connection = delivery.connection
        self._layout = layout
        self._spool = delivery.spool
        self._run_id = run_id
        self._suspects = False

    def arrivals(self, feeds: Sequence[AnyFeed]) -> Iterator[tuple[FeedKind, _Arrived | Exception]]:
        """What each feed answers, in the order in which it arrives; a body is on the disk by then."""
        with contextlib.suppress(OSError):
            # A process died after an earlier fetch, perhaps while inspecting it; today's bodies may be of that kind.
            self._suspects = any(body.kind == "fetched" for body in self._spool.waiting())
        if len(feeds) == 1:
            try:
                arrived: _Arrived | Exception = self._fetch(feeds[0])
            except (ExternalError, NotDueError) as error:
                arrived = error
            yield feeds[0].kind, arrived
            return
        with DaemonThreads(len(feeds), "feed") as threads:
            pending: dict[Future[_Arrived], FeedKind] = {threads.submit(self._fetch, f): f.kind for f in feeds}
            while pending:
                for future in wait(pending, LOOK_S, FIRST_COMPLETED).done:
                    try:
                        answer: _Arrived | Exception = future.result()
                    except Exception as error:  # noqa: BLE001 - whatever one feed does, the others are fetched
                        answer = error
                    yield pending.pop(future), answer

    def _fetch(self, feed: AnyFeed) -> _Arrived:
        fetched = feed.fetch(correlation_id=self._run_id)
        if fetched.unchanged:
            return _Arrived(fetched)
        with self.delivery.lock:
            try:
                if known := _waits_already(self._spool, fetched.body, fetched.kind):
                    return _Arrived(fetched, known, known=True)
                body = self._spool.add(
                    "fetched", fetched.fetched_at, fetched.body, run_id=self._run_id, feed=fetched.kind
                )
            except (SpoolFullError, OSError) as error:
                return _Arrived(fetched, spool_error=error)
            self.delivery.fresh.add(body.path)
            return _Arrived(fetched, body)

    def keep(self, arrived: _Arrived) -> IngestResult:
        """Inspect a body, and deliver it with everything that waits.

        Raises:
            SpoolFullError, OSError: neither the disk nor the store accepts it.
        """
        fetched, waiting = arrived.fetched, arrived.spooled
        if fetched.unchanged:
            return self._unchanged(fetched)
        if waiting is not None and (self._suspects or len(fetched.body) > APART_FROM_BYTES):
            report = inspect_apart(fetched.body, fetched.fetched_at, fetched.kind)
        else:
            report = inspect_here(fetched.body, fetched.fetched_at, fetched.kind)
        new = NewBody(fetched.fetched_at, fetched.body, waiting, arrived.known, report, fetched.kind)
        result = _result_of(new, self._layout, self._run_id)
        if arrived.spool_error is not None:
            result = self._store_without_spool(new, result, arrived.spool_error)
        else:
            result = self._deliver(new, result)
        if result.fault is None:
            fetched.remember(result.duplicate)
        _log.info(
            "took snapshot",
            feed=result.kind.name,
            key=result.key,
            size_bytes=result.size_bytes,
            duplicate=result.duplicate,
            spooled=result.spooled,
            fault=result.fault.error_type if result.fault else None,
            drift=str(result.drift) if result.drift else None,
            delivered_from_spool=len(result.delivered.keys),
        )
        return result

    def _unchanged(self, fetched: FetchedBody) -> IngestResult:
        """The server says that the feed is as it was when it was last stored."""
        key = self._layout.raw_key(fetched.fetched_at, fetched.kind)
        result = IngestResult(
            fetched.fetched_at, 0, "", key, duplicate=True, not_modified=True, run_id=self._run_id, kind=fetched.kind
        )
        fetched.remember(True)
        _log.info("the feed has not changed", feed=fetched.kind.name)
        try:
            if any(self._spool.waiting()):
                self.delivery.deliver()
                result = replace(result, delivered=self.delivery.done)
        except (ExternalError, OSError) as error:
            self._connection.failed(error)
            result = replace(result, spool_reason=str(error), delivered=self.delivery.done)
        return result

    def _deliver(self, new: NewBody, result: IngestResult) -> IngestResult:
        assert new.spooled is not None  # noqa: S101 - the caller has seen to it
        delivery = self.delivery
        try:
            delivery.deliver(new)
        except (ExternalError, OSError) as error:
            self._connection.failed(error)
            self._remember_kind(new)
            return replace(result, spooled=not result.duplicate, spool_reason=str(error), delivered=delivery.done)
        key, done = delivery.outcomes.get(new.spooled.fetched_at), delivery.done
        if key is None and os.path.lexists(new.spooled.path):
            self._remember_kind(new)
            reason = f"{done.still_waiting} snapshots are still waiting in the spool"
            return replace(result, spooled=not result.duplicate, spool_reason=reason, delivered=done)
        if result.duplicate or key == "":
            return replace(result, duplicate=True, delivered=done)
        # If another process delivered it, it has the intended key.
        older = replace(done, keys=tuple(other for other in done.keys if other != key))
        return replace(result, key=key or result.key, delivered=older)

    def _remember_kind(self, new: NewBody) -> None:
        if new.spooled is not None:
            with contextlib.suppress(OSError):  # it is inspected again on delivery
                renamed(self._spool, new.spooled, new.report)

    def _store_without_spool(self, new: NewBody, result: IngestResult, spool_error: Exception) -> IngestResult:
        """The disk is full: deliver as many waiting bodies as possible, and store this one directly."""
        problem = str(spool_error)
        _log.warning("the spool accepts nothing, so the snapshot goes straight to the store", problem=problem)
        layout = self._layout
        try:
            self.delivery.deliver()
            objects = self._connection.objects()
            result = replace(result, delivered=self.delivery.done)
            fault = result.fault
            is_new = fault is not None or not new.kind.reports_times or new.kind.of_files
            if not is_new and last_sha256(objects, layout, result.fetched_at, new.kind) == result.sha256:
                return replace(result, duplicate=True)
            kind: Kind = "quarantine" if fault else "raw"
            body = SpooledBody(Path(), kind, result.fetched_at, result.run_id, new.kind)
            memory = self.delivery.memories.get(new.kind.name) if kind == "raw" and new.kind.of_files else None
            key = store_body(objects, layout, body, new.body, memory)
            if fault is not None:
                record_quarantined(objects.store, layout, key, body, new.body, new.report)
            return replace(result, key=key)
        except (ExternalError, OSError) as error:
            self._connection.failed(error)
            raise spool_error from error


def _waits_already(spool: Spool, body: bytes, kind: FeedKind) -> SpooledBody | None:
    """The newest waiting body, if it has these bytes: a frozen feed must not fill the disk while the store is down."""
    if not kind.reports_times:
        return None
    for last in [waiting for waiting in spool.waiting() if waiting.feed is kind][-1:]:
        with contextlib.suppress(FileNotFoundError, UnreadableBodyError):
            if kind.of_files:
                content = content_of(body)
                return last if content and content_of(last.read()) == content else None
            if last.path.lstat().st_size == len(body) and last.read() == body:
                return last
    return None


def _result_of(new: NewBody, layout: Layout, run_id: str) -> IngestResult:
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
        kind=new.kind,
    )

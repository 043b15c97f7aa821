"""Metrics from the object store: the newest snapshot, the city in it, and the dead letters."""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
from prometheus_client.metrics_core import Metric

from wrm_pipeline.domain import full_and_empty
from wrm_pipeline.domain.dead_letters import MAX_READ_BYTES, PARKED, PENDING, STATUSES, UNREADABLE
from wrm_pipeline.domain.enhanced_build import enhance_rows
from wrm_pipeline.domain.layout import Layout, RawKey, folder_dates, local_date
from wrm_pipeline.domain.rules import ServiceArea
from wrm_pipeline.domain.schemas import FLAGS
from wrm_pipeline.domain.snapshot import RawSnapshot, parse_snapshots
from wrm_pipeline.domain.snapshot_time import MAX_AHEAD, span_of
from wrm_pipeline.exporter.connection import Connection
from wrm_pipeline.exporter.families import gauge, single
from wrm_pipeline.exporter.state_file import StateFile
from wrm_pipeline.lake.dead_letter_queue import DeadLetterQueue, UnreadableLetter, read_letter
from wrm_pipeline.lake.object_store import ObjectInfo, ObjectStore
from wrm_pipeline.lake.raw_objects import IncompleteSnapshotError, fetched_since, whole_body
from wrm_pipeline.lake.spool import Spool


@dataclass(frozen=True, slots=True)
class City:
    """The city in one snapshot. Places: in a station or free-standing inside the service area, or outside it."""

    taken_at: float
    bikes: Mapping[str, int]
    stations: Mapping[str, int]
    free_docks: int
    pedelecs: int
    flagged: Mapping[str, int]


class SnapshotSource:
    """The newest snapshot, in the store or in the spool; its time outlives restarts of this process."""

    name = "snapshots"

    def __init__(
        self,
        connect: Callable[[], ObjectStore],
        layout: Layout,
        spool: Spool,
        area: ServiceArea,
        state: StateFile,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._connection = Connection(connect)
        self._layout = layout
        self._spool = spool
        self._area = area
        self._state = state
        self._clock = clock
        self._looked = False
        self._city: City | None = None
        self._city_key = ""
        self._stored: RawKey | None = None
        content = state.load()
        self._newest: float | None = content["newest"] if content else None

    def collect(self) -> None:
        """One listing of folders, one of the newest day's end, and the newest snapshot if it is new."""
        now = datetime.fromtimestamp(self._clock(), UTC)
        # A name from the future is wrong; it must not hide that snapshots have stopped.
        believable = now + MAX_AHEAD
        if self._newest is not None and self._newest > believable.timestamp():
            self._newest = None  # the clock was ahead then
        waiting = (body.fetched_at for body in self._spool.waiting() if body.kind == "raw")
        self._advance(max((at for at in waiting if at <= believable), default=None))
        with self._connection.use() as store:
            self._stored = self._newest_stored(store, now)
            if self._stored is not None:
                self._advance(self._stored.file_timestamp)
                if self._stored.key != self._city_key:
                    with contextlib.suppress(IncompleteSnapshotError):  # the run of its day reports it
                        body = whole_body(self._stored.key, store.get(self._stored.key), store.get)
                        self._look_at_city(body, self._stored)
        self._looked = True

    def _advance(self, at: datetime | None) -> None:
        if at is not None and at.timestamp() > (self._newest or 0):
            self._state.save({"newest": at.timestamp()})
            self._newest = at.timestamp()

    def _newest_stored(self, store: ObjectStore, now: datetime) -> RawKey | None:
        latest = local_date(now + MAX_AHEAD)
        days = folder_dates(store.list_folders(self._layout.raw_prefix))
        for dt in reversed([dt for dt in days if dt <= latest]):
            known = self._stored if self._stored and self._stored.dt == dt else None
            if known and known.file_timestamp and known.file_timestamp > now + MAX_AHEAD:
                known = None
            earliest, _ = span_of(dt)
            found = [known] if known else []
            folder, since = self._layout.raw_folder(dt), known.file_timestamp if known else None
            # Without a time to begin from, one listing has the objects of all feeds.
            objects = (
                fetched_since(store, self._layout, folder, since, self._layout.kinds) if since else store.list(folder)
            )
            for info in objects:
                parsed = self._layout.parse_raw_key(info.key)
                if parsed is not None:
                    at = parsed.file_timestamp or info.last_modified
                    if earliest <= at <= now + MAX_AHEAD:
                        found.append(RawKey(parsed.key, parsed.dt, at))
            if found:
                return max(found, key=lambda raw: raw.file_timestamp or now)
        return None

    def _look_at_city(self, body: bytes, raw: RawKey) -> None:
        at = raw.file_timestamp or datetime.fromtimestamp(self._clock(), UTC)
        rows = parse_snapshots([RawSnapshot(raw.key, at, body)]).rows
        if rows.num_rows:
            self._city = city_of(enhance_rows(rows, area=self._area, dt=raw.dt, processed_at={}), at.timestamp())
        self._city_key = raw.key

    def families(self, now: float) -> Sequence[Metric]:  # noqa: ARG002
        """The time, and the city."""
        found = []
        if self._newest is not None or self._looked:
            text = "When the newest snapshot was taken (Unix time; 0: there is none), stored or waiting in the spool"
            found.append(single("wrm_last_snapshot_timestamp_seconds", text, self._newest or 0.0))
        city = self._city
        if city is not None:
            found += [
                single("wrm_city_snapshot_timestamp_seconds", "Which snapshot wrm_city_* describe", city.taken_at),
                gauge("wrm_city_bikes", "Bikes, by where they are", "place", city.bikes),
                gauge("wrm_city_stations", "Stations in the service area", "state", city.stations),
                single("wrm_city_free_docks", "Free docks of stations in the service area", city.free_docks),
                single("wrm_city_pedelecs", "E-bikes at stations in the service area", city.pedelecs),
                gauge("wrm_city_flagged_rows", "Rows with a flag", "flag", city.flagged),
            ]
        return found


def city_of(rows: pa.Table, taken_at: float) -> City:
    """Sum up the enhanced rows of one snapshot."""
    bikes = rows["bikes"].to_numpy()
    # Unknown ones count for nothing.
    spaces, pedelecs = (np.nan_to_num(rows[name].to_numpy()).astype(np.int64) for name in ("spaces", "pedelecs"))
    inside = ~rows["outside_service_area"].to_numpy()
    at_station = np.array([kind == "station" for kind in rows["record_type"].to_pylist()], dtype=bool)
    stations = inside & at_station
    empty = stations & full_and_empty.empty(rows)
    full = stations & full_and_empty.full(rows)
    return City(
        taken_at,
        bikes={
            "station": int(bikes[stations].sum()),
            "free_standing": int(bikes[inside & ~at_station].sum()),
            "outside_service_area": int(bikes[~inside].sum()),
        },
        stations={
            "empty": int(empty.sum()),
            "full": int(full.sum()),
            "bikes_and_docks": int((stations & ~empty & ~full).sum()),
        },
        free_docks=int(spaces[stations].sum()),
        pedelecs=int(pedelecs[stations].sum()),
        flagged={flag: int(rows[flag].to_numpy().sum()) for flag in FLAGS},
    )


@dataclass(frozen=True, slots=True)
class _Entry:
    etag: str
    status: str
    first_seen: float


class DeadLetterSource:
    """Entries of the dead-letter queue; each is read again only after it changed."""

    name = "dead_letters"

    def __init__(self, connect: Callable[[], ObjectStore], layout: Layout) -> None:
        self._connection = Connection(connect)
        self._layout = layout
        self._entries: dict[str, _Entry] | None = None

    def collect(self) -> None:
        """One listing, and the new or changed entries."""
        with self._connection.use() as store:
            self._entries = self._read(store)

    def _read(self, store: ObjectStore) -> dict[str, _Entry]:
        known = self._entries or {}
        listed = {info.key: info for info in store.list(self._layout.dead_letter_prefix) if info.key.endswith(".json")}
        kept = {key: entry for key, entry in known.items() if key in listed and listed[key].etag == entry.etag}
        new = [info for key, info in listed.items() if key not in kept]
        large = {info.key: _unreadable(info) for info in new if info.size_bytes > MAX_READ_BYTES}
        small = [info for info in new if info.key not in large]
        queue = DeadLetterQueue(store, self._layout)
        fresh = {info.key: _entry(self._layout, info, body) for info, body in queue.contents(small)}
        return kept | large | fresh

    def families(self, now: float) -> Sequence[Metric]:
        """By status; `unreadable` are objects that are not dead letters."""
        if self._entries is None:
            return []
        entries = list(self._entries.values())
        counts = {status: sum(entry.status == status for entry in entries) for status in (*STATUSES, UNREADABLE)}
        oldest = {
            status: max((now - entry.first_seen for entry in entries if entry.status == status), default=0.0)
            for status in (PENDING, PARKED, UNREADABLE)
        }
        return [
            gauge("wrm_dlq_entries", "Dead letters", "status", counts),
            gauge("wrm_dlq_oldest_age_seconds", "Age of the oldest waiting entry; 0 if none", "status", oldest),
        ]


def _entry(layout: Layout, info: ObjectInfo, body: bytes | UnreadableLetter) -> _Entry:
    letter = body if isinstance(body, UnreadableLetter) else read_letter(layout, info, body)
    if isinstance(letter, UnreadableLetter):
        return _unreadable(info)
    return _Entry(info.etag, letter.status, letter.timestamp.timestamp())


def _unreadable(info: ObjectInfo) -> _Entry:
    return _Entry(info.etag, UNREADABLE, info.last_modified.timestamp())

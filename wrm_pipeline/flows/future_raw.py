"""Raw objects dated in the future, as a clock that was ahead leaves them, and how they are moved to their true time."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from pathlib import PurePosixPath

from wrm_pipeline.domain.feeds import UCL, kind_of
from wrm_pipeline.domain.layout import Layout, folder_date, local_date
from wrm_pipeline.domain.manifest import RawObject
from wrm_pipeline.domain.snapshot_time import MAX_AHEAD, reported_times
from wrm_pipeline.flows.progress import Begin, unobserved
from wrm_pipeline.flows.raw_inputs import published_manifest
from wrm_pipeline.lake.object_store import ObjectInfo, ObjectStore
from wrm_pipeline.lake.published_partitions import PublishedPartitions
from wrm_pipeline.lake.raw_objects import IncompleteSnapshotError, fetched_since, whole_body

# The second of two snapshots of the same second gets a later one.
_LATEST_SECOND = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Move:
    """What was done with a raw object from the future, or would be in a dry run.

    Attributes:
        source: Its key.
        target: Where it belongs; empty if unknown.
        at: The time of the snapshot.
        why: How that time is known, or why it is not.
        done: The object is now at `target`, its content was compared, and `source` is gone.
    """

    source: str
    target: str
    at: datetime | None
    why: str
    done: bool = False


def future_raw(store: ObjectStore, layout: Layout, now: datetime) -> Iterator[ObjectInfo]:
    """Loose raw objects of days that have not begun, and those of today named later than `now` (aware).

    One listing of folders, one of the end of today's for each feed, and one for each future day.
    """
    today = local_date(now)
    latest = now + MAX_AHEAD
    for folder in store.list_folders(layout.raw_prefix):
        dt = folder_date(folder)
        if dt is None or dt < today:
            continue
        objects = store.list(folder) if dt > today else fetched_since(store, layout, folder, latest, layout.kinds)
        for info in objects:
            key = layout.parse_raw_key(info.key)
            if key is not None and (dt > today or (key.file_timestamp is not None and key.file_timestamp > latest)):
                yield info


def move_future(
    store: ObjectStore, layout: Layout, now: datetime, *, write: bool, begin: Begin = unobserved
) -> Iterator[Move]:
    """Move each raw object from the future to the time of its reports, or of its writing if it has none.

    Each is copied to a free key, read back, compared, and only then removed, so that a crash at any point leaves it in
    at least one place. If the target already holds the same bytes, the source is only removed. Without `write` nothing
    is changed.

    Raises:
        ExternalError: the store failed; another call continues.
    """
    found = list(future_raw(store, layout, now))
    zips = [info for info in found if (kind := kind_of(info.key)) and kind.of_files]
    # Those that need files of an earlier one come before it, and are whole from then on.
    for info in [*(info for info in found if info not in zips), *reversed(zips)]:
        begin(PurePosixPath(info.key).name, len(found))
        try:
            body = whole_body(info.key, store.get(info.key), store.get)
        except IncompleteSnapshotError as error:
            yield Move(info.key, "", None, f"It is left where it is: {error}")
            continue
        at, why = _time_of(info, body, now)
        if at is None:
            yield Move(info.key, "", None, why)
            continue
        target, _ = _free_key(store, layout, info.key, at, body)
        if not target:
            why = f"Every second of the minute from {at:%Y-%m-%d %H:%M:%S} UTC on is taken: it is left where it is"
        if not write or not target:
            yield Move(info.key, target, at, why)
            continue
        metadata = {**(store.stat(info.key) or info).metadata, "sha256": hashlib.sha256(body).hexdigest()}
        yield replace(_moved(store, layout, info.key, body, at, metadata), why=why)


def _time_of(info: ObjectInfo, body: bytes, now: datetime) -> tuple[datetime | None, str]:
    latest = now + MAX_AHEAD
    today = local_date(now)
    (reported_at,) = reported_times([(info.key, body, RawObject(info.key, info.etag, len(body), now))], today)
    if reported_at is not None and reported_at <= latest:
        return reported_at, "the reports inside"
    if info.last_modified <= latest:
        return info.last_modified.replace(microsecond=0), "the time at which it was stored"
    return None, "Neither its reports nor the time at which it was stored lie in the past: it is left where it is"


def _free_key(store: ObjectStore, layout: Layout, source: str, at: datetime, body: bytes) -> tuple[str, bool]:
    """The first key from `at` on that is free, or that holds this very body (then True); empty if all are taken."""
    wanted = hashlib.sha256(body).digest()
    moment = at
    kind = kind_of(source) or UCL
    while moment <= at + _LATEST_SECOND:
        key = layout.raw_key(moment, kind)
        if store.stat(key) is None:
            return key, False
        if hashlib.sha256(store.get(key)).digest() == wanted:
            return key, True
        moment += timedelta(seconds=1)
    return "", False


def _moved(
    store: ObjectStore, layout: Layout, source: str, body: bytes, at: datetime, metadata: Mapping[str, str]
) -> Move:
    while True:
        target, is_there = _free_key(store, layout, source, at, body)
        if not target or is_there or store.put_if_absent(target, body, metadata=metadata):
            break
    if not target:
        return Move(source, "", at, "")
    if store.get(target) != body:
        raise AssertionError(f"{target} differs from what was written; {source} was left where it is")
    store.delete(source)
    return Move(source, target, at, "", done=True)


def days_to_rebuild(moves: Sequence[Move], now: datetime) -> dict[date, frozenset[str]]:
    """The days up to today that lost or gained an object, each with the keys that it lost."""
    today = local_date(now)
    days: dict[date, set[str]] = {}
    for move in moves:
        for key in (move.source, move.target) if move.done else ():
            dt = folder_date(key.rpartition("/")[0])
            if dt is not None and dt <= today:
                days.setdefault(dt, set()).update({key} & {move.source})
    return {dt: frozenset(keys) for dt, keys in sorted(days.items())}


def remove_emptied(store: ObjectStore, layout: Layout, moves: Sequence[Move], now: datetime) -> list[str]:
    """Remove published partitions of future days whose rows all come from moved objects; returns the keys.

    Such a day has no raw object left, so nothing would ever rebuild it.

    Raises:
        ExternalError: the store failed.
    """
    today = local_date(now)
    moved = {move.source for move in moves if move.done}
    partitions = PublishedPartitions(store, layout)
    removed = []
    for dt in sorted({dt for key in moved if (dt := folder_date(key.rpartition("/")[0])) and dt > today}):
        if any(layout.is_raw_key(info.key) for info in store.list(layout.raw_folder(dt))):
            continue
        manifest = published_manifest(partitions.read("processed", dt))
        if manifest is None or not set(manifest.sources) <= moved:
            continue
        # Enhanced first: it is made from processed, whose footer says what may be removed.
        for key in (layout.partition_key("enhanced", dt), layout.partition_key("processed", dt)):
            if store.stat(key) is not None:
                store.delete(key)
                removed.append(key)
    return removed

"""When a raw object's snapshot was taken: according to its name or, failing that, the reports inside.

An object's last-modified time changes when anyone copies it, so it is used only if both fail.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa

from wrm_pipeline.domain.feeds import kind_of
from wrm_pipeline.domain.layout import RawKey, partition_bounds
from wrm_pipeline.domain.manifest import RawObject
from wrm_pipeline.domain.rules import STALE_AFTER
from wrm_pipeline.domain.snapshot import FileFault, RawSnapshot, parse_snapshots

OUTSIDE_DAY = "file_time_outside_day"

# A snapshot belongs to its folder's day, allowing for a wrong time zone: names in local time that are read as UTC, or
# folders by another zone's date. No time zone is further from UTC than 14 hours.
DAY_TOLERANCE = timedelta(hours=14)

# A snapshot later than now by more than two clocks may differ comes from a clock that is, or was, ahead.
MAX_AHEAD = timedelta(minutes=5)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def span_of(dt: date) -> tuple[datetime, datetime]:
    """The earliest time that a snapshot in the folder of `dt` may have, and the first that is too late."""
    start, end = partition_bounds(dt)
    return start - DAY_TOLERANCE, end + DAY_TOLERANCE


def named(obj: RawObject, key: RawKey) -> RawObject:
    """`obj` with the time in its name, or with the readings that the name permits.

    `obj.file_timestamp` is the placeholder for a name without a time: the object's last-modified time.
    """
    if key.file_timestamp is None:
        return replace(obj, readings=())
    if key.second_reading is not None:
        return replace(obj, file_timestamp=key.file_timestamp, readings=(key.file_timestamp, key.second_reading))
    return _placed(obj, key.dt, key.file_timestamp, "name")


def remembered(obj: RawObject, dt: date, at: datetime) -> RawObject | None:
    """`obj` with the time determined when this content was parsed before; None if that is no longer possible."""
    return _placed(obj, dt, at, "content") if not obj.readings or at in obj.readings else None


def settled(obj: RawObject, dt: date, reported_at: datetime | None) -> RawObject:
    """`obj` with its time according to the reports inside; `reported_at` is None if there are none.

    A name with two readings means the one nearer to the reports (the first without any). Without a time in the name,
    the reports decide; if there are none or they cannot be of the day, the last-modified time does, if it can be of the
    day.
    """
    if obj.readings:
        at = obj.readings[0] if reported_at is None else min(obj.readings, key=lambda at: abs(at - reported_at))
        return _placed(obj, dt, at, "name")
    if reported_at is None or (not _is_of(dt, reported_at) and _is_of(dt, obj.file_timestamp)):
        return replace(obj, readings=None)
    return _placed(obj, dt, reported_at, "content")


def _is_of(dt: date, at: datetime) -> bool:
    earliest, latest = span_of(dt)
    return earliest <= at < latest


def _placed(obj: RawObject, dt: date, at: datetime, witness: str) -> RawObject:
    fault = None if _is_of(dt, at) else outside_day(dt, at, witness)
    return replace(obj, file_timestamp=at, readings=None, fault=fault)


def outside_day(dt: date, at: datetime, witness: str) -> FileFault:
    """Why a snapshot taken at `at` in the folder of `dt` is not published."""
    return FileFault(
        OUTSIDE_DAY,
        f"According to its {witness} the snapshot was taken at {at:%Y-%m-%d %H:%M:%S} UTC, which is not in dt={dt}, "
        f"not even in another "
        "time zone. Move the object into the folder of its day, or rename it after its time.",
    )


def reported_times(files: Sequence[tuple[str, bytes, RawObject]], dt: date) -> list[datetime | None]:
    """The time of fetch of each body (key, body, object) according to its reports; None for a body without a row.

    This is the median of the hour with most of a body's reports, the latest of several such hours. Stations that went
    silent days ago and those with a wrong clock are outside that hour; and in a feed that reports all at once, as UCL's
    does, it is the time of the fetch to the second. The two offset columns are not added: the reports' times are
    Unix seconds, so they are UTC already. None as well for a kind of feed whose reports have no time of their own.
    """
    # The parser rejects reports more than a day after the fetch, and no fetch of the day is after its end. Distinct
    # times keep the files' rows apart.
    _, latest = span_of(dt)
    batch = parse_snapshots(
        [
            RawSnapshot(key, latest + timedelta(microseconds=index), body, obj.corrections)
            for index, (key, body, obj) in enumerate(files)
        ]
    )
    micros = batch.rows["timestamp"].cast(pa.int64()).to_numpy()
    ends = np.cumsum([report.counts.rows_out for report in batch.reports])
    parts = np.split(micros, ends[:-1]) if files else []
    reported = [kind is None or kind.reports_times for kind in (kind_of(key) for key, _, _ in files)]
    return [_most_usual(part) if known else None for part, known in zip(parts, reported, strict=True)]


def _most_usual(micros: np.ndarray) -> datetime | None:
    if not len(micros):
        return None
    times = np.sort(micros)
    hour = STALE_AFTER // timedelta(microseconds=1)
    counts = np.searchsorted(times, times + hour, side="right") - np.arange(len(times))
    first = len(times) - 1 - int(np.argmax(counts[::-1]))
    return _EPOCH + timedelta(microseconds=int(times[first + (int(counts[first]) - 1) // 2]))

"""Whether the feed can still be read, judged by the newest bodies in `raw/` and `quarantine/`.

No state is kept between checks: the newest bodies decide. So an incident ends when bodies can be read again, and
stays open while the feed is silent.
"""

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from wrm_pipeline.clients.cache import NO_CACHE, Cache
from wrm_pipeline.domain.dead_letters import PARKED, PENDING, DeadLetter
from wrm_pipeline.domain.drift import Drift, drift_of, new_example, old_example
from wrm_pipeline.domain.feeds import UCL, FeedKind, kind_of
from wrm_pipeline.domain.layout import Layout, RawKey, local_date
from wrm_pipeline.domain.snapshot import FileReport, RawSnapshot, as_example, inspect_fetched
from wrm_pipeline.domain.snapshot_time import MAX_AHEAD
from wrm_pipeline.lake.cached_objects import CachedObjects
from wrm_pipeline.lake.dead_letter_queue import DeadLetterQueue
from wrm_pipeline.lake.object_store import ObjectInfo, ObjectStore
from wrm_pipeline.lake.raw_objects import IncompleteSnapshotError, fetched_since, whole_body

# Checked every 5 minutes, so an unreadable body is seen by two checks.
LOOK_BACK = timedelta(minutes=10)
MAX_BODIES = 20
# A hundred times the usual size; larger bodies are not fetched again for this.
MAX_BODY_BYTES = 4 * 2**20

_FIRST_LISTED = timedelta(hours=1)
_LISTED_WITHOUT = timedelta(days=1)
# Bodies to try, newest first, for an example of the earlier format.
_TRIED_FOR_EXAMPLE = 3


@dataclass(frozen=True, slots=True)
class FoundDrift:
    """A drift of the newest bodies.

    Attributes:
        drift: As found in the newest body that has it.
        key: That body.
        old: An example of the field as it was; empty if there is none.
        new: An example of the field as it is now.
        drifted: Number of bodies with a drift.
        looked_at: Number of bodies examined.
    """

    drift: Drift
    key: str
    old: str
    new: str
    drifted: int
    looked_at: int

    def __str__(self) -> str:
        drift = self.drift
        what = drift.field or "the line"
        change = f"it was {self.old}, it is {self.new}" if self.old else f"it is {self.new}"
        rest = "no row of it is published" if drift.whole else "the others are published"
        return (
            f"The feed has changed its format: {what} of {drift.dead} of {drift.rows} rows ({drift.share:.0%}) cannot "
            f"be read ({drift.error_type}); {change}. {self.drifted} of the newest {self.looked_at} bodies are "
            f"affected; {rest}."
        )


@dataclass(frozen=True, slots=True)
class _Body:
    info: ObjectInfo
    at: datetime


def look_for_drift(
    store: ObjectStore, layout: Layout, *, now: datetime, cache: Cache = NO_CACHE
) -> tuple[FoundDrift | None, int]:
    """The drift of the bodies within LOOK_BACK, if there is one, and the number of bodies examined.

    Costs two listings and the bodies, most of which are cached; twice that while the feed is silent.

    Raises:
        ExternalError: the store failed.
    """
    listed = _bodies(store, layout, now - _FIRST_LISTED, now) or _bodies(store, layout, now - _LISTED_WITHOUT, now)
    newest = [body for body in listed if body.at > listed[-1].at - LOOK_BACK][-MAX_BODIES:]
    reports = list(_read(store, newest, cache))
    drifts = [(body, drift) for body, _, report in reports if (drift := drift_of(report))]
    if not drifts:
        return None, len(reports)
    # The most common one; among equals, the newest.
    kinds = Counter((drift.field, drift.error_type) for _, drift in drifts)
    _, drift = max(drifts, key=lambda found: (kinds[found[1].field, found[1].error_type], found[0].at))
    body, content, report = next((b, c, r) for b, c, r in reversed(reports) if drift_of(r) == drift)
    lines, first_line = _example(body, content)
    old = old_example(drift, lines, report, first_line) or _older_example(store, layout, drift, body, cache)
    new = new_example(drift, lines, first_line)
    return FoundDrift(drift, body.info.key, old, new, len(drifts), len(reports)), len(reports)


def open_drift(queue: DeadLetterQueue, dt: date) -> list[DeadLetter]:
    """The unsettled entries of a day that stem from a change of format."""
    return [letter for letter in queue.of_date(dt) if letter.of_drift and letter.status in (PENDING, PARKED)]


def _bodies(store: ObjectStore, layout: Layout, start: datetime, now: datetime) -> list[_Body]:
    """Bodies fetched since `start`, by time; those dated later than now are ignored."""
    found = []
    for dt in sorted({local_date(start), local_date(now)}):
        for folder in (layout.raw_folder(dt), layout.quarantine_folder(dt)):
            for info in fetched_since(store, layout, folder, start, layout.kinds):
                key = layout.parse_raw_key(layout.released_key(info.key))
                at = _time(key, info)
                if key is not None and start <= at <= now + MAX_AHEAD and info.size_bytes <= MAX_BODY_BYTES:
                    found.append(_Body(info, at))
    return sorted(found, key=lambda body: (body.at, body.info.key))


def _time(key: RawKey | None, info: ObjectInfo) -> datetime:
    return (key.file_timestamp if key is not None else None) or info.last_modified


def _read(store: ObjectStore, bodies: Sequence[_Body], cache: Cache) -> Iterator[tuple[_Body, bytes, FileReport]]:
    other = functools.cache(store.get)
    contents = CachedObjects(store, cache).bodies([body.info for body in bodies])
    for body, (key, served) in zip(bodies, contents, strict=True):
        try:
            content = whole_body(key, served, other)
        except IncompleteSnapshotError:
            continue  # the run of its day reports it
        yield body, content, inspect_fetched(content, body.at, _kind(body).name)


def _kind(body: _Body) -> FeedKind:
    return kind_of(body.info.key) or UCL


def _example(body: _Body, content: bytes) -> tuple[bytes, int]:
    return as_example(RawSnapshot(body.info.key, body.at, content))


def _older_example(store: ObjectStore, layout: Layout, drift: Drift, drifted: _Body, cache: Cache) -> str:
    """An example from the newest readable bodies of the same feed before."""
    before = drifted.at
    older = [body for body in _bodies(store, layout, before - _LISTED_WITHOUT, before) if body.at < before]
    raw = [body for body in older if body.info.key.startswith(layout.raw_prefix) and _kind(body) is _kind(drifted)]
    for body, content, report in _read(store, raw[: -_TRIED_FOR_EXAMPLE - 1 : -1], cache):
        lines, first_line = _example(body, content)
        example = old_example(drift, lines, report, first_line)
        if example:
            return example
    return ""

"""The operator's answers of a day -> bike_positions/."""

import time
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from wrm_pipeline.clients.cache import NO_CACHE, Cache
from wrm_pipeline.domain.bike_positions import (
    FEED,
    Answer,
    PositionsBuild,
    PositionsPlan,
    PositionsState,
    build_positions,
    plan_positions,
)
from wrm_pipeline.domain.feeds import kind_of
from wrm_pipeline.domain.layout import BIKE_POSITIONS
from wrm_pipeline.domain.parquet_parts import ParquetParts
from wrm_pipeline.flows.readable import ReadableBodies, can_be_read
from wrm_pipeline.lake.cached_objects import CachedObjects
from wrm_pipeline.lake.published_partitions import PartitionFile, Published, PublishedPartitions
from wrm_pipeline.lake.raw_objects import RawDay
from wrm_pipeline.logs import get_logger

_log = get_logger(__name__)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class NoAnswersError(RuntimeError):
    """A day has no answer of the operator's feed, and no published bike positions."""


@dataclass(frozen=True, slots=True)
class PositionsPartition:
    """A partition of bike positions, built but not yet published; `build` is None if nothing had changed."""

    build: PositionsBuild | None
    plan: PositionsPlan
    state: PositionsState
    file: ParquetParts
    published: Published

    @property
    def rows_before(self) -> int:
        """Rows that are published now."""
        return self.published.parts.row_count if self.published.parts is not None else 0

    def to_publish(self, *, allow_shrink: bool) -> PartitionFile | None:
        """What to publish; None if nothing changed."""
        if self.build is None:
            return None
        data, rows = self.build.data, self.build.row_count
        return PartitionFile(data, rows, self.rows_before, allow_shrink, set_aside=self.published.set_aside)


def positions_partition(
    partitions: PublishedPartitions,
    dt: date,
    *,
    built_at: datetime,
    full_rebuild: bool = False,
    allow_shrink: bool = False,
    cache: Cache = NO_CACHE,
) -> PositionsPartition:
    """Build a day's bike positions from all of the operator's answers, whichever feed was published each minute.

    Raises:
        NoAnswersError: the day has none, and is not published.
        ExternalError: the store failed.
    """
    store, layout = partitions.store, partitions.layout
    raw = RawDay.of(store, layout, dt)
    answers = _answers(raw)
    published = _readable(partitions.find(BIKE_POSITIONS, dt))
    if not answers and published.parts is None:
        raise NoAnswersError(
            f"There is no answer of the operator's feed in {layout.raw_folder(dt)}, and only that feed says which bike "
            f"is where: with `{FEED}` in WRM_FEEDS each minute has one."
        )
    state = PositionsState.of(published.parts)
    plan = plan_positions(answers, state, full_rebuild=full_rebuild, allow_shrink=allow_shrink)
    if plan.nothing_to_do and published.parts is not None and state is not None:
        return PositionsPartition(None, plan, state, published.parts, published)
    started = time.monotonic()
    reader = ReadableBodies(raw, CachedObjects(store, cache).bodies)
    build = build_positions(
        plan,
        published.parts,
        reader.read(answer.key for answer in plan.read),
        build_id=built_at.isoformat(),
        unreadable=lambda: reader.unreadable,
    )
    reader.check_the_store(build.state.answers)
    _log.info(
        "built bike positions",
        dt=str(dt),
        rows=build.row_count,
        answers_read=len(plan.read),
        seconds=round(time.monotonic() - started, 3),
    )
    return PositionsPartition(build, plan, build.state, ParquetParts.open(build.data), published)


def positions_lack(partitions: PublishedPartitions, raw: RawDay) -> tuple[PositionsPlan, bool] | None:
    """What a build of a day's bike positions would read, and whether only as the rules are newer; None: nothing.

    Raises:
        ExternalError: the store failed.
    """
    answers = _answers(raw)
    if not answers:
        return None
    parts = partitions.read(BIKE_POSITIONS, raw.dt)
    state = PositionsState.of(parts)
    plan = plan_positions(answers, state)
    return None if plan.nothing_to_do else (plan, parts is not None and state is None)


def _answers(raw: RawDay) -> list[Answer]:
    found = []
    for info in raw.objects():
        kind, key = kind_of(info.key), raw.layout.parse_raw_key(info.key)
        if kind is None or kind.name != FEED or key is None or key.file_timestamp is None:
            continue
        found.append(Answer(info.key, info.etag, (key.file_timestamp - _EPOCH) // timedelta(microseconds=1)))
    return found


def _readable(published: Published) -> Published:
    """The published partition, unless its rows cannot be read: then it is built from scratch."""
    if published.parts is None or can_be_read(published.parts):
        return published
    return Published(None, published.data, "its rows cannot be read")

"""The rows of mv_rides, from the published bike positions of a day and of those beside it."""

import hashlib
from collections.abc import Mapping
from datetime import date, datetime, timedelta

import pyarrow as pa

from wrm_pipeline.domain.bike_positions import FEED, PositionsState, read_positions
from wrm_pipeline.domain.layout import BIKE_POSITIONS, folder_date, local_date
from wrm_pipeline.domain.rides import PositionedDay, rides_of
from wrm_pipeline.lake.published_partitions import PublishedPartitions, UnreadablePartitionError
from wrm_pipeline.logs import get_logger

_log = get_logger(__name__)
_DAY = timedelta(days=1)


class RidesByDay:
    """Makes the rows of days for one refresh at `now` (aware): one listing, and each partition is read once."""

    def __init__(self, partitions: PublishedPartitions, now: datetime) -> None:
        self._partitions = partitions
        self._now = now
        self._published: dict[date, str] | None = None
        self._read: dict[date, PositionedDay | None] = {}

    def etags(self) -> Mapping[date, str]:
        """What the rows of each published day are made from; empty where the operator's feed is not fetched.

        Today's partition changes each minute, and the end of yesterday with it: that is looked at once an hour.
        """
        if self._published is None:
            self._published = self._listed()
        published, today = self._published, local_date(self._now)
        hour = f"{self._now:%Y-%m-%dT%H}"

        def source(dt: date) -> str:
            beside = [hour if day == today else published.get(day, "") for day in (dt - _DAY, dt + _DAY)]
            return hashlib.sha256(repr((published[dt], *beside)).encode()).hexdigest()[:16]

        return {dt: source(dt) for dt in published}

    def rows(self, dt: date) -> pa.Table:
        """The rows of a day, with `dt`; none if its partition cannot be read.

        Raises:
            ExternalError: the store failed.
        """
        days = [day for day in (self._day(dt - _DAY), self._day(dt), self._day(dt + _DAY)) if day is not None]
        rides = rides_of(days, dt)
        return rides.add_column(0, "dt", pa.repeat(pa.scalar(dt, pa.date32()), rides.num_rows))

    def _listed(self) -> dict[date, str]:
        if FEED not in self._partitions.layout.feeds:
            return {}
        found = ((folder_date(i.key.rpartition("/")[0]), i.etag) for i in self._partitions.objects(BIKE_POSITIONS))
        return {dt: etag for dt, etag in found if dt is not None}

    def _day(self, dt: date) -> PositionedDay | None:
        if dt not in self._read:
            self._read = {day: kept for day, kept in self._read.items() if abs(day - dt) <= 2 * _DAY}
            self._read[dt] = self._fetched(dt)
        return self._read[dt]

    def _fetched(self, dt: date) -> PositionedDay | None:
        try:
            parts = self._partitions.read(BIKE_POSITIONS, dt)
            state = PositionsState.of(parts)
            if parts is None or state is None:
                return None
            return PositionedDay(dt, read_positions(parts), state.first, state.last)
        except (UnreadablePartitionError, pa.ArrowException, OSError) as error:
            _log.warning("bike positions cannot be read; mv_rides omits them", dt=str(dt), error=str(error))
            return None

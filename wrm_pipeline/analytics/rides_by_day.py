"""The rows of mv_rides, from the published bike positions of a day and of those beside it."""

import hashlib
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from wrm_pipeline.domain.bike_positions import FEED, PositionsState, read_positions
from wrm_pipeline.domain.layout import BIKE_POSITIONS, folder_date, local_date, partition_bounds
from wrm_pipeline.domain.rides import JudgedMoves, PositionedDay, judged_moves, rentals_table, rides_table
from wrm_pipeline.lake.published_partitions import PublishedPartitions, UnreadablePartitionError
from wrm_pipeline.logs import get_logger

if TYPE_CHECKING:
    import duckdb

_log = get_logger(__name__)
_DAY = timedelta(days=1)
# The bikes of a day are known if the operator's answers cover it like the snapshots, but for an outage of this length
# at either end, and for a tenth of them.
MAX_UNKNOWN = timedelta(minutes=15)
MIN_SHARE_ANSWERED = 0.9


class RidesByDay:
    """Makes the rows of days for one refresh: one listing, and each partition is read once.

    Args:
        partitions: Where the bike positions are.
        now: The instant of the refresh, aware.
        up_to_now: Whether what is made of today once an hour is made now.

    Attributes:
        hour: A source of what is made of today, and so made again when this changes: the hour, or else the instant.
    """

    def __init__(self, partitions: PublishedPartitions, now: datetime, *, up_to_now: bool = False) -> None:
        self._partitions = partitions
        self._now = now
        self.hour = now.isoformat() if up_to_now else f"{now:%Y-%m-%dT%H}"
        self._etags: dict[date, str] | None = None
        self._read: dict[date, PositionedDay | None] = {}
        # How many answers a day's positions were made from.
        self._answers: dict[date, int] = {}
        self._judged: tuple[date, JudgedMoves] | None = None

    def etags(self) -> Mapping[date, str]:
        """What the rows of each published day are made from; empty where the operator's feed is not fetched.

        Today's partition changes each minute, and the end of yesterday with it: that is looked at once an hour.
        """
        if self._etags is not None:
            return self._etags
        published, today = self._listed(), local_date(self._now)

        def source(dt: date) -> str:
            beside = [self.hour if day == today else published.get(day, "") for day in (dt - _DAY, dt + _DAY)]
            return hashlib.sha256(repr((published[dt], *beside)).encode()).hexdigest()[:16]

        self._etags = {dt: source(dt) for dt in published}
        return self._etags

    def positions(self, dt: date) -> PositionedDay | None:
        """The bike positions of a day; None if it has none, or they cannot be read.

        Raises:
            ExternalError: the store failed.
        """
        return self._day(dt) if dt in self.etags() else None

    def rows(self, dt: date) -> pa.Table:
        """The rows of a day, with `dt`; none if its partition cannot be read.

        Raises:
            ExternalError: the store failed.
        """
        rides = rides_table(self._judged_around(dt), dt)
        return rides.add_column(0, "dt", pa.repeat(pa.scalar(dt, pa.date32()), rides.num_rows))

    def whole_day(self, dt: date, first: datetime, last: datetime, snapshots: int) -> PositionedDay | None:
        """The bike positions of a day with so many snapshots from `first` to `last`, if they tell all of it.

        None if they begin or end more than MAX_UNKNOWN from its first or last snapshot, or were made from fewer than
        MIN_SHARE_ANSWERED of as many answers.

        Raises:
            ExternalError: the store failed.
        """
        day = self.positions(dt)
        if day is None or day.first is None or day.last is None:
            return None
        unknown_s = max(day.first / 1e6 - first.timestamp(), last.timestamp() - day.last / 1e6)
        if unknown_s > MAX_UNKNOWN.total_seconds() or self._answers[dt] < MIN_SHARE_ANSWERED * snapshots:
            return None
        return day

    def rentals(self, dt: date, first: datetime, last: datetime, snapshots: int) -> pa.Table | None:
        """Each begin and end of a rental on a day at a station (see `rentals_table`); None as in `whole_day`.

        Raises:
            ExternalError: the store failed.
        """
        if self.whole_day(dt, first, last, snapshots) is None:
            return None
        begin, end = partition_bounds(dt)
        found = rentals_table(self._judged_around(dt))
        times = found["moved_at"]
        of_day = pc.and_(pc.greater_equal(times, pa.scalar(begin)), pc.less(times, pa.scalar(end)))
        return found.filter(of_day)

    def _judged_around(self, dt: date) -> JudgedMoves:
        if self._judged is None or self._judged[0] != dt:
            days = [day for day in (self._day(dt - _DAY), self._day(dt), self._day(dt + _DAY)) if day is not None]
            self._judged = dt, judged_moves(days)
        return self._judged[1]

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
            self._answers[dt] = len(state.answers) - len(state.refused)
            return PositionedDay(dt, read_positions(parts), state.first, state.last)
        except (UnreadablePartitionError, pa.ArrowException, OSError) as error:
            _log.warning("bike positions cannot be read; mv_rides omits them", dt=str(dt), error=str(error))
            return None


def loaded_span(connection: "duckdb.DuckDBPyConnection") -> tuple[datetime, datetime, int] | None:
    """The first and last of the snapshots in `day_snapshots`, and their number; None without any."""
    sql = "SELECT epoch(min(file_timestamp)), epoch(max(file_timestamp)), count(*) FROM day_snapshots"
    ((first, last, snapshots),) = connection.execute(sql).fetchall()
    if not snapshots:
        return None
    return datetime.fromtimestamp(first, UTC), datetime.fromtimestamp(last, UTC), snapshots

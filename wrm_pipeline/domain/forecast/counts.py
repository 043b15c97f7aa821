"""Counts of all stations on a grid of 5-minute steps, and what the calendar says of each step."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

STEP = timedelta(minutes=5)
STEP_S = 300
STEPS_A_DAY = 24 * 3600 // STEP_S
# A station that is missing for no longer than this is taken to be as it was last seen: the longest gap between
# snapshots of the operator in 18 hours was 11 minutes.
MAX_GAP_STEPS = 3

COLUMNS = ("station_id", "lat", "lon", "bikes", "spaces", "total_docks", "file_timestamp", "record_type")


@dataclass(frozen=True, slots=True)
class Stations:
    """The stations of a grid, in the order of its second axis; `lat` and `lon` in degrees."""

    ids: tuple[str, ...]
    lat: Floats
    lon: Floats


@dataclass(frozen=True, slots=True)
class Counts:
    """What each station had at each step.

    Attributes:
        start: The first step (aware, UTC).
        stations: The second axis of the arrays.
        bikes: (steps, stations); NaN where unknown.
        spaces: Free docks, likewise.
        docks: Total docks, likewise.
        step_of_day: Of each step: its time on the local clock, in steps since midnight.
        day: Of each step: the local date as a proleptic ordinal.
        is_free_day: Of each step: whether that date is a weekend or a holiday.
    """

    start: datetime
    stations: Stations
    bikes: Floats
    spaces: Floats
    docks: Floats
    step_of_day: Indices
    day: Indices
    is_free_day: npt.NDArray[np.bool_]

    @property
    def steps(self) -> int:
        """The length of the first axis."""
        return len(self.bikes)

    @property
    def full(self) -> Floats:
        """1 where a station has no free dock, 0 where it has one or none at all, NaN where unknown."""
        is_full = ((self.spaces == 0) & (self.docks > 0)).astype(np.float32)
        return np.where(np.isnan(self.bikes), np.float32(np.nan), is_full)

    def index(self, at: datetime) -> int:
        """The last step that is not later than an instant; may lie outside the grid."""
        return int((at - self.start).total_seconds() // STEP_S)

    def time(self, step: int) -> datetime:
        """The instant of a step."""
        return self.start + step * STEP


def counts_of(
    rows: Iterable[pa.Table],
    start: datetime,
    end: datetime,
    *,
    zone: ZoneInfo,
    is_holiday: Callable[[date], bool] = lambda _: False,
) -> Counts:
    """The grid from `start` to `end`, both included and a multiple of STEP apart.

    A step has the newest count of each station that is not later than it and at most MAX_GAP_STEPS old; a snapshot
    later than `end` is not looked at.

    Args:
        rows: Enhanced rows with COLUMNS, in any order.
        start: The first step.
        end: The last step.
        zone: The city's.
        is_holiday: Whether a date is a public holiday; weekends need not be known to it.
    """
    steps = int((end - start).total_seconds() // STEP_S) + 1
    found = _rows_between(rows, start, end)
    ids = pc.unique(found["station_id"].cast(pa.string())).to_pylist() if found.num_rows else []
    ids.sort()
    column = np.asarray(pc.index_in(found["station_id"].cast(pa.string()), pa.array(ids, pa.string())))
    seconds = found["file_timestamp"].cast("int64").to_numpy() / 1e6 - start.timestamp()
    step = np.ceil(seconds / STEP_S).astype(np.int64)
    order = np.argsort(seconds, kind="stable")  # the last of a step wins
    at = (np.clip(step[order], 0, steps - 1), column[order])

    def grid(name: str) -> Floats:
        values = np.full((steps, len(ids)), np.nan, np.float32)
        values[at] = pc.cast(found[name], pa.float32()).to_numpy()[order]
        return values

    def last(name: str) -> Floats:
        values = np.full(len(ids), np.nan, np.float32)
        values[column[order]] = pc.cast(found[name], pa.float32()).to_numpy()[order]
        return values

    seen = ~np.isnan(grid("bikes"))
    bikes, spaces, docks = (_carried(grid(name), seen) for name in ("bikes", "spaces", "total_docks"))
    stations = Stations(tuple(ids), last("lat"), last("lon"))
    return Counts(start, stations, bikes, spaces, docks, *_calendar(start, steps, zone, is_holiday))


def _rows_between(rows: Iterable[pa.Table], start: datetime, end: datetime) -> pa.Table:
    """The stations' rows that count for steps from `start` to `end`, of each step and station the newest."""
    kept = [_thinned(table, start, end) for table in rows]
    return pa.concat_tables(kept, promote_options="permissive").combine_chunks() if kept else _no_rows()


def _thinned(table: pa.Table, start: datetime, end: datetime) -> pa.Table:
    """A day has a row for each minute, and a step needs one: a month of whole rows would take 0.4 GB."""
    at, first = table["file_timestamp"], start - MAX_GAP_STEPS * STEP
    in_time = pc.and_(pc.greater(at, pa.scalar(first, at.type)), pc.less_equal(at, pa.scalar(end, at.type)))
    is_station = pc.equal(table["record_type"].cast(pa.string()), "station")
    found = table.select(COLUMNS).filter(pc.and_(in_time, is_station))
    microseconds = found["file_timestamp"].cast("int64").to_numpy()
    step = -((int(start.timestamp() * 1_000_000) - microseconds) // (STEP_S * 1_000_000))
    station = found["station_id"].cast(pa.string()).dictionary_encode().combine_chunks().indices.to_numpy()
    order = np.lexsort((microseconds, step, station))
    last = np.ones(len(order), np.bool_)
    last[:-1] = (np.diff(station[order]) != 0) | (np.diff(step[order]) != 0)
    return found.take(pa.array(np.sort(order[last])))


def _no_rows() -> pa.Table:
    types = {"station_id": pa.string(), "record_type": pa.string(), "file_timestamp": pa.timestamp("us", "UTC")}
    return pa.table({name: pa.array([], types.get(name, pa.float64())) for name in COLUMNS})


def _carried(values: Floats, seen: npt.NDArray[np.bool_]) -> Floats:
    """Values carried forward over at most MAX_GAP_STEPS steps in which the station was not seen."""
    steps = np.arange(len(values))[:, None]
    newest = np.maximum.accumulate(np.where(seen, steps, -1), axis=0)
    carried = np.take_along_axis(values, np.maximum(newest, 0), axis=0)
    return np.where((newest >= 0) & (steps - newest <= MAX_GAP_STEPS), carried, np.float32(np.nan))


def _calendar(
    start: datetime, steps: int, zone: ZoneInfo, is_holiday: Callable[[date], bool]
) -> tuple[Indices, Indices, npt.NDArray[np.bool_]]:
    step_of_day = np.empty(steps, np.int64)
    day = np.empty(steps, np.int64)
    free = np.empty(steps, np.bool_)
    known: dict[date, bool] = {}
    for step in range(steps):
        local = (start + step * STEP).astimezone(zone)
        on = local.date()
        if on not in known:
            known[on] = on.isoweekday() > 5 or is_holiday(on)
        step_of_day[step] = (local.hour * 60 + local.minute) * 60 // STEP_S
        day[step] = on.toordinal()
        free[step] = known[on]
    return step_of_day, day, free

"""Stays of bikes -> what happened between them: rides, relocations, and what is no movement at all.

Each pair of consecutive stays of a bike is one row, which belongs to the day of the second one. The rules and where
their figures come from are in docs/rides.md; those with a number are constants here.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from wrm_pipeline.domain.bike_positions import SAME_PLACE_M
from wrm_pipeline.domain.distance import metres_between

# Stored with the rows: another version means that they are made again.
RIDES_VERSION = "2"

RIDE, RELOCATION, SAME_PLACE, FLICKER = KINDS = ("ride", "relocation", "same_place", "flicker")

# A bike that is in two places in consecutive snapshots (60 s apart, and some seconds of delay) was not ridden for more
# than 2 minutes. All 433 flickers in 32 h of the operator's event log began and ended like this.
JUMP_S = 90
# Nobody rides faster, from station to station as the crow flies: 99 % of 25,455 rides were slower than 17 km/h.
MAX_KMH = 30
# Half of the new fixes of a bike that has not moved are within 40 m of the one before, three quarters within 90 m; the
# rest of this is the length of a station.
BESIDE_M = 150.0
# What looks impossible after a longer absence is judged as a move.
SHORTLY_S = 300
# The longest flicker in the event log lasted an hour.
MAX_FLICKER_S = 3600
# 99.9 % of the rides lasted less than 5 h; what is away for longer is in a van, a workshop or a store.
MAX_RIDE_S = 12 * 3600
# The longest of 25,455 rides ended 14 km from its start; the operator's depot is 300 km away.
MAX_RIDE_M = 20_000.0
# People ride together: in four days of real rides, four of them six times from one station to one other, leaving and
# arriving within 3 minutes of each other; five of them never within 5 minutes.
MANY_BIKES, TOGETHER_S = 5, 300
# Bikes that stand free at one spot (0.001 degrees: 111 by 70 m) for this long: a depot. 63 stood in Warsaw.
DEPOT_BIKES, DEPOT_S, DEPOT_DEGREES = 10, 12 * 3600, 0.001

# Of 67 moves between this and MAX_KMH, 14 were no rides (and of all moves 1.4 %).
VAN_KMH = 18
# The reference data take an unrecorded move to last 20 minutes, which a feed of one snapshot a minute shows as 21: 331
# of 717 such absences were moves, and elsewhere 78 of 24,900. Nobody has measured it.
VAN_S = (1230, 1290)
# How much such an absence looks like a van's: the sum over its figures of the points from the bound that it reaches
# on. They are logarithms of odds, rounded to halves; points fitted on three of four days of real rides (2024-06-03 to
# -06) tell the moves of the fourth as well as these do.
#   metres     riders make 2 to 4 km in that time
#   idle_s     the shorter one of the stays before and after: vans take bikes that nobody rides
#   free_end   1 if the move ends outside stations
VAN_POINTS: Mapping[str, Sequence[tuple[float, float]]] = {
    "metres": ((1500, -0.5), (2200, -2.0), (4700, 1.0)),
    "idle_s": ((600, 1.5), (3600, 2.0), (14400, 3.0), (28800, 4.0)),
    "free_end": ((1, 1.5),),
}
# From here on 9 of 10 of those moves are found, with 181 of the 370 rides of that length.
VAN_THRESHOLD = 0.0
# A rider who returns a bike and takes it again at once, so that no ride is longer than the 20 minutes that are free, is
# seen at the station in between in one snapshot or in none. With a stay of one snapshot before or after it, 45 of 165
# absences of this length were two rides; with longer stays 7 % were, and of shorter absences 0.3 %.
TWO_RIDES_S = (1290, 2700)


class PositionedDay(NamedTuple):
    """A day's bike positions: its rows, and the times of its first and last snapshot in microseconds."""

    dt: date
    rows: pa.Table
    first: int | None
    last: int | None


@dataclass(slots=True)
class _Stay:
    """A stay in seconds since 1970; `day` is that of its arrival, `cut_*` whether it may be longer than is known."""

    bike_id: str
    station_id: str | None
    lat: float
    lon: float
    arrived_at: float
    left_at: float
    day: date
    cut_before: bool = False
    cut_after: bool = False

    def is_at(self, other: "_Stay") -> bool:
        if self.station_id is not None or other.station_id is not None:
            return self.station_id == other.station_id
        return self.metres_to(other) <= SAME_PLACE_M

    def metres_to(self, other: "_Stay") -> float:
        return metres_between(self.lat, self.lon, other.lat, other.lon)

    @property
    def seconds(self) -> float:
        return self.left_at - self.arrived_at

    @property
    def cell(self) -> tuple[int, int]:
        return round(self.lat / DEPOT_DEGREES), round(self.lon / DEPOT_DEGREES)


class _Move(NamedTuple):
    """Two consecutive stays, and where the bike really was: `start` and `end` are true stays."""

    before: _Stay
    after: _Stay
    start: _Stay
    end: _Stay
    false: bool


class JudgedMoves(NamedTuple):
    """What bikes did in a few days: their moves with their kinds, and the last stays of those that are not back.

    `last` is the time of the last snapshot, in seconds since 1970.
    """

    moves: Sequence[tuple[_Move, str]]
    away: Sequence[_Stay]
    last: float


def rides_of(days: Sequence[PositionedDay], dt: date) -> pa.Table:
    """The rows of a day, from its positions and those of the days around it (in order; any may be missing).

    The day after is needed for bikes that arrive shortly before midnight: whether they stay, and for how long.
    """
    return rides_table(judged_moves(days), dt)


def judged_moves(days: Sequence[PositionedDay]) -> JudgedMoves:
    """All moves of the bikes in these days (in order; any may be missing)."""
    chains = _chains(days)
    moves = [move for chain in chains.values() for move in _moves(chain)]
    kinds = _kinds(moves, [stay for chain in chains.values() for stay in chain])
    away = [chain[-1] for chain in chains.values() if not chain[-1].cut_after]
    last = max((day.last / 1e6 for day in days if day.last is not None), default=0.0)
    return JudgedMoves(list(zip(moves, kinds, strict=True)), away, last)


def rides_table(judged: JudgedMoves, dt: date) -> pa.Table:
    """The moves that ended on a day."""
    own = [(move, kind) for move, kind in judged.moves if move.after.day == dt]
    own.sort(key=lambda item: (item[0].before.bike_id, item[0].after.arrived_at))
    return _table(own)


def rentals_table(judged: JudgedMoves) -> pa.Table:
    """When and at which station rentals began and ended: rides and round trips, also those that still go on.

    One row for each end: `station_id`, `moved_at`, `departures` and `arrivals` (1 or 0). A bike that is not back after
    MAX_RIDE_S went elsewhere.
    """
    rentals = [move for move, kind in judged.moves if kind in (RIDE, SAME_PLACE)]
    left = [(move.start.station_id, move.before.left_at) for move in rentals]
    left += [(stay.station_id, stay.left_at) for stay in judged.away if judged.last - stay.left_at <= MAX_RIDE_S]
    came = [(move.end.station_id, move.after.arrived_at) for move in rentals]
    ends = [(*end, 1, 0) for end in left] + [(*end, 0, 1) for end in came]
    stations, times, departures, arrivals = zip(*ends, strict=True) if ends else ((), (), (), ())
    moved_at = pa.array([round(at * 1e6) for at in times], pa.int64()).cast(pa.timestamp("us", "UTC"))
    columns = [
        pa.array(stations, pa.string()),
        moved_at,
        pa.array(departures, pa.int32()),
        pa.array(arrivals, pa.int32()),
    ]
    found = pa.table(columns, names=["station_id", "moved_at", "departures", "arrivals"])
    return found.filter(pc.is_valid(found["station_id"]))


def _chains(days: Sequence[PositionedDay]) -> dict[str, list[_Stay]]:
    """The stays of each bike in order; those that go on over midnight are one."""
    chains: dict[str, list[_Stay]] = defaultdict(list)
    open_since: PositionedDay | None = None
    for number, day in enumerate(days):
        if day.first is None or day.last is None:
            continue
        still_open = {} if open_since is None else {b: c[-1] for b, c in chains.items() if c[-1].cut_after}
        for stay in _stays(day, cut=number == 0):
            earlier = still_open.get(stay.bike_id)
            if earlier is not None:
                earlier.cut_after = False
                if stay.arrived_at == day.first / 1e6 and earlier.is_at(stay):
                    earlier.left_at, earlier.cut_after = stay.left_at, stay.cut_after
                    del still_open[stay.bike_id]
                    continue
                del still_open[stay.bike_id]
            chains[stay.bike_id].append(stay)
        for stay in still_open.values():
            stay.cut_after = False
        open_since = day
    return chains


def _stays(day: PositionedDay, *, cut: bool) -> Iterator[_Stay]:
    if day.first is None or day.last is None:
        return
    columns = [day.rows[name].to_pylist() for name in ("bike_id", "station_id", "lat", "lon")]
    times = [day.rows[name].cast(pa.int64()).to_pylist() for name in ("arrived_at", "left_at")]
    for bike_id, station_id, lat, lon, arrived_at, left_at in zip(*columns, *times, strict=True):
        yield _Stay(
            bike_id,
            station_id,
            lat,
            lon,
            arrived_at / 1e6,
            (day.last if left_at is None else left_at) / 1e6,
            day.dt,
            cut and arrived_at == day.first,
            left_at is None,
        )


def _moves(chain: Sequence[_Stay]) -> Iterator[_Move]:
    """The moves of a bike: in a run of stays that it cannot have ridden between, the false ones are replaced."""
    true: list[_Stay] = []
    group: list[_Stay] = []
    for stay in chain:
        if group and not _is_jump(group[-1], stay):
            true.extend(_resolved(group))
            group = []
        group.append(stay)
    true.extend(_resolved(group))
    for before, after, start, end in zip(chain, chain[1:], true, true[1:], strict=False):
        yield _Move(before, after, start, end, start is end)


def _is_jump(here: _Stay, there: _Stay) -> bool:
    """Whether a bike that is seen in two places was not ridden from one to the other."""
    if here.is_at(there):
        return False
    away_s, metres = there.arrived_at - here.left_at, here.metres_to(there)
    # After longer absences, a wrong fix at either end of a ride would make the ride itself impossible.
    return away_s <= JUMP_S or (away_s <= SHORTLY_S and not BESIDE_M < metres <= MAX_KMH / 3.6 * away_s)


def _resolved(group: Sequence[_Stay]) -> list[_Stay]:
    """For each stay of a group, the true one, which is longer than it: of the place where the bike really was.

    That is the place where it is for longest, a station before any other, as free-standing fixes are what goes wrong;
    and each place where it is for longer than a flicker lasts.
    """
    if len(group) < 2:
        return list(group)
    places: list[list[_Stay]] = []
    for stay in group:
        at = next((place for place in places if place[0].metres_to(stay) <= BESIDE_M), None)
        if at is None:
            places.append([stay])
        else:
            at.append(stay)
    totals = [sum(stay.seconds for stay in place) for place in places]
    at_station = [any(stay.station_id is not None for stay in place) for place in places]
    best = max(range(len(places)), key=lambda n: (at_station[n], totals[n]))
    good = {id(stay): n for n, place in enumerate(places) if n == best or totals[n] > MAX_FLICKER_S for stay in place}
    labels = [good.get(id(stay)) for stay in group]
    current = next(label for label in labels if label is not None)
    found: list[_Stay] = []
    run: list[_Stay] = []
    for stay, label in zip(group, labels, strict=True):
        if label is not None and label != current:
            found.extend([_joined(run, _standing(places[current]))] * len(run))
            run, current = [], label
        run.append(stay)
    return [*found, *[_joined(run, _standing(places[current]))] * len(run)]


def _standing(place: Sequence[_Stay]) -> _Stay:
    """A stay at the station of a place, if it has one."""
    return next((stay for stay in place if stay.station_id is not None), place[0])


def _joined(run: Sequence[_Stay], place: _Stay) -> _Stay:
    first, last = run[0], run[-1]
    return _Stay(
        first.bike_id,
        place.station_id,
        place.lat,
        place.lon,
        first.arrived_at,
        last.left_at,
        first.day,
        first.cut_before,
        last.cut_after,
    )


def _kinds(moves: Sequence[_Move], stays: Iterable[_Stay]) -> list[str]:
    together = _together(moves)
    holes = Counter(_hole(move) for move in moves if move.start.is_at(move.end))
    depots = _depots(stays)
    found = []
    for number, move in enumerate(moves):
        if move.false:
            kind = FLICKER
        elif move.start.is_at(move.end):
            # A station that the feed leaves out loses all its bikes at once.
            kind = FLICKER if holes[_hole(move)] >= MANY_BIKES and _away_s(move) <= TOGETHER_S else SAME_PLACE
        elif number in together or _at_depot(move, depots) or is_no_single_ride(move.start, move.end, _away_s(move)):
            kind = RELOCATION
        else:
            kind = RIDE
        found.append(kind)
    return found


def _away_s(move: _Move) -> float:
    return move.after.arrived_at - move.before.left_at


def _hole(move: _Move) -> tuple[str | None, float, float]:
    return move.start.station_id, move.before.left_at, move.after.arrived_at


def _together(moves: Sequence[_Move]) -> set[int]:
    """Numbers of the moves from one station to one other that many bikes made in the same minutes."""
    by_stations: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, move in enumerate(moves):
        start, end = move.start.station_id, move.end.station_id
        if start is not None and end is not None and start != end and not move.false:
            by_stations[start, end].append(number)
    found: set[int] = set()
    for numbers in by_stations.values():
        if len(numbers) < MANY_BIKES:
            continue
        numbers.sort(key=lambda n: moves[n].before.left_at)
        for first in numbers:
            near = [n for n in numbers if _with(moves[first], moves[n])]
            if len(near) >= MANY_BIKES:
                found.update(near)
    return found


def _with(first: _Move, other: _Move) -> bool:
    return (
        0 <= other.before.left_at - first.before.left_at <= TOGETHER_S
        and abs(other.after.arrived_at - first.after.arrived_at) <= TOGETHER_S
    )


def _depots(stays: Iterable[_Stay]) -> frozenset[tuple[int, int]]:
    """Spots outside stations where many bikes stand for long."""
    bikes: dict[tuple[int, int], set[str]] = defaultdict(set)
    for stay in stays:
        if stay.station_id is None and stay.seconds >= DEPOT_S:
            bikes[stay.cell].add(stay.bike_id)
    return frozenset(cell for cell, found in bikes.items() if len(found) >= DEPOT_BIKES)


def _at_depot(move: _Move, depots: frozenset[tuple[int, int]]) -> bool:
    return any(stay.station_id is None and stay.cell in depots for stay in (move.start, move.end))


def is_no_single_ride(start: _Stay, end: _Stay, away_s: float) -> bool:
    """Whether a move looks like a van's, or like two rides with a stay between them that no snapshot shows."""
    metres = start.metres_to(end)
    if away_s > MAX_RIDE_S or metres > min(MAX_RIDE_M, MAX_KMH / 3.6 * away_s):
        return True
    known = [stay.seconds for stay, cut in ((start, start.cut_before), (end, end.cut_after)) if not cut]
    idle_s = min(known, default=MAX_RIDE_S)
    if VAN_S[0] <= away_s < VAN_S[1]:
        figures = {"metres": metres, "idle_s": idle_s, "free_end": float(end.station_id is None)}
        return sum(_points(name, figure) for name, figure in figures.items()) >= VAN_THRESHOLD
    if TWO_RIDES_S[0] <= away_s < TWO_RIDES_S[1] and idle_s == 0:
        return True
    return metres >= VAN_KMH / 3.6 * away_s


def _points(name: str, figure: float) -> float:
    steps = VAN_POINTS[name]
    passed = bisect_right([bound for bound, _ in steps], figure)
    return steps[passed - 1][1] if passed else 0.0


RIDES_SCHEMA = pa.schema(
    [
        ("bike_id", pa.string()),
        ("left_at", pa.timestamp("us", "UTC")),
        ("left_station_id", pa.string()),
        ("left_lat", pa.float64()),
        ("left_lon", pa.float64()),
        ("arrived_at", pa.timestamp("us", "UTC")),
        ("arrived_station_id", pa.string()),
        ("arrived_lat", pa.float64()),
        ("arrived_lon", pa.float64()),
        ("duration_s", pa.int32()),
        ("distance_m", pa.int32()),
        ("kind", pa.string()),
    ]
)


def _table(rows: Sequence[tuple[_Move, str]]) -> pa.Table:
    """Rows of the table; of a flicker, both ends are as the feed shows them."""
    ends = [(move.before, move.after) if move.false else (move.start, move.end) for move, _ in rows]
    times = [
        pa.array([round(at * 1e6) for at in found], pa.int64()).cast(pa.timestamp("us", "UTC"))
        for found in ([move.before.left_at for move, _ in rows], [move.after.arrived_at for move, _ in rows])
    ]
    columns = [
        [move.before.bike_id for move, _ in rows],
        times[0],
        [start.station_id for start, _ in ends],
        [start.lat for start, _ in ends],
        [start.lon for start, _ in ends],
        times[1],
        [end.station_id for _, end in ends],
        [end.lat for _, end in ends],
        [end.lon for _, end in ends],
        [round(_away_s(move)) for move, _ in rows],
        [round(start.metres_to(end)) for start, end in ends],
        [kind for _, kind in rows],
    ]
    return pa.table(columns, schema=RIDES_SCHEMA)

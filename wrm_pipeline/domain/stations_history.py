"""Which station is which, day after day: one identity through new names, places and numbers.

Number, place and name say together which station is meant: two of the three that agree are enough, one is not. So a
station that moves with its number and name stays one, with two places, and a number that turns up elsewhere under
another name is another station.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import lru_cache

from wrm_pipeline.domain.distance import metres_between

# Changes with the rules: rows of another version are made again.
HISTORY_VERSION = "1"

# GPS noise of a station is a few metres; the nearest two stations of Wrocław are 60 m apart.
SAME_PLACE_M = 15.0
NEAR_M = 40.0
# A station that is moved to the other side of a crossing, or the second one of a pair: place alone does not decide.
BESIDE_M = 150.0
# A new state counts once it has lasted so long: a feed misspells a name for an hour.
MIN_LASTING = timedelta(hours=3)
# Of a day's snapshots, at both ends: a state that fills the rest fills a day on which little was archived.
_EDGE_SHARE = 0.1
# A day that is shorter does not show by itself that a station has vanished.
_WHOLE_DAY = timedelta(hours=12)
# A number that is missing for longer at the end of a day may have passed to another station.
_PRESENT_AT_END = timedelta(hours=2)
# A feed that loses a fifth of the stations is broken, and one without half of them is another city's (data contract,
# section 4a). After this number of days it is believed.
_MAX_MISSING_SHARE = 0.2
_MIN_MISSING = 5
_MIN_STATIONS = 10
_BELIEVED_AFTER_DAYS = 7

_NUMBER, _NAME, _NEAR, _BESIDE = 2, 2, 2, 1
_TWO_OF_THREE = 3
# Times of snapshots are whole seconds, and `valid_to` is exclusive.
_TICK = timedelta(seconds=1)

FIRST, RENAMED, MOVED, NUMBER_CHANGED = "first", "renamed", "moved", "number_changed"
NUMBER_REUSED, RETURNED = "number_reused", "returned"
RULE = "rule"


@dataclass(frozen=True, slots=True)
class Observation:
    """A state of a station number that a day showed: name, and place in degrees, from first to last (aware)."""

    station_id: str
    name: str
    lat: float
    lon: float
    first_seen: datetime
    last_seen: datetime
    snapshots: int = 1


@dataclass(frozen=True, slots=True)
class Period:
    """A time in which a station had one number, name and place.

    Attributes:
        station_key: The station's identity, which never changes: its first number; for a station that got a number
            after another one, followed by `-2`, `-3`, ….
        station_id: Its number.
        valid_from: Aware.
        valid_to: Exclusive; None: still so.
        change: Why the period began, several reasons joined by `+`.
        decided_by: `rule`, or the person who decided.
    """

    station_key: str
    station_id: str
    name: str
    lat: float
    lon: float
    valid_from: datetime
    valid_to: datetime | None
    change: str
    decided_by: str = RULE


def same_name(name: str, other: str) -> bool:
    """Whether two names differ in blanks and capitals at most."""
    return plain_name(name) == plain_name(other)


@lru_cache(maxsize=8192)
def plain_name(name: str) -> str:
    """A name without what makes no difference: capitals, and blanks of all kinds."""
    return " ".join(name.split()).casefold()


def changes_between(before: Period, after: Observation | Period) -> list[str]:
    """What is different after a change: renamed, moved, number_changed."""
    distance = metres_between(before.lat, before.lon, after.lat, after.lon)
    found = {
        NUMBER_CHANGED: before.station_id != after.station_id,
        RENAMED: not same_name(before.name, after.name),
        MOVED: distance > SAME_PLACE_M,
    }
    return [change for change, differs in found.items() if differs]


def stations_history(days: Iterable[Sequence[Observation]]) -> list[Period]:
    """The periods of all stations, by key and time, from the observations of each day, in the order of the days."""
    history = _History()
    for observations in days:
        if observations:
            history.add(observations)
    return sorted(
        (period for station in history.stations for period in station.periods),
        key=lambda period: (period.station_key, period.valid_from),
    )


@dataclass(slots=True, eq=False)
class _Station:
    """A station so far; `missed` counts the days that it has been missing for."""

    periods: list[Period]
    last_seen: datetime
    missed: int = 0

    @property
    def now(self) -> Period:
        return self.periods[-1]

    @property
    def is_open(self) -> bool:
        return self.now.valid_to is None

    def close(self, at: datetime) -> None:
        self.periods[-1] = replace(self.now, valid_to=max(at, self.now.valid_from + _TICK))


@dataclass(frozen=True, slots=True)
class _Day:
    """A day's observations by number, in order of time."""

    by_number: dict[str, list[Observation]]
    first: datetime
    last: datetime

    @classmethod
    def of(cls, observations: Sequence[Observation]) -> "_Day":
        by_number: dict[str, list[Observation]] = {}
        for seen in sorted(observations, key=lambda seen: (seen.station_id, seen.first_seen)):
            by_number.setdefault(seen.station_id, []).append(seen)
        first = min(seen.first_seen for seen in observations)
        return cls(by_number, first, max(seen.last_seen for seen in observations))

    def lasts(self, seen: Observation) -> bool:
        """Whether a state has lasted long enough, or for all of the day."""
        edge = (self.last - self.first) * _EDGE_SHARE
        return seen.last_seen - seen.first_seen >= MIN_LASTING or (
            seen.first_seen <= self.first + edge and seen.last_seen >= self.last - edge
        )

    def is_present(self, station_id: str) -> bool:
        """Whether a number is there at the end of the day."""
        seen = self.by_number.get(station_id)
        return seen is not None and seen[-1].last_seen >= self.last - _PRESENT_AT_END


@dataclass(slots=True)
class _History:
    """All stations; `holders` bear a number now, and `pending` are states that have not lasted long enough yet."""

    stations: list[_Station] = field(default_factory=list)
    holders: dict[str, _Station] = field(default_factory=dict)
    pending: dict[str, Observation] = field(default_factory=dict)
    _numbers_given: dict[str, int] = field(default_factory=dict)
    _numbers_used: set[str] = field(default_factory=set)
    _odd_days: int = 0

    def add(self, observations: Sequence[Observation]) -> None:
        """One more day."""
        day = _Day.of(observations)
        for station_id, states in day.by_number.items():
            for seen in states:
                self._note(station_id, seen)
        claims = [
            self.pending[station_id]
            for station_id in day.by_number
            if station_id in self.pending and day.lasts(self.pending[station_id])
        ]
        if claims:
            self._settle(day, claims)
        self._close_missing(day)

    def _note(self, station_id: str, seen: Observation) -> None:
        """Take the state as that of the number's station, or as one that waits until it has lasted."""
        holder, waiting = self.holders.get(station_id), self.pending.get(station_id)
        if holder is not None:
            holder.missed = 0
        if holder is not None and _agree(holder.now, seen):
            holder.last_seen = seen.last_seen
            self.pending.pop(station_id, None)
        elif waiting is not None and _agree(waiting, seen):
            self.pending[station_id] = replace(
                waiting, last_seen=seen.last_seen, snapshots=waiting.snapshots + seen.snapshots
            )
        else:
            self.pending[station_id] = seen

    def _settle(self, day: _Day, claims: Sequence[Observation]) -> None:
        """Find the station of each new state: all of a day at once, so that those which swap find each other."""
        claimed = {seen.station_id for seen in claims}
        staying = {
            id(station) for number, station in self.holders.items() if number not in claimed and day.is_present(number)
        }
        found = _matches(claims, [station for station in self.stations if id(station) not in staying])
        opened = sum(station.is_open for station in self.stations)
        if opened >= _MIN_STATIONS and len(found) < len(claims) and len(staying) + len(found) < opened / 2:
            self._odd_days += 1
            if self._odd_days < _BELIEVED_AFTER_DAYS:
                return
        self._odd_days = 0
        for seen in claims:
            self.pending.pop(seen.station_id, None)
        self._free_numbers(claims, found)
        for seen in claims:
            station = found.get(seen.station_id)
            if station is None:
                station = self._new(seen)
            else:
                _continue(station, seen)
            self.holders[seen.station_id] = station
            self._numbers_used.add(seen.station_id)
            station.last_seen, station.missed = seen.last_seen, 0

    def _free_numbers(self, claims: Sequence[Observation], found: dict[str, _Station]) -> None:
        """Take numbers from stations that have another one now, or whose number another station has."""
        goes_on = {id(station) for station in found.values()}
        for number, station in list(self.holders.items()):
            if id(station) in goes_on:
                del self.holders[number]
        for seen in claims:
            left = self.holders.pop(seen.station_id, None)
            if left is not None and left.is_open:
                left.close(min(left.last_seen + _TICK, seen.first_seen))

    def _new(self, seen: Observation) -> _Station:
        number = seen.station_id
        given = self._numbers_given[number] = self._numbers_given.get(number, 0) + 1
        key = number if given == 1 else f"{number}-{given}"
        change = NUMBER_REUSED if number in self._numbers_used else FIRST
        station = _Station([_period(key, seen, seen.first_seen, change)], seen.last_seen)
        self.stations.append(station)
        return station

    def _close_missing(self, day: _Day) -> None:
        """End stations that a whole day does not show."""
        opened = [(number, station) for number, station in self.holders.items() if station.is_open]
        missing = [(number, station) for number, station in opened if number not in day.by_number]
        few = len(missing) <= max(_MIN_MISSING, _MAX_MISSING_SHARE * len(opened))
        days_needed = 1 if day.last - day.first >= _WHOLE_DAY else 2
        for number, station in missing:
            station.missed += 1
            if (few and station.missed >= days_needed) or station.missed >= _BELIEVED_AFTER_DAYS:
                station.close(station.last_seen + _TICK)
                del self.holders[number]


def _agree(state: Period | Observation, seen: Observation) -> bool:
    return same_name(state.name, seen.name) and metres_between(state.lat, state.lon, seen.lat, seen.lon) <= SAME_PLACE_M


def _matches(claims: Sequence[Observation], stations: Sequence[_Station]) -> dict[str, _Station]:
    """The station of each new state, by its number: the pairs that agree best first, each station once."""
    pairs = []
    for number, seen in enumerate(claims):
        for station in stations:
            before = station.now
            alike = _NUMBER * (before.station_id == seen.station_id) + _NAME * same_name(before.name, seen.name)
            if not alike:  # a place alone is not enough
                continue
            metres = metres_between(before.lat, before.lon, seen.lat, seen.lon)
            alike += _NEAR if metres <= NEAR_M else _BESIDE if metres <= BESIDE_M else 0
            if alike >= _TWO_OF_THREE:
                pairs.append((-alike, metres, -station.last_seen.timestamp(), number, station))
    found: dict[str, _Station] = {}
    taken: set[int] = set()
    for *_, number, station in sorted(pairs, key=lambda pair: pair[:4]):
        station_id = claims[number].station_id
        if station_id not in found and id(station) not in taken:
            found[station_id] = station
            taken.add(id(station))
    return found


def _continue(station: _Station, seen: Observation) -> None:
    """Begin the next period of a station."""
    before = station.now
    changes = changes_between(before, seen)
    begins = max(seen.first_seen, before.valid_from + _TICK)
    if before.valid_to is None:
        station.close(begins)
    else:
        changes = [RETURNED, *changes]
        begins = max(begins, before.valid_to)
    station.periods.append(_period(before.station_key, seen, begins, "+".join(changes)))


def _period(key: str, seen: Observation, begins: datetime, change: str) -> Period:
    return Period(key, seen.station_id, " ".join(seen.name.split()), seen.lat, seen.lon, begins, None, change)

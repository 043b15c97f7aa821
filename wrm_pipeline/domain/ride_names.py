"""Names of stations in the city's list of rides -> stations, through their history."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from wrm_pipeline.domain.stations_history import Period, plain_name

STATION: Literal["station"] = "station"
OUTSIDE: Literal["outside"] = "outside"
VAN: Literal["van"] = "van"
UNMATCHED: Literal["unmatched"] = "unmatched"

NAME, FORMER_NAME, SPELLING, WORD_ORDER, BIKES = "name", "former_name", "spelling", "word_order", "bikes"

_OUTSIDE_NAMES = ("poza stacją", "stacja wirtualna")
_WORDS = re.compile(r"\w+")
# So many bikes must have been seen at one station at the ride's end, and nearly all at that one.
_MIN_VOTES = 3
_MIN_SHARE = 0.8
# From a ride's end in the list to when a snapshot shows it: an interval of 5 minutes, and one of a minute.
SEEN_WITHIN = timedelta(minutes=6)


@dataclass(frozen=True, slots=True)
class Place:
    """What a name means: a station with number and identity, or what else it is."""

    what: Literal["station", "outside", "van", "unmatched"]
    station_id: str | None = None
    station_key: str | None = None
    matched_by: str | None = None


@dataclass(frozen=True, slots=True)
class SeenRide:
    """A row of mv_rides; stations are null outside stations."""

    bike_id: str
    left_at: datetime
    left_station_id: str | None
    arrived_at: datetime
    arrived_station_id: str | None
    kind: str


@dataclass(frozen=True, slots=True)
class NamedEnd:
    """An end of a ride in the list: where and when a bike left (`leaves`) or arrived."""

    name: str
    bike_id: str
    at: datetime
    leaves: bool


class StationNames:
    """Finds stations by the names in one file.

    Args:
        periods: The history of the stations.
        ends: The ends of all rides in the file.
        seen: What our own archive saw of that day's rides; empty where it knows no bikes.
    """

    def __init__(self, periods: Sequence[Period], ends: Iterable[NamedEnd], seen: Iterable[SeenRide] = ()) -> None:
        self._by_key: dict[str, list[Period]] = defaultdict(list)
        self._by_name: dict[str, list[Period]] = defaultdict(list)
        for period in periods:
            self._by_key[period.station_key].append(period)
            self._by_name[plain_name(period.name)].append(period)
        listed = list(ends)
        names = {plain_name(end.name): end.name for end in listed}
        unknown = {name for name in names if what_of(names[name]) == STATION and name not in self._by_name}
        self._otherwise = self._by_words(unknown, names.keys() - unknown)
        self._otherwise |= self._by_bikes(unknown - self._otherwise.keys(), listed, seen)

    def place(self, name: str, at: datetime) -> Place:
        """What a name meant at an instant."""
        what = what_of(name)
        if what != STATION:
            return Place(what)
        plain = plain_name(name)
        if plain in self._by_name:
            period = _nearest(self._by_name[plain], at)
            now = _nearest(self._by_key[period.station_key], at)
            same = plain_name(now.name) == plain
            return Place(STATION, now.station_id, period.station_key, NAME if same else FORMER_NAME)
        if plain in self._otherwise:
            key, matched_by = self._otherwise[plain]
            return Place(STATION, _nearest(self._by_key[key], at).station_id, key, matched_by)
        return Place(UNMATCHED)

    def _by_words(self, unknown: Iterable[str], known: Iterable[str]) -> dict[str, tuple[str, str]]:
        """Names that differ in signs, or in the order of words, from that of one station with no name in the file."""
        taken = {period.station_key for name in known for period in self._by_name.get(name, [])}
        found: dict[str, tuple[str, str]] = {}
        for matched_by, form in ((SPELLING, _in_order), (WORD_ORDER, _in_any_order)):
            keys: dict[tuple[str, ...], set[str]] = defaultdict(set)
            for name, periods in self._by_name.items():
                keys[form(name)].update(period.station_key for period in periods)
            for name in sorted(set(unknown) - found.keys()):
                candidates = keys[form(name)] - taken
                if len(candidates) == 1 and form(name):
                    found[name] = (candidates.pop(), matched_by)
            taken |= {key for key, _ in found.values()}
        return found

    def _by_bikes(
        self, unknown: set[str], ends: Iterable[NamedEnd], seen: Iterable[SeenRide]
    ) -> dict[str, tuple[str, str]]:
        """Names at which bikes are seen at one station at that moment."""
        if not unknown:
            return {}
        by_bike: dict[str, list[SeenRide]] = defaultdict(list)
        for ride in seen:
            by_bike[ride.bike_id].append(ride)
        votes: dict[str, Counter[str | None]] = defaultdict(Counter)
        for end in ends:
            name = plain_name(end.name)
            if name not in unknown:
                continue
            for ride in by_bike[end.bike_id]:
                at, number = (
                    (ride.left_at, ride.left_station_id) if end.leaves else (ride.arrived_at, ride.arrived_station_id)
                )
                if abs(at - end.at) <= SEEN_WITHIN:
                    votes[name][self._key_of(number, at)] += 1
                    break
        found = {}
        for name, counted in votes.items():
            (key, most), *_ = counted.most_common(1)
            if key is not None and most >= _MIN_VOTES and most >= _MIN_SHARE * counted.total():
                found[name] = (key, BIKES)
        return found

    def _key_of(self, number: str | None, at: datetime) -> str | None:
        periods = [p for periods in self._by_key.values() for p in periods if p.station_id == number]
        return _nearest(periods, at).station_key if periods else None


def what_of(name: str) -> Literal["station", "outside", "van"]:
    """What a name says by itself: a van's begins with a dot."""
    plain = plain_name(name)
    if plain.startswith("."):
        return VAN
    return OUTSIDE if plain.startswith(_OUTSIDE_NAMES) else STATION


def _nearest(periods: Sequence[Period], at: datetime) -> Period:
    """The period that holds at an instant, else the one nearest to it: a list may be older than the archive."""

    def away(period: Period) -> timedelta:
        if at < period.valid_from:
            return period.valid_from - at
        return max(at - period.valid_to, timedelta()) if period.valid_to else timedelta()

    return min(periods, key=away)


def _in_order(name: str) -> tuple[str, ...]:
    return tuple(_WORDS.findall(name))


def _in_any_order(name: str) -> tuple[str, ...]:
    return tuple(sorted(_WORDS.findall(name)))

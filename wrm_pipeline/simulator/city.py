"""A realistic Wrocław: every snapshot is a pure function of the seed and the instant.

Each bike rides in cycles. The instant of the k-th ride of a bike and the place where it ends are hashes of (seed, bike,
k), so any instant can be computed on its own, in any order, without replaying history; and since each ride starts where
the last one ended, no bike is ever in two places or moves without a ride.

The time of day matters twice. Cycles run in *ride units*, a clock that is fast at rush hour (8 h, 16 h) and nearly
stops at 3 h; and the destination of a ride depends on the hour at which it begins: offices and the centre in the
morning, the estates in the evening.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from itertools import accumulate, combinations, count
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from wrm_pipeline.simulator.places import (
    DEPOT_LAT,
    DEPOT_LON,
    DISTRICTS,
    LANDMARKS,
    WROCLAW,
    District,
    Home,
    Landmark,
    Profile,
)

COMBINED = "timestamp|gmt_local_diff_sec|gmt_servertime_diff_sec"
HEADER = (
    f"#id,{COMBINED},name,lat,lon,bikes,spaces,"
    "installed,locked,temporary,total_docks,givesbonus_acceptspedelecs_fbbattlevel,pedelecs"
)

_QUARTER_S = 900

# Rides started in each hour of the local day, in arbitrary units: two commuter peaks on working days, one broad
# afternoon at the weekend with a longer night before it.
_WORKDAY = (6, 4, 2, 2, 3, 12, 38, 80, 88, 52, 42, 44, 50, 54, 66, 96, 104, 92, 76, 60, 44, 32, 22, 12)
_WEEKEND = (16, 12, 9, 6, 4, 4, 9, 17, 32, 50, 68, 80, 86, 88, 90, 90, 86, 80, 70, 58, 46, 36, 28, 20)

# Rides of a day, Monday to Sunday, relative to a Monday; a week of ride units.
_DAY_UNITS = (1.0, 1.0, 1.0, 1.0, 1.05, 0.8, 0.65)
_WEEK_UNITS = sum(_DAY_UNITS)
_UNITS_BEFORE_DAY = (0.0, *accumulate(_DAY_UNITS))

# Local hours at which the attraction of places changes: night, morning, midday, afternoon, evening.
_PHASE_HOURS = (0, 5, 10, 14, 19)
_PROFILES: tuple[Profile, ...] = ("centre", "office", "university", "rail", "estate", "leisure", "suburb")
# How strongly a dock of each profile attracts the rides of each phase: one row per phase, one column per profile.
_WORKDAY_PULL = (
    (0.8, 0.3, 0.4, 0.6, 1.9, 0.3, 1.0),
    (1.6, 2.6, 2.6, 1.5, 0.5, 0.4, 0.4),
    (1.6, 1.3, 1.8, 1.1, 0.8, 0.9, 0.6),
    (1.2, 0.6, 0.8, 1.5, 1.4, 1.4, 1.0),
    (1.3, 0.4, 0.5, 0.9, 1.8, 1.1, 1.1),
)
_WEEKEND_PULL = (
    (1.2, 0.2, 0.4, 0.6, 1.9, 0.4, 1.0),
    (1.0, 0.4, 0.5, 1.0, 1.3, 1.4, 0.9),
    (1.8, 0.4, 0.7, 1.0, 0.9, 2.6, 0.8),
    (1.9, 0.4, 0.7, 1.0, 1.0, 2.8, 0.8),
    (1.9, 0.3, 0.6, 0.8, 1.5, 1.2, 1.0),
)

# Docks of an ordinary station and their frequency, as in the real city, where 10 is usual.
_DOCK_SIZES, _DOCK_SHARES = (4, 6, 8, 10, 14, 16), (9, 61, 10, 134, 5, 14)

_BIKES_PER_STATION = 9.3  # 2,275 bikes stood at 258 stations on 2025-08-21; the others are on their way
_DEPOT_SHARE = 0.42  # of the free-standing bikes: 63 of 150
_ROAMER_FREE_CHANCE = 0.7  # a free-standing bike's ride ends away from stations; otherwise it would count at one
_PEDELEC_SHARE = 0.07
_RIDE_MINUTES = (6, 10, 15, 22, 35)
# A ride starts in the first four fifths of its cycle, so two starts are at least a fifth of a cycle apart.
_START_SPAN = 0.8

# Stations with a bad radio report three times a day, in turn: at any instant at least four of the five reports are more
# than an hour old.
_DEAF_STATIONS = 5
_DEAF_PERIOD_S = 8 * 3600

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


@lru_cache(maxsize=64)
def _day_units(day: date, zone: ZoneInfo) -> tuple[int, tuple[float, ...]]:
    """The ride-unit clock of one local day.

    Args:
        day: Date in the zone.
        zone: The city's.

    Returns:
        Local midnight in Unix seconds, and the ride units at each quarter of an hour from there up to the
        next midnight: 97 values, or 93 and 101 on the days on which the clocks change.
    """
    midnight = int(datetime.combine(day, time.min, zone).timestamp())
    next_midnight = int(datetime.combine(day + timedelta(days=1), time.min, zone).timestamp())
    hourly = _hourly(day.weekday())
    rides = [
        hourly[datetime.fromtimestamp(quarter, zone).hour] for quarter in range(midnight, next_midnight, _QUARTER_S)
    ]
    week, weekday = divmod(day.toordinal() - 1, 7)
    start = week * _WEEK_UNITS + _UNITS_BEFORE_DAY[weekday]
    scale = _DAY_UNITS[weekday] / sum(rides)
    return midnight, tuple(start + scale * done for done in accumulate(rides, initial=0))


def _hourly(weekday: int) -> Sequence[int]:
    return _WEEKEND if weekday >= 5 else _WORKDAY


def _ride_units(unix_s: int, zone: ZoneInfo) -> float:
    """Ride units at an instant: increases strictly with time, by `_DAY_UNITS` a day."""
    midnight, units = _day_units(datetime.fromtimestamp(unix_s, zone).date(), zone)
    quarter, seconds = divmod(unix_s - midnight, _QUARTER_S)
    return units[quarter] + (units[quarter + 1] - units[quarter]) * seconds / _QUARTER_S


def _phase_edges() -> NDArray[np.float64]:
    """Ride units, from Monday's midnight, at which the phases of a week begin; five a day."""
    return np.array(
        [
            _UNITS_BEFORE_DAY[weekday] + _DAY_UNITS[weekday] * sum(hourly[:hour]) / sum(hourly)
            for weekday, hourly in ((weekday, _hourly(weekday)) for weekday in range(7))
            for hour in _PHASE_HOURS
        ]
    )


def _uniform(keys: NDArray[np.uint64], counter: NDArray[np.int64], salt: int) -> NDArray[np.float64]:
    """Hashes (key, counter, salt) to numbers in [0, 1) by splitmix64, the same on every machine."""
    x = keys + (counter.astype(np.uint64) * np.uint64(8) + np.uint64(salt)) * np.uint64(_GOLDEN)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    hashed = x ^ (x >> np.uint64(31))
    uniform: NDArray[np.float64] = (hashed >> np.uint64(11)) * 2.0**-53
    return uniform


def _quoted(name: str) -> str:
    """A CSV field: in quotes only if it contains a comma or a quote."""
    return '"' + name.replace('"', '""') + '"' if "," in name or '"' in name else name


@dataclass(frozen=True, slots=True)
class _Station:
    """The constant properties of a station.

    Attributes:
        front: The row's beginning, up to the combined field.
        middle: From the name to the longitude.
        docks: As reported.
        broken: Docks that are neither taken nor free.
        locked: Its flag.
        flag: `givesbonus_acceptspedelecs_fbbattlevel` as text.
        lat: Degrees north.
        lon: Degrees east.
        second: Its report's second within the minute, 0–59.
    """

    front: str
    middle: str
    docks: int
    broken: int
    locked: str
    flag: str
    lat: float
    lon: float
    second: int

    def row(self, reported_s: int, offset_s: int, bikes: int, pedelecs: int) -> str:
        spaces = max(0, self.docks - bikes - self.broken)
        return (
            f"{self.front}{reported_s}|{offset_s}|-1,{self.middle},{bikes},{spaces},"
            f"true,{self.locked},false,{self.docks},{self.flag},{pedelecs}"
        )


@dataclass(frozen=True, slots=True)
class _Fleet:
    """The places of all bikes at one instant.

    Attributes:
        bikes: Bikes at each station.
        pedelecs: Of these, the e-bikes.
        docked: Bikes at stations: (index of the bike in the fleet, index of the station).
        free: Free-standing bikes: (index of the bike in the fleet, degrees north, degrees east, battery
            percent or -1 for a bike without a motor).
    """

    bikes: list[int]
    pedelecs: list[int]
    docked: tuple[NDArray[np.intp], NDArray[np.int64]]
    free: list[tuple[int, float, float, int]]


class City:
    """A simulated bike-share system.

    Two cities of one seed are the same city. Safe to share between threads: nothing changes after its
    construction but caches of pure functions.

    Args:
        seed: Chooses the stations' names and places and every ride.
        station_count: Stations in the feed.
        bike_count: Free-standing bikes in the feed, on average; 42 % of them stand in a depot 300 km to the east
            and never move. About 9 bikes per station stand at stations.
        home: Where the city is; another place has the same stations, moved there.
    """

    def __init__(self, seed: int = 1, station_count: int = 260, bike_count: int = 150, home: Home = WROCLAW) -> None:
        self.home = home
        north, east = home.lat - WROCLAW.lat, home.lon - WROCLAW.lon
        rng = random.Random(seed)
        landmarks = [
            mark._replace(lat=mark.lat + north, lon=mark.lon + east) for mark in _landmarks(rng, station_count)
        ]
        self._stations = [_station(rng, number, mark) for number, mark in enumerate(landmarks)]
        # Suburbs come last, after the bikes, like later additions in the real feed.
        self._suburbs_from = next((i for i, mark in enumerate(landmarks) if mark.profile == "suburb"), station_count)
        self._deaf = {
            station: i * _DEAF_PERIOD_S // _DEAF_STATIONS
            for i, station in enumerate(rng.sample(range(station_count), min(_DEAF_STATIONS, station_count)))
        }
        self._pulls = self._cumulative_pulls(landmarks)
        self._phase_edges = _phase_edges()

        depot_count = round(bike_count * _DEPOT_SHARE)
        roamers = round((bike_count - depot_count) / _ROAMER_FREE_CHANCE)
        docked = max(0, round(station_count * _BIKES_PER_STATION - roamers * (1 - _ROAMER_FREE_CHANCE)))
        fleet = roamers + docked
        self._free_chance = np.array([_ROAMER_FREE_CHANCE] * roamers + [0.0] * docked)
        self._keys = np.array([rng.getrandbits(64) for _ in range(fleet)], dtype=np.uint64)
        # Ride units between two rides. Bikes at stations: 0.34 on average, 3 rides on a working day. Free-standing
        # bikes stay longer, a day or two.
        self._period = np.array(
            [rng.uniform(0.7, 2.5) for _ in range(roamers)]
            + [min(4.0, 0.22 + rng.expovariate(1 / 0.12)) for _ in range(docked)]
        )
        self._phase = np.array([rng.random() for _ in range(fleet)])
        self._is_pedelec = np.array([rng.random() < _PEDELEC_SHARE for _ in range(fleet)], dtype=bool)
        self._lats = np.array([station.lat for station in self._stations])
        self._lons = np.array([station.lon for station in self._stations])

        all_bikes = fleet + depot_count
        numbers = rng.sample(range(590_000, 590_000 + max(5_000, 2 * all_bikes)), all_bikes)
        self._bike_fronts = [(f"fb{number},", f"BIKE {number}", rng.randrange(60)) for number in numbers]
        self._depot = [
            (
                fleet + i,
                round(DEPOT_LAT + north + rng.gauss(0, 0.0002), 6),
                round(DEPOT_LON + east + rng.gauss(0, 0.0003), 6),
                rng.randrange(5, 60) if rng.random() < _PEDELEC_SHARE else -1,
            )
            for i in range(depot_count)
        ]
        self._fleet = lru_cache(maxsize=64)(self._fleet_at)

    def snapshot(self, at: datetime) -> bytes:
        """The feed's body at an instant.

        Args:
            at: Any aware instant; parts of a second do not count.

        Returns:
            CSV text in UTF-8, one line per station and free-standing bike after the header: about 400 lines
            and 40 kB.

        Raises:
            ValueError: `at` has no time zone.
        """
        if at.utcoffset() is None:
            raise ValueError(f"an instant needs a time zone: {at!r}")
        now_s = int(at.timestamp() // 1)
        fleet = self._fleet(now_s)
        rows = [HEADER]
        rows += [self._station_row(i, now_s, fleet) for i in range(self._suburbs_from)]
        offset_s = self._local_offset_s(now_s)
        for bike, lat, lon, battery in (*self._depot, *fleet.free):
            front, name, second = self._bike_fronts[bike]
            level, pedelecs = ("", 0) if battery < 0 else (battery, 1)
            rows.append(
                f"{front}{_last_report_s(now_s, second)}|{offset_s}|-1,{name},{lat},{lon},"
                f"1,0,true,false,true,0,{level},{pedelecs}"
            )
        rows += [self._station_row(i, now_s, fleet) for i in range(self._suburbs_from, len(self._stations))]
        return ("\n".join(rows) + "\n").encode()

    def docked(self, at: datetime) -> dict[str, list[tuple[int, bool]]]:
        """By the number of each station: its bikes in the snapshot of an instant (aware), and which are e-bikes."""
        now_s = int(at.timestamp() // 1)
        found: dict[str, list[tuple[int, bool]]] = {}
        for index, station in enumerate(self._stations):
            reported_s = _last_report_s(now_s, self._deaf[index], _DEAF_PERIOD_S) if index in self._deaf else now_s
            bikes, stations = self._fleet(reported_s).docked
            here = bikes[stations == index].tolist()
            found[station.front.rstrip(",")] = [
                (int(self._bike_fronts[bike][0][2:-1]), bool(self._is_pedelec[bike])) for bike in here
            ]
        return found

    def _station_row(self, index: int, now_s: int, fleet: _Fleet) -> str:
        """The row of a station; one with a bad radio repeats its last report, hours old."""
        station = self._stations[index]
        if index in self._deaf:
            reported_s = _last_report_s(now_s, self._deaf[index], _DEAF_PERIOD_S)
            fleet = self._fleet(reported_s)
        else:
            reported_s = _last_report_s(now_s, station.second)
        return station.row(reported_s, self._local_offset_s(reported_s), fleet.bikes[index], fleet.pedelecs[index])

    def _local_offset_s(self, unix_s: int) -> int:
        offset = datetime.fromtimestamp(unix_s, self.home.zone).utcoffset()
        return int(offset.total_seconds()) if offset else 0

    def _fleet_at(self, now_s: int) -> _Fleet:
        """Places every bike: about 2,400 of them in 0.5 ms."""
        units = _ride_units(now_s, self.home.zone)
        # The number of each bike's latest ride, k, and when it began, in ride units.
        cycles = units / self._period + self._phase
        ride = np.floor(cycles).astype(np.int64)
        start = _uniform(self._keys, ride, 0) * _START_SPAN
        ride -= cycles - ride < start
        start = _uniform(self._keys, ride, 0) * _START_SPAN
        began = (ride + start - self._phase) * self._period

        # On its way: it began less than its own duration ago.
        on_the_way_since = np.array([_ride_units(now_s - 60 * minutes, self.home.zone) for minutes in _RIDE_MINUTES])
        duration = (_uniform(self._keys, ride, 1) * len(_RIDE_MINUTES)).astype(np.int64)
        parked = began <= on_the_way_since[duration]

        # The pulls of phase p lie in (p, p + 1], so one search over all phases finds each bike's station.
        phase = np.searchsorted(self._phase_edges, began % _WEEK_UNITS, side="right") - 1
        found = np.searchsorted(self._pulls, phase + _uniform(self._keys, ride, 2), side="right")
        station = np.minimum(found - phase * len(self._stations), len(self._stations) - 1)

        free = parked & (_uniform(self._keys, ride, 3) < self._free_chance)
        docked_bikes = np.flatnonzero(parked & ~free)
        docked = station[docked_bikes]
        docked_pedelecs = station[parked & ~free & self._is_pedelec]
        return _Fleet(
            bikes=np.bincount(docked, minlength=len(self._stations)).tolist(),
            pedelecs=np.bincount(docked_pedelecs, minlength=len(self._stations)).tolist(),
            docked=(docked_bikes, docked),
            free=self._free_bikes(np.flatnonzero(free), ride[free], station[free]),
        )

    def _free_bikes(
        self, bikes: NDArray[np.intp], ride: NDArray[np.int64], station: NDArray[np.int64]
    ) -> list[tuple[int, float, float, int]]:
        """Places each bike within about 700 m of a station."""
        keys = self._keys[bikes]
        lats = self._lats[station] + (_uniform(keys, ride, 4) - 0.5) * 0.013
        lons = self._lons[station] + (_uniform(keys, ride, 5) - 0.5) * 0.020
        battery = np.where(self._is_pedelec[bikes], 8 + (_uniform(keys, ride, 6) * 90).astype(np.int64), -1)
        return list(zip(bikes.tolist(), lats.round(6).tolist(), lons.round(6).tolist(), battery.tolist(), strict=True))

    def _cumulative_pulls(self, landmarks: Sequence[Landmark]) -> NDArray[np.float64]:
        """For each phase of the week, the cumulated shares of the stations, plus the number of the phase."""
        profile = [_PROFILES.index(mark.profile) for mark in landmarks]
        # A station without docks is a rack of about the smallest size.
        size = np.array([mark.pull * max(mark.docks, 4) for mark in landmarks])
        rows = []
        for number, pull in enumerate((*_WORKDAY_PULL * 5, *_WEEKEND_PULL * 2)):
            cumulative = np.cumsum(size * np.array(pull)[profile])
            rows.append(number + cumulative / cumulative[-1])
        return np.concatenate(rows)


def _last_report_s(now_s: int, phase_s: int, period_s: int = 60) -> int:
    """The time of the latest report up to now, with one report every `period_s` seconds."""
    return now_s - (now_s - phase_s) % period_s


def _landmarks(rng: random.Random, station_count: int) -> list[Landmark]:
    """The stations of a city: the landmarks, then street corners; suburbs moved to the end."""
    marks = list(LANDMARKS[:station_count])
    corners = [_corners(rng, district) for district in DISTRICTS]
    shares = [district.share for district in DISTRICTS]
    chosen = rng.choices(corners, shares, k=station_count - len(marks))
    marks += [next(corner) for corner in chosen]
    return sorted(marks, key=lambda mark: mark.profile == "suburb")


def _corners(rng: random.Random, district: District) -> Iterator[Landmark]:
    """Endless stations of a district: once all pairs of streets are used, they recur with a number."""
    pairs = list(combinations(district.streets, 2))
    rng.shuffle(pairs)
    for round_number in count(1):
        for first, second in pairs:
            yield Landmark(
                name=f"{first} / {second}" + (f" {round_number}" if round_number > 1 else ""),
                lat=rng.gauss(district.lat, district.spread_deg),
                lon=rng.gauss(district.lon, district.spread_deg * 1.6),  # a degree of longitude is shorter
                profile=district.profile,
                docks=rng.choices(_DOCK_SIZES, _DOCK_SHARES)[0],
                # Some stations overflow, others are always empty: this spread leaves a third over capacity.
                pull=rng.lognormvariate(0, 0.75),
            )


def _station(rng: random.Random, number: int, mark: Landmark) -> _Station:
    station_id = 15_001 + number + number // 40  # a number is skipped now and then, as in the real list
    return _Station(
        front=f"{station_id},",
        middle=f"{_quoted(mark.name)},{round(mark.lat, 6)},{round(mark.lon, 6)}",
        docks=mark.docks,
        broken=rng.randint(1, 3) if rng.random() < 0.04 else 0,  # 10 of 258
        locked="true" if rng.random() < 0.01 else "false",
        flag="true" if rng.random() < 0.05 else "false",
        lat=mark.lat,
        lon=mark.lon,
        second=rng.randrange(60),
    )

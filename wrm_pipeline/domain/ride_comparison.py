"""The rides of the city's list beside those that the archive saw: found, missed, invented."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from wrm_pipeline.domain.ride_names import OUTSIDE, SEEN_WITHIN, STATION, UNMATCHED, VAN, SeenRide

# A failed rental: back at the same place within this time.
FAILED_WITHIN = timedelta(minutes=2)
RIDE, SAME_PLACE = "ride", "same_place"
COMPARED_KINDS = (RIDE, SAME_PLACE)


@dataclass(frozen=True, slots=True)
class ListedRide:
    """A ride of the city's list whose ends are known: what each is, and the station's number."""

    bike_id: str
    left_at: datetime
    left_what: str
    left_station_id: str | None
    arrived_at: datetime
    arrived_what: str
    arrived_station_id: str | None

    @property
    def by_van(self) -> bool:
        """Whether it begins or ends in a van."""
        return VAN in (self.left_what, self.arrived_what)

    @property
    def failed(self) -> bool:
        """Whether the bike was back at once."""
        same = self.left_what != UNMATCHED and (self.left_what, self.left_station_id) == (
            self.arrived_what,
            self.arrived_station_id,
        )
        return same and self.arrived_at - self.left_at <= FAILED_WITHIN


@dataclass(frozen=True, slots=True)
class Comparison:
    """A day's counts; `found`, `invented` and `seen_rides` are None where the archive knows no bikes."""

    ledger_rides: int
    failed_rentals: int
    station_rentals: int
    van_rides: int
    unmatched_ends: int
    found: int | None = None
    invented: int | None = None
    seen_rides: int | None = None

    @property
    def missed(self) -> int | None:
        """Rides of the list that the archive did not see."""
        return None if self.found is None else self.ledger_rides - self.found


def compare(listed: Sequence[ListedRide], seen: Iterable[SeenRide]) -> Comparison:
    """Pair the rides of a day, each once: the same bike, the same ends, and times at most 6 minutes apart.

    Args:
        listed: Of the city's list, all that ended on the day.
        seen: Of mv_rides, those of the kinds `ride` and `same_place` that ended on the day; none: it knows no bikes.
    """
    rides = [ride for ride in listed if not ride.by_van and not ride.failed]
    unmatched = sum((ride.left_what, ride.arrived_what).count(UNMATCHED) for ride in listed)
    vans = sum(ride.by_van for ride in listed)
    at_stations = sum(ride.left_what == STATION and not ride.by_van for ride in listed)
    counted = Comparison(len(rides), len(listed) - len(rides) - vans, at_stations, vans, unmatched)
    by_bike: dict[str, list[SeenRide]] = defaultdict(list)
    for one in seen:
        by_bike[one.bike_id].append(one)
    if not by_bike:
        return counted
    seen_rides = sum(one.kind == RIDE for ours in by_bike.values() for one in ours)
    found = invented = 0
    listed_by_bike: dict[str, list[ListedRide]] = defaultdict(list)
    for ride in rides:
        listed_by_bike[ride.bike_id].append(ride)
    for bike_id, ours in by_bike.items():
        left = list(ours)
        for ride in sorted(listed_by_bike[bike_id], key=lambda ride: ride.left_at):
            fitting = [one for one in left if _is_same(ride, one)]
            if fitting:
                found += 1
                left.remove(min(fitting, key=lambda one: abs(one.arrived_at - ride.arrived_at)))
        invented += sum(one.kind == RIDE for one in left)
    return replace(counted, found=found, invented=invented, seen_rides=seen_rides)


def _is_same(ride: ListedRide, one: SeenRide) -> bool:
    return (
        abs(ride.left_at - one.left_at) <= SEEN_WITHIN
        and abs(ride.arrived_at - one.arrived_at) <= SEEN_WITHIN
        and _is_at(ride.left_what, ride.left_station_id, one.left_station_id)
        and _is_at(ride.arrived_what, ride.arrived_station_id, one.arrived_station_id)
    )


def _is_at(what: str, listed: str | None, seen: str | None) -> bool:
    """Whether an end can be the same place: a name that is no known station may be any."""
    if what == STATION:
        return listed == seen
    return seen is None if what == OUTSIDE else True

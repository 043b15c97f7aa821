"""Stations keep their identity through names, places and numbers: thirty mutations, alone and together."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from math import cos, radians

import pyarrow as pa
import pytest

from wrm_pipeline.domain.station_observations import observations_of
from wrm_pipeline.domain.stations_history import Observation, Period, stations_history

START = datetime(2026, 3, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Station:
    """What the feed shows of a number."""

    name: str
    lat: float
    lon: float

    def moved(self, metres: float) -> "Station":
        """East of it."""
        return replace(self, lon=self.lon + metres / (111_320 * cos(radians(self.lat))))

    def renamed(self, name: str) -> "Station":
        return replace(self, name=name)


City = Mapping[str, Station]

# Made up; like real ones they come in pairs beside one another, with names that differ by little.
FIRST_OF_ALL = {
    "100": Station("Lipowa / Brzozowa", 51.1000, 17.0000),
    "101": Station("Brzozowa / Lipowa", 51.1000, 17.0011),  # 77 m
    "102": Station("Dworzec", 51.0950, 17.0300),
    "103": Station("Dworzec, południe", 51.0958, 17.0303),  # 91 m
    "104": Station("Klonowa (Kino)", 51.1200, 17.0600),
    "105": Station("Klonowa", 51.1205, 17.0600),  # 56 m
    "106": Station("Młyńska", 51.1300, 17.0900),
    "107": Station("Rynek", 51.1100, 17.0310),
    "108": Station("Rynek Wschodni", 51.1100, 17.0330),
    "109": Station("Ogrodowa", 51.0800, 17.0000),
    "110": Station("Szkolna", 51.0700, 17.0100),
    "111": Station("Kolejowa / Szkolna", 51.0710, 17.0100),  # 111 m
}


def day_of(city: City, number: int, hours: float = 24) -> list[Observation]:
    """A day in which nothing changes."""
    begins = START + timedelta(days=number)
    return [
        Observation(station_id, one.name, one.lat, one.lon, begins, begins + timedelta(hours=hours, minutes=-1), 288)
        for station_id, one in city.items()
    ]


def history(*cities: City) -> list[Period]:
    """Two days of each city, one after another."""
    doubled = [city for city in cities for _ in range(2)]
    return stations_history(day_of(city, number) for number, city in enumerate(doubled))


def now(periods: list[Period]) -> dict[str, str]:
    """The identity of each number that is there at the end."""
    return {period.station_id: period.station_key for period in periods if period.valid_to is None}


def mutate(city: City, *changes: Callable[[dict[str, Station]], object]) -> City:
    made = dict(city)
    for change in changes:
        change(made)
    return made


def rename(number: str, name: str) -> Callable[[dict[str, Station]], object]:
    return lambda city: city.update({number: city[number].renamed(name)})


def move(number: str, metres: float) -> Callable[[dict[str, Station]], object]:
    return lambda city: city.update({number: city[number].moved(metres)})


def renumber(old: str, new: str) -> Callable[[dict[str, Station]], object]:
    return lambda city: city.update({new: city.pop(old)})


def add(number: str, station: Station) -> Callable[[dict[str, Station]], object]:
    return lambda city: city.update({number: station})


def remove(number: str) -> Callable[[dict[str, Station]], object]:
    return lambda city: city.pop(number)


def swap_names(one: str, other: str) -> Callable[[dict[str, Station]], object]:
    return lambda c: c.update({one: c[one].renamed(c[other].name), other: c[other].renamed(c[one].name)})


def swap_numbers(one: str, other: str) -> Callable[[dict[str, Station]], object]:
    return lambda c: c.update({one: c[other], other: c[one]})


def swap_places(one: str, other: str) -> Callable[[dict[str, Station]], object]:
    a, b = FIRST_OF_ALL[one], FIRST_OF_ALL[other]
    return lambda c: c.update({one: replace(b, name=a.name), other: replace(a, name=b.name)})


def reuse(number: str, name: str, metres: float) -> Callable[[dict[str, Station]], object]:
    return lambda city: city.update({number: city[number].moved(metres).renamed(name)})


A = FIRST_OF_ALL
# What is done on one day, whose identity each number has then, as far as it is not its own, and the reasons given.
MUTATIONS: dict[str, tuple[list[Callable[[dict[str, Station]], object]], dict[str, str], set[str]]] = {
    "rename": ([rename("106", "Młyńska / Wodna")], {}, {"renamed"}),
    "rename to a name that another had": ([rename("106", "Dworzec"), rename("102", "Stacja")], {}, {"renamed"}),
    "reversed names": ([rename("106", "Wodna / Młyńska")], {}, {"renamed"}),
    "move by 20 m": ([move("106", 20)], {}, {"moved"}),
    "move by 2 km": ([move("106", 2000)], {}, {"moved"}),
    "move by 2 km of one of a pair": ([move("100", 2000)], {}, {"moved"}),
    "move to where another stands": ([move("100", 77)], {}, {"moved"}),
    "rename and move by 20 m": ([rename("106", "Wodna"), move("106", 20)], {}, {"renamed+moved"}),
    "rename and move by 100 m": ([rename("106", "Wodna"), move("106", 100)], {}, {"renamed+moved"}),
    "number used elsewhere": ([reuse("106", "Nowa", 2000)], {"106": "106-2"}, {"number_reused"}),
    "number used elsewhere, one of a pair": ([reuse("104", "Nowa", 2000)], {"104": "104-2"}, {"number_reused"}),
    "another number": ([renumber("106", "206")], {"206": "106"}, {"number_changed"}),
    "another number, moved by 20 m": (
        [renumber("106", "206"), move("206", 20)],
        {"206": "106"},
        {"number_changed+moved"},
    ),
    "another number for one of a pair": ([renumber("100", "200")], {"200": "100"}, {"number_changed"}),
    "another number, and the old one used elsewhere": (
        [renumber("106", "206"), add("106", Station("Nowa", 51.05, 17.1))],
        {"206": "106", "106": "106-2"},
        {"number_changed", "number_reused"},
    ),
    "swap of names, far apart": ([swap_names("106", "109")], {}, {"renamed"}),
    "swap of names in a pair": ([swap_names("100", "101")], {}, {"renamed"}),
    "swap of numbers, far apart": (
        [swap_numbers("106", "109")],
        {"106": "109", "109": "106"},
        {"number_changed"},
    ),
    "swap of numbers in a pair": ([swap_numbers("100", "101")], {"100": "101", "101": "100"}, {"number_changed"}),
    "swap of places in a pair": ([swap_places("104", "105")], {}, {"moved"}),
    "split: a second one beside it": (
        [rename("106", "Młyńska I"), add("206", A["106"].moved(40).renamed("Młyńska II"))],
        {},
        {"renamed", "first"},
    ),
    "split: a second one with the same name": ([add("206", A["106"].moved(40))], {}, {"first"}),
    "split into two new numbers": (
        [remove("106"), add("206", A["106"]), add("207", A["106"].moved(60).renamed("Młyńska II"))],
        {"206": "106"},
        {"number_changed", "first"},
    ),
    "merge of a pair": ([remove("105"), rename("104", "Klonowa")], {}, {"renamed"}),
    "merge of a pair in the middle": ([remove("101"), move("100", 35)], {}, {"moved"}),
    "a new station": ([add("300", Station("Nowa", 51.05, 17.1))], {}, {"first"}),
    "a new station beside one": ([add("300", A["106"].moved(70).renamed("Wodna"))], {}, {"first"}),
    "vanished": ([remove("106")], {}, set()),
    "vanished, and another of the pair renamed": ([remove("100"), rename("101", "Lipowa / Brzozowa")], {}, {"renamed"}),
    "blanks and capitals": ([rename("106", " MŁYŃSKA\u00a0 ")], {}, set()),
}


def test_there_are_thirty_mutations() -> None:
    assert len(MUTATIONS) == 30


@pytest.mark.parametrize("name", MUTATIONS)
def test_each_mutation_keeps_the_identities(name: str) -> None:
    changes, others, reasons = MUTATIONS[name]
    after = mutate(A, *changes)
    periods = history(A, after)

    assert now(periods) == {number: others.get(number, number) for number in after}
    begun = {period.change for period in periods if period.valid_from > START}
    assert begun == reasons
    gone = {period.station_key for period in periods} - set(now(periods).values())
    assert gone == set(A) - set(now(periods).values())


@pytest.mark.parametrize("other", ["move by 2 km", "another number"])
@pytest.mark.parametrize("name", MUTATIONS)
def test_mutations_of_other_stations_on_the_same_day_change_nothing(name: str, other: str) -> None:
    """The second mutation is made on a second city, 30 km away, whose numbers begin with 9."""

    def far(city: City) -> City:
        return {f"9{number}": replace(one, lat=one.lat + 0.3, name=f"{one.name} B") for number, one in city.items()}

    changes, others, _ = MUTATIONS[name]
    far_changes, far_others, _ = MUTATIONS[other]
    here, there = mutate(A, *changes), mutate(A, *far_changes)
    periods = history(A | far(A), here | far(there))

    expected = {number: others.get(number, number) for number in here}
    expected |= {f"9{number}": f"9{far_others.get(number, number)}" for number in there}
    assert now(periods) == expected


def test_a_station_returns_after_months_as_itself() -> None:
    gone = mutate(A, remove("106"))
    days = [day_of(A, 0), *(day_of(gone, number) for number in range(1, 120)), day_of(A, 120)]
    first, second = (period for period in stations_history(days) if period.station_id == "106")

    assert (first.station_key, second.station_key, second.change) == ("106", "106", "returned")
    assert first.valid_to is not None
    assert first.valid_to.date() == date(2026, 3, 1)
    assert second.valid_from == START + timedelta(days=120)
    assert second.valid_to is None


@pytest.mark.parametrize(
    ("station", "number", "key", "change"),
    [
        (A["106"].renamed("Wodna"), "106", "106", "returned+renamed"),
        (A["106"].moved(2000), "106", "106", "returned+moved"),
        (A["106"], "206", "106", "returned+number_changed"),
        (A["106"].moved(2000).renamed("Nowa"), "106", "106-2", "number_reused"),
    ],
)
def test_what_returns_is_judged_by_two_of_three(station: Station, number: str, key: str, change: str) -> None:
    periods = history(A, mutate(A, remove("106")), {**mutate(A, remove("106")), number: station})

    last = next(period for period in periods if period.station_id == number and period.valid_to is None)
    assert (last.station_key, last.change) == (key, change)


def test_a_number_that_was_used_elsewhere_comes_back_to_its_first_station() -> None:
    periods = history(A, mutate(A, reuse("106", "Nowa", 2000)), mutate(A, remove("106")), A)

    assert [period.station_key for period in periods if period.station_id == "106"] == ["106", "106", "106-2"]
    assert now(periods)["106"] == "106"


def test_numbers_may_overlap_for_a_while() -> None:
    """The new number appears at 10:00, the old one vanishes at 11:00."""
    begins = START + timedelta(days=1)
    change = [seen for seen in day_of(A, 1) if seen.station_id != "106"]
    old, one = next(seen for seen in day_of(A, 1) if seen.station_id == "106"), A["106"]
    change.append(replace(old, last_seen=begins + timedelta(hours=11)))
    change.append(Observation("206", one.name, one.lat, one.lon, begins + timedelta(hours=10), begins + timedelta(1)))
    first, second = (period for period in stations_history([day_of(A, 0), change]) if period.station_key == "106")

    assert (second.station_id, second.change) == ("206", "number_changed")
    assert first.valid_to == second.valid_from == begins + timedelta(hours=10)


def test_half_the_feed_missing_for_a_day_ends_no_station() -> None:
    half = {number: one for number, one in A.items() if int(number) % 2}
    periods = stations_history([day_of(A, 0), day_of(half, 1), day_of(A, 2)])

    assert [period.change for period in periods] == ["first"] * len(A)
    assert all(period.valid_to is None for period in periods)


def test_another_citys_feed_for_a_day_makes_no_station() -> None:
    elsewhere = {number: Station(f"Ulica {number}", 52.2 + int(number) / 1000, 21.0) for number in A}
    periods = stations_history([day_of(A, 0), day_of(elsewhere, 1), day_of(A, 2)])

    assert [period.change for period in periods] == ["first"] * len(A)


def test_a_city_that_is_renumbered_keeps_its_stations() -> None:
    periods = history(A, {f"9{number}": one for number, one in A.items()})

    assert now(periods) == {f"9{number}": number for number in A}


# Rows as the enhanced partitions have them.


def rows_of(states: list[tuple[str, Station, float, float]], every_min: int = 5) -> pa.Table:
    """Rows each five minutes: number, what it shows, from hour to hour."""
    found = []
    for number, one, since, until in states:
        for minute in range(int(since * 60), int(until * 60), every_min):
            at = START + timedelta(minutes=minute)
            found.append((number, one.name, one.lat, one.lon, at, "station"))
    names = ["station_id", "name", "lat", "lon", "file_timestamp", "record_type"]
    table = pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in found])
    return table.set_column(4, "file_timestamp", table["file_timestamp"].cast(pa.timestamp("us", "UTC")))


M = A["106"]


@pytest.mark.parametrize("hours", [1 / 12, 1, 2.5])
def test_a_name_misspelt_for_a_while_makes_no_row(hours: float) -> None:
    wrong = M.renamed("Mlynska")
    seen = observations_of(rows_of([("106", M, 0, 12), ("106", wrong, 12, 12 + hours), ("106", M, 12 + hours, 24)]))

    assert [(one.name, one.first_seen, one.snapshots) for one in seen] == [("Młyńska", START, 288 - round(hours * 12))]


def test_a_name_misspelt_over_midnight_makes_no_row() -> None:
    wrong = M.renamed("Mlynska")
    first = observations_of(rows_of([("106", M, 0, 23), ("106", wrong, 23, 24)]))
    second = observations_of(rows_of([("106", wrong, 24, 25), ("106", M, 25, 48)]))

    assert [period.name for period in stations_history([first, second])] == ["Młyńska"]


def test_a_feed_that_changes_its_mind_each_minute_shows_the_usual_state() -> None:
    states = [("106", M.renamed("Mlynska") if step % 3 == 0 else M, step / 4, (step + 1) / 4) for step in range(96)]

    (seen,) = observations_of(rows_of(states))
    assert (seen.name, seen.first_seen) == ("Młyńska", START)


def test_gps_noise_of_a_few_metres_makes_no_row() -> None:
    states = [("106", M.moved((step * 7) % 11 - 5), step / 4, (step + 1) / 4) for step in range(192)]
    days = [observations_of(rows_of(states[:96])), observations_of(rows_of(states[96:]))]

    assert [len(day) for day in days] == [1, 1]
    assert [period.change for period in stations_history(days)] == ["first"]


def test_a_change_within_the_day_begins_when_it_was_first_seen() -> None:
    seen = observations_of(rows_of([("106", M, 0, 9), ("106", M.renamed("Wodna"), 9, 24)]))
    assert [one.name for one in seen] == ["Młyńska", "Wodna"]
    first, second = stations_history([observations_of(rows_of([("106", M, -24, 0)])), seen])

    assert (second.name, second.change) == ("Wodna", "renamed")
    assert first.valid_to == second.valid_from == START + timedelta(hours=9)


def test_bikes_are_no_stations() -> None:
    rows = rows_of([("106", M, 0, 1)])
    bikes = rows.set_column(5, "record_type", pa.array(["bike"] * rows.num_rows))

    assert observations_of(bikes) == []

"""The city's list of rides: local times, names, and what the archive saw."""

import gzip
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from wrm_pipeline.domain.ride_comparison import Comparison, ListedRide, compare
from wrm_pipeline.domain.ride_ledger import (
    BY_DURATION,
    BY_ORDER,
    COLUMNS,
    PLAIN,
    SKIPPED,
    UNSURE,
    Ledger,
    LedgerRide,
    NotALedgerError,
    of_another_day,
    read_ledger,
)
from wrm_pipeline.domain.ride_names import NamedEnd, Place, SeenRide, StationNames
from wrm_pipeline.domain.stations_history import Period

WARSAW = ZoneInfo("Europe/Warsaw")
HEADER = ",".join(COLUMNS.values())


def listed(*rows: str) -> Ledger:
    return read_ledger("\n".join([HEADER, *rows, ""]).encode(), WARSAW)


def row(
    rental: int, left: str, arrived: str, minutes: int, bike: str = "600001", ends: Sequence[str] = ("Rynek", "Dworzec")
) -> str:
    return f"{rental},{bike},{left},{arrived},{ends[0]},{ends[1]},{minutes}"


def times(ride: LedgerRide) -> tuple[str, str, str]:
    return f"{ride.left_at:%H:%M}", f"{ride.arrived_at:%H:%M}", ride.time_note


# --- the file ---


def test_every_line_is_accounted_for() -> None:
    ledger = listed(
        row(3, "2024-06-03 11:04:53", "2024-06-03 11:12:24", 7),
        row(1, "2024-06-03 10:00:00", "2024-06-03 10:20:30", 21),
        row(1, "2024-06-03 10:00:00", "2024-06-03 10:20:30", 21),
        "",
        row(4, "2024-06-03 11:04", "gestern", 7),
        row(5, "2024-06-03 12:00:00", "2024-06-03 11:00:00", 7),
        "6,600001,2024-06-03 12:00:00",
        row(7, "2024-06-03 12:00:00", "2024-06-03 12:10:00", 10).replace("600001", ""),
        "8,600001,2024-06-03 12:00:00,2024-06-03 12:10:00,Rynek,Rynek,zehn",
    )

    assert [(ride.rental_id, ride.line_number) for ride in ledger.rides] == [("1", 3), ("3", 2)]
    assert [(line.line_number, line.error_type) for line in ledger.dead] == [
        (6, "bad_time"),
        (7, "arrived_before_left"),
        (8, "wrong_field_count"),
        (9, "missing_value"),
        (10, "bad_duration"),
    ]
    assert (ledger.duplicate_rows, ledger.remark_lines, ledger.lines_in) == (1, 2, 10)
    assert ledger.rides[0].left_at == datetime(2024, 6, 3, 8, tzinfo=UTC)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1250"])
def test_spellings_of_a_file(encoding: str, pack: type[bytes]) -> None:
    text = f"{HEADER};\n" + row(
        1, "2024-06-03 10:00:00", "2024-06-03 10:20:30", 20, ends=("Żółta\u00a0", " Poza  stacją")
    )
    (ride,) = read_ledger(pack(text.replace(",", ";").replace("\n", "\r\n").encode(encoding)), WARSAW).rides

    assert (ride.left_name, ride.arrived_name) == ("Żółta", "Poza stacją")


@pytest.mark.parametrize("body", [b"", b"<html>404</html>", b"a,b\n1,2\n", b"\x1f\x8bnot gzip"])
def test_what_is_not_a_list_says_so(body: bytes) -> None:
    with pytest.raises(NotALedgerError):
        read_ledger(body, WARSAW)


# --- clocks: on 27 October 2024 the hour from 02:00 occurred twice, on 31 March 2024 it did not occur ---


@pytest.mark.parametrize(
    ("left", "arrived", "minutes", "expected"),
    [
        # Left at 01:50 (23:50 UTC): the length says in which of the two hours it arrived.
        ("01:50:00", "02:10:00", 20, ("23:50", "00:10", BY_DURATION)),
        ("01:50:00", "02:10:00", 80, ("23:50", "01:10", BY_DURATION)),
        # Left in one of the two hours, arrived after them.
        ("02:40:00", "03:05:00", 25, ("01:40", "02:05", BY_DURATION)),
        ("02:40:00", "03:05:00", 85, ("00:40", "02:05", BY_DURATION)),
        # Over the change: the clock shows an earlier time on arrival.
        ("02:55:00", "02:05:00", 10, ("00:55", "01:05", BY_DURATION)),
        ("02:10:00", "02:30:00", 80, ("00:10", "01:30", BY_DURATION)),
        ("01:20:00", "03:20:00", 180, ("23:20", "02:20", PLAIN)),
    ],
)
def test_the_length_says_which_of_the_two_hours(
    left: str, arrived: str, minutes: int, expected: tuple[str, str, str]
) -> None:
    (ride,) = listed(row(1, f"2024-10-27 {left}", f"2024-10-27 {arrived}", minutes)).rides

    assert times(ride) == expected


SHORT = row(50, "2024-10-27 02:10:00", "2024-10-27 02:30:00", 20)


def test_the_bikes_other_rides_say_which_of_the_two_hours() -> None:
    """The bike was ridden until 02:40 in the first of the two hours, so this was in the second."""
    ledger = listed(SHORT, row(10, "2024-10-27 01:55:00", "2024-10-27 02:40:00", 45))

    assert [times(ride) for ride in ledger.rides] == [("23:55", "00:40", BY_DURATION), ("01:10", "01:30", BY_ORDER)]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        # Rentals 40 and 60 of other bikes lie in the first hour, or in the second.
        (("02:05:00", "03:10:00", 125), ("02:15:00", "03:10:00", 115), "00:10"),
        (("02:05:00", "03:10:00", 65), ("02:15:00", "03:10:00", 55), "01:10"),
    ],
)
def test_the_order_of_rentals_says_which_of_the_two_hours(
    before: tuple[str, str, int], after: tuple[str, str, int], expected: str
) -> None:
    others = [
        row(number, f"2024-10-27 {left}", f"2024-10-27 {arrived}", minutes, bike=f"60000{number}")
        for number, (left, arrived, minutes) in ((40, before), (60, after))
    ]
    ledger = listed(others[1], SHORT, others[0])

    (ride,) = (ride for ride in ledger.rides if ride.rental_id == "50")
    assert (f"{ride.left_at:%H:%M}", ride.time_note) == (expected, BY_ORDER)


def test_a_ride_that_nothing_places_is_flagged() -> None:
    (ride,) = listed(SHORT).rides

    assert times(ride) == ("00:10", "00:30", UNSURE)


def test_the_hour_that_does_not_exist_is_flagged_or_a_dead_letter() -> None:
    ledger = listed(
        row(1, "2024-03-31 01:50:00", "2024-03-31 03:10:00", 20),
        row(2, "2024-03-31 01:50:00", "2024-03-31 02:10:00", 20),
        row(3, "2024-03-31 02:30:00", "2024-03-31 04:10:00", 20),
    )

    assert [times(ride) for ride in ledger.rides] == [("00:50", "01:10", PLAIN), ("00:50", "01:10", SKIPPED)]
    assert [(line.error_type, line.field) for line in ledger.dead] == [("time_in_skipped_hour", "Data wynajmu")]


def test_rides_of_another_day_are_counted() -> None:
    ledger = listed(row(1, "2024-06-03 23:50:00", "2024-06-04 00:10:00", 20))

    assert of_another_day(ledger.rides, date(2024, 6, 4), WARSAW) == 0
    assert of_another_day(ledger.rides, date(2024, 6, 3), WARSAW) == 1


# --- names ---

JUNE = datetime(2024, 6, 3, 10, tzinfo=UTC)


def period(key: str, name: str, since: int = -10, until: int | None = None, number: str = "") -> Period:
    ends = None if until is None else JUNE + timedelta(days=until)
    return Period(key, number or key, name, 51.1, 17.0, JUNE + timedelta(days=since), ends, "first")


PERIODS = [
    period("1", "Lipowa / Brzozowa"),
    period("2", "Brzozowa / Lipowa"),
    period("3", "Kino (Klonowa)"),
    period("4", "Wysoka/Niska"),
    period("5", "Stara", -10, 5, number="5"),
    period("5", "Nowa", 5, None, number="55"),
    period("6", "Rynek"),
    period("7", "Stara Fabryka"),
]


def places(*names: str, seen: Sequence[SeenRide] = (), at: datetime = JUNE) -> dict[str, Place]:
    ends = [NamedEnd(name, f"60{number}", at, leaves=True) for number, name in enumerate(names)]
    found = StationNames(PERIODS, ends, seen)
    return {name: found.place(name, at) for name in names}


def test_names_are_matched_or_say_what_they_are() -> None:
    assert places(
        "Lipowa / Brzozowa", "Brzozowa / Lipowa\u00a0", "Klonowa (Kino)", "Wysoka Niska", "Poza stacją", "Nieznana",
        ".SAMOCHÓD 1", "Stacja Wirtualna - Miasto", "Lipowa Brzozowa",
    ) == {
        "Lipowa / Brzozowa": Place("station", "1", "1", "name"),
        "Brzozowa / Lipowa\u00a0": Place("station", "2", "2", "name"),
        "Klonowa (Kino)": Place("station", "3", "3", "word_order"),
        "Wysoka Niska": Place("station", "4", "4", "spelling"),
        "Poza stacją": Place("outside"),
        "Nieznana": Place("unmatched"),
        ".SAMOCHÓD 1": Place("van"),
        "Stacja Wirtualna - Miasto": Place("outside"),
        # Both stations with these words are named otherwise in the same file.
        "Lipowa Brzozowa": Place("unmatched"),
    }  # fmt: skip


def test_a_renamed_station_is_found_by_both_names_with_its_number_of_then() -> None:
    assert places("Stara", "Nowa") == {
        "Stara": Place("station", "5", "5", "name"),
        "Nowa": Place("station", "5", "5", "former_name"),
    }
    later = JUNE + timedelta(days=20)
    assert places("Stara", at=later)["Stara"] == Place("station", "55", "5", "former_name")


def seen_ride(bike: str, left: str | None, arrived: str | None, minutes: int = 0, kind: str = "ride") -> SeenRide:
    begins = JUNE + timedelta(minutes=minutes)
    return SeenRide(bike, begins, left, begins + timedelta(minutes=10), arrived, kind)


@pytest.mark.parametrize(
    ("stations", "expected"),
    [
        (["7", "7", "7"], Place("station", "7", "7", "bikes")),
        (["7", "7"], Place("unmatched")),
        (["7", "7", "7", "6"], Place("unmatched")),
        ([None, None, None], Place("unmatched")),
    ],
)
def test_bikes_show_which_station_a_name_is(stations: list[str | None], expected: Place) -> None:
    ends = [NamedEnd("Fabryka", f"60{number}", JUNE, leaves=True) for number in range(len(stations))]
    seen = [seen_ride(f"60{number}", station, "6") for number, station in enumerate(stations)]

    assert StationNames(PERIODS, ends, seen).place("Fabryka", JUNE) == expected


# --- the comparison ---


def ride(bike: str, left: str | None, arrived: str | None, minutes: int = 0, lasts: int = 10) -> ListedRide:
    """A ride between stations; None is outside, `van` and `?` are what they say."""
    what = {None: "outside", "van": "van", "?": "unmatched"}
    begins = JUNE + timedelta(minutes=minutes)

    def end(place: str | None) -> tuple[str, str | None]:
        return what.get(place, "station"), None if place in what else place

    return ListedRide(bike, begins, *end(left), begins + timedelta(minutes=lasts), *end(arrived))


def test_rides_are_found_missed_and_invented() -> None:
    rides = [
        ride("1", "A", "B"),
        ride("2", "A", None),  # found: outside is no station
        ride("3", "A", "A", lasts=20),  # a round trip
        ride("4", "A", "A", lasts=1),  # a failed rental
        ride("5", "A", "van"),
        ride("6", "A", "B"),  # missed: seen at another station
        ride("7", "A", "B", minutes=30),  # missed: seen at another time
        ride("8", "A", "?"),  # found: the name may be any station
        ride("9", "A", "B"),  # missed
    ]
    seen = [
        seen_ride("1", "A", "B", 1),
        seen_ride("2", "A", None),
        SeenRide("3", JUNE, "A", JUNE + timedelta(minutes=20), "A", "same_place"),
        seen_ride("6", "A", "C"),
        seen_ride("7", "A", "B"),
        seen_ride("8", "A", "C"),
        seen_ride("10", "A", "B"),
        seen_ride("10", "B", "B", 20, kind="same_place"),
    ]

    assert compare(rides, seen) == Comparison(
        ledger_rides=7,
        failed_rentals=1,
        station_rentals=8,
        van_rides=1,
        unmatched_ends=1,
        found=4,
        invented=3,
        seen_rides=6,
    )
    assert compare(rides, seen).missed == 3


def test_two_rides_that_look_like_one_are_two_missed_and_one_invented() -> None:
    found = compare([ride("1", "A", "B"), ride("1", "B", "C", 10)], [seen_ride("1", "A", "C")])

    assert (found.found, found.missed, found.invented) == (0, 2, 1)


def test_one_seen_ride_explains_one_ride() -> None:
    found = compare([ride("1", "A", "B"), ride("1", "A", "B", 2)], [seen_ride("1", "A", "B")])

    assert (found.found, found.missed, found.invented) == (1, 1, 0)


def test_without_bikes_nothing_is_said_of_found_or_missed() -> None:
    found = compare([ride("1", "A", "B")], [])

    assert (found.ledger_rides, found.found, found.missed, found.invented, found.seen_rides) == (1, *[None] * 4)

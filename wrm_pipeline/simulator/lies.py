"""Feeds that answer well and say what is not so: all kinds serve the same lie, each in its own form."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import lru_cache

from wrm_pipeline.simulator.city import COMBINED, HEADER, City
from wrm_pipeline.simulator.places import Home

Row = dict[str, str]

# Capped feeds report no more than this, as `5+` where that can be written.
CAP = 5


class Lie(StrEnum):
    """What a feed says in place of the truth; the value is what `lie=` takes."""

    FROZEN_COUNTS = "frozen_counts"  # since the lie began, though report times move
    ANOTHER_CITY = "another_city"
    FEWER_STATIONS = "fewer_stations"  # three of five
    FEWER_BIKES = "fewer_bikes"  # a third
    ALL_ZERO = "all_zero"
    CAPPED = "capped"
    CHANGING_IDS = "changing_ids"  # other station ids after each midnight
    RENAMED_STATION = "renamed_station"  # the second one


@dataclass(frozen=True, slots=True)
class Scene:
    """What all kinds of feeds serve.

    Attributes:
        rows: Those of the CSV feed, by column.
        docked: The number of each bike at a station and whether it is electric, by the station's id.
    """

    rows: Sequence[Row]
    docked: Mapping[str, Sequence[tuple[int, bool]]]

    def csv(self) -> bytes:
        """As the CSV feed serves it."""
        out = io.StringIO()
        writer = csv.DictWriter(out, HEADER.split(","), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return out.getvalue().encode()


def scene(city: City, at: datetime, lie: Lie | None = None, since: datetime | None = None) -> Scene:
    """The city at an instant (aware), or the lie about it that is told since another."""
    since = since or at
    if lie is Lie.FROZEN_COUNTS:
        return _later(scene(city, since), int((at - since).total_seconds()))
    if lie is Lie.ANOTHER_CITY:
        return _with_ids(scene(_other_city(city.home), at), lambda number: str(number + 40_000))
    rows = list(csv.DictReader(city.snapshot(at).decode().splitlines()))
    true = Scene(rows, city.docked(at))
    if lie is Lie.CHANGING_IDS:
        day = at.astimezone(city.home.zone).toordinal() % 90 + 10
        return _with_ids(true, lambda number: f"{day}{number}")
    return true if lie is None else _EDITS[lie](true)


def is_free(row: Row) -> bool:
    """Whether a row is a free-standing bike."""
    return row["#id"].startswith("fb")


@lru_cache(maxsize=4)
def _other_city(home: Home) -> City:
    return City(9_999, home=Home(f"not {home.name}", home.zone, home.lat + 1.1, home.lon + 2.0))


def _later(found: Scene, seconds: int) -> Scene:
    def moved(row: Row) -> Row:
        reported, _, offsets = row[COMBINED].partition("|")
        return row | {COMBINED: f"{int(reported) + seconds}|{offsets}"}

    return Scene([moved(row) for row in found.rows], found.docked)


def _with_ids(found: Scene, new: Callable[[int], str]) -> Scene:
    return Scene(
        [row if is_free(row) else row | {"#id": new(int(row["#id"]))} for row in found.rows],
        {new(int(station)): bikes for station, bikes in found.docked.items()},
    )


def _with_counts(found: Scene, count: Callable[[int], int]) -> Scene:
    """Stations with other numbers of bikes; their docks are free then."""

    def edited(row: Row) -> Row:
        if is_free(row):
            return row
        bikes, spaces = int(row["bikes"]), int(row["spaces"])
        now = count(bikes)
        electric = str(min(int(row["pedelecs"]), now))
        return row | {"bikes": str(now), "spaces": str(spaces + bikes - now), "pedelecs": electric}

    docked = {station: _fewer(bikes, count(len(bikes))) for station, bikes in found.docked.items()}
    return Scene([edited(row) for row in found.rows], docked)


def _fewer(bikes: Sequence[tuple[int, bool]], count: int) -> Sequence[tuple[int, bool]]:
    """So many of them, e-bikes first, which is what the count of e-bikes assumes."""
    return sorted(bikes, key=lambda bike: not bike[1])[:count]


def _fewer_stations(found: Scene) -> Scene:
    stations = [row["#id"] for row in found.rows if not is_free(row)]
    kept = {station for number, station in enumerate(stations) if number % 5 < 3}
    return Scene([row for row in found.rows if is_free(row) or row["#id"] in kept], found.docked)


def _all_zero(found: Scene) -> Scene:
    empty = _with_counts(found, lambda _: 0)
    return Scene([row for row in empty.rows if not is_free(row)], empty.docked)


def _capped(found: Scene) -> Scene:
    full = {row["#id"] for row in found.rows if not is_free(row) and int(row["bikes"]) > CAP}
    capped = _with_counts(found, lambda bikes: min(bikes, CAP))
    return Scene(
        [row | {"bikes": f"{CAP}+"} if row["#id"] in full else row for row in capped.rows],
        capped.docked,
    )


def _renamed(found: Scene) -> Scene:
    return Scene([row | {"name": "Plac Nowy"} if i == 1 else row for i, row in enumerate(found.rows)], found.docked)


_EDITS: Mapping[Lie, Callable[[Scene], Scene]] = {
    Lie.FEWER_STATIONS: _fewer_stations,
    Lie.FEWER_BIKES: lambda found: _with_counts(found, lambda bikes: bikes // 3),
    Lie.ALL_ZERO: _all_zero,
    Lie.CAPPED: _capped,
    Lie.RENAMED_STATION: _renamed,
}

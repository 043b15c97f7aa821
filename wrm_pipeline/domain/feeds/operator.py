"""The operator's JSON: countries, cities, places, and at each place its bikes (data contract, section 1b).

A station is one object. At a place whose type begins with FREESTANDING each bike is one, and so is the place itself if
it lists none. The answer contains no time: it is the state at the fetch.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from wrm_pipeline.domain.feeds.translation import (
    BodyError,
    DeadObject,
    ObjectError,
    Row,
    SourceObject,
    Translation,
    corrected,
    decoded,
    elements_at,
    member_at,
    parsed,
    seconds_of,
    source_object,
    usable_id,
)

_FREE = "FREESTANDING"
_ELECTRIC = "ELECTRIC"


def translate(body: bytes, micros: int, corrections: Mapping[int, str]) -> Translation:
    """The places and free bikes of an answer as lines."""
    try:
        places = list(_places(parsed(decoded(body)[0])))
    except BodyError as error:
        return Translation(fault=(error.error_type, str(error)))
    if not places:
        return Translation(fault=("file_no_valid_row", "The answer has cities and no place in them."))
    combined = seconds_of(micros)
    objects = [place for place in places for _ in range(_rows_of(place))]
    lines, dead, first = [], [], 0
    for number, place in enumerate(objects, start=1):
        # The bikes of one place are consecutive and share its object.
        first = number if number == 1 or objects[number - 2] is not place else first
        try:
            value = corrected(number, place, corrections)
            lines.append(_row(value, number - first if value is place else 0, combined).to_line())
        except ObjectError as error:
            dead.append(DeadObject(number, error.error_type, error.field, str(error)))
            lines.append("")
    return Translation(tuple(lines), tuple(objects), tuple(dead))


class Sighting(NamedTuple):
    """A bike at a place. `station_id` is None for a bike outside stations, `battery_pct` where none is given."""

    bike_id: str
    station_id: str | None
    lat: float
    lon: float
    bike_type: str
    battery_pct: int | None


def sightings(body: bytes) -> dict[str, Sighting]:
    """The bikes of an answer by number; of one that is listed twice, a station takes precedence over the pavement.

    Places and bikes without a usable number or position are left out: they are dead letters of the stations' rows.

    Raises:
        BodyError: the body is not an answer.
    """
    found: dict[str, Sighting] = {}
    for place in _places(parsed(decoded(body)[0])):
        bikes = _list(place, "bikes")
        if not bikes:
            continue
        lat, lon = _position(_object(place, "geoCoords"))
        station_id = None if _is_free(place) else _number(place.get("number"))
        if lat is None or lon is None or station_id == "":
            continue
        for bike in bikes:
            bike_id = _number(bike.get("number")) if isinstance(bike, dict) else ""
            if not bike_id or (bike_id in found and (station_id is None or found[bike_id].station_id is not None)):
                continue
            bike_type = bike.get("bikeType")
            found[bike_id] = Sighting(
                bike_id,
                station_id,
                lat,
                lon,
                bike_type if isinstance(bike_type, str) else "",
                _percent(bike.get("battery")),
            )
    return found


def _number(value: Any) -> str:
    """A station's or bike's number as text; empty if it is not one."""
    if type(value) is int:  # nearly always
        return str(value) if value else ""
    try:
        return _id(value)
    except ObjectError:
        return ""


def _position(where: dict[str, Any]) -> tuple[float | None, float | None]:
    lat, lon = where.get("lat"), where.get("lng")
    if isinstance(lat, bool) or not isinstance(lat, float | int):
        return None, None
    if isinstance(lon, bool) or not isinstance(lon, float | int):
        return None, None
    good = math.isfinite(lat) and math.isfinite(lon) and abs(lat) <= 90 and abs(lon) <= 180 and (lat or lon)
    return (float(lat), float(lon)) if good else (None, None)


def _percent(value: Any) -> int | None:
    """A battery level, rounded half up as in the stations' rows."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        return None
    return math.floor(value + 0.5)


def _places(answer: Any) -> Iterator[Any]:
    countries = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(countries, list):
        raise BodyError("file_no_header", f"The answer lacks the list `data`; it is {str(answer)[:80]!r}.")
    found = False
    for country in countries:
        for city in _list(country, "cities"):
            found = found or (isinstance(city, dict) and "places" in city)
            yield from _list(city, "places")
    if not found:
        raise BodyError("file_no_header", "The answer has no city with a list of `places`.")


def _list(value: Any, name: str) -> list[Any]:
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, list) else []


def _is_free(place: Any) -> bool:
    return isinstance(place, dict) and str(place.get("placeType")).startswith(_FREE)


def _rows_of(place: Any) -> int:
    return max(1, len(_list(place, "bikes"))) if _is_free(place) else 1


def _row(place: Any, index: int, combined: str) -> Row:
    if not isinstance(place, dict):
        raise ObjectError("bad_object", "", f"The place is not an object but {str(place)[:80]!r}.")
    where, status = _object(place, "geoCoords"), _object(place, "availabilityStatus")
    if _is_free(place):
        bikes = _list(place, "bikes")
        bike = bikes[index] if index < len(bikes) else None
        if not isinstance(bike, dict):
            raise ObjectError("empty_id", "station_id", "The free-standing place names no bike.")
        number = _id(bike.get("number"))
        return Row(
            f"fb{number}",
            combined,
            f"BIKE {number}",
            where.get("lat"),
            where.get("lng"),
            1,
            spaces=status.get("freeRacks"),
            total_docks=status.get("bikeRacks"),
            battery=_battery(bike.get("battery")),
            pedelecs=_pedelecs([bike]),
        )
    return Row(
        _id(place.get("number")),
        combined,
        place.get("name"),
        where.get("lat"),
        where.get("lng"),
        status.get("bikes"),
        spaces=status.get("freeRacks"),
        total_docks=status.get("bikeRacks"),
        pedelecs=_pedelecs(place.get("bikes")),
    )


def _object(place: dict[str, Any], name: str) -> dict[str, Any]:
    value = place.get(name)
    return value if isinstance(value, dict) else {}


def _id(value: Any) -> str:
    # 0 means that there is no number.
    return usable_id("number", None if value in (0, "0") else value)


def _battery(value: Any) -> Any:
    return None if isinstance(value, bool) else value


def _pedelecs(bikes: Any) -> int | None:
    if not isinstance(bikes, list):
        return None
    # Without a call for each of the 2,400 bikes.
    return sum([_ELECTRIC in str(bike.get("bikeType")) for bike in bikes if isinstance(bike, dict)])


def locate(body: bytes, number: int) -> SourceObject:
    """The place of the object with this number (from 1), as served.

    Raises:
        LookupError: the body has no such object.
    """
    text, encoding = decoded(body)
    passed = 0
    for start, end in _spans(text):
        passed += _rows_of(parsed(text[start:end]))
        if passed >= number:
            return source_object(body, text, encoding, start, end)
    raise LookupError(f"the body has {passed} objects, so there is none with the number {number}")


def _spans(text: str) -> Iterator[tuple[int, int]]:
    for country, _ in _elements(text, 0, "data"):
        for city, _ in _elements(text, country, "cities"):
            yield from _elements(text, city, "places")


def _elements(text: str, position: int, name: str) -> Iterator[tuple[int, int]]:
    start = member_at(text, position, name)
    if start is not None:
        yield from elements_at(text, start)

"""GBFS 1.0 to 3.0: auto-discovery, stations and free vehicles of several files, joined (data contract, section 1b).

One snapshot is several files, so its raw object is a zip (`gbfs_zip`). An object is a station of `station_status` with
its `station_information`, or a free vehicle.
"""

import contextlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urljoin

from wrm_pipeline.domain.feeds.fetching import MAX_FRESH, Browser, Earlier, Fetched
from wrm_pipeline.domain.feeds.gbfs_zip import elsewhere, files_of, sha256_of, split, zipped
from wrm_pipeline.domain.feeds.translation import (
    BodyError,
    DeadObject,
    ObjectError,
    Row,
    SourceObject,
    Translation,
    corrected,
    decoded,
    parsed,
    seconds_of,
    usable_id,
)
from wrm_pipeline.domain.masking import redact

DISCOVERY = "gbfs"
INFORMATION = "station_information"
STATUS = "station_status"
# Their name up to 2.3, and from 3.0 on.
VEHICLES = ("free_bike_status", "vehicle_status")
TYPES = "vehicle_types"

# These say how long a snapshot is up to date; the others seldom change.
_MOVING = (STATUS, *VEHICLES)

# For feeds in several languages.
LANGUAGES = ("pl", "en")

_ELECTRIC = ("electric", "electric_assist")
_TTL = re.compile(rb'"ttl"\s*:\s*(\d{1,9})')


def fetch(browser: Browser, url: str, earlier: Earlier) -> Fetched:
    """Fetch the files named in the discovery file, and zip them unchanged.

    A file that the server says is unchanged, or that seldom changes and whose `ttl` has not passed, is taken from the
    earlier snapshot.

    Raises:
        ExternalError: one of them cannot be fetched. Only vehicle types may be missing: the others belong together.
    """
    files = _Files(browser, earlier.body)
    files.get(DISCOVERY, url)
    try:
        addresses = _addresses(files.served[DISCOVERY])
    except BodyError:
        # The zip goes into quarantine, and says why.
        return Fetched(files.zipped())
    for name in (STATUS, INFORMATION, *VEHICLES, TYPES):
        if name in addresses:
            files.get(name, urljoin(url, addresses[name]), optional=name == TYPES)
    fresh = [files.fresh_s[name] for name in _MOVING if name in files.fresh_s]
    return Fetched(files.zipped(), fresh_s=min(fresh, default=None))


class _Files:
    """The files of a snapshot, with a description of each."""

    def __init__(self, browser: Browser, earlier: bytes) -> None:
        self.served: dict[str, bytes] = {}
        self.fresh_s: dict[str, float] = {}
        self._browser = browser
        self._kept: dict[str, bytes] = {}
        self._about: dict[str, dict[str, Any]] = {}
        self._earlier: tuple[dict[str, bytes], dict[str, dict[str, Any]]] = ({}, {})
        with contextlib.suppress(BodyError):  # there is none, or it is damaged: everything is fetched
            self._earlier = split(earlier)

    def get(self, name: str, url: str, *, optional: bool = False) -> None:
        content, about = self._known(name, url)
        if content is not None and name not in _MOVING and self._is_fresh(content, about):
            self._keep(name, content, about)
            return
        get = self._browser.try_get if optional else self._browser.get
        conditions = {one: str(about.get(one, "")) for one in ("etag", "last_modified")} if content is not None else {}
        answer = get(url, **conditions)
        if answer is None:
            return
        described = {"url": answer.shown_url, "status": answer.status, "etag": answer.etag}
        if answer.last_modified:
            described["last_modified"] = answer.last_modified
        described["fetched_at"] = answer.fetched_at.isoformat()
        if answer.status == 304 and content is not None:
            self._keep(name, content, {**about, **{one: value for one, value in described.items() if value}})
        else:
            self._keep(name, answer.body, described, answer.served)
        ttl = _ttl_s(self._kept[name])
        fresh = ttl if ttl is not None else answer.fresh_s
        if fresh is not None:
            self.fresh_s[name] = fresh

    def _known(self, name: str, url: str) -> tuple[bytes | None, dict[str, Any]]:
        """The file as it was fetched earlier from this address."""
        files, abouts = self._earlier
        about = abouts.get(name, {})
        as_served = name in files and about.get("sha256") == sha256_of(files[name]) and not about.get("masked")
        known = as_served and about.get("url") == redact(url)
        return (files[name], about) if known else (None, {})

    def _is_fresh(self, content: bytes, about: Mapping[str, Any]) -> bool:
        try:
            age = self._browser.now() - datetime.fromisoformat(str(about.get("fetched_at")))
        except (ValueError, TypeError):
            return False
        return timedelta(0) <= age < min(timedelta(seconds=_ttl_s(content) or 0), MAX_FRESH)

    def _keep(self, name: str, kept: bytes, about: Mapping[str, Any], served: bytes | None = None) -> None:
        self.served[name] = kept if served is None else served
        self._kept[name] = kept
        self._about[name] = {**about, "sha256": sha256_of(kept)}
        if self.served[name] != kept:
            self._about[name]["masked"] = True  # without its credentials it cannot be used again

    def zipped(self) -> bytes:
        return zipped(self._kept, self._about)


def _addresses(served: bytes) -> dict[str, str]:
    """Addresses by file name, in the first available of LANGUAGES, else in the first language.

    Raises:
        BodyError: it is not a discovery file.
    """
    discovery = parsed(decoded(served)[0])
    data = discovery.get("data") if isinstance(discovery, dict) else None
    if not isinstance(data, dict):
        raise BodyError("file_no_header", "The discovery file lacks `data`.")
    # From 3.0 on one list for all languages.
    feeds = data.get("feeds")
    if not isinstance(feeds, list):
        first = next(iter(data), "")
        language = next((code for code in LANGUAGES if code in data), first)
        feeds = data[language].get("feeds") if isinstance(data.get(language), dict) else None
    found = {
        feed["name"]: feed["url"]
        for feed in feeds or ()
        if isinstance(feed, dict) and isinstance(feed.get("name"), str) and isinstance(feed.get("url"), str)
    }
    if not found:
        raise BodyError("file_no_header", "The discovery file names no feeds.")
    return found


def _ttl_s(content: bytes) -> float | None:
    """Seconds until a file changes again, as it says; None if it does not."""
    found = _TTL.search(content)
    return float(found[1]) if found else None


@dataclass(frozen=True, slots=True)
class _System:
    """The content of the files, apart from the objects themselves."""

    objects: tuple[dict[str, Any], ...]
    updated: Mapping[str, Any]
    electric: Mapping[str, bool]
    docked_electric: Mapping[str, int]
    numbers: Mapping[str, str]


def translate(body: bytes, micros: int, corrections: Mapping[int, str]) -> Translation:
    """The stations and free vehicles of a snapshot as lines."""
    try:
        system = _system_of(files_of(body))
    except BodyError as error:
        return Translation(fault=(error.error_type, str(error)))
    if not system.objects:
        return Translation(fault=("file_no_valid_row", "The files hold no station and no free vehicle."))
    lines, dead = [], []
    for number, found in enumerate(system.objects, start=1):
        try:
            value = corrected(number, found, corrections)
            lines.append(_row(value, system, micros).to_line())
        except ObjectError as error:
            dead.append(DeadObject(number, error.error_type, error.field, str(error)))
            lines.append("")
    return Translation(tuple(lines), system.objects, tuple(dead))


def _system_of(files: Mapping[str, bytes]) -> _System:
    for name, home in elsewhere(files).items():
        raise BodyError("file_incomplete", f"The file {name} is in {home}, which is missing.")
    vehicle_file = next((name for name in VEHICLES if name in files), "")
    if STATUS not in files and not vehicle_file:
        _addresses(files.get(DISCOVERY, b""))
        raise BodyError("file_no_header", f"The discovery file names neither {STATUS} nor {' nor '.join(VEHICLES)}.")
    contents = {
        name: parsed(decoded(files[name])[0]) for name in (STATUS, INFORMATION, vehicle_file, TYPES) if name in files
    }
    statuses = _entries(contents, STATUS, "stations")
    information = _entries(contents, INFORMATION, "stations")
    vehicles = _entries(contents, vehicle_file, "bikes" if vehicle_file == VEHICLES[0] else "vehicles")
    electric = {
        str(kind.get("vehicle_type_id")): kind.get("propulsion_type") in _ELECTRIC
        for kind in _entries(contents, TYPES, "vehicle_types")
        if isinstance(kind, dict)
    }
    docked_electric: Counter[str] = Counter()
    for vehicle in filter(_is_docked, vehicles):
        docked_electric[str(vehicle["station_id"])] += electric.get(str(vehicle.get("vehicle_type_id")), False)
    return _System(
        (
            *_joined(statuses, information),
            # A docked vehicle is counted at its station.
            *({vehicle_file: vehicle} for vehicle in vehicles if not _is_docked(vehicle)),
        ),
        {name: content.get("last_updated") for name, content in contents.items()},
        electric,
        docked_electric,
        _numbers(information),
    )


def _numbers(information: Sequence[Any]) -> dict[str, str]:
    """The number on the sign of each station that has one of its own, by id.

    nextbike's ids are those of its database, and `short_name` is the number by which the operator and other feeds know
    the station: with it, a station is the same whichever feed is published.
    """
    names = {
        str(one.get("station_id")): str(_text(one.get("short_name"))) for one in information if isinstance(one, dict)
    }
    shared = Counter(names.values())
    return {
        station: name
        for station, name in names.items()
        if name.isascii() and name.isdigit() and shared[name] == 1 and names.get(name, name) == name
    }


def _is_docked(vehicle: Any) -> bool:
    return isinstance(vehicle, dict) and vehicle.get("station_id") not in (None, "")


def _entries(contents: Mapping[str, Any], name: str, member: str) -> list[Any]:
    if name not in contents:
        return []
    content = contents[name]
    data = content.get("data") if isinstance(content, dict) else None
    found = data.get(member) if isinstance(data, dict) else None
    if not isinstance(found, list):
        raise BodyError("file_no_header", f"The file {name} lacks the list `data.{member}`.")
    return found


def _joined(statuses: Sequence[Any], information: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Each status with its information; then information without a status."""
    by_id = {str(one.get("station_id")): one for one in information if isinstance(one, dict)}
    known = set()
    for status in statuses:
        station_id = str(status.get("station_id")) if isinstance(status, dict) else ""
        known.add(station_id)
        yield {STATUS: status, INFORMATION: by_id.get(station_id)}
    for one in information:
        if not isinstance(one, dict) or str(one.get("station_id")) not in known:
            yield {STATUS: None, INFORMATION: one}


def _row(value: Any, system: _System, micros: int) -> Row:
    if not isinstance(value, dict):
        raise ObjectError("bad_object", "", f"It is not an object but {str(value)[:80]!r}.")
    for name in VEHICLES:
        if name in value:
            return _vehicle(name, value[name], system, micros)
    return _station(value.get(STATUS), value.get(INFORMATION), system, micros)


def _station(status: Any, information: Any, system: _System, micros: int) -> Row:
    if status is None:
        raise ObjectError("no_status", "", f"The station is in {INFORMATION} and not in {STATUS}.")
    if not isinstance(status, dict):
        raise ObjectError("bad_object", "", f"The status is not an object but {str(status)[:80]!r}.")
    station_id = usable_id("station_id", status.get("station_id"))
    if not isinstance(information, dict):
        message = f"The station {station_id[:80]!r} is in {STATUS} and not in {INFORMATION}."
        raise ObjectError("no_information", "", message)
    return Row(
        system.numbers.get(station_id, station_id),
        _time(status.get("last_reported"), system.updated.get(STATUS), micros),
        _text(information.get("name")),
        information.get("lat"),
        information.get("lon"),
        status.get("num_bikes_available", status.get("num_vehicles_available")),
        spaces=status.get("num_docks_available"),
        installed=status.get("is_installed"),
        locked=_negated("is_renting", status.get("is_renting")),
        temporary=information.get("is_virtual_station"),
        total_docks=information.get("capacity"),
        pedelecs=_pedelecs(station_id, status, system),
    )


def _negated(name: str, flag: Any) -> bool | None:
    """The opposite of a flag, which up to 1.1 is 0 or 1."""
    if flag is None:
        return None
    if flag in (True, False):
        return not flag
    raise ObjectError("bad_flag", "locked", f"{name} {str(flag)[:80]!r} is neither true nor false.")


def _pedelecs(station_id: str, status: Mapping[str, Any], system: _System) -> int | None:
    if not system.electric:
        return None
    by_type = status.get("vehicle_types_available")
    if not isinstance(by_type, list):
        return system.docked_electric.get(station_id)
    total = 0
    for one in by_type:
        count = one.get("count") if isinstance(one, dict) else None
        if not isinstance(count, int):
            return None
        total += count if system.electric.get(str(one.get("vehicle_type_id")), False) else 0
    return total


def _vehicle(name: str, vehicle: Any, system: _System, micros: int) -> Row:
    if not isinstance(vehicle, dict):
        raise ObjectError("bad_object", "", f"The vehicle is not an object but {str(vehicle)[:80]!r}.")
    number = usable_id("bike_id", vehicle.get("bike_id", vehicle.get("vehicle_id")))
    kind = system.electric.get(str(vehicle.get("vehicle_type_id")))
    charge = vehicle.get("current_fuel_percent")
    return Row(
        f"fb{number}",
        _time(vehicle.get("last_reported"), system.updated.get(name), micros),
        f"BIKE {number}",
        vehicle.get("lat"),
        vehicle.get("lon"),
        1,
        spaces=0,
        total_docks=0,
        battery=charge * 100 if isinstance(charge, int | float) and not isinstance(charge, bool) else None,
        pedelecs=None if kind is None else int(kind),
    )


def _text(value: Any) -> Any:
    """A text; from 3.0 on it comes in several languages."""
    if not isinstance(value, list):
        return value
    texts = {one.get("language"): one.get("text") for one in value if isinstance(one, dict)}
    return next((texts[code] for code in (*LANGUAGES, *texts) if texts.get(code)), None)


def _time(reported: Any, updated: Any, micros: int) -> str:
    """The combined field: the report's time, else its file's, else that of the fetch. Offsets are unknown."""
    for time in (reported, updated):
        if time in (None, "", 0, -1) or isinstance(time, bool):
            continue
        if isinstance(time, int | float):
            return f"{time!r}||"
        if isinstance(time, str):
            try:
                at = datetime.fromisoformat(time)
            except ValueError:
                return f"{time}||"
            at = at if at.tzinfo else at.replace(tzinfo=UTC)
            return seconds_of(round(at.timestamp() * 1_000_000))
    return seconds_of(micros)


def locate(body: bytes, number: int) -> SourceObject:
    """The station or vehicle with this number (from 1): the parts of the files that it was made from, as JSON.

    Its place is the snapshot's zip as a whole, since the files are packed.

    Raises:
        LookupError: there is no such object.
    """
    objects = _system_of(files_of(body)).objects
    if not 0 < number <= len(objects):
        raise LookupError(f"the files hold {len(objects)} objects, so there is none with the number {number}")
    return SourceObject(json.dumps(objects[number - 1], ensure_ascii=False), 0, len(body), "utf-8")

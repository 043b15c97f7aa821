"""GBFS 1.0 to 3.0: auto-discovery, stations and free vehicles of several files, joined (data contract, section 1b).

One snapshot is several files, so its raw object is a zip of them as served, with `fetch.json`, which contains the
address and time of each. An object is a station of `station_status` with its `station_information`, or a free vehicle.
"""

import io
import json
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urljoin

from wrm_pipeline.domain.feeds.fetching import Browser, Got
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

DISCOVERY = "gbfs"
INFORMATION = "station_information"
STATUS = "station_status"
# Their name up to 2.3, and from 3.0 on.
VEHICLES = ("free_bike_status", "vehicle_status")
TYPES = "vehicle_types"
FETCH = "fetch.json"

# For feeds in several languages.
LANGUAGES = ("pl", "en")

# The largest systems have 20 MB of vehicles; our own zip is never larger, and a foreign one is not unpacked beyond
# this.
MAX_UNPACKED_BYTES = 128 * 2**20

_ELECTRIC = ("electric", "electric_assist")
_EPOCH_ZIP_TIME = (1980, 1, 1, 0, 0, 0)


def fetch(browser: Browser, url: str) -> bytes:
    """Fetch the files named in the discovery file, and zip them unchanged.

    Raises:
        ExternalError: one of them cannot be fetched. Only vehicle types may be missing: the others belong together.
    """
    got = {DISCOVERY: browser.get(url)}
    try:
        addresses = _addresses(got[DISCOVERY].served)
    except BodyError:
        # The zip goes into quarantine, and says why.
        return _zipped(got)
    for name in (STATUS, INFORMATION, *VEHICLES, TYPES):
        if name not in addresses:
            continue
        address = urljoin(url, addresses[name])
        answer = browser.try_get(address) if name == TYPES else browser.get(address)
        if answer is not None:
            got[name] = answer
    return _zipped(got)


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


def _zipped(got: Mapping[str, Got]) -> bytes:
    about = {
        f"{name}.json": {
            "url": answer.shown_url,
            "status": answer.status,
            "etag": answer.etag,
            "fetched_at": answer.fetched_at.isoformat(),
        }
        for name, answer in got.items()
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, answer in got.items():
            file.writestr(zipfile.ZipInfo(f"{name}.json", _EPOCH_ZIP_TIME), answer.body, zipfile.ZIP_DEFLATED)
        text = json.dumps(about, indent=1)
        file.writestr(zipfile.ZipInfo(FETCH, _EPOCH_ZIP_TIME), text, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def files_of(body: bytes) -> dict[str, bytes]:
    """The files of a raw object, by name without extension.

    Raises:
        BodyError: it is not a zip, or unpacks to more than MAX_UNPACKED_BYTES.
    """
    if not body.strip():
        raise BodyError("file_empty", "The body is empty.")
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as file:
            infos = file.infolist()
            size = sum(info.file_size for info in infos)
            if size > MAX_UNPACKED_BYTES:
                raise BodyError(
                    "file_over_limit", f"The zip unpacks to {size} bytes; at most {MAX_UNPACKED_BYTES} are read."
                )
            # `read` stops at the size that the directory declares.
            return {info.filename.removesuffix(".json"): file.read(info) for info in infos}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError, ValueError) as error:
        if isinstance(error, BodyError):
            raise
        message = f"The body is not a zip of GBFS files; it starts with {body[:16]!r}: {error}."
        raise BodyError("file_not_zip", message) from None


@dataclass(frozen=True, slots=True)
class _System:
    """The content of the files, apart from the objects themselves."""

    objects: tuple[dict[str, Any], ...]
    updated: Mapping[str, Any]
    electric: Mapping[str, bool]
    docked_electric: Mapping[str, int]


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
    )


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
        station_id,
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

"""A published snapshot as GBFS 2.3 and 3.0 (docs/gbfs.md).

Only what is known is said: an unknown count is left out. What the standard wants and no feed has (opening hours, an
address for questions, how far an e-bike goes) comes from the settings.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pyarrow as pa

from wrm_pipeline.domain.public_system import LICENCE, PublicSystem

VERSIONS = ("2.3", "3.0")
DISCOVERY = "gbfs"

# A snapshot is published each minute.
TTL_S = 60
# The schema of 2.3 knows no earlier report, 2015-12-15; a station that has been silent since then has this one.
_FIRST_REPORT_S = 1_450_155_600

_AFTER_TIME = b',"ttl":'

_BIKE, _EBIKE = "bike", "e-bike"

# A file of these tells how things are now; the others are only renewed when their content changes.
LIVE = ("station_status", "free_bike_status", "vehicle_status")

COLUMNS = (
    "station_id",
    "record_type",
    "name",
    "timestamp",
    "lat",
    "lon",
    "bikes",
    "spaces",
    "total_docks",
    "installed",
    "locked",
    "temporary",
    "battery_pct",
    "pedelecs",
    "outside_service_area",
)
"""The columns of the enhanced rows that the files are made from."""


class _Place(NamedTuple):
    """A row, in the order of COLUMNS; `reported` in seconds since 1970."""

    id: str
    kind: str
    name: str
    reported: int
    lat: float
    lon: float
    bikes: int
    spaces: int | None
    docks: int | None
    installed: bool | None
    locked: bool | None
    temporary: bool | None
    battery_pct: int | None
    pedelecs: int | None
    outside: bool


def gbfs_files(rows: pa.Table, at: datetime, vehicle_ids: Mapping[str, str], system: PublicSystem) -> dict[str, bytes]:
    """All files of both versions by path, in the order in which they are to be written: what leads to others is last.

    Args:
        rows: Of one snapshot, with at least COLUMNS.
        at: The snapshot's time (aware).
        vehicle_ids: Public ids of its free-standing bikes, by the feed's.
        system: The rest.
    """
    places = list(_places(rows))
    stations = [place for place in places if place.kind == "station"]
    vehicles = [place for place in places if place.kind == "bike"]
    # Where types are listed, each vehicle must have one.
    typed = all(vehicle.pedelecs is not None for vehicle in vehicles) and any(
        place.pedelecs is not None for place in places
    )
    files = {LICENCE: system.licence_text().encode()}
    for version in VERSIONS:
        writer = _Writer(version, at, system, typed)
        contents = writer.contents(stations, vehicles, vehicle_ids)
        contents |= {"gbfs_versions": writer.versions()}
        contents |= {DISCOVERY: writer.discovery(contents)}
        files |= {f"v{version}/{name}.json": writer.file(data) for name, data in contents.items()}
    return files


def is_same(path: str, old: bytes, new: bytes) -> bool:
    """Whether a file need not be replaced, as only the time of its update would change."""
    name = path.rpartition("/")[2].removesuffix(".json")
    return old == new or (name not in LIVE and old.partition(_AFTER_TIME)[2] == new.partition(_AFTER_TIME)[2] != b"")


def _places(rows: pa.Table) -> Iterator[_Place]:
    columns = [
        (rows[name].cast(pa.int64()).to_numpy() // 1_000_000).tolist()
        if name == "timestamp"
        else rows[name].to_pylist()
        for name in COLUMNS
    ]
    for values in zip(*columns, strict=True):
        yield _Place(*values)


@dataclass(frozen=True, slots=True)
class _Writer:
    """One version's spelling of the same content."""

    version: str
    at: datetime
    system: PublicSystem
    typed: bool

    @property
    def new(self) -> bool:
        return self.version == "3.0"

    def file(self, data: Mapping[str, Any]) -> bytes:
        content = {
            "last_updated": self.time(int(self.at.timestamp())),
            "ttl": TTL_S,
            "version": self.version,
            "data": data,
        }
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()

    def time(self, unix_s: int) -> int | str:
        if not self.new:
            return unix_s
        return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%dT%H:%M:%SZ}"

    def text(self, text: str, language: str = "") -> Any:
        return [{"text": text, "language": language or self.system.language}] if self.new else text

    def address(self, name: str, version: str = "") -> str:
        return f"{self.system.url}v{version or self.version}/{name}.json"

    def discovery(self, others: Mapping[str, Any]) -> dict[str, Any]:
        feeds = {"feeds": [{"name": name, "url": self.address(name)} for name in (DISCOVERY, *others)]}
        return feeds if self.new else {self.system.language: feeds}

    def versions(self) -> dict[str, Any]:
        return {"versions": [{"version": one, "url": self.address(DISCOVERY, one)} for one in VERSIONS]}

    def contents(
        self, stations: list[_Place], vehicles: list[_Place], vehicle_ids: Mapping[str, str]
    ) -> dict[str, dict[str, Any]]:
        free, listed = ("vehicle_status", "vehicles") if self.new else ("free_bike_status", "bikes")
        return {
            "system_information": self.about(),
            **({"vehicle_types": {"vehicle_types": self.types()}} if self.typed else {}),
            "station_information": {"stations": [self.information(station) for station in stations]},
            "station_status": {"stations": [self.status(station) for station in stations]},
            free: {listed: [self.vehicle(bike, vehicle_ids[bike.id]) for bike in vehicles]},
        }

    def about(self) -> dict[str, Any]:
        system = self.system
        return {
            "system_id": system.system_id,
            **({"languages": [system.language]} if self.new else {"language": system.language}),
            "name": self.text(system.name),
            **({"operator": self.text(system.operator)} if system.operator else {}),
            **({"opening_hours": system.opening_hours} if self.new else {}),
            "feed_contact_email": system.contact,
            "license_url": system.licence_url or f"{system.url}{LICENCE}",
            "timezone": system.timezone,
        }

    def types(self) -> list[dict[str, Any]]:
        bike = {"form_factor": "bicycle", "propulsion_type": "human", "name": self.text("Bike", "en")}
        ebike = {
            "form_factor": "bicycle",
            "propulsion_type": "electric_assist",
            "name": self.text("E-bike", "en"),
            "max_range_meters": self.system.ebike_range_m,
        }
        return [{"vehicle_type_id": name} | kind for name, kind in ((_BIKE, bike), (_EBIKE, ebike))]

    def information(self, station: _Place) -> dict[str, Any]:
        return {
            "station_id": station.id,
            "name": self.text(station.name),
            "lat": station.lat,
            "lon": station.lon,
            **({} if station.docks is None else {"capacity": station.docks}),
            **({} if station.temporary is None else {"is_virtual_station": station.temporary}),
        }

    def status(self, station: _Place) -> dict[str, Any]:
        installed = station.installed is not False
        in_use = installed and not station.locked
        return {
            "station_id": station.id,
            "num_vehicles_available" if self.new else "num_bikes_available": station.bikes,
            **({"vehicle_types_available": _counts(station)} if self.typed else {}),
            **({} if station.spaces is None else {"num_docks_available": station.spaces}),
            "is_installed": installed,
            "is_renting": in_use,
            "is_returning": in_use,
            "last_reported": self.time(max(station.reported, _FIRST_REPORT_S)),
        }

    def vehicle(self, bike: _Place, public_id: str) -> dict[str, Any]:
        return {
            "vehicle_id" if self.new else "bike_id": public_id,
            "lat": bike.lat,
            "lon": bike.lon,
            "is_reserved": False,
            # In the real snapshots, bikes outside the area are in the operator's depot.
            "is_disabled": bool(bike.locked) or bike.outside,
            "last_reported": self.time(max(bike.reported, _FIRST_REPORT_S)),
            **({"vehicle_type_id": _EBIKE if bike.pedelecs else _BIKE} if self.typed else {}),
            **(self.charge(bike.battery_pct) if self.typed and bike.pedelecs else {}),
        }

    def charge(self, battery_pct: int | None) -> dict[str, Any]:
        """The standard wants a range of each e-bike; where the charge is unknown, none is promised.

        The battery of another bike is that of its lock, and is not said.
        """
        if battery_pct is None:
            return {"current_range_meters": 0}
        return {
            "current_fuel_percent": battery_pct / 100,
            "current_range_meters": self.system.ebike_range_m * battery_pct // 100,
        }


def _counts(station: _Place) -> list[dict[str, Any]]:
    """Bikes by type; none if the feed does not say how many of them are e-bikes."""
    if station.pedelecs is None:
        return []
    electric = min(station.pedelecs, station.bikes)
    return [
        {"vehicle_type_id": _BIKE, "count": station.bikes - electric},
        {"vehicle_type_id": _EBIKE, "count": electric},
    ]

"""The same city at the same instant as other kinds of feeds serve it: the operator's JSON, and GBFS 2.3 and 3.0."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from wrm_pipeline.simulator.city import COMBINED, City
from wrm_pipeline.simulator.lies import CAP, Row, Scene, is_free, scene

OPERATOR_PATH = "/operator/locations"
GBFS_VERSIONS = ("2.3", "3.0")

TTL_S = 60
# What 3.0 asks for in addition.
_NEW_ABOUT = {
    "languages": ["pl"],
    "opening_hours": "24/7",
    "feed_contact_email": "nobody@example.org",
}
_TYPES = [
    {"vehicle_type_id": "bike", "form_factor": "bicycle", "propulsion_type": "human"},
    {
        "vehicle_type_id": "e-bike",
        "form_factor": "bicycle",
        "propulsion_type": "electric_assist",
        "max_range_meters": 60_000,
    },
]


def gbfs_path(version: str, name: str = "gbfs") -> str:
    """The path of a file of GBFS."""
    return f"/gbfs/v{version}/{name}.json"


def operator_answer(city: City, at: datetime, shown: Scene | None = None) -> bytes:
    """The operator's answer at an instant (aware), or of another scene: each place with the numbers of its bikes."""
    shown = shown or scene(city, at)
    places = []
    for row in shown.rows:
        free = is_free(row)
        level = row["givesbonus_acceptspedelecs_fbbattlevel"]
        bikes = [(int(row["#id"][2:]), row["pedelecs"] == "1")] if free else shown.docked[row["#id"]]
        places.append(
            {
                "name": row["name"],
                "number": 0 if free else int(row["#id"]),
                "placeType": _place_type(row) if free else "STATION",
                "geoCoords": {"lat": float(row["lat"]), "lng": float(row["lon"])},
                "availabilityStatus": {
                    "bikes": _bikes(row),
                    "bikeRacks": int(row["total_docks"]),
                    "freeRacks": int(row["spaces"]),
                },
                "bikes": [
                    {
                        "number": number,
                        "bikeType": "ELECTRIC_4G" if electric else "STANDARD_4G",
                        "battery": (int(level) if free and level else 50) if electric else None,
                    }
                    for number, electric in bikes
                ],
            }
        )
    answer = {"data": [{"domain": "pl", "cities": [{"name": city.home.name, "places": places}]}]}
    return json.dumps(answer, ensure_ascii=False).encode()


def gbfs_file(
    city: City,
    at: datetime,
    version: str,
    name: str,
    base_url: str,
    query: str = "",
    *,
    shown: Scene | None = None,
    ttl_s: int = TTL_S,
) -> bytes | None:
    """A file of GBFS at an instant (aware); None if the version has no such file.

    Args:
        city: What to serve.
        at: The instant.
        version: One of GBFS_VERSIONS.
        name: As in the discovery file.
        base_url: Scheme, host and port of the addresses in the discovery file.
        query: Appended to these addresses.
        shown: In place of the city at that instant.
        ttl_s: As the file says.
    """
    vehicles = "vehicle_status" if version == "3.0" else "free_bike_status"
    names = ("system_information", "station_information", "station_status", vehicles, "vehicle_types")
    if name == "gbfs":
        feeds = [{"name": one, "url": f"{base_url}{gbfs_path(version, one)}{query}"} for one in names]
        data: Mapping[str, Any] = {"feeds": feeds} if version == "3.0" else {"pl": {"feeds": feeds}}
    elif name in names:
        data = _contents(city, shown or scene(city, at), version)[name]
    else:
        return None
    updated = _time(version, int(at.timestamp()))
    content = {"last_updated": updated, "ttl": ttl_s, "version": version, "data": data}
    return json.dumps(content, ensure_ascii=False).encode()


def _contents(city: City, shown: Scene, version: str) -> dict[str, dict[str, Any]]:
    new = version == "3.0"
    information, statuses, vehicles = [], [], []
    for row in shown.rows:
        reported = _time(version, int(row[COMBINED].partition("|")[0]))
        place = {"lat": float(row["lat"]), "lon": float(row["lon"])}
        electric = int(row["pedelecs"])
        if is_free(row):
            vehicle: dict[str, Any] = {
                "vehicle_id" if new else "bike_id": row["#id"][2:],
                **place,
                "is_reserved": False,
                "is_disabled": False,
                "vehicle_type_id": "e-bike" if electric else "bike",
                "last_reported": reported,
            }
            level = row["givesbonus_acceptspedelecs_fbbattlevel"]
            charge = (
                {"current_fuel_percent": int(level) / 100, "current_range_meters": int(level) * 600} if level else {}
            )
            vehicles.append(vehicle | charge)
            continue
        name = row["name"]
        information.append(
            {
                "station_id": _database_id(row),
                "name": [{"text": name, "language": "pl"}] if new else name,
                "short_name": [{"text": row["#id"], "language": "pl"}] if new else row["#id"],
                **place,
                "capacity": int(row["total_docks"]),
                "is_virtual_station": row["temporary"] == "true",
            }
        )
        types = {"bike": _bikes(row) - electric, "e-bike": electric}
        statuses.append(
            {
                "station_id": _database_id(row),
                "num_vehicles_available" if new else "num_bikes_available": _bikes(row),
                "vehicle_types_available": [{"vehicle_type_id": kind, "count": n} for kind, n in types.items()],
                "num_docks_available": int(row["spaces"]),
                "is_installed": row["installed"] == "true",
                "is_renting": row["locked"] != "true",
                "is_returning": True,
                "last_reported": reported,
            }
        )
    name = "Simulated bike share"
    return {
        "system_information": {
            "system_id": "simulated",
            "name": [{"text": name, "language": "en"}] if new else name,
            "timezone": city.home.zone.key,
            **(_NEW_ABOUT if new else {"language": "pl"}),
        },
        "station_information": {"stations": information},
        "station_status": {"stations": statuses},
        "vehicle_status" if new else "free_bike_status": {"vehicles" if new else "bikes": vehicles},
        "vehicle_types": {"vehicle_types": _TYPES},
    }


def _bikes(row: Row) -> int:
    return CAP if row["bikes"] == f"{CAP}+" else int(row["bikes"])


def _database_id(row: Row) -> str:
    """An id that is not the number on the sign, as nextbike's is."""
    return str(2_500_000 + int(row["#id"])) if row["#id"].isdigit() else row["#id"]


def _place_type(row: Mapping[str, str]) -> str:
    return "FREESTANDING_ELECTRIC_BIKE" if row["pedelecs"] == "1" else "FREESTANDING_BIKE"


def _time(version: str, unix_s: int) -> int | str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat() if version == "3.0" else unix_s

"""The service area of a city for which none is configured: the box around its stations, found once and kept.

It is kept because flags, grid and map must agree on it from day to day, whatever stations come and go.
"""

import json
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from wrm_pipeline.clients.errors import DamagedContentError, ObjectNotFoundError
from wrm_pipeline.domain.rules import ServiceArea
from wrm_pipeline.lake.published_partitions import PublishedPartitions

_NEAR_DEG = 0.5  # of latitude: 55 km
_MARGIN_DEG = 0.02  # 2 km: free-standing bikes


def kept_area(partitions: PublishedPartitions) -> ServiceArea | None:
    """The box that was found, or that of the newest published day, which is kept from now on; None: no day yet.

    Raises:
        ExternalError: the store failed.
        DamagedContentError: the kept box or the day cannot be read.
    """
    store, key = partitions.store, partitions.layout.service_area_key
    try:
        return _parse(key, store.get(key))
    except ObjectNotFoundError:
        area = _area_of_newest_day(partitions)
    if area is None or store.put_if_absent(key, json.dumps(asdict(area)).encode()):
        return area
    return _parse(key, store.get(key))  # another process was faster


def _parse(key: str, body: bytes) -> ServiceArea:
    try:
        return ServiceArea(**{name: float(value) for name, value in json.loads(body).items()})
    except (ValueError, TypeError, AttributeError) as error:
        remedy = "Delete the object, and the box is found again, or set WRM_SERVICE_AREA"
        raise DamagedContentError(f"this is not a service area ({error})", "store", "get", key, remedy) from error


def _area_of_newest_day(partitions: PublishedPartitions) -> ServiceArea | None:
    newest = partitions.newest("processed")
    parts = None if newest is None else partitions.read("processed", newest)
    groups = [] if parts is None else list(parts.read_groups(columns=["station_id", "lat", "lon"]))
    if not groups:
        return None
    places = pa.concat_tables(groups).group_by(["station_id", "lat", "lon"]).aggregate([])
    free = np.array([station_id.startswith("fb") for station_id in places["station_id"].to_pylist()], dtype=bool)
    # A city without stations is where its bikes are.
    counted = ~free if not free.all() else free
    return area_around(places["lat"].to_numpy()[counted], places["lon"].to_numpy()[counted])


def area_around(lat: NDArray[np.float64], lon: NDArray[np.float64]) -> ServiceArea:
    """The box around places that belong together, with a margin: those within 55 km of their median.

    A depot or a mistyped coordinate must not make a box that spans a country; in Wrocław, the farthest station is 22 km
    from the median.

    Args:
        lat: Degrees north, at least one.
        lon: Degrees east.
    """
    middle_lat, middle_lon = float(np.median(lat)), float(np.median(lon))
    shrunk = max(np.cos(np.radians(middle_lat)), 0.01)
    near = np.hypot(lat - middle_lat, (lon - middle_lon) * shrunk) <= _NEAR_DEG
    if not near.any():  # two halves of equal size, far apart
        near = np.ones(len(lat), dtype=bool)
    lat, lon = lat[near], lon[near]
    return ServiceArea(
        lat_min=max(-90.0, _hundredths(np.floor, lat.min() - _MARGIN_DEG)),
        lat_max=min(90.0, _hundredths(np.ceil, lat.max() + _MARGIN_DEG)),
        lon_min=max(-180.0, _hundredths(np.floor, lon.min() - _MARGIN_DEG)),
        lon_max=min(180.0, _hundredths(np.ceil, lon.max() + _MARGIN_DEG)),
    )


def _hundredths(rounding: Callable[[float], float], degrees: float) -> float:
    return round(float(rounding(degrees * 100)) / 100, 2)

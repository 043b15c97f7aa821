"""Business rules on rows that are kept: what is implausible but possible gets a flag, never a loss.

Rules that cost a row its place are the parser's (`snapshot.py`); their ranges are in `schemas.py`.
"""

from dataclasses import dataclass
from datetime import timedelta

# 93 of 258 stations in the real snapshots of 2025-08-21 hold more than their docks, so an excess is a flag.
STALE_AFTER = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class ServiceArea:
    """A box in WGS84 degrees; the default holds Wrocław and the suburbs that the operator serves."""

    lat_min: float = 51.0
    lat_max: float = 51.3
    lon_min: float = 16.7
    lon_max: float = 17.3


DEFAULT_SERVICE_AREA = ServiceArea()

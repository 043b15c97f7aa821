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
EVERYWHERE = ServiceArea(-90, 90, -180, 180)

# Rules that judge a row by itself and may cost it its place (WRM_STRICT_RULES), in the order in which they are asked.
STRICT_RULES = (
    "unknown_kind",
    "outside_service_area",
    "over_capacity",
    "no_docks",
    "pedelecs_above_bikes",
    "count_capped",
    "stale",
    "report_in_the_future",
)
# The error type of such a dead letter is this and the rule's name.
STRICT = "strict_"


@dataclass(frozen=True, slots=True)
class StrictRules:
    """The rules whose rows are dead letters instead of flagged, and the area that one of them asks about."""

    names: tuple[str, ...] = ()
    area: ServiceArea = DEFAULT_SERVICE_AREA

    @classmethod
    def parse(cls, text: str, area: ServiceArea = DEFAULT_SERVICE_AREA) -> "StrictRules":
        """Read names with commas between.

        Raises:
            ValueError: one is not among STRICT_RULES.
        """
        wanted = {name.strip() for name in text.split(",")} - {""}
        if unknown := sorted(wanted - set(STRICT_RULES)):
            raise ValueError(f"{', '.join(unknown)}: no such rule; choose from {', '.join(STRICT_RULES)}")
        return cls(tuple(name for name in STRICT_RULES if name in wanted), area)

    def __str__(self) -> str:
        """What tells one set from another, as partitions remember it; empty for none."""
        area = f" {self.area}" if "outside_service_area" in self.names else ""
        return ",".join(self.names) + area


NO_STRICT_RULES = StrictRules()

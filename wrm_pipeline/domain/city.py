"""The city that a process archives: its name and its time zone (WRM_CITY, WRM_TIMEZONE).

A lake belongs to one city, so a process has one, too. Which day an instant belongs to is asked in dozens of places,
from the key of a raw object to the text of an alert: they read the zone here instead of having it handed through every
call. `load_settings` sets it, in worker processes, too.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

DEFAULT_CITY = "Wrocław"
DEFAULT_ZONE_NAME = "Europe/Warsaw"


# Files beside the zones that Python reads, and no database or browser knows.
_NOT_ZONES = frozenset({"Factory", "localtime", "posixrules"})


@dataclass(frozen=True, slots=True)
class City:
    """A city's name, as people read it, and the zone at whose midnight its days begin."""

    name: str
    zone: ZoneInfo


def known_zone(name: str) -> ZoneInfo:
    """A time zone by its name.

    Raises:
        ValueError: there is none.
    """
    why = f"is not a time zone; give a name like UTC or {DEFAULT_ZONE_NAME}"
    if name in _NOT_ZONES or name.startswith(("posix/", "right/")):
        raise ValueError(why)
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, ZoneInfoNotFoundError) as error:
        raise ValueError(why) from error


_city = City(DEFAULT_CITY, known_zone(DEFAULT_ZONE_NAME))


def this_city() -> City:
    """The city of this process."""
    return _city


def use_city(name: str, zone: ZoneInfo) -> None:
    """Make a city that of this process."""
    global _city  # noqa: PLW0603 - the one value of the process
    _city = City(name, zone)


@lru_cache(maxsize=8)
def has_whole_hours(zone: ZoneInfo) -> bool:
    """Whether the zone's hours begin at those of UTC, in winter and in summer."""
    offsets = (datetime(2025, month, 1, tzinfo=zone).utcoffset() for month in (1, 7))
    return all(offset is not None and not offset % timedelta(hours=1) for offset in offsets)

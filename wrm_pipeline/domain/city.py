"""The city that a process archives: its name and its time zone (WRM_CITY, WRM_TIMEZONE).

A lake belongs to one city, so a process has one, too. What asks which day an instant belongs to is asked in dozens of
places, from the key of a raw object to the text of an alert; they read the zone here instead of having it handed
through every call. Whoever reads the settings sets it (`load_settings`), and so does a worker process, for which the
layout carries the name of the zone.
"""

from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

DEFAULT_CITY = "Wrocław"
DEFAULT_ZONE_NAME = "Europe/Warsaw"

_zone = ZoneInfo(DEFAULT_ZONE_NAME)


def local_zone() -> ZoneInfo:
    """The city's time zone; days are cut at its midnight."""
    return _zone


def use_zone(name: str) -> None:
    """Make a zone that of this process.

    Raises:
        ValueError: there is no zone of this name.
    """
    global _zone  # noqa: PLW0603 - the one value of the process
    _zone = known_zone(name)


@lru_cache(maxsize=8)
def known_zone(name: str) -> ZoneInfo:
    """A time zone by its name.

    Raises:
        ValueError: there is none.
    """
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, ZoneInfoNotFoundError) as error:
        raise ValueError(f"is not a time zone; give a name like UTC or {DEFAULT_ZONE_NAME}") from error

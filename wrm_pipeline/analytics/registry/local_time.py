"""The city's clock in the SQL of tables.

The SQL is written before the settings are read, so it has placeholders, which are filled when it runs.
"""

import re
from zoneinfo import ZoneInfo

from wrm_pipeline.domain.city import has_whole_hours, this_city

ZONE = "{local_zone}"
"""Stands for the name of the zone, within quotes."""

LOCAL_HOUR_SQL = f"hour(timezone('{ZONE}', hour_start))::TINYINT"

_HOUR_OF = re.compile(r"\{hour_of (.+?)\}")


def hour_of(instant: str) -> str:
    """Stands for the instant at which the local hour of another one (SQL) began."""
    return f"{{hour_of {instant}}}"


def in_local_time(sql: str) -> str:
    """SQL without placeholders, for the city of this process."""
    zone = this_city().zone
    return _HOUR_OF.sub(lambda match: _hour_of(match[1], zone), sql).replace(ZONE, zone.key)


def _hour_of(instant: str, zone: ZoneInfo) -> str:
    if has_whole_hours(zone):
        return f"date_trunc('hour', {instant})"
    # In Kolkata, hours begin at half past those of UTC.
    local = f"timezone('{zone.key}', {instant})"
    return f"({instant} - ({local} - date_trunc('hour', {local})))"

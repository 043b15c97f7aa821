"""The city's clock in the SQL of tables.

The SQL is written before the settings are read, so it has placeholders, which are filled when it runs.
"""

import re

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
    trunc = "date_trunc('hour', {0})"
    if not has_whole_hours(zone):  # in Kolkata, hours begin at half past those of UTC
        trunc = f"({{0}} - (timezone('{ZONE}', {{0}}) - date_trunc('hour', timezone('{ZONE}', {{0}}))))"
    return _HOUR_OF.sub(lambda match: trunc.format(match[1]), sql).replace(ZONE, zone.key)

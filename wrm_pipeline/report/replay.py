"""The replay of a day: its counts in a script of their own, one character per station and step.

A day of 258 stations is 75 kB of them, so the page loads those of the day that is looked at, and those of past days are
never written again.
"""

from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa

from wrm_pipeline.domain.layout import partition_bounds
from wrm_pipeline.report.answers import Dataset, plain

STEPS = Dataset(
    ("mv_station_steps",),
    """
SELECT dt, station_id, name, round(lat, 6) AS lat, round(lon, 6) AS lon, total_docks, bikes
FROM wrm_analytics.mv_station_steps
ORDER BY dt DESC, station_id""",
)

# The character of no bike; above all that JSON or HTML would escape.
FIRST = ord("]")
UNKNOWN = " "
# Of a count; no character below U+2028, which JavaScript would escape.
_MOST = 5_000
_PLACE = ("station_id", "name", "lat", "lon", "total_docks")


def replays(rows: pa.Table | None) -> dict[date, dict[str, Any]]:
    """The content of each day's file: where the day begins, and each station with its packed counts.

    Args:
        rows: The answer to `STEPS`; None without the table.
    """
    if rows is None or not rows.num_rows:
        return {}
    names = [rows[name].to_pylist() for name in _PLACE]
    stations = [list(map(plain, values)) for values in zip(*names, pack(rows["bikes"]), strict=True)]
    found: dict[date, dict[str, Any]] = {}
    for dt, station in zip(rows["dt"].to_pylist(), stations, strict=True):
        day = found.setdefault(dt, {"begin": plain(partition_bounds(dt)[0]), "rows": []})
        day["rows"].append(station)
    return found


def pack(counts: pa.ChunkedArray) -> list[str]:
    """Lists of counts as strings: the character FIRST + count, UNKNOWN for null."""
    found: list[str] = []
    for chunk in counts.chunks:
        values = chunk.flatten()
        codes = np.clip(values.fill_null(0).to_numpy(zero_copy_only=False), 0, _MOST).astype("<u4") + FIRST
        codes[values.is_null().to_numpy(zero_copy_only=False)] = ord(UNKNOWN)
        text = codes.astype("<u4").tobytes().decode("utf-32-le")
        ends = np.cumsum(chunk.value_lengths().fill_null(0).to_numpy(zero_copy_only=False))
        found += [text[begin:end] for begin, end in zip([0, *ends[:-1]], ends, strict=True)]
    return found

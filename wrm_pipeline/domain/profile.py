"""Profiles a day's enhanced rows column by column, and measures the drift from the days before.

Drift is the population stability index (PSI) of the shares of rows by bin:

    PSI = sum over bins of (share today - share usual) * ln(share today / share usual)

where the usual share is the mean over the days compared, and every share counts as at least SHARE_FLOOR (an empty bin
would make it infinite). 0 means equal. The thresholds are the usual ones for PSI: below 0.1 no change, above 0.25 a
different distribution. Bins have fixed edges, so that days can be compared by their stored profiles.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

DRIFT_HIGH = 0.25
DAYS_COMPARED = 28
MIN_DAYS_COMPARED = 7
SHARE_FLOOR = 1e-4

_COUNTS = (0, 1, 2, 3, 5, 8, 12, 20, 50)
# Upper edges of the bins of each number; one more bin lies above the last. 0.02 degrees are 2.2 km of latitude.
BIN_EDGES: Mapping[str, Sequence[float]] = {
    "lat": tuple(round(51.0 + 0.02 * step, 2) for step in range(16)),
    "lon": tuple(round(16.7 + 0.04 * step, 2) for step in range(16)),
    "bikes": _COUNTS,
    "spaces": _COUNTS,
    "total_docks": (0, 4, 6, 8, 10, 12, 15, 20, 30),
    "pedelecs": (0, 1, 2, 3, 5, 8),
    "battery_pct": (10, 20, 30, 40, 50, 60, 70, 80, 90),
    "gmt_servertime_diff_sec": (-60, -10, -2, 2, 10, 60),
    "report_age_s": (-60, 0, 60, 120, 300, 900, 3600, 14_400),
}
# Its distribution shifts when the clocks change, which is not drift.
NOT_COMPARED = frozenset({"gmt_local_diff_sec"})

REPORT_AGE = "report_age_s"


@dataclass(frozen=True, slots=True)
class ColumnProfile:
    """A column of one day; `distribution` is the share of rows by bin, empty if it is not compared."""

    column_name: str
    rows: int
    nulls: int
    distinct_values: int
    minimum: str | None
    maximum: str | None
    mean: float | None
    distribution: Mapping[str, float]


def profile_rows(rows: pa.Table) -> list[ColumnProfile]:
    """Every column of `rows` (strings may be dictionary-encoded, one chunk a column), and the age of the reports."""
    age = pc.divide(pc.subtract(rows["file_timestamp"].cast("int64"), rows["timestamp"].cast("int64")), 1_000_000)
    columns = {name: rows[name] for name in rows.column_names} | {REPORT_AGE: age}
    return [_profile(name, column.combine_chunks()) for name, column in columns.items()]


def _profile(name: str, values: Any) -> ColumnProfile:
    if isinstance(values, pa.ChunkedArray):  # without rows, combine_chunks returns an array without chunks
        values = pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], values.type)
    distinct: Any = values
    if pa.types.is_dictionary(values.type):
        distinct = values.unique().dictionary_decode().drop_null()
        distinct_count = len(distinct)
    else:
        distinct_count = pc.count_distinct(values, mode="only_valid").as_py()
    lowest = pc.min_max(distinct.cast("int8") if pa.types.is_boolean(distinct.type) else distinct).as_py()
    if pa.types.is_boolean(distinct.type):
        lowest = {end: None if value is None else bool(value) for end, value in lowest.items()}
    numeric = pa.types.is_boolean(values.type) or pa.types.is_integer(values.type) or pa.types.is_floating(values.type)
    mean = pc.mean(values).as_py() if numeric else None
    return ColumnProfile(
        name,
        len(values),
        values.null_count,
        distinct_count,
        _text(lowest["min"]),
        _text(lowest["max"]),
        mean,
        {} if name in NOT_COMPARED else _distribution(name, values),
    )


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    return str(value.isoformat()) if hasattr(value, "isoformat") else repr(value)


def _distribution(name: str, values: Any) -> dict[str, float]:
    if not len(values):
        return {}
    counts: dict[str, int] = {}
    if name in BIN_EDGES:
        edges = BIN_EDGES[name]
        binned = np.searchsorted(np.array(edges, dtype=float), values.drop_null().to_numpy(), side="left")
        labels = [f"{edge:g}" for edge in edges] + [f"> {edges[-1]:g}"]
        counts = dict(zip(labels, np.bincount(binned, minlength=len(labels)).tolist(), strict=True))
    elif pa.types.is_boolean(values.type) or name == "record_type":
        for found in values.value_counts().to_pylist():
            if found["values"] is not None:
                counts[_text(found["values"]) or ""] = found["counts"]
    else:
        return {}
    if values.null_count:
        counts["null"] = values.null_count
    return {label: round(count / len(values), 6) for label, count in counts.items() if count}


def drift(today: Mapping[str, float], earlier: Collection[Mapping[str, float]]) -> float | None:
    """The PSI of a distribution against the mean of those of earlier days; None if there is too little to compare."""
    compared = [day for day in earlier if day]
    if not today or len(compared) < MIN_DAYS_COMPARED:
        return None
    total = 0.0
    for label in set(today).union(*compared):
        usual = sum(day.get(label, 0.0) for day in compared) / len(compared)
        now, usual = max(today.get(label, 0.0), SHARE_FLOOR), max(usual, SHARE_FLOOR)
        total += (now - usual) * math.log(now / usual)
    return round(total, 6)

"""Rows of ride_comparison and ride_ledger_names, and what they are compared with."""

from collections import Counter
from collections.abc import Iterable
from datetime import date
from typing import TYPE_CHECKING

import pyarrow as pa

from wrm_pipeline.analytics.database import SCHEMA
from wrm_pipeline.analytics.refresh import with_other_columns
from wrm_pipeline.analytics.registry.ride_comparison import RIDE_COMPARISON, RIDE_LEDGER_NAMES
from wrm_pipeline.analytics.registry.rides import MV_RIDES
from wrm_pipeline.analytics.registry.types import rows_of
from wrm_pipeline.domain.ride_comparison import COMPARED_KINDS, Comparison, ListedRide, compare
from wrm_pipeline.domain.ride_names import SeenRide

if TYPE_CHECKING:
    import duckdb

_LISTED = tuple(ListedRide.__dataclass_fields__)
_SIDES = ("left", "arrived")
_NAMED = ("name", "what", "station_id", "station_key", "matched_by")


def seen_rides(connection: "duckdb.DuckDBPyConnection | None", dt: date) -> list[SeenRide]:
    """The rides and round trips of mv_rides that ended on a day; none without that table."""
    if connection is None or with_other_columns(connection, [MV_RIDES]):
        return []
    names = ", ".join(SeenRide.__dataclass_fields__)
    kinds = ", ".join(f"'{kind}'" for kind in COMPARED_KINDS)
    rows = connection.execute(
        f"SELECT {names} FROM {SCHEMA}.{MV_RIDES.name} WHERE dt = DATE '{dt}' AND kind IN ({kinds})"
    ).to_arrow_table()
    return [SeenRide(**row) for row in rows.to_pylist()]


def ends_by(rides: pa.Table, columns: Iterable[str]) -> Counter[tuple[str | None, ...]]:
    """How many ends of rides there are by columns of city_rides that each side has, as `name` or `what`."""
    found: Counter[tuple[str | None, ...]] = Counter()
    for side in _SIDES:
        found.update(zip(*(rides[f"{side}_{column}"].to_pylist() for column in columns), strict=True))
    return found


def compared(rides: pa.Table, seen: list[SeenRide], dt: date) -> tuple[Comparison, pa.Table, pa.Table]:
    """The comparison of a day, and the rows of ride_comparison and of ride_ledger_names.

    Args:
        rides: The partition of city_rides.
        seen: See `seen_rides`.
        dt: The day.
    """
    found = compare([ListedRide(**row) for row in rides.select(_LISTED).to_pylist()], seen)
    row = {
        "dt": dt,
        **{name: getattr(found, name) for name in _COUNTS},
        "share_found": _share(found.found, found.ledger_rides),
        "share_missed": _share(found.missed, found.ledger_rides),
        "share_invented": _share(found.invented, found.seen_rides),
    }
    ends = ends_by(rides, _NAMED)
    names = [
        {"dt": dt, **dict(zip(_NAMED, named, strict=True)), "ends": count}
        for named, count in sorted(ends.items(), key=lambda item: (str(item[0][1]), str(item[0][0]), str(item[0])))
    ]
    return found, rows_of(RIDE_COMPARISON, [row]), rows_of(RIDE_LEDGER_NAMES, names)


_COUNTS = (
    "ledger_rides",
    "found",
    "missed",
    "invented",
    "seen_rides",
    "failed_rentals",
    "station_rentals",
    "van_rides",
    "unmatched_ends",
)


def _share(part: int | None, whole: int | None) -> float | None:
    return None if part is None or not whole else round(part / whole, 4)

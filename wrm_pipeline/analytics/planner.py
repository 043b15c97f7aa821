"""Makes the rows of the planner's tables, mostly from other tables, which the same refresh writes before them."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import pyarrow.compute as pc

from wrm_pipeline.analytics.database import SCHEMA
from wrm_pipeline.analytics.lost_demand import lost_demand_of
from wrm_pipeline.analytics.refresh import Part, delete_rows, insert_rows
from wrm_pipeline.analytics.registry import TABLES, Refreshed
from wrm_pipeline.analytics.registry.latest import PROFILE_DAYS
from wrm_pipeline.analytics.registry.planner import (
    MV_IDLE_BIKES,
    MV_LOST_DEMAND,
    MV_ORIGIN_DESTINATION,
    MV_TURNOVER,
    PLANNER_TABLES,
)
from wrm_pipeline.analytics.rides_by_day import RidesByDay, loaded_span
from wrm_pipeline.domain.rules import ServiceArea

if TYPE_CHECKING:
    import duckdb

_DAY, _PROFILE = timedelta(days=1), timedelta(days=PROFILE_DAYS)


class PlannerTables:
    """Makes the tables for one refresh.

    Args:
        rides: Bike positions of the same refresh.
        today: The city's date.
        area: The service area.
    """

    def __init__(self, rides: RidesByDay, today: date, area: ServiceArea) -> None:
        self._rides = rides
        self._today = today
        self._area = area

    def etags(self, published: Mapping[date, str]) -> dict[Part, str]:
        """What each part is made from, given the ETags of the published objects by day."""
        bikes = self._rides.etags()
        found: dict[Part, str] = {}
        for table in PLANNER_TABLES:
            if table.by_day:
                days = sorted(bikes if table is MV_ORIGIN_DESTINATION else published)
                for dt in days[-table.kept_days :] if table.kept_days else days:
                    found[table.name, dt] = (
                        self._rides.hour if dt == self._today else _digest([published.get(dt), bikes.get(dt)])
                    )
            elif table.refreshed is Refreshed.LATEST_OF_BIKES:
                newest = self._newest(bikes)
                found[table.name, None] = _digest([newest, bikes.get(newest) if newest else None, self._area])
            else:
                since, until = self._profile(published)
                found[table.name, None] = _digest([published[dt] for dt in sorted(published) if since <= dt <= until])
        return found

    def reads_rows(self, names: Iterable[str]) -> bool:
        """Whether one of these tables is made from the day's enhanced rows."""
        return bool({MV_LOST_DEMAND.name, MV_TURNOVER.name}.intersection(names))

    def write_day(
        self, connection: "duckdb.DuckDBPyConnection", dt: date, names: Sequence[str], *, loaded: bool
    ) -> dict[str, int]:
        """Replace the rows of a day; returns their numbers. `loaded`: the day's temporary tables exist."""
        rows = {}
        for name in names:
            table = TABLES[name]
            delete_rows(connection, [table], dt)
            if self.reads_rows([name]) and not loaded:
                rows[name] = 0
            elif table is MV_LOST_DEMAND:
                lost = lost_demand_of(connection, dt)
                insert_rows(connection, table, lost)
                rows[name] = lost.num_rows
            elif table is MV_TURNOVER:
                span = loaded_span(connection)
                positions = self._rides.whole_day(dt, *span) if span else None
                bikes = pc.count_distinct(positions.rows["bike_id"]).as_py() if positions else 0
                rows[name] = _insert(connection, name, {"dt": dt, "bikes": bikes})
            else:
                rows[name] = _insert(connection, name, {"dt": dt})
        return rows

    def write_whole(
        self, connection: "duckdb.DuckDBPyConnection", published: Mapping[date, str], names: Iterable[str]
    ) -> dict[str, int]:
        """Replace these whole tables; returns the number of rows of each."""
        since, until = self._profile(published)
        rows = {}
        for name in names:
            delete_rows(connection, [TABLES[name]], None)
            if name == MV_IDLE_BIKES.name:
                rows[name] = self._write_idle_bikes(connection)
            else:
                rows[name] = _insert(connection, name, {"since": since, "until": until})
        return rows

    def _write_idle_bikes(self, connection: "duckdb.DuckDBPyConnection") -> int:
        newest = self._newest(self._rides.etags())
        positions = self._rides.positions(newest) if newest else None
        if newest is None or positions is None or positions.first is None or positions.last is None:
            return 0
        standing = positions.rows.filter(pc.is_null(positions.rows["left_at"]))
        connection.register("standing_bikes", standing.drop_columns(["left_at"]))
        instants = {"first": _instant(positions.first), "seen_at": _instant(positions.last)}
        values = {"since": newest - _PROFILE, "until": newest, **instants, **asdict(self._area)}
        rows = _insert(connection, MV_IDLE_BIKES.name, values)
        connection.unregister("standing_bikes")
        return rows

    def _newest(self, days: Iterable[date]) -> date | None:
        return max((dt for dt in days if dt <= self._today), default=None)

    def _profile(self, published: Iterable[date]) -> tuple[date, date]:
        """The first and the last day of the profile: days that are over."""
        until = self._newest(dt for dt in published if dt < self._today) or self._today - _DAY
        return until - _PROFILE + _DAY, until


def _digest(of: object) -> str:
    return hashlib.sha256(repr(of).encode()).hexdigest()[:16]


def _instant(micros: int) -> datetime:
    return datetime.fromtimestamp(micros / 1e6, UTC)


def _insert(connection: "duckdb.DuckDBPyConnection", name: str, values: Mapping[str, object]) -> int:
    """Add the rows that the table's SQL gives for these values of its parameters; returns their number."""
    sql = f"INSERT INTO {SCHEMA}.{name} {TABLES[name].local_sql}"
    ((rows,),) = connection.execute(sql, dict(values)).fetchall()
    return int(rows)

"""Enhanced partitions and bike positions -> the tables mv_* of the analytics database."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from wrm_pipeline.analytics.database import SCHEMA, AnalyticsDatabase
from wrm_pipeline.analytics.lost_demand import RULES
from wrm_pipeline.analytics.planner import PlannerTables
from wrm_pipeline.analytics.refresh import (
    Part,
    Refresh,
    RefreshPlan,
    Source,
    TableSet,
    delete_rows,
    insert_rows,
    refresh,
)
from wrm_pipeline.analytics.registry import TABLES, Refreshed, Table
from wrm_pipeline.analytics.registry.daily import MV_FLOWS
from wrm_pipeline.analytics.registry.departures import (
    DAY_FIT_SQL,
    DAY_FLOWS_SQL,
    DAY_KNOWN_SQL,
    MV_DEPARTURES,
    MV_DEPARTURES_FIT,
)
from wrm_pipeline.analytics.registry.latest import PROFILE_DAYS
from wrm_pipeline.analytics.registry.local_time import in_local_time
from wrm_pipeline.analytics.registry.planner import MV_LOST_DEMAND, PLANNER_TABLES
from wrm_pipeline.analytics.registry.rides import MV_RIDES
from wrm_pipeline.analytics.registry.staging import SOURCE_COLUMNS, STAGING_SQL
from wrm_pipeline.analytics.rides_by_day import RidesByDay, loaded_span
from wrm_pipeline.domain import asset_names
from wrm_pipeline.domain.layout import local_date
from wrm_pipeline.domain.rides import RIDES_VERSION, judged_moves, rentals_table
from wrm_pipeline.domain.rules import DEFAULT_SERVICE_AREA, ServiceArea
from wrm_pipeline.domain.snapshot_time import MAX_AHEAD
from wrm_pipeline.lake.published_partitions import PublishedPartitions

if TYPE_CHECKING:
    import duckdb


# Tables of which the known rentals are a source, beside the counts, and what they are made from.
_OF_FLOWS = (MV_FLOWS, MV_DEPARTURES, MV_DEPARTURES_FIT)
_FLOWS_SQL = {"day_known": DAY_KNOWN_SQL, "day_fit": DAY_FIT_SQL, "day_flows": DAY_FLOWS_SQL}


def refresh_materialized_views(
    database: AnalyticsDatabase,
    partitions: PublishedPartitions,
    *,
    refreshed_at: datetime,
    area: ServiceArea = DEFAULT_SERVICE_AREA,
    up_to_now: bool = False,
) -> Refresh:
    """Bring all mv_ tables up to date; the database is not touched if they are.

    Args:
        database: Where the tables are.
        partitions: What they are made from.
        refreshed_at: The time recorded in the ledger.
        area: The service area.
        up_to_now: Whether today's rows that are made once an hour are made now.

    Raises:
        ExternalError: the store failed, or returns none of the days; the tables are unchanged.
        PartitionGoneError: a partition was removed meanwhile; the tables are unchanged.
    """
    views = MaterializedViews(partitions, refreshed_at, area, up_to_now=up_to_now)
    return refresh(views, database, refreshed_at=refreshed_at)


def version_of(view: Table) -> str:
    """Changes with the SQL (or the rules) and the columns: rows of another version were made by another definition."""
    if view is MV_RIDES:
        return hashlib.sha256(repr((view.columns_sql, RIDES_VERSION)).encode()).hexdigest()[:12]
    staged = {**STAGING_SQL, **_FLOWS_SQL} if view in _OF_FLOWS else STAGING_SQL
    staging = [(name, in_local_time(sql)) for name, sql in sorted(staged.items())]
    made_by = (
        view.columns_sql,
        view.local_sql,
        staging,
        *([RIDES_VERSION] if view in _OF_FLOWS else []),
        *(RULES if view is MV_LOST_DEMAND else ()),
    )
    return hashlib.sha256(repr(made_by).encode()).hexdigest()[:12]


class MaterializedViews(TableSet):
    """The tables mv_*: a day is read once for all of them, into temporary tables that their SQL reads."""

    asset = asset_names.MATERIALIZED_VIEWS
    source_columns = SOURCE_COLUMNS

    def __init__(
        self,
        partitions: PublishedPartitions,
        now: datetime,
        area: ServiceArea = DEFAULT_SERVICE_AREA,
        *,
        up_to_now: bool = False,
    ) -> None:
        super().__init__(partitions)
        self._now = now
        self._rides = RidesByDay(partitions, now, up_to_now=up_to_now)
        self._planner = PlannerTables(self._rides, local_date(now), area)
        # The day in the temporary tables.
        self._loaded: date | None = None

    def sources(self, published: Mapping[date, str]) -> dict[Part, Source]:
        """The day's object for a day's rows; for the latest views, the newest ones."""
        found: dict[Part, Source] = {}
        for view in self.tables:
            if view.by_day and view not in PLANNER_TABLES:
                version, etags = version_of(view), self._rides.etags() if view is MV_RIDES else published
                days = sorted(etags)
                kept = days[-view.kept_days :] if view.kept_days else days
                known = self._rides.etags() if view in _OF_FLOWS else {}
                found |= {
                    (view.name, dt): Source("+".join(filter(None, (etags[dt], known.get(dt)))), version) for dt in kept
                }
        begun = self._begun(published)
        recent = repr([(dt, published[dt]) for dt in begun if (begun[-1] - dt).days <= PROFILE_DAYS])
        recent_id = hashlib.sha256(recent.encode()).hexdigest()[:16]
        found |= {(view.name, None): Source(recent_id, version_of(view)) for view in self._latest}
        planned = self._planner.etags(published)
        return found | {part: Source(etag, version_of(TABLES[part[0]])) for part, etag in planned.items()}

    def write_day(self, connection: "duckdb.DuckDBPyConnection", dt: date, names: Sequence[str]) -> Mapping[str, int]:
        """Rows by each table's SQL; none if the day's object cannot be read, until it changes."""
        planned = [name for name in names if TABLES[name] in PLANNER_TABLES]
        by_sql = [name for name in names if name != MV_RIDES.name and name not in planned]
        loaded = bool(by_sql or self._planner.reads_rows(planned)) and self._load(connection, dt)
        if loaded and any(view.name in names for view in _OF_FLOWS):
            self._load_flows(connection, dt)
        rows = {name: _replace(connection, TABLES[name], dt, made=loaded) for name in by_sql}
        if MV_RIDES.name in names:
            rides = self._rides.rows(dt)
            delete_rows(connection, [MV_RIDES], dt)
            insert_rows(connection, MV_RIDES, rides)
            rows[MV_RIDES.name] = rides.num_rows
        return rows | self._planner.write_day(connection, dt, planned, loaded=loaded)

    def write_whole(self, connection: "duckdb.DuckDBPyConnection", plan: RefreshPlan) -> Mapping[str, int]:
        """Rows of the newest day that has any so far; none without one."""
        # A day that was unreadable before may be the newest.
        given = plan.asked_again.difference(self.days.denied)
        outdated = [view for view in self._latest if given or (view.name, None) in plan.write]
        planned = [name for name, dt in plan.write if dt is None and TABLES[name] in PLANNER_TABLES]
        rows = self._planner.write_whole(connection, plan.published, planned)
        if not outdated:
            return rows
        found = self._load_newest(connection, self._begun(plan.published))
        return rows | {view.name: _replace(connection, view, None, made=found) for view in outdated}

    @property
    def _latest(self) -> list[Table]:
        return [view for view in self.tables if view.refreshed is Refreshed.LATEST]

    def _begun(self, published: Iterable[date]) -> list[date]:
        """Days up to today, in order: later ones stem from a clock that was ahead."""
        return sorted(dt for dt in published if dt <= local_date(self._now))

    def _load_newest(self, connection: "duckdb.DuckDBPyConnection", begun: Sequence[date]) -> bool:
        """Make the temporary tables of the newest day that has a snapshot by now; False if none has."""
        until = self._now + MAX_AHEAD
        for dt in reversed(begun):
            if dt == self._loaded:  # its tables need no change, unless they contain later snapshots
                sql = "SELECT coalesce(max(file_timestamp) <= ?, false) FROM day_snapshots"
                ((good,),) = connection.execute(sql, [until]).fetchall()
                if good:
                    return True
            if self._load(connection, dt, until=until):
                return True
        return False

    def _load(self, connection: "duckdb.DuckDBPyConnection", dt: date, *, until: datetime | None = None) -> bool:
        """Make a day's temporary tables, of snapshots up to `until`; False if it cannot be read or has none."""
        rows = self.days.read(dt)
        if rows is not None and until is not None:
            rows = rows.filter(pc.less_equal(rows["file_timestamp"], pa.scalar(until, rows["file_timestamp"].type)))
        if rows is None or (until is not None and not rows.num_rows):
            return False
        self._loaded = dt
        connection.register("incoming_rows", rows)
        connection.execute(f"CREATE OR REPLACE TEMP TABLE day_rows AS SELECT *, DATE '{dt}' AS dt FROM incoming_rows")
        connection.unregister("incoming_rows")
        for name, sql in STAGING_SQL.items():
            connection.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS {in_local_time(sql)}")
        return True

    def _load_flows(self, connection: "duckdb.DuckDBPyConnection", dt: date) -> None:
        """Make the temporary tables of the flows of the day that is loaded."""
        span = loaded_span(connection)
        known = self._rides.rentals(dt, *span) if span else None
        connection.register("known_ends", rentals_table(judged_moves([])) if known is None else known)
        for name, sql in _FLOWS_SQL.items():
            connection.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS {in_local_time(sql)}")
        connection.unregister("known_ends")


def _replace(connection: "duckdb.DuckDBPyConnection", view: Table, dt: date | None, *, made: bool) -> int:
    """Replace a day's rows, or all, by the current result of the SQL (by none unless `made`); returns their number."""
    delete_rows(connection, [view], dt)
    if not made:
        return 0
    ((rows,),) = connection.execute(f"INSERT INTO {SCHEMA}.{view.name} {view.local_sql}").fetchall()
    return int(rows)

"""Enhanced partitions -> the tables mv_* of the analytics database: what is new or changed, in one transaction."""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import TYPE_CHECKING

from wrm_pipeline.analytics.database import SCHEMA, AnalyticsDatabase, make_way
from wrm_pipeline.analytics.registry import Table, tables_of
from wrm_pipeline.analytics.registry.daily import DAILY_VIEWS, MV_REFRESHES
from wrm_pipeline.analytics.registry.latest import LATEST_VIEWS, PROFILE_DAYS
from wrm_pipeline.analytics.registry.staging import SOURCE_COLUMNS, STAGING_SQL
from wrm_pipeline.analytics.registry.types import short_type
from wrm_pipeline.domain import asset_names
from wrm_pipeline.domain.layout import folder_date
from wrm_pipeline.lake.published_partitions import PublishedPartitions, UnreadablePartitionError
from wrm_pipeline.logs import get_logger

if TYPE_CHECKING:
    import duckdb

_log = get_logger(__name__)

# A table's partition, or with None the whole table.
Part = tuple[str, date | None]


class PartitionGoneError(RuntimeError):
    """A published partition was removed between the listing and the reading."""


@dataclass(frozen=True, slots=True)
class RefreshPlan:
    """What a refresh has to do.

    Attributes:
        write: Parts that are missing or were made from something else, with the source to make them from.
        drop: Parts of days that are no longer published, or no longer kept.
        recreate: Tables that are missing or have other columns.
        newest: The newest published day.
    """

    write: Mapping[Part, str]
    drop: frozenset[Part]
    recreate: tuple[Table, ...]
    newest: date | None

    @property
    def nothing_to_do(self) -> bool:
        """Whether the tables hold just what they should."""
        return not (self.write or self.drop or self.recreate)

    @property
    def days(self) -> list[date]:
        """The days that are read for the tables by day."""
        return sorted({dt for _, dt in self.write if dt is not None})


@dataclass(frozen=True, slots=True)
class Refresh:
    """What a refresh did; `rows` is how many each table has now, of `days_unreadable` they have none."""

    newest: date | None
    days_refreshed: tuple[date, ...] = ()
    days_dropped: tuple[date, ...] = ()
    days_unreadable: tuple[date, ...] = ()
    rows: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0


def refresh_materialized_views(
    database: AnalyticsDatabase, partitions: PublishedPartitions, *, refreshed_at: datetime
) -> Refresh:
    """Bring all mv_ tables up to what is published; the database is left alone if they are.

    Raises:
        ExternalError: a partition could not be read; the tables are as they were.
        PartitionGoneError: a partition was removed meanwhile; the tables are as they were.
    """
    started = time.monotonic()
    published = published_days(partitions)
    with database.reading_if_any() as connection:
        if connection is not None:
            plan = plan_refresh(connection, published)
            if plan.nothing_to_do:
                return Refresh(plan.newest, rows=_row_counts(connection), seconds=time.monotonic() - started)
    with database.refresh() as connection:
        # Once more: while this one waited for the lock, another refresh may have done it.
        plan = plan_refresh(connection, published)
        connection.begin()
        unreadable = _apply(connection, plan, partitions, refreshed_at)
        connection.commit()
        rows = _row_counts(connection)
    seconds = time.monotonic() - started
    _log.info("refreshed materialized views", days=len(plan.days), newest=str(plan.newest), seconds=round(seconds, 3))
    dropped = {dt for _, dt in plan.drop if dt is not None and dt not in published}
    return Refresh(plan.newest, tuple(plan.days), tuple(sorted(dropped)), tuple(unreadable), rows, seconds)


def published_days(partitions: PublishedPartitions) -> dict[date, str]:
    """The ETag of each published day's enhanced object: one listing, a request for each 1,000 days."""
    found = ((folder_date(info.key.rpartition("/")[0]), info.etag) for info in partitions.objects("enhanced"))
    return {dt: etag for dt, etag in found if dt is not None}


def plan_refresh(connection: "duckdb.DuckDBPyConnection", published: Mapping[date, str]) -> RefreshPlan:
    """Compare what is published, ETags by day, with what the tables were made from."""
    columns: dict[str, list[tuple[str, str]]] = {}
    sql = "SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE schema_name = ? ORDER BY column_index"
    for table, column, sql_type in connection.execute(sql, [SCHEMA]).fetchall():
        columns.setdefault(table, []).append((column, short_type(sql_type)))
    recreate = tuple(
        view
        for view in tables_of(asset_names.MATERIALIZED_VIEWS)
        if columns.get(view.name) != [(column.name, column.type) for column in view.columns]
    )
    held: dict[Part, str] = {}
    if MV_REFRESHES not in recreate:
        found = connection.execute(f"SELECT table_name, dt, source FROM {SCHEMA}.{MV_REFRESHES.name}").fetchall()
        emptied = {view.name for view in recreate}
        held = {(name, dt): source for name, dt, source in found if name not in emptied}
    wanted = _sources(published)
    return RefreshPlan(
        write={part: source for part, source in wanted.items() if held.get(part) != source},
        drop=frozenset(part for part in held if part not in wanted),
        recreate=tables_of(asset_names.MATERIALIZED_VIEWS) if MV_REFRESHES in recreate else recreate,
        newest=max(published, default=None),
    )


def version_of(view: Table) -> str:
    """Changes with the SQL and the columns: rows of another version were made by another rule."""
    made_by = (view.columns_sql, view.sql, sorted(STAGING_SQL.items()))
    return hashlib.sha256(repr(made_by).encode()).hexdigest()[:12]


def _sources(published: Mapping[date, str]) -> dict[Part, str]:
    """What each part is to be made from: the published object, or objects, and the view's version."""
    days = sorted(published)
    sources: dict[Part, str] = {}
    for view in DAILY_VIEWS:
        for dt in days[-view.kept_days :] if view.kept_days else days:
            sources[view.name, dt] = f"{published[dt]} {version_of(view)}"
    # The profile of mv_rebalancing is made from the days before the newest.
    recent = repr([(dt, published[dt]) for dt in days if (days[-1] - dt).days <= PROFILE_DAYS])
    recent_id = hashlib.sha256(recent.encode()).hexdigest()[:16]
    return sources | {(view.name, None): f"{recent_id} {version_of(view)}" for view in LATEST_VIEWS}


def _apply(
    connection: "duckdb.DuckDBPyConnection",
    plan: RefreshPlan,
    partitions: PublishedPartitions,
    refreshed_at: datetime,
) -> list[date]:
    """Do what is planned; gives the days whose object cannot be read."""
    for view in plan.recreate:
        make_way(connection, view.name, "BASE TABLE")
        connection.execute(f"CREATE OR REPLACE TABLE {SCHEMA}.{view.name} ({view.columns_sql})")
    for name, dt in plan.drop:
        _delete(connection, name, dt)
    loaded, unreadable = None, list[date]()
    for dt in plan.days:
        readable = _load(connection, partitions, dt, must=dt == plan.newest)
        loaded = dt if readable else None
        unreadable += [] if readable else [dt]
        for view in DAILY_VIEWS:
            if (view.name, dt) in plan.write:
                sql = view.sql if readable else None
                _write(connection, (view.name, dt), sql, plan.write[view.name, dt], refreshed_at)
    outdated = [view for view in LATEST_VIEWS if (view.name, None) in plan.write]
    if outdated and plan.newest is not None and loaded != plan.newest:
        _load(connection, partitions, plan.newest, must=True)
    for view in outdated:
        sql = view.sql if plan.newest is not None else None
        _write(connection, (view.name, None), sql, plan.write[view.name, None], refreshed_at)
    return unreadable


def _load(connection: "duckdb.DuckDBPyConnection", partitions: PublishedPartitions, dt: date, *, must: bool) -> bool:
    """Make the temporary tables of one day, from one read of its object; False if that cannot be read.

    Such a day has no rows in the tables until its object is another one: it costs itself, and not the others. The
    newest `must` be read, as the tables of now are about it; the next processing run makes it again.
    """
    try:
        rows = partitions.read_enhanced_rows(dt, SOURCE_COLUMNS)
    except UnreadablePartitionError as error:
        if must:
            raise
        _log.warning("an enhanced partition cannot be read; the tables do without it", dt=str(dt), error=str(error))
        return False
    if rows is None:
        raise PartitionGoneError(
            f"The enhanced partition of {dt} was removed while the tables were being refreshed. They are as they were; "
            "materialize create_materialized_views again."
        )
    connection.register("incoming_rows", rows)
    connection.execute(f"CREATE OR REPLACE TEMP TABLE day_rows AS SELECT *, DATE '{dt}' AS dt FROM incoming_rows")
    connection.unregister("incoming_rows")
    for name, sql in STAGING_SQL.items():
        connection.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS {sql}")
    return True


def _write(
    connection: "duckdb.DuckDBPyConnection", part: Part, sql: str | None, source: str, refreshed_at: datetime
) -> None:
    """Replace a part by what the SQL gives now; by nothing where there is none."""
    name, dt = part
    _delete(connection, name, dt)
    rows = 0
    if sql is not None:
        ((rows,),) = connection.execute(f"INSERT INTO {SCHEMA}.{name} {sql}").fetchall()
    connection.execute(
        f"INSERT INTO {SCHEMA}.{MV_REFRESHES.name} VALUES (?, ?, ?, ?, ?)", [name, dt, refreshed_at, rows, source]
    )


def _delete(connection: "duckdb.DuckDBPyConnection", name: str, dt: date | None) -> None:
    # A literal date, so that the row groups of other days are not looked at.
    connection.execute(f"DELETE FROM {SCHEMA}.{name}" + (f" WHERE dt = DATE '{dt}'" if dt else ""))
    connection.execute(
        f"DELETE FROM {SCHEMA}.{MV_REFRESHES.name} WHERE table_name = ? AND dt IS NOT DISTINCT FROM ?", [name, dt]
    )


def _row_counts(connection: "duckdb.DuckDBPyConnection") -> dict[str, int]:
    sql = f"SELECT table_name, sum(rows)::BIGINT FROM {SCHEMA}.{MV_REFRESHES.name} GROUP BY table_name"
    counts = dict(connection.execute(sql).fetchall())
    return {view.name: counts.get(view.name, 0) for view in (*LATEST_VIEWS, *DAILY_VIEWS)}

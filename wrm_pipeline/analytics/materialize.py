"""Enhanced partitions -> the tables mv_* of the analytics database: what is new or changed, in one transaction."""

import hashlib
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import TYPE_CHECKING, cast

import pyarrow as pa
import pyarrow.compute as pc

from wrm_pipeline.analytics.database import SCHEMA, AnalyticsDatabase, make_way
from wrm_pipeline.analytics.registry import Table, tables_of
from wrm_pipeline.analytics.registry.daily import DAILY_VIEWS, MV_DAILY_AGGREGATES, MV_REFRESHES
from wrm_pipeline.analytics.registry.latest import LATEST_VIEWS, PROFILE_DAYS
from wrm_pipeline.analytics.registry.staging import SOURCE_COLUMNS, STAGING_SQL
from wrm_pipeline.analytics.registry.types import short_type
from wrm_pipeline.clients.errors import PermanentError, StorageFullError
from wrm_pipeline.domain import asset_names
from wrm_pipeline.domain.layout import folder_date, local_date
from wrm_pipeline.domain.snapshot_time import MAX_AHEAD
from wrm_pipeline.lake.published_partitions import PublishedPartitions, UnreadablePartitionError
from wrm_pipeline.logs import get_logger

if TYPE_CHECKING:
    import duckdb

_log = get_logger(__name__)

# What a part of a day is made from, where the store does not give the day's object: it may do so later, without any
# change of the object. So many are asked for again in each refresh, the newest.
_DENIED = "denied "
_DENIED_AT_ONCE = 20
# Days that are asked for to tell whether one object is to blame, or the store.
_PROBES = 3

# A table's partition, or with None the whole table.
Part = tuple[str, date | None]


class PartitionGoneError(RuntimeError):
    """A published partition was removed between the listing and the reading."""


@dataclass(frozen=True, slots=True)
class RefreshPlan:
    """What a refresh has to do.

    Attributes:
        sources: What each part is to be made from.
        write: Parts that are missing or were made from something else.
        asked_again: Days whose object the store did not give the last time.
        drop: Parts of days that are no longer published, or no longer kept.
        recreate: Tables that are missing or have other columns.
    """

    sources: Mapping[Part, str]
    write: frozenset[Part]
    asked_again: frozenset[date]
    drop: frozenset[Part]
    recreate: tuple[Table, ...]

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
    """What a refresh did; `rows` is how many each table has now, of `days_unreadable` they have none.

    `newest` is the newest day up to that of now of which they have rows.
    """

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
    today = local_date(refreshed_at)
    with database.reading_if_any() as connection:
        if connection is not None and plan_refresh(connection, published, today).nothing_to_do:
            newest, rows = _newest(connection, today), _row_counts(connection)
            return Refresh(newest, rows=rows, seconds=time.monotonic() - started)
    with database.refresh() as connection:
        # Once more: while this one waited for the lock, another refresh may have done it.
        plan = plan_refresh(connection, published, today)
        connection.begin()
        days = _Days(connection, partitions)
        _apply(connection, plan, days, published, refreshed_at)
        connection.commit()
        newest, rows = _newest(connection, today), _row_counts(connection)
    seconds = time.monotonic() - started
    _log.info("refreshed materialized views", days=len(plan.days), newest=str(newest), seconds=round(seconds, 3))
    dropped = {dt for _, dt in plan.drop if dt is not None and dt not in published}
    return Refresh(newest, tuple(plan.days), tuple(sorted(dropped)), tuple(days.unreadable), rows, seconds)


def published_days(partitions: PublishedPartitions) -> dict[date, str]:
    """The ETag of each published day's enhanced object: one listing, a request for each 1,000 days."""
    found = ((folder_date(info.key.rpartition("/")[0]), info.etag) for info in partitions.objects("enhanced"))
    return {dt: etag for dt, etag in found if dt is not None}


def plan_refresh(connection: "duckdb.DuckDBPyConnection", published: Mapping[date, str], today: date) -> RefreshPlan:
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
    denied: list[date] = []
    if MV_REFRESHES not in recreate:
        found = connection.execute(f"SELECT table_name, dt, source FROM {SCHEMA}.{MV_REFRESHES.name}").fetchall()
        emptied = {view.name for view in recreate}
        held = {(name, dt): source for name, dt, source in found if name not in emptied}
        denied = sorted({dt for (_, dt), source in held.items() if dt and source.startswith(_DENIED)})
        later, denied = set(denied[:-_DENIED_AT_ONCE]), denied[-_DENIED_AT_ONCE:]
        held = {part: source.removeprefix(_DENIED) if part[1] in later else source for part, source in held.items()}
    wanted = _sources(published, today)
    return RefreshPlan(
        sources=wanted,
        write=frozenset(part for part, source in wanted.items() if held.get(part) != source),
        asked_again=frozenset(denied),
        drop=frozenset(part for part in held if part not in wanted),
        recreate=tables_of(asset_names.MATERIALIZED_VIEWS) if MV_REFRESHES in recreate else recreate,
    )


def version_of(view: Table) -> str:
    """Changes with the SQL and the columns: rows of another version were made by another rule."""
    made_by = (view.columns_sql, view.sql, sorted(STAGING_SQL.items()))
    return hashlib.sha256(repr(made_by).encode()).hexdigest()[:12]


def _sources(published: Mapping[date, str], today: date) -> dict[Part, str]:
    """What each part is to be made from: the published object, or objects, and the view's version.

    Days later than `today` are of a clock that was ahead: they are days like others, and not what is now.
    """
    days = sorted(published)
    sources: dict[Part, str] = {}
    for view in DAILY_VIEWS:
        for dt in days[-view.kept_days :] if view.kept_days else days:
            sources[view.name, dt] = f"{published[dt]} {version_of(view)}"
    # The profile of mv_rebalancing is made from the days before the newest.
    begun = [dt for dt in days if dt <= today]
    recent = repr([(dt, published[dt]) for dt in begun if (begun[-1] - dt).days <= PROFILE_DAYS])
    recent_id = hashlib.sha256(recent.encode()).hexdigest()[:16]
    return sources | {(view.name, None): f"{recent_id} {version_of(view)}" for view in LATEST_VIEWS}


def _apply(
    connection: "duckdb.DuckDBPyConnection",
    plan: RefreshPlan,
    days: "_Days",
    published: Collection[date],
    refreshed_at: datetime,
) -> None:
    """Do what is planned.

    Raises:
        PermanentError: the store gives none of the days.
    """
    for view in plan.recreate:
        make_way(connection, view.name, "BASE TABLE")
        connection.execute(f"CREATE OR REPLACE TABLE {SCHEMA}.{view.name} ({view.columns_sql})")
    for name, dt in plan.drop:
        _delete(connection, name, dt)
    for dt in plan.days:
        readable = days.load(dt)
        for view in DAILY_VIEWS:
            if (view.name, dt) in plan.write:
                source = (_DENIED if dt in days.denied else "") + plan.sources[view.name, dt]
                _write(connection, (view.name, dt), view.sql if readable else None, source, refreshed_at)
    # A day that could not be read before is part of the profile of mv_rebalancing.
    given = plan.asked_again.difference(days.denied)
    outdated = [view for view in LATEST_VIEWS if given or (view.name, None) in plan.write]
    if outdated:
        begun = sorted((dt for dt in published if dt <= local_date(refreshed_at)), reverse=True)
        found = days.load_first(begun, refreshed_at + MAX_AHEAD)
        for view in outdated:
            source = plan.sources[view.name, None]
            _write(connection, (view.name, None), view.sql if found else None, source, refreshed_at)
    days.check_the_store(published)


@dataclass(slots=True)
class _Days:
    """The temporary tables of one day at a time, each from one read of its object.

    A day that cannot be read has no rows in the tables: it costs itself, and not the others.

    Attributes:
        loaded: The day whose tables are there.
        unreadable: Days whose objects are damaged or another writer's, or denied.
        denied: Days whose objects the store does not give (rights of their own, a cold storage class), and why.
        was_read: Whether any was read.
    """

    connection: "duckdb.DuckDBPyConnection"
    partitions: PublishedPartitions
    loaded: date | None = None
    unreadable: list[date] = field(default_factory=list)
    denied: dict[date, PermanentError] = field(default_factory=dict)
    was_read: bool = False

    def load(self, dt: date, *, until: datetime | None = None) -> bool:
        """Make a day's tables, without snapshots later than `until`; False if it cannot be read or has none.

        Raises:
            PartitionGoneError: it is no longer published.
            ExternalError: the store failed.
        """
        if dt in self.unreadable:
            return False
        try:
            rows = self.partitions.read_enhanced_rows(dt, SOURCE_COLUMNS)
        except StorageFullError:
            raise
        except (UnreadablePartitionError, PermanentError) as error:
            _log.warning("an enhanced partition cannot be read; the tables do without it", dt=str(dt), error=str(error))
            self.unreadable.append(dt)
            if isinstance(error, PermanentError):
                self.denied[dt] = error
            return False
        if rows is None:
            raise PartitionGoneError(
                f"The enhanced partition of {dt} was removed while the tables were being refreshed. They are as they "
                "were; materialize create_materialized_views again."
            )
        self.was_read = True
        if until is not None:
            rows = rows.filter(pc.less_equal(rows["file_timestamp"], pa.scalar(until, rows["file_timestamp"].type)))
            if not rows.num_rows:
                return False
        connection, self.loaded = self.connection, dt
        connection.register("incoming_rows", rows)
        connection.execute(f"CREATE OR REPLACE TEMP TABLE day_rows AS SELECT *, DATE '{dt}' AS dt FROM incoming_rows")
        connection.unregister("incoming_rows")
        for name, sql in STAGING_SQL.items():
            connection.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS {sql}")
        return True

    def check_the_store(self, published: Iterable[date]) -> None:
        """Make sure that single objects are to blame for what was denied: the store gives one of another day.

        Raises:
            PermanentError: the first that was denied; the store gives none.
        """
        others = sorted(set(published).difference(self.unreadable), reverse=True)
        if self.denied and not self.was_read and not any(self.load(dt) for dt in others[:_PROBES]):
            raise next(iter(self.denied.values()))

    def load_first(self, days: Iterable[date], until: datetime) -> bool:
        """Make the tables of the first of the days that has a snapshot up to `until`; False if none has."""
        for dt in days:
            if dt == self.loaded:  # its tables are good as they are, unless they hold later snapshots
                sql = "SELECT coalesce(max(file_timestamp) <= ?, false) FROM day_snapshots"
                ((good,),) = self.connection.execute(sql, [until]).fetchall()
                if good:
                    return True
            if self.load(dt, until=until):
                return True
        return False


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


def _newest(connection: "duckdb.DuckDBPyConnection", today: date) -> date | None:
    sql = f"SELECT max(dt) FROM {SCHEMA}.{MV_DAILY_AGGREGATES.name} WHERE dt <= ?"
    ((newest,),) = cast("list[tuple[date | None]]", connection.execute(sql, [today]).fetchall())
    return newest


def _row_counts(connection: "duckdb.DuckDBPyConnection") -> dict[str, int]:
    sql = f"SELECT table_name, sum(rows)::BIGINT FROM {SCHEMA}.{MV_REFRESHES.name} GROUP BY table_name"
    counts = dict(connection.execute(sql).fetchall())
    return {view.name: counts.get(view.name, 0) for view in (*LATEST_VIEWS, *DAILY_VIEWS)}

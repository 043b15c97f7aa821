"""Refreshes tables that record what their rows were made from: new or changed parts, in one transaction.

A *part* is replaced as a whole: the rows of one day, or a whole table. Each is made from published objects, identified
by their ETags, by a rule, identified by its version. Each set of tables has a ledger with both for every part. One
listing shows which parts are out of date; if none is, the database is not touched.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import TYPE_CHECKING, ClassVar, cast

import pyarrow as pa

from wrm_pipeline.analytics.database import SCHEMA, AnalyticsDatabase, make_way
from wrm_pipeline.analytics.enhanced_days import EnhancedDays
from wrm_pipeline.analytics.registry import Refreshed, Table, tables_of
from wrm_pipeline.analytics.registry.types import short_type
from wrm_pipeline.domain.layout import folder_date, local_date
from wrm_pipeline.lake.published_partitions import PublishedPartitions
from wrm_pipeline.logs import get_logger

if TYPE_CHECKING:
    import duckdb

_log = get_logger(__name__)

# A table, and the day of the rows; no day: the whole table.
Part = tuple[str, date | None]
# Prefix of the source of a denied part. Each refresh requests the newest of these days again, up to this number.
_DENIED = "denied "
_DENIED_AT_ONCE = 20
# In place of a table's name: all daily tables of the set, which are made together.
EVERY_TABLE = "*"


@dataclass(frozen=True, slots=True)
class Source:
    """What the rows of a part are made from.

    Attributes:
        etag: Of the published object, or a digest of several objects' ETags; without blanks.
        version: Of the rule that makes rows of it.
    """

    etag: str
    version: str

    def __str__(self) -> str:
        return f"{self.etag} {self.version}"

    @property
    def denied(self) -> "Source":
        """The same if the store denies the object: it may return it later, without any change of the object."""
        return Source(f"{_DENIED}{self.etag}", self.version)


@dataclass(frozen=True, slots=True)
class Ledger:
    """The table in which a set records what its parts were made from.

    It has the columns `dt`, `rows` and `refreshed_at`; `table_name`, unless its days are of all tables at once; and
    `source`, or `etag` and `version`.
    """

    table: Table

    @property
    def _names(self) -> set[str]:
        return {column.name for column in self.table.columns}

    @property
    def _table_name(self) -> str:
        return "table_name" if "table_name" in self._names else f"'{EVERY_TABLE}'"

    def held(self, connection: "duckdb.DuckDBPyConnection") -> dict[Part, str]:
        """What each part was made from."""
        source = "source" if "source" in self._names else "etag || ' ' || version"
        sql = f"SELECT {self._table_name}, dt, {source} FROM {SCHEMA}.{self.table.name}"
        return {(name, dt): source for name, dt, source in connection.execute(sql).fetchall()}

    def newest(self, connection: "duckdb.DuckDBPyConnection", today: date) -> date | None:
        """The newest day up to `today` with rows."""
        sql = f"SELECT max(dt) FROM {SCHEMA}.{self.table.name} WHERE dt <= ? AND rows > 0"
        ((newest,),) = cast("list[tuple[date | None]]", connection.execute(sql, [today]).fetchall())
        return newest

    def row_counts(self, connection: "duckdb.DuckDBPyConnection") -> dict[str, int]:
        """The number of rows of each table; empty if the ledger does not distinguish tables."""
        if "table_name" not in self._names:
            return {}
        sql = f"SELECT table_name, sum(rows)::BIGINT FROM {SCHEMA}.{self.table.name} GROUP BY table_name"
        return dict(connection.execute(sql).fetchall())

    def write(
        self, connection: "duckdb.DuckDBPyConnection", part: Part, source: Source, rows: int, refreshed_at: datetime
    ) -> None:
        """Replace the entry of a part."""
        self.forget(connection, part)
        name, dt = part
        values = {
            "table_name": name,
            "dt": dt,
            "refreshed_at": refreshed_at,
            "rows": rows,
            "source": str(source),
            "etag": source.etag,
            "version": source.version,
        }
        columns = [column.name for column in self.table.columns]
        connection.execute(
            f"INSERT INTO {SCHEMA}.{self.table.name} VALUES ({', '.join('?' * len(columns))})",
            [values[column] for column in columns],
        )

    def forget(self, connection: "duckdb.DuckDBPyConnection", part: Part) -> None:
        """Remove the entry of a part."""
        connection.execute(
            f"DELETE FROM {SCHEMA}.{self.table.name} WHERE {self._table_name} = ? AND dt IS NOT DISTINCT FROM ?",
            list(part),
        )


@dataclass(frozen=True, slots=True)
class RefreshPlan:
    """What a refresh has to do.

    Attributes:
        published: The ETag of each published day's object.
        newest: The newest published day up to today. Later ones stem from a clock that was ahead: they are treated as
            ordinary days, but not as the newest. If there are no others, the last of them.
        sources: What each part has to be made from.
        write: Parts that are missing or were made from something else.
        asked_again: Days whose object the store denied the last time.
        drop: Parts of days that are no longer published, or no longer kept.
        recreate: Tables that are missing or have other columns.
        forget: Parts that are removed with the tables that are created again.
        waiting: Days left for the next refresh.
    """

    published: Mapping[date, str]
    newest: date | None
    sources: Mapping[Part, Source]
    write: frozenset[Part]
    asked_again: frozenset[date]
    drop: frozenset[Part]
    recreate: tuple[Table, ...]
    forget: frozenset[Part]
    waiting: tuple[date, ...]

    @property
    def nothing_to_do(self) -> bool:
        """Whether the tables are up to date."""
        return not (self.write or self.drop or self.recreate)

    @property
    def names_by_day(self) -> dict[date, list[str]]:
        """The days that are made again, in order, each with the names of its parts."""
        found: dict[date, list[str]] = {}
        for name, dt in self.sources:
            if dt is not None and (name, dt) in self.write:
                found.setdefault(dt, []).append(name)
        return dict(sorted(found.items()))


@dataclass(frozen=True, slots=True)
class Refresh:
    """The result of a refresh.

    Attributes:
        newest: The newest day up to today with rows in the tables.
        days_refreshed: Days whose rows were made again.
        days_dropped: Days that are no longer published.
        days_waiting: Days left for the next refresh.
        days_unreadable: Days whose object cannot be read; the tables have no rows from it.
        rows: The number of rows of each table, if the ledger distinguishes tables.
        seconds: The duration.
    """

    newest: date | None
    days_refreshed: tuple[date, ...] = ()
    days_dropped: tuple[date, ...] = ()
    days_waiting: tuple[date, ...] = ()
    days_unreadable: tuple[date, ...] = ()
    rows: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0


class TableSet(ABC):
    """The tables of one asset, which are refreshed together.

    Attributes:
        asset: Its name.
        source_columns: The columns of the enhanced rows that they are made from.
        days: The source of these rows, which records unreadable days of this refresh.
    """

    asset: ClassVar[str]
    source_columns: ClassVar[Sequence[str]]

    def __init__(self, partitions: PublishedPartitions) -> None:
        self.days = EnhancedDays(partitions, self.source_columns)

    @property
    def tables(self) -> tuple[Table, ...]:
        """All of them, the ledger included."""
        return tables_of(self.asset)

    @property
    def ledger(self) -> Ledger:
        """The record of what the other tables contain."""
        (table,) = (table for table in self.tables if table.refreshed is Refreshed.LEDGER)
        return Ledger(table)

    def tables_in(self, part: Part) -> list[Table]:
        """The tables that have rows of a part."""
        name, _ = part
        return [table for table in self.tables if (table.by_day if name == EVERY_TABLE else table.name == name)]

    @abstractmethod
    def sources(self, published: Mapping[date, str]) -> dict[Part, Source]:
        """What each part has to be made from, given the ETags of the published objects by day."""

    @abstractmethod
    def write_day(self, connection: "duckdb.DuckDBPyConnection", dt: date, names: Sequence[str]) -> Mapping[str, int]:
        """Replace the rows of these parts of a day; returns their numbers, empty if it cannot be read."""

    @abstractmethod
    def write_whole(self, connection: "duckdb.DuckDBPyConnection", plan: RefreshPlan) -> Mapping[str, int]:
        """Once the days are written, replace whole tables; returns the number of rows of each part."""


def refresh(
    tables: TableSet,
    database: AnalyticsDatabase,
    *,
    refreshed_at: datetime,
    max_days: int | None = None,
) -> Refresh:
    """Bring a set of tables up to date; the database is not touched if they are.

    Args:
        tables: Which.
        database: Where they are.
        refreshed_at: The time recorded in the ledger.
        max_days: Maximum number of days to make again; None: all. The others wait for the next refresh.

    Raises:
        ExternalError: the store failed, or returns none of the days; the tables are unchanged.
        PartitionGoneError: a partition was removed meanwhile; the tables are unchanged.
    """
    started = time.monotonic()
    published, today = published_days(tables.days.partitions), local_date(refreshed_at)
    with database.reading_if_any() as connection:
        if connection is not None:
            plan = plan_refresh(connection, tables, published, today, max_days)
            if plan.nothing_to_do:
                newest, rows = tables.ledger.newest(connection, today), _row_counts(connection, tables)
                return Refresh(newest, rows=rows, seconds=time.monotonic() - started)
    with database.refresh() as connection:
        # Planned again: another refresh may have done it while this one waited for the lock.
        plan = plan_refresh(connection, tables, published, today, max_days)
        connection.begin()
        _apply(connection, tables, plan, refreshed_at)
        connection.commit()
        newest, rows = tables.ledger.newest(connection, today), _row_counts(connection, tables)
    done = tuple(plan.names_by_day)
    dropped = {dt for _, dt in plan.drop if dt is not None and dt not in published}
    seconds = time.monotonic() - started
    _log.info("refreshed tables", asset=tables.asset, days=len(done), newest=str(newest), seconds=round(seconds, 3))
    return Refresh(
        newest=newest,
        days_refreshed=done,
        days_dropped=tuple(sorted(dropped)),
        days_waiting=plan.waiting,
        days_unreadable=tuple(tables.days.unreadable),
        rows=rows,
        seconds=seconds,
    )


def published_days(partitions: PublishedPartitions) -> dict[date, str]:
    """The ETag of each published day's enhanced object: one listing, a request for each 1,000 days."""
    found = ((folder_date(info.key.rpartition("/")[0]), info.etag) for info in partitions.objects("enhanced"))
    return {dt: etag for dt, etag in found if dt is not None}


def plan_refresh(
    connection: "duckdb.DuckDBPyConnection",
    tables: TableSet,
    published: Mapping[date, str],
    today: date,
    max_days: int | None = None,
) -> RefreshPlan:
    """Compare what is published, ETags by day, with what the tables were made from."""
    recreate = with_other_columns(connection, tables.tables)
    held: dict[Part, str] = {}
    gone: set[Part] = set()
    if tables.ledger.table in recreate:
        recreate = tables.tables
    else:
        held = tables.ledger.held(connection)
        gone = {part for part in held if any(table in recreate for table in tables.tables_in(part))}
    asked_again = {dt for (_, dt), source in held.items() if dt and source.startswith(_DENIED)}
    asked_later = set(sorted(asked_again)[:-_DENIED_AT_ONCE])
    right = {
        part: source.removeprefix(_DENIED) if part[1] in asked_later else source
        for part, source in held.items()
        if part not in gone
    }
    sources = tables.sources(published)
    out_of_date = {part for part, source in sources.items() if right.get(part) != str(source)}
    newest = max((dt for dt in published if dt <= today), default=max(published, default=None))
    waiting = _left_for_later({dt for _, dt in out_of_date if dt is not None}, newest, max_days)
    return RefreshPlan(
        published=published,
        newest=newest,
        sources=sources,
        write=frozenset(part for part in out_of_date if part[1] not in waiting),
        asked_again=frozenset(asked_again - asked_later),
        drop=frozenset(right.keys() - sources.keys()),
        recreate=recreate,
        forget=frozenset(gone),
        waiting=tuple(sorted(waiting)),
    )


def with_other_columns(connection: "duckdb.DuckDBPyConnection", tables: Iterable[Table]) -> tuple[Table, ...]:
    """The tables that are missing or differ from the registry in their columns."""
    existing: dict[str, list[tuple[str, str]]] = {}
    sql = "SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE schema_name = ? ORDER BY column_index"
    for table, column, type_name in connection.execute(sql, [SCHEMA]).fetchall():
        existing.setdefault(table, []).append((column, short_type(type_name)))
    return tuple(
        table
        for table in tables
        if existing.get(table.name) != [(column.name, column.type) for column in table.columns]
    )


def _left_for_later(days: Iterable[date], newest: date | None, max_days: int | None) -> set[date]:
    """The days beyond `max_days`: days are taken in order, but always include the newest, which people look at."""
    in_order = sorted(days)
    if max_days is None or len(in_order) <= max_days:
        return set()
    chosen = set(in_order[:max_days])
    if newest in in_order and newest not in chosen:
        chosen = {*in_order[: max_days - 1], newest}
    return set(in_order) - chosen


def _apply(
    connection: "duckdb.DuckDBPyConnection",
    tables: TableSet,
    plan: RefreshPlan,
    refreshed_at: datetime,
) -> None:
    """Carry out the plan."""
    ledger = tables.ledger
    ours = ledger.table not in plan.recreate
    for table in plan.recreate:
        # Without a ledger, a table with the name of one of ours but other columns may be somebody else's.
        columns = None if ours or table == ledger.table else [column.name for column in table.columns]
        make_way(connection, table.name, "BASE TABLE", columns)
        connection.execute(f"CREATE OR REPLACE TABLE {SCHEMA}.{table.name} ({table.columns_sql})")
    for part in plan.forget:
        ledger.forget(connection, part)
    for part in plan.drop:
        delete_rows(connection, tables.tables_in(part), part[1])
        ledger.forget(connection, part)
    for dt, names in plan.names_by_day.items():
        for name, rows in tables.write_day(connection, dt, names).items():
            source = plan.sources[name, dt]
            ledger.write(
                connection, (name, dt), source.denied if dt in tables.days.denied else source, rows, refreshed_at
            )
    for name, rows in tables.write_whole(connection, plan).items():
        ledger.write(connection, (name, None), plan.sources[name, None], rows, refreshed_at)
    tables.days.check_the_store(plan.published)


def delete_rows(connection: "duckdb.DuckDBPyConnection", tables: Iterable[Table], dt: date | None) -> None:
    """Delete a day's rows, or all."""
    # A literal date, so that the row groups of other days are skipped.
    only = f" WHERE dt = DATE '{dt}'" if dt else ""
    for table in tables:
        connection.execute(f"DELETE FROM {SCHEMA}.{table.name}{only}")


def insert_rows(connection: "duckdb.DuckDBPyConnection", table: Table, rows: pa.Table) -> None:
    """Add rows; columns are matched by name."""
    connection.register("incoming_rows", rows)
    connection.execute(f"INSERT INTO {SCHEMA}.{table.name} BY NAME FROM incoming_rows")
    connection.unregister("incoming_rows")


def _row_counts(connection: "duckdb.DuckDBPyConnection", tables: TableSet) -> dict[str, int]:
    counts = tables.ledger.row_counts(connection)
    made = [table for table in tables.tables if table.refreshed is not Refreshed.LEDGER]
    return {table.name: counts.get(table.name, 0) for table in made} if counts else {}

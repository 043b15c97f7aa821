"""Dagster's SQLite storages of runs and ticks, opened without Alembic where their files exist.

In dagster.yaml::

    run_storage:
      module: wrm_pipeline.resources.opened_storage
      class: OpenedRunStorage
    schedule_storage:
      module: wrm_pipeline.resources.opened_storage
      class: OpenedScheduleStorage

Each tick and each run opens Dagster's instance. Its own classes then have Alembic load all 50 migrations twice, only to
see that the tables are there: 35 of the 55 ms that it takes. They also make an engine for each query, which compiles it
again, and a connection, whose end has SQLite copy its WAL if no other process is there: 1 to 2 ms and three waits for
the disk, several hundred times a minute in the daemon. And each second the daemon asks for the runs in the queue and
those in progress, which takes 3.4 ms; that there are none, as usual, takes 0.6 ms to find out. Files and tables are
those of Dagster's own classes.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, Self

import dagster as dg
import sqlalchemy as sa
from dagster._config.config_schema import UserConfigSchema
from dagster._core.storage.dagster_run import JobBucket, TagBucket
from dagster._core.storage.runs.sqlite.sqlite_run_storage import SqliteRunStorage
from dagster._core.storage.schedules.sqlite.sqlite_schedule_storage import SqliteScheduleStorage
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS, create_db_conn_string
from dagster._serdes import ConfigurableClassData
from sqlalchemy.pool import NullPool


def has_version(path: str | Path) -> bool:
    """Whether a SQLite file has Dagster's tables: Alembic has marked them as the last step of their creation."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return connection.execute("SELECT version_num FROM alembic_version").fetchone() is not None
    return False


def engine_of(address: str, *, keeps_connection: bool = True) -> sa.Engine:
    """An engine that is kept, for the statements that it has compiled.

    Args:
        address: SQLAlchemy's URL of the file.
        keeps_connection: Whether one connection stays open, too. Those of other threads at the same time do not.
    """
    pool: dict[str, Any] = {"pool_size": 1, "max_overflow": -1} if keeps_connection else {"poolclass": NullPool}
    return sa.create_engine(address, connect_args={"timeout": SQLITE_BUSY_TIMEOUT_SECONDS}, **pool)


class InPlace:
    """A storage whose place follows from the instance's folder, so that dagster.yaml only names the class."""

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """Nothing to configure."""
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> Self:  # noqa: ARG003
        """As dagster.yaml has it."""
        return cls(inst_data)  # type: ignore[call-arg]


class _Opened(InPlace):
    """What the storages of runs and of ticks have in common; each names its folder and its file."""

    _folder: ClassVar[str]
    _file: ClassVar[str]

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        # The folder is the instance's, which is known once it registers itself.
        super().__init__("", inst_data)  # type: ignore[call-arg]

    def register_instance(self, instance: dg.DagsterInstance) -> None:
        """Open the file below the instance's folder, or create it."""
        folder = str(Path(instance.root_directory, self._folder))
        if not has_version(Path(folder, f"{self._file}.db")):
            self._create(folder)
        self._conn_string = create_db_conn_string(folder, self._file)
        self._engine = engine_of(self._conn_string)
        super().register_instance(instance)  # type: ignore[misc]

    @staticmethod
    def _create(folder: str) -> None:
        """Create the file as Dagster's own class does."""
        raise NotImplementedError

    @contextmanager
    def connect(self) -> Iterator[sa.Connection]:
        """A connection of its own, in a transaction."""
        with self._engine.connect() as connection, connection.begin():
            yield connection

    def dispose(self) -> None:
        """Close the connection; the next query would open another."""
        super().dispose()  # type: ignore[misc]
        self._engine.dispose()


class OpenedRunStorage(_Opened, SqliteRunStorage):
    """`SqliteRunStorage` at its usual place (see the module)."""

    _folder, _file = "history", "runs"
    _has_run_stats = False

    @staticmethod
    def _create(folder: str) -> None:
        SqliteRunStorage.from_local(folder)

    def get_runs(
        self,
        filters: dg.RunsFilter | None = None,
        cursor: str | None = None,
        limit: int | None = None,
        bucket_by: JobBucket | TagBucket | None = None,
        ascending: bool = False,
    ) -> Sequence[dg.DagsterRun]:
        """As Dagster's own."""
        return [] if self._has_none(filters) else super().get_runs(filters, cursor, limit, bucket_by, ascending)

    def get_run_records(
        self,
        filters: dg.RunsFilter | None = None,
        limit: int | None = None,
        order_by: str | None = None,
        ascending: bool = False,
        cursor: str | None = None,
        bucket_by: JobBucket | TagBucket | None = None,
    ) -> Sequence[dg.RunRecord]:
        """As Dagster's own."""
        if self._has_none(filters):
            return []
        return super().get_run_records(filters, limit, order_by, ascending, cursor, bucket_by)

    def has_run_stats_index_cols(self) -> bool:
        """As Dagster's own; columns that are there stay."""
        self._has_run_stats = self._has_run_stats or super().has_run_stats_index_cols()
        return self._has_run_stats

    def _has_none(self, filters: dg.RunsFilter | None) -> bool:
        """Whether no run at all is in one of the states that are asked for."""
        if filters is None or not filters.statuses:
            return False
        states = [status.value for status in filters.statuses]
        sql = f"SELECT 1 FROM runs WHERE status IN ({', '.join('?' * len(states))}) LIMIT 1"  # noqa: S608 - no values
        with self._engine.connect() as connection:
            return connection.exec_driver_sql(sql, tuple(states)).first() is None


class OpenedScheduleStorage(_Opened, SqliteScheduleStorage):
    """`SqliteScheduleStorage` at its usual place (see the module)."""

    _folder, _file = "schedules", "schedules"

    @staticmethod
    def _create(folder: str) -> None:
        SqliteScheduleStorage.from_local(folder)

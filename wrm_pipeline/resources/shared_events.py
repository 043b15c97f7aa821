"""Dagster's event log in one SQLite file and compressed, where Dagster's default has a file for each run.

In dagster.yaml::

    event_log_storage:
      module: wrm_pipeline.resources.shared_events
      class: SharedSqliteEventLogStorage

A file of its own costs a run 110 kB of empty tables and indexes, the marking of its schema version (Alembic loads all
50 of Dagster's migrations for it), and each asset event is written to it and to `index.db`. Here new runs are in
`index.db` alone, and events are compressed (`packed_text`). Together that is 0.1 MB a minute instead of 0.6.

Its tables are the same, so nothing has to be converted: runs from before have their files and are read from there, and
events that are not compressed as they are. Back to Dagster's own storage it goes with all processes stopped, without
the lines, and by `python -m wrm_pipeline.resources.shared_events`, which decompresses what is stored. The state of all
assets stays; of the runs in between their steps and messages are not shown.

Several processes write to the file: SQLite's WAL lets them take turns, as they do in `index.db` and `runs.db` anyway.
"""

import os
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import sqlalchemy as sa
from dagster._core.event_api import EventHandlerFn, EventLogRecord, EventRecordsFilter
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._core.storage.event_log.sqlite.sqlite_event_log import (
    INDEX_SHARD_NAME,
    SqliteEventLogStorage,
    SqliteEventLogStorageWatchdog,
)
from dagster._serdes import ConfigurableClassData
from watchdog.events import FileSystemEvent
from watchdog.observers import Observer

from wrm_pipeline.resources.opened_storage import InPlace, engine_of, has_version
from wrm_pipeline.resources.packed_text import unpack, use_packed_text

_PACKED = (("event_logs", "event"), ("asset_check_executions", "evaluation_event"))


class SharedSqliteEventLogStorage(InPlace, SqliteEventLogStorage):
    """`SqliteEventLogStorage` that keeps new runs in `index.db` (see the module)."""

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        # The folder is the instance's, which is known once it registers itself.
        self._inst_data = inst_data
        self._engines: dict[str, sa.Engine] = {}

    def register_instance(self, instance: dg.DagsterInstance) -> None:
        """Open the log below the instance's folder, where Dagster's default has it, or create it."""
        super().__init__(str(Path(instance.root_directory, "history", "runs")), self._inst_data)
        super().register_instance(instance)

    @property
    def is_run_sharded(self) -> bool:
        """Ids of new events are in one order."""
        return False

    def path_for_shard(self, run_id: str) -> str:
        """The file with a run's events."""
        return super().path_for_shard(self._shard_of(run_id))

    def run_connection(self, run_id: str | None = None) -> Any:
        """A connection to the file with a run's events."""
        return self._connect(self._shard_of(run_id or INDEX_SHARD_NAME))

    def store_event(self, event: dg.EventLogEntry) -> None:
        """Store an event; one of a run that began before this storage also in its own file."""
        if self._shard_of(event.run_id) == INDEX_SHARD_NAME:
            SqlEventLogStorage.store_event(self, event)
        else:
            super().store_event(event)

    def get_event_records(
        self, event_records_filter: EventRecordsFilter, limit: int | None = None, ascending: bool = False
    ) -> Sequence[EventLogRecord]:
        """Events of all runs, without the steps and messages of those that have files of their own."""
        return SqlEventLogStorage.get_event_records(self, event_records_filter, limit, ascending)

    def watch(self, run_id: str, cursor: str | None, callback: EventHandlerFn) -> None:
        """Call back for each new event of a run."""
        observer: Any = self._obs or Observer()
        if not self._obs:
            self._obs = observer
            observer.start()
        watchdog = _Watchdog(self, run_id, callback, cursor)
        self._watchers[run_id][callback] = (watchdog, observer.schedule(watchdog, self._base_dir, recursive=True))

    def dispose(self) -> None:
        """Close what is open; the next query would open it again."""
        super().dispose()
        with self._db_lock:
            for engine in self._engines.values():
                engine.dispose()

    def _shard_of(self, run_id: str) -> str:
        own = run_id != INDEX_SHARD_NAME and Path(super().path_for_shard(run_id)).exists()
        return run_id if own else INDEX_SHARD_NAME

    @contextmanager
    def _connect(self, shard: str) -> Iterator[sa.Connection]:
        with self._db_lock:
            if shard not in self._engines:
                # One for each file: compiling takes 1 ms an event. Files of single runs are many, and soon not asked.
                address, keeps_connection = self.conn_string_for_shard(shard), shard == INDEX_SHARD_NAME
                self._engines[shard] = engine_of(address, keeps_connection=keeps_connection)
                if shard == INDEX_SHARD_NAME:
                    use_packed_text(self._engines[shard])
            if shard not in self._initialized_dbs:
                if not has_version(super().path_for_shard(shard)):
                    self._initdb(self._engines[shard])
                self._initialized_dbs.add(shard)
            with self._engines[shard].connect() as connection, connection.begin():
                yield connection


class _Watchdog(SqliteEventLogStorageWatchdog):
    """Calls back at each change of the log's file."""

    def __init__(
        self, storage: SharedSqliteEventLogStorage, run_id: str, callback: EventHandlerFn, cursor: str | None
    ) -> None:
        super().__init__(storage, run_id, callback, cursor)
        # While several processes have it open, what they write is in the second file.
        self._patterns = [self._log_path, f"{self._log_path}-wal"]

    def on_modified(self, event: FileSystemEvent) -> None:  # noqa: ARG002 - either file
        """Read what is new."""
        self._process_log()


def unpack_history(index: Path) -> int:
    """Decompress all events of an `index.db` in place, so that Dagster's own storage reads them; returns how many."""
    count = 0
    with closing(sqlite3.connect(index)) as connection, connection:
        connection.create_function("unpack", 1, unpack, deterministic=True)
        for table, column in _PACKED:
            change = f"UPDATE {table} SET {column} = unpack({column}) WHERE typeof({column}) = 'blob'"  # noqa: S608
            count += connection.execute(change).rowcount
    return count


if __name__ == "__main__":
    done = unpack_history(Path(os.environ["DAGSTER_HOME"], "history", "runs", "index.db"))
    sys.stdout.write(f"{done:,} events are stored as Dagster's own storage does.\n")

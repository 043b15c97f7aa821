"""The size of Dagster's history on disk, how fast it grows, and what must go for it to fit into a limit."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import sqlalchemy as sa
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._core.storage.runs.schema import RunsTable

from wrm_pipeline.jobs.run_history import (
    MINIMUM_DAYS,
    databases_of,
    ended_runs,
    folders_of_runs,
    oldest_to_keep,
    storages_of,
)

# A row's other columns and its entries in five indexes, in PostgreSQL.
_AROUND_AN_EVENT = 600
_DAY_S = 86400.0


@dataclass(frozen=True, slots=True)
class HistorySize:
    """What Dagster's history takes on disk.

    Attributes:
        bytes: Of runs, events, ticks and captured output, without pages that SQLite or PostgreSQL will use again.
        runs: Runs that are kept.
        runs_a_day: Runs of the last 24 hours; of a younger history at its pace so far.
    """

    bytes: int
    runs: int
    runs_a_day: float

    @property
    def bytes_a_run(self) -> float:
        """The average."""
        return self.bytes / max(self.runs, 1)

    def after(self, days: float) -> float:
        """Bytes that `days` of history take at this pace."""
        return self.bytes_a_run * self.runs_a_day * days


def measure_history(instance: dg.DagsterInstance, now: datetime) -> HistorySize:
    """Measure the history at `now` (aware).

    Raises:
        UnknownStorageError: the storage is neither SQLite nor PostgreSQL.
    """
    runs, events, _ = storages_of(instance)
    with runs.connect() as connection:
        count = connection.execute(sa.select(sa.func.count()).select_from(RunsTable)).scalar_one()
        first = connection.execute(sa.select(sa.func.min(RunsTable.c.create_timestamp))).scalar_one()
        since = (now - timedelta(days=1)).astimezone(UTC).replace(tzinfo=None)
        query = sa.select(sa.func.count()).select_from(RunsTable).where(RunsTable.c.create_timestamp >= since)
        recent = connection.execute(query).scalar_one()
    age_s = (now - first.replace(tzinfo=UTC)).total_seconds() if first else _DAY_S
    # The first hour is not typical: everything is built.
    days = min(max(age_s, 3600.0), _DAY_S) / _DAY_S
    size = _bytes_of_files(folders_of_runs(instance, events))
    if isinstance(events, SqliteEventLogStorage):
        size += sum(map(_used_bytes, databases_of(instance)))
    else:
        with events.index_connection() as connection:
            stored = sa.func.pg_column_size(SqlEventLogStorageTable.c.event) + _AROUND_AN_EVENT
            size += connection.execute(sa.select(sa.func.coalesce(sa.func.sum(stored), 0))).scalar_one()
    return HistorySize(size, count, recent / days)


def what_goes(instance: dg.DagsterInstance, days: float, max_bytes: int, now: datetime) -> datetime:
    """The time before which history goes: older than `days`, or so old that without it the rest fits `max_bytes`.

    Never later than `MINIMUM_DAYS` ago, whatever it takes.

    Raises:
        ValueError: fewer than MINIMUM_DAYS.
        UnknownStorageError: the storage is neither SQLite nor PostgreSQL.
    """
    before = oldest_to_keep(days)
    size = measure_history(instance, now)
    surplus = size.runs - int(max_bytes / max(size.bytes_a_run, 1))
    if surplus <= 0:
        return before
    runs, _, _ = storages_of(instance)
    latest = now - timedelta(days=MINIMUM_DAYS)
    with runs.connect() as connection:
        oldest = ended_runs(connection, latest)[:surplus]
    # A moment later than the last of them: what ended before it goes.
    return max([before, *(min(ended + timedelta(milliseconds=1), latest) for _, ended in oldest[-1:])])


def _bytes_of_files(folders: Sequence[Path]) -> int:
    """Of all files but the databases of more than one run."""
    size = 0
    for folder in folders:
        for path in folder.rglob("*"):
            with suppress(FileNotFoundError):  # a run's second file, or pruned meanwhile
                if path.is_file() and not path.name.startswith("index.db"):
                    size += path.stat().st_size
    return size


def _used_bytes(path: Path) -> int:
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as connection:
        names = ("page_count", "freelist_count", "page_size")
        pages, unused, size = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
        return int((pages - unused) * size)
    return 0

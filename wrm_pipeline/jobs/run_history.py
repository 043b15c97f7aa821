"""Limits the age of Dagster's own history: old runs, their events, ticks and logs go; the current state stays.

Dagster has retention only for ticks, and its `delete_run` deletes a partition's materializations as well, so that the
partition counts as missing afterwards. This module always keeps: the newest event of each kind for each asset and
partition, the newest result of each check, the newest tick of each sensor and schedule, runs that have not ended, and
ended ones that determine the status of a partition (a failed attempt). The newest row of each kind stays, too, so that
ids of deleted rows are never reused, and the cursors of sensors and of the exporter remain valid.

It works on SQLite and PostgreSQL, in transactions of a few hundred runs: nothing is blocked for long, and an
interrupted prune is simply run again, since a run's row is deleted last.
"""

import shutil
import sqlite3
import time
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import sqlalchemy as sa
from dagster import DagsterEventType as EventType
from dagster._core.storage.event_log.schema import (
    AssetCheckExecutionsTable,
    AssetEventTagsTable,
    SqlEventLogStorageTable,
)
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._core.storage.runs.schema import RunsTable, RunTagsTable
from dagster._core.storage.runs.sql_run_storage import SqlRunStorage
from dagster._core.storage.schedules.schema import JobTickTable
from dagster._core.storage.schedules.sql_schedule_storage import SqlScheduleStorage

from wrm_pipeline.flows.progress import Begin, unobserved

# Sensors and alerts look back for a day, plus their longest pause between retries.
MINIMUM_DAYS = 2

_ENDED = ("SUCCESS", "FAILURE", "CANCELED")
_RUNS_AT_ONCE = 200
# SQLite accepts 32,766 values in a statement, and 999 before 3.32.
_IDS_AT_ONCE = 500
# A SQLite file is compacted if a quarter of it, and at least this much, is unused.
_VACUUM_SHARE, _VACUUM_BYTES = 0.25, 8 * 2**20

Events, Checks, Runs, Ticks = SqlEventLogStorageTable.c, AssetCheckExecutionsTable.c, RunsTable.c, JobTickTable.c


class UnknownStorageError(RuntimeError):
    """Dagster keeps its history in a storage that is not supported here."""


@dataclass(slots=True)
class Pruned:
    """What was removed, or would be in a dry run."""

    runs: int = 0
    events: int = 0
    check_results: int = 0
    ticks: int = 0
    files: int = 0
    """Event files of single runs (SQLite) and folders of their captured output."""
    file_bytes: int = 0
    runs_left: int = 0
    events_left: int = 0
    warnings: list[str] = field(default_factory=list)


def prune(instance: dg.DagsterInstance, *, before: datetime, apply: bool, begin: Begin = unobserved) -> Pruned:
    """Remove everything that ended before a time (aware); without `apply` only count.

    `begin` is called once per few hundred runs.

    Raises:
        UnknownStorageError: the storage is neither SQLite nor PostgreSQL.
    """
    runs, events, schedules = storages_of(instance)
    with events.index_connection() as connection:
        kept_events, last_words = _to_keep(connection)
    with runs.connect() as connection:
        old = [run_id for run_id, _ in ended_runs(connection, before)]
        all_runs = {run_id for (run_id,) in connection.execute(sa.select(Runs.run_id))}
    doomed = [run_id for run_id in old if run_id not in last_words]
    surviving = all_runs - set(doomed)
    done = Pruned(runs=len(doomed), runs_left=len(surviving))

    _remove_files(instance, events, surviving, before, done, apply=apply)
    parts = [*_parts(doomed, _RUNS_AT_ONCE), None]
    for some in parts:
        begin(f"{len(some)} runs" if some else "events", len(parts))
        with events.index_connection() as connection:
            chosen = _of_runs(some) if some is not None else _of_no_run(before)
            _remove_events(connection, chosen, kept_events, done, apply=apply)
            if some is not None:
                _remove_check_results(connection, some, done, apply=apply)
    with schedules.connect() as connection:
        _remove_ticks(connection, before, done, apply=apply)
    if apply:
        for some in _parts(doomed, _RUNS_AT_ONCE):
            with runs.connect() as connection:
                connection.execute(RunTagsTable.delete().where(RunTagsTable.c.run_id.in_(some)))
                connection.execute(RunsTable.delete().where(Runs.run_id.in_(some)))
        _shrink_sqlite(instance, events, done)
    with events.index_connection() as connection:
        left = connection.execute(sa.select(sa.func.count()).select_from(SqlEventLogStorageTable)).scalar_one()
        done.events_left = left if apply else left - done.events
    return done


def storages_of(instance: dg.DagsterInstance) -> tuple[SqlRunStorage, SqlEventLogStorage, SqlScheduleStorage]:
    """The storages of runs, events and ticks.

    Raises:
        UnknownStorageError: one of them is neither SQLite nor PostgreSQL.
    """
    found = (instance.run_storage, instance.event_log_storage, instance.schedule_storage)
    kinds = (SqlRunStorage, SqlEventLogStorage, SqlScheduleStorage)
    for storage, kind in zip(found, kinds, strict=True):
        if not isinstance(storage, kind):
            raise UnknownStorageError(
                f"Dagster's history is in a {type(storage).__name__}, which this program cannot prune. It knows SQLite "
                "(the default) and PostgreSQL: see `storage` in dagster.yaml."
            )
    return found  # type: ignore[return-value]


def _to_keep(connection: sa.Connection) -> tuple[set[int], set[str]]:
    """Ids of events that stay although their runs go, and runs that stay because of them."""
    by_partition = (Events.asset_key, Events.dagster_event_type, Events.partition)
    newest = sa.select(sa.func.max(Events.id)).group_by(*by_partition).where(Events.asset_key.is_not(None))
    newest_of_kind = sa.select(sa.func.max(Events.id)).group_by(Events.dagster_event_type)
    kept = {event_id for query in (newest, newest_of_kind) for (event_id,) in connection.execute(query)}
    newest_checks = sa.select(sa.func.max(Checks.id)).group_by(Checks.asset_key, Checks.check_name, Checks.partition)
    checks = connection.execute(
        sa.select(Checks.evaluation_event_storage_id, Checks.execution_status, Checks.run_id).where(
            Checks.id.in_(newest_checks)
        )
    ).all()
    kept |= {event_id for event_id, _, _ in checks if event_id is not None}
    # A partition's newest event is an attempt without a result: it failed, and the run's row says so.
    attempts = (EventType.ASSET_MATERIALIZATION.value, EventType.ASSET_MATERIALIZATION_PLANNED.value)
    newest_attempt = (
        sa.select(sa.func.max(Events.id))
        .where(Events.dagster_event_type.in_(attempts), Events.asset_key.is_not(None))
        .group_by(Events.asset_key, Events.partition)
    )
    unfinished = sa.select(Events.run_id).where(
        Events.id.in_(newest_attempt), Events.dagster_event_type == EventType.ASSET_MATERIALIZATION_PLANNED.value
    )
    last_words = {run_id for (run_id,) in connection.execute(unfinished)}
    # The same holds for a planned check without a result. (With partitions the plan stays a separate row.)
    planned = {run_id for _, status, run_id in checks if status == "PLANNED"}
    with_result = sa.select(Checks.run_id).where(Checks.run_id.in_(planned), Checks.execution_status != "PLANNED")
    last_words |= planned - {run_id for (run_id,) in connection.execute(with_result)}
    return kept, last_words


def ended_runs(connection: sa.Connection, before: datetime) -> list[tuple[str, datetime]]:
    """Runs that ended before a time (aware) and when, oldest first. A run canceled before it began has no end time."""
    naive = before.astimezone(UTC).replace(tzinfo=None)  # as Dagster stores such columns
    ended = sa.or_(Runs.end_time < before.timestamp(), sa.and_(Runs.end_time.is_(None), Runs.update_timestamp < naive))
    columns = (Runs.run_id, Runs.end_time, Runs.update_timestamp)
    rows = connection.execute(sa.select(*columns).where(Runs.status.in_(_ENDED), ended).order_by(Runs.id))
    return [
        (run_id, datetime.fromtimestamp(end_time, UTC) if end_time else updated.replace(tzinfo=UTC))
        for run_id, end_time, updated in rows
    ]


def _of_runs(run_ids: Collection[str]) -> sa.ColumnElement[bool]:
    return Events.run_id.in_(run_ids)


def _of_no_run(before: datetime) -> sa.ColumnElement[bool]:
    """Events reported outside runs, by people or the daemon, by their own time."""
    return sa.and_(Events.run_id == "", Events.timestamp < before.astimezone(UTC).replace(tzinfo=None))


def _remove_events(
    connection: sa.Connection, chosen: sa.ColumnElement[bool], kept: Collection[int], done: Pruned, *, apply: bool
) -> None:
    ids = [event_id for (event_id,) in connection.execute(sa.select(Events.id).where(chosen)) if event_id not in kept]
    done.events += len(ids)
    for some in _parts(ids, _IDS_AT_ONCE) if apply else ():
        connection.execute(AssetEventTagsTable.delete().where(AssetEventTagsTable.c.event_id.in_(some)))
        connection.execute(SqlEventLogStorageTable.delete().where(Events.id.in_(some)))


def _remove_check_results(connection: sa.Connection, run_ids: Collection[str], done: Pruned, *, apply: bool) -> None:
    newest = sa.select(sa.func.max(Checks.id)).group_by(Checks.asset_key, Checks.check_name, Checks.partition)
    chosen = sa.select(Checks.id).where(Checks.run_id.in_(run_ids), Checks.id.not_in(newest))
    ids = [result_id for (result_id,) in connection.execute(chosen)]
    done.check_results += len(ids)
    for some in _parts(ids, _IDS_AT_ONCE) if apply else ():
        connection.execute(AssetCheckExecutionsTable.delete().where(Checks.id.in_(some)))


def _remove_ticks(connection: sa.Connection, before: datetime, done: Pruned, *, apply: bool) -> None:
    newest = sa.select(sa.func.max(Ticks.id)).group_by(Ticks.selector_id)
    naive = before.astimezone(UTC).replace(tzinfo=None)
    ids = [
        tick_id
        for (tick_id,) in connection.execute(
            sa.select(Ticks.id).where(Ticks.timestamp < naive, Ticks.id.not_in(newest))
        )
    ]
    done.ticks += len(ids)
    for some in _parts(ids, _IDS_AT_ONCE) if apply else ():
        connection.execute(JobTickTable.delete().where(Ticks.id.in_(some)))


def _remove_files(
    instance: dg.DagsterInstance,
    events: SqlEventLogStorage,
    surviving: Collection[str],
    before: datetime,
    done: Pruned,
    *,
    apply: bool,
) -> None:
    """Event files of single runs (SQLite) and their captured output, including those of runs deleted earlier."""
    for folder in folders_of_runs(instance, events):
        for path in _old_files(folder, surviving, before.timestamp()):
            done.files += 1
            done.file_bytes += _size(path)
            if apply and path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif apply:
                for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
                    path.with_name(name).unlink(missing_ok=True)


def folders_of_runs(instance: dg.DagsterInstance, events: SqlEventLogStorage) -> list[Path]:
    """Where files and folders lie whose names are ids of runs."""
    folders: list[Path] = []
    if isinstance(events, SqliteEventLogStorage):
        folders.append(Path(events.path_for_shard("index")).parent)
    if isinstance(instance.compute_log_manager, LocalComputeLogManager):
        folders.append(Path(instance.storage_directory()))
    return folders


def _old_files(folder: Path, surviving: Collection[str], before: float) -> Iterator[Path]:
    for path in folder.iterdir() if folder.is_dir() else ():
        run_id = path.name.removesuffix(".db")
        # A run's last event may be written after its end, and its files are only as old as that.
        if _is_run_id(run_id) and run_id not in surviving:
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < before:
                    yield path


def _is_run_id(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else path.parent.glob(f"{path.name}*")
    return sum(file.stat().st_size for file in files if file.is_file())


def _shrink_sqlite(instance: dg.DagsterInstance, events: SqlEventLogStorage, done: Pruned) -> None:
    """Return unused pages to the file system. They would be reused anyway, so a busy file is left alone."""
    if not isinstance(events, SqliteEventLogStorage):
        return
    for file in databases_of(instance):
        if not file.exists():
            continue
        try:
            with closing(sqlite3.connect(file, timeout=5)) as connection:
                unused, pages, page = (
                    connection.execute(f"PRAGMA {name}").fetchone()[0]
                    for name in ("freelist_count", "page_count", "page_size")
                )
                if unused * page > _VACUUM_BYTES and unused > pages * _VACUUM_SHARE:
                    connection.execute("VACUUM")
        except sqlite3.OperationalError as error:
            done.warnings.append(f"{file.name} was not compacted ({error}); its free space will be reused.")


def databases_of(instance: dg.DagsterInstance) -> list[Path]:
    """SQLite's files but those of single runs."""
    home = Path(instance.root_directory)
    return [home / "history" / "runs.db", home / "history" / "runs" / "index.db", home / "schedules" / "schedules.db"]


def _parts(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def oldest_to_keep(days: float) -> datetime:
    """The time before which history is removed.

    Raises:
        ValueError: fewer than MINIMUM_DAYS.
    """
    if days < MINIMUM_DAYS:
        raise ValueError(
            f"At least {MINIMUM_DAYS} days of history are needed: sensors would request runs again once their keys are "
            "forgotten, and alerts look back for a day."
        )
    return datetime.fromtimestamp(time.time() - days * 86400, UTC)

"""Finds and repairs what a clock that was ahead has left in Dagster's storage.

Dagster's daemon counts from the newest tick of each sensor and schedule, and from the times in their state. While the
clock was a day ahead these got tomorrow's times; once it is right again, nothing is evaluated until tomorrow. A restart
does not help, since they are stored. Runs that a schedule launched are a problem, too: each has the tag of its
scheduled time, and when that time really comes, Dagster considers that minute done.

Nothing is deleted: ticks and states get the time of the repair, and runs a different tag for their scheduled time.
Works on SQLite and PostgreSQL, through Dagster's own storage classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import sqlalchemy as sa
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorTick,
    ScheduleInstigatorData,
    SensorInstigatorData,
    TickStatus,
)
from dagster._core.storage.runs.schema import RunTagsTable
from dagster._core.storage.runs.sql_run_storage import SqlRunStorage
from dagster._core.storage.tags import SCHEDULED_EXECUTION_TIME_TAG

from wrm_pipeline.domain.layout import folder_date, local_date

# A tick is written within milliseconds; one that is a minute ahead was written by a different clock.
TOLERANCE = timedelta(minutes=1)

_TIMES: dict[type, tuple[str, ...]] = {
    SensorInstigatorData: (
        "last_tick_timestamp",
        "last_tick_start_timestamp",
        "last_sensor_start_timestamp",
        "last_tick_success_timestamp",
    ),
    ScheduleInstigatorData: ("start_timestamp", "last_iteration_timestamp"),
}


@dataclass(frozen=True, slots=True)
class ClockTraces:
    """Everything dated in the future.

    Attributes:
        instigators: Names of sensors and schedules that wait for that time.
        ticks: Their ticks.
        claimed: Runs that a schedule would take for those of future times.
        queued: Runs waiting to start for days that have not begun: they would fail.
        runs: All runs that were last updated later than now. They are history and block nothing.
        latest: The latest of all these times; None without any.
    """

    instigators: tuple[str, ...] = ()
    ticks: int = 0
    claimed: int = 0
    queued: int = 0
    runs: int = 0
    latest: datetime | None = None

    @property
    def in_the_way(self) -> bool:
        """Whether sensors or schedules wait, or will skip times."""
        return bool(self.instigators or self.ticks or self.claimed or self.queued)

    def __bool__(self) -> bool:
        return self.in_the_way or bool(self.runs)

    def __str__(self) -> str:
        if not self:
            return "nothing is dated in the future"
        latest = f", the latest of {self.latest:%Y-%m-%d %H:%M:%S} UTC" if self.latest else ""
        queued = f"; {self.queued} waiting runs are about future days" if self.queued else ""
        return (
            f"{len(self.instigators)} sensors and schedules wait for a time in the future; {self.ticks} ticks and "
            f"{self.runs} runs are dated in the future{latest}; {self.claimed} runs claim future times of "
            f"schedules{queued}"
        )


def find_traces(instance: dg.DagsterInstance, now: datetime) -> ClockTraces:
    """Find everything dated later than `now` (aware); one query per sensor and schedule, and a few more."""
    limit = now + TOLERANCE
    waiting, times = [], []
    tick_count = 0
    for state, ticks in _ahead(instance, limit):
        tick_count += len(ticks)
        times += [tick.timestamp for tick in ticks] + _times_after(state, limit)
        waiting.append(state.instigator_name)
    updated = dg.RunsFilter(updated_after=limit)
    runs = instance.get_runs_count(updated)
    for record in instance.get_run_records(updated, limit=1, order_by="update_timestamp") if runs else ():
        times.append(record.update_timestamp.timestamp())
    claims, queued = _claims(instance, limit), _queued(instance, now)
    latest = datetime.fromtimestamp(max(times), UTC) if times else None
    return ClockTraces(tuple(sorted(waiting)), tick_count, len(claims), len(queued), runs, latest)


def repair_clock(instance: dg.DagsterInstance, now: datetime) -> ClockTraces:
    """Repair what is dated later than `now` (aware) and blocks something; returns what was found.

    A running daemon keeps due times of schedules in memory: it has to be restarted as well, which it does by itself
    (`resources/scheduler.py`).
    """
    found = find_traces(instance, now)
    limit = now + TOLERANCE
    for state, ticks in _ahead(instance, limit):
        for place, tick in enumerate(sorted(ticks, key=lambda tick: (tick.timestamp, tick.tick_id))):
            _set_tick(instance, tick, (now - (len(ticks) - place) * timedelta(milliseconds=1)).timestamp())
        data: Any = state.instigator_data
        changes = {name: now.timestamp() for name in _fields_after(state, limit)}
        if changes:
            instance.update_instigator_state(state.with_data(data._replace(**changes)))
    for run_id, claimed in _claims(instance, limit).items():
        # Scheduled times are whole minutes, so this never matches one.
        freed = {SCHEDULED_EXECUTION_TIME_TAG: f"{now.isoformat()} (by a clock that was ahead: {claimed})"}
        instance.add_run_tags(run_id, freed)
    for run in _queued(instance, now):
        instance.report_run_canceled(run, "The clock was ahead, and is right again: this day has not begun.")
    return found


def is_believable(now: datetime) -> bool:
    """Whether this is a plausible time: not before this program was installed, as after an empty battery."""
    return now.timestamp() > Path(__file__).stat().st_mtime - timedelta(days=1).total_seconds()


def _ahead(instance: dg.DagsterInstance, limit: datetime) -> Iterator[tuple[InstigatorState, list[InstigatorTick]]]:
    # An in-memory instance has none.
    for state in instance.all_instigator_state() if instance.schedule_storage is not None else ():
        ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id, after=limit.timestamp())
        if ticks or _fields_after(state, limit):
            yield state, list(ticks)


def _fields_after(state: InstigatorState, limit: datetime) -> list[str]:
    data = state.instigator_data
    names = _TIMES.get(type(data), ())
    return [name for name in names if (getattr(data, name) or 0) > limit.timestamp()]


def _times_after(state: InstigatorState, limit: datetime) -> list[float]:
    return [getattr(state.instigator_data, name) for name in _fields_after(state, limit)]


def _set_tick(instance: dg.DagsterInstance, tick: InstigatorTick, at: float) -> None:
    data = tick.tick_data
    status, more = data.status, {}
    if status is TickStatus.STARTED and tick.instigator_type.name == "SCHEDULE":
        # The scheduler resumes its newest tick only at exactly its scheduled time.
        status, more = TickStatus.SKIPPED, {"skip_reason": "The clock was ahead, and is right again."}
    end = min(data.end_timestamp, at) if data.end_timestamp else None
    instance.update_tick(
        InstigatorTick(tick.tick_id, data.with_status(status, timestamp=at, end_timestamp=end, **more))
    )


def _claims(instance: dg.DagsterInstance, limit: datetime) -> dict[str, str]:
    """Runs by id that claim a scheduled time after `limit`, each with that time as written in the tag."""
    storage = instance.run_storage
    if not isinstance(storage, SqlRunStorage):
        return {}
    tags = RunTagsTable.c
    with storage.connect() as connection:
        found = connection.execute(
            sa.select(tags.run_id, tags.value).where(
                tags.key == SCHEDULED_EXECUTION_TIME_TAG, tags.value > limit.isoformat()
            )
        ).fetchall()
    return {run_id: value for run_id, value in found if _is_time_after(value, limit)}


def _queued(instance: dg.DagsterInstance, now: datetime) -> list[dg.DagsterRun]:
    today = local_date(now)
    waiting = dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED])
    return [
        run
        for run in instance.get_runs(waiting)
        if (dt := folder_date(f"dt={run.tags.get('dagster/partition', '')}")) is not None and dt > today
    ]


def _is_time_after(text: str, limit: datetime) -> bool:
    try:
        return datetime.fromisoformat(text) > limit
    except (ValueError, TypeError):
        return False  # freed already

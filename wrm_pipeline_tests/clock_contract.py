"""What the repair after a clock that was ahead must do to Dagster's storage, whatever that is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    ScheduleInstigatorData,
    SensorInstigatorData,
    SensorType,
    TickData,
    TickStatus,
)
from dagster._core.storage.tags import SCHEDULED_EXECUTION_TIME_TAG

from wrm_pipeline.checks.clock import check_traces
from wrm_pipeline.resources.clock_repair import ClockTraces, find_traces, repair_clock

NOW = datetime(2026, 5, 4, 12, 3, 20, tzinfo=UTC)
DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)


@dg.op
def nothing() -> None: ...


@dg.job
def ingest() -> None:
    nothing()


class Clocked:
    """An instance with a sensor and a schedule that were evaluated each minute."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("here"), "__repository__")
        sensor_data = SensorInstigatorData(
            last_tick_timestamp=NOW.timestamp() - 30,
            last_tick_start_timestamp=NOW.timestamp() - 30,
            last_sensor_start_timestamp=NOW.timestamp() - 3600,
            cursor="its cursor",
            last_run_key="its key",
            min_interval=30,
            sensor_type=SensorType.STANDARD,
        )
        schedule_data = ScheduleInstigatorData("* * * * *", NOW.timestamp() - 3600, NOW.timestamp() - 600)
        self.sensor = self.add("a_sensor", InstigatorType.SENSOR, sensor_data)
        self.schedule = self.add("a_schedule", InstigatorType.SCHEDULE, schedule_data)
        for n in range(4):
            for state in (self.sensor, self.schedule):
                self.tick(state, NOW - timedelta(minutes=4 - n))

    def add(self, name: str, kind: InstigatorType, data: Any) -> InstigatorState:
        origin = RemoteInstigatorOrigin(self.repository, name)
        state = InstigatorState(origin, kind, InstigatorStatus.RUNNING, data)
        return self.instance.add_instigator_state(state)

    def tick(self, state: InstigatorState, at: datetime, status: TickStatus = TickStatus.SKIPPED, **more: Any) -> None:
        end = None if status is TickStatus.STARTED else at.timestamp() + 1
        self.instance.create_tick(
            TickData(
                state.instigator_origin_id,
                state.instigator_name,
                state.instigator_type,
                status,
                at.timestamp(),
                selector_id=state.selector_id,
                end_timestamp=end,
                **more,
            )
        )

    def ahead(self, by: timedelta = DAY) -> None:
        """What three minutes with the clock ahead leave."""
        for n in range(3):
            at = NOW + by - (3 - n) * MINUTE
            self.tick(self.sensor, at, TickStatus.SUCCESS, run_ids=[f"run{n}"])
            self.tick(self.schedule, at.replace(second=0))
        self.tick(self.schedule, (NOW + by).replace(second=0), TickStatus.STARTED)
        later = (NOW + by).timestamp()
        sensor_data = self.state(self.sensor).instigator_data._replace(
            last_tick_timestamp=later, last_tick_start_timestamp=later, last_tick_success_timestamp=later
        )
        self.instance.update_instigator_state(self.sensor.with_data(sensor_data))
        schedule_data = self.state(self.schedule).instigator_data._replace(last_iteration_timestamp=later)
        self.instance.update_instigator_state(self.schedule.with_data(schedule_data))

    def state(self, state: InstigatorState) -> InstigatorState:
        found = self.instance.get_instigator_state(state.instigator_origin_id, state.selector_id)
        assert found is not None
        return found

    def ticks(self, state: InstigatorState) -> list[Any]:
        return list(self.instance.get_ticks(state.instigator_origin_id, state.selector_id))

    def run(self, *, scheduled: datetime | None = None, day: str = "", queued: bool = False) -> str:
        tags = {"dagster/partition": day} if day else {}
        if scheduled is not None:
            tags[SCHEDULED_EXECUTION_TIME_TAG] = scheduled.isoformat()
        status = dg.DagsterRunStatus.QUEUED if queued else dg.DagsterRunStatus.SUCCESS
        origin = RemoteJobOrigin(self.repository, ingest.name)
        return self.instance.create_run_for_job(ingest, tags=tags, status=status, remote_job_origin=origin).run_id


class ClockContract:
    """Give a fixture `clocked`."""

    def test_nothing_is_found_where_the_clock_was_right(self, clocked: Clocked) -> None:
        clocked.run(scheduled=NOW.replace(second=0), day="2026-05-04", queued=True)
        now = datetime.now(UTC)
        assert not find_traces(clocked.instance, now)
        before = [clocked.ticks(state) for state in (clocked.sensor, clocked.schedule)]
        assert repair_clock(clocked.instance, now) == ClockTraces()
        assert [clocked.ticks(state) for state in (clocked.sensor, clocked.schedule)] == before

    @pytest.mark.parametrize("by", [timedelta(minutes=10), DAY, 400 * DAY])
    def test_what_waits_goes_on_from_now_and_keeps_what_it_knew(self, clocked: Clocked, by: timedelta) -> None:
        clocked.ahead(by)
        found = find_traces(clocked.instance, NOW)
        assert (found.instigators, found.ticks) == (("a_schedule", "a_sensor"), 7)
        assert found.in_the_way
        assert found.latest is not None
        assert found.latest > NOW
        assert repair_clock(clocked.instance, NOW) == found
        assert not find_traces(clocked.instance, NOW).in_the_way
        for state in (clocked.sensor, clocked.schedule):
            ticks = clocked.ticks(state)
            assert len(ticks) == 7 + (state is clocked.schedule), "the history stays"
            assert all(tick.timestamp <= NOW.timestamp() for tick in ticks)
            ids = [tick.tick_id for tick in sorted(ticks, key=lambda tick: tick.timestamp)]
            assert ids == sorted(ids), "and its order"
        data = clocked.state(clocked.sensor).instigator_data
        assert (data.cursor, data.last_run_key, data.min_interval) == ("its cursor", "its key", 30)
        assert max(data.last_tick_timestamp, data.last_tick_start_timestamp) <= NOW.timestamp()
        assert clocked.state(clocked.schedule).instigator_data.last_iteration_timestamp <= NOW.timestamp()
        assert clocked.ticks(clocked.sensor)[0].run_ids == ["run2"]
        assert TickStatus.STARTED not in {tick.status for tick in clocked.ticks(clocked.schedule)}
        assert repair_clock(clocked.instance, NOW + MINUTE).in_the_way is False, "twice does no harm"

    def test_a_time_that_a_run_claims_is_free_again(self, clocked: Clocked) -> None:
        """Dagster launches no run for a scheduled time that a run says it was for."""
        real = NOW.replace(second=0)
        ids = [clocked.run(scheduled=at) for at in (real, real + DAY, real + DAY + MINUTE)]
        assert find_traces(clocked.instance, NOW).claimed == 2
        repair_clock(clocked.instance, NOW)
        tags = [clocked.instance.get_run_by_id(run_id).tags[SCHEDULED_EXECUTION_TIME_TAG] for run_id in ids]
        assert tags[0] == real.isoformat()
        assert all((real + n * MINUTE + DAY).isoformat() not in tags for n in range(2))
        for at in (real + DAY, real + DAY + MINUTE):
            assert not clocked.instance.get_runs(dg.RunsFilter(tags={SCHEDULED_EXECUTION_TIME_TAG: at.isoformat()}))
        assert find_traces(clocked.instance, NOW).claimed == 0

    def test_runs_that_wait_and_are_about_days_to_come_are_canceled(self, clocked: Clocked) -> None:
        tomorrow, today = (clocked.run(day=day, queued=True) for day in ("2026-05-05", "2026-05-04"))
        assert find_traces(clocked.instance, NOW).queued == 1
        repair_clock(clocked.instance, NOW)
        status = {run_id: clocked.instance.get_run_by_id(run_id).status for run_id in (tomorrow, today)}
        assert status == {tomorrow: dg.DagsterRunStatus.CANCELED, today: dg.DagsterRunStatus.QUEUED}

    def test_runs_from_the_future_are_reported_and_left_alone(self, clocked: Clocked) -> None:
        clocked.run()
        earlier = datetime.now(UTC) - DAY
        found = find_traces(clocked.instance, earlier)
        assert (found.runs, found.in_the_way, bool(found)) == (1, False, True)
        result = check_traces(found)
        assert (result.passed, result.severity) == (False, dg.AssetCheckSeverity.WARN)
        assert "Nothing waits" in (result.description or "")

    def test_the_check_is_an_error_while_something_waits(self, clocked: Clocked) -> None:
        assert check_traces(find_traces(clocked.instance, NOW)).passed
        clocked.ahead()
        result = check_traces(find_traces(clocked.instance, NOW))
        assert (result.passed, result.severity) == (False, dg.AssetCheckSeverity.ERROR)
        assert "2 sensors and schedules wait" in (result.description or "")

"""The clock of the archive."""

from datetime import UTC, datetime

import dagster as dg

from wrm_pipeline_tests.fixtures.lake import definitions


def test_a_snapshot_is_asked_for_each_minute_from_the_first_start_on():
    schedule = definitions().resolve_schedule_def("wrm_stations_ingest_schedule")
    assert schedule.job_name == "wrm_stations_ingest_job"
    assert schedule.default_status == dg.DefaultScheduleStatus.RUNNING
    assert schedule.cron_schedule == "* * * * *"


def test_a_tick_asks_for_one_run_without_a_partition():
    schedule = definitions().resolve_schedule_def("wrm_stations_ingest_schedule")
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_schedule_context(instance, scheduled_execution_time=datetime(2026, 1, 1, tzinfo=UTC))
        (request,) = schedule.evaluate_tick(context).run_requests
    assert request.partition_key is None
    assert request.run_config == {}

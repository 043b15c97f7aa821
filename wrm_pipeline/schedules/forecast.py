"""Learns the forecast of the day at night, and scores that of the day before."""

import dagster as dg

from wrm_pipeline.jobs.processing import wrm_forecast_job


def forecast_schedule(zone_name: str) -> dg.ScheduleDefinition:
    """The schedule, in the night of a time zone, when yesterday's last snapshot is long published."""
    return dg.ScheduleDefinition(
        name="wrm_forecast_schedule",
        job=wrm_forecast_job,
        cron_schedule="20 1 * * *",
        execution_timezone=zone_name,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Learns from the days before, for the forecasts of today, and scores yesterday's.",
    )

"""Follows the stations through names, places and numbers, each night."""

import dagster as dg

from wrm_pipeline.jobs.processing import wrm_stations_history_job


def stations_history_schedule(zone_name: str) -> dg.ScheduleDefinition:
    """The schedule, in the night of a time zone, when yesterday's last snapshot is long published."""
    return dg.ScheduleDefinition(
        name="wrm_stations_history_schedule",
        job=wrm_stations_history_job,
        cron_schedule="40 1 * * *",
        execution_timezone=zone_name,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Follows the stations of the day before through names, places and numbers.",
    )

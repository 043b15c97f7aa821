"""Keeps Dagster's history small, unless a systemd timer does."""

import dagster as dg

from wrm_pipeline.jobs.prune_history import wrm_prune_history_job


def prune_history_schedule(zone_name: str) -> dg.ScheduleDefinition:
    """The schedule, in the night of a time zone."""
    return dg.ScheduleDefinition(
        name="wrm_prune_history_schedule",
        job=wrm_prune_history_job,
        cron_schedule="30 3 * * *",
        execution_timezone=zone_name,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Removes Dagster's runs and events older than WRM_HISTORY_DAYS, once a day.",
    )

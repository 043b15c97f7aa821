"""Keeps Dagster's history small, unless a systemd timer does."""

import dagster as dg

from wrm_pipeline.jobs.prune_history import wrm_prune_history_job

wrm_prune_history_schedule = dg.ScheduleDefinition(
    name="wrm_prune_history_schedule",
    job=wrm_prune_history_job,
    cron_schedule="30 3 * * *",
    execution_timezone="Europe/Warsaw",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Removes Dagster's runs and events older than WRM_HISTORY_DAYS, once a day.",
)

"""Schedules the checks that must run even when nothing else does."""

import dagster as dg

from wrm_pipeline.jobs.processing import wrm_freshness_job

wrm_freshness_schedule = dg.ScheduleDefinition(
    name="wrm_freshness_schedule",
    job=wrm_freshness_job,
    cron_schedule="*/5 * * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Is the newest published snapshot current? On a schedule, as no run checks when data stops arriving.",
)

"""The clock of the check that must run when nothing else does."""

import dagster as dg

from wrm_pipeline.jobs.processing import wrm_freshness_job

wrm_freshness_schedule = dg.ScheduleDefinition(
    name="wrm_freshness_schedule",
    job=wrm_freshness_job,
    cron_schedule="*/5 * * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Is the newest published snapshot of now? Asked by the clock: no run asks when data stops coming.",
)

"""The clock of the archive."""

import dagster as dg

from wrm_pipeline.jobs.processing import wrm_stations_ingest_job

wrm_stations_ingest_schedule = dg.ScheduleDefinition(
    name="wrm_stations_ingest_schedule",
    job=wrm_stations_ingest_job,
    cron_schedule="* * * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="A snapshot each minute: what is not taken is gone.",
)

"""Schedules the snapshot of each minute."""

import dagster as dg

from wrm_pipeline.jobs.processing import wrm_stations_ingest_job

wrm_stations_ingest_schedule = dg.ScheduleDefinition(
    name="wrm_stations_ingest_schedule",
    job=wrm_stations_ingest_job,
    cron_schedule="* * * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Takes a snapshot each minute; a missed one is lost.",
)

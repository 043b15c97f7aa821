"""Packs old days at night, if WRM_COMPACT_AFTER_DAYS is set."""

import dagster as dg

from wrm_pipeline.jobs.compaction import wrm_compaction_job


def compaction_schedule(zone_name: str) -> dg.ScheduleDefinition:
    """The schedule, in the night of a time zone."""
    return dg.ScheduleDefinition(
        name="wrm_compaction_schedule",
        job=wrm_compaction_job,
        cron_schedule="40 3 * * *",
        execution_timezone=zone_name,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Packs the raw objects of old days, at night.",
    )

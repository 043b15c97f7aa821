"""Packs old days at night, if WRM_COMPACT_AFTER_DAYS is set."""

import dagster as dg

from wrm_pipeline.domain.layout import LOCAL_ZONE_NAME
from wrm_pipeline.jobs.compaction import wrm_compaction_job

wrm_compaction_schedule = dg.ScheduleDefinition(
    name="wrm_compaction_schedule",
    job=wrm_compaction_job,
    cron_schedule="40 3 * * *",
    execution_timezone=LOCAL_ZONE_NAME,
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Packs the raw objects of old days, at night.",
)

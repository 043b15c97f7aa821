"""Asks each night for the city's lists of rides that have not arrived yet."""

from datetime import UTC, datetime, timedelta

import dagster as dg

from wrm_pipeline.assets.duckdb.city_rides import ride_files
from wrm_pipeline.domain import asset_names
from wrm_pipeline.domain.layout import folder_date, local_date
from wrm_pipeline.jobs.processing import wrm_city_rides_job
from wrm_pipeline.resources.lake import LakeResource

# A list is days late. A ride of the archive may change its kind until the day after is over, so yesterday's waits.
_FIRST_ASKED_DAYS, _LAST_ASKED_DAYS = 2, 30


def city_rides_schedule(zone_name: str) -> dg.ScheduleDefinition:
    """The schedule, in the night of a time zone."""

    @dg.schedule(
        name="wrm_city_rides_schedule",
        job=wrm_city_rides_job,
        cron_schedule="20 2 * * *",
        execution_timezone=zone_name,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"A run for each of the last {_LAST_ASKED_DAYS} days whose list of rides is not published.",
    )
    def wrm_city_rides_schedule(
        context: dg.ScheduleEvaluationContext, lake: LakeResource
    ) -> list[dg.RunRequest] | dg.SkipReason:
        files = ride_files(lake.settings)
        today = local_date(context.scheduled_execution_time or datetime.now(UTC))
        published = {folder_date(i.key.rpartition("/")[0]) for i in lake.partitions.objects(asset_names.CITY_RIDES)}
        days = [today - timedelta(days=ago) for ago in range(_LAST_ASKED_DAYS, _FIRST_ASKED_DAYS - 1, -1)]
        wanted = [dt for dt in days if dt >= lake.layout.first_date and dt not in published and files.may_have(dt)]
        if not wanted:
            return dg.SkipReason("No list of rides is missing that could be there.")
        return [dg.RunRequest(partition_key=dt.isoformat()) for dt in wanted]

    return wrm_city_rides_schedule

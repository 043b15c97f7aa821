"""The one partition scheme: calendar days in Europe/Warsaw from WRM_FIRST_DATE on, today included."""

import dagster as dg

from wrm_pipeline.domain.layout import LOCAL_ZONE_NAME
from wrm_pipeline.settings import load_settings

daily_partitions = dg.DailyPartitionsDefinition(
    start_date=load_settings().first_date.isoformat(), timezone=LOCAL_ZONE_NAME, end_offset=1
)


def backfill_policy(backfill: str) -> dg.BackfillPolicy:
    """How a range of days is run: `single_run`, or `run_per_day`."""
    return dg.BackfillPolicy.single_run() if backfill == "single_run" else dg.BackfillPolicy.multi_run(1)


def no_day_given() -> dg.Failure:
    """What to say to a run that must be about a day and is not."""
    return dg.Failure(
        "This is built day by day, and the run names no day: choose a partition in the UI, or give one to "
        "`dagster asset materialize` (--partition 2025-08-21, or --partition-range) or to `dagster job launch` "
        '(--tags \'{"dagster/partition": "2025-08-21"}\').',
        allow_retries=False,
    )

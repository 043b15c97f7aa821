"""The one partition scheme: calendar days in Europe/Warsaw, today included."""

import dagster as dg

from wrm_pipeline.domain.layout import FIRST_DATE, LOCAL_ZONE_NAME

daily_partitions = dg.DailyPartitionsDefinition(
    start_date=FIRST_DATE.isoformat(), timezone=LOCAL_ZONE_NAME, end_offset=1
)


def backfill_policy(backfill: str) -> dg.BackfillPolicy:
    """How a range of days is run: `single_run`, or `run_per_day`."""
    return dg.BackfillPolicy.single_run() if backfill == "single_run" else dg.BackfillPolicy.multi_run(1)

"""The partition scheme: calendar days in WRM_TIMEZONE from WRM_FIRST_DATE on, today included."""

from collections.abc import Iterable
from datetime import date, timedelta

import dagster as dg

from wrm_pipeline.domain.city import DEFAULT_ZONE_NAME
from wrm_pipeline.domain.layout import FIRST_DATE

# Dagster's tags of a run over a range of days.
RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


def daily_partitions_from(first_date: date, zone_name: str) -> dg.DailyPartitionsDefinition:
    """Days of a time zone, from `first_date` to today."""
    return dg.DailyPartitionsDefinition(start_date=first_date.isoformat(), timezone=zone_name, end_offset=1)


daily_partitions = daily_partitions_from(FIRST_DATE, DEFAULT_ZONE_NAME)
"""Used in the declarations of assets; the definitions replace it according to the settings."""


def with_days(asset: dg.AssetsDefinition, days: dg.DailyPartitionsDefinition) -> dg.AssetsDefinition:
    """A partitioned asset with these days; other assets unchanged."""
    if asset.partitions_def != daily_partitions or days == daily_partitions:
        return asset
    return asset.map_asset_specs(lambda spec: spec.replace_attributes(partitions_def=days))


def spans_of(days: Iterable[date]) -> list[tuple[date, date]]:
    """First and last day of each series of consecutive days."""
    spans: list[tuple[date, date]] = []
    for day in sorted(days):
        if spans and day - spans[-1][1] == timedelta(days=1):
            spans[-1] = (spans[-1][0], day)
        else:
            spans.append((day, day))
    return spans


def range_tags(first: date, last: date) -> dict[str, str]:
    """The tags of one run over these days, both included."""
    return {RANGE_START: str(first), RANGE_END: str(last)}


def backfill_policy(backfill: str) -> dg.BackfillPolicy:
    """How a range of days is run: `single_run`, or `run_per_day`."""
    return dg.BackfillPolicy.single_run() if backfill == "single_run" else dg.BackfillPolicy.multi_run(1)


def no_day_given() -> dg.Failure:
    """The message for a run that needs a partition but has none."""
    return dg.Failure(
        "This is built day by day, but the run has no partition: choose one in the UI, or pass one to "
        "`dagster asset materialize` (--partition 2025-08-21, or --partition-range) or to `dagster job launch` "
        '(--tags \'{"dagster/partition": "2025-08-21"}\').',
        allow_retries=False,
    )

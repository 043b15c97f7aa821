"""The one partition scheme: calendar days in Europe/Warsaw, today included."""

import dagster as dg

from wrm_pipeline.domain.layout import FIRST_DATE, LOCAL_ZONE_NAME

daily_partitions = dg.DailyPartitionsDefinition(
    start_date=FIRST_DATE.isoformat(), timezone=LOCAL_ZONE_NAME, end_offset=1
)

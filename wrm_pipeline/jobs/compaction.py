"""The job that packs the raw objects of old days; off unless WRM_COMPACT_AFTER_DAYS is set."""

from datetime import date

import dagster as dg
from pydantic import Field

from wrm_pipeline.assets.presentation import markdown_table
from wrm_pipeline.domain.layout import local_date
from wrm_pipeline.flows.compaction import DAYS_PER_RUN, MIN_AGE_DAYS, compact_day, days_to_pack
from wrm_pipeline.resources.feed import ClockResource
from wrm_pipeline.resources.lake import LakeResource
from wrm_pipeline.resources.retention import RetentionResource


class CompactionConfig(dg.Config):
    """Which days to pack."""

    older_than_days: int | None = Field(None, ge=MIN_AGE_DAYS)
    """Default: WRM_COMPACT_AFTER_DAYS."""
    dates: list[str] = Field(default_factory=list)
    """Only these partitions, YYYY-MM-DD; an empty list means all that are old enough."""
    max_days: int = Field(DAYS_PER_RUN, ge=1)
    dry_run: bool = False
    """Only report what would be packed."""


@dg.op(
    pool="compaction",
    description="Pack the raw objects of old, published days into one archive each, and verify it.",
)
def pack_old_days(
    context: dg.OpExecutionContext,
    config: CompactionConfig,
    lake: LakeResource,
    clock: ClockResource,
    retention: RetentionResource,
) -> int:
    """Pack them; returns the number of packed days."""
    age = config.older_than_days or retention.compact_after_days
    if age is None:
        raise dg.Failure(
            "Compaction is off. Set WRM_COMPACT_AFTER_DAYS, or give `older_than_days` in the run config.",
            allow_retries=False,
        )
    store, layout, today = lake.store, lake.layout, local_date(clock.now())
    chosen = {date.fromisoformat(text) for text in config.dates}
    rows, packed = [], 0
    for dt in days_to_pack(store, layout, today=today, older_than_days=age):
        if chosen and dt not in chosen:
            continue
        if packed == config.max_days:
            context.log.info("%d days are packed; the next run continues with %s.", packed, dt)
            break
        done = compact_day(store, layout, dt, area=lake.area, today=today, dry_run=config.dry_run)
        packed += not done.refused
        rows.append(
            {
                "day": dt,
                "objects": done.packed,
                "bytes": done.bytes_before,
                "archive": done.bytes_after,
                "left alone because": done.refused,
            }
        )
        if done.refused:
            context.log.warning("%s is not packed: %s", dt, done.refused)
    context.add_output_metadata(
        {"days": packed, "dry_run": config.dry_run, "table": dg.MetadataValue.md(markdown_table(rows))}
    )
    return packed


@dg.job(
    executor_def=dg.in_process_executor,
    description=(
        "Pack the raw objects of each old day into one archive (docs/scaling.md). Originals are removed only after the "
        "archive was read back. Idempotent: run it again if it was interrupted. Run config: `dry_run` only reports."
    ),
)
def wrm_compaction_job() -> None:
    """One op."""
    pack_old_days()

"""The job that replays dead letters."""

from datetime import date

import dagster as dg
from pydantic import Field

from wrm_pipeline.assets.presentation import markdown_table
from wrm_pipeline.assets.stations.enhanced_all import wrm_stations_enhanced_data_all
from wrm_pipeline.assets.stations.processed_all import wrm_stations_processed_data_all
from wrm_pipeline.domain.dead_letters import PARKED, PENDING, REPROCESSED
from wrm_pipeline.flows.replay import Selection, replay, select
from wrm_pipeline.resources.dlq import DlqResource
from wrm_pipeline.resources.feed import ClockResource


class ReplayConfig(dg.Config):
    """Which pending entries to replay; an empty list means all."""

    dates: list[str] = Field(default_factory=list)
    """Partitions, YYYY-MM-DD."""
    error_types: list[str] = Field(default_factory=list)
    entry_ids: list[str] = Field(default_factory=list)
    parked: bool = False
    """Include parked entries."""
    drift: bool = False
    """Entries of bodies that had another format than the parser knew, parked ones included."""
    max_retries: int | None = None
    """Failures after which an entry is parked, at least 1; null: as the resource `dlq` has it."""
    dry_run: bool = False
    """Only report what would be replayed."""


@dg.op(description="Parse the raw objects of pending dead letters again and publish their partitions.")
def replay_dead_letters(
    context: dg.OpExecutionContext,
    config: ReplayConfig,
    dlq: DlqResource,
    clock: ClockResource,
) -> dict[str, int]:
    """Counts of the selected entries by outcome."""
    selection = Selection(
        [date.fromisoformat(text) for text in config.dates],
        config.error_types,
        config.entry_ids,
        config.parked,
        config.drift,
    )
    if config.dry_run:
        selected = select(dlq.queue, selection)
        letters, left = list(selected.letters), selected.left
        context.log.info("Dry run; %d entries would be tried.", len(letters))
        rebuilt: tuple[date, ...] = ()
        failed: tuple[tuple[date, str], ...] = ()
    else:
        result = replay(
            dlq.lake.store,
            dlq.lake.layout,
            selection,
            area=dlq.lake.area,
            strict=dlq.lake.settings.strict,
            now=clock.now(),
            max_retries=dlq.max_retries if config.max_retries is None else config.max_retries,
            run_id=context.run_id,
            cache=dlq.cache.client,
        )
        letters, rebuilt, failed, left = list(result.letters), result.rebuilt, result.failed, result.left
    if left:
        context.log.info("%s.", left)
    for dt in rebuilt:
        for asset in (wrm_stations_processed_data_all, wrm_stations_enhanced_data_all):
            context.log_event(
                dg.AssetMaterialization(
                    asset_key=asset.key, partition=dt.isoformat(), metadata={"rebuilt_by": "reprocess_dlq"}
                )
            )
    counts = {status: sum(letter.status == status for letter in letters) for status in (REPROCESSED, PENDING, PARKED)}
    table = [
        {"entry": entry.entry_id, "date": entry.partition_date, "error": entry.error_type, "status": entry.status}
        for entry in letters[:100]
    ]
    context.add_output_metadata(
        {**counts, "selected": len(letters), "entries": dg.MetadataValue.md(markdown_table(table))}
    )
    if failed:
        days = "; ".join(f"{dt}: {problem}" for dt, problem in failed[:5])
        raise dg.Failure(f"{len(failed)} days were left unchanged, the others are done. {days}", allow_retries=False)
    return counts


@dg.job(
    executor_def=dg.in_process_executor,
    description=(
        "Replay pending dead letters through the code that builds every partition. Entries that succeed are "
        "`reprocessed`, those that fail `max_retries` times `parked`. Idempotent: run it again if it was interrupted."
    ),
)
def reprocess_dlq() -> None:
    """One op."""
    replay_dead_letters()

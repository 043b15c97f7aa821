"""The job that removes what is only kept for a while: Dagster's own history, and files that ours have replaced."""

from datetime import UTC, datetime
from typing import Any

import dagster as dg

from wrm_pipeline.flows.take_over import remove_expired
from wrm_pipeline.jobs.history_size import what_goes
from wrm_pipeline.jobs.run_history import prune
from wrm_pipeline.resources.feed import ClockResource
from wrm_pipeline.resources.lake import LakeResource
from wrm_pipeline.resources.retention import RetentionResource


class PruneConfig(dg.Config):
    """What to keep."""

    days: float = 0.0
    """Maximum age in days; 0 means WRM_HISTORY_DAYS."""


@dg.op(description="Remove ended runs, their events, ticks and captured output that are older than WRM_HISTORY_DAYS.")
def prune_dagster_history(
    context: dg.OpExecutionContext, config: PruneConfig, retention: RetentionResource
) -> dict[str, Any]:
    """Counts of what was removed; this run is still in progress and stays."""
    days = config.days or retention.history_days
    before = what_goes(context.instance, days, retention.history_max_bytes, datetime.now(UTC))
    done = prune(context.instance, before=before, apply=True)
    counts = {
        "runs": done.runs,
        "events": done.events,
        "check_results": done.check_results,
        "ticks": done.ticks,
        "files": done.files,
        "file_bytes": done.file_bytes,
        "runs_left": done.runs_left,
        "events_left": done.events_left,
    }
    context.add_output_metadata({**counts, "warnings": "\n".join(done.warnings)})
    return counts


@dg.op(description="Remove files that a partition of ours replaced more than 30 days ago.")
def prune_superseded_files(context: dg.OpExecutionContext, lake: LakeResource, clock: ClockResource) -> int:
    """Returns the number of removed files."""
    removed = remove_expired(lake.store, lake.layout, now=clock.now())
    context.add_output_metadata({"files": removed})
    return removed


@dg.job(
    executor_def=dg.in_process_executor,
    description=(
        "Limit Dagster's own history to WRM_HISTORY_DAYS and WRM_HISTORY_MAX_BYTES: materialization status of "
        "partitions and the newest check "
        "results stay, however old. Also remove files in superseded/ after 30 days. On a server a systemd timer does "
        "both (`wrm prune --apply`)."
    ),
)
def wrm_prune_history_job() -> None:
    """Two independent ops."""
    prune_dagster_history()
    prune_superseded_files()

"""feed -> raw/."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import dagster as dg

from wrm_pipeline.assets.presentation import accounting, handled_rows, raw_schema
from wrm_pipeline.domain.snapshot import LineCounts
from wrm_pipeline.flows.ingest import IngestResult, Minute, take_snapshots
from wrm_pipeline.lake.spool import Spool
from wrm_pipeline.resources.cache import RedisCacheResource
from wrm_pipeline.resources.feed import FeedResource
from wrm_pipeline.resources.lake import LakeResource
from wrm_pipeline.resources.requests import record_requests_on_failure, requests_made

# Files of the spool listed by name in a run's log.
_NAMED = 10


class FeedDriftedError(dg.Failure):
    """No row of the feed's answer can be read: at least a fifth of them fail in the same way, so its format changed."""


@dg.asset(
    group_name="raw",
    kinds={"python", "s3"},
    owners=["team:wrm"],
    tags={"layer": "raw"},
    metadata={"dagster/column_schema": raw_schema()},
    pool="ingest",
    # A snapshot that is not taken is gone.
    freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(minutes=5), warn_window=timedelta(minutes=3)),
    description=(
        "One snapshot of each bike-share feed, taken **now** and kept for ever, byte for byte.\n\n"
        "The feeds have no history, so materializing this fetches the state of this minute; past days cannot be "
        "fetched. A body that equals the last one is not stored again (`duplicate`). While storage is down the "
        "snapshot waits on the local disk (`spooled`) and a later run delivers it. A body that is not a snapshot goes "
        "to `quarantine/` with a dead letter. The run fails if no feed gave a snapshot, and says what came instead; "
        "`feeds_failed` names those that gave none."
    ),
)
def wrm_stations_raw_data(
    context: dg.AssetExecutionContext, feed: FeedResource, lake: LakeResource, redis_cache: RedisCacheResource
) -> dg.MaterializeResult[None]:
    """Fetch, inspect, store once: all feeds side by side."""
    with record_requests_on_failure(context):
        minute = take_snapshots(
            feed.clients,
            lambda: lake.store,
            lake.layout,
            lake.spool,
            correlation_id=context.run.run_id,
            cache=redis_cache.client,
        )
        if not minute.results and not minute.not_due and len(minute.failures) == 1:
            raise next(iter(minute.failures.values()))
    _log_spool(context, minute, lake.spool)
    for name, error in minute.failures.items():
        context.log.error("The feed %s gave no snapshot: %s", name, error)
    for waiting in minute.not_due.values():
        context.log.info("Not fetched: %s", waiting)
    for result in minute.results:
        if result.drift:
            context.log.error("The feed %s has changed its format: %s.", result.kind.name, result.drift)
        if result.fault:
            context.log.error("The feed %s answered with something that is not a snapshot.", result.kind.name)
        elif result.spool_reason:
            context.log.warning("Spooled, because the store accepted nothing: %s", result.spool_reason)
    metadata = {**_metadata(minute, lake.spool), **requests_made()}
    if not minute.snapshots and not minute.not_due:
        raise _failure(minute, metadata)
    return dg.MaterializeResult(metadata=metadata)


def _log_spool(context: dg.AssetExecutionContext, minute: Minute, spool: Spool) -> None:
    for result in minute.results:
        for key in result.delivered.keys:
            context.log.info("delivered from the spool: %s", key)
        for problem in result.delivered.problems[:_NAMED]:
            context.log.error("Not deliverable from the spool %s, but blocking nothing: %s", spool.folder, problem)
    if spool.filling:
        context.log.error(
            "The spool %s holds %d of %d bytes: bring the object store back before it is full.",
            spool.folder,
            spool.size_bytes,
            spool.max_bytes,
        )


def _failure(minute: Minute, metadata: dict[str, Any]) -> dg.Failure:
    # A change of format is reported by the check feed_format_is_read, with the old and new format.
    drifted = not minute.failures and all(result.drift for result in minute.results)
    kind = FeedDriftedError if drifted else dg.Failure
    if not minute.failures and len(minute.results) == 1:
        problem = f"The feed answered with something that is not a snapshot: {_fault(minute.results[0])}"
        return kind(problem, metadata=metadata)
    return kind(f"No feed gave a snapshot. {' '.join(_problems(minute).values())}", metadata=metadata)


def _problems(minute: Minute) -> dict[str, str]:
    """Why feeds gave no snapshot, by their names."""
    problems = {name: f"{name}: {error}." for name, error in minute.failures.items()}
    return problems | {
        result.kind.name: f"{result.kind.name}: {_fault(result)}" for result in minute.results if result.fault
    }


def _fault(result: IngestResult) -> str:
    place = f"waits in the spool for {result.key}" if result.spool_reason else f"is in {result.key}"
    return f"{result.fault.error_message if result.fault else ''} The body {place}."


def _metadata(minute: Minute, spool: Spool) -> dict[str, Any]:
    """Of the most trusted feed whose answer is kept, with the rows of all, and then of each feed."""
    results = minute.results
    shown = next(iter(minute.snapshots or results), None)
    waiting = list(spool.waiting())
    several = len(results) + len(minute.failures) + len(minute.not_due) > 1
    not_due = {name: str(waiting) for name, waiting in minute.not_due.items()}
    return {
        **(_described(shown) if shown else {}),
        "delivered_from_spool": sum(len(result.delivered.keys) for result in results),
        "spool_waiting": len(waiting),
        "spool_problems": len({problem for result in results for problem in result.delivered.problems}),
        **accounting(LineCounts.total(result.counts for result in results)),
        "drift": "; ".join(str(result.drift) for result in results if result.drift),
        **_rows(results),
        **({"feeds": _by_feed(minute), "feeds_failed": _problems(minute)} if several else {}),
        **({"feeds_not_due": not_due} if not_due else {}),
    }


def _described(result: IngestResult) -> dict[str, Any]:
    return {
        "key": result.key,
        "fetched_at": dg.MetadataValue.timestamp(result.fetched_at),
        "size_bytes": result.size_bytes,
        "sha256": result.sha256,
        "duplicate": result.duplicate,
        **({"not_modified": True} if result.not_modified else {}),
        "spooled": result.spooled,
        "spool_reason": result.spool_reason,
    }


def _by_feed(minute: Minute) -> dict[str, Any]:
    return {
        result.kind.name: {
            **_described(result),
            "fetched_at": result.fetched_at.isoformat(),
            **accounting(result.counts),
            "drift": str(result.drift or ""),
        }
        for result in minute.results
    }


def _rows(results: Sequence[IngestResult]) -> dict[str, Any]:
    out = dead_lettered = duplicate = 0
    for result in results:
        counts = result.counts
        rows = counts.lines_in - counts.remark_lines
        if result.fault:
            dead_lettered += rows
        elif result.duplicate:
            duplicate += rows
        else:
            out += counts.rows_out
            dead_lettered += counts.dead_lettered
            duplicate += counts.duplicate_rows
    return handled_rows(out, dead_lettered, duplicate)

"""feed -> raw/."""

from datetime import timedelta
from typing import Any

import dagster as dg

from wrm_pipeline.assets.presentation import accounting, handled_rows, raw_schema
from wrm_pipeline.flows.ingest import IngestResult, take_snapshot
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
        "One snapshot of the bike-share feed, taken **now** and kept for ever, byte for byte.\n\n"
        "The feed has no history, so materializing this fetches the state of this minute; past days cannot be "
        "fetched. A body that equals the last one is not stored again (`duplicate`). While storage is down the "
        "snapshot waits on the local disk (`spooled`) and a later run delivers it. A body that is not a snapshot goes "
        "to `quarantine/` with a dead letter, and the run fails and says what came instead."
    ),
)
def wrm_stations_raw_data(
    context: dg.AssetExecutionContext, feed: FeedResource, lake: LakeResource, redis_cache: RedisCacheResource
) -> dg.MaterializeResult[None]:
    """Fetch, inspect, store once."""
    with record_requests_on_failure(context):
        result = take_snapshot(
            feed.clients[0],
            lambda: lake.store,
            lake.layout,
            lake.spool,
            correlation_id=context.run.run_id,
            cache=redis_cache.client,
        )
    for key in result.delivered.keys:
        context.log.info("delivered from the spool: %s", key)
    for problem in result.delivered.problems[:_NAMED]:
        context.log.error("Not deliverable from the spool %s, but blocking nothing: %s", lake.spool.folder, problem)
    if lake.spool.filling:
        context.log.error(
            "The spool %s holds %d of %d bytes: bring the object store back before it is full.",
            lake.spool.folder,
            lake.spool.size_bytes,
            lake.spool.max_bytes,
        )
    if result.drift:
        context.log.error("The feed has changed its format: %s.", result.drift)
    if result.fault:
        place = f"is in {result.key}"
        if result.spool_reason:
            place = f"waits in the spool for {result.key}"
        # A change of format is reported by the check feed_format_is_read, with the old and new format.
        raise (FeedDriftedError if result.drift else dg.Failure)(
            f"The feed answered with something that is not a snapshot: {result.fault.error_message} The body {place}.",
            metadata={**_metadata(result, lake.spool), **requests_made()},
        )
    if result.spool_reason:
        context.log.warning("Spooled, because the store accepted nothing: %s", result.spool_reason)
    return dg.MaterializeResult(metadata={**_metadata(result, lake.spool), **requests_made()})


def _metadata(result: IngestResult, spool: Spool) -> dict[str, Any]:
    waiting = list(spool.waiting())
    return {
        "key": result.key,
        "fetched_at": dg.MetadataValue.timestamp(result.fetched_at),
        "size_bytes": result.size_bytes,
        "sha256": result.sha256,
        "duplicate": result.duplicate,
        "spooled": result.spooled,
        "spool_reason": result.spool_reason,
        "delivered_from_spool": len(result.delivered.keys),
        "spool_waiting": len(waiting),
        "spool_problems": len(result.delivered.problems),
        **accounting(result.counts),
        "drift": str(result.drift or ""),
        **_rows(result),
    }


def _rows(result: IngestResult) -> dict[str, Any]:
    counts = result.counts
    rows = counts.lines_in - counts.remark_lines
    if result.fault:
        return handled_rows(dead_lettered=rows)
    if result.duplicate:
        return handled_rows(duplicate=rows)
    return handled_rows(counts.rows_out, counts.dead_lettered, counts.duplicate_rows)

"""Reports counts of requests to Dagster: those in a run's process are lost when it ends.

The exporter sums up the reported counts (docs/monitoring.md).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg

from wrm_pipeline.analytics.database_files import take_reports
from wrm_pipeline.clients.cache import LOOKUPS
from wrm_pipeline.clients.retry import REQUESTS, RequestCounts


def requests_made() -> dict[str, Any]:
    """Metadata of this step's costs: requests since the last call, retries, and look-ups in the cache."""
    counts, lookups = REQUESTS.reset(), LOOKUPS.reset()
    cache = {"cache_requests": lookups} if lookups else {}
    return {"external_requests": _described(counts), "retries": counts.retries, **cache, **_moved_aside()}


def write_requests() -> dict[str, Any]:
    """Metadata of an I/O manager: requests since the asset reported its own; empty if there were none."""
    requests = _described(REQUESTS.reset())
    return {**({"write_requests": requests} if requests else {}), **_moved_aside()}


@contextmanager
def record_requests_on_failure(context: dg.AssetExecutionContext | dg.OutputContext) -> Iterator[None]:
    """Add an observation if the block fails: then no materialization will have the counts."""
    try:
        yield
    except Exception:
        metadata = requests_made()
        if metadata["external_requests"]:
            context.log_event(dg.AssetObservation(asset_key=context.asset_key, metadata=metadata))
        raise


def _moved_aside() -> dict[str, str]:
    """Problems with the database that are worth mentioning in the metadata."""
    reports = take_reports()
    return {"moved_aside": "; ".join(reports)} if reports else {}


def _described(counts: RequestCounts) -> dict[str, int]:
    return {
        f"{target} {operation} {outcome}": number
        for (target, operation, outcome), number in sorted(counts.requests.items())
    }

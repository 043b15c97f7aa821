"""Runs that ended since a sensor looked last, each once, whatever order they became visible in."""

from collections.abc import Container, Sequence
from datetime import UTC, datetime
from typing import Any

import dagster as dg

# Runs are written by many processes: one may become visible after another that was updated later.
OVERLAP_S = 60.0
# A run that was seen may be updated once more (tags); until then it is remembered.
REMEMBERED_S = 900.0


def ended_runs(
    instance: dg.DagsterInstance,
    until: float,
    seen: Container[str],
    statuses: Sequence[dg.DagsterRunStatus],
    limit: int,
) -> list[dg.RunRecord]:
    """At most `limit` runs in these states, updated after `until` (Unix seconds) and not `seen`, oldest first."""
    page = limit
    while True:
        found = instance.get_run_records(
            dg.RunsFilter(statuses=list(statuses), updated_after=datetime.fromtimestamp(until - OVERLAP_S, UTC)),
            limit=page,
            order_by="update_timestamp",
            ascending=True,
        )
        new = [record for record in found if short_id(record) not in seen]
        if new or len(found) < page:
            return new[:limit]
        page *= 2  # that many ended at once, and all were seen


def short_id(record: dg.RunRecord) -> str:
    """Enough of a run's id to tell it from the others of these minutes."""
    return record.dagster_run.run_id[:8]


def ended_at(record: dg.RunRecord) -> float:
    """When a run ended, in Unix seconds."""
    return record.end_time or record.update_timestamp.timestamp()


def cause_of(error: Any) -> Any:
    """What our code raised: it is the cause of Dagster's own exception."""
    while error is not None and error.cause is not None and (error.cls_name or "").startswith("Dagster"):
        error = error.cause
    return error

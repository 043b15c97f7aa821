"""Runs that ended since a sensor's last tick, each once, in whatever order they became visible."""

import math
from collections.abc import Container, Sequence
from datetime import UTC, datetime
from typing import Any

import dagster as dg

# Many processes write runs: one may become visible after another that was updated later.
OVERLAP_S = 60.0
# A run may be updated again after it was seen (tags); it is remembered until then.
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
        page *= 2  # a whole page ended at the same time, and all were seen


def short_id(record: dg.RunRecord) -> str:
    """Enough of a run's id to distinguish it from others of the same minutes."""
    return record.dagster_run.run_id[:8]


def seen_until(record: dg.RunRecord, now: float) -> float:
    """The time up to which runs are read once this one is: never in the future, even if a clock was ahead."""
    return min(record.update_timestamp.timestamp(), now)


def remembered_at(record: dg.RunRecord) -> float:
    """The time under which a seen run is remembered; one from the future is remembered until it has passed."""
    return max(ended_at(record), record.update_timestamp.timestamp())


def is_time(value: object) -> bool:
    """Whether a cursor's value is a time in Unix seconds."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def ended_at(record: dg.RunRecord) -> float:
    """When a run ended, in Unix seconds."""
    return record.end_time or record.update_timestamp.timestamp()


def cause_of(error: Any) -> Any:
    """The exception of our code, which is the cause of Dagster's own."""
    while error is not None and error.cause is not None and (error.cls_name or "").startswith("Dagster"):
        error = error.cause
    return error

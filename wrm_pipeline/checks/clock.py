"""Whether a clock that was ahead has left times of the future."""

from datetime import UTC, datetime

import dagster as dg

from wrm_pipeline.checks.results import ERROR, WARN, result
from wrm_pipeline.domain import asset_names
from wrm_pipeline.resources.clock_repair import ClockTraces, find_traces


@dg.asset_check(
    asset=asset_names.STATION_SUMMARY,
    name="clock_was_not_ahead",
    description=(
        "No run and no tick is dated later than now: the clock was ahead once where one is. An error where sensors and "
        "schedules wait for that time, which the daemon sets right by itself within seconds (docs/operations.md)."
    ),
)
def clock_was_not_ahead(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
    """A few queries of Dagster's storage, whose times are those of the machine's clock."""
    return check_traces(find_traces(context.instance, datetime.now(UTC)))


def check_traces(found: ClockTraces) -> dg.AssetCheckResult:
    """What was found, in words."""
    goes_on = "" if found.in_the_way else " Nothing waits for that time any more."
    return result(
        "clock_was_not_ahead",
        not found,
        f"The clock was ahead: {found}.{goes_on}" if found else "Nothing is dated later than now.",
        severity=ERROR if found.in_the_way else WARN,
        waiting=len(found.instigators),
        ticks=found.ticks,
        runs=found.runs,
        claimed=found.claimed,
    )


# All of this module, for definitions.
CHECKS = (clock_was_not_ahead,)

"""Whether a clock that was ahead has left times in the future."""

from datetime import UTC, datetime

import dagster as dg

from wrm_pipeline.checks.results import ERROR, WARN, result
from wrm_pipeline.domain import asset_names
from wrm_pipeline.resources.clock_repair import ClockTraces, find_traces


@dg.asset_check(
    asset=asset_names.STATION_SUMMARY,
    name="clock_was_not_ahead",
    description=(
        "No run or tick is dated in the future: one that is shows that the clock was ahead. An error while sensors and "
        "schedules wait for that time, which the daemon repairs by itself within seconds (docs/operations.md)."
    ),
)
def clock_was_not_ahead(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
    """A few queries of Dagster's storage, whose times come from the machine's clock."""
    return check_traces(find_traces(context.instance, datetime.now(UTC)))


def check_traces(found: ClockTraces) -> dg.AssetCheckResult:
    """The findings in words."""
    goes_on = "" if found.in_the_way else " Nothing waits for that time any longer."
    return result(
        "clock_was_not_ahead",
        not found,
        f"The clock was ahead: {found}.{goes_on}" if found else "Nothing is dated in the future.",
        severity=ERROR if found.in_the_way else WARN,
        waiting=len(found.instigators),
        ticks=found.ticks,
        runs=found.runs,
        claimed=found.claimed,
    )


# The checks of this module, for `definitions`.
CHECKS = (clock_was_not_ahead,)

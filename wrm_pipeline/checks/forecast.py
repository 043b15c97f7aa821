"""Is the forecast better than "nothing changes"? WARN only."""

from typing import Any

import dagster as dg

from wrm_pipeline.analytics.database import SCHEMA, query_arrow
from wrm_pipeline.analytics.registry.forecast import FORECAST_SKILL
from wrm_pipeline.checks.results import WARN, result
from wrm_pipeline.domain import asset_names
from wrm_pipeline.resources.lake import LakeResource

# One bad day may be the weather.
DAYS_WORSE = 3

_THERE_SQL = "SELECT 1 FROM information_schema.tables WHERE table_schema = ? AND table_name = ?"
_RATIO_SQL = f"""
SELECT dt, round(sum(error_mean * forecasts) / nullif(sum(error_mean_persistence * forecasts), 0), 3) AS ratio
FROM {SCHEMA}.{FORECAST_SKILL.name} GROUP BY dt ORDER BY dt DESC LIMIT {DAYS_WORSE}
"""


@dg.asset_check(
    asset=asset_names.FORECAST_SKILL,
    description=(
        f"On one of the newest {DAYS_WORSE} days the forecast's mean error, over all horizons, was at most that of "
        "`nothing changes`."
    ),
)
def forecast_beats_persistence(lake: LakeResource) -> dg.AssetCheckResult:
    """Compare the newest scored days."""
    with lake.database.reading() as connection:
        there = query_arrow(connection, _THERE_SQL, [SCHEMA, FORECAST_SKILL.name]).num_rows
        days: list[dict[str, Any]] = query_arrow(connection, _RATIO_SQL).to_pylist() if there else []
    worse = [day for day in days if day["ratio"] is not None and day["ratio"] > 1]
    passed = len(worse) < DAYS_WORSE
    found = "No day is scored yet."
    if days:
        found = f"{len(worse)} of the newest {len(days)} days were worse than persistence ({days[0]['ratio']} newest)."
    if not passed:
        found += " Look at forecast_skill by horizon and station, and materialize forecast_model."
    return result(
        "forecast_beats_persistence",
        passed,
        found,
        severity=WARN,
        days_worse=len(worse),
        samples=[{"day": str(day["dt"]), "error_ratio": day["ratio"]} for day in days],
    )


CHECKS = (forecast_beats_persistence,)

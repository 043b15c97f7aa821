"""Which station is which: one identity through new names, places and numbers."""

from typing import Any

import dagster as dg

from wrm_pipeline.analytics.database import SCHEMA, query_arrow
from wrm_pipeline.analytics.registry.stations import STATIONS_HISTORY
from wrm_pipeline.analytics.stations_over_time import refresh_stations
from wrm_pipeline.assets.duckdb.views import create_duckdb_enhanced_views
from wrm_pipeline.assets.presentation import markdown_table, table_metadata
from wrm_pipeline.domain import asset_names
from wrm_pipeline.lake.station_decisions import StationDecisions
from wrm_pipeline.resources.feed import ClockResource
from wrm_pipeline.resources.lake import LakeResource
from wrm_pipeline.resources.requests import record_requests_on_failure, requests_made

_NUMBERS_SQL = f"""
SELECT count(DISTINCT station_key) AS stations, count(*) FILTER (valid_to IS NULL) AS stations_now, count(*) AS rows
FROM {SCHEMA}.{STATIONS_HISTORY.name}
"""
_CHANGES_SQL = f"""
SELECT valid_from, station_key, station_id, name, change, decided_by FROM {SCHEMA}.{STATIONS_HISTORY.name}
WHERE change <> 'first' ORDER BY valid_from DESC, station_key LIMIT 20
"""


@dg.asset(
    name=asset_names.STATIONS_HISTORY,
    deps=[create_duckdb_enhanced_views],
    metadata=table_metadata(asset_names.STATIONS_HISTORY),
    group_name="analytics",
    kinds={"duckdb", "table"},
    owners=["team:wrm"],
    tags={"layer": "analytics"},
    pool="duckdb",
    description=(
        "One identity for each station, through new names, places and numbers: table `wrm_analytics.stations_history`, "
        "from all published days; the view `wrm_stations_keyed` gives each row of a station its identity and newest "
        "name. A moved station is one station with two places, a number that is used elsewhere under another name is "
        "two. `wrm stations merge` and `wrm stations split` overrule it. docs/stations.md explains the rules."
    ),
)
def stations_history(
    context: dg.AssetExecutionContext, lake: LakeResource, clock: ClockResource
) -> dg.MaterializeResult[None]:
    """Read the days that changed, and make the history again if any did."""
    with record_requests_on_failure(context):
        kept = StationDecisions(lake.store, lake.layout).read()
        done, not_followed = refresh_stations(lake.database, lake.partitions, kept, refreshed_at=clock.now())
    with lake.database.reading() as connection:
        (numbers,) = query_arrow(connection, _NUMBERS_SQL).to_pylist()
        changes = query_arrow(connection, _CHANGES_SQL).to_pylist()
    problems = {
        **kept.unreadable,
        **{lake.layout.station_decision_key(decision.decided_at): why for decision, why in not_followed.items()},
    }
    metadata: dict[str, Any] = {
        "table": f"{SCHEMA}.{STATIONS_HISTORY.name}",
        "days_read": len(done.days_refreshed),
        "dagster/row_count": numbers["rows"],
        "stations": numbers["stations"],
        "stations_now": numbers["stations_now"],
        "decisions": len(kept.decisions),
        "newest_changes": dg.MetadataValue.md(markdown_table(changes)),
    }
    for key, why in problems.items():
        context.log.warning("A decision about stations is not followed: %s: %s.", key, why)
    if problems:
        metadata["decisions_not_followed"] = "; ".join(f"{key}: {why}" for key, why in problems.items())
    return dg.MaterializeResult(metadata={**metadata, **requests_made()})

"""The check whether bike positions and station rows, which are made apart, agree on the bikes at each station."""

import dagster as dg

from wrm_pipeline.checks.results import WARN, result
from wrm_pipeline.domain import asset_names
from wrm_pipeline.domain.bike_positions import PositionsState, read_positions
from wrm_pipeline.domain.layout import BIKE_POSITIONS
from wrm_pipeline.domain.quality import CountComparison, compare_counts
from wrm_pipeline.lake.published_partitions import UnreadablePartitionError
from wrm_pipeline.resources.lake import LakeResource

_NAME = "bikes_at_stations_are_as_counted"

# In the operator's two answers of 2025-08-21 the listed bikes are the count at all 258 stations (2,275 and 2,274
# bikes). A bike that one answer lists at two stations is at one of them here.
DIFFERING_SHARE_WARN = 0.01

_COLUMNS = ("station_id", "name", "file_timestamp", "bikes", "record_type", "s3_source_key")


@dg.asset_check(
    asset=asset_names.QUALITY,
    name=_NAME,
    description=(
        "On the newest day with bike positions, the bikes that they have at a station are as many as the feed counts "
        f"there, in all but {DIFFERING_SHARE_WARN:.0%} of the station minutes of the operator's feed that are "
        "published. More suggests that the feed no longer lists each bike, or that either table is wrong."
    ),
)
def bikes_at_stations_are_as_counted(lake: LakeResource) -> dg.AssetCheckResult:
    """Reads the day's two published objects; 0.2 s."""
    dt = lake.partitions.newest(BIKE_POSITIONS)
    if dt is None:
        return check_counts("none", CountComparison())
    try:
        file, counted = lake.partitions.read(BIKE_POSITIONS, dt), lake.partitions.read_enhanced_rows(dt, _COLUMNS)
    except UnreadablePartitionError as error:
        return result(_NAME, True, f"Not compared, as other checks warn: {error}", severity=WARN, day=str(dt))
    state = PositionsState.of(file)
    if file is None or counted is None or state is None:
        return check_counts(str(dt), CountComparison())
    used = state.answers.keys() - state.refused.keys()
    return check_counts(str(dt), compare_counts(read_positions(file), counted, used))


def check_counts(day: str, found: CountComparison) -> dg.AssetCheckResult:
    """The station minutes that differ among those compared."""
    share = found.differing.count / found.compared if found.compared else 0.0
    return result(
        _NAME,
        share <= DIFFERING_SHARE_WARN,
        f"{found.differing.count} of {found.compared} station minutes ({share:.2%}) have another number of bikes in "
        f"bike_positions than the feed counts; they are of {found.stations} stations in {found.minutes} snapshots."
        if found.compared
        else "There is nothing to compare: no snapshot of the operator's feed is published on a day with positions.",
        severity=WARN,
        samples=found.differing.samples,
        day=day,
        compared=found.compared,
        differing=found.differing.count,
        stations_differing=found.stations,
        snapshots_differing=found.minutes,
        share=round(share, 6),
        warn_above=DIFFERING_SHARE_WARN,
    )


# The checks of this module, for `definitions`.
CHECKS = (bikes_at_stations_are_as_counted,)

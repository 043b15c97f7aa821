"""raw/ of the operator's feed -> bike_positions/."""

from collections.abc import Iterator
from datetime import date, datetime
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from wrm_pipeline.assets.presentation import column_lineage, handled_rows, picture, preview, table_schema
from wrm_pipeline.assets.stations.fan_out import BuildOptions, BuiltDay, NothingToDoError, publish_day_or_days
from wrm_pipeline.assets.stations.processed_all import BuildConfig
from wrm_pipeline.assets.stations.raw_all import wrm_stations_raw_data
from wrm_pipeline.checks.stations import check_positions, positions_check
from wrm_pipeline.clients.cache import NO_CACHE, Cache
from wrm_pipeline.domain import asset_names
from wrm_pipeline.domain.bike_positions import read_positions
from wrm_pipeline.domain.city import this_city
from wrm_pipeline.domain.schemas import BIKE_POSITIONS
from wrm_pipeline.flows.bike_positions import NoAnswersError, PositionsPartition, positions_partition
from wrm_pipeline.lake.published_partitions import PartitionFile
from wrm_pipeline.partitions import daily_partitions
from wrm_pipeline.report.plots import line_chart
from wrm_pipeline.resources.cache import RedisCacheResource
from wrm_pipeline.resources.feed import ClockResource
from wrm_pipeline.resources.lake import LakeResource
from wrm_pipeline.resources.requests import requests_made
from wrm_pipeline.resources.workers import WorkersResource

_HOUR_MICROS = 3600 * 1_000_000


@dg.asset(
    name=asset_names.BIKE_POSITIONS,
    deps=[wrm_stations_raw_data],
    partitions_def=daily_partitions,
    io_manager_key="hive_partitioned_s3_io_manager",
    check_specs=[positions_check(asset_names.BIKE_POSITIONS)],
    metadata={
        "layer": asset_names.BIKE_POSITIONS,
        "dagster/column_schema": table_schema(BIKE_POSITIONS),
        "dagster/column_lineage": column_lineage(asset_names.BIKE_POSITIONS),
    },
    group_name="stations",
    kinds={"python", "arrow", "parquet"},
    owners=["team:wrm"],
    tags={"layer": "processed"},
    description=(
        "Where each bike stood: one row for each stay of a bike at one place on a day, as the operator's feed shows "
        "it, sorted by `bike_id` and `arrived_at`: one Parquet object.\n\n"
        "A function of the day's answers of the operator's feed, whichever feed was published in each minute; a run "
        "reads only new ones, with the same rows as a rebuild from scratch. `left_at` is null while the bike is in the "
        "day's last snapshot: a stay that goes on over midnight is one row in each day. Nothing is interpreted here: a "
        "flicker of the feed is a stay, too. `mv_rides` says which of them are rides.\n\n"
        "GBFS feeds change the ids of their vehicles after each ride, and the UCL feed names only free-standing bikes, "
        "so without the operator's feed (`operator` in WRM_FEEDS) there is nothing to do. Run config as of "
        "`wrm_stations_processed_data_all`."
    ),
)
def bike_positions(
    context: dg.AssetExecutionContext,
    config: BuildConfig,
    lake: LakeResource,
    clock: ClockResource,
    workers: WorkersResource,
    redis_cache: RedisCacheResource,
) -> Iterator[dg.Output[PartitionFile | None] | dg.AssetCheckResult]:
    """Add what is new."""
    options = BuildOptions.of(context, clock.now(), full_rebuild=config.full_rebuild, allow_shrink=config.allow_shrink)
    yield from publish_day_or_days(
        context,
        asset_names.BIKE_POSITIONS,
        build_positions_day,
        options,
        lake=lake,
        workers=workers,
        one=lambda lake, dt, options: build_positions_day(lake, dt, options, redis_cache.client),
    )


def build_positions_day(lake: LakeResource, dt: date, options: BuildOptions, cache: Cache = NO_CACHE) -> BuiltDay:
    """Build and check one day, without publishing it.

    Raises:
        NothingToDoError: it has no answer of the operator's feed, and is not published.
    """
    try:
        result = positions_partition(
            lake.partitions,
            dt,
            built_at=options.built_at,
            full_rebuild=options.full_rebuild,
            allow_shrink=options.allow_shrink,
            cache=cache,
        )
    except NoAnswersError as error:
        raise NothingToDoError(str(error)) from error
    rows = read_positions(result.file)
    check = check_positions(dt.isoformat(), rows, result.file)
    return BuiltDay(result.to_publish(allow_shrink=options.allow_shrink), _metadata(result, rows), check)


def _metadata(result: PositionsPartition, rows: pa.Table) -> dict[str, Any]:
    state, used = result.state, len(result.state.answers) - len(result.state.refused)
    present = pc.sum(pc.is_null(rows["left_at"])).as_py() or 0
    expected = state.seen + state.absent
    metadata: dict[str, Any] = {
        "unchanged": result.build is None,
        "rows_out": rows.num_rows,
        **handled_rows(max(rows.num_rows - result.rows_before, 0) if result.build else 0),
        "dagster/partition_row_count": rows.num_rows,
        "bikes_seen": len(pc.unique(rows["bike_id"])),
        "bikes_in_last_snapshot": present,
        "bikes_per_snapshot": round(state.seen / used, 1) if used else 0.0,
        # Of the bikes that the day has shown before: under way, in a van, or left out by the feed.
        "share_of_bikes_missing": round(state.absent / expected, 4) if expected else 0.0,
        "snapshots": used,
        "snapshots_read_now": len(result.plan.read) if result.build else 0,
        "snapshots_refused": len(state.refused),
        "snapshots_left_out": len(result.plan.late),
        "raw_objects_vanished": len(result.plan.vanished),
        **requests_made(),
    }
    if state.refused:
        metadata["refused"] = "; ".join(f"{key}: {why}" for key, why in list(state.refused.items())[:5])
    if state.first is not None and state.last is not None:
        metadata["first_snapshot"] = dg.MetadataValue.timestamp(state.first / 1e6)
        metadata["last_snapshot"] = dg.MetadataValue.timestamp(state.last / 1e6)
    if result.build is not None and rows.num_rows:
        metadata["by_hour"] = _by_hour(rows, state.first or 0, state.last or 0)
        metadata["preview"] = preview(rows)
    return metadata


def _by_hour(rows: pa.Table, first: int, last: int) -> dg.MarkdownMetadataValue:
    """Bikes at stations and outside them at each full hour: what is missing at night is not under way."""
    arrived = rows["arrived_at"].cast(pa.int64()).to_numpy()
    left = pc.fill_null(rows["left_at"].cast(pa.int64()), last).to_numpy()
    free = pc.is_null(rows["station_id"]).to_numpy()
    times = range(first, last + 1, _HOUR_MICROS)
    there = [(arrived <= at) & (left >= at) for at in times]
    series: dict[str, list[float | None]] = {
        "at stations": [float((now & ~free).sum()) for now in there],
        "outside stations": [float((now & free).sum()) for now in there],
    }
    svg = line_chart("Bikes that the feed shows, by local hour", [_local_hour(at) for at in times], series)
    return picture(svg, "bikes at stations and outside them by local hour")


def _local_hour(micros: int) -> str:
    return f"{datetime.fromtimestamp(micros / 1e6, this_city().zone):%H}"

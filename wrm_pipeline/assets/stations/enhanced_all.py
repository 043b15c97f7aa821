"""processed/ -> enhanced/."""

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from typing import Any

import dagster as dg

from wrm_pipeline.assets.presentation import column_lineage, handled_rows, preview, table_schema
from wrm_pipeline.assets.stations.fan_out import (
    BuildOptions,
    BuiltDay,
    NextLayer,
    NothingToDoError,
    publish_day_or_days,
)
from wrm_pipeline.assets.stations.processed_all import BuildConfig
from wrm_pipeline.checks.stations import check_enhanced, enhanced_check
from wrm_pipeline.clients.errors import ObjectNotFoundError
from wrm_pipeline.domain import asset_names
from wrm_pipeline.domain.parquet_parts import ParquetParts
from wrm_pipeline.domain.schemas import ENHANCED, FLAGS
from wrm_pipeline.flows.enhance import enhance_partition
from wrm_pipeline.flows.gbfs_out import IdFiles, publish_latest
from wrm_pipeline.io_managers.hive_partitioned import read_published
from wrm_pipeline.lake.published_partitions import PartitionFile
from wrm_pipeline.lake.raw_objects import RawDay
from wrm_pipeline.partitions import daily_partitions
from wrm_pipeline.resources.feed import ClockResource
from wrm_pipeline.resources.lake import LakeResource
from wrm_pipeline.resources.requests import requests_made
from wrm_pipeline.resources.workers import WorkersResource


@dg.asset(
    name=asset_names.ENHANCED,
    ins={"processed": dg.AssetIn(asset_names.PROCESSED)},
    partitions_def=daily_partitions,
    io_manager_key="hive_partitioned_s3_io_manager",
    check_specs=[enhanced_check(asset_names.ENHANCED)],
    freshness_policy=dg.FreshnessPolicy.time_window(
        fail_window=timedelta(minutes=15), warn_window=timedelta(minutes=5)
    ),
    metadata={
        "layer": "enhanced",
        "dagster/column_schema": table_schema(ENHANCED),
        "dagster/column_lineage": column_lineage(asset_names.ENHANCED),
    },
    group_name="stations",
    kinds={"python", "arrow", "parquet"},
    owners=["team:wrm"],
    tags={"layer": "enhanced"},
    description=(
        "The processed rows of a day, each classified (`record_type`: station, bike, unknown) and flagged: "
        "`over_capacity`, `no_docks`, `outside_service_area`, `stale`, `count_capped`.\n\n"
        "A flag marks what is implausible but possible; no row is removed. A third of the stations hold more bikes "
        "than "
        "docks, and bikes in a depot in another city are outside the service area."
    ),
)
def wrm_stations_enhanced_data_all(
    context: dg.AssetExecutionContext,
    config: BuildConfig,
    processed: ParquetParts | None,
    lake: LakeResource,
    clock: ClockResource,
    workers: WorkersResource,
) -> Iterator[dg.Output[PartitionFile | None] | dg.AssetCheckResult]:
    """Classify and flag."""
    options = BuildOptions.of(context, clock.now(), full_rebuild=config.full_rebuild, allow_shrink=config.allow_shrink)

    def build_given(lake: LakeResource, dt: date, options: BuildOptions) -> BuiltDay:
        return enhance_published_day(lake, dt, options) if processed is None else _enhance(lake, processed, dt, options)

    file = yield from publish_day_or_days(
        context, "enhanced", enhance_published_day, options, lake=lake, workers=workers, one=build_given
    )
    if file is not None:
        _publish_gbfs(context, lake, file, clock.now())


def _publish_gbfs(context: dg.AssetExecutionContext, lake: LakeResource, file: PartitionFile, now: datetime) -> None:
    """Publish the partition's newest snapshot as GBFS: the partition is published by now, so a failure costs no row."""
    settings = lake.settings
    ids = IdFiles(settings.gbfs_ids_dir)
    try:
        publish_latest(file.data, settings.public_system(), settings.gbfs_folder, ids, now=now)
    except OSError as error:
        context.log.warning("The GBFS files in %s stay as they were: %s", settings.gbfs_folder, error)


def enhance_published_day(lake: LakeResource, dt: date, options: BuildOptions) -> BuiltDay:
    """Build and check one day from its published processed rows, without publishing it.

    Raises:
        NothingToDoError: there are none, and no raw objects to make them from.
        ObjectNotFoundError: there are none, although there is raw data.
    """
    try:
        processed = read_published(lake, "processed", dt)
    except ObjectNotFoundError:
        if not RawDay.of(lake.store, lake.layout, dt).objects():
            raise NothingToDoError(
                f"There are no processed rows of {dt}, and no raw snapshot in {lake.layout.raw_folder(dt)}."
            ) from None
        raise
    return _enhance(lake, processed, dt, options)


THEN = NextLayer("enhanced", enhance_published_day, dg.AssetKey(asset_names.ENHANCED))


def _enhance(lake: LakeResource, processed: ParquetParts, dt: date, options: BuildOptions) -> BuiltDay:
    result = enhance_partition(
        processed,
        lake.partitions,
        dt,
        area=lake.area,
        built_at=options.built_at,
        allow_shrink=options.allow_shrink,
        look_for_strays=options.look_for_strays,
    )
    build = result.build
    file = ParquetParts.open(build.data)
    metadata: dict[str, Any] = {
        "unchanged": not result.changed,
        "rows_in": processed.row_count,
        "rows_out": build.row_count,
        **handled_rows(max(build.row_count - result.rows_before, 0) if result.changed else 0),
        "dagster/partition_row_count": build.row_count,
        **{f"rows_{name}": count for name, count in build.counts.items() if name not in FLAGS},
        **{f"flag_{name}": build.counts.get(name, 0) for name in FLAGS},
        **requests_made(),
    }
    if build.row_count:
        metadata["preview"] = preview(next(file.read_groups(0, 1)))
    check = check_enhanced(dt.isoformat(), processed.row_count, file)
    return BuiltDay(result.to_publish(allow_shrink=options.allow_shrink), metadata, check)

"""raw/ -> processed/."""

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

import dagster as dg

from wrm_pipeline.assets.presentation import (
    accounting,
    column_lineage,
    handled_rows,
    markdown_table,
    preview,
    table_schema,
)
from wrm_pipeline.assets.stations.fan_out import (
    BuildOptions,
    BuiltDay,
    NothingToDoError,
    publish_day_or_days,
)
from wrm_pipeline.assets.stations.raw_all import wrm_stations_raw_data
from wrm_pipeline.checks.stations import check_processed, processed_check
from wrm_pipeline.clients.cache import NO_CACHE, Cache
from wrm_pipeline.domain import asset_names
from wrm_pipeline.domain.parquet_parts import ParquetParts
from wrm_pipeline.domain.schemas import PROCESSED
from wrm_pipeline.domain.snapshot import LineCounts
from wrm_pipeline.flows.process import NoRawDataError, ProcessedPartition, process_partition
from wrm_pipeline.lake.published_partitions import PartitionFile
from wrm_pipeline.partitions import daily_partitions
from wrm_pipeline.resources.cache import RedisCacheResource
from wrm_pipeline.resources.feed import ClockResource
from wrm_pipeline.resources.lake import LakeResource
from wrm_pipeline.resources.requests import requests_made
from wrm_pipeline.resources.workers import WorkersResource


class BuildConfig(dg.Config):
    """How to build a partition."""

    full_rebuild: bool = False
    """Parse all raw objects again, whatever the published partition contains."""
    allow_shrink: bool = False
    """Permit the loss of rows: of raw objects that have vanished or shrunk, and of more than 5 %."""


@dg.asset(
    name=asset_names.PROCESSED,
    deps=[wrm_stations_raw_data],
    partitions_def=daily_partitions,
    io_manager_key="hive_partitioned_s3_io_manager",
    check_specs=[processed_check(asset_names.PROCESSED)],
    # For any day: `today_is_fresh` (on the enhanced rows) is about today.
    freshness_policy=dg.FreshnessPolicy.time_window(
        fail_window=timedelta(minutes=15), warn_window=timedelta(minutes=5)
    ),
    metadata={
        "layer": "processed",
        "dagster/column_schema": table_schema(PROCESSED),
        "dagster/column_lineage": column_lineage(asset_names.PROCESSED),
    },
    group_name="stations",
    kinds={"python", "arrow", "parquet"},
    owners=["team:wrm"],
    tags={"layer": "processed"},
    description=(
        "All good rows of a day, typed, sorted by `file_timestamp` and `station_id` and unique on both: one Parquet "
        "object.\n\n"
        "A function of the day's raw objects (and an operator's corrections): only new or changed objects are parsed, "
        "with the same rows as a rebuild from scratch. Rows that cannot be typed are in the dead-letter queue; "
        "`lines_in = rows_out + dead_lettered + duplicate_rows + remark_lines`.\n\n"
        "Run config: `full_rebuild` parses everything again; `allow_shrink` permits the loss of rows: those of raw "
        "objects that have vanished or were rewritten with fewer rows, and more than 5 % of the day's."
    ),
)
def wrm_stations_processed_data_all(
    context: dg.AssetExecutionContext,
    config: BuildConfig,
    lake: LakeResource,
    clock: ClockResource,
    workers: WorkersResource,
    redis_cache: RedisCacheResource,
) -> Iterator[dg.Output[PartitionFile | None] | dg.AssetCheckResult]:
    """Parse what is new."""
    options = BuildOptions.of(context, clock.now(), full_rebuild=config.full_rebuild, allow_shrink=config.allow_shrink)
    # Imported here, since the module of the next layer imports this one.
    from wrm_pipeline.assets.stations.enhanced_all import THEN

    yield from publish_day_or_days(
        context,
        "processed",
        process_day,
        options,
        lake=lake,
        workers=workers,
        one=lambda lake, dt, options: process_day(lake, dt, options, redis_cache.client),
        then=THEN,
    )


def process_day(lake: LakeResource, dt: date, options: BuildOptions, cache: Cache = NO_CACHE) -> BuiltDay:
    """Build and check one day, without publishing anything but dead letters.

    Raises:
        NothingToDoError: it has no raw object, and is not published.
    """
    try:
        result = process_partition(
            lake.store,
            lake.layout,
            dt,
            parsed_at=options.built_at,
            full_rebuild=options.full_rebuild,
            allow_shrink=options.allow_shrink,
            look_for_strays=options.look_for_strays,
            cache=cache,
            strict=lake.settings.strict,
        )
    except NoRawDataError as error:
        raise NothingToDoError(str(error)) from error
    file = result.file
    metadata = {**_metadata(result, file), **requests_made()}
    return BuiltDay(
        result.to_publish(allow_shrink=options.allow_shrink),
        metadata,
        check_processed(dt.isoformat(), file.row_count, result.manifest, file),
    )


def _metadata(result: ProcessedPartition, file: ParquetParts) -> dict[str, Any]:
    counts = result.manifest.counts
    parsed = LineCounts.total(report.counts for report in (result.build.reports if result.build else ()))
    times = sorted(source.file_timestamp for source in result.manifest.sources.values())
    metadata: dict[str, Any] = {
        **accounting(counts),
        **handled_rows(parsed.rows_out, parsed.dead_lettered, parsed.duplicate_rows),
        "dagster/partition_row_count": counts.rows_out,
        "accounting_balanced": counts.balanced,
        "snapshots": len(times),
        "snapshots_parsed_now": len(result.build.reports) if result.build else 0,
        "unchanged": result.build is None,
        "drift": "; ".join(sorted({str(drift) for drift in result.drifts})[:5]),
        "rows_taken_over": result.take_over.rows_taken,
        "files_superseded": len(result.take_over.superseded),
        "files_left": "; ".join(map(str, result.take_over.left[:5])),
        "raw_objects_vanished": len(result.vanished),
        "raw_objects_refused": len(result.manifest.refused),
        "raw_objects_unreadable": len(result.manifest.unreadable),
        "dead_letters": dg.MetadataValue.md(
            markdown_table(
                [
                    {
                        "entry": letter.entry_id,
                        "error": letter.error_type,
                        "records": letter.records_total,
                        "source": letter.source_key.rpartition("/")[2],
                        "message": letter.error_message,
                        "status": letter.status,
                    }
                    for letter in result.dead_letters[:20]
                ]
            )
        ),
    }
    if times:
        metadata["first_snapshot"] = dg.MetadataValue.timestamp(times[0])
        metadata["last_snapshot"] = dg.MetadataValue.timestamp(times[-1])
    if result.build is not None and file.row_count:
        metadata["preview"] = preview(next(file.read_groups(0, 1)))
    return metadata

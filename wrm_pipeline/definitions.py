"""The Dagster code location. Loading it opens no socket and writes no file."""

import gc
from collections.abc import Callable, Mapping
from typing import Any

import dagster as dg

from wrm_pipeline import logs
from wrm_pipeline.assets.duckdb.city_rides import city_rides, ride_comparison
from wrm_pipeline.assets.duckdb.data_quality import data_quality
from wrm_pipeline.assets.duckdb.density import bike_density_map, bike_density_spatial_analysis
from wrm_pipeline.assets.duckdb.forecast import forecast_model, forecast_skill, station_forecast
from wrm_pipeline.assets.duckdb.materialized_views import create_materialized_views
from wrm_pipeline.assets.duckdb.station_history import stations_history
from wrm_pipeline.assets.duckdb.station_summary import query_station_summary
from wrm_pipeline.assets.duckdb.views import create_duckdb_enhanced_views
from wrm_pipeline.assets.error_handling.dead_letters import wrm_stations_dlq
from wrm_pipeline.assets.report.city_report import city_report
from wrm_pipeline.assets.report.data_catalog import data_catalog
from wrm_pipeline.assets.report.published_database import published_database
from wrm_pipeline.assets.report.serving_tables import serving_tables
from wrm_pipeline.assets.stations.bike_positions import bike_positions
from wrm_pipeline.assets.stations.enhanced_all import wrm_stations_enhanced_data_all
from wrm_pipeline.assets.stations.processed_all import wrm_stations_processed_data_all
from wrm_pipeline.assets.stations.raw_all import wrm_stations_raw_data
from wrm_pipeline.checks import clock as clock_checks
from wrm_pipeline.checks import feed, feeds, forecast, positions, published, quality, spool
from wrm_pipeline.checks import lake as lake_checks
from wrm_pipeline.domain.bike_positions import FEED
from wrm_pipeline.io_managers.duckdb import (
    DuckDBHybridIOManager,
    DuckDBPublishingIOManager,
    DuckDBTableIOManager,
)
from wrm_pipeline.io_managers.hive_partitioned import HivePartitionedParquetIOManager
from wrm_pipeline.io_managers.s3_values import S3ValuesIOManager
from wrm_pipeline.jobs.compaction import wrm_compaction_job
from wrm_pipeline.jobs.processing import (
    EACH_MINUTE,
    wrm_analytics_job,
    wrm_city_rides_job,
    wrm_daily_analytics_job,
    wrm_forecast_job,
    wrm_freshness_job,
    wrm_stations_history_job,
    wrm_stations_ingest_job,
    wrm_stations_processing_job,
)
from wrm_pipeline.jobs.prune_history import wrm_prune_history_job
from wrm_pipeline.jobs.reprocess_dlq import reprocess_dlq
from wrm_pipeline.partitions import backfill_policy, daily_partitions_from, with_days
from wrm_pipeline.resources.alerts import AlertsResource
from wrm_pipeline.resources.asset_graph import AssetGraph
from wrm_pipeline.resources.base import share
from wrm_pipeline.resources.cache import FilesystemCacheResource, RedisCacheResource
from wrm_pipeline.resources.dlq import DlqResource
from wrm_pipeline.resources.duckdb import DuckDBResource
from wrm_pipeline.resources.feed import ClockResource, FeedResource
from wrm_pipeline.resources.lake import LakeResource
from wrm_pipeline.resources.lineage import LineageResource
from wrm_pipeline.resources.logger import StructlogResource
from wrm_pipeline.resources.masked_dagster import guard_dagster
from wrm_pipeline.resources.metrics import MetricsResource
from wrm_pipeline.resources.postgres import PostgresResource
from wrm_pipeline.resources.retention import RetentionResource
from wrm_pipeline.resources.s3 import S3Resource
from wrm_pipeline.resources.vault import VaultResource
from wrm_pipeline.resources.warm_runs import use_warm_runs
from wrm_pipeline.resources.workers import WorkersResource
from wrm_pipeline.schedules.city_rides import city_rides_schedule
from wrm_pipeline.schedules.compaction import compaction_schedule
from wrm_pipeline.schedules.forecast import forecast_schedule
from wrm_pipeline.schedules.freshness import wrm_freshness_schedule
from wrm_pipeline.schedules.history import prune_history_schedule
from wrm_pipeline.schedules.ingest import wrm_stations_ingest_schedule
from wrm_pipeline.schedules.stations import stations_history_schedule
from wrm_pipeline.sensors.alerts import wrm_check_alerts_sensor, wrm_run_alerts_sensor
from wrm_pipeline.sensors.dead_runs import wrm_dead_runs_sensor
from wrm_pipeline.sensors.lineage import wrm_lineage_sensor
from wrm_pipeline.sensors.raw_data import (
    wrm_analytics_sensor,
    wrm_stations_raw_data_sensor,
    wrm_stations_reconciliation_sensor,
)
from wrm_pipeline.settings import Settings, load_settings


def build_defs(settings: Settings, overrides: Mapping[str, Any] | None = None) -> dg.Definitions:
    """All definitions, wired according to the settings; `overrides` replaces resources by key."""
    resources = build_resources(settings, overrides or {})
    declared: list[dg.AssetsDefinition] = [
        wrm_stations_raw_data,
        # One run for a range of days, or one for each (WRM_BACKFILL).
        *(
            asset.with_attributes(backfill_policy=backfill_policy(settings.backfill))
            for asset in (
                wrm_stations_processed_data_all,
                wrm_stations_enhanced_data_all,
                _with_runs(bike_positions, settings),
                query_station_summary,
                bike_density_spatial_analysis,
                city_rides,
                ride_comparison,
            )
        ),
        create_duckdb_enhanced_views,
        create_materialized_views,
        bike_density_map,
        forecast_model,
        station_forecast,
        forecast_skill,
        stations_history,
        data_quality,
        wrm_stations_dlq,
        data_catalog,
        city_report,
        published_database,
    ]
    if settings.postgres_serving_host:
        declared.append(serving_tables)
    days = daily_partitions_from(settings.first_date, settings.timezone)
    assets = [with_days(asset, days) for asset in declared]
    return dg.Definitions(
        assets=assets,
        asset_checks=[
            *feed.CHECKS,
            *feeds.CHECKS,
            *lake_checks.CHECKS,
            *published.CHECKS,
            *clock_checks.CHECKS,
            *quality.CHECKS,
            *positions.CHECKS,
            *forecast.CHECKS,
            *spool.CHECKS,
        ],
        jobs=[
            wrm_stations_ingest_job,
            wrm_stations_processing_job,
            wrm_analytics_job,
            wrm_daily_analytics_job,
            wrm_forecast_job,
            wrm_stations_history_job,
            wrm_city_rides_job,
            wrm_freshness_job,
            reprocess_dlq,
            wrm_compaction_job,
            wrm_prune_history_job,
        ],
        schedules=[
            wrm_stations_ingest_schedule,
            wrm_freshness_schedule,
            forecast_schedule(settings.timezone),
            stations_history_schedule(settings.timezone),
            *([city_rides_schedule(settings.timezone)] if settings.has_ride_lists else []),
            *([compaction_schedule(settings.timezone)] if settings.compact_after_days else []),
            # On a server a systemd timer does this: it needs no daemon, and its failures are in the journal.
            *([prune_history_schedule(settings.timezone)] if settings.env == "local" else []),
        ],
        sensors=[
            wrm_stations_raw_data_sensor,
            wrm_stations_reconciliation_sensor,
            wrm_analytics_sensor,
            *alert_sensors(settings, overrides or {}),
            *([wrm_lineage_sensor] if settings.lineage_days else []),
            wrm_dead_runs_sensor,
        ],
        executor=dg.in_process_executor,
        resources={
            "asset_graph": dg.ResourceDefinition.hardcoded_resource(AssetGraph.of(assets)),
            **resources,
            **(overrides or {}),
        },
    )


def _with_runs(asset: dg.AssetsDefinition, settings: Settings) -> dg.AssetsDefinition:
    """`bike_positions`, in the job of each minute if the feed that it is made from is fetched."""
    if FEED not in settings.layout.feeds:
        return asset
    return asset.map_asset_specs(lambda spec: spec.merge_attributes(tags=EACH_MINUTE))


def alert_sensors(settings: Settings, overrides: Mapping[str, Any]) -> list[dg.SensorDefinition]:
    """The sensors that send alerts; none without webhook, mail or Vault, since a tick that does nothing is not free."""
    has_channel = "alerts" in overrides or AlertsResource.of(settings).channels()
    return [wrm_run_alerts_sensor, wrm_check_alerts_sensor] if has_channel else []


def build_resources(settings: Settings, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The resources by key; those that depend on others use the replacements in `overrides`."""
    made: dict[str, Any] = {}

    def add(key: str, make: Callable[[], Any]) -> Any:
        made[key] = share(overrides[key] if key in overrides else make())
        return made[key]

    vault = add("vault", lambda: VaultResource.of(settings))
    s3 = add("s3_resource", lambda: S3Resource.of(settings, vault))
    lake = add("lake", lambda: LakeResource.of(settings, s3))
    clock = add("clock", lambda: ClockResource(fixed_at=None))
    files = add("filesystem_cache", lambda: FilesystemCacheResource.of(settings, vault))
    cache = add("redis_cache", lambda: RedisCacheResource.of(settings, vault, files))
    add("dlq", lambda: DlqResource(lake=lake, cache=cache, clock=clock))
    add("workers", lambda: WorkersResource.of(settings))
    add("feed", lambda: FeedResource.of(settings, vault))
    add("postgres_resource", lambda: PostgresResource.of(settings, vault))
    add("alerts", lambda: AlertsResource.of(settings, vault))
    add("lineage", lambda: LineageResource.of(settings, vault))
    add("metrics", lambda: MetricsResource.of(settings))
    add("structlog", lambda: StructlogResource())  # noqa: PLW0108 - a class has no return type
    add("retention", lambda: RetentionResource.of(settings))
    add("duckdb", lambda: DuckDBResource(lake=lake))
    add("s3_io_manager", lambda: S3ValuesIOManager(lake=lake))
    add("hive_partitioned_s3_io_manager", lambda: HivePartitionedParquetIOManager(lake=lake))
    add("duckdb_io_manager", lambda: DuckDBTableIOManager(lake=lake))
    add("duckdb_s3_io_manager", lambda: DuckDBPublishingIOManager(lake=lake))
    add("duckdb_hybrid_io_manager", lambda: DuckDBHybridIOManager(lake=lake, clock=clock))
    return made


guard_dagster()
use_warm_runs()
settings = load_settings()
logs.configure(settings.data_dir / "logs", as_json=settings.env == "production")
defs = build_defs(settings)
# Everything loaded by now lives as long as the process, and each full garbage collection would scan it again: that took
# 0.15 s of each run (240,000 objects).
gc.freeze()

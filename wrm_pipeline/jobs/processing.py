"""The jobs of the pipeline.

Each runs in a single process: a separate process per step takes seconds to start, the work itself tenths.
"""

import dagster as dg

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
from wrm_pipeline.assets.stations.enhanced_all import wrm_stations_enhanced_data_all
from wrm_pipeline.assets.stations.processed_all import wrm_stations_processed_data_all
from wrm_pipeline.assets.stations.raw_all import wrm_stations_raw_data
from wrm_pipeline.checks.clock import clock_was_not_ahead
from wrm_pipeline.checks.feed import feed_format_is_read
from wrm_pipeline.checks.feeds import feeds_tell_the_truth
from wrm_pipeline.checks.published import today_is_fresh
from wrm_pipeline.checks.spool import spool_is_readable
from wrm_pipeline.domain import asset_names

EACH_MINUTE = {"wrm/runs": "each_minute"}
"""Tag of assets that the processing job builds only where a feed gives anything for them: each step costs time."""

wrm_stations_ingest_job = dg.define_asset_job(
    "wrm_stations_ingest_job",
    selection=[wrm_stations_raw_data],
    executor_def=dg.in_process_executor,
    # The queue may be long, and a snapshot that is not taken now is lost.
    tags={"dagster/priority": "10"},
    description="Take a snapshot of the feed now.",
)

wrm_stations_processing_job = dg.define_asset_job(
    "wrm_stations_processing_job",
    selection=dg.AssetSelection.assets(
        wrm_stations_processed_data_all,
        wrm_stations_enhanced_data_all,
        create_duckdb_enhanced_views,
    )
    | dg.AssetSelection.tag(*next(iter(EACH_MINUTE.items()))),
    executor_def=dg.in_process_executor,
    description=(
        "Turn a day's raw snapshots into its processed and enhanced partitions, and the operator's answers, if that "
        "feed is fetched, into its bike positions; the views follow a new day."
    ),
)

wrm_analytics_job = dg.define_asset_job(
    "wrm_analytics_job",
    selection=dg.AssetSelection.assets(
        create_duckdb_enhanced_views,
        create_materialized_views,
        query_station_summary,
        bike_density_spatial_analysis,
        bike_density_map,
        station_forecast,
        data_quality,
        wrm_stations_dlq,
        data_catalog,
        city_report,
        published_database,
    )
    # By name, as it is there only where POSTGRES_SERVING_HOST is set.
    | dg.AssetSelection.from_string(f'key:"{asset_names.SERVING}"'),
    executor_def=dg.in_process_executor,
    description=(
        "Makes tables, map, catalog, report, published database and (if configured) the tables in PostgreSQL from the "
        "enhanced data. Of the daily tables, the run's partition (by default the newest published day)."
    ),
)

wrm_forecast_job = dg.define_asset_job(
    "wrm_forecast_job",
    selection=[forecast_model, forecast_skill],
    executor_def=dg.in_process_executor,
    description="Learns from the last days for the forecasts of today, and scores those of yesterday.",
)

wrm_stations_history_job = dg.define_asset_job(
    "wrm_stations_history_job",
    selection=[stations_history],
    executor_def=dg.in_process_executor,
    description="Finds out which station is which, after each day: renamed, moved, renumbered, vanished, returned.",
)

wrm_city_rides_job = dg.define_asset_job(
    "wrm_city_rides_job",
    selection=[stations_history, city_rides, ride_comparison],
    executor_def=dg.in_process_executor,
    description=(
        "Reads the city's own list of a day's rides, finds its stations in their history, and compares it with what "
        "the archive saw."
    ),
)

wrm_daily_analytics_job = dg.define_asset_job(
    "wrm_daily_analytics_job",
    selection=[create_duckdb_enhanced_views, query_station_summary, bike_density_spatial_analysis],
    executor_def=dg.in_process_executor,
    description=(
        "Makes the daily tables of the run's partitions: history by `dagster job backfill`, and days that changed "
        "after they were the newest."
    ),
)

wrm_freshness_job = dg.define_asset_job(
    "wrm_freshness_job",
    selection=dg.AssetSelection.checks(
        feed_format_is_read, feeds_tell_the_truth, today_is_fresh, clock_was_not_ahead, spool_is_readable
    ),
    executor_def=dg.in_process_executor,
    description=(
        "Is the newest published snapshot current, and nothing dated in the future? Can the feed still be read? Can "
        "everything in the spool be delivered? Do the feeds tell the truth?"
    ),
)

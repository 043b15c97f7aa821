"""The jobs: what they run, where, and in what order."""

from __future__ import annotations

import dagster as dg
import pytest

from wrm_pipeline.partitions import daily_partitions
from wrm_pipeline_tests.fixtures.lake import DAY, ENHANCED, PROCESSED, definitions, metadata_of, run_job

ASSETS = {
    "wrm_stations_ingest_job": {"wrm_stations_raw_data"},
    "wrm_stations_processing_job": {PROCESSED, ENHANCED, "create_duckdb_enhanced_views"},
    "wrm_analytics_job": {
        "create_duckdb_enhanced_views",
        "create_materialized_views",
        "query_station_summary",
        "bike_density_spatial_analysis",
        "bike_density_map",
        "data_quality",
        "data_catalog",
        "city_report",
        "published_database",
    },
    "wrm_daily_analytics_job": {
        "create_duckdb_enhanced_views",
        "query_station_summary",
        "bike_density_spatial_analysis",
    },
}


@pytest.mark.parametrize("name", ASSETS)
def test_a_job_runs_its_assets_in_one_process(name):
    job = definitions().resolve_job_def(name)
    assert {node.name for node in job.nodes} >= ASSETS[name]
    assert job.executor_def is dg.in_process_executor


def test_all_jobs_but_the_ingest_are_partitioned_by_day():
    defs = definitions()
    by_day = {name: defs.resolve_job_def(name).partitions_def for name in ASSETS}
    assert by_day.pop("wrm_stations_ingest_job") is None
    assert set(by_day.values()) == {daily_partitions}


def test_the_processing_job_takes_a_day_to_the_views(lake):
    lake.put_day(2)
    with dg.DagsterInstance.ephemeral() as instance:
        result = run_job("wrm_stations_processing_job", dt=DAY, instance=instance)
        done = instance.get_materialized_partitions(dg.AssetKey(ENHANCED))
    assert metadata_of(result, PROCESSED)["rows_out"] == 22
    assert metadata_of(result, ENHANCED)["rows_out"] == 22
    assert metadata_of(result, "create_duckdb_enhanced_views")["newest_partition"] == "2025-08-21"
    assert done == {"2025-08-21"}


def test_run_config_reaches_both_layers(lake):
    keys = lake.put_day(3)
    run_job("wrm_stations_processing_job", dt=DAY)
    lake.store.delete(keys[0])
    config = {name: {"allow_shrink": True} for name in (PROCESSED, ENHANCED)}
    assert run_job("wrm_stations_processing_job", dt=DAY, config=config).success
    assert len(lake.rows("enhanced")) == 22


def test_a_word_that_is_no_setting_is_refused_before_anything_runs(lake):
    with pytest.raises(dg.DagsterInvalidConfigError, match="alow_shrink"):
        run_job("wrm_stations_processing_job", dt=DAY, config={PROCESSED: {"alow_shrink": True}})

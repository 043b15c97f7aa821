"""Runs that are cancelled in the UI, or that exceed their time limit, in the middle of a query.

Each is ended at a random moment: `WRM_PROPERTY_FACTOR=7` makes it 21 moments for each way.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial

import pytest

from wrm_pipeline.analytics.database import SCHEMA, AnalyticsDatabase
from wrm_pipeline.settings import load_settings
from wrm_pipeline_tests.faults.s3_proxy import S3Proxy, proxy_of
from wrm_pipeline_tests.fixtures.fault_server import HANG
from wrm_pipeline_tests.fixtures.lake import DAY, NOON, Lake, build_day, materialize, snapshot
from wrm_pipeline_tests.integration.code_location import code_location
from wrm_pipeline_tests.integration.conftest import SeaweedFS, wait_until

pytestmark = pytest.mark.integration

MOMENTS = int(3 * float(os.environ.get("WRM_PROPERTY_FACTOR", "1")))
# What a run that is cancelled may take to end: its process, not only its state.
ENDS_WITHIN_S = 10
RecordProperty = Callable[[str, object], None]


@pytest.fixture
def days(lake: Lake) -> None:
    """60 enhanced days, all copies of one: refreshing the tables from them takes half a minute."""
    for n in range(240):
        lake.put_raw(NOON + timedelta(minutes=n), snapshot(NOON, 400, bikes=n))
    build_day()
    content = lake.store.get(lake.partition_key("enhanced"))
    for n in range(1, 60):
        lake.store.put(lake.partition_key("enhanced", DAY - timedelta(days=n)), content)


def assert_free(database: AnalyticsDatabase) -> None:
    """The next refresh gets the lock at once, and nothing of the last one lies about."""
    with AnalyticsDatabase(database.path, lock_wait_s=1).refresh() as connection:
        connection.execute(f"CREATE OR REPLACE TABLE {SCHEMA}.after AS SELECT 1 AS n")
    left = [path.name for path in database.path.parent.iterdir() if re.search(r"\.(new|spill)-", path.name)]
    assert left == []


def test_a_run_ends_when_it_is_cancelled_or_out_of_time_in_a_query(days: None, record_property: RecordProperty) -> None:
    database = AnalyticsDatabase(load_settings().database_path)
    with code_location() as location:
        took: dict[str, list[float]] = {"cancel": [], "run_out_of_time": []}
        for way in [*took] * MOMENTS:
            database.path.unlink(missing_ok=True)
            run_id = location.launch("wrm_analytics_job")
            location.wait_for_step(run_id, "create_materialized_views")
            time.sleep(random.uniform(0, 3))
            took[way].append(round(location.seconds_to_end(run_id, getattr(location, way)), 1))
            assert_free(database)
    record_property("seconds to end", took)
    assert max(map(max, took.values())) < ENDS_WITHIN_S, took


@pytest.fixture
def silent_store(seaweedfs: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Proxy]:
    """A store with a built day and more snapshots of it, behind a proxy that can be made to answer nothing."""
    with proxy_of(seaweedfs.endpoint_url) as (proxy, url):
        for name, value in seaweedfs.variables(seaweedfs.create_bucket(), url).items():
            monkeypatch.setenv(name, value)
        lake = Lake(load_settings())
        lake.put_day(20)
        build_day()
        lake.put_day(20, first=20)
        yield proxy


ANALYTICS, PROCESSING = "wrm_analytics_job", "wrm_stations_processing_job"
VIEWS = "create_duckdb_enhanced_views"
DENSITY, PROCESSED = "bike_density_spatial_analysis", "wrm_stations_processed_data_all"
# Job, step, the request that is not answered, and how the run is ended.
SILENCES = {
    "boto3 in the main thread": (ANALYTICS, VIEWS, "list", "enhanced/", "run_out_of_time"),
    "boto3 and obstore in threads": (PROCESSING, PROCESSED, "get", "raw/", "cancel"),
    "DuckDB for the columns of files": (ANALYTICS, VIEWS, "head", "enhanced/", "cancel"),
    "DuckDB in a query": (ANALYTICS, DENSITY, "get", "enhanced/", "cancel"),
    "DuckDB in a query, out of time": (ANALYTICS, DENSITY, "get", "enhanced/", "run_out_of_time"),
}


def test_a_run_ends_when_it_is_cancelled_or_out_of_time_while_the_store_is_silent(
    silent_store: S3Proxy, record_property: RecordProperty
) -> None:
    settings, took = load_settings(), {}
    with code_location() as location:
        for name, (job, step, operation, key, way) in SILENCES.items():
            silent_store.heal()
            settings.enhanced_index_path.unlink(missing_ok=True)
            if step == DENSITY:
                materialize(VIEWS)  # else it would ask for the columns first
            silent_store.fail(operation, HANG, key=key)
            silent_store.seen.clear()
            run_id = location.launch(job, {"dagster/partition": str(DAY)} if job == PROCESSING else {})
            asked = partial(is_asked, silent_store, operation, key)
            wait_until(asked, timeout_s=60, what=f"{job} must ask the store to {operation} {key}")
            assert location.steps_started(run_id)[-1] == step
            took[name] = round(location.seconds_to_end(run_id, getattr(location, way)), 1)
            assert_free(AnalyticsDatabase(settings.database_path))
    record_property("seconds to end", took)
    assert max(took.values()) < ENDS_WITHIN_S, took


def is_asked(store: S3Proxy, operation: str, key: str) -> bool:
    return any(seen == operation and key in path for seen, path in store.seen)

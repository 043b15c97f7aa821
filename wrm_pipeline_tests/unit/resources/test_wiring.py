"""`build_defs(settings, overrides)` governs everything: assets, I/O managers, sensors, jobs, workers."""

from __future__ import annotations

import ast
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg

import wrm_pipeline
from wrm_pipeline.resources.lake import LakeResource
from wrm_pipeline.resources.retention import RetentionResource
from wrm_pipeline.settings import load_settings
from wrm_pipeline_tests.fixtures.lake import DAY, ENHANCED, PROCESSED, Lake, build_day, run_job, tick

# Each is where a process begins: Dagster's code location, its storage, the exporter, a command, a worker, a notebook.
ENTRANCES = {
    "__init__.py",
    "definitions.py",
    "settings.py",
    "assets/stations/fan_out.py",
    "exporter/server.py",
    "resources/dagster_storage.py",
}


def test_the_environment_is_read_where_a_process_begins_and_nowhere_else():
    root = Path(wrm_pipeline.__file__).parent
    readers = set()
    for path in root.rglob("*.py"):
        calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
        if any(isinstance(call.func, ast.Name) and call.func.id == "load_settings" for call in calls):
            readers.add(str(path.relative_to(root)))
    assert {name for name in readers if not name.startswith("cli/")} <= ENTRANCES


def test_another_lake_moves_the_sensor_the_assets_and_the_io_managers(lake, tmp_path):
    lake.put_day(2)
    elsewhere = Lake(load_settings({"data_dir": tmp_path / "elsewhere"}))
    elsewhere.put_day(3, dt=DAY + timedelta(days=1))
    overrides = {"lake": LakeResource.of(elsewhere.settings)}
    with dg.DagsterInstance.ephemeral() as instance:
        for name in ("wrm_stations_raw_data_sensor", "wrm_stations_reconciliation_sensor"):
            asked = [tick(name, instance, overrides=which).run_requests for which in (None, overrides)]
            assert [[request.partition_key for request in runs] for runs in asked] == [["2025-08-21"], ["2025-08-22"]]
    assert build_day(DAY + timedelta(days=1), overrides=overrides).success
    assert len(elsewhere.rows("enhanced", DAY + timedelta(days=1))) == 3 * 11
    assert lake.keys("enhanced/") == []


def test_another_lake_receives_the_lineage_of_its_runs(lake, tmp_path):
    elsewhere = Lake(load_settings({"data_dir": tmp_path / "elsewhere"}))
    overrides = {"lake": LakeResource.of(elsewhere.settings)}
    elsewhere.put_day(1)
    with dg.DagsterInstance.ephemeral() as instance:
        assert run_job("wrm_stations_processing_job", dt=DAY, instance=instance, overrides=overrides).success
        assert tick("wrm_lineage_sensor", instance, overrides=overrides).skip_message.startswith("1 runs recorded")
    assert len(elsewhere.keys("lineage/")) == 1
    assert lake.keys("") == []


def test_settings_that_differ_from_the_environment_count_for_a_range_of_days_too(lake, tmp_path):
    from wrm_pipeline.definitions import build_defs

    settings = load_settings({"data_dir": tmp_path / "elsewhere", "executor": "threads", "workers": 2})
    elsewhere = Lake(settings)
    elsewhere.put_day(2)
    elsewhere.put_day(2, dt=DAY + timedelta(days=1))
    defs = build_defs(settings)
    range_tags = {
        "dagster/asset_partition_range_start": "2025-08-21",
        "dagster/asset_partition_range_end": "2025-08-22",
    }
    assets, resources = list(defs.assets or ()), dict(defs.resources or {})
    assert dg.materialize(assets, selection=[PROCESSED, ENHANCED], resources=resources, tags=range_tags).success
    assert len(elsewhere.keys("enhanced/")) == 2
    assert lake.keys("") == []


def test_a_job_takes_its_ages_from_the_resource(lake):
    old = datetime.now(UTC) - timedelta(days=20)
    lake.put_day(2, dt=old.date())
    build_day(old.date())
    kept = lake.keys("raw/")
    retention = {"retention": RetentionResource(history_days=7, history_max_bytes=2**30, compact_after_days=30)}
    assert run_job("wrm_compaction_job", overrides=retention).success
    assert lake.keys("raw/") == kept
    retention = {"retention": RetentionResource(history_days=7, history_max_bytes=2**30, compact_after_days=10)}
    assert run_job("wrm_compaction_job", overrides=retention).success
    assert lake.keys("raw/") != kept

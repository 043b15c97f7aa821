"""The asset data_quality as Dagster runs it: tables, checks, and the published expectations."""

from __future__ import annotations

import json

import duckdb

from wrm_pipeline.analytics.data_contract import data_contract
from wrm_pipeline_tests.fixtures.lake import Lake, build_day, materialize, metadata_of

NAME = "data_quality"
CONTRACT_KEY = "reports/data_contract.odcs.json"


def test_a_lake_without_data_is_no_fault(lake: Lake) -> None:
    result = materialize(NAME)
    assert metadata_of(result, NAME)["days"] == "none changed"
    assert lake.keys("reports") == []


def test_a_day_is_judged_shown_and_left_alone_until_it_changes(lake: Lake) -> None:
    lake.put_day(3)
    build_day()
    metadata = metadata_of(materialize("create_duckdb_enhanced_views", NAME), NAME)
    assert (metadata["days_computed"], metadata["days"], metadata["day"]) == (1, "2025-08-21", "2025-08-21")
    assert "over_capacity" in metadata["rules"]
    assert "| 2025-08-21" in metadata["accounting"]
    contract = json.loads(lake.store.get(f"{lake.layout.prefix}{CONTRACT_KEY}"))
    lake_files, database = contract.pop("servers")
    assert lake_files["path"] == "lake/bike-data/gen_info/{model}/all/dt=*/all_{model}_*_000000.parquet"
    assert database["database"] == "analytics.duckdb"
    assert contract == json.loads(json.dumps(data_contract(lake.settings.area)))

    written = lake.settings.database_path.stat().st_mtime_ns
    again = metadata_of(materialize(NAME), NAME)
    assert (again["days_computed"], again["days"]) == (0, "none changed")
    assert lake.settings.database_path.stat().st_mtime_ns == written


def test_the_settings_say_how_anomalies_are_found_and_a_run_may_say_otherwise(lake, monkeypatch):
    lake.put_day(1)
    build_day()
    methods = []
    for variables, config in (
        ({}, {}),
        ({"WRM_ANOMALY_METHOD": "isolation_forest", "WRM_ANOMALY_CONTAMINATION": "0.01"}, {}),
        ({}, {NAME: {"method": "robust_z"}}),
        ({}, {NAME: {"contamination": 0.02}}),
    ):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert metadata_of(materialize(NAME, config=config), NAME)["days"] == "2025-08-21"
        with duckdb.connect(str(lake.settings.database_path), read_only=True) as connection:
            ((version,),) = connection.execute("SELECT version FROM wrm_analytics.quality_refreshes").fetchall()
        methods.append(version.split()[1])
    assert methods == ["robust_z", "isolation_forest:0.01", "robust_z", "isolation_forest:0.02"]

"""The asset data_quality as Dagster runs it: tables, checks, and the published expectations."""

from __future__ import annotations

import json

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
    assert contract == json.loads(json.dumps(data_contract(lake.settings.area)))

    written = lake.settings.database_path.stat().st_mtime_ns
    again = metadata_of(materialize(NAME), NAME)
    assert (again["days_computed"], again["days"]) == (0, "none changed")
    assert lake.settings.database_path.stat().st_mtime_ns == written

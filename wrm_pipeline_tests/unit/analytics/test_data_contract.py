"""The published expectations say what the schemas and the rules say."""

from __future__ import annotations

import json

from wrm_pipeline.analytics.data_contract import data_contract
from wrm_pipeline.domain.business_rules import business_rules
from wrm_pipeline.domain.rules import DEFAULT_SERVICE_AREA, ServiceArea
from wrm_pipeline.domain.schemas import ENHANCED, PROCESSED

CONTRACT = json.loads(json.dumps(data_contract(DEFAULT_SERVICE_AREA)))


def test_it_has_what_the_standard_requires():
    assert CONTRACT["kind"] == "DataContract"
    assert CONTRACT["apiVersion"].startswith("v3.")
    assert {"id", "version", "status", "schema"} <= CONTRACT.keys()


def test_objects_have_the_columns_of_their_schemas():
    for described, schema in zip(CONTRACT["schema"], (PROCESSED, ENHANCED, ENHANCED), strict=True):
        assert [column["name"] for column in described["properties"]] == list(schema.columns)
        required = {column["name"] for column in described["properties"] if column["required"]}
        assert required == {name for name, column in schema.columns.items() if not column.nullable}
        assert all(column["description"] for column in described["properties"])
        keys = {c["name"]: c["primaryKeyPosition"] for c in described["properties"] if c.get("primaryKey")}
        assert keys == {"file_timestamp": 1, "station_id": 2}


def test_ranges_and_values_are_those_that_are_checked():
    columns = {column["name"]: column for column in CONTRACT["schema"][1]["properties"]}
    assert columns["bikes"]["logicalTypeOptions"] == {"minimum": 0, "maximum": 100_000}
    assert columns["lat"]["logicalTypeOptions"] == {"minimum": -90.0, "maximum": 90.0}
    assert "'station', 'bike', 'unknown'" in columns["record_type"]["quality"][0]["query"]


def test_rules_are_all_there_with_the_area_in_use():
    rules = {rule["name"]: rule for rule in CONTRACT["schema"][1]["quality"] if rule["type"] == "text"}
    assert list(rules) == [rule.name for rule in business_rules(DEFAULT_SERVICE_AREA)]
    assert rules["line_is_no_row"]["severity"] == "error"
    assert rules["stale"]["severity"] == "warning"
    moved = data_contract(ServiceArea(10.0, 11.0, 20.0, 21.0))["schema"][1]["quality"]
    assert "10.0 to 11.0" in next(rule for rule in moved if rule["name"] == "outside_service_area")["description"]

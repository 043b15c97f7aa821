"""The expectations in a form for other tools: an Open Data Contract Standard (ODCS) document.

Made from the tables' schemas, the business rules and the thresholds, so that it cannot contradict them. The standard:
https://bitol-io.github.io/open-data-contract-standard/
"""

from typing import Any

from wrm_pipeline.domain.business_rules import BUSINESS_RULES_VERSION, DEAD_LETTER, business_rules
from wrm_pipeline.domain.enhanced_build import RULES_VERSION
from wrm_pipeline.domain.rules import ServiceArea
from wrm_pipeline.domain.schemas import ENHANCED, PROCESSED, SORT_KEY, TableSchema, describe
from wrm_pipeline.domain.snapshot import PARSER_VERSION

ODCS_VERSION = "v3.0.2"

_LOGICAL_TYPES = {
    "string": "string",
    "timestamp[us, tz=UTC]": "timestamp",
    "date32[day]": "date",
    "int16": "integer",
    "int32": "integer",
    "double": "number",
    "bool": "boolean",
}


def data_contract(area: ServiceArea) -> dict[str, Any]:
    """The document, ready to be written as JSON."""
    return {
        "apiVersion": ODCS_VERSION,
        "kind": "DataContract",
        "id": "wrm-stations",
        "name": "Wrocław bike-share snapshots",
        "version": f"{PARSER_VERSION}.{RULES_VERSION}.{BUSINESS_RULES_VERSION}",
        "status": "active",
        "description": {
            "purpose": "Each station and free-standing bike of Wrocław's bike-share system, minute by minute.",
            "limitations": "A snapshot that was not taken is gone. Implausible rows stay, with flags.",
        },
        "schema": [
            _object(PROCESSED, "processed/all/dt=*/all_processed_*_000000.parquet", []),
            _object(ENHANCED, "enhanced/all/dt=*/all_enhanced_*_000000.parquet", _rules(area)),
        ],
    }


def _object(schema: TableSchema, files: str, quality: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": schema.name,
        "logicalType": "object",
        "physicalType": "file",
        "physicalName": files,
        "description": schema.description,
        "dataGranularityDescription": "One row for each station or free-standing bike in each snapshot.",
        "properties": [_property(schema, column) for column in describe(schema)],
        **({"quality": quality} if quality else {}),
    }


def _property(schema: TableSchema, column: dict[str, Any]) -> dict[str, Any]:
    name = column["name"]
    found: dict[str, Any] = {
        "name": name,
        "logicalType": _LOGICAL_TYPES[column["type"]],
        "physicalType": column["type"],
        "required": not column["nullable"],
        "description": column["description"],
    }
    if column["unit"]:
        found["customProperties"] = [{"property": "unit", "value": column["unit"]}]
    if name in SORT_KEY:
        found |= {"primaryKey": True, "primaryKeyPosition": SORT_KEY.index(name) + 1}
    declared = schema.columns[name]
    if declared.bounds:
        minimum, maximum = declared.bounds
        found["logicalTypeOptions"] = {"minimum": minimum, "maximum": maximum}
    if declared.values:
        listed = ", ".join(f"'{value}'" for value in declared.values)
        found["quality"] = [
            {
                "name": f"{name}_is_known",
                "type": "sql",
                "description": f"{name} is one of {', '.join(declared.values)}",
                "severity": "error",
                "query": f"SELECT count(*) FROM {{object}} WHERE {{property}} NOT IN ({listed})",
                "mustBe": 0,
            }
        ]
    return found


def _rules(area: ServiceArea) -> list[dict[str, Any]]:
    """Business rules as text: they compare more than one row, and their hits are in quality_rule_hits."""
    return [
        {
            "name": rule.name,
            "type": "text",
            "description": rule.reason,
            "severity": "error" if rule.severity == DEAD_LETTER else "warning",
            "customProperties": [{"property": "wrmSeverity", "value": rule.severity}],
        }
        for rule in business_rules(area)
    ]

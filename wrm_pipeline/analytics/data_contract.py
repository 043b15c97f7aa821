"""The expectations in a form that other tools read and run: an Open Data Contract Standard (ODCS) document.

Made from the tables' schemas, the business rules and the thresholds, so that it cannot contradict them. The standard:
https://bitol-io.github.io/open-data-contract-standard/
"""

from collections.abc import Mapping, Sequence
from typing import Any

from wrm_pipeline.analytics.registry import SCHEMA
from wrm_pipeline.analytics.registry.types import sql_type
from wrm_pipeline.analytics.registry.views import ENHANCED_DATA
from wrm_pipeline.domain.business_rules import BUSINESS_RULES_VERSION, DEAD_LETTER, business_rules
from wrm_pipeline.domain.city import this_city
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
# DuckDB's types, as it reads the Parquet; of a time by the name that the readers of contracts know.
_PHYSICAL_TYPES = {"timestamp[us, tz=UTC]": "TIMESTAMP_TZ"}


def data_contract(area: ServiceArea, servers: Sequence[Mapping[str, str]] = ()) -> dict[str, Any]:
    """The document, ready to be written as JSON; `servers` say where the rows are (`lake_server`, `database_server`).

    Its SQL rules hold of the lake (objects `processed` and `enhanced`) and of the database (the view).
    `datacontract-cli` runs them: docs/quality.md.
    """
    city = this_city()
    return {
        "apiVersion": ODCS_VERSION,
        "kind": "DataContract",
        "id": "wrm-stations",
        "name": f"{city.name} bike-share snapshots",
        "version": f"{PARSER_VERSION}.{RULES_VERSION}.{BUSINESS_RULES_VERSION}",
        "status": "active",
        "description": {
            "purpose": f"Each station and free-standing bike of the bike-share system of {city.name}, "
            "minute by minute.",
            "usage": f"A partition is a calendar day in {city.zone.key}.",
            "limitations": "A snapshot that was not taken is gone. Implausible rows stay, with flags.",
        },
        **({"servers": [dict(server) for server in servers]} if servers else {}),
        "schema": [
            _object(PROCESSED, _files(PROCESSED)),
            _object(ENHANCED, _files(ENHANCED), _business_rules(area)),
            _object(
                ENHANCED,
                {"name": ENHANCED_DATA.name, "physicalType": "view", "description": ENHANCED_DATA.description},
            ),
        ],
    }


def lake_server(files: str, endpoint_url: str | None = None) -> dict[str, str]:
    """The Parquet files: a path or `s3://` URL in which `{model}` stands for the layer and `*` for what varies."""
    if not files.startswith("s3://"):
        return {"server": "lake", "type": "local", "path": files, "format": "parquet"}
    found = {"server": "lake", "type": "s3", "location": files, "format": "parquet"}
    return found | ({"endpointUrl": endpoint_url} if endpoint_url else {})


def database_server(path: str) -> dict[str, str]:
    """The analytics database."""
    return {"server": "database", "type": "duckdb", "database": path, "schema": SCHEMA}


def _files(schema: TableSchema) -> dict[str, Any]:
    return {"name": schema.name, "physicalType": "file", "description": schema.description}


def _object(
    schema: TableSchema,
    about: Mapping[str, Any],
    rules: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    return {
        **about,
        "physicalName": about["name"],
        "logicalType": "object",
        "dataGranularityDescription": "One row for each station or free-standing bike in each snapshot.",
        "properties": [_property(schema, column) for column in describe(schema)],
        "quality": [*_UNIQUE, *rules],
    }


def _sql_rule(name: str, description: str, condition: str) -> dict[str, Any]:
    """A rule that says which rows there must not be."""
    query = f"SELECT count(*) FROM {{object}} WHERE {condition}"
    return {
        "name": name,
        "type": "sql",
        "description": description,
        "severity": "error",
        "query": query,
        "mustBe": 0,
    }


def _unique_rule(name: str, description: str, columns: str) -> dict[str, Any]:
    repeated = f"SELECT 1 FROM {{object}} GROUP BY {columns} HAVING count(*) > 1"
    return _sql_rule(name, description, "") | {"query": f"SELECT count(*) FROM ({repeated}) AS repeated"}


_UNIQUE = (
    _unique_rule(
        "one_row_of_a_station_at_a_time", "Unique on station_id and file_timestamp", "station_id, file_timestamp"
    ),
    # The feed repeats a report until there is another, so it is unique only within a snapshot.
    _unique_rule(
        "one_report_in_a_snapshot",
        "Unique on station_id and timestamp in each snapshot",
        "s3_source_key, station_id, timestamp",
    ),
)


def _property(schema: TableSchema, column: dict[str, Any]) -> dict[str, Any]:
    name = column["name"]
    declared = schema.columns[name]
    found: dict[str, Any] = {
        "name": name,
        "logicalType": _LOGICAL_TYPES[column["type"]],
        "physicalType": _PHYSICAL_TYPES.get(column["type"]) or sql_type(declared.type),
        "required": not column["nullable"],
        "description": column["description"],
    }
    if column["unit"]:
        found["customProperties"] = [{"property": "unit", "value": column["unit"]}]
    if name in SORT_KEY:
        found |= {"primaryKey": True, "primaryKeyPosition": SORT_KEY.index(name) + 1}
    rules = []
    if name == "station_id":
        rules.append(_sql_rule(f"{name}_is_given", f"{name} is neither null nor empty", f"coalesce({name}, '') = ''"))
    if declared.bounds:
        minimum, maximum = declared.bounds
        found["logicalTypeOptions"] = {"minimum": minimum, "maximum": maximum}
        outside = f"{name} NOT BETWEEN {minimum} AND {maximum}"
        rules.append(_sql_rule(f"{name}_in_bounds", f"{name} is from {minimum:,} to {maximum:,}", outside))
    if declared.values:
        listed = ", ".join(f"'{value}'" for value in declared.values)
        known = f"{name} is one of {', '.join(declared.values)}"
        rules.append(_sql_rule(f"{name}_is_known", known, f"{name} NOT IN ({listed})"))
    return found | ({"quality": rules} if rules else {})


def _business_rules(area: ServiceArea) -> list[dict[str, Any]]:
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

"""Rules, profile, anomalies and accounting by day, as tables; and the expectations as a machine-readable file."""

import json
from collections.abc import Sequence
from datetime import date
from enum import Enum
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
from pydantic import Field

from wrm_pipeline.analytics.data_contract import data_contract, database_server, lake_server
from wrm_pipeline.analytics.database import SCHEMA, query_arrow
from wrm_pipeline.analytics.quality_tables import refresh_quality_tables
from wrm_pipeline.analytics.registry import tables_of
from wrm_pipeline.assets.duckdb.pictures import quality_picture
from wrm_pipeline.assets.duckdb.views import create_duckdb_enhanced_views
from wrm_pipeline.assets.presentation import markdown_table, page, table_metadata
from wrm_pipeline.domain import asset_names
from wrm_pipeline.domain.anomaly_options import ISOLATION_FOREST, MAX_CONTAMINATION, ROBUST_Z, AnomalyOptions
from wrm_pipeline.resources.feed import ClockResource
from wrm_pipeline.resources.lake import LakeResource
from wrm_pipeline.resources.requests import record_requests_on_failure, requests_made

DATA_CONTRACT_FILE = "data_contract.odcs.json"


class Method(Enum):
    """How anomalies are found."""

    robust_z = ROBUST_Z
    isolation_forest = ISOLATION_FOREST


class QualityConfig(dg.Config):
    """How to judge in this run; runs that a sensor asks for judge as the settings say."""

    method: Method | None = None
    """Null: WRM_ANOMALY_METHOD. If the method differs from the last run's, the days are computed again, 30 per run."""
    contamination: float | None = Field(None, gt=0, le=MAX_CONTAMINATION)
    """Null: WRM_ANOMALY_CONTAMINATION, the share of the hours of the days before that the forest calls anomalous."""


_RULES_SQL = f"""
SELECT rule, severity, hits, rows_checked FROM {SCHEMA}.quality_rule_hits JOIN {SCHEMA}.quality_rules USING (rule)
WHERE dt = ? ORDER BY hits DESC, rule
"""
_DRIFT_SQL = f"""
SELECT column_name, drift, compared_days, nulls, minimum, maximum, mean FROM {SCHEMA}.quality_profile
WHERE dt = ? AND drift IS NOT NULL ORDER BY drift DESC, column_name LIMIT 5
"""
_ANOMALIES_SQL = f"""
SELECT hour_start, station_id, name, score, reason FROM {SCHEMA}.quality_anomalies
WHERE dt = ? ORDER BY score DESC, station_id, hour_start LIMIT 20
"""
_ACCOUNTING_SQL = f"SELECT * FROM {SCHEMA}.quality_accounting WHERE dt = ?"


@dg.asset(
    deps=[create_duckdb_enhanced_views],
    metadata=table_metadata(asset_names.QUALITY),
    group_name="quality",
    kinds={"duckdb", "table"},
    owners=["team:wrm"],
    tags={"layer": "analytics"},
    pool="duckdb",
    description=(
        "Can the data be trusted? Tables in `wrm_analytics`, a day at a time; only days that are new or changed are "
        "computed, in one refresh of the database:\n\n"
        + "\n".join(f"- `{table.name}`: {table.description}" for table in tables_of(asset_names.QUALITY))
        + f"\n\nThe expectations are published as `reports/{DATA_CONTRACT_FILE}` (Open Data Contract Standard). "
        "docs/quality.md explains everything."
    ),
)
def data_quality(
    context: dg.AssetExecutionContext, config: QualityConfig, lake: LakeResource, clock: ClockResource
) -> dg.MaterializeResult[None]:
    """Compute what changed, then show the newest day."""
    with record_requests_on_failure(context):
        done = refresh_quality_tables(
            lake.database, lake.partitions, area=lake.area, refreshed_at=clock.now(), options=_options(config, lake)
        )
    metadata: dict[str, Any] = {
        "days_computed": len(done.days_refreshed),
        "days_removed": len(done.days_dropped),
        "days_waiting": len(done.days_waiting),
        "days": ", ".join(map(str, done.days_refreshed)) or "none changed",
    }
    if done.days_refreshed or done.days_dropped:
        contract = json.dumps(data_contract(lake.area, contract_servers(lake)), ensure_ascii=False, indent=1)
        key = lake.layout.report_key(DATA_CONTRACT_FILE)
        lake.store.put(key, contract.encode(), content_type="application/json; charset=utf-8")
        metadata["data_contract"] = lake.store.url(key)
    if done.days_refreshed:
        metadata |= _shown(lake, done.days_refreshed)
    return dg.MaterializeResult(metadata={**metadata, **requests_made()})


def contract_servers(lake: LakeResource) -> list[dict[str, str]]:
    """Where the rows are: from WRM_DATA_DIR, as far as they are there."""

    def place(path: str) -> str:
        inside = Path(path).is_relative_to(lake.settings.data_dir)
        return str(Path(path).relative_to(lake.settings.data_dir)) if inside else path

    access = lake.s3_access
    files = lake.store.url(lake.layout.partition_glob("{model}"))
    return [
        lake_server(place(files), access.endpoint_url if access is not None else None),
        database_server(place(str(lake.database_file))),
    ]


def _options(config: QualityConfig, lake: LakeResource) -> AnomalyOptions:
    usual = lake.settings.anomalies
    return AnomalyOptions(
        config.method.value if config.method else usual.method, config.contamination or usual.contamination
    )


def _shown(lake: LakeResource, computed: Sequence[date]) -> dict[str, Any]:
    """The newest computed day as tables."""
    day = computed[-1]
    with lake.database.reading() as connection:
        rules, drift, found, accounting = (
            query_arrow(connection, sql, [day]) for sql in (_RULES_SQL, _DRIFT_SQL, _ANOMALIES_SQL, _ACCOUNTING_SQL)
        )
        four_weeks = quality_picture(connection, day)
    return {
        "day": str(day),
        "picture": four_weeks,
        "page": page(lake, "site/quality.html"),
        "rules": _table(rules),
        "largest_drifts": _table(drift),
        "anomalies": _table(found),
        "accounting": _table(accounting),
    }


def _table(rows: pa.Table) -> dg.MarkdownMetadataValue:
    return dg.MetadataValue.md(markdown_table(rows.to_pylist()))

"""Published files for tests of checks: good but for what a test says."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pyarrow as pa

from wrm_pipeline.domain.manifest import Manifest, Source
from wrm_pipeline.domain.parquet_parts import ParquetParts, PartsWriter
from wrm_pipeline.domain.schemas import ENHANCED, arrow_schema
from wrm_pipeline.domain.snapshot import LineCounts
from wrm_pipeline_tests.fixtures.lake import DAY, NOON

VALUES: dict[pa.DataType, Any] = {
    pa.string(): "x",
    pa.timestamp("us", "UTC"): NOON,
    pa.int32(): 1,
    pa.int16(): 1,
    pa.int64(): 1,
    pa.float64(): 51.0,
    pa.bool_(): False,
    pa.date32(): DAY,
}


def file_of(rows: int, schema: pa.Schema | None = None, **columns: list[Any]) -> ParquetParts:
    """An enhanced file (or one of another schema) of so many good rows, but for the columns given."""
    schema = schema or arrow_schema(ENHANCED)
    given: dict[str, list[Any]] = {"station_id": [f"{n:06}" for n in range(rows)], **columns}
    table = pa.table({f.name: given.get(f.name, [VALUES[f.type]] * rows) for f in schema}, schema)
    writer = PartsWriter(schema, "test")
    writer.write(table)
    return ParquetParts.open(writer.finish({}))


def manifest(*counts: LineCounts) -> Manifest:
    return Manifest("1", {f"raw/{n}.txt": Source("e", NOON, "", NOON, c) for n, c in enumerate(counts)})


def verdict(found: dg.AssetCheckResult) -> str:
    """`good`, `WARN` or `ERROR`."""
    return "good" if found.passed else str(found.severity.value)


def number(found: dg.AssetCheckResult, name: str) -> Any:
    return found.metadata[name].value


def samples(found: dg.AssetCheckResult) -> list[Any]:
    return [record.data for record in found.metadata["samples"].records] if "samples" in found.metadata else []


def outcomes(run: dg.ExecuteInProcessResult) -> dict[str, str]:
    """By `asset: check`, the verdict of each evaluation of a run."""
    return {
        f"{one.asset_key.to_user_string()}: {one.check_name}": "good" if one.passed else str(one.severity.value)
        for one in run.get_asset_check_evaluations()
    }

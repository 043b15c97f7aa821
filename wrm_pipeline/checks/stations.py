"""The checks inside the steps that build a day, on the data at hand: no requests, no second read.

They guard publication: if one does not hold, nothing is published and nothing downstream runs. There is one per layer,
as a run starts every minute and Dagster stores three events per check, which takes 35 to 50 ms. Data that is unusual
rather than wrong is checked in `published.py`, every few minutes.
"""

import dagster as dg
import pyarrow as pa

from wrm_pipeline.checks.results import result
from wrm_pipeline.domain.manifest import Manifest
from wrm_pipeline.domain.parquet_parts import ParquetParts
from wrm_pipeline.domain.quality import (
    Violations,
    column_differences,
    overlapping_stays,
    rows_out_of_order,
    unbalanced_sources,
)
from wrm_pipeline.domain.schemas import BIKE_POSITIONS, ENHANCED, PROCESSED, TableSchema


def processed_check(asset: str) -> dg.AssetCheckSpec:
    """The check whose result `check_processed` returns."""
    return dg.AssetCheckSpec(
        "lines_and_columns_are_right",
        asset=asset,
        blocking=True,
        description=(
            "Of each raw object and of the day: lines in = rows out + dead letters + duplicates + remarks, and the "
            "file holds just these rows. Its columns have the names, types, nullability and order of the data "
            "contract. Otherwise nothing is published, and nothing downstream runs."
        ),
    )


def check_processed(day: str, rows: int, manifest: Manifest, file: ParquetParts) -> dg.AssetCheckResult:
    """Check a processed partition: `rows` were built, `file` is or will be published."""
    counts = manifest.counts
    unbalanced, differences = unbalanced_sources(manifest), column_differences(file, PROCESSED)
    accounted = counts.balanced and not unbalanced.count and counts.rows_out == rows == file.row_count
    return result(
        "lines_and_columns_are_right",
        accounted and not differences.count,
        (
            f"{counts.lines_in} lines of {len(manifest.sources)} raw objects are accounted for; "
            if accounted
            else f"of {counts.lines_in} lines there should be {counts.rows_out} rows, and there are {file.row_count}; "
            f"{unbalanced.count} raw objects do not add up; "
        )
        + _columns(differences, PROCESSED),
        samples=unbalanced.samples or differences.samples,
        day=day,
        lines_in=counts.lines_in,
        rows_out=counts.rows_out,
        rows_in_file=file.row_count,
        dead_lettered=counts.dead_lettered,
        duplicate_rows=counts.duplicate_rows,
        remark_lines=counts.remark_lines,
        raw_objects=len(manifest.sources),
        raw_objects_unbalanced=unbalanced.count,
        columns_that_differ=differences.count,
    )


def enhanced_check(asset: str) -> dg.AssetCheckSpec:
    """The check whose result `check_enhanced` returns."""
    return dg.AssetCheckSpec(
        "rows_and_columns_are_right",
        asset=asset,
        blocking=True,
        description=(
            "Each processed row is present exactly once: the counts are equal, and rows ascend strictly by "
            "(file_timestamp, station_id), so no key occurs twice. Columns are those of the data contract. Otherwise "
            "nothing is published, and nothing downstream runs."
        ),
    )


def check_enhanced(day: str, processed_rows: int, file: ParquetParts) -> dg.AssetCheckResult:
    """Check an enhanced partition that is or will be published."""
    differences = column_differences(file, ENHANCED)
    # Without its key columns, a file has no order to check.
    disorder = rows_out_of_order(file) if not differences.count else Violations(0)
    return result(
        "rows_and_columns_are_right",
        file.row_count == processed_rows and not disorder.count and not differences.count,
        f"{processed_rows} processed rows became {file.row_count}; {disorder.count} repeat the row before or come too "
        f"late; {_columns(differences, ENHANCED)}",
        samples=disorder.samples or differences.samples,
        day=day,
        rows=file.row_count,
        rows_processed=processed_rows,
        rows_out_of_order=disorder.count,
        columns_that_differ=differences.count,
    )


def positions_check(asset: str) -> dg.AssetCheckSpec:
    """The check whose result `check_positions` returns."""
    return dg.AssetCheckSpec(
        "stays_do_not_overlap",
        asset=asset,
        blocking=True,
        description=(
            "A bike is at one place at a time: rows ascend strictly by (bike_id, arrived_at), each stay ends before "
            "the bike's next one begins, and only its last one may have no end. Columns are those of the data "
            "contract. Otherwise nothing is published."
        ),
    )


def check_positions(day: str, rows: pa.Table, file: ParquetParts) -> dg.AssetCheckResult:
    """Check a partition of bike positions that is or will be published; `rows` are its rows."""
    differences = column_differences(file, BIKE_POSITIONS)
    overlapping = overlapping_stays(rows) if not differences.count else Violations(0)
    return result(
        "stays_do_not_overlap",
        not overlapping.count and not differences.count,
        f"{overlapping.count} of {rows.num_rows} stays begin before the bike's last one ends; "
        f"{_columns(differences, BIKE_POSITIONS)}",
        samples=overlapping.samples or differences.samples,
        day=day,
        rows=rows.num_rows,
        rows_overlapping=overlapping.count,
        columns_that_differ=differences.count,
    )


def _columns(differences: Violations, schema: TableSchema) -> str:
    return f"{differences.count} of {len(schema.columns)} columns differ from the schema."

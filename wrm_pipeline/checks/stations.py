"""The checks that run inside the steps that build a day, on what these have in hand: no request, no second read.

They guard what is about to be published: where such a fact does not hold, nothing is published and nothing downstream
runs. One for each layer, as a run comes every minute: Dagster stores three events for each check, which takes it longer
than the check itself. The others are in `published.py`.
"""

import dagster as dg

from wrm_pipeline.checks.results import result
from wrm_pipeline.domain.parquet_parts import ParquetParts
from wrm_pipeline.domain.partition_build import Manifest
from wrm_pipeline.domain.quality import rows_out_of_order, unbalanced_sources


def processed_check(asset: str) -> dg.AssetCheckSpec:
    """What `check_processed` gives the result of."""
    return dg.AssetCheckSpec(
        "lines_are_accounted_for",
        asset=asset,
        blocking=True,
        description=(
            "Of each raw object and of the day: lines in = rows out + dead letters + duplicates + remarks, and the "
            "file holds just these rows. Else nothing is published."
        ),
    )


def check_processed(rows: int, manifest: Manifest, file: ParquetParts) -> dg.AssetCheckResult:
    """Of a processed partition: `rows` were built, `file` is what is or will be published."""
    counts = manifest.counts
    unbalanced = unbalanced_sources(manifest)
    accounted = counts.balanced and not unbalanced.count and counts.rows_out == rows == file.row_count
    return result(
        "lines_are_accounted_for",
        accounted,
        f"{counts.lines_in} lines of {len(manifest.sources)} raw objects are accounted for."
        if accounted
        else f"{counts.lines_in} lines came in, {counts.rows_out} rows should be there, {file.row_count} are; "
        f"{unbalanced.count} raw objects do not add up.",
        samples=unbalanced.samples,
        lines_in=counts.lines_in,
        rows_out=counts.rows_out,
        rows_in_file=file.row_count,
        dead_lettered=counts.dead_lettered,
        duplicate_rows=counts.duplicate_rows,
        remark_lines=counts.remark_lines,
        raw_objects=len(manifest.sources),
        raw_objects_unbalanced=unbalanced.count,
    )


def enhanced_check(asset: str) -> dg.AssetCheckSpec:
    """What `check_enhanced` gives the result of."""
    return dg.AssetCheckSpec(
        "rows_are_complete_and_unique",
        asset=asset,
        blocking=True,
        description=(
            "Each processed row is here, once: the counts are equal, and rows ascend strictly by (file_timestamp, "
            "station_id), so no key is there twice. Else nothing is published."
        ),
    )


def check_enhanced(processed_rows: int, file: ParquetParts) -> dg.AssetCheckResult:
    """Of an enhanced partition that is or will be published."""
    disorder = rows_out_of_order(file)
    return result(
        "rows_are_complete_and_unique",
        file.row_count == processed_rows and not disorder.count,
        f"{processed_rows} processed rows became {file.row_count}; {disorder.count} repeat the row before or come too "
        "late.",
        samples=disorder.samples,
        rows=file.row_count,
        rows_processed=processed_rows,
        rows_out_of_order=disorder.count,
    )

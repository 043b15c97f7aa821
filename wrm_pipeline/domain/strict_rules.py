"""Rules that are configured as errors (WRM_STRICT_RULES): rows on which they fire become dead letters.

They apply to the parser's rows; a removed line is counted and kept like any other dead letter, so an operator may
correct it.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from wrm_pipeline.domain.business_rules import FUTURE_S
from wrm_pipeline.domain.enhanced_build import enhance_rows
from wrm_pipeline.domain.rules import STRICT, StrictRules
from wrm_pipeline.domain.schemas import FLAGS
from wrm_pipeline.domain.snapshot import (
    MAX_DEAD_ROWS_KEPT,
    DeadRow,
    FileReport,
    ParsedBatch,
    RawSnapshot,
    SourceLine,
    lines_by_id,
)


def with_strict_rules(batch: ParsedBatch, files: Sequence[RawSnapshot], rules: StrictRules) -> ParsedBatch:
    """Remove the rows on which a rule fires from the batch; they become dead rows in the reports of their files.

    A row that breaks several rules counts for the first. Duplicates are resolved before: if a station occurs twice and
    its latest report breaks a rule, the earlier one stays a duplicate.
    """
    if not rules.names or not batch.rows.num_rows:
        return batch
    broken = _broken(batch.rows, rules)
    if not (broken >= 0).any():
        return batch
    positions = np.flatnonzero(broken >= 0)
    taken = batch.rows.select(["s3_source_key", "station_id"]).take(pa.array(positions))
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for row, rule in zip(taken.to_pylist(), broken[positions].tolist(), strict=True):
        found[row["s3_source_key"]][row["station_id"]] = rules.names[rule]
    by_key = {file.source_key: file for file in files}
    reports = tuple(
        _with_dead(report, by_key[report.source_key], found[report.source_key])
        if report.source_key in found
        else report
        for report in batch.reports
    )
    return ParsedBatch(batch.rows.filter(pa.array(broken < 0)).combine_chunks(), reports)


def _broken(rows: pa.Table, rules: StrictRules) -> NDArray[np.int8]:
    """For each row the index of the first of `rules` that it breaks, or -1."""
    flagged = enhance_rows(rows, area=rules.area, dt=date.min, processed_at={})
    latest = pc.add(rows["file_timestamp"], pa.scalar(timedelta(seconds=FUTURE_S), pa.duration("us")))
    fires = {
        **{name: flagged[name] for name in FLAGS},
        "unknown_kind": pc.equal(flagged["record_type"].cast(pa.string()), "unknown"),
        "pedelecs_above_bikes": pc.greater(rows["pedelecs"], rows["bikes"]),
        "report_in_the_future": pc.greater(rows["timestamp"], latest),
    }
    broken: NDArray[np.int8] = np.full(rows.num_rows, -1, dtype=np.int8)
    for number, name in reversed(list(enumerate(rules.names))):
        broken[pc.fill_null(fires[name], False).to_numpy()] = number
    return broken


def _with_dead(report: FileReport, file: RawSnapshot, rule_of: Mapping[str, str]) -> FileReport:
    """The report of a file with removed rows; `rule_of` has the rule by station id."""
    dead, counts = list(report.dead_rows), dict(report.dead_counts)
    lines = lines_by_id(file, rule_of.keys())
    for station_id, rule in sorted(rule_of.items(), key=lambda item: _number(lines.get(item[0]))):
        line = lines.get(station_id)
        error_type = f"{STRICT}{rule}"
        counts[error_type] = counts.get(error_type, 0) + 1
        if counts[error_type] <= MAX_DEAD_ROWS_KEPT:
            message = f"The rule {rule} is strict here (WRM_STRICT_RULES); station {station_id} breaks it."
            dead.append(DeadRow(_number(line), line.text if line else station_id, error_type, "", message))
    gone = len(rule_of)
    counted = replace(
        report.counts,
        rows_out=report.counts.rows_out - gone,
        dead_lettered=report.counts.dead_lettered + gone,
    )
    return replace(report, counts=counted, dead_rows=tuple(dead), dead_counts=counts)


def _number(line: SourceLine | None) -> int:
    """The line's number; 0 for a row of a body without lines, i.e. not CSV."""
    return line.line_number if line else 0


def strict_count(reports: Sequence[FileReport]) -> int:
    """The number of rows of these files removed by a strict rule."""
    return sum(count for report in reports for name, count in report.dead_counts.items() if name.startswith(STRICT))

"""The parser: bytes of snapshots -> good rows, dead rows and counts (data contract, sections 1, 3, 4).

Nearly all files are clean, so many files are first parsed together by Arrow (the typed path, `typed.py`): strictly if
all values have the feed's usual spelling, else leniently. It refuses anything that might not be a row, and then the set
is halved until the file at fault is found. Only that file is read line by line (the exact path, `exact.py`), which
separates good lines from dead ones and returns the good ones to the typed path. `values.py` says what each field means
for all of them, `lines.py` what a line and a header are, `text.py` where lines end.
"""

from wrm_pipeline.domain.snapshot.exact import SourceLine
from wrm_pipeline.domain.snapshot.objects import as_example, lines_by_id, lines_of
from wrm_pipeline.domain.snapshot.parse import dictionary_encoded, inspect_fetched, parse_snapshots, reject_reason
from wrm_pipeline.domain.snapshot.records import (
    BATTERY_COLUMN,
    COMBINED_COLUMN,
    COUNT_COLUMNS,
    EARLIEST_REPORT,
    FLAG_COLUMNS,
    ID_COLUMNS,
    LATEST_REPORT_AFTER_FETCH,
    MAX_COLUMNS,
    MAX_DEAD_ROWS_KEPT,
    MAX_LINE_BYTES,
    MAX_LINES,
    MAX_NAME_CHARACTERS,
    MAX_RAW_DATA_BYTES,
    OPTIONAL_COLUMNS,
    PARSER_VERSION,
    REQUIRED_COLUMNS,
    DeadRow,
    FileFault,
    FileReport,
    LineCounts,
    ParsedBatch,
    RawSnapshot,
)
from wrm_pipeline.domain.snapshot.values import CUT_MARK

__all__ = [
    "BATTERY_COLUMN",
    "COMBINED_COLUMN",
    "COUNT_COLUMNS",
    "CUT_MARK",
    "EARLIEST_REPORT",
    "FLAG_COLUMNS",
    "ID_COLUMNS",
    "LATEST_REPORT_AFTER_FETCH",
    "MAX_COLUMNS",
    "MAX_DEAD_ROWS_KEPT",
    "MAX_LINES",
    "MAX_LINE_BYTES",
    "MAX_NAME_CHARACTERS",
    "MAX_RAW_DATA_BYTES",
    "OPTIONAL_COLUMNS",
    "PARSER_VERSION",
    "REQUIRED_COLUMNS",
    "DeadRow",
    "FileFault",
    "FileReport",
    "LineCounts",
    "ParsedBatch",
    "RawSnapshot",
    "SourceLine",
    "as_example",
    "dictionary_encoded",
    "inspect_fetched",
    "lines_by_id",
    "lines_of",
    "parse_snapshots",
    "reject_reason",
]

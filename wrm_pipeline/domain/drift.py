"""Detects a change of the feed's format: a body in which many rows fail for the same reason.

One dead row is an odd row. If a fifth of a body fails with the same field and error, the spelling of that field has
changed, and every later body will have it (data contract, section 1).
"""

import csv
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wrm_pipeline.domain.rules import STRICT
from wrm_pipeline.domain.snapshot import COMBINED_COLUMN, ID_COLUMNS, FileReport

# Data contract, section 1: from this share of a body's rows on, the format is at fault and not the rows.
DRIFT_SHARE = 0.2

# How much of a value is shown to a person, and of a line if no single field is at fault.
_SHOWN = 60

# How the parser reports a header that lacks columns.
_LACKS_COLUMNS = "the header lacks the column"
_HEADER = "header"


@dataclass(frozen=True, slots=True)
class Drift:
    """The reason why at least a fifth of a body's rows fail.

    Attributes:
        field: The column; empty if the line as a whole is at fault, `header` if columns are missing.
        error_type: As in the dead letters.
        dead: Rows that fail for it.
        rows: Rows of the body.
        whole: No row of the body is read, so it is in quarantine.
        new_line: Number of the first line that failed for it, from 1; 0 for the header.
    """

    field: str
    error_type: str
    dead: int
    rows: int
    whole: bool
    new_line: int

    @property
    def share(self) -> float:
        """Share of the body's rows, 0 to 1."""
        return self.dead / self.rows if self.rows else 1.0

    def to_json(self) -> dict[str, Any]:
        """Its form in a dead letter."""
        return {"field": self.field, "error_type": self.error_type, "dead": self.dead, "rows": self.rows}

    def __str__(self) -> str:
        what = f"{self.field}: {self.error_type}" if self.field else self.error_type
        return f"{what}, {self.dead} of {self.rows} rows ({self.share:.0%})"


def drift_of(report: FileReport) -> Drift | None:
    """The reason why at least a fifth of a body's rows fail; None if there is no such reason.

    If more rows failed with an error type than are kept, the kept ones represent all.
    """
    rows = report.counts.lines_in - report.counts.remark_lines
    fault = report.fault
    if fault is not None and fault.error_type == "file_no_header" and _LACKS_COLUMNS in fault.error_message:
        return Drift(_HEADER, fault.error_type, rows, rows, True, 0)
    # Rows that a strict rule took were read: the format is as it was.
    kept = Counter((row.field, row.error_type) for row in report.dead_rows if not row.error_type.startswith(STRICT))
    if not kept or not rows:
        return None
    by_type = Counter(row.error_type for row in report.dead_rows)
    counts = {
        (name, error): round(count / by_type[error] * report.dead_counts.get(error, count))
        for (name, error), count in kept.items()
    }
    (name, error), dead = max(counts.items(), key=lambda item: item[1])
    if dead < DRIFT_SHARE * rows:
        return None
    first = next(row for row in report.dead_rows if (row.field, row.error_type) == (name, error))
    return Drift(name, error, dead, rows, report.counts.rows_out == 0, first.line_number)


def new_example(drift: Drift, body: bytes, first_line: int = 1) -> str:
    """How the field is spelled now, for a person; the body's lines are numbered from `first_line`."""
    header, lines = _lines(body, first_line)
    if drift.field == _HEADER:
        return shown(header)
    return shown(_value(header, lines.get(drift.new_line, ""), drift.field))


def old_example(drift: Drift, body: bytes, report: FileReport, first_line: int = 1) -> str | None:
    """How a readable row of a body spells the field; None if it has no such row. It may be the drifting body itself."""
    header, lines = _lines(body, first_line)
    if drift.field == _HEADER:
        return shown(header) if report.counts.rows_out else None
    dead = {row.line_number for row in report.dead_rows}
    if not report.counts.rows_out or len(dead) < report.counts.dead_lettered:
        return None
    for number, line in lines.items():
        value = _value(header, line, drift.field)
        if number not in dead and value:
            return shown(value)
    return None


def shown(value: str) -> str:
    """A foreign value made safe to show: quoted, on one line, truncated."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def _lines(body: bytes, first_line: int) -> tuple[str, Mapping[int, str]]:
    """The header and the rows by line number, roughly: for examples, not for values."""
    encoding = "utf-16" if body[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    text = body.decode(encoding, "replace").replace("\r\n", "\n").replace("\r", "\n")
    header, rows = "", {}
    for number, line in enumerate(text.split("\n"), start=first_line):
        if not header:
            names = {name.lower() for name in _fields(line, line)}
            header = line if len(names) > 2 and names.intersection(ID_COLUMNS) else ""
        elif line.strip() and not line.startswith(("#", "src,")):
            rows[number] = line
    return header, rows


def _fields(header: str, line: str) -> list[str]:
    separator = max(",;\t", key=header.count)
    try:
        return [field.strip() for field in next(csv.reader([line], delimiter=separator), [])]
    except csv.Error:
        return []


def _value(header: str, line: str, field: str) -> str:
    """A field's text; the whole line if no single field is at fault, or if it cannot be found."""
    names, fields = [name.lower() for name in _fields(header, header)], _fields(header, line)
    if field == "station_id":
        position = next((names.index(name) for name in ID_COLUMNS if name in names), -1)
    elif field == COMBINED_COLUMN and field not in names:
        position = 1
    else:
        position = names.index(field) if field in names else -1
    return fields[position] if 0 <= position < len(fields) else line

"""The exact path: separates good lines of one file from dead ones, line by line; the typed path types the good ones."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import pyarrow as pa

from wrm_pipeline.domain.snapshot.lines import Header, HeaderSearch, decode_line, is_remark, split_line
from wrm_pipeline.domain.snapshot.records import (
    BATTERY_COLUMN,
    COMBINED_COLUMN,
    COUNT_COLUMNS,
    EARLIEST_MICROS,
    EPOCH,
    FLAG_COLUMNS,
    LATEST_AFTER_FETCH_MICROS,
    MAX_DEAD_BYTES_KEPT,
    MAX_DEAD_ROWS_KEPT,
    MAX_LINE_BYTES,
    MAX_LINES,
    MAX_RAW_DATA_BYTES,
    MAX_TABLE_BYTES,
    DeadRow,
    FileFault,
    FileResult,
    Part,
    RawSnapshot,
    RefusedError,
    micros_of,
)
from wrm_pipeline.domain.snapshot.text import Piece, RawLine, count_lines, lines_of_piece, pieces, raw_lines
from wrm_pipeline.domain.snapshot.typed import Prepared, prepared_lines, typed_rows
from wrm_pipeline.domain.snapshot.values import (
    BadValueError,
    battery_of,
    coordinate_of,
    count_of,
    flag_of,
    id_of,
    report_of,
)

# Good lines are typed once so many characters of them have accumulated: only large bodies have as many.
_CHARACTERS_TYPED_AT_ONCE = 2**20
# A smaller body cannot have more than MAX_LINES lines.
_FEW_LINES_BYTES = 2 * MAX_LINES


@dataclass(frozen=True, slots=True)
class SourceLine:
    """A line of a raw object that is a valid row.

    `line_number` counts from 1; `offset` and `length` are in bytes, without the line end; `text` is the line as the
    parser decodes it (`encoding`: utf-8, cp1250 or utf-16); `correction` is an operator's replacement, if any. In a
    JSON body `unit` is `object`, and all of this is about an object.
    """

    line_number: int
    offset: int
    length: int
    text: str
    encoding: str
    correction: str | None
    reported_at: datetime
    unit: str = "line"


@dataclass(frozen=True, slots=True)
class _Problem:
    error_type: str
    field: str
    error_message: str


def parse_exactly(file: RawSnapshot) -> Part:
    """Read a file line by line; a large one only in those pieces that the typed path refuses."""
    return _Reading(file).result()


def refused(file: RawSnapshot, fault: FileFault) -> Part:
    """All lines of a file as dead letters of one fault, or of the fault that a body without rows has anyway."""
    found = parse_exactly(file).results[0]
    if found.fault is not None and not found.dead_rows:
        return Part(None, [found])
    dead = found.row_count + sum(found.dead_counts.values())
    return Part(None, [FileResult(0, found.remark_lines, dead_counts={fault.error_type: dead}, fault=fault)])


class _Reading:
    """What has been found so far in one file."""

    def __init__(self, file: RawSnapshot) -> None:
        self._file = file
        self._search = HeaderSearch()
        self._header: Header | None = None
        self._remark_lines = 0
        self._line_count = count_lines(file.body) if len(file.body) > _FEW_LINES_BYTES else 0
        self._good: list[str] = []
        self._good_characters = 0
        self._typed: list[pa.Table] = []
        self._row_count = 0
        self._table_bytes = 0
        self._dead_rows: list[DeadRow] = []
        self._dead_bytes = 0
        self._dead_counts: Counter[str] = Counter()

    def result(self) -> Part:
        fault = self._read()
        if fault is not None:
            # Without a header it is unknown which lines were remarks, unless all were.
            all_were = self._header is None and self._search.only_remarks and not self._has_too_many_lines
            remarks = self._search.remark_lines if all_were else 0
            dead = (self._line_count or count_lines(self._file.body)) - remarks
            return Part(None, [FileResult(0, remarks, dead_counts={fault.error_type: dead}, fault=fault)])
        try:
            self._type_good_lines()
        except RefusedError:
            # The two paths disagree, as they might after an upgrade of Arrow; that must affect this file only.
            lines = self._row_count + len(self._good)
            fault = FileFault(
                "file_unreadable", f"{lines} lines look right, but Arrow {pa.__version__} cannot type them."
            )
            self._dead_counts[fault.error_type] = lines
            return self._without_rows(fault)
        if not self._row_count:
            return self._without_rows(self._no_valid_row())
        rows = self._typed[0] if len(self._typed) == 1 else pa.concat_tables(self._typed)
        result = FileResult(self._row_count, self._remark_lines, tuple(self._dead_rows), self._dead_counts)
        return Part(rows, [result])

    def _read(self) -> FileFault | None:
        """Read all lines; returns why the whole file is rejected, if it is."""
        several = False
        for piece in pieces(self._file.body):
            several = several or piece.first_line > 1 or bool(self._header)
            if piece.overlong and self._header is None:
                self._search.look(piece.first_line, piece.data)
            elif piece.overlong:
                self._read_overlong(piece)
            elif not (several and self._header and self._type_whole(piece)):
                self._read_lines(piece)
            if self._header is None and self._search.hopeless:
                break
            if self._has_too_many_lines:
                return _over_limit(f"{self._line_count} lines that are not blank", f"{MAX_LINES}", "MAX_LINES")
            if self._table_bytes > MAX_TABLE_BYTES:
                size = f"ids and names so long that the first {self._row_count} rows take {self._table_bytes} bytes"
                return _over_limit(size, f"{MAX_TABLE_BYTES}", "MAX_TABLE_BYTES")
        return self._search.fault if self._header is None else None

    @property
    def _has_too_many_lines(self) -> bool:
        """Whether the body has; only after the search for a header, whose absence is a better reason."""
        is_hopeless = self._search.remark_lines > MAX_LINES
        return self._line_count > MAX_LINES and (self._header is not None or is_hopeless)

    def _type_whole(self, piece: Piece) -> bool:
        """Read a piece of a large body by the typed path, if it accepts it."""
        header = self._header
        if header is None or self._file.corrections:
            return False
        prepared = prepared_lines(self._file, header, piece.data)
        if prepared is None:
            return False
        self._type_good_lines()
        try:
            self._keep_rows(typed_rows([prepared]))
        except RefusedError:
            return False
        self._remark_lines += prepared.remark_lines
        return True

    def _read_lines(self, piece: Piece) -> None:
        for number, line in lines_of_piece(piece):
            if self._header is not None:
                self._read_line(number, line, self._header)
                continue
            self._header = self._search.look(number, line)
            self._remark_lines = self._search.remark_lines
            if self._search.hopeless or self._has_too_many_lines:
                return

    def _read_line(self, number: int, line_bytes: bytes, header: Header) -> None:
        raw_line = decode_line(line_bytes)
        line = self._file.corrections.get(number, raw_line).rstrip("\r\n")
        if not line.strip():
            return
        if is_remark(line, header.separator):
            self._remark_lines += 1
            return
        problem, line = _line_problem(line, header, self._file.file_timestamp)
        if problem is not None:
            self._dead(number, raw_line, problem)
            return
        self._good.append(line)
        self._good_characters += len(line)
        if self._good_characters >= _CHARACTERS_TYPED_AT_ONCE:
            self._type_good_lines()

    def _read_overlong(self, piece: Piece) -> None:
        number = piece.first_line
        if number in self._file.corrections and self._header is not None:
            self._read_line(number, piece.data, self._header)
            return
        message = (
            f"The line has {piece.overlong} bytes; at most {MAX_LINE_BYTES} are read. The raw object has all of it; "
            f"`corrected_data` in this dead letter replaces it."
        )
        raw_line = piece.data.decode("utf-8", "replace")
        self._dead(number, raw_line, _Problem("line_too_long", "", message), piece.overlong)

    def _dead(self, number: int, raw_line: str, problem: _Problem, line_bytes: int = 0) -> None:
        self._dead_counts[problem.error_type] += 1
        if self._dead_counts[problem.error_type] > MAX_DEAD_ROWS_KEPT or self._dead_bytes > MAX_DEAD_BYTES_KEPT:
            return
        raw_data = cut(raw_line, line_bytes)
        self._dead_bytes += len(raw_data)
        self._dead_rows.append(DeadRow(number, raw_data, problem.error_type, problem.field, problem.error_message))

    def _type_good_lines(self) -> None:
        if not self._good or self._header is None:
            return
        data = ("\n".join(self._good) + "\n").encode("utf-8", "replace")
        rows = typed_rows([Prepared(self._file, self._header, data, len(self._good))])
        self._good, self._good_characters = [], 0
        self._keep_rows(rows)

    def _keep_rows(self, rows: pa.Table) -> None:
        self._typed.append(rows)
        self._row_count += rows.num_rows
        self._table_bytes += rows.nbytes

    def _without_rows(self, fault: FileFault) -> Part:
        dead_rows = tuple(self._dead_rows[:MAX_DEAD_ROWS_KEPT])
        return Part(None, [FileResult(0, self._remark_lines, dead_rows, self._dead_counts, fault)])

    def _no_valid_row(self) -> FileFault:
        message = "The file has a header and no rows."
        if self._dead_rows:
            first = self._dead_rows[0]
            dead = self._dead_counts.total()
            message = f"None of {dead} rows is valid; line {first.line_number}: {first.error_message}"
        return FileFault("file_no_valid_row", message)


def _over_limit(value: str, bound: str, name: str) -> FileFault:
    return FileFault(
        "file_over_limit",
        f"The body has {value}; at most {bound} are read, and a city has some hundreds of rows. The body is kept as it "
        f"is; if it is right, raise {name} in wrm_pipeline/domain/snapshot/records.py and build the day again.",
    )


def cut(raw_line: str, line_bytes: int = 0) -> str:
    """A line as kept in a dead row: all of it, or its beginning and a note of its length."""
    if not line_bytes and len(raw_line) <= MAX_RAW_DATA_BYTES // 4:
        return raw_line
    data = raw_line.encode("utf-8", "replace")
    if not line_bytes and len(data) <= MAX_RAW_DATA_BYTES:
        return raw_line
    note = f" … [cut: the line has {line_bytes or len(data)} bytes; the raw object has them all]"
    return data[: MAX_RAW_DATA_BYTES - len(note.encode())].decode("utf-8", "ignore") + note


def good_lines(file: RawSnapshot) -> Iterator[tuple[str, SourceLine]]:
    """Station id and line of each row, in file order."""
    search, header = HeaderSearch(), None
    for raw in raw_lines(file.body):
        if header is None:
            header = search.look(raw.number, raw.text.encode("utf-8", "replace"))
            if search.hopeless:
                break
            continue
        if not raw.text.strip(" \t\r\v\f"):
            continue
        correction = file.corrections.get(raw.number)
        if correction is None and _is_overlong(raw):
            continue
        line = (raw.text if correction is None else correction).rstrip("\r\n")
        if not line.strip() or is_remark(line, header.separator):
            continue
        if _line_problem(line, header, file.file_timestamp)[0] is not None:
            continue
        fields = split_line(line, header.separator, header.field_count + 1) or []
        reported_at = EPOCH + timedelta(microseconds=report_of(fields[header.positions["combined"]]).micros)
        yield (
            id_of(fields[header.positions["station_id"]]),
            SourceLine(raw.number, raw.offset, raw.length, raw.text, raw.encoding, correction, reported_at),
        )


def _is_overlong(raw: RawLine) -> bool:
    size = len(raw.text.encode("utf-8", "replace")) if raw.encoding == "utf-16" else raw.length
    return size + len("\n") > MAX_LINE_BYTES


def _line_problem(line: str, header: Header, file_timestamp: datetime) -> tuple[_Problem | None, str]:
    """Why a line is not a row (data contract, section 4), or None; and the line without a surplus field."""
    if "\r" in line or "\n" in line:
        return _Problem("stray_line_break", "", "There is a carriage return or line feed inside the line."), line
    most = header.field_count + 1
    fields = split_line(line, header.separator, most)
    if fields is None:
        return _Problem("unclosed_quote", "", "A quote is not closed on its line."), line
    if len(fields) == most and (header.spare or not fields[-1].strip()):
        # The surplus field may be in quotes, but contains no separator unless the header permits it.
        fields = fields[:-1]
        line = _without_last_field(line, header)
    if len(fields) != header.field_count:
        count = f"more than {most}" if len(fields) > most else f"{len(fields)}"
        message = f"The line has {count} fields, the header has {header.field_count}."
        return _Problem("wrong_field_count", "", message), line
    values = {name: fields[position] for name, position in header.positions.items()}
    return _value_problem(values, file_timestamp), line


def _without_last_field(line: str, header: Header) -> str:
    if '"' not in line:
        return line.rpartition(header.separator)[0]
    fields = split_line(line, header.separator, header.field_count + 1) or []
    quoted = (f'"{field.replace(chr(34), chr(34) * 2)}"' for field in fields[:-1])
    return header.separator.join(quoted)


def _value_problem(values: Mapping[str, str], file_timestamp: datetime) -> _Problem | None:
    name = "station_id"
    try:
        id_of(values[name])
        name = COMBINED_COLUMN
        _check_time(report_of(values["combined"]).micros, file_timestamp)
        name = "lat"
        lat = coordinate_of(name, values[name])
        name = "lon"
        lon = coordinate_of(name, values[name])
        if lat == 0 and lon == 0:
            return _Problem("bad_coordinates", "lat", "lat and lon are both 0.")
        for name in COUNT_COLUMNS:
            if name in values:
                count_of(name, values[name])
        for name in FLAG_COLUMNS:
            if name in values:
                flag_of(name, values[name])
        name = BATTERY_COLUMN
        battery_of(values.get(name, ""))
    except BadValueError as error:
        return _Problem(error.error_type, name, str(error))
    return None


def _check_time(micros: int, file_timestamp: datetime) -> None:
    if not EARLIEST_MICROS <= micros <= micros_of(file_timestamp) + LATEST_AFTER_FETCH_MICROS:
        raise BadValueError(
            "timestamp_out_of_range",
            f"The report's time {micros / 1e6:.15g} is before 2010 or more than a day after the fetch at "
            f"{file_timestamp}.",
        )

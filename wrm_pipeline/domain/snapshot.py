"""Bytes of snapshots -> good rows, dead rows and counts: the one parser (data contract, sections 1, 3, 4).

Nearly all files are clean, so many files are first parsed together by Arrow's typed CSV reader (the fast
path); it refuses anything that might not be clean, and then halves the set until it has the file that is to
blame. Only that file is read line by line (the exact path), which tells good lines from dead ones and gives
the good ones back to the fast path. So every published value comes from the same code.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from operator import attrgetter

import ftfy
import ftfy.bad_codecs  # registers sloppy-windows-1252
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from wrm_pipeline.domain.schemas import PROCESSED, UCL_FEED, UTC_TIMESTAMP, arrow_schema, value_range

# Part of what the published partition remembers: another version means that its rows are built anew.
PARSER_VERSION = "2"

COMBINED_COLUMN = "timestamp|gmt_local_diff_sec|gmt_servertime_diff_sec"
BATTERY_COLUMN = "givesbonus_acceptspedelecs_fbbattlevel"
ID_COLUMNS = ("#id", "id", "station_id")
REQUIRED_COLUMNS = ("name", "lat", "lon", "bikes", "spaces", "total_docks")
COUNT_COLUMNS = ("bikes", "spaces", "total_docks", "pedelecs")
FLAG_COLUMNS = ("installed", "locked", "temporary")
OPTIONAL_COLUMNS = (*FLAG_COLUMNS, "pedelecs", BATTERY_COLUMN)

# Data contract, section 4: the plausible span of a report's time.
EARLIEST_REPORT = datetime(2010, 1, 1, tzinfo=UTC)
LATEST_REPORT_AFTER_FETCH = timedelta(days=1)

# At most this many dead rows of a file and error type are kept one by one; the raw object has the others.
MAX_DEAD_ROWS_KEPT = 1_000

_BOM = b"\xef\xbb\xbf"
_TRUE_WORDS = ("true", "True", "TRUE")
_FALSE_WORDS = ("false", "False", "FALSE")
_LINE_FEED = ord("\n")
_REMARK_LINES = re.compile(rb"^(?:#|src(?=[,\n])).*\n", re.MULTILINE)
# Sign and digits without leading zeros.
_WHOLE_NUMBER = re.compile(r"[ \t]*(-?)(?=[0-9])0*([0-9]*)[ \t]*")
_DECIMAL_NUMBER = re.compile(r"[ \t]*[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[ \t]*")
# Longer numbers overflow; Arrow reads this pattern, too.
_COMBINED_VALUE = re.compile(r"-?[0-9]{1,18}\|-?[0-9]{1,9}\|-?[0-9]{1,9}")
# Printable ASCII without entities: of the simulated city's 404 names 279, and ftfy takes 30 us for each of them.
_NOTHING_TO_REPAIR = re.compile(r"(?! )[ -%'-~]+(?<! )")
# A field in quotes, doubled ones inside, and what follows the closing one; or a field as it is.
_FIELD = re.compile(r'(?:"((?:[^"]++|"")*+)"([^,]*)|((?!")[^,]*))(,|\Z)')
_DICTIONARY = pa.dictionary(pa.int32(), pa.string())
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RANGES = {name: value_range(PROCESSED, name) for name in ("lat", "lon", "battery_pct", *COUNT_COLUMNS)}


def _seconds(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(seconds=1)


_EARLIEST_S = _seconds(EARLIEST_REPORT)
_LATEST_AFTER_FETCH_S = int(LATEST_REPORT_AFTER_FETCH.total_seconds())


@dataclass(frozen=True, slots=True)
class RawSnapshot:
    """One raw object: its key, the time of its snapshot (aware) and its bytes.

    `corrections` are an operator's replacements of dead lines, by line number (the first line is 1). With a `fault` the
    file gives no row, whatever its lines are.
    """

    source_key: str
    file_timestamp: datetime
    body: bytes
    corrections: Mapping[int, str] = field(default_factory=dict)
    fault: "FileFault | None" = None


@dataclass(frozen=True, slots=True)
class LineCounts:
    """What became of a file's lines; blank lines and the header count for nothing.

    Always: lines_in = rows_out + dead_lettered + duplicate_rows + remark_lines.
    """

    lines_in: int = 0
    rows_out: int = 0
    dead_lettered: int = 0
    duplicate_rows: int = 0
    remark_lines: int = 0

    @classmethod
    def total(cls, counts: Iterable["LineCounts"]) -> "LineCounts":
        """The sum of several files' counts."""
        values = attrgetter(*(field.name for field in fields(cls)))
        return cls(*map(sum, zip(*map(values, counts), strict=True)))

    @property
    def balanced(self) -> bool:
        """Whether every line is accounted for."""
        accounted = self.rows_out + self.dead_lettered + self.duplicate_rows + self.remark_lines
        return self.lines_in == accounted


@dataclass(frozen=True, slots=True)
class DeadRow:
    """A line that cannot become a row: where, what, and why. `field` is empty where no one field is to blame."""

    line_number: int
    raw_data: str
    error_type: str
    field: str
    error_message: str


@dataclass(frozen=True, slots=True)
class FileFault:
    """Why a whole body gives no row.

    `file_empty`, `file_not_text`, `file_no_header`, `file_no_valid_row`; `file_truncated` at the fetch;
    `file_time_outside_day` for a name or reports that cannot be of the folder's day; and `file_unreadable` for what
    should not happen.
    """

    error_type: str
    error_message: str


@dataclass(frozen=True, slots=True)
class FileReport:
    """What one file gave.

    `dead_rows` holds the first MAX_DEAD_ROWS_KEPT of each error type; `dead_counts`, by error type, counts all.
    """

    source_key: str
    counts: LineCounts
    dead_rows: tuple[DeadRow, ...] = ()
    dead_counts: Mapping[str, int] = field(default_factory=dict)
    fault: FileFault | None = None


@dataclass(frozen=True, slots=True)
class ParsedBatch:
    """Rows of several files, typed as PROCESSED (strings dictionary-encoded), sorted and unique on SORT_KEY.

    `reports` are in the order of file_timestamp and source_key.
    """

    rows: pa.Table
    reports: tuple[FileReport, ...]

    @property
    def counts(self) -> LineCounts:
        """The sum over all files."""
        return LineCounts.total(report.counts for report in self.reports)


def parse_snapshots(files: Sequence[RawSnapshot]) -> ParsedBatch:
    """Parse raw snapshots together; any bytes at all are accepted.

    Where a station stands twice under one `file_timestamp`, in one file or in two, its latest report stays (of
    equal ones the last) and the others count as `duplicate_rows`. Give all files of one `file_timestamp` to
    the same call.
    """
    files = sorted(files, key=lambda f: (f.file_timestamp, f.source_key))
    parts: list[_Part] = []
    run: list[_Prepared] = []
    for file in files:
        prepared = _prepare(file)
        if run and (prepared is None or prepared.header != run[0].header):
            parts.extend(_parse_run(run))
            run = []
        if prepared is None:
            parts.append(_refused(file, file.fault) if file.fault is not None else _parse_exactly(file))
        else:
            run.append(prepared)
    if run:
        parts.extend(_parse_run(run))
    return _assemble(files, parts)


def reject_reason(body: bytes, fetched_at: datetime) -> FileFault | None:
    """Why a fetched body is no snapshot, or None if it is one."""
    return inspect_fetched(body, fetched_at).fault


def inspect_fetched(body: bytes, fetched_at: datetime) -> FileReport:
    """What a fetched body holds, and in `fault` why it is no snapshot.

    Besides the faults of a file, `file_truncated`: the body ends in mid-row, before its last field or in a quote.
    """
    report = parse_snapshots([RawSnapshot("fetched body", fetched_at, body)]).reports[0]
    return report if report.fault else replace(report, fault=_cut_off(body, report))


def _cut_off(body: bytes, report: FileReport) -> FileFault | None:
    last_line_number = body.rstrip(b"\r\n").count(b"\n") + 1
    if not body.endswith(b"\n"):
        for row in report.dead_rows:
            cut_off = row.error_type in ("wrong_field_count", "unclosed_quote") or row.raw_data.endswith(",")
            if row.line_number == last_line_number and cut_off:
                message = f"The body ends in mid-row: line {last_line_number} is {row.raw_data[:80]!r}."
                return FileFault("file_truncated", message)
    return None


# --- header -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Header:
    """Positions of the columns that are read, by name; `combined` and `station_id` among them."""

    field_count: int
    positions: Mapping[str, int]


class _HeaderError(ValueError):
    """A line that starts like a header but lacks required columns."""


@lru_cache(maxsize=256)
def _read_header(line: bytes) -> _Header | None:
    """Columns by header name, or None if the line is no header.

    Raises:
        _HeaderError: an id column is there, others are missing.
    """
    names = [name.strip() for name in _split_line(_decode_line(line)) or ()]
    id_position = next((names.index(name) for name in ID_COLUMNS if name in names), None)
    if id_position is None or len(names) < 2:
        return None
    missing = [name for name in REQUIRED_COLUMNS if name not in names]
    if missing:
        raise _HeaderError(f"the header lacks the column(s) {', '.join(missing)}")
    positions = {name: names.index(name) for name in (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS) if name in names}
    combined = names.index(COMBINED_COLUMN) if COMBINED_COLUMN in names else 1
    if combined == id_position or combined in positions.values():
        raise _HeaderError(f"the header lacks the column {COMBINED_COLUMN}, and its second column is another one")
    return _Header(len(names), positions | {"station_id": id_position, "combined": combined})


def _split_line(line: str) -> list[str] | None:
    """The fields of one CSV line, or None if a quote is not closed or a line break stands inside."""
    if "\r" in line or "\n" in line:
        return None
    if '"' not in line:
        return line.split(",")
    fields: list[str] = []
    position = 0
    while match := _FIELD.match(line, position):
        quoted, rest, plain, end = match.groups()
        fields.append(plain if quoted is None else quoted.replace('""', '"') + rest)
        if not end:
            return fields
        position = match.end()
    return None


def _is_remark(line: str) -> bool:
    """Whether the first field is `src` or starts with `#`, in quotes or not; what follows it does not matter."""
    fields = _split_line(line) if line.startswith('"') else [line.partition(",")[0]]
    return fields is not None and (fields[0] == "src" or fields[0].startswith("#"))


# --- the fast path: many files of one header, typed by Arrow ---------------------------------------------------


class _RefusedError(ValueError):
    """The fast path cannot vouch for these lines."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A file cut into header and data lines, each with its line end, without blank and remark lines."""

    file: RawSnapshot
    header: bytes
    data: bytes
    line_count: int
    remark_lines: int


@dataclass(frozen=True, slots=True)
class _FileResult:
    """What one file gave before duplicates leave."""

    row_count: int
    remark_lines: int
    dead_rows: tuple[DeadRow, ...] = ()
    dead_counts: Mapping[str, int] = field(default_factory=dict)
    fault: FileFault | None = None


@dataclass(frozen=True, slots=True)
class _Part:
    """Typed rows of consecutive files, in file order, and what each file gave."""

    rows: pa.Table | None
    results: list[_FileResult]


def _prepare(file: RawSnapshot) -> _Prepared | None:
    """Cut a file for the fast path, or None where only the exact path knows what to do."""
    if file.corrections or file.fault is not None:
        return None
    body = file.body.removeprefix(_BOM)
    if b"\r" in body:
        body = body.replace(b"\r\n", b"\n")
        if b"\r" in body:
            return None
    header, _, data = body.partition(b"\n")
    data = data.rstrip(b"\n") + b"\n"
    line_starts = _line_starts(data)
    if b"\n" in line_starts:
        return None
    line_count, remark_lines = len(line_starts), 0
    if b"#" in line_starts or (b"s" in line_starts and _REMARK_LINES.search(data)):
        data, remark_lines = _REMARK_LINES.subn(b"", data)
        line_count -= remark_lines
        if not data:
            return None
    # Arrow reads 0x10 as 16 in whole-number columns; the contract knows decimal numbers only. An x is rare, and
    # looking for it alone is 30 times as fast.
    if (b"x" in data and b"0x" in data) or (b"X" in data and b"0X" in data):
        return None
    try:
        columns = _read_header(header)
    except _HeaderError:
        return None
    if columns is None:
        return None
    # A remark whose first field is in quotes is noticed where the ids are checked, and only there.
    if columns.positions["station_id"] != 0 and b'"' in line_starts:
        return None
    return _Prepared(file, header, data, line_count, remark_lines)


def _line_starts(data: bytes) -> bytes:
    """The first byte of each line of `data`, which ends in a line feed; a line feed for a blank line."""
    characters = np.frombuffer(data, np.uint8)
    line_ends = np.flatnonzero(characters == _LINE_FEED)
    return data[:1] + characters[line_ends[:-1] + 1].tobytes()


def _parse_run(run: list[_Prepared]) -> list[_Part]:
    try:
        rows = _typed_rows(run)
    except _RefusedError:
        if len(run) == 1:
            return [_parse_exactly(run[0].file)]
        middle = len(run) // 2
        return _parse_run(run[:middle]) + _parse_run(run[middle:])
    return [_Part(rows, [_FileResult(p.line_count, p.remark_lines) for p in run])]


def _typed_rows(run: list[_Prepared]) -> pa.Table:
    """All rows of files that share a header, typed and checked; raises _RefusedError on any doubt."""
    header = _read_header(run[0].header)
    if header is None:
        raise _RefusedError
    # A last line with an unclosed quote would swallow the end of the input unseen; the first line, repeated at
    # the end, is swallowed instead, and then a row is missing.
    first_line = run[0].data[: run[0].data.index(b"\n") + 1]
    buffer = b"".join([*(p.data for p in run), first_line])
    line_count = sum(p.line_count for p in run)
    # A row longer than a block is refused, so a single file is one block.
    raw = _read_csv(buffer, header, block_bytes=max(1 << 22, len(buffer) if len(run) == 1 else 0))
    if raw.num_rows != line_count + 1:
        raise _RefusedError
    raw = raw.slice(0, line_count).unify_dictionaries().combine_chunks()
    file_seconds = np.repeat([_seconds(p.file.file_timestamp) for p in run], [p.line_count for p in run])
    columns = {
        "station_id": _checked_ids(raw["station_id"]),
        "name": _map_dictionary(raw["name"], _repaired_name),
        **_split_combined(raw["combined"], file_seconds),
        **_checked_coordinates(raw["lat"], raw["lon"]),
    }
    for name in COUNT_COLUMNS:
        columns[name] = _checked_counts(raw, name)
    for name in FLAG_COLUMNS:
        columns[name] = _only_chunk(raw[name]) if name in raw.column_names else pa.nulls(line_count, pa.bool_())
    columns.update(_split_battery(raw[BATTERY_COLUMN]) if BATTERY_COLUMN in raw.column_names else {})
    columns.setdefault(BATTERY_COLUMN, pa.nulls(line_count, pa.bool_()))
    columns.setdefault("battery_pct", pa.nulls(line_count, pa.int16()))
    columns["count_capped"] = pa.repeat(False, line_count)
    return pa.table(columns)


def _read_csv(buffer: bytes, header: _Header, block_bytes: int) -> pa.Table:
    # Latin text in an unread column would go unnoticed, and such a line is decoded as a whole (_decode_line).
    text = pa.Array.from_buffers(
        pa.large_binary(),
        1,
        [None, pa.py_buffer(np.array([0, len(buffer)], dtype=np.int64)), pa.py_buffer(buffer)],
    )
    types: dict[str, pa.DataType] = {
        "station_id": _DICTIONARY,
        "combined": _DICTIONARY,
        "name": _DICTIONARY,
        BATTERY_COLUMN: _DICTIONARY,
        "lat": pa.float64(),
        "lon": pa.float64(),
        **dict.fromkeys(COUNT_COLUMNS, pa.int32()),
        **dict.fromkeys(FLAG_COLUMNS, pa.bool_()),
    }
    names = [f"unread {i}" for i in range(header.field_count)]
    for name, position in header.positions.items():
        names[position] = name
    try:
        text.cast(pa.large_string())
        return pyarrow.csv.read_csv(
            pa.BufferReader(buffer),
            read_options=pyarrow.csv.ReadOptions(column_names=names, block_size=block_bytes),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types={name: types[name] for name in header.positions},
                include_columns=list(header.positions),
                null_values=[],
                true_values=list(_TRUE_WORDS),
                false_values=list(_FALSE_WORDS),
                auto_dict_max_cardinality=2**31 - 1,
            ),
        )
    except pa.ArrowInvalid as error:
        raise _RefusedError from error


def _only_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _checked_ids(column: pa.ChunkedArray) -> pa.DictionaryArray:
    array = _only_chunk(column)
    for value in array.dictionary.to_pylist():
        if not value.strip() or value == "src" or value.startswith("#") or "\n" in value:
            raise _RefusedError
    return array


def _map_dictionary(column: pa.ChunkedArray, repair: Callable[[str], str]) -> pa.DictionaryArray:
    array = _only_chunk(column)
    values = array.dictionary.to_pylist()
    if any("\n" in value for value in values):
        raise _RefusedError
    repaired = pa.array([repair(value) for value in values], pa.string()).dictionary_encode()
    return pa.DictionaryArray.from_arrays(repaired.indices.take(array.indices), repaired.dictionary)


@lru_cache(maxsize=16_384)
def _repaired_name(name: str) -> str:
    if _NOTHING_TO_REPAIR.fullmatch(name):
        return name
    # ftfy's heuristic leaves short names such as "Åšwidnicka" alone, so exact reversals are tried first. A name that
    # is right never passes: its letters are not in the codec, or are no UTF-8. Curly quotes and ligatures are
    # spelling, not damage.
    for _ in range(2):
        name = _once_less_encoded(name)
    return ftfy.fix_text(
        name, unescape_html=True, uncurl_quotes=False, fix_latin_ligatures=False, fix_character_width=False
    ).strip()


def _once_less_encoded(name: str) -> str:
    # The sloppy codec encodes U+FFFD, as a control character.
    if name.isascii() or "\ufffd" in name:
        return name
    for codec in ("latin-1", "sloppy-windows-1252"):
        try:
            return name.encode(codec).decode("utf-8")
        except UnicodeError:
            continue
    return name


def _split_combined(column: pa.ChunkedArray, file_seconds: npt.NDArray[np.int64]) -> dict[str, pa.Array]:
    array = _only_chunk(column)
    if not pc.all(pc.match_substring_regex(array.dictionary, rf"^(?:{_COMBINED_VALUE.pattern})$")).as_py():
        raise _RefusedError
    values = pc.split_pattern(array.dictionary, "|").flatten().cast(pa.int64()).to_numpy().reshape(-1, 3)
    codes = array.indices.to_numpy()
    seconds = values[codes, 0]
    if (seconds < _EARLIEST_S).any() or (seconds > file_seconds + _LATEST_AFTER_FETCH_S).any():
        raise _RefusedError
    return {
        "timestamp": pa.array(seconds * 1_000_000).cast(UTC_TIMESTAMP),
        "gmt_local_diff_sec": pa.array(values[codes, 1].astype(np.int32)),
        "gmt_servertime_diff_sec": pa.array(values[codes, 2].astype(np.int32)),
    }


def _checked_coordinates(lat: pa.ChunkedArray, lon: pa.ChunkedArray) -> dict[str, pa.Array]:
    for name, column in (("lat", lat), ("lon", lon)):
        lowest, highest = _RANGES[name]
        found = pc.min_max(column)
        finite = pc.all(pc.is_finite(column)).as_py()
        if not finite or found["min"].as_py() < lowest or found["max"].as_py() > highest:
            raise _RefusedError
    if pc.any(pc.and_(pc.equal(lat, 0.0), pc.equal(lon, 0.0))).as_py():
        raise _RefusedError
    return {"lat": _only_chunk(lat), "lon": _only_chunk(lon)}


def _checked_counts(raw: pa.Table, name: str) -> pa.Array:
    if name not in raw.column_names:
        return pa.nulls(raw.num_rows, pa.int32())
    lowest, highest = _RANGES[name]
    found = pc.min_max(raw[name])
    if found["min"].as_py() < lowest or found["max"].as_py() > highest:
        raise _RefusedError
    return _only_chunk(raw[name])


def _split_battery(column: pa.ChunkedArray) -> dict[str, pa.Array]:
    array = _only_chunk(column)
    values = [_battery_value(value) for value in array.dictionary.to_pylist()]
    if any(value is None for value in values):
        raise _RefusedError
    flags = pa.array([value[0] for value in values if value], pa.bool_())
    levels = pa.array([value[1] for value in values if value], pa.int16())
    return {BATTERY_COLUMN: flags.take(array.indices), "battery_pct": levels.take(array.indices)}


def _battery_value(text: str) -> tuple[bool | None, int | None] | None:
    """(flag, level in percent) of the field with two meanings, or None if it is neither empty, flag nor number.

    A number outside 0-100 is no level; the row stays, without one.
    """
    if text in _TRUE_WORDS:
        return True, None
    if text in _FALSE_WORDS:
        return False, None
    if not text.strip():
        return None, None
    if not _DECIMAL_NUMBER.fullmatch(text):
        return None
    lowest, highest = _RANGES["battery_pct"]
    level = float(text)
    return (None, round(level)) if lowest <= level <= highest else (None, None)


# --- the exact path: one file, line by line --------------------------------------------------------------------


def _parse_exactly(file: RawSnapshot) -> _Part:
    """Tell a file's good lines from its dead ones; the good ones are typed by the fast path."""
    lines = file.body.removeprefix(_BOM).split(b"\n")
    header_index, remark_lines, fault = _find_header(lines)
    if fault is not None:
        dead = sum(1 for line in lines if line.strip()) - remark_lines
        return _Part(None, [_FileResult(0, remark_lines, dead_counts={fault.error_type: dead}, fault=fault)])
    header_line = lines[header_index].rstrip(b"\r")
    header = _read_header(header_line)
    if header is None:
        raise AssertionError("_find_header finds lines that _read_header reads")
    good: list[str] = []
    dead_rows: list[DeadRow] = []
    dead_counts: Counter[str] = Counter()
    for index in range(header_index + 1, len(lines)):
        raw_line = _decode_line(lines[index])
        line = file.corrections.get(index + 1, raw_line).rstrip("\r\n")
        if not line.strip():
            continue
        if _is_remark(line):
            remark_lines += 1
            continue
        problem = _line_problem(line, header, file.file_timestamp)
        if problem is None:
            good.append(line)
        else:
            dead_counts[problem.error_type] += 1
            if dead_counts[problem.error_type] <= MAX_DEAD_ROWS_KEPT:
                dead_rows.append(DeadRow(index + 1, raw_line, problem.error_type, problem.field, problem.error_message))
    if not good:
        fault = FileFault("file_no_valid_row", "The file has a header and no rows.")
        if dead_rows:
            first = dead_rows[0]
            fault = FileFault(
                "file_no_valid_row",
                f"None of {dead_counts.total()} rows is valid; line {first.line_number}: {first.error_message}",
            )
        return _Part(None, [_FileResult(0, remark_lines, tuple(dead_rows[:MAX_DEAD_ROWS_KEPT]), dead_counts, fault)])
    data = ("\n".join(good) + "\n").encode("utf-8", "replace")
    try:
        rows = _typed_rows([_Prepared(file, header_line, data, len(good), 0)])
    except _RefusedError:
        # The two paths disagree, as they might after an upgrade of Arrow; that must cost this file and no more.
        fault = FileFault(
            "file_unreadable", f"{len(good)} lines look right, but Arrow {pa.__version__} cannot type them."
        )
        dead_counts[fault.error_type] = len(good)
        return _Part(None, [_FileResult(0, remark_lines, tuple(dead_rows[:MAX_DEAD_ROWS_KEPT]), dead_counts, fault)])
    return _Part(rows, [_FileResult(len(good), remark_lines, tuple(dead_rows), dead_counts)])


def _refused(file: RawSnapshot, fault: FileFault) -> _Part:
    """All lines of a file as dead letters of one fault, or of the one that a body without rows has anyway."""
    found = _parse_exactly(file).results[0]
    if found.fault is not None and not found.dead_rows:
        return _Part(None, [found])
    dead = found.row_count + sum(found.dead_counts.values())
    return _Part(None, [_FileResult(0, found.remark_lines, dead_counts={fault.error_type: dead}, fault=fault)])


def _find_header(lines: list[bytes]) -> tuple[int, int, FileFault | None]:
    """(index of the header, remark lines before it, None), or a fault."""
    remark_lines = 0
    for index, line in enumerate(lines):
        stripped = line.rstrip(b"\r")
        if not stripped.strip():
            continue
        try:
            if _read_header(stripped) is not None:
                return index, remark_lines, None
        except _HeaderError as error:
            return index, 0, FileFault("file_no_header", f"Line {index + 1} is no header: {error}.")
        if not _is_remark(_decode_line(stripped)):
            return index, 0, _no_header(index + 1, stripped)
        remark_lines += 1
    if remark_lines:
        return 0, remark_lines, FileFault("file_no_header", "The body holds nothing but remark lines.")
    return 0, 0, FileFault("file_empty", "The body is empty.")


def _no_header(line_number: int, line: bytes) -> FileFault:
    start = line[:80]
    if b"\x00" in line or line.startswith(b"\x1f\x8b") or sum(byte < 9 for byte in start) > len(start) // 10:
        return FileFault("file_not_text", f"The body is not text; it starts with the bytes {start[:16]!r}.")
    kind = "an HTML page" if line.lstrip().startswith(b"<") else "no CSV with an id column"
    return FileFault("file_no_header", f"No header in line {line_number}; the body looks like {kind}: {start!r}.")


def _decode_line(line: bytes) -> str:
    """UTF-8, or cp1250 where it is not; bytes that are neither become U+FFFD (the raw object keeps them)."""
    line = line.removesuffix(b"\r")
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("cp1250", errors="replace")


@dataclass(frozen=True, slots=True)
class SourceLine:
    """A line of a raw object that reads as a row.

    `line_number` counts from 1; `offset` and `length` are in bytes, without the line end; `text` is the line as the
    parser decodes it (`encoding`: utf-8 or cp1250); `correction` is what an operator put in its place, if anything.
    """

    line_number: int
    offset: int
    length: int
    text: str
    encoding: str
    correction: str | None
    reported_at: datetime


def lines_of(file: RawSnapshot, station_id: str) -> list[SourceLine]:
    """The good lines about one station, in file order; the last of those with the latest report made the row."""
    bom_length = len(file.body) - len(file.body.removeprefix(_BOM))
    lines = file.body.removeprefix(_BOM).split(b"\n")
    header_index, _, fault = _find_header(lines)
    header = _read_header(lines[header_index].rstrip(b"\r")) if fault is None else None
    if header is None:
        return []
    found = []
    offset = bom_length
    for index, raw in enumerate(lines):
        start, offset = offset, offset + len(raw) + 1
        correction = file.corrections.get(index + 1)
        text = _decode_line(raw)
        line = (text if correction is None else correction).rstrip("\r\n")
        if index <= header_index or not line.strip() or _is_remark(line):
            continue
        if _line_problem(line, header, file.file_timestamp) is not None:
            continue
        fields = _split_line(line) or []
        if fields[header.positions["station_id"]] != station_id:
            continue
        seconds = int(fields[header.positions["combined"]].partition("|")[0])
        length = len(raw.removesuffix(b"\r"))
        encoding = "utf-8" if _is_utf8(raw) else "cp1250"
        reported_at = _EPOCH + timedelta(seconds=seconds)
        found.append(SourceLine(index + 1, start, length, text, encoding, correction, reported_at))
    return found


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class _Problem:
    error_type: str
    field: str
    error_message: str


def _line_problem(line: str, header: _Header, file_timestamp: datetime) -> _Problem | None:
    """Why a line that is no remark is no row (data contract, section 4), or None."""
    if "\r" in line or "\n" in line:
        return _Problem("stray_line_break", "", "A carriage return or line feed stands inside the line.")
    fields = _split_line(line)
    if fields is None:
        return _Problem("unclosed_quote", "", "A quote is not closed on its line.")
    if len(fields) != header.field_count:
        return _Problem(
            "wrong_field_count",
            "",
            f"The line has {len(fields)} fields, the header has {header.field_count}.",
        )
    values = {name: fields[position] for name, position in header.positions.items()}
    station_id = values["station_id"]
    if not station_id.strip():
        return _Problem("empty_id", "station_id", "The id is empty.")
    if station_id == "src" or station_id.startswith("#"):
        return _Problem("empty_id", "station_id", f"{station_id[:80]!r} is no id but the mark of a remark line.")
    return (
        _combined_problem(values["combined"], file_timestamp)
        or _coordinate_problem(values["lat"], values["lon"])
        or _count_problem(values)
        or _flag_problem(values)
    )


def _combined_problem(value: str, file_timestamp: datetime) -> _Problem | None:
    if not _COMBINED_VALUE.fullmatch(value):
        return _Problem("bad_timestamp", COMBINED_COLUMN, f"{value[:80]!r} is not three whole numbers joined by '|'.")
    seconds = int(value.partition("|")[0])
    if not _EARLIEST_S <= seconds <= _seconds(file_timestamp) + _LATEST_AFTER_FETCH_S:
        return _Problem(
            "timestamp_out_of_range",
            COMBINED_COLUMN,
            f"The report's time {seconds} is before 2010 or more than a day after the fetch at {file_timestamp}.",
        )
    return None


def _coordinate_problem(lat: str, lon: str) -> _Problem | None:
    for name, value in (("lat", lat), ("lon", lon)):
        lowest, highest = _RANGES[name]
        if not _DECIMAL_NUMBER.fullmatch(value) or not lowest <= float(value) <= highest:
            return _Problem("bad_coordinates", name, f"{name} {value[:80]!r} is no number from {lowest} to {highest}.")
    if float(lat) == 0 and float(lon) == 0:
        return _Problem("bad_coordinates", "lat", "lat and lon are both 0.")
    return None


def _count_problem(values: Mapping[str, str]) -> _Problem | None:
    for name in COUNT_COLUMNS:
        value = values.get(name, "0")
        lowest, highest = _RANGES[name]
        number = _WHOLE_NUMBER.fullmatch(value)
        # Twelve digits are out of any range, and int() refuses more than 4,300.
        if not number or len(number[2]) > 11 or not lowest <= int(number[1] + (number[2] or "0")) <= highest:
            return _Problem(
                "bad_count", name, f"{name} {value[:80]!r} is not a whole number from {lowest} to {highest}."
            )
    return None


def _flag_problem(values: Mapping[str, str]) -> _Problem | None:
    for name in FLAG_COLUMNS:
        value = values.get(name, "true")
        if value not in _TRUE_WORDS and value not in _FALSE_WORDS:
            return _Problem("bad_flag", name, f"{name} {value[:80]!r} is neither true nor false.")
    value = values.get(BATTERY_COLUMN, "")
    if _battery_value(value) is None:
        return _Problem("bad_flag", BATTERY_COLUMN, f"{value[:80]!r} is neither a flag, a battery level nor empty.")
    return None


# --- putting files together ------------------------------------------------------------------------------------


def _assemble(files: Sequence[RawSnapshot], parts: Sequence[_Part]) -> ParsedBatch:
    results = [result for part in parts for result in part.results]
    typed = [part.rows for part in parts if part.rows is not None]
    schema = arrow_schema(PROCESSED)
    if typed:
        rows, duplicates = _sorted_unique(files, pa.concat_tables(typed), [result.row_count for result in results])
    else:
        rows, duplicates = dictionary_encoded(schema.empty_table()), [0] * len(files)
    reports = []
    for file, result, duplicate_rows in zip(files, results, duplicates, strict=True):
        dead = sum(result.dead_counts.values())
        counts = LineCounts(
            lines_in=result.row_count + dead + result.remark_lines,
            rows_out=result.row_count - duplicate_rows,
            dead_lettered=dead,
            duplicate_rows=duplicate_rows,
            remark_lines=result.remark_lines,
        )
        reports.append(FileReport(file.source_key, counts, result.dead_rows, result.dead_counts, result.fault))
    return ParsedBatch(rows.select(schema.names), tuple(reports))


def _sorted_unique(
    files: Sequence[RawSnapshot], typed: pa.Table, row_counts: Sequence[int]
) -> tuple[pa.Table, list[int]]:
    """Rows in SORT_KEY order, each key once, and how many rows each file lost as duplicates."""
    table = typed.unify_dictionaries().combine_chunks()
    ids = _only_chunk(table["station_id"])
    file_index = np.repeat(np.arange(len(files), dtype=np.int32), row_counts)
    micros = np.array([(f.file_timestamp - _EPOCH) // timedelta(microseconds=1) for f in files], dtype=np.int64)
    snapshot_rank = np.unique(micros, return_inverse=True)[1]
    id_rank = np.empty(len(ids.dictionary), dtype=np.int64)
    id_rank[pc.sort_indices(ids.dictionary).to_numpy()] = np.arange(len(ids.dictionary))
    key = snapshot_rank[file_index] * len(ids.dictionary) + id_rank[ids.indices.to_numpy()]
    duplicates = [0] * len(files)
    steps = np.diff(key)
    if not (steps > 0).all():
        order = np.argsort(key, kind="stable")
        if (np.diff(key[order]) == 0).any():
            reported = table["timestamp"].cast(pa.int64()).to_numpy()
            order = np.lexsort((reported, key))
            last_of_key = np.append(np.diff(key[order]) != 0, True)
            duplicates = np.bincount(file_index[order[~last_of_key]], minlength=len(files)).tolist()
            order = order[last_of_key]
        table = table.take(pa.array(order))
        file_index = file_index[order]
    source_keys = pa.DictionaryArray.from_arrays(pa.array(file_index), [f.source_key for f in files])
    file_times = pa.array(micros[file_index]).cast(UTC_TIMESTAMP)
    table = table.append_column("s3_source_key", source_keys).append_column("file_timestamp", file_times)
    feed = pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), table.num_rows), [UCL_FEED])
    return table.append_column("feed", feed), duplicates


def dictionary_encoded(table: pa.Table) -> pa.Table:
    """`table` with its string columns dictionary-encoded, as the parser gives them."""
    for i, column in enumerate(table.schema):
        if column.type == pa.string():
            table = table.set_column(i, column.name, table[i].dictionary_encode())
    return table

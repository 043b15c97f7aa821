"""The typed path: many files of one header at once, by Arrow's CSV reader.

Where a column has the feed's usual spelling, Arrow types it; where it has not, Arrow gives text, and each distinct
value means what `values.py` says. It refuses whatever might be no row, so that the exact path can tell why.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from wrm_pipeline.domain.snapshot.buffers import as_utf8, is_utf8, without_blanks_before_quotes
from wrm_pipeline.domain.snapshot.columns import (
    ARROW_TYPES,
    FALSE_WORDS,
    TEXT,
    TRUE_WORDS,
    is_usual,
    only_chunk,
    refuse_out_of_range,
    row_columns,
)
from wrm_pipeline.domain.snapshot.lines import (
    SEPARATORS,
    Header,
    HeaderError,
    HeaderSearch,
    decode_line,
    is_mark,
    read_header,
    split_line,
)
from wrm_pipeline.domain.snapshot.records import MAX_REMARK_LINES, RawSnapshot, micros_of
from wrm_pipeline.domain.snapshot.text import LARGE_BODY_BYTES, plain_text
from wrm_pipeline.domain.snapshot.typed_refusal import RefusedError
from wrm_pipeline.domain.snapshot.values import BadValueError

_LINE_FEED, _SPACE, _TAB = b"\n \t"
# First bytes of lines whose first field may be a remark's mark behind blanks: what str.strip takes, in UTF-8.
_BLANKS_LOOKED_AT = 50
_ONE_THREAD_BYTES = 1 << 18
_BLANK_STARTS = b" \t\v\f\x1c\x1d\x1e\x1f\xc2\xe1\xe2\xe3"


def _remarks(separator: str) -> re.Pattern[bytes]:
    blank = b" " if separator == "\t" else b"[ \t]"
    return re.compile(rb"^%b*(?:#|src%b*(?=[%b\n])).*\n" % (blank, blank, separator.encode()), re.MULTILINE)


_REMARKS = {separator: _remarks(separator) for separator in SEPARATORS}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A file cut into header and data lines, each with its line end, without blank and remark lines.

    `doubtful`: a careful look must tell what these lines are.
    """

    file: RawSnapshot
    header: Header
    data: bytes
    line_count: int
    remark_lines: int = 0
    doubtful: bool = False


def prepare(file: RawSnapshot) -> Prepared | None:
    """Cut a file for the typed path, or None where only the exact path knows what to do."""
    if file.corrections or file.fault is not None or len(file.body) > LARGE_BODY_BYTES:
        return None
    found = _cut_header(plain_text(file.body))
    if found is None:
        return None
    header, data, remark_lines = found
    return prepared_lines(file, header, data, remark_lines)


def _cut_header(body: bytes) -> tuple[Header, bytes, int] | None:
    line, _, data = body.partition(b"\n")
    try:
        header = read_header(line)
    except HeaderError:
        header = None
    if header is not None:
        return header, data, 0
    search = HeaderSearch()
    header, number = search.look(1, line), 1
    while header is None and data and not search.hopeless:
        line, _, data = data.partition(b"\n")
        number += 1
        header = search.look(number, line)
    return None if header is None else (header, data, search.remark_lines)


def prepared_lines(file: RawSnapshot, header: Header, data: bytes, remark_lines: int = 0) -> Prepared | None:
    """Data lines for the typed path, or None where only the exact path knows what to do."""
    data = data.rstrip(b"\n") + b"\n"
    line_starts = _line_starts(data)
    if b"\n" in line_starts:
        data = _without_blank_lines(data)
        line_starts = _line_starts(data) if data else b""
    line_count = len(line_starts)
    blank_starts = len(line_starts.translate(None, _BLANK_STARTS)) < line_count
    marks = _behind_blanks(data) if blank_starts else line_starts
    if b"#" in marks or b"s" in marks:
        data, found = _REMARKS[header.separator].subn(b"", data)
        line_count -= found
        remark_lines += found
    if not line_count or remark_lines > MAX_REMARK_LINES or b"\r" in data:
        return None
    # Arrow reads 0x10 as 16 in whole-number columns; the contract knows decimal numbers only. An x is rare, and
    # looking for it alone is 30 times as fast.
    doubtful = (b"x" in data and b"0x" in data) or (b"X" in data and b"0X" in data)
    # A remark whose first field is in quotes or behind blanks is noticed where the ids are checked, if they are first.
    if header.positions["station_id"] != 0:
        doubtful = doubtful or blank_starts or b'"' in line_starts
    # In a column that is not read, Arrow's idea of a quote behind blanks would not be noticed.
    doubtful = doubtful or (len(header.positions) < header.field_count and b'"' in data)
    return Prepared(file, header, data, line_count, remark_lines, doubtful)


def _line_starts(data: bytes) -> bytes:
    """The first byte of each line of `data`, which ends in a line feed; a line feed for a blank line."""
    characters = np.frombuffer(data, np.uint8)
    line_ends = np.flatnonzero(characters == _LINE_FEED)
    return data[:1] + characters[line_ends[:-1] + 1].tobytes()


def _behind_blanks(data: bytes) -> bytes:
    """The first byte of each line that is no blank; the mark of a remark if that is far."""
    characters = np.frombuffer(data, np.uint8)
    places = np.append(0, np.flatnonzero(characters == _LINE_FEED)[:-1] + 1)
    blank = (characters[places] == _SPACE) | (characters[places] == _TAB)
    for _ in range(_BLANKS_LOOKED_AT):
        if not blank.any():
            return bytes(characters[places])
        places = places + blank
        blank = (characters[places] == _SPACE) | (characters[places] == _TAB)
    return b"#"


def _without_blank_lines(data: bytes) -> bytes:
    return b"".join(line + b"\n" for line in data.split(b"\n") if line)


def typed_rows(run: Sequence[Prepared]) -> pa.Table:
    """All rows of files that share a header, typed and checked.

    Raises:
        RefusedError: on any doubt.
    """
    for as_text in _ways(run):
        try:
            raw = _read(run, as_text)
            if as_text is not None:
                _refuse_remarks(raw, run[0].header)
            file_micros = np.repeat([micros_of(p.file.file_timestamp) for p in run], [p.line_count for p in run])
            return row_columns(raw, file_micros)
        except (RefusedError, BadValueError):
            continue
    raise RefusedError


def _ways(run: Sequence[Prepared]) -> Iterator[frozenset[str] | None]:
    """The columns that are to be read as text, as one may try; None: none are, and everything is as usual.

    A feed spells all of a day's files alike, so the first file says what to try with many.
    """
    everything = frozenset(ARROW_TYPES)
    if any(prepared.doubtful for prepared in run):
        yield everything
        return
    if len(run) == 1 or _is_read_as_usual(run[0]):
        yield None
    else:
        some = _unusual_columns(run[0])
        if some != everything:
            yield some
    yield everything


def _is_read_as_usual(prepared: Prepared) -> bool:
    try:
        refuse_out_of_range(_read([prepared], None))
    except RefusedError:
        return False
    return True


def _unusual_columns(prepared: Prepared) -> frozenset[str]:
    everything = frozenset(ARROW_TYPES)
    try:
        raw = _read([prepared], everything)
    except RefusedError:
        return everything
    found = everything & set(raw.column_names)
    return frozenset(name for name in found if not is_usual(name, only_chunk(raw[name]).dictionary))


def _read(run: Sequence[Prepared], as_text: frozenset[str] | None) -> pa.Table:
    """The run's fields, each line a row; `as_text` as `_ways` gives it."""
    header = run[0].header
    # A last line with an unclosed quote would swallow the end of the input unseen; the first line, repeated at
    # the end, is swallowed instead, and then a row is missing.
    first_line = run[0].data[: run[0].data.index(b"\n") + 1]
    buffer = b"".join([*(p.data for p in run), first_line])
    # Latin text in an unread column would go unnoticed, and such a line is decoded as a whole (decode_line).
    if not is_utf8(buffer):
        buffer = as_utf8(buffer)
    if as_text is not None:
        buffer = without_blanks_before_quotes(buffer, header.separator)
    line_count = sum(p.line_count for p in run)
    fields = split_line(decode_line(first_line[:-1]), header.separator, header.field_count + 1)
    surplus = fields is not None and len(fields) == header.field_count + 1
    # A row longer than a block is refused, so a single file is one block.
    block_bytes = max(1 << 22, len(buffer) if len(run) == 1 else 0)
    raw = _read_csv(buffer, header, block_bytes, as_text, surplus=surplus)
    if raw.num_rows != line_count + 1:
        raise RefusedError
    raw = raw.slice(0, line_count).unify_dictionaries().combine_chunks()
    _refuse_odd_text(raw, header, as_usual=as_text is None)
    return raw


def _read_csv(
    buffer: bytes, header: Header, block_bytes: int, as_text: frozenset[str] | None, *, surplus: bool
) -> pa.Table:
    names = [_unread(position) for position in range(header.field_count)]
    for name, position in header.positions.items():
        names[position] = name
    wanted = list(header.positions)
    if surplus:
        names.append("surplus")
        wanted.append("surplus")
    if as_text is not None and names[0] not in wanted:
        wanted.append(names[0])
    text = as_text or frozenset()
    types = {name: TEXT if name in text else ARROW_TYPES.get(name, TEXT) for name in wanted} | {"combined": pa.string()}
    try:
        return pyarrow.csv.read_csv(
            pa.BufferReader(buffer),
            # Threads take longer to begin than one file takes to read.
            read_options=pyarrow.csv.ReadOptions(
                column_names=names, block_size=block_bytes, use_threads=len(buffer) > _ONE_THREAD_BYTES
            ),
            parse_options=pyarrow.csv.ParseOptions(delimiter=header.separator),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=types,
                include_columns=wanted,
                null_values=[],
                true_values=list(TRUE_WORDS),
                false_values=list(FALSE_WORDS),
                auto_dict_max_cardinality=2**31 - 1,
            ),
        )
    except pa.ArrowInvalid as error:
        raise RefusedError from error


def _unread(position: int) -> str:
    return f"unread {position}"


def _refuse_odd_text(raw: pa.Table, header: Header, *, as_usual: bool) -> None:
    """Refuse line feeds inside fields, a value in the surplus column, and blanks before a quote that are still there.

    These may come before a field in quotes that Arrow has cut to pieces. In other columns they are no value at all.
    """
    for name, column in zip(raw.column_names, raw.columns, strict=True):
        if column.type != TEXT:
            continue
        values = only_chunk(column).dictionary
        if pc.any(pc.match_substring(values, "\n")).as_py():
            raise RefusedError
        if as_usual and name in ("station_id", "name"):
            behind_blanks = (value.lstrip() for value in values.to_pylist() if value[:1].isspace())
            if any(value.startswith('"') for value in behind_blanks):
                raise RefusedError
        if name == "surplus" and not header.spare and any(value.strip() for value in values.to_pylist()):
            raise RefusedError


def _refuse_remarks(raw: pa.Table, header: Header) -> None:
    first = next((name for name, position in header.positions.items() if position == 0), _unread(0))
    values = only_chunk(raw[first])
    if values.type in (TEXT, pa.string()) and any(map(is_mark, values.unique().to_pylist())):
        raise RefusedError

"""The typed path: many files of one header at once, by Arrow's CSV reader.

If a column has the feed's usual spelling, Arrow types it; otherwise Arrow returns text, and `values.py` interprets each
distinct value. It refuses anything that might not be a row, so that the exact path can find the reason.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from wrm_pipeline.domain.snapshot.buffers import joined
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
from wrm_pipeline.domain.snapshot.records import MAX_LINE_BYTES, MAX_LINES, RawSnapshot, RefusedError, micros_of
from wrm_pipeline.domain.snapshot.text import plain_text
from wrm_pipeline.domain.snapshot.values import BadValueError

_LINE_FEED = 10
_IS_BLANK = np.isin(np.arange(256), list(b" \t"))
# First bytes of lines that may be remarks after leading blanks: the characters that str.strip removes, in UTF-8.
_BLANKS_LOOKED_AT = 50
_ONE_THREAD_BYTES = 1 << 18
# A larger body is read in pieces; a hundred times Wrocław's 40 kB is still below it.
_LARGE_BODY_BYTES = 4 * 2**20
_BLANK_STARTS = b" \t\v\f\x1c\x1d\x1e\x1f\xc2\xe1\xe2\xe3"


def _remarks(separator: str) -> re.Pattern[bytes]:
    blank = b" " if separator == "\t" else b"[ \t]"
    return re.compile(rb"^%b*(?:#|src%b*(?=[%b\n])).*\n" % (blank, blank, separator.encode()), re.MULTILINE)


_REMARKS = {separator: _remarks(separator) for separator in SEPARATORS}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A file cut into header and data lines, each with its line end, without blank and remark lines.

    `doubtful`: these lines need a careful reading.
    """

    file: RawSnapshot
    header: Header
    data: bytes
    line_count: int
    remark_lines: int = 0
    doubtful: bool = False


def prepare(file: RawSnapshot) -> Prepared | None:
    """Cut a file for the typed path, or None if only the exact path can handle it."""
    if file.corrections or file.fault is not None or len(file.body) > _LARGE_BODY_BYTES:
        return None
    text = plain_text(file.body)
    if len(text) > MAX_LINES and text.count(b"\n") >= MAX_LINES:
        return None
    found = _cut_header(text)
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
    header, number, end = search.look(1, line), 1, len(line)
    while header is None and end < len(body) and not search.hopeless:
        start, number = end + 1, number + 1
        end = body.find(b"\n", start)
        end = len(body) if end < 0 else end
        header = search.look(number, body[start:end])
    return None if header is None else (header, body[end + 1 :], search.remark_lines)


def prepared_lines(file: RawSnapshot, header: Header, data: bytes, remark_lines: int = 0) -> Prepared | None:
    """Data lines for the typed path, or None if only the exact path can handle it."""
    # Arrow skips empty lines, but takes the first line for a header even if it is empty.
    data = data.strip(b"\n") + b"\n"
    characters = np.frombuffer(data, np.uint8)
    line_ends = np.flatnonzero(characters == _LINE_FEED)
    if len(data) > MAX_LINE_BYTES and np.diff(line_ends, prepend=-1).max() > MAX_LINE_BYTES:
        return None
    line_starts = data[:1] + characters[line_ends[:-1] + 1].tobytes()
    if b"\n" in line_starts:
        line_starts = line_starts.replace(b"\n", b"")
    line_count = len(line_starts)
    blank_starts = len(line_starts.translate(None, _BLANK_STARTS)) < line_count
    marks = _behind_blanks(characters, line_ends) if blank_starts else line_starts
    if b"#" in marks or b"s" in marks:
        data, found = _REMARKS[header.separator].subn(b"", data)
        data = data.lstrip(b"\n")
        line_count -= found
        remark_lines += found
    if not line_count or b"\r" in data:
        return None
    # Arrow reads 0x10 as 16 in whole-number columns; the contract permits decimal numbers only. An x is rare, and
    # searching for it alone is 30 times as fast.
    doubtful = (b"x" in data and b"0x" in data) or (b"X" in data and b"0X" in data)
    # A remark whose first field is quoted or preceded by blanks is found when the ids are checked, if they are first.
    if header.positions["station_id"] != 0:
        doubtful = doubtful or blank_starts or b'"' in line_starts
    # In a column that is not read, Arrow's interpretation of a quote after blanks would go unnoticed.
    doubtful = doubtful or (len(header.positions) < header.field_count and b'"' in data)
    return Prepared(file, header, data, line_count, remark_lines, doubtful)


def _behind_blanks(characters: npt.NDArray[np.uint8], line_ends: npt.NDArray[np.intp]) -> bytes:
    """The first non-blank byte of each line; the mark of a remark if that is far."""
    places = np.append(0, line_ends[:-1] + 1)
    for _ in range(_BLANKS_LOOKED_AT):
        found = characters[places]
        blank = _IS_BLANK[found]
        if not blank.any():
            return bytes(found)
        places = places + blank
    return b"#"


@dataclass(frozen=True, slots=True)
class _Way:
    """How to read several files: which columns as text, and how carefully.

    `finds_quotes`: quotes after blanks begin a field; otherwise they are refused. `finds_remarks`: a remark whose mark
    is quoted or preceded by blanks is found, and refused.
    """

    as_text: frozenset[str]
    finds_quotes: bool
    finds_remarks: bool


_AS_USUAL = _Way(frozenset(), finds_quotes=False, finds_remarks=False)
# Fields of a translated body are often empty, except for those that every row has.
_AS_TRANSLATED = _Way(frozenset(ARROW_TYPES) - {"lat", "lon", "bikes"}, finds_quotes=False, finds_remarks=False)
_AS_TEXT = _Way(frozenset(ARROW_TYPES), finds_quotes=False, finds_remarks=True)
_CAREFULLY = _Way(frozenset(ARROW_TYPES), finds_quotes=True, finds_remarks=True)


def typed_rows(run: Sequence[Prepared]) -> pa.Table:
    """All rows of files that share a header, typed and checked.

    Raises:
        RefusedError: in any case of doubt.
    """
    for way in _ways(run):
        try:
            raw = _read(run, way)
            if way.finds_remarks:
                _refuse_remarks(raw, run[0].header)
            file_micros = np.repeat([micros_of(p.file.file_timestamp) for p in run], [p.line_count for p in run])
            return row_columns(raw, file_micros)
        except (RefusedError, BadValueError):
            continue
    raise RefusedError


def _ways(run: Sequence[Prepared]) -> Iterator[_Way]:
    """The readings to try. A feed spells all of a day's files alike, so the first file determines the best one."""
    if not any(prepared.doubtful for prepared in run):
        if len(run) == 1:
            way = _AS_USUAL if run[0].file.kind.translate is None else _AS_TRANSLATED
        else:
            way = _AS_USUAL if _is_read_as_usual(run[0]) else _way_for(run[0])
        if way != _CAREFULLY:
            yield way
    yield _CAREFULLY


def _is_read_as_usual(prepared: Prepared) -> bool:
    try:
        refuse_out_of_range(_read([prepared], _AS_USUAL))
    except RefusedError:
        return False
    return True


def _way_for(prepared: Prepared) -> _Way:
    """The cheapest reading for a file with an unusual spelling."""
    for way in (_AS_TEXT, _CAREFULLY):
        try:
            raw = _read([prepared], way)
        except RefusedError:
            continue
        found = way.as_text & set(raw.column_names)
        unusual = (name for name in found if not is_usual(name, only_chunk(raw[name]).dictionary))
        return replace(way, as_text=frozenset(unusual))
    return _CAREFULLY


def _read(run: Sequence[Prepared], way: _Way) -> pa.Table:
    """The fields of all files, one row per line."""
    header = run[0].header
    # A last line with an unclosed quote would swallow the end of the input unnoticed; the first line, repeated at the
    # end, is swallowed instead, and then a row is missing.
    first_line = run[0].data[: run[0].data.index(b"\n") + 1]
    parts = [*(p.data for p in run), first_line]
    buffer = joined(parts, header.separator, quotes_behind_blanks=way.finds_quotes)
    line_count = sum(p.line_count for p in run)
    fields = split_line(decode_line(first_line[:-1]), header.separator, header.field_count + 1)
    surplus = fields is not None and len(fields) == header.field_count + 1
    # A row longer than a block is refused, so a single file is one block.
    block_bytes = max(1 << 22, len(buffer) if len(run) == 1 else 0)
    raw = _read_csv(buffer, header, block_bytes, way, surplus=surplus)
    if raw.num_rows != line_count + 1:
        raise RefusedError
    raw = raw.slice(0, line_count).unify_dictionaries().combine_chunks()
    _refuse_odd_text(raw, header, quotes_behind_blanks=not way.finds_quotes)
    return raw


def _read_csv(buffer: bytes, header: Header, block_bytes: int, way: _Way, *, surplus: bool) -> pa.Table:
    names = [_unread(position) for position in range(header.field_count)]
    for name, position in header.positions.items():
        names[position] = name
    wanted = list(header.positions)
    if surplus:
        names.append("surplus")
        wanted.append("surplus")
    if way.finds_remarks and names[0] not in wanted:
        wanted.append(names[0])
    types = {name: TEXT if name in way.as_text else ARROW_TYPES.get(name, TEXT) for name in wanted}
    types["combined"] = pa.string()
    try:
        return pyarrow.csv.read_csv(
            pa.BufferReader(buffer),
            # Starting threads takes longer than reading one file.
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


def _refuse_odd_text(raw: pa.Table, header: Header, *, quotes_behind_blanks: bool) -> None:
    """Refuse line feeds inside fields, a value in the surplus column, and quotes after blanks if there may be any.

    These may begin a field that Arrow has split. In columns other than text they are not valid.
    """
    for name, column in zip(raw.column_names, raw.columns, strict=True):
        if column.type != TEXT:
            continue
        values = only_chunk(column).dictionary
        if pc.any(pc.match_substring(values, "\n")).as_py():
            raise RefusedError
        if quotes_behind_blanks:
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

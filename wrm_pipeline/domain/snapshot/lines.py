"""The grammar of a line and of the header: fields, remarks, columns by name, and where the table begins."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from wrm_pipeline.domain.snapshot.records import (
    COMBINED_COLUMN,
    ID_COLUMNS,
    MAX_COLUMNS,
    MAX_HEADER_BYTES,
    MAX_LINES_BEFORE_HEADER,
    OPTIONAL_COLUMNS,
    REQUIRED_COLUMNS,
    FileFault,
)

# In the order in which they are tried on a header.
SEPARATORS = (",", ";", "\t")

# Blanks, quotes, and invisible characters.
_AROUND_NAMES = " \t\r\n\v\f\x00\x85\xa0\xad\u1680\u2028\u2029\u202f\u205f\u3000\"'`„”“’‘«»" + "".join(
    map(chr, (*range(0x1C, 0x20), *range(0x2000, 0x2010), *range(0x2060, 0x2065), 0x180E, 0xFEFF))
)
# Longer headers do not recur, and would fill the cache.
_CACHED_HEADER_BYTES = 16_384


def _field_pattern(separator: str) -> re.Pattern[str]:
    """A quoted field (blanks before it, doubled quotes inside) and what follows it; or an unquoted one."""
    blank = rf"[^\S\r\n{separator}]*+"
    return re.compile(
        rf'(?:{blank}"((?:[^"]++|"")*+)"([^{separator}]*+)|((?!{blank}")[^{separator}]*+))({separator}|\Z)'
    )


_FIELDS = {separator: _field_pattern(separator) for separator in SEPARATORS}


@dataclass(frozen=True, slots=True)
class Header:
    """Positions of the columns that are read, by name; `combined` and `station_id` among them.

    `spare` means that the header itself ends in an empty field, so that a row may have any value there.
    """

    separator: str
    field_count: int
    positions: Mapping[str, int]
    spare: bool = False


class HeaderError(ValueError):
    """A line that starts like a header but cannot be one; the message says why."""

    error_type = "file_no_header"


class TooManyColumnsError(HeaderError):
    """A header of more than MAX_COLUMNS columns."""

    error_type = "file_over_limit"

    def __init__(self, count: int) -> None:
        super().__init__(
            f"it has {count} columns; at most {MAX_COLUMNS} are read. The body is kept as it is; if it is right, raise "
            "MAX_COLUMNS in wrm_pipeline/domain/snapshot/records.py"
        )


class HeaderTooLongError(HeaderError):
    """A header of more than MAX_HEADER_BYTES."""

    error_type = "file_over_limit"

    def __init__(self) -> None:
        super().__init__(
            f"it has more than {MAX_HEADER_BYTES} bytes, and no more are read. The body is kept as it is; if it is "
            "right, raise MAX_HEADER_BYTES in wrm_pipeline/domain/snapshot/records.py"
        )


def decode_line(line: bytes) -> str:
    """Decode UTF-8, or else cp1250; bytes that are neither become U+FFFD (the raw object keeps them)."""
    line = line.removesuffix(b"\r")
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("cp1250", errors="replace")


def read_header(line: bytes) -> Header | None:
    """Columns by header name, or None if the line is not a header.

    Raises:
        HeaderError: an id column is there, others are missing or too many, or the line is too long.
    """
    if len(line) <= _CACHED_HEADER_BYTES:
        return _cached_header(line)
    if len(line) <= MAX_HEADER_BYTES:
        return _find_header(line)
    try:
        starts_like_one = _find_header(line[:MAX_HEADER_BYTES]) is not None
    except HeaderError:
        starts_like_one = True
    if starts_like_one:
        raise HeaderTooLongError
    return None


@lru_cache(maxsize=256)
def _cached_header(line: bytes) -> Header | None:
    return _find_header(line)


def _find_header(line: bytes) -> Header | None:
    text = decode_line(line)
    problem: HeaderError | None = None
    for separator in SEPARATORS:
        if separator not in text:
            continue
        try:
            header = _header_of(text, separator)
        except HeaderError as error:
            problem = problem or error
            continue
        if header is not None:
            return header
    if problem is not None:
        raise problem
    return None


def _header_of(text: str, separator: str) -> Header | None:
    # An unclosed quote is not part of a name.
    names = split_line(text, separator, MAX_COLUMNS) or text.split(separator, MAX_COLUMNS)
    names = [name.strip(_AROUND_NAMES).lower() for name in names]
    id_position = next((names.index(name) for name in ID_COLUMNS if name in names), None)
    if id_position is None or len(names) < 2:
        return None
    if len(names) > MAX_COLUMNS:
        raise TooManyColumnsError(text.count(separator) + 1)
    missing = [name for name in REQUIRED_COLUMNS if name not in names]
    if missing:
        raise HeaderError(f"the header lacks the column(s) {', '.join(missing)}")
    positions = {name: names.index(name) for name in (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS) if name in names}
    combined = names.index(COMBINED_COLUMN) if COMBINED_COLUMN in names else 1
    if combined == id_position or combined in positions.values():
        raise HeaderError(f"the header lacks the column {COMBINED_COLUMN}, and its second column is a different one")
    spare = not names[-1] and combined != len(names) - 1
    return Header(separator, len(names) - spare, positions | {"station_id": id_position, "combined": combined}, spare)


def split_line(line: str, separator: str, most: int) -> list[str] | None:
    """The fields of one CSV line, or None if a quote is not closed or the line contains a line break.

    Of a line with more than `most` fields, just enough are returned to show it, and the rest is not parsed.
    """
    if "\r" in line or "\n" in line:
        return None
    if '"' not in line:
        return line.split(separator, most)
    match_field = _FIELDS[separator].match
    fields: list[str] = []
    position = 0
    while match := match_field(line, position):
        quoted, rest, plain, end = match.groups()
        fields.append(plain if quoted is None else quoted.replace('""', '"') + rest)
        if not end or len(fields) > most:
            return fields
        position = match.end()
    return None


def is_remark(line: str, separator: str) -> bool:
    """Whether the first field is `src` or starts with `#`, in quotes or not; the rest does not matter."""
    first = line.partition(separator)[0].strip()
    if first.startswith('"'):
        fields = split_line(line, separator, 0)
        return fields is not None and is_mark(fields[0])
    return is_mark(first)


def is_mark(field: str) -> bool:
    """Whether a line with this first field is a remark."""
    field = field.strip()
    return field == "src" or field.startswith("#")


def _may_be_remark(line: str) -> bool:
    """The same before a header has determined the separator."""
    if line.lstrip()[:1] not in ("#", "s", '"'):
        return False
    return any(is_remark(line, separator) for separator in SEPARATORS)


class HeaderSearch:
    """Examines lines until it finds a header; up to MAX_LINES_BEFORE_HEADER lines before it count as remarks."""

    def __init__(self) -> None:
        self.remark_lines = 0
        self._other_lines = 0
        self._first_other: tuple[int, bytes] | None = None
        self._problem: FileFault | None = None

    def look(self, number: int, line: bytes) -> Header | None:
        """The header, if this line is one. Lines are numbered from 1; blank ones are ignored."""
        line = line.rstrip(b"\r")
        if not line.strip():
            return None
        try:
            header = read_header(line)
        except HeaderError as error:
            header = None
            self._problem = self._problem or FileFault(error.error_type, f"Line {number} is not a header: {error}.")
        if header is not None:
            self.remark_lines += self._other_lines
            return header
        if _may_be_remark(decode_line(line[:1_000])):
            self.remark_lines += 1
        else:
            self._first_other = self._first_other or (number, line)
            self._other_lines += 1
        return None

    @property
    def hopeless(self) -> bool:
        """Whether to give up."""
        return self._other_lines > MAX_LINES_BEFORE_HEADER

    @property
    def only_remarks(self) -> bool:
        """Whether every line so far was a remark."""
        return self._first_other is None and self._problem is None

    @property
    def fault(self) -> FileFault:
        """Why there is no header."""
        if self._problem is not None:
            return self._problem
        if self._first_other is not None:
            return _no_header(*self._first_other)
        if self.remark_lines:
            return FileFault("file_no_header", "The body contains only remark lines.")
        return FileFault("file_empty", "The body is empty.")


def _no_header(line_number: int, line: bytes) -> FileFault:
    start = line[:80]
    if b"\x00" in line or line.startswith(b"\x1f\x8b") or sum(byte < 9 for byte in start) > len(start) // 10:
        return FileFault("file_not_text", f"The body is not text; it starts with the bytes {start[:16]!r}.")
    kind = "an HTML page" if line.lstrip().startswith(b"<") else "not CSV with an id column"
    return FileFault("file_no_header", f"No header in line {line_number}; the body looks like {kind}: {start!r}.")

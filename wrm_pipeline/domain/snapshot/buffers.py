"""Prepares the bytes of several files for Arrow's CSV reader: UTF-8, and quotes at the start of their fields."""

import re
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from wrm_pipeline.domain.snapshot.lines import SEPARATORS, decode_line
from wrm_pipeline.domain.snapshot.records import RefusedError

_LINE_FEED, _QUOTE, _SPACE = b'\n" '
_CHUNK_BYTES = 1 << 19
# How many blanks before a quote are moved at once.
_BLANKS_MOVED = 10
# The UTF-8 of each byte of cp1250: three bytes, padded with 0, and how many follow the first.
_CP1250 = [bytes([byte]).decode("cp1250", "replace").encode() for byte in range(256)]
_CP1250_UTF8 = np.array([list(code.ljust(3, b"\0")) for code in _CP1250], np.uint8)
_CP1250_MORE_BYTES = np.array([len(code) - 1 for code in _CP1250])
# The UTF-8 of blanks beyond ASCII.
_RARE_BLANKS = rb"[\x1c-\x1f]|\xc2[\x85\xa0]|\xe1\x9a\x80|\xe2\x80[\x80-\x8a\xa8\xa9\xaf]|\xe2\x81\x9f|\xe3\x80\x80"


def _field_pattern(separator: str) -> re.Pattern[bytes]:
    """A field of a line: blanks, content, and the separator or the end; no match if a quote is not closed."""
    sep = separator.encode()
    blank = rb"(?:[%b]|%b)" % (b" \v\f" if separator == "\t" else b" \t\v\f", _RARE_BLANKS)
    return re.compile(rb'%b*+((?:"(?:[^"]++|"")*+"[^%b]*+|[^"%b][^%b]*+)?(?:%b|\Z))' % (blank, sep, sep, sep, sep))


_FIELDS = {separator: _field_pattern(separator) for separator in SEPARATORS}


def _table(characters: bytes) -> npt.NDArray[np.bool_]:
    """For each byte, whether it is one of these."""
    return np.isin(np.arange(256), list(characters))


_BLANKS = {separator: _table(b" " if separator == "\t" else b" \t") for separator in SEPARATORS}
_ENDS_FIELD = {separator: _table(separator.encode() + b"\n") for separator in SEPARATORS}
# Or the first half of a doubled quote.
_BEGINS_FIELD = {separator: _table(separator.encode() + b'\n"') for separator in SEPARATORS}


def joined(parts: Sequence[bytes], separator: str, *, quotes_behind_blanks: bool) -> bytes:
    """Lines in UTF-8 and, with `quotes_behind_blanks`, without blanks before quotes.

    Args:
        parts: Lines, each in UTF-8 or else in cp1250, and ending in a line feed.
        separator: The character between fields.
        quotes_behind_blanks: Whether there may be quotes preceded by blanks.

    Raises:
        RefusedError: a quote behind blanks is not closed.
    """
    # A line is decoded as a whole: in a column that is not read, cp1250 would not be noticed later.
    if not quotes_behind_blanks and _is_utf8(parts[0]):
        buffer = b"".join(parts)
        if _is_utf8(buffer):
            return buffer
    ready: list[bytes | memoryview] = []
    for chunk in _chunks(parts):
        text = chunk if _is_utf8(chunk) else _as_utf8(chunk)
        ready.append(_without_blanks_before_quotes(text, separator) if quotes_behind_blanks else text)
    return b"".join(ready)


def _chunks(parts: Sequence[bytes]) -> Iterator[bytes]:
    """A few parts at a time: intermediate results stay in the processor's cache, and in memory already in use."""
    chunk: list[bytes] = []
    chunk_bytes = 0
    for part in parts:
        chunk.append(part)
        chunk_bytes += len(part)
        if chunk_bytes >= _CHUNK_BYTES:
            yield b"".join(chunk)
            chunk, chunk_bytes = [], 0
    yield b"".join(chunk)


def _is_utf8(buffer: bytes) -> bool:
    """Whether all of it is UTF-8."""
    offsets = pa.py_buffer(np.array([0, len(buffer)], dtype=np.int64))
    try:
        pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(buffer)]).cast(pa.large_string())
    except pa.ArrowInvalid:
        return False
    return True


def _as_utf8(buffer: bytes) -> bytes:
    """Lines, each in UTF-8 or else in cp1250, as UTF-8; each line ends in a line feed."""
    characters = np.frombuffer(buffer, np.uint8)
    high = np.flatnonzero(characters >= 0x80)
    if _some_line_is_utf8(buffer, characters, high):
        return b"".join(decode_line(line).encode() + b"\n" for line in buffer.split(b"\n")[:-1])
    codes = characters[high]
    more, rest = _CP1250_MORE_BYTES[codes], _CP1250_UTF8[codes, 1:]
    rest_at = np.repeat(high + 1, more)
    rest_at += np.arange(len(rest_at))
    longer = np.empty(len(characters) + len(rest_at), np.uint8)
    is_served = np.ones(len(longer), bool)
    is_served[rest_at] = False
    longer[is_served] = characters
    longer[rest_at] = rest[rest != 0]
    longer[high + np.cumsum(more) - more] = _CP1250_UTF8[codes, 0]
    return longer.tobytes()


def _some_line_is_utf8(buffer: bytes, characters: npt.NDArray[np.uint8], high: npt.NDArray[np.intp]) -> bool:
    """Whether a line with bytes beyond ASCII is UTF-8."""
    places = high[:-1][np.diff(high) == 1]
    first, second, third = characters[places], characters[places + 1], characters[places + 2]
    # Bytes that cannot begin a UTF-8 character are skipped; at least a line feed follows.
    begins = (first >= 0xC2) & (second < 0xC0) & ((first < 0xE0) | (third >= 0x80) & (third < 0xC0))
    end = -1
    for place in places[begins].tolist():
        if place < end:
            continue
        start, end = buffer.rfind(b"\n", 0, place) + 1, buffer.index(b"\n", place)
        try:
            buffer[start:end].decode()
        except UnicodeDecodeError:
            continue
        return True
    return False


def _without_blanks_before_quotes(buffer: bytes, separator: str) -> bytes | memoryview:
    """Make quoted fields begin with the quote.

    Raises:
        RefusedError: a quote behind blanks is not closed.
    """
    characters = np.frombuffer(buffer, np.uint8)
    quotes = np.flatnonzero(characters == _QUOTE)
    moved = _with_blanks_moved(buffer, characters, quotes[0::2], separator)
    if moved is not None:
        return moved
    before = characters[quotes - 1]
    # Blanks, and last bytes of those beyond ASCII.
    candidates = quotes[((before <= _SPACE) & (before != _LINE_FEED)) | (before >= 0x80)]
    parts: list[bytes] = []
    end = 0
    for place in candidates.tolist():
        if place < end:
            continue
        start = buffer.rfind(b"\n", 0, place) + 1
        parts.append(buffer[end:start])
        end = buffer.index(b"\n", place)
        parts.extend(_fields_without_blanks(buffer[start:end], separator))
    return b"".join([*parts, buffer[end:]])


def _fields_without_blanks(line: bytes, separator: str) -> Iterator[bytes]:
    """The fields of a line, each with its separator and without the blanks before it."""
    end = 0
    for found in _FIELDS[separator].finditer(line):
        if found.start() != end:
            raise RefusedError
        end = found.end()
        yield found[1]
    if end != len(line):
        raise RefusedError


def _with_blanks_moved(
    buffer: bytes, characters: npt.NDArray[np.uint8], opening: npt.NDArray[np.intp], separator: str
) -> bytes | memoryview | None:
    """The same fields, with the blanks before a quote moved to the end of the previous field: `, "` becomes ` ,"`.

    `opening` is every other quote. None if one of them neither begins a field nor is half of a doubled one: then they
    may not be the opening ones.
    """
    # Index -1, before the first character, is the line feed at the end.
    behind = opening[~_BEGINS_FIELD[separator][characters[opening - 1]]]
    if not len(behind):
        return buffer
    ends = behind - 1
    for _ in range(_BLANKS_MOVED):
        is_blank = _BLANKS[separator][characters[ends]]
        if not is_blank.any():
            break
        ends = ends - is_blank
    marks = characters[ends]
    if not _ENDS_FIELD[separator][marks].all():
        return None
    changed = characters.copy()
    changed[ends] = _SPACE
    changed[behind - 1] = marks
    if ends[0] < 0:
        changed[-1] = _LINE_FEED
        return changed[behind[0] :].data
    return changed.data

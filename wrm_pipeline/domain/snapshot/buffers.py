"""The bytes of a run of files as Arrow's CSV reader wants them: UTF-8, and quotes at the start of their fields."""

import re

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from wrm_pipeline.domain.snapshot.lines import SEPARATORS, decode_line
from wrm_pipeline.domain.snapshot.typed_refusal import RefusedError

_LINE_FEED, _QUOTE, _SPACE = b'\n" '
_CP1250 = [bytes([byte]).decode("cp1250", "replace").encode() for byte in range(256)]
# The UTF-8 of blanks beyond ASCII.
_RARE_BLANKS = rb"[\x1c-\x1f]|\xc2[\x85\xa0]|\xe1\x9a\x80|\xe2\x80[\x80-\x8a\xa8\xa9\xaf]|\xe2\x81\x9f|\xe3\x80\x80"


def _field_patterns(separator: str) -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
    """Fields, of which the first group is the blanks before them; and an opening quote that has kept its blanks."""
    sep = separator.encode()
    blank = rb"(?:[%b]|%b)" % (b" \v\f" if separator == "\t" else b" \t\v\f", _RARE_BLANKS)
    fields = rb'(%b*+)((?:"(?:[^"\n]|"")*+"[^%b\n]*+|[^"%b\n][^%b\n]*+)?)(%b|$)' % (blank, sep, sep, sep, sep)
    kept = rb'(?:^|%b)%b+"' % (sep, blank)
    return re.compile(fields, re.MULTILINE), re.compile(kept, re.MULTILINE)


_FIELD_PATTERNS = {separator: _field_patterns(separator) for separator in SEPARATORS}


def is_utf8(buffer: bytes) -> bool:
    """Whether all of it is UTF-8."""
    offsets = pa.py_buffer(np.array([0, len(buffer)], dtype=np.int64))
    try:
        pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(buffer)]).cast(pa.large_string())
    except pa.ArrowInvalid:
        return False
    return True


def as_utf8(buffer: bytes) -> bytes:
    """Lines, each in UTF-8 or else in cp1250, as UTF-8; each line ends in a line feed."""
    high = np.flatnonzero(np.frombuffer(buffer, np.uint8) >= 0x80)
    if _some_line_is_utf8(buffer, high):
        return b"".join(decode_line(line).encode() + b"\n" for line in buffer.split(b"\n")[:-1])
    parts: list[bytes] = []
    end = 0
    for place in high.tolist():
        parts += (buffer[end:place], _CP1250[buffer[place]])
        end = place + 1
    return b"".join([*parts, buffer[end:]])


def _some_line_is_utf8(buffer: bytes, high: npt.NDArray[np.intp]) -> bool:
    """Whether a line with bytes beyond ASCII is UTF-8: in none of these, two such bytes touch."""
    end = -1
    for place in high[:-1][np.diff(high) == 1].tolist():
        if place < end:
            continue
        start, end = buffer.rfind(b"\n", 0, place) + 1, buffer.index(b"\n", place)
        try:
            buffer[start:end].decode()
        except UnicodeDecodeError:
            continue
        return True
    return False


def without_blanks_before_quotes(buffer: bytes, separator: str) -> bytes:
    """Fields in quotes begin with the quote.

    Raises:
        RefusedError: a quote behind blanks is not closed.
    """
    characters = np.frombuffer(buffer, np.uint8)
    quotes = np.flatnonzero(characters == _QUOTE)
    before = characters[np.maximum(quotes - 1, 0)]
    # Blanks, and last bytes of those beyond ASCII.
    candidates = quotes[((before <= _SPACE) & (before != _LINE_FEED)) | (before >= 0x80)]
    if not len(candidates):
        return buffer
    behind_spaces = _quotes_behind_a_space(characters, quotes, separator)
    if behind_spaces == 0:
        return buffer
    if behind_spaces is not None:
        without = buffer.replace(f'{separator} "'.encode(), f'{separator}"'.encode())
        if len(buffer) - len(without) == behind_spaces:
            return without
    fields, kept = _FIELD_PATTERNS[separator]
    parts: list[bytes] = []
    end = 0
    for place in candidates.tolist():
        if place < end:
            continue
        start = buffer.rfind(b"\n", 0, place) + 1
        parts.append(buffer[end:start])
        end = buffer.index(b"\n", place)
        line = fields.sub(rb"\2\3", buffer[start:end])
        if kept.search(line):
            raise RefusedError
        parts.append(line)
    return b"".join([*parts, buffer[end:]])


def _quotes_behind_a_space(
    characters: npt.NDArray[np.uint8], quotes: npt.NDArray[np.intp], separator: str
) -> int | None:
    """How many quotes open a field behind a separator and one space; None if others open one behind other blanks.

    Where every other quote begins a field, or is half of a doubled one, these are the ones that open.
    """
    opening = quotes[0::2]
    before, further = characters[np.maximum(opening - 1, 0)], characters[np.maximum(opening - 2, 0)]
    behind_space = (before == _SPACE) & (further == ord(separator))
    usual = (before == ord(separator)) | (before == _LINE_FEED) | (before == _QUOTE) | (opening == 0)
    return int(behind_space.sum()) if (usual | behind_space).all() else None

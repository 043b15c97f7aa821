"""Splits a body into lines: one encoding, line feeds as line ends, large bodies in pieces."""

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np

from wrm_pipeline.domain.snapshot.lines import HeaderError, read_header
from wrm_pipeline.domain.snapshot.records import MAX_LINE_BYTES, MAX_RAW_DATA_BYTES

BOM = codecs.BOM_UTF8
UTF16_BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

# A larger body is read in pieces, which are shorter than MAX_LINE_BYTES, so that no piece contains a line that is too
# long.
PIECE_BYTES = MAX_LINE_BYTES // 2
_BLANKS = b" \t\r\v\f"
_LINE = re.compile(rb"^[ \t\r\v\f]*+[^ \t\r\v\f\n][^\n]*", re.MULTILINE)

# Carriage returns before a line feed, matched once per run of them.
_RETURNS_AND_FEED = re.compile(rb"(?<!\r)\r++\n")
_LINE_ENDS = rb"(?<!\r)\r++\n|[\r\n]"
_LINE_FEED, _RETURN = b"\n\r"
# How far after a carriage return a header is searched for.
_LINES_LOOKED_AT, _RETURNS_LOOKED_AT = 50, 50


@dataclass(frozen=True, slots=True)
class Piece:
    """Some lines of a body, the first of which has the number `first_line`; each line ends in a line feed.

    `overlong` is the length in bytes of the line, if this is only the start of a line that is too long to be read.
    """

    first_line: int
    data: bytes
    overlong: int = 0


@dataclass(frozen=True, slots=True)
class RawLine:
    """A line's position in the raw object (bytes, without its line end), and its text."""

    number: int
    offset: int
    length: int
    text: str
    encoding: str


def plain_text(body: bytes) -> bytes:
    """A body without BOM, with line feeds as line ends; each line is still UTF-8 or cp1250, unless it was UTF-16."""
    if body[:2] in UTF16_BOMS:
        body = body.decode("utf-16", "replace").encode("utf-8", "replace")
    body = body.removeprefix(BOM)
    return _with_line_feeds(body, ends_lines_with_returns(body)) if b"\r" in body else body


def _with_line_feeds(text: bytes, returns_end_lines: bool) -> bytes:
    if returns_end_lines:
        # Line feeds, too, are mostly before the header, if anywhere.
        end = text.rfind(b"\n") + 1
        return (_RETURNS_AND_FEED.sub(b"\n", text[:end]) + text[end:]).replace(b"\r", b"\n")
    characters = np.frombuffer(text, np.uint8)
    following = characters[np.flatnonzero(characters[:-1] == _RETURN) + 1]
    alone = (following != _LINE_FEED) & (following != _RETURN)
    if text.endswith(b"\r") or alone.any():
        return _RETURNS_AND_FEED.sub(b"\n", text)
    return text.translate(None, b"\r")


def ends_lines_with_returns(text: bytes) -> bool:
    """Whether carriage returns alone end lines: they do if one ends the header. Otherwise one invalidates its line."""
    if b"\r" not in text:
        return False
    start = 0
    for _ in range(_LINES_LOOKED_AT):
        end = text.find(b"\n", start)
        line = text[start : end if end >= 0 else len(text)]
        *behind_returns, rest = line.rstrip(b"\r").split(b"\r", _RETURNS_LOOKED_AT)
        # Without a line feed, there may be just a header.
        if any(map(_is_header, behind_returns)) or (end < 0 and line.endswith(b"\r") and _is_header(rest)):
            return True
        if end < 0 or _is_header(rest):
            return False
        start = end + 1
    return False


def lines_of_piece(piece: Piece) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, each with its number; as an iterator, as there may be a million."""
    number, end, data = piece.first_line, 0, piece.data
    for found in _LINE.finditer(data):
        number += data.count(b"\n", end, found.start())
        end = found.end()
        yield number, found[0]


def count_lines(body: bytes) -> int:
    """The number of lines that are not blank."""
    count = 0
    for piece in pieces(body):
        ends = np.frombuffer(piece.data.translate(None, _BLANKS), np.uint8) == _LINE_FEED
        count += 1 if piece.overlong else int(np.count_nonzero(ends[1:] & ~ends[:-1]))
    return count


def _is_header(line: bytes) -> bool:
    try:
        return read_header(line) is not None
    except HeaderError:
        return False


def pieces(body: bytes) -> Iterator[Piece]:
    """A body's lines in order: one piece, or several of a large body."""
    if len(body) <= PIECE_BYTES:
        data = plain_text(body)
        yield Piece(1, data if data.endswith(b"\n") else data + b"\n")
        return
    yield from _Cutter(body).pieces()


class _Cutter:
    """Cuts a large body, holding only one piece and one unfinished line at a time."""

    def __init__(self, body: bytes) -> None:
        self._chunks = _utf8_chunks(body)
        self._number = 1
        self._begun: list[bytes] = []
        self._begun_bytes = 0

    def pieces(self) -> Iterator[Piece]:
        returns_end_lines: bool | None = None
        held = b""
        for following in self._chunks:
            chunk = held + following
            if returns_end_lines is None:
                returns_end_lines = ends_lines_with_returns(chunk)
            # A carriage return at the end may be half of a line end.
            held = b"\r" if chunk.endswith(b"\r") else b""
            yield from self._cut(_with_line_feeds(chunk.removesuffix(held), returns_end_lines))
        if held:
            yield from self._cut(b"\n" if returns_end_lines else held)
        if self._begun_bytes:
            yield from self._cut(b"\n")

    def _cut(self, text: bytes) -> Iterator[Piece]:
        end = text.find(b"\n")
        if end < 0:
            self._keep(text)
            return
        if self._begun_bytes:
            self._keep(text[: end + 1])
            yield self._ended_line()
            text = text[end + 1 :]
            end = 0
        whole = text.rfind(b"\n") + 1
        if whole:
            yield Piece(self._number, text[:whole])
            self._number += text.count(b"\n")
        self._keep(text[whole:])

    def _keep(self, text: bytes) -> None:
        if self._begun_bytes <= MAX_LINE_BYTES:
            self._begun.append(text)
        self._begun_bytes += len(text)
        if self._begun_bytes > MAX_LINE_BYTES and len(self._begun) > 1:
            self._begun = [b"".join(self._begun)[: MAX_RAW_DATA_BYTES + 1]]

    def _ended_line(self) -> Piece:
        overlong = self._begun_bytes if self._begun_bytes > MAX_LINE_BYTES else 0
        piece = Piece(self._number, b"".join(self._begun)[: MAX_RAW_DATA_BYTES + 1 if overlong else None], overlong)
        self._begun, self._begun_bytes = [], 0
        self._number += 1
        return piece


def _utf8_chunks(body: bytes) -> Iterator[bytes]:
    decoder = None
    if body[:2] in UTF16_BOMS:
        decoder = codecs.getincrementaldecoder("utf-16")("replace")
    first = True
    for start in range(0, len(body), PIECE_BYTES):
        chunk = body[start : start + PIECE_BYTES]
        if decoder is not None:
            chunk = decoder.decode(chunk, start + PIECE_BYTES >= len(body)).encode("utf-8", "replace")
        yield chunk.removeprefix(BOM) if first else chunk
        first = False


def raw_lines(body: bytes) -> Iterator[RawLine]:
    """The lines of a body with their places in it, numbered as `pieces` numbers them."""
    if body[:2] in UTF16_BOMS:
        yield from _utf16_lines(body)
        return
    start = len(body) - len(body.removeprefix(BOM))
    ends = re.finditer(_LINE_ENDS if ends_lines_with_returns(body[start:]) else b"\n", body[start:])
    number, position = 1, start
    for end in chain(ends, [None]):
        raw = body[position : start + end.start() if end else len(body)].rstrip(b"\r")
        try:
            text, encoding = raw.decode(), "utf-8"
        except UnicodeDecodeError:
            text, encoding = raw.decode("cp1250", "replace"), "cp1250"
        yield RawLine(number, position, len(raw), text, encoding)
        if end:
            number, position = number + 1, start + end.end()


def _utf16_lines(body: bytes) -> Iterator[RawLine]:
    codec = "utf-16-le" if body[:2] == codecs.BOM_UTF16_LE else "utf-16-be"
    text = body.decode("utf-16", "replace")
    returns = ends_lines_with_returns(text.encode("utf-8", "replace"))
    offset, position = 2, 0
    ends = re.finditer(_LINE_ENDS.decode() if returns else "\n", text)
    for number, end in enumerate(chain(ends, [None]), start=1):
        line = text[position : end.start() if end else len(text)]
        kept = line.rstrip("\r")
        yield RawLine(number, offset, len(kept.encode(codec)), kept, "utf-16")
        offset += len((line + (end[0] if end else "")).encode(codec))
        position = end.end() if end else len(text)

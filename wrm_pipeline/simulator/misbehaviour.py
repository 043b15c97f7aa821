"""Faults of a feed by name: from a refused request to one bad row in a good body."""

import codecs
import csv
import gzip
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

# Content type of a good body. Without a charset, to find clients that guess one (ISO-8859-1).
CONTENT_TYPE = "text/csv"

# Positions of the columns in a snapshot.
_ID, _REPORT, _NAME, _LAT, _LON, _BIKES, _SPACES = range(7)
_INSTALLED, _LOCKED, _TEMPORARY, _DOCKS, _FLAG, _PEDELECS = range(7, 13)
_OPTIONAL = (_INSTALLED, _LOCKED, _TEMPORARY, _FLAG, _PEDELECS)


class Misbehaviour(StrEnum):
    """A fault that the server can show; the value is what `misbehave=` takes."""

    # Refusals
    FORBIDDEN = "403"
    NOT_FOUND = "404"
    REQUEST_TIMEOUT = "408"
    TOO_MANY_REQUESTS = "429"
    SERVER_ERROR = "500"
    UNAVAILABLE = "503"
    REDIRECT_LOOP = "redirect_loop"
    # Something else under HTTP 200
    HTML = "html"
    EMPTY = "empty"
    JSON = "json"
    GZIP = "gzip"
    NO_HEADER = "no_header"
    HEADER_ONLY = "header_only"
    # On the wire
    TRUNCATED = "truncated"
    TRUNCATED_SILENTLY = "truncated_silently"
    SLOW = "slow"
    HANG = "hang"
    HANG_IN_BODY = "hang_in_body"
    RESET = "reset"
    OVERSIZED = "oversized"
    FROZEN = "frozen"
    # Encodings
    CP1250 = "cp1250"
    MOJIBAKE = "mojibake"
    HTML_ENTITIES = "html_entities"
    WRONG_CHARSET = "wrong_charset"
    BOM = "bom"
    CRLF = "crlf"
    # The table's shape
    REORDERED_COLUMNS = "reordered_columns"
    MISSING_OPTIONAL_COLUMNS = "missing_optional_columns"
    EXTRA_COLUMN = "extra_column"
    REMARKS = "remarks"
    REMARK_BEFORE_HEADER = "remark_before_header"
    REPEATED_HEADER = "repeated_header"
    # Rows
    UNCLOSED_QUOTE = "unclosed_quote"
    DUPLICATE_STATION = "duplicate_station"
    DEAD_LETTER_ROWS = "dead_letter_rows"


@dataclass(frozen=True, slots=True)
class Tuning:
    """Parameters of the faults.

    Attributes:
        retry_after: The `Retry-After` header of 429 and 503: seconds, an HTTP date, or "" for none.
        hang_s: How long `hang` and `hang_in_body` are silent, seconds; then they close the connection.
        drip_bytes: Bytes that `slow` sends at a time.
        drip_pause_s: Seconds between two of them.
        oversize_bytes: Size of an `oversized` body, sent without a Content-Length. 64 MiB is 1,600 snapshots.
    """

    retry_after: str = "2"
    hang_s: float = 30.0
    drip_bytes: int = 512
    drip_pause_s: float = 0.5
    oversize_bytes: int = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """The bytes to send, and how.

    Attributes:
        body: The bytes to send.
        status: HTTP status code; 0 sends nothing at all, not even a status line.
        content_type: As in the header.
        headers: More headers, as (name, value).
        declared_bytes: The Content-Length; -1 for none, so that only the end of the connection ends the body.
        repeat_to_bytes: Sends the body's rows again and again, up to this many bytes in all.
        chunk_bytes: Bytes sent at a time; 0 sends the body at once.
        pause_s: Seconds between two chunks.
        ending: How the connection ends: closed, silent for `ending_wait_s` and then closed, or reset.
        ending_wait_s: Seconds.
    """

    body: bytes
    status: int = 200
    content_type: str = CONTENT_TYPE
    headers: tuple[tuple[str, str], ...] = ()
    declared_bytes: int = -1
    repeat_to_bytes: int = 0
    chunk_bytes: int = 0
    pause_s: float = 0.0
    ending: Literal["close", "hang", "reset"] = "close"
    ending_wait_s: float = 0.0


def answer(body: bytes) -> Answer:
    """The good answer: the whole body and its length."""
    return Answer(body, declared_bytes=len(body))


def misbehave(
    kind: Misbehaviour, body: bytes, *, previous: bytes | None = None, tuning: Tuning | None = None
) -> Answer:
    """The answer to a request that gets a fault.

    Args:
        kind: The fault.
        body: What a well-behaved feed would have answered: a snapshot of at least 20 rows.
        previous: The previous answer, for `frozen`; None if this is the first.
        tuning: Sizes and times.

    Returns:
        What to send. `REDIRECT_LOOP` has no Location: only the server knows where it is.
    """
    tuning = tuning or Tuning()
    if kind in BODY_EDITS:
        return answer(BODY_EDITS[kind](body))
    if kind in _ERRORS:
        return _refusal(kind, tuning)
    return _WIRE_FAULTS[kind](body, previous, tuning)


# --- the body ---


def _rows(body: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(body.decode())))


def _text(rows: list[list[str]]) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue().encode()


def _line(fields: list[str]) -> bytes:
    return _text([fields])


def _insert(body: bytes, *lines: bytes, after: int = 3) -> bytes:
    """Puts lines (each ending in a line feed) among the rows: after row number `after`, then each second one."""
    kept = body.splitlines(keepends=True)
    for number, line in enumerate(lines):
        kept.insert(1 + after + 3 * number, line)
    return b"".join(kept)


def _double_encoded(body: bytes) -> bytes:
    """UTF-8 taken for cp1252 and encoded once more: `Wrocław` is `WrocÅ‚aw`.

    As in browsers and databases, the five bytes that cp1252 does not define become control characters; the
    second byte of `Ł` is one of them.
    """
    return "".join(_CP1252[byte] for byte in body).encode()


_CP1252 = [codecs.decode(bytes([i]), "cp1252", "ignore") or chr(i) for i in range(256)]


def _html_entities(body: bytes) -> bytes:
    """Names as a web page would hold them: `&` and inner quotes escaped, and one more in curly quotes."""
    header, *rows = _rows(body)
    for row in rows:
        row[_NAME] = row[_NAME].replace("&", "&amp;").replace('"', "&quot;")
    rows[0][_NAME] = f"„{rows[0][_NAME]}”"
    return _text([header, *rows])


def _columns(body: bytes, order: list[int]) -> bytes:
    return _text([[row[column] for column in order] for row in _rows(body)])


def _extra_column(body: bytes) -> bytes:
    """An unannounced column, in the middle of the others."""
    header, *rows = _rows(body)
    extra = ["bike_racks", *(row[_DOCKS] for row in rows)]
    lines = zip([header, *rows], extra, strict=True)
    return _text([[*line[:_LAT], value, *line[_LAT:]] for line, value in lines])


def _unclosed_quote(body: bytes) -> bytes:
    """An additional row whose name opens a quote; far down, where the next quote is many rows away."""
    row = _rows(body)[1]
    row[_ID], row[_NAME] = "99001", "NAME"
    return _insert(body, _line(row).replace(b"NAME", '"Plac bez końca'.encode()), after=200)


def _duplicate_station(body: bytes) -> bytes:
    """The second row's station again, ten minutes earlier and with a different count."""
    row = _rows(body)[2]
    reported, *offsets = row[_REPORT].split("|")
    row[_REPORT] = "|".join([str(int(reported) - 600), *offsets])
    row[_BIKES] = str(int(row[_BIKES]) + 1)
    return _insert(body, _line(row))


def _set(column: int, value: str) -> Callable[[list[str]], list[str]]:
    return lambda row: [*row[:column], value, *row[column + 1 :]]


def _shift_report(seconds: int) -> Callable[[list[str]], list[str]]:
    def shift(row: list[str]) -> list[str]:
        reported, *offsets = row[_REPORT].split("|")
        return _set(_REPORT, "|".join([str(int(reported) + seconds), *offsets]))(row)

    return shift


# One row for each way in which the data contract makes a row a dead letter.
DEAD_ROWS: dict[str, Callable[[list[str]], list[str]]] = {
    "too_few_fields": lambda row: row[:-1],
    "too_many_fields": lambda row: [*row, "0"],
    "empty_id": _set(_ID, ""),
    "report_of_four_numbers": _set(_REPORT, "1755781502|7200|-1|0"),
    "report_not_a_number": _set(_REPORT, "soon|7200|-1"),
    "report_before_2010": _set(_REPORT, "1262303999|3600|-1"),  # 2009-12-31 23:59:59 UTC
    "report_in_the_future": _shift_report(2 * 86_400),
    "lat_not_a_number": _set(_LAT, "north"),
    "lat_not_finite": _set(_LAT, "nan"),
    "lat_out_of_range": _set(_LAT, "90.5"),
    "lon_not_finite": _set(_LON, "inf"),
    "lon_out_of_range": _set(_LON, "-180.5"),
    "no_position": lambda row: _set(_LON, "0")(_set(_LAT, "0")(row)),
    "bikes_negative": _set(_BIKES, "-1"),
    "bikes_not_whole": _set(_BIKES, "3.5"),
    "bikes_not_a_number": _set(_BIKES, "many"),
    "spaces_negative": _set(_SPACES, "-2"),
    "docks_too_many": _set(_DOCKS, "100001"),
    "bikes_missing": _set(_BIKES, ""),
    "pedelecs_not_a_number": _set(_PEDELECS, "x"),
    "flag_unknown": _set(_LOCKED, "maybe"),
}


def dead_row(kind: str, body: bytes) -> bytes:
    """One invalid row.

    Args:
        kind: A key of `DEAD_ROWS`.
        body: The snapshot whose first row is spoiled.

    Returns:
        The line, with a unique station number (99100 and up) unless the number itself is invalid.
    """
    row = _rows(body)[1]
    row[_ID] = str(99_100 + list(DEAD_ROWS).index(kind))
    return _line(DEAD_ROWS[kind](row))


def _dead_letter_rows(body: bytes) -> bytes:
    return _insert(body, *(dead_row(kind, body) for kind in DEAD_ROWS))


_REMARKS = (b"src,nextbike,wroclaw\n", b"# maintenance tonight\n", b"src\n")

_HTML_PAGE = """<!DOCTYPE html>
<html><head><title>503 Service Unavailable</title></head>
<body><h1>Service Unavailable</h1><p>Usługa jest chwilowo niedostępna.</p></body></html>
""".encode()

# Faults in the bytes of the body only: snapshot in, spoiled snapshot out.
BODY_EDITS: dict[Misbehaviour, Callable[[bytes], bytes]] = {
    Misbehaviour.EMPTY: lambda _: b"",
    Misbehaviour.GZIP: lambda body: gzip.compress(body, mtime=0),
    Misbehaviour.NO_HEADER: lambda body: body.partition(b"\n")[2],
    Misbehaviour.HEADER_ONLY: lambda body: body.partition(b"\n")[0] + b"\n",
    Misbehaviour.CP1250: lambda body: body.decode().encode("cp1250"),
    Misbehaviour.MOJIBAKE: _double_encoded,
    Misbehaviour.HTML_ENTITIES: _html_entities,
    Misbehaviour.BOM: lambda body: codecs.BOM_UTF8 + body,
    Misbehaviour.CRLF: lambda body: body.replace(b"\n", b"\r\n"),
    Misbehaviour.REORDERED_COLUMNS: lambda body: _columns(body, list(range(13))[::-1]),
    Misbehaviour.MISSING_OPTIONAL_COLUMNS: lambda body: _columns(
        body, [column for column in range(13) if column not in _OPTIONAL]
    ),
    Misbehaviour.EXTRA_COLUMN: _extra_column,
    Misbehaviour.REMARKS: lambda body: _insert(body, *_REMARKS),
    Misbehaviour.REMARK_BEFORE_HEADER: lambda body: _REMARKS[0] + body,
    Misbehaviour.REPEATED_HEADER: lambda body: _insert(body, body.partition(b"\n")[0] + b"\n"),
    Misbehaviour.UNCLOSED_QUOTE: _unclosed_quote,
    Misbehaviour.DUPLICATE_STATION: _duplicate_station,
    Misbehaviour.DEAD_LETTER_ROWS: _dead_letter_rows,
}


# Faults of any body, whatever its format; the others are those of CSV.
OF_ANY_BODY = (
    frozenset(Misbehaviour) - frozenset(BODY_EDITS) | {Misbehaviour.EMPTY, Misbehaviour.GZIP, Misbehaviour.BOM}
) - {Misbehaviour.WRONG_CHARSET}


# --- the wire ---

_ERRORS = {
    kind: int(kind)
    for kind in (
        Misbehaviour.FORBIDDEN,
        Misbehaviour.NOT_FOUND,
        Misbehaviour.REQUEST_TIMEOUT,
        Misbehaviour.TOO_MANY_REQUESTS,
        Misbehaviour.SERVER_ERROR,
        Misbehaviour.UNAVAILABLE,
    )
}


def _refusal(kind: Misbehaviour, tuning: Tuning) -> Answer:
    patience = kind in {Misbehaviour.TOO_MANY_REQUESTS, Misbehaviour.UNAVAILABLE} and tuning.retry_after
    return replace(
        answer(f"{kind.name.replace('_', ' ').capitalize()}\n".encode()),
        status=_ERRORS[kind],
        content_type="text/plain; charset=utf-8",
        headers=(("Retry-After", tuning.retry_after),) if patience else (),
    )


def _cut(body: bytes) -> bytes:
    """The first half of the body, of CSV up to the middle of a row's second field."""
    row_start = body.find(b"\n", len(body) // 2) + 1
    return body[: body.index(b",", row_start) + 15] if row_start else body[: len(body) // 2]


_WIRE_FAULTS: dict[Misbehaviour, Callable[[bytes, bytes | None, Tuning], Answer]] = {
    Misbehaviour.REDIRECT_LOOP: lambda _b, _p, _t: replace(answer(b""), status=301),
    Misbehaviour.HTML: lambda _b, _p, _t: replace(answer(_HTML_PAGE), content_type="text/html; charset=utf-8"),
    Misbehaviour.JSON: lambda _b, _p, _t: replace(
        answer(b'{"error": {"code": 1, "message": "scheme is not available"}}\n'),
        content_type="application/json",
    ),
    Misbehaviour.TRUNCATED: lambda body, _p, _t: Answer(_cut(body), declared_bytes=len(body)),
    Misbehaviour.TRUNCATED_SILENTLY: lambda body, _p, _t: Answer(_cut(body)),
    Misbehaviour.SLOW: lambda body, _p, t: replace(answer(body), chunk_bytes=t.drip_bytes, pause_s=t.drip_pause_s),
    Misbehaviour.HANG: lambda _b, _p, t: Answer(b"", status=0, ending="hang", ending_wait_s=t.hang_s),
    Misbehaviour.HANG_IN_BODY: lambda body, _p, t: Answer(
        _cut(body), declared_bytes=len(body), ending="hang", ending_wait_s=t.hang_s
    ),
    Misbehaviour.RESET: lambda body, _p, _t: Answer(_cut(body), declared_bytes=len(body), ending="reset"),
    Misbehaviour.OVERSIZED: lambda body, _p, t: Answer(body, repeat_to_bytes=t.oversize_bytes),
    Misbehaviour.FROZEN: lambda body, previous, _t: answer(previous or body),
    Misbehaviour.WRONG_CHARSET: lambda body, _p, _t: replace(
        answer(body), content_type=f"{CONTENT_TYPE}; charset=iso-8859-1"
    ),
}

"""A JSON body as lines of the CSV grammar: the object with number n is line n + 1, after the header."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pydantic_core import from_json

COLUMNS = (
    "#id",
    "timestamp|gmt_local_diff_sec|gmt_servertime_diff_sec",
    "name",
    "lat",
    "lon",
    "bikes",
    "spaces",
    "installed",
    "locked",
    "temporary",
    "total_docks",
    "givesbonus_acceptspedelecs_fbbattlevel",
    "pedelecs",
)
HEADER = ",".join(COLUMNS)

_LINE_BREAKS = re.compile(r"[\r\n]+")


class ObjectError(ValueError):
    """An object that cannot become a row; the message says why."""

    def __init__(self, error_type: str, field_name: str, message: str) -> None:
        super().__init__(message)
        self.error_type = error_type
        self.field = field_name


class BodyError(ValueError):
    """A body without any objects; the message says what it is instead."""

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(message)
        self.error_type = error_type


@dataclass(frozen=True, slots=True)
class DeadObject:
    """An object that is not even a line."""

    number: int
    error_type: str
    field: str
    error_message: str


@dataclass(frozen=True, slots=True)
class SourceObject:
    """An object of a body: its text, and its place in bytes."""

    text: str
    offset: int
    length: int
    encoding: str


@dataclass(frozen=True)
class Translation:
    """A body as lines.

    Attributes:
        lines: One for each object, in the body's order; empty for those in `dead`.
        objects: The objects as JSON values.
        dead: Objects without a line.
        fault: Why the body has no objects: (error type, message).
    """

    lines: tuple[str, ...] = ()
    objects: tuple[Any, ...] = field(default=(), repr=False)
    dead: tuple[DeadObject, ...] = ()
    fault: tuple[str, str] | None = None

    @property
    def body(self) -> bytes:
        """The lines after a header, for the parser."""
        return "\n".join((HEADER, *self.lines, "")).encode("utf-8", "replace")

    def text_of(self, number: int) -> str:
        """An object as JSON text."""
        return json.dumps(self.objects[number - 1], ensure_ascii=False).encode("utf-8", "replace").decode()


class Row(NamedTuple):
    """The fields of one line, in its order. Text, numbers and booleans as in JSON; None means unknown."""

    station_id: Any
    combined: str
    name: Any
    lat: Any
    lon: Any
    bikes: Any
    spaces: Any = None
    installed: Any = None
    locked: Any = None
    temporary: Any = None
    total_docks: Any = None
    battery: Any = None
    pedelecs: Any = None

    def to_line(self) -> str:
        """Format as a line of CSV."""
        return ",".join(["" if value is None else _FORMATS.get(type(value), _json_field)(value) for value in self])


def _text_field(text: str) -> str:
    if "\n" in text or "\r" in text:
        text = _LINE_BREAKS.sub(" ", text)
    if '"' in text or "," in text or text != text.strip():
        return '"' + text.replace('"', '""') + '"'
    return text


def _flag_field(flag: bool) -> str:
    return "true" if flag else "false"


def _json_field(value: Any) -> str:
    return _text_field(json.dumps(value, ensure_ascii=False))


# By type, as a minute has 5,000 fields.
_FORMATS: Mapping[type, Callable[[Any], str]] = {int: repr, float: repr, str: _text_field, bool: _flag_field}


def usable_id(name: str, value: Any) -> str:
    """A station's or bike's id as text.

    Raises:
        ObjectError: it is not one, or would begin a remark line.
    """
    text = str(value).strip()
    if isinstance(value, bool) or not isinstance(value, int | str) or not text or text == "src" or text[0] == "#":
        raise ObjectError("empty_id", "station_id", f"{name} {str(value)[:80]!r} is not an id.")
    return text


def seconds_of(micros: int) -> str:
    """A time in microseconds since 1970 as a combined field; offsets are unknown."""
    seconds, fraction = divmod(micros, 1_000_000)
    return f"{seconds}.{fraction:06d}||" if fraction else f"{seconds}||"


def decoded(body: bytes) -> tuple[str, str]:
    """The text of a JSON body and its encoding.

    Raises:
        BodyError: it is not text.
    """
    if not body.strip():
        raise BodyError("file_empty", "The body is empty.")
    encoding = json.detect_encoding(body)
    try:
        return body.decode(encoding), encoding
    except UnicodeDecodeError as error:
        raise BodyError("file_not_text", f"The body is not text; it starts with {body[:16]!r}: {error}.") from None


def parsed(text: str) -> Any:
    """The value of a JSON text, as `json.loads` gives it.

    Raises:
        BodyError: it is not JSON.
    """
    try:
        return from_json(text, cache_strings="keys")  # 1.8 ms for the operator's 930 kB, where `json` takes 8.6
    except ValueError:
        pass  # it refuses half a surrogate pair and more than 200 levels, too
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        what = "an HTML page" if text.lstrip()[:1] == "<" else repr(text[:80])
        raise BodyError("file_not_json", f"The body is not JSON, it is {what}: {error}.") from None


def corrected(number: int, value: Any, corrections: Mapping[int, str]) -> Any:
    """An object, or an operator's correction of it.

    Raises:
        ObjectError: the correction is not JSON.
    """
    if number not in corrections:
        return value
    try:
        return json.loads(corrections[number])
    except (ValueError, RecursionError) as error:
        raise ObjectError("bad_object", "", f"The correction is not JSON: {error}.") from None


# Encodings whose codec adds a byte order mark, and those that do not.
_WITHOUT_MARK = {
    "utf-8-sig": ("utf-8", "utf-8"),
    "utf-16": ("utf-16-le", "utf-16-be"),
    "utf-32": ("utf-32-le", "utf-32-be"),
}


def source_object(body: bytes, text: str, encoding: str, start: int, end: int) -> SourceObject:
    """The part of a body's text from `start` to `end`, with its place in the body."""
    little, big = _WITHOUT_MARK.get(encoding, (encoding, encoding))
    codec = little if body[:1] == b"\xff" else big
    mark_bytes = len(body) - len(text.encode(codec))
    found = text[start:end]
    return SourceObject(found, mark_bytes + len(text[:start].encode(codec)), len(found.encode(codec)), codec)


_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


def _after_space(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return found.end() if found else position


def members_at(text: str, position: int) -> Iterator[tuple[str, int, int]]:
    """Name, start and end of each value in the JSON object that begins at `position`; nothing if none does."""
    position = _after_space(text, position)
    if text[position : position + 1] != "{":
        return
    position = _after_space(text, position + 1)
    while text[position] != "}":
        name, position = _DECODER.raw_decode(text, position)
        start = _after_space(text, _after_space(text, position) + 1)
        _, end = _DECODER.raw_decode(text, start)
        yield name, start, end
        position = _after_space(text, end)
        if text[position] == ",":
            position = _after_space(text, position + 1)


def elements_at(text: str, position: int) -> Iterator[tuple[int, int]]:
    """Start and end of each element of the JSON array that begins at `position`; nothing if none does."""
    position = _after_space(text, position)
    if text[position : position + 1] != "[":
        return
    position = _after_space(text, position + 1)
    while text[position] != "]":
        _, end = _DECODER.raw_decode(text, position)
        yield position, end
        position = _after_space(text, end)
        if text[position] == ",":
            position = _after_space(text, position + 1)


def member_at(text: str, position: int, name: str) -> int | None:
    """The position of a member's value; of the last one with that name, as in JSON readers."""
    found = [start for key, start, _ in members_at(text, position) if key == name]
    return found[-1] if found else None

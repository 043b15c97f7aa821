"""The only register of a process's secret values, and the functions that keep them out of its output.

`redact` masks, however they got into a text:

- a secret as a whole, if it has at least 6 characters (a shorter one hides nothing and would spoil every message);
- any part of it of at least 8 characters, unless the part is also in something public (a host name, the bucket, a word
  of `_PUBLIC`) or consists of digits and punctuation only, or of one or two different characters;
- both also percent-encoded, escaped as in JSON, `repr` or HTML, up to four times over, in base64 at any offset (so of
  ``user:password``, too), in hexadecimal, and broken over lines;
- without knowing them: credentials in URLs, query parameters whose names say so, authorization headers, and tokens of
  well-known forms.

Values that anyone would guess first (`_COMMON`: ``postgres``, ``minioadmin``) are not masked: they are not secret, and
masking them makes messages unreadable. Values are added, never removed: a secret stays one.
"""

import base64
import os
import re
import threading
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from wrm_pipeline.domain.path_keys import MASK, keys_in_path

SHORTEST_SECRET = 6
SHORTEST_PART = 8

_COMMON = frozenset({"administrator", "changeme", "dagster", "default", "minioadmin", "minio123", "password"})
_COMMON |= {"postgres", "postgresql", "secret", "username", "wrm_pipeline"}
_PUBLIC = (
    *("https://", "redis://", "rediss://", "postgresql://", "localhost", "application", "Authorization", "username"),
    *("wrm_pipeline", "wrm_stations", "password", "administrator", "secret_access_key", "access_key_id"),
    *("services", "webhooks", "incoming"),  # in the paths of webhooks
)

_SECRETIVE = (
    r"[\w.-]*(?:tokens?|secret|passw\w*|passphrase|pwd|key(?:[_-]?id)?|sig(?:nature)?|auth(?:orization)?|credentials?"
    r"|session(?:[_-]?id)?|jwt)"
)
_SECRETIVE_NAME = re.compile(_SECRETIVE, re.IGNORECASE)
_SECRETIVE_VARIABLE = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_URL_CREDENTIALS = re.compile(r"([a-z][a-z0-9+.-]{1,20}://)[^/?#\s\"'<>]+@", re.IGNORECASE)
_QUERY_CREDENTIALS = re.compile(rf"([?&;]{_SECRETIVE}=)[^&#;\s\"'<>\\*][^&#;\s\"'<>\\]*", re.IGNORECASE)
_HEADER_CREDENTIALS = re.compile(
    r"((?:authorization|x-vault-token|x-api-key)[\"']?\s*[:=]\s*[\"']?(?:(?:bearer|basic)\s+)?)[^\s\"',}*][^\s\"',}]*",
    re.IGNORECASE,
)

# Tokens of Vault, AWS, GitHub and Slack: secrets unknown to this process, such as foreign ones in an answer.
_FORMS = re.compile(
    r"\bhv[sbr]\.[\w-]{20,}|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bgh[pousr]_\w{36}|\bgithub_pat_\w{40,}|\bxox[abeoprs]-[\w-]{10,}"
)

_MARKS = ("hvs.", "hvb.", "AKIA", "ASIA", "ghp_", "ghs_", "github_pat_", "xox")

# Escaped forms of one character. Bytes above 127 are UTF-8 and come in runs.
_ESCAPE = re.compile(
    r"%[0-7][0-9A-Fa-f]|(?:%[89A-Fa-f][0-9A-Fa-f])+"
    r"|\\u[0-9A-Fa-f]{4}|(?:\\x[0-9A-Fa-f]{2})+|\\[\\\"'/nrtbf]"
    r"|&(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|amp|lt|gt|quot|apos);"
)
_SIGN = re.compile(r"[\\%&]")
_NEAR = 64
_NAMED = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'"}
_BACKSLASHED = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f"}
_MOST_LAYERS = 4

# Each part of 8 characters contains a block of 4 that begins at a multiple of 5: only a fifth of the text's positions
# is checked, without running a line of Python if nothing is found.
_BLOCK, _STRIDE = 4, 5
_PIECE = 20_000
_SAMPLES = [slice(i, i + _BLOCK) for i in range(0, _PIECE + SHORTEST_PART, _STRIDE)]


class Register:
    """Secret values, and the parts of them to search for; thread-safe."""

    def __init__(self, *, in_part: bool = True) -> None:
        self._in_part = in_part
        self._lock = threading.Lock()
        self._known: set[str] = set()
        self._has_backslash = False
        self._public: set[str] = set()
        self._whole: set[str] = set()  # forms without a distinctive part, searched for as a whole
        self._partly: set[str] = set()  # forms with some distinctive parts: searched for where one of these was found
        self._parts: set[str] = set()
        self._blocks: set[str] = set()
        self.publish(*_PUBLIC)

    def remember(self, value: str) -> None:
        """Mask `value` from now on."""
        value = value.strip()
        if len(value) < SHORTEST_SECRET or value.casefold() in _COMMON or value in self._known:
            return
        with self._lock:
            self._known.add(value)
            self._has_backslash |= "\\" in value
            self._add(_forms(value))

    def _add(self, forms: Iterable[str]) -> None:
        # New sets, since other threads may be reading the current ones.
        whole, partly, all_parts = set(self._whole), set(self._partly), set(self._parts)
        for form in forms:
            parts = {part for part in _windows(form) if self._is_telling(part)} if self._in_part else set()
            if not parts:
                whole.add(form)
            elif len(parts) < len(form) - SHORTEST_PART + 1:
                partly.add(form)
            all_parts |= parts
        blocks = {part[i : i + _BLOCK] for part in all_parts - self._parts for i in range(_STRIDE)}
        self._whole, self._partly, self._parts, self._blocks = whole, partly, all_parts, self._blocks | blocks

    def publish(self, *values: str) -> None:
        """No longer mask parts that also occur in `values`; whole secrets are still masked."""
        with self._lock:
            known = self._parts
            for value in values:
                self._public.update(_windows(value))
            self._parts = self._parts - self._public
            if self._parts != known:
                self._add({form for value in self._known for form in _forms(value)})

    def shows(self, text: str) -> bool:
        """Whether a text may contain a secret, however escaped; true for all that do, and for few others.

        Backslashes are removed rather than decoded: a run's events are JSON, with one before each quote.
        """
        if self.spans("".join(text.split())):
            return True
        view = _near_escapes(text)
        for _ in range(_MOST_LAYERS if view else 0):
            plain = view
            if not self._has_backslash:
                plain = plain.replace("\\n", "").replace("\\t", "").replace("\\r", "")
            if self._has_backslash or "\\u" in view or "\\x" in view or "%" in view or "&" in view:
                plain = _ESCAPE.sub(_plain, plain)
            if not self._has_backslash:
                plain = plain.replace("\\", "")
            if plain == view:
                return False
            if self.spans("".join(plain.split())):
                return True
            view = plain
        return False

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Positions of secrets and their parts in a text without blanks, not sorted."""
        found = _finds(text, self._whole)
        blocks = self._blocks
        for begin in range(0, len(text) if blocks else 0, _PIECE):
            piece = text[begin : begin + _PIECE + SHORTEST_PART - 1]
            if blocks.isdisjoint(map(piece.__getitem__, islice(_SAMPLES, len(piece) // _STRIDE + 1))):
                continue  # nearly always
            for i in range(0, len(piece) - _BLOCK + 1, _STRIDE):
                if piece[i : i + _BLOCK] in blocks:
                    starts = range(max(i - _STRIDE + 1, 0), i + 1)
                    parts = [j for j in starts if piece[j : j + SHORTEST_PART] in self._parts]
                    found += [(begin + j, begin + j + SHORTEST_PART) for j in parts]
        return found + _finds(text, self._partly) if found else found

    def _is_telling(self, part: str) -> bool:
        return part not in self._public and len(set(part)) > 2 and any(character.isalpha() for character in part)

    def __bool__(self) -> bool:
        return bool(self._known)


def _finds(text: str, needles: Iterable[str]) -> list[tuple[int, int]]:
    found = []
    for needle in needles:
        at = text.find(needle)
        while at >= 0:
            found.append((at, at + len(needle)))
            at = text.find(needle, at + 1)
    return found


def _near_escapes(text: str) -> str:
    """The text within 64 characters of an escape: elsewhere, decoding changes nothing."""
    pieces: list[str] = []
    at = 0
    for match in _SIGN.finditer(text):
        end = match.end() + _NEAR
        pieces.append(text[max(at, match.start() - _NEAR) : end])
        at = max(at, end)
    return "".join(pieces)


def _windows(text: str) -> Iterator[str]:
    return (text[i : i + SHORTEST_PART] for i in range(len(text) - SHORTEST_PART + 1))


def _forms(value: str) -> set[str]:
    """Encoded forms of a secret, apart from escapes; without blanks."""
    raw = value.encode()
    forms = {value, value.replace(" ", "+"), raw.hex(), raw.hex().upper()}
    for offset, unclear in ((0, 0), (1, 2), (2, 3)):
        # At each offset in a longer text, without the characters shared with its neighbours.
        padded = b"\0" * offset + raw
        text = base64.b64encode(padded).decode().rstrip("=")[unclear:]
        text = text if len(padded) % 3 == 0 else text[:-1]
        forms |= {text, text.replace("+", "-").replace("/", "_")}
    squeezed = ("".join(form.split()) for form in forms)
    return {form for form in squeezed if len(form) >= SHORTEST_SECRET}


_register = Register()


def remember_secret(value: str) -> None:
    """Mask `value` in all output of this process from now on; of a URL, its credentials and its path over HTTP."""
    if _URL.match(value):
        remember_credentials(value, with_path=value.lower().startswith("http"))
    else:
        _register.remember(value)


def remember_credentials(url: str, *, with_path: bool = False) -> None:
    """Mask the credentials in a URL: its password, a user without one, parameters whose names say so, keys in its path.

    `with_path`: also its path as a whole, and each part of it (webhooks). Its host is shown.
    """
    try:
        parts = urlsplit(url)
        user, password = parts.username, parts.password
        _register.publish(f"{parts.scheme}://{parts.hostname or ''}", user if user and password else "")
    except ValueError:
        _register.remember(url)  # one that cannot be parsed
        return
    found = _credentials_in(parts, all_parameters=with_path)
    if with_path and len(parts.path) > SHORTEST_PART:
        found += [parts.path, *(part for part in parts.path.split("/") if part not in _PUBLIC)]
    for value in found:
        _register.remember(value)
        _register.remember(unquote(value))


def _credentials_in(parts: SplitResult, *, all_parameters: bool = False) -> list[str]:
    user, password = parts.username, parts.password
    found = [password or user or "", f"{user}:{password}" if user and password else ""]
    parameters = parse_qsl(parts.query)
    found += keys_in_path(parts.path)
    return found + [value for name, value in parameters if all_parameters or _SECRETIVE_NAME.fullmatch(name)]


def without_echo(body: bytes, url: str) -> bytes:
    """A server's answer without the credentials of the requested URL, as a whole in any spelling.

    Unchanged bytes if it does not quote them. Credentials shorter than 8 characters may be words of the answer.
    """
    parts = urlsplit(url)
    found = [value for value in _credentials_in(parts) if len(value) >= SHORTEST_PART]
    if not found:
        return body
    register = Register(in_part=False)
    for value in found:
        register.remember(value)
        register.remember(unquote(value))
    text = body.decode("utf-8", "surrogateescape")
    masked = _without_known(text, register)
    return body if masked == text else masked.encode("utf-8", "surrogateescape")


def publish(*values: str) -> None:
    """Mark these as public: parts of a secret that occur in them are not masked. Whole secrets still are."""
    _register.publish(*values)


def remember_environment() -> None:
    """Mask the values of all environment variables whose names say that they are secret, ours or not."""
    for name, value in os.environ.items():
        if _SECRETIVE_VARIABLE.search(name) and not value.startswith(("/", "~")):
            remember_secret(value)


def redact(text: str) -> str:
    """`text` without secrets, as described above."""
    if _register:
        text = _without_known(text, _register)
    if "@" in text and "://" in text:
        text = _URL_CREDENTIALS.sub(rf"\1{MASK}@", text)
    if "=" in text and ("?" in text or "&" in text or ";" in text):
        text = _QUERY_CREDENTIALS.sub(rf"\1{MASK}", text)
    if "uthorization" in text or "ault-" in text or "-key" in text.lower():
        text = _HEADER_CREDENTIALS.sub(rf"\1{MASK}", text)
    if any(mark in text for mark in _MARKS):
        text = _FORMS.sub(MASK, text)
    return text


def redact_bytes(body: bytes) -> bytes:
    """A body without secrets; unchanged bytes if there is none in it."""
    text = body.decode("utf-8", "surrogateescape")
    masked = _without_known(text, _register) if _register else text
    return body if masked == text else masked.encode("utf-8", "surrogateescape")


def _without_known(text: str, register: Register) -> str:
    if not register.shows(text):
        return text
    spans: list[tuple[int, int]] = []
    view, layers = text, 0
    while True:
        found = register.spans("".join(view.split()))
        if found:
            places = _places(text, layers)
            spans += [(places[start][0], places[end - 1][1]) for start, end in found]
        plain = _ESCAPE.sub(_plain, view) if layers < _MOST_LAYERS else view
        if plain == view:
            return _masked(text, spans) if spans else text
        view, layers = plain, layers + 1


def _places(text: str, layers: int) -> list[tuple[int, int]]:
    """The place in `text` of each character that remains after undoing so many layers of escapes, without blanks."""
    view, places = text, [(i, i + 1) for i in range(len(text))]
    for _ in range(layers):
        characters: list[str] = []
        kept: list[tuple[int, int]] = []
        at = 0
        for match in _ESCAPE.finditer(view):
            characters.append(view[at : match.start()])
            kept += places[at : match.start()]
            plain = _plain(match)
            characters.append(plain)
            kept += [(places[match.start()][0], places[match.end() - 1][1])] * len(plain)
            at = match.end()
        view, places = "".join([*characters, view[at:]]), [*kept, *places[at:]]
    return [place for character, place in zip(view, places, strict=True) if not character.isspace()]


def _plain(match: re.Match[str]) -> str:
    """The characters that an escape represents."""
    escape = match[0]
    if escape[0] == "%":
        return bytes.fromhex(escape.replace("%", "")).decode("utf-8", "replace")
    if escape[0] == "&":
        name = escape[1:-1]
        digits = name.lstrip("#")
        code = int(digits.lstrip("xX"), 16 if digits[0] in "xX" else 10) if name[0] == "#" else 0
        return _NAMED.get(name) or (chr(code) if code < 0x110000 else escape)
    if escape[1] == "u":
        return chr(int(escape.removeprefix("\\u"), 16))
    if escape[1] == "x":
        raw = bytes.fromhex(escape.replace("\\x", ""))
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return raw.decode("latin-1")
    return _BACKSLASHED.get(escape[1], escape[1])


def _masked(text: str, spans: Iterable[tuple[int, int]]) -> str:
    pieces: list[str] = []
    at, covered = 0, -1
    for start, end in sorted(spans):
        if start > covered:
            pieces += [text[at:start], MASK]
        covered = max(covered, end)
        at = covered
    return "".join([*pieces, text[at:]])


def scrub(error: BaseException) -> None:
    """Mask the messages of an exception, and of those that led to it, in place.

    Libraries' messages quote requests and answers. Exceptions that compute their message from something other than
    their arguments are not changed; every output masks its text once more.
    """
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        waiting += [one.__cause__, one.__context__, *(arg for arg in one.args if isinstance(arg, BaseException))]
        one.args = tuple(_scrubbed(argument) for argument in one.args)
        for name in ("strerror", "filename", "filename2", "reason", "__notes__"):
            value = getattr(one, name, None)
            if isinstance(value, str | list) and (masked := _scrubbed(value)) != value:
                setattr(one, name, masked)
            elif isinstance(value, BaseException):
                waiting.append(value)


def _scrubbed(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, bytes):
        return redact_bytes(value)
    if type(value) in (list, tuple):
        return type(value)(_scrubbed(item) for item in value)
    return value

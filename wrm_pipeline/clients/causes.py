"""Reduces a library's exception to its cause, in a few words for a person: who did not do what.

urllib3, requests, botocore, redis and psycopg wrap each other's exceptions and quote objects, pools and URLs. Wherever
such a text would reach a person, `cause_of` is used instead; the full text goes to the debug log.
"""

import errno
import http.client
import logging
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

from wrm_pipeline.domain.masking import redact

logger = logging.getLogger(__name__)

MAX_LENGTH = 300

_UNREACHABLE = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN})
_MAX_LINKS = 20

# What libraries say that keep the system's error to themselves (libpq, redis-py).
_UNRESOLVED_TEXT = re.compile(
    r"could not translate host name|failed to resolve host|name or service not known|name resolution",
    re.IGNORECASE,
)
_REFUSED_TEXT = re.compile(r"connection refused", re.IGNORECASE)
_UNREACHABLE_TEXT = re.compile(r"no route to host|network is unreachable", re.IGNORECASE)
_TIMEOUT_TEXT = re.compile(r"timeout expired|timed? ?out", re.IGNORECASE)
_CERTIFICATE_TEXT = re.compile(r"certificate[_ ]verify[_ ]failed\W*(?:certificate verify failed\W*)?", re.IGNORECASE)
_SECONDS_TEXT = re.compile(r"timeout=([\d.]+)")
_PLACE_TEXT = re.compile(
    r"connecting to ([^\s:]+):(\d+)|server at \"([^\"]+)\".*?port (\d+)|host (?:name )?[\"']([^\"']+)"
)
_LIBPQ_PREFIX = re.compile(r"^(?:connection failed: )?connection to server .*? failed:\s*(?:(?:FATAL|ERROR):\s*)?")


def cause_of(error: BaseException, host: str = "", port: int | None = None, *, waited_s: float | None = None) -> str:
    """Why a request failed, e.g. ``cannot resolve HOST`` or ``connection refused by HOST:PORT``.

    Args:
        error: As caught; what it wraps is looked at, too.
        host: That was asked; empty: as far as the exception knows it.
        port: Its port, if `host` is given.
        waited_s: Seconds after which a time-out occurs; None: as far as the exception knows it.
    """
    links = list(_links(error))
    if not host:
        host, port = next(filter(None, map(_place_in, links)), ("", None))
    known = (explain(link, host, port, waited_s) for link in links for explain in _EXPLANATIONS)
    cause = next(filter(None, known), "") or _own_words(error)
    logger.debug("%s; in full: %s", redact(cause), redact(_one_line(error)))
    return cause[:MAX_LENGTH]


def is_certificate_error(error: BaseException) -> bool:
    """Whether the other side's certificate was rejected."""
    return any(isinstance(link, ssl.SSLCertVerificationError) for link in _links(error)) or bool(
        _CERTIFICATE_TEXT.search(str(error))
    )


def host_and_port(url: str) -> tuple[str, int | None]:
    """Of a URL, as arguments of `cause_of`; an empty host if it is not a URL."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "", None
    return (host, port) if "://" in url else ("", None)


def _links(error: BaseException) -> Iterator[BaseException]:
    """An exception and those that it wraps, the outer ones first."""
    pending: list[BaseException] = [error]
    seen: set[int] = set()
    while pending and len(seen) < _MAX_LINKS:
        link = pending.pop(0)
        if id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        context = None if link.__suppress_context__ else link.__context__
        wrapped = (link.__cause__, context, getattr(link, "reason", None), *link.args, _kwargs(link).get("error"))
        pending += [inner for inner in wrapped if isinstance(inner, BaseException)]


def _kwargs(error: BaseException) -> dict[str, Any]:
    """The fields of a botocore exception."""
    found = getattr(error, "kwargs", None)
    return found if isinstance(found, dict) else {}


def _place_in(error: BaseException) -> tuple[str, int | None] | None:
    """The host and port that an exception names."""
    pool: Any = getattr(error, "conn", None) or getattr(error, "pool", None)
    if isinstance(getattr(pool, "host", None), str):
        return pool.host, getattr(pool, "port", None)
    url = getattr(getattr(error, "request", None), "url", None) or _kwargs(error).get("endpoint_url")
    if isinstance(url, str) and (place := host_and_port(url))[0]:
        return place
    if found := _PLACE_TEXT.search(str(error)):
        host, port = found[1] or found[3] or found[5], found[2] or found[4]
        return host, int(port) if port else None
    return None


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _own_words(error: BaseException) -> str:
    """The text of an exception that nothing here knows, with its type unless the text alone is clear."""
    if isinstance(error, OSError) and error.strerror:
        reason = f"{error.strerror[:1].lower()}{error.strerror[1:]}"
        return f"{reason}: {error.filename}" if error.filename else reason
    text = " ".join(str(error).split())
    cut = _LIBPQ_PREFIX.sub("", text)
    return cut if cut != text else _one_line(error)


# Each says what an exception means, or "" if it means something else. The outermost known link decides: an inner
# one may be of an earlier attempt.


def _unresolved(error: BaseException, host: str, _port: int | None, _waited_s: float | None) -> str:
    known = isinstance(error, socket.gaierror) or _UNRESOLVED_TEXT.search(str(error))
    return f"cannot resolve {host or 'the host name'}" if known else ""


def _bad_certificate(error: BaseException, host: str, _port: int | None, _waited_s: float | None) -> str:
    reason = getattr(error, "verify_message", "") if isinstance(error, ssl.SSLCertVerificationError) else ""
    if not reason:
        found = _CERTIFICATE_TEXT.search(str(error))
        if not found and not isinstance(error, ssl.SSLCertVerificationError):
            return ""
        reason = str(error)[found.end() :].partition(" (_ssl")[0].strip("'\") ") if found else ""
    of_host = f"certificate of {host}" if host else "certificate"
    return f"{of_host} not valid: {reason}" if reason else f"{of_host} not valid"


def _refused(error: BaseException, host: str, port: int | None, _waited_s: float | None) -> str:
    known = isinstance(error, ConnectionRefusedError) or _REFUSED_TEXT.search(str(error))
    return ("connection refused" + (f" by {_with_port(host, port)}" if host else "")) if known else ""


def _unreachable(error: BaseException, host: str, _port: int | None, _waited_s: float | None) -> str:
    known = (isinstance(error, OSError) and error.errno in _UNREACHABLE) or _UNREACHABLE_TEXT.search(str(error))
    return f"no route to {host or 'the host'}" if known else ""


def _silent(error: BaseException, host: str, _port: int | None, waited_s: float | None) -> str:
    if not (isinstance(error, TimeoutError) or "Timeout" in type(error).__name__ or _TIMEOUT_TEXT.search(str(error))):
        return ""
    if waited_s is None and (found := _SECONDS_TEXT.search(str(error))):
        waited_s = float(found[1])
    return "no answer" + (f" from {host}" if host else "") + (f" within {waited_s:.3g} s" if waited_s else "")


def _cut_short(error: BaseException, _host: str, _port: int | None, _waited_s: float | None) -> str:
    if not isinstance(error, http.client.IncompleteRead):
        return ""
    return "the answer ended early" + (f": {error.expected} more bytes were announced" if error.expected else "")


def _closed(error: BaseException, host: str, _port: int | None, _waited_s: float | None) -> str:
    closed = (ConnectionResetError, BrokenPipeError, ConnectionAbortedError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
    return ("connection closed" + (f" by {host}" if host else "")) if isinstance(error, closed) else ""


def _no_tls(error: BaseException, host: str, port: int | None, _waited_s: float | None) -> str:
    if not isinstance(error, ssl.SSLError):
        return ""
    reason = str(error.reason or error).replace("_", " ").lower()
    return f"no TLS with {_with_port(host, port)}: {reason}" if host else f"no TLS: {reason}"


_EXPLANATIONS: tuple[Callable[[BaseException, str, int | None, float | None], str], ...] = (
    _unresolved,
    _bad_certificate,
    _refused,
    _unreachable,
    _silent,
    _cut_short,
    _closed,
    _no_tls,
)


def _with_port(host: str, port: int | None) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"{shown}:{port}" if port else shown

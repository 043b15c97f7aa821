"""Requests to services that may misbehave: where they may lead, how long they may take, how much they may return.

- A redirect is followed to the host and port that are configured, or to a host that is listed; never from https to
  http.
- A name is resolved once for each request and the connection goes to that very address, so a name that resolves
  differently a moment later changes nothing. An address outside the public internet is refused, unless the configured
  URL is that address (or `localhost`), or the host is listed as private, or the whole target is the operator's own
  (`trusted`).
- The whole exchange has a deadline, however slowly it drips: name resolution, headers, bodies, floods of 100 Continue.
  The size of a body is limited, both on the wire and unpacked.
- Nothing is taken from the environment: no proxies, no .netrc, no cookies. Only a CA bundle is (REQUESTS_CA_BUNDLE or
  SSL_CERT_FILE).

It is the standard library's HTTP client, which limits headers to 100 of 64 kB each, and whose errors quote no URL.
"""

import base64
import contextlib
import http.client
import ipaddress
import re
import ssl
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import BinaryIO
from urllib.parse import quote, unquote, urljoin, urlsplit

from wrm_pipeline.clients.causes import cause_of
from wrm_pipeline.clients.connections import (
    KeptConnections,
    Resolve,
    Wire,
    dial,
    is_literal,
    resolve_name,
    resolve_within,
    secured,
    tls_context,
)
from wrm_pipeline.clients.errors import CertificateError, PermanentError, TransientError, UnexpectedAnswerError
from wrm_pipeline.domain.addresses import why_not_public

MAX_REDIRECTS = 5
REDIRECTS = frozenset({301, 302, 303, 307, 308})
DEFAULT_PORTS = {"http": 80, "https": 443}

_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_NOT_IN_URLS = re.compile(r"[\x00-\x20\x7f\\]")
_CHUNK_BYTES = 64 * 1024
_SEND_BYTES = 256 * 1024
_SAFE_IN_PATH = "%/:=&?~+!$,;'@()*[]|"


@dataclass(frozen=True, slots=True)
class Policy:
    """What requests to one target may do.

    Attributes:
        target: As in metrics and messages: ``feed``, ``webhook``, …
        max_bytes: Of a body, on the wire and unpacked.
        connect_s: Seconds for a connection.
        read_s: Seconds without a byte.
        total_s: Seconds for all of a request, redirects included.
        max_redirects: 0: a redirect is an answer like any other.
        redirect_hosts: `host` or `host:port` that redirects may lead to, besides the configured one.
        private_hosts: Hosts whose names may have private addresses.
        trusted: The configured host is the operator's own, wherever it is.
        verify: Of certificates; see `tls_context`.
        with_errors: Also read the body of an answer other than 200.
        unpack: Undo the transfer's compression; otherwise the body is what was on the wire.
        remedy: What to do about a refusal.
        certificate_remedy: What to do about a certificate that is not valid.
        redirect_remedy: What to do about a redirect that is not followed.
        size_remedy: What to do about an answer that is too long.
        resolve: Addresses of a host.
    """

    target: str
    max_bytes: int
    connect_s: float
    read_s: float
    total_s: float
    max_redirects: int = 0
    redirect_hosts: frozenset[str] = frozenset()
    private_hosts: frozenset[str] = frozenset()
    trusted: bool = False
    verify: bool | str = True
    with_errors: bool = False
    unpack: bool = True
    remedy: str = ""
    certificate_remedy: str = "Check the URL, the CA file and the clock"
    redirect_remedy: str = ""
    size_remedy: str = ""
    resolve: Resolve = field(default=resolve_name, repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer: status, reason phrase, headers by lower-case name (the first of each), and the unpacked body."""

    status_code: int
    reason: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request goes: a parsed http(s) URL. Its text shows neither path nor credentials."""

    scheme: str
    host: str
    port: int
    path: str = field(repr=False)
    credentials: str = field(default="", repr=False)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}"

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port."""
        return self.scheme, self.host, self.port

    @property
    def listed_as(self) -> set[str]:
        """Names by which a list of hosts may contain it."""
        names = {f"{self.host}:{self.port}"}
        return names | {self.host} if self.port == DEFAULT_PORTS[self.scheme] else names


class BadUrlError(ValueError):
    """Not a usable http(s) URL; the message says why and does not quote it."""


def place_of(url: str) -> Place:
    """Parse a URL.

    Raises:
        BadUrlError: it is not one, or it is ambiguous.
    """
    if _NOT_IN_URLS.search(url):
        raise BadUrlError("it contains a blank, a control character or a backslash")
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError as error:
        raise BadUrlError("its host or port is malformed") from error
    if parts.scheme not in DEFAULT_PORTS:
        raise BadUrlError("it is neither http nor https")
    try:
        host = host if host.isascii() else host.encode("idna").decode()
    except UnicodeError as error:
        raise BadUrlError("its host is malformed") from error
    if not host or "%" in host:
        raise BadUrlError("it has no host" if not host else "its host is malformed")
    path = quote(parts.path or "/", safe=_SAFE_IN_PATH) + (
        f"?{quote(parts.query, safe=_SAFE_IN_PATH)}" if parts.query else ""
    )
    credentials = ""
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        credentials = "Basic " + base64.b64encode(pair.encode()).decode()
    return Place(parts.scheme, host.lower(), DEFAULT_PORTS[parts.scheme] if port is None else port, path, credentials)


def request(
    policy: Policy,
    method: str,
    url: str,
    *,
    name: str = "",
    headers: Mapping[str, str] | None = None,
    body: bytes | BinaryIO | None = None,
    kept: KeptConnections | None = None,
) -> Answer:
    """One request, with the redirects that the policy lets it follow. Does not retry and judges no status.

    Args:
        policy: See `Policy`.
        method: ``GET``, ``HEAD``, ``POST``.
        url: As configured. Its user and password are sent to its own host and port only.
        name: Its name in messages; the URL is not quoted.
        headers: Sent to each place.
        body: Of a POST; a file is read to its end, and needs a Content-Length among the headers.
        kept: Where connections are taken from and given back to.

    Raises:
        TransientError: no answer in time, or a damaged one.
        PermanentError: the policy forbids it; the message says what it would have led to.
        CertificateError: the certificate is not valid.
    """
    exchange = _Exchange(policy, method, name, kept)
    try:
        configured = place_of(url)
    except BadUrlError as error:
        raise exchange.refused(f"the URL cannot be used: {error}", policy.remedy) from None
    place = configured
    with exchange.explained():
        for _ in range(policy.max_redirects + 1):
            own = place.origin == configured.origin
            sent = dict(headers or {})
            if configured.credentials and own:
                sent["Authorization"] = configured.credentials
            answer = exchange.ask(place, sent, body, configured=place.host == configured.host)
            location = answer.headers.get("location")
            if answer.status_code not in REDIRECTS or location is None or not policy.max_redirects:
                return answer
            place = exchange.redirected(configured, place, location)
    raise exchange.refused(f"redirected more than {policy.max_redirects} times", policy.remedy)


def check_named(policy: Policy, url: str, named: str) -> None:
    """Check that an address which the answer of `url` names may be requested: the rules are those of redirects.

    Raises:
        PermanentError: it may not.
    """
    configured = place_of(url)
    _Exchange(policy, "GET", url).redirected(configured, configured, named, "leads")


class AddressError(ValueError):
    """A host has addresses that it may not have; the message names one."""


def permitted_addresses(policy: Policy, host: str, port: int, *, configured: bool, within_s: float) -> list[str]:
    """The addresses of a host that the policy lets us connect to.

    Args:
        policy: See there.
        host: As in an address, without brackets.
        port: Of the service.
        configured: Whether the host is the one that is configured, and not one that somebody's answer led to.
        within_s: Seconds for the name.

    Raises:
        AddressError: all are refused.
        TimeoutError: the name was not resolved in time.
        OSError: it has none.
    """
    allowed, refused = [], ""
    for text in resolve_within(policy.resolve, host, port, within_s):
        address = ipaddress.ip_address(text.partition("%")[0])
        why = why_not_public(address)
        own = configured and (policy.trusted or is_literal(host) or (host == "localhost" and address.is_loopback))
        if not why or own or host in policy.private_hosts:
            allowed.append(text)
        else:
            refused = f"{text} ({why})"
    if not allowed and refused:
        raise AddressError(f"{host} has the address {refused}, which is not public")
    return allowed


class _Exchange:
    """One request and its redirects, against one deadline."""

    def __init__(self, policy: Policy, method: str, name: str, kept: KeptConnections | None = None) -> None:
        self._policy = policy
        self._method = method
        self._name = name
        self._kept = kept
        self._until = time.monotonic() + policy.total_s
        self._size = 0
        self._place: Place | None = None
        self._wait_s = policy.connect_s  # for the step under way

    def refused(self, problem: str, remedy: str) -> PermanentError:
        return PermanentError(problem, self._policy.target, self._method.lower(), self._name, remedy)

    def redirected(self, configured: Place, here: Place, location: str, verb: str = "redirects") -> Place:
        """Where an answer redirects to, if that is allowed.

        Raises:
            PermanentError: it is not.
        """
        remedy = self._policy.redirect_remedy
        try:
            # urljoin takes `http:///x` for a path of the same host.
            target = place_of(location if _ABSOLUTE.match(location) else urljoin(f"{here}{here.path}", location))
        except ValueError as error:
            why = str(error) if isinstance(error, BadUrlError) else "its host or port is malformed"
            raise self.refused(f"{verb} to something that is not a usable URL: {why}", remedy) from None
        target = replace(target, credentials="")
        if here.scheme == "https" and target.scheme == "http":
            raise self.refused(f"{verb} from https to {target}, which is not encrypted", remedy)
        ports = {(configured.scheme, configured.port)}
        if (configured.scheme, configured.port) == ("http", 80):
            ports.add(("https", 443))
        same = target.host == configured.host and (target.scheme, target.port) in ports
        if not same and not target.listed_as & self._policy.redirect_hosts:
            raise self.refused(f"{verb} to {target}, which is not its own host and port, so it is not followed", remedy)
        return target

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Translate exceptions of the block into ours."""
        try:
            yield
        except (OSError, http.client.HTTPException, ValueError) as error:
            if time.monotonic() >= self._until:
                raise self._too_slow() from None
            where = (self._policy.target, self._method.lower(), self._name)
            host, port = (self._place.host, self._place.port) if self._place else ("", None)
            cause = cause_of(error, host, port, waited_s=self._wait_s)
            if isinstance(error, ssl.SSLCertVerificationError):
                raise CertificateError(cause, *where, self._policy.certificate_remedy) from None
            if isinstance(error, OSError):
                raise TransientError(cause, *where) from None
            if not isinstance(error, http.client.IncompleteRead):
                cause = f"the answer is not valid HTTP: {cause}"
            raise UnexpectedAnswerError(cause, *where) from None

    def _too_slow(self, problem: str = "") -> TransientError:
        host, seconds = self._place.host if self._place else "the host", f"{self._policy.total_s:.3g} s"
        came = f"only {self._size} bytes came from {host} in {seconds}"
        return TransientError(
            problem or (came if self._size else f"no answer from {host} within {seconds}"),
            self._policy.target,
            self._method.lower(),
            self._name,
        )

    def ask(
        self, place: Place, headers: Mapping[str, str], body: bytes | BinaryIO | None, *, configured: bool
    ) -> Answer:
        self._place, self._wait_s = place, self._policy.connect_s
        wire = self._kept.take(place.origin) if self._kept else None
        wire = wire or self._connect(place, configured=configured)
        self._wait_s = self._policy.read_s
        wire.begin(self._until, self._policy.read_s)
        connection = http.client.HTTPConnection(place.host, place.port, blocksize=_SEND_BYTES)
        connection.default_port = DEFAULT_PORTS[place.scheme]  # which the Host header leaves out
        connection.sock = wire
        whole = False
        try:
            # A server that refuses a request may close before it has read all of it; its answer can still be read.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.request(self._method, place.path, body=body, headers=dict(headers))
            response = connection.getresponse()
            found: dict[str, str] = {}
            for header, value in response.getheaders():
                found.setdefault(header.lower(), value)
            wanted = response.status == 200 or self._policy.with_errors
            content = self._read(response, found) if wanted else b""
            whole = wanted and not response.will_close
            return Answer(response.status, response.reason[:200], found, content)
        finally:
            if whole and self._kept:
                self._kept.give_back(place.origin, wire)
            else:
                wire.end()

    def _connect(self, place: Place, *, configured: bool) -> Wire:
        """A connection to a checked address; the certificate is still checked against the name."""
        addresses, connect_s = self._addresses(place, configured=configured), self._policy.connect_s
        opened = dial(addresses, place.port, connect_s=connect_s, until=self._until)
        if place.scheme == "https":
            left = min(connect_s, self._until - time.monotonic())
            opened = secured(opened, tls_context(self._policy.verify), place.host, within_s=left)
        return Wire(opened)

    def _addresses(self, place: Place, *, configured: bool) -> list[str]:
        try:
            left = self._until - time.monotonic()
            return permitted_addresses(self._policy, place.host, place.port, configured=configured, within_s=left)
        except TimeoutError as error:
            raise self._too_slow(str(error)) from None
        except AddressError as error:
            remedy = f"If that host is your own, add it to WRM_PRIVATE_HOSTS. {self._policy.remedy}".strip()
            raise self.refused(str(error), remedy) from None

    def _read(self, response: http.client.HTTPResponse, headers: Mapping[str, str]) -> bytes:
        if self._method == "HEAD":
            return b""
        limit = self._policy.max_bytes
        if (response.length or 0) > limit:
            raise self._too_long()
        unpack = self._unpacker(headers.get("content-encoding", "") if self._policy.unpack else "")
        chunks: list[bytes] = []
        unpacked = 0
        # Each read1 returns what has arrived.
        while chunk := response.read1(_CHUNK_BYTES):
            self._size += len(chunk)
            if self._size > limit:
                raise self._too_long()
            for piece in unpack(chunk):
                unpacked += len(piece)
                if unpacked > limit:
                    raise self._too_long()
                chunks.append(piece)
            if time.monotonic() > self._until:
                raise self._too_slow()
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)
        chunks.extend(unpack(b""))
        return b"".join(chunks)

    def _too_long(self) -> PermanentError:
        return self.refused(f"the answer is longer than {self._policy.max_bytes} bytes", self._policy.size_remedy)

    def _unpacker(self, encoding: str) -> Callable[[bytes], Iterator[bytes]]:
        """A function that undoes the transfer's compression in pieces of at most 64 kB; `b""` ends it."""
        match encoding.strip().lower():
            case "" | "identity":
                return lambda data: iter([data] if data else [])
            case "gzip" | "x-gzip":
                return _Inflater(zlib.MAX_WBITS | 16)
            case "deflate":
                return _Inflater(zlib.MAX_WBITS)
        raise UnexpectedAnswerError(
            "the answer is in an encoding that was not asked for", self._policy.target, self._method.lower(), self._name
        )


class _Inflater:
    """gzip (members one after the other) or deflate, with or without zlib's header."""

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self._gzip = bits > zlib.MAX_WBITS
        self._state = zlib.decompressobj(bits)
        self._begun = False

    def __call__(self, data: bytes) -> Iterator[bytes]:
        if not data:
            if self._begun and not self._state.eof:
                raise http.client.IncompleteRead(b"")
            return
        while data:
            if self._state.eof:
                if not self._gzip or not data.startswith(b"\x1f"):
                    return  # anything after a finished stream is not part of it
                self._state = zlib.decompressobj(self._bits)
            try:
                piece = self._state.decompress(data, _CHUNK_BYTES)
            except zlib.error as error:
                if self._begun or self._bits != zlib.MAX_WBITS:
                    raise ValueError(f"its {'gzip' if self._gzip else 'deflate'} is damaged") from error
                self._state, self._bits = zlib.decompressobj(-zlib.MAX_WBITS), -zlib.MAX_WBITS
                continue
            self._begun = True
            if piece:
                yield piece
            data = self._state.unconsumed_tail or self._state.unused_data

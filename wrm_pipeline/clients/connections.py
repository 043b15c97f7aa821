"""Connections on which every step ends by a deadline: name resolution, handshake, each write and each read.

The deadline is checked wherever bytes are awaited, so that a service that drips, floods or never finishes its headers
costs that time and no more, without a second thread as watchdog.
"""

import io
import ipaddress
import os
import queue
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

Resolve = Callable[[str, int], Sequence[str]]

_WRITE_BYTES = 256 * 1024
_READ_BYTES = 64 * 1024


def resolve_name(host: str, port: int) -> list[str]:
    """The addresses of a host, as the system resolves them.

    Raises:
        OSError: it has none.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[4][0]) for address in found))


def is_literal(host: str) -> bool:
    """Whether a host is an IP address rather than a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def resolve_within(resolve: Resolve, host: str, port: int, seconds: float) -> Sequence[str]:
    """The addresses of a host, or an error in time.

    getaddrinfo takes no time-out, and a dead name server keeps it for 30 s and more. So it runs in its own thread,
    which is abandoned when it takes too long, and ends when the system gives up.

    Raises:
        TimeoutError: not within `seconds`.
        OSError: it has none.
    """
    if is_literal(host):
        return [host]
    answers: queue.SimpleQueue[tuple[Sequence[str], BaseException | None]] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put((resolve(host, port), None))
        except BaseException as error:  # noqa: BLE001 - raised again in the calling thread
            answers.put(((), error))

    threading.Thread(target=ask, name="resolve", daemon=True).start()
    try:
        found, error = answers.get(timeout=max(seconds, 0))
    except queue.Empty:
        raise TimeoutError(f"cannot resolve {host} within {seconds:.3g} s") from None
    if error is not None:
        raise error
    return found


class Wire:
    """A connected socket with the three methods that http.client uses. One exchange at a time."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._until = self._read_s = 0.0

    def begin(self, until: float, read_s: float) -> None:
        """Start an exchange: all of it ends at `until` (monotonic, in seconds), each wait within `read_s` seconds."""
        self._until, self._read_s = until, read_s

    def _wait_at_most(self) -> None:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError("the time is up")
        self._socket.settimeout(min(self._read_s, left))

    def sendall(self, data: Any) -> None:
        """Send bytes; the other side must take some of them within each `read_s`."""
        rest = memoryview(data).cast("B")
        while rest:
            self._wait_at_most()
            rest = rest[self._socket.send(rest[:_WRITE_BYTES]) :]

    def receive_into(self, buffer: Any) -> int:
        """Read what has arrived; 0 at the end."""
        self._wait_at_most()
        return self._socket.recv_into(buffer)

    def makefile(self, _mode: str) -> io.BufferedReader:
        """A file to read from; closing it leaves the connection open."""
        return io.BufferedReader(_Reading(self), _READ_BYTES)

    def close(self) -> None:
        """Does nothing: http.client closes a connection that it will not reuse before it has read the answer."""

    def end(self) -> None:
        """End the connection."""
        with suppress(OSError):
            self._socket.close()

    @property
    def is_quiet(self) -> bool:
        """Whether it can be reused: it is open, and no unexpected bytes have arrived."""
        try:
            poll = select.poll()
            poll.register(self._socket, select.POLLIN)
            return not poll.poll(0)
        except (OSError, ValueError):
            return False


class _Reading(io.RawIOBase):
    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._wire.receive_into(buffer)


class KeptConnections:
    """Connections that stay open for the next request to the same place; thread-safe.

    A forked process starts without any, since two processes must not share a connection.

    Args:
        most: Maximum number kept; the oldest are closed first.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._idle: list[tuple[Hashable, Wire]] = []
        self._process = os.getpid()

    def take(self, place: Hashable) -> Wire | None:
        """One that is open, or None."""
        with self._lock:
            if self._process != os.getpid():
                self._idle, self._process = [], os.getpid()
            for index in range(len(self._idle) - 1, -1, -1):
                if self._idle[index][0] == place:
                    wire = self._idle.pop(index)[1]
                    if wire.is_quiet:
                        return wire
                    wire.end()
        return None

    def give_back(self, place: Hashable, wire: Wire) -> None:
        """Keep one whose answer was read to its end."""
        with self._lock:
            self._idle.append((place, wire))
            while len(self._idle) > self._most:
                self._idle.pop(0)[1].end()


def dial(addresses: Sequence[str], port: int, *, connect_s: float, until: float) -> socket.socket:
    """A connection to the first address that answers.

    Args:
        addresses: Of a host, already checked.
        port: Where it listens.
        connect_s: Seconds for each address.
        until: Monotonic seconds at which all of it ends.

    Raises:
        TimeoutError: the time is up.
        OSError: none answers.
    """
    problem: OSError | None = None
    for address in addresses:
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError("the time is up")
        try:
            opened = socket.create_connection((address, port), timeout=min(connect_s, left))
        except OSError as error:
            problem = error
            continue
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return opened
    raise problem or OSError("the name has no address")


def secured(opened: socket.socket, tls: ssl.SSLContext, host: str, *, within_s: float) -> ssl.SSLSocket:
    """TLS on a connection, with the certificate of `host`; `within_s` seconds for all of the handshake.

    Raises:
        OSError: no handshake in time, or a certificate that is not valid.
    """
    try:
        opened.settimeout(max(within_s, 0.001))
        return tls.wrap_socket(opened, server_hostname=host)
    except BaseException:
        opened.close()
        raise


@cache
def tls_context(verify: bool | str = True) -> ssl.SSLContext:
    """The context that certificates are checked with.

    Args:
        verify: True: the CA bundle of the environment (REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE, SSL_CERT_FILE), else
            certifi's. A path: only the CAs in it. False: nothing is checked.
    """
    if verify is False:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context
    bundle = ca_bundle() if verify is True else verify
    if bundle and Path(bundle).is_dir():
        return ssl.create_default_context(capath=bundle)
    return ssl.create_default_context(cafile=bundle)


def ca_bundle() -> str | None:
    """The file or folder of trusted CAs: that of the environment, else certifi's. None: the system's."""
    named = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    if named or os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR"):
        return named
    import certifi

    return certifi.where()

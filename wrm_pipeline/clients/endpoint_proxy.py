"""An HTTP proxy within this process that connects to one endpoint only, for a library that follows any redirect.

DuckDB's httpfs follows every redirect, from https to http and to services of this machine as well, and no setting stops
it. But it takes a proxy. This one listens on the loopback interface and connects to the object store's endpoint and to
nothing else: a tunnel for https, so that certificates are checked where they were; requests without a body for http,
whose target is checked each time. It has no credentials, and another account of this machine that finds it can reach
nothing through it that it could not reach anyway.
"""

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Iterator

from wrm_pipeline.clients.causes import cause_of
from wrm_pipeline.clients.connections import Resolve, dial, resolve_name, resolve_within
from wrm_pipeline.clients.outgoing import Place, place_of
from wrm_pipeline.logs import get_logger

CONNECT_S = 3.0
IDLE_S = 60.0
"""Seconds without a byte either way, after which a connection ends. DuckDB gives up after 30."""

MAX_CONNECTIONS = 128
MAX_HEAD_BYTES = 64 * 1024

_BUFFER_BYTES = 256 * 1024
_HOP_BY_HOP = (b"proxy-connection:", b"proxy-authorization:")

_log = get_logger(__name__)
_lock = threading.Lock()
_proxies: dict[tuple[int, str], "EndpointProxy"] = {}


def proxy_for(endpoint_url: str) -> str:
    """``host:port`` of the proxy to an endpoint; started when it is first needed; ends with the process."""
    place = place_of(endpoint_url)
    key = (os.getpid(), str(place))  # a forked process does not inherit threads
    with _lock:
        if key not in _proxies:
            _proxies[key] = EndpointProxy(place)
        return _proxies[key].address


class EndpointProxy:
    """The proxy; serves in its own threads from the start.

    Args:
        place: The only endpoint that it connects to.
        resolve: Addresses of its host.
    """

    def __init__(self, place: Place, resolve: Resolve = resolve_name) -> None:
        self._place = place
        self._resolve = resolve
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=MAX_CONNECTIONS)
        self.address = "127.0.0.1:{1}".format(*self._listener.getsockname())
        threading.Thread(target=self._accept, name="endpoint-proxy", daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if not self._slots.acquire(blocking=False):
                client.close()
                continue
            threading.Thread(target=self._serve, args=(client,), name="endpoint-proxy", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            with client, contextlib.suppress(OSError):
                client.settimeout(IDLE_S)
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._lead(client)
        finally:
            self._slots.release()

    def _lead(self, client: socket.socket) -> None:
        buffer = memoryview(bytearray(_BUFFER_BYTES))
        head, rest = _read_head(client, b"")
        method, target = _request_line(head)
        if method == b"CONNECT":
            if not self._is_own(b"https://" + target):
                self._refuse(client, b"https://" + target)
                return
            with self._connected(client) as server:
                client.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
                server.sendall(rest)
                _pass_on(server, client, buffer)
            return
        with contextlib.ExitStack() as stack:
            opened: socket.socket | None = None
            while head:
                request = self._own(head)
                if request is None:
                    self._refuse(client, _request_line(head)[1])
                    return
                opened = opened or stack.enter_context(self._connected(client))
                opened.sendall(request)
                _pass_on(opened, client, buffer, until_asked=True)
                head, rest = _read_head(client, rest)

    @contextlib.contextmanager
    def _connected(self, client: socket.socket) -> Iterator[socket.socket]:
        """A connection to the endpoint. Otherwise an answer to the client, and ConnectionError."""
        until = time.monotonic() + CONNECT_S
        try:
            addresses = resolve_within(self._resolve, self._place.host, self._place.port, CONNECT_S)
            server = dial(addresses, self._place.port, connect_s=CONNECT_S, until=until)
        except OSError as error:
            _answer(
                client, b"502 No Connection", cause_of(error, self._place.host, self._place.port, waited_s=CONNECT_S)
            )
            raise
        with server:
            server.settimeout(IDLE_S)
            yield server

    def _refuse(self, client: socket.socket, target: bytes) -> None:
        try:
            where = str(place_of(target.decode("ascii")))  # without its path, which the other side chose
        except ValueError:
            where = "something that is not a usable URL"
        _log.warning("a redirect was not followed", endpoint=str(self._place), to=where)
        _answer(client, b"421 Redirect Not Followed", f"{where} is not the configured endpoint, {self._place}")

    def _own(self, head: bytes) -> bytes | None:
        """A request as the endpoint expects it; None if it goes elsewhere or has a body."""
        line, *headers = head.split(b"\r\n")
        method, target = _request_line(head)
        if method not in {b"GET", b"HEAD"} or not target.startswith(b"http://") or not self._is_own(target):
            return None
        if any(header.lower().startswith((b"transfer-encoding:", b"content-length:")) for header in headers):
            return None
        kept = [header for header in headers if not header.lower().startswith(_HOP_BY_HOP)]
        path = b"/" + target.removeprefix(b"http://").partition(b"/")[2]
        return b"\r\n".join([line.replace(target, path, 1), *kept])

    def _is_own(self, url: bytes) -> bool:
        try:
            return place_of(url.decode("ascii")).origin == self._place.origin
        except ValueError:
            return False


def _request_line(head: bytes) -> tuple[bytes, bytes]:
    """Method and target; empty if it is not a request."""
    method, _, rest = head.partition(b"\r\n")[0].partition(b" ")
    return method, rest.rpartition(b" ")[0]


def _read_head(client: socket.socket, got: bytes) -> tuple[bytes, bytes]:
    """The head of the next request, and what came after it; empty at the end of the connection."""
    while b"\r\n\r\n" not in got:
        more = client.recv(MAX_HEAD_BYTES) if len(got) < MAX_HEAD_BYTES else b""
        if not more:
            return b"", b""
        got += more
    head, end, rest = got.partition(b"\r\n\r\n")
    return head + end, rest


def _pass_on(server: socket.socket, client: socket.socket, buffer: memoryview, *, until_asked: bool = False) -> None:
    """Copy bytes in both directions until one side closes or nothing arrives for a while.

    `until_asked`: only from the server, until the client sends its next request.
    """
    poll, ends = select.poll(), {server.fileno(): (server, client), client.fileno(): (client, server)}
    for end in ends:
        poll.register(end, select.POLLIN)
    while ready := poll.poll(IDLE_S * 1000):
        for end, _ in ready:
            source, sink = ends[end]
            if source is client and until_asked:
                return
            size = source.recv_into(buffer)
            if not size:
                raise ConnectionError("the end")
            sink.sendall(buffer[:size])
    raise TimeoutError("nothing came")


def _answer(client: socket.socket, status: bytes, text: str) -> None:
    body = text.encode()
    head = b"HTTP/1.1 %b\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
    client.sendall(head % (status, len(body)) + body)

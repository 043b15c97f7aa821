"""An HTTP server with a fixed number of threads and connections, in which slow clients do not hold up others.

With a thread per connection, 900 silent clients take 900 threads, and the unit's task limit stops the process from
working. Here one thread reads all requests; only a complete request gets another thread, for the answer. When a limit
is reached, the slowest client is dropped.
"""

import http.client
import io
import logging
import queue
import selectors
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

logger = logging.getLogger("wrm_pipeline.exporter")

THREADS = 8
CONNECTIONS = 256
"""Clients with an unfinished request; each is a socket and the beginning of a request. One more drops the oldest."""

HEAD_S = 5.0
"""From the connection to the end of the request's head, however slowly it arrives."""

ANSWER_S = 10.0
"""From there to the end of the answer."""

PATIENCE_S = 0.25
"""An answer takes 0.05 s. A client that has not read it by then makes room when others wait."""

LONGEST_HEAD = 16 * 1024
"""In bytes. Prometheus sends 0.4 kB, a browser 2 kB."""

_ENDS = (b"\r\n\r\n", b"\n\n")
_POLL_S = 0.5
# A whole answer fits, or as much as the kernel allows: a client that does not read it blocks no thread.
_SEND_BUFFER = 2**20


@dataclass(frozen=True, slots=True)
class Request:
    """A client's request; bodies are not supported."""

    method: str
    path: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Response:
    """The server's response."""

    status: int
    content_type: str
    body: bytes


@dataclass(slots=True, eq=False)
class _Connection:
    """One client; `since` (monotonic) is when its current phase began."""

    socket: socket.socket
    since: float
    head: bytearray = field(default_factory=bytearray)


class BoundedServer:
    """Listens once created; `serve_forever` answers requests with what a subclass's `answer` returns."""

    def __init__(self, address: tuple[str, int]) -> None:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._listener = socket.create_server(address, family=family, backlog=128)
        self._listener.setblocking(False)
        self.server_address = self._listener.getsockname()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._asking: dict[_Connection, None] = {}  # the oldest first
        self._asked: queue.SimpleQueue[tuple[_Connection, Request | int] | None] = queue.SimpleQueue()
        self._answering: set[_Connection] = set()
        self._lock = threading.Lock()
        self._stop_event = threading.Event()
        self._done = threading.Event()
        self._done.set()

    def answer(self, request: Request) -> Response:
        """The response to a request."""
        raise NotImplementedError

    def service_actions(self) -> None:
        """Called at least every poll interval."""

    def serve_forever(self, poll_interval: float = _POLL_S) -> None:
        """Serve until `shutdown`, or an exception such as KeyboardInterrupt; polls every `poll_interval` seconds."""
        self._done.clear()
        for number in range(THREADS):
            threading.Thread(target=self._work, name=f"http-{number}", daemon=True).start()
        try:
            while not self._stop_event.is_set():
                # While clients wait for a thread, check more often for one that does not read its answer.
                for key, _ in self._selector.select(poll_interval if self._asked.empty() else PATIENCE_S / 2):
                    if key.data is None:
                        self._accept()
                    else:
                        self._read(key.data)
                self._drop_overdue()
                self.service_actions()
        finally:
            for _ in range(THREADS):
                self._asked.put(None)
            self._done.set()

    def shutdown(self) -> None:
        """End `serve_forever` in another thread, and wait until it has ended."""
        self._stop_event.set()
        self._done.wait()

    def server_close(self) -> None:
        """Close the port and all clients with unfinished requests."""
        self._selector.close()
        self._listener.close()
        for connection in list(self._asking):
            connection.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.server_close()

    # Reading, in the one thread

    def _accept(self) -> None:
        for _ in range(64):
            try:
                client, _address = self._listener.accept()
            except OSError:  # no more clients; or no free file descriptors, until others are closed
                return
            client.setblocking(False)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
            if len(self._asking) >= CONNECTIONS:
                self._forget(next(iter(self._asking)))
            connection = _Connection(client, time.monotonic())
            self._asking[connection] = None
            self._selector.register(client, selectors.EVENT_READ, connection)

    def _read(self, connection: _Connection) -> None:
        if connection not in self._asking:
            return  # dropped in this round
        try:
            received = connection.socket.recv(LONGEST_HEAD)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        if not received:
            self._forget(connection)
            return
        connection.head += received
        ends = [at for end in _ENDS if (at := connection.head.find(end)) >= 0]
        if ends and min(ends) <= LONGEST_HEAD:
            self._pass_on(connection, _parsed(bytes(connection.head[: min(ends)])))
        elif len(connection.head) > LONGEST_HEAD:
            self._pass_on(connection, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def _pass_on(self, connection: _Connection, asked: Request | int) -> None:
        self._selector.unregister(connection.socket)
        del self._asking[connection]
        self._asked.put((connection, asked))
        if self._asked.qsize() > CONNECTIONS:
            with suppress(queue.Empty):
                if waiting := self._asked.get_nowait():
                    waiting[0].socket.close()

    def _forget(self, connection: _Connection) -> None:
        self._selector.unregister(connection.socket)
        del self._asking[connection]
        connection.socket.close()

    def _drop_overdue(self) -> None:
        now = time.monotonic()
        for connection in [one for one in self._asking if now - one.since > HEAD_S]:
            self._forget(connection)
        longest = ANSWER_S if self._asked.empty() else PATIENCE_S
        with self._lock:
            for connection in self._answering:
                if now - connection.since > longest:
                    with suppress(OSError):
                        connection.socket.shutdown(socket.SHUT_RDWR)  # wakes its thread with an error

    # Answering, in THREADS others

    def _work(self) -> None:
        while (task := self._asked.get()) is not None:
            connection, asked = task
            with connection.socket:
                try:
                    response = _refusal(asked) if isinstance(asked, int) else self.answer(asked)
                except Exception:
                    logger.exception("a request cannot be answered")
                    response = _refusal(HTTPStatus.INTERNAL_SERVER_ERROR)
                with_body = isinstance(asked, int) or asked.method != "HEAD"
                self._send(connection, response, with_body=with_body)

    def _send(self, connection: _Connection, response: Response, *, with_body: bool) -> None:
        head = (
            f"HTTP/1.0 {response.status} {HTTPStatus(response.status).phrase}\r\n"
            f"Content-Type: {response.content_type}\r\nContent-Length: {len(response.body)}\r\n"
            "Connection: close\r\nX-Content-Type-Options: nosniff\r\n\r\n"
        )
        connection.since = time.monotonic()
        with self._lock:
            self._answering.add(connection)
        try:
            connection.socket.settimeout(ANSWER_S)
            connection.socket.sendall(head.encode("latin-1") + (response.body if with_body else b""))
            connection.socket.shutdown(socket.SHUT_WR)
            connection.socket.setblocking(False)
            connection.socket.recv(2**20)  # unread data would make the kernel reset the connection
        except OSError:
            pass  # gone, or dropped
        finally:
            with self._lock:
                self._answering.discard(connection)


def _parsed(head: bytes) -> Request | int:
    """A request, or the error status if it is not one."""
    line, _, rest = head.partition(b"\n")
    words = line.decode("latin-1").split()
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        return HTTPStatus.BAD_REQUEST
    if words[0] not in {"GET", "HEAD"}:
        return HTTPStatus.METHOD_NOT_ALLOWED
    try:
        headers: Any = http.client.parse_headers(io.BytesIO(rest + b"\r\n\r\n"))
    except http.client.HTTPException:  # too many, or too long
        return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    return Request(words[0], words[1], headers)


def _refusal(status: int) -> Response:
    return Response(status, "text/plain; charset=utf-8", f"{HTTPStatus(status).phrase}\n".encode())

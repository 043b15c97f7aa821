"""The exporter's server among clients that are slow, many or wrong: real sockets, a real process's threads."""

from __future__ import annotations

import contextlib
import resource
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from wrm_pipeline.exporter import bounded_server
from wrm_pipeline.exporter.bounded_server import CONNECTIONS, LONGEST_HEAD, THREADS, BoundedServer, Request, Response

SLOW_CLIENTS = 900
BODY = b"wrm_things 1\n" * 10_000  # as much as a scrape has


class Server(BoundedServer):
    asked: list[Request]

    def answer(self, request: Request) -> Response:
        self.asked.append(request)
        if request.path == "/broken":
            raise RuntimeError("broken")
        return Response(200, "text/plain; version=1.0.0", BODY)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0)) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def scrape(server: BoundedServer, path: str = "/metrics") -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.server_address[1]}{path}", timeout=5) as answer:
        return bytes(answer.read())


def say(server: BoundedServer, *parts: bytes) -> bytes:
    """Send bytes, and read until the server closes."""
    with socket.create_connection(server.server_address, timeout=5) as client:
        received = b""
        with contextlib.suppress(ConnectionError):
            for part in parts:
                client.sendall(part)
            while more := client.recv(65536):
                received += more
        return received


@contextlib.contextmanager
def crowd(server: BoundedServer, says: bytes, *, small_window: bool = False) -> Iterator[list[socket.socket]]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 4 * SLOW_CLIENTS:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4 * SLOW_CLIENTS, hard), hard))
    clients = []
    try:
        for _ in range(SLOW_CLIENTS):
            client = socket.socket()
            if small_window:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(5)
            client.connect(server.server_address)
            with contextlib.suppress(OSError):
                client.sendall(says)
            clients.append(client)
        yield clients
    finally:
        for client in clients:
            client.close()


def threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


@pytest.mark.parametrize(
    ("says", "small_window"),
    [
        (b"", False),
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Slow: ", False),
        (b"GET /metrics HTTP/1.1\r\n\r\n", True),
    ],
    ids=["silent", "unfinished", "do not read"],
)
def test_a_scrape_works_while_900_slow_clients_hang_on(server: Server, says: bytes, small_window: bool) -> None:
    before, other_threads = threads(), threading.active_count()
    with crowd(server, says, small_window=small_window):
        for _ in range(3):
            started = time.monotonic()
            assert scrape(server) == BODY
            assert time.monotonic() - started < 2
        assert threads() <= before + THREADS
        assert len(server._asking) <= CONNECTIONS
        assert server._asked.qsize() <= CONNECTIONS
    assert threading.active_count() <= other_threads + THREADS + 3


def test_the_newest_of_too_many_clients_are_kept(server: Server) -> None:
    with crowd(server, b"") as clients:
        clients[-1].sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert clients[-1].recv(100).startswith(b"HTTP/1.0 200 OK\r\n")
        clients[0].settimeout(5)
        with contextlib.suppress(ConnectionError):
            assert clients[0].recv(100) == b"", "the oldest was dropped"


def test_a_head_that_drips_ends_when_its_time_is_over(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_server, "HEAD_S", 0.3)
    started = time.monotonic()
    with socket.create_connection(server.server_address, timeout=5) as client:
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                client.sendall(b"x")
                time.sleep(0.05)
        ended = time.monotonic() - started
    assert ended < 3
    assert server.asked == []


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", b"200"),
        (b"GET /metrics HTTP/1.0\n\n", b"200"),
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", b"200"),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", b"405"),
        (b"GET /broken HTTP/1.1\r\n\r\n", b"500"),
        (b"\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\n\n", b"400"),
        (b"GET /metrics\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"x" * LONGEST_HEAD, b"431"),
        (b"GET /" + b"x" * 10 * LONGEST_HEAD, b"431"),
        (b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n", b"431"),
    ],
)
def test_each_request_gets_an_answer_of_its_kind(server: Server, request_: bytes, status: bytes) -> None:
    received = say(server, request_)
    assert received.startswith(b"HTTP/1.0 " + status) or (status == b"431" and received == b"")
    assert received.endswith(BODY) == (request_.startswith(b"GET /metrics HTTP") and status == b"200")
    assert scrape(server) == BODY, "and the next is served"


def test_a_request_may_come_in_pieces(server: Server) -> None:
    assert say(server, b"GET /met", b"rics HTTP/1.1\r\nAcc", b"ept: x\r\n", b"\r\n").endswith(BODY)
    assert server.asked[0].path == "/metrics"
    assert server.asked[0].headers.get("accept") == "x"


def test_a_client_that_goes_away_costs_nothing(server: Server) -> None:
    for _ in range(50):
        with socket.create_connection(server.server_address, timeout=5) as client:
            client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
    assert scrape(server) == BODY


def test_bytes_that_come_at_once_with_other_requests_are_answered_once(server: Server) -> None:
    assert say(server, b"GET /metrics HTTP/1.1\r\n\r\n" * 3).count(b"HTTP/1.0 200") == 1

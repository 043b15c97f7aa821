"""The simulated feed over HTTP: misbehaving as planned, at random, or as the URL asks."""

import logging
import random
import re
import socket
import struct
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, urlsplit

from wrm_pipeline.simulator.city import City
from wrm_pipeline.simulator.misbehaviour import Answer, Misbehaviour, Tuning, answer, misbehave
from wrm_pipeline.simulator.other_feeds import GBFS_VERSIONS, OPERATOR_PATH, gbfs_file, gbfs_path, operator_answer

PATH = "/bikesapi/load.php"
SCHEME = "wroclaw"
_GBFS_PATH = re.compile(rf"/gbfs/v({'|'.join(map(re.escape, GBFS_VERSIONS))})/([a-z_]+)\.json")

_log = logging.getLogger(__name__)


def _now() -> datetime:
    return datetime.now(UTC)


class SimulatedFeed:
    """A running feed, and the strings that a test pulls.

    Attributes:
        url: The feed's full URL, query included.
        operator_url, gbfs_url: Where the same city is served as the operator's JSON, and as GBFS 2.3 (put `v3.0` in
            the place of `v2.3` for that version). Only a fault that the URL asks for happens there.
        clock: The instant of the next request; settable.
        tuning: Sizes and times of faults; settable.
    """

    def __init__(self, city: City, clock: Callable[[], datetime], tuning: Tuning) -> None:
        self.url = self.operator_url = self.gbfs_url = ""
        self.clock = clock
        self.tuning = tuning
        self._city = city
        self._lock = threading.Lock()
        self._planned: deque[Misbehaviour | None] = deque()
        self._probability = 0.0
        self._random = random.Random()
        self._kinds: Sequence[Misbehaviour] = ()
        self._requests = 0
        self._last_headers = Message()
        self._last_body: bytes | None = None
        self.stopping = threading.Event()

    @property
    def requests(self) -> int:
        """Requests for the feed so far; each hop of a redirect is one."""
        with self._lock:
            return self._requests

    @property
    def last_headers(self) -> Message:
        """The headers of the last request for the feed; names are found in any case."""
        with self._lock:
            return self._last_headers

    def plan(self, misbehaviour: Misbehaviour | str | None, times: int = 1) -> None:
        """Queues a fault for the next requests, after those already queued.

        Args:
            misbehaviour: The fault; None for a good answer in between.
            times: For how many requests.
        """
        kind = None if misbehaviour is None else Misbehaviour(misbehaviour)
        with self._lock:
            self._planned.extend([kind] * times)

    def misbehave_at_random(
        self, probability: float, seed: int, kinds: Sequence[Misbehaviour] = tuple(Misbehaviour)
    ) -> None:
        """Lets requests for which nothing is planned meet a fault now and then.

        Args:
            probability: Of a fault, 0 to 1, for each request.
            seed: The same seed gives the same faults in the same order.
            kinds: The faults to choose from.
        """
        with self._lock:
            self._probability = probability
            self._random = random.Random(seed)
            self._kinds = kinds

    def answer(self, query: Mapping[str, list[str]], headers: Message) -> Answer:
        """Answers one request for the feed, and counts it.

        Args:
            query: The URL's parameters: `at` and `misbehave` are understood.
            headers: The request's.

        Returns:
            What to send.

        Raises:
            ValueError: A parameter makes no sense; the text says which and why.
        """
        at, asked = _instant(query), _asked(query)
        with self._lock:
            self._requests += 1
            self._last_headers = headers
            kind = asked or self._next_fault()
        body = self._city.snapshot(at or self.clock())
        with self._lock:
            if kind is None or self._last_body is None:
                self._last_body = body
            previous = self._last_body
        if kind is None:
            return answer(body)
        return misbehave(kind, body, previous=previous, tuning=self.tuning)

    def other_answer(self, path: str, query: Mapping[str, list[str]]) -> Answer | None:
        """Answers a request for the city as another kind of feed; None for a path of none.

        Raises:
            ValueError: See `answer`.
        """
        at = _instant(query) or self.clock()
        body: bytes | None = None
        if path == OPERATOR_PATH:
            body = operator_answer(self._city, at)
        elif found := _GBFS_PATH.fullmatch(path):
            base = self.url.partition(PATH)[0]
            same_instant = f"?at={quote(query['at'][0])}" if "at" in query else ""
            body = gbfs_file(self._city, at, found[1], found[2], base, same_instant)
        if body is None:
            return None
        kind = _asked(query)
        reply = answer(body) if kind is None else misbehave(kind, body, previous=body, tuning=self.tuning)
        return replace(reply, content_type="application/json") if kind is None else reply

    def _next_fault(self) -> Misbehaviour | None:
        if self._planned:
            return self._planned.popleft()
        if self._random.random() < self._probability:
            return self._random.choice(self._kinds)
        return None


def _instant(query: Mapping[str, list[str]]) -> datetime | None:
    if "at" not in query:
        return None
    at = datetime.fromisoformat(query["at"][0])
    if at.tzinfo is None:
        raise ValueError("at: an instant needs a time zone, as in at=2025-08-21T12:00:00Z")
    return at


def _asked(query: Mapping[str, list[str]]) -> Misbehaviour | None:
    if "misbehave" not in query:
        return None
    try:
        return Misbehaviour(query["misbehave"][0])
    except ValueError:
        raise ValueError("misbehave: one of " + ", ".join(Misbehaviour)) from None


class _Handler(BaseHTTPRequestHandler):
    server: "_Server"
    protocol_version = "HTTP/1.1"
    server_version = "SimulatedFeed"
    sys_version = ""
    timeout = 30  # seconds to send a request in

    def do_GET(self) -> None:
        """Answers any GET; only the feed's own path is counted and can misbehave."""
        # One request per connection, so that no connection to this server stays in a client's pool.
        self.close_connection = True
        feed, url = self.server.feed, urlsplit(self.path)
        query = parse_qs(url.query)
        try:
            if url.path == PATH and query.get("scheme") == [SCHEME]:
                reply = feed.answer(query, self.headers)
            else:
                reply = feed.other_answer(url.path, query) or _plain(404, f"The feed is at {feed.url}")
        except ValueError as error:
            reply = _plain(400, str(error))
        self._send(reply)

    def _send(self, reply: Answer) -> None:
        if reply.status:
            self._send_head(reply)
            for chunk in _chunks(reply):
                self.wfile.write(chunk)
                if reply.pause_s and self.server.feed.stopping.wait(reply.pause_s):
                    return
        if reply.ending == "hang":
            self.server.feed.stopping.wait(reply.ending_wait_s)
        elif reply.ending == "reset":
            # Lingering on for 0 s makes the close a reset instead of an orderly end.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _send_head(self, reply: Answer) -> None:
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        if reply.declared_bytes >= 0:
            self.send_header("Content-Length", str(reply.declared_bytes))
        for name, value in reply.headers:
            self.send_header(name, value)
        if reply.status == 301:
            # The fault is in the URL, so the next hop gets it again, whatever was planned for others.
            location = f"{PATH}?scheme={SCHEME}&misbehave={Misbehaviour.REDIRECT_LOOP}"
            self.send_header("Location", location)
        self.send_header("Connection", "close")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Keeps the terminal quiet: requests are logged for debugging only."""
        _log.debug(format, *args)


def _plain(status: int, text: str) -> Answer:
    body = f"{text}\n".encode()
    return Answer(body, status=status, content_type="text/plain; charset=utf-8", declared_bytes=len(body))


def _chunks(reply: Answer) -> Iterator[bytes]:
    if reply.repeat_to_bytes:
        yield reply.body
        rows = reply.body.partition(b"\n")[2]
        for sent in range(len(reply.body), reply.repeat_to_bytes, len(rows)):
            yield rows[: reply.repeat_to_bytes - sent]
    else:
        size = reply.chunk_bytes or len(reply.body) or 1
        for start in range(0, len(reply.body), size):
            yield reply.body[start : start + size]


class _Server(ThreadingHTTPServer):
    daemon_threads = True  # a hanging answer must not keep the process alive
    request_queue_size = 128  # with the default of 5, a burst of clients waits a second for TCP to try again

    def __init__(self, address: tuple[str, int], feed: SimulatedFeed) -> None:
        super().__init__(address, _Handler)
        self.feed = feed

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002
        """Does not report clients that left in mid-answer: some faults are meant to cause that."""
        level = logging.DEBUG if isinstance(sys.exception(), OSError) else logging.ERROR
        _log.log(level, "request from %s failed", client_address, exc_info=True)

    def shutdown_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
        """Closes at once, without the orderly shutdown that would precede a reset."""
        if isinstance(request, socket.socket) and request.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER):
            self.close_request(request)
        else:
            super().shutdown_request(request)


@contextmanager
def serve(
    city: City,
    *,
    clock: Callable[[], datetime] = _now,
    host: str = "127.0.0.1",
    port: int = 0,
    tuning: Tuning | None = None,
) -> Iterator[SimulatedFeed]:
    """Serves a city until the block ends.

    Args:
        city: What to serve.
        clock: Gives the instant of each request; an aware datetime.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        tuning: Sizes and times of faults.

    Yields:
        The running feed.

    Raises:
        OSError: The port is taken.
    """
    feed = SimulatedFeed(city, clock, tuning or Tuning())
    server = _Server((host, port), feed)
    feed.url = f"http://{host}:{server.server_port}{PATH}?scheme={SCHEME}"
    feed.operator_url = f"http://{host}:{server.server_port}{OPERATOR_PATH}"
    feed.gbfs_url = f"http://{host}:{server.server_port}{gbfs_path(GBFS_VERSIONS[0])}"
    # 20 ms: what a test waits at the end of each block.
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="simulated-feed", daemon=True)
    thread.start()
    try:
        yield feed
    finally:
        feed.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()

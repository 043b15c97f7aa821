"""The simulated feed over HTTP: misbehaving as planned, at random, or as the URL asks."""

import logging
import random
import re
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlencode, urlsplit

from wrm_pipeline.simulator.behaviour import (
    FEEDS,
    Behaviour,
    FeedState,
    asked_fault,
    asked_lie,
    behaviour_of,
    check_fault,
    feed_name,
)
from wrm_pipeline.simulator.city import City
from wrm_pipeline.simulator.lies import scene
from wrm_pipeline.simulator.misbehaviour import CONTENT_TYPE, Answer, Misbehaviour, Tuning, misbehave
from wrm_pipeline.simulator.other_feeds import (
    GBFS_VERSIONS,
    OPERATOR_PATH,
    TTL_S,
    gbfs_file,
    gbfs_path,
    operator_answer,
)

PATH = "/bikesapi/load.php"
SCHEME = "wroclaw"
CONTROL_PATH = "/control"
_GBFS_PATH = re.compile(rf"/gbfs/v({'|'.join(map(re.escape, GBFS_VERSIONS))})/([a-z_]+)\.json")

_log = logging.getLogger(__name__)


def _now() -> datetime:
    return datetime.now(UTC)


class SimulatedFeed:
    """A running feed, and the strings that a test pulls.

    It serves one city in three forms, the feeds `ucl`, `operator` and `gbfs`, each with a behaviour of its own.

    Attributes:
        url: The CSV feed's full URL, query included.
        operator_url, gbfs_url: Where the same city is served as the operator's JSON, and as GBFS 2.3 (put `v3.0` in
            the place of `v2.3` for that version).
        clock: The instant of the next request; settable.
        tuning: Sizes and times of faults; settable.
    """

    def __init__(self, city: City, clock: Callable[[], datetime], tuning: Tuning) -> None:
        self.url = self.operator_url = self.gbfs_url = ""
        self.clock = clock
        self.tuning = tuning
        self._city = city
        self._lock = threading.Lock()
        self._states = {name: FeedState() for name in FEEDS}
        self._probability = 0.0
        self._random = random.Random()
        self._kinds: Sequence[Misbehaviour] = ()
        self.stopping = threading.Event()

    @property
    def requests(self) -> int:
        """Requests for the CSV feed so far; each hop of a redirect is one."""
        return self.requests_of("ucl")

    def requests_of(self, feed: str) -> int:
        """Requests for a feed so far; each file of GBFS is one."""
        with self._lock:
            return self._states[feed].requests

    @property
    def last_headers(self) -> Message:
        """The headers of the last request for the CSV feed; names are found in any case."""
        with self._lock:
            return self._states["ucl"].last_headers

    def plan(self, misbehaviour: Misbehaviour | str | None, times: int = 1, feed: str = "ucl") -> None:
        """Queues a fault for the next requests, after those already queued.

        Args:
            misbehaviour: The fault; None for a good answer in between.
            times: For how many requests.
            feed: Of which feed.

        Raises:
            ValueError: The feed cannot have it.
        """
        kind = None if misbehaviour is None else Misbehaviour(misbehaviour)
        check_fault(feed, kind)
        with self._lock:
            self._states[feed].planned.extend([kind] * times)

    def unplan(self, feed: str = "ucl") -> None:
        """Forgets the faults that are still queued."""
        with self._lock:
            self._states[feed].planned.clear()

    def behave(self, feed: str, behaviour: Behaviour | None = None) -> None:
        """Lets a feed behave so from now on, or as it should. A lie begins now, unless it says since when.

        Raises:
            ValueError: The feed cannot have its fault.
        """
        behaviour = behaviour or Behaviour()
        check_fault(feed, behaviour.fault)
        with self._lock:
            state = self._states[feed]
            state.behaviour = replace(behaviour, since=behaviour.since or self.clock())
            state.answered.clear()

    def misbehave_at_random(
        self, probability: float, seed: int, kinds: Sequence[Misbehaviour] = tuple(Misbehaviour)
    ) -> None:
        """Lets requests for the CSV feed for which nothing is planned meet a fault now and then.

        Args:
            probability: Of a fault, 0 to 1, for each request.
            seed: The same seed gives the same faults in the same order.
            kinds: The faults to choose from.
        """
        with self._lock:
            self._probability = probability
            self._random = random.Random(seed)
            self._kinds = kinds

    def answer(self, path: str, query: Mapping[str, list[str]], headers: Message) -> Answer | None:
        """Answers one request, and counts it if it is for a feed.

        Args:
            path: The URL's.
            query: Its parameters: `at`, `misbehave` and `lie` are understood.
            headers: The request's.

        Returns:
            What to send; None for a path where nothing is.

        Raises:
            ValueError: A parameter makes no sense; the text says which and why.
        """
        feed = _feed_at(path, query)
        if feed is None:
            return self._control(query) if path == CONTROL_PATH else None
        at, asked = _instant(query) or self.clock(), asked_fault(query)
        check_fault(feed, asked)
        state = self._states[feed]
        with self._lock:
            state.requests += 1
            state.last_headers = headers
            kind = asked or self._next_fault(feed)
            wait_s = state.wait_s(path, at)
        if wait_s > 0 and kind is None:
            return misbehave(Misbehaviour.TOO_MANY_REQUESTS, b"", tuning=replace(self.tuning, retry_after=str(wait_s)))
        body = self._body(feed, path, query, at)
        if body is None:
            return None
        with self._lock:
            if kind is None or path not in state.last_bodies:
                state.last_bodies[path] = body
            previous = state.last_bodies[path]
            if kind is None:
                state.answered[path] = at
        if kind is not None:
            return misbehave(kind, body, previous=previous, tuning=self.tuning)
        return replace(state.good(body, headers), content_type=CONTENT_TYPE if feed == "ucl" else "application/json")

    def _body(self, feed: str, path: str, query: Mapping[str, list[str]], at: datetime) -> bytes | None:
        behaviour = self._states[feed].behaviour
        asked = asked_lie(query)
        lie, since = (behaviour.lie, behaviour.since) if asked is None else (asked, at.replace(minute=0, second=0))
        if feed == "ucl":
            return self._city.snapshot(at) if lie is None else scene(self._city, at, lie, since).csv()
        shown = scene(self._city, at, lie, since)
        if feed == "operator":
            return operator_answer(self._city, at, shown)
        found = _GBFS_PATH.fullmatch(path)
        if found is None:
            raise AssertionError(f"{path} is not a path of GBFS")
        base = self.url.partition(PATH)[0]
        kept = {name: query[name][0] for name in ("at", "lie") if name in query}
        ttl_s = TTL_S if behaviour.ttl_s is None else behaviour.ttl_s
        same = f"?{urlencode(kept)}" if kept else ""
        return gbfs_file(self._city, at, found[1], found[2], base, same, shown=shown, ttl_s=ttl_s)

    def _control(self, query: Mapping[str, list[str]]) -> Answer:
        """Sets the behaviour of the feed named, or of all; says what it is."""
        names = [feed_name(name) for name in query.get("feed", FEEDS)]
        behaviour = behaviour_of(query, self.clock())
        for name in names:
            self.behave(name, behaviour)
        return _plain(200, "\n".join(f"{name}: {behaviour}" for name in names))

    def _next_fault(self, feed: str) -> Misbehaviour | None:
        state = self._states[feed]
        if state.planned:
            return state.planned.popleft()
        if state.behaviour.fault is None and feed == "ucl" and self._random.random() < self._probability:
            return self._random.choice(self._kinds)
        return state.behaviour.fault


def _feed_at(path: str, query: Mapping[str, list[str]]) -> str | None:
    """The feed that a URL leads to."""
    if path == PATH and query.get("scheme") == [SCHEME]:
        return "ucl"
    if path == OPERATOR_PATH:
        return "operator"
    return "gbfs" if _GBFS_PATH.fullmatch(path) else None


def _instant(query: Mapping[str, list[str]]) -> datetime | None:
    if "at" not in query:
        return None
    at = datetime.fromisoformat(query["at"][0])
    if at.tzinfo is None:
        raise ValueError("at: an instant needs a time zone, as in at=2025-08-21T12:00:00Z")
    return at


class _Handler(BaseHTTPRequestHandler):
    server: "_Server"
    protocol_version = "HTTP/1.1"
    server_version = "SimulatedFeed"
    sys_version = ""
    timeout = 30  # seconds to send a request in

    def do_GET(self) -> None:
        """Answers any GET; only paths of feeds are counted and can misbehave."""
        # One request per connection, so that no connection to this server stays in a client's pool.
        self.close_connection = True
        feed, url = self.server.feed, urlsplit(self.path)
        query = parse_qs(url.query)
        try:
            reply = feed.answer(url.path, query, self.headers) or _plain(404, f"The feed is at {feed.url}")
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
        if reply.status != 304:
            self.send_header("Content-Type", reply.content_type)
        if reply.declared_bytes >= 0:
            self.send_header("Content-Length", str(reply.declared_bytes))
        for name, value in reply.headers:
            self.send_header(name, value)
        if reply.status == 301:
            # The fault is in the URL, so the next hop gets it again, whatever was planned for others.
            scheme = f"scheme={SCHEME}&" if urlsplit(self.path).path == PATH else ""
            location = f"{urlsplit(self.path).path}?{scheme}misbehave={Misbehaviour.REDIRECT_LOOP}"
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
        rows = reply.body.partition(b"\n")[2] or reply.body
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

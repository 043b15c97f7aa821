"""The feed client against a real HTTP server that misbehaves."""

import gzip
import http.server
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from wrm_pipeline.clients.breaker import Breakers
from wrm_pipeline.clients.errors import CircuitOpenError, PermanentError, TransientError
from wrm_pipeline.clients.feed import MAX_REDIRECTS, Feed
from wrm_pipeline.clients.retry import REQUESTS, RetryPolicy
from wrm_pipeline.simulator.city import City
from wrm_pipeline.simulator.misbehaviour import BODY_EDITS, Misbehaviour, Tuning
from wrm_pipeline.simulator.server import serve

NOW = datetime(2025, 8, 21, 12, 0, 0, tzinfo=UTC)
QUICK = RetryPolicy(attempts=3, deadline_s=20, base_wait_s=0.001, max_wait_s=0.002, attempt_s=5)
SNAPSHOT = City(1).snapshot(NOW)

REFUSED = [Misbehaviour.FORBIDDEN, Misbehaviour.NOT_FOUND]
ASKED_AGAIN = [
    Misbehaviour.REQUEST_TIMEOUT,
    Misbehaviour.TOO_MANY_REQUESTS,
    Misbehaviour.SERVER_ERROR,
    Misbehaviour.UNAVAILABLE,
    Misbehaviour.TRUNCATED,
    Misbehaviour.HANG,
    Misbehaviour.HANG_IN_BODY,
    Misbehaviour.RESET,
]
# What the client hands on as it is, for the gate to look at.
HANDED_ON = [
    *BODY_EDITS,
    Misbehaviour.HTML,
    Misbehaviour.JSON,
    Misbehaviour.TRUNCATED_SILENTLY,
    Misbehaviour.FROZEN,
    Misbehaviour.WRONG_CHARSET,
]
OWN_TESTS = [Misbehaviour.REDIRECT_LOOP, Misbehaviour.OVERSIZED, Misbehaviour.SLOW]


@pytest.fixture
def server():
    tuning = Tuning(retry_after="", hang_s=0.05, drip_bytes=1024, drip_pause_s=0.05, oversize_bytes=2**20)
    with serve(City(1), clock=lambda: NOW, tuning=tuning) as running:
        yield running


def feed(server, **kwargs) -> Feed:
    return Feed(server.url, **{"policy": QUICK, "now": lambda: NOW, **kwargs})


def test_every_misbehaviour_has_a_test_here():
    assert sorted([*REFUSED, *ASKED_AGAIN, *HANDED_ON, *OWN_TESTS]) == sorted(Misbehaviour)


def test_a_good_answer_comes_as_it_is_with_its_time(server):
    fetched = feed(server).fetch(correlation_id="run-4711")

    assert fetched.body == SNAPSHOT
    assert (fetched.fetched_at, fetched.status, fetched.content_type) == (NOW, 200, "text/csv")
    assert server.requests == 1
    assert server.last_headers["X-Correlation-ID"] == "run-4711"
    assert server.last_headers["User-Agent"] == "wrm-pipeline"


def test_without_a_correlation_id_there_is_no_header(server):
    feed(server).fetch()
    assert "X-Correlation-ID" not in server.last_headers


def test_the_time_of_a_fetch_is_when_the_body_was_complete(server):
    before = datetime.now(UTC)
    fetched = Feed(server.url, policy=QUICK).fetch()
    assert before <= fetched.fetched_at <= datetime.now(UTC)
    assert fetched.fetched_at.tzinfo is UTC


@pytest.mark.parametrize("kind", REFUSED)
def test_a_refusal_is_asked_once(server, kind):
    server.plan(kind, times=5)
    with pytest.raises(PermanentError) as caught:
        feed(server).fetch()
    assert caught.value.status == int(kind)
    assert server.url in str(caught.value)
    assert server.requests == 1


@pytest.mark.parametrize("kind", ASKED_AGAIN)
def test_trouble_that_may_pass_is_asked_again_and_then_given_up(server, kind):
    server.plan(kind, times=5)
    with pytest.raises(TransientError, match="gave up after 3 attempts") as caught:
        feed(server).fetch()
    assert caught.value.status == (int(kind) if kind.value.isdigit() else None)
    assert server.requests == 3


@pytest.mark.parametrize("kind", ASKED_AGAIN)
def test_trouble_that_passes_costs_nothing(server, kind):
    server.plan(kind, times=2)
    REQUESTS.reset()

    fetched = feed(server).fetch(correlation_id="the-same")

    assert fetched.body == SNAPSHOT
    assert server.requests == 3
    assert server.last_headers["X-Correlation-ID"] == "the-same"
    assert REQUESTS.reset().requests == {("feed", "get", "retried"): 2, ("feed", "get", "ok"): 1}


@pytest.mark.parametrize("kind", HANDED_ON)
def test_what_comes_with_200_is_handed_on_byte_for_byte(server, kind):
    server.plan(kind)
    fetched = feed(server).fetch()
    assert server.requests == 1
    if kind in BODY_EDITS:
        assert fetched.body == BODY_EDITS[kind](SNAPSHOT)
    elif kind is Misbehaviour.TRUNCATED_SILENTLY:
        assert 0 < len(fetched.body) < len(SNAPSHOT)
        assert SNAPSHOT.startswith(fetched.body)
    elif kind in {Misbehaviour.HTML, Misbehaviour.JSON}:
        assert fetched.body.startswith((b"<!DOCTYPE html>", b'{"error"'))
        assert fetched.content_type.startswith(("text/html", "application/json"))
    else:
        assert fetched.body == SNAPSHOT


def test_bytes_that_are_gzip_without_saying_so_stay_gzip(server):
    server.plan(Misbehaviour.GZIP)
    body = feed(server).fetch().body
    assert body[:2] == b"\x1f\x8b"
    assert gzip.decompress(body) == SNAPSHOT


def test_redirects_in_a_circle_end_soon(server):
    server.plan(Misbehaviour.REDIRECT_LOOP)
    with pytest.raises(PermanentError, match=rf"redirected more than {MAX_REDIRECTS} times.*WRM_STATIONS_DATA_URL"):
        feed(server).fetch()
    assert server.requests == MAX_REDIRECTS + 1


def test_a_body_without_end_is_refused_when_the_limit_is_passed(server):
    server.plan(Misbehaviour.OVERSIZED)
    with pytest.raises(PermanentError, match=r"longer than 100000 bytes.*WRM_FEED_MAX_BYTES"):
        feed(server, max_bytes=100_000).fetch()
    assert server.requests == 1


def test_the_limit_itself_is_allowed(server):
    assert feed(server, max_bytes=len(SNAPSHOT)).fetch().body == SNAPSHOT
    with pytest.raises(PermanentError, match="longer than"):
        feed(server, max_bytes=len(SNAPSHOT) - 1).fetch()


def test_a_feed_that_drips_is_left_in_time(server):
    # The whole body would take 38 x 50 ms. Each drop comes in time for the socket's own time-out.
    server.plan(Misbehaviour.SLOW, times=2)
    policy = RetryPolicy(attempts=2, deadline_s=20, base_wait_s=0.001, max_wait_s=0.002, attempt_s=0.3)
    started = time.monotonic()
    with pytest.raises(TransientError, match=r"only \d+ bytes came"):
        feed(server, policy=policy).fetch()
    assert time.monotonic() - started < 1.5
    assert server.requests == 2


def test_a_feed_that_drips_fast_enough_is_heard_out(server):
    server.plan(Misbehaviour.SLOW)
    server.tuning = Tuning(drip_bytes=8192, drip_pause_s=0.02)
    assert feed(server).fetch().body == SNAPSHOT


def test_a_feed_that_is_not_there():
    with serve(City(1)) as server:
        url = server.url
    with pytest.raises(TransientError, match="gave up after 3 attempts") as caught:
        Feed(url, policy=QUICK).fetch()
    assert url in str(caught.value)


def test_the_circuit_breaker_spares_a_feed_that_is_down(server, tmp_path):
    broken = feed(server, breaker=Breakers(tmp_path).of("feed"))
    server.plan(Misbehaviour.UNAVAILABLE, times=1000)
    for _ in range(20):
        with pytest.raises(TransientError) as caught:
            broken.fetch()
        if isinstance(caught.value, CircuitOpenError):
            break
    assert isinstance(caught.value, CircuitOpenError)
    asked = server.requests
    # Another process, that is: another client with the same folder.
    with pytest.raises(CircuitOpenError):
        feed(server, breaker=Breakers(tmp_path).of("feed")).fetch()
    assert server.requests == asked


@contextmanager
def answering(status: int, headers: dict[str, str], body: bytes):
    """A server for what the simulated feed does not do."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield Feed(f"http://127.0.0.1:{server.server_port}/", policy=QUICK)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_an_encoding_of_the_transport_is_undone():
    with answering(200, {"Content-Encoding": "gzip"}, gzip.compress(SNAPSHOT)) as client:
        assert client.fetch().body == SNAPSHOT


def test_an_encoding_of_the_transport_that_is_none_is_trouble_that_may_pass():
    with answering(200, {"Content-Encoding": "gzip"}, SNAPSHOT) as client, pytest.raises(TransientError):
        client.fetch()


def test_a_small_answer_that_unpacks_to_a_huge_one_is_refused():
    bomb = gzip.compress(b"0" * 50_000_000)
    with answering(200, {"Content-Encoding": "gzip"}, bomb) as client, pytest.raises(PermanentError, match="longer"):
        client.fetch()


@pytest.mark.parametrize("status", [201, 204, 304])
def test_a_success_that_is_no_200_is_no_snapshot(status):
    with answering(status, {"Content-Length": "0"}, b"") as client, pytest.raises(PermanentError) as caught:
        client.fetch()
    assert caught.value.status == status
    assert f"answered {status}" in str(caught.value)

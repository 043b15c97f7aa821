from __future__ import annotations

import copy
import http.client
import ssl
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
import requests

from wrm_pipeline.clients import retry
from wrm_pipeline.clients.errors import (
    CertificateError,
    CircuitOpenError,
    ExternalError,
    ObjectNotFoundError,
    PermanentError,
    TransientError,
    UnexpectedAnswerError,
)
from wrm_pipeline.clients.retry import RequestCounter, RetryPolicy
from wrm_pipeline_tests.fixtures.fault_server import HANG, RESET, Answer, FaultServer, html


class Clock:
    """Time that passes by sleeping and working only."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.sleeps: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(scope="module")
def server():
    with FaultServer() as server:
        yield server


POLICY = RetryPolicy(attempts=5, deadline_s=60, base_wait_s=1, max_wait_s=4, attempt_s=10)


def run(fn, clock, policy=POLICY, **options):
    options = {"on_event": RequestCounter(), **options}
    return retry.call(fn, target="feed", operation="get", policy=policy, clock=clock, sleep=clock.sleep, **options)


def fetch(server, timeout=(1, 0.6)):
    def attempt() -> bytes:
        with requests.Session() as session:
            session.trust_env = False
            response = session.get(server.url, timeout=timeout)
            response.raise_for_status()
            return response.content

    return attempt


# --- Which failures are retried ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 599])
@pytest.mark.parametrize("check", ["raise_for_status", "check_response"])
def test_transient_statuses_are_retried(server, clock, status, check):
    server.play([html(status)] * 2, then=Answer(200, b"ok"))

    def attempt() -> bytes:
        response = requests.get(server.url, timeout=1)
        if check == "check_response":
            retry.check_response(response, target="feed", operation="get", name=server.url)
        response.raise_for_status()
        return response.content

    assert run(attempt, clock) == b"ok"
    assert len(server.requests) == 3
    assert len(clock.sleeps) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410, 412, 418, 501, 505])
@pytest.mark.parametrize("check", ["raise_for_status", "check_response"])
def test_other_refusals_are_final(server, clock, status, check):
    server.play(then=html(status))

    def attempt() -> None:
        response = requests.get(server.url, timeout=1)
        if check == "check_response":
            retry.check_response(response, target="feed", operation="get", name=server.url)
        response.raise_for_status()

    with pytest.raises(PermanentError, match=f"HTTP {status}") as caught:
        run(attempt, clock)
    assert caught.value.status == status
    assert len(server.requests) == 1
    assert clock.sleeps == []


@pytest.mark.parametrize(
    "trouble",
    [
        RESET,
        HANG,
        Answer(200, b"0123456789", cut_after=4),
        Answer(200, b"0123456789", cut_after=4, then_hang=True),
        Answer(200, b"5\r\n012", {"Transfer-Encoding": "chunked", "Content-Length": ""}, cut_after=6),
        Answer(200, b"not gzip", {"Content-Encoding": "gzip"}),
    ],
    ids=["reset", "silent", "short body", "silent in mid-body", "short chunk", "bad encoding"],
)
def test_broken_connections_and_bodies_are_retried(server, clock, trouble):
    server.play([trouble], then=Answer(200, b"ok"))
    assert run(fetch(server), clock) == b"ok"
    assert len(server.requests) == 2


def test_a_closed_port_is_retried_and_reported(clock):
    with FaultServer() as stopped:
        pass
    with pytest.raises(
        TransientError, match=r"feed get the feed: connection refused by 127\.0\.0\.1:\d+ \(gave up after 5 attempts"
    ) as caught:
        run(fetch(stopped), clock, name="the feed")
    assert caught.value.attempts == 5
    assert caught.value.elapsed_s == pytest.approx(sum(clock.sleeps))


@pytest.mark.parametrize(
    ("exc", "kind"),
    [
        (ConnectionResetError("x"), TransientError),
        (BrokenPipeError("x"), TransientError),
        (TimeoutError("x"), TransientError),
        (http.client.IncompleteRead(b"x"), TransientError),
        (http.client.RemoteDisconnected("x"), TransientError),
        (ssl.SSLEOFError("x"), TransientError),
        (requests.exceptions.SSLError("UNEXPECTED_EOF_WHILE_READING"), TransientError),
        (requests.exceptions.SSLError("CERTIFICATE_VERIFY_FAILED: expired"), CertificateError),
        (ssl.SSLCertVerificationError("CERTIFICATE_VERIFY_FAILED"), CertificateError),
        (requests.exceptions.InvalidURL("x"), PermanentError),
        (requests.exceptions.TooManyRedirects("x"), PermanentError),
        (requests.exceptions.JSONDecodeError("x", "<html>", 0), UnexpectedAnswerError),
        (requests.exceptions.ProxyError("x"), TransientError),
    ],
)
def test_what_libraries_raise(exc, kind):
    error = retry.classify(exc, target="feed", operation="get")
    assert type(error) is kind


def test_what_botocore_raises():
    from botocore import exceptions

    def judge(exc):
        return type(retry.classify(exc, target="s3", operation="get"))

    for exc in (
        exceptions.EndpointConnectionError(endpoint_url="http://x"),
        exceptions.ConnectTimeoutError(endpoint_url="http://x"),
        exceptions.ReadTimeoutError(endpoint_url="http://x"),
        exceptions.ConnectionClosedError(endpoint_url="http://x"),
        exceptions.ResponseStreamingError(error="x"),
        exceptions.IncompleteReadError(actual_bytes=1, expected_bytes=2),
        exceptions.ProxyConnectionError(proxy_url="http://x"),
        exceptions.SSLError(endpoint_url="http://x", error="EOF"),
    ):
        assert judge(exc) is TransientError, exc
    untrusted = exceptions.SSLError(endpoint_url="http://x", error="CERTIFICATE_VERIFY_FAILED")
    assert judge(untrusted) is CertificateError
    for exc in (
        exceptions.NoCredentialsError(),
        exceptions.ParamValidationError(report="x"),
    ):
        assert judge(exc) is PermanentError, exc
    for code, status, kind in (
        ("", 429, TransientError),
        ("503", 503, TransientError),
        ("NoSuchKey", 503, TransientError),
        ("SlowDown", 403, PermanentError),
        ("RequestTimeout", 400, TransientError),
        ("404", 404, PermanentError),
        ("ConditionalRequestConflict", 409, TransientError),
        ("BucketAlreadyExists", 409, PermanentError),
    ):
        answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": {}}}
        assert judge(exceptions.ClientError(answer, "GetObject")) is kind, (code, status)


def test_a_bug_is_not_an_outage(clock):
    counter = RequestCounter()
    with pytest.raises(KeyError):
        run(lambda: {}["x"], clock, on_event=counter)
    assert clock.sleeps == []
    assert counter.snapshot().requests == {("feed", "get", "error"): 1}


# --- How long ---------------------------------------------------------------------------------------------------------


def always(error_type=TransientError, retry_after_s=None, work=0.0, clock=None):
    def attempt() -> None:
        if clock is not None:
            clock.now += work
        error = error_type("down")
        error.retry_after_s = retry_after_s
        raise error

    return attempt


def test_waits_are_jittered_below_a_doubling_cap():
    waits: list[list[float]] = []
    for _ in range(200):
        clock = Clock()
        with pytest.raises(TransientError):
            run(always(), clock)
        waits.append(clock.sleeps)
    for n, cap in enumerate([1, 2, 4, 4]):
        nth = [w[n] for w in waits]
        assert cap * 0.9 < max(nth) <= cap
        assert 0 <= min(nth) < cap * 0.1


def test_time_already_spent_counts_and_the_last_attempt_ends_before_the_deadline(clock):
    attempts = []

    def slow() -> None:
        attempts.append(clock.now)
        clock.now += POLICY.attempt_s
        raise TransientError("down")

    with pytest.raises(TransientError):
        run(slow, clock, RetryPolicy(attempts=100, deadline_s=60, base_wait_s=1, max_wait_s=4, attempt_s=10))
    assert clock.now - 1000 <= 60
    assert len(attempts) >= 4


@pytest.mark.parametrize("policy", [retry.FEED_POLICY, retry.STORAGE_POLICY, retry.VAULT_POLICY, retry.WEBHOOK_POLICY])
@pytest.mark.parametrize("hung", [True, False])
def test_the_worst_case_of_each_policy_is_its_deadline(policy, hung):
    for _ in range(100):
        clock = Clock()
        with pytest.raises(TransientError):
            run(always(work=policy.attempt_s if hung else 0, clock=clock), clock, policy)
        assert clock.now - 1000 <= policy.deadline_s
        assert len(clock.sleeps) >= 1  # even a hung first attempt leaves time for a second


def test_documented_worst_cases():
    assert retry.FEED_POLICY.deadline_s <= 60
    assert retry.STORAGE_POLICY.deadline_s <= 60
    assert retry.VAULT_POLICY.deadline_s <= 10


def test_a_policy_that_cannot_hold_is_refused():
    with pytest.raises(ValueError, match="attempt"):
        RetryPolicy(attempts=0, deadline_s=1, base_wait_s=1, max_wait_s=1)
    with pytest.raises(ValueError, match="deadline"):
        RetryPolicy(attempts=1, deadline_s=1, base_wait_s=1, max_wait_s=1, attempt_s=2)


def test_real_time_stays_within_the_deadline_in_a_black_hole(server):
    server.play(then=HANG)
    policy = RetryPolicy(attempts=10, deadline_s=0.8, base_wait_s=0.01, max_wait_s=0.01, attempt_s=0.2)
    started = time.monotonic()
    with pytest.raises(TransientError, match=r"no answer from 127\.0\.0\.1 within 0\.2 s"):
        retry.call(fetch(server, (0.2, 0.2)), target="feed", operation="get", policy=policy, on_event=RequestCounter())
    assert time.monotonic() - started < 1.5  # ten attempts would take 2 s
    assert 2 <= len(server.requests) <= 4


# --- Retry-After ------------------------------------------------------------------------------------------------------


def test_retry_after_in_seconds_is_honoured(server, clock):
    server.play([html(429, Retry_After="17")], then=Answer(200, b"ok"))
    assert run(fetch(server), clock) == b"ok"
    assert clock.sleeps == [17.0]


def test_retry_after_as_a_date_is_honoured_by_the_servers_own_clock(server, clock):
    answer = html(503, Retry_After="Thu, 21 Aug 2025 12:00:09 GMT", Date="Thu, 21 Aug 2025 12:00:00 GMT")
    # http.server sends a Date of its own first; a list of both is what some proxies make of it, so send only ours
    headers = {"retry-after": answer.headers["Retry-After"], "date": answer.headers["Date"]}
    assert retry.retry_after_s(headers) == 9.0
    now = datetime.now(UTC)
    soon = (now + timedelta(seconds=20)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    server.play([html(503, Retry_After=soon)], then=Answer(200, b"ok"))
    run(fetch(server), clock)
    assert 17 <= clock.sleeps[0] <= 21


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("0", 0), ("5", 5), (" 5 ", 5), ("", None), ("-3", None), ("soon", None), ("1e3", None)],
)
def test_odd_values_of_retry_after(value, seconds):
    assert retry.retry_after_s({"retry-after": value}) == seconds


def test_a_date_in_the_past_means_now():
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert retry.retry_after_s({"retry-after": "Thu, 21 Aug 2025 12:00:00 GMT"}, now) == 0.0


def test_a_retry_after_beyond_the_deadline_ends_the_call_at_once(server, clock):
    server.play(then=html(429, Retry_After="3600"))
    with pytest.raises(TransientError, match="HTTP 429") as caught:
        run(fetch(server), clock)
    assert len(server.requests) == 1
    assert clock.sleeps == []
    assert caught.value.retry_after_s == 3600


def test_a_retry_after_of_zero_still_waits_with_jitter(clock):
    with pytest.raises(TransientError):
        run(always(retry_after_s=0.0), clock)
    assert any(wait > 0 for wait in clock.sleeps)


# --- Counting ---------------------------------------------------------------------------------------------------------


def test_each_attempt_is_counted_with_its_outcome(clock):
    counter = RequestCounter()
    answers = iter([TransientError("1"), TransientError("2"), None, PermanentError("3"), *[TransientError("4")] * 5])

    def attempt() -> None:
        answer = next(answers)
        if answer is not None:
            raise answer

    run(attempt, clock, on_event=counter)
    with pytest.raises(PermanentError):
        run(attempt, clock, on_event=counter)
    with pytest.raises(TransientError):
        run(attempt, clock, on_event=counter)
    counts = counter.reset()
    assert counts.requests == {
        ("feed", "get", "ok"): 1,
        ("feed", "get", "retried"): 2 + 4,
        ("feed", "get", "rejected"): 1,
        ("feed", "get", "failed"): 1,
    }
    assert counts.retries == {"feed": 6}
    assert counter.snapshot().requests == {}
    assert counter.snapshot().retries == {}


def test_the_processs_own_counter_is_the_default(clock):
    retry.REQUESTS.reset()
    retry.call(lambda: None, target="t", operation="o", policy=POLICY)
    assert retry.REQUESTS.reset().requests == {("t", "o", "ok"): 1}


def test_counting_in_many_threads_loses_nothing():
    counter = RequestCounter()
    threads = [threading.Thread(target=lambda: [counter("t", "o", "ok") for _ in range(1000)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter.snapshot().requests == {("t", "o", "ok"): 8000}


# --- Messages ---------------------------------------------------------------------------------------------------------


def test_a_message_says_what_where_and_what_to_do():
    error = ObjectNotFoundError("HTTP 404 NoSuchKey", "s3", "get", "s3://b/k at host:9000", "Look", 404)
    assert str(error) == "s3 get s3://b/k at host:9000: HTTP 404 NoSuchKey. Look"
    assert str(ExternalError("just this")) == "just this"


@pytest.mark.parametrize(
    "error",
    [
        TransientError("p", "s3", "get", "n", "r", 503),
        CircuitOpenError("s3", datetime(2025, 8, 21, 12, tzinfo=UTC), datetime(2025, 8, 21, 12, 1, tzinfo=UTC), "get"),
    ],
)
def test_errors_survive_the_way_back_from_a_worker(error):
    there = copy.copy(error)  # by the same protocol as pickling
    assert type(there) is type(error)
    assert str(there) == str(error)
    assert there.operation == "get"


def test_an_open_circuit_says_since_when_and_when_next():
    at = datetime(2025, 8, 21, 12, tzinfo=UTC)
    error = CircuitOpenError("vault", at, at + timedelta(seconds=60), "login")
    assert "vault login" in str(error)
    assert "since 2025-08-21 12:00:00 UTC" in str(error)
    assert "12:01:00 UTC" in str(error)

"""The project's only retry policy: what is worth another attempt, how long to wait, when to give up.

Every request to an outside system goes through `call`, once. The libraries' own retries (botocore, urllib3)
are off and no caller wraps `call` in a loop: layers multiply (4 x 5 x 3 attempts were 60 requests and minutes
of hanging).
"""

from __future__ import annotations

import http.client
import random
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Protocol, TypeVar

import tenacity

from wrm_pipeline.clients.causes import cause_of, host_and_port, is_certificate_error
from wrm_pipeline.clients.errors import (
    CertificateError,
    CircuitOpenError,
    ExternalError,
    PermanentError,
    TransientError,
    UnexpectedAnswerError,
)
from wrm_pipeline.domain.masking import scrub

if TYPE_CHECKING:
    from wrm_pipeline.clients.breaker import Breaker

T = TypeVar("T")
OnEvent = Callable[[str, str, str], None]


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How hard to try.

    Waits are full jitter: uniform in 0…min(max_wait_s, base_wait_s x 2^(n-1)) after the n-th attempt.

    Attributes:
        attempts: At most this many requests, the first one included.
        deadline_s: Seconds from the first attempt's start to the last attempt's end, waits included.
        base_wait_s: Upper bound of the first wait, in seconds.
        max_wait_s: Upper bound of any wait that the other side did not ask for, in seconds.
        attempt_s: The longest that one attempt can take, in seconds (the client's socket time-outs ensure it). No
            attempt starts when less than that is left, which is how the deadline is kept.
    """

    attempts: int
    deadline_s: float
    base_wait_s: float
    max_wait_s: float
    attempt_s: float = 0.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.attempt_s > self.deadline_s:
            raise ValueError(f"{self}: needs at least 1 attempt, and attempt_s within deadline_s")


FEED_POLICY = RetryPolicy(attempts=4, deadline_s=60, base_wait_s=1, max_wait_s=8, attempt_s=18)
"""Worst case 60 s: a fetch starts every minute, and must not overlap with the next one. Time-outs 3 + 15 s."""

SEVERAL_FEEDS_POLICY = RetryPolicy(attempts=4, deadline_s=40, base_wait_s=1, max_wait_s=8, attempt_s=18)
"""Worst case 40 s: a run that waits for a dead feed ends before the next one has to fetch the others. It takes up to
5 s to start, and 10 s to store what the others gave."""

STORAGE_POLICY = RetryPolicy(attempts=6, deadline_s=60, base_wait_s=0.5, max_wait_s=8, attempt_s=18)
"""Worst case 60 s for one S3 operation (three hung attempts of 3 + 15 s and their waits). A store that
answers 503 at once is asked 6 times within 7.8 s on average, 15.5 s at most: long enough for a fail-over, too
short to hold up a run."""

SENSOR_POLICY = RetryPolicy(attempts=2, deadline_s=25, base_wait_s=0.5, max_wait_s=1, attempt_s=12)
"""Worst case 25 s: a sensor's tick is cut off after 60 s, and the next one tries again anyway."""

BACKUP_POLICY = RetryPolicy(attempts=4, deadline_s=900, base_wait_s=2, max_wait_s=30, attempt_s=18)
"""Worst case 15 min for one object: a backup of 1 GB takes 2 min at 10 MB/s, and nobody waits for it."""

VAULT_POLICY = RetryPolicy(attempts=3, deadline_s=10, base_wait_s=0.25, max_wait_s=1, attempt_s=4)
"""Worst case 10 s: a fetch waits for its secrets, and spools without them. Time-out 4 s for one request."""

WEBHOOK_POLICY = RetryPolicy(attempts=3, deadline_s=15, base_wait_s=0.5, max_wait_s=2, attempt_s=5)
"""Worst case 15 s: an alert is worth a second try, but the run behind it has ended already. Time-out 5 s."""

MAIL_POLICY = RetryPolicy(attempts=2, deadline_s=15, base_wait_s=0.5, max_wait_s=2, attempt_s=7)
"""Worst case 15 s, as for the webhook; a mail server that is asked again within seconds says the same."""

SERVING_POLICY = RetryPolicy(attempts=3, deadline_s=600, base_wait_s=2, max_wait_s=15)
"""A publication of a year takes seconds, and the next one is minutes away: what is not done by then is left to it."""

LINEAGE_POLICY = RetryPolicy(attempts=2, deadline_s=9, base_wait_s=0.25, max_wait_s=1, attempt_s=4)
"""Worst case 9 s of a sensor's tick: what is not delivered is sent by a later tick. Time-outs 1.5 + 2.4 s."""


@dataclass(frozen=True, slots=True)
class RequestCounts:
    """What `RequestCounter` had counted at one moment.

    Attributes:
        requests: Count per (target, operation, outcome).
    """

    requests: Mapping[tuple[str, str, str], int]

    @property
    def retries(self) -> dict[str, int]:
        """Failed attempts that were followed by another one, per target."""
        retried: Counter[str] = Counter()
        for (target, _, outcome), count in self.requests.items():
            if outcome == "retried":
                retried[target] += count
        return dict(retried)


class RequestCounter:
    """Counts attempts in this process; thread-safe. An instance is what `call` takes as `on_event`.

    A run's process is gone when it ends, so each materialization puts the counts into its metadata with `reset`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, str, str]] = Counter()

    def __call__(self, target: str, operation: str, outcome: str) -> None:
        """Count one attempt."""
        with self._lock:
            self._requests[target, operation, outcome] += 1

    def snapshot(self) -> RequestCounts:
        """The counts so far."""
        with self._lock:
            return RequestCounts(dict(self._requests))

    def reset(self) -> RequestCounts:
        """Return the counts so far, and start from zero at the same moment."""
        with self._lock:
            counts, self._requests = RequestCounts(dict(self._requests)), Counter()
        return counts


REQUESTS = RequestCounter()
"""This process's requests: where `call` counts by default."""


def call(
    fn: Callable[[], T],
    *,
    target: str,
    operation: str,
    policy: RetryPolicy,
    name: str = "",
    breaker: Breaker | None = None,
    on_event: OnEvent | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Run `fn`, and again if its failure is transient, within the policy's attempts and deadline.

    A `Retry-After` that leaves no time for another attempt ends the call at once: asking earlier is unwelcome, and
    sleeping until the deadline is pointless.

    Args:
        fn: One attempt. It must read the body, too, and raise for an answer that is not a success.
        target: The system, as in metrics: ``feed``, ``s3``, ``vault``, ``webhook``.
        operation: What is asked, as in metrics: one of a few words, without keys.
        policy: How hard to try.
        name: The object, URL or path, for messages only.
        breaker: Consulted before the first attempt and updated with the final result. Its probe after a cooldown is a
            single attempt.
        on_event: Called with (target, operation, outcome) for each attempt, default `REQUESTS`. Outcomes: ``ok``,
            ``retried`` (transient, another attempt follows), ``failed`` (transient, gave up), ``rejected`` (permanent),
            ``error`` (not the outside system's fault), ``circuit_open`` (no request was made).
        clock: Seconds, monotonic.
        sleep: Waits that many seconds.

    Raises:
        TransientError: Still failing when attempts or time ran out.
        PermanentError: The other side refused.
        CircuitOpenError: Not tried.
        Exception: Anything else that `fn` raised and that is not about the outside system, unchanged.
    """
    record = REQUESTS if on_event is None else on_event
    attempts = policy.attempts
    if breaker is not None:
        try:
            if breaker.admit(operation=operation, name=name):
                attempts = 1
        except CircuitOpenError:
            record(target, operation, "circuit_open")
            raise
    started = clock()

    def attempt() -> T:
        try:
            return fn()
        except Exception as exc:
            scrub(exc)  # including the exceptions that led to it, which are kept as its cause
            error = classify(exc, target=target, operation=operation, name=name)
            if error is None:
                record(target, operation, "error")
                raise
            if isinstance(error, PermanentError):
                record(target, operation, "rejected")
            if error is exc:
                raise
            raise error from exc

    def wait(state: tenacity.RetryCallState) -> float:
        error = _error_of(state)
        jittered = random.uniform(0, min(policy.max_wait_s, policy.base_wait_s * 2 ** (state.attempt_number - 1)))
        return max(jittered, error.retry_after_s or 0.0)

    def stop(state: tenacity.RetryCallState) -> bool:
        error = _error_of(state)
        error.attempts, error.elapsed_s = state.attempt_number, clock() - started
        over = (
            state.attempt_number >= attempts
            or error.elapsed_s + state.upcoming_sleep + policy.attempt_s > policy.deadline_s
        )
        record(target, operation, "failed" if over else "retried")
        return over

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(TransientError),
        wait=wait,
        stop=stop,
        sleep=sleep,
        reraise=True,
    )
    try:
        result = retrying(attempt)
    except TransientError:
        if breaker is not None:
            breaker.failed()
        raise
    except PermanentError:
        if breaker is not None:
            breaker.succeeded()  # the target is up: it answered
        raise
    record(target, operation, "ok")
    if breaker is not None:
        breaker.succeeded()
    return result


def _error_of(state: tenacity.RetryCallState) -> TransientError:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, TransientError), error  # noqa: S101 - tenacity asks only after one
    return error


# --- Which failures are transient -----------------------------------------------------------------------------------

# S3 answers 400 for a body that was cut short or damaged in transit, which is the network's fault.
_TRANSIENT_400_CODES = frozenset({"RequestTimeout", "IncompleteBody", "BadDigest"})
# These 5xx are final: not implemented, HTTP version not supported, insufficient storage.
_PERMANENT_5XX = frozenset({501, 505, 507})


def is_transient_status(status: int, code: str = "") -> bool:
    """Whether an HTTP answer with this status (and S3 error code) is worth another attempt.

    The status decides, since S3-compatible stores and the proxies in front of them answer 429 and 503 with HTML or an
    empty body, for which botocore makes up a code ('', '503', 'SlowDown').
    """
    if status == 409:
        return code in {"ConditionalRequestConflict", "OperationAborted"}
    return (
        status in {408, 429}
        or (status >= 500 and status not in _PERMANENT_5XX)
        or (status == 400 and code in _TRANSIENT_400_CODES)
    )


def retry_after_s(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds asked for by `Retry-After`, given in seconds or as an HTTP date; None if absent or unreadable.

    Args:
        headers: With a case-insensitive `get`, or lower-case names.
        now: The moment that a date is relative to (aware); default the answer's own `Date`, so that errors of our clock
            do not matter, else the present.
    """
    value = (headers.get("retry-after") or "").strip()
    if value.isdecimal():
        return float(value)
    wanted = _http_date(value)
    if wanted is None:
        return None
    reference = now or _http_date(headers.get("date") or "") or datetime.now(UTC)
    return max((wanted - reference).total_seconds(), 0.0)


def _http_date(value: str) -> datetime | None:
    try:
        parsed = parsedate_to_datetime(value)
    except ValueError:
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


class HttpAnswer(Protocol):
    """The head of an answer, whichever library made the request."""

    @property
    def status_code(self) -> int:
        """The HTTP status."""

    @property
    def reason(self) -> str:
        """The reason phrase."""

    @property
    def headers(self) -> Mapping[str, str]:
        """See `retry_after_s`."""


def check_response(response: HttpAnswer, *, target: str, operation: str, name: str = "", remedy: str = "") -> None:
    """Raise for an answer of status 400 or above, as `is_transient_status` classes it."""
    if response.status_code >= 400:
        raise _status_error(
            response.status_code, response.reason or "", response.headers, (target, operation, name, remedy)
        )


def classify(exc: Exception, *, target: str, operation: str, name: str = "") -> ExternalError | None:
    """Translate a library's exception into ours; None if it is not about the outside system (e.g. a bug).

    Knows requests, urllib3, botocore, http.client and the built-in connection errors. Imports none of the
    libraries: one that is not loaded cannot have raised.
    """
    if isinstance(exc, ExternalError):
        return exc
    what = (target, operation, name, "")
    for module, judge in (("botocore.exceptions", _judge_botocore), ("requests", _judge_requests)):
        if module in sys.modules and (error := judge(exc, what)) is not None:
            return error
    if is_certificate_error(exc):
        return _certificate_error(exc, what)
    urllib3_error = () if "urllib3" not in sys.modules else (sys.modules["urllib3"].exceptions.HTTPError,)
    if isinstance(exc, (ConnectionError, TimeoutError, http.client.HTTPException, ssl.SSLError, *urllib3_error)):
        return TransientError(_cause(exc, what), *what)
    return None


_What = tuple[str, str, str, str]
"""Target, operation, name, remedy."""


def _judge_botocore(exc: Exception, what: _What) -> ExternalError | None:
    from botocore import exceptions
    from botocore.parsers import ResponseParserError

    if isinstance(exc, exceptions.ClientError):
        answer = exc.response.get("ResponseMetadata", {})
        error = exc.response.get("Error", {})
        code, message = str(error.get("Code", "")), str(error.get("Message", ""))
        status = answer.get("HTTPStatusCode", 0)
        return _status_error(status, f"{code} {message}".strip(), answer.get("HTTPHeaders", {}), what, code)
    if isinstance(exc, exceptions.SSLError) and is_certificate_error(exc):
        return _certificate_error(exc, what)
    if isinstance(
        exc,
        (
            exceptions.HTTPClientError,
            exceptions.ConnectionError,
            exceptions.IncompleteReadError,
            exceptions.ChecksumError,
        ),
    ):
        return TransientError(_cause(exc, what), *what)
    if isinstance(exc, ResponseParserError):
        return UnexpectedAnswerError(f"the answer is not S3's XML: {_cause(exc, what)}", *what)
    if isinstance(exc, exceptions.BotoCoreError):
        return PermanentError(_cause(exc, what), *what)
    return None


def _judge_requests(exc: Exception, what: _What) -> ExternalError | None:
    from requests import exceptions

    if not isinstance(exc, exceptions.RequestException):
        return None
    response = exc.response
    if response is not None:  # never `if response`: a Response with status 400 or above is false
        return _status_error(response.status_code, response.reason or "", response.headers, what)
    if isinstance(exc, exceptions.SSLError) and is_certificate_error(exc):
        return _certificate_error(exc, what)
    if isinstance(exc, exceptions.InvalidJSONError):
        return UnexpectedAnswerError(_cause(exc, what), *what)
    transient = (
        exceptions.ConnectionError,
        exceptions.Timeout,
        exceptions.ChunkedEncodingError,
        exceptions.ContentDecodingError,
    )
    return (TransientError if isinstance(exc, transient) else PermanentError)(_cause(exc, what), *what)


def _status_error(status: int, text: str, headers: Mapping[str, str], what: _What, code: str = "") -> ExternalError:
    problem = f"HTTP {status} {text}".strip()
    if not is_transient_status(status, code):
        return PermanentError(problem, *what, status)
    error = TransientError(problem, *what, status)
    error.retry_after_s = retry_after_s(headers)
    return error


def _certificate_error(exc: Exception, what: _What) -> CertificateError:
    remedy = "Check the URL, the CA file and the clock"
    if what[0] == "s3":
        remedy = "Check S3_ENDPOINT_URL, AWS_CA_BUNDLE and the clock"
    return CertificateError(_cause(exc, what), *what[:3], remedy)


def _cause(exc: Exception, what: _What) -> str:
    """See `cause_of`; the host is that of the URL that was asked for, if it was one."""
    is_web = what[2].startswith(("http://", "https://"))  # and not s3://bucket/key
    return cause_of(exc, *host_and_port(what[2])) if is_web else cause_of(exc)

"""The bike-share feed: one GET, and the exact bytes that it serves."""

import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from wrm_pipeline.clients import retry
from wrm_pipeline.clients.connections import Resolve, resolve_name
from wrm_pipeline.clients.errors import AskedToWaitError, ExternalError, PermanentError, TransientError
from wrm_pipeline.clients.feed_memory import MAX_RETRY_AFTER, FeedMemory, NotDueError
from wrm_pipeline.clients.outgoing import MAX_REDIRECTS, Policy, check_named, place_of, request
from wrm_pipeline.domain.feeds import UCL, FeedKind
from wrm_pipeline.domain.feeds.fetching import MAX_FRESH, NOTHING_EARLIER, Earlier, Fetched, Got
from wrm_pipeline.domain.masking import redact, remember_credentials, without_echo

if TYPE_CHECKING:
    from wrm_pipeline.clients.breaker import Breaker

logger = logging.getLogger(__name__)

# A snapshot of Wrocław has 40 kB; a healthy feed answers in under a second.
CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 15.0
DEFAULT_MAX_BYTES = 32 * 2**20

_VALIDATOR = re.compile(r"[\x20-\x7e]{1,256}")
_MAX_AGE = re.compile(r"(?:^|[\s,])max-age\s*=\s*\"?(\d{1,9})")


@dataclass(frozen=True, slots=True)
class FetchedBody:
    """An answer of the feed, undecoded, when it was complete (aware, UTC), and what kind of feed it is from.

    `unchanged`: the server says that it is the last stored snapshot, and `body` is empty. `remember` is to be called
    once the body has turned out to be a snapshot and is safe, with whether it equals the last one.
    """

    body: bytes
    fetched_at: datetime
    status: int
    content_type: str
    kind: FeedKind = UCL
    unchanged: bool = False
    remember: Callable[[bool], None] = lambda _duplicate: None


@dataclass(frozen=True, slots=True)
class Feed:
    """The feed at `url`, whose credentials are masked; `now` gives the time of a fetch (aware, UTC).

    `kind` says what its answers are. With a `memory`, the feed is asked only whether it has changed, and no sooner than
    it wants to be. See `outgoing.Policy` for `redirect_hosts`, `private_hosts` and `resolve`.
    """

    url: str
    max_bytes: int = DEFAULT_MAX_BYTES
    breaker: "Breaker | None" = None
    policy: retry.RetryPolicy = retry.FEED_POLICY
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    redirect_hosts: frozenset[str] = frozenset()
    private_hosts: frozenset[str] = frozenset()
    resolve: Resolve = field(default=resolve_name, repr=False)
    kind: FeedKind = UCL
    memory: FeedMemory | None = None

    def __post_init__(self) -> None:
        remember_credentials(self.url)

    def __repr__(self) -> str:
        return f"Feed({redact(self.url)!r})"

    def fetch(self, *, correlation_id: str = "") -> FetchedBody:
        """Get the current state; `correlation_id` is sent as X-Correlation-ID.

        Takes at most 60 s and one read time-out (FEED_POLICY), however slowly the feed drips.

        Raises:
            TransientError: no answer, a broken one, or 408, 429, 5xx until attempts or time ran out.
            PermanentError: another status that is not a success, a redirect that is not followed, an address that is
                not public, or more than `max_bytes`.
            CircuitOpenError: the feed failed too often just now and was not asked.
            AskedToWaitError: it asked for a pause that is not over, and was not asked.
            NotDueError: it says that it has not changed since the last fetch, and was not asked.
        """
        memory = self.memory
        earlier = self._earlier(memory) if memory else NOTHING_EARLIER
        try:
            fetched, content_type = retry.call(
                lambda: self._attempt(correlation_id, earlier),
                target=self.kind.target,
                operation="get",
                name=self.url,
                policy=self.policy,
                breaker=self.breaker,
            )
        except TransientError as error:
            if memory and error.retry_after_s:
                pause = min(timedelta(seconds=error.retry_after_s), MAX_RETRY_AFTER)
                memory.update(retry_at=self.now() + pause)
            raise
        at = self.now()
        remember = partial(self._remember, memory, fetched, at) if memory else lambda _duplicate: None
        status = 304 if fetched.unchanged else 200
        return FetchedBody(fetched.body, at, status, content_type, self.kind, fetched.unchanged, remember)

    def _earlier(self, memory: FeedMemory) -> Earlier:
        """What is known from earlier fetches, if the feed may be asked now."""
        state, now, target = memory.read(), self.now(), self.kind.target
        if pause := state.pause_until(now):
            retry.REQUESTS(target, "get", "circuit_open")
            raise AskedToWaitError(target, pause, "get", self.url)
        if due := state.due_at(now):
            raise NotDueError(target, due)
        return memory.earlier(redact(self.url), now)

    def _remember(self, memory: FeedMemory, fetched: Fetched, at: datetime, duplicate: bool) -> None:
        fresh_s = fetched.fresh_s
        fresh_until = None if fresh_s is None else at + min(timedelta(seconds=fresh_s), MAX_FRESH)
        found: dict[str, Any] = {"url": redact(self.url), "fresh_until": fresh_until}
        if self.kind.of_files:
            memory.keep_body(fetched.body)
        elif not fetched.unchanged:
            found |= {"etag": fetched.etag, "last_modified": fetched.last_modified}
            # Of a duplicate it is not known here when it was stored.
            found |= {} if duplicate else {"kept_at": at}
        memory.update(**found)

    def _attempt(self, correlation_id: str, earlier: Earlier) -> tuple[Fetched, str]:
        browser = _Browser(self, correlation_id, time.monotonic() + self.policy.attempt_s)
        return self.kind.fetch(browser, self.url, earlier), browser.content_type

    @property
    def moved(self) -> str:
        """The remedy if the feed is not where it was."""
        return f"Open the URL by hand; if it has moved, set {self.kind.url_variable}"

    @property
    def outgoing(self) -> Policy:
        """The policy for its requests."""
        return Policy(
            self.kind.target,
            max_bytes=self.max_bytes,
            connect_s=CONNECT_TIMEOUT_S,
            read_s=READ_TIMEOUT_S,
            total_s=self.policy.attempt_s,
            max_redirects=MAX_REDIRECTS,
            redirect_hosts=self.redirect_hosts,
            private_hosts=self.private_hosts,
            remedy=self.moved,
            size_remedy="Open the URL by hand; if such a size is right, raise WRM_FEED_MAX_BYTES",
            redirect_remedy=f"{self.moved}, or name the host in WRM_FEED_REDIRECT_HOSTS if it may answer for the feed",
            resolve=self.resolve,
        )


class _Browser:
    """Gets the addresses of one snapshot, within one attempt's time."""

    def __init__(self, feed: Feed, correlation_id: str, until: float) -> None:
        self.content_type = ""
        self._feed = feed
        self._until = until
        self._headers = {"User-Agent": "wrm-pipeline", "Accept": "*/*", "Accept-Encoding": "gzip, deflate"}
        if correlation_id:
            self._headers["X-Correlation-ID"] = correlation_id

    def now(self) -> datetime:
        """See `Browser`."""
        return self._feed.now()

    def get(self, url: str, *, etag: str = "", last_modified: str = "") -> Got:
        """See `Browser`."""
        feed, headers = self._feed, dict(self._headers)
        conditions = {"If-None-Match": etag, "If-Modified-Since": last_modified}
        conditions = {name: value for name, value in conditions.items() if value}
        policy = feed.outgoing
        if url != feed.url:
            check_named(policy, feed.url, url)
            policy = replace(policy, total_s=max(1.0, min(policy.total_s, self._until - time.monotonic())))
            configured = place_of(feed.url)
            if configured.credentials and place_of(url).origin == configured.origin:
                headers["Authorization"] = configured.credentials
        answer = request(policy, "GET", url, name=url, headers=headers | conditions)
        retry.check_response(answer, target=feed.kind.target, operation="get", name=url)
        if answer.status_code != 200 and not (answer.status_code == 304 and conditions):
            problem = f"answered {answer.status_code} instead of 200"
            raise PermanentError(problem, feed.kind.target, "get", url, feed.moved, answer.status_code)
        self.content_type = answer.headers.get("content-type", "")
        # The body is kept for ever, so it must not contain our own credential if the feed quotes the request.
        body = without_echo(answer.body, feed.url)
        return Got(
            body,
            answer.body,
            redact(url),
            answer.status_code,
            _validator(answer.headers.get("etag", "")),
            feed.now(),
            _validator(answer.headers.get("last-modified", "")),
            _max_age_s(answer.headers),
        )

    def try_get(self, url: str, *, etag: str = "", last_modified: str = "") -> Got | None:
        """See `Browser`."""
        try:
            return self.get(url, etag=etag, last_modified=last_modified)
        except ExternalError as error:
            logger.warning("The snapshot does without a file that the feed names: %s", error)
            return None


def _validator(value: str) -> str:
    """An `ETag` or `Last-Modified` that can be sent back and kept; empty for any other, such as one with our key."""
    return value if _VALIDATOR.fullmatch(value) and redact(value) == value else ""


def _max_age_s(headers: Mapping[str, str]) -> float | None:
    """Seconds for which a cache may still keep an answer; None if it does not say, or says that none may."""
    control = headers.get("cache-control", "").lower()
    found = None if "no-cache" in control or "no-store" in control else _MAX_AGE.search(control)
    if found is None:
        return None
    age = headers.get("age", "").strip()
    return max(0.0, float(found[1]) - (float(age) if age.isdecimal() and len(age) < 10 else 0.0))

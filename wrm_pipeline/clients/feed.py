"""The bike-share feed: one GET, and the exact bytes that it serves."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from wrm_pipeline.clients import retry
from wrm_pipeline.clients.connections import Resolve, resolve_name
from wrm_pipeline.clients.errors import ExternalError, PermanentError
from wrm_pipeline.clients.outgoing import MAX_REDIRECTS, Policy, check_named, place_of, request
from wrm_pipeline.domain.feeds import UCL, FeedKind
from wrm_pipeline.domain.feeds.fetching import Got
from wrm_pipeline.domain.masking import redact, remember_credentials, without_echo

if TYPE_CHECKING:
    from wrm_pipeline.clients.breaker import Breaker

logger = logging.getLogger(__name__)

# A snapshot of Wrocław has 40 kB; a healthy feed answers in under a second.
CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 15.0
DEFAULT_MAX_BYTES = 32 * 2**20


@dataclass(frozen=True, slots=True)
class FetchedBody:
    """An answer of the feed, undecoded, when it was complete (aware, UTC), and what kind of feed it is from."""

    body: bytes
    fetched_at: datetime
    status: int
    content_type: str
    kind: FeedKind = UCL


@dataclass(frozen=True, slots=True)
class Feed:
    """The feed at `url`, whose credentials are masked; `now` gives the time of a fetch (aware, UTC).

    `kind` says what its answers are. See `outgoing.Policy` for `redirect_hosts`, `private_hosts` and `resolve`.
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
        """
        return retry.call(
            lambda: self._attempt(correlation_id),
            target=self.kind.target,
            operation="get",
            name=self.url,
            policy=self.policy,
            breaker=self.breaker,
        )

    def _attempt(self, correlation_id: str) -> FetchedBody:
        browser = _Browser(self, correlation_id, time.monotonic() + self.policy.attempt_s)
        body = self.kind.fetch(browser, self.url)
        return FetchedBody(body, self.now(), 200, browser.content_type, self.kind)

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

    def get(self, url: str) -> Got:
        """See `Browser`."""
        feed, headers = self._feed, self._headers
        policy = feed.outgoing
        if url != feed.url:
            check_named(policy, feed.url, url)
            policy = replace(policy, total_s=max(1.0, min(policy.total_s, self._until - time.monotonic())))
            configured = place_of(feed.url)
            if configured.credentials and place_of(url).origin == configured.origin:
                headers = {**headers, "Authorization": configured.credentials}
        answer = request(policy, "GET", url, name=url, headers=headers)
        retry.check_response(answer, target=feed.kind.target, operation="get", name=url)
        if answer.status_code != 200:
            problem = f"answered {answer.status_code} instead of 200"
            raise PermanentError(problem, feed.kind.target, "get", url, feed.moved, answer.status_code)
        self.content_type = answer.headers.get("content-type", "")
        # The body is kept for ever, so it must not contain our own credential if the feed quotes the request.
        body = without_echo(answer.body, feed.url)
        return Got(body, answer.body, redact(url), 200, answer.headers.get("etag", ""), feed.now())

    def try_get(self, url: str) -> Got | None:
        """See `Browser`."""
        try:
            return self.get(url)
        except ExternalError as error:
            logger.warning("The snapshot does without a file that the feed names: %s", error)
            return None

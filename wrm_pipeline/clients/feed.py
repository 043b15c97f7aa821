"""The bike-share feed: one GET, and the exact bytes that it serves."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from wrm_pipeline.clients import retry
from wrm_pipeline.clients.connections import Resolve, resolve_name
from wrm_pipeline.clients.errors import PermanentError
from wrm_pipeline.clients.outgoing import MAX_REDIRECTS, Policy, request
from wrm_pipeline.domain.feeds import UCL, FeedKind
from wrm_pipeline.domain.masking import redact, remember_credentials, without_echo

if TYPE_CHECKING:
    from wrm_pipeline.clients.breaker import Breaker

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
        headers = {"User-Agent": "wrm-pipeline", "Accept": "*/*", "Accept-Encoding": "gzip, deflate"}
        if correlation_id:
            headers["X-Correlation-ID"] = correlation_id
        answer = request(self.outgoing, "GET", self.url, name=self.url, headers=headers)
        retry.check_response(answer, target=self.kind.target, operation="get", name=self.url)
        if answer.status_code != 200:
            raise PermanentError(
                f"answered {answer.status_code} instead of 200",
                self.kind.target,
                "get",
                self.url,
                self._moved,
                answer.status_code,
            )
        # The body is kept for ever, so it must not contain our own credential if the feed quotes the request.
        body = without_echo(answer.body, self.url)
        return FetchedBody(body, self.now(), 200, answer.headers.get("content-type", ""), self.kind)

    @property
    def _moved(self) -> str:
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
            remedy=self._moved,
            size_remedy="Open the URL by hand; if such a size is right, raise WRM_FEED_MAX_BYTES",
            redirect_remedy=f"{self._moved}, or name the host in WRM_FEED_REDIRECT_HOSTS if it may answer for the feed",
            resolve=self.resolve,
        )

"""The bike-share feed: one GET, the very bytes that it serves."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from wrm_pipeline.clients import retry
from wrm_pipeline.clients.errors import PermanentError, TransientError
from wrm_pipeline.masking import redact, remember_credentials, without_echo

if TYPE_CHECKING:
    from requests import Response

    from wrm_pipeline.clients.breaker import Breaker

# A snapshot of Wrocław has 40 kB; a healthy feed answers in under a second.
CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 15.0
DEFAULT_MAX_BYTES = 32 * 2**20

MAX_REDIRECTS = 5

_CHUNK_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class FetchedBody:
    """An answer of the feed, undecoded, and when it was complete (aware, UTC)."""

    body: bytes
    fetched_at: datetime
    status: int
    content_type: str


@dataclass(frozen=True, slots=True)
class Feed:
    """The feed at `url`, whose credentials are masked; `now` gives the time of a fetch (aware, UTC)."""

    url: str
    max_bytes: int = DEFAULT_MAX_BYTES
    breaker: "Breaker | None" = None
    policy: retry.RetryPolicy = retry.FEED_POLICY
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def __post_init__(self) -> None:
        remember_credentials(self.url)

    def __repr__(self) -> str:
        return f"Feed({redact(self.url)!r})"

    def fetch(self, *, correlation_id: str = "") -> FetchedBody:
        """Get the state of now; `correlation_id` goes along as X-Correlation-ID.

        Takes at most 60 s and one read time-out (FEED_POLICY), however slowly the feed drips.

        Raises:
            TransientError: no answer, a broken one, or 408, 429, 5xx until attempts or time ran out.
            PermanentError: another status that is no success, redirects in a circle, or more than `max_bytes`.
            CircuitOpenError: the feed failed too often just now and was not asked.
        """
        return retry.call(
            lambda: self._attempt(correlation_id),
            target="feed",
            operation="get",
            name=self.url,
            policy=self.policy,
            breaker=self.breaker,
        )

    def _attempt(self, correlation_id: str) -> FetchedBody:
        import requests

        headers = {"User-Agent": "wrm-pipeline", "Accept-Encoding": "gzip, deflate"}
        if correlation_id:
            headers["X-Correlation-ID"] = correlation_id
        started = time.monotonic()
        with requests.Session() as session:
            session.max_redirects = MAX_REDIRECTS
            try:
                response = session.get(
                    self.url, headers=headers, timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S), stream=True
                )
            except requests.TooManyRedirects as error:
                raise PermanentError(
                    f"redirected more than {MAX_REDIRECTS} times",
                    "feed",
                    "get",
                    self.url,
                    "Open the URL by hand; if it has moved, set WRM_STATIONS_DATA_URL",
                ) from error
            with response:
                retry.check_response(response, target="feed", operation="get", name=self.url)
                if response.status_code != 200:
                    raise PermanentError(
                        f"answered {response.status_code} instead of 200",
                        "feed",
                        "get",
                        self.url,
                        "Open the URL by hand; if it has moved, set WRM_STATIONS_DATA_URL",
                        response.status_code,
                    )
                # What is kept for ever must not hold our own credential, where the feed quotes what it was asked.
                body = without_echo(self._read(response, started), self.url)
                content_type = response.headers.get("Content-Type", "")
        return FetchedBody(body, self.now(), 200, content_type)

    def _read(self, response: "Response", started: float) -> bytes:
        chunks: list[bytes] = []
        size = 0
        # Each read1 gives what has come; iter_content waits for a whole chunk, however slowly it drips.
        while chunk := response.raw.read1(_CHUNK_BYTES, decode_content=True):
            chunks.append(chunk)
            size += len(chunk)
            if size > self.max_bytes:
                raise PermanentError(
                    f"the answer is longer than {self.max_bytes} bytes",
                    "feed",
                    "get",
                    self.url,
                    "Open the URL by hand; if such a size is right, raise WRM_FEED_MAX_BYTES",
                )
            if time.monotonic() - started > self.policy.attempt_s:
                raise TransientError(
                    f"only {size} bytes came in {self.policy.attempt_s:.0f} s", "feed", "get", self.url
                )
        return b"".join(chunks)

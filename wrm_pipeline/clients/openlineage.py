"""The receiver of lineage events: Marquez, or whatever else speaks OpenLineage over HTTP.

openlineage-python has a transport of its own; it retries by itself, and there is one retry policy here.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wrm_pipeline.clients import outgoing, retry
from wrm_pipeline.clients.errors import PermanentError
from wrm_pipeline.domain.masking import remember_secret

if TYPE_CHECKING:
    from wrm_pipeline.clients.breaker import Breaker

PATH = "/api/v1/lineage"

# Connecting and waiting for the answer's head, within the policy's 4 s for an attempt.
TIMEOUTS_S = (1.5, 2.4)
# The content of its answer is not used.
MAX_ANSWER_BYTES = 2**20

_KEY_REMEDY = "Correct OPENLINEAGE_API_KEY"
_URL_REMEDY = f"Correct OPENLINEAGE_URL: the receiver's address, to which {PATH} is added"


@dataclass(frozen=True, slots=True)
class Receiver:
    """Where events are posted, one request each."""

    url: str
    api_key: str | None = field(default=None, repr=False)
    breaker: "Breaker | None" = None
    policy: retry.RetryPolicy = retry.LINEAGE_POLICY

    def __post_init__(self) -> None:
        remember_secret(self.api_key or "")

    def post(self, event: bytes) -> None:
        """Send one event (JSON); takes at most 9 s.

        Raises:
            TransientError: no answer, or 408, 429, 5xx until attempts or time ran out; or the circuit is open.
            PermanentError: refused; 400 and 422 are about this event, anything else about the configuration.
        """
        url = self.url if self.url.endswith(PATH) else f"{self.url}{PATH}"
        retry.call(
            lambda: self._attempt(url, event),
            target="openlineage",
            operation="post",
            policy=self.policy,
            name=url,
            breaker=self.breaker,
        )

    def _attempt(self, url: str, event: bytes) -> None:
        headers = {"Content-Type": "application/json", "User-Agent": "wrm-pipeline"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        policy = outgoing.Policy(
            "openlineage",
            max_bytes=MAX_ANSWER_BYTES,
            connect_s=TIMEOUTS_S[0],
            read_s=TIMEOUTS_S[1],
            total_s=self.policy.attempt_s,
            trusted=True,
            remedy=_URL_REMEDY,
        )
        answer = outgoing.request(policy, "POST", url, name=url, headers=headers, body=event)
        # A redirected POST would arrive as a GET without the event.
        status = answer.status_code
        if 300 <= status < 400:
            raise PermanentError(f"HTTP {status}, a redirect", "openlineage", "post", url, _URL_REMEDY, status)
        remedy = _KEY_REMEDY if status in {401, 403} else _URL_REMEDY if status in {404, 405} else ""
        retry.check_response(answer, target="openlineage", operation="post", name=url, remedy=remedy)

"""The webhook that alerts go to (Slack, Mattermost and others that take the same JSON).

Its URL is a secret: anyone who has it can post. It appears in no message, log or repr.
"""

import json
from dataclasses import dataclass, field

from wrm_pipeline.clients import outgoing, retry
from wrm_pipeline.clients.errors import ExternalError, PermanentError, TransientError
from wrm_pipeline.domain.masking import remember_secret

# Connecting and waiting for the answer take this long each, within the policy's 5 s for an attempt.
TIMEOUT_S = 2.4
# The content of its answer is not used.
MAX_ANSWER_BYTES = 2**20
# Its URL and its host are not for messages.
NAME = "the webhook"

_URL_REMEDY = "Make a new webhook, and set WRM_ALERT_WEBHOOK_URL (or webhook_url at wrm/alerts in Vault)"


@dataclass(frozen=True, slots=True)
class Webhook:
    """An incoming webhook."""

    url: str = field(repr=False)
    policy: retry.RetryPolicy = retry.WEBHOOK_POLICY
    private_hosts: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        remember_secret(self.url)

    def post(self, text: str) -> None:
        """Send one message in Slack's markup; takes at most 15 s.

        Raises:
            TransientError: no answer, or 408, 429, 5xx until attempts or time ran out.
            PermanentError: refused.
        """
        body = json.dumps({"text": text}).encode()
        retry.call(lambda: self._attempt(body), target="webhook", operation="post", policy=self.policy)

    def _attempt(self, body: bytes) -> None:
        policy = outgoing.Policy(
            "webhook",
            max_bytes=MAX_ANSWER_BYTES,
            connect_s=TIMEOUT_S,
            read_s=TIMEOUT_S,
            total_s=self.policy.attempt_s,
            private_hosts=self.private_hosts,
            remedy=_URL_REMEDY,
            certificate_remedy="Check the host, its certificate and the clock",
        )
        headers = {"Content-Type": "application/json", "User-Agent": "wrm-pipeline"}
        # Without redirects: a redirected POST would become a GET without the message.
        answer = outgoing.request(policy, "POST", self.url, name=NAME, headers=headers, body=body)
        if not 200 <= answer.status_code < 300:
            raise _refusal(answer)


def _refusal(answer: outgoing.Answer) -> ExternalError:
    problem = f"HTTP {answer.status_code}"
    if not retry.is_transient_status(answer.status_code):
        return PermanentError(problem, "webhook", "post", remedy=_URL_REMEDY, status=answer.status_code)
    error = TransientError(problem, "webhook", "post", status=answer.status_code)
    error.retry_after_s = retry.retry_after_s(answer.headers)
    return error

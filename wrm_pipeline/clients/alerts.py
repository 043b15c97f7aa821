"""The webhook that alerts go to (Slack, Mattermost and others that take the same JSON).

Its URL is a secret: whoever has it can post. It is in no message, log or repr; for that reason, the standard library
makes the request, whose errors and logs do not quote it.
"""

import json
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPMessage, InvalidURL
from typing import IO

from wrm_pipeline.clients import retry
from wrm_pipeline.clients.errors import ExternalError, PermanentError, TransientError
from wrm_pipeline.masking import remember_secret

# Connecting and waiting for the answer take this long each, within the policy's 5 s for an attempt.
TIMEOUT_S = 2.4

_URL_REMEDY = "Make a new webhook, and set WRM_ALERT_WEBHOOK_URL (or webhook_url at wrm/alerts in Vault)"


@dataclass(frozen=True, slots=True)
class Webhook:
    """An incoming webhook."""

    url: str = field(repr=False)
    policy: retry.RetryPolicy = retry.WEBHOOK_POLICY

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
        try:
            request = urllib.request.Request(  # noqa: S310 - the settings take http(s) only
                self.url, body, {"Content-Type": "application/json", "User-Agent": "wrm-pipeline"}
            )
            with _OPENER.open(request, timeout=TIMEOUT_S):
                return
        except urllib.error.HTTPError as error:
            with error:
                failure = _refusal(error)
        except (OSError, HTTPException, ValueError) as error:
            failure = _no_answer(error)
        # Not in the handlers: the library's exception, which may hold the URL, is not to go along as context.
        raise failure


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Redirected POSTs become GETs without the message."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        """None of them."""


_OPENER = urllib.request.build_opener(_NoRedirects)


def _refusal(answer: urllib.error.HTTPError) -> ExternalError:
    problem = f"HTTP {answer.code}"
    if not retry.is_transient_status(answer.code):
        return PermanentError(problem, "webhook", "post", remedy=_URL_REMEDY, status=answer.code)
    error = TransientError(problem, "webhook", "post", status=answer.code)
    error.retry_after_s = retry.retry_after_s({name.lower(): value for name, value in answer.headers.items()})
    return error


def _no_answer(error: Exception) -> ExternalError:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, ssl.SSLCertVerificationError):
        return PermanentError(
            "the certificate is not trusted", "webhook", "post", remedy="Check the host, its certificate and the clock"
        )
    if isinstance(reason, str | ValueError | InvalidURL):
        return PermanentError("the URL cannot be used", "webhook", "post", remedy=_URL_REMEDY)
    return TransientError(f"no answer ({type(reason).__name__})", "webhook", "post")

"""How requests to the object store are sent, botocore's and our own: by the one policy for outgoing requests.

botocore signs and parses. Its requests are sent by `outgoing.request` instead, so that they use no proxy from the
environment, wait no longer than the deadline, read no endless answer, and cannot be redirected elsewhere: botocore
would follow "the bucket is in another region" to whatever endpoint it derives from that, and look up an unknown region
until Python's stack is full. What remains: a request that failed because of its region is signed for the region named
in the answer and sent once more, to the same host.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import io
import os
import time
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from wrm_pipeline.clients import outgoing
from wrm_pipeline.clients.connections import KeptConnections
from wrm_pipeline.clients.errors import PermanentError

if TYPE_CHECKING:
    from botocore.awsrequest import AWSPreparedRequest, AWSResponse
    from botocore.model import OperationModel
    from mypy_boto3_s3 import S3Client

MAX_OBJECT_BYTES = 5 * 2**30
"""S3's limit for one PUT, which is how all our objects are written."""

MAX_ANSWER_BYTES = 32 * 2**20
"""For any other answer. A listing's page of 1,000 keys of 1,024 bytes, all escaped, has 6 MB."""

ENDS_AT: ContextVar[float] = ContextVar("ENDS_AT", default=float("inf"))
"""The monotonic second at which the operation under way ends: a repeated request gets what the earlier ones left."""

_LEAST_S = 0.1
_AWS = ".amazonaws.com"
_EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()


def s3_policy(*, connect_s: float, read_s: float, total_s: float) -> outgoing.Policy:
    """The policy for an object store, which the operator chose, wherever it is."""
    return outgoing.Policy(
        "s3",
        max_bytes=MAX_ANSWER_BYTES,
        connect_s=connect_s,
        read_s=read_s,
        total_s=total_s,
        trusted=True,
        verify=os.environ.get("AWS_CA_BUNDLE") or True,
        with_errors=True,
        unpack=False,  # an object is the bytes that were put, whatever encoding its metadata claims
        remedy="Check S3_ENDPOINT_URL",
        certificate_remedy="Check S3_ENDPOINT_URL, AWS_CA_BUNDLE and the clock",
        size_remedy="Check what answers at the endpoint",
    )


class S3Transport:
    """Sends requests that botocore signed; thread-safe.

    Args:
        endpoint_url: The only permitted endpoint; None: any of AWS.
        policy: For each request.
        connections: Maximum number kept open.
    """

    def __init__(self, endpoint_url: str | None, policy: outgoing.Policy, connections: int) -> None:
        self._endpoint = outgoing.place_of(endpoint_url) if endpoint_url else None
        self._policy = policy
        self._kept = KeptConnections(connections)

    def serve(self, client: S3Client) -> None:
        """Send all requests of a client from now on."""
        events = client.meta.events
        send: Any = self._send  # its return value becomes the request's answer
        events.register("before-send.s3", send)
        events.register_last("before-parameter-build.s3", _ask_for_a_region_once)

    def _send(self, request: AWSPreparedRequest, event_name: str = "", **_: object) -> AWSResponse:
        from botocore.awsrequest import AWSResponse
        from botocore.compat import HTTPHeaders

        place = outgoing.place_of(request.url)
        self._check(place)
        headers = {name: _text(value) for name, value in request.headers.items()}
        headers.pop("Expect", None)  # nothing here waits for a "100 Continue"
        is_object = event_name.endswith(".GetObject")
        body: Any = request.body
        policy = replace(
            self._policy,
            max_bytes=MAX_OBJECT_BYTES if is_object else self._policy.max_bytes,
            total_s=max(min(self._policy.total_s, ENDS_AT.get() - time.monotonic()), _LEAST_S),
        )
        answer = outgoing.request(
            policy,
            request.method,
            f"{place}{place.path}",  # without user and password, which would replace the signature
            headers=headers,
            body=body,
            kept=self._kept,
        )
        return AWSResponse(
            request.url, answer.status_code, HTTPHeaders.from_dict(dict(answer.headers)), _Body(answer.body)
        )

    def _check(self, place: outgoing.Place) -> None:
        if self._endpoint is None:
            is_own = place.scheme == "https" and place.host.endswith(_AWS)
        else:
            is_own = place.origin == self._endpoint.origin
        if not is_own:
            raise PermanentError(
                f"leads to {place}, which is not the configured endpoint", "s3", remedy="Check S3_ENDPOINT_URL"
            )


def _ask_for_a_region_once(model: OperationModel, context: dict[str, Any], **_: object) -> None:
    """Botocore learns a region by HeadBucket; if that gives none, it would repeat HeadBucket endlessly."""
    if model.name == "HeadBucket":
        context["s3_redirect"]["redirected"] = True


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


class _Body(io.BytesIO):
    """Looks to botocore like a body that is still to be read."""

    def stream(self, *_: object, **__: object) -> Iterator[bytes]:
        yield self.read()


@dataclass(frozen=True, slots=True)
class Signer:
    """AWS Signature Version 4 for requests without a body."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    region: str

    def headers(self, method: str, host: str, path: str, now: datetime) -> dict[str, str]:
        """The headers to send.

        Args:
            method: ``GET``.
            host: As in the Host header, with its port if that is not the default.
            path: Percent-encoded, without parameters.
            now: Aware.
        """
        at = now.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
        scope = f"{at[:8]}/{self.region}/s3/aws4_request"
        signed = "host;x-amz-content-sha256;x-amz-date"
        lines = (method, path, "", f"host:{host}", f"x-amz-content-sha256:{_EMPTY_SHA256}", f"x-amz-date:{at}", "")
        request = "\n".join((*lines, signed, _EMPTY_SHA256))
        text = "\n".join(("AWS4-HMAC-SHA256", at, scope, hashlib.sha256(request.encode()).hexdigest()))
        signature = hmac.digest(_key(self.secret_access_key, at[:8], self.region), text.encode(), "sha256").hex()
        return {
            "x-amz-content-sha256": _EMPTY_SHA256,
            "x-amz-date": at,
            "Authorization": f"AWS4-HMAC-SHA256 Credential={self.access_key_id}/{scope}, "
            f"SignedHeaders={signed}, Signature={signature}",
        }


@functools.lru_cache(maxsize=4)
def _key(secret: str, day: str, region: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (day, region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def object_path(bucket: str, key: str) -> str:
    """The path of an object, percent-encoded as the signature requires."""
    return f"/{quote(bucket, safe='')}/{quote(key, safe='/~')}"

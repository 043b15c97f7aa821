"""Many objects of a bucket, fast: what boto3 takes 2 ms of processor time for takes this a fifth of it.

It only ever says "here it is, checked" or "ask the other way": errors, retries and the circuit breaker have one
meaning, that of `S3ObjectStore.get`, which is asked for whatever did not simply arrive (docs/performance.md has the
comparison).
"""

import hashlib
import ssl
from dataclasses import replace
from datetime import UTC, datetime

from wrm_pipeline.clients import outgoing
from wrm_pipeline.clients.connections import KeptConnections
from wrm_pipeline.clients.errors import ExternalError
from wrm_pipeline.lake.s3_requests import MAX_OBJECT_BYTES, Signer, object_path


class BulkReader:
    """One bucket; thread-safe. Connects when it is first used.

    Args:
        bucket: Its name.
        endpoint_url: Of the service.
        signer: Signs each request.
        policy: Of each request.
        connections: Kept open at most.
    """

    def __init__(
        self, bucket: str, endpoint_url: str, signer: Signer, policy: outgoing.Policy, connections: int
    ) -> None:
        self._bucket = bucket
        self._endpoint = outgoing.place_of(endpoint_url)
        self._signer = signer
        self._policy = replace(policy, max_bytes=MAX_OBJECT_BYTES, with_errors=False)
        self._kept = KeptConnections(connections)

    def get(self, key: str) -> bytes | None:
        """The content, length and stored SHA-256 checked; None if it did not come so, for whatever reason."""
        path = self._endpoint.path.rstrip("/") + object_path(self._bucket, key)
        host = str(self._endpoint).partition("://")[2]
        headers = self._signer.headers("GET", host, path, datetime.now(UTC)) | {"User-Agent": "wrm-pipeline"}
        try:
            answer = outgoing.request(self._policy, "GET", f"{self._endpoint}{path}", headers=headers, kept=self._kept)
        except (ExternalError, ssl.SSLCertVerificationError):
            return None
        if answer.status_code != 200 or not answer.headers.get("etag"):
            return None
        sha256 = answer.headers.get("x-amz-meta-sha256")
        if sha256 is not None and hashlib.sha256(answer.body).hexdigest() != sha256:
            return None
        return answer.body

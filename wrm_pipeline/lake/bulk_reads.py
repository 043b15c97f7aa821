"""Fast reads of many objects of a bucket: a fifth of the 2 ms of processor time that boto3 takes for each.

The answer is either the checked content or "ask the ordinary way": errors, retries and the circuit breaker stay the
business of `S3ObjectStore.get`, which is used for everything that did not simply arrive (comparison:
docs/performance.md).
"""

import hashlib
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
        connections: Maximum number kept open.
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
        """The content, its length and stored SHA-256 checked; None if that failed for any reason."""
        path = self._endpoint.path.rstrip("/") + object_path(self._bucket, key)
        host = str(self._endpoint).partition("://")[2]
        headers = self._signer.headers("GET", host, path, datetime.now(UTC)) | {"User-Agent": "wrm-pipeline"}
        try:
            answer = outgoing.request(self._policy, "GET", f"{self._endpoint}{path}", headers=headers, kept=self._kept)
        except ExternalError:
            return None
        if answer.status_code != 200 or not answer.headers.get("etag"):
            return None
        sha256 = answer.headers.get("x-amz-meta-sha256")
        if sha256 is not None and hashlib.sha256(answer.body).hexdigest() != sha256:
            return None
        return answer.body

"""What S3 refuses, in terms of what the reader can do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wrm_pipeline.clients import retry
from wrm_pipeline.clients.errors import (
    ExternalError,
    ObjectArchivedError,
    ObjectNotFoundError,
    PermanentError,
    StorageDeniedError,
    StorageFullError,
    TransientError,
)

if TYPE_CHECKING:
    from botocore.exceptions import ClientError


def explained(exc: ClientError, operation: str, place: str, bucket: str) -> ExternalError:
    """Translate a refusal into our errors, with a remedy; `place` is the object for messages."""
    error = retry.classify(exc, target="s3", operation=operation, name=place)
    assert error is not None  # noqa: S101 - a ClientError is always an answer
    code, status = exc.response.get("Error", {}).get("Code", ""), error.status
    if isinstance(error, TransientError):
        return error
    kind, remedy = PermanentError, ""
    if code == "NoSuchBucket":
        remedy = f"Create bucket {bucket}, or correct BUCKET_NAME or S3_ENDPOINT_URL"
    elif status == 404:
        kind = ObjectNotFoundError
    elif code == "InvalidObjectState":
        kind = ObjectArchivedError
        remedy = (
            "A lifecycle rule has moved it to an archive storage class: restore it from there (S3 RestoreObject), "
            "and correct the rule"
        )
    elif status == 507 or code == "QuotaExceeded":
        kind, remedy = StorageFullError, f"Make room in bucket {bucket}, or raise its quota"
    elif code == "RequestTimeTooSkewed":
        kind, remedy = StorageDeniedError, "Set this machine's clock (timedatectl, NTP)"
    elif status in {401, 403}:
        kind, remedy = StorageDeniedError, f"Check the S3 keys, and their rights on bucket {bucket}"
    elif status in {301, 307} or code == "AuthorizationHeaderMalformed":
        remedy = "Check S3_ENDPOINT_URL and S3_REGION_NAME"
    return kind(error.problem, "s3", operation, error.name, remedy, status)


def status_of(exc: ClientError) -> int:
    """The HTTP status of an answer; 0 if there was none."""
    return exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)

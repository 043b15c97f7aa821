"""boto3's client for S3, made one way: botocore signs, our transport sends, and, where asked, our policy tries again.

boto3 is imported when a client is made: loading it takes 0.3 s, and local mode has no use for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wrm_pipeline.clients import outgoing, retry
from wrm_pipeline.clients.errors import ExternalError
from wrm_pipeline.lake.s3_requests import S3Transport

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from wrm_pipeline.clients.breaker import Breaker
    from wrm_pipeline.clients.rate import SharedRate

DEFAULT_REGION = "us-east-1"
"""Most services other than AWS accept it."""


@dataclass(frozen=True, slots=True)
class ClientLogin:
    """Who asks.

    Attributes:
        access_key_id: None: what boto3 finds by itself, for `profile_name` if that is given.
        secret_access_key: In no repr.
        session_token: Of credentials that are for a while; in no repr.
        profile_name: One of ~/.aws.
        unsigned: Nobody: a public bucket.
    """

    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    profile_name: str | None = None
    unsigned: bool = False


def create_s3_client(
    endpoint_url: str | None, region_name: str | None, login: ClientLogin, policy: outgoing.Policy, connections: int
) -> S3Client:
    """A client whose requests all go to one endpoint, each once; makes no request.

    Args:
        endpoint_url: ``https://…`` of the service; None means AWS.
        region_name: None: that of the profile, else DEFAULT_REGION.
        login: Who asks.
        policy: Of each request.
        connections: Kept open at most.
    """
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    options: Any = {"ignore_configured_endpoint_urls": True}  # those of ~/.aws; unknown to the stubs
    if login.unsigned:
        options["signature_version"] = UNSIGNED
    config = Config(
        s3={"addressing_style": "path"},  # no DNS name and certificate per bucket needed
        # boto3's default since 1.36, a trailing CRC in aws-chunked encoding, is refused by Ceph and others
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        retries={"total_max_attempts": 1},  # `retry.call` is the one that retries
        **options,
    )
    # A session of our own: boto3's shared one is not thread-safe.
    session = boto3.session.Session(profile_name=login.profile_name)
    client = session.client(
        "s3",
        endpoint_url=endpoint_url,
        aws_access_key_id=login.access_key_id,
        aws_secret_access_key=login.secret_access_key,
        aws_session_token=login.session_token,
        region_name=region_name or session.region_name or DEFAULT_REGION,
        config=config,
    )
    S3Transport(endpoint_url, policy, connections).serve(client)
    return client


def guard(
    client: S3Client,
    *,
    policy: retry.RetryPolicy,
    breaker: Breaker | None = None,
    rate: SharedRate | None = None,
    on_event: retry.OnEvent | None = None,
) -> S3Client:
    """Try each call of a client by our policy: rate, retries, deadline, circuit breaker. Returns the client.

    Calls raise what boto3 raises, `botocore.exceptions.ClientError` and its kin, with a note on the attempts; only
    `CircuitOpenError` is ours. The client's helpers (paginators, `upload_file`) make calls, and so are held to it, too.
    """
    from botocore import xform_name
    from botocore.exceptions import BotoCoreError, ClientError

    send: Callable[[str, dict[str, Any]], Any] = client._make_api_call  # type: ignore[attr-defined]

    def call(operation_name: str, api_params: dict[str, Any]) -> Any:
        rewind = _rewinder(api_params)

        def attempt() -> Any:
            rewind()
            if rate is not None:
                rate.wait()
            return send(operation_name, api_params)

        try:
            return retry.call(
                attempt,
                target="s3",
                operation=xform_name(operation_name),
                policy=policy,
                name=_place(api_params),
                breaker=breaker,
                on_event=on_event,
            )
        except ExternalError as error:
            cause = error.__cause__
            if not isinstance(cause, ClientError | BotoCoreError):
                raise
            cause.add_note(str(error))
            raise cause from None

    client._make_api_call = call  # type: ignore[attr-defined]
    return client


def _rewinder(api_params: Mapping[str, Any]) -> Callable[[], object]:
    """Sets a body that is read from a file back to where it began, for another attempt."""
    body: Any = api_params.get("Body")
    if not (hasattr(body, "seek") and hasattr(body, "tell")):
        return lambda: None
    start = body.tell()
    return lambda: body.seek(start)


def _place(api_params: Mapping[str, Any]) -> str:
    bucket, key = api_params.get("Bucket", ""), api_params.get("Key", api_params.get("Prefix", ""))
    return f"s3://{bucket}/{key}" if bucket else ""

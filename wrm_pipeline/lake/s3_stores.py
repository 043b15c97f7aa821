"""Creates the store for a bucket: client, bulk reader and policy from its configuration."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from wrm_pipeline.clients import outgoing, retry
from wrm_pipeline.lake.bulk_reads import BulkReader
from wrm_pipeline.lake.s3_client import DEFAULT_REGION, ClientLogin, create_s3_client
from wrm_pipeline.lake.s3_object_store import S3ObjectStore
from wrm_pipeline.lake.s3_requests import Signer, s3_policy

if TYPE_CHECKING:
    from wrm_pipeline.clients.breaker import Breaker
    from wrm_pipeline.clients.rate import SharedRate

CONNECT_TIMEOUT_S = 3
READ_TIMEOUT_S = 15
"""Seconds without a byte, not for a whole body. 3 + 15 is `STORAGE_POLICY.attempt_s`."""


def s3_object_store(
    *,
    bucket: str,
    endpoint_url: str | None,
    access_key_id: str,
    secret_access_key: str,
    region_name: str | None = None,
    breaker: Breaker | None = None,
    policy: retry.RetryPolicy = retry.STORAGE_POLICY,
    threads: int = 16,
    in_flight: int = 64,
    on_event: retry.OnEvent | None = None,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    read_timeout_s: float = READ_TIMEOUT_S,
    way: outgoing.Policy | None = None,
    rate: SharedRate | None = None,
) -> S3ObjectStore:
    """The store for a bucket of an S3-compatible service; makes no request.

    Args:
        bucket: Its name.
        endpoint_url: ``https://…`` of the service; None means AWS.
        access_key_id: Identifies us.
        secret_access_key: Kept in the client only, never shown.
        region_name: Default DEFAULT_REGION.
        breaker: See `Breakers.of`.
        policy: Attempts and deadline of each operation.
        threads: Parallel downloads of `get_many`, and connections kept.
        in_flight: Maximum number of bodies that `get_many` holds.
        on_event: See `retry.call`.
        connect_timeout_s: Seconds.
        read_timeout_s: Seconds without a byte.
        way: Of each request, in place of the two time-outs.
        rate: The service's limit; None means none.
    """
    region = region_name or DEFAULT_REGION
    connections = threads + 4  # plus the caller's own requests meanwhile
    way = way or s3_policy(connect_s=connect_timeout_s, read_s=read_timeout_s, total_s=policy.deadline_s)
    login = ClientLogin(access_key_id, secret_access_key)

    return S3ObjectStore(
        bucket,
        functools.partial(create_s3_client, endpoint_url, region, login, way, connections),
        endpoint=urlsplit(endpoint_url).netloc.rpartition("@")[2] if endpoint_url else "AWS",
        breaker=breaker,
        policy=policy,
        threads=threads,
        in_flight=in_flight,
        on_event=on_event,
        rate=rate,
        bulk=BulkReader(
            bucket,
            endpoint_url or f"https://s3.{region}.amazonaws.com",
            Signer(access_key_id, secret_access_key, region),
            replace(way, total_s=way.connect_s + way.read_s),
            connections,
        ),
    )

"""A bucket of an S3-compatible service as an object store; its client is made when the first request is."""

from __future__ import annotations

import builtins
import contextlib
import functools
import hashlib
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from wrm_pipeline.clients import retry
from wrm_pipeline.clients.daemon_threads import DaemonThreads, result_of
from wrm_pipeline.clients.errors import (
    ExternalError,
    ObjectNotFoundError,
    PermanentError,
    TransientError,
    UnexpectedAnswerError,
)
from wrm_pipeline.lake.bulk_reads import BulkReader
from wrm_pipeline.lake.object_store import BINARY, ObjectInfo, check_content, checked_metadata
from wrm_pipeline.lake.s3_errors import explained, status_of
from wrm_pipeline.lake.s3_requests import ENDS_AT

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ObjectTypeDef

    from wrm_pipeline.clients.breaker import Breaker
    from wrm_pipeline.clients.rate import SharedRate

logger = logging.getLogger(__name__)

T = TypeVar("T")

_PAGE_KEYS = 1000
"""Keys per listing request: S3's maximum."""

_FEW = 8
"""Up to this many objects are not worth a second client in `get_many`."""

_HEADER_REJECTED_CODES = frozenset({"NotImplemented", "InvalidArgument", "InvalidRequest"})


class S3ObjectStore:
    """Objects in a bucket of an S3-compatible service; thread-safe.

    Every request goes through `retry.call`, bodies included. No multipart uploads: Ceph ignores If-None-Match when they
    are completed, and the largest objects here are some tens of MB, while a single PUT may have 5 GB.

    `put_if_absent` relies on ``If-None-Match: *``, which AWS, Ceph (16.2.15, as Hetzner runs) and SeaweedFS honour
    atomically with 1 request. Other services reject or even ignore the header, so each process tests it: its first
    `put_if_absent` checks with a HEAD whether the object exists, and after writing sends the same conditional PUT once
    more, with the same bytes, which a service that honours the header answers with 412 (3 requests, once per process).
    If it does not, each `put_if_absent` is a HEAD and a PUT. The remaining risk: of two writers of one key within the
    milliseconds between HEAD and PUT, both get True and the later one's bytes stay. Keys of raw snapshots include the
    second, so that takes two fetches in one second, on such a service.

    Args:
        bucket: Its name.
        client_factory: Creates the boto3 client, at the first request.
        endpoint: Host of the service, for messages.
        breaker: Consulted before and updated after each operation.
        policy: Attempts and deadline of each operation.
        threads: Parallel downloads of `get_many`.
        in_flight: Maximum number of bodies that `get_many` holds.
        on_event: See `retry.call`.
        rate: Awaited before each request, retries included.
        bulk: The fast reader that `get_many` tries first; None means there is none.
        clock: See `retry.call`.
        sleep: See `retry.call`.
    """

    def __init__(
        self,
        bucket: str,
        client_factory: Callable[[], S3Client],
        *,
        endpoint: str = "",
        breaker: Breaker | None = None,
        policy: retry.RetryPolicy = retry.STORAGE_POLICY,
        threads: int = 16,
        in_flight: int = 64,
        on_event: retry.OnEvent | None = None,
        rate: SharedRate | None = None,
        bulk: BulkReader | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.name = f"s3://{bucket}"
        self._bucket = bucket
        self._client_factory = client_factory
        self._endpoint = endpoint
        self._breaker = breaker
        self._policy = policy
        self._threads = threads
        self._in_flight = in_flight
        self._on_event = on_event
        self._rate = rate
        self._bulk = bulk
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._client: S3Client | None = None
        # None: not tested yet. An earlier process may have found out.
        self.honours_if_none_match: bool | None = None

    def __repr__(self) -> str:
        return f"S3ObjectStore({self.name!r} at {self._endpoint!r})"

    # Reading

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ObjectInfo]:
        """See `ObjectStore.list`. Each page is a request with its own retries.

        Pages continue after the last key seen instead of a continuation token: a retried page cannot meet an expired
        token, and a listing that does not advance is noticed. "Folders" made by consoles (keys that end in a slash) are
        not objects.
        """
        after, more = start_after, True
        while more:
            contents, more = self._page(prefix, after)
            for item in contents:
                after = item["Key"]
                if not after.endswith("/"):
                    yield ObjectInfo(after, item["Size"], item["ETag"].strip('"'), item["LastModified"].astimezone(UTC))

    def _page(self, prefix: str, after: str) -> tuple[Sequence[ObjectTypeDef], bool]:
        def request(client: S3Client) -> tuple[Sequence[ObjectTypeDef], bool]:
            answer = client.list_objects_v2(Bucket=self._bucket, Prefix=prefix, StartAfter=after, MaxKeys=_PAGE_KEYS)
            self._check_listing(answer, prefix)
            contents, more = answer.get("Contents", []), answer.get("IsTruncated", False)
            keys = [item["Key"] for item in contents]
            if more and not keys:
                raise self._unexpected("the listing does not advance", "list", prefix)
            for earlier, later in itertools.pairwise([after, *keys]):
                if later <= earlier:
                    raise PermanentError(
                        f"keys are not in ascending order: {later!r} comes after {earlier!r}",
                        "s3",
                        "list",
                        self._place(prefix),
                        "This service does not list as S3 does, and paging would lose keys: use another one",
                    )

            return contents, more

        return self._ask("list", prefix, request)

    def list_folders(self, prefix: str) -> builtins.list[str]:
        """See `ObjectStore.list_folders`."""
        folders: builtins.list[str] = []
        token = ""
        while True:

            def request(client: S3Client, token: str = token) -> tuple[builtins.list[str], str]:
                ask = functools.partial(
                    client.list_objects_v2,
                    Bucket=self._bucket,
                    Prefix=prefix,
                    Delimiter="/",
                    MaxKeys=_PAGE_KEYS,
                )
                answer = ask(ContinuationToken=token) if token else ask()
                self._check_listing(answer, prefix)
                following = answer.get("NextContinuationToken", "") if answer.get("IsTruncated") else ""
                if answer.get("IsTruncated") and following in {"", token}:
                    raise self._unexpected("the listing does not advance", "list", prefix)
                return [item["Prefix"] for item in answer.get("CommonPrefixes", [])], following

            page, token = self._ask("list", prefix, request)
            folders += page
            if not token:
                return sorted(set(folders))

    def get(self, key: str) -> bytes:
        """See `ObjectStore.get`."""

        def request(client: S3Client) -> bytes:
            answer = client.get_object(Bucket=self._bucket, Key=key)
            self._check_etag(answer, "get", key)
            content = answer["Body"].read()
            check_content(
                content,
                answer.get("ContentLength", len(content)),
                answer.get("Metadata", {}).get("sha256"),
                ("s3", "get", self._place(key)),
            )
            return content

        return self._ask("get", key, request)

    def get_many(self, keys: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """See `ObjectStore.get_many`."""
        waiting: deque[tuple[str, Future[bytes]]] = deque()
        remaining = iter(keys)
        first = list(itertools.islice(remaining, self._in_flight))
        get = self.get
        if self._bulk is not None and len(first) > _FEW and not (self._breaker is not None and self._breaker.is_open):
            get = functools.partial(self._get_in_bulk, self._bulk)
        with DaemonThreads(self._threads, "s3-get") as threads:
            for key in first:
                waiting.append((key, threads.submit(get, key)))
            while waiting:
                key, future = waiting.popleft()
                yield key, result_of(future)
                del future  # and with it the body, before the next one is requested
                for following in itertools.islice(remaining, 1):
                    waiting.append((following, threads.submit(get, following)))

    def _get_in_bulk(self, bulk: BulkReader, key: str) -> bytes:
        """Through the fast reader, falling back to the ordinary way."""
        if self._rate is not None:
            self._rate.wait()
        body = bulk.get(key)
        record = self._on_event or retry.REQUESTS
        record("s3", "get", "ok" if body is not None else "retried")
        return self.get(key) if body is None else body

    def stat(self, key: str) -> ObjectInfo | None:
        """See `ObjectStore.stat`. HEAD returns 404 for a missing bucket, too, so that gives None as well."""

        def request(client: S3Client) -> ObjectInfo | None:
            from botocore.exceptions import ClientError

            try:
                answer = client.head_object(Bucket=self._bucket, Key=key)
            except ClientError as exc:
                if status_of(exc) == 404:
                    return None
                raise
            self._check_etag(answer, "stat", key)
            return ObjectInfo(
                key=key,
                size_bytes=answer["ContentLength"],
                etag=answer["ETag"].strip('"'),
                last_modified=answer["LastModified"].astimezone(UTC),
                metadata=answer.get("Metadata", {}),
            )

        return self._ask("stat", key, request)

    def url(self, key: str) -> str:
        """``s3://bucket/key``."""
        return f"{self.name}/{key}"

    # Writing

    def put(
        self,
        key: str,
        body: bytes | Path,
        *,
        metadata: Mapping[str, str] | None = None,
        content_type: str = BINARY,
    ) -> ObjectInfo:
        """See `ObjectStore.put`. `last_modified` is the answer's time: the store's own may differ by 1 s."""
        size_bytes, sha256 = _measure(body)
        stored = checked_metadata(metadata, sha256)

        def request(client: S3Client) -> ObjectInfo:
            with contextlib.ExitStack() as stack:
                answer = client.put_object(
                    Bucket=self._bucket,
                    Key=key,
                    Body=body if isinstance(body, bytes) else stack.enter_context(body.open("rb")),
                    ContentLength=size_bytes,
                    ContentType=content_type,
                    Metadata=stored,
                )
            self._check_etag(answer, "put", key)
            return ObjectInfo(key, size_bytes, answer["ETag"].strip('"'), _answered_at(answer), stored)

        return self._ask("put", key, request)

    def put_if_absent(self, key: str, body: bytes, *, metadata: Mapping[str, str] | None = None) -> bool:
        """See `ObjectStore.put_if_absent`, and this class for what it relies on."""
        stored = checked_metadata(metadata, hashlib.sha256(body).hexdigest())
        honoured = self.honours_if_none_match
        if not honoured and self.stat(key) is not None:
            return False
        if honoured is False:
            self.put(key, body, metadata=metadata)
            return True

        written, attempts = self._put_conditionally("put_if_absent", key, body, stored)
        if written is None:
            self._distrust("rejects")
            return self.put_if_absent(key, body, metadata=metadata)
        if written:
            if honoured is None:
                self._try_header(key, body, stored)
            return True
        self.honours_if_none_match = True
        if attempts == 1:
            return False
        # An earlier attempt may have succeeded although its answer was lost.
        present = self.stat(key)
        return present is not None and present.metadata.get("sha256") == stored["sha256"]

    def _put_conditionally(
        self, operation: str, key: str, body: bytes, metadata: Mapping[str, str]
    ) -> tuple[bool | None, int]:
        """Whether it was written (None: the service rejects the header), and the number of requests made."""
        attempts = 0

        def request(client: S3Client) -> bool | None:
            from botocore.exceptions import ClientError

            nonlocal attempts
            attempts += 1
            try:
                answer = client.put_object(
                    Bucket=self._bucket,
                    Key=key,
                    Body=body,
                    ContentType=BINARY,
                    Metadata=metadata,
                    IfNoneMatch="*",
                )
            except ClientError as exc:
                status, code = status_of(exc), exc.response.get("Error", {}).get("Code", "")
                if status == 412:
                    return False
                if status == 501 or (status == 400 and code in _HEADER_REJECTED_CODES):
                    return None
                if status == 409:  # another writer is writing this key
                    raise TransientError("HTTP 409 conflict", "s3", operation, self._place(key), status=409) from exc
                raise
            self._check_etag(answer, operation, key)
            return True

        try:
            return self._ask(operation, key, request), attempts
        except TransientError as error:
            if error.status == 409 and self.stat(key) is not None:
                return False, attempts
            raise

    def _try_header(self, key: str, body: bytes, metadata: Mapping[str, str]) -> None:
        """Send what was just written once more, to see whether the service refuses; harmless if it does not."""
        try:
            written, _ = self._put_conditionally("probe", key, body, metadata)
        except ExternalError:
            return  # find out another time
        if written is False:
            self.honours_if_none_match = True
        else:
            self._distrust("ignores")

    def _distrust(self, verb: str) -> None:
        self.honours_if_none_match = False
        logger.warning(
            "%s at %s %s If-None-Match: create-only writes are a HEAD and a PUT, not atomic",
            self.name,
            self._endpoint,
            verb,
        )

    def delete(self, key: str) -> None:
        """See `ObjectStore.delete`."""

        def request(client: S3Client) -> None:
            answer = client.delete_object(Bucket=self._bucket, Key=key)["ResponseMetadata"]
            if answer["HTTPStatusCode"] != 204 and "html" in answer["HTTPHeaders"].get("content-type", ""):
                raise self._unexpected("HTML instead of an S3 answer", "delete", key)

        with contextlib.suppress(ObjectNotFoundError):
            self._ask("delete", key, request)

    # Asking

    def _ask(self, operation: str, key: str, request: Callable[[S3Client], T]) -> T:
        def attempt() -> T:
            from botocore.exceptions import ClientError

            if self._rate is not None:
                self._rate.wait()
            try:
                return request(self._connected())
            except ClientError as exc:
                raise explained(exc, operation, self._place(key), self._bucket) from exc
            except ExternalError as exc:
                if exc.name:
                    raise
                # A connection error does not know which object is concerned.
                raise type(exc)(exc.problem, "s3", operation, self._place(key), exc.remedy, exc.status) from None

        ends_at = ENDS_AT.set(time.monotonic() + self._policy.deadline_s)
        try:
            return retry.call(
                attempt,
                target="s3",
                operation=operation,
                policy=self._policy,
                name=self._place(key),
                breaker=self._breaker,
                on_event=self._on_event,
                clock=self._clock,
                sleep=self._sleep,
            )
        finally:
            ENDS_AT.reset(ends_at)

    def _connected(self) -> S3Client:
        with self._lock:
            if self._client is None:
                self._client = self._client_factory()
            return self._client

    def _check_listing(self, answer: Mapping[str, Any], prefix: str) -> None:
        """An HTML or empty body with status 200 parses as a listing without keys: "nothing new", forever."""
        if "KeyCount" not in answer or "Name" not in answer:
            raise self._unexpected("HTTP 200, but the answer is not an S3 listing", "list", prefix)

    def _check_etag(self, answer: Mapping[str, Any], operation: str, key: str) -> None:
        """A proxy's page with status 200 has no ETag; mistaken for a PUT's answer, it would lose the object."""
        if not answer.get("ETag"):
            raise self._unexpected("HTTP 200, but without an ETag: this was not S3", operation, key)

    def _unexpected(self, problem: str, operation: str, key: str) -> UnexpectedAnswerError:
        return UnexpectedAnswerError(
            problem,
            "s3",
            operation,
            self._place(key),
            "Check what answers at the endpoint: a proxy, a login or error page",
        )

    def _place(self, key: str) -> str:
        return f"{self.name}/{key} at {self._endpoint}"


def _answered_at(answer: Mapping[str, Any]) -> datetime:
    try:
        return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"]).astimezone(UTC)
    except (KeyError, ValueError):
        return datetime.now(UTC)


def _measure(body: bytes | Path) -> tuple[int, str]:
    """Length in bytes and SHA-256 in hex."""
    if isinstance(body, bytes):
        return len(body), hashlib.sha256(body).hexdigest()
    with body.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), sha256

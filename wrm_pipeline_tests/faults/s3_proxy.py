"""An S3 server behind a proxy that answers some requests itself, on demand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote

import urllib3

from wrm_pipeline_tests.fixtures.fault_server import RESET, Answer, FaultServer, Received, html

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_NOT_FORWARDED = {"connection", "content-length", "expect", "transfer-encoding"}
_NOT_RETURNED = {"connection", "date", "keep-alive", "server", "transfer-encoding"}


def xml_error(status: int, code: str) -> Answer:
    body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>by the test</Message></Error>'
    return Answer(status, body.encode(), {"Content-Type": "application/xml"})


SLOW_DOWN = xml_error(503, "SlowDown")
DENIED = xml_error(403, "AccessDenied")
GONE = xml_error(404, "NoSuchKey")
TOO_MANY = html(429)


def operation_of(request: Received) -> str:
    if request.method == "GET":
        return "list" if "list-type=2" in request.path else "get"
    return request.method.lower()


Fault = Answer | Callable[["S3Proxy", Received], Answer]


@dataclass
class S3Proxy:
    """What stands between the client and the server.

    Attributes:
        backend_url: The server.
        seen: (operation, path) of each request.
    """

    backend_url: str
    seen: list[tuple[str, str]] = field(default_factory=list)
    _rules: list[tuple[str, str, Fault, list[int]]] = field(default_factory=list)
    _pool: urllib3.PoolManager = field(default_factory=lambda: urllib3.PoolManager(retries=False))

    def fail(self, operation: str, fault: Fault, *, key: str = "", times: int = 10**9, after: int = 0) -> None:
        """Answer requests of `operation` ('' for any) whose path holds `key` by `fault`: `times`, after some good."""
        self._rules.append((operation, key, fault, [after, times]))

    def heal(self) -> None:
        self._rules.clear()

    def __call__(self, request: Received) -> Answer:
        operation, path = operation_of(request), unquote(request.path)
        self.seen.append((operation, path))
        for wanted, key, fault, counts in self._rules:
            if (not wanted or wanted == operation) and key in path:
                if counts[0] > 0:
                    counts[0] -= 1
                elif counts[1] > 0:
                    counts[1] -= 1
                    return fault if isinstance(fault, Answer) else fault(self, request)
        return self.forward(request)

    def forward(self, request: Received) -> Answer:
        headers = {name: value for name, value in request.headers.items() if name not in _NOT_FORWARDED}
        answer = self._pool.request(
            request.method, self.backend_url + request.path, headers=headers, body=request.body, decode_content=False
        )
        kept = {name: value for name, value in answer.headers.items() if name.lower() not in _NOT_RETURNED}
        return Answer(answer.status, answer.data, kept)


def lost_answer(proxy: S3Proxy, request: Received) -> Answer:
    """Carried out, but the client never hears of it."""
    proxy.forward(request)
    return RESET


def cut_short(proxy: S3Proxy, request: Received) -> Answer:
    """Half of the body, then the connection ends."""
    answer = proxy.forward(request)
    return Answer(answer.status, answer.body, answer.headers, cut_after=len(answer.body) // 2)


def damaged(proxy: S3Proxy, request: Received) -> Answer:
    """As long as it should be, but with other bytes."""
    answer = proxy.forward(request)
    return Answer(answer.status, bytes(byte ^ 1 for byte in answer.body), answer.headers)


def ignoring_if_none_match(client: S3Client) -> Fault:
    """A store that does not know the header; the header is signed, so `client` makes the request again."""

    def answer(_: S3Proxy, request: Received) -> Answer:
        bucket, _, key = unquote(request.path).removeprefix("/").partition("?")[0].partition("/")
        metadata = {n.removeprefix("x-amz-meta-"): v for n, v in request.headers.items() if n.startswith("x-amz-meta-")}
        stored = client.put_object(Bucket=bucket, Key=key, Body=request.body, Metadata=metadata)
        return Answer(200, b"", {"ETag": stored["ETag"]})

    return answer


def reject_if_none_match(proxy: S3Proxy, request: Received) -> Answer:
    """A store that does not implement it."""
    return xml_error(501, "NotImplemented") if "if-none-match" in request.headers else proxy.forward(request)


@contextmanager
def proxy_of(backend_url: str) -> Iterator[tuple[S3Proxy, str]]:
    """A proxy and its URL."""
    proxy = S3Proxy(backend_url)
    with FaultServer(then=proxy) as server:
        yield proxy, server.url

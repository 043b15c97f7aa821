"""What a hostile server says: answers without end, and answers that are none. Loads little, as it is measured."""

from __future__ import annotations

import gzip
import itertools
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from wrm_pipeline.clients.errors import ExternalError
from wrm_pipeline.clients.feed import Feed
from wrm_pipeline.clients.retry import RetryPolicy
from wrm_pipeline_tests.fixtures.raw_server import raw_server

ONCE = RetryPolicy(attempts=1, deadline_s=3, base_wait_s=0.01, max_wait_s=0.01, attempt_s=1)


def answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    head = "".join(f"{header}\r\n" for header in (f"HTTP/1.1 {status}", *headers, "Connection: close"))
    return f"{head}\r\n".encode("latin-1") + body


def endless(piece: bytes, first: bytes = b"", pause: float = 0.0) -> Callable[[bytes], Iterator[bytes]]:
    def say(_head: bytes) -> Iterator[bytes]:
        yield first
        for _ in itertools.count():
            yield piece
            if pause:
                time.sleep(pause)

    return say


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
ENDLESS = {
    "a byte of the status line at a time": endless(b"H", pause=0.02),
    "a byte of a header at a time": endless(b"x", OK + b"X-Slow: ", 0.02),
    "a header line without end": endless(b"x" * 65536, OK + b"X-Long: "),
    "headers without end": endless(b"X-More: yes\r\n", OK),
    "headers of 60 kB without end": endless(b"X: " + b"y" * 60_000 + b"\r\n", OK),
    "a status line without end": endless(b"x" * 65536, b"HTTP/1.1 200 "),
    "100 Continue without end": endless(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "100 Continue with headers without end": endless(b"HTTP/1.1 100 Continue\r\nX: " + b"y" * 9000 + b"\r\n\r\n"),
    "103 Early Hints": endless(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"),
    "101 Switching Protocols": endless(b"x", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", 0.02),
    "a body of a byte at a time": endless(b"x", OK + b"\r\n", 0.02),
    "a body without end": endless(b"x" * 65536, OK + b"\r\n"),
    "chunks of a byte without end": endless(b"1\r\nx\r\n", CHUNKED),
    "a chunk extension without end": endless(b"x" * 65536, CHUNKED + b"1;name="),
    "chunk extensions of 60 kB without end": endless(b"1;" + b"x" * 60_000 + b"\r\ny\r\n", CHUNKED, 0.001),
    "trailers without end": endless(b"X-More: yes\r\n", CHUNKED + b"1\r\nx\r\n0\r\n"),
    "silence": lambda _head: iter([time.sleep(2) or b""]),
}


DAMAGED = {
    "nothing at all": b"",
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "TLS": bytes.fromhex("160301020001000001fc0303") + bytes(500),
    "a status that is none": b"HTTP/1.1 9999999 OK\r\n\r\nx",
    "a negative status": b"HTTP/1.1 -200 OK\r\n\r\nx",
    "a chunk size that is none": CHUNKED + b"zz\r\nx\r\n0\r\n\r\n",
    "a negative chunk size": CHUNKED + b"-5\r\nxxxxx\r\n",
    "a chunk of 2^60 bytes": CHUNKED + b"1000000000000000\r\nx",
    "a chunk size of 60,000 digits": CHUNKED + b"f" * 60_000 + b"\r\nx",
    "a length of 2^60 bytes": OK + b"Content-Length: 1152921504606846976\r\n\r\nx",
    "a length that is too long by one": OK + b"Content-Length: 4\r\n\r\nabc",
    "an encoding that was not asked for": answer(b"x", "Content-Encoding: br"),
    "gzip in gzip": answer(gzip.compress(gzip.compress(b"#id\n")), "Content-Encoding: gzip, gzip"),
    "gzip that is not": answer(b"not gzip", "Content-Encoding: gzip"),
    "gzip that is cut off": answer(gzip.compress(b"x" * 10_000)[:-12], "Content-Encoding: gzip"),
    "deflate that is not": answer(b"\xff\xff\xff\xff", "Content-Encoding: deflate"),
    "a gzip bomb": answer(gzip.compress(bytes(50 * 2**20)), "Content-Encoding: gzip"),
    "a gzip bomb of many members": answer(gzip.compress(bytes(2**20)) * 50, "Content-Encoding: gzip"),
    "a deflate bomb": answer(zlib.compress(bytes(50 * 2**20)), "Content-Encoding: deflate"),
    "a raw deflate bomb": answer(zlib.compress(bytes(50 * 2**20))[2:-4], "Content-Encoding: deflate"),
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "a part": answer(b"#id\n", "Content-Range: bytes 0-3/9", status="206 Partial Content"),
    "103 headers": OK + b"X: y\r\n" * 103 + b"\r\n",
}


def measure() -> None:
    """In a process of its own: each attack with the limit of production; prints the most memory that was in use, in kB.

    The servers' part is in it. VmHWM is reset when a program starts; ru_maxrss has what the parent used before it
    forked.
    """
    bomb = zlib.compressobj(wbits=31)
    ten_gb = bomb.compress(bytes(2**20))
    piece = zlib.compressobj(wbits=-15)
    zeros = piece.compress(bytes(10 * 2**20)) + piece.flush(zlib.Z_FULL_FLUSH)
    head = OK + b"Content-Encoding: gzip\r\n\r\n" + ten_gb + bomb.flush(zlib.Z_FULL_FLUSH)

    def bombs(_head: bytes) -> Iterator[bytes]:
        yield head
        for _ in range(1000):
            yield zeros

    for say in [bombs, *ENDLESS.values(), *((lambda _h, raw=raw: [raw]) for raw in DAMAGED.values())]:
        with raw_server(say) as server:
            try:
                Feed(server.url, policy=ONCE).fetch()
            except ExternalError:
                continue
    most = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    sys.stdout.write(most.split()[1])

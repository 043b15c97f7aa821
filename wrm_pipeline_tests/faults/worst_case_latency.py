"""How long a call takes at worst, with production policies, against servers that accept requests and never answer.

    python -m wrm_pipeline_tests.faults.worst_case_latency

Takes about a minute; all cases run at the same time.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

from tabulate import tabulate

from wrm_pipeline.clients.alerts import Webhook
from wrm_pipeline.clients.errors import ExternalError
from wrm_pipeline.clients.feed import Feed
from wrm_pipeline.clients.openlineage import Receiver
from wrm_pipeline.clients.retry import SENSOR_POLICY, STORAGE_POLICY, RetryPolicy
from wrm_pipeline.clients.vault import Token, Vault
from wrm_pipeline.lake.object_store import ObjectStore
from wrm_pipeline.lake.s3_stores import s3_object_store

# Plus a second for the scheduler. A download that trickles is given up at its deadline, noticed at the next byte.
LIMITS_S = {"feed": 61, "s3": 61, "sensor": 26, "vault": 11, "webhook": 16, "openlineage": 10}


@contextmanager
def silent_server(answer: bytes = b"", drip: bytes = b"") -> Iterator[str]:
    """A server that accepts, sends `answer`, and then nothing, or `drip` once a second."""
    stopping = threading.Event()
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        listener.settimeout(0.1)

        def swallow(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                connection.sendall(answer)
                while not stopping.wait(1):
                    connection.sendall(drip)

        def accept() -> None:
            while not stopping.is_set():
                with suppress(TimeoutError):
                    connection, _ = listener.accept()
                    threading.Thread(target=swallow, args=(connection,), daemon=True).start()

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            stopping.set()
            thread.join()


def store_at(url: str, policy: RetryPolicy = STORAGE_POLICY) -> ObjectStore:
    return s3_object_store(
        bucket="b",
        endpoint_url=url,
        access_key_id="a",
        secret_access_key="s",
        policy=policy,
        read_timeout_s=min(15, policy.attempt_s - 3),
    )


def measure(call: Callable[[], object]) -> tuple[float, int]:
    """Seconds until the call gave up, and its number of attempts."""
    started = time.monotonic()
    try:
        call()
    except ExternalError as error:
        return time.monotonic() - started, error.attempts
    raise AssertionError("a silent server has answered")


def measure_all() -> list[tuple[str, str, float, int, float]]:
    """(target, case, seconds, attempts, limit) of each case."""
    head = b'HTTP/1.1 200 OK\r\nContent-Type: text/csv\r\nContent-Length: 100000\r\nETag: "x"\r\n\r\n'
    with (
        silent_server() as silent,
        silent_server(head + b"#id") as stopping,
        silent_server(head, b"x") as dripping,
    ):
        sensor = store_at(silent, SENSOR_POLICY)
        cases: list[tuple[str, str, Callable[[], object]]] = [
            ("feed", "accepts and says nothing", Feed(silent).fetch),
            ("feed", "stops in mid-body", Feed(stopping).fetch),
            ("feed", "one byte a second", Feed(dripping).fetch),
            ("s3", "put, says nothing", lambda: store_at(silent).put("k", b"x" * 100_000)),
            ("s3", "get, says nothing", lambda: store_at(silent).get("k")),
            ("s3", "get, stops in mid-body", lambda: store_at(stopping).get("k")),
            ("s3", "get, one byte a second", lambda: store_at(dripping).get("k")),
            ("s3", "list, says nothing", lambda: list(store_at(silent).list(""))),
            ("s3", "stat, says nothing", lambda: store_at(silent).stat("k")),
            ("s3", "delete, says nothing", lambda: store_at(silent).delete("k")),
            ("sensor", "list, says nothing", lambda: list(sensor.list(""))),
            ("vault", "read, says nothing", lambda: Vault(silent, Token(lambda: "t")).read("wrm/s3")),
            ("webhook", "post, says nothing", lambda: Webhook(silent).post("hello")),
            ("openlineage", "post, says nothing", lambda: Receiver(silent).post(b"{}")),
        ]
        with ThreadPoolExecutor(len(cases)) as executor:
            measured = list(executor.map(lambda case: measure(case[2]), cases))
    return [
        (target, case, seconds, attempts, LIMITS_S[target])
        for (target, case, _), (seconds, attempts) in zip(cases, measured, strict=True)
    ]


def main() -> int:
    rows = measure_all()
    headers = ["target", "case", "seconds", "attempts", "at most"]
    sys.stdout.write(tabulate(rows, headers=headers, floatfmt=".1f") + "\n")
    return any(row[2] > row[4] for row in rows)


if __name__ == "__main__":
    sys.exit(main())

"""A signal ends a DuckDB query with what its handler raises, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from wrm_pipeline.analytics.database import AnalyticsDatabase, S3Access
from wrm_pipeline.clients import daemon_threads
from wrm_pipeline.clients import interruptible as module
from wrm_pipeline.clients.interruptible import interruptible

ENDLESS = "SELECT sum(hash(a.i * b.i)) FROM range(100000000) a(i), range(100000) b(i)"


class Cancelled(BaseException):
    """As Dagster's DagsterExecutionInterruptedError is one."""


@pytest.fixture
def cancel_after(monkeypatch: pytest.MonkeyPatch) -> Iterator:
    """Sends a signal after some seconds, whose handler raises Cancelled."""
    monkeypatch.setattr(daemon_threads, "_interrupts", [])  # not this process is to end

    def handler(*_: object) -> None:
        raise Cancelled

    before = signal.signal(signal.SIGTERM, handler)
    timers = []

    def start(seconds: float) -> None:
        timers.append(threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGTERM)))
        timers[-1].start()

    yield start
    for timer in timers:
        timer.join()
    signal.signal(signal.SIGTERM, before)


def wait_for_threads() -> None:
    for thread in threading.enumerate():
        if thread.name.startswith("duckdb"):
            thread.join(30)
            assert not thread.is_alive()


def test_it_is_a_connection():
    connection = interruptible(duckdb.connect)
    connection.register("numbers", pa.table({"n": [1, 2]}))
    assert connection.execute("SELECT n FROM numbers ORDER BY n").fetchall() == [(1,), (2,)]
    assert connection.execute("SELECT 1 AS x").description[0][0] == "x"
    with pytest.raises(duckdb.ParserException):
        connection.execute("SELEC")
    connection.close()
    connection.close()
    wait_for_threads()


def test_what_cannot_be_opened_leaves_no_thread(tmp_path):
    with pytest.raises(duckdb.IOException):
        interruptible(lambda: duckdb.connect(str(tmp_path / "none.duckdb"), read_only=True))
    wait_for_threads()


@pytest.mark.parametrize(
    "sql",
    [
        ENDLESS,
        "CREATE TABLE t AS SELECT hash(i) h, count(*) n FROM range(3000000000) r(i) GROUP BY 1",
        "INSERT INTO kept SELECT i FROM range(30000000000) r(i)",
    ],
)
@pytest.mark.parametrize("after_s", [0.02, 0.2])
def test_a_signal_ends_a_query_and_the_handlers_exception_comes_through(tmp_path, cancel_after, sql, after_s):
    path = tmp_path / "a.duckdb"
    connection = interruptible(lambda: duckdb.connect(str(path)))
    connection.execute("CREATE TABLE kept AS SELECT 1 AS n")
    cancel_after(after_s)
    started = time.monotonic()
    with pytest.raises(Cancelled):
        connection.execute(sql).fetchall()
    connection.close()
    # DuckDB's own connect() to the same path spins where a connection was left with its query.
    with duckdb.connect(str(path)) as again:
        assert again.execute("SELECT count(*) FROM kept").fetchone() == (1,)
    assert time.monotonic() - started < 5


def test_a_query_that_waits_for_a_silent_server_is_left_behind(tmp_path, cancel_after, monkeypatch):
    monkeypatch.setattr(module, "GRACE_S", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        database = AnalyticsDatabase(tmp_path / "a.duckdb", S3Access("bucket", address, "key", "secret", None))
        cancel_after(0.5)
        started = time.monotonic()
        with pytest.raises(Cancelled), database.refresh() as connection:
            connection.execute("CREATE TABLE t AS FROM read_parquet('s3://bucket/a.parquet')")
        assert time.monotonic() - started < 5
        with AnalyticsDatabase(database.path).refresh() as connection:
            connection.execute("CREATE TABLE wrm_analytics.t AS SELECT 1")
        assert sorted(path.name for path in tmp_path.iterdir() if "spill" not in path.name) == ["a.duckdb"]
    wait_for_threads()  # the server is gone, and so the query ends


SCRIPT = """
import signal, sys
from pathlib import Path
from wrm_pipeline.analytics.database import AnalyticsDatabase

def handler(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGTERM, handler)
database = AnalyticsDatabase(Path(sys.argv[1]))
for _ in range(3):
    try:
        with database.refresh() as connection:
            print("ready", flush=True)
            connection.execute(sys.argv[2])
    except KeyboardInterrupt:
        print("cancelled", flush=True)
with database.refresh() as connection:
    connection.execute("CREATE TABLE wrm_analytics.t AS SELECT 1")
print("done", flush=True)
"""


def test_a_process_that_is_cancelled_again_and_again_goes_on_and_ends(tmp_path: Path):
    arguments = [sys.executable, "-c", SCRIPT, str(tmp_path / "a.duckdb"), ENDLESS]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        for _ in range(3):
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGTERM)
            assert process.stdout.readline() == "cancelled\n"
        assert process.communicate(timeout=10) == ("done\n", None)
    assert process.returncode == 0

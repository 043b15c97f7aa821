"""Runs in real processes, some of them killed, and the exporter restarted in between."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from wrm_pipeline_tests.integration.conftest import free_ports
from wrm_pipeline_tests.integration.exporter_child import JOB, PROCESSED, RAW
from wrm_pipeline_tests.integration.exporter_process import Exporter, Samples, Witness, running

pytestmark = pytest.mark.integration

CHILD = [sys.executable, "-m", "wrm_pipeline_tests.integration.exporter_child"]
WORKERS = 3
KILLED = 10
RUNS = 200
# Captured logs would cost four more processes for each run, which outlive one that is killed.
NO_EXTRAS = """telemetry:
  enabled: false
compute_logs:
  module: dagster._core.storage.noop_compute_log_manager
  class: NoOpComputeLogManager
"""
POSTGRES_BIN = Path("/usr/lib/postgresql/15/bin")


@pytest.fixture
def dagster_home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """In memory where the system has such a folder: SQLite's waiting for the disk is not what is tested."""
    shm = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="wrm-exporter-", dir=shm if os.access(shm, os.W_OK) else None))
    monkeypatch.setenv("DAGSTER_HOME", str(folder))
    (folder / "dagster.yaml").write_text(NO_EXTRAS)
    dg.DagsterInstance.get().get_runs_count()  # creates the tables before several processes do at once
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def exporter(tmp_path: Path) -> Iterator[Exporter]:
    (port,) = free_ports(1)
    with running(port, tmp_path / "exporter.log", interval_s=1.5) as exporter:
        yield exporter


def execute(*groups: Iterable[int], done: list[str]) -> None:
    """Runs to kill get SIGKILL in the middle of their second step: Dagster gets no report."""
    arguments = " / ".join(" ".join(map(str, numbers)) for numbers in groups).split()
    with tempfile.TemporaryFile("w+") as said:
        child = subprocess.Popen([*CHILD, *arguments], stdout=subprocess.PIPE, stderr=said, text=True)
        assert child.stdout is not None
        for line in child.stdout:
            word, *pid = line.split()
            if pid:
                os.kill(int(pid[0]), signal.SIGKILL)
            done.append(word)
        status = child.wait()
        said.seek(0)
        assert status == 0, said.read()[-3000:]


def totals_of_the_event_log(instance: dg.DagsterInstance) -> dict[tuple[Any, ...], float]:
    """What the counters must be, by Dagster's public API, asset by asset instead of run by run."""
    expected: Counter[tuple[Any, ...]] = Counter()
    for record in instance.get_run_records():
        expected["dagster_runs_total", JOB, record.dagster_run.status.value.lower()] += 1
    for asset in (RAW, PROCESSED):
        page = instance.fetch_materializations(dg.AssetKey(asset), limit=10_000)
        assert not page.has_more
        expected["dagster_asset_runs_total", asset, "success"] = len(page.records)
        for record in page.records:
            metadata = record.asset_materialization.metadata  # type: ignore[union-attr]
            for outcome, count in metadata["handled_rows"].value.items():  # type: ignore[union-attr,attr-defined]
                expected["wrm_rows_total", asset, outcome] += count
            for words, count in metadata["external_requests"].value.items() if asset == RAW else ():  # type: ignore[union-attr,attr-defined]
                target, operation, outcome = words.split()
                expected["wrm_external_requests_total", operation, outcome, target] += count
    return dict(expected)


def agrees(expected: dict[tuple[Any, ...], float], found: Samples) -> bool:
    return all(found.get(key) == value for key, value in expected.items())


@pytest.mark.timeout(600)
def test_two_hundred_runs(dagster_home: Path, exporter: Exporter) -> None:
    """Ten are killed in mid-run; counters never fall, and are what the event log says."""
    witness = Witness(exporter)
    witness.start()
    done: list[str] = []
    groups = [range(1 + n, 1 + RUNS - KILLED, WORKERS) for n in range(WORKERS)]
    began = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(execute, *groups, range(-KILLED, 0), done=done)
        for stop, after in ((exporter.kill, 40), (exporter.stop, 110)):
            while len(done) < after and not work.done():
                time.sleep(0.1)
            stop()
            exporter.start()
        work.result()
    took = time.monotonic() - began

    with dg.DagsterInstance.get() as instance:
        lost = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
        assert len(lost) == KILLED
        found = exporter.wait_for(
            lambda found: found["dagster_runs_in_state", "started"] == KILLED,
            timeout_s=30,
            what="the exporter must see the runs that do not end",
        )
        assert found["dagster_run_oldest_age_seconds", "running"] > 0
        for run in lost:
            instance.report_run_failed(run, "Run timed out.")  # as run monitoring does
        expected = totals_of_the_event_log(instance)
        failing = sum(1 for n in range(1, 1 + RUNS - KILLED) if n % 7 == 0)
        expected["dagster_asset_runs_total", RAW, "failure"] = failing
        expected["dagster_asset_runs_total", PROCESSED, "failure"] = KILLED
        expected["dagster_asset_runs_total", PROCESSED, "skipped"] = failing
        assert expected["dagster_runs_total", JOB, "failure"] == failing + KILLED
        assert expected["dagster_runs_total", JOB, "success"] == RUNS - failing - KILLED

        exporter.wait_for(
            lambda found: agrees(expected, found), timeout_s=60, what="the counters must be those of the event log"
        )
        # Half the history purged, and a new exporter: nothing changes.
        for run in instance.get_runs(limit=RUNS // 2):
            instance.delete_run(run.run_id)
    assert exporter.stop() == 0
    exporter.start()
    time.sleep(3 * exporter.interval_s)
    found = exporter.scrape()
    assert agrees(expected, found), {key: (value, found.get(key)) for key, value in expected.items()}
    steps = "dagster_asset_run_duration_seconds_count"
    assert found[steps, RAW] == RUNS
    assert found[steps, PROCESSED] == RUNS - failing - KILLED

    witness.done.set()
    witness.join()
    seconds = sorted(witness.seconds)
    print(  # noqa: T201 - figures, shown with -s
        f"\n{RUNS} runs in {took:.0f} s; {len(seconds)} scrapes, median {seconds[len(seconds) // 2]:.3f} s, "
        f"slowest {seconds[-1]:.3f} s, largest {witness.largest} bytes"
    )
    assert witness.fell == []
    assert witness.largest < 100_000
    assert len(seconds) > 20
    # One of a hundred may have met this machine at its busiest.
    assert seconds[int(len(seconds) * 0.99) - 1] < 1


def test_a_history_that_goes_away_and_comes_back(dagster_home: Path, exporter: Exporter) -> None:
    """An answer each time, which names what is old; and nothing doubled."""
    execute(range(1, 4), done=[])
    exporter.wait_for(
        lambda found: found["dagster_runs_total", JOB, "success"] == 3, timeout_s=30, what="three runs must be counted"
    )
    away = dagster_home.with_name(dagster_home.name + "-away")
    dagster_home.rename(away)
    dagster_home.write_text("not a folder")
    try:
        found = exporter.wait_for(
            lambda found: found["exporter_up", "runs"] == found["exporter_up", "dagster"] == 0,
            timeout_s=30,
            what="the exporter must say that Dagster's history is away",
        )
        assert found["dagster_runs_total", JOB, "success"] == 3
        assert found["exporter_up", "spool"] == 1
    finally:
        dagster_home.unlink()
        away.rename(dagster_home)
    execute(range(4, 6), done=[])
    found = exporter.wait_for(
        lambda found: found["exporter_up", "runs"] == 1 and found["dagster_runs_total", JOB, "success"] == 5,
        timeout_s=30,
        what="counting must go on",
    )


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[int]:
    """A PostgreSQL server of Debian's, started for the test; gives its port."""
    if not (POSTGRES_BIN / "initdb").exists():
        pytest.skip("PostgreSQL 15 is not installed (Debian: apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="wrm-postgres-"))
    as_user: list[str] = []
    if os.getuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
        as_user = ["runuser", "-u", "postgres", "--"]
    initdb = [
        *as_user,
        str(POSTGRES_BIN / "initdb"),
        "-D",
        str(folder / "data"),
        "-A",
        "trust",
        "-U",
        "wrm",
        "--no-sync",
    ]
    subprocess.run(initdb, check=True, capture_output=True, cwd=folder)
    (port,) = free_ports(1)
    options = ["-h", "127.0.0.1", "-p", str(port), "-k", str(folder), "-F"]
    server = subprocess.Popen(
        [*as_user, str(POSTGRES_BIN / "postgres"), "-D", str(folder / "data"), *options],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        ready = [
            str(POSTGRES_BIN / "pg_isready"),
            "-q",
            "-h",
            "127.0.0.1",
            "-p",
            str(port),
            "-U",
            "wrm",
            "-d",
            "postgres",
        ]
        for _ in range(300):
            if subprocess.run(ready, check=False).returncode == 0:
                break
            time.sleep(0.1)
        yield port
    finally:
        # runuser stays above the server; the server's own id is in its file.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            os.kill(int((folder / "data" / "postmaster.pid").read_text().splitlines()[0]), signal.SIGQUIT)
        server.wait(20)
        shutil.rmtree(folder, ignore_errors=True)


class Pipe(threading.Thread):
    """A TCP relay that can go silent without closing anything, as a network that drops packets does."""

    def __init__(self, to_port: int) -> None:
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.silent = threading.Event()
        self._to_port = to_port

    def run(self) -> None:
        while True:
            client, _ = self.listener.accept()
            server = socket.create_connection(("127.0.0.1", self._to_port))
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                while self.silent.is_set():
                    time.sleep(0.1)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


def test_postgresql_that_falls_silent(
    postgres: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, environment: Path
) -> None:
    """The same counters from PostgreSQL; while it hangs each scrape is answered at once, and names what is stale."""
    pipe = Pipe(postgres)
    pipe.start()
    home = Path(os.environ["DAGSTER_HOME"])
    url = f"postgresql+psycopg2://wrm@127.0.0.1:{pipe.port}/postgres"
    (home / "dagster.yaml").write_text(f"{NO_EXTRAS}storage:\n  postgres:\n    postgres_url: {url}\n")
    execute(range(1, 9), done=[])
    (port,) = free_ports(1)
    with running(port, tmp_path / "exporter.log") as exporter:
        expected = {
            ("dagster_runs_total", JOB, "success"): 7,
            ("dagster_asset_runs_total", RAW, "failure"): 1,
            ("wrm_rows_total", RAW, "out"): sum(range(1, 9)) - 7,
        }
        exporter.wait_for(lambda found: agrees(expected, found), timeout_s=30, what="eight runs must be counted")
        pipe.silent.set()
        slowest = 0.0
        for _ in range(20):
            began = time.monotonic()
            found = exporter.scrape()
            slowest = max(slowest, time.monotonic() - began)
            time.sleep(0.2)
        assert slowest < 1
        assert found["exporter_up", "runs"] == 0
        assert found["exporter_up", "spool"] == 1
        assert agrees(expected, found)
        pipe.silent.clear()
        exporter.wait_for(lambda found: found["exporter_up", "runs"] == 1, timeout_s=60, what="it must recover")

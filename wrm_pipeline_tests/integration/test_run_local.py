"""`deploy/run-local`, which is what `make dev` starts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from wrm_pipeline_tests.integration.conftest import free_ports, wait_until

pytestmark = pytest.mark.integration

PROJECT = Path(__file__).parents[2]
MODULE = "wrm_pipeline_tests.bench.trivial"
LOCATIONS = "{workspaceOrError {... on Workspace {locationEntries {name locationOrLoadError {__typename}}}}}"
WAIT_S = 240.0


@contextmanager
def service(home: Path, module: str = MODULE) -> Iterator[tuple[psutil.Process, str]]:
    """The running script and the address of its web server; whatever is left of it at the end is killed."""
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    (home / "tmp").mkdir()
    (port,) = free_ports(1)
    variables = {"DAGSTER_HOME": str(home), "TMPDIR": str(home / "tmp"), "PYTHONPATH": str(PROJECT)}
    with (home / "output.log").open("wb") as log:
        script = subprocess.Popen(
            [str(PROJECT / "deploy/run-local"), sys.executable, str(port), module],
            cwd=home,
            env=os.environ | variables,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    process = psutil.Process(script.pid)
    started = {process}
    try:
        yield process, f"http://127.0.0.1:{port}"
    finally:
        with suppress(psutil.NoSuchProcess):
            started |= set(process.children(recursive=True))
        for each in started:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        script.wait(30)


def locations(address: str) -> list[tuple[str, str]]:
    """Names of the code locations, and whether each could be loaded; none while the web server does not answer."""
    request = urllib.request.Request(
        f"{address}/graphql", json.dumps({"query": LOCATIONS}).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            entries = json.load(answer)["data"]["workspaceOrError"]["locationEntries"]
    except OSError:
        return []
    return [(entry["name"], (entry["locationOrLoadError"] or {}).get("__typename", "")) for entry in entries]


def child(process: psutil.Process, part: str) -> psutil.Process:
    return next(each for each in process.children() if any(part in argument for argument in each.cmdline()))


@pytest.mark.timeout(900)  # 30 s where nothing else runs
def test_it_serves_starts_a_dead_code_server_again_and_stops_everything(tmp_path: Path) -> None:
    loaded = [("wrm_pipeline", "RepositoryLocation")]
    with service(tmp_path) as (script, address):
        wait_until(lambda: locations(address) == loaded, timeout_s=WAIT_S, what="the code is not loaded")
        assert len(script.children(recursive=False)) == 3, "code server, daemon and web server"

        dead = child(script, "grpc")
        dead.kill()

        def is_served_again() -> bool:
            servers = [each for each in script.children() if each != dead and "grpc" in each.cmdline()]
            return bool(servers) and locations(address) == loaded

        wait_until(is_served_again, timeout_s=WAIT_S, what="no new code server serves the code")

        started = script.children(recursive=True)
        script.send_signal(signal.SIGINT)
        script.wait(WAIT_S)
        assert [each for each in started if each.is_running() and each.status() != psutil.STATUS_ZOMBIE] == []
        assert list((tmp_path / "tmp").glob("tmp.*")) == []


@pytest.mark.timeout(900)
def test_it_ends_when_the_daemon_does_and_shows_an_error_of_the_code(tmp_path: Path) -> None:
    with service(tmp_path, "there.is.no.such.module") as (script, address):
        shown = [("wrm_pipeline", "PythonError")]
        wait_until(lambda: locations(address) == shown, timeout_s=WAIT_S, what="the error is not shown")

        started = script.children(recursive=True)
        child(script, "dagster._daemon").kill()
        script.wait(WAIT_S)
        assert [each for each in started if each.is_running() and each.status() != psutil.STATUS_ZOMBIE] == []
        assert "daemon or the web server has ended" in (tmp_path / "output.log").read_text()

"""Runs that are forked: each is as good as one in a Python of its own, and leaves the next one untouched."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
from dagster._core.launcher import DefaultRunLauncher
from dagster._core.remote_representation.code_location import GrpcServerCodeLocation
from dagster._core.workspace.load_target import PythonFileTarget

from wrm_pipeline.sensors.dead_runs import end_dead_runs
from wrm_pipeline_tests.integration.code_location import CodeLocation, code_location
from wrm_pipeline_tests.integration.conftest import wait_until
from wrm_pipeline_tests.integration.warm_endurance import AT_ONCE, Endurance, is_as_before
from wrm_pipeline_tests.integration.warm_jobs import found_by

pytestmark = pytest.mark.integration

NAME = "warm"
SOURCE = """
from wrm_pipeline_tests.integration import warm_jobs
from wrm_pipeline_tests.integration.warm_jobs import defs
"""
WITH_A_THREAD = """
import threading, time
threading.Thread(target=time.sleep, args=(99,), daemon=True).start()
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the definitions."""
    path = tmp_path_factory.mktemp("warm") / "warm_location.py"
    path.write_text(SOURCE)
    return path


@pytest.fixture(scope="module")
def location(source: Path) -> Iterator[CodeLocation]:
    """One code server for all tests; at its end its parent must end, too."""
    target = PythonFileTarget(str(source), attribute="defs", working_directory=None, location_name=NAME)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(source.parent))
        with code_location(target) as location:
            yield location
            source.write_text(SOURCE)
            parent = psutil.Process(run(location)["parent"])
        wait_until(lambda: not parent.is_running(), timeout_s=30, what="the parent must end with its code server")


def run(location: CodeLocation, job: str = "write_job", status: str = "SUCCESS") -> dict[str, Any]:
    """A run to its end; gives what it found."""
    return ended(location, location.launch(job), status)


def ended(location: CodeLocation, run_id: str, status: str = "SUCCESS") -> dict[str, Any]:
    wait_until(lambda: location.run(run_id).is_finished, timeout_s=60, what="the run must end")
    assert location.run(run_id).status.value == status, location.messages(run_id)
    return {"run_id": run_id, **(found_by(location.instance.root_directory, run_id) or {})}


def begun(location: CodeLocation) -> tuple[str, psutil.Process]:
    """A run of a minute that has begun, and its process."""
    run_id = location.launch("wait_job")
    began = lambda: found_by(location.instance.root_directory, run_id) is not None  # noqa: E731
    wait_until(began, timeout_s=60, what="the run must begin")
    return run_id, location.process(run_id)


def is_warm(found: dict[str, Any]) -> bool:
    return "warm_parent" in " ".join(found["command_of_parent"])


def test_what_a_run_does_to_itself_reaches_no_other(location: CodeLocation) -> None:
    first = run(location)
    assert is_warm(first)
    assert "seen on stdout" in compute_log(location, first["run_id"])
    run(location, "fail_job", "FAILURE")
    crashed = run(location, "abort_job", "FAILURE")["run_id"]
    assert any("Run execution process" in m and "SIGABRT" in m for m in location.messages(crashed))
    assert run(location, "misbehave_job")["data_mb"] > 1024
    last = run(location)
    assert last["parent"] == first["parent"]
    assert last["pid"] != first["pid"]
    assert (last["changed"], last["directory"], last["variable"]) == ([], first["directory"], None)
    assert last["random"] != first["random"]
    assert last["data_mb"] < first["data_mb"] + 50
    assert psutil.Process(first["parent"]).num_threads() == 1


def compute_log(location: CodeLocation, run_id: str) -> str:
    (entry,) = location.instance.all_logs(run_id, of_type=dg.DagsterEventType.LOGS_CAPTURED)
    key = [run_id, "compute_logs", entry.dagster_event.logs_captured_data.file_key]  # type: ignore[union-attr]
    return (location.instance.compute_log_manager.get_log_data(key).stdout or b"").decode()


def test_many_runs_leave_nothing_in_their_parent(location: CodeLocation) -> None:
    figures = Endurance(location).run(20)
    assert is_as_before(figures), figures
    assert figures.runs == 20 + AT_ONCE
    # Each run's own memory is a small part of what it has: the rest is the parent's pages.
    assert max(figures.shares_mb[1:]) < figures.before.memory_mb / 2


def test_a_run_is_cancelled_and_one_that_is_killed_is_noticed(location: CodeLocation) -> None:
    run_id, _ = begun(location)
    assert location.seconds_to_end(run_id, location.cancel) < 10
    ended(location, run_id, "CANCELED")
    run_id, process = begun(location)
    assert end_dead_runs(location.instance) == []
    process.kill()
    ended(location, run_id, "FAILURE")


def test_when_the_parent_is_killed_runs_go_on_and_the_next_one_gets_a_new_one(location: CodeLocation) -> None:
    run_id, process = begun(location)
    old = process.ppid()
    os.kill(old, signal.SIGKILL)
    new = run(location)  # by its end the code server has looked after its runs, every 0.5 s
    assert is_warm(new)
    assert new["parent"] != old
    assert location.run(run_id).status is dg.DagsterRunStatus.STARTED
    assert location.seconds_to_end(run_id, location.cancel) < 10
    ended(location, run_id, "CANCELED")


def test_definitions_that_have_changed_are_loaded_by_a_new_parent(location: CodeLocation, source: Path) -> None:
    before = run(location)
    source.write_text(SOURCE + "warm_jobs.changed.append('a new line')\n")
    after = run(location)
    assert is_warm(after)
    assert before["changed"] == []
    assert after["changed"] == ["a new line"]
    source.write_text(SOURCE)
    assert run(location)["changed"] == []
    # It has been waited for by now.
    assert not psutil.pid_exists(before["parent"])


def test_what_cannot_be_forked_starts_the_ordinary_way(location: CodeLocation, source: Path) -> None:
    assert not is_warm(run(location, "processes_job"))
    source.write_text(SOURCE + WITH_A_THREAD)
    assert not is_warm(run(location))
    source.write_text(SOURCE)
    assert is_warm(run(location))


def test_another_launcher_in_dagster_yaml_is_all_it_takes_to_go_without(location: CodeLocation) -> None:
    of_before = location.run(run(location)["run_id"])
    again = of_before._replace(run_id=str(uuid.uuid4()), status=dg.DagsterRunStatus.STARTING)
    location.instance.add_run(again)
    server = location.context.create_request_context().get_code_location(NAME)
    assert isinstance(server, GrpcServerCodeLocation)
    configuration = Path(location.instance.root_directory, "dagster.yaml")
    configured = configuration.read_text()
    configuration.write_text("")
    try:
        with dg.DagsterInstance.from_config(location.instance.root_directory) as instance:
            DefaultRunLauncher.launch_run_from_grpc_client(instance, again, server.client)
            assert not is_warm(ended(location, again.run_id))
    finally:
        configuration.write_text(configured)

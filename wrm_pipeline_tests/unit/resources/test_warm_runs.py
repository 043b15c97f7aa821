"""What runs are forked from: what it has loaded, and when it is replaced."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster._core.code_pointer import FileCodePointer, ModuleCodePointer
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._grpc.server import DagsterApiServer
from dagster._serdes import serialize_value

from wrm_pipeline.clients import warm_parent
from wrm_pipeline.clients.warm_parent import ForkedProcess, Load, Parent
from wrm_pipeline.resources import warm_runs
from wrm_pipeline.resources.warm_runs import PRELOADED, fingerprint, use_warm_runs

PROJECT = Path(__file__).parents[3]
OURS = ReconstructableRepository(ModuleCodePointer("wrm_pipeline.definitions", "defs", None))


def look(queue: Any) -> None:
    found = [name for name in PRELOADED if name in sys.modules]
    queue.put((warm_parent.threads(), found, "wrm_pipeline.definitions" in sys.modules, "duckdb" in sys.modules))


def test_the_parent_has_all_loaded_and_one_thread() -> None:
    context = get_context("spawn")
    queue = context.Queue()
    parent = Parent(Load("wrm_pipeline.resources.warm_runs:load_repository", serialize_value(OURS), PRELOADED))
    process = context.Process(target=look, args=(queue,))
    forked = ForkedProcess(process, parent)  # it refuses if there is a second thread
    assert queue.get(timeout=60) == (1, list(PRELOADED), True, False)
    assert forked.wait(30) == 0
    parent.retire()


def _edit(source: Path) -> None:
    source.write_text("defs = 2")


def _set(name: str, value: str) -> Callable[[Path], None]:
    return lambda _: os.environ.update({name: value})


def _rotate(source: Path) -> None:
    source.with_name("token").write_text("another")


@pytest.mark.parametrize("change", [_edit, _rotate, _set("WRM_WORKERS", "3")])
def test_what_a_run_is_made_of_has_one_fingerprint(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    source = tmp_path / "location.py"
    source.write_text("defs = 1")
    source.with_name("token").write_text("one")
    monkeypatch.setenv("VAULT_TOKEN_FILE", str(source.with_name("token")))
    monkeypatch.setenv("WRM_WORKERS", "2")
    repository = ReconstructableRepository(FileCodePointer(str(source), "defs", None))
    before = fingerprint(repository)
    assert fingerprint(repository) == before
    change(source)
    assert fingerprint(repository) != before


def test_the_fingerprint_covers_every_module_of_the_package() -> None:
    package = Path(warm_runs.__file__).parents[1]
    assert set(warm_runs._sources(OURS)) == set(package.rglob("*.py"))


def test_dagster_takes_the_processes_of_runs_from_where_it_is_expected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "_mp_ctx" in DagsterApiServer.__init__.__code__.co_names
    assert {"_mp_ctx", "Queue", "Event", "Process"} <= set(DagsterApiServer.StartRun.__code__.co_names)
    monkeypatch.setattr(DagsterApiServer, "_mp_ctx", None, raising=False)
    use_warm_runs()
    server = object.__new__(DagsterApiServer)
    server._mp_ctx = get_context("spawn")
    assert server._mp_ctx.Process is warm_runs.RunProcess


@pytest.mark.parametrize("file", ["dagster.yaml", "deploy/dagster/dagster.yaml"])
def test_the_shipped_settings_fork_runs(file: str) -> None:
    launcher = yaml.safe_load((PROJECT / file).read_text())["run_launcher"]
    assert f"{launcher['module']}.{launcher['class']}" in warm_runs._LAUNCHERS


def test_a_code_server_that_is_stopped_or_killed_leaves_parent_and_runs_to_their_end() -> None:
    unit = (PROJECT / "deploy/ansible/roles/dagster/templates/units/dagster-code@.service.j2").read_text()
    # SIGTERM to the server alone, and no clean-up of the others; a run killed for its memory costs that run.
    assert {"KillMode=process", "OOMPolicy=continue"} <= set(unit.splitlines())

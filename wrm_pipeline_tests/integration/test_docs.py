"""Every code block of README and docs runs, in the lake that they speak of."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import dagster as dg
import duckdb
import pytest
import yaml

import wrm_pipeline
from wrm_pipeline.settings import load_settings
from wrm_pipeline.simulator.city import City
from wrm_pipeline.simulator.server import serve
from wrm_pipeline_tests.fixtures.history import History
from wrm_pipeline_tests.fixtures.lake import Lake, definitions, tick
from wrm_pipeline_tests.fixtures.markdown import ROOT, Block, all_blocks

BLOCKS = all_blocks()
TEXT, PARSED, RUN = {"text"}, {"yaml", "json"}, {"sql", "python", "sh"}
# The days that the documents name, with a few snapshots each; `docs/queries.md` is about the week in March.
WEEK = [date(2026, 3, day) for day in range(23, 30)]
NAMED = [datetime(2025, 8, 21, 12, 0, 2, tzinfo=UTC), datetime(2026, 11, 24, 13, 16, 2, tzinfo=UTC)]
NAMED += [datetime(2026, 11, 25, 7, 29, 2, tzinfo=UTC)]
SHELL_S = 240


def of(*languages: str) -> list[object]:
    return [pytest.param(block, id=block.name) for block in BLOCKS if block.language in languages and not block.not_run]


def test_each_block_says_what_it_is_and_why_it_is_not_run():
    unknown = [block.name for block in BLOCKS if block.language not in TEXT | PARSED | RUN]
    assert not unknown, "```sql, python, sh, yaml, json, or ```text for anything that is not code"
    assert all(len(block.not_run) > 10 for block in BLOCKS if block.not_run)
    assert not [block.name for block in BLOCKS if block.not_run and block.language not in RUN]
    assert sum(not block.not_run for block in BLOCKS if block.language in RUN) > 20


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose `data/` is a lake with its database, report and lineage; gives the folder."""
    folder = tmp_path_factory.mktemp("docs")
    home = folder / "data" / "dagster_home"
    home.mkdir(parents=True)
    shutil.copy(ROOT / "dagster.yaml", home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WRM_DATA_DIR", str(folder / "data"))
        patch.setenv("DAGSTER_HOME", str(home))
        history = History(Lake(load_settings()))
        for dt in WEEK:
            history.put(dt, history.times(dt, 20))
        for at in NAMED:
            history.put(at.date(), [at])
        instance = dg.DagsterInstance.get()
        run = definitions().resolve_job_def("wrm_analytics_job").execute_in_process(instance=instance)
        assert run.success
        tick("wrm_lineage_sensor", instance)
        lineage = load_settings().lake_dir / history.lake.layout.lineage_prefix
        (written,) = lineage.iterdir()
        if written.name != "dt=2026-11-24":  # the day of the run, which is now; the documents name one
            shutil.copytree(written, lineage / "dt=2026-11-24")
    return folder


@pytest.fixture
def inside(demo: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The demo's folder as the current one, for blocks that only read."""
    monkeypatch.chdir(demo)
    monkeypatch.setenv("WRM_DATA_DIR", "data")
    return demo


@pytest.mark.parametrize("block", of("sql"))
def test_sql(block: Block, inside: Path, tmp_path: Path):
    own = "ATTACH " in block.code
    with duckdb.connect(str(tmp_path / "mine.duckdb")) if own else wrm_pipeline.open_database() as connection:
        for statement in duckdb.extract_statements(block.code):
            connection.execute(statement)
            assert connection.description
            connection.fetchall()


@pytest.mark.parametrize("block", of("python"))
def test_python(block: Block, inside: Path):
    # As a reader runs it: without the `annotations` of this module, which Dagster cannot read in an asset.
    *statements, last = ast.parse(block.code).body
    variables: dict[str, object] = {}
    exec(compile(ast.Module(statements, []), block.name, "exec", dont_inherit=True), variables)
    if isinstance(last, ast.Expr):  # what it gives is shown, and only then DuckDB runs it
        assert str(eval(compile(ast.Expression(last.value), block.name, "eval"), variables))
    else:
        exec(compile(ast.Module([last], []), block.name, "exec", dont_inherit=True), variables)


@pytest.mark.parametrize("block", of("yaml", "json"))
def test_configuration(block: Block):
    assert yaml.safe_load(block.code) if block.language == "yaml" else json.loads(block.code)


@pytest.fixture(scope="module")
def feed() -> Iterator[str]:
    with serve(City(7, station_count=12, bike_count=20)) as server:
        yield server.url


@pytest.mark.parametrize("block", of("sh"))
def test_shell(block: Block, demo: Path, feed: str, tmp_path: Path):
    shutil.copytree(demo / "data", tmp_path / "data")
    shutil.copy(ROOT / "workspace.yaml", tmp_path)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "WRM_DATA_DIR": "data",
        "DAGSTER_HOME": str(tmp_path / "data" / "dagster_home"),
        "WRM_STATIONS_DATA_URL": feed,
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SHELL_S,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"

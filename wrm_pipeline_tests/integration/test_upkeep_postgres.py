"""Backup, restore and pruning with a real PostgreSQL and a real S3 store."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from wrm_pipeline.cli.main import main
from wrm_pipeline.flows.encrypted_file import new_key
from wrm_pipeline.lake.spool import Spool
from wrm_pipeline.settings import load_settings
from wrm_pipeline_tests.fixtures.lake import DAY, ENHANCED, NOON, Lake
from wrm_pipeline_tests.history_contract import History, HistoryContract, HistorySizeContract, ago, run_both
from wrm_pipeline_tests.integration.conftest import SeaweedFS
from wrm_pipeline_tests.integration.postgres_server import PostgresServer, running_postgres

pytestmark = pytest.mark.integration

PASSWORD = r"cAnArY:post\gres-77ab"  # with what a password file needs escaped
STORAGE = """
telemetry: {enabled: false}
storage:
  custom: {module: wrm_pipeline.resources.dagster_storage, class: PostgresStorage, config: {}}
"""
TEMPLATE = "template_history"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with running_postgres(PASSWORD) as started:
        yield started


@contextlib.contextmanager
def instance_in(server: PostgresServer, database: str, home: Path) -> Iterator[dg.DagsterInstance]:
    """Dagster with its storage in a database; its home has the configuration only."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "dagster.yaml").write_text(STORAGE)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment(database).items():
            patch.setenv(name, value)
        patch.setenv("DAGSTER_HOME", str(home))
        with dg.DagsterInstance.get() as instance:
            yield instance


@pytest.fixture(scope="module")
def both_runs(server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A database with two runs, which tests copy."""
    server.create_database(TEMPLATE)
    with instance_in(server, TEMPLATE, tmp_path_factory.mktemp("home")) as instance:
        return run_both(instance)


def copy_database(server: PostgresServer, name: str) -> str:
    with contextlib.closing(server.connect()) as connection:
        connection.autocommit = True
        connection.cursor().execute(f'CREATE DATABASE "{name}" TEMPLATE "{TEMPLATE}"')
    return name


class TestPostgres(HistoryContract, HistorySizeContract):
    @pytest.fixture
    def history(
        self, server: PostgresServer, both_runs: tuple[str, str], tmp_path: Path, request: pytest.FixtureRequest
    ) -> Iterator[History]:
        database = copy_database(server, request.node.name)
        with instance_in(server, database, tmp_path / "home") as instance:
            self.server, self.database = server, database
            yield History(instance, both_runs)

    def test_the_database_stays_flat(self, history: History) -> None:
        found = self.check_flat(history, days=7, a_day=300, kept_days=2)
        for name in (name for name in found[0] if name != "bytes"):
            growth = found[-1][name] - found[3][name]
            assert growth <= max(0.05 * found[3][name], 3 * 6), (name, [day[name] for day in found])
        assert found[-1]["runs"] < 2 * 300 + 10


# --- Backup and restore ---------------------------------------------------------------------------------------------


@pytest.fixture
def machine(
    server: PostgresServer,
    both_runs: tuple[str, str],
    seaweedfs: SeaweedFS,
    environment: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Lake:
    """A server that has run for a while: history in PostgreSQL, lake in a bucket, a database, a waiting snapshot."""
    bucket = seaweedfs.create_bucket()
    variables = {
        **seaweedfs.variables(bucket),
        "WRM_BACKUP_KEY": new_key(),
        **server.environment(copy_database(server, request.node.name)),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    (environment.parent / "dagster_home" / "dagster.yaml").write_text(STORAGE)
    lake = Lake(load_settings())
    settings = lake.settings
    Spool(settings.spool_dir, 10**9).add("raw", NOON, b"a snapshot that waits")
    return lake


def tables(server: PostgresServer, database: str) -> dict[str, list[Any]]:
    """Every row of every table."""
    with contextlib.closing(server.connect(database)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
        names = [name for (name,) in cursor.fetchall()]
        found = {}
        for name in names:
            cursor.execute(f'SELECT * FROM "{name}" ORDER BY 1')
            found[name] = [tuple(bytes(v) if isinstance(v, memoryview) else v for v in row) for row in cursor]
        return found


def test_a_bare_machine_gets_everything_back(
    machine: Lake,
    server: PostgresServer,
    environment: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    machine.put_day(3)
    assert main(["rebuild", "--layer", "processed", "--layer", "enhanced", "--apply"]) == 0
    machine.settings.database_path.write_bytes(os.urandom(3_000_000))
    assert main(["backup"]) == 0
    before = tables(server, os.environ["POSTGRES_DB"])
    assert len(before["runs"]) == 2
    database = machine.settings.database_path.read_bytes()

    shutil.rmtree(environment)
    monkeypatch.setenv("POSTGRES_DB", server.create_database("bare"))
    assert main(["restore"]) == 0
    assert not machine.settings.database_path.exists()
    assert main(["restore", "--apply"]) == 0

    assert tables(server, "bare") == before
    assert machine.settings.database_path.read_bytes() == database
    (waiting,) = Spool(machine.settings.spool_dir, 10**9).waiting()
    assert waiting.read() == b"a snapshot that waits"
    with dg.DagsterInstance.get() as instance:
        assert DAY.isoformat() in instance.get_materialized_partitions(dg.AssetKey(ENHANCED))

    # A second time there is something in the way.
    assert main(["restore", "--apply", "--only", "postgresql"]) == 1
    assert main(["restore", "--apply", "--only", "postgresql", "--overwrite"]) == 0
    assert tables(server, "bare") == before

    # An archive of another key, then one cut off: nothing changes.
    (stored,) = machine.keys("backups/")
    machine.store.put(stored, machine.store.get(stored)[:-20])
    assert main(["restore", "--apply", "--overwrite"]) == 1
    monkeypatch.setenv("WRM_BACKUP_KEY", new_key())
    assert main(["restore", "--apply", "--overwrite"]) == 1
    assert tables(server, "bare") == before

    said = "".join(capfd.readouterr())
    for expected in ("PostgreSQL 15", "ends within it", "was encrypted with the key", "bare exists already"):
        assert expected in said
    for secret in (PASSWORD, os.environ["S3_SECRET_ACCESS_KEY"], os.environ["WRM_BACKUP_KEY"]):
        assert secret not in said


def test_failures_of_postgresql_are_reported_and_leave_no_backup(
    machine: Lake, server: PostgresServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["backup"]) == 0
    kept = machine.keys("backups/")
    database = os.environ["POSTGRES_DB"]
    before = tables(server, database)
    with contextlib.closing(server.connect(database)) as connection:
        connection.cursor().execute("SELECT count(*) FROM runs")  # a service that is still connected
        assert main(["restore", "--apply", "--overwrite", "--only", "postgresql"]) == 1
    assert "Stop Dagster's services" in capfd.readouterr().err
    assert tables(server, database) == before

    monkeypatch.setenv("POSTGRES_PASSWORD", "cAnArY-wrong-password")
    assert main(["backup"]) == 1
    assert machine.keys("backups/") == kept
    said = "".join(capfd.readouterr())
    assert "password authentication failed" in said
    assert "cAnArY" not in said


def test_old_history_goes_by_the_command(
    machine: Lake, both_runs: tuple[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    with dg.DagsterInstance.get() as instance:
        History(instance, both_runs).add([ago(days=40), ago(days=30)], day="2025-07-01")
    assert main(["prune", "--apply"]) == 0
    assert "2 runs," in capfd.readouterr().out

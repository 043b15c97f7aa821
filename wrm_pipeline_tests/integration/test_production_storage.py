"""Dagster's storage as in production: PostgreSQL through deploy/dagster/dagster.yaml, word for word."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from wrm_pipeline.resources.feed import ClockResource
from wrm_pipeline_tests.fixtures.lake import DAY, NOON, Lake, run_job
from wrm_pipeline_tests.integration.postgres_server import PostgresServer, running_postgres
from wrm_pipeline_tests.integration.test_raw_to_duckdb import feed  # noqa: F401 - a fixture
from wrm_pipeline_tests.integration.test_raw_to_duckdb import (
    test_from_the_feed_to_sql_and_again_from_nothing_but_raw as from_the_feed_to_sql,
)

pytestmark = pytest.mark.integration

PROJECT = Path(__file__).parents[2]
PASSWORD = "p@ss:w/ord %41"


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with running_postgres(PASSWORD) as server:
        yield server


@pytest.fixture
def production(
    postgres: PostgresServer, environment: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[dg.DagsterInstance]:
    """An instance as the services of production have it; the password in a file, as systemd gives it."""
    shutil.copy(PROJECT / "deploy" / "dagster" / "dagster.yaml", Path(os.environ["DAGSTER_HOME"]))
    (tmp_path / "POSTGRES_PASSWORD").write_text(PASSWORD + "\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    for name, value in postgres.environment("postgres").items():
        if name != "POSTGRES_PASSWORD":
            monkeypatch.setenv(name, value)
    with dg.DagsterInstance.get() as instance:
        yield instance


def test_from_the_feed_to_sql_and_again(production, feed, lake, postgres):  # noqa: F811
    from_the_feed_to_sql(lake, feed, production)
    with postgres.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pipeline_name, status FROM runs")
        runs = cursor.fetchall()
        cursor.execute("SELECT count(*) FROM event_logs WHERE event LIKE %s", [f"%{PASSWORD}%"])
        assert cursor.fetchone() == (0,)
    assert {name for name, _ in runs} == {"wrm_stations_processing_job", "wrm_analytics_job"}
    assert {status for _, status in runs} == {"SUCCESS"}
    assert list(Path(os.environ["DAGSTER_HOME"]).rglob("*.db")) == []


def test_the_same_rows_as_on_sqlite(production, environment, monkeypatch, tmp_path):
    rows = []
    sqlite = tmp_path / "sqlite"
    sqlite.mkdir()
    shutil.copy(PROJECT / "dagster.yaml", sqlite)
    with dg.DagsterInstance.from_config(str(sqlite)) as local:
        for name, instance in (("sqlite", local), ("postgresql", production)):
            monkeypatch.setenv("WRM_DATA_DIR", str(tmp_path / name))
            lake = _filled()
            clock = {"clock": ClockResource(fixed_at=NOON.isoformat())}
            run_job("wrm_stations_processing_job", dt=DAY, instance=instance, overrides=clock)
            partitions = instance.get_materialized_partitions(dg.AssetKey("wrm_stations_enhanced_data_all"))
            assert DAY.isoformat() in partitions
            rows.append((lake.rows("processed"), lake.rows("enhanced")))
    assert rows[0] == rows[1]
    assert len(rows[0][0]) == 5 * 11


def _filled() -> Lake:
    from wrm_pipeline.settings import load_settings

    lake = Lake(load_settings())
    lake.put_day(5)
    return lake


def test_what_dagster_hands_on_to_run_workers_has_no_password(production):
    shown = str(production.get_ref().to_dict())
    assert "PostgresStorage" in shown
    assert PASSWORD not in shown
    assert "%" not in shown


def test_the_settings_that_both_have_are_the_same(production, tmp_path):
    """Local and production differ in storage, and in what the comments there say."""
    import yaml

    local = yaml.safe_load((PROJECT / "dagster.yaml").read_text())
    deployed = yaml.safe_load((PROJECT / "deploy" / "dagster" / "dagster.yaml").read_text())
    assert deployed.pop("storage")["custom"]["config"] == {}
    for name in ("run_storage", "event_log_storage", "schedule_storage"):
        assert local.pop(name)["module"].startswith("wrm_pipeline.resources.")
    for settings in (local, deployed):
        settings["concurrency"]["runs"].pop("tag_concurrency_limits")
    assert deployed == local

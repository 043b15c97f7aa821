"""A lake that an older pipeline made is taken over without the loss of a row: by command, and by the sensors alone."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import dagster as dg
import duckdb
import pytest

from wrm_pipeline.cli.main import main
from wrm_pipeline.flows.watch import plan_new_data_runs, plan_reconciliation_runs
from wrm_pipeline.settings import load_settings
from wrm_pipeline_tests.fixtures.lake import Lake, run_job
from wrm_pipeline_tests.fixtures.older_lake import OlderLake, published_rows

DAYS = [date(2025, 8, 20), date(2025, 8, 21), date(2025, 8, 22)]


@pytest.fixture
def older(environment, monkeypatch) -> OlderLake:
    """Three days: one whole, one that has lost two of its raw objects, one that has lost all of them."""
    monkeypatch.setenv("WRM_RAW_NAME_TIMEZONE", "Europe/Warsaw")
    older = OlderLake(Lake(load_settings()))
    older.day(DAYS[0])
    older.day(DAYS[1], gone=[1, 4])
    older.day(DAYS[2], gone=range(6))
    older.lake.store.put(f"{older.lake.settings.prefix}raw/dt=2025-08-19/_marker", b"")
    older.database()
    return older


def assert_taken_over(older: OlderLake) -> None:
    for layer in ("processed", "enhanced"):
        rows = published_rows(older.lake, layer)
        assert len(rows) == len(set(rows))
        assert set(rows) == older.rows
        assert len(older.lake.keys(f"superseded/{layer}/")) == 9
        assert len(older.lake.keys(f"{layer}/")) == 3
    with duckdb.connect(str(older.lake.settings.database_path), read_only=True) as connection:
        counted = connection.execute(
            "SELECT dt, count(*) FROM wrm_analytics.wrm_stations_enhanced_data GROUP BY dt ORDER BY dt"
        ).fetchall()
    assert counted == [(dt, 60) for dt in DAYS]


def test_by_command_which_says_first_what_it_would_do(older, capsys):
    before = older.lake.etags()
    assert main(["rebuild", "--dry-run"]) == 0
    forecast = capsys.readouterr().out
    assert older.lake.etags() == before
    said = {line[:10]: line for line in forecast.splitlines() if line[:3] == "202"}
    for dt in map(str, DAYS):
        assert "60 rows, 0 dead-lettered: processed+enhanced would be written; before: 0 rows in ours" in said[dt]
        assert "120 in 3 other processed files, 120 in 3 other enhanced files" in said[dt]
    assert "processed: 20 rows that only other files have are taken over" in forecast
    assert "processed: 60 rows that only other files have are taken over" in forecast
    assert "nothing to do" in said["2025-08-19"]
    assert forecast.count("processed: 3 files move to superseded/") == 3
    assert "analytics.duckdb would be moved aside: it contains tables and was not created by this pipeline." in forecast

    assert main(["rebuild", "--apply"]) == 0
    done = capsys.readouterr().out
    assert_taken_over(older)
    days = [line for line in done.splitlines() if line.startswith("2025-08-2")]
    assert [line.partition(" (")[0].replace("written", "would be written", 1) for line in days] == [
        line.partition(" (")[0] for line in forecast.splitlines() if line.startswith("2025-08-2")
    ]

    after = older.lake.etags("processed/") | older.lake.etags("enhanced/")
    assert main(["rebuild", "--full", "--layer", "processed", "--layer", "enhanced", "--apply"]) == 0
    assert set(published_rows(older.lake, "processed")) == older.rows
    assert after.keys() == (older.lake.etags("processed/") | older.lake.etags("enhanced/")).keys()


def test_by_the_sensors_alone(older):
    settings, lake = older.lake.settings, older.lake
    now, cursor, arrivals = datetime.now(UTC), None, None
    with dg.DagsterInstance.ephemeral() as instance:
        for _ in range(4):
            first = plan_new_data_runs(lake.store, lake.layout, arrivals, today=DAYS[-1], started=frozenset())
            plan = plan_reconciliation_runs(
                lake.store,
                lake.layout,
                cursor,
                area=settings.area,
                now=now,
                today=DAYS[-1],
                started=frozenset(run.dt for run in first.runs),
            )
            cursor, arrivals = plan.cursor, first.cursor
            now += timedelta(minutes=10)
            for run in (*first.runs, *plan.runs):
                assert run.dt in DAYS
                assert run_job("wrm_stations_processing_job", dt=run.dt, instance=instance).success
        assert not plan.runs
        assert not any(plan.compared.values())
        run_job("wrm_analytics_job", instance=instance)
    assert_taken_over(older)

"""What people of the older pipeline know: their SQL runs, and where the page for them leads to is there."""

from __future__ import annotations

import re
from importlib.util import find_spec

import pytest

from wrm_pipeline import open_database
from wrm_pipeline.analytics.registry import TABLES
from wrm_pipeline.definitions import build_defs
from wrm_pipeline.settings import Settings, load_settings, variables_of
from wrm_pipeline_tests.fixtures.lake import DAY, Lake, build_day, materialize
from wrm_pipeline_tests.fixtures.markdown import ROOT

PAGE = ROOT / "docs" / "from-bike-data-flow.md"


def right_sides() -> dict[str, list[str]]:
    """The names in the right column, by the heading of their table."""
    found: dict[str, list[str]] = {}
    for section in PAGE.read_text().split("\n## ")[1:]:
        title, _, text = section.partition("\n")
        cells = re.findall(r"^\|.*\|([^|]*)\|$", text, re.MULTILINE)[2:]
        found[title] = [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]
    return found


def known(title: str) -> set[str]:
    if title == "Views, tables and columns":
        return TABLES.keys() | {column.name for table in TABLES.values() for column in table.columns}
    if title == "Variables":
        names = {name for field in Settings.model_fields for name in variables_of(field)}
        return names | {"https://", "analytics.duckdb", "SERVING", "dt"}
    defs = build_defs(load_settings({"postgres_serving_host": "h"}))
    if title == "Assets":
        return {key.to_user_string() for asset in defs.assets or () for key in asset.keys}
    if title == "Resources and I/O managers":
        return set(defs.resources or {}) | {"address", "connection()"}
    repository = defs.get_repository_def()
    names = {job.name for job in repository.get_all_jobs()}
    names |= {sensor.name for sensor in repository.sensor_defs}
    return names | {schedule.name for schedule in repository.schedule_defs} | {"wrm dlq replay"}


@pytest.mark.parametrize("title", [title for title in right_sides() if title != "Modules"])
def test_what_the_page_leads_to_exists(environment, title):
    names = right_sides()[title]
    assert names
    assert set(names) - known(title) == set()


def test_the_modules_that_the_page_leads_to_exist():
    names = [name for name in right_sides()["Modules"] if not name.startswith("wrm ")]
    assert len(names) > 10
    assert [name for name in names if find_spec(name) is None] == []


def test_sql_of_the_older_pipeline_runs_and_agrees_with_the_tables(lake: Lake):
    lake.put_day(3)
    build_day()
    materialize("create_duckdb_enhanced_views", "create_materialized_views")
    by_hand = (
        "SELECT date, count(DISTINCT station_id), avg(bikes), max(bikes), min(bikes) "
        "FROM wrm_stations_enhanced WHERE record_type = 'station' GROUP BY date"
    )
    columns = "date, active_stations, avg_bikes, max_bikes, min_bikes"
    with open_database() as db:
        (row,) = db.sql(by_hand).fetchall()
        assert row == (DAY, 10, 4.5, 9, 0)
        assert db.sql(f"SELECT {columns} FROM mv_daily_aggregates").fetchall() == [row]
        assert db.sql("SELECT count(*) FROM wrm_stations_latest").fetchone() == (10,)

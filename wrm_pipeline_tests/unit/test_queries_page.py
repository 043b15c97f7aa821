"""docs/queries.md: every question on the page gets an answer."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import duckdb
import pytest

from wrm_pipeline.analytics.registry import tables_of
from wrm_pipeline.domain import asset_names
from wrm_pipeline.settings import load_settings
from wrm_pipeline_tests.fixtures.history import History
from wrm_pipeline_tests.fixtures.lake import Lake

PAGE = (Path(__file__).parents[2] / "docs" / "queries.md").read_text().partition("## Open the database")[0]
QUESTIONS = dict(re.findall(r"^### ([^\n]+)\n(?:(?!^#).)*?```sql\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def week(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of a simulated week; gives its path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WRM_DATA_DIR", str(tmp_path_factory.mktemp("week") / "data"))
        history = History(Lake(load_settings()))
    for day in range(23, 30):
        # Lost demand needs snapshots within a quarter of an hour.
        history.put(date(2026, 3, day), history.times(date(2026, 3, day), 20 if day < 29 else 10))
    history.create_views()
    history.refresh()
    history.forecast()
    with history.database.refresh() as connection:  # the simulated feed does not number bikes
        connection.execute(
            "INSERT INTO wrm_analytics.mv_idle_bikes "
            "SELECT '1', station_id, lat, lon, now(), 1, NULL, now(), false "
            "FROM wrm_analytics.mv_station_latest LIMIT 1"
        )
        connection.execute(
            "INSERT INTO wrm_analytics.mv_origin_destination VALUES ('2026-03-29', '15001', '15002', 3, 600)"
        )
    return history.database.path


def test_there_are_a_dozen_questions_and_each_has_its_query():
    assert len(QUESTIONS) >= 12
    assert len(QUESTIONS) == PAGE.count("```sql")
    used = "".join(QUESTIONS.values())
    # What needs the operator's feed has a page of its own.
    elsewhere = {"mv_city_hourly", "mv_rides", "mv_departures_fit"}
    tables = {view.name for view in tables_of(asset_names.MATERIALIZED_VIEWS)} - elsewhere
    assert all(f"wrm_analytics.{name}" in used for name in tables)


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_is_answered(week, question):
    with duckdb.connect(str(week), read_only=True) as connection:
        assert connection.execute(QUESTIONS[question]).fetchall()

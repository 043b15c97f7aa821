"""docs/queries.md: every query on the page is run, and answers."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import duckdb
import pytest

from wrm_pipeline.domain.materialized_views import MATERIALIZED_VIEWS
from wrm_pipeline.settings import load_settings
from wrm_pipeline_tests.fixtures.history import History
from wrm_pipeline_tests.fixtures.lake import Lake

PAGE = (Path(__file__).parents[2] / "docs" / "queries.md").read_text()
QUESTIONS = dict(re.findall(r"^### ([^\n]+)\n(?:(?!^#).)*?```sql\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL))
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def week(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of a simulated week; gives its path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WRM_DATA_DIR", str(tmp_path_factory.mktemp("week") / "data"))
        history = History(Lake(load_settings()))
    for day in range(23, 30):
        history.put(date(2026, 3, day), history.times(date(2026, 3, day), 20))
    history.create_views()
    history.refresh()
    return history.database.path


def test_there_are_a_dozen_questions_and_each_has_its_query():
    assert len(QUESTIONS) >= 12
    assert len(QUESTIONS) == PAGE.count("```sql")
    used = "".join(QUESTIONS.values())
    assert all(f"wrm_analytics.{view.name}" in used for view in MATERIALIZED_VIEWS if view.name != "mv_city_hourly")


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_is_answered(week, question):
    with duckdb.connect(str(week), read_only=True) as connection:
        assert connection.execute(QUESTIONS[question]).fetchall()


def test_the_ways_to_open_the_database_on_the_machine(week, tmp_path, monkeypatch):
    monkeypatch.chdir(week.parents[1])
    monkeypatch.setenv("WRM_DATA_DIR", "data")
    for code in PYTHON:
        variables: dict = {}
        exec(code, variables)
        assert len(variables["stations"]) == 12

    # In a database of one's own, statement by statement.
    statements = re.findall(r"^D ((?:ATTACH|CREATE TABLE)[^\n]*);$", PAGE, re.MULTILINE)
    with duckdb.connect(str(tmp_path / "mine.duckdb")) as mine:
        for statement in statements:
            mine.execute(statement)
        assert mine.execute("SELECT count(*) FROM emptiest").fetchone() == (7,)
        mine.execute("USE wrm.wrm_analytics")
        assert mine.execute("SELECT count(*) FROM wrm_stations_latest").fetchone() == (12,)

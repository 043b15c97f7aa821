"""The forecast in Dagster: learnt at night, made from the newest snapshot, scored the next day."""

from datetime import date, timedelta

import dagster as dg
import pytest

from wrm_pipeline.analytics.answers import replace_days
from wrm_pipeline.analytics.registry.forecast import FORECAST_SKILL
from wrm_pipeline.checks.forecast import DAYS_WORSE, forecast_beats_persistence
from wrm_pipeline.definitions import build_defs
from wrm_pipeline.flows.forecast import SKILL_SCHEMA
from wrm_pipeline.resources.lake import LakeResource
from wrm_pipeline.settings import load_settings
from wrm_pipeline_tests.fixtures.history import History
from wrm_pipeline_tests.fixtures.lake import Lake

DAYS = [date(2026, 3, 23) + timedelta(days=number) for number in range(3)]


@pytest.fixture
def history() -> History:
    made = History(Lake(load_settings()), stations=8, bikes=2)
    for day in DAYS:
        made.put(day, made.times(day, 15))
    made.create_views()
    return made


def run(job: str, day: date | None = None, only: str = "") -> dict[str, dg.AssetMaterialization]:
    defs = build_defs(load_settings())
    config = {"config": {"date": str(day)}} if day else {}
    result = defs.resolve_job_def(job).execute_in_process(
        run_config={"ops": {"forecast_model": config, "forecast_skill": config}} if day else {},
        asset_selection=[dg.AssetKey(only)] if only else None,
    )
    assert result.success
    return {str(e.asset_key.path[-1]): e.materialization for e in result.get_asset_materialization_events()}


def test_without_a_model_nothing_changes_and_the_night_makes_one(history: History) -> None:
    made = run("wrm_analytics_job", only="station_forecast")["station_forecast"]
    assert "Materialize forecast_model" in made.metadata["model"].text
    assert history.query("SELECT DISTINCT method FROM wrm_analytics.mv_forecast") == [("persistence",)]

    night = run("wrm_forecast_job", DAYS[-1])
    assert night["forecast_model"].metadata["learnt_from"].text == f"{DAYS[0]} to {DAYS[1]}"
    assert history.query("SELECT DISTINCT dt FROM wrm_analytics.forecast_skill") == [(DAYS[-1],)]

    made = run("wrm_analytics_job", only="station_forecast")["station_forecast"]
    assert made.metadata["model"].text == f"learnt from {DAYS[0]} to {DAYS[1]}"
    ((rows, stations),) = history.query(
        "SELECT count(*), count(DISTINCT station_id) FROM wrm_analytics.mv_forecast WHERE bikes_p10 <= bikes_expected"
    )
    assert (rows, stations) == (8 * 6, 8)


def test_too_little_history_says_so(history: History) -> None:
    night = run("wrm_forecast_job", DAYS[1])

    assert "fewer than two whole days" in str(night["forecast_model"].metadata)
    assert "too few days" in str(night["forecast_skill"].metadata)


def test_three_days_worse_than_persistence_are_a_warning(history: History) -> None:
    lake = LakeResource.of(load_settings())
    assert forecast_beats_persistence(lake).passed
    replace_days(history.database, FORECAST_SKILL, {DAYS[-1]: SKILL_SCHEMA.empty_table()})
    with history.database.refresh() as connection:
        for number in range(DAYS_WORSE):
            connection.execute(
                "INSERT INTO wrm_analytics.forecast_skill VALUES (?, '15001', 60, 96, 2.0, 1.0, 0.1, 0.1, 0.8)",
                [date(2026, 4, 1) + timedelta(days=number)],
            )
    found = forecast_beats_persistence(lake)

    assert not found.passed
    assert "3 of the newest 3 days were worse" in found.description

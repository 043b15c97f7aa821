"""The forecast in Dagster: learnt at night, made from the newest snapshot, scored the next day."""

import math
from datetime import UTC, date, datetime, timedelta
from typing import cast

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest

from wrm_pipeline.analytics.answers import replace_days
from wrm_pipeline.analytics.registry.forecast import FORECAST_SKILL
from wrm_pipeline.checks.forecast import DAYS_WORSE, forecast_beats_persistence
from wrm_pipeline.cli.main import main
from wrm_pipeline.definitions import build_defs
from wrm_pipeline.domain.forecast import CALLED_FROM
from wrm_pipeline.domain.forecast.counts import STEPS_A_DAY, Counts, Stations
from wrm_pipeline.domain.forecast.model import HORIZONS_MIN, ForecastModel, Prediction
from wrm_pipeline.flows.forecast import FORECAST_SCHEMA, KEPT_MODEL_DAYS, SKILL_SCHEMA, Forecasts, score
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


def test_a_rebuild_scores_the_forecasts_of_models_that_are_kept(history: History) -> None:
    run("wrm_forecast_job", DAYS[-1])
    sql = "SELECT * FROM wrm_analytics.forecast_skill ORDER BY ALL"
    scores = history.query(sql)

    history.lake.settings.database_path.unlink()
    assert main(["rebuild"]) == 0
    assert history.query(sql) == scores != []


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
                "INSERT INTO wrm_analytics.forecast_skill BY NAME SELECT ?::DATE AS dt, '15001' AS station_id, "
                "60 AS horizon_min, 96 AS forecasts, 2.0 AS error_mean, 1.0 AS error_mean_persistence",
                [date(2026, 4, 1) + timedelta(days=number)],
            )
    found = forecast_beats_persistence(lake)

    assert not found.passed
    assert "3 of the newest 3 days were worse" in found.description


def test_old_models_are_removed(history: History) -> None:
    lake, day = history.lake, DAYS[-1]
    old, kept = (lake.layout.forecast_model_key(day - timedelta(days=age)) for age in (KEPT_MODEL_DAYS, 27))
    for key in (old, kept):
        lake.store.put(key, b"a model")
    assert Forecasts(history.partitions, lambda _: False, trees=2).learn_and_store(day) is not None
    found = [key for key in (old, kept, lake.layout.forecast_model_key(day)) if key in set(lake.keys("forecast"))]
    assert found == [kept, lake.layout.forecast_model_key(day)]


# --- where a van is needed ---


def coming(station: str, no_bike: float, no_dock: float, bikes: float, at_hour: int = 2) -> list[dict[str, object]]:
    """A station's forecast: these probabilities and bikes from an hour on, and nothing to fear before."""
    made_at = datetime(2026, 3, 25, 22, 45, 2, tzinfo=UTC)
    return [
        {
            "station_id": station,
            "made_at": made_at,
            "target_at": made_at + timedelta(minutes=minutes),
            "horizon_min": minutes,
            "bikes_expected": bikes if minutes >= 60 * at_hour else 5.0,
            "p_no_bike": no_bike if minutes >= 60 * at_hour else 0.01,
            "p_no_dock": no_dock if minutes >= 60 * at_hour else 0.01,
            "method": "lightgbm",
        }
        for minutes in HORIZONS_MIN
    ]


def rebalancing(history: History, forecasts: list[dict[str, object]]) -> dict[str, dict[str, object]]:
    history.replace_forecast(pa.Table.from_pylist(forecasts, schema=FORECAST_SCHEMA), days=3)
    with history.database.reading() as connection:
        found = connection.execute("FROM wrm_analytics.mv_rebalancing").to_arrow_table().to_pylist()
    return {str(row["station_id"]): row for row in found}


def test_a_van_is_called_by_the_forecast(history: History) -> None:
    latest = "wrm_analytics.wrm_stations_latest"
    docks = dict(history.query(f"SELECT station_id, total_docks FROM {latest} WHERE total_docks > 0 AND spaces > 0"))
    full, empty, fine, *_ = docks
    found = rebalancing(
        history,
        [*coming(empty, 0.7, 0, 0), *coming(full, 0.1, 0.6, docks[full], at_hour=3), *coming(fine, 0.3, 0.3, 4)],
    )
    made_at = datetime(2026, 3, 25, 22, 45, 2, tzinfo=UTC)

    assert len(found) == 8
    bring, take = found[empty], found[full]
    assert (bring["van"], bring["bikes_to_move"], bring["p_no_bike"]) == ("bring", math.ceil(docks[empty] / 3), 0.7)
    assert bring["needed_by"] in (made_at, made_at + timedelta(hours=2))
    assert (take["van"], take["p_no_dock"]) == ("take", 0.6)
    assert take["bikes_to_move"] == docks[full] - docks[full] * 2 // 3
    assert take["needed_by"] == take["full_at"] == made_at + timedelta(hours=3)
    assert take["expected_bikes"] == [5, 5, *[docks[full]] * 4]
    assert (found[fine]["van"], found[fine]["bikes_to_move"], found[fine]["needed_by"]) == (None, None, None)
    assert {row["profile_days"] for row in found.values()} == {3}
    without = next(row for station, row in found.items() if station not in (empty, full, fine))
    assert (without["van"], without["expected_bikes"], without["method"]) == (None, None, None)


def test_calls_say_how_often_they_were_right(history: History) -> None:
    docks = history.query("SELECT station_id FROM wrm_analytics.wrm_stations_latest WHERE total_docks > 0")
    (known,), (new,), (calm,), *_ = docks
    forecasts = [*coming(known, 0.7, 0, 0), *coming(new, 0.7, 0, 0), *coming(calm, 0, 0, 5)]
    assert {row["hit_rate"] for row in rebalancing(history, forecasts).values()} == {None}

    skill = [
        {
            "dt": DAYS[-1],
            "station_id": known,
            "horizon_min": 60,
            "forecasts": 96,
            "told_empty": 20,
            "told_empty_right": 15,
        },
        {"dt": DAYS[-1], "station_id": new, "horizon_min": 60, "forecasts": 96, "told_empty": 5, "told_empty_right": 5},
    ]
    replace_days(history.database, FORECAST_SKILL, {DAYS[-1]: pa.Table.from_pylist(skill, schema=SKILL_SCHEMA)})
    found = rebalancing(history, forecasts)
    assert [found[station]["hit_rate"] for station in (known, new, calm)] == [0.75, 0.8, None]


def test_a_score_counts_the_calls_that_came_true() -> None:
    """One station, empty from noon on; always called empty, and called full by half."""
    day = DAYS[-1]
    start = datetime(2026, 3, 24, 23, tzinfo=UTC)
    bikes = np.where(np.arange(STEPS_A_DAY) < STEPS_A_DAY // 2, 10, 0).astype(np.float32)[:, None]
    ordinal = np.full(STEPS_A_DAY, day.toordinal())
    one = np.zeros(1, np.float32)
    counts = Counts(
        start, Stations(("15001",), one, one), bikes, 10 - bikes, one + 10 + 0 * bikes, ordinal, ordinal, ordinal > 0
    )

    class Model:
        def predict_many(self, _: Counts, steps: np.ndarray) -> list[list[Prediction]]:
            made = Prediction(one, one, one, one + 0.9, one + CALLED_FROM / 2, np.zeros(1, np.bool_))
            return [[made] * len(HORIZONS_MIN) for _ in steps]

    row, *_ = score(counts, cast("ForecastModel", Model()), day).to_pylist()
    assert (row["forecasts"], row["told_empty"], row["told_empty_right"], row["was_empty"]) == (95, 95, 48, 48)
    assert (row["told_full"], row["told_full_right"], row["was_full"]) == (0, 0, 47)

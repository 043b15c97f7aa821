"""Forecasts from a lake of simulated days: what is learnt, what must not leak, and what is missing."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from wrm_pipeline.cli.main import main
from wrm_pipeline.domain.forecast.model import HORIZONS_MIN
from wrm_pipeline.flows.forecast import FORECAST_SCHEMA, SKILL_SCHEMA, Forecasts, score
from wrm_pipeline.settings import Settings
from wrm_pipeline_tests.fixtures.history import History
from wrm_pipeline_tests.fixtures.lake import Lake

DAYS = [date(2026, 3, 23) + timedelta(days=number) for number in range(3)]
NOON = datetime(2026, 3, 25, 11, tzinfo=UTC)


def lake(folder: Path) -> Lake:
    return Lake(Settings(WRM_DATA_DIR=folder))


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> History:
    made = History(lake(tmp_path_factory.mktemp("forecast")), stations=8, bikes=4)
    for day in DAYS:
        made.put(day, made.times(day, 10))
    return made


def forecasts(history: History) -> Forecasts:
    return Forecasts(history.partitions, lambda _: False, trees=10)


def test_each_station_has_a_forecast_of_each_horizon(history: History) -> None:
    model = forecasts(history).learn(DAYS[-1])
    assert model is not None
    rows = forecasts(history).at(NOON, model)

    assert (model.first, model.last) == (DAYS[0], DAYS[1])
    assert rows.schema == FORECAST_SCHEMA
    assert rows.num_rows == 8 * len(HORIZONS_MIN)
    ahead = pc.subtract(rows["target_at"].cast("int64"), rows["made_at"].cast("int64"))
    assert ahead.to_pylist() == [minutes * 60_000_000 for minutes in rows["horizon_min"].to_pylist()]
    for row in rows.to_pylist():
        assert 0 <= row["bikes_p10"] <= row["bikes_expected"] <= row["bikes_p90"]
        assert 0 <= row["p_no_bike"] <= 1 and 0 <= row["p_no_dock"] <= 1  # noqa: PT018


def test_a_lake_that_ends_at_that_instant_gives_the_same_forecast(history: History, tmp_path: Path) -> None:
    cut = History(lake(tmp_path), stations=8, bikes=4)
    for day in DAYS:
        cut.put(day, [at for at in cut.times(day, 10) if at <= NOON])

    tables = [forecasts(each).at(NOON, forecasts(each).learn(DAYS[-1])) for each in (history, cut)]

    assert tables[0].equals(tables[1])


def test_without_history_nothing_changes(history: History) -> None:
    assert forecasts(history).learn(DAYS[1]) is None
    rows = forecasts(history).at(NOON, None)

    assert set(rows["method"].to_pylist()) == {"persistence"}
    by_station: dict[str, set[float]] = {}
    for row in rows.to_pylist():
        by_station.setdefault(row["station_id"], set()).add(row["bikes_expected"])
    assert all(len(expected) == 1 for expected in by_station.values())


def test_a_missing_day_is_learnt_around(tmp_path: Path) -> None:
    gap = History(lake(tmp_path), stations=8, bikes=4)
    for day in (DAYS[0], DAYS[1], DAYS[2] + timedelta(days=1)):
        gap.put(day, gap.times(day, 30))
    model = forecasts(gap).learn(DAYS[2] + timedelta(days=1))

    assert model is not None
    assert model.last == DAYS[1]


def test_a_day_is_scored_by_the_forecasts_that_could_have_been_made(history: History) -> None:
    known = forecasts(history)
    rows = score(known.day(DAYS[-1]), known.learn(DAYS[-1]), DAYS[-1])

    assert rows.schema == SKILL_SCHEMA
    assert rows.num_rows == 8 * len(HORIZONS_MIN)
    assert pc.min(rows["forecasts"]).as_py() >= 60
    assert 0 <= pc.min(rows["share_in_band"]).as_py() <= pc.max(rows["share_in_band"]).as_py() <= 1
    assert score(known.day(DAYS[-1]), None, DAYS[-1]).num_rows == 0


def test_a_stored_model_is_used_for_a_week_and_a_damaged_one_is_learnt_again(history: History) -> None:
    known = forecasts(history)
    assert known.stored_model(DAYS[-1]) is None
    assert known.learn_and_store(DAYS[-1]) is not None

    stored = known.newest_model(DAYS[-1] + timedelta(days=5))
    assert stored is not None
    assert stored.last == DAYS[1]
    assert known.newest_model(DAYS[-1] + timedelta(days=8)) is None
    key = history.partitions.layout.forecast_model_key(DAYS[-1])
    history.partitions.store.put(key, b"not a model")
    assert known.stored_model(DAYS[-1]) is None
    history.partitions.store.delete(key)


def test_the_command_writes_the_table(
    history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WRM_DATA_DIR", str(history.lake.settings.data_dir))
    output = tmp_path / "forecast.parquet"

    assert main(["forecast", "--at", "2026-03-25T12:00", "--output", str(output)]) == 0

    rows: pa.Table = pq.read_table(output)
    assert rows.schema.equals(FORECAST_SCHEMA)
    assert rows.num_rows == 8 * len(HORIZONS_MIN)
    assert set(rows["made_at"].to_pylist()) == {NOON}
    assert "learnt from 2026-03-23 to 2026-03-24" in capsys.readouterr().out
    assert main(["forecast", "--at", "2026-03-22T12:00", "--output", str(output)]) == 1
    assert "No station was seen" in capsys.readouterr().err

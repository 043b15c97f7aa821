"""What is learnt from a made-up city: stations that fill and empty by the clock, with noise on top."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from wrm_pipeline.domain.forecast.counts import STEPS_A_DAY, Counts, Floats, Stations
from wrm_pipeline.domain.forecast.model import HORIZONS, ForecastModel, train

MONDAY = datetime(2025, 6, 2, tzinfo=UTC)
STATIONS = 12
TREES = 20
DOCKS = 20


def counts_of_bikes(bikes: Floats) -> Counts:
    steps, number = bikes.shape
    stations = Stations(
        tuple(f"{15000 + each}" for each in range(number)),
        np.linspace(51.05, 51.15, number, dtype=np.float32),
        np.full(number, 17.0, np.float32),
    )
    day, step_of_day = np.divmod(np.arange(steps), STEPS_A_DAY)
    docks = np.full(bikes.shape, DOCKS, np.float32)
    return Counts(
        MONDAY, stations, bikes, docks - bikes, docks, step_of_day, day + MONDAY.toordinal(), np.zeros(steps, np.bool_)
    )


def tidal(days: int) -> Counts:
    """A city of commuters: half of the stations are full at noon, the others at midnight."""
    random = np.random.default_rng(4)
    clock = np.arange(days * STEPS_A_DAY)[:, None] / STEPS_A_DAY * 2 * np.pi
    phase = np.where(np.arange(STATIONS) % 2, 0, np.pi)
    wander = np.cumsum(random.normal(0, 0.15, (days * STEPS_A_DAY, STATIONS)), axis=0)
    wander -= np.repeat(wander[::STEPS_A_DAY], STEPS_A_DAY, axis=0)
    bikes = np.clip(np.round(DOCKS / 2 * (1 + 1.1 * np.cos(clock + phase)) + wander), 0, DOCKS)
    return counts_of_bikes(bikes.astype(np.float32))


def part(counts: Counts, until: int) -> Counts:
    """Its first steps."""
    names = ("bikes", "spaces", "docks", "step_of_day", "day", "is_free_day")
    return replace(counts, **{name: getattr(counts, name)[:until] for name in names})


@pytest.fixture(scope="module")
def city() -> Counts:
    return tidal(4)


@pytest.fixture(scope="module")
def model(city: Counts) -> ForecastModel:
    found = train(part(city, 3 * STEPS_A_DAY), trees=TREES)
    assert found is not None
    return found


def test_the_tide_is_foreseen_and_the_band_holds(city: Counts, model: ForecastModel) -> None:
    steps = np.arange(3 * STEPS_A_DAY, 4 * STEPS_A_DAY - max(HORIZONS), 3)
    made = model.predict_many(city, steps)

    for place, horizon in enumerate(HORIZONS):
        now, then = city.bikes[steps], city.bikes[steps + horizon]
        expected, low, high, no_bike = (
            np.stack([getattr(each[place], name) for each in made]) for name in ("expected", "low", "high", "no_bike")
        )
        assert np.abs(then - expected).mean() <= np.abs(then - now).mean() * (0.5 if horizon >= 12 else 1.0)
        assert 0.65 <= ((low <= then) & (then <= high)).mean() <= 0.93
        wrong = ((now == 0) != (then == 0)).mean()
        assert ((no_bike - (then == 0)) ** 2).mean() <= wrong * (0.6 if horizon >= 12 else 1.0) + 1e-6


def test_nothing_later_than_the_step_is_looked_at(city: Counts, model: ForecastModel) -> None:
    step = 3 * STEPS_A_DAY + 100

    for known, cut in zip(model.predict(city, step), model.predict(part(city, step + 1), step), strict=True):
        np.testing.assert_array_equal(known.expected, cut.expected)
        np.testing.assert_array_equal(known.no_bike, cut.no_bike)


def test_counts_without_a_pattern_are_not_made_worse() -> None:
    random = np.random.default_rng(5)
    jumps = random.choice([-1, 0, 1], (4 * STEPS_A_DAY, STATIONS), p=[0.1, 0.8, 0.1])
    city = counts_of_bikes((np.cumsum(jumps, axis=0) + 1000).astype(np.float32))
    found = train(part(city, 3 * STEPS_A_DAY), trees=TREES)
    assert found is not None
    steps = np.arange(3 * STEPS_A_DAY, 4 * STEPS_A_DAY - max(HORIZONS), 3)

    # What is gained on the days of history is chance, and too little to be believed.
    for made in found.predict_many(city, steps):
        assert all(each.persistent.all() for each in made)


def test_one_day_of_history_is_not_enough(city: Counts) -> None:
    assert train(part(city, STEPS_A_DAY)) is None


def test_the_same_counts_give_the_same_bytes_which_can_be_read(city: Counts, model: ForecastModel) -> None:
    again = train(part(city, 3 * STEPS_A_DAY), trees=TREES)
    assert again is not None
    data = model.to_bytes()
    read = ForecastModel.from_bytes(data)
    assert read is not None

    assert again.to_bytes() == data
    step = 3 * STEPS_A_DAY + 7
    for before, after in zip(model.predict(city, step), read.predict(city, step), strict=True):
        np.testing.assert_array_equal(before.expected, after.expected)
        np.testing.assert_array_equal(before.high, after.high)
    assert (read.first, read.last) == (model.first, model.last)


def test_what_is_not_a_model_is_refused(model: ForecastModel) -> None:
    with pytest.raises(ValueError, match="is not a forecast model"):
        ForecastModel.from_bytes(model.to_bytes()[:-100])
    with pytest.raises(ValueError, match="is not a forecast model"):
        ForecastModel.from_bytes(b"")


def test_a_station_that_history_does_not_know_has_a_forecast_and_one_unknown_now_has_none(
    city: Counts, model: ForecastModel
) -> None:
    step = 3 * STEPS_A_DAY + 100
    bikes = city.bikes.copy()
    bikes[step, 0] = np.nan
    ids = ("new", *reversed(city.stations.ids[1:]))
    changed = replace(city, bikes=bikes, stations=replace(city.stations, ids=(ids[-1], *ids[1:-1], "new")))

    made = model.predict(changed, step)[-1]

    assert np.isnan([made.expected[0], made.no_bike[0]]).all()
    assert not np.isnan(made.expected[1:]).any()

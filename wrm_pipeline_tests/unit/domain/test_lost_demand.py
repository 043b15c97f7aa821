"""Lost demand: rates from the time with bikes alone, and ranges that hold what they promise."""

from __future__ import annotations

import numpy as np
import pytest

from wrm_pipeline.domain.lost_demand import HOURS, Floats, Traffic, range_of, rates_of

BY_DAY = 1 + np.sin(np.arange(HOURS) / HOURS * 2 * np.pi) ** 2


def traffic_of(rates: Floats, with_bikes_h: Floats, *, free: tuple[bool, ...], seed: int | None = None) -> Traffic:
    """Departures at these rates (stations, days, 24) while there are bikes: exactly, or by chance."""
    mean = rates * with_bikes_h
    departures = mean if seed is None else np.random.default_rng(seed).poisson(mean).astype(float)
    return Traffic(departures, rates.copy(), with_bikes_h, np.ones_like(rates), np.array(free))


def steady(levels: list[float], days: int) -> Floats:
    return np.array(levels)[:, None, None] * np.ones((1, days, 1)) * BY_DAY


def test_a_station_that_is_empty_half_the_time_has_the_rate_of_its_time_with_bikes():
    rates = steady([4.0, 4.0, 1.0, 2.0], 3)
    with_bikes_h = np.ones_like(rates)
    with_bikes_h[0] = 0.5
    found = rates_of(traffic_of(rates, with_bikes_h, free=(False,) * 3)).mean
    assert found[0] == pytest.approx(found[1], rel=0.03)
    assert found == pytest.approx(rates[:, -1], rel=0.1)


def test_two_empty_hours_of_stations_large_and_small_are_recovered_in_sum():
    levels = [0.1, 0.2, 0.5, 1.0, 2.0, 4.0] * 40
    rates = steady(levels, 2)
    with_bikes_h = np.ones_like(rates)
    with_bikes_h[:, -1, 7:9] = 0
    found = rates_of(traffic_of(rates, with_bikes_h, free=(False, False), seed=1)).mean
    for size in range(6):
        assert found[size::6, 7:9].sum() == pytest.approx(rates[size::6, -1, 7:9].sum(), rel=0.15)


def test_a_busy_day_loses_more_than_a_quiet_one():
    rates = steady([2.0] * 50, 2)
    rates[:, -1] *= 1.4
    with_bikes_h = np.ones_like(rates)
    with_bikes_h[:5, -1, 12] = 0
    found = rates_of(traffic_of(rates, with_bikes_h, free=(False, False))).mean
    assert found[:5, 12] == pytest.approx(rates[:5, -1, 12], rel=0.03)


def test_a_weekend_has_the_hours_of_weekends():
    rates = steady([2.0] * 20, 9)
    free = (False,) * 5 + (True,) * 4
    rates[0, :5, 7], rates[0, 5:, 7] = 20, 1
    with_bikes_h = np.ones_like(rates)
    with_bikes_h[0, -1, 7] = 0
    assert rates_of(traffic_of(rates, with_bikes_h, free=free)).mean[0, 7] < 4


def test_a_station_that_never_had_bikes_has_the_rate_of_its_arrivals():
    rates = steady([2.0, 2.0, 2.0, 2.0], 3)
    with_bikes_h = np.ones_like(rates)
    with_bikes_h[:2] = 0
    traffic = traffic_of(rates, with_bikes_h, free=(False,) * 3)
    traffic.arrivals[0] = 0
    found = rates_of(traffic)
    assert found.mean[0].sum() < 0.05 * found.mean[1].sum()
    assert found.mean[1].sum() == pytest.approx(rates[1, -1].sum(), rel=0.1)
    # And it says how little is known.
    assert (found.shape[1] < found.shape[2]).all()


def test_an_hour_without_any_bike_in_the_city_loses_nothing_that_is_known():
    rates = steady([2.0, 2.0], 1)
    with_bikes_h = np.ones_like(rates)
    with_bikes_h[:, 0, 3] = 0
    assert (rates_of(traffic_of(rates, with_bikes_h, free=(False,))).mean[:, 3] == 0).all()


@pytest.mark.parametrize(("mean", "shape"), [(0.05, 3.0), (1.0, 2.0), (6.0, 20.0), (300.0, 20.0)])
def test_a_range_holds_nine_tenths_of_what_may_happen(mean, shape):
    rng = np.random.default_rng(2)
    happened = rng.poisson(mean * rng.gamma(shape, 1 / shape, 20_000))
    low, high = range_of(np.array([mean]), np.array([shape]))
    assert np.mean(happened < low) <= 0.055
    assert np.mean(happened > high) <= 0.055
    assert np.mean(happened <= high - 1) <= 0.955  # and is no wider than it must be


def test_nothing_expected_is_nothing_lost():
    assert range_of(np.zeros(2), np.ones(2))[1].tolist() == [0, 0]

"""Departures that did not take place because a station was empty, from its traffic while it had bikes.

Only time with bikes counts: departures per hour of the clock would be the lower, the more often a station is empty.
A rate is the product of two: the city's in that hour of that day, and how many times that of the mean station this one
has at that hour. docs/answers.md has the formula and its measured error.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# Stored with the rows: another version means that they are made again.
LOST_DEMAND_VERSION = "1"

HOURS = 24
# The weights of the priors, in departures: of a station's level, of that on working days or weekends, of an hour.
LEVEL_WEIGHT = 4.0
KIND_WEIGHT = 10.0
HOUR_WEIGHT = 6.0
# Of the city's hour, in departures.
CITY_WEIGHT = 10.0
# Of an hour, and of the one before and after it: demand changes slowly.
HOUR_KERNEL = (1.0, 0.5)
# Days differ by more than chance.
MAX_SHAPE = 20.0
# Of the range: 90 %.
TAIL = 0.05


@dataclass(frozen=True, slots=True)
class Traffic:
    """What was seen, by station, day and local hour: arrays of shape (stations, days, 24).

    Attributes:
        departures: In intervals at whose beginning the station had bikes.
        arrivals: Of bikes.
        with_bikes_h: Hours for which the station was seen with a bike.
        seen_h: Hours for which the station was seen.
        is_free_day: Of each day: whether it is a weekend; shape (days,).
    """

    departures: Floats
    arrivals: Floats
    with_bikes_h: Floats
    seen_h: Floats
    is_free_day: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Rates:
    """Departures per hour that a station with bikes has on the last day of `Traffic`; shape (stations, 24).

    Attributes:
        mean: Of the rate.
        shape: Of the gamma distribution that describes how well it is known: the larger, the better.
    """

    mean: Floats
    shape: Floats


def rates_of(traffic: Traffic) -> Rates:
    """The rates of the last day, from all days."""
    arrivals = traffic.arrivals
    expected = traffic.seen_h * _ratio(arrivals.sum(0), traffic.seen_h.sum(0))
    # Arrivals do not depend on bikes being there: a station that is always empty and never reached has no demand.
    by_arrivals = (arrivals.sum((1, 2)) + 1) / (expected.sum((1, 2)) + 1)
    return _rates(traffic.departures, traffic.with_bikes_h, by_arrivals, traffic.is_free_day)


def range_of(mean: Floats, shape: Floats) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The 5 % and 95 % quantiles of numbers of departures: negative binomial, as the rates are uncertain.

    Args:
        mean: Of each number.
        shape: Of its rate, as in `Rates`.
    """
    odds = mean / (shape + mean)
    probability = (1 - odds) ** shape
    below = probability.copy()
    low, high = np.zeros(mean.shape, np.int64), np.zeros(mean.shape, np.int64)
    count = 0
    while (below < 1 - TAIL).any():
        low += below < TAIL
        high += below < 1 - TAIL
        probability = probability * odds * (shape + count) / (count + 1)
        count += 1
        below += probability
    return low, high


def _rates(counts: Floats, hours: Floats, prior: Floats, is_free_day: npt.NDArray[np.bool_]) -> Rates:
    """Rates of the last day, from counts in so many hours; `prior` is each station's level in mean stations."""
    level = prior
    for _ in range(3):  # a station that is often empty has a small share in the city's rate
        city = _city(counts.sum(0), (hours * level[:, None, None]).sum(0))
        expected = hours * city
        level = (counts.sum((1, 2)) + LEVEL_WEIGHT * prior) / (expected.sum((1, 2)) + LEVEL_WEIGHT)
    same = is_free_day == is_free_day[-1]
    seen, expected = counts[:, same].sum(1), expected[:, same].sum(1)
    level = (seen.sum(1) + KIND_WEIGHT * level) / (expected.sum(1) + KIND_WEIGHT)
    shape = _smooth(seen) + HOUR_WEIGHT * level[:, None]
    relative = shape / (_smooth(expected) + HOUR_WEIGHT)
    return Rates(relative * city[-1], np.minimum(shape, MAX_SHAPE))


def _city(counts: Floats, hours: Floats) -> Floats:
    """The mean station's rate by day and hour; an hour with few rides leans on that hour of the other days."""
    usual = _ratio(counts.sum(0), hours.sum(0))
    busy = _ratio(counts.sum(1), (hours * usual).sum(1))
    prior = np.outer(busy, usual)
    return _ratio(counts + CITY_WEIGHT * (prior > 0), hours + _ratio(np.full_like(prior, CITY_WEIGHT), prior))


def _ratio(counts: Floats, of: Floats) -> Floats:
    return np.divide(counts, of, out=np.zeros_like(counts), where=of > 0)


def _smooth(by_hour: Floats) -> Floats:
    middle, beside = HOUR_KERNEL
    return middle * by_hour + beside * (np.roll(by_hour, 1, axis=1) + np.roll(by_hour, -1, axis=1))

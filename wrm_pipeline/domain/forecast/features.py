"""What a forecast looks at: the counts of now, recent changes, neighbours, the clock, and the usual day.

The *usual day* is the mean of earlier days of the same kind (working days, or weekends and holidays), by station and
time of day. For learning from a day of history, that day is left out of it, as it would be for a day to come.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from wrm_pipeline.domain.forecast.counts import STEPS_A_DAY, Counts, Floats, Indices, Stations

# Recent changes, in steps: 5, 15, 30, 60, 120 and 360 minutes.
_LAGS: Final = (1, 3, 6, 12, 24, 72)
# Recent departures and arrivals, in steps: 60 and 180 minutes.
_FLOWS: Final = (12, 36)
NEIGHBOURS: Final = 5
# Half the width of the moving mean over the usual day, in steps: 35 minutes in all.
_SMOOTH: Final = 3
# Days of one kind from which on the other kind is left out.
MIN_DAYS_OF_KIND: Final = 3
# History that is needed before a step, for the longest lag.
LOOK_BACK: Final = max(*_LAGS, *_FLOWS)


@dataclass(frozen=True, slots=True)
class UsualDay:
    """The mean day of one kind; each array is (STEPS_A_DAY, stations), NaN where nothing is known.

    Attributes:
        bikes: Mean, smoothed.
        lowest: Of the days.
        highest: Of the days.
        departures: Cumulated over the day and the next, (2 * STEPS_A_DAY + 1, stations).
        arrivals: Likewise.
    """

    bikes: Floats
    lowest: Floats
    highest: Floats
    departures: Floats
    arrivals: Floats


@dataclass(frozen=True, slots=True)
class History:
    """Whole local days of counts: (days, STEPS_A_DAY, stations), NaN where unknown.

    A day of 25 hours has the later of its repeated hours; one of 23 lacks its missing hour.
    """

    stations: Stations
    days: Indices
    is_free_day: npt.NDArray[np.bool_]
    bikes: Floats

    @classmethod
    def of(cls, counts: Counts) -> "History":
        """The days of a grid."""
        days, first = np.unique(counts.day, return_index=True)
        by_day = np.full((len(days), STEPS_A_DAY, len(counts.stations.ids)), np.nan, np.float32)
        by_day[np.searchsorted(days, counts.day), counts.step_of_day] = counts.bikes
        return cls(counts.stations, days, counts.is_free_day[first], by_day)

    def usual_day(self, *, is_free_day: bool, but: int | None = None) -> UsualDay:
        """The usual day of a kind; `but` is a day (ordinal) that is left out."""
        others = self.days != but
        same = others & (self.is_free_day == is_free_day)
        chosen = self.bikes[same if same.sum() >= MIN_DAYS_OF_KIND or not others.any() else others]
        mean, lowest, highest = _known_mean(chosen, 0), _extreme(np.fmin, chosen), _extreme(np.fmax, chosen)
        change = np.diff(chosen, axis=1, prepend=chosen[:, :1])
        gone, come = _known_mean(np.maximum(-change, 0), 0), _known_mean(np.maximum(change, 0), 0)
        return UsualDay(_smoothed(mean), lowest, highest, _cumulated(gone), _cumulated(come))


def _known_mean(values: Floats, axis: int) -> Floats:
    """The mean of what is known along an axis; NaN where nothing is."""
    known = ~np.isnan(values)
    total, number = np.where(known, values, 0).sum(axis=axis), known.sum(axis=axis)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan).astype(np.float32)


def _extreme(which: np.ufunc, days: Floats) -> Floats:
    nothing = np.full(days.shape[1:], np.nan, np.float32)
    return np.asarray(which.reduce(days, axis=0, initial=None) if len(days) else nothing, np.float32)


def _smoothed(day: Floats) -> Floats:
    """A moving mean over the clock, midnight included; unknown where its middle is."""
    known = ~np.isnan(day)
    total, number = np.where(known, day, 0).astype(np.float64), known.astype(np.float64)
    for shift in range(1, _SMOOTH + 1):
        for sign in (1, -1):
            total += np.roll(np.where(known, day, 0), sign * shift, axis=0)
            number += np.roll(known, sign * shift, axis=0)
    return np.where(known, total / np.maximum(number, 1), np.nan).astype(np.float32)


def _cumulated(rate: Floats) -> Floats:
    twice = np.nan_to_num(np.concatenate([np.zeros_like(rate[:1]), rate, rate]))
    return np.cumsum(twice, axis=0, dtype=np.float32)


class Features:
    """Computes features of steps of a grid, in one row for each step and station."""

    names: Final = (
        "bikes", "docks", "spaces", "usual_change", "above_usual", "usual_then", "usual_departures", "usual_arrivals",
        "lowest_then", "highest_then", *(f"change_{lag}" for lag in _LAGS), *(f"departed_{lag}" for lag in _FLOWS),
        *(f"arrived_{lag}" for lag in _FLOWS), "near_bikes", "near_change", "city_departed", "unchanged_steps",
        "step_of_day", "is_free_day", "horizon",
    )  # fmt: skip

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        change = np.diff(counts.bikes, axis=0, prepend=counts.bikes[:1])
        self._gone = np.cumsum(np.nan_to_num(np.maximum(-change, 0)), axis=0)
        self._come = np.cumsum(np.nan_to_num(np.maximum(change, 0)), axis=0)
        self._near = nearest(counts.stations)
        moved = np.where(change != 0, np.arange(counts.steps)[:, None], 0)
        unchanged = np.arange(counts.steps)[:, None] - np.maximum.accumulate(moved, axis=0)
        # A forecast is made from a grid of LOOK_BACK steps, so that no longer silence is seen in learning either.
        self._unchanged = np.minimum(unchanged, LOOK_BACK)

    def of(self, steps: Indices, horizon: int, usual: UsualDay) -> Floats:
        """Features of forecasts made at `steps`, `horizon` steps ahead: (steps * stations, features)."""
        counts = self._counts
        bikes = counts.bikes[steps]
        now = counts.step_of_day[steps]
        then = (now + horizon) % STEPS_A_DAY
        near_change = self._lag(counts.bikes, steps, 12)[:, self._near]
        columns = [
            bikes, counts.docks[steps], counts.spaces[steps],
            usual.bikes[then] - usual.bikes[now], bikes - usual.bikes[now], usual.bikes[then],
            usual.departures[now + horizon] - usual.departures[now],
            usual.arrivals[now + horizon] - usual.arrivals[now],
            usual.lowest[then], usual.highest[then],
            *(self._lag(counts.bikes, steps, lag) for lag in _LAGS),
            *(self._lag(self._gone, steps, lag) for lag in _FLOWS),
            *(self._lag(self._come, steps, lag) for lag in _FLOWS),
            _known_mean(bikes[:, self._near], -1), _known_mean(near_change, -1),
            self._lag(self._gone, steps, 12).mean(axis=1)[:, None],
            self._unchanged[steps], now[:, None], counts.is_free_day[steps][:, None], np.array([[horizon]]),
        ]  # fmt: skip
        rows = np.empty((*bikes.shape, len(columns)), np.float32)
        for place, column in enumerate(columns):
            rows[:, :, place] = column
        return rows.reshape(-1, len(columns))

    def _lag(self, values: Floats, steps: Indices, lag: int) -> Floats:
        return np.asarray(values[steps] - values[np.maximum(steps - lag, 0)])


def nearest(stations: Stations) -> Indices:
    """The NEIGHBOURS nearest stations of each, by place: (stations, at most NEIGHBOURS)."""
    lat, lon = np.nan_to_num(stations.lat.astype(float)), np.nan_to_num(stations.lon.astype(float))
    middle = np.cos(np.radians(lat.mean())) if len(lat) else 1.0
    squared = (lat[:, None] - lat) ** 2 + ((lon[:, None] - lon) * middle) ** 2
    np.fill_diagonal(squared, np.inf)
    return np.argsort(squared, axis=1, kind="stable")[:, : max(1, min(NEIGHBOURS, len(lat) - 1))]

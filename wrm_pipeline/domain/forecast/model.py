"""Learns from days of history, and predicts: gradient-boosted trees where they beat "nothing changes", else that.

Four models of LightGBM look at all horizons: the median of the change, its 10 % and 90 % quantiles, and the probability
of no bike; a fifth the probability of no free dock. Each day of history is also predicted by models that have not seen
it, which gives the honest errors that everything else is set by:

- below which predicted change the count is better left as it is, at each horizon; if the model does not beat "nothing
  changes" there, that is the forecast, and also at stations where the model is clearly worse;
- how far the quantiles have to be moved so that 80 % of the counts lie between them (conformal prediction: Romano,
  Patterson and Candès, Conformalized Quantile Regression, 2019);
- whether a probability has a smaller Brier score than 0 or 1 according to the count now.
"""

import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from wrm_pipeline.domain.forecast.counts import STEP_S, Counts, Floats, Indices, Stations
from wrm_pipeline.domain.forecast.features import Features, History, UsualDay

if TYPE_CHECKING:
    from lightgbm import Booster

HORIZONS_MIN: Final = (15, 30, 60, 120, 180, 360)
HORIZONS: Final = tuple(minutes * 60 // STEP_S for minutes in HORIZONS_MIN)
# A day without another to compare it with says nothing about the usual day.
MIN_DAYS: Final = 2
MAX_DAYS: Final = 28
# Forecasts made each 15 minutes are learnt from, at most this many in all: more take longer and are not better.
ORIGIN_STEPS: Final = 3
MAX_ROWS: Final = 120_000
FOLDS: Final = 3
BAND: Final = 0.8
# Share by which the model must be worse at a station to be disbelieved there, given how few its rows are.
_STATION_MARGIN: Final = 0.10
_MIN_STATION_ROWS: Final = 100
_WIDENINGS: Final = tuple(np.round(np.arange(-1, 4, 0.05), 2).tolist())
# Share by which it must be better at a horizon to be believed there: a smaller gain on a few days is chance.
_HORIZON_MARGIN: Final = 0.003
_DEAD_ZONES: Final = (0.5, 0.6, 0.75, 1.0, 1.5, 2.5, np.inf)
VERSION: Final = 1

TREES: Final = 120
_PARAMETERS: Final[Mapping[str, Any]] = {
    "num_leaves": 31,
    "learning_rate": 0.1,
    "min_data_in_leaf": 100,
    "feature_fraction": 0.7,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "lambda_l2": 5.0,
    # A second thread of OpenMP waits busily while other processes run: twice the processor time for less speed.
    "num_threads": 1,
    "seed": 1,
    "deterministic": True,
    "force_row_wise": True,
    "verbose": -1,
}
_OBJECTIVES: Final[Mapping[str, Mapping[str, Any]]] = {
    "median": {"objective": "quantile", "alpha": 0.5},
    "low": {"objective": "quantile", "alpha": (1 - BAND) / 2},
    "high": {"objective": "quantile", "alpha": (1 + BAND) / 2},
    "no_bike": {"objective": "binary"},
    "no_dock": {"objective": "binary"},
}


@dataclass(frozen=True, slots=True)
class Prediction:
    """Forecasts of stations made at one moment for one horizon; NaN where the station is unknown now.

    Attributes:
        expected: Bikes, the median: a whole number.
        low: The 10 % quantile.
        high: The 90 % quantile.
        no_bike: Probability of no bike.
        no_dock: Probability of no free dock; 0 for a station without docks.
        persistent: Whether `expected` is the count of now because no prediction is better.
    """

    expected: Floats
    low: Floats
    high: Floats
    no_bike: Floats
    no_dock: Floats
    persistent: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Rows:
    """Examples to learn from, one for each forecast: features, and what came true."""

    features: Floats
    now: Floats
    then: Floats
    full_now: Floats
    full_then: Floats
    station: Indices
    horizon: Indices
    day: Indices

    def __len__(self) -> int:
        return len(self.now)

    def chosen(self, which: npt.NDArray[Any]) -> "Rows":
        """Some of them, by mask or by index."""
        return Rows(*(getattr(self, name)[which] for name in self.__slots__))


def examples(counts: Counts, history: History, days: Sequence[int], seed: int = 1) -> Rows:
    """Forecasts that could have been made on these days (ordinals), at most MAX_ROWS, evenly spread by chance."""
    features = Features(counts)
    random = np.random.default_rng(seed)
    found = list(_examples_by_day(counts, history, features, days, random))
    joined = [np.concatenate([getattr(rows, name) for rows in found]) for name in Rows.__slots__]
    return Rows(*joined)


def _examples_by_day(
    counts: Counts, history: History, features: Features, days: Sequence[int], random: "np.random.Generator"
) -> Iterator[Rows]:
    kinds = dict(zip(history.days.tolist(), history.is_free_day.tolist(), strict=True))
    quota = MAX_ROWS // (len(days) * len(HORIZONS))
    for day in days:
        usual = history.usual_day(is_free_day=kinds[day], but=day)
        origins = np.flatnonzero(counts.day == day)[::ORIGIN_STEPS]
        for horizon in HORIZONS:
            steps = origins[origins + horizon < counts.steps]
            rows = _examples_at(counts, features, steps, horizon, usual)
            known = np.flatnonzero(~np.isnan(rows.now) & ~np.isnan(rows.then))
            if len(known) > quota:
                known = np.sort(random.choice(known, quota, replace=False))
            yield rows.chosen(known)


def _examples_at(counts: Counts, features: Features, steps: Indices, horizon: int, usual: UsualDay) -> Rows:
    full, shape = counts.full, (len(steps), len(counts.stations.ids))
    return Rows(
        features.of(steps, horizon, usual),
        counts.bikes[steps].ravel(),
        counts.bikes[steps + horizon].ravel(),
        full[steps].ravel(),
        full[steps + horizon].ravel(),
        np.broadcast_to(np.arange(shape[1]), shape).ravel(),
        np.full(shape[0] * shape[1], horizon),
        np.repeat(counts.day[steps], shape[1]),
    )


Boosters = Mapping[str, "Booster"]


class NoLibraryError(RuntimeError):
    """LightGBM's wheel needs a library of the system that a bare Debian lacks."""


def _library() -> Any:
    try:
        import lightgbm
    except OSError as error:
        remedy = "Install what it needs (apt-get install libgomp1); until then the forecast is: nothing changes."
        raise NoLibraryError(f"LightGBM cannot be loaded: {error}. {remedy}") from error
    return lightgbm


def _fit(rows: Rows, trees: int) -> Boosters:
    lightgbm = _library()
    targets = _targets(rows)
    found = {}
    for name, objective in _OBJECTIVES.items():
        data = lightgbm.Dataset(rows.features, targets[name], params={"verbose": -1})
        found[name] = lightgbm.train({**_PARAMETERS, **objective}, data, trees)
    return found


def _targets(rows: Rows) -> dict[str, Floats]:
    change = rows.then - rows.now
    no_bike = (rows.then == 0).astype(np.float32)
    return {"median": change, "low": change, "high": change, "no_bike": no_bike, "no_dock": rows.full_then}


def _predict(boosters: Boosters, features: Floats) -> dict[str, Floats]:
    return {name: np.asarray(each.predict(features, num_threads=1), np.float32) for name, each in boosters.items()}


@dataclass(frozen=True, slots=True)
class Calibration:
    """What the errors on unseen days say, by horizon (in the order of HORIZONS) and by station.

    Attributes:
        dead_zone: Predicted changes smaller than this, in bikes, count as none; infinity: persistence.
        widen: Bikes by which each quantile is moved outwards; negative: inwards.
        trust_no_bike: Whether the probability of no bike beats the count of now.
        trust_no_dock: Likewise.
        persistent_stations: Ids of stations at which the model is clearly worse, over all horizons.
    """

    dead_zone: tuple[float, ...]
    widen: tuple[float, ...]
    trust_no_bike: tuple[bool, ...]
    trust_no_dock: tuple[bool, ...]
    persistent_stations: tuple[str, ...]


def _calibrate(rows: Rows, found: Mapping[str, Floats], stations: Sequence[str]) -> Calibration:
    by_horizon = []
    ours, theirs = np.zeros(len(rows)), np.zeros(len(rows))
    for horizon in HORIZONS:
        which = rows.horizon == horizon
        here, given = rows.chosen(which), {name: values[which] for name, values in found.items()}
        by_horizon.append(_calibrate_at(here, given))
        expected, change = _with_dead_zone(here.now, given["median"], by_horizon[-1][0]), np.abs(here.then - here.now)
        scale = max(float(change.mean()) if len(here) else 0.0, 1e-9)
        ours[which], theirs[which] = np.abs(here.then - expected) / scale, change / scale
    worse = _clearly_worse(rows.station, ours, theirs, len(stations))
    zones, widenings, trust_no_bike, trust_no_dock = zip(*by_horizon, strict=True)
    return Calibration(zones, widenings, trust_no_bike, trust_no_dock, tuple(stations[at] for at in worse))


def _calibrate_at(rows: Rows, found: Mapping[str, Floats]) -> tuple[float, float, bool, bool]:
    if not len(rows):
        return np.inf, 0.0, False, False
    errors = [np.abs(rows.then - _with_dead_zone(rows.now, found["median"], zone)).mean() for zone in _DEAD_ZONES]
    zone = _DEAD_ZONES[int(np.argmin(errors))] if min(errors) <= (1 - _HORIZON_MARGIN) * errors[-1] else np.inf
    expected = _with_dead_zone(rows.now, found["median"], zone)
    covered = [_covered(rows, found, expected, widen) for widen in _WIDENINGS]
    widen = _WIDENINGS[int(np.argmin(np.abs(np.array(covered) - BAND)))]
    no_bike, no_dock = (rows.then == 0), rows.full_then
    trust_bike = bool(_brier(found["no_bike"], no_bike) < _brier(rows.now == 0, no_bike))
    trust_dock = bool(_brier(found["no_dock"], no_dock) < _brier(rows.full_now, no_dock))
    return zone, widen, trust_bike, trust_dock


def _covered(rows: Rows, found: Mapping[str, Floats], expected: Floats, widen: float) -> float:
    low, high = _band(rows.now, found, expected, widen)
    return float(((rows.then >= low) & (rows.then <= high)).mean())


def _band(now: Floats, found: Mapping[str, Floats], expected: Floats, widen: float) -> tuple[Floats, Floats]:
    """The 10 and 90 % quantiles of the count, around what is expected."""
    low = np.minimum(np.maximum(now + found["low"] - widen, 0), expected)
    return low, np.maximum(now + found["high"] + widen, expected)


def _brier(probability: npt.NDArray[Any], happened: npt.NDArray[Any]) -> float:
    return float(((probability.astype(np.float64) - happened) ** 2).mean())


def _clearly_worse(
    station: Indices, ours: npt.NDArray[np.float64], theirs: npt.NDArray[np.float64], stations: int
) -> list[int]:
    """Stations at which the model's errors exceed those of persistence by the margin."""
    number, our_sum, their_sum = (np.bincount(station, weights, stations) for weights in (None, ours, theirs))
    worse = (number >= _MIN_STATION_ROWS) & (our_sum > their_sum * (1 + _STATION_MARGIN))
    return list(np.flatnonzero(worse).tolist())


def _with_dead_zone(now: Floats, change: Floats, zone: float) -> Floats:
    """The count expected: whole, not below 0."""
    moved = np.where(np.abs(change) < zone, 0, change)
    return np.asarray(np.maximum(np.round(now + moved), 0), np.float32)


@dataclass(frozen=True, slots=True)
class ForecastModel:
    """What was learnt from whole days.

    Attributes:
        first: The first of these days.
        last: The last; a forecast must not be made before its end.
        history: The days.
        boosters: By target.
        calibration: See there.
    """

    first: date
    last: date
    history: History
    boosters: Boosters
    calibration: Calibration

    def predict(self, counts: Counts, step: int) -> list[Prediction]:
        """The forecasts made at a step of a grid, by horizon; LOOK_BACK steps before it make it as good as it can be.

        The grid need not have the stations of the history, nor in its order.
        """
        (found,) = self.predict_many(counts, np.array([step]))
        return found

    def predict_many(self, counts: Counts, steps: Indices) -> list[list[Prediction]]:
        """Those of several steps: by step and horizon."""
        history = _with_stations(self.history, counts.stations)
        free = bool(counts.is_free_day[steps[0]]) if len(steps) else False
        usual, features = history.usual_day(is_free_day=free), Features(counts)
        by_horizon = [self._at(counts, features, steps, place, usual) for place in range(len(HORIZONS))]
        return [list(each) for each in zip(*by_horizon, strict=True)]

    def _at(self, counts: Counts, features: Features, steps: Indices, place: int, usual: UsualDay) -> list[Prediction]:
        calibration = self.calibration
        found = _predict(self.boosters, features.of(steps, HORIZONS[place], usual))
        shape = (len(steps), len(counts.stations.ids))
        given = {name: values.reshape(shape) for name, values in found.items()}
        now, zone, widen = counts.bikes[steps], calibration.dead_zone[place], calibration.widen[place]
        here = np.isin(counts.stations.ids, calibration.persistent_stations)
        persistent = np.broadcast_to(here | np.isinf(zone), shape)
        expected = np.where(persistent, now, _with_dead_zone(now, given["median"], zone))
        low, high = _band(now, given, expected, widen)
        full = counts.full[steps]
        no_bike = given["no_bike"] if calibration.trust_no_bike[place] else (now == 0).astype(np.float32)
        no_dock = given["no_dock"] if calibration.trust_no_dock[place] else full
        no_dock = np.where(counts.docks[steps] > 0, no_dock, 0)
        known = ~np.isnan(now)
        columns = [np.where(known, values, np.float32(np.nan)) for values in (expected, low, high, no_bike, no_dock)]
        return [Prediction(*each) for each in zip(*columns, persistent, strict=True)]

    def to_bytes(self) -> bytes:
        """As a zip of arrays, text and JSON, which cannot run code when it is read."""
        held, stations = io.BytesIO(), self.history.stations
        np.savez_compressed(
            held,
            bikes=self.history.bikes,
            days=self.history.days,
            is_free_day=self.history.is_free_day,
            lat=stations.lat,
            lon=stations.lon,
        )
        about = {
            "version": VERSION,
            "first": self.first.isoformat(),
            "last": self.last.isoformat(),
            "stations": stations.ids,
            "calibration": {name: getattr(self.calibration, name) for name in Calibration.__slots__},
        }
        result = io.BytesIO()
        with zipfile.ZipFile(result, "w", zipfile.ZIP_DEFLATED) as archive:
            _add(archive, "about.json", json.dumps(about).encode())
            _add(archive, "history.npz", held.getvalue())
            for name, booster in self.boosters.items():
                _add(archive, f"{name}.txt", booster.model_to_string().encode())
        return result.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "ForecastModel | None":
        """What `to_bytes` wrote; None if it is of another version.

        Raises:
            ValueError: it is something else, or damaged.
        """
        lightgbm = _library()
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                about = json.loads(archive.read("about.json"))
                if about["version"] != VERSION:
                    return None
                arrays = np.load(io.BytesIO(archive.read("history.npz")), allow_pickle=False)
                texts = {name: archive.read(f"{name}.txt").decode() for name in _OBJECTIVES}
            stations = Stations(tuple(about["stations"]), arrays["lat"], arrays["lon"])
            history = History(stations, arrays["days"], arrays["is_free_day"], arrays["bikes"])
            found = {name: tuple(value) for name, value in about["calibration"].items()}
            boosters = {name: lightgbm.Booster(model_str=text) for name, text in texts.items()}
            first, last = date.fromisoformat(about["first"]), date.fromisoformat(about["last"])
            return cls(first, last, history, boosters, Calibration(**found))
        except (zipfile.BadZipFile, KeyError, TypeError, lightgbm.basic.LightGBMError) as error:
            raise ValueError(f"is not a forecast model: {error}") from error


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    """Without the time, so that the same model gives the same bytes."""
    archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)


def _with_stations(history: History, stations: Stations) -> History:
    """The history with these stations in this order; NaN for those that it does not know."""
    place = {station: number for number, station in enumerate(history.stations.ids)}
    columns = np.array([place.get(station, -1) for station in stations.ids], np.int64)
    bikes = np.where(columns >= 0, history.bikes[:, :, columns], np.float32(np.nan))
    return History(stations, history.days, history.is_free_day, bikes)


def persistence(counts: Counts, step: int) -> list[Prediction]:
    """The forecast while there is no model, by horizon: nothing changes.

    The quantiles are those of the changes of all stations in the grid up to the step; NaN if it is too short.
    """
    now, full = counts.bikes[step], counts.full[step]
    found = []
    for horizon in HORIZONS:
        changes = counts.bikes[horizon : step + 1] - counts.bikes[: max(0, step + 1 - horizon)]
        changes = changes[~np.isnan(changes)]
        low, high = np.quantile(changes, [(1 - BAND) / 2, (1 + BAND) / 2]) if len(changes) else (np.nan, np.nan)
        no_bike = np.where(np.isnan(now), np.float32(np.nan), (now == 0).astype(np.float32))
        band = np.asarray(np.maximum(now + low, 0), np.float32), np.asarray(now + high, np.float32)
        found.append(Prediction(now, *band, no_bike, full, np.ones(len(now), np.bool_)))
    return found


def train(counts: Counts, *, trees: int = TREES) -> ForecastModel | None:
    """Learn from the whole days of a grid, the newest MAX_DAYS of them; None if they are fewer than MIN_DAYS.

    Takes about 30 s, however long the history is. The same counts give the same model. `trees` is their number in
    each booster.
    """
    history = History.of(counts)
    known = (~np.isnan(history.bikes)).any(axis=2).mean(axis=1)
    days = [int(day) for day, share in zip(history.days, known, strict=True) if share >= 0.5][-MAX_DAYS:]
    if len(days) < MIN_DAYS:
        return None
    kept = np.isin(history.days, days)
    history = History(history.stations, history.days[kept], history.is_free_day[kept], history.bikes[kept])
    rows = examples(counts, history, days)
    calibration = _calibrate(rows, _predict_unseen(rows, days, trees), history.stations.ids)
    return ForecastModel(date.fromordinal(days[0]), date.fromordinal(days[-1]), history, _fit(rows, trees), calibration)


def _predict_unseen(rows: Rows, days: Sequence[int], trees: int) -> dict[str, Floats]:
    """Each row predicted by models that have not seen its day."""
    folds = min(FOLDS, len(days))
    fold = np.searchsorted(np.array(days), rows.day) % folds
    found = {name: np.empty(len(rows), np.float32) for name in _OBJECTIVES}
    for number in range(folds):
        unseen = fold == number
        boosters = _fit(rows.chosen(~unseen), trees)
        for name, values in _predict(boosters, rows.features[unseen]).items():
            found[name][unseen] = values
    return found

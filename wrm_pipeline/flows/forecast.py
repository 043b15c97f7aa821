"""Forecasts from the enhanced partitions: what is learnt for a day, what is expected at an instant, and its score."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wrm_pipeline.clients.errors import ObjectNotFoundError
from wrm_pipeline.domain.city import this_city
from wrm_pipeline.domain.forecast import CALLED_FROM
from wrm_pipeline.domain.forecast.counts import COLUMNS, STEP, Counts, Floats, counts_of
from wrm_pipeline.domain.forecast.features import LOOK_BACK
from wrm_pipeline.domain.forecast.model import (
    HORIZONS,
    HORIZONS_MIN,
    MAX_DAYS,
    ORIGIN_STEPS,
    TREES,
    ForecastModel,
    Prediction,
    persistence,
    train,
)
from wrm_pipeline.domain.layout import folder_dates, local_date, partition_bounds
from wrm_pipeline.lake.published_partitions import PublishedPartitions, UnreadablePartitionError
from wrm_pipeline.logs import get_logger

_log = get_logger(__name__)

# An older model still beats none: stations and habits change slowly.
MAX_MODEL_AGE_DAYS = 7
# Older models are removed: each takes 0.7 MB, and a day can be learnt again.
KEPT_MODEL_DAYS = 28

FORECAST_SCHEMA = pa.schema(
    [
        ("station_id", pa.string()),
        ("made_at", pa.timestamp("us", "UTC")),
        ("target_at", pa.timestamp("us", "UTC")),
        ("horizon_min", pa.int32()),
        ("bikes_expected", pa.float64()),
        ("bikes_p10", pa.float64()),
        ("bikes_p90", pa.float64()),
        ("p_no_bike", pa.float64()),
        ("p_no_dock", pa.float64()),
        ("method", pa.string()),
    ]
)
MODEL, PERSISTENCE = "lightgbm", "persistence"


@dataclass(frozen=True, slots=True)
class Forecasts:
    """Forecasts from the enhanced rows of a lake.

    Attributes:
        partitions: Where they are.
        is_holiday: Whether a date is a public holiday.
        trees: Of each booster; fewer learn faster, and less.
    """

    partitions: PublishedPartitions
    is_holiday: Callable[[date], bool]
    trees: int = TREES

    def stored_model(self, dt: date) -> ForecastModel | None:
        """The model for forecasts made on a day; None if there is none of this version, or it is damaged.

        Raises:
            ExternalError: the store failed.
        """
        key = self.partitions.layout.forecast_model_key(dt)
        try:
            return ForecastModel.from_bytes(self.partitions.store.get(key))
        except ObjectNotFoundError:
            return None
        except ValueError as error:
            _log.warning("a forecast model cannot be read; it is learnt again", key=key, problem=str(error))
            return None

    def newest_model(self, dt: date) -> ForecastModel | None:
        """The model for a day, or else that of one of the MAX_MODEL_AGE_DAYS before it."""
        oldest = dt - timedelta(days=MAX_MODEL_AGE_DAYS)
        days = reversed([day for day in self._model_days() if oldest <= day <= dt])
        return next((model for day in days if (model := self.stored_model(day)) is not None), None)

    def _model_days(self) -> list[date]:
        """The days with a folder of a model, ascending; a single listing."""
        return folder_dates(self.partitions.store.list_folders(self.partitions.layout.forecast_prefix))

    def learn(self, dt: date) -> ForecastModel | None:
        """What the days before `dt` teach; None if they are too few.

        Raises:
            ExternalError: the store failed.
        """
        first = dt - timedelta(days=MAX_DAYS)
        days = [day for day in self.partitions.dates("enhanced") if first <= day < dt]
        if not days:
            return None
        (start, _), (end, _) = partition_bounds(days[0]), partition_bounds(dt)
        return train(self._counts(days, start, end - STEP), trees=self.trees)

    def learn_and_store(self, dt: date) -> ForecastModel | None:
        """The same, kept in the lake for the forecasts of that day; those of KEPT_MODEL_DAYS before it and older go."""
        model, store, layout = self.learn(dt), self.partitions.store, self.partitions.layout
        if model is not None:
            store.put(layout.forecast_model_key(dt), model.to_bytes())
            for day in self._model_days():
                if day <= dt - timedelta(days=KEPT_MODEL_DAYS):
                    store.delete(layout.forecast_model_key(day))
        return model

    def at(self, made_at: datetime, model: ForecastModel | None) -> pa.Table:
        """The forecasts made at an instant (aware), in FORECAST_SCHEMA, from nothing later than it.

        A station that was not seen in the quarter of an hour before has none. Without a model nothing changes.

        Raises:
            ExternalError: the store failed.
        """
        day = local_date(made_at)
        steps = LOOK_BACK if model is not None else max(HORIZONS) + LOOK_BACK
        counts = self._counts([day - timedelta(days=1), day], made_at - steps * STEP, made_at)
        if not counts.stations.ids:
            return FORECAST_SCHEMA.empty_table()
        found = model.predict(counts, steps) if model is not None else persistence(counts, steps)
        return pa.concat_tables(
            _table(counts.stations.ids, made_at, minutes, each)
            for minutes, each in zip(HORIZONS_MIN, found, strict=True)
        )

    def newest_snapshot(self) -> datetime | None:
        """The time of the newest published snapshot; None if nothing is published."""
        dt = self.partitions.newest("enhanced")
        rows = self.partitions.read_enhanced_rows(dt, ["file_timestamp"]) if dt is not None else None
        newest: datetime | None = pc.max(rows["file_timestamp"]).as_py() if rows is not None else None
        return newest

    def day(self, dt: date) -> Counts:
        """The counts of a day, with what the forecasts made at its beginning look at."""
        start, end = partition_bounds(dt)
        return self._counts([dt - timedelta(days=1), dt], start - LOOK_BACK * STEP, end - STEP)

    def _counts(self, days: Sequence[date], start: datetime, end: datetime) -> Counts:
        return counts_of(self._rows(days), start, end, zone=this_city().zone, is_holiday=self.is_holiday)

    def _rows(self, days: Sequence[date]) -> Iterator[pa.Table]:
        for dt in days:
            with contextlib.suppress(UnreadablePartitionError):
                rows = self.partitions.read_enhanced_rows(dt, COLUMNS)
                if rows is not None:
                    yield rows


def _table(stations: Sequence[str], made_at: datetime, minutes: int, found: Prediction) -> pa.Table:
    known = ~np.isnan(found.expected)
    number = int(known.sum())

    def numbers(values: Floats, digits: int) -> pa.Array:
        return pa.array(np.round(values[known].astype(np.float64), digits), from_pandas=True)

    columns = [
        pa.array(np.array(stations, object)[known], pa.string()),
        pa.array([made_at] * number, pa.timestamp("us", "UTC")),
        pa.array([made_at + timedelta(minutes=minutes)] * number, pa.timestamp("us", "UTC")),
        pa.array([minutes] * number, pa.int32()),
        numbers(found.expected, 2),
        numbers(found.low, 2),
        numbers(found.high, 2),
        numbers(found.no_bike, 4),
        numbers(found.no_dock, 4),
        pa.array(np.where(found.persistent[known], PERSISTENCE, MODEL), pa.string()),
    ]
    return pa.table(columns, schema=FORECAST_SCHEMA)


def score(counts: Counts, model: ForecastModel | None, dt: date) -> pa.Table:
    """How good the forecasts made on a day were, by station and horizon.

    They are made again from what was known at each quarter of an hour, by the model of that day, which has seen only
    the days before it: the same forecasts as on the day itself.

    Args:
        counts: `Forecasts.day`.
        model: That of the day; None: there was none, and nothing is scored.
        dt: The day.
    """
    steps = np.flatnonzero(counts.day == dt.toordinal())[::ORIGIN_STEPS]
    made = model.predict_many(counts, steps) if model is not None else []
    tables = []
    for place, horizon in enumerate(HORIZONS):
        kept = steps + horizon < counts.steps
        found = [each[place] for each, keep in zip(made, kept, strict=False) if keep]
        if found:
            tables.append(_scored(counts, steps[kept], horizon, HORIZONS_MIN[place], found, dt))
    return pa.concat_tables(tables) if tables else SKILL_SCHEMA.empty_table()


SKILL_SCHEMA = pa.schema(
    [
        ("dt", pa.date32()),
        ("station_id", pa.string()),
        ("horizon_min", pa.int32()),
        ("forecasts", pa.int32()),
        ("error_mean", pa.float64()),
        ("error_mean_persistence", pa.float64()),
        ("brier_no_bike", pa.float64()),
        ("brier_no_bike_persistence", pa.float64()),
        ("share_in_band", pa.float64()),
        *(
            (name, pa.int32())
            for kind in ("empty", "full")
            for name in (f"told_{kind}", f"told_{kind}_right", f"was_{kind}")
        ),
    ]
)


def _scored(
    counts: Counts, steps: np.ndarray, horizon: int, minutes: int, found: Sequence[Prediction], dt: date
) -> pa.Table:
    now, then = counts.bikes[steps], counts.bikes[steps + horizon]
    expected, low, high, no_bike, no_dock = (
        np.stack([getattr(each, name) for each in found]) for name in ("expected", "low", "high", "no_bike", "no_dock")
    )
    known = ~(np.isnan(now) | np.isnan(then) | np.isnan(expected))
    number = known.sum(axis=0)
    kept = number > 0

    def mean(values: np.ndarray) -> pa.Array:
        total = np.where(known, values, 0).sum(axis=0, dtype=np.float64)
        return pa.array(np.round(total[kept] / number[kept], 5))

    def count(happened: np.ndarray) -> pa.Array:
        return pa.array((known & happened).sum(axis=0)[kept], pa.int32())

    def calls(probability: np.ndarray, happened: np.ndarray) -> list[pa.Array]:
        told = probability >= CALLED_FROM
        return [count(told), count(told & happened), count(happened)]

    empty, was_empty = (then == 0).astype(np.float64), (now == 0).astype(np.float64)
    rows = int(kept.sum())
    columns = [
        pa.array([dt] * rows, pa.date32()),
        pa.array(np.array(counts.stations.ids, object)[kept], pa.string()),
        pa.array([minutes] * rows, pa.int32()),
        pa.array(number[kept], pa.int32()),
        mean(np.abs(then - expected)),
        mean(np.abs(then - now)),
        mean((no_bike - empty) ** 2),
        mean((was_empty - empty) ** 2),
        mean((low <= then) & (then <= high)),
        *calls(no_bike, then == 0),
        *calls(no_dock, counts.full[steps + horizon] == 1),
    ]
    return pa.table(columns, schema=SKILL_SCHEMA)
